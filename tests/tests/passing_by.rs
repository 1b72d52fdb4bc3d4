//! What is none of our business flows as before: address resolution, ping, SSH to the node, routed traffic.

use lb_ctl::playground::content::Hash;
use lb_ctl::playground::topology::{CLIENT, NODE, NODE2, Node, POD_PORT};
use lb_tests::fixture::{Fixture, Setup};
use lb_tests::needs_datapath;
use lb_tests::ping::ping;
use std::net::SocketAddr;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

fn flows(setup: Setup) {
    // The hooks are there before the first packet: neighbours are resolved through them.
    let mut fixture = Fixture::new(BINARY, setup);
    fixture.serve_on(Node::One, "sshd", 22).expect("a server on the node");
    let (client, node) = (fixture.client_space(), fixture.node_space(Node::One));
    let visitor = fixture.pod("visitor").expect("runs");
    let remote = fixture.pod("web-3").expect("runs");
    let nearby = fixture.pod("web-2").expect("runs");

    for index in 0..2 {
        let of = |dual: lb_ctl::playground::topology::Dual| dual.addresses()[index];
        for (space, address) in [
            (client, of(NODE)),
            (client, of(NODE2)),
            (client, of(visitor.address())),
            (client, of(remote.address())),
            (node, of(CLIENT)),
            (node, of(nearby.address())),
            (visitor.space(), of(nearby.address())),
            (visitor.space(), of(remote.address())),
            (visitor.space(), of(CLIENT)),
        ] {
            assert!(ping(space, address), "{setup:?}: no echo from {address} in {}", space.name());
        }
        for (from, own, to, port, name) in [
            (fixture.client(), CLIENT, NODE, 22, "sshd"),
            (visitor.client(), visitor.address(), NODE, 22, "sshd"),
            (fixture.client(), CLIENT, nearby.address(), POD_PORT, "web-2"),
            (fixture.client(), CLIENT, remote.address(), POD_PORT, "web-3"),
            (visitor.client(), visitor.address(), remote.address(), POD_PORT, "web-3"),
            (visitor.client(), visitor.address(), nearby.address(), POD_PORT, "web-2"),
        ] {
            let to = SocketAddr::new(of(to), port);
            let mut connection = from.connect(to).unwrap_or_else(|error| panic!("{setup:?}: {error}"));
            let answer = connection.get().unwrap_or_else(|error| panic!("{setup:?}: {error}"));
            assert_eq!((answer.pod.as_str(), answer.client), (name, of(own)), "{to}");
            let received = connection.upload(1_000_000).expect("a plain upload");
            assert_eq!(received.hash, Hash::of_content(1_000_000, 1_000_000).value());
            from.datagram(to, b"by the way").expect("a plain datagram");
        }
    }
    let status = fixture.status().expect("the daemon answers");
    let touched: Vec<_> = status.counters.iter().filter(|line| line.packets > 0).collect();
    assert!(touched.is_empty(), "packets that are not ours were counted: {touched:?}");
}

#[test]
fn native_xdp_lets_them_by() {
    needs_datapath!();
    flows(Setup::DEMO);
}

#[test]
fn generic_xdp_lets_them_by() {
    needs_datapath!();
    flows(Setup { wire: "xdp-generic", ..Setup::DEMO });
}

#[test]
fn tcx_lets_them_by() {
    needs_datapath!();
    flows(Setup { wire: "tcx", pods: lb_ctl::playground::PodNetwork::Bridged, ..Setup::DEMO });
}
