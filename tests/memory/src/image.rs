//! What the daemon wrote into the configuration maps.

use ipnet::IpNet;
use lb_common::{Backend, Device, Owned, Peer, Service, ServiceKey, Settings, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The content of the configuration maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// The shared settings.
    pub settings: Settings,
    /// Addresses that are ours.
    pub owned: BTreeMap<IpAddr, Owned>,
    /// Service ports.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Networks that clients are told by, by group.
    pub networks: BTreeMap<u32, BTreeSet<IpNet>>,
    /// Members of backend sets, by slot.
    pub slots: BTreeMap<u32, Slot>,
    /// Backends in use, by id.
    pub backends: BTreeMap<u32, Backend>,
    /// For UDP node ports, the ClusterIP and port of the same Service port.
    pub node_ports: BTreeMap<ServiceKey, Peer>,
    /// Interfaces by ifindex.
    pub devices: BTreeMap<u32, Device>,
}
