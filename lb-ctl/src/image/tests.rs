//! Life cycles and limits of what the renderer gives out.

use super::{DRAIN, GRACE, HostFacts, Reconciled, Reconciler, Refusal, Renderer, Withdrawn};
use crate::maps::{FakeMaps, Image};
use crate::model::{EndpointSource, EndpointView, Frontend, FrontendKind, PortView, ServiceView, Views};
use crate::objects::{IntOrString, IpFamily, Key, Kind, Labels, ObjectId, Protocol, ServiceType};
use lb_common::{Backend, ServiceKey, maps};
use std::collections::HashSet;
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
        ready: true,
        serving: true,
        terminating: false,
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
    assert_eq!(bench.image().services.values().next().unwrap().backends.count(), (capacity - 1) as u16, "as before");
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
    let address = bench.image().owned[&IpAddr::from([10, 96, 0, 1])].id;
    let of_first = |bench: &Bench| {
        let record = ServiceKey::new(address, 80, lb_common::UDP, 4);
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
    // Of a Service that goes, whatever lives on; TCP stays where it is.
    bench.round(SECOND, &[udp(service(2, 1..3)), service(3, 1..2)]);
    let withdrawn = expected(&bench, &[1]);
    assert_eq!(bench.reconciler.take_withdrawn(), withdrawn, "nobody has pod 0: the datapath sees that itself");
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

    // Eight different sets of all pods but one fit, a ninth does not.
    let mut bench = Bench::new(1024);
    let pods = maps::entries_for(maps::BACKENDS, 1024);
    assert_eq!(slots, 8 * pods);
    let all_but = |left_out| (0..pods).filter(move |pod| *pod != left_out);
    let mut views: Vec<_> = (0..9).map(|index| service(index, all_but(index))).collect();
    let refused = bench.round(SECOND, &views).refused;
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].refusal, Refusal::Full { map: maps::SLOTS, capacity: slots });
    // The same set as another's takes no room.
    views[8] = service(8, all_but(0));
    assert_eq!(bench.round(SECOND, &views).refused, []);
    assert_eq!(bench.image().slots.len() as u32, 8 * (pods - 1));
}

#[test]
fn too_many_endpoints_are_refused() {
    let mut bench = Bench::new(1 << 20);
    let refused = bench.round(SECOND, &[service(0, 0..65_536), service(1, 0..65_535)]).refused;
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].refusal, Refusal::TooManyEndpoints { count: 65_536 });
    assert_eq!(bench.image().slots.len(), 65_535);
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
    bench.host.node_addresses.insert(pod(1));
    views[0].ports[0].endpoints[0].local = None;
    bench.round(SECOND, &views);
    assert!(local(&bench), "an address of the node");
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
