//! The two families behind one trait: what differs between IPv4 and IPv6, and nothing else.

use crate::checksum;
use crate::packet::{Bytes, Head, Packet};
use crate::parse::{self, Network, Plain, Wire};
use lb_common::{Backend, Reason, Settings};

/// An IP address in network order.
pub trait Address: Copy + Eq + 'static {
    /// IP version, 4 or 6.
    const VERSION: u8;
    /// The unspecified address.
    const UNSPECIFIED: Self;
    /// Where the source address stands in the IP header; the destination address follows it.
    const SOURCE_OFFSET: usize;
    /// Where the TTL or hop limit stands in the IP header.
    const TTL_OFFSET: usize;
    /// Where the protocol stands in the IP header: of IPv6, that of the first header behind it.
    const PROTOCOL_OFFSET: usize;
    /// Where the header's own checksum stands, in the family that has one.
    const HEADER_CHECKSUM_OFFSET: Option<usize>;

    /// What one hop less adds to a checksum over the header (RFC 1624).
    const HOP: u16;

    /// IP protocol number of the family's ICMP (RFC 792, RFC 4443).
    const ICMP: u8;
    /// ICMP types of an echo request and its reply.
    const ECHO: [u8; 2];
    /// Whether the ICMP checksum covers the addresses too, by a pseudo-header.
    const ICMP_COVERS_ADDRESSES: bool = Self::VERSION == 6;
    /// Bytes of an IP header without options or extension headers.
    const HEADER: usize;

    /// Whether an ICMP message of this type is an error, which embeds the packet that it is about.
    fn is_error(kind: u8) -> bool;

    /// Type and code of the ICMP error that tells a sender of `reason`, or `None` where it is not told. (For `reason`s
    /// that call for an answer by their transport protocol: what senders by other protocols are told.)
    fn error_for(reason: Reason) -> Option<[u8; 2]>;

    /// Reads the IP header that stands at `at`; `None` if it is none.
    fn header<P: Packet>(packet: &P, at: usize) -> Option<Network<Self>>;

    /// Writes an IP header behind the Ethernet header, for `payload` bytes of `protocol`, with the TTL of a packet that
    /// begins its way.
    fn write_header<P: Packet>(packet: &mut P, src: Self, dst: Self, protocol: u8, payload: u16) -> Option<()>;

    /// Rewrites the IP header behind the Ethernet header: addresses, whose change adds `delta` to a checksum (RFC 1624), and
    /// its TTL, of which one hop is taken if it `takes_hop`, as the stack would have done in our place (RFC 1812, 5.3.1). Its own
    /// checksum is brought up to date; where there is none, [`Address::HOP`] is to be noted. `None`: it could not be written.
    fn rewrite_header<B: Bytes>(packet: &mut B, src: Self, dst: Self, delta: u16, takes_hop: bool) -> Option<()>;

    /// Parses a packet of this family.
    fn parse<P: Packet>(packet: &P) -> Result<Wire<Self>, Reason>;

    /// Parses a packet of this family whose headers are the usual ones; `None` if they are not.
    fn parse_plain(head: &Head<'_>, frame: usize) -> Option<Plain<Self>>;

    /// The one's complement sum of its words.
    fn sum(&self) -> u32;

    /// Its bytes as words for hashing; the second is zero for IPv4.
    fn words(&self) -> [u64; 2];

    /// Its bytes, and zeros behind those of an IPv4 address.
    fn octets(&self) -> [u8; 16];

    /// Whether no client can have it as its source: "this network", loopback, multicast and reserved addresses (RFC 6890).
    fn is_martian(&self) -> bool;

    /// The address of `backend`, or `None` if the record is of the other family.
    fn of_backend(backend: &Backend) -> Option<Self>;

    /// How many source addresses are lent to connections of this family.
    fn lent_count(settings: &Settings) -> u32;

    /// One of them.
    fn lent(settings: &Settings, index: u32) -> Self;
}

/// How many addresses stand in a list that the first unspecified one ends.
#[inline(always)]
fn count<A: Address>(list: &[A; Settings::SNAT_ADDRESSES]) -> u32 {
    let mut count = 0;
    for address in list {
        if *address == A::UNSPECIFIED {
            break;
        }
        count += 1;
    }
    count
}

/// An index into the lists of addresses lent, in a form in which the verifier sees its bound.
#[inline(always)]
fn nth(index: u32) -> usize {
    const { assert!(Settings::SNAT_ADDRESSES.is_power_of_two()) };
    index as usize & (Settings::SNAT_ADDRESSES - 1)
}

