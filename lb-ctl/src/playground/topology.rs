//! Who has which address in a playground.
//!
//! ```text
//!  client ── eth0 ═══════ eth0 ── node-1 ── eth1 ═══════ eth0 ── node-2
//!  outside                        │  │  │                          │
//!                            visitor │ web-2                     web-3
//!                                  web-1
//! ```
//! The client's cable is IPv4 TEST-NET-1, the nodes' cable TEST-NET-2 (RFC 5737); IPv6 is from `2001:db8::/32`
//! (RFC 3849). Nothing here can meet an address of the machine: every end is in a namespace of the playground.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where `ClusterIPs` come from, one network for each family.
pub const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:96::/112"];
/// The port on which every pod serves HTTP and UDP.
pub const POD_PORT: u16 = 8080;
/// Node port of the HTTP service.
pub const NODE_PORT: u16 = 30080;
/// Node port of the UDP echo.
pub const NODE_PORT_UDP: u16 = 30053;
/// `ClusterIP` port of the HTTP service.
pub const SERVICE_PORT: u16 = 80;
/// `ClusterIP` port of the UDP echo.
pub const SERVICE_PORT_UDP: u16 = 53;

/// An address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dual {
    /// IPv4
    pub v4: Ipv4Addr,
    /// IPv6
    pub v6: Ipv6Addr,
}

impl Dual {
    const fn new(v4: [u8; 4], v6: [u16; 8]) -> Self {
        Self { v4: Ipv4Addr::from_octets(v4), v6: Ipv6Addr::from_segments(v6) }
    }

    /// Both addresses, IPv4 first.
    pub fn addresses(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The address of the same family as `other`.
    pub fn like(self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { self.v4.into() } else { self.v6.into() }
    }

    /// Both addresses as hosts of networks of these sizes.
    pub(super) fn within(self, v4: u8, v6: u8) -> [IpNet; 2] {
        [(IpAddr::from(self.v4), v4), (IpAddr::from(self.v6), v6)].map(|(address, size)| net(address, size))
    }

    /// Both addresses as networks of one host.
    pub(super) fn alone(self) -> [IpNet; 2] {
        self.within(32, 128)
    }
}

/// The outside client.
pub const CLIENT: Dual = Dual::new([192, 0, 2, 10], [0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10]);
/// The node's end of the client's cable: the address whose node ports the client uses.
pub const NODE: Dual = Dual::new([192, 0, 2, 1], [0x2001, 0xdb8, 1, 0, 0, 0, 0, 1]);
/// The node's end of the cable to the second node.
pub const NODE_INSIDE: Dual = Dual::new([198, 51, 100, 1], [0x2001, 0xdb8, 2, 0, 0, 0, 0, 1]);
/// The second node.
pub const NODE2: Dual = Dual::new([198, 51, 100, 2], [0x2001, 0xdb8, 2, 0, 0, 0, 0, 2]);

/// The two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// Runs the daemon.
    One,
    /// Only has a pod.
    Two,
}

impl Node {
    /// Its name in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Node::One => "node-1",
            Node::Two => "node-2",
        }
    }

    /// The `host`th address of its pods' network; the first is the gateway.
    pub const fn pod_address(self, host: u8) -> Dual {
        let node = self.number();
        Dual::new([10, 244, node, host], [0xfd00, 0x244, node as u16, 0, 0, 0, 0, host as u16])
    }

    /// The gateway of its pods.
    pub const fn gateway(self) -> Dual {
        self.pod_address(1)
    }

    /// The network of its pods.
    pub fn pod_networks(self) -> [IpNet; 2] {
        self.pod_address(0).within(24, 64)
    }

    const fn number(self) -> u8 {
        match self {
            Node::One => 1,
            Node::Two => 2,
        }
    }
}

/// A pod's place in the playground.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the pod.
    pub name: String,
    /// Its node.
    pub node: Node,
    /// Its address: see [`Node::pod_address`].
    pub host: u8,
}

impl Place {
    /// A place.
    pub fn new(name: &str, node: Node, host: u8) -> Self {
        Self { name: name.to_owned(), node, host }
    }

    /// Its addresses.
    pub fn address(&self) -> Dual {
        self.node.pod_address(self.host)
    }

    /// The node's end of its cable.
    pub fn node_link(&self) -> String {
        format!("veth-{}", self.name)
    }
}

/// The pods a playground starts with: a pure client, two backends on the node and one on the second node.
pub fn first_pods() -> [Place; 4] {
    [
        Place::new("visitor", Node::One, 10),
        Place::new("web-1", Node::One, 11),
        Place::new("web-2", Node::One, 12),
        Place::new("web-3", Node::Two, 13),
    ]
}

/// The service networks.
pub fn service_networks() -> [IpNet; 2] {
    [(IpAddr::from([10, 96, 0, 0]), 16), (IpAddr::from(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0)), 112)]
        .map(|(address, size)| net(address, size))
}

/// `address/size`, where every size in this file is a valid one for its family.
fn net(address: IpAddr, size: u8) -> IpNet {
    IpNet::new_assert(address, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_networks_are_what_the_daemon_is_told() {
        assert_eq!(service_networks().map(|network| network.to_string()), SERVICE_CIDRS.map(str::to_owned));
    }

    #[test]
    fn link_names_fit_the_kernel() {
        for place in first_pods() {
            assert!(place.node_link().len() < libc::IFNAMSIZ, "{}", place.node_link());
        }
    }
}
