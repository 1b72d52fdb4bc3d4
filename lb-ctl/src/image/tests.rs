//! Life cycles and limits of what the renderer gives out.

use super::{DRAIN, GRACE, HostFacts, Reconciled, Reconciler, Refusal, Renderer, Withdrawn};
use crate::maps::{FakeMaps, Image};
use crate::model::{Balancing, EndpointSource, EndpointView, Frontend, FrontendKind, PortView, ServiceView, Views};
use crate::objects::{Algorithm, IntOrString, IpFamily, Key, Kind, Labels, ObjectId, Protocol, ServiceType};
use lb_common::{Backend, ServiceKey, maps};
use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The `index`th address after 10.244.0.0.
fn pod(index: u32) -> IpAddr {
    Ipv4Addr::from(0x0af4_0000 + index).into()
}

fn service(index: u32, pods: impl IntoIterator<Item = u32>) -> ServiceView {
    let address: IpAddr = Ipv4Addr::from(0x0a60_0000 + index).into();
    let key = Key::new("default", format!("s{index:05}"));
    let endpoint = |index| EndpointView {
        address: pod(index),
        port: 8080,
        why_not_ready: None,
        ready: true,
        serving: true,
        terminating: false,
        weight: 1,
        node: None,
        local: None,
        zones: Vec::new(),
        nodes: Vec::new(),
        chosen: true,
        chosen_here: false,
        source: ObjectId { kind: Kind::Pod, key: key.clone() },
        pod: None,
    };
    let frontend = Frontend {
        kind: FrontendKind::ClusterIP,
        family: IpFamily::IPv4,
        protocol: Protocol::TCP,
        port: 80,
        addresses: vec![address],
        policy: crate::model::Policy::Cluster,
        sources: BTreeSet::new(),
        lost_to: None,
    };
    let port = PortView {
        name: String::new(),
        protocol: Protocol::TCP,
        port: 80,
        target_port: IntOrString::Int(8080),
        node_port: None,
        frontends: vec![frontend],
        endpoints: pods.into_iter().map(endpoint).collect(),
    };
    ServiceView {
        r#type: ServiceType::ClusterIP,
        headless: false,
        created: None,
        selector: Labels::new(),
        cluster_addresses: vec![address],
        external_name: None,
        affinity_seconds: None,
        source: EndpointSource::Pods,
        balancing: Balancing::default(),
        ports: vec![port],
        hosts: Vec::new(),
        problems: Vec::new(),
        key,
    }
}

fn table(views: &[ServiceView]) -> Views {
    views.iter().map(|view| (view.key.clone(), Arc::new(view.clone()))).collect()
}

/// Maps, their reconciler and a clock.
struct Bench {
    maps: FakeMaps,
    reconciler: Reconciler,
    host: HostFacts,
    now: Instant,
}

impl Bench {
    fn new(max_flows: u32) -> Self {
        let (maps, now) = (FakeMaps::new(max_flows), Instant::now());
        Self { reconciler: Reconciler::adopt(&maps, now).unwrap(), maps, host: HostFacts::default(), now }
    }

    fn round(&mut self, after: Duration, views: &[ServiceView]) -> Reconciled {
        self.now += after;
        self.reconciler.reconcile(&mut self.maps, &table(views), &self.host, self.now).unwrap()
    }

    fn image(&self) -> Image {
        self.maps.image()
    }

