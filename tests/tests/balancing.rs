//! Algorithms and weights, with real clients: a Maglev table says on every node where a connection goes, and what is changed
//! while connections are open leaves them alone.

use lb_common::{FlowKey, Settings, TCP};
use lb_ctl::image::maglev::{self, Candidate};
use lb_ctl::model::DEFAULT_MAGLEV_TABLE_SIZE;
use lb_ctl::playground::client::Connection;
use lb_ctl::playground::manifests;
use lb_ctl::playground::topology::{Dual, first_pods};
use lb_ebpf::pick;
use lb_tests::fixture::{Fixture, Setup};
use lb_tests::needs_datapath;
use std::net::{IpAddr, SocketAddr};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// Gives the Service another algorithm.
fn set_algorithm(fixture: &Fixture, algorithm: &str) {
    let before = "  name: web\n  namespace: playground\nspec:\n  type";
    let annotation = format!("  annotations: {{lb-ctl/algorithm: {algorithm}}}\nspec:\n  type");
    let manifests = manifests::cluster();
    assert!(manifests.contains(before), "the Service is where it was");
    fixture.apply(&manifests.replace(before, &before.replace("spec:\n  type", &annotation))).expect("it is applied");
}

/// Gives a pod of the Service another weight.
fn set_weight(fixture: &Fixture, name: &str, weight: u8) {
    let place = first_pods().into_iter().find(|place| place.name == name).expect("a pod of the playground");
    let annotation = format!("  annotations: {{lb-ctl/weight: \"{weight}\"}}\n  labels:\n");
    fixture.apply(&manifests::pod(&place).replace("  labels:\n", &annotation)).expect("it is applied");
}

/// The pod that any node gives a connection to: nothing in here is known to this node alone.
fn expected(weights: &[(&str, u8)], from: SocketAddr, to: SocketAddr) -> String {
    let pods: Vec<(String, Dual)> =
        first_pods().into_iter().map(|place| (place.name.clone(), place.address())).collect();
    let of = |name: &str| pods.iter().find(|(other, _)| other == name).expect("a pod of the playground").1;
    let candidate =
        |(name, weight): &(&str, u8)| Candidate { name: maglev::name(of(name).like(to.ip()), 0), weight: *weight };
    let table = maglev::table(&weights.iter().map(candidate).collect::<Vec<_>>(), DEFAULT_MAGLEV_TABLE_SIZE);
    let (from_port, to_port) = (from.port().to_be_bytes(), to.port().to_be_bytes());
    let hash = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let key = FlowKey::new(TCP, source.octets(), from_port, target.octets(), to_port);
            pick::hash(Settings::SHARED_SEED, &key)
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let key = FlowKey::new(TCP, source.octets(), from_port, target.octets(), to_port);
            pick::hash(Settings::SHARED_SEED, &key)
        }
        mixed => panic!("two families: {mixed:?}"),
    };
    weights[table[pick::place(hash, DEFAULT_MAGLEV_TABLE_SIZE) as usize] as usize].0.to_owned()
}

/// New connections, each to the pod that the table says; how many met each pod.
fn check(fixture: &Fixture, weights: &[(&str, u8)], count: usize) -> Vec<usize> {
    let mut met = vec![0; weights.len()];
    for to in fixture.cluster() {
        for _ in 0..count {
            let mut connection = fixture.client().connect(to).expect("the Service answers");
            let from = connection.local().expect("it is connected");
            let pod = connection.get().expect("the pod answers").pod;
            assert_eq!(pod, expected(weights, from, to), "from {from} to {to}");
            met[weights.iter().position(|(name, _)| *name == pod).expect("a pod of the Service")] += 1;
        }
    }
    met
}

