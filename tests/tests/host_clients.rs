//! Processes of the node itself as clients, by the daemon's veth pair.

use lb_ctl::playground::PodNetwork::Bridged;
use lb_ctl::playground::topology::{NODE, Node};
use lb_ctl::playground::{Client, Playground};
use lb_tests::fixture::{Fixture, Setup, bare, interfaces};
use lb_tests::{needs_datapath, traffic};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// Processes of the node.
fn node(playground: &Playground) -> Client<'_> {
    Client::new(playground.node_space(Node::One))
}

/// Runs a command inside the node and gives what it printed.
fn inside(playground: &Playground, command: &str) -> String {
    let mut words = command.split_whitespace();
    let mut command_line = Command::new(words.next().expect("a program"));
    command_line.args(words);
    let output = playground.node_space(Node::One).run(|| command_line.output()).expect("enter").expect("start");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every pod answers a process of the node, and sees the node's own address.
fn works(fixture: &Fixture, way: &str) {
    let client = node(fixture);
    for to in fixture.cluster() {
        let mut met = BTreeSet::new();
        for _ in 0..60 {
            let mut connection = client.connect(to).unwrap_or_else(|error| panic!("{way}: {error}"));
            let answer = connection.get().unwrap_or_else(|error| panic!("{way}: {error}"));
            assert_eq!(answer.client, NODE.like(to.ip()), "{way}");
            if met.insert(answer.pod.clone()) {
                assert_eq!(connection.upload(500_000).expect("an upload").length, 500_000, "{way}: {}", answer.pod);
                assert_eq!(connection.download(500_000).expect("a download").0, 500_000, "{way}: {}", answer.pod);
            }
        }
        assert_eq!(met.iter().map(String::as_str).collect::<Vec<_>>(), traffic::PODS, "{way}: {to}");
    }
    for to in fixture.cluster_udp() {
        let mut met = BTreeSet::new();
        for _ in 0..60 {
            let socket = client.datagrams(to).expect("a socket");
            let answer = socket.exchange(b"first").unwrap_or_else(|error| panic!("{way}: {error}"));
            assert_eq!(socket.exchange(&[b'x'; 1200]).expect("an echo").pod, answer.pod, "{way}");
            met.insert(answer.pod);
        }
        assert_eq!(met.iter().map(String::as_str).collect::<Vec<_>>(), traffic::PODS, "{way}: {to} by UDP");
    }
}

#[test]
fn processes_of_the_node_reach_every_pod() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    works(&fixture, "native XDP, no filters");
    let status = fixture.status().expect("the daemon answers");
    assert!(status.host_clients.starts_with("by lbh0: 10.96.0.0/16 from 192.0.2.1"), "{}", status.host_clients);
    // The daemon has changed no setting of the node but its own pair's: the address family's, not a sysctl.
    let own = inside(&fixture, "sysctl -n net.ipv4.conf.lbh0.rp_filter net.ipv4.conf.lbh1.accept_local");
    assert_eq!(own.split_whitespace().collect::<Vec<_>>(), ["0", "0"]);
    assert!(inside(&fixture, "ip -6 address show dev lbh0").is_empty(), "nothing is said on the pair");
}

#[test]
fn processes_of_the_node_are_served_behind_filters() {
    needs_datapath!();
    for setup in [
        Setup { wire: "tcx", rp_filter: 1, firewall: true, ..Setup::DEMO },
        Setup { wire: "xdp-generic", rp_filter: 2, firewall: true, pods: Bridged, ..Setup::DEMO },
        Setup { path: "stack", rp_filter: 1, firewall: true, ..Setup::DEMO },
    ] {
        works(&Fixture::new(BINARY, setup), &format!("{setup:?}"));
    }
}

/// `rp_filter` counts as the greater of what `all` and the interface say; for IPv6 there is the like of it as rules only,
/// as firewalld sets them.
#[test]
fn processes_of_the_node_are_served_whatever_filters_reverse_paths() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup { wire: "tcx", ..Setup::DEMO });
    let space = fixture.node_space(Node::One);
    for (all, pair) in [(2, 2), (1, 1), (0, 2), (0, 1), (2, 1)] {
        for (class, value) in [("all", all), ("lbh0", pair), ("lbh1", pair)] {
            space.sysctl(&format!("ipv4/conf/{class}/rp_filter"), value).expect("a setting of the test's own node");
        }
        one_each(&fixture, &format!("rp_filter {all} on all, {pair} on the pair"));
    }
    inside(&fixture, "nft add table inet strict");
    inside(&fixture, "nft add chain inet strict pre { type filter hook prerouting priority -290 ; }");
    inside(&fixture, "nft add rule inet strict pre fib saddr . iif oif missing counter drop");
    works(&fixture, "reverse paths filtered strictly by rules too");
    let rules = inside(&fixture, "nft list table inet strict");
    assert!(rules.contains("counter packets 0 "), "{rules}");
}

