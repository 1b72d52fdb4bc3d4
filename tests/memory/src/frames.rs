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