#[test]
fn maglev_says_where_connections_go_and_changes_leave_open_ones_alone() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let mut open: Vec<(Connection, String)> = Vec::new();
    let mut requests = 0;
    let [to, _] = fixture.cluster();
    let hold = |open: &mut Vec<(Connection, String)>| {
        for _ in 0..20 {
            let mut connection = fixture.client().connect(to).expect("the Service answers");
            let pod = connection.get().expect("the pod answers").pod;
            open.push((connection, pod));
        }
    };
    hold(&mut open);
    let datagrams: Vec<_> = (0..20)
        .map(|_| {
            let socket = fixture.client().datagrams(fixture.cluster_udp()[0]).expect("a socket");
            let pod = socket.exchange(b"first").expect("the pod answers").pod;
            (socket, pod)
        })
        .collect();
    let mut check_open = |when: &str| {
        requests += 1;
        for (connection, pod) in &mut open {
            let answer = connection.get().unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_eq!((&answer.pod, answer.request), (&*pod, requests + 1), "{when}");
        }
        for (socket, pod) in &datagrams {
            assert_eq!(socket.exchange(b"again").expect("the pod answers").pod, *pod, "{when}: UDP");
        }
    };

    set_algorithm(&fixture, "maglev");
    assert_eq!(fixture.describe("web").expect("it is described").algorithm.name(), "maglev");
    check_open("after the algorithm changed");
    let met = check(&fixture, &[("web-1", 1), ("web-2", 1), ("web-3", 1)], 60);
    assert!(met.iter().all(|met| *met > 0), "{met:?}");

    set_weight(&fixture, "web-1", 8);
    set_weight(&fixture, "web-2", 0);
    check_open("after the weights changed");
    let met = check(&fixture, &[("web-1", 8), ("web-2", 0), ("web-3", 1)], 60);
    // Of 120 connections 107 on average, and fewer than 80 once in 10^12.
    assert!(met[0] >= 80 && met[1] == 0, "{met:?}");

    set_algorithm(&fixture, "random");
    check_open("after the algorithm changed back");
    let answers = lb_tests::traffic::many(fixture.client(), to, 120);
    let met = |pod: &str| answers.iter().filter(|answer| answer.pod == pod).count();
    assert!(met("web-1") >= 80 && met("web-2") == 0, "random has weights too: {answers:?}");
}

/// Two of three pods stay. What a node has forgotten of its connections, the table says again.
#[test]
fn connections_stay_at_their_pods_when_one_goes_and_every_flow_is_lost() {
    needs_datapath!();
    let fixture = Fixture::with(BINARY, Setup::DEMO, &["--algorithm=maglev"]);
    let (all, fewer) = ([("web-1", 1), ("web-2", 1), ("web-3", 1)], [("web-1", 1), ("web-3", 1)]);
    let mut open: Vec<(Connection, String)> = Vec::new();
    for to in fixture.cluster() {
        for _ in 0..60 {
            let mut connection = fixture.client().connect(to).expect("the Service answers");
            let (from, pod) = (connection.local().expect("connected"), connection.get().expect("the pod answers").pod);
            assert_eq!(pod, expected(&all, from, to));
            // The pod that goes takes its connections with it, and the few that the table moves are lost with the flows.
            if expected(&fewer, from, to) == pod {
                open.push((connection, pod));
            }
        }
    }
    // 80 on average, fewer than 50 once in 10^8; less than one of them is moved.
    assert!(open.len() >= 50, "{} of 120 stay", open.len());
    fixture.delete_pod_object("web-2").expect("it is deleted");
    for round in 2..4 {
        let midway = fixture.reason("forwarded-midway");
        fixture.lose_flows();
        for (connection, pod) in &mut open {
            let answer = connection.get().unwrap_or_else(|error| panic!("a connection to {pod}: {error}"));
            assert_eq!((&answer.pod, answer.request), (&*pod, round), "the same connection of the same pod");
        }
        let counted = fixture.reason("forwarded-midway") - midway;
        assert!(counted >= open.len() as u64, "{counted} of {} misses were counted", open.len());
    }
}

/// Weights alone, at a random Service: 1 to 1 to 1, then 3 to 0 to 1.
#[test]
fn weights_shift_the_shares_of_real_clients() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let [to, _] = fixture.cluster();
    let shares = |pods: [&str; 3]| {
        let answers = lb_tests::traffic::many(fixture.client(), to, 240);
        pods.map(|pod| answers.iter().filter(|answer| answer.pod == pod).count())
    };
    let pods = ["web-1", "web-2", "web-3"];
    let equal = shares(pods);
    // 80 on average; outside of this once in a million.
    assert!(equal.iter().all(|met| (45..120).contains(met)), "{equal:?}");
    set_weight(&fixture, "web-1", 75);
    set_weight(&fixture, "web-2", 0);
    set_weight(&fixture, "web-3", 25);
    let shifted = shares(pods);
    assert!((145..213).contains(&shifted[0]) && shifted[1] == 0, "{shifted:?}");
}
