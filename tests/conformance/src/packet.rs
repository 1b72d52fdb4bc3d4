//! The packets of a connection, and what can be told of one by its bytes alone.

use crate::schema::Protocol;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lb_common::SCTP;
use lb_tests::frames::{self, Flags};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// SCTP chunks: DATA, INIT, INIT ACK (RFC 9260, section 3.2).
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// What every packet carries.
const PAYLOAD: &[u8] = b"a payload";

/// Which packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The client's first.
    Open,
    /// The server's answer to it.
    Accept,
    /// The client's next.
    Continue,
}

impl Protocol {
    /// IP protocol number.
    fn number(self, is_v4: bool) -> u8 {
        match self {
            Self::TCP => lb_common::TCP,
            Self::UDP => lb_common::UDP,
            Self::SCTP => SCTP,
            Self::ICMP | Self::ICMPv6 => {
                if is_v4 {
                    1
                } else {
                    58
                }
            }
        }
    }
}

/// Both ends of a connection as they stand in a packet. Without ports for ICMP, where they are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Protocol.
    pub protocol: Protocol,
    /// Source.
    pub from: SocketAddr,
    /// Destination.
    pub to: SocketAddr,
}

impl Ends {
    /// A frame between these ends.
    pub fn frame(self, turn: Turn) -> Vec<u8> {
        let Self { protocol, from, to } = self;
        match protocol {
            Protocol::TCP => match turn {
                Turn::Open => frames::tcp(from, to, Flags::Syn, b""),
                Turn::Accept => frames::tcp(from, to, Flags::SynAck, b""),
                Turn::Continue => frames::tcp(from, to, Flags::Ack, PAYLOAD),
            },
            Protocol::UDP => frames::udp(from, to, PAYLOAD),
            Protocol::SCTP => match turn {
                Turn::Open => frames::sctp(from, to, INIT, &[1; 16]),
                Turn::Accept => frames::sctp(from, to, INIT_ACK, &[1; 16]),
                Turn::Continue => frames::sctp(from, to, DATA, &[1; 16]),
            },
            Protocol::ICMP | Protocol::ICMPv6 => frames::echo(from.ip(), to.ip()),
        }
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has another destination or another source.
    Forwarded {
        /// Its source now.
        source: SocketAddr,
        /// Its destination now.
        backend: SocketAddr,
    },
    /// The client was told that nobody is there.
    Rejected,
    /// It was dropped.
    Dropped,
    /// It was left alone.
    Passed,
    /// Something else, in words.
    Odd(String),
}

impl Outcome {
    /// What became of a packet between `ends` whose frame was changed or sent on.
    pub fn of_frame(ends: Ends, frame: &[u8]) -> Self {
        let outcome = Self::read(ends, frame, check_sum).unwrap_or_else(|why| Self::Odd(why.to_owned()));
        // Wherever it leaves by, the programs were to translate it or to pass it.
        if outcome == Self::Passed { Self::Odd("changed, but not translated".to_owned()) } else { outcome }
    }

    /// What became of a packet between `ends` that a process of the node has sent, by its frame on a device; `None` if the
    /// frame is something else. Its checksum may be left to the device.
    pub fn of_captured(ends: Ends, frame: &[u8]) -> Option<Self> {
        match Self::read(ends, frame, |_, _, _, _, _| Ok(())).ok()? {
            // The process has a source port of the kernel's choice.
            Self::Forwarded { source, backend } if (source.ip(), backend) == (ends.from.ip(), ends.to) => {
                Some(Self::Passed)
            }
            outcome => Some(outcome),
        }
    }

    fn read(ends: Ends, frame: &[u8], check_sum: CheckSum) -> Result<Self, &'static str> {
        let packet = SlicedPacket::from_ethernet(frame).map_err(|_| "what left is no packet")?;
        let (from, to, protocol, payload) = match packet.net.ok_or("what left is no IP packet")? {
            NetSlice::Ipv4(slice) => {
                let header = slice.header().to_header();
                if header.header_checksum != header.calc_header_checksum() {
                    return Err("the IPv4 header's checksum is wrong");
                }
                let payload = slice.payload().clone();
                (IpAddr::from(header.source), IpAddr::from(header.destination), payload.ip_number.0, payload.payload)
            }
            NetSlice::Ipv6(slice) => {
                let header = slice.header().to_header();
                let payload = slice.payload().clone();
                (IpAddr::from(header.source), IpAddr::from(header.destination), payload.ip_number.0, payload.payload)
            }
            NetSlice::Arp(_) => return Err("what left is ARP"),
        };
        if matches!(protocol, 1 | 58) && !matches!(ends.protocol, Protocol::ICMP | Protocol::ICMPv6) {
            let is_port_unreachable =
                matches!((protocol, payload.first_chunk()), (1, Some([3, 3])) | (58, Some([1, 4])));
            return match (to == ends.from.ip(), is_port_unreachable) {
                (true, true) => Ok(Self::Rejected),
                (true, false) => Err("another ICMP error than port unreachable"),
                (false, _) => Err("an ICMP error to somebody else"),
            };
        }
        if protocol != ends.protocol.number(ends.to.is_ipv4()) {
            return Err("it is of another protocol than before");
        }
        let port = |at: usize| payload.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        let has_ports = !matches!(ends.protocol, Protocol::ICMP | Protocol::ICMPv6);
        let (source, backend) = if has_ports {
            (SocketAddr::new(from, port(0)), SocketAddr::new(to, port(2)))
        } else {
            (SocketAddr::new(from, 0), SocketAddr::new(to, 0))
        };
        check_sum(packet.transport.as_ref(), protocol, from, to, payload)?;
        let is_reset = matches!(&packet.transport, Some(TransportSlice::Tcp(tcp)) if tcp.rst());
        if (source, backend) == (ends.to, ends.from) {
            return if is_reset { Ok(Self::Rejected) } else { Err("an answer that is no reset") };
        }
        let is_same = (source, backend) == (ends.from, ends.to);
        if is_same { Ok(Self::Passed) } else { Ok(Self::Forwarded { source, backend }) }
    }
}

