//! The datapath's maps as user space sees them: read whole, written one [`MapOp`] at a time.
//!
//! [`LbMaps`] has three implementations: the pinned maps of a running datapath, an in-memory one, and one that fails
//! on demand.

mod change;
mod fake;
mod faulty;
pub(crate) mod pinned;

pub use change::MapChange;
pub use fake::FakeMaps;
pub use faulty::{Fault, FaultyMaps};
pub use pinned::PinnedMaps;

use ipnet::IpNet;
use lb_common::gate::End;
use lb_common::{Backend, Device, Owned, Peer, ReasonCount, Service, ServiceKey, Settings, Slot, Traffic};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What the configuration maps hold, or should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// The shared settings.
    pub settings: Settings,
    /// Addresses that are ours.
    pub owned: BTreeMap<IpAddr, Owned>,
    /// Service ports.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Networks that clients are told by, by group ([`lb_common::network`]); a group without any is absent.
    pub networks: BTreeMap<u32, BTreeSet<IpNet>>,
    /// Members of backend sets, by slot. A slot absent here may hold anything in the map.
    pub slots: BTreeMap<u32, Slot>,
    /// Backends in use, by id. A record whose family is zero is not in use and absent here.
    pub backends: BTreeMap<u32, Backend>,
    /// For UDP node ports, the ClusterIP and port of the same Service port.
    pub node_ports: BTreeMap<ServiceKey, Peer>,
    /// Interfaces by ifindex.
    pub devices: BTreeMap<u32, Device>,
}

/// One write to one map. Each is idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Writes the settings.
    PutSettings(Settings),
    /// Owns an address.
    PutOwned(IpAddr, Owned),
    /// Gives an address up.
    DeleteOwned(IpAddr),
    /// Publishes a service port.
    PutService(ServiceKey, Service),
    /// Withdraws a service port.
    DeleteService(ServiceKey),
    /// Puts a network into a group.
    PutNetwork(u32, IpNet),
    /// Takes it out.
    DeleteNetwork(u32, IpNet),
    /// Writes a slot that no service publishes.
    PutSlot(u32, Slot),
    /// Writes a backend.
    PutBackend(u32, Backend),
    /// Marks a backend's record as not in use.
    DeleteBackend(u32),
    /// Zeroes the counters of a service port id before its new owner uses it.
    ResetServiceStats(u32),
    /// Zeroes the counters of a backend id before its new owner uses it.
    ResetBackendStats(u32),
    /// Names the ClusterIP of a node port.
    PutNodePort(ServiceKey, Peer),
    /// Forgets it.
    DeleteNodePort(ServiceKey),
    /// Writes an interface.
    PutDevice(u32, Device),
    /// Forgets an interface.
    DeleteDevice(u32),
}

impl MapOp {
    /// The name of the map that it writes.
    pub fn map(&self) -> &'static str {
        use lb_common::maps;
        let by_family = |is_v4, v4, v6| if is_v4 { v4 } else { v6 };
        match self {
            Self::PutSettings(_) => maps::SETTINGS,
            Self::PutOwned(address, _) | Self::DeleteOwned(address) => {
                by_family(address.is_ipv4(), maps::OWNED4, maps::OWNED6)
            }
            Self::PutService(..) | Self::DeleteService(_) => maps::SERVICES,
            Self::PutNetwork(_, network) | Self::DeleteNetwork(_, network) => {
                by_family(network.addr().is_ipv4(), maps::NETWORKS4, maps::NETWORKS6)
            }
            Self::PutSlot(..) => maps::SLOTS,
            Self::PutBackend(..) | Self::DeleteBackend(_) => maps::BACKENDS,
            Self::ResetServiceStats(_) => maps::SERVICE_STATS,
            Self::ResetBackendStats(_) => maps::BACKEND_STATS,
            Self::PutNodePort(..) | Self::DeleteNodePort(_) => maps::NODE_PORTS,
            Self::PutDevice(..) | Self::DeleteDevice(_) => maps::DEVICES,
        }
    }

    /// The end of packets for which the gate must be open where this was written.
    pub fn admitted(&self) -> Option<End> {
        match self {
            Self::PutOwned(address, owned) if owned.is_node() => Some(End::Node(*address)),
            Self::PutOwned(address, _) => Some(End::Service(*address)),
            Self::PutService(key, _) => key.ip().map(End::Service),
            Self::PutBackend(_, backend) => backend.ip().map(End::Source),
            _ => None,
        }
    }
}

/// A map operation failed.
#[derive(Debug, thiserror::Error)]
#[error("map {map}: {action}: {source}")]
pub struct MapError {
    /// Name of the map.
    pub map: &'static str,
    /// What was tried, with the key.
    pub action: String,
    /// The kernel's answer.
    pub source: std::io::Error,
}

/// The configuration maps and counters of one datapath.
pub trait LbMaps: Send {
    /// Reads everything back. Slots that no service publishes are left out.
    fn read(&self) -> Result<Image, MapError>;

    /// What the maps hold under the key of a write, as the write that would make it; `None` for a write that makes nothing.
    fn entry(&self, op: &MapOp) -> Result<Option<MapOp>, MapError> {
        Ok(self.read()?.entry(op))
    }

    /// About `limit` entries of the map of this name from a position in it on, as the writes that would make them, and where
    /// to go on; `None`: that was all. Slots have none: they are told by who publishes them.
    fn entries(&self, map: &str, _from: Option<u32>, _limit: usize) -> Result<(Vec<MapOp>, Option<u32>), MapError> {
        let image = self.read()?;
        Ok((image.entries_after(None).filter(|op| op.map() == map).collect(), None))
    }

    /// Whether packets with this end pass the gate.
    fn is_admitted(&self, _end: End) -> Result<bool, MapError> {
        Ok(true)
    }

    /// Lets packets with this end pass the gate.
    fn admit(&mut self, _end: End) -> Result<(), MapError> {
        Ok(())
    }

    /// Performs one write.
    fn apply(&mut self, op: &MapOp) -> Result<(), MapError>;

    /// Whether there are flows.
    fn has_flows(&self) -> Result<bool, MapError> {
        Ok(false)
    }

    /// How many entries the map of this name holds at most.
    fn capacity(&self, map: &str) -> u32;

    /// Counters by reason number, added up over the CPUs.
    fn reasons(&self) -> Result<Vec<ReasonCount>, MapError>;

    /// Counters of these service port ids, added up over the CPUs.
    fn service_stats(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, MapError>;

    /// Counters of these backend ids, added up over the CPUs.
    fn backend_stats(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, MapError>;
}
