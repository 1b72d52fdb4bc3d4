//! Which backend each client had last: swept and counted.
//!
//! The datapath itself judges at every look whether an entry still counts; sweeping only gives the memory back.

use super::bpf::{Map, map::Put};
use super::conntrack::Fill;
use crate::maps::{MapError, pinned::open};
use lb_common::maps::{AFFINITY, SERVICES};
use lb_common::{Affinity, AffinityKey, Service, ServiceKey};
use std::collections::HashMap;
use std::io;
use std::path::Path;

/// The table of clients, and the Services that say how long they count.
#[derive(Clone, Debug)]
pub struct AffinityTable {
    clients: Map<AffinityKey, Affinity>,
    services: Map<ServiceKey, Service>,
}

/// Where a sweep stands. One call looks at a bounded number of entries; the next goes on from there.
#[derive(Clone, Debug, Default)]
pub struct AffinitySweep {
    position: Option<u32>,
    /// Entries seen in this round, and on the last.
    counted: (u64, Option<u64>),
    /// Timeouts in ticks by [`Service::affinity_id`], as they were read last.
    timeouts: HashMap<u32, u32>,
}

impl AffinitySweep {
    /// How many entries there were on the last round.
    pub fn entries(&self) -> Option<u64> {
        self.counted.1
    }

    /// Whether no Service keeps this client, or not for so long.
    fn is_over(&self, key: &AffinityKey, affinity: &Affinity, now: u32) -> bool {
        self.timeouts.get(&key.service).is_none_or(|ticks| affinity.is_expired(now, *ticks))
    }
}

impl AffinityTable {
    pub(crate) fn open(directory: &Path) -> Result<Self, MapError> {
        Ok(Self { clients: open(directory, AFFINITY, Map::new)?, services: open(directory, SERVICES, Map::new)? })
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.clients.entries()
    }

    /// Every client and its backend, those that do not count any more included.
    pub fn iter(&self) -> impl Iterator<Item = Result<(AffinityKey, Affinity), MapError>> {
        self.clients.iter().map(|entry| entry.map_err(failed(AFFINITY, "read")))
    }

    /// How full the table is. Counts entries by walking them.
    pub fn fill(&self) -> Result<Fill, MapError> {
        let mut entries = 0;
        for batch in self.clients.batches() {
            entries += batch.map_err(failed(AFFINITY, "read"))?.len() as u64;
        }
        Ok(Fill { map: AFFINITY, entries, capacity: self.capacity() })
    }

    /// Deletes what does not count any more at tick `now` among the next `limit` entries or so, and says how many that were.
    /// After the last entry it begins anew.
    pub fn sweep(&self, sweep: &mut AffinitySweep, now: u32, limit: usize) -> Result<usize, MapError> {
        if sweep.position.is_none() {
            sweep.timeouts = self.timeouts()?;
        }
        let (mut seen, mut over) = (0, Vec::new());
        let mut batches = self.clients.batches().resume(sweep.position);
        sweep.position = None;
        while let Some(batch) = batches.next() {
            let batch = batch.map_err(failed(AFFINITY, "read"))?;
            seen += batch.len();
            over.extend(batch.into_iter().filter(|(key, affinity)| sweep.is_over(key, affinity, now)));
            if seen >= limit {
                sweep.position = batches.position();
                break;
            }
        }
        sweep.counted.0 += seen as u64;
        if sweep.position.is_none() {
            sweep.counted = (0, Some(sweep.counted.0));
        }
        if over.is_empty() {
            return Ok(0);
        }
        // Again, now that the entries are read: the Service of each was there before it.
        sweep.timeouts = self.timeouts()?;
        let mut swept = 0;
        for (key, affinity) in over.into_iter().filter(|(key, affinity)| sweep.is_over(key, affinity, now)) {
            // The client may have come back since.
            let current = self.clients.get(&key).map_err(failed(AFFINITY, "read"))?;
            if current.is_some_and(|current| current.tick == affinity.tick) {
                swept += usize::from(self.clients.delete(&key).map_err(failed(AFFINITY, "sweep"))?);
            }
        }
        Ok(swept)
    }

    fn timeouts(&self) -> Result<HashMap<u32, u32>, MapError> {
        let mut timeouts = HashMap::new();
        for batch in self.services.batches() {
            let batch = batch.map_err(failed(SERVICES, "read"))?;
            let kept = batch.into_iter().filter(|(_, service)| service.affinity_ticks != 0);
            timeouts.extend(kept.map(|(_, service)| (service.affinity_id, service.affinity_ticks)));
        }
        Ok(timeouts)
    }

    /// Copies every entry into a table of another size. What finds no room is forgotten, as an LRU does.
    pub(crate) fn copy_to(&self, to: &Self) -> Result<(), MapError> {
        for entry in self.clients.iter() {
            let (key, affinity) = entry.map_err(failed(AFFINITY, "read"))?;
            match to.clients.put(&key, &affinity, Put::Any) {
                Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::E2BIG)) => {
                    return Err(failed(AFFINITY, "write")(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn failed(map: &'static str, action: &'static str) -> impl Fn(io::Error) -> MapError {
    move |source| MapError { map, action: action.to_owned(), source }
}
