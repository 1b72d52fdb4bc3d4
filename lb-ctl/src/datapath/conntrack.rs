//! The flow tables: listed, swept and carried over.
//!
//! The datapath itself judges whether an entry has expired, at every look; sweeping only gives the memory back.

pub(crate) mod audit;

use super::bpf::{Map, map::Put};
use crate::image::Withdrawn;
use crate::maps::{MapError, pinned::open};
use lb_common::flow::{State, TICK_SHIFT, state};
use lb_common::maps::{FLOWS4, FLOWS6, NEW4, NEW6};
use lb_common::{Flow, FlowKey, NextHop, UDP};
use nix::time::{ClockId, clock_gettime};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The current tick, by the clock that the datapath reads.
pub fn now() -> u32 {
    // Never fails for this clock.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64);
    (now >> TICK_SHIFT) as u32
}

/// The flow tables of one family.
#[derive(Clone, Debug)]
pub(crate) struct FamilyTables<A> {
    confirmed: Map<FlowKey<A>, Flow<A>>,
    new: Map<FlowKey<A>, Flow<A>>,
    names: [&'static str; 2],
}

/// The four flow tables.
#[derive(Clone, Debug)]
pub struct FlowTables {
    v4: FamilyTables<[u8; 4]>,
    v6: FamilyTables<[u8; 16]>,
}

/// Which table of its family an entry is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Flows confirmed by both sides.
    Confirmed,
    /// Flows not yet confirmed.
    New,
}

/// One entry: one direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    /// The table it is in.
    pub table: Table,
    /// IP protocol number.
    pub protocol: u8,
    /// Source on the wire.
    pub source: SocketAddr,
    /// Destination on the wire.
    pub destination: SocketAddr,
    /// Source after the rewrite.
    pub rewritten_source: SocketAddr,
    /// Destination after the rewrite.
    pub rewritten_destination: SocketAddr,
    /// Tick of the last packet in either direction.
    pub tick: u32,
    /// [`Flow::REPLY`] and its neighbours.
    pub flags: u16,
    /// Id of the backend.
    pub backend: u32,
    /// Generation of the backend's id.
    pub generation: u16,
    /// Id of the service port.
    pub service: u32,
    /// The way out.
    pub hop: NextHop,
}

impl FlowEntry {
    fn new<A: Copy + Into<IpAddr>>(table: Table, key: &FlowKey<A>, flow: &Flow<A>) -> Self {
        let socket = |address: A, port: [u8; 2]| SocketAddr::new(address.into(), u16::from_be_bytes(port));
        Self {
            table,
            protocol: key.protocol,
            source: socket(key.src, key.src_port),
            destination: socket(key.dst, key.dst_port),
            rewritten_source: socket(flow.src, flow.src_port),
            rewritten_destination: socket(flow.dst, flow.dst_port),
            tick: flow.tick,
            flags: flow.flags,
            backend: flow.backend,
            generation: flow.generation,
            service: flow.service,
            hop: flow.hop,
        }
    }

    /// Whether it translates replies.
    pub const fn is_reply(&self) -> bool {
        self.flags & Flow::<[u8; 4]>::REPLY != 0
    }

    /// The state a person knows.
    pub const fn state(&self) -> State {
        state(self.flags, self.protocol)
    }

    /// Whether the datapath would treat it as absent at tick `now`.
    pub const fn is_expired(&self, now: u32) -> bool {
        now.saturating_sub(self.tick) > self.state().timeout_ticks()
    }
}

/// How full a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Name of the map.
    pub map: &'static str,
    /// Entries in it, expired ones included.
    pub entries: u64,
    /// Entries that fit.
    pub capacity: u32,
}

/// Source ports that are lent, by the backend port they are lent towards (the same port may be lent towards another).
#[derive(Clone, Debug, Default)]
pub struct Lent(HashMap<(SocketAddr, u8), u64>);

impl Lent {
    /// Counts an entry if it holds a lent port that nobody else may have at tick `now`.
    fn count<A: Copy + Into<IpAddr>>(&mut self, key: &FlowKey<A>, flow: &Flow<A>, now: u32) {
        if flow.is_reply() && flow.flags & Flow::<A>::SNAT != 0 && !flow.is_over(key.protocol, now) {
            let backend = SocketAddr::new(key.src.into(), u16::from_be_bytes(key.src_port));
            *self.0.entry((backend, key.protocol)).or_default() += 1;
        }
    }

