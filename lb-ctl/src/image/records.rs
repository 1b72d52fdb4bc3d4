//! Service records: one for each frontend, with a counter id that it keeps while it exists.

use super::GRACE;
use super::ids::Ids;
use crate::maps::LbMaps;
use crate::objects::Key;
use lb_common::{Service, ServiceKey, maps};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Every service record in the image.
#[derive(Clone, Debug)]
pub(super) struct Records {
    entries: BTreeMap<ServiceKey, Record>,
    ids: Ids,
    /// Given up in the image, but perhaps not yet in the maps: they still take room.
    leaving: BTreeSet<ServiceKey>,
    unused: BTreeSet<ServiceKey>,
    capacity: u32,
}

#[derive(Clone, Debug)]
struct Record {
    id: u32,
    /// The Service whose frontend it is. `None`: nobody's any more, or of a former daemon and not claimed yet.
    owner: Option<Key>,
}

impl Records {
    /// Takes over the counter ids of a former daemon; of two records with one id the first.
    pub(super) fn restore(maps: &dyn LbMaps, services: &BTreeMap<ServiceKey, Service>) -> Self {
        let capacity = maps.capacity(maps::SERVICE_STATS);
        let used: BTreeSet<u32> = services.values().map(|service| service.id).filter(|id| *id < capacity).collect();
        let mut ids = Ids::new(capacity, &used);
        let mut unclaimed = used;
        let mut entries = BTreeMap::new();
        for (key, service) in services {
            if unclaimed.remove(&service.id) {
                entries.insert(*key, Record { id: service.id, owner: None });
            }
        }
        for id in unclaimed {
            ids.release(id);
        }
        Self {
            unused: entries.keys().copied().collect(),
            leaving: services.keys().filter(|key| !entries.contains_key(key)).copied().collect(),
            entries,
            ids,
            capacity: maps.capacity(maps::SERVICES),
        }
    }

    /// The counter id of a record.
    pub(super) fn get(&self, key: ServiceKey) -> Option<u32> {
        self.entries.get(&key).map(|record| record.id)
    }

    /// Counter ids below this were given out, in this daemon's life or as the maps have it.
    pub(super) fn given(&self) -> u32 {
        self.ids.given()
    }

    /// The Service that has the record.
    pub(super) fn owner(&self, key: ServiceKey) -> Option<&Key> {
        self.entries.get(&key).and_then(|record| record.owner.as_ref())
    }

    /// Whether the record is another Service's.
    pub(super) fn is_of_another(&self, key: ServiceKey, service: &Key) -> bool {
        self.owner(key).is_some_and(|owner| owner != service)
    }

    /// The map in which this many new records do not fit, with its capacity.
    pub(super) fn is_full_for(&self, new: usize) -> Option<(&'static str, u32)> {
        if self.entries.len() + self.leaving.len() + new > self.capacity as usize {
            Some((maps::SERVICES, self.capacity))
        } else if new > self.ids.available() {
            Some((maps::SERVICE_STATS, self.ids.capacity()))
        } else {
            None
        }
    }

    /// The record becomes `owner`'s; gives its counter id, or `None` if it is new and no id is free.
    pub(super) fn acquire(&mut self, key: ServiceKey, owner: &Key) -> Option<u32> {
        if !self.entries.contains_key(&key) {
            let id = self.ids.take()?;
            self.leaving.remove(&key);
            self.entries.insert(key, Record { id, owner: None });
        }
        let record = self.entries.get_mut(&key)?;
        record.owner = Some(owner.clone());
        Some(record.id)
    }

    /// `owner` has no use for the record any more. It stays another's if that has taken it over.
    pub(super) fn release(&mut self, key: ServiceKey, owner: &Key) {
        if let Some(record) = self.entries.get_mut(&key)
            && record.owner.as_ref() == Some(owner)
        {
            record.owner = None;
            self.unused.insert(key);
        }
    }

    /// Forgets the records that are nobody's, and gives their keys.
    pub(super) fn retire(&mut self) -> Vec<ServiceKey> {
        let mut retired = Vec::new();
        for key in std::mem::take(&mut self.unused) {
            if self.entries.get(&key).is_some_and(|record| record.owner.is_none())
                && let Some(record) = self.entries.remove(&key)
            {
                self.ids.release(record.id);
                self.leaving.insert(key);
                retired.push(key);
            }
        }
        retired
    }

    pub(super) fn settle(&mut self, now: Instant) {
        self.leaving.clear();
        self.ids.settle(now, GRACE);
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.ids.expire(now);
    }
}
