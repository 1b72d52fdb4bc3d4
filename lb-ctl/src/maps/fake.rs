//! The maps in memory, with the kernel's limits: for tests, and wherever no kernel is to be touched.

use super::{Image, LbMaps, MapError, MapOp};
use ipnet::IpNet;
use lb_common::{ReasonCount, Slot, Traffic, maps};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

/// Maps in memory.
#[derive(Clone, Debug)]
pub struct FakeMaps {
    max_flows: u32,
    image: Image,
    /// Every slot ever written, published or not, as the array keeps them.
    slots: BTreeMap<u32, Slot>,
    /// Counters by reason number, for a test to fill.
    pub reasons: Vec<ReasonCount>,
    /// Counters by service port id, for a test to fill.
    pub service_stats: BTreeMap<u32, Traffic>,
    /// Counters by backend id, for a test to fill.
    pub backend_stats: BTreeMap<u32, Traffic>,
    /// Every write performed, in order.
    pub log: Vec<MapOp>,
}

impl Default for FakeMaps {
    fn default() -> Self {
        Self::new(maps::DEFAULT_MAX_FLOWS)
    }
}

impl FakeMaps {
    /// Empty maps of the sizes that fit this many flows.
    pub fn new(max_flows: u32) -> Self {
        Self {
            max_flows,
            image: Image::default(),
            slots: BTreeMap::new(),
            reasons: vec![ReasonCount::default(); usize::from(u8::MAX) + 1],
            service_stats: BTreeMap::new(),
            backend_stats: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    /// Maps of these sizes that hold `image`.
    pub fn holding(image: Image, max_flows: u32) -> Self {
        Self { slots: image.slots.clone(), image, ..Self::new(max_flows) }
    }

    /// What the maps hold.
    pub fn image(&self) -> Image {
        let mut image = Image { slots: self.slots.clone(), ..self.image.clone() };
        image.forget_unpublished();
        image
    }

    /// The kernel refuses a new key of a full hash, and an index past an array's end.
    fn check(&self, op: &MapOp) -> io::Result<()> {
        let full =
            |map, held: bool, len: usize| if !held && len >= self.capacity(map) as usize { Some(map) } else { None };
        let image = &self.image;
        let beyond = match op {
            MapOp::PutOwned(address, _) => {
                let is_v4 = |other: &&IpAddr| other.is_ipv4() == address.is_ipv4();
                // Counting is for the rare case that they might be too many.
                let all = image.owned.len();
                let len =
                    if all < self.capacity(op.map()) as usize { all } else { image.owned.keys().filter(is_v4).count() };
                full(op.map(), image.owned.contains_key(address), len)
            }
            MapOp::PutService(key, _) => full(maps::SERVICES, image.services.contains_key(key), image.services.len()),
            MapOp::PutNetwork(group, network) => {
                let held = image.networks.get(group).is_some_and(|all| all.contains(network));
                let is_v4 = |other: &&IpNet| other.addr().is_ipv4() == network.addr().is_ipv4();
                full(op.map(), held, image.networks.values().flatten().filter(is_v4).count())
            }
            MapOp::PutNodePort(key, _) => {
                full(maps::NODE_PORTS, image.node_ports.contains_key(key), image.node_ports.len())
            }
            MapOp::PutDevice(index, _) => full(maps::DEVICES, image.devices.contains_key(index), image.devices.len()),
            MapOp::PutSlot(index, _) => full(maps::SLOTS, false, *index as usize),
            MapOp::PutBackend(id, _) | MapOp::DeleteBackend(id) => full(maps::BACKENDS, false, *id as usize),
            MapOp::ResetServiceStats(id) => full(maps::SERVICE_STATS, false, *id as usize),
            MapOp::ResetBackendStats(id) => full(maps::BACKEND_STATS, false, *id as usize),
            _ => None,
        };
        if beyond.is_some() { Err(io::Error::from_raw_os_error(libc::E2BIG)) } else { Ok(()) }
    }
}

impl LbMaps for FakeMaps {
    fn read(&self) -> Result<Image, MapError> {
        Ok(self.image())
    }

    fn apply(&mut self, op: &MapOp) -> Result<(), MapError> {
        self.check(op).map_err(|source| error(op, source))?;
        match op {
            MapOp::PutSlot(index, slot) => {
                self.slots.insert(*index, *slot);
            }
            MapOp::ResetServiceStats(id) => {
                self.service_stats.remove(id);
            }
            MapOp::ResetBackendStats(id) => {
                self.backend_stats.remove(id);
            }
            _ => self.image.perform(op),
        }
        self.log.push(*op);
        Ok(())
    }

    fn capacity(&self, map: &str) -> u32 {
        maps::entries_for(map, self.max_flows)
    }

    fn reasons(&self) -> Result<Vec<ReasonCount>, MapError> {
        Ok(self.reasons.clone())
    }

    fn service_stats(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, MapError> {
        Ok(counters(&self.service_stats, ids))
    }

    fn backend_stats(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, MapError> {
        Ok(counters(&self.backend_stats, ids))
    }
}

fn counters(stats: &BTreeMap<u32, Traffic>, ids: &[u32]) -> BTreeMap<u32, Traffic> {
    ids.iter().map(|id| (*id, stats.get(id).copied().unwrap_or_default())).collect()
}

/// The failure of one write.
pub(super) fn error(op: &MapOp, source: io::Error) -> MapError {
    MapError { map: op.map(), action: op.to_string(), source }
}
