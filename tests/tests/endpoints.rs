//! Endpoints that end and come back, under real clients.

use lb_ctl::playground::manifests;
use lb_tests::fixture::{Fixture, Setup};
use lb_tests::{needs_datapath, traffic};
use std::collections::BTreeSet;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// Pod objects that are being deleted, and still serve.
fn terminating(fixture: &Fixture, names: &[&str]) -> String {
    let pod = |name: &&str| manifests::pod(fixture.pod(name).expect("runs").place());
    names.iter().map(pod).collect::<String>().replace(
        "  namespace: playground\n",
        "  namespace: playground\n  deletionTimestamp: 2024-01-01T00:00:00Z\n  deletionGracePeriodSeconds: 30\n",
    )
}

fn met(fixture: &Fixture) -> BTreeSet<String> {
    let mut met = BTreeSet::new();
    for asker in traffic::askers(fixture) {
        for to in fixture.cluster().into_iter().chain(lb_tests::fixture::node_port()) {
            met.extend(traffic::many(asker.client, to, 20).into_iter().map(|answer| answer.pod));
        }
    }
    met
}

fn names(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_terminating_pod_keeps_its_connections_and_gets_no_new_ones_while_there_are_others() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let mut held = Vec::new();
    for asker in traffic::askers(&fixture) {
        for to in fixture.cluster().into_iter().chain(lb_tests::fixture::node_port()) {
            for _ in 0..4 {
                let mut connection = asker.client.connect(to).expect("the Service answers");
                let pod = connection.get().expect("the Service answers").pod;
                held.push((connection, pod));
            }
        }
    }
    assert!(held.iter().any(|(_, pod)| pod == "web-1"));
    let mut check = |when: &str| {
        for (connection, pod) in &mut held {
            assert_eq!(connection.get().unwrap_or_else(|error| panic!("{when}: {error}")).pod, *pod, "{when}");
        }
    };

    fixture.apply(&terminating(&fixture, &["web-1"])).expect("the CLI applies");
    assert_eq!(met(&fixture), names(&["web-2", "web-3"]));
    check("one pod is terminating");

    // With no pod that is ready, those that end are better than none.
    fixture.apply(&terminating(&fixture, &["web-2", "web-3"])).expect("the CLI applies");
    assert_eq!(met(&fixture), names(&traffic::PODS));
    check("all pods are terminating");

    for name in ["web-2", "web-3"] {
        fixture.delete_pod_object(name).expect("the CLI deletes");
    }
    assert_eq!(met(&fixture), names(&["web-1"]));
    check("two pods are gone, and their processes are not");
}

#[test]
fn udp_clients_follow_at_once_from_some_endpoints_to_none_and_back() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let sockets: Vec<_> = traffic::askers(&fixture)
        .iter()
        .flat_map(|asker| {
            let ways = fixture.cluster_udp().into_iter().chain(lb_tests::fixture::node_port_udp());
            ways.map(|to| asker.client.datagrams(to).expect("a socket")).collect::<Vec<_>>()
        })
        .collect();
    let answers = |when: &str| -> Vec<String> {
        let ask = |socket: &lb_ctl::playground::client::Datagrams| socket.exchange(b"who").map(|answer| answer.pod);
        sockets.iter().map(|socket| ask(socket).unwrap_or_else(|error| panic!("{when}: {error}"))).collect()
    };
    assert!(answers("at first").iter().collect::<BTreeSet<_>>().len() > 1);
    for round in 0..3 {
        let all = [&["delete", "pod", "-n", manifests::NAMESPACE, "--ignore-not-found"][..], &traffic::PODS].concat();
        fixture.cli(&all, "").expect("the CLI deletes");
        for socket in &sockets {
            let error = socket.exchange(b"who").expect_err("nobody is there").to_string();
            assert!(error.contains("refused"), "round {round}: {error}");
        }
        // Another one than most had.
        let back = traffic::PODS[round];
        let place = fixture.pod(back).expect("runs").place();
        fixture.apply(&manifests::pod(place)).expect("the CLI applies");
        assert!(answers("one is back").iter().all(|pod| pod == back), "round {round}");
    }
}