/// Judges the checksum of a transport header, of a protocol, between two addresses, in a payload of IP.
type CheckSum = fn(Option<&TransportSlice<'_>>, u8, IpAddr, IpAddr, &[u8]) -> Result<(), &'static str>;

/// Recomputes the checksum in full.
fn check_sum(
    transport: Option<&TransportSlice<'_>>,
    protocol: u8,
    from: IpAddr,
    to: IpAddr,
    payload: &[u8],
) -> Result<(), &'static str> {
    let right = match (transport, from, to) {
        (Some(TransportSlice::Tcp(tcp)), IpAddr::V4(from), IpAddr::V4(to)) => {
            tcp.calc_checksum_ipv4(from.octets(), to.octets()) == Ok(tcp.checksum())
        }
        (Some(TransportSlice::Tcp(tcp)), IpAddr::V6(from), IpAddr::V6(to)) => {
            tcp.calc_checksum_ipv6(from.octets(), to.octets()) == Ok(tcp.checksum())
        }
        (Some(TransportSlice::Udp(udp)), IpAddr::V4(from), IpAddr::V4(to)) => {
            udp.to_header().calc_checksum_ipv4_raw(from.octets(), to.octets(), udp.payload()) == Ok(udp.checksum())
        }
        (Some(TransportSlice::Udp(udp)), IpAddr::V6(from), IpAddr::V6(to)) => {
            udp.to_header().calc_checksum_ipv6_raw(from.octets(), to.octets(), udp.payload()) == Ok(udp.checksum())
        }
        _ if protocol == SCTP => {
            payload.get(8..12).is_some_and(|stands| stands == frames::crc32c(payload).to_le_bytes())
        }
        _ => true,
    };
    if right { Ok(()) } else { Err("the checksum is wrong") }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forwarded { source, backend } => write!(f, "forwarded to {backend} from {source}"),
            Self::Rejected => f.write_str("rejected"),
            Self::Dropped => f.write_str("dropped"),
            Self::Passed => f.write_str("passed"),
            Self::Odd(what) => f.write_str(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(from: &str, to: &str) -> Ends {
        Ends { protocol: Protocol::TCP, from: from.parse().unwrap(), to: to.parse().unwrap() }
    }

    #[test]
    fn a_frame_tells_what_became_of_its_packet() {
        let asked = ends("192.0.2.1:1000", "10.0.0.1:80");
        let frame = |from, to, flags| frames::tcp(ends(from, to).from, ends(from, to).to, flags, b"");
        let forwarded = Outcome::of_frame(asked, &frame("192.0.2.1:1000", "10.1.0.1:8080", Flags::Syn));
        let (source, backend) = (asked.from, "10.1.0.1:8080".parse().unwrap());
        assert_eq!(forwarded, Outcome::Forwarded { source, backend });
        let reset = frame("10.0.0.1:80", "192.0.2.1:1000", Flags::Rst);
        assert_eq!(Outcome::of_frame(asked, &reset), Outcome::Rejected);
        let about = asked.frame(Turn::Open);
        let error = |code| frames::icmp_error(asked.to.ip(), asked.from.ip(), [3, code], 0, &about, 28);
        assert_eq!(Outcome::of_frame(asked, &error(3)), Outcome::Rejected);
        assert!(matches!(Outcome::of_frame(asked, &error(1)), Outcome::Odd(_)));
        assert!(matches!(Outcome::of_frame(asked, &about), Outcome::Odd(_)), "changed, but not to anywhere else");
        let mut broken = frame("192.0.2.1:1000", "10.1.0.1:8080", Flags::Syn);
        broken[51] ^= 1;
        assert!(matches!(Outcome::of_frame(asked, &broken), Outcome::Odd(why) if why.contains("checksum")));
        assert!(matches!(Outcome::of_frame(asked, b"?"), Outcome::Odd(_)));
    }
}
