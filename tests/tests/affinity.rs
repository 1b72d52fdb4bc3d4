//! Session affinity: a client keeps its backend by every way into a Service port, as long as the backend is there and the
//! client comes back in time.

use lb_common::{Affinity, BackendSet, Service, TCP};
use lb_ctl::playground::manifests;
use lb_ctl::playground::{Client, Playground};
use lb_ebpf::socket;
use lb_memory::socket::Call;
use lb_tests::fixture::{Fixture, Setup, node_port, node_port_udp};
use lb_tests::frames::{self, Flags};
use lb_tests::needs_datapath;
use lb_tests::node::{INSIDE, Node, UPLINK};
use lb_tests::small::{self, Family, LOCAL_1, LOCAL_2, NODE_PORT, V6, WEB, WEB_NODE_PORT};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

const TIMEOUT: u32 = 60;

/// Lets clients of the Service keep their backends, or not.
fn keep(node: &mut Node, seconds: Option<u32>) {
    for service in node.tables.image.services.values_mut() {
        for offset in [0, V6] {
            if [WEB, WEB_NODE_PORT].contains(&service.id.wrapping_sub(offset)) {
                service.affinity_ticks = seconds.map_or(0, Affinity::ticks);
                service.affinity_id = WEB + offset;
                service.members = service.backends;
            }
        }
    }
}

fn sticky() -> Node {
    let mut node = Node::new();
    keep(&mut node, Some(TIMEOUT));
    node
}

/// Leaves the Service only one of its two backends.
fn leave_one(node: &mut Node, family: Family, address: IpAddr) {
    for (key, service) in &mut node.tables.image.services {
        let is_meant = service.affinity_ticks != 0 && (key.version() == 4) == (family == Family::V4);
        if is_meant {
            let place = u32::from(address == family.backend(LOCAL_2));
            service.backends = BackendSet::new(service.backends.base() + place, 1, 2);
            service.members = service.backends;
        }
    }
}

fn other(family: Family, address: IpAddr) -> IpAddr {
    family.backend(if address == family.backend(LOCAL_1) { LOCAL_2 } else { LOCAL_1 })
}

/// The ways in: the ClusterIP and the node port.
fn ways(family: Family) -> [SocketAddr; 2] {
    [family.cluster(WEB, 80), SocketAddr::new(family.node(), NODE_PORT)]
}

/// Opens a connection and gives the address of its backend.
fn open(node: &mut Node, from: SocketAddr, to: SocketAddr) -> IpAddr {
    node.forwarded(UPLINK, &frames::tcp(from, to, Flags::Syn, b"")).1.ip()
}

/// One of many outside clients.
fn client(family: Family, index: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 51, 100, index).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, index.into()).into(),
    }
}

#[test]
fn a_client_keeps_its_backend_by_every_way_into_a_service_port() {
    for family in Family::BOTH {
        let mut node = sticky();
        let mut met = BTreeSet::new();
        for index in 1..60 {
            let mut of_client = BTreeSet::new();
            for port in 1..20 {
                let to = ways(family)[usize::from(port % 2)];
                of_client.insert(open(&mut node, SocketAddr::new(client(family, index), port), to));
            }
            assert_eq!(of_client.len(), 1, "{of_client:?}");
            met.extend(of_client);
        }
        assert_eq!(met.len(), 2, "clients spread");
        assert_eq!(node.tables.affinity.contents().len(), 59, "an entry for each client");
    }
}

#[test]
fn a_client_whose_entry_was_lost_comes_back_to_its_backend() {
    for family in Family::BOTH {
        let mut node = sticky();
        for index in 1..20 {
            let first = open(&mut node, SocketAddr::new(client(family, index), 1), ways(family)[0]);
            node.tables.affinity.lose();
            assert_eq!(open(&mut node, SocketAddr::new(client(family, index), 2), ways(family)[1]), first);
        }
    }
}