    fn backend(&self, index: u32) -> Option<(u32, Backend)> {
        let id = self.reconciler.renderer().backend_id(pod(index))?;
        Some((id, self.image().backends[&id]))
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_backend_drains_and_its_id_comes_back_with_the_next_generation() {
    // As many pods as there are backend ids, but for one.
    let capacity = maps::entries_for(maps::BACKENDS, 1024);
    let mut bench = Bench::new(1024);
    bench.round(SECOND, &[service(1, 0..capacity)]);
    let (id, first) = bench.backend(0).unwrap();
    assert!(first.is_alive());

    bench.round(SECOND, &[service(1, 1..capacity)]);
    assert!(!bench.backend(0).unwrap().1.is_alive());
    assert_eq!(bench.reconciler.renderer().next_expiry(), Some(bench.now + DRAIN));

    // It comes back in time: the same record.
    bench.round(DRAIN / 2, &[service(1, 0..capacity)]);
    assert_eq!(bench.backend(0), Some((id, first)));
    bench.round(SECOND, &[service(1, 1..capacity)]);
    bench.round(DRAIN / 2, &[service(1, 1..capacity)]);
    assert_eq!(bench.backend(0).map(|(id, _)| id), Some(id), "drains anew");
    bench.round(DRAIN / 2, &[service(1, 1..capacity)]);
    assert_eq!(bench.backend(0), None);
    assert!(!bench.image().backends.contains_key(&id));

    // No id is free while this one rests.
    let refused = bench.round(SECOND, &[service(1, 1..=capacity)]).refused;
    assert_eq!(refused[0].refusal, Refusal::Full { map: maps::BACKENDS, capacity });
    assert_eq!(bench.image().services.values().next().unwrap().backends.count(), capacity - 1, "as before");
    assert_eq!(bench.round(GRACE, &[service(1, 1..=capacity)]).refused, []);
    let (again, second) = bench.backend(capacity).unwrap();
    assert_eq!((again, second.generation), (id, first.generation + 1));
}

#[test]
fn what_one_udp_service_loses_and_another_keeps_is_withdrawn() {
    let udp = |mut view: ServiceView| {
        view.ports[0].protocol = Protocol::UDP;
        view.ports[0].frontends[0].protocol = Protocol::UDP;
        view
    };
    let mut bench = Bench::new(1024);
    bench.round(SECOND, &[udp(service(1, 0..3)), udp(service(2, 0..3)), service(3, 0..3)]);
    assert!(bench.reconciler.take_withdrawn().is_empty(), "nothing was there before");
    let of_first = |bench: &Bench| {
        let record = ServiceKey::new([10, 96, 0, 1].into(), 80, lb_common::UDP);
        bench.image().services.get(&record).map(|service| service.id)
    };
    let id = of_first(&bench).unwrap();
    let expected = |bench: &Bench, pods: &[u32]| -> HashSet<Withdrawn> {
        let backend = |pod: &u32| bench.backend(*pod).unwrap().0;
        pods.iter().map(|pod| Withdrawn { service: id, backend: backend(pod), port: 8080 }).collect()
    };
    // Pod 2 lives on in the others.
    bench.round(SECOND, &[udp(service(1, 0..2)), udp(service(2, 0..3)), service(3, 0..3)]);
    let withdrawn = expected(&bench, &[2]);
    assert_eq!(bench.reconciler.take_withdrawn(), withdrawn);
    assert!(bench.reconciler.take_withdrawn().is_empty(), "told once");
    // Flows of a Service that goes stay where they are, and so does TCP.
    bench.round(SECOND, &[udp(service(2, 1..3)), service(3, 1..2)]);
    assert!(bench.reconciler.take_withdrawn().is_empty(), "nobody has pod 0: the datapath sees that itself");
    // Pod 1 lives on in the other Service and in this one, where it gets no new connections.
    let mut draining = udp(service(2, 1..3));
    draining.ports[0].endpoints[0].chosen = false;
    bench.round(SECOND, &[draining.clone(), service(3, 1..2)]);
    assert!(bench.reconciler.take_withdrawn().is_empty(), "it still serves");
    bench.round(SECOND, &[draining]);
    let (_, backend) = bench.backend(1).unwrap();
    assert!(!backend.is_alive() && backend.is_serving(), "nobody chooses it, and flows stay");
    assert_eq!(of_first(&bench), None);
}

#[test]
fn what_does_not_fit_is_refused_and_does_not_harm_the_rest() {
    let slots = maps::entries_for(maps::SLOTS, 1024);
    let records = maps::entries_for(maps::SERVICES, 1024);
    let mut bench = Bench::new(1024);
    let many: Vec<ServiceView> = (0..=records).map(|index| service(index, [])).collect();
    let refused = bench.round(SECOND, &many).refused;
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].service, Key::new("default", format!("s{records:05}")));
    assert_eq!(refused[0].refusal, Refusal::Full { map: maps::OWNED4, capacity: records });
    assert!(
        refused[0].refusal.to_string().contains("OWNED4") && refused[0].refusal.to_string().contains("--max-flows")
    );
    // Room comes when another one has left the maps.
    assert_eq!(bench.round(SECOND, &many[1..]).refused.len(), 1, "the place is not empty yet");
    bench.round(SECOND, &many[1..]);
    assert_eq!(bench.round(GRACE, &many[1..]).refused, []);

    let mut bench = Bench::new(1024);
    let pods = maps::entries_for(maps::BACKENDS, 1024);
    let fitting = slots / (pods - 1);
    let all_but = |left_out| (0..pods).filter(move |pod| *pod != left_out);
    let mut views: Vec<_> = (0..=fitting).map(|index| service(index, all_but(index))).collect();
    let refused = bench.round(SECOND, &views).refused;
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].refusal, Refusal::Full { map: maps::SLOTS, capacity: slots });
    // The same set as another's takes no room.
    *views.last_mut().unwrap() = service(fitting, all_but(0));
    assert_eq!(bench.round(SECOND, &views).refused, []);
    assert_eq!(bench.image().slots.len() as u32, fitting * (pods - 1));
}

