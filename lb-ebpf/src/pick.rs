//! Picking a backend: a keyed hash of the connection's five-tuple, which gives one of the slots of its set.
//!
//! It is random over connections and the same again for the same connection: on the host, in the kernel, in a trace, and
//! after a flow entry was lost. The key keeps outsiders from choosing their backend. Maglev Services use a key that all nodes
//! share; all else about them is in how their slots are filled.

use crate::Address;
use lb_common::{AffinityKey, FlowKey, Service, Settings, SocketKey};

/// Odd constants of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
const MULTIPLIER: u64 = 0xbf58_476d_1ce4_e5b9;
const FINISHER: u64 = 0x94d0_49bb_1331_11eb;

#[inline(always)]
const fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(MULTIPLIER);
    mixed ^ (mixed >> 29)
}

/// What keys the hash of a Service's connections.
#[inline(always)]
pub const fn seed(settings: &Settings, service: &Service) -> u64 {
    if service.flags & Service::SAME_EVERYWHERE == 0 { settings.seed } else { settings.shared_seed }
}

/// The keyed hash of a tuple.
#[inline(always)]
pub fn hash<A: Address>(seed: u64, key: &FlowKey<A>) -> u64 {
    let ports = u64::from(u32::from_be_bytes([key.src_port[0], key.src_port[1], key.dst_port[0], key.dst_port[1]]));
    let (src, dst) = (key.src.words(), key.dst.words());
    let mut hash = mix(seed, ports << 8 | u64::from(key.protocol));
    hash = mix(hash, src[0]);
    hash = mix(hash, dst[0]);
    if A::VERSION == 6 {
        hash = mix(hash, src[1]);
        hash = mix(hash, dst[1]);
    }
    finish(hash)
}

/// The keyed hash of a socket and whom it asks for: its source port is not known yet, and no packet need ever be sent.
#[inline(always)]
pub fn of_socket(seed: u64, asking: &SocketKey) -> u64 {
    let peer = &asking.peer;
    let [high, low] = peer.address.words();
    let mut hash = mix(seed, u64::from(u16::from_be_bytes(peer.port)) << 8 | u64::from(peer.protocol));
    hash = mix(hash, asking.cookie);
    hash = mix(hash, high);
    hash = mix(hash, low);
    finish(hash)
}

/// The keyed hash of a client: the same for all its connections.
#[inline(always)]
pub fn of_client(seed: u64, key: &AffinityKey) -> u64 {
    let mut hash = mix(seed, u64::from(key.kind));
    hash = mix(hash, key.client[0]);
    hash = mix(hash, key.client[1]);
    finish(hash)
}

#[inline(always)]
const fn finish(hash: u64) -> u64 {
    let mixed = (hash ^ (hash >> 31)).wrapping_mul(FINISHER);
    mixed ^ (mixed >> 32)
}

/// Maps the upper half of a hash to one of `count` places with equal odds (Lemire: Fast Random Integer Generation in an Interval, 2019).
#[inline(always)]
pub const fn place(hash: u64, count: u32) -> u32 {
    (((hash >> 32) * count as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_clients_spread_evenly() {
        const BACKENDS: u32 = 7;
        const CONNECTIONS: u32 = 70_000;
        let mut counts = [0u32; BACKENDS as usize];
        for connection in 0..CONNECTIONS {
            let source = (10u32 << 24 | connection >> 12).to_be_bytes();
            let port = (30_000 + (connection & 0xfff) as u16).to_be_bytes();
            let key = FlowKey::new(lb_common::TCP, source, port, [10, 96, 0, 1], [0, 80]);
            counts[place(hash(1, &key), BACKENDS) as usize] += 1;
        }
        let expected = f64::from(CONNECTIONS) / f64::from(BACKENDS);
        let chi_square: f64 = counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
        // 6 degrees of freedom: exceeded with probability 1e-6.
        assert!(chi_square < 38.3, "chi square {chi_square}, counts {counts:?}");
    }

    #[test]
    fn the_seed_and_every_part_of_the_tuple_count() {
        let key = FlowKey::new(lb_common::TCP, [10, 0, 0, 1], [1, 2], [10, 96, 0, 1], [0, 80]);
        let base = hash(1, &key);
        assert_ne!(base, hash(2, &key));
        assert_ne!(base, hash(1, &FlowKey { src: [10, 0, 0, 2], ..key }));
        assert_ne!(base, hash(1, &FlowKey { dst: [10, 96, 0, 2], ..key }));
        assert_ne!(base, hash(1, &FlowKey { src_port: [1, 3], ..key }));
        assert_ne!(base, hash(1, &FlowKey { dst_port: [0, 81], ..key }));
        assert_ne!(base, hash(1, &FlowKey { protocol: lb_common::UDP, ..key }));
    }
}
