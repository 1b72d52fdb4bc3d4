//! What must hold for whatever happens to Services: every prefix of a plan is safe, plans converge, also over failing
//! maps, incremental plans add up to a full one, and a restarted daemon finds everything as it was.

use lb_common::{BackendSet, Owned, Peer, Service, ServiceKey};
use lb_ctl::image::{HostFacts, Reconciler, Renderer, apply, backend_address, dangling, plan};
use lb_ctl::maps::{FakeMaps, Fault, FaultyMaps, Image, LbMaps, MapOp};
use lb_ctl::model::{self, FrontendKind, NodeView, Views};
use lb_ctl::objects::{
    self, AddressType, Endpoint, EndpointPort, EndpointSlice, IpFamily, Object, Objects, Protocol, SERVICE_NAME_LABEL,
    ServicePort, ServiceType,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One Service of a scenario, small so that Services collide, share sets and take over each other's addresses.
#[derive(Clone, Debug)]
struct Spec {
    address: u8,
    dual: bool,
    ports: BTreeSet<u16>,
    udp: bool,
    node_port: Option<u16>,
    /// Address, port's last digit, ready.
    endpoints: Vec<(u8, u8, bool)>,
    target: u16,
}

/// One step: all Services, the node's last address byte, and how long after the step before.
type Step = (Vec<Option<Spec>>, u8, u64);

fn spec() -> impl Strategy<Value = Spec> {
    let ports = prop::collection::btree_set(prop_oneof![Just(80u16), Just(81), Just(443)], 1..3);
    let node_port = prop::option::of(30000u16..30003);
    let endpoints = prop::collection::vec((1u8..8, 0u8..2, prop::bool::weighted(0.8)), 0..5);
    (1u8..4, any::<bool>(), ports, any::<bool>(), node_port, endpoints, 8080u16..8082).prop_map(
        |(address, dual, ports, udp, node_port, endpoints, target)| Spec {
            address,
            dual,
            ports,
            udp,
            node_port,
            endpoints,
            target,
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let services = prop::collection::vec(prop::option::weighted(0.8, spec()), 4);
    prop::collection::vec((services, 1u8..3, prop_oneof![Just(1u64), Just(40), Just(200)]), 1..8)
}

fn object(name: usize, spec: &Spec) -> [Object; 3] {
    let mut service = objects::Service::default();
    service.metadata.name = format!("s{name}");
    "default".clone_into(&mut service.metadata.namespace);
    service.spec.cluster_ips = vec![format!("10.96.0.{}", spec.address)];
    if spec.dual {
        service.spec.cluster_ips.push(format!("fd96::{}", spec.address));
    }
    let protocol = if spec.udp { Protocol::UDP } else { Protocol::TCP };
    for (index, port) in spec.ports.iter().enumerate() {
        let node_port = spec.node_port.filter(|_| index == 0).map(i64::from);
        let name = Some(format!("p{port}"));
        service.spec.ports.push(ServicePort {
            name,
            protocol,
            port: i64::from(*port),
            node_port,
            ..ServicePort::default()
        });
    }
    if spec.node_port.is_some() {
        service.spec.r#type = ServiceType::NodePort;
    }
    let slice = |digit: u8, address_type: AddressType| {
        let prefix = if address_type == AddressType::IPv4 { "10.244.0." } else { "fd44::" };
        let of_digit = spec.endpoints.iter().filter(|(_, endpoint_digit, _)| *endpoint_digit == digit);
        let endpoints = of_digit.map(|(address, _, ready)| {
            let mut endpoint = Endpoint { addresses: vec![format!("{prefix}{address}")], ..Endpoint::default() };
            endpoint.conditions.ready = Some(*ready);
            endpoint.node_name = (address % 3 != 0).then(|| format!("node-{}", address % 2));
            endpoint
        });
        let ports = spec.ports.iter().map(|port| EndpointPort {
            name: Some(format!("p{port}")),
            port: Some(i64::from(spec.target) + i64::from(digit) * 1000),
            protocol,
            ..EndpointPort::default()
        });
        let mut slice = EndpointSlice {
            api_version: String::new(),
            kind: String::new(),
            metadata: service.metadata.clone(),
            address_type,
            endpoints: endpoints.collect(),
            ports: ports.collect(),
        };
        slice.metadata.name = format!("s{name}-{digit}-{address_type:?}");
        slice.metadata.labels.insert(SERVICE_NAME_LABEL.to_owned(), service.metadata.name.clone());
        Object::EndpointSlice(Arc::new(slice))
    };
    let other = if spec.dual { slice(0, AddressType::IPv6) } else { slice(1, AddressType::IPv4) };
    let first = slice(0, AddressType::IPv4);
    [Object::Service(Arc::new(service)), first, other]
}

fn inputs((services, node, _): &Step) -> (Views, HostFacts) {
    let mut objects = Objects::default();
    for (name, spec) in services.iter().enumerate() {
        for object in spec.iter().flat_map(|spec| object(name, spec)) {
            objects.insert(object);
        }
    }
    let addresses: Vec<IpAddr> = vec![[192, 168, 7, *node].into(), format!("fd07::{node}").parse().unwrap()];
    let mut host = HostFacts { node_addresses: addresses.iter().copied().collect(), ..HostFacts::default() };
    host.settings.seed = u64::from(*node);
    host.routes = [("10.244.0.3/32".parse().unwrap(), *node == 1)].into_iter().collect();
    (model::services(&objects, &NodeView { name: "node-0".to_owned(), addresses, ..NodeView::default() }), host)
}

/// Where a client's packet goes: for every address, port, protocol and family, the addresses and ports of backends.
/// The addresses of the node are one: an address that ceases to be the node's may well see a new node port for a moment.
type Paths = BTreeMap<(IpAddr, u16, u8), Vec<(IpAddr, u16)>>;

fn node(family: IpAddr) -> IpAddr {
    if family.is_ipv4() { [0; 4].into() } else { [0; 16].into() }
}

fn paths(image: &Image) -> Paths {
    let mut paths = Paths::new();
    for (address, owned) in &image.owned {
        for (key, service) in &image.services {
            let is_there = match key.ip() {
                Some(ip) => ip == *address,
                None => *owned == Owned::NODE && (key.version() == 4) == address.is_ipv4(),
            };
            if !is_there {
                continue;
            }
            let set = service.backends;
            let backends = (set.base()..).take(set.count() as usize).map(|index| {
                let slot = image.slots[&index];
                let port = if slot.port == [0; 2] { service.target_port } else { slot.port };
                (backend_address(&image.backends[&slot.backend]).unwrap(), u16::from_be_bytes(port))
            });
            let address = if key.is_of_node() { node(*address) } else { *address };
            paths.insert((address, key.port(), key.protocol), backends.collect());
        }
    }
    paths
}

/// The same from the views: what the image must come to.
fn wanted(views: &Views) -> Paths {
    let mut paths = Paths::new();
    for port in views.values().flat_map(|view| &view.ports) {
        for frontend in port.frontends.iter().filter(|frontend| frontend.lost_to.is_none()) {
            let backends =
                port.chosen(frontend.family, frontend.policy).map(|endpoint| (endpoint.address, endpoint.port));
            let backends: Vec<_> = backends.collect();
            for address in &frontend.addresses {
                let address = if frontend.kind == FrontendKind::NodePort { &node(*address) } else { address };
                paths.insert((*address, frontend.port, frontend.protocol.number()), backends.clone());
            }
        }
    }
    paths
}

/// Applies the plan write by write. At every moment nothing dangles, and every path is as in the old image, as in the
/// new one, or (where `gaps` are allowed) leads nowhere.
fn apply_step_by_step(maps: &mut FakeMaps, image: &Image, realized: &mut Image, ops: &[MapOp], gaps: bool) {
    let (old, new) = (paths(realized), paths(image));
    apply(&mut maps.clone(), ops, image, realized).unwrap();
    for op in ops {
        maps.apply(op).unwrap();
        let held = maps.image();
        assert_eq!(dangling(&held), Vec::<String>::new(), "after {op}\n{held}");
        let now = paths(&held);
        for path in old.keys().chain(new.keys()).chain(now.keys()) {
            let found = now.get(path);
            let is_gap = found.is_none_or(Vec::is_empty);
            assert!(
                found == old.get(path) || found == new.get(path) || (gaps && is_gap),
                "{path:?} leads to {found:?} after {op}\n{held}"
            );
        }
    }
}

/// UDP node ports, by port and family, with the ClusterIP they stand for.
type NodePorts = BTreeMap<(u16, bool), SocketAddr>;

fn node_ports(image: &Image) -> NodePorts {
    let cluster = |peer: &Peer| {
        let [a, b, c, d, ..] = peer.address;
        let ip = if peer.family == 4 { IpAddr::from([a, b, c, d]) } else { IpAddr::from(peer.address) };
        SocketAddr::new(ip, u16::from_be_bytes(peer.port))
    };
    image.node_ports.iter().map(|(key, peer)| ((key.port(), key.version() == 4), cluster(peer))).collect()
}

fn wanted_node_ports(views: &Views) -> NodePorts {
    let mut ports = NodePorts::new();
    for port in views.values().flat_map(|view| &view.ports) {
        let served: Vec<_> = port.frontends.iter().filter(|frontend| frontend.lost_to.is_none()).collect();
        let (on_node, own): (Vec<_>, Vec<_>) =
            served.into_iter().partition(|frontend| frontend.kind == FrontendKind::NodePort);
        for frontend in on_node.into_iter().filter(|frontend| frontend.protocol == Protocol::UDP) {
            let cluster = own.iter().find(|own| own.family == frontend.family);
            let is_v4 = frontend.family == IpFamily::IPv4;
            ports.extend(cluster.map(|own| ((frontend.port, is_v4), SocketAddr::new(own.addresses[0], own.port))));
        }
    }
    ports
}

fn ids(image: &Image) -> BTreeSet<(ServiceKey, u32)> {
    image.services.iter().map(|(key, service)| (*key, service.id)).collect()
}

/// A write that contradicts what the maps hold.
fn harm(image: &Image, what: u8, which: u32) -> Option<MapOp> {
    fn pick<K: Copy, V: Copy>(map: &BTreeMap<K, V>, which: u32) -> Option<(K, V)> {
        map.iter().nth(which as usize % map.len().max(1)).map(|(key, value)| (*key, *value))
    }
    Some(match what {
        0 => MapOp::DeleteBackend(pick(&image.backends, which)?.0),
        1 => MapOp::PutSlot(pick(&image.slots, which)?.0, pick(&image.slots, which / 7)?.1),
        2 => MapOp::PutService(pick(&image.services, which)?.0, pick(&image.services, which / 7)?.1),
        3 => MapOp::PutBackend(pick(&image.backends, which)?.0, pick(&image.backends, which / 7)?.1),
        4 => MapOp::PutOwned(pick(&image.owned, which)?.0, pick(&image.owned, which / 7)?.1),
        5 => MapOp::DeleteOwned(pick(&image.owned, which)?.0),
        6 => {
            let (key, service) = pick(&image.services, which)?;
            let backends = BackendSet::new(which, service.backends.count().max(1), 9);
            MapOp::PutService(key, Service { backends, id: u32::MAX - which % 2, ..service })
        }
        7 => {
            let (key, service) = pick(&image.services, which)?;
            let backends = BackendSet::new(service.backends.base(), service.backends.count() + 1, which as u16);
            MapOp::PutService(ServiceKey { address: [0xff; 16], ..key }, Service { backends, ..service })
        }
        8 => MapOp::DeleteNodePort(pick(&image.node_ports, which)?.0),
        9 => MapOp::PutNodePort(pick(&image.services, which)?.0, pick(&image.node_ports, which / 7)?.1),
        _ => MapOp::PutOwned([10, 96, 9, 9].into(), Owned(u32::MAX)),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_prefix_is_safe_and_incremental_plans_add_up(steps in steps()) {
        let mut now = Instant::now();
        let mut maps = FakeMaps::new(1024);
        let mut realized = Image::default();
        let mut renderer = Renderer::restore(&maps, &realized, now);
        for step in &steps {
            now += Duration::from_secs(step.2);
            let (views, host) = inputs(step);
            prop_assert!(renderer.render(&views, &host, now).is_empty());
            let before = ids(&realized);
            let ops = renderer.plan(&realized);
            apply_step_by_step(&mut maps, renderer.image(), &mut realized, &ops, false);
            renderer.settle(now);
            let image = renderer.image();

            prop_assert_eq!(&realized, image);
            prop_assert_eq!(&maps.image(), image);
            prop_assert_eq!(plan(image, &realized), vec![]);
            prop_assert_eq!(renderer.plan(&realized), vec![]);
            prop_assert_eq!(paths(image), wanted(&views));
            prop_assert_eq!(node_ports(image), wanted_node_ports(&views));
            // What stays keeps its counter, and no two share one.
            let after = ids(image);
            for (key, id) in &before {
                prop_assert!(after.contains(&(*key, *id)) || !image.services.contains_key(key));
            }
            prop_assert_eq!(after.iter().map(|(_, id)| id).collect::<BTreeSet<_>>().len(), after.len());
            for view in views.values() {
                for frontend in view.ports.iter().flat_map(|port| &port.frontends) {
                    let found: Vec<u32> = renderer.service_ids(frontend).collect();
                    prop_assert_eq!(found.is_empty(), frontend.lost_to.is_some());
                    prop_assert!(found.iter().all(|found| after.iter().any(|(_, id)| id == found)));
                }
            }

            // A daemon that starts now finds everything as it is.
            let mut restarted = Renderer::restore(&maps, &maps.read().unwrap(), now);
            prop_assert!(restarted.render(&views, &host, now).is_empty());
            prop_assert_eq!(restarted.image(), image);
            prop_assert_eq!(restarted.plan(&realized), vec![]);
        }
    }

    /// Images that know nothing of each other: the maps of another daemon, a restored backup.
    #[test]
    fn any_image_can_follow_any_other(one in steps(), other in steps()) {
        let mut now = Instant::now();
        let mut images = [one, other].map(|steps| {
            let mut maps = FakeMaps::new(1024);
            let mut reconciler = Reconciler::adopt(&maps, now).unwrap();
            for step in &steps {
                now += Duration::from_secs(step.2);
                let (views, host) = inputs(step);
                reconciler.reconcile(&mut maps, &views, &host, now).unwrap();
            }
            (maps, reconciler.realized().clone())
        });
        let [(maps, realized), (_, image)] = &mut images;
        let ops = plan(image, realized);
        apply_step_by_step(maps, image, realized, &ops, true);
        prop_assert_eq!(&*realized, &*image);
        prop_assert_eq!(plan(image, realized), vec![]);
    }

    /// The maps hold contradictions: a daemon that starts comes to the image it wants all the same.
    #[test]
    fn damaged_maps_are_repaired(steps in steps(), damage in prop::collection::vec((0u8..11, any::<u32>()), 1..6)) {
        let mut now = Instant::now();
        let mut maps = FakeMaps::new(1024);
        let mut reconciler = Reconciler::adopt(&maps, now).unwrap();
        let mut last = None;
        for step in &steps {
            now += Duration::from_secs(step.2);
            let (views, host) = inputs(step);
            reconciler.reconcile(&mut maps, &views, &host, now).unwrap();
            last = Some((views, host));
        }
        let (views, host) = last.unwrap();
        for (what, which) in damage {
            if let Some(op) = harm(&maps.image(), what, which) {
                maps.apply(&op).unwrap();
            }
        }
        let mut restarted = Reconciler::adopt(&maps, now).unwrap();
        prop_assert!(restarted.reconcile(&mut maps, &views, &host, now).unwrap().refused.is_empty());
        let image = maps.image();
        prop_assert_eq!(&image, restarted.renderer().image());
        prop_assert_eq!(dangling(&image), Vec::<String>::new());
        prop_assert_eq!(paths(&image), wanted(&views));
        prop_assert_eq!(ids(&image).iter().map(|(_, id)| id).collect::<BTreeSet<_>>().len(), image.services.len());
    }

    /// Writes fail at random, some after they were performed; the daemon is killed at random.
    #[test]
    fn failing_maps_converge(steps in steps(), faults in prop::collection::vec(0u8..12, 1..300)) {
        let mut now = Instant::now();
        let mut faults = faults.into_iter();
        let mut maps = FaultyMaps::new(FakeMaps::new(1024), move |_| match faults.next() {
            Some(0) => Fault::Lost,
            Some(1) => Fault::Unconfirmed,
            _ => Fault::None,
        });
        let mut reconciler = Reconciler::adopt(&maps, now).unwrap();
        for (round, step) in steps.iter().enumerate() {
            now += Duration::from_secs(step.2);
            let (views, host) = inputs(step);
            // Some steps are given up after one try, so that the next one meets maps half way.
            let tries = if round % 2 == 0 && round + 1 < steps.len() { 1 } else { 1000 };
            let done = (0..tries).any(|_| reconciler.reconcile(&mut maps, &views, &host, now).is_ok());
            prop_assert_eq!(dangling(&maps.inner().image()), Vec::<String>::new());
            if done {
                prop_assert_eq!(&maps.inner().image(), reconciler.renderer().image());
                prop_assert_eq!(paths(&maps.inner().image()), wanted(&views));
                prop_assert_eq!(reconciler.audit(&mut maps).unwrap(), 0);
            } else if round % 4 == 0 {
                reconciler = Reconciler::adopt(&maps, now).unwrap();
            }
        }
    }
}

#[test]
fn a_foreign_change_is_repaired() {
    let step: Step = (
        vec![Some(Spec {
            address: 1,
            dual: true,
            ports: BTreeSet::from([80, 443]),
            udp: false,
            node_port: Some(30000),
            endpoints: vec![(1, 0, true), (2, 0, true)],
            target: 8080,
        })],
        1,
        0,
    );
    let now = Instant::now();
    let mut maps = FakeMaps::default();
    let mut reconciler = Reconciler::adopt(&maps, now).unwrap();
    let (views, host) = inputs(&step);
    reconciler.reconcile(&mut maps, &views, &host, now).unwrap();
    let image = maps.image();
    for foreign in plan(&Image::default(), &image).into_iter().chain([
        MapOp::PutOwned([10, 96, 0, 1].into(), Owned(77)),
        MapOp::PutOwned([10, 96, 0, 99].into(), Owned::SERVICE),
    ]) {
        maps.apply(&foreign).unwrap();
        assert!(reconciler.audit(&mut maps).unwrap() > 0, "{foreign}");
        assert_eq!(maps.image(), image, "{foreign}");
    }
}