/// Lets connections be given to the backends by a table in which the second has four places of five. Each stands once among
/// the members.
fn spread_by_a_table(node: &mut Node) {
    for service in node.tables.image.services.values_mut().filter(|service| service.affinity_ticks != 0) {
        let base = service.members.base();
        for (index, member) in (base + 2..).zip([1, 1, 0, 1, 1]) {
            let slot = node.tables.image.slots[&(base + member)];
            node.tables.image.slots.insert(index, slot);
        }
        service.backends = BackendSet::new(base + 2, 5, 3);
        service.flags |= Service::SAME_EVERYWHERE;
    }
}

#[test]
fn a_client_keeps_its_backend_when_a_table_spreads_the_others() {
    for family in Family::BOTH {
        let (mut node, _, second) = moved(family);
        spread_by_a_table(&mut node);
        for port in 100..120 {
            let to = ways(family)[usize::from(port % 2)];
            assert_eq!(open(&mut node, SocketAddr::new(family.client(), port), to), second);
        }
        let mut of_second = 0;
        for index in 1..=200 {
            let met: BTreeSet<IpAddr> = (201..204)
                .map(|port| open(&mut node, SocketAddr::new(client(family, index), port), ways(family)[0]))
                .collect();
            assert_eq!(met.len(), 1, "{met:?}");
            of_second += usize::from(met.contains(&family.backend(LOCAL_2)));
        }
        // 160 on average, and outside of this once in a million.
        assert!((130..190).contains(&of_second), "{of_second} of 200 clients");
    }
}

#[test]
fn a_client_of_a_service_with_the_shared_seed_gets_the_same_at_every_node() {
    for family in Family::BOTH {
        let met = |seed: u64, shared_seed: u64, first_id: u32| -> Vec<IpAddr> {
            let mut node = sticky();
            (node.tables.image.settings.seed, node.tables.image.settings.shared_seed) = (seed, shared_seed);
            node.tables.image.services.values_mut().for_each(|service| service.affinity_id += first_id);
            spread_by_a_table(&mut node);
            let from = |index| SocketAddr::new(client(family, index), 1);
            (1..60).map(|index| open(&mut node, from(index), ways(family)[0])).collect()
        };
        assert_eq!(met(1, 7, 0), met(2, 7, 100), "neither a node's own seed nor its ids count");
        assert_ne!(met(1, 7, 0), met(1, 8, 0));
    }
}

/// A node and a client that has lost the backend of its hash for a while: (the node, that backend, the one it has now).
fn moved(family: Family) -> (Node, IpAddr, IpAddr) {
    let mut node = sticky();
    let first = open(&mut node, SocketAddr::new(family.client(), 1), ways(family)[0]);
    let second = other(family, first);
    let whole = node.tables.image.clone();
    leave_one(&mut node, family, second);
    assert_eq!(open(&mut node, SocketAddr::new(family.client(), 2), ways(family)[0]), second, "the first is gone");
    node.tables.image = whole;
    (node, first, second)
}

#[test]
fn a_client_leaves_a_backend_that_goes_and_stays_with_the_next() {
    for family in Family::BOTH {
        let (mut node, _, second) = moved(family);
        for port in 3..20 {
            let to = ways(family)[usize::from(port % 2)];
            assert_eq!(open(&mut node, SocketAddr::new(family.client(), port), to), second);
        }
    }
}

#[test]
fn each_new_connection_begins_the_time_anew_and_silence_ends_it() {
    for family in Family::BOTH {
        let (mut node, first, second) = moved(family);
        for port in 3..20 {
            node.around.tick += Affinity::ticks(TIMEOUT);
            assert_eq!(open(&mut node, SocketAddr::new(family.client(), port), ways(family)[0]), second);
        }
        node.around.tick += Affinity::ticks(TIMEOUT) + 1;
        assert_eq!(open(&mut node, SocketAddr::new(family.client(), 50), ways(family)[0]), first);
    }
}

