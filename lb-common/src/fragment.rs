//! Fragments: what the first one of a datagram tells about those that follow it without ports.

use crate::flow::TICK_SHIFT;
use crate::record;

/// What all fragments of one datagram share: the key of the maps [`crate::maps::FRAGMENTS4`] and
/// [`crate::maps::FRAGMENTS6`]. `A` is `[u8; 4]` or `[u8; 16]`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FragmentKey<A> {
    /// Source address on the wire.
    pub src: A,
    /// Destination address on the wire.
    pub dst: A,
    /// Identification: 16 bits in IPv4 (RFC 791), 32 in IPv6 (RFC 8200, 4.5).
    pub id: u32,
    /// IPv4: the protocol, which RFC 791 counts in. IPv6: zero, since only the first fragment's word counts there.
    pub protocol: u8,
    /// Padding; zero.
    pub zero: [u8; 3],
}

impl<A> FragmentKey<A> {
    /// The datagram `id` from `src` to `dst`.
    pub const fn new(src: A, dst: A, id: u32, protocol: u8) -> Self {
        Self { src, dst, id, protocol, zero: [0; 3] }
    }
}

/// What the fragment at offset zero said: the value of the maps.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Source port on the wire, network order.
    pub src_port: [u8; 2],
    /// Destination port on the wire, network order.
    pub dst_port: [u8; 2],
    /// Tick in which it was seen.
    pub tick: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Padding; zero.
    pub zero: [u8; 7],
}

impl Fragment {
    /// How long the other fragments may take, in seconds: as long as Linux waits for them (`net.ipv4.ipfrag_time`).
    pub const LIFETIME_SECONDS: u32 = 30;

    /// Whether it is too old to speak for others at tick `now`: identifications come round again.
    pub const fn is_expired(&self, now: u32) -> bool {
        let ticks = ((Self::LIFETIME_SECONDS as u64 * 1_000_000_000) >> TICK_SHIFT) as u32 + 1;
        now.saturating_sub(self.tick) > ticks
    }
}

record!(FragmentKey<[u8; 4]> = 16, FragmentKey<[u8; 16]> = 40, Fragment = 16);

#[cfg(test)]
mod tests {
    use super::Fragment;

    #[test]
    fn a_first_fragment_speaks_for_half_a_minute() {
        let first = Fragment { src_port: [0; 2], dst_port: [0; 2], tick: 100, protocol: crate::UDP, zero: [0; 7] };
        assert!(!first.is_expired(100) && !first.is_expired(128));
        assert!(first.is_expired(129));
    }
}
