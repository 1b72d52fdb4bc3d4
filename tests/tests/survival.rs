//! The daemon may die: what it has set up goes on, and its successor takes over with nobody noticing.

use lb_ctl::playground::client::Connection;
use lb_ctl::playground::topology::{Node, Place};
use lb_ctl::playground::{Error, manifests};
use lb_tests::fixture::{Fixture, Setup, interfaces};
use lb_tests::{needs_datapath, traffic};
use nix::sys::signal::Signal;
use std::thread;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// Connections that are held open through what happens.
struct Held(Vec<(Connection, String, u64)>);

impl Held {
    fn open(fixture: &Fixture) -> Self {
        let mut held = Vec::new();
        for asker in traffic::askers(fixture) {
            for to in fixture.cluster().into_iter().chain(lb_tests::fixture::node_port()) {
                for _ in 0..4 {
                    let mut connection = asker.client.connect(to).expect("the Service answers");
                    let pod = connection.get().expect("the Service answers").pod;
                    held.push((connection, pod, 1));
                }
            }
        }
        Self(held)
    }

    /// Each still reaches its pod, over the same connection.
    fn check(&mut self, when: &str) {
        for (connection, pod, requests) in &mut self.0 {
            *requests += 1;
            let answer = connection.get().unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_eq!((&answer.pod, answer.request), (&*pod, *requests), "{when}");
        }
    }
}

#[test]
fn forwarding_outlives_the_daemon_and_its_successor_adopts() {
    needs_datapath!();
    let mut fixture = Fixture::new(BINARY, Setup::DEMO);
    let mut held = Held::open(&fixture);
    let counted = fixture.counted("http");

    fixture.end_daemon(Signal::SIGKILL).expect("the daemon is killed");
    held.check("after kill -9");
    let new = traffic::one_each(&fixture).expect("new connections are balanced without a daemon").len();

    // A pod's MAC address changes, and nobody tells the datapath. What it remembers holds for a second.
    fixture.pod("web-1").expect("runs").change_mac([2, 0, 0, 0, 0, 0x77]).expect("a veth takes any MAC address");
    thread::sleep(Duration::from_millis(2300));
    held.check("after a pod's MAC address changed without a daemon");

    fixture.start_daemon(&interfaces(Setup::DEMO)).expect("the next daemon starts");
    held.check("after the next daemon adopted");
    assert!(fixture.status().expect("the daemon answers").adopted, "the maps are taken over");
    assert_eq!(fixture.counted("http"), counted + new as u64, "counters live on, and new connections were counted");

    fixture.end_daemon(Signal::SIGTERM).expect("the daemon ends");
    held.check("after SIGTERM");
    fixture.start_daemon(&interfaces(Setup::DEMO)).expect("the next daemon starts");
    let answers = fixture.cluster().map(|to| traffic::many(fixture.client(), to, 60));
    for answers in answers {
        assert!(traffic::PODS.iter().all(|pod| answers.iter().any(|answer| answer.pod == *pod)), "all pods are met");
    }
    held.check("after the third daemon adopted");
}

#[test]
fn objects_and_addresses_survive_a_restart() {
    needs_datapath!();
    let mut fixture = Fixture::new(BINARY, Setup::DEMO);
    let before = fixture.describe("web").expect("the Service is described");
    fixture.end_daemon(Signal::SIGKILL).expect("the daemon is killed");
    fixture.start_daemon(&interfaces(Setup::DEMO)).expect("the next daemon starts");
    let after = fixture.describe("web").expect("the Service is described");
    assert_eq!(before.cluster_ips, after.cluster_ips);
    let endpoints = |description: &lb_ctl::api::ServiceDescription| {
        let ports = description.ports.iter().flat_map(|port| &port.endpoints);
        ports.map(|endpoint| (endpoint.address, endpoint.port, endpoint.ready)).collect::<Vec<_>>()
    };
    assert_eq!(endpoints(&before), endpoints(&after));
}

#[test]
fn a_pod_that_returns_elsewhere_is_found_while_the_others_answer() {
    needs_datapath!();
    let mut fixture = Fixture::new(BINARY, Setup::DEMO);
    for round in 0..3 {
        let old = fixture.pod("web-2").expect("runs").place().clone();
        fixture.delete_pod_object("web-2").expect("the CLI deletes");
        fixture.kill_pod("web-2").expect("the pod dies");
        for to in fixture.cluster() {
            let answers = traffic::many(fixture.client(), to, 30);
            assert!(answers.iter().all(|answer| answer.pod != "web-2"), "round {round}: a dead pod answered");
        }
        let place = Place::new("web-2", Node::One, old.host + 10);
        let returned = |fixture: &mut Fixture| -> Result<(), Error> {
            fixture.start_pod(place.clone())?;
            fixture.wait_for_hooks()?;
            fixture.apply(&manifests::pod(&place)).map(drop)
        };
        returned(&mut fixture).unwrap_or_else(|error| panic!("round {round}: {error}"));
        for to in fixture.cluster() {
            let answers = traffic::many(fixture.client(), to, 60);
            assert!(answers.iter().any(|answer| answer.pod == "web-2"), "round {round}: the new pod is not met");
        }
    }
}

#[test]
fn a_second_daemon_is_refused() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let second = |instance: &str| {
        let socket = fixture.directory().join("second.sock");
        let mut command = fixture.daemon_command(instance, &socket, &interfaces(Setup::DEMO)).expect("a command");
        fixture.node_space(Node::One).run(|| command.output()).expect("enter").expect("start")
    };
    for (instance, what) in [(fixture.name().as_str(), "instance"), ("other", "network namespace")] {
        let output = second(instance);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(what), "{said}");
    }
    traffic::one_each(&fixture).expect("the first daemon's datapath is untouched");
}