/// Every way of a process of the node to every pod, with little said.
fn one_each(fixture: &Fixture, way: &str) {
    let client = node(fixture);
    for (tcp, udp) in fixture.cluster().into_iter().zip(fixture.cluster_udp()) {
        let answers = traffic::many(client, tcp, 60);
        let met: BTreeSet<&str> = answers.iter().map(|answer| answer.pod.as_str()).collect();
        assert_eq!(met.into_iter().collect::<Vec<_>>(), traffic::PODS, "{way}: {tcp}");
        assert!(answers.iter().all(|answer| answer.client == NODE.like(tcp.ip())), "{way}: {answers:?}");
        for _ in 0..10 {
            client.datagram(udp, b"hello").unwrap_or_else(|error| panic!("{way}: {error}"));
        }
    }
}

#[test]
fn processes_of_the_node_need_no_default_route() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    inside(&fixture, "ip -4 route delete default");
    inside(&fixture, "ip -6 route delete default");
    works(&fixture, "no default route");
}

#[test]
fn the_pair_is_adopted_by_the_next_daemon() {
    needs_datapath!();
    let mut fixture = Fixture::new(BINARY, Setup::DEMO);
    let link = || inside(&fixture, "ip -o link show dev lbh1");
    let before = link();
    let ways = fixture.cluster();
    let held = ways.map(|to| node(&fixture).connect(to).expect("the Service answers"));
    let mut held = held.map(|mut connection| (connection.get().expect("an answer").pod, connection));
    fixture.end_daemon(Signal::SIGKILL).expect("the daemon is killed");
    for to in ways {
        node(&fixture).get(to).expect("new connections are balanced without a daemon");
    }
    fixture.start_daemon(&interfaces(Setup::DEMO)).expect("the next daemon starts");
    for (pod, connection) in &mut held {
        assert_eq!(connection.get().expect("the connection lives on").pod, *pod);
    }
    assert_eq!(inside(&fixture, "ip -o link show dev lbh1"), before);
    works(&fixture, "after a restart");
}

#[test]
fn a_pair_that_somebody_deleted_is_made_again() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let ways = fixture.cluster();
    let mut held = ways.map(|to| node(&fixture).connect(to).expect("the Service answers"));
    inside(&fixture, "ip link delete lbh0");
    until("the Service answers again", || {
        ways.iter().all(|to| node(&fixture).with_timeout(Duration::from_millis(200)).get(*to).is_ok())
    });
    for connection in &mut held {
        connection.get().expect("an older connection finds its way back");
    }
    works(&fixture, "after the pair was deleted");
    // Also a route alone, and an end that was shut.
    inside(&fixture, "ip link set lbh0 down");
    until("the Service answers again", || {
        ways.iter().all(|to| node(&fixture).with_timeout(Duration::from_millis(200)).get(*to).is_ok())
    });
}

#[test]
fn cleanup_removes_the_pair_and_its_routes() {
    needs_datapath!();
    let mut fixture = Fixture::new(BINARY, Setup::DEMO);
    assert_eq!(inside(&fixture, "ip -4 route show proto 108").lines().count(), 1);
    assert_eq!(inside(&fixture, "ip -6 route show proto 108").lines().count(), 1);
    fixture.end_daemon(Signal::SIGTERM).expect("the daemon ends");
    let (instance, bpffs) = (fixture.name().as_str().to_owned(), fixture.name().bpffs());
    let config = fixture.directory().join("config.yaml");
    let cleanup = |bpffs: &Path| {
        let (config, bpffs) = (config.display(), bpffs.display());
        inside(&fixture, &format!("{BINARY} cleanup --config {config} --instance {instance} --bpffs {bpffs}"))
    };
    // As where a BPF file system ended with its mount namespace: the pair is there all the same.
    let said = cleanup(&fixture.directory());
    assert!(said.contains("removed lbh0 and lbh1 with their routes"), "{said}");
    let left = inside(&fixture, "ip -o link");
    assert!(!left.contains("lbh"), "{left}");
    assert_eq!(inside(&fixture, "ip -4 route show proto 108") + &inside(&fixture, "ip -6 route show proto 108"), "");
    assert!(!cleanup(&bpffs).contains("lbh0"), "a second time there is nothing");
}

#[test]
fn somebody_elses_interface_is_left_alone_and_named() {
    needs_datapath!();
    let mut playground = bare(BINARY, Setup::DEMO);
    inside(&playground, "ip link add lbh0 type veth peer name lbh1");
    inside(&playground, "ip link set lbh0 up");
    let before = inside(&playground, "ip -o link show dev lbh0");
    playground.start_daemon(&interfaces(Setup::DEMO)).expect("the daemon serves everybody else");
    let status = playground.status().expect("the daemon answers");
    assert!(status.host_clients.contains("lbh0 already, which lb-ctl did not make"), "{}", status.host_clients);
    assert!(status.problems.iter().any(|problem| problem.subject == "host clients"), "{:?}", status.problems);
    assert_eq!(inside(&playground, "ip -o link show dev lbh0"), before);
    // When it has gone, the daemon makes its own.
    inside(&playground, "ip link delete lbh0");
    until("lbh0 is the daemon's", || {
        playground.status().is_ok_and(|status| status.host_clients.starts_with("by lbh0"))
    });
}