impl Address for [u8; 4] {
    const VERSION: u8 = 4;
    const UNSPECIFIED: Self = [0; 4];
    const SOURCE_OFFSET: usize = 12;
    const TTL_OFFSET: usize = 8;
    const PROTOCOL_OFFSET: usize = parse::PROTOCOL_OFFSET;
    const HEADER_CHECKSUM_OFFSET: Option<usize> = Some(10);
    // The TTL is the first byte of its word.
    const HOP: u16 = checksum::delta(1_u16.to_le() as u32, 0);
    const ICMP: u8 = 1;
    const ECHO: [u8; 2] = [8, 0];
    const HEADER: usize = 20;

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // Destination unreachable, time exceeded, parameter problem.
        matches!(kind, 3 | 11 | 12)
    }

    #[inline(always)]
    fn error_for(reason: Reason) -> Option<[u8; 2]> {
        match reason {
            Reason::NoServicePort | Reason::NoBackend => Some([3, 3]),
            Reason::Protocol => Some([3, 2]),
            Reason::MtuExceeded => Some([3, 4]),
            Reason::NoRoute | Reason::Unreachable => Some([3, 1]),
            Reason::Prohibited => Some([3, 13]),
            Reason::TtlExceeded => Some([11, 0]),
            _ => None,
        }
    }

    #[inline(always)]
    fn header<P: Packet>(packet: &P, at: usize) -> Option<Network<Self>> {
        parse::ipv4_header(packet, at)
    }

    #[inline(always)]
    fn write_header<P: Packet>(packet: &mut P, src: Self, dst: Self, protocol: u8, payload: u16) -> Option<()> {
        let [high, low] = (Self::HEADER as u16 + payload).to_be_bytes();
        // Version and header length, no service class; no identification, not to be fragmented (RFC 6864).
        let (first, second, third) = ([0x45, 0, high, low], [0, 0, 0x40, 0], [parse::FIRST_TTL, protocol, 0, 0]);
        let sum = checksum::pair(first) + checksum::pair(second) + checksum::pair(third) + src.sum() + dst.sum();
        let [a, b] = (!checksum::fold(sum)).to_ne_bytes();
        packet.store(parse::IP_OFFSET, first)?;
        packet.store(parse::IP_OFFSET + 4, second)?;
        packet.store(parse::IP_OFFSET + 8, [parse::FIRST_TTL, protocol, a, b])?;
        packet.store(parse::IP_OFFSET + Self::SOURCE_OFFSET, src)?;
        packet.store(parse::IP_OFFSET + Self::SOURCE_OFFSET + 4, dst)
    }

    #[inline(always)]
    fn rewrite_header<B: Bytes>(packet: &mut B, src: Self, dst: Self, delta: u16, takes_hop: bool) -> Option<()> {
        let [ttl, protocol, a, b]: [u8; 4] = packet.load(parse::IP_OFFSET + Self::TTL_OFFSET)?;
        let delta = if takes_hop { checksum::add(delta, Self::HOP) } else { delta };
        let [a, b] = checksum::update([a, b], delta);
        let first = u32::from_ne_bytes([ttl.wrapping_sub(u8::from(takes_hop)), protocol, a, b]);
        // What changes stands together.
        packet.store(parse::IP_OFFSET + Self::TTL_OFFSET, [first, u32::from_ne_bytes(src), u32::from_ne_bytes(dst)])
    }

    #[inline(always)]
    fn parse<P: Packet>(packet: &P) -> Result<Wire<Self>, Reason> {
        parse::ipv4(packet)
    }

    #[inline(always)]
    fn parse_plain(head: &Head<'_>, frame: usize) -> Option<Plain<Self>> {
        parse::plain_ipv4(head, frame)
    }

    #[inline(always)]
    fn sum(&self) -> u32 {
        checksum::pair(*self)
    }

    #[inline(always)]
    fn words(&self) -> [u64; 2] {
        [u64::from(u32::from_be_bytes(*self)), 0]
    }

    #[inline(always)]
    fn octets(&self) -> [u8; 16] {
        let [a, b, c, d] = *self;
        [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    #[inline(always)]
    fn is_martian(&self) -> bool {
        matches!(self[0], 0 | 127 | 224..)
    }

    #[inline(always)]
    fn of_backend(backend: &Backend) -> Option<Self> {
        let [a, b, c, d, ..] = backend.address;
        (backend.family == Self::VERSION).then_some([a, b, c, d])
    }

    #[inline(always)]
    fn lent_count(settings: &Settings) -> u32 {
        count(&settings.snat4)
    }

    #[inline(always)]
    fn lent(settings: &Settings, index: u32) -> Self {
        settings.snat4[nth(index)]
    }
}

impl Address for [u8; 16] {
    const VERSION: u8 = 6;
    const UNSPECIFIED: Self = [0; 16];
    const SOURCE_OFFSET: usize = 8;
    const TTL_OFFSET: usize = 7;
    const PROTOCOL_OFFSET: usize = parse::NEXT_HEADER_OFFSET;
    const HEADER_CHECKSUM_OFFSET: Option<usize> = None;
    // The hop limit is the second byte of its word.
    const HOP: u16 = checksum::delta(0x100_u16.to_le() as u32, 0);
    const ICMP: u8 = 58;
    const ECHO: [u8; 2] = [128, 129];
    const HEADER: usize = 40;

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn error_for(reason: Reason) -> Option<[u8; 2]> {
        match reason {
            Reason::NoServicePort | Reason::NoBackend => Some([1, 4]),
            Reason::Protocol => Some([4, 1]),
            Reason::MtuExceeded => Some([2, 0]),
            Reason::NoRoute | Reason::Unreachable => Some([1, 0]),
            Reason::Prohibited => Some([1, 1]),
            Reason::TtlExceeded => Some([3, 0]),
            _ => None,
        }
    }

    #[inline(always)]
    fn header<P: Packet>(packet: &P, at: usize) -> Option<Network<Self>> {
        parse::ipv6_header(packet, at)
    }

    #[inline(always)]
    fn write_header<P: Packet>(packet: &mut P, src: Self, dst: Self, protocol: u8, payload: u16) -> Option<()> {
        let [high, low] = payload.to_be_bytes();
        packet.store(parse::IP_OFFSET, [0x60u8, 0, 0, 0])?;
        packet.store(parse::IP_OFFSET + 4, [high, low, protocol, parse::FIRST_TTL])?;
        packet.store(parse::IP_OFFSET + Self::SOURCE_OFFSET, src)?;
        packet.store(parse::IP_OFFSET + Self::SOURCE_OFFSET + 16, dst)
    }

    #[inline(always)]
    fn rewrite_header<B: Bytes>(packet: &mut B, src: Self, dst: Self, _delta: u16, takes_hop: bool) -> Option<()> {
        packet.store(parse::IP_OFFSET + Self::SOURCE_OFFSET, [src, dst])?;
        if takes_hop {
            let [limit]: [u8; 1] = packet.load(parse::IP_OFFSET + Self::TTL_OFFSET)?;
            packet.store(parse::IP_OFFSET + Self::TTL_OFFSET, limit.wrapping_sub(1))?;
        }
        Some(())
    }

    #[inline(always)]
    fn parse<P: Packet>(packet: &P) -> Result<Wire<Self>, Reason> {
        parse::ipv6(packet)
    }

    #[inline(always)]
    fn parse_plain(head: &Head<'_>, frame: usize) -> Option<Plain<Self>> {
        parse::plain_ipv6(head, frame)
    }

    #[inline(always)]
    fn sum(&self) -> u32 {
        let bits = u128::from_ne_bytes(*self);
        checksum::words(bits as u64) + checksum::words((bits >> 64) as u64)
    }

    #[inline(always)]
    fn words(&self) -> [u64; 2] {
        let bits = u128::from_be_bytes(*self);
        [(bits >> 64) as u64, bits as u64]
    }

    #[inline(always)]
    fn octets(&self) -> [u8; 16] {
        *self
    }

    #[inline(always)]
    fn is_martian(&self) -> bool {
        // `::` and `::1` are all but the last bit zero.
        self[0] == 0xff || u128::from_be_bytes(*self) >> 1 == 0
    }

    #[inline(always)]
    fn of_backend(backend: &Backend) -> Option<Self> {
        (backend.family == Self::VERSION).then_some(backend.address)
    }

    #[inline(always)]
    fn lent_count(settings: &Settings) -> u32 {
        count(&settings.snat6)
    }

    #[inline(always)]
    fn lent(settings: &Settings, index: u32) -> Self {
        settings.snat6[nth(index)]
    }
}
