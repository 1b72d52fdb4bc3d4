//! The gate: whether a packet can concern us at all, told by two looks into a bitmap, before anything is looked up.
//!
//! Every flow has been opened towards an address that was ours at the time, by way of a backend that was ours at the time. So a
//! packet whose destination was never ours and whose source was never a backend belongs to no flow and opens none.
//!
//! A bit stands for all addresses whose hash leads to it. It is set before the address is owned, or the backend written, and
//! stays set, since flows outlive both. A bit too many costs packets that are not ours a few lookups; a bit too few would lose
//! packets of ours.

use core::net::IpAddr;

/// Bits in the gate, as a shift. The bits of 10,000 addresses are one in a hundred; all of them take 128 KiB.
const BITS_SHIFT: u32 = 20;
/// Words in the gate: entries of the map [`crate::maps::GATE`].
pub const WORDS: u32 = 1 << (BITS_SHIFT - 6);

/// Where an address stands in the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Index into the map [`crate::maps::GATE`].
    pub word: u32,
    /// Its bit in that word; the others are zero.
    pub bit: u64,
}

impl Place {
    /// Of an address: its bytes in network order as two numbers, the second zero for IPv4.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs the datapath stack and nanoseconds")]
    pub const fn of([high, low]: [u64; 2]) -> Self {
        // Odd constants of splitmix64. The highest bits of a product depend on all bits of its factors.
        let mixed = high.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ low;
        let index = mixed.wrapping_mul(0x94d0_49bb_1331_11eb) >> (64 - BITS_SHIFT);
        Self { word: (index >> 6) as u32, bit: 1 << (index & 63) }
    }
}

impl From<IpAddr> for Place {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of([u64::from(address.to_bits()), 0]),
            IpAddr::V6(address) => Self::of([(address.to_bits() >> 64) as u64, address.to_bits() as u64]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, WORDS};
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::collections::BTreeSet;
    use std::vec::Vec;

    #[test]
    fn neighbouring_addresses_share_few_bits() {
        const ADDRESSES: u32 = 10_000;
        let v4 = |number: u32| IpAddr::from(Ipv4Addr::from_bits(0x0a60_0000 + number));
        let v6 = |number: u32| IpAddr::from(Ipv6Addr::from_bits((0xfd00_0010 << 96) + u128::from(number)));
        for addresses in [(0..ADDRESSES).map(v4).collect::<Vec<_>>(), (0..ADDRESSES).map(v6).collect()] {
            let places: BTreeSet<_> = addresses.into_iter().map(Place::from).collect();
            assert!(places.len() > ADDRESSES as usize * 98 / 100, "{} places for {ADDRESSES} addresses", places.len());
            assert!(places.iter().all(|place| place.word < WORDS && place.bit.is_power_of_two()));
        }
    }
}
