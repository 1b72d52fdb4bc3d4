//! The node's network as the kernel tells it: interfaces, addresses, default routes.
//!
//! Everything is asked over netlink in the network namespace of the asking thread, never read from /sys, which may show
//! another namespace's interfaces. A [`HostView`] is a whole, consistent picture; [`watch`] publishes a new one whenever
//! something changed.

pub(crate) mod ethtool;
pub(crate) mod netlink;
pub(crate) mod nftables;
pub mod pair;
mod route;
mod snapshot;
pub(crate) mod traffic_control;
mod watch;
pub(crate) mod xdp_features;

pub use netlink::Refused;
pub use route::{Route, Routes, route_to};
pub(crate) use snapshot::namespace_cookie;
pub use snapshot::snapshot;
pub use watch::{RouteNews, Watch, watch};
pub use xdp_features::XdpFeatures;

use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

/// The node's network cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("netlink: {0}")]
    Netlink(#[from] io::Error),
    /// The kernel refused to list something.
    #[error("the kernel does not list {what}: {source}")]
    List {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        source: Refused,
    },
    /// No thread to watch with.
    #[error("cannot start the thread that watches the network: {0}")]
    Thread(io::Error),
}

/// One network interface.
#[expect(clippy::struct_excessive_bools, reason = "these are independent facts, not states")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index, unique in its namespace for as long as it lives.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The kind of virtual device (`veth`, `bridge`, `tun`, ...); empty for one backed by hardware, and for `lo`.
    pub kind: String,
    /// Link-layer address, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// The bridge or bond it is a member of.
    pub master: Option<u32>,
    /// The interface below it in this namespace (VLAN, macvlan).
    pub lower: Option<u32>,
    /// Whether a default route of either family leads out by it.
    pub has_default_route: bool,
    /// Whether a device on some bus stands behind it (PCI, virtio, ...).
    pub hardware: bool,
    /// Whether it is fed by a wire: hardware, a bond or team, or a VLAN on such.
    pub wire: bool,
    /// Whether other nodes are reached by it. The kernel does not know: the daemon, which knows the nodes, marks it
    /// ([`HostView::with_ways_to_nodes`]).
    pub leads_to_nodes: bool,
    /// Whether its other end, of a veth, is in another network namespace.
    pub ends_elsewhere: bool,
    /// The queueing discipline of what it sends; `noqueue`: nobody shapes it.
    pub qdisc: String,
    /// The TC filters on what it sends, anybody's: programs by their names, others by their kinds.
    pub egress_filters: Vec<String>,
    /// Whether it carries Ethernet frames.
    pub ethernet: bool,
    /// Whether it is a loopback device.
    pub loopback: bool,
}

/// The node's network at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostView {
    /// Interfaces by index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Addresses with their prefix, and the index of the interface that has them; sorted.
    pub addresses: Vec<(u32, IpNet)>,
    /// The cookie of its network namespace (`SO_NETNS_COOKIE`), which the kernel never gives out twice; zero: not known.
    pub namespace: u64,
}

impl HostView {
    /// The interface of this name.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.values().find(|interface| interface.name == name)
    }

    /// The same view, with those interfaces marked by which other nodes are reached.
    #[must_use]
    pub fn with_ways_to_nodes(&self, indexes: &BTreeSet<u32>) -> Self {
        let mut view = self.clone();
        for interface in view.interfaces.values_mut() {
            interface.leads_to_nodes = indexes.contains(&interface.index);
        }
        view
    }

    /// The addresses of one interface.
    pub fn addresses_of(&self, index: u32) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().filter(move |(owner, _)| *owner == index).map(|(_, network)| network.addr())
    }
}
