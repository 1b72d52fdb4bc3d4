//! What the model and the image take from this node: its addresses, the addresses it lends, what is behind it.

use super::options::{DetectLocal, NodePortAddresses};
use crate::host::{HostView, Route};
use crate::image::Routes;
use crate::model::{ServiceView, Views};
use crate::objects::{Key, Node, Objects, ZONE_LABEL, differences};
use ipnet::IpNet;
use lb_common::Device;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Destinations that stand for "anywhere": of the networks for documentation, so that only a default route has them.
const ANYWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// All addresses.
const EVERYBODY: [IpNet; 2] =
    [IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)];

/// The addresses on which node ports are served: all global addresses of interfaces that are not loopbacks.
pub(super) fn addresses(host: &HostView) -> Vec<IpAddr> {
    let of_links = host
        .addresses
        .iter()
        .filter(|(index, _)| host.interfaces.get(index).is_some_and(|interface| !interface.loopback));
    let mut addresses: Vec<IpAddr> =
        of_links.map(|(_, network)| network.addr()).filter(|address| is_global(*address)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// The addresses of the node that serve node ports, and its others. `wanted` names nobody: all serve.
pub(super) fn nodeport_addresses(
    own: &[IpAddr],
    wanted: &[NodePortAddresses],
    manifest: Option<&Node>,
) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let entries = manifest.into_iter().flat_map(|node| &node.status.addresses);
    let internal = entries.filter(|entry| entry.r#type == "InternalIP").filter_map(|entry| entry.address.parse().ok());
    let internal: Vec<IpAddr> = internal.filter(|address| own.contains(address)).collect();
    let serves = |address: &IpAddr| {
        wanted.iter().any(|one| match one {
            NodePortAddresses::Primary => {
                internal.contains(address) || !internal.iter().any(|other| other.is_ipv4() == address.is_ipv4())
            }
            NodePortAddresses::All => true,
            NodePortAddresses::In(network) => network.contains(address),
        })
    };
    own.iter().partition(|address| wanted.is_empty() || serves(address))
}

/// The networks by which pods are told from clients outside.
pub(super) fn pod_networks((how, cluster): &(DetectLocal, Vec<IpNet>), manifest: Option<&Node>) -> BTreeSet<IpNet> {
    let networks: Vec<IpNet> = match how {
        DetectLocal::ClusterCidr => cluster.clone(),
        DetectLocal::NodeCidr => manifest
            .into_iter()
            .flat_map(|node| node.spec.pod_cidrs.iter().chain(&node.spec.pod_cidr))
            .copied()
            .collect(),
        DetectLocal::None => Vec::new(),
    };
    networks.iter().map(IpNet::trunc).collect()
}

/// The networks whose clients keep their address at ClusterIPs, as kube-proxy has it: the pods, or everybody where nothing tells
/// these from others.
pub(super) fn kept_networks(how: DetectLocal, pods: &BTreeSet<IpNet>, masquerade_all: bool) -> BTreeSet<IpNet> {
    match how {
        _ if masquerade_all => BTreeSet::new(),
        DetectLocal::None => EVERYBODY.into(),
        DetectLocal::ClusterCidr | DetectLocal::NodeCidr => pods.clone(),
    }
}

/// The zones of the nodes whose manifests say one, by the node's name.
pub(super) fn zones(objects: &Objects) -> BTreeMap<String, String> {
    let of_node = |node: &Node| Some((node.metadata.name.clone(), node.metadata.labels.get(ZONE_LABEL)?.clone()));
    objects.nodes.values().filter_map(|node| of_node(node)).collect()
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_loopback() || address.is_link_local() || address.is_unspecified() || address.is_multicast())
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_unspecified()
                || address.is_multicast())
        }
    }
}

