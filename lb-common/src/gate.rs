//! The gate: whether a packet can concern us at all, told by two looks into a bitmap, before anything is looked up.
//!
//! Every flow has been opened towards an address that was ours at the time, by way of a backend that was ours at the time. So a
//! packet whose destination was never ours and whose source was never a backend belongs to no flow and opens none.
//!
//! Two bits are for a destination, since what to look up differs: one says that a Service may have it, the other that it may be the
//! node's, whose node ports are looked up. One is for a source. Each stands for all addresses whose hash leads to it. It is set before
//! the record is written that needs it, and stays set, since flows outlive that. A bit too many costs packets that are not ours a few
//! lookups; a bit too few would lose packets of ours.

use core::fmt;
use core::net::IpAddr;

/// Places for addresses, as a shift. Those of 10,000 addresses are one in a hundred.
const PLACES_SHIFT: u32 = 20;
/// Words for destinations.
const DESTINATIONS: u32 = 1 << (PLACES_SHIFT - 5);
/// Words for sources.
const SOURCES: u32 = 1 << (PLACES_SHIFT - 6);
/// Words in the gate, those of destinations first (384 KiB): entries of the map [`crate::maps::GATE`].
pub const WORDS: u32 = DESTINATIONS + SOURCES;

/// In a word of destinations, the bits of those that a Service may have.
pub const SERVICES: u64 = 0x5555_5555_5555_5555;
/// In a word of destinations, the bits of those that may be the node's.
pub const NODE: u64 = !SERVICES;

/// An end of a packet, by which the gate lets it pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It is sent to this address, which is a Service's.
    Service(IpAddr),
    /// It is sent to this address, which is the node's.
    Node(IpAddr),
    /// It is sent to this address, which was the one or the other when its flow was opened.
    Destination(IpAddr),
    /// It comes from this address, which is or was a backend's.
    Source(IpAddr),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(address) | Self::Node(address) | Self::Destination(address) => {
                write!(f, "packets to {address}")
            }
            Self::Source(address) => write!(f, "packets from {address}"),
        }
    }
}

/// Where an end stands in the gate. It is open if one of the bits is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Index into the map [`crate::maps::GATE`].
    pub word: u32,
    /// Its bits in that word; the others are zero.
    pub bits: u64,
}

/// The place of an address, of `1 << PLACES_SHIFT`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call costs the datapath stack and nanoseconds")]
const fn place([high, low]: [u64; 2]) -> u64 {
    // Odd constants of splitmix64. The highest bits of a product depend on all bits of its factors.
    let mixed = high.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ low;
    mixed.wrapping_mul(0x94d0_49bb_1331_11eb) >> (64 - PLACES_SHIFT)
}

impl Place {
    /// Of a destination, with both its bits: its bytes in network order as two numbers, the second zero for IPv4.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs the datapath stack and nanoseconds")]
    pub const fn of_destination(words: [u64; 2]) -> Self {
        let place = place(words);
        Self { word: (place >> 5) as u32, bits: 0b11 << (2 * (place & 31)) }
    }

    /// Of a source, likewise.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs the datapath stack and nanoseconds")]
    pub const fn of_source(words: [u64; 2]) -> Self {
        let place = place(words);
        Self { word: DESTINATIONS + (place >> 6) as u32, bits: 1 << (place & 63) }
    }
}

impl Place {
    const fn only(self, bits: u64) -> Self {
        Self { bits: self.bits & bits, ..self }
    }
}

impl From<End> for Place {
    fn from(end: End) -> Self {
        let words = |address: IpAddr| match address {
            IpAddr::V4(address) => [u64::from(address.to_bits()), 0],
            IpAddr::V6(address) => [(address.to_bits() >> 64) as u64, address.to_bits() as u64],
        };
        match end {
            End::Destination(address) => Self::of_destination(words(address)),
            End::Service(address) => Self::of_destination(words(address)).only(SERVICES),
            End::Node(address) => Self::of_destination(words(address)).only(NODE),
            End::Source(address) => Self::of_source(words(address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DESTINATIONS, End, Place, WORDS};
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::collections::BTreeSet;
    use std::vec::Vec;

    #[test]
    fn neighbouring_addresses_share_few_bits() {
        const ADDRESSES: u32 = 10_000;
        let v4 = |number: u32| IpAddr::from(Ipv4Addr::from_bits(0x0a60_0000 + number));
        let v6 = |number: u32| IpAddr::from(Ipv6Addr::from_bits((0xfd00_0010 << 96) + u128::from(number)));
        for addresses in [(0..ADDRESSES).map(v4).collect::<Vec<_>>(), (0..ADDRESSES).map(v6).collect()] {
            let of = |end: fn(IpAddr) -> End| -> BTreeSet<Place> {
                addresses.iter().map(|address| Place::from(end(*address))).collect()
            };
            let [to_services, to_node, from] = [End::Service, End::Node, End::Source].map(of);
            for places in [&to_services, &to_node, &from] {
                let enough = ADDRESSES as usize * 98 / 100;
                assert!(places.len() > enough, "{} places for {ADDRESSES} addresses", places.len());
                assert!(places.iter().all(|place| place.bits.is_power_of_two()));
            }
            assert!(to_services.iter().chain(&to_node).all(|place| place.word < DESTINATIONS));
            assert!(from.iter().all(|place| (DESTINATIONS..WORDS).contains(&place.word)));
            for address in &addresses {
                let [service, node, either] =
                    [End::Service, End::Node, End::Destination].map(|end| Place::from(end(*address)));
                assert_eq!((service.word, service.bits | node.bits), (either.word, either.bits));
                assert_eq!(service.bits & node.bits, 0);
            }
        }
    }
}
