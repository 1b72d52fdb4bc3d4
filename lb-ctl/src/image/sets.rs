//! Published backend sets: sets with the same content share one run of slots, and a set never changes.

use super::ranges::Ranges;
use super::{GRACE, SHORT_GRACE};
use lb_common::{BackendSet, Slot};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// The content of a set.
pub(super) type Slots = Arc<[Slot]>;

/// Every set in the image, by its content.
#[derive(Clone, Debug)]
pub(super) struct Sets {
    by_content: HashMap<Slots, Published>,
    ranges: Ranges,
    /// Generation of the latest set.
    generation: u16,
}

#[derive(Clone, Copy, Debug)]
struct Published {
    set: BackendSet,
    /// How many service records publish it.
    uses: u32,
}

impl Sets {
    /// Sets of a former daemon, and the runs that its service records publish, those of no use to us included.
    pub(super) fn new(capacity: u32, adopted: HashMap<Slots, BackendSet>, published: &BTreeSet<(u32, u32)>) -> Self {
        let generation = adopted.values().map(|set| set.generation()).max().unwrap_or(0);
        let by_content = adopted.into_iter().map(|(slots, set)| (slots, Published { set, uses: 0 })).collect();
        let mut sets = Self { by_content, ranges: Ranges::new(capacity, published), generation };
        let owned: BTreeSet<(u32, u32)> = sets.by_content.values().map(|known| run(known.set)).collect();
        // What nobody adopted becomes free once it is published no more.
        let mut next = 0;
        for &(base, length) in published {
            let end = base.saturating_add(length).min(capacity);
            if !owned.contains(&(base, length)) {
                let free = |slot: &u32| !owned.iter().any(|(base, length)| (*base..base + length).contains(slot));
                for slot in (base.max(next)..end).filter(free) {
                    sets.ranges.release(slot, 1);
                }
            }
            next = next.max(end);
        }
        sets
    }

    pub(super) fn capacity(&self) -> u32 {
        self.ranges.capacity()
    }

    pub(super) fn contains(&self, slots: &[Slot]) -> bool {
        slots.is_empty() || self.by_content.contains_key(slots)
    }

    /// Sets aside a run of slots, to be given to [`Sets::publish`] or [`Sets::undo`]. Where none is free, slots that have
    /// rested for a short while have to do.
    pub(super) fn reserve(&mut self, length: u32, now: Instant) -> Option<u32> {
        self.ranges.take(length).or_else(|| {
            self.ranges.expire(now + GRACE.saturating_sub(SHORT_GRACE));
            self.ranges.take(length)
        })
    }

    /// Gives up a run that was set aside.
    pub(super) fn undo(&mut self, base: u32, length: u32) {
        self.ranges.undo(base, length);
    }

    /// A new set in the run that was set aside for it.
    pub(super) fn publish(&mut self, slots: Slots, base: u32) -> BackendSet {
        self.generation = next_generation(self.generation);
        let set = BackendSet::new(base, slots.len() as u32, self.generation);
        self.by_content.insert(slots, Published { set, uses: 0 });
        set
    }

    /// One more record publishes this known set.
    pub(super) fn acquire(&mut self, slots: &[Slot]) -> BackendSet {
        self.by_content.get_mut(slots).map_or(BackendSet::EMPTY, |published| {
            published.uses += 1;
            published.set
        })
    }

    /// One record fewer publishes it.
    pub(super) fn release(&mut self, slots: &[Slot]) {
        if let Some(published) = self.by_content.get_mut(slots) {
            published.uses = published.uses.saturating_sub(1);
        }
    }

    /// Forgets a set that nothing publishes, and gives its run.
    pub(super) fn retire(&mut self, slots: &[Slot]) -> Option<BackendSet> {
        if self.by_content.get(slots)?.uses > 0 {
            return None;
        }
        let set = self.by_content.remove(slots)?.set;
        self.ranges.release(set.base(), set.count());
        Some(set)
    }

    pub(super) fn settle(&mut self, now: Instant) {
        self.ranges.settle(now, GRACE);
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.ranges.expire(now);
    }
}

/// First slot and length.
pub(super) fn run(set: BackendSet) -> (u32, u32) {
    (set.base(), set.count())
}

/// The generation after this one; zero is left out.
pub(super) fn next_generation(generation: u16) -> u16 {
    generation.checked_add(1).unwrap_or(1)
}
