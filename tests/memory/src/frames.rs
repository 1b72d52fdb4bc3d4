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

/// A frame of another transport protocol.
fn raw(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(from, to).write(&mut frame, protocol.into(), payload).expect("a frame fits into memory");
    frame
}

/// `CRC32c` of an SCTP packet (RFC 9260, appendix A), bit by bit; its own four bytes count as zeros.
pub fn crc32c(packet: &[u8]) -> u32 {
    let counted = packet.iter().enumerate().map(|(index, byte)| if (8..12).contains(&index) { 0 } else { *byte });
    !counted.fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

/// An SCTP frame with a right checksum, whose first chunk is of type `chunk`.
pub fn sctp(from: SocketAddr, to: SocketAddr, chunk: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend([1, 2, 3, 4, 0, 0, 0, 0, chunk, 0]);
    packet.extend((payload.len() as u16 + 4).to_be_bytes());
    packet.extend(payload);
    let checksum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&checksum);
    raw(from.ip(), to.ip(), lb_common::SCTP, &packet)
}

/// Source, destination and payload of an SCTP frame, after its checksums were recomputed in full and found right.
pub fn checked_sctp(frame: &[u8]) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let (from, to, packet) = checked_ip(frame);
    let stands = u32::from_le_bytes(*packet[8..].first_chunk().expect("a whole header"));
    assert_eq!(stands, crc32c(&packet), "CRC32c");
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    (SocketAddr::new(from, port(0)), SocketAddr::new(to, port(2)), packet[16..].to_vec())
}

/// Source, destination and payload of an IP frame without extension headers, after its header was checked.
pub fn checked_ip(frame: &[u8]) -> (IpAddr, IpAddr, Vec<u8>) {
    match SlicedPacket::from_ethernet(frame).expect("a well-formed frame").net.expect("an IP packet") {
        NetSlice::Ipv4(slice) => {
            let header = slice.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 header checksum");
            (header.source.into(), header.destination.into(), slice.payload().payload.to_vec())
        }
        NetSlice::Ipv6(slice) => {
            let header = slice.header().to_header();
            (header.source.into(), header.destination.into(), slice.payload().payload.to_vec())
        }
        NetSlice::Arp(_) => panic!("ARP"),
    }
}

/// Cuts an IP frame without options or extension headers into fragments that carry `piece` bytes each, a multiple of
/// eight, under the identification `id`.
pub fn fragments(frame: &[u8], piece: usize, id: u32) -> Vec<Vec<u8>> {
    let is_v4 = frame[12..14] == [0x08, 0x00];
    let header = ETHERNET + if is_v4 { 20 } else { 40 };
    let payload = &frame[header..];
    let pieces = payload.chunks(piece).enumerate();
    let cut = |(index, bytes): (usize, &[u8])| {
        let offset = index * piece;
        let more = offset + bytes.len() < payload.len();
        let mut fragment = frame[..header].to_vec();
        if is_v4 {
            let length = (20 + bytes.len()) as u16;
            fragment[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&length.to_be_bytes());
            fragment[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&(id as u16).to_be_bytes());
            let word = (offset / 8) as u16 | u16::from(more) << 13;
            fragment[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&word.to_be_bytes());
            fragment[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&[0, 0]);
            let header = etherparse::Ipv4Header::from_slice(&fragment[ETHERNET..]).expect("a header").0;
            let checksum = header.calc_header_checksum().to_be_bytes();
            fragment[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum);
        } else {
            let length = (8 + bytes.len()) as u16;
            fragment[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
            let next = std::mem::replace(&mut fragment[ETHERNET + 6], 44);
            fragment.extend([next, 0]);
            fragment.extend((offset as u16 | u16::from(more)).to_be_bytes());
            fragment.extend(id.to_be_bytes());
        }
        fragment.extend(bytes);
        fragment
    };
    pieces.map(cut).collect()
}

/// Puts fragments, in whatever order they are, together again, as their receiver does.
pub fn reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let is_v4 = fragments[0][12..14] == [0x08, 0x00];
    let part = |fragment: &Vec<u8>| {
        if is_v4 {
            checked_ip(fragment);
            let word = u16::from_be_bytes([fragment[20], fragment[21]]);
            (usize::from(word & 0x1fff) * 8, fragment[34..].to_vec())
        } else {
            let word = u16::from_be_bytes([fragment[56], fragment[57]]);
            (usize::from(word & 0xfff8), fragment[62..].to_vec())
        }
    };
    let mut parts: Vec<(usize, Vec<u8>)> = fragments.iter().map(part).collect();
    parts.sort();
    let mut payload = Vec::new();
    for (offset, bytes) in parts {
        assert_eq!(offset, payload.len(), "a gap, or an overlap");
        payload.extend(bytes);
    }
    let first = fragments.iter().find(|fragment| part(fragment).0 == 0).expect("a first fragment");
    let mut whole = first[..ETHERNET + if is_v4 { 20 } else { 40 }].to_vec();
    if is_v4 {
        let length = (20 + payload.len()) as u16;
        whole[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&length.to_be_bytes());
        whole[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&[0, 0]);
        whole[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&[0, 0]);
        let header = etherparse::Ipv4Header::from_slice(&whole[ETHERNET..]).expect("a header").0;
        let checksum = header.calc_header_checksum().to_be_bytes();
        whole[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum);
    } else {
        whole[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        whole[ETHERNET + 6] = first[54];
    }
    whole.extend(payload);
    whole
}

/// Stacks of VLAN tags, by their `EtherType`s: 802.1Q, 802.1ad, and both.
pub const TAGS: [&[u16]; 3] = [&[0x8100], &[0x88a8], &[0x88a8, 0x8100]];

/// The frame with VLAN tags, for VLAN 5.
pub fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let tags: Vec<u8> = tags.iter().flat_map(|tag| [tag.to_be_bytes(), [0, 5]].concat()).collect();
    [&frame[..12], &tags, &frame[12..]].concat()
}

/// The frame with another DSCP and ECN: the traffic class as one byte.
pub fn of_class(frame: &[u8], class: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[12..14] == [0x08, 0x00] {
        frame[ETHERNET + 1] = class;
        frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&[0, 0]);
        let header = etherparse::Ipv4Header::from_slice(&frame[ETHERNET..]).expect("a header").0;
        frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    } else {
        frame[ETHERNET] = 0x60 | class >> 4;
        frame[ETHERNET + 1] = class << 4;
    }
    frame
}

/// DSCP and ECN of a frame.
pub fn class(frame: &[u8]) -> u8 {
    if frame[12..14] == [0x08, 0x00] { frame[ETHERNET + 1] } else { frame[ETHERNET] << 4 | frame[ETHERNET + 1] >> 4 }
}

/// A payload with which a datagram's checksum comes out as zero, which is then written as all ones (RFC 768).
pub fn sums_to_zero(from: SocketAddr, to: SocketAddr) -> Option<Vec<u8>> {
    let mut payloads = (0..=u16::MAX).map(|word| word.to_be_bytes().to_vec());
    payloads.find(|payload| {
        let frame = udp(from, to, payload);
        frame[frame.len() - payload.len() - 2..][..2] == [0xff; 2]
    })
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
