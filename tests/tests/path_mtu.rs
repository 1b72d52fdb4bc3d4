//! Path MTU discovery through a Service, in both directions and both families: with this node as the router that finds a
//! packet too big, and with a router elsewhere that does.
//!
//! Both ends of every connection believe in 1500 bytes, so a transfer of full segments gets through only if its sender
//! is told of the narrow place by an ICMP error that it takes for its connection's own.

use lb_ctl::playground::content::Hash;
use lb_ctl::playground::links::Links;
use lb_ctl::playground::netns::NetNs;
use lb_ctl::playground::offload::Offload;
use lb_ctl::playground::topology::{CLIENT, Dual, NODE2, Node};
use lb_ctl::playground::{Client, PodNetwork};
use lb_tests::fixture::{Fixture, Setup, node_port};
use lb_tests::{needs_datapath, traffic};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");
/// Between the smallest MTU of IPv6 and the 1500 of every cable.
const NARROW: u32 = 1300;
const LENGTH: u64 = 300_000;
/// A client behind the client's namespace.
const FAR: Dual = Dual { v4: Ipv4Addr::new(203, 0, 113, 2), v6: Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 2) };

fn ip(space: &NetNs, arguments: &str) {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace());
    let mut child = space.spawn(&mut command).expect("iproute2 is installed");
    assert!(child.wait().expect("a child").success(), "ip {arguments}");
}

/// Makes a way narrow: the route in `space` to `to` (an address or a network of each family). Locked, since the kernel tells
/// BPF programs of a route's own MTU only then.
fn narrow(space: &NetNs, to: [String; 2], way: [String; 2]) {
    for (to, way) in to.into_iter().zip(way) {
        ip(space, &format!("route replace {to} {way} mtu lock {NARROW}"));
    }
}

fn alone(dual: Dual) -> [String; 2] {
    [format!("{}/32", dual.v4), format!("{}/128", dual.v6)]
}

fn by(dual: Dual, link: &str) -> [String; 2] {
    dual.addresses().map(|gateway| format!("via {gateway} dev {link}"))
}

fn on(link: &str) -> [String; 2] {
    [format!("dev {link}"), format!("dev {link}")]
}

/// Sends `LENGTH` bytes to each of `pods`, or gets as many from each, over connections that find it.
fn transfers(client: Client<'_>, to: SocketAddr, pods: &[&str], up: bool) {
    let hash = Hash::of_content(LENGTH, LENGTH);
    let mut met = BTreeSet::new();
    for _ in 0..60 {
        let mut connection = client.connect(to).unwrap_or_else(|error| panic!("{error}"));
        let answer = connection.get().unwrap_or_else(|error| panic!("{error}"));
        if !pods.contains(&answer.pod.as_str()) || !met.insert(answer.pod.clone()) {
            continue;
        }
        if up {
            let received = connection.upload(LENGTH).unwrap_or_else(|error| panic!("{}: {error}", answer.pod));
            assert_eq!((received.length, received.hash), (LENGTH, hash.value()), "{to}: upload to {}", answer.pod);
        } else {
            let got = connection.download(LENGTH).unwrap_or_else(|error| panic!("{}: {error}", answer.pod));
            assert_eq!(got, (LENGTH, hash), "{to}: download from {}", answer.pod);
        }
        if met.len() == pods.len() {
            return;
        }
    }
    panic!("{to}: met only {met:?}");
}

fn ways(fixture: &Fixture) -> Vec<SocketAddr> {
    fixture.cluster().into_iter().chain(node_port()).collect()
}

const SETUPS: [Setup; 2] = [
    Setup::DEMO,
    Setup { wire: "tcx", pods: PodNetwork::Routed, rp_filter: 1, firewall: true, napi: false, ..Setup::DEMO },
];