#[test]
fn too_many_slots_are_refused() {
    let mut bench = Bench::new(1 << 20);
    let mut views = [service(0, 0..20_000), service(1, 0..20_000)];
    let weigh = |view: &mut ServiceView, weight| view.ports[0].endpoints.iter_mut().for_each(|e| e.weight = weight);
    weigh(&mut views[0], 99);
    weigh(&mut views[1], 99);
    views[0].ports[0].endpoints[0].weight = 100;
    let refused = bench.round(SECOND, &views).refused;
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].refusal, Refusal::TooManySlots { slots: 20_000 * 99 + 1 });
    assert_eq!(bench.image().slots.len(), 20_000, "equal weights cost nothing");
}

/// The same Service with Maglev.
fn maglev(mut view: ServiceView, maglev_table_size: u32) -> ServiceView {
    view.balancing = Balancing { algorithm: Algorithm::Maglev, maglev_table_size };
    view
}

#[test]
fn services_and_ports_with_the_same_endpoints_share_one_maglev_table() {
    let mut bench = Bench::new(1024);
    let mut first = maglev(service(0, 0..10), 251);
    for port in 81..481 {
        let mut another = first.ports[0].clone();
        (another.port, another.frontends[0].port) = (port, port);
        another.endpoints.iter_mut().for_each(|endpoint| endpoint.port = port);
        first.ports.push(another);
    }
    assert_eq!(bench.round(SECOND, &[first, maglev(service(1, 0..10), 251), service(2, 0..10)]).refused, []);
    let image = bench.image();
    assert_eq!(image.slots.len(), 251 + 10);
    let is_shared = |service: &&lb_common::Service| service.flags & lb_common::Service::SAME_EVERYWHERE != 0;
    assert_eq!(image.services.values().filter(is_shared).count(), 402);
    assert_eq!(image.services.len(), 403);
}

#[test]
fn algorithm_weight_and_size_change_the_slots_and_no_backend() {
    let mut bench = Bench::new(1024);
    let mut view = service(0, 0..4);
    let counts = |bench: &Bench| {
        let image = bench.image();
        let set = image.services.values().next().unwrap().backends;
        let slots: Vec<u32> = (set.base()..set.base() + set.count()).map(|index| image.slots[&index].backend).collect();
        let ids = (0..4).map(|index| bench.reconciler.renderer().backend_id(pod(index)).unwrap());
        ids.map(|id| slots.iter().filter(|slot| **slot == id).count()).collect::<Vec<_>>()
    };
    bench.round(SECOND, std::slice::from_ref(&view));
    let backends = bench.image().backends;
    assert_eq!(counts(&bench), [1, 1, 1, 1]);
    for (pod, weight) in [(0, 3), (1, 0), (2, 6), (3, 3)] {
        view.ports[0].endpoints[pod].weight = weight;
    }
    bench.round(SECOND, std::slice::from_ref(&view));
    assert_eq!(counts(&bench), [1, 0, 2, 1]);
    for size in [41, 4001] {
        view = maglev(view, size);
        bench.round(SECOND, std::slice::from_ref(&view));
        let counts = counts(&bench);
        assert_eq!((counts[1], counts.iter().sum::<usize>()), (0, size as usize));
        assert!(counts[2].abs_diff(size as usize / 2) <= 2, "{counts:?}");
    }
    assert_eq!(bench.image().backends, backends, "one without weight is alive all the same");
    view.ports[0].endpoints.iter_mut().for_each(|endpoint| endpoint.weight = 0);
    bench.round(SECOND, std::slice::from_ref(&view));
    assert_eq!(counts(&bench), [0; 4]);
    assert_eq!(bench.image().backends, backends);
}

#[test]
fn flows_to_an_endpoint_that_loses_its_weight_are_not_withdrawn() {
    let mut bench = Bench::new(1024);
    let mut view = service(0, 0..3);
    view.ports[0].protocol = Protocol::UDP;
    view.ports[0].frontends[0].protocol = Protocol::UDP;
    let other = service(1, 0..3);
    bench.round(SECOND, &[view.clone(), other.clone()]);
    view.ports[0].endpoints[2].weight = 0;
    bench.round(SECOND, &[view.clone(), other.clone()]);
    bench.round(SECOND, &[maglev(view.clone(), 251), other.clone()]);
    assert_eq!(bench.reconciler.take_withdrawn(), HashSet::new());
    view.ports[0].endpoints[1].weight = 0;
    view.ports[0].endpoints.pop();
    bench.round(SECOND, &[view, other]);
    // Its slots are gone since it lost its weight.
    let gone: Vec<u32> = bench.reconciler.take_withdrawn().iter().map(|withdrawn| withdrawn.backend).collect();
    assert_eq!(gone, [bench.backend(2).unwrap().0]);
}

