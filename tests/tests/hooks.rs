//! The node's own sockets are backends too, behind every hook.

use lb_ctl::playground::PodNetwork::Bridged;
use lb_ctl::playground::topology::{NODE, Node};
use lb_tests::fixture::{Fixture, Setup};
use lb_tests::{needs_datapath, traffic};
use std::net::SocketAddr;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

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
