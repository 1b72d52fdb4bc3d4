//! Manifests in, text dump of the maps out; and the same again with maps that fail.

use lb_common::{Device, Settings};
use lb_ctl::image::{HostFacts, Reconciler, dangling};
use lb_ctl::maps::{FakeMaps, Fault, FaultyMaps};
use lb_ctl::model::{self, NodeView, Views};
use lb_ctl::objects::{Object, Objects};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn objects(manifests: &str) -> Objects {
    let mut objects = Objects::default();
    for document in manifests.split("\n---\n") {
        objects.insert(object(document));
    }
    objects
}

fn object(document: &str) -> Object {
    #[derive(Deserialize)]
    struct Head {
        kind: String,
    }
    fn parse<'de, T: Deserialize<'de>>(document: &'de str) -> Arc<T> {
        Arc::new(serde_yaml::from_str(document).unwrap_or_else(|error| panic!("{error}:\n{document}")))
    }
    match parse::<Head>(document).kind.as_str() {
        "Service" => Object::Service(parse(document)),
        "Pod" => Object::Pod(parse(document)),
        "EndpointSlice" => Object::EndpointSlice(parse(document)),
        kind => panic!("{kind}"),
    }
}

fn views(objects: &Objects) -> Views {
    let addresses = vec!["192.168.7.10".parse().unwrap(), "fd07::10".parse().unwrap()];
    model::services(objects, &NodeView { name: "node-1".to_owned(), addresses, ..NodeView::default() })
}

fn host() -> HostFacts {
    let (first, last) = Settings::SNAT_PORTS;
    let settings = Settings {
        seed: 0x5eed,
        snat4: Settings::lent([[192, 168, 7, 10]]),
        snat_port_first: first,
        snat_port_last: last,
        ..Settings::default()
    };
    HostFacts {
        settings,
        node_addresses: ["192.168.7.10", "fd07::10"].into_iter().map(|address| address.parse().unwrap()).collect(),
        routes: [("10.244.1.0/24".parse().unwrap(), true), ("0.0.0.0/0".parse().unwrap(), false)].into_iter().collect(),
        devices: BTreeMap::from([
            (2, Device::new(Device::XDP_TARGET)),
            (3, Device::new(Device::XDP_TARGET | Device::LOCAL_CLIENTS)),
        ]),
        ..HostFacts::default()
    }
}

/// Reconciles until nothing fails; gives how often it failed.
fn settle(reconciler: &mut Reconciler, maps: &mut FaultyMaps<FakeMaps>, views: &Views, now: Instant) -> usize {
    for failures in 0..1000 {
        let done = reconciler.reconcile(maps, views, &host(), now);
        assert_eq!(dangling(&maps.inner().image()), Vec::<String>::new());
        if done.is_ok() {
            return failures;
        }
    }
    panic!("it never settles");
}

fn dump(manifests: &str) -> String {
    let views = views(&objects(manifests));
    let mut text = String::new();
    for view in views.values() {
        writeln!(text, "{} {} from {:?}", view.key, view.r#type, view.source).unwrap();
        for problem in &view.problems {
            writeln!(text, "  ! {problem}").unwrap();
        }
    }
    let now = Instant::now();
    let mut maps = FaultyMaps::new(FakeMaps::default(), |_| Fault::None);
    let mut reconciler = Reconciler::adopt(&maps, now).unwrap();
    assert_eq!(settle(&mut reconciler, &mut maps, &views, now), 0);
    let image = maps.inner().image();
    assert_eq!(image, *reconciler.realized());

    // The same with each write failing in turn, performed or not.
    let writes = maps.inner().log.len();
    for failing in 0..writes {
        for fault in [Fault::Lost, Fault::Unconfirmed] {
            let mut count = 0;
            let mut faulty = FaultyMaps::new(FakeMaps::default(), move |_| {
                count += 1;
                if count == failing + 1 { fault } else { Fault::None }
            });
            let mut reconciler = Reconciler::adopt(&faulty, now).unwrap();
            assert_eq!(settle(&mut reconciler, &mut faulty, &views, now), 1);
            assert_eq!(faulty.inner().image(), image, "write {failing} failed: {fault:?}");
        }
    }
    write!(text, "\n{image}").unwrap();
    text
}

#[test]
fn cluster_ip_and_node_port() {
    insta::assert_snapshot!(dump(include_str!("golden/cluster_ip_and_node_port.yaml")));
}

#[test]
fn slices_win() {
    insta::assert_snapshot!(dump(include_str!("golden/slices_win.yaml")));
}

#[test]
fn named_ports() {
    insta::assert_snapshot!(dump(include_str!("golden/named_ports.yaml")));
}

#[test]
fn problems() {
    insta::assert_snapshot!(dump(include_str!("golden/problems.yaml")));
}

/// A pod goes, comes back with another address; its first address drains and is forgotten, its id rests and is the
/// last to be used again.
#[test]
fn a_pod_returns_with_another_address() {
    let manifests = include_str!("golden/cluster_ip_and_node_port.yaml");
    let both = views(&objects(manifests));
    let one = views(&objects(&manifests.replace("name: web-1, namespace: default", "name: web-1, namespace: away")));
    let moved = views(&objects(&manifests.replace("10.244.1.11", "10.244.1.77").replace("fd44:1::11", "fd44:1::77")));

    let mut now = Instant::now();
    let mut maps = FaultyMaps::new(FakeMaps::default(), |_| Fault::None);
    let mut reconciler = Reconciler::adopt(&maps, now).unwrap();
    let mut text = String::new();
    for (what, views, seconds) in [
        ("two pods", &both, 0),
        ("one is gone", &one, 1),
        ("it is back with other addresses", &moved, 10),
        ("its first addresses have drained", &moved, 121),
        ("and nothing more happens", &moved, 1000),
    ] {
        now += Duration::from_secs(seconds);
        let before = maps.inner().log.len();
        settle(&mut reconciler, &mut maps, views, now);
        writeln!(text, "== {what}").unwrap();
        for op in &maps.inner().log[before..] {
            writeln!(text, "{op}").unwrap();
        }
        writeln!(text, "{}", maps.inner().image()).unwrap();
    }
    insta::assert_snapshot!(text);
}