    /// The backend port and protocol towards which most are lent, and how many.
    pub fn fullest(&self) -> Option<((SocketAddr, u8), u64)> {
        self.0.iter().map(|(backend, count)| (*backend, *count)).max_by_key(|(backend, count)| (*count, *backend))
    }
}

/// Where a sweep stands. One call looks at a bounded number of entries; the next goes on from there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    table: usize,
    position: Option<u32>,
}

/// What copying flows from one set of tables to another came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) copied: u64,
    pub(crate) lost: u64,
}

impl FlowTables {
    pub(crate) fn open(directory: &Path) -> Result<Self, MapError> {
        Ok(Self {
            v4: FamilyTables::open(directory, [FLOWS4, NEW4])?,
            v6: FamilyTables::open(directory, [FLOWS6, NEW6])?,
        })
    }

    pub(crate) fn capacity(&self, map: &str) -> Option<u32> {
        self.v4.capacity(map).or_else(|| self.v6.capacity(map))
    }

    /// Every entry, one direction each. The tables go on changing meanwhile: a flow may be missing or appear twice when
    /// it is confirmed at this moment.
    pub fn iter(&self) -> impl Iterator<Item = Result<FlowEntry, MapError>> {
        self.v4.iter().chain(self.v6.iter())
    }

    /// The addresses for which the gate must be open as long as these flows live.
    pub(crate) fn admitted(&self) -> Result<BTreeSet<IpAddr>, MapError> {
        let of = |entry: FlowEntry| if entry.is_reply() { entry.source.ip() } else { entry.destination.ip() };
        self.iter().map(|entry| entry.map(of)).collect()
    }

    /// How full the tables are, and which ports are lent at tick `now`. Counts entries by walking them.
    pub fn fill(&self, now: u32) -> Result<(Vec<Fill>, Lent), MapError> {
        let mut lent = Lent::default();
        let mut fill = self.v4.fill(&mut lent, now)?;
        fill.extend(self.v6.fill(&mut lent, now)?);
        Ok((fill, lent))
    }

    /// Deletes what has expired at tick `now` among the next `limit` entries or so, and says how many that were. After
    /// the last table it begins anew.
    pub fn sweep_expired(&self, sweep: &mut Sweep, now: u32, limit: usize) -> Result<usize, MapError> {
        let (mut seen, mut swept) = (0, 0);
        for _ in 0..4 {
            let step = match sweep.table {
                0 | 1 => self.v4.sweep(sweep.table, &mut sweep.position, now, limit - seen)?,
                _ => self.v6.sweep(sweep.table - 2, &mut sweep.position, now, limit - seen)?,
            };
            seen += step.seen;
            swept += step.swept;
            if seen >= limit {
                break;
            }
            *sweep = Sweep { table: (sweep.table + 1) % 4, position: None };
        }
        Ok(swept)
    }

    /// Deletes the flows, both entries of each, of UDP clients of a service port to a backend (and its port) that was
    /// withdrawn from it, and says how many entries that were.
    pub fn forget(&self, withdrawn: &HashSet<Withdrawn>) -> Result<usize, MapError> {
        Ok(self.v4.forget(withdrawn)? + self.v6.forget(withdrawn)?)
    }

    /// Copies what was used at tick `since` or later and is not newer in `to` already.
    pub(crate) fn copy_to(&self, to: &Self, since: u32) -> Result<Carried, MapError> {
        let (v4, v6) = (self.v4.copy_to(&to.v4, since)?, self.v6.copy_to(&to.v6, since)?);
        Ok(Carried { copied: v4.copied + v6.copied, lost: v4.lost + v6.lost })
    }
}

/// A table with its name.
type Named<'a, A> = (Table, &'static str, &'a Map<FlowKey<A>, Flow<A>>);

struct Step {
    seen: usize,
    swept: usize,
}

