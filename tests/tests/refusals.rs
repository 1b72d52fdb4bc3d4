//! What cannot be served: it is dropped or refused for a reason that is counted.

use lb_ctl::playground::topology::{Dual, NODE, Node, SERVICE_PORT};
use lb_tests::fixture::{Fixture, Setup};
use lb_tests::{needs_datapath, traffic};
use std::net::SocketAddr;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// A Service that no pod fits.
const NOBODY: &str = "apiVersion: v1
kind: Service
metadata: { name: nobody, namespace: playground }
spec:
  ipFamilyPolicy: RequireDualStack
  selector: { app: nobody }
  ports:
  - port: 80
";

#[test]
fn a_service_without_endpoints_says_so() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    fixture.apply(NOBODY).expect("the CLI applies");
    let nobody: Dual = fixture.cluster_address_of("nobody").expect("addresses are allocated");
    for asker in traffic::askers(&fixture) {
        let client = asker.client.with_timeout(Duration::from_millis(300));
        for address in nobody.addresses() {
            let before = fixture.reason("no-backend");
            let to = SocketAddr::new(address, SERVICE_PORT);
            client.connect(to).expect_err("nobody answers");
            assert!(fixture.reason("no-backend") > before, "{} to {to} was not counted", asker.name);
        }
    }
    traffic::one_each(&fixture).expect("the other Service answers");
}

#[test]
fn a_port_that_no_service_has_is_counted_and_a_nodes_own_port_is_left_alone() {
    needs_datapath!();
    let mut fixture = Fixture::new(BINARY, Setup::DEMO);
    fixture.serve_on(Node::One, "the node", 8081).expect("a server on the node");
    for to in fixture.cluster() {
        let before = fixture.reason("no-service-port");
        let client = fixture.client().with_timeout(Duration::from_millis(300));
        client.connect(SocketAddr::new(to.ip(), 81)).expect_err("no such port");
        assert!(fixture.reason("no-service-port") > before, "{to} was not counted");
    }
    for address in NODE.addresses() {
        let answer = fixture.client().get(SocketAddr::new(address, 8081)).expect("the node's own server");
        assert_eq!(answer.pod, "the node");
    }
}
