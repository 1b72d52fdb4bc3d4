//! ICMP errors (RFC 792, RFC 4443): a router tells the sender of a packet what became of it, and quotes that packet. Where the
//! packet had been translated, so must be the error and what it quotes (RFC 5508, 4.2), or its receiver knows no such packet.

use crate::packet::{ICMP, ICMPV6, Packet, SCTP};
use crate::translation::{Expected, same_checksums, same_header_checksum};
use crate::{Fault, demand};
use std::net::{IpAddr, SocketAddr};

/// What was promised of an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The source the error must have.
    pub source: IpAddr,
    /// The destination it must have.
    pub destination: IpAddr,
    /// The source the quoted packet must have.
    pub quoted_source: SocketAddr,
    /// The destination the quoted packet must have.
    pub quoted_destination: SocketAddr,
    /// Whether it was forwarded in place of the stack: then its TTL is one less. The quoted packet's never changes.
    pub forwarded: bool,
    /// Destination and source MAC it must have, where the datapath writes them.
    pub macs: Option<[u8; 12]>,
}

/// Whether the packet is an error that quotes another (destination unreachable, source quench, redirect, time exceeded,
/// parameter problem; for IPv6 all types below 128).
pub fn is_error(packet: &Packet<'_>) -> bool {
    if packet.is_later_fragment() {
        return false;
    }
    // Each in its own family alone.
    match (packet.protocol, packet.source.is_ipv4(), packet.payload().first()) {
        (ICMP, true, Some(kind)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (ICMPV6, false, Some(kind)) => *kind < 128,
        _ => false,
    }
}

/// Whether it is an error of those kinds that are translated: unreachable, too big, time exceeded, parameter problem. Source
/// quench is no more (RFC 6633), and a redirect is about the link it was sent on.
pub fn is_translated(packet: &Packet<'_>) -> bool {
    is_error(packet)
        && match (packet.protocol, packet.payload().first()) {
            (ICMP, Some(kind)) => matches!(kind, 3 | 11 | 12),
            (_, Some(kind)) => matches!(kind, 1..=4),
            _ => false,
        }
}

/// The packet that an error quotes.
pub fn quoted<'a>(packet: &Packet<'a>) -> Result<Packet<'a>, Fault> {
    demand(is_error(packet), || "this is no ICMP error".to_owned())?;
    Packet::quoted(&packet.bytes[..packet.end], packet.transport + 8)
        .map_err(|unread| Fault(format!("what the error quotes is {unread:?}")))
}