#[test]
fn a_client_is_told_of_the_narrow_way_from_this_node_to_a_backend() {
    needs_datapath!();
    for setup in SETUPS {
        let fixture = Fixture::new(BINARY, setup);
        let node = fixture.node_space(Node::One);
        for name in ["web-1", "web-2"] {
            let pod = fixture.pod(name).expect("runs");
            narrow(node, alone(pod.address()), on(&pod.place().node_link()));
        }
        narrow(node, Node::Two.pod_networks().map(|network| network.to_string()), by(NODE2, "eth1"));
        for asker in traffic::askers(&fixture).into_iter().take(2) {
            for to in ways(&fixture) {
                // The kernel tells a route's MTU only together with a neighbour that it has met.
                traffic::many(asker.client, to, 30);
                let before = fixture.reason("mtu-exceeded");
                transfers(asker.client, to, &traffic::PODS, true);
                assert!(fixture.reason("mtu-exceeded") > before, "{setup:?}: {} to {to} was told nothing", asker.name);
            }
        }
    }
}

#[test]
fn a_backend_is_told_of_the_narrow_way_from_this_node_to_a_client() {
    needs_datapath!();
    for setup in SETUPS {
        let fixture = Fixture::new(BINARY, setup);
        let node = fixture.node_space(Node::One);
        narrow(node, alone(CLIENT), on("eth0"));
        // Packets of pods come in with their checksums left to hardware, in bunches, and what is made of them must be
        // right where the device does not complete it.
        Offload::TxChecksum.set(node, "veth-web-1", false).unwrap_or_else(|error| panic!("{error}"));
        let visitor = fixture.pod("visitor").expect("runs");
        narrow(node, alone(visitor.address()), on(&visitor.place().node_link()));
        for asker in traffic::askers(&fixture).into_iter().take(2) {
            let before = fixture.reason("mtu-exceeded");
            for to in ways(&fixture) {
                transfers(asker.client, to, &traffic::PODS, false);
            }
            // Each pod, told once, remembers it for its client's address.
            assert!(fixture.reason("mtu-exceeded") >= before + 4, "{setup:?}: {}", asker.name);
        }
    }
}

#[test]
fn a_client_is_told_of_a_narrow_way_behind_the_next_node() {
    needs_datapath!();
    for setup in SETUPS {
        let fixture = Fixture::new(BINARY, setup);
        let pod = fixture.pod("web-3").expect("runs");
        narrow(fixture.node_space(Node::Two), alone(pod.address()), on(&pod.place().node_link()));
        // From outside the connection has a lent source, from a pod its own: the error goes to either.
        for asker in traffic::askers(&fixture).into_iter().take(2) {
            for to in ways(&fixture) {
                let before = fixture.reason("icmp-translated");
                transfers(asker.client, to, &["web-3"], true);
                assert!(fixture.reason("icmp-translated") > before, "{setup:?}: {} to {to}", asker.name);
            }
        }
    }
}

#[test]
fn a_backend_is_told_of_a_narrow_way_in_front_of_the_client() {
    needs_datapath!();
    for setup in SETUPS {
        let fixture = Fixture::new(BINARY, setup);
        // The client's namespace becomes a router, with the real client behind it.
        let router = fixture.client_space();
        router.sysctl("ipv4/ip_forward", 1).expect("a namespace of our own");
        router.sysctl("ipv6/conf/all/forwarding", 1).expect("a namespace of our own");
        let far = NetNs::create(&fixture.name().space("far")).expect("a namespace");
        Links::open(router).and_then(|links| links.veth("far0", &far, "eth0")).expect("a cable");
        for (address, gateway) in [("203.0.113.2/24", "203.0.113.1"), ("2001:db8:3::2/64", "2001:db8:3::1")] {
            let (network, bits) = (address.split('/').next().expect("an address"), &address[address.len() - 3..]);
            let nodad = if network.contains(':') { "nodad" } else { "" };
            ip(router, &format!("address add {gateway}{bits} dev far0 {nodad}"));
            ip(&far, &format!("address add {address} dev eth0 {nodad}"));
            ip(&far, &format!("route add default via {gateway}"));
        }
        narrow(router, alone(FAR), on("far0"));
        let client = Client::new(&far);
        let before = fixture.reason("icmp-translated");
        for to in ways(&fixture) {
            transfers(client, to, &traffic::PODS, false);
        }
        assert!(fixture.reason("icmp-translated") >= before + 4, "{setup:?}");
    }
}