/// The addresses lent to connections that need source translation: those `wanted` that the host has, or, in a family of
/// which none is wanted, the one known best: the Node manifest's `InternalIP`, if the host has it; the source address of the
/// default route; the first address of an interface in `managed`. A wanted address that the host does not have is never
/// replaced by another: whoever names addresses has firewalls that expect them.
pub(super) fn lent_addresses(
    wanted: &[IpAddr],
    host: &HostView,
    objects: &Objects,
    name: &str,
    managed: impl Iterator<Item = u32>,
    source_to: impl FnMut(IpAddr) -> Option<IpAddr>,
) -> (Vec<Ipv4Addr>, Vec<Ipv6Addr>) {
    let own = addresses(host);
    let node = objects.nodes.get(&Key::new("", name));
    let internal = node.iter().flat_map(|node| &node.status.addresses).filter(|entry| entry.r#type == "InternalIP");
    let internal = internal.filter_map(|entry| entry.address.parse::<IpAddr>().ok());
    let by_route = ANYWHERE.into_iter().filter_map(source_to);
    let by_interface = managed.flat_map(|index| host.addresses_of(index));
    let candidates: Vec<IpAddr> =
        internal.chain(by_route).chain(by_interface).filter(|address| own.contains(address)).collect();
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for is_v4 in [true, false] {
        let of_family = |address: &&IpAddr| address.is_ipv4() == is_v4;
        let found: Vec<IpAddr> = if wanted.iter().any(|address| of_family(&address)) {
            wanted.iter().filter(of_family).filter(|address| own.contains(address)).copied().collect()
        } else {
            candidates.iter().find(of_family).copied().into_iter().collect()
        };
        for address in found {
            match address {
                IpAddr::V4(address) => v4.push(address),
                IpAddr::V6(address) => v6.push(address),
            }
        }
    }
    (v4, v6)
}

/// Which of the endpoints that nobody placed on a node are behind this one, as the kernel routes them. Remembers what it
/// asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Placement {
    /// The views that were seen last.
    views: Views,
    /// How many endpoints have an address.
    uses: BTreeMap<IpAddr, usize>,
    routes: Routes,
    /// What is known may be so no more.
    is_stale: bool,
}

impl Placement {
    /// Asks anew for everything: the host's interfaces or routes may have changed.
    pub(super) fn forget(&mut self) {
        self.is_stale = true;
    }

    /// The routes that tell for every endpoint of `views` whose node nobody named. `is_behind` says whether packets to an
    /// address stay on this node.
    pub(super) fn routes(&mut self, views: &Views, is_behind: impl Fn(IpAddr) -> bool) -> Routes {
        if std::mem::take(&mut self.is_stale) {
            self.uses.keys().for_each(|address| self.routes.insert((*address).into(), is_behind(*address)));
        }
        for (_, before, now) in differences(&self.views, views) {
            for address in now.into_iter().flat_map(|view| unplaced(view)) {
                let uses = self.uses.entry(address).or_default();
                *uses += 1;
                if *uses == 1 {
                    self.routes.insert(address.into(), is_behind(address));
                }
            }
            for address in before.into_iter().flat_map(|view| unplaced(view)) {
                if let Entry::Occupied(mut uses) = self.uses.entry(address) {
                    *uses.get_mut() -= 1;
                    if *uses.get() == 0 {
                        uses.remove();
                        self.routes.remove(address.into());
                    }
                }
            }
        }
        self.views = views.clone();
        self.routes.clone()
    }
}

fn unplaced(view: &ServiceView) -> impl Iterator<Item = IpAddr> {
    let endpoints = view.ports.iter().flat_map(|port| &port.endpoints);
    endpoints.filter(|endpoint| endpoint.local.is_none()).map(|endpoint| endpoint.address)
}

/// The interfaces by which other nodes are reached, as the kernel routes their addresses. Remembers what it asked.
#[derive(Clone, Debug, Default)]
pub(super) struct WaysToNodes(BTreeMap<IpAddr, Option<u32>>);

