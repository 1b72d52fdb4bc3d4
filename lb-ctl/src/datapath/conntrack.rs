//! The flow tables: listed, swept and carried over.
//!
//! The datapath itself judges whether an entry has expired, at every look; sweeping only gives the memory back.

pub(crate) mod audit;

use super::bpf::map::Put;
use super::census::{Census, Round};
use super::flow_table::FlowTable;
use crate::image::Withdrawn;
use crate::maps::MapError;
use lb_common::flow::{State, TICK_SHIFT, state};
use lb_common::gate::End;
use lb_common::maps::{FLOWS4, FLOWS6};
use lb_common::table::Key;
use lb_common::{Flow, FlowKey, NextHop, UDP};
use nix::time::{ClockId, clock_gettime};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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

/// The flow table of one family.
#[derive(Clone, Debug)]
pub(crate) struct FamilyTable<A> {
    map: FlowTable<A>,
    name: &'static str,
}

/// The flow tables of both families.
#[derive(Clone, Debug)]
pub struct FlowTables {
    v4: FamilyTable<[u8; 4]>,
    v6: FamilyTable<[u8; 16]>,
}

/// One entry: one direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry {
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
    fn new<A: Copy + Into<IpAddr>>(key: &FlowKey<A>, flow: &Flow<A>) -> Self {
        let socket = |address: A, port: [u8; 2]| SocketAddr::new(address.into(), u16::from_be_bytes(port));
        Self {
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

    /// The end by which the gate must let its packets pass.
    pub(crate) const fn admitted(&self) -> End {
        if self.is_reply() { End::Source(self.source.ip()) } else { End::Destination(self.destination.ip()) }
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
    /// Entries in it, expired ones included; of flows, those that keep their places.
    pub entries: u64,
    /// Entries that are sure to fit.
    pub capacity: u32,
}

/// Source ports that are lent, by address and by the backend port they are lent towards (the same port may be lent towards
/// another).
#[derive(Clone, Debug, Default)]
pub struct Lent(HashMap<(IpAddr, SocketAddr, u8), u64>);

impl Lent {
    /// Counts an entry if it holds a lent port that nobody else may have at tick `now`.
    fn count<A: Copy + Into<IpAddr>>(&mut self, key: &FlowKey<A>, flow: &Flow<A>, now: u32) {
        if flow.is_reply() && flow.flags & Flow::<A>::SNAT != 0 && !flow.is_over(key.protocol, now) {
            let backend = SocketAddr::new(key.src.into(), u16::from_be_bytes(key.src_port));
            *self.0.entry((key.dst.into(), backend, key.protocol)).or_default() += 1;
        }
    }

    /// The backend port and protocol towards which most are lent, of all addresses together, and how many.
    pub fn fullest(&self) -> Option<((SocketAddr, u8), u64)> {
        let mut sums: HashMap<(SocketAddr, u8), u64> = HashMap::new();
        for ((_, backend, protocol), count) in &self.0 {
            *sums.entry((*backend, *protocol)).or_default() += count;
        }
        sums.into_iter().max_by_key(|(backend, count)| (*count, *backend))
    }

    /// For each address, the backend port and protocol towards which most of its ports are lent, and how many.
    pub(super) fn by_address(&self) -> BTreeMap<IpAddr, (SocketAddr, u8, u64)> {
        let mut most = BTreeMap::new();
        for ((address, backend, protocol), count) in &self.0 {
            let known = most.entry(*address).or_insert((*backend, *protocol, *count));
            if (known.2, known.0, known.1) < (*count, *backend, *protocol) {
                *known = (*backend, *protocol, *count);
            }
        }
        most
    }
}

/// Where a sweep stands, and what it has counted. One call looks at a bounded number of entries; the next goes on from there.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    table: usize,
    position: Option<u32>,
    round: Round,
}

impl Sweep {
    /// Tells what was counted in the last round.
    pub fn tell(&self, census: &mut Census) {
        self.round.tell(census);
    }
}

/// Entries of flows that do not keep their places, which were there a moment ago and should be still.
#[derive(Clone, Debug)]
pub(crate) struct Sample<A> {
    keys: Vec<FlowKey<A>>,
    position: Option<u32>,
}

impl<A> Default for Sample<A> {
    fn default() -> Self {
        Self { keys: Vec::new(), position: None }
    }
}

/// Samples of both families.
#[derive(Clone, Debug, Default)]
pub struct Samples(Sample<[u8; 4]>, Sample<[u8; 16]>);

impl Samples {
    /// Whether there was nothing to take a sample of.
    pub fn is_empty(&self) -> bool {
        self.0.keys.is_empty() && self.1.keys.is_empty()
    }
}

/// Of so many entries that should be there, so many are not.
struct Missed {
    looked: usize,
    gone: usize,
}

impl Sweep {
    /// Whether it has just been round all tables, or not begun.
    pub const fn is_at_the_start(&self) -> bool {
        self.table == 0 && self.position.is_none()
    }
}

/// What copying flows from one set of tables to another came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) copied: u64,
    pub(crate) lost: u64,
}