#[test]
fn packets_of_a_connection_do_not_lengthen_the_time() {
    let family = Family::V4;
    let (mut node, first, second) = moved(family);
    let (from, to) = (SocketAddr::new(family.client(), 30), ways(family)[0]);
    assert_eq!(node.connect(from, to).1.ip(), second);
    for _ in 0..4 {
        node.around.tick += Affinity::ticks(TIMEOUT) / 3;
        assert_eq!(node.forwarded(UPLINK, &frames::tcp(from, to, Flags::Ack, b"data")).1.ip(), second);
    }
    assert_eq!(open(&mut node, SocketAddr::new(family.client(), 31), to), first);
}

#[test]
fn a_new_timeout_counts_for_whoever_is_known_already() {
    let (mut node, first, second) = moved(Family::V4);
    let from = |node: &mut Node, port| open(node, SocketAddr::new(Family::V4.client(), port), ways(Family::V4)[0]);
    keep(&mut node, Some(10));
    node.around.tick += Affinity::ticks(10);
    assert_eq!(from(&mut node, 3), second);
    node.around.tick += Affinity::ticks(10) + 1;
    assert_eq!(from(&mut node, 4), first);
}

#[test]
fn connections_stay_where_they_are_when_affinity_comes_and_goes() {
    let family = Family::V4;
    let mut node = Node::new();
    let connections: Vec<(SocketAddr, SocketAddr)> = (1..30)
        .map(|port| {
            let from = SocketAddr::new(family.client(), port);
            (from, node.connect(from, ways(family)[0]).1)
        })
        .collect();
    let met = |of: &[(SocketAddr, SocketAddr)]| of.iter().map(|(_, backend)| *backend).collect::<BTreeSet<_>>().len();
    assert_eq!(met(&connections), 2);
    for seconds in [Some(TIMEOUT), None] {
        keep(&mut node, seconds);
        node.around.tick += 1;
        for (from, backend) in &connections {
            let data = frames::tcp(*from, ways(family)[0], Flags::Ack, b"data");
            assert_eq!(node.forwarded(UPLINK, &data), (*from, *backend));
        }
        let new: BTreeSet<IpAddr> =
            (100..130).map(|port| open(&mut node, SocketAddr::new(family.client(), port), ways(family)[0])).collect();
        assert_eq!(new.len(), if seconds.is_some() { 1 } else { 2 }, "{seconds:?}");
        // The same ports are to be opened again.
        let ports = 100..130;
        node.tables.flows4.change(|_, flow| {
            if ports.contains(&u16::from_be_bytes(flow.src_port)) {
                flow.tick = 0;
            }
        });
    }
}

#[test]
fn a_packet_that_is_not_sent_on_makes_nobody_known() {
    let mut node = sticky();
    let mut syn = frames::tcp(SocketAddr::new(Family::V4.client(), 1), ways(Family::V4)[0], Flags::Syn, b"");
    // A spent TTL ends here.
    syn[22] = 1;
    node.ingress(UPLINK, &syn);
    assert!(node.tables.affinity.contents().is_empty());
}

/// At its sockets a process is told by its network namespace; the node is one client at its sockets and by its packets.
#[test]
fn a_process_keeps_its_backend_at_its_sockets_and_so_does_the_node_everywhere() {
    for (family, node_address) in [(Family::V4, Family::V4.node()), (Family::V6, Family::V6.node())] {
        let (mut node, _, _) = moved(family);
        // From now on packets come in by the node's own pair.
        node.tables.image.devices.insert(INSIDE, lb_common::Device::new(lb_common::Device::HOST));
        let connect = |node: &Node, namespace, cookie, to: SocketAddr| -> SocketAddr {
            let (protocol, connected, tick) = (TCP, false, node.around.tick);
            if family == Family::V4 {
                let mut call = Call::<4> { to, protocol, cookie, namespace, connected, tick };
                socket::connect(&mut call, &node.tables);
                call.to
            } else {
                let mut call = Call::<6> { to, protocol, cookie, namespace, connected, tick };
                socket::connect(&mut call, &node.tables);
                call.to
            }
        };
        let mut met = BTreeSet::new();
        for namespace in (1..40).chain([small::NAMESPACE]) {
            let given: BTreeSet<SocketAddr> =
                (0..20).map(|cookie| connect(&node, namespace, cookie, ways(family)[0])).collect();
            assert_eq!(given.len(), 1, "{given:?}");
            met.extend(given);
        }
        assert_eq!(met.len(), 2, "namespaces spread");

        // Its hash's backend goes and comes back: the packet path keeps to what the sockets have found, and the reverse.
        let hashed = connect(&node, small::NAMESPACE, 1, ways(family)[0]).ip();
        let whole = node.tables.image.clone();
        leave_one(&mut node, family, other(family, hashed));
        let kept = connect(&node, small::NAMESPACE, 2, ways(family)[1]).ip();
        assert_eq!(kept, other(family, hashed));
        node.tables.image = whole;
        node.tables.image.settings.host = lb_common::HostPair { ifindex: INSIDE, macs: [7; 12] };
        let syn = frames::tcp(SocketAddr::new(node_address, 9), ways(family)[0], Flags::Syn, b"");
        assert_eq!(node.forwarded(INSIDE, &syn).1.ip(), kept);
        assert_eq!(connect(&node, small::NAMESPACE, 3, ways(family)[0]).ip(), kept);
    }
}

