//! How full the tables are that packets write: counted by whoever walks through them anyway.
//!
//! No table tells how many entries it has, and a walk through a large one takes a second. So the sweeper, which goes round
//! them a little at a time, counts as it goes: what is told is as old as its last round.

use super::bpf::Map;
use super::conntrack::{Fill, Lent};
use crate::maps::MapError;
use lb_common::maps::{FLOWS4, FLOWS6};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// The flow tables in the order of a sweep.
const TABLES: [&str; 2] = [FLOWS4, FLOWS6];

/// What is known of the tables that packets write.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Entries, by map.
    pub fill: BTreeMap<&'static str, Fill>,
    /// Entries of flows that do not keep their places, by map.
    pub evictable: BTreeMap<&'static str, u64>,
    /// Entries that were evicted before their time, by map: an estimate.
    pub evictions: BTreeMap<&'static str, f64>,
    /// For each lent address how many ports are lent towards the backend port and protocol to which most are.
    pub lent: BTreeMap<IpAddr, (SocketAddr, u8, u64)>,
}

/// What a sweep through the flow tables has counted so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    kept: u64,
    evictable: u64,
    lent: Lent,
    fill: BTreeMap<&'static str, Fill>,
    others: BTreeMap<&'static str, u64>,
    known: [BTreeMap<IpAddr, (SocketAddr, u8, u64)>; 2],
}

impl Round {
    /// An entry of the present table was seen. Gives back where lent ports are counted.
    pub(super) fn saw(&mut self, keeps_place: bool) -> &mut Lent {
        *(if keeps_place { &mut self.kept } else { &mut self.evictable }) += 1;
        &mut self.lent
    }

    /// This table, of [`TABLES`], has been seen to its end.
    pub(super) fn finished(&mut self, table: usize, capacity: u32) {
        let (map, entries) = (TABLES[table], std::mem::take(&mut self.kept));
        self.fill.insert(map, Fill { map, entries, capacity });
        self.others.insert(map, std::mem::take(&mut self.evictable));
        self.known[table] = std::mem::take(&mut self.lent).by_address();
    }

    /// Adds what is known to a census.
    pub(super) fn tell(&self, census: &mut Census) {
        census.fill.extend(self.fill.clone());
        census.evictable.extend(self.others.clone());
        census.lent = self.known.iter().flatten().map(|(address, most)| (*address, *most)).collect();
    }
}

/// Counts the entries of a table in which nothing is to be swept.
#[derive(Clone, Debug, Default)]
pub struct Count {
    position: Option<u32>,
    entries: u64,
    known: Option<u64>,
}

impl Count {
    /// Looks at the next `limit` entries or so, and says how many there were on the last round.
    pub(crate) fn step<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &'static str,
        map: &Map<K, V>,
        limit: usize,
    ) -> Result<Option<Fill>, MapError> {
        let mut batches = map.batches().resume(self.position);
        let end = self.entries + limit as u64;
        while self.entries < end
            && let Some(batch) = batches.next()
        {
            let failed = |source| MapError { map: name, action: "count".to_owned(), source };
            self.entries += batch.map_err(failed)?.len() as u64;
        }
        self.position = batches.position();
        if batches.is_done() {
            self.known = Some(std::mem::take(&mut self.entries));
        }
        Ok(self.told(name, map))
    }

    fn told<K: aya::Pod, V: aya::Pod>(&self, map: &'static str, of: &Map<K, V>) -> Option<Fill> {
        self.known.map(|entries| Fill { map, entries, capacity: of.entries() })
    }
}
