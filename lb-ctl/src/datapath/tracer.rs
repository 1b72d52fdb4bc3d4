//! An instance of the programs that traces packets: it tells what it decides, and changes nothing that live packets meet.
//!
//! It reads the pinned maps. What a packet writes as working memory, counts or remembers lies in maps of its own, which begin with
//! what the live ones hold.

use super::Error;
use super::bpf::{Map, PerCpuArray};
use super::instance::{Instance, SharedMaps};
use super::test_run::{self, HookPoint, Ran};
use crate::maps::MapError;
use crate::maps::pinned;
use aya::Pod;
use aya::maps::Array;
use lb_common::maps::{
    BACKENDS, BUDGETS, DEFAULT_MAX_FLOWS, MapSpec, PER_PACKET, SCRATCH4, SCRATCH6, SLOTS, TRACED, TRACED_FLOWS4,
    TRACED_FLOWS6,
};
use lb_common::trace::STEPS;
use lb_common::{Backend, BackendSet, Budget, Flow, FlowKey, Scratch, Slot, Step, Steps};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// Entries of its own counters: nobody reads them.
const COUNTERS: u32 = 1;

/// A place of a backend set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The backend's address.
    pub address: IpAddr,
    /// Its port, host order; zero: the Service's target port.
    pub port: u16,
}

type Entries<A> = Map<FlowKey<A>, Flow<A>>;

/// A live map of which each packet finds a copy, and where the copy is.
#[derive(Debug)]
struct Copied<V> {
    live: PerCpuArray<V>,
    own: PerCpuArray<V>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Tracer {
    instance: Instance,
    budgets: Copied<Budget>,
    scratch4: Copied<Scratch<[u8; 4]>>,
    scratch6: Copied<Scratch<[u8; 16]>>,
    touched4: Entries<[u8; 4]>,
    touched6: Entries<[u8; 16]>,
    slots: Map<u32, Slot>,
    backends: Map<u32, Backend>,
}

/// What a hook made of a frame, and why.
#[derive(Clone, Debug)]
pub struct Traced {
    /// What became of it.
    pub ran: Ran,
    /// What was told, in order.
    pub steps: Vec<Step>,
    /// How many steps were told before those.
    pub lost: usize,
}

impl Tracer {
    /// Makes the instance over these maps. The program of a hook is loaded when a packet meets it.
    pub fn load(object: &[u8], shared: &SharedMaps) -> Result<Self, Error> {
        let own = |spec: &MapSpec| match spec.entries_for(DEFAULT_MAX_FLOWS) {
            _ if is_traced(spec.name) => Some(TRACED),
            _ if !PER_PACKET.contains(&spec.name) => None,
            entries => Some(if entries > 256 { COUNTERS } else { entries }),
        };
        let instance = Instance::new(object, &[("TRACE", 1)], shared, own)?;
        Ok(Self {
            budgets: copied(&instance, &shared.config, BUDGETS)?,
            scratch4: copied(&instance, &shared.config, SCRATCH4)?,
            scratch6: copied(&instance, &shared.config, SCRATCH6)?,
            touched4: map(&instance, TRACED_FLOWS4)?,
            touched6: map(&instance, TRACED_FLOWS6)?,
            slots: pinned::open(&shared.config, SLOTS, Map::new)?,
            backends: pinned::open(&shared.config, BACKENDS, Map::new)?,
            instance,
        })
    }

    /// What tells the instructions of the program of a hook from those of another.
    pub fn tag(&mut self, point: HookPoint) -> Result<u64, Error> {
        self.instance.load(point.program())?;
        self.instance.tag(point.program()).map_err(|source| Error::Run { program: point.program(), source })
    }

    /// What may be picked of a set, place by place.
    pub fn members(&self, set: BackendSet) -> Result<Vec<Member>, Error> {
        let failed = |map, source| Error::from(MapError { map, action: "read".to_owned(), source });
        if set.count() == 0 {
            return Ok(Vec::new());
        }
        let slots = self.slots.range(set.base(), set.count()).map_err(|source| failed(SLOTS, source))?;
        let mut addresses = BTreeMap::new();
        for (_, slot) in &slots {
            if let Entry::Vacant(place) = addresses.entry(slot.backend) {
                let backend = self.backends.get(&slot.backend).map_err(|source| failed(BACKENDS, source))?;
                place.insert(backend.and_then(|backend| backend.ip()));
            }
        }
        let unknown = IpAddr::from([0; 4]);
        let member = |slot: &Slot| Member {
            address: addresses.get(&slot.backend).copied().flatten().unwrap_or(unknown),
            port: u16::from_be_bytes(slot.port),
        };
        Ok(slots.iter().map(|(_, slot)| member(slot)).collect())
    }

    /// Forgets what earlier packets would have changed: the next one finds what is there now.
    pub fn forget(&mut self) -> Result<(), Error> {
        self.budgets.copy(BUDGETS)?;
        self.scratch4.copy(SCRATCH4)?;
        self.scratch6.copy(SCRATCH6)?;
        empty(&self.touched4)?;
        empty(&self.touched6)
    }

    /// Runs the program of a hook on a frame, after those that this packet has met before.
    pub fn run(&mut self, point: HookPoint, ifindex: u32, frame: &[u8]) -> Result<Traced, Error> {
        self.instance.load(point.program())?;
        let failed = |source| MapError { map: "STEPS", action: "use".to_owned(), source };
        let map = self.instance.map_mut(STEPS).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let mut told: Array<_, Steps> = Array::try_from(map).map_err(|error| failed(io::Error::other(error)))?;
        told.set(0, Steps::NONE, 0).map_err(|error| failed(io::Error::other(error)))?;
        let program = self.instance.find(point.program()).expect("it was loaded a moment ago");
        let ran = test_run::run(program, point, ifindex, frame)
            .map_err(|source| Error::Run { program: point.program(), source })?;
        let map = self.instance.map(STEPS).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let told: Array<_, Steps> = Array::try_from(map).map_err(|error| failed(io::Error::other(error)))?;
        let told = told.get(&0, 0).map_err(|error| failed(io::Error::other(error)))?;
        let steps: Vec<Step> = told.told().collect();
        Ok(Traced { ran, lost: told.count as usize - steps.len(), steps })
    }
}

impl<V: Pod> Copied<V> {
    fn copy(&self, name: &'static str) -> Result<(), Error> {
        let copied = self.live.get(0).and_then(|copies| self.own.put(0, copies));
        copied.map_err(|source| MapError { map: name, action: "copy".to_owned(), source }.into())
    }
}

fn is_traced(name: &str) -> bool {
    [TRACED_FLOWS4, TRACED_FLOWS6].contains(&name)
}

fn copied<V: Pod>(instance: &Instance, config: &Path, name: &'static str) -> Result<Copied<V>, Error> {
    let failed = |source| MapError { map: name, action: "open".to_owned(), source };
    let own = instance.map_fd(name).and_then(PerCpuArray::new).map_err(failed)?;
    Ok(Copied { live: pinned::open(config, name, PerCpuArray::new)?, own })
}

fn map<K: Pod, V: Pod>(instance: &Instance, name: &'static str) -> Result<Map<K, V>, Error> {
    let opened = instance.map_fd(name).and_then(Map::new);
    opened.map_err(|source| MapError { map: name, action: "open".to_owned(), source }.into())
}

fn empty<A: Copy + 'static>(map: &Entries<A>) -> Result<(), Error>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    let emptied = map.keys().and_then(|keys| keys.iter().try_for_each(|key| map.delete(key).map(drop)));
    emptied.map_err(|source| MapError { map: "TRACED", action: "empty".to_owned(), source }.into())
}