/// Judges what became of the ICMP error `before`.
pub fn judge(before: &[u8], after: &[u8], promised: &Translation) -> Result<(), Fault> {
    let outer = Packet::read(before).map_err(|unread| Fault(format!("{unread:?}, and yet it was translated")))?;
    let inner = quoted(&outer)?;
    let mut expected = Expected::of(before);
    expected.addresses(&outer, promised.source, promised.destination);
    expected.addresses(&inner, promised.quoted_source.ip(), promised.quoted_destination.ip());
    expected.ports(&inner, promised.quoted_source.port(), promised.quoted_destination.port());
    if promised.forwarded {
        demand(outer.ttl > 1, || format!("forwarded with a TTL of {}", outer.ttl))?;
        expected.write(outer.ttl_offset(), &[outer.ttl - 1]);
    }
    if let Some(macs) = promised.macs {
        expected.write(0, &macs);
    }
    for packet in [&outer, &inner] {
        expected.leave_out(packet.header_checksum_offset().map(|offset| (offset, 2)));
    }
    expected.leave_out(outer.checksum());
    // SCTP's covers what the error need not quote: it stays as it came, and its receiver goes by the tag (RFC 9260, 10).
    let is_summed = inner.protocol != SCTP;
    if is_summed {
        expected.leave_out(inner.checksum());
    }
    expected.equals(after)?;
    let outer_after = Packet::read(after).map_err(|unread| Fault(format!("what came out is {unread:?}")))?;
    same_checksums(&outer, &outer_after)?;
    let inner_after = quoted(&outer_after)?;
    let judged =
        if is_summed { same_checksums(&inner, &inner_after) } else { same_header_checksum(&inner, &inner_after) };
    judged.map_err(|fault| Fault(format!("quoted: {fault}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum;

    /// "Fragmentation needed" from the router 192.0.2.254 to the backend 10.244.1.1:8080 about a packet to the client
    /// 198.51.100.9:40000, with the eight bytes of TCP that RFC 792 asks for.
    fn error(backend: [u8; 4], port: u16) -> Vec<u8> {
        let mut frame = vec![2; 14];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame.extend([0x45, 0xc0, 0, 56, 0, 1, 0, 0, 64, 1, 0, 0, 192, 0, 2, 254]);
        frame.extend(backend);
        frame.extend([3, 4, 0, 0, 0, 0, 0x05, 0x78]);
        let inner = frame.len();
        frame.extend([0x45, 0, 5, 220, 0xbe, 0xef, 0x40, 0, 63, 6, 0, 0]);
        frame.extend(backend);
        frame.extend([198, 51, 100, 9]);
        frame.extend(port.to_be_bytes());
        frame.extend([0x9c, 0x40, 1, 2, 3, 4]);
        for (from, to, at) in [(inner, inner + 20, inner + 10), (34, frame.len(), 36), (14, 34, 24)] {
            let sum = (!checksum::sum(&frame[from..to])).to_be_bytes();
            frame[at..at + 2].copy_from_slice(&sum);
        }
        frame
    }

    fn promise() -> Translation {
        Translation {
            source: "192.0.2.254".parse().unwrap(),
            destination: "10.96.0.1".parse().unwrap(),
            quoted_source: "10.96.0.1:80".parse().unwrap(),
            quoted_destination: "198.51.100.9:40000".parse().unwrap(),
            forwarded: false,
            macs: None,
        }
    }

    #[test]
    fn a_translated_error_is_accepted_and_no_other_byte_may_change() {
        let (before, after) = (error([10, 244, 1, 1], 8080), error([10, 96, 0, 1], 80));
        assert!(Packet::read(&before).unwrap().is_right());
        assert_eq!(judge(&before, &after, &promise()), Ok(()));
        for at in 0..after.len() {
            let mut wrong = after.clone();
            wrong[at] ^= 0x10;
            assert!(judge(&before, &wrong, &promise()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_quoted_udp_checksum_is_judged_too() {
        // ICMPv6 "packet too big" about a UDP packet, quoted whole.
        let make = |service: u16, port: u16| {
            let address = |last: u16| std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).octets();
            let mut frame = vec![2; 14];
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame.extend([0x60, 0, 0, 0, 0, 60, 58, 64]);
            frame.extend(address(0xfe));
            frame.extend(address(service));
            frame.extend([2, 0, 0, 0, 0, 0, 5, 0]);
            frame.extend([0x60, 0, 0, 0, 0, 12, 17, 60]);
            frame.extend(address(service));
            frame.extend(address(9));
            frame.extend(port.to_be_bytes());
            frame.extend([0x9c, 0x40, 0, 12, 0, 0, 1, 2, 3, 4]);
            let inner = (!Packet::quoted(&frame, 62).unwrap().transport_sum()).to_be_bytes();
            frame[108..110].copy_from_slice(&inner);
            let outer = (!Packet::read(&frame).unwrap().transport_sum()).to_be_bytes();
            frame[56..58].copy_from_slice(&outer);
            assert!(Packet::read(&frame).unwrap().is_right() && Packet::quoted(&frame, 62).unwrap().is_right());
            frame
        };
        let (before, after) = (make(1, 8080), make(2, 80));
        let promised = Translation {
            source: "fd00::fe".parse().unwrap(),
            destination: "fd00::2".parse().unwrap(),
            quoted_source: "[fd00::2]:80".parse().unwrap(),
            quoted_destination: "[fd00::9]:40000".parse().unwrap(),
            forwarded: false,
            macs: None,
        };
        assert_eq!(judge(&before, &after, &promised), Ok(()));
        let mut stale = after.clone();
        stale[108..110].copy_from_slice(&before[108..110]);
        assert!(judge(&before, &stale, &promised).is_err(), "the quoted checksum was not brought up to date");
    }
}
