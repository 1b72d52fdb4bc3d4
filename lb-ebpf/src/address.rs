//! The two families behind one trait: what differs between IPv4 and IPv6, and nothing else.

use crate::checksum;
use crate::packet::Packet;
use crate::parse::{self, Wire};
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
    /// Where the header's own checksum stands, in the family that has one.
    const HEADER_CHECKSUM_OFFSET: Option<usize>;

    /// Parses a packet of this family.
    fn parse<P: Packet>(packet: &P) -> Result<Wire<Self>, Reason>;

    /// The one's complement sum of its words.
    fn sum(&self) -> u32;

    /// Its bytes as words for hashing; the second is zero for IPv4.
    fn words(&self) -> [u64; 2];

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
    const HEADER_CHECKSUM_OFFSET: Option<usize> = Some(10);

    #[inline(always)]
    fn parse<P: Packet>(packet: &P) -> Result<Wire<Self>, Reason> {
        parse::ipv4(packet)
    }

    #[inline(always)]
    fn sum(&self) -> u32 {
        checksum::words(u64::from(u32::from_ne_bytes(*self)))
    }

    #[inline(always)]
    fn words(&self) -> [u64; 2] {
        [u64::from(u32::from_be_bytes(*self)), 0]
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
    const HEADER_CHECKSUM_OFFSET: Option<usize> = None;

    #[inline(always)]
    fn parse<P: Packet>(packet: &P) -> Result<Wire<Self>, Reason> {
        parse::ipv6(packet)
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
