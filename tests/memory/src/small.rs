//! A small node: a few Services and backends, written by hand, that packets are sent through on the host and in the kernel.

use crate::Image;
use crate::memory::Surroundings;
use ipnet::IpNet;
use lb_common::network::{KEPT, PODS};
use lb_common::{
    Backend, BackendSet, Device, NextHop, Owned, Peer, SCTP, Service, ServiceKey, Settings, Slot, TCP, UDP,
};
use lb_ebpf::Route;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Backends by id.
pub const LOCAL_1: u32 = 1;
/// A second pod on this node.
pub const LOCAL_2: u32 = 2;
/// A pod on another node.
pub const REMOTE: u32 = 3;
/// A socket of this node.
pub const HOST: u32 = 4;
/// Added to the ids of IPv4 backends to get those of IPv6.
pub const V6: u32 = 20;

/// Service ports by id: two local backends, TCP and UDP.
pub const WEB: u32 = 1;
/// UDP to the same backends.
pub const DNS: u32 = 2;
/// The node port of [`WEB`].
pub const WEB_NODE_PORT: u32 = 3;
/// One remote backend.
pub const FAR: u32 = 4;
/// No backend.
pub const EMPTY: u32 = 5;
/// One local backend, for hairpins and collisions.
pub const SINGLE: u32 = 6;
/// A second Service on the backend of [`SINGLE`].
pub const TWIN: u32 = 7;
/// A backend that is a socket of this node.
pub const ON_HOST: u32 = 8;

/// SCTP to one local backend, on port 80 and on the backend's own.
pub const SIGNAL: u32 = 9;
/// SCTP to one remote backend.
pub const SIGNAL_FAR: u32 = 10;
/// The node port of [`DNS`].
pub const DNS_NODE_PORT: u32 = 11;

/// The port of all backends.
pub const TARGET_PORT: u16 = 8080;
/// The node port of [`WEB`].
pub const NODE_PORT: u16 = 30080;
/// The node port of [`DNS`].
pub const UDP_NODE_PORT: u16 = 30053;

/// The family to build addresses of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    fn pick(self, v4: [u8; 4], v6: [u16; 8]) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::from(v4).into(),
            Family::V6 => Ipv6Addr::from(v6).into(),
        }
    }

    /// The ClusterIP of a service port.
    pub fn cluster(self, service: u32, port: u16) -> SocketAddr {
        let id = if service == DNS { WEB } else { service };
        SocketAddr::new(self.pick([10, 96, 0, id as u8], [0xfd00, 0x96, 0, 0, 0, 0, 0, id as u16]), port)
    }

    /// A backend's address.
    pub fn backend(self, id: u32) -> IpAddr {
        match id {
            HOST => self.node(),
            REMOTE => self.pick([10, 244, 2, 3], [0xfd00, 0x244, 2, 0, 0, 0, 0, 3]),
            _ => self.pick([10, 244, 1, id as u8], [0xfd00, 0x244, 1, 0, 0, 0, 0, id as u16]),
        }
    }

    /// The node's address.
    pub fn node(self) -> IpAddr {
        self.pick([192, 0, 2, 1], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])
    }

    /// An outside client.
    pub fn client(self) -> IpAddr {
        self.pick([198, 51, 100, 9], [0x2001, 0xdb8, 1, 0, 0, 0, 0, 9])
    }

    fn version(self) -> u8 {
        if self == Family::V4 { 4 } else { 6 }
    }

    fn id(self, backend: u32) -> u32 {
        if self == Family::V4 { backend } else { backend + V6 }
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&[a, b, c, d]);
            octets
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// The cookie of the node's network namespace.
pub const NAMESPACE: u64 = 0x0de;

