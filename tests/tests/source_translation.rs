//! Where the source is translated too, and the ports that are lent for it.

use lb_common::flow::State;
use lb_common::{Reason, Settings};
use lb_ebpf::{Table, Verdict};
use lb_tests::frames::{self, Flags};
use lb_tests::node::{INSIDE, Node, UPLINK};
use lb_tests::small::{FAR, Family, LOCAL_1, LOCAL_2, REMOTE, SINGLE, TARGET_PORT, TWIN};
use std::collections::BTreeSet;
use std::net::SocketAddr;

fn client(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.client(), port)
}

#[test]
fn a_remote_backend_sees_the_node_unless_the_client_is_local() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let service = family.cluster(FAR, 80);
        let (seen, backend) = node.forwarded(UPLINK, &frames::tcp(client(family, 40_000), service, Flags::Syn, b""));
        assert_eq!(backend.ip(), family.backend(REMOTE));
        assert_eq!(seen.ip(), family.node());
        assert!((Settings::SNAT_PORTS.0..=Settings::SNAT_PORTS.1).contains(&seen.port()));
        let reply = node.forwarded(UPLINK, &frames::tcp(backend, seen, Flags::SynAck, b""));
        assert_eq!(reply, (service, client(family, 40_000)));

        let pod = SocketAddr::new(family.backend(LOCAL_2), 40_000);
        let (seen, _) = node.forwarded(INSIDE, &frames::tcp(pod, service, Flags::Syn, b""));
        assert_eq!(seen, pod, "the reply to a local pod comes back through this node by itself");
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let pod = SocketAddr::new(family.backend(LOCAL_1), 40_000);
        let service = family.cluster(SINGLE, 80);
        let (seen, backend) = node.forwarded(INSIDE, &frames::tcp(pod, service, Flags::Syn, b""));
        assert_eq!(backend, SocketAddr::new(pod.ip(), TARGET_PORT));
        assert_eq!(seen.ip(), family.node(), "else the pod would answer itself");
        let reply = node.forwarded(INSIDE, &frames::tcp(backend, seen, Flags::SynAck, b""));
        assert_eq!(reply, (service, pod));
    }
}

#[test]
fn two_services_on_one_backend_do_not_share_a_tuple() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let client = client(family, 40_000);
        let (first, backend) = node.connect(client, family.cluster(SINGLE, 80));
        let (second, same) = node.connect(client, family.cluster(TWIN, 80));
        assert_eq!(backend, same);
        assert_eq!(first, client);
        assert_eq!(second.ip(), client.ip(), "the client's address is kept");
        assert_ne!(second.port(), client.port(), "but its port was taken");
    }
}

/// A node that lends the ports 61000 to 61049, all of them to confirmed connections.
fn spent() -> Node {
    let mut node = Node::new();
    node.tables.image.settings.snat_port_first = 61_000;
    node.tables.image.settings.snat_port_last = 61_049;
    let ports: BTreeSet<u16> =
        (1..=50).map(|port| node.connect(client(Family::V4, port), Family::V4.cluster(FAR, 80)).0.port()).collect();
    assert_eq!(ports.into_iter().collect::<Vec<_>>(), (61_000..=61_049).collect::<Vec<_>>());
    node
}

#[test]
fn every_port_of_the_range_is_lent_and_then_none() {
    let mut node = spent();
    let service = Family::V4.cluster(FAR, 80);
    let syn = frames::tcp(client(Family::V4, 51), service, Flags::Syn, b"");
    assert_eq!(node.ingress(UPLINK, &syn).0, Verdict::drop(Reason::SnatExhausted));
    // A connection that is over gives its port back at once, an expired one too.
    node.forwarded(UPLINK, &frames::tcp(client(Family::V4, 7), service, Flags::Rst, b""));
    node.forwarded(UPLINK, &syn);
    node.around.tick += State::Established.timeout_ticks() + 1;
    node.forwarded(UPLINK, &frames::tcp(client(Family::V4, 52), service, Flags::Syn, b""));
}

#[test]
fn a_port_that_nobody_confirmed_is_taken_from_its_flow_when_none_is_free() {
    let mut node = spent();
    let service = Family::V4.cluster(FAR, 80);
    for port in 1..=50 {
        node.forwarded(UPLINK, &frames::tcp(client(Family::V4, port), service, Flags::Rst, b""));
        node.forwarded(UPLINK, &frames::tcp(client(Family::V4, port), service, Flags::Syn, b""));
    }
    node.connect(client(Family::V4, 51), service);
}

#[test]
fn without_an_address_to_lend_nothing_leaves_untranslated() {
    let mut node = Node::new();
    node.tables.image.settings.snat4 = [[0; 4]; 4];
    let syn = frames::tcp(client(Family::V4, 40_000), Family::V4.cluster(FAR, 80), Flags::Syn, b"");
    assert_eq!(node.ingress(UPLINK, &syn).0, Verdict::drop(Reason::NoSnatAddress));
    assert_eq!(node.entries(Table::New), 0);
}
