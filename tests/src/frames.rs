//! Frames to send through the datapath, and their checksums recomputed in full.

use etherparse::{NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice, ip_number};
use std::net::{IpAddr, SocketAddr};

/// TCP flags of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flags {
    /// SYN
    Syn,
    /// SYN and ACK
    SynAck,
    /// ACK
    Ack,
    /// FIN and ACK
    Fin,
    /// RST
    Rst,
}

const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The MAC that all frames are addressed to.
pub const DESTINATION_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const TTL: u8 = 64;
/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

fn ip(from: IpAddr, to: IpAddr) -> PacketBuilderStep<etherparse::IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(SOURCE_MAC, DESTINATION_MAC);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), TTL),
        _ => panic!("{from} and {to} are of different families"),
    }
}

/// A TCP frame with right checksums.
pub fn tcp(from: SocketAddr, to: SocketAddr, flags: Flags, payload: &[u8]) -> Vec<u8> {
    let step = ip(from.ip(), to.ip()).tcp(from.port(), to.port(), 1000, 4096);
    let step = match flags {
        Flags::Syn => step.syn(),
        Flags::SynAck => step.syn().ack(2000),
        Flags::Ack => step.ack(2000),
        Flags::Fin => step.fin().ack(2000),
        Flags::Rst => step.rst(),
    };
    let mut frame = Vec::new();
    step.write(&mut frame, payload).expect("a frame fits into memory");
    frame
}

/// A UDP frame with right checksums.
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = ip(from.ip(), to.ip()).udp(from.port(), to.port());
    step.write(&mut frame, payload).expect("a frame fits into memory");
    frame
}

/// An ICMP or ICMPv6 echo request.
pub fn echo(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = ip(from, to);
    let written = if from.is_ipv4() {
        step.icmpv4_echo_request(7, 1).write(&mut frame, b"ping")
    } else {
        step.icmpv6_echo_request(7, 1).write(&mut frame, b"ping")
    };
    written.expect("a frame fits into memory");
    frame
}

/// An ICMP or ICMPv6 error about the packet in the frame `about`, of which it embeds `embedded` bytes at most. `word` is the
/// second half of its header.
pub fn icmp_error(from: IpAddr, to: IpAddr, message: [u8; 2], word: u32, about: &[u8], embedded: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let [kind, code] = message;
    let step = ip(from, to);
    let packet = &about[ETHERNET..];
    let packet = &packet[..packet.len().min(embedded)];
    let written = if from.is_ipv4() {
        step.icmpv4_raw(kind, code, word.to_be_bytes()).write(&mut frame, packet)
    } else {
        step.icmpv6_raw(kind, code, word.to_be_bytes()).write(&mut frame, packet)
    };
    written.expect("a frame fits into memory");
    frame
}

/// An ICMP or ICMPv6 message whose checksums were recomputed in full and found right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Source address.
    pub from: IpAddr,
    /// Destination address.
    pub to: IpAddr,
    /// Type and code.
    pub message: [u8; 2],
    /// The second half of its header.
    pub word: u32,
    /// What follows its header.
    pub content: Vec<u8>,
}

impl Icmp {
    /// The packet that an error embeds, as a frame.
    pub fn embedded(&self) -> Vec<u8> {
        let ethertype = if self.from.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
        [&[0; 12], &ethertype[..], &self.content].concat()
    }
}

