//! Where the source is translated too, and the ports that are lent for it.

use lb_common::flow::State;
use lb_common::{Reason, Settings};
use lb_ctl::playground::topology::{self, CLIENT, NODE, NODE_INSIDE, SERVICE_PORT, SERVICE_PORT_UDP};
use lb_ebpf::Verdict;
use lb_tests::fixture::{self, Fixture, Setup, interfaces};
use lb_tests::frames::{self, Flags};
use lb_tests::matrix::stage::REMOTE as REMOTE_POD;
use lb_tests::needs_datapath;
use lb_tests::node::{INSIDE, Node, UPLINK};
use lb_tests::small::{FAR, Family, LOCAL_1, LOCAL_2, ON_HOST, REMOTE, SINGLE, TARGET_PORT, TWIN};
use lb_tests::sniffer::Sniffer;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

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
    let (seen, backend) = node.forwarded(UPLINK, &frames::tcp(client(Family::V4, 7), service, Flags::Fin, b""));
    node.forwarded(UPLINK, &frames::tcp(backend, seen, Flags::Fin, b""));
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

/// What takes a node its means to lend.
type Spoil<'a> = &'a dyn Fn(&mut Node);

#[test]
fn nothing_leaves_untranslated() {
    let no_address = |node: &mut Node| node.tables.image.settings.snat4 = [[0; 4]; 4];
    let no_ports = |node: &mut Node| node.tables.image.settings.snat_port_first = 0;
    let empty_range = |node: &mut Node| node.tables.image.settings.snat_port_last = 1;
    let no_room = |node: &mut Node| node.tables.flows4.limit(0);
    let no_room_for_the_second = |node: &mut Node| node.tables.flows4.limit(1);
    let cases: [(Spoil<'_>, Reason); 5] = [
        (&no_address, Reason::NoSnatAddress),
        (&no_ports, Reason::SnatExhausted),
        (&empty_range, Reason::SnatExhausted),
        (&no_room, Reason::TableFull),
        (&no_room_for_the_second, Reason::TableFull),
    ];
    let (from, service) = (client(Family::V4, 40_000), Family::V4.cluster(FAR, 80));
    for (spoil, reason) in cases {
        // A SYN, and what may belong to a connection whose entry was lost.
        for flags in [Flags::Syn, Flags::Ack, Flags::Rst] {
            let frame = frames::tcp(from, service, flags, b"");
            let mut node = Node::new();
            spoil(&mut node);
            assert_eq!(node.ingress(UPLINK, &frame).0, Verdict::drop(reason));
            assert_eq!(node.xdp(&frame).0, Verdict::drop(reason));
            assert_eq!(node.entries(), (0, 0));
        }
    }
    let mut node = spent();
    for flags in [Flags::Syn, Flags::Ack, Flags::Rst] {
        let frame = frames::tcp(client(Family::V4, 51), service, flags, b"");
        assert_eq!(node.ingress(UPLINK, &frame).0, Verdict::drop(Reason::SnatExhausted));
    }
    assert_eq!(node.entries(), (100, 0));
}

#[test]
fn the_clients_address_is_kept_wherever_its_replies_come_back() {
    for family in Family::BOTH {
        let outside = client(family, 40_000);
        let pod = SocketAddr::new(family.backend(LOCAL_1), 40_000);
        let other_pod = SocketAddr::new(family.backend(LOCAL_2), 40_000);
        for (by, from, service, keeps) in [
            (UPLINK, outside, SINGLE, true),
            (UPLINK, outside, FAR, false),
            (INSIDE, other_pod, SINGLE, true),
            (INSIDE, other_pod, FAR, true),
            (INSIDE, pod, SINGLE, false),
        ] {
            let mut node = Node::new();
            let (seen, _) = node.forwarded(by, &frames::tcp(from, family.cluster(service, 80), Flags::Syn, b""));
            assert_eq!(seen == from, keeps, "{from} to service {service} is seen as {seen}");
        }
        let mut node = Node::new();
        let (verdict, bytes) =
            node.ingress(UPLINK, &frames::tcp(outside, family.cluster(ON_HOST, 80), Flags::Syn, b""));
        assert_eq!((verdict.reason, frames::checked(&bytes).0), (Reason::Delivered, outside));
    }
}

/// Addresses that the node lends beside its own.
const MORE: [[u8; 4]; 2] = [[192, 0, 2, 2], [192, 0, 2, 3]];

#[test]
fn every_address_lends_its_ports_and_the_search_walks_on() {
    let mut node = Node::new();
    let settings = &mut node.tables.image.settings;
    settings.snat4 = Settings::lent([[192, 0, 2, 1], MORE[0], MORE[1]]);
    (settings.snat_port_first, settings.snat_port_last) = (61_000, 61_019);
    let service = Family::V4.cluster(FAR, 80);
    let seen: BTreeSet<_> = (1..=60).map(|port| node.connect(client(Family::V4, port), service).0).collect();
    assert_eq!(seen.len(), 60);
    for address in [[192, 0, 2, 1], MORE[0], MORE[1]] {
        assert_eq!(seen.iter().filter(|seen| seen.ip() == std::net::IpAddr::from(address)).count(), 20);
    }
    let syn = frames::tcp(client(Family::V4, 61), service, Flags::Syn, b"");
    assert_eq!(node.ingress(UPLINK, &syn).0, Verdict::drop(Reason::SnatExhausted));
}

#[test]
fn the_hash_spreads_flows_over_the_addresses() {
    let mut node = Node::new();
    node.tables.image.settings.snat4 = Settings::lent([[192, 0, 2, 1], MORE[0], MORE[1]]);
    let mut counts = std::collections::BTreeMap::new();
    for port in 1..=300 {
        let syn = frames::tcp(client(Family::V4, port), Family::V4.cluster(FAR, 80), Flags::Syn, b"");
        *counts.entry(node.forwarded(UPLINK, &syn).0.ip()).or_insert(0) += 1;
    }
    assert!(counts.len() == 3 && counts.values().all(|count| *count > 60), "{counts:?}");
}

/// A node that lends 2,000 ports, all but one of them to confirmed connections.
fn nearly_spent() -> Node {
    let mut node = Node::new();
    let settings = &mut node.tables.image.settings;
    (settings.snat_port_first, settings.snat_port_last) = (10_000, 11_999);
    for port in 1..2000 {
        let (from, service) = (client(Family::V4, port), Family::V4.cluster(FAR, 80));
        *node.tables.budget.get_mut() = lb_common::Budget::default();
        let (_, bytes) = node.ingress(UPLINK, &frames::tcp(from, service, Flags::Syn, b""));
        let (seen, backend, _) = frames::checked(&bytes);
        node.forwarded(UPLINK, &frames::tcp(backend, seen, Flags::SynAck, b""));
        node.forwarded(UPLINK, &frames::tcp(from, service, Flags::Ack, b""));
    }
    *node.tables.budget.get_mut() = lb_common::Budget::default();
    node
}

#[test]
fn the_last_free_port_is_found_by_searching_all_and_counted() {
    let mut node = nearly_spent();
    let service = Family::V4.cluster(FAR, 80);
    let scarce = node.tables.packets(Reason::ForwardedSnatScarce);
    assert!(scarce < 500, "most are found without: {scarce}");
    let syn = frames::tcp(client(Family::V4, 3003), service, Flags::Syn, b"");
    let (verdict, bytes) = node.ingress(UPLINK, &syn);
    assert_eq!(verdict.reason, Reason::ForwardedSnatScarce);
    let (seen, backend, _) = frames::checked(&bytes);
    node.forwarded(UPLINK, &frames::tcp(backend, seen, Flags::SynAck, b""));
    let ack = frames::tcp(client(Family::V4, 3003), service, Flags::Ack, b"");
    assert_eq!(node.ingress(UPLINK, &ack).0.reason, Reason::Forwarded, "only its first packet");
    assert_eq!(node.tables.packets(Reason::ForwardedSnatScarce), scarce + 1);
}

#[test]
fn a_flood_gets_one_search_a_tick() {
    let mut node = nearly_spent();
    let service = Family::V4.cluster(FAR, 80);
    let (first, second) = (client(Family::V4, 3003), client(Family::V4, 3004));
    let syn = |from| frames::tcp(from, service, Flags::Syn, b"");
    assert_eq!(node.ingress(UPLINK, &syn(first)).0.reason, Reason::ForwardedSnatScarce);
    // The first one holds its port unconfirmed: whoever may search takes it.
    assert_eq!(node.ingress(UPLINK, &syn(second)).0, Verdict::drop(Reason::SnatExhausted), "in the same tick");
    node.around.tick += 1;
    assert_eq!(node.ingress(UPLINK, &syn(second)).0.reason, Reason::ForwardedSnatScarce);
}

#[test]
fn who_loses_a_source_to_another_connection_is_forgotten_with_it() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (from, first, second) = (client(family, 40_000), family.cluster(SINGLE, 80), family.cluster(TWIN, 80));
        let (_, backend) = node.connect(from, first);
        node.forwarded(INSIDE, &frames::tcp(backend, from, Flags::Fin, b""));
        node.forwarded(UPLINK, &frames::tcp(from, first, Flags::Fin, b""));
        assert_eq!(node.connect(from, second).0, from, "what is over gives its source back");
        assert_eq!(node.entries(), (2, 0), "nothing is left of the first");
        let (seen, _) = node.forwarded(UPLINK, &frames::tcp(from, first, Flags::Ack, b"late"));
        assert_ne!(seen, from, "that is the second connection's source now");
        let data = frames::tcp(backend, from, Flags::Ack, b"");
        assert_eq!(node.forwarded(INSIDE, &data), (second, from));
    }
}

