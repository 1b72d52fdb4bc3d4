//! Dense ids with a rest before reuse.
//!
//! Fresh ids are given out first, then those that were free the longest: whatever still refers to an old use of an id
//! (a flow's counter index carries no generation) is most likely gone by then. A released id rests from the moment its
//! release was applied to the maps.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// The ids `0..capacity` of one map.
#[derive(Clone, Debug)]
pub(super) struct Ids {
    capacity: u32,
    /// Ids from here on were never given out.
    fresh: u32,
    free: VecDeque<u32>,
    /// Released in the image, but not yet in the maps.
    released: Vec<u32>,
    resting: VecDeque<(Instant, u32)>,
}

impl Ids {
    /// Ids of which `used` are taken.
    pub(super) fn new(capacity: u32, used: &BTreeSet<u32>) -> Self {
        let fresh = used.last().map_or(0, |last| last + 1);
        let free = (0..fresh).filter(|id| !used.contains(id)).collect();
        Self { capacity, fresh, free, released: Vec::new(), resting: VecDeque::new() }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Ids below this were given out.
    pub(super) fn given(&self) -> u32 {
        self.fresh
    }

    /// How many can be taken now.
    pub(super) fn available(&self) -> usize {
        self.capacity.saturating_sub(self.fresh) as usize + self.free.len()
    }

    /// An id nobody uses.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.fresh < self.capacity {
            self.fresh += 1;
            return Some(self.fresh - 1);
        }
        self.free.pop_front()
    }

    /// Gives an id back. It rests after [`Ids::settle`].
    pub(super) fn release(&mut self, id: u32) {
        self.released.push(id);
    }

    /// The maps hold the image: what was released begins to rest.
    pub(super) fn settle(&mut self, now: Instant, rest: Duration) {
        self.resting.extend(self.released.drain(..).map(|id| (now + rest, id)));
    }

    /// Frees what has rested.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.resting.front().is_some_and(|(until, _)| *until <= now) {
            self.free.extend(self.resting.pop_front().map(|(_, id)| id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(30);

    #[test]
    fn an_id_is_used_again_only_after_its_release_was_applied_and_it_rested() {
        let mut now = Instant::now();
        let mut ids = Ids::new(2, &BTreeSet::new());
        assert_eq!((ids.take(), ids.take(), ids.take()), (Some(0), Some(1), None));
        ids.release(0);
        now += REST * 2;
        ids.expire(now);
        assert_eq!(ids.take(), None, "not applied");
        ids.settle(now, REST);
        ids.expire(now + REST / 2);
        assert_eq!(ids.take(), None, "resting");
        ids.expire(now + REST);
        assert_eq!((ids.available(), ids.take()), (1, Some(0)));
    }

    #[test]
    fn gaps_left_by_a_former_daemon_are_used_last() {
        let mut ids = Ids::new(5, &BTreeSet::from([1, 3]));
        let taken: Vec<_> = std::iter::from_fn(|| ids.take()).collect();
        assert_eq!(taken, [4, 0, 2]);
    }
}