impl<A> FamilyTables<A>
where
    A: Copy + Debug + Into<IpAddr> + 'static,
    FlowKey<A>: aya::Pod,
    Flow<A>: aya::Pod,
{
    fn open(directory: &Path, names: [&'static str; 2]) -> Result<Self, MapError> {
        Ok(Self { confirmed: open(directory, names[0], Map::new)?, new: open(directory, names[1], Map::new)?, names })
    }

    fn tables(&self) -> [Named<'_, A>; 2] {
        [(Table::Confirmed, self.names[0], &self.confirmed), (Table::New, self.names[1], &self.new)]
    }

    fn capacity(&self, map: &str) -> Option<u32> {
        self.tables().into_iter().find(|(_, name, _)| *name == map).map(|(_, _, table)| table.entries())
    }

    fn iter(&self) -> impl Iterator<Item = Result<FlowEntry, MapError>> {
        self.tables().into_iter().flat_map(|(table, name, map)| {
            map.iter().map(move |entry| match entry {
                Ok((key, flow)) => Ok(FlowEntry::new(table, &key, &flow)),
                Err(source) => Err(failed(name, "read")(source)),
            })
        })
    }

    fn fill(&self, lent: &mut Lent, now: u32) -> Result<Vec<Fill>, MapError> {
        let count = |(_, name, map): Named<'_, A>| {
            let mut entries = 0;
            for batch in map.batches() {
                let batch = batch.map_err(failed(name, "read"))?;
                entries += batch.len() as u64;
                for (key, flow) in &batch {
                    lent.count(key, flow, now);
                }
            }
            Ok(Fill { map: name, entries, capacity: map.entries() })
        };
        self.tables().into_iter().map(count).collect()
    }

    fn sweep(&self, table: usize, position: &mut Option<u32>, now: u32, limit: usize) -> Result<Step, MapError> {
        let (_, name, map) = self.tables()[table];
        let mut step = Step { seen: 0, swept: 0 };
        let mut batches = map.batches().resume(*position);
        while step.seen < limit {
            let Some(batch) = batches.next() else { return Ok(step) };
            let batch = batch.map_err(failed(name, "read"))?;
            step.seen += batch.len();
            for (key, flow) in batch.into_iter().filter(|(key, flow)| flow.is_expired(key.protocol, now)) {
                // The datapath may have given the tuple to a new flow since it was read: look again.
                let current = map.get(&key).map_err(failed(name, "read"))?;
                if current.is_some_and(|current| current.tick == flow.tick) {
                    step.swept += usize::from(map.delete(&key).map_err(failed(name, "sweep"))?);
                }
            }
        }
        *position = batches.position();
        Ok(step)
    }

    fn forget(&self, withdrawn: &HashSet<Withdrawn>) -> Result<usize, MapError> {
        let mut forgotten = 0;
        // The new flows first, as it is from there that they move.
        for (_, name, map) in self.tables().into_iter().rev() {
            for batch in map.batches() {
                for (key, flow) in batch.map_err(failed(name, "read"))? {
                    let port = if flow.is_reply() { key.src_port } else { flow.dst_port };
                    let port = u16::from_be_bytes(port);
                    let endpoint = Withdrawn { service: flow.service, backend: flow.backend, port };
                    if key.protocol == UDP && withdrawn.contains(&endpoint) {
                        forgotten += usize::from(map.delete(&key).map_err(failed(name, "sweep"))?);
                    }
                }
            }
        }
        Ok(forgotten)
    }

    fn copy_to(&self, to: &Self, since: u32) -> Result<Carried, MapError> {
        let mut carried = Carried::default();
        for ((table, name, from), (_, _, into)) in self.tables().into_iter().zip(to.tables()) {
            for entry in from.iter() {
                let (key, flow) = entry.map_err(failed(name, "read"))?;
                // A flow that was confirmed after the switch stands in the other table.
                let moved = table == Table::New && to.confirmed.get(&key).map_err(failed(name, "read"))?.is_some();
                if flow.tick < since || moved {
                    continue;
                }
                match into.put(&key, &flow, Put::New) {
                    Ok(()) => carried.copied += 1,
                    Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                        let current = into.get(&key).map_err(failed(name, "read"))?;
                        if current.is_none_or(|current| current.tick < flow.tick) {
                            into.put(&key, &flow, Put::Any).map_err(failed(name, "write"))?;
                        }
                    }
                    Err(error) if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOMEM)) => carried.lost += 1,
                    Err(error) => return Err(failed(name, "write")(error)),
                }
            }
        }
        Ok(carried)
    }
}

fn failed(map: &'static str, action: &'static str) -> impl Fn(io::Error) -> MapError {
    move |source| MapError { map, action: action.to_owned(), source }
}
