//! Maglev hashing (Eisenbud and others: Maglev: A Fast and Reliable Software Network Load Balancer, 2016, section 3.4), with
//! weights.
//!
//! Every endpoint has a list of all places of the table, in an order that its name alone decides. The endpoints take turns,
//! and whoever has the turn takes the first place of its list that is still free. When one endpoint goes, the others have
//! most of their places as before. Nothing in here comes from this node or this run: all nodes that have the same
//! endpoints build the same table.

use std::net::IpAddr;

/// The least and the greatest size of a table: the greatest prime below the most slots of a set.
pub const TABLE_SIZE_RANGE: (u32, u32) = (3, 1_048_573);

/// An endpoint that wants places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What tells it from others, see [`name`]. No two candidates have the same.
    pub name: u64,
    /// Its share of the table, against the others' weights. Zero: none.
    pub weight: u8,
}

/// The name of an endpoint: its address, and its place among several ports of the same address (from 0).
///
/// The port's number is left out: ports of a Service that lead to the same pods share a table, and pods that listen
/// elsewhere after an update do not shuffle the others.
pub fn name(address: IpAddr, port_rank: u32) -> u64 {
    let mut words = [0; 16];
    match address {
        IpAddr::V4(v4) => words[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => words = v6.octets(),
    }
    let bits = u128::from_be_bytes(words);
    let hash = mix(u64::from(port_rank) << 8 | if address.is_ipv4() { 4 } else { 6 });
    mix(mix(hash ^ (bits >> 64) as u64) ^ bits as u64)
}

/// Whether a table may have this size: a prime, so that every step through it comes to all places.
pub fn is_table_size(size: u32) -> bool {
    let (least, most) = TABLE_SIZE_RANGE;
    let is_prime = || (2..=size.isqrt()).all(|factor| !size.is_multiple_of(factor));
    (least..=most).contains(&size) && is_prime()
}

/// The table: for each of its `size` places (a prime, see [`is_table_size`]) the index of a candidate. Empty if no candidate
/// has a weight.
///
/// Every candidate with a weight has at least one place while there are as many places as candidates, and its share
/// differs from its weight's by at most one place for every turn of the heaviest one.
pub fn table(candidates: &[Candidate], size: u32) -> Vec<u32> {
    let mut walks: Vec<Walk> = (0..).zip(candidates).filter_map(|(index, c)| Walk::of(index, *c, size)).collect();
    let Some(heaviest) = walks.iter().map(|walk| walk.weight).max() else { return Vec::new() };
    // Turns go by name, in whatever order the candidates are given.
    walks.sort_unstable_by_key(|walk| walk.name);
    for walk in &mut walks {
        // Everyone has a turn in the first round.
        walk.credit = heaviest - walk.weight;
    }
    let mut table = vec![0; size as usize];
    // What is taken, a bit each: a few kilobytes that stay in the nearest cache.
    let mut taken = vec![0u64; (size as usize).div_ceil(64)];
    let mut free = size;
    loop {
        for walk in &mut walks {
            walk.credit += walk.weight;
            if walk.credit < heaviest {
                continue;
            }
            walk.credit -= heaviest;
            let mut place = walk.next;
            while taken[(place / 64) as usize] >> (place % 64) & 1 != 0 {
                place = step(place, walk.skip, size);
            }
            taken[(place / 64) as usize] |= 1 << (place % 64);
            table[place as usize] = walk.index;
            walk.next = step(place, walk.skip, size);
            free -= 1;
            if free == 0 {
                return table;
            }
        }
    }
}

/// A candidate on its way through the table.
struct Walk {
    name: u64,
    /// Its index among the candidates.
    index: u32,
    weight: u32,
    /// A turn costs as much as the heaviest one earns in a round.
    credit: u32,
    /// The place it would like next, and how far it is to the one after.
    next: u32,
    skip: u32,
}

impl Walk {
    fn of(index: u32, candidate: Candidate, size: u32) -> Option<Self> {
        let Candidate { name, weight } = candidate;
        let below = |hash: u64, limit: u32| (((hash >> 32) * u64::from(limit)) >> 32) as u32;
        let (next, skip) = (below(mix(name ^ OFFSET), size), below(mix(name ^ SKIP), size - 1) + 1);
        (weight > 0).then_some(Self { name, index, weight: weight.into(), credit: 0, next, skip })
    }
}

/// Tell the two hashes of a name apart: further digits of pi.
const OFFSET: u64 = 0x1319_8a2e_0370_7344;
const SKIP: u64 = 0xa409_3822_299f_31d0;

const fn step(place: u32, skip: u32, size: u32) -> u32 {
    let next = place + skip;
    if next >= size { next - size } else { next }
}

/// A step of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
const fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    fn candidates(weights: impl IntoIterator<Item = u8>) -> Vec<Candidate> {
        let named = |(index, weight): (u32, u8)| Candidate { name: name(address(index), 0), weight };
        (0..).zip(weights).map(named).collect()
    }

    fn address(index: u32) -> IpAddr {
        (0x0af4_0000 + index).to_be_bytes().into()
    }

    fn counts(table: &[u32], candidates: usize) -> Vec<u32> {
        let mut counts = vec![0; candidates];
        for index in table {
            counts[*index as usize] += 1;
        }
        counts
    }

    /// The share of places that change although their candidate stays, when `gone` goes.
    fn disruption(candidates: &[Candidate], gone: usize, size: u32) -> f64 {
        let mut fewer = candidates.to_vec();
        fewer[gone].weight = 0;
        let (before, after) = (table(candidates, size), table(&fewer, size));
        let moved = before.iter().zip(&after).filter(|(before, after)| **before as usize != gone && before != after);
        moved.count() as f64 / f64::from(size)
    }

    /// Other nodes may run another version: the table is a contract between them.
    #[test]
    fn a_table_never_changes_from_one_version_to_the_next() {
        assert_eq!(name(address(0), 0), 0x2f44_5d39_0c12_2404);
        assert_eq!(name("fd00::1".parse().unwrap(), 1), 0x37a3_b4bc_2e00_de80);
        assert_eq!(table(&candidates([1, 2, 3]), 13), [2, 0, 0, 2, 1, 0, 1, 1, 2, 2, 2, 1, 2]);
    }

    #[test]
    fn sizes_are_primes() {
        for size in [3, 13, 251, 16_381, 65_521, 65_537, 131_071, 655_373, TABLE_SIZE_RANGE.1] {
            assert!(is_table_size(size), "{size}");
        }
        for size in [0, 1, 2, 4, 16_383, 65_535, 65_536, TABLE_SIZE_RANGE.1 + 1, u32::MAX] {
            assert!(!is_table_size(size), "{size}");
        }
    }

    #[test]
    fn a_thousand_endpoints_share_a_table_evenly_and_keep_it_when_one_goes() {
        const SIZE: u32 = 65_537;
        let all = candidates([1; 1000]);
        let start = Instant::now();
        let shares = counts(&table(&all, SIZE), all.len());
        let built = start.elapsed();
        assert!(shares.iter().all(|share| (65..=66).contains(share)), "{shares:?}");
        // The ideal is that nothing moves but what the one that is gone had.
        for count in [3, 40, 300, 1000] {
            let gone = [0, count / 2, count - 1];
            let moved = gone.map(|gone| disruption(&all[..count], gone, SIZE));
            println!("one of {count} goes, and of all places these move beyond its own: {moved:?}");
            assert!(moved.iter().all(|moved| *moved < 0.01), "{count}: {moved:?}");
        }
        // Generous: builds for tests are not optimised, and machines are shared.
        assert!(built < Duration::from_secs(1), "{built:?}");
    }

    #[test]
    fn without_weight_there_is_nothing() {
        assert!(table(&[], 13).is_empty());
        assert!(table(&candidates([0, 0]), 13).is_empty());
        assert_eq!(counts(&table(&candidates([0, 3, 1]), 13), 3)[0], 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(0u8..=100, 1..40)) {
            const SIZE: u32 = 4093;
            let total: u32 = weights.iter().copied().map(u32::from).sum();
            prop_assume!(total > 0);
            let shares = counts(&table(&candidates(weights.iter().copied()), SIZE), weights.len());
            for (share, weight) in shares.iter().zip(&weights) {
                let ideal = f64::from(*weight) / f64::from(total) * f64::from(SIZE);
                prop_assert_eq!(*share == 0, *weight == 0);
                // The last round may be cut short, and everyone's first turn comes early.
                prop_assert!((f64::from(*share) - ideal).abs() <= 2.0 + ideal * 0.02, "{share} for {ideal}: {weights:?}");
            }
        }

        #[test]
        fn the_order_of_endpoints_does_not_count(
            weights in prop::collection::vec(0u8..=9, 1..30),
            order in Just((0..30usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let sorted = candidates(weights);
            let shuffled: Vec<Candidate> = order.into_iter().filter_map(|index| sorted.get(index).copied()).collect();
            let names = |candidates: &[Candidate]| -> Vec<u64> {
                table(candidates, 251).into_iter().map(|index| candidates[index as usize].name).collect()
            };
            prop_assert_eq!(names(&sorted), names(&shuffled));
        }

        #[test]
        fn what_stays_keeps_its_places(weights in prop::collection::vec(1u8..=5, 2..50), gone: prop::sample::Index) {
            let all = candidates(weights);
            let disruption = disruption(&all, gone.index(all.len()), 65_537);
            prop_assert!(disruption < 0.01, "{disruption}");
        }
    }
}