/// The playground's Service with affinity for three seconds.
fn for_three_seconds() -> String {
    manifests::cluster().replace(
        "  type: NodePort\n",
        "  type: NodePort\n  sessionAffinity: ClientIP\n  sessionAffinityConfig: { clientIP: { timeoutSeconds: 3 } }\n",
    )
}

/// The pods that this many new connections by each of these ways meet.
fn pods(client: Client<'_>, ways: &[SocketAddr], count: usize) -> BTreeSet<String> {
    let asks = ways.iter().flat_map(|to| std::iter::repeat_n(*to, count));
    asks.map(|to| client.get(to).unwrap_or_else(|error| panic!("{to}: {error}")).pod).collect()
}

fn only(pods: BTreeSet<String>) -> String {
    assert_eq!(pods.len(), 1, "{pods:?}");
    pods.into_iter().next().expect("one")
}

fn restore(playground: &Playground, name: &str) {
    let place = playground.pod(name).expect("it runs").place();
    playground.apply(&manifests::pod(place)).expect("the CLI applies");
}

#[test]
fn real_clients_keep_their_pod_until_it_goes_or_they_are_silent() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let visitor = fixture.pod("visitor").expect("runs").client();
    // Connections from before, which stay.
    let mut before: Vec<_> = (0..12).map(|_| visitor.connect(fixture.cluster()[0]).expect("connects")).collect();
    let first: Vec<String> = before.iter_mut().map(|connection| connection.get().expect("answers").pod).collect();
    assert!(first.iter().collect::<BTreeSet<_>>().len() > 1);
    fixture.apply(&for_three_seconds()).expect("the CLI applies");
    let again: Vec<String> = before.iter_mut().map(|connection| connection.get().expect("answers").pod).collect();
    assert_eq!(again, first, "affinity moves no connection");

    for client in [fixture.client(), visitor] {
        for family in 0..2 {
            let ways = [fixture.cluster()[family], node_port()[family]];
            only(pods(client, &ways, 15));
            let answers = [fixture.cluster_udp()[family], node_port_udp()[family]].into_iter().flat_map(|to| {
                (0..15).map(move |_| client.datagrams(to).expect("a socket").exchange(b"who").expect("an answer").pod)
            });
            only(answers.collect());
        }
    }

    let ways = [fixture.cluster()[0], node_port()[0]];
    let hashed = only(pods(visitor, &ways, 5));
    fixture.delete_pod_object(&hashed).expect("the CLI deletes");
    let next = only(pods(visitor, &ways, 5));
    assert_ne!(next, hashed);
    restore(&fixture, &hashed);
    // Each new connection begins the three seconds anew.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        assert_eq!(only(pods(visitor, &ways, 2)), next, "after {:?}", start.elapsed());
        std::thread::sleep(Duration::from_millis(500));
    }
    // Ticks are of a second: the time may be that much longer.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(only(pods(visitor, &ways, 5)), hashed, "forgotten, so the hash decides again");
}