impl FlowTables {
    pub(crate) fn open(directory: &Path) -> Result<Self, MapError> {
        Ok(Self { v4: FamilyTable::open(directory, FLOWS4)?, v6: FamilyTable::open(directory, FLOWS6)? })
    }

    pub(crate) fn capacity(&self, map: &str) -> Option<u32> {
        match map {
            FLOWS4 => Some(self.v4.map.capacity()),
            FLOWS6 => Some(self.v6.map.capacity()),
            _ => None,
        }
    }

    /// Every entry, one direction each. The tables go on changing meanwhile: of flows that come and go some may be missing.
    pub fn iter(&self) -> impl Iterator<Item = Result<FlowEntry, MapError>> {
        self.v4.iter().chain(self.v6.iter())
    }

    /// The ends of packets for which the gate must be open as long as these flows live.
    pub(crate) fn admitted(&self) -> Result<BTreeSet<End>, MapError> {
        self.iter().map(|entry| entry.map(|entry| entry.admitted())).collect()
    }

    /// How full the tables are, and which ports are lent at tick `now`. Counts entries by walking them.
    pub fn fill(&self, now: u32) -> Result<(Vec<Fill>, Lent), MapError> {
        let mut lent = Lent::default();
        let fill = vec![self.v4.fill(&mut lent, now)?, self.v6.fill(&mut lent, now)?];
        Ok((fill, lent))
    }

    /// Deletes what has expired at tick `now` among the next `limit` entries or so, shows it to `gone`, and says how many that
    /// were. After the last table it begins anew.
    pub fn sweep_expired(
        &self,
        sweep: &mut Sweep,
        now: u32,
        limit: usize,
        gone: &mut dyn FnMut(&FlowEntry),
    ) -> Result<usize, MapError> {
        let (mut seen, mut swept) = (0, 0);
        for _ in 0..2 {
            let step = match sweep.table {
                0 => self.v4.sweep(sweep, now, limit - seen, gone)?,
                _ => self.v6.sweep(sweep, now, limit - seen, gone)?,
            };
            seen += step.seen;
            swept += step.swept;
            if !step.is_end {
                break;
            }
            sweep.round.finished(sweep.table, step.capacity);
            (sweep.table, sweep.position) = ((sweep.table + 1) % 2, None);
            if seen >= limit {
                break;
            }
        }
        Ok(swept)
    }