impl WaysToNodes {
    /// Asks anew for everything: the host's interfaces or routes may have changed.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// The indexes of the interfaces that lead to a node other than the one called `own`.
    pub(super) fn interfaces(
        &mut self,
        objects: &Objects,
        own: &str,
        route_to: &dyn Fn(IpAddr) -> Option<Route>,
    ) -> BTreeSet<u32> {
        let others = objects.nodes.values().filter(|node| node.metadata.name != own);
        let entries = others.flat_map(|node| &node.status.addresses);
        let addresses = entries.filter_map(|entry| entry.address.parse::<IpAddr>().ok());
        let way = |address| route_to(address).filter(|route| !route.local).map(|route| route.ifindex);
        self.0 =
            addresses.map(|address| (address, self.0.get(&address).copied().unwrap_or_else(|| way(address)))).collect();
        self.0.values().flatten().copied().collect()
    }
}

/// Whether packets to `address` stay on this node: it is the node's own, or its route leads to an interface with local
/// clients behind it. A bridge counts as what its managed ports are, as long as none of them is a wire.
pub(super) fn is_behind(
    address: IpAddr,
    host: &HostView,
    devices: &BTreeMap<u32, Device>,
    route_to: &dyn Fn(IpAddr) -> Option<Route>,
) -> bool {
    let Some(route) = route_to(address) else { return false };
    let has_clients = |index: &u32| devices.get(index).map(|device| device.flags & Device::LOCAL_CLIENTS != 0);
    let mut ports = host.interfaces.values().filter(|port| port.master == Some(route.ifindex)).peekable();
    let by_ports = || {
        ports.peek().is_some() && {
            let known: Vec<bool> = ports.filter_map(|port| has_clients(&port.index)).collect();
            !known.is_empty() && known.into_iter().all(|clients| clients)
        }
    };
    route.local || has_clients(&route.ifindex).unwrap_or_else(by_ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{NodeAddress, Object};
    use std::sync::Arc;

    fn host() -> HostView {
        let mut host = HostView::default();
        for (index, name, addresses) in [
            (1, "lo", vec!["127.0.0.1/8", "10.9.9.9/32", "::1/128"]),
            (2, "eth0", vec!["203.0.113.5/24", "2001:db8:1::5/64", "fe80::1/64"]),
            (3, "eth1", vec!["10.0.0.5/24", "169.254.1.1/16"]),
        ] {
            host.interfaces.insert(index, super::super::fakes::interface(index, name));
            host.addresses.extend(addresses.into_iter().map(|address| (index, address.parse().unwrap())));
        }
        host
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn node_ports_are_served_on_global_addresses_only() {
        assert_eq!(addresses(&host()), [ip("10.0.0.5"), ip("203.0.113.5"), ip("2001:db8:1::5")]);
    }

    #[test]
    fn wanted_addresses_are_lent_if_the_host_has_them_and_never_replaced() {
        let lent = |wanted: &[&str]| {
            let wanted: Vec<IpAddr> = wanted.iter().map(|address| ip(address)).collect();
            let (v4, v6) = lent_addresses(&wanted, &host(), &node("10.0.0.5"), "n1", std::iter::empty(), |_| None);
            v4.into_iter().map(IpAddr::from).chain(v6.into_iter().map(IpAddr::from)).collect::<Vec<_>>()
        };
        assert_eq!(lent(&["203.0.113.5", "10.0.0.5"]), [ip("203.0.113.5"), ip("10.0.0.5")], "in this order");
        assert_eq!(lent(&["203.0.113.9", "203.0.113.5"]), [ip("203.0.113.5")]);
        assert_eq!(lent(&["203.0.113.9"]), [] as [IpAddr; 0]);
        assert_eq!(lent(&["2001:db8:1::5"]), [ip("10.0.0.5"), ip("2001:db8:1::5")], "the other family is found");
    }

    #[test]
    fn nodeport_addresses_are_the_primary_ones_unless_others_are_named() {
        let own = addresses(&host());
        let objects = node("10.0.0.5");
        let manifest = objects.nodes.get(&Key::new("", "n1")).map(Arc::as_ref);
        let serving = |wanted: &[&str], manifest| {
            let wanted: Vec<NodePortAddresses> = wanted.iter().map(|text| text.parse().unwrap()).collect();
            nodeport_addresses(&own, &wanted, manifest)
        };
        let all = [ip("10.0.0.5"), ip("203.0.113.5"), ip("2001:db8:1::5")];
        let v6_named_by_nobody = (vec![all[0], all[2]], vec![all[1]]);
        assert_eq!(serving(&["primary"], manifest), v6_named_by_nobody);
        assert_eq!(serving(&["primary"], None), (all.to_vec(), vec![]));
        assert_eq!(serving(&["all"], manifest), (all.to_vec(), vec![]));
        assert_eq!(serving(&["203.0.113.0/24"], manifest), (vec![all[1]], vec![all[0], all[2]]));
    }

    #[test]
    fn pods_are_told_by_networks() {
        let mut node = Node::default();
        node.spec.pod_cidrs = vec!["10.244.1.0/24".parse().unwrap()];
        let cluster: Vec<IpNet> = vec!["10.244.0.0/16".parse().unwrap()];
        let networks = |how| pod_networks(&(how, cluster.clone()), Some(&node)).into_iter().collect::<Vec<_>>();
        assert_eq!(networks(DetectLocal::ClusterCidr), cluster);
        assert_eq!(networks(DetectLocal::NodeCidr), node.spec.pod_cidrs);
        assert_eq!(networks(DetectLocal::None), []);
        let pods = BTreeSet::from_iter(cluster.clone());
        assert_eq!(kept_networks(DetectLocal::ClusterCidr, &pods, false), pods);
        assert_eq!(kept_networks(DetectLocal::None, &BTreeSet::new(), false), EVERYBODY.into());
        assert_eq!(kept_networks(DetectLocal::None, &BTreeSet::new(), true), BTreeSet::new());
    }

    fn lent(objects: &Objects, routes: &[(&str, &str)], managed: &[u32]) -> (Option<String>, Option<String>) {
        let source = |to: IpAddr| {
            let route = routes.iter().find(|(family, _)| (*family == "4") == to.is_ipv4());
            route.map(|(_, source)| ip(source))
        };
        let (v4, v6) = lent_addresses(&[], &host(), objects, "n1", managed.iter().copied(), source);
        assert!(v4.len() <= 1 && v6.len() <= 1);
        (v4.first().map(ToString::to_string), v6.first().map(ToString::to_string))
    }

    fn node(address: &str) -> Objects {
        let mut node = Node::default();
        node.metadata.name = "n1".to_owned();
        node.status.addresses.push(NodeAddress { r#type: "InternalIP".to_owned(), address: address.to_owned() });
        let mut objects = Objects::default();
        objects.insert(Object::Node(Arc::new(node)));
        objects
    }

    #[test]
    fn an_interface_leads_to_nodes_if_the_route_to_another_node_does() {
        let mut ways = WaysToNodes::default();
        let by = |ifindex, local| move |_| Some(Route { ifindex, gateway: None, prefsrc: None, local });
        let objects = node("10.0.0.6");
        assert_eq!(ways.interfaces(&objects, "n2", &by(3, false)), BTreeSet::from([3]));
        assert_eq!(ways.interfaces(&objects, "n2", &by(4, false)), BTreeSet::from([3]), "asked once");
        ways.forget();
        assert_eq!(ways.interfaces(&objects, "n2", &by(4, false)), BTreeSet::from([4]));
        assert_eq!(ways.interfaces(&objects, "n1", &by(4, false)), BTreeSet::new(), "its own addresses lead nowhere");
        ways.forget();
        assert_eq!(ways.interfaces(&objects, "n2", &by(1, true)), BTreeSet::new());
    }

    #[test]
    fn only_endpoints_that_nobody_placed_are_asked_for_and_once() {
        let views = |endpoints: &[(&str, Option<&str>)]| {
            let endpoint = |(address, node): &(&str, Option<&str>)| {
                let node = node.map(|node| format!(", nodeName: {node}")).unwrap_or_default();
                format!("{{addresses: [{address}]{node}}}")
            };
            let endpoints: Vec<String> = endpoints.iter().map(endpoint).collect();
            let slice = format!(
                "{{metadata: {{name: s, namespace: d, labels: {{kubernetes.io/service-name: s}}}}, addressType: IPv4, \
                 ports: [{{port: 80}}], endpoints: [{}]}}",
                endpoints.join(", ")
            );
            let service = "{metadata: {name: s, namespace: d}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}";
            let mut objects = Objects::default();
            objects.insert(Object::Service(Arc::new(serde_yaml::from_str(service).unwrap())));
            objects.insert(Object::EndpointSlice(Arc::new(serde_yaml::from_str(&slice).unwrap())));
            crate::model::services(&objects, &crate::model::NodeView::default())
        };
        let mut placement = Placement::default();
        let ask = |placement: &mut Placement, views: &Views, behind: bool| {
            let asked = std::cell::RefCell::new(Vec::new());
            let routes = placement.routes(views, |address| {
                asked.borrow_mut().push(address.to_string());
                behind
            });
            (routes, asked.into_inner())
        };
        let routes = |of: &[(&str, bool)]| -> Routes {
            of.iter().map(|(address, behind)| (ip(address).into(), *behind)).collect()
        };
        let both = views(&[("10.0.0.1", None), ("10.0.0.2", None), ("10.0.0.3", Some("n1"))]);
        let (known, asked) = ask(&mut placement, &both, true);
        assert_eq!((known, asked.len()), (routes(&[("10.0.0.1", true), ("10.0.0.2", true)]), 2));
        assert_eq!(ask(&mut placement, &both, false).1.len(), 0, "asked once");
        let one = views(&[("10.0.0.2", None)]);
        assert_eq!(ask(&mut placement, &one, false), (routes(&[("10.0.0.2", true)]), Vec::new()));
        placement.forget();
        assert_eq!(ask(&mut placement, &one, false), (routes(&[("10.0.0.2", false)]), vec!["10.0.0.2".to_owned()]));
        let (known, asked) = ask(&mut placement, &both, true);
        assert_eq!((known, asked), (routes(&[("10.0.0.1", true), ("10.0.0.2", false)]), vec!["10.0.0.1".to_owned()]));
        assert_eq!(ask(&mut placement, &Views::new(), true).0, Routes::default());
    }

    #[test]
    fn an_endpoint_is_behind_this_node_if_its_route_leads_to_local_clients() {
        let mut host = host();
        host.interfaces.insert(9, super::super::fakes::interface(9, "br0"));
        for index in [10, 11] {
            let mut port = super::super::fakes::interface(index, "port");
            port.master = Some(9);
            host.interfaces.insert(index, port);
        }
        let clients = Device::new(Device::LOCAL_CLIENTS);
        let by = |ifindex, local| move |_| Some(Route { ifindex, gateway: None, prefsrc: None, local });
        let devices = |entries: &[(u32, Device)]| entries.iter().copied().collect::<BTreeMap<_, _>>();
        let address = ip("10.244.0.5");
        for (devices, route, expected) in [
            (devices(&[(3, clients)]), by(3, false), true),
            (devices(&[(3, Device::default())]), by(3, false), false),
            (devices(&[]), by(3, false), false),
            (devices(&[]), by(1, true), true),
            (devices(&[(10, clients), (11, clients)]), by(9, false), true),
            (devices(&[(10, clients), (11, Device::default())]), by(9, false), false),
        ] {
            assert_eq!(is_behind(address, &host, &devices, &route), expected, "{devices:?}");
        }
        assert!(!is_behind(address, &host, &devices(&[(3, clients)]), &|_| None));
    }

    #[test]
    fn the_lent_address_is_the_nodes_then_the_routes_then_an_interfaces() {
        let some = |text: &str| Some(text.to_owned());
        let none = Objects::default();
        let routes = [("4", "203.0.113.5"), ("6", "2001:db8:1::5")];
        assert_eq!(lent(&node("10.0.0.5"), &routes, &[]), (some("10.0.0.5"), some("2001:db8:1::5")));
        assert_eq!(lent(&node("10.0.0.77"), &routes, &[]).0, some("203.0.113.5"), "not an address of the host");
        assert_eq!(lent(&none, &[], &[3, 2]), (some("10.0.0.5"), some("2001:db8:1::5")));
        assert_eq!(lent(&none, &[], &[]), (None, None));
    }
}
