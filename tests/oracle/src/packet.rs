//! An Ethernet frame read as far as a load balancer must understand it.

use crate::checksum;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// IP protocol numbers.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMPV6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;

/// TCP flags.
pub const FIN: u8 = 1;
/// Synchronize.
pub const SYN: u8 = 2;
/// Reset.
pub const RST: u8 = 4;
/// Acknowledge.
pub const ACK: u8 = 16;

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;

/// Why a frame is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Not IP: ARP, LLDP and the like.
    NotIp,
    /// Behind a VLAN tag.
    Tagged,
    /// Cut short, or a header contradicts itself or the frame.
    Broken,
    /// Nothing in it may be changed: behind an authentication header (RFC 4302), or with segments left in a routing header,
    /// when the destination that its checksum covers is another (RFC 8200, 4.4 and 8.1).
    Sealed,
}

/// An IP packet and where its parts stand.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// What the packet is read from; offsets below count from its start.
    pub bytes: &'a [u8],
    /// Where the IP header begins.
    pub ip: usize,
    /// Where the IP packet ends.
    pub end: usize,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The protocol behind all IP headers.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Where the transport header begins (for a later fragment: its data).
    pub transport: usize,
    /// Bytes into the whole packet at which a fragment's data begins, and whether more follow; `None`: no fragment.
    pub fragment: Option<(usize, bool)>,
    /// What the fragments of one packet share (RFC 791; RFC 8200, 4.5).
    pub identification: u32,
    /// Bytes from the start of the IP header to the one that names the protocol.
    pub named_at: usize,
    /// Number of IPv6 extension headers.
    pub extensions: usize,
    /// Something unusual that a datapath may leave alone as well as translate: a payload length of zero that stands for the
    /// rest of the frame (RFC 2675 in spirit), or a second fragment header.
    pub odd: bool,
}

impl<'a> Packet<'a> {
    /// Reads a frame.
    pub fn read(frame: &'a [u8]) -> Result<Self, Unread> {
        match frame.get(12..14) {
            Some([0x08, 0x00]) => Self::ipv4(frame, ETHERNET, false),
            Some([0x86, 0xdd]) => Self::ipv6(frame, ETHERNET, false),
            Some([0x81 | 0x91, 0x00] | [0x88, 0xa8]) => Err(Unread::Tagged),
            _ => Err(Unread::NotIp),
        }
    }

    /// Reads the packet that an ICMP error quotes at `ip`, of which only the beginning need be there.
    pub fn quoted(bytes: &'a [u8], ip: usize) -> Result<Self, Unread> {
        match bytes.get(ip).map(|first| first >> 4) {
            Some(4) => Self::ipv4(bytes, ip, true),
            Some(6) => Self::ipv6(bytes, ip, true),
            _ => Err(Unread::Broken),
        }
    }