#[test]
fn a_reset_connection_that_goes_on_keeps_its_source_until_others_have_no_other() {
    for family in Family::BOTH {
        let mut node = Node::new();
        node.tables.image.settings.snat_port_first = 61_000;
        node.tables.image.settings.snat_port_last = 61_099;
        let (held, service) = (client(family, 9_999), family.cluster(FAR, 80));
        let open = |node: &mut Node, port| {
            let (seen, backend) = node.forwarded(UPLINK, &frames::tcp(client(family, port), service, Flags::Syn, b""));
            node.forwarded(UPLINK, &frames::tcp(backend, seen, Flags::SynAck, b""));
            node.forwarded(UPLINK, &frames::tcp(client(family, port), service, Flags::Ack, b""));
            seen
        };
        let seen = open(&mut node, held.port());
        // As somebody who guesses the tuple may send.
        node.forwarded(UPLINK, &frames::tcp(held, service, Flags::Rst, b""));
        for port in 1..=99 {
            open(&mut node, port);
            let on = node.forwarded(UPLINK, &frames::tcp(held, service, Flags::Ack, b"on"));
            assert_eq!(on.0, seen, "{port} others found a port of their own");
        }
        // Now there is none but this.
        *node.tables.budget.get_mut() = lb_common::Budget::default();
        let (verdict, bytes) = node.ingress(UPLINK, &frames::tcp(client(family, 100), service, Flags::Syn, b""));
        assert!(matches!(verdict.reason, Reason::Forwarded | Reason::ForwardedSnatScarce), "{verdict:?}");
        assert_eq!(frames::checked(&bytes).0, seen);
    }
}