/// What the daemon would have written for this node. `uplink` is fed by a wire, `inside` by pods.
pub fn image(uplink: u32, inside: u32) -> Image {
    let mut image = Image {
        settings: Settings {
            seed: 0x5eed,
            netns_cookie: NAMESPACE,
            snat4: Settings::lent([[192, 0, 2, 1]]),
            snat_port_first: Settings::SNAT_PORTS.0,
            snat_port_last: Settings::SNAT_PORTS.1,
            snat6: Settings::lent([octets(Family::V6.node())]),
            ..Settings::default()
        },
        ..Image::default()
    };
    image.devices.insert(uplink, Device::new(Device::XDP_TARGET));
    image.devices.insert(inside, Device::new(Device::XDP_TARGET | Device::LOCAL_CLIENTS));
    for family in Family::BOTH {
        image.owned.insert(family.node(), Owned::NODE);
        for (backend, flags) in [
            (LOCAL_1, Backend::ALIVE | Backend::LOCAL),
            (LOCAL_2, Backend::ALIVE | Backend::LOCAL),
            (REMOTE, Backend::ALIVE),
            (HOST, Backend::ALIVE | Backend::LOCAL | Backend::NODE),
        ] {
            let record = Backend {
                address: octets(family.backend(backend)),
                flags,
                generation: 1,
                family: family.version(),
                reserved: [0; 3],
            };
            image.backends.insert(family.id(backend), record);
        }
        let services: [(u32, u16, u8, &[u32]); 12] = [
            (WEB, 80, TCP, &[LOCAL_1, LOCAL_2]),
            (DNS, 53, UDP, &[LOCAL_1, LOCAL_2]),
            (WEB_NODE_PORT, NODE_PORT, TCP, &[LOCAL_1, LOCAL_2]),
            (DNS_NODE_PORT, UDP_NODE_PORT, UDP, &[LOCAL_1, LOCAL_2]),
            (FAR, 80, TCP, &[REMOTE]),
            (EMPTY, 80, TCP, &[]),
            (SINGLE, 80, TCP, &[LOCAL_1]),
            (TWIN, 80, TCP, &[LOCAL_1]),
            (ON_HOST, 80, TCP, &[HOST]),
            (SIGNAL, 80, SCTP, &[LOCAL_1]),
            (SIGNAL, TARGET_PORT, SCTP, &[LOCAL_1]),
            (SIGNAL_FAR, 80, SCTP, &[REMOTE]),
        ];
        for (id, port, protocol, backends) in services {
            let cluster = family.cluster(id, 0).ip();
            let key = if matches!(id, WEB_NODE_PORT | DNS_NODE_PORT) {
                ServiceKey::of_node(port, protocol, family.version())
            } else {
                image.owned.insert(cluster, Owned::SERVICE);
                ServiceKey::new(cluster, port, protocol)
            };
            let base = family.id(id) * 8;
            for (index, backend) in backends.iter().enumerate() {
                let slot = Slot { backend: family.id(*backend), port: [0; 2], generation: 1 };
                image.slots.insert(base + index as u32, slot);
            }
            let service = Service {
                backends: BackendSet::new(base, backends.len() as u32, 1),
                id: family.id(id),
                target_port: TARGET_PORT.to_be_bytes(),
                flags: 0,
                affinity_ticks: 0,
                affinity_id: 0,
                members: BackendSet::EMPTY,
            };
            image.services.insert(key, service);
            if id == DNS_NODE_PORT {
                let cluster = family.cluster(DNS, 53);
                let peer = Peer::new(family.version(), UDP, octets(cluster.ip()), cluster.port().to_be_bytes());
                image.node_ports.insert(key, peer);
            }
        }
    }
    image
}

/// Gives Services traffic policies and source ranges: behind [`SINGLE`] are then a pod here and one elsewhere.
pub fn set_policies(image: &mut Image) {
    for family in Family::BOTH {
        let (pods, clients) = match family {
            Family::V4 => ("10.244.0.0/16", "198.51.100.0/24"),
            Family::V6 => ("fd00:244::/32", "2001:db8:1::/48"),
        };
        let network = |text: &str| text.parse::<IpNet>().expect("a network");
        image.networks.entry(PODS).or_default().insert(network(pods));
        image.networks.insert(family.id(TWIN), [network(clients)].into());
        image.networks.entry(KEPT).or_default().insert(network(clients));
        let remote = Slot { backend: family.id(REMOTE), port: [0; 2], generation: 1 };
        image.slots.insert(family.id(SINGLE) * 8 + 1, remote);
        let is_scoped = |id: u32| [WEB, WEB_NODE_PORT, FAR, SINGLE].map(|service| family.id(service)).contains(&id);
        let of_family = |key: &ServiceKey| key.version() == family.version();
        let records: Vec<_> = image.services.iter().filter(|(key, _)| of_family(key)).map(|(k, s)| (*k, *s)).collect();
        for (key, mut service) in records {
            if service.id == family.id(TWIN) {
                service.flags = Service::RANGED;
            }
            if service.id == family.id(SIGNAL_FAR) {
                service.flags = Service::INTERNAL;
            }
            if is_scoped(service.id) {
                let count = if service.id == family.id(SINGLE) { 2 } else { service.backends.count() };
                let all = BackendSet::new(service.backends.base(), count, 1);
                image.services.insert(key.within(), Service { backends: all, ..service });
                service.flags = Service::SCOPED;
                if service.id == family.id(FAR) {
                    service.backends = BackendSet::EMPTY;
                }
            }
            image.services.insert(key, service);
        }
    }
}

/// Notes where connections from outside must stay on this node and no backend is here.
pub fn note_elsewhere(image: &mut Image) {
    let within = |key: &ServiceKey| image.services.get(&key.within()).is_some_and(|one| one.backends.count() > 0);
    let elsewhere: Vec<ServiceKey> = image.services.keys().filter(|key| within(key)).copied().collect();
    for key in elsewhere {
        if let Some(service) = image.services.get_mut(&key).filter(|service| service.backends.count() == 0) {
            service.flags |= Service::ELSEWHERE;
        }
    }
}

/// The next hop to a destination behind `ifindex`, with MACs that tell the interface.
pub fn hop(ifindex: u32) -> NextHop {
    let last = ifindex as u8;
    NextHop { macs: [2, 0, 0, 0, 1, last, 2, 0, 0, 0, 0, last], ifindex, mtu: 1500, flags: 0, came_to: [0; 4] }
}

/// The node around a packet that came in by `ifindex` at `tick`: pods behind `inside`, everything else behind `uplink`.
pub fn surroundings(uplink: u32, inside: u32, ifindex: u32, tick: u32) -> Surroundings {
    let mut surroundings = Surroundings { tick, ifindex, ..Surroundings::default() };
    for family in Family::BOTH {
        for backend in [LOCAL_1, LOCAL_2] {
            surroundings.routes.insert(family.backend(backend), Route::Via(hop(inside)));
        }
        surroundings.routes.insert(family.backend(REMOTE), Route::Via(hop(uplink)));
        surroundings.routes.insert(family.client(), Route::Via(hop(uplink)));
    }
    surroundings
}
