//! Which share of new connections a change of a backend set sends elsewhere.
//!
//! The datapath scales a hash to a place in the set, so each of `n` members has the hashes of one n-th of their range. Two
//! sets are compared along this range; where both are tables of one size that is the share of slots that differ.

use std::collections::BTreeMap;

/// The share, from 0 to 1, of hashes for which `before` and `after` name another member. `None` if either names none.
pub fn moved_share<T: PartialEq>(before: &[T], after: &[T]) -> Option<f64> {
    if before.is_empty() || after.is_empty() {
        return None;
    }
    // Positions in parts of the product of both lengths, so that every border is a whole number.
    let (lengths, mut places) = ((before.len() as u64, after.len() as u64), (0_u64, 0_u64));
    let (mut position, mut moved) = (0, 0);
    while places.0 < lengths.0 && places.1 < lengths.1 {
        let ends = ((places.0 + 1) * lengths.1, (places.1 + 1) * lengths.0);
        let end = ends.0.min(ends.1);
        if before[places.0 as usize] != after[places.1 as usize] {
            moved += end - position;
        }
        position = end;
        places = (places.0 + u64::from(end == ends.0), places.1 + u64::from(end == ends.1));
    }
    Some(moved as f64 / (lengths.0 * lengths.1) as f64)
}

/// The same where the two are hashed with different keys, so that a place in the one says nothing of the place in the other.
pub fn redrawn_share<T: Ord>(before: &[T], after: &[T]) -> Option<f64> {
    if before.is_empty() || after.is_empty() {
        return None;
    }
    let (old, new) = (counted(before), counted(after));
    let stay: u64 = old.iter().map(|(member, count)| count * new.get(member).unwrap_or(&0)).sum();
    Some(1.0 - stay as f64 / (before.len() as u64 * after.len() as u64) as f64)
}

/// How many places each member has.
fn counted<T: Ord>(members: &[T]) -> BTreeMap<&T, u64> {
    let mut counts = BTreeMap::new();
    for member in members {
        *counts.entry(member).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_ebpf::pick::place;
    use proptest::prelude::*;

    #[test]
    fn equal_sets_move_nothing_and_strangers_everything() {
        assert_eq!(moved_share(&[1, 2, 3], &[1, 2, 3]), Some(0.0));
        assert_eq!(moved_share(&[1, 2, 3], &[4, 5]), Some(1.0));
        assert_eq!(moved_share(&[1, 2], &[1, 1, 2, 2]), Some(0.0));
        assert_eq!(moved_share(&[1], &[]), None);
        // The first half goes to 1 and then to 1 in its first two thirds.
        assert_eq!(moved_share(&[1, 2], &[1, 2, 3]), Some(0.5));
    }

    #[test]
    fn where_the_key_changes_who_stays_does_so_by_chance() {
        assert_eq!(redrawn_share(&[1, 2], &[1, 2]), Some(0.5));
        assert_eq!(redrawn_share(&[1, 2], &[3]), Some(1.0));
        assert_eq!(redrawn_share(&[1], &[1, 1, 2, 1]), Some(0.25));
        assert_eq!(redrawn_share(&[1], &[]), None);
    }

    proptest! {
        /// What is computed is what the datapath's own pick does with many hashes.
        #[test]
        fn it_is_the_share_of_hashes_that_are_placed_elsewhere(
            before in prop::collection::vec(0..4_u8, 1..12), after in prop::collection::vec(0..4_u8, 1..12),
        ) {
            const HASHES: u64 = 1 << 14;
            let member = |set: &[u8], step: u64| {
                let hash = (step * (u64::MAX / HASHES)) | 1 << 40;
                set[place(hash, set.len() as u32) as usize]
            };
            let moved = (0..HASHES).filter(|step| member(&before, *step) != member(&after, *step)).count();
            let share = moved_share(&before, &after).unwrap();
            prop_assert!((share - moved as f64 / HASHES as f64).abs() < 0.005, "{share} {moved}");
        }
    }
}
