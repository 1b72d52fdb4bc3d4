//! Who does the work: XDP what comes off the wire, TCX the rest, and the node's own sockets are backends too.

use lb_ctl::playground::PodNetwork::Bridged;
use lb_ctl::playground::links::Links;
use lb_ctl::playground::topology::{NODE, Node};
use lb_tests::fixture::{Fixture, Setup, node_port};
use lb_tests::sniffer::{Arrival, Sniffer};
use lb_tests::{needs_datapath, traffic};
use std::net::SocketAddr;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// Packets from outside that the node's stack saw, and that the datapath forwarded.
fn share_of_the_stack(setup: Setup) -> (usize, u64) {
    let fixture = Fixture::new(BINARY, setup);
    let ways: Vec<SocketAddr> = fixture.cluster().into_iter().chain(node_port()).collect();
    // Neighbours are resolved by the stack: by the first packets to each pod.
    for to in &ways {
        traffic::many(fixture.client(), *to, 30);
    }
    let node = fixture.node_space(Node::One);
    let index = Links::open(node).and_then(|links| links.index("eth0")).expect("the node's interface");
    let sniffer = Sniffer::open(node).expect("a packet socket");
    let (mut seen, before) = (0, fixture.reason("forwarded"));
    for to in ways {
        for _ in 0..20 {
            let mut connection = fixture.client().connect(to).expect("the Service answers");
            connection.upload(20_000).expect("the pod reads");
            let ours = |arrival: &Arrival| arrival.index == index && arrival.destination == to.ip();
            seen += sniffer.arrivals().iter().filter(|arrival| ours(arrival)).count();
        }
    }
    (seen, fixture.reason("forwarded") - before)
}

#[test]
fn native_xdp_finishes_what_comes_off_the_wire() {
    needs_datapath!();
    // Not with bridged pods: a bridge takes no frames from XDP.
    let (seen, forwarded) = share_of_the_stack(Setup::DEMO);
    assert!(forwarded > 800, "{forwarded} packets were forwarded");
    // A few are left to the stack on purpose: it keeps its neighbour entries honest by them.
    assert!((seen as u64) < forwarded / 10, "the stack saw {seen} of {forwarded} packets");
}

#[test]
fn tcx_works_behind_the_packet_sockets() {
    needs_datapath!();
    let (seen, forwarded) = share_of_the_stack(Setup { wire: "tcx", ..Setup::DEMO });
    // The last packets of a connection may come after the count.
    assert!(seen as u64 > forwarded * 9 / 10, "the sniffer sees what TCX gets: {seen} of {forwarded} packets");
}

/// A Service whose endpoint is the node itself.
const ON_THE_NODE: &str = "apiVersion: v1
kind: Service
metadata: { name: own, namespace: playground }
spec:
  ipFamilyPolicy: RequireDualStack
  ports:
  - { name: http, port: 80, targetPort: 9000 }
  - { name: echo, port: 80, targetPort: 9000, protocol: UDP }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: own-4, namespace: playground, labels: { kubernetes.io/service-name: own } }
addressType: IPv4
endpoints:
- { addresses: [192.0.2.1], nodeName: node-1 }
ports:
- { name: http, port: 9000 }
- { name: echo, port: 9000, protocol: UDP }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: own-6, namespace: playground, labels: { kubernetes.io/service-name: own } }
addressType: IPv6
endpoints:
- { addresses: ['2001:db8:1::1'], nodeName: node-1 }
ports:
- { name: http, port: 9000 }
- { name: echo, port: 9000, protocol: UDP }
";

fn a_backend_on_the_node_works(setup: Setup) {
    let mut fixture = Fixture::new(BINARY, setup);
    fixture.serve_on(Node::One, "the node", 9000).expect("a server on the node");
    fixture.apply(ON_THE_NODE).expect("the CLI applies");
    let own = fixture.cluster_address_of("own").expect("addresses are allocated");
    for asker in traffic::askers(&fixture) {
        for address in own.addresses() {
            let to = SocketAddr::new(address, 80);
            let way = format!("{setup:?}: {} to {to}", asker.name);
            let mut connection = asker.client.connect(to).unwrap_or_else(|error| panic!("{way}: {error}"));
            let answer = connection.get().unwrap_or_else(|error| panic!("{way}: {error}"));
            assert_eq!((answer.pod.as_str(), answer.client), ("the node", asker.address.like(address)), "{way}");
            assert_eq!(connection.upload(1_000_000).expect("an upload").length, 1_000_000, "{way}");
            assert_eq!(connection.download(1_000_000).expect("a download").0, 1_000_000, "{way}");
            let answer = asker.client.datagram(to, b"hello").unwrap_or_else(|error| panic!("{way}: {error}"));
            assert_eq!((answer.pod.as_str(), answer.client), ("the node", asker.address.like(address)), "{way}");
            // The same server by its own address, past the Service.
            let direct = SocketAddr::new(NODE.like(address), 9000);
            assert_eq!(asker.client.get(direct).expect("a plain connection").pod, "the node", "{way}");
        }
    }
}

#[test]
fn sockets_of_the_node_are_backends_behind_native_xdp() {
    needs_datapath!();
    a_backend_on_the_node_works(Setup::DEMO);
    a_backend_on_the_node_works(Setup { rp_filter: 1, firewall: true, pods: Bridged, ..Setup::DEMO });
}

#[test]
fn sockets_of_the_node_are_backends_behind_generic_xdp() {
    needs_datapath!();
    a_backend_on_the_node_works(Setup { wire: "xdp-generic", rp_filter: 1, firewall: true, ..Setup::DEMO });
}

#[test]
fn sockets_of_the_node_are_backends_behind_tcx() {
    needs_datapath!();
    a_backend_on_the_node_works(Setup { wire: "tcx", rp_filter: 1, firewall: true, ..Setup::DEMO });
}