#[test]
fn a_flood_of_resets_leaves_ports_for_others() {
    for family in Family::BOTH {
        let mut node = Node::new();
        node.tables.image.settings.snat_port_first = 61_000;
        node.tables.image.settings.snat_port_last = 61_199;
        let service = family.cluster(FAR, 80);
        for port in 1..=2_000 {
            for flags in [Flags::Syn, Flags::Rst] {
                node.forwarded(UPLINK, &frames::tcp(client(family, port), service, flags, b""));
            }
        }
    }
}

/// Two addresses of each family with four ports each: real clients of a pod on another node get each of the eight once,
/// the ninth gets nothing, and nothing reaches the other node untranslated.
fn every_port_of_two_addresses_is_borrowed(wire: &'static str) {
    let mut playground = fixture::bare(BINARY, Setup { wire, ..Setup::DEMO });
    let lent = [NODE, NODE_INSIDE].map(topology::Dual::addresses).concat();
    playground.repeat_daemon_argument("--snat-address", &lent);
    let fixture = Fixture::start(playground, &interfaces(Setup { wire, ..Setup::DEMO }));
    let said = fixture.status().expect("the daemon answers").snat_addresses;
    assert_eq!(said.iter().collect::<BTreeSet<_>>(), lent.iter().collect());
    let pod = fixture.pod(REMOTE_POD.name).expect("runs").address();
    fixture.apply(&REMOTE_POD.manifests(pod)).expect("the CLI applies");
    let service = fixture.cluster_address_of(&REMOTE_POD.service()).expect("addresses are allocated");
    fixture.lend_ports(20_000, 20_003);
    let far = Sniffer::open(fixture.node_space(topology::Node::Two)).expect("a socket");
    let hasty = fixture.client().with_timeout(Duration::from_millis(200));
    for address in service.addresses() {
        let (tcp, udp) = (SocketAddr::new(address, SERVICE_PORT), SocketAddr::new(address, SERVICE_PORT_UDP));
        let all: BTreeSet<(IpAddr, u16)> = [NODE, NODE_INSIDE]
            .into_iter()
            .flat_map(|own| (20_000..=20_003).map(move |port| (own.like(address), port)))
            .collect();

        let mut held: Vec<_> = all.iter().map(|_| fixture.client().connect(tcp).expect("a port is free")).collect();
        let seen = held.iter_mut().map(|connection| connection.get().expect("an answer"));
        assert_eq!(seen.map(|answer| (answer.client, answer.port)).collect::<BTreeSet<_>>(), all, "{tcp}");
        let exhausted = fixture.reason("snat-exhausted");
        hasty.connect(tcp).expect_err("every port is lent");
        assert!(fixture.reason("snat-exhausted") > exhausted, "{tcp}");
        let ports = fixture.status().expect("the daemon answers").lent_ports.expect("some are lent");
        assert_eq!((ports.used, ports.available), (8, 2 * 28_976), "{ports:?}");
        for connection in &mut held {
            connection.upload(10_000).expect("whoever has a port keeps it");
        }

        let sockets: Vec<_> = all.iter().map(|_| fixture.client().datagrams(udp).expect("a socket")).collect();
        let seen = sockets.iter().map(|socket| socket.exchange(b"hello").expect("a port is free"));
        assert_eq!(seen.map(|answer| (answer.client, answer.port)).collect::<BTreeSet<_>>(), all, "{udp}");
        // Only who goes on after an answer is more than a flood.
        for _ in 0..2 {
            for socket in &sockets {
                socket.exchange(b"again").expect("whoever has a port keeps it");
            }
            hasty.datagram(udp, b"hello").expect_err("every port is lent");
        }

        // Who ends gives back.
        let given = held.swap_remove(3).get().expect("an answer");
        let deadline = Instant::now() + Duration::from_secs(5);
        let next = loop {
            match hasty.get(tcp) {
                Ok(answer) => break answer,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
        assert_eq!((next.client, next.port), (given.client, given.port), "{tcp}");
    }
    let (strangers, known): (Vec<_>, Vec<_>) =
        far.arrivals().into_iter().partition(|arrival| CLIENT.addresses().contains(&arrival.source));
    assert!(strangers.is_empty(), "{wire}: nothing leaves untranslated: {strangers:?}");
    assert!(known.iter().any(|arrival| lent.contains(&arrival.source)), "the rest has arrived");
}

#[test]
fn real_clients_borrow_every_port_of_two_addresses_and_the_next_gets_nothing_by_xdp() {
    needs_datapath!();
    every_port_of_two_addresses_is_borrowed("xdp");
}

#[test]
fn real_clients_borrow_every_port_of_two_addresses_and_the_next_gets_nothing_by_tcx() {
    needs_datapath!();
    every_port_of_two_addresses_is_borrowed("tcx");
}