#[test]
fn a_maglev_table_that_does_not_fit_is_refused() {
    let slots = maps::entries_for(maps::SLOTS, 1024);
    let mut bench = Bench::new(1024);
    let views = |services: std::ops::Range<u32>| -> Vec<ServiceView> {
        services.map(|index| maglev(service(index, index * 3..index * 3 + 3), 16_381)).collect()
    };
    let room = slots / 16_381;
    let refused = bench.round(SECOND, &views(0..room + 1)).refused;
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].refusal, Refusal::NoRoomForTable { slots: 16_381, capacity: slots });
    let refused = bench.round(SECOND, &[maglev(service(0, 0..252), 251)]).refused;
    assert_eq!(refused[0].refusal, Refusal::TableTooSmall { endpoints: 252, table_size: 251 });
}

/// What clients keep is searched slot by slot: a Maglev table, or a set in which weights repeat members, would be too long.
#[test]
fn clients_keep_members_that_stand_once_in_a_set_of_their_own() {
    let mut bench = Bench::new(1024);
    let sticky = |view: ServiceView| ServiceView { affinity_seconds: Some(60), ..view };
    let mut views = [sticky(service(0, 0..4)), sticky(maglev(service(1, 0..4), 251)), maglev(service(2, 0..4), 251)];
    let members = |bench: &Bench| -> Vec<Vec<u32>> {
        let image = bench.image();
        let ids = |service: &lb_common::Service| -> Vec<u32> {
            let set = service.members;
            (set.base()..set.base() + set.count()).map(|index| image.slots[&index].backend).collect()
        };
        image.services.values().map(ids).collect()
    };
    let ids = |pods: &[u32], bench: &Bench| -> Vec<u32> {
        pods.iter().map(|index| bench.reconciler.renderer().backend_id(pod(*index)).unwrap()).collect()
    };
    bench.round(SECOND, &views);
    let four = ids(&[0, 1, 2, 3], &bench);
    assert_eq!(members(&bench), [four.clone(), four, Vec::new()]);
    assert_eq!(bench.image().slots.len(), 4 + 251, "one set of members, one table");
    // A daemon that takes over writes nothing.
    bench.reconciler = Reconciler::adopt(&bench.maps, bench.now).unwrap();
    assert_eq!(bench.round(SECOND, &views).writes, 0);

    for view in &mut views {
        view.ports[0].endpoints[1].weight = 0;
        view.ports[0].endpoints[2].weight = 7;
    }
    bench.round(SECOND, &views);
    let three = ids(&[0, 2, 3], &bench);
    assert_eq!(members(&bench), [three.clone(), three, Vec::new()]);
    assert_eq!(bench.image().slots.len(), 9 + 3 + 251);
    bench.round(SECOND, &[]);
    assert_eq!(bench.image().slots.len(), 0);
}

/// Slots rest for half a minute where there are enough. Where there are not, one second does.
#[test]
fn a_maglev_table_follows_endpoints_that_change_every_second() {
    let mut bench = Bench::new(1024);
    for change in 0..8 {
        let refused = bench.round(SECOND, &[maglev(service(0, change..change + 5), 65_537)]).refused;
        assert_eq!(refused, [], "change {change}");
    }
}

#[test]
fn slots_rest_before_they_are_used_again() {
    let mut bench = Bench::new(1024);
    let base = |bench: &Bench| bench.image().services.values().next().unwrap().backends.base();
    bench.round(SECOND, &[service(0, [1, 2])]);
    assert_eq!(base(&bench), 0);
    bench.round(SECOND, &[service(0, [1, 3])]);
    assert_eq!(base(&bench), 2);
    bench.round(GRACE / 2, &[service(0, [1, 4])]);
    assert_eq!(base(&bench), 4);
    bench.round(GRACE / 2, &[service(0, [1, 5])]);
    assert_eq!(base(&bench), 0);
}

