//! A frontend: where clients reach a service port.
//!
//! A new kind of frontend is a variant of [`FrontendKind`] and a few lines of [`frontends`]; everything after goes by
//! [`Place`], port, protocol and family.

use super::NodeView;
use crate::objects::{IpFamily, Key, Protocol, Service, ServicePort, ServiceType};
use ipnet::IpNet;
use lb_common::ServiceKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Why a frontend is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FrontendKind {
    /// The Service's port on one of its ClusterIPs.
    ClusterIP,
    /// The Service's port on one of its externalIPs.
    ExternalIP,
    /// The Service's port on an address of its load balancer.
    LoadBalancer,
    /// The node port on the addresses of the node that serve node ports.
    NodePort,
}

/// Which endpoints clients may be sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Policy {
    /// Those of the whole cluster.
    #[default]
    Cluster,
    /// Those on this node.
    Local,
}

impl Policy {
    fn of(field: Option<&String>) -> Self {
        if field.is_some_and(|policy| policy == "Local") { Policy::Local } else { Policy::Cluster }
    }
}

/// What address a frontend is on, as the datapath tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Any address of the node.
    Node,
    /// This address.
    Address(IpAddr),
}

impl Place {
    /// The key of the datapath's record of a port there.
    pub const fn key(self, port: u16, protocol: u8, family: IpFamily) -> ServiceKey {
        match self {
            Self::Node => ServiceKey::of_node(port, protocol, family.version()),
            Self::Address(address) => ServiceKey::new(address, port, protocol),
        }
    }
}

/// What no two frontends can share: place, family, protocol and port.
pub(super) type Identity = (Place, IpFamily, Protocol, u16);

/// One way in to a service port. It is what one record of the datapath's service map stands for, and is counted apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    /// Why it is there.
    pub kind: FrontendKind,
    /// Family of its addresses and of its backends.
    pub family: IpFamily,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
    /// The address, or for a node port those of the node.
    pub addresses: Vec<IpAddr>,
    /// Where its clients are sent; on an address from outside those within the cluster are sent anywhere all the same.
    #[serde(default)]
    pub policy: Policy,
    /// The networks whose clients alone are served; empty: everybody.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub sources: BTreeSet<IpNet>,
    /// Another Service has the same address, port and protocol and goes first: this frontend is not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_to: Option<Key>,
}

impl Frontend {
    /// What address it is on.
    pub fn place(&self) -> Place {
        match (self.kind, self.addresses.first()) {
            (FrontendKind::NodePort, _) | (_, None) => Place::Node,
            (_, Some(address)) => Place::Address(*address),
        }
    }

    /// Whether it is on an address of its own and serves clients within the cluster as a node port does.
    pub(crate) fn is_like_node_port_within(&self) -> bool {
        let is_anywhere = self.kind != FrontendKind::ClusterIP || self.policy == Policy::Cluster;
        self.kind != FrontendKind::NodePort && is_anywhere && self.sources.is_empty()
    }

    /// What no two frontends can share.
    pub(super) fn identity(&self) -> Identity {
        (self.place(), self.family, self.protocol, self.port)
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place() {
            Place::Address(address) => write!(f, "{}/{}", SocketAddr::new(address, self.port), self.protocol),
            Place::Node => write!(f, "node port {}/{} ({:?})", self.port, self.protocol, self.family),
        }
    }
}

/// The families that a Service has frontends and endpoints of.
pub(super) fn families(service: &Service) -> Vec<IpFamily> {
    if !service.spec.ip_families.is_empty() {
        return service.spec.ip_families.clone();
    }
    let mut families: Vec<IpFamily> = service.cluster_addresses().into_iter().map(IpFamily::of).collect();
    families.dedup();
    if families.is_empty() { vec![IpFamily::IPv4, IpFamily::IPv6] } else { families }
}

/// The addresses that are wholly `service`'s, with why and with what that is called. An address may be there twice: what a
/// load balancer has announced goes before what the manifest names.
fn addresses(service: &Service) -> Vec<(FrontendKind, &'static str, IpAddr)> {
    let external = service.spec.external_ips.iter().filter_map(|address| address.parse().ok());
    let all = service.cluster_addresses().into_iter().map(|address| (FrontendKind::ClusterIP, "ClusterIP", address));
    let announced = service.load_balancer_addresses();
    let announced = announced.into_iter().map(|address| (FrontendKind::LoadBalancer, "load balancer address", address));
    all.chain(announced).chain(external.map(|address| (FrontendKind::ExternalIP, "externalIP", address))).collect()
}

/// The networks of a family whose clients may use `service`'s load balancer; none: everybody may. Where the node itself may,
/// so may the load balancer's own addresses, which the node uses as its source where it holds them too.
fn source_ranges(service: &Service, family: IpFamily, node: &NodeView) -> BTreeSet<IpNet> {
    let ranges = service.spec.load_balancer_source_ranges.iter().filter_map(|range| range.trim().parse::<IpNet>().ok());
    let mut ranges: BTreeSet<IpNet> =
        ranges.filter(|range| IpFamily::of(range.addr()) == family).map(|range| range.trunc()).collect();
    if node.addresses.iter().any(|address| ranges.iter().any(|range| range.contains(address))) {
        let own = service.load_balancer_addresses().into_iter().filter(|address| IpFamily::of(*address) == family);
        ranges.extend(own.map(IpNet::from));
    }
    ranges
}

/// The frontends of one port of `service`.
pub(super) fn frontends(
    service: &Service,
    port: &ServicePort,
    node: &NodeView,
    problems: &mut Vec<String>,
) -> Vec<Frontend> {
    if service.is_headless()
        || service.spec.r#type == ServiceType::ExternalName
        || service.left_to_others_by().is_some()
    {
        return Vec::new();
    }
    let families = families(service);
    let internal = Policy::of(service.spec.internal_traffic_policy.as_ref());
    let external = Policy::of(service.spec.external_traffic_policy.as_ref());
    let mut frontends = Vec::new();
    let mut add = |kind, port_number: i64, family, addresses: Vec<IpAddr>| {
        let number = u16::try_from(port_number).ok().filter(|number| *number != 0);
        if let Some(number) = number.filter(|_| !addresses.is_empty()) {
            let is_internal = kind == FrontendKind::ClusterIP;
            let is_announced = kind == FrontendKind::LoadBalancer;
            frontends.push(Frontend {
                kind,
                family,
                protocol: port.protocol,
                port: number,
                addresses,
                policy: if is_internal { internal } else { external },
                sources: if is_announced { source_ranges(service, family, node) } else { BTreeSet::new() },
                lost_to: None,
            });
        }
    };
    let mut known = BTreeSet::new();
    for (kind, name, address) in addresses(service) {
        let family = IpFamily::of(address);
        let is_served = kind == FrontendKind::ClusterIP || families.contains(&family);
        if !is_served || !known.insert(address) {
            continue;
        }
        if node.owns(address) {
            let problem = format!("{name} {address} is an address of this node: it is not served");
            // One sentence for all ports.
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        } else {
            add(kind, port.port, family, vec![address]);
        }
    }
    if let Some(node_port) = port.node_port {
        for family in families {
            let addresses = node.addresses.iter().copied().filter(|address| IpFamily::of(*address) == family);
            add(FrontendKind::NodePort, node_port, family, addresses.collect());
        }
    }
    frontends
}