#[test]
fn without_host_clients_the_node_stays_as_it_is() {
    needs_datapath!();
    let mut playground = bare(BINARY, Setup::DEMO);
    playground.start_daemon(&interfaces(Setup::DEMO)).expect("the daemon starts");
    assert!(inside(&playground, "ip -o link").contains("lbh0"));
    playground.end_daemon(Signal::SIGTERM).expect("the daemon ends");
    playground.add_daemon_argument("--host-clients=false");
    playground.start_daemon(&interfaces(Setup::DEMO)).expect("the daemon starts");
    assert!(!inside(&playground, "ip -o link").contains("lbh"), "that of the earlier daemon is removed");
    assert_eq!(playground.status().expect("the daemon answers").host_clients, "no (--host-clients=false)");
}

/// How many routes are the daemon's, and how many of them lead to one address.
fn own_routes(playground: &Playground) -> (usize, usize) {
    let routes = inside(playground, "ip -4 route show proto 108") + &inside(playground, "ip -6 route show proto 108");
    let is_network = |line: &&str| line.split(' ').next().is_some_and(|to| to.contains('/'));
    (routes.lines().count(), routes.lines().filter(|line| !is_network(line)).count())
}

/// A Service keeps its addresses when the service networks become others. Then each has a route of its own, for as long as
/// the Service has it.
#[test]
fn an_address_outside_of_the_service_networks_has_a_route_of_its_own() {
    needs_datapath!();
    let mut playground = bare(BINARY, Setup { rp_filter: 1, firewall: true, ..Setup::DEMO });
    playground.repeat_daemon_argument("--service-cidr", ["10.97.0.0/24", "fd00:97::/112"]);
    playground.start_daemon(&interfaces(Setup::DEMO)).expect("the daemon starts");
    playground.serve_on(Node::One, "the node", 9000).expect("a server on the node");
    let elsewhere = "clusterIP: 10.97.0.77\n  clusterIPs: [10.97.0.77, 'fd00:97::77']\n  ipFamilyPolicy";
    playground.apply(&ON_THE_NODE.replace("ipFamilyPolicy", elsewhere)).expect("the CLI applies");
    let serves = |playground: &Playground| {
        for address in ["10.97.0.77:80", "[fd00:97::77]:80"] {
            let to = address.parse().expect("an address");
            let answer = node(playground).get(to).unwrap_or_else(|error| panic!("{to}: {error}"));
            assert_eq!(answer.pod, "the node", "{to}");
            node(playground).datagram(to, b"hello").unwrap_or_else(|error| panic!("{to}: {error}"));
        }
    };
    assert_eq!(own_routes(&playground), (2, 0), "by the networks");
    serves(&playground);
    playground.end_daemon(Signal::SIGTERM).expect("the daemon ends");
    playground.drop_daemon_argument("--service-cidr");
    playground.start_daemon(&interfaces(Setup::DEMO)).expect("the next daemon starts");
    assert_eq!(own_routes(&playground), (4, 2));
    serves(&playground);
    let said = playground.status().expect("the daemon answers").host_clients;
    assert!(said.contains("10.97.0.77/32 from 192.0.2.1") && said.contains("fd00:97::77/128"), "{said}");
    // It goes with the Service; nobody can ask for one by value.
    playground.cli(&["delete", "service", "own", "-n", "playground"], "").expect("the CLI deletes");
    until("its routes are gone", || own_routes(&playground) == (2, 0));
    let error = playground.apply(&ON_THE_NODE.replace("ipFamilyPolicy", elsewhere)).expect_err("refused").to_string();
    assert!(error.contains("10.97.0.77 is not in a service CIDR (10.96.0.0/16, fd00:96::/112)"), "{error}");
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

#[test]
fn processes_of_the_node_reach_sockets_of_the_node() {
    needs_datapath!();
    for setup in [Setup::DEMO, Setup { rp_filter: 1, firewall: true, path: "stack", ..Setup::DEMO }] {
        let mut fixture = Fixture::new(BINARY, setup);
        fixture.serve_on(Node::One, "the node", 9000).expect("a server on the node");
        fixture.apply(ON_THE_NODE).expect("the CLI applies");
        let own = fixture.cluster_address_of("own").expect("addresses are allocated");
        for address in own.addresses() {
            let to = SocketAddr::new(address, 80);
            let mut connection = node(&fixture).connect(to).unwrap_or_else(|error| panic!("{setup:?}: {error}"));
            let answer = connection.get().unwrap_or_else(|error| panic!("{setup:?}: {error}"));
            // The node takes no packet from outside with its own address, so the server sees the Service's.
            assert_eq!((answer.pod.as_str(), answer.client), ("the node", address));
            assert_eq!(connection.upload(1_000_000).expect("an upload").length, 1_000_000);
            assert_eq!(connection.download(1_000_000).expect("a download").0, 1_000_000);
            let answer = node(&fixture).datagram(to, b"hello").unwrap_or_else(|error| panic!("{setup:?}: {error}"));
            assert_eq!((answer.pod.as_str(), answer.client), ("the node", address));
        }
    }
}
