//! Runs of slots: best fit, neighbours joined, and a rest before reuse.
//!
//! A run given out is never written again while it is in use; a released one rests from the moment its release was
//! applied to the maps, since a packet may have read the service record just before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// The slots `0..capacity`.
#[derive(Clone, Debug)]
pub(super) struct Ranges {
    capacity: u32,
    /// Free runs: first slot to length. No two touch.
    free: BTreeMap<u32, u32>,
    /// The same by length, to find the tightest fit.
    by_length: BTreeSet<(u32, u32)>,
    /// Released in the image, but not yet in the maps.
    released: Vec<(u32, u32)>,
    resting: VecDeque<(Instant, u32, u32)>,
}

impl Ranges {
    /// Slots of which those in `used` (first slot and length; they may overlap) are taken.
    pub(super) fn new(capacity: u32, used: &BTreeSet<(u32, u32)>) -> Self {
        let mut ranges = Self {
            capacity,
            free: BTreeMap::new(),
            by_length: BTreeSet::new(),
            released: Vec::new(),
            resting: VecDeque::new(),
        };
        let mut next = 0;
        for &(base, length) in used {
            if base > next {
                ranges.insert(next, base.min(capacity) - next.min(capacity));
            }
            next = next.max(base.saturating_add(length));
        }
        ranges.insert(next, capacity.saturating_sub(next));
        ranges
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// A run of `length` slots: the shortest free run that holds it, and of these the first.
    pub(super) fn take(&mut self, length: u32) -> Option<u32> {
        let &(found, base) = self.by_length.range((length, 0)..).next()?;
        self.remove(base, found);
        self.insert(base + length, found - length);
        Some(base)
    }

    /// Frees a run at once that was taken and never published.
    pub(super) fn undo(&mut self, base: u32, length: u32) {
        let (mut base, mut length) = (base, length);
        if let Some((&before, &before_length)) = self.free.range(..base).next_back()
            && before + before_length == base
        {
            self.remove(before, before_length);
            (base, length) = (before, before_length + length);
        }
        if let Some(&after_length) = self.free.get(&(base + length)) {
            self.remove(base + length, after_length);
            length += after_length;
        }
        self.insert(base, length);
    }

    /// Gives a run back. It rests after [`Ranges::settle`].
    pub(super) fn release(&mut self, base: u32, length: u32) {
        self.released.push((base, length));
    }

    /// The maps hold the image: what was released begins to rest.
    pub(super) fn settle(&mut self, now: Instant, rest: Duration) {
        self.resting.extend(self.released.drain(..).map(|(base, length)| (now + rest, base, length)));
    }

    /// Frees what has rested.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(until, base, length)) = self.resting.front()
            && until <= now
        {
            self.resting.pop_front();
            self.undo(base, length);
        }
    }

    fn insert(&mut self, base: u32, length: u32) {
        if length > 0 {
            self.free.insert(base, length);
            self.by_length.insert((length, base));
        }
    }

    fn remove(&mut self, base: u32, length: u32) {
        self.free.remove(&base);
        self.by_length.remove(&(length, base));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_former_daemon_published_is_left_alone() {
        let used = BTreeSet::from([(2, 3), (4, 2), (9, 5)]);
        let ranges = Ranges::new(10, &used);
        assert_eq!(ranges.free, BTreeMap::from([(0, 2), (6, 3)]));
    }

    #[test]
    fn the_tightest_run_is_taken() {
        let mut ranges = Ranges::new(20, &BTreeSet::from([(4, 1), (7, 1)]));
        assert_eq!((ranges.take(2), ranges.take(3), ranges.take(13)), (Some(5), Some(0), None));
    }

    proptest! {
        /// Runs never overlap, and when all have come back there is one free run again.
        #[test]
        fn runs_never_overlap_and_join_again(steps in prop::collection::vec((1u32..9, any::<bool>()), 1..200)) {
            let mut now = Instant::now();
            let rest = Duration::from_secs(1);
            let mut ranges = Ranges::new(64, &BTreeSet::new());
            let mut live: Vec<(u32, u32)> = Vec::new();
            for (length, release) in steps {
                if release && !live.is_empty() {
                    let (base, length) = live.remove(length as usize % live.len());
                    ranges.release(base, length);
                    ranges.settle(now, rest);
                } else if let Some(base) = ranges.take(length) {
                    for &(other, other_length) in &live {
                        prop_assert!(base + length <= other || other + other_length <= base);
                    }
                    live.push((base, length));
                }
                now += rest / 2;
                ranges.expire(now);
            }
            for (base, length) in live {
                ranges.release(base, length);
            }
            ranges.settle(now, rest);
            ranges.expire(now + rest);
            prop_assert_eq!(ranges.free, BTreeMap::from([(0, 64)]));
        }
    }
}
