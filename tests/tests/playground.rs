//! The playground by itself: what the other tests stand on works without any daemon.

use lb_ctl::playground::content::Hash;
use lb_ctl::playground::topology::{CLIENT, NODE, NODE2, Node, POD_PORT, Place};
use lb_ctl::playground::{Options, Playground, PodNetwork, netns};
use lb_tests::fixture::{Setup, bare};
use lb_tests::needs_root;
use lb_tests::ping::ping;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

fn carries_traffic(setup: Setup) {
    let mut playground = bare(BINARY, setup);
    playground.serve_on(Node::Two, "node-2", 8000).expect("a server on the second node");
    for index in 0..2 {
        for address in [NODE, NODE2].map(|dual| dual.addresses()[index]) {
            assert!(ping(playground.client_space(), address), "{address}");
        }
        for pod in playground.pods() {
            let to = SocketAddr::new(pod.address().addresses()[index], POD_PORT);
            let mut connection = playground.client().connect(to).expect("routed to the pod");
            let answer = connection.get().expect("the pod answers");
            assert_eq!((answer.pod.as_str(), answer.client), (pod.name(), CLIENT.addresses()[index]));
            let received = connection.upload(2_000_000).expect("an upload");
            assert_eq!((received.length, received.hash), (2_000_000, Hash::of_content(2_000_000, 2_000_000).value()));
            assert_eq!(connection.download(1234).expect("a download"), (1234, Hash::of_content(1234, 1234)));
            assert_eq!(connection.get().expect("the pod answers").request, 4);
            assert_eq!(pod.client().get(to).expect("the pod answers itself").client, to.ip());
            playground.client().datagram(to, b"hello").expect("the pod answers datagrams");
            let to = SocketAddr::new(NODE2.addresses()[index], 8000);
            assert_eq!(pod.client().get(to).expect("the node answers").pod, "node-2");
        }
    }
}

#[test]
fn routed_pods_and_clients_reach_each_other() {
    needs_root!();
    carries_traffic(Setup { rp_filter: 1, ..Setup::DEMO });
}

#[test]
fn bridged_pods_and_clients_reach_each_other() {
    needs_root!();
    carries_traffic(Setup { pods: PodNetwork::Bridged, napi: false, ..Setup::DEMO });
}

#[test]
fn a_pod_dies_and_returns_with_another_address_and_mac() {
    needs_root!();
    let mut playground = bare(BINARY, Setup::DEMO);
    let old = playground.pod("web-2").expect("runs").address();
    playground.kill_pod("web-2").expect("the pod dies");
    let new = playground.start_pod(Place::new("web-2", Node::One, 22)).expect("the pod returns").address();
    let client = playground.client().with_timeout(Duration::from_millis(300));
    for (old, new) in old.addresses().into_iter().zip(new.addresses()) {
        client.get(SocketAddr::new(old, POD_PORT)).expect_err("nobody has the old address");
        assert_eq!(client.get(SocketAddr::new(new, POD_PORT)).expect("the pod answers").pod, "web-2");
    }
    playground.pod("web-2").expect("runs").change_mac([2, 0, 0, 0, 0, 9]).expect("a veth takes any MAC address");
    for new in new.addresses() {
        assert_eq!(client.get(SocketAddr::new(new, POD_PORT)).expect("the pod answers").pod, "web-2");
    }
}

#[test]
fn nothing_is_left() {
    needs_root!();
    let playground = bare(BINARY, Setup::DEMO);
    let name = playground.name().clone();
    assert_eq!(netns::registered(|space| name.owns(space)).len(), 7);
    assert!(ping(playground.client_space(), IpAddr::from(NODE.v4)));
    let removed = playground.remove().expect("removal");
    assert!(removed.len() >= 7 + 4, "four servers and seven namespaces: {removed:?}");
    assert_eq!(netns::registered(|space| name.owns(space)), [""; 0]);
    assert!(!name.directory().exists());
}

#[test]
fn what_has_the_name_already_is_left_alone() {
    needs_root!();
    let playground = bare(BINARY, Setup::DEMO);
    let name = playground.name().clone();
    let again = Playground::build(Options::new(name.clone(), BINARY)).expect_err("the name is taken");
    assert!(again.to_string().contains("File exists"), "{again}");
    assert_eq!(netns::registered(|space| name.owns(space)).len(), 7);
    assert!(ping(playground.client_space(), IpAddr::from(NODE.v4)));
}