/// Reads an ICMP or ICMPv6 message without IP options.
pub fn checked_icmp(frame: &[u8]) -> Icmp {
    let v4 = frame[12..14] == [0x08, 0x00];
    let (header, protocol) = if v4 { (20, frame[23]) } else { (40, frame[20]) };
    assert_eq!(protocol, if v4 { 1 } else { 58 }, "ICMP of the family");
    let addresses = |at: usize, size: usize| (&frame[at..at + size], &frame[at + size..at + 2 * size]);
    let (from, to): (IpAddr, IpAddr) = if v4 {
        let (from, to) = addresses(26, 4);
        assert_eq!(one_complement(&frame[ETHERNET..ETHERNET + header]), 0xffff, "IPv4 header checksum");
        assert_eq!(usize::from(frame[16]) << 8 | usize::from(frame[17]), frame.len() - ETHERNET, "IPv4 length");
        (<[u8; 4]>::try_from(from).expect("4 bytes").into(), <[u8; 4]>::try_from(to).expect("4 bytes").into())
    } else {
        let (from, to) = addresses(22, 16);
        assert_eq!(usize::from(frame[18]) << 8 | usize::from(frame[19]), frame.len() - ETHERNET - 40, "IPv6 length");
        (<[u8; 16]>::try_from(from).expect("16 bytes").into(), <[u8; 16]>::try_from(to).expect("16 bytes").into())
    };
    let message = &frame[ETHERNET + header..];
    let mut covered = message.to_vec();
    if !v4 {
        covered.resize(message.len().next_multiple_of(2), 0);
        covered.extend_from_slice(&frame[22..54]);
        covered.extend_from_slice(&(message.len() as u32).to_be_bytes());
        covered.extend_from_slice(&[0, 0, 0, 58]);
    }
    assert_eq!(one_complement(&covered), 0xffff, "ICMP checksum");
    let [kind, code, _, _, a, b, c, d] = message[..8] else { unreachable!("eight bytes") };
    let word = u32::from_be_bytes([a, b, c, d]);
    Icmp { from, to, message: [kind, code], word, content: message[8..].to_vec() }
}

/// The sum of RFC 1071: 0xffff over what includes a right checksum.
pub fn one_complement(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A packet of an IP protocol without ports.
pub fn other(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(from, to).write(&mut frame, ip_number::GRE, b"whatever this is").expect("a frame fits into memory");
    frame
}

/// Source, destination and payload of a TCP or UDP frame, after all its checksums were recomputed in full and found right.
pub fn checked(frame: &[u8]) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
    let (from, to) = match packet.net.expect("an IP packet") {
        NetSlice::Ipv4(slice) => {
            let header = slice.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 header checksum");
            (IpAddr::from(header.source), IpAddr::from(header.destination))
        }
        NetSlice::Ipv6(slice) => {
            let header = slice.header().to_header();
            (IpAddr::from(header.source), IpAddr::from(header.destination))
        }
        NetSlice::Arp(_) => panic!("ARP"),
    };
    let (ports, given, computed, payload) = match packet.transport.expect("a transport header") {
        TransportSlice::Tcp(slice) => {
            let header = slice.to_header();
            let computed = match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.calc_checksum_ipv4_raw(from.octets(), to.octets(), slice.payload())
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    header.calc_checksum_ipv6_raw(from.octets(), to.octets(), slice.payload())
                }
                _ => unreachable!("one packet, one family"),
            };
            ((header.source_port, header.destination_port), header.checksum, computed, slice.payload())
        }
        TransportSlice::Udp(slice) => {
            let header = slice.to_header();
            let computed = match (from, to) {
                // Zero means that there is none (RFC 768).
                _ if header.checksum == 0 => Ok(0),
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.calc_checksum_ipv4_raw(from.octets(), to.octets(), slice.payload())
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    header.calc_checksum_ipv6_raw(from.octets(), to.octets(), slice.payload())
                }
                _ => unreachable!("one packet, one family"),
            };
            ((header.source_port, header.destination_port), header.checksum, computed, slice.payload())
        }
        _ => panic!("neither TCP nor UDP"),
    };
    assert_eq!(given, computed.expect("a short payload"), "transport checksum");
    (SocketAddr::new(from, ports.0), SocketAddr::new(to, ports.1), payload.to_vec())
}

/// TTL or hop limit of a frame.
pub fn ttl(frame: &[u8]) -> u8 {
    if frame[12..14] == [0x08, 0x00] { frame[22] } else { frame[21] }
}