    /// Counts entries that were evicted: of what was sampled at the last call it should have kept everything, as nothing
    /// of it has expired by `now`. What is missing stands for as much of the table.
    pub fn count_evictions(&self, samples: &mut Samples, census: &mut Census, now: u32) -> Result<(), MapError> {
        let missed =
            [(FLOWS4, self.v4.resample(&mut samples.0, now)?), (FLOWS6, self.v6.resample(&mut samples.1, now)?)];
        for (map, Missed { looked, gone }) in missed {
            let entries = census.evictable.get(map).copied().unwrap_or(0).max(looked as u64);
            let share = if looked == 0 { 0.0 } else { gone as f64 / looked as f64 };
            *census.evictions.entry(map).or_default() += share * entries as f64;
        }
        Ok(())
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

struct Step {
    seen: usize,
    swept: usize,
    capacity: u32,
    /// The table has been seen to its end.
    is_end: bool,
}

/// Entries of a table that are sampled at a time.
const SAMPLE: usize = 256;
/// So many times as many entries are looked at for them.
const SAMPLE_BATCHES: usize = 8;
/// How long an entry must have before it expires to be sampled, in ticks: the sample is looked at again after one or two.
const SAMPLE_REST: u32 = 5;

impl<A> FamilyTable<A>
where
    A: Copy + Debug + Into<IpAddr> + 'static,
    FlowKey<A>: aya::Pod + Key,
    Flow<A>: aya::Pod,
{
    fn open(directory: &Path, name: &'static str) -> Result<Self, MapError> {
        Ok(Self { map: FlowTable::open(directory, name).map_err(failed(name, "open"))?, name })
    }

    fn iter(&self) -> impl Iterator<Item = Result<FlowEntry, MapError>> {
        self.map.iter().map(|entry| match entry {
            Ok((key, flow)) => Ok(FlowEntry::new(&key, &flow)),
            Err(source) => Err(failed(self.name, "read")(source)),
        })
    }

    fn fill(&self, lent: &mut Lent, now: u32) -> Result<Fill, MapError> {
        let mut entries = 0;
        for batch in self.map.batches() {
            for (key, flow) in &batch.map_err(failed(self.name, "read"))? {
                entries += u64::from(Flow::<A>::keeps_place(flow.flags));
                lent.count(key, flow, now);
            }
        }
        Ok(Fill { map: self.name, entries, capacity: self.map.capacity() })
    }

    fn sweep(
        &self,
        sweep: &mut Sweep,
        now: u32,
        limit: usize,
        gone: &mut dyn FnMut(&FlowEntry),
    ) -> Result<Step, MapError> {
        let Self { map, name } = self;
        let mut step = Step { seen: 0, swept: 0, capacity: map.capacity(), is_end: false };
        let mut batches = map.batches().resume(sweep.position);
        while step.seen < limit {
            let Some(batch) = batches.next() else { break };
            let batch = batch.map_err(failed(name, "read"))?;
            step.seen += batch.len();
            for (key, flow) in &batch {
                sweep.round.saw(Flow::<A>::keeps_place(flow.flags)).count(key, flow, now);
            }
            for (key, flow) in batch.into_iter().filter(|(key, flow)| flow.is_expired(key.protocol, now)) {
                // The datapath may have given the tuple to a new flow since it was read: look again.
                let current = map.get(&key).map_err(failed(name, "read"))?;
                if current.is_some_and(|current| current.tick == flow.tick)
                    && map.delete(&key).map_err(failed(name, "sweep"))?
                {
                    step.swept += 1;
                    gone(&FlowEntry::new(&key, &flow));
                }
            }
        }
        (sweep.position, step.is_end) = (batches.position(), batches.is_done());
        Ok(step)
    }

    /// Looks for the entries of a sample, and takes another one.
    fn resample(&self, sample: &mut Sample<A>, now: u32) -> Result<Missed, MapError> {
        let mut missed = Missed { looked: sample.keys.len(), gone: 0 };
        for key in sample.keys.drain(..) {
            missed.gone += usize::from(self.map.get(&key).map_err(failed(self.name, "read"))?.is_none());
        }
        let mut batches = self.map.batches().of_size(SAMPLE).resume(sample.position);
        let stays = |(key, flow): &(FlowKey<A>, Flow<A>)| {
            !Flow::<A>::keeps_place(flow.flags) && !flow.is_expired(key.protocol, now + SAMPLE_REST)
        };
        // Among many that keep their places there may be few that do not.
        for _ in 0..SAMPLE_BATCHES {
            let Some(batch) = batches.next() else { break };
            let batch = batch.map_err(failed(self.name, "read"))?;
            sample.keys.extend(batch.into_iter().filter(stays).map(|(key, _)| key));
            if sample.keys.len() >= SAMPLE {
                break;
            }
        }
        sample.keys.truncate(SAMPLE);
        sample.position = batches.position();
        Ok(missed)
    }

    fn forget(&self, withdrawn: &HashSet<Withdrawn>) -> Result<usize, MapError> {
        let mut forgotten = 0;
        for batch in self.map.batches() {
            for (key, flow) in batch.map_err(failed(self.name, "read"))? {
                let port = if flow.is_reply() { key.src_port } else { flow.dst_port };
                let port = u16::from_be_bytes(port);
                let endpoint = Withdrawn { service: flow.service, backend: flow.backend, port };
                if key.protocol == UDP && withdrawn.contains(&endpoint) {
                    forgotten += usize::from(self.map.delete(&key).map_err(failed(self.name, "sweep"))?);
                }
            }
        }
        Ok(forgotten)
    }

    fn copy_to(&self, to: &Self, since: u32) -> Result<Carried, MapError> {
        let (mut carried, into) = (Carried::default(), &to.map);
        for entry in self.map.iter() {
            let (key, flow) = entry.map_err(failed(self.name, "read"))?;
            if flow.tick < since {
                continue;
            }
            match into.put(&key, &flow, Put::New) {
                Ok(()) => carried.copied += 1,
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    let current = into.get(&key).map_err(failed(self.name, "read"))?;
                    if current.is_none_or(|current| current.tick < flow.tick) {
                        into.put(&key, &flow, Put::Any).map_err(failed(self.name, "write"))?;
                    }
                }
                Err(error) if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOMEM)) => carried.lost += 1,
                Err(error) => return Err(failed(self.name, "write")(error)),
            }
        }
        Ok(carried)
    }
}

fn failed(map: &'static str, action: &'static str) -> impl Fn(io::Error) -> MapError {
    move |source| MapError { map, action: action.to_owned(), source }
}
