//! The real thing: the pinned maps of a datapath.
//!
//! The handle is cheap to clone and may be used from several threads; writers keep order among themselves.

use super::{Image, LbMaps, MapError, MapOp};
use crate::datapath::Untold;
use crate::datapath::affinity::AffinityTable;
use crate::datapath::bpf::{self, Map, PerCpuArray, map::Put};
use crate::datapath::census::Count;
use crate::datapath::conntrack::{Fill, FlowTables};
use crate::datapath::side::SideTables;
use crate::figures::Counted;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_common::gate::{End, Place};
use lb_common::maps::{
    AFFINITY, BACKEND_STATS, BACKENDS, DEVICES, FRAGMENTS4, FRAGMENTS6, GATE, LISTENED, NETWORKS4, NETWORKS6,
    NODE_PORTS, OWNED4, OWNED6, REASONS, SERVICE_STATS, SERVICES, SETTINGS, SLOTS, SOCKETS, TELLINGS,
};
use lb_common::{
    Backend, Device, Fragment, FragmentKey, NetworkKey, Owned, Peer, Reason, ReasonCount, Service, ServiceKey,
    Settings, Slot, SocketKey, Telling, Traffic,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The maps of a datapath.
#[derive(Clone, Debug)]
pub struct PinnedMaps {
    config: ConfigMaps,
    flows: FlowTables,
    sockets: Map<SocketKey, Peer>,
    side: SideTables,
}

impl PinnedMaps {
    pub(crate) fn open(config: &Path, flows: &Path) -> Result<Self, MapError> {
        let (config_maps, flow_tables) = (ConfigMaps::open(config)?, FlowTables::open(flows)?);
        let side = SideTables::open(config, flows, &config_maps.affinity)?;
        let sockets = open(flows, SOCKETS, Map::new)?;
        Ok(Self { config: config_maps, flows: flow_tables, sockets, side })
    }

    /// Which backend each client had last.
    pub fn affinity(&self) -> &AffinityTable {
        &self.config.affinity
    }

    /// What has been counted for the service port ids and the backend ids below these.
    pub fn counted(&self, services: u32, backends: u32) -> Result<Counted, MapError> {
        let failed = |map| move |source| MapError { map, action: "read".to_owned(), source };
        let ConfigMaps { service_stats, backend_stats, .. } = &self.config;
        Ok(Counted {
            services: service_stats.sums(services, add).map_err(failed(SERVICE_STATS))?,
            backends: backend_stats.sums(backends, add).map_err(failed(BACKEND_STATS))?,
        })
    }

    /// Goes on counting the entries of the tables that nobody sweeps, about `limit` of each. Tells those whose number is known.
    pub fn count_others(&self, counts: &mut [Count; 3], limit: usize) -> Result<Vec<Fill>, MapError> {
        let [sockets, fragments4, fragments6] = counts;
        let known = [
            sockets.step(SOCKETS, &self.sockets, limit)?,
            fragments4.step(FRAGMENTS4, &self.config.fragments4, limit)?,
            fragments6.step(FRAGMENTS6, &self.config.fragments6, limit)?,
        ];
        Ok(known.into_iter().flatten().collect())
    }

    /// Has the datapath tell of flows that begin and end, from the next packet on, or no more.
    pub fn listen(&self, listens: bool) -> Result<(), MapError> {
        put(LISTENED, &self.config.listened, &0, &u32::from(listens))
    }

    /// What the datapath had to tell and did not.
    pub fn untold(&self) -> Result<Untold, MapError> {
        let mut sum = Untold::default();
        for telling in copies(TELLINGS, &self.config.tellings, 0)? {
            for sort in [Telling::LOSSES, Telling::FLOWS] {
                sum.skipped[sort] = sum.skipped[sort].wrapping_add(telling.skipped[sort]);
                sum.lost[sort] = sum.lost[sort].wrapping_add(telling.lost[sort]);
            }
        }
        Ok(sum)
    }

    /// What the datapath keeps beside flows.
    pub(crate) fn side_tables(&self) -> &SideTables {
        &self.side
    }

    /// The gate, word by word.
    pub(crate) fn gate(&self) -> Result<Vec<u64>, MapError> {
        let gate = &self.config.gate;
        let words = gate.range(0, gate.entries());
        let words = words.map_err(|source| MapError { map: GATE, action: "read".to_owned(), source })?;
        Ok(words.into_iter().map(|(_, bits)| bits).collect())
    }

    /// The flow tables.
    pub fn flow_tables(&self) -> &FlowTables {
        &self.flows
    }
}

impl LbMaps for PinnedMaps {
    fn read(&self) -> Result<Image, MapError> {
        self.config.read()
    }

    fn entry(&self, op: &MapOp) -> Result<Option<MapOp>, MapError> {
        self.config.entry(op)
    }

    fn entries(&self, map: &str, from: Option<u32>, limit: usize) -> Result<(Vec<MapOp>, Option<u32>), MapError> {
        self.config.entries(map, from, limit)
    }

    fn is_admitted(&self, end: End) -> Result<bool, MapError> {
        self.config.is_admitted(end)
    }

    fn admit(&mut self, end: End) -> Result<(), MapError> {
        self.config.admit(end)
    }

    fn apply(&mut self, op: &MapOp) -> Result<(), MapError> {
        self.config.apply(op)
    }

    fn has_flows(&self) -> Result<bool, MapError> {
        self.flows.iter().next().transpose().map(|first| first.is_some())
    }

    fn capacity(&self, map: &str) -> u32 {
        self.config.capacity(map).or_else(|| self.flows.capacity(map)).unwrap_or(0)
    }

    fn reasons(&self) -> Result<Vec<ReasonCount>, MapError> {
        (0..Reason::ALL.len() as u32).map(|number| self.config.reason(number)).collect()
    }

    fn service_stats(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, MapError> {
        traffic(SERVICE_STATS, &self.config.service_stats, ids)
    }

    fn backend_stats(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, MapError> {
        traffic(BACKEND_STATS, &self.config.backend_stats, ids)
    }
}

/// The configuration maps and the counters.
#[derive(Clone, Debug)]
pub(crate) struct ConfigMaps {
    gate: Map<u32, u64>,
    owned4: Map<[u8; 4], Owned>,
    owned6: Map<[u8; 16], Owned>,
    services: Map<ServiceKey, Service>,
    networks4: Map<NetworkKey<[u8; 4]>, u32>,
    networks6: Map<NetworkKey<[u8; 16]>, u32>,
    slots: Map<u32, Slot>,
    backends: Map<u32, Backend>,
    node_ports: Map<ServiceKey, Peer>,
    affinity: AffinityTable,
    fragments4: Map<FragmentKey<[u8; 4]>, Fragment>,
    fragments6: Map<FragmentKey<[u8; 16]>, Fragment>,
    devices: Map<u32, Device>,
    settings: Map<u32, Settings>,
    reasons: PerCpuArray<ReasonCount>,
    service_stats: PerCpuArray<Traffic>,
    backend_stats: PerCpuArray<Traffic>,
    listened: Map<u32, u32>,
    tellings: PerCpuArray<Telling>,
}

/// Opens one pinned map.
pub(crate) fn open<M>(
    directory: &Path,
    name: &'static str,
    typed: impl FnOnce(OwnedFd) -> io::Result<M>,
) -> Result<M, MapError> {
    bpf::open(&directory.join(name)).and_then(typed).map_err(|source| MapError {
        map: name,
        action: "open".to_owned(),
        source,
    })
}

impl ConfigMaps {
    pub(crate) fn open(directory: &Path) -> Result<Self, MapError> {
        Ok(Self {
            gate: open(directory, GATE, Map::new)?,
            owned4: open(directory, OWNED4, Map::new)?,
            owned6: open(directory, OWNED6, Map::new)?,
            services: open(directory, SERVICES, Map::new)?,
            networks4: open(directory, NETWORKS4, Map::new)?,
            networks6: open(directory, NETWORKS6, Map::new)?,
            slots: open(directory, SLOTS, Map::new)?,
            backends: open(directory, BACKENDS, Map::new)?,
            node_ports: open(directory, NODE_PORTS, Map::new)?,
            affinity: AffinityTable::open(directory)?,
            fragments4: open(directory, FRAGMENTS4, Map::new)?,
            fragments6: open(directory, FRAGMENTS6, Map::new)?,
            devices: open(directory, DEVICES, Map::new)?,
            settings: open(directory, SETTINGS, Map::new)?,
            reasons: open(directory, REASONS, PerCpuArray::new)?,
            service_stats: open(directory, SERVICE_STATS, PerCpuArray::new)?,
            backend_stats: open(directory, BACKEND_STATS, PerCpuArray::new)?,
            listened: open(directory, LISTENED, Map::new)?,
            tellings: open(directory, TELLINGS, PerCpuArray::new)?,
        })
    }

    pub(crate) fn read(&self) -> Result<Image, MapError> {
        let listing = |map| move |source| MapError { map, action: "read".to_owned(), source };
        let mut image = Image {
            settings: self.settings.get(&0).map_err(listing(SETTINGS))?.unwrap_or_default(),
            services: collect(SERVICES, &self.services)?,
            node_ports: collect(NODE_PORTS, &self.node_ports)?,
            devices: collect(DEVICES, &self.devices)?,
            ..Image::default()
        };
        image.owned.extend(collect(OWNED4, &self.owned4)?.into_iter().map(|(key, value)| (IpAddr::from(key), value)));
        image.owned.extend(collect(OWNED6, &self.owned6)?.into_iter().map(|(key, value)| (IpAddr::from(key), value)));
        for key in self.networks4.keys().map_err(listing(NETWORKS4))? {
            image.networks.entry(key.group).or_default().extend(network(key.address.into(), key.length()));
        }
        for key in self.networks6.keys().map_err(listing(NETWORKS6))? {
            image.networks.entry(key.group).or_default().extend(network(key.address.into(), key.length()));
        }
        let backends = self.backends.range(0, self.backends.entries()).map_err(listing(BACKENDS))?;
        image.backends = backends.into_iter().filter(|(_, backend)| backend.family != 0).collect();
        let published: BTreeSet<_> =
            image.services.values().flat_map(Service::sets).filter(|set| set.count() != 0).collect();
        for set in published {
            let range = self.slots.range(set.base(), set.count()).map_err(listing(SLOTS))?;
            image.slots.extend(range);
        }
        Ok(image)
    }

    /// What is held under the key of a write, as the write that would make it.
    fn entry(&self, op: &MapOp) -> Result<Option<MapOp>, MapError> {
        let failed = |source| MapError { map: op.map(), action: "look".to_owned(), source };
        let found = match *op {
            MapOp::PutSettings(_) => self.settings.get(&0).map(|value| value.map(MapOp::PutSettings)),
            MapOp::PutOwned(key, _) => match key {
                IpAddr::V4(v4) => self.owned4.get(&v4.octets()),
                IpAddr::V6(v6) => self.owned6.get(&v6.octets()),
            }
            .map(|value| value.map(|value| MapOp::PutOwned(key, value))),
            MapOp::PutService(key, _) => {
                self.services.get(&key).map(|value| value.map(|value| MapOp::PutService(key, value)))
            }
            MapOp::PutSlot(key, _) => self.slots.get(&key).map(|value| value.map(|value| MapOp::PutSlot(key, value))),
            MapOp::PutBackend(key, _) => self
                .backends
                .get(&key)
                .map(|value| value.filter(|value| value.family != 0).map(|value| MapOp::PutBackend(key, value))),
            MapOp::PutNodePort(key, _) => {
                self.node_ports.get(&key).map(|value| value.map(|value| MapOp::PutNodePort(key, value)))
            }
            MapOp::PutDevice(key, _) => {
                self.devices.get(&key).map(|value| value.map(|value| MapOp::PutDevice(key, value)))
            }
            _ => Ok(None),
        };
        found.map_err(failed)
    }

    fn entries(&self, map: &str, from: Option<u32>, limit: usize) -> Result<(Vec<MapOp>, Option<u32>), MapError> {
        match map {
            OWNED4 => walk(OWNED4, &self.owned4, from, limit, |(key, value)| MapOp::PutOwned(key.into(), value)),
            OWNED6 => walk(OWNED6, &self.owned6, from, limit, |(key, value)| MapOp::PutOwned(key.into(), value)),
            SERVICES => walk(SERVICES, &self.services, from, limit, |(key, value)| MapOp::PutService(key, value)),
            NODE_PORTS => {
                walk(NODE_PORTS, &self.node_ports, from, limit, |(key, value)| MapOp::PutNodePort(key, value))
            }
            DEVICES => walk(DEVICES, &self.devices, from, limit, |(key, value)| MapOp::PutDevice(key, value)),
            BACKENDS => {
                let (all, next) =
                    walk(BACKENDS, &self.backends, from, limit, |(id, value)| MapOp::PutBackend(id, value))?;
                let in_use = |op: &MapOp| matches!(op, MapOp::PutBackend(_, backend) if backend.family != 0);
                Ok((all.into_iter().filter(in_use).collect(), next))
            }
            NETWORKS4 | NETWORKS6 => {
                let listing = |source| MapError { map: NETWORKS4, action: "read".to_owned(), source };
                let v4 = |key: NetworkKey<[u8; 4]>| (key.group, network(key.address.into(), key.length()));
                let v6 = |key: NetworkKey<[u8; 16]>| (key.group, network(key.address.into(), key.length()));
                let all: Vec<_> = if map == NETWORKS4 {
                    self.networks4.keys().map_err(listing)?.into_iter().map(v4).collect()
                } else {
                    self.networks6.keys().map_err(listing)?.into_iter().map(v6).collect()
                };
                let put = |(group, network): (u32, Option<IpNet>)| Some(MapOp::PutNetwork(group, network?));
                Ok((all.into_iter().filter_map(put).collect(), None))
            }
            _ => Ok((Vec::new(), None)),
        }
    }

    fn is_admitted(&self, end: End) -> Result<bool, MapError> {
        let failed = |source| MapError { map: GATE, action: format!("look for {end}"), source };
        let Place { word, bits } = Place::from(end);
        Ok(self.gate.get(&word).map_err(failed)?.unwrap_or_default() & bits != 0)
    }

    /// Lets packets with this end pass the gate, from now on.
    pub(crate) fn admit(&self, end: End) -> Result<(), MapError> {
        let failed = |source| MapError { map: GATE, action: format!("open for {end}"), source };
        let Place { word, bits } = Place::from(end);
        let open = self.gate.get(&word).map_err(failed)?.unwrap_or_default();
        if open & bits != 0 { Ok(()) } else { self.gate.put(&word, &(open | bits), Put::Any).map_err(failed) }
    }

    pub(crate) fn apply(&self, op: &MapOp) -> Result<(), MapError> {
        // First, so that no packet that needs what is written next is turned away.
        if let Some(end) = op.admitted() {
            self.admit(end)?;
        }
        match *op {
            MapOp::PutSettings(settings) => put(SETTINGS, &self.settings, &0, &settings),
            MapOp::PutOwned(IpAddr::V4(address), owned) => put(OWNED4, &self.owned4, &address.octets(), &owned),
            MapOp::PutOwned(IpAddr::V6(address), owned) => put(OWNED6, &self.owned6, &address.octets(), &owned),
            MapOp::DeleteOwned(IpAddr::V4(address)) => delete(OWNED4, &self.owned4, &address.octets()),
            MapOp::DeleteOwned(IpAddr::V6(address)) => delete(OWNED6, &self.owned6, &address.octets()),
            MapOp::PutService(key, service) => put(SERVICES, &self.services, &key, &service),
            MapOp::DeleteService(key) => delete(SERVICES, &self.services, &key),
            MapOp::PutNetwork(group, IpNet::V4(network)) => {
                put(NETWORKS4, &self.networks4, &key4(group, network), &PRESENT)
            }
            MapOp::PutNetwork(group, IpNet::V6(network)) => {
                put(NETWORKS6, &self.networks6, &key6(group, network), &PRESENT)
            }
            MapOp::DeleteNetwork(group, IpNet::V4(network)) => {
                delete(NETWORKS4, &self.networks4, &key4(group, network))
            }
            MapOp::DeleteNetwork(group, IpNet::V6(network)) => {
                delete(NETWORKS6, &self.networks6, &key6(group, network))
            }
            MapOp::PutSlot(index, slot) => put(SLOTS, &self.slots, &index, &slot),
            MapOp::PutBackend(id, backend) => put(BACKENDS, &self.backends, &id, &backend),
            MapOp::DeleteBackend(id) => put(BACKENDS, &self.backends, &id, &Backend::UNUSED),
            MapOp::ResetServiceStats(id) => reset(SERVICE_STATS, &self.service_stats, id),
            MapOp::ResetBackendStats(id) => reset(BACKEND_STATS, &self.backend_stats, id),
            MapOp::PutNodePort(key, peer) => put(NODE_PORTS, &self.node_ports, &key, &peer),
            MapOp::DeleteNodePort(key) => delete(NODE_PORTS, &self.node_ports, &key),
            MapOp::PutDevice(ifindex, device) => put(DEVICES, &self.devices, &ifindex, &device),
            MapOp::DeleteDevice(ifindex) => delete(DEVICES, &self.devices, &ifindex),
        }
    }

    fn capacity(&self, map: &str) -> Option<u32> {
        Some(match map {
            GATE => self.gate.entries(),
            OWNED4 => self.owned4.entries(),
            OWNED6 => self.owned6.entries(),
            SERVICES => self.services.entries(),
            NETWORKS4 => self.networks4.entries(),
            NETWORKS6 => self.networks6.entries(),
            SLOTS => self.slots.entries(),
            BACKENDS => self.backends.entries(),
            NODE_PORTS => self.node_ports.entries(),
            AFFINITY => self.affinity.capacity(),
            DEVICES => self.devices.entries(),
            SETTINGS => self.settings.entries(),
            REASONS => self.reasons.entries(),
            SERVICE_STATS => self.service_stats.entries(),
            BACKEND_STATS => self.backend_stats.entries(),
            LISTENED => self.listened.entries(),
            TELLINGS => self.tellings.entries(),
            _ => return None,
        })
    }

    fn reason(&self, number: u32) -> Result<ReasonCount, MapError> {
        let copies = copies(REASONS, &self.reasons, number)?;
        Ok(copies.iter().fold(ReasonCount::default(), |sum, copy| ReasonCount {
            packets: sum.packets.wrapping_add(copy.packets),
            bytes: sum.bytes.wrapping_add(copy.bytes),
        }))
    }

    /// Copies everything, counters included, into empty maps of another size. An error means that it did not fit.
    pub(crate) fn copy_to(&self, to: &Self) -> Result<(), MapError> {
        let image = self.read()?;
        let operations = (image.backends.iter().map(|(id, backend)| MapOp::PutBackend(*id, *backend)))
            .chain(image.slots.iter().map(|(index, slot)| MapOp::PutSlot(*index, *slot)))
            .chain(image.networks.iter().flat_map(|(group, all)| all.iter().map(|one| MapOp::PutNetwork(*group, *one))))
            .chain(image.services.iter().map(|(key, service)| MapOp::PutService(*key, *service)))
            .chain(image.owned.iter().map(|(address, owned)| MapOp::PutOwned(*address, *owned)))
            .chain(image.node_ports.iter().map(|(key, peer)| MapOp::PutNodePort(*key, *peer)))
            .chain(image.devices.iter().map(|(ifindex, device)| MapOp::PutDevice(*ifindex, *device)))
            .chain([MapOp::PutSettings(image.settings)]);
        for operation in operations {
            to.apply(&operation)?;
        }
        for number in 0..Reason::ALL.len() as u32 {
            copy_counter(REASONS, &self.reasons, &to.reasons, number)?;
        }
        for service in image.services.values() {
            copy_counter(SERVICE_STATS, &self.service_stats, &to.service_stats, service.id)?;
        }
        for id in image.backends.keys() {
            copy_counter(BACKEND_STATS, &self.backend_stats, &to.backend_stats, *id)?;
        }
        self.affinity.copy_to(&to.affinity)
    }
}

/// The value of a network, which says nothing.
const PRESENT: u32 = 1;

fn key4(group: u32, network: Ipv4Net) -> NetworkKey<[u8; 4]> {
    NetworkKey::new(group, network.network().octets(), network.prefix_len().into())
}

fn key6(group: u32, network: Ipv6Net) -> NetworkKey<[u8; 16]> {
    NetworkKey::new(group, network.network().octets(), network.prefix_len().into())
}

fn network(address: IpAddr, length: u32) -> Option<IpNet> {
    IpNet::new(address, u8::try_from(length).ok()?).ok().map(|network| network.trunc())
}

/// The next entries of a map, some `limit`, and where to go on.
fn walk<K: aya::Pod, V: aya::Pod>(
    name: &'static str,
    map: &Map<K, V>,
    from: Option<u32>,
    limit: usize,
    op: impl Fn((K, V)) -> MapOp,
) -> Result<(Vec<MapOp>, Option<u32>), MapError> {
    let mut batches = map.batches().of(limit).resume(from);
    let Some(batch) = batches.next() else { return Ok((Vec::new(), None)) };
    let batch = batch.map_err(|source| MapError { map: name, action: "read".to_owned(), source })?;
    Ok((batch.into_iter().map(op).collect(), batches.goes_on()))
}

fn collect<K: aya::Pod + Ord, V: aya::Pod>(name: &'static str, map: &Map<K, V>) -> Result<BTreeMap<K, V>, MapError> {
    map.iter().collect::<io::Result<_>>().map_err(|source| MapError { map: name, action: "read".to_owned(), source })
}

fn put<K: aya::Pod + Debug, V: aya::Pod>(
    name: &'static str,
    map: &Map<K, V>,
    key: &K,
    value: &V,
) -> Result<(), MapError> {
    map.put(key, value, Put::Any).map_err(|source| MapError { map: name, action: format!("write {key:?}"), source })
}

fn delete<K: aya::Pod + Debug, V: aya::Pod>(name: &'static str, map: &Map<K, V>, key: &K) -> Result<(), MapError> {
    map.delete(key).map(drop).map_err(|source| MapError { map: name, action: format!("delete {key:?}"), source })
}

fn reset(name: &'static str, map: &PerCpuArray<Traffic>, id: u32) -> Result<(), MapError> {
    map.fill(id, Traffic::default()).map_err(|source| MapError { map: name, action: format!("reset {id}"), source })
}

fn copies<V: aya::Pod>(name: &'static str, map: &PerCpuArray<V>, index: u32) -> Result<Vec<V>, MapError> {
    map.get(index).map_err(|source| MapError { map: name, action: format!("read {index}"), source })
}

fn copy_counter<V: aya::Pod>(
    name: &'static str,
    from: &PerCpuArray<V>,
    to: &PerCpuArray<V>,
    index: u32,
) -> Result<(), MapError> {
    to.put(index, copies(name, from, index)?).map_err(|source| MapError {
        map: name,
        action: format!("write {index}"),
        source,
    })
}

fn traffic(name: &'static str, map: &PerCpuArray<Traffic>, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, MapError> {
    let sum =
        |id: &u32| Ok((*id, copies(name, map, *id)?.iter().fold(Traffic::default(), |sum, copy| add(&sum, copy))));
    ids.iter().map(sum).collect()
}

fn add(sum: &Traffic, copy: &Traffic) -> Traffic {
    Traffic {
        connections: sum.connections.wrapping_add(copy.connections),
        packets: sum.packets.wrapping_add(copy.packets),
        bytes: sum.bytes.wrapping_add(copy.bytes),
        reply_packets: sum.reply_packets.wrapping_add(copy.reply_packets),
        reply_bytes: sum.reply_bytes.wrapping_add(copy.reply_bytes),
    }
}