#[test]
fn where_a_backend_is_follows_the_routes_unless_an_endpoint_says_it() {
    let mut bench = Bench::new(1024);
    let mut views = [service(0, [1]), service(1, [1])];
    let local = |bench: &Bench| bench.backend(1).unwrap().1.is_local();
    bench.round(SECOND, &views);
    assert!(!local(&bench));
    bench.host.routes = [("10.244.0.0/24".parse().unwrap(), true)].into_iter().collect();
    bench.round(SECOND, &views);
    assert!(local(&bench));
    views[0].ports[0].endpoints[0].local = Some(false);
    bench.round(SECOND, &views);
    assert!(!local(&bench), "one says it is remote");
    bench.host.routes = super::Routes::default();
    views[0].ports[0].endpoints[0].local = Some(true);
    bench.round(SECOND, &views);
    assert!(local(&bench), "one says it is local");
    let node = |bench: &Bench| bench.backend(1).unwrap().1.is_node();
    assert!(!node(&bench));
    bench.host.node_addresses.insert(pod(1));
    views[0].ports[0].endpoints[0].local = None;
    bench.round(SECOND, &views);
    assert!(local(&bench) && node(&bench), "an address of the node");
    bench.host.node_addresses.clear();
    bench.round(SECOND, &views);
    assert!(!local(&bench) && !node(&bench), "an address that the node has no more");
}

#[test]
fn a_change_writes_what_it_touches_and_a_large_image_is_rendered_in_time() {
    let count = 10_000;
    let mut bench = Bench::new(1 << 20);
    let mut views: Vec<_> = (0..count).map(|index| service(index, (0..10).map(|pod| index * 10 + pod))).collect();
    let start = Instant::now();
    let mut renderer = Renderer::restore(&bench.maps, &Image::default(), bench.now);
    let refused = renderer.render(&table(&views), &bench.host, bench.now);
    let full = start.elapsed();
    assert_eq!(refused, []);
    let writes = bench.round(SECOND, &views).writes;
    let written = start.elapsed();
    // Each backend and each record with its counters, the slots, and the addresses.
    assert_eq!(writes as u32, count * (10 * 2 + 10 + 2 + 1));

    let start = Instant::now();
    views[77].ports[0].endpoints.pop();
    // Nine slots, the record of the service, the backend that is gone.
    assert_eq!(bench.round(SECOND, &views).writes, 11);
    let changed = start.elapsed();
    println!("rendered in {full:?}, rendered, planned and applied in {written:?}, a change in {changed:?}");
    assert!(full < Duration::from_secs(10) && changed < Duration::from_secs(5));
}

#[test]
fn the_frontends_of_a_port_and_family_share_what_a_client_is_known_by_and_keep_it() {
    let mut bench = Bench::new(1024);
    let mut view = service(1, [1, 2]);
    let cluster = view.ports[0].frontends[0].clone();
    let node_port = Frontend { kind: FrontendKind::NodePort, port: 30_080, ..cluster.clone() };
    let second = Frontend { port: 81, ..cluster.clone() };
    view.ports[0].frontends.push(node_port);
    let other_port = PortView { port: 81, frontends: vec![second], ..view.ports[0].clone() };
    view.ports.push(other_port);
    let known = |bench: &Bench| -> Vec<(u16, u32, u32)> {
        let image = bench.image();
        image.services.iter().map(|(key, service)| (key.port(), service.affinity_ticks, service.affinity_id)).collect()
    };
    bench.round(SECOND, std::slice::from_ref(&view));
    assert_eq!(known(&bench), [(30_080, 0, 0), (80, 0, 0), (81, 0, 0)]);

    view.affinity_seconds = Some(60);
    // The records alone are written.
    assert_eq!(bench.round(SECOND, std::slice::from_ref(&view)).writes, 3);
    let on = known(&bench);
    let ids: Vec<u32> = on.iter().map(|(_, _, id)| *id).collect();
    assert_eq!(ids[0], ids[1], "the node port and the ClusterIP of one port");
    assert_ne!(ids[1], ids[2], "two ports");
    assert!(on.iter().all(|(_, ticks, _)| *ticks == lb_common::Affinity::ticks(60)));

    // A daemon that takes over writes nothing.
    bench.reconciler = Reconciler::adopt(&bench.maps, bench.now).unwrap();
    assert_eq!(bench.round(SECOND, std::slice::from_ref(&view)).writes, 0);
    // The node port goes and comes back.
    let node_port = view.ports[0].frontends.pop().unwrap();
    bench.round(SECOND, std::slice::from_ref(&view));
    view.ports[0].frontends.push(node_port);
    bench.round(SECOND, std::slice::from_ref(&view));
    assert_eq!(known(&bench), on);
}