    fn ipv4(bytes: &'a [u8], ip: usize, is_cut: bool) -> Result<Self, Unread> {
        let header = bytes.get(ip..ip + 20).ok_or(Unread::Broken)?;
        let header_length = usize::from(header[0] & 15) * 4;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let fits = is_cut || ip + length <= bytes.len();
        if header[0] >> 4 != 4 || header_length < 20 || length < header_length || !fits {
            return Err(Unread::Broken);
        }
        if ip + header_length > bytes.len() {
            return Err(Unread::Broken);
        }
        let word = u16::from_be_bytes([header[6], header[7]]);
        let fragment = (usize::from(word & 0x1fff) * 8, word & 0x2000 != 0);
        let address = |at: usize| IpAddr::V4(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]));
        Ok(Self {
            bytes,
            ip,
            end: bytes.len().min(ip + length),
            source: address(12),
            destination: address(16),
            protocol: header[9],
            ttl: header[8],
            transport: ip + header_length,
            fragment: (fragment != (0, false)).then_some(fragment),
            identification: u32::from(u16::from_be_bytes([header[4], header[5]])),
            named_at: 9,
            extensions: 0,
            odd: false,
        })
    }

    fn ipv6(bytes: &'a [u8], ip: usize, is_cut: bool) -> Result<Self, Unread> {
        let header = bytes.get(ip..ip + 40).ok_or(Unread::Broken)?;
        let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let wanted = if payload == 0 { bytes.len() } else { ip + 40 + payload };
        if header[0] >> 4 != 6 || (wanted > bytes.len() && !is_cut) {
            return Err(Unread::Broken);
        }
        let end = wanted.min(bytes.len());
        let (mut protocol, mut transport, mut fragment, mut extensions) = (header[6], ip + 40, None, 0);
        let (mut identification, mut named_at) = (0, 6);
        let mut odd = payload == 0;
        while let 0 | 43 | 44 | 51 | 60 = protocol {
            let Some(&[next, length, high, low]) = bytes.get(transport..).and_then(<[u8]>::first_chunk) else {
                return Err(Unread::Broken);
            };
            if protocol == 51 || (protocol == 43 && low != 0) {
                return Err(Unread::Sealed);
            }
            odd |= protocol == 44 && fragment.is_some();
            named_at = transport - ip;
            transport += match protocol {
                44 => {
                    let word = u16::from_be_bytes([high, low]);
                    fragment = Some((usize::from(word & 0xfff8), word & 1 != 0));
                    let id = bytes.get(transport + 4..).and_then(<[u8]>::first_chunk).ok_or(Unread::Broken)?;
                    identification = u32::from_be_bytes(*id);
                    8
                }
                _ => 8 + usize::from(length) * 8,
            };
            protocol = next;
            extensions += 1;
            if transport > end {
                return Err(Unread::Broken);
            }
            if fragment.is_some_and(|(offset, _)| offset > 0) {
                break;
            }
        }
        let address = |at: usize| {
            let octets: [u8; 16] = header[at..at + 16].try_into().unwrap_or_default();
            IpAddr::V6(Ipv6Addr::from(octets))
        };
        Ok(Self {
            bytes,
            ip,
            end,
            source: address(8),
            destination: address(24),
            protocol,
            ttl: header[7],
            transport,
            fragment,
            identification,
            named_at,
            extensions,
            odd,
        })
    }

    /// Whether it is a fragment other than the first.
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|(offset, _)| offset > 0)
    }

    /// Whether it is the first of several fragments, which alone has the transport header.
    pub fn is_first_fragment(&self) -> bool {
        self.fragment == Some((0, true))
    }

    /// What stands behind the IP headers.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.transport..self.end).unwrap_or_default()
    }

    /// Bytes of the IP packet.
    pub fn length(&self) -> usize {
        self.end - self.ip
    }

    /// Source and destination with ports, where there are any. `Err` for a transport header that is cut short.
    pub fn tuple(&self) -> Result<Option<(SocketAddr, SocketAddr)>, Unread> {
        if self.is_later_fragment() || !matches!(self.protocol, TCP | UDP | SCTP) {
            return Ok(None);
        }
        let payload = self.payload();
        let needed = match self.protocol {
            TCP => payload.get(12).map_or(20, |offset| usize::from(offset >> 4) * 4),
            UDP => 8,
            // A packet holds a chunk at least (RFC 9260, 3).
            _ => 16,
        };
        if payload.len() < needed || (self.protocol == TCP && needed < 20) {
            return Err(Unread::Broken);
        }
        Ok(self.ports().map(|[from, to]| (SocketAddr::new(self.source, from), SocketAddr::new(self.destination, to))))
    }

    /// The first four bytes behind the IP headers as ports.
    pub fn ports(&self) -> Option<[u16; 2]> {
        let payload = self.payload();
        let ports = payload.get(..4)?;
        Some([u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]])])
    }

    /// TCP flags; for SCTP what its first chunk comes up to (RFC 9260, 3.2); zero for what has neither.
    pub fn flags(&self) -> u8 {
        let byte = |at: usize| self.payload().get(at).copied();
        match self.protocol {
            _ if self.is_later_fragment() => 0,
            TCP => byte(13).unwrap_or(0),
            SCTP => match byte(12) {
                Some(1) => SYN,
                Some(2) => SYN | ACK,
                Some(7 | 8) => FIN,
                Some(6 | 14) => RST,
                _ => ACK,
            },
            _ => 0,
        }
    }

    /// Where the source address stands, and how long an address is.
    pub fn addresses(&self) -> (usize, usize) {
        if self.source.is_ipv4() { (self.ip + 12, 4) } else { (self.ip + 8, 16) }
    }

    /// Where the TTL or hop limit stands.
    pub fn ttl_offset(&self) -> usize {
        self.ip + if self.source.is_ipv4() { 8 } else { 7 }
    }

    /// Where the IPv4 header's checksum stands.
    pub fn header_checksum_offset(&self) -> Option<usize> {
        self.source.is_ipv4().then_some(self.ip + 10)
    }

    /// The sum of the IPv4 header, its checksum included; all ones is right. IPv6 has none: always right.
    pub fn header_sum(&self) -> u16 {
        if self.source.is_ipv6() {
            return 0xffff;
        }
        let header_length = usize::from(self.bytes[self.ip] & 15) * 4;
        checksum::sum(&self.bytes[self.ip..self.ip + header_length])
    }

    /// Where the transport's checksum stands and how long it is, if it is there.
    pub fn checksum(&self) -> Option<(usize, usize)> {
        if self.is_later_fragment() {
            return None;
        }
        let (offset, length) = match self.protocol {
            TCP => (16, 2),
            UDP => (6, 2),
            ICMP | ICMPV6 => (2, 2),
            SCTP => (8, 4),
            _ => return None,
        };
        (self.transport + offset + length <= self.end).then_some((self.transport + offset, length))
    }

    /// The sum of pseudo-header (none for ICMPv4) and transport, the checksum included.
    pub fn transport_sum(&self) -> u16 {
        match self.protocol {
            ICMP => checksum::sum(self.payload()),
            _ => checksum::with_pseudo_header(self.source, self.destination, self.protocol, self.payload()),
        }
    }

    /// SCTP's checksum, and what it should be.
    pub fn sctp_checksums(&self) -> Option<([u8; 4], [u8; 4])> {
        let payload = self.payload();
        let given = payload.get(8..12)?.try_into().ok()?;
        let mut zeroed = payload.to_vec();
        zeroed[8..12].fill(0);
        Some((given, checksum::crc32c(&zeroed)))
    }

    /// Whether every checksum is right. A packet that is one of several fragments cannot tell; then only its header counts.
    pub fn is_right(&self) -> bool {
        let transport = match self.protocol {
            _ if self.fragment.is_some() => true,
            SCTP => self.sctp_checksums().is_some_and(|(given, computed)| given == computed),
            UDP if self.source.is_ipv4() && self.payload().get(6..8) == Some(&[0, 0]) => true,
            UDP if self.payload().get(6..8) == Some(&[0, 0]) => false,
            TCP | UDP | ICMP | ICMPV6 => self.checksum().is_some() && checksum::is_right(self.transport_sum()),
            _ => true,
        };
        checksum::is_right(self.header_sum()) && transport
    }
}
