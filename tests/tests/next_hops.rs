//! Where translated packets go: connected backends, backends behind gateways, several gateways, and what becomes of that
//! when it changes, with a daemon or without.

use lb_ctl::playground::client::Connection;
use lb_ctl::playground::links::Links;
use lb_ctl::playground::netns::NetNs;
use lb_ctl::playground::topology::{Dual, NODE2, Node, SERVICE_PORT};
use lb_ctl::playground::{Client, Error};
use lb_tests::fixture::{self, Fixture, Setup};
use lb_tests::iproute::{ip, ip_both, sent_by};
use lb_tests::matrix::stage::{HOST, HOST_PORT, REMOTE, Target, WITH_NAPI};
use lb_tests::{needs_datapath, traffic};
use nix::sys::signal::Signal;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// The demo's node with a second cable to the second node: `eth2` to `eth1`, 203.0.113.0/24 (TEST-NET-3, RFC 5737).
fn two_gateways(wire: &str) -> Fixture {
    let mut playground = fixture::bare(BINARY, Setup::DEMO);
    // The second cable leads to nobody whom the daemon knows for another node, so that it takes it for a pod's; what leaves by it is counted.
    playground.add_daemon_argument("--to-pods=interface");
    let (near, far) = (playground.node_space(Node::One), playground.node_space(Node::Two));
    Links::open(near).and_then(|links| links.veth("eth2", far, "eth1")).expect("a cable");
    ip_both(near, "address add {203.0.113.1/24|2001:db8:3::1/64} dev eth2");
    ip_both(far, "address add {203.0.113.2/24|2001:db8:3::2/64} dev eth1");
    let wires = ["eth0", "eth1", "eth2"].map(|link| format!("{link}={}", if link == "eth0" { wire } else { "tcx" }));
    Fixture::start(playground, &[&wires[0], &wires[1], &wires[2], "veth*"])
}

/// Applies a Service with one endpoint, and gives its addresses.
fn serve(fixture: &Fixture, target: Target, at: Dual) -> [SocketAddr; 2] {
    fixture.apply(&target.manifests(at)).expect("the CLI applies");
    let cluster = fixture.cluster_address_of(&target.service()).expect("addresses are allocated");
    cluster.addresses().map(|address| SocketAddr::new(address, SERVICE_PORT))
}

/// A connection for each asker and address.
fn hold(fixture: &Fixture, to: &[SocketAddr]) -> Vec<Connection> {
    let askers = traffic::askers(fixture);
    let all =
        askers.iter().flat_map(|asker| to.iter().map(|to| asker.client.connect(*to).expect("the Service answers")));
    let mut held: Vec<Connection> = all.collect();
    go_on(&mut held, "at first");
    held
}

/// Each connection still works.
fn go_on(held: &mut [Connection], when: &str) {
    for connection in held {
        connection.get().unwrap_or_else(|error| panic!("{when}: {error}"));
    }
}

/// New connections work too.
fn answer(fixture: &Fixture, to: &[SocketAddr], name: &str, when: &str) {
    for asker in traffic::askers(fixture) {
        for to in to {
            let answer = asker.client.get(*to).unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_eq!(answer.pod, name, "{when}");
        }
    }
}

/// Waits until `client` is answered again.
fn await_answer(client: Client<'_>, to: SocketAddr) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match client.with_timeout(Duration::from_secs(1)).get(to) {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
            Ok(_) => return Ok(()),
        }
    }
}

fn nft(space: &NetNs, rules: &str) {
    let mut command = Command::new("nft");
    let mut child = space.spawn(command.args(["-f", "-"]).stdin(Stdio::piped())).expect("nft: cargo xtask setup");
    child.stdin.take().expect("piped").write_all(rules.as_bytes()).expect("nft reads");
    assert!(child.wait().expect("a child").success(), "nft refused {rules}");
}

#[test]
fn a_backend_on_the_wire_itself_answers_and_one_behind_a_router_too() {
    needs_datapath!();
    for wire in ["xdp", "tcx"] {
        let mut fixture = two_gateways(wire);
        fixture.serve_on(Node::Two, "the second node", HOST_PORT).expect("a server on the second node");
        let connected = serve(&fixture, HOST, NODE2);
        answer(&fixture, &connected, "the second node", "connected");
        let routed = serve(&fixture, REMOTE, fixture.pod(REMOTE.name).expect("runs").address());
        answer(&fixture, &routed, REMOTE.name, "behind a router");
    }
}

#[test]
fn a_route_that_changes_while_the_daemon_is_dead_is_followed() {
    needs_datapath!();
    for wire in ["xdp", "tcx"] {
        let mut fixture = two_gateways(wire);
        let to = serve(&fixture, REMOTE, fixture.pod(REMOTE.name).expect("runs").address());
        let mut held = hold(&fixture, &to);
        fixture.end_daemon(Signal::SIGKILL).expect("the daemon is killed");
        let (near, far) = (fixture.node_space(Node::One), fixture.node_space(Node::Two));
        let before = sent_by(near, "eth2");
        ip_both(near, "route replace {10.244.2.0/24|fd00:244:2::/64} via {203.0.113.2|2001:db8:3::2} dev eth2");
        ip_both(far, "route replace default via {203.0.113.1|2001:db8:3::1} dev eth1");
        // Nothing comes this way any more; TCP sends again what was lost until the datapath has asked.
        ip(near, "link set eth1 down");
        go_on(&mut held, "after the gateway changed");
        answer(&fixture, &to, REMOTE.name, "after the gateway changed");
        assert!(sent_by(near, "eth2") > before + held.len() as u64, "by the new gateway");
    }
}

/// New connections to the address `to` spread over two gateways, and go on when one dies without a daemon.
fn share_the_work(to: fn([SocketAddr; 2]) -> SocketAddr) {
    for wire in ["xdp", "tcx"] {
        let mut fixture = two_gateways(wire);
        let to = to(serve(&fixture, REMOTE, fixture.pod(REMOTE.name).expect("runs").address()));
        let near = fixture.node_space(Node::One);
        // By ports too, else one client would always take one gateway.
        near.sysctl("ipv4/fib_multipath_hash_policy", 1).expect("a namespace of our own");
        near.sysctl("ipv6/fib_multipath_hash_policy", 1).expect("a namespace of our own");
        ip_both(
            near,
            "route replace {10.244.2.0/24|fd00:244:2::/64} \
             nexthop via {198.51.100.2|2001:db8:2::2} dev eth1 nexthop via {203.0.113.2|2001:db8:3::2} dev eth2",
        );
        let before = ["eth1", "eth2"].map(|link| sent_by(near, link));
        traffic::many(fixture.client(), to, 60);
        let sent = ["eth1", "eth2"].map(|link| sent_by(near, link));
        // Sixty connections of four packets or more each: chance gives one gateway less than eight once in 10^9.
        assert!((0..2).all(|link| sent[link] >= before[link] + 32), "{before:?} {sent:?}");
        let mut held: Vec<Connection> = (0..8).flat_map(|_| hold(&fixture, &[to])).collect();
        fixture.end_daemon(Signal::SIGKILL).expect("the daemon is killed");
        ip(fixture.node_space(Node::One), "link set eth2 down");
        go_on(&mut held, "after a gateway died");
        for _ in 0..8 {
            answer(&fixture, &[to], REMOTE.name, "after a gateway died");
        }
    }
}

#[test]
fn several_gateways_share_the_work_and_one_may_die() {
    needs_datapath!();
    share_the_work(|[v4, _]| v4);
}

#[test]
fn several_gateways_share_the_work_over_ipv6_and_one_may_die() {
    needs_datapath!();
    share_the_work(|[_, v6]| v6);
}

/// Who has these rules tells nobody its MAC address.
const DEAF: &str = "table arp deaf {
    chain in { type filter hook input priority 0; policy drop; }
}
table ip6 deaf {
    chain in {
        type filter hook input priority 0
        icmpv6 type nd-neighbor-solicit drop
    }
}
";

#[test]
fn a_neighbour_that_fails_and_returns_is_found_without_the_daemon() {
    needs_datapath!();
    // XDP leaves to TCX what has no neighbour: both are asked.
    let mut fixture = Fixture::new(BINARY, Setup::DEMO);
    let pod = fixture.pod(WITH_NAPI.name).expect("runs");
    let (to, link) = (serve(&fixture, WITH_NAPI, pod.address()), pod.place().node_link());
    answer(&fixture, &to, WITH_NAPI.name, "at first");
    fixture.end_daemon(Signal::SIGKILL).expect("the daemon is killed");
    let (node, pod) = (fixture.node_space(Node::One), fixture.pod(WITH_NAPI.name).expect("runs").space());
    nft(pod, DEAF);
    ip(node, &format!("neighbour flush dev {link}"));
    for to in to {
        let client = fixture.client().with_timeout(Duration::from_millis(200));
        client.get(to).expect_err("nobody knows where the pod is");
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while ip(node, &format!("neighbour show dev {link} nud failed")).lines().count() < to.len() {
        assert!(Instant::now() < deadline, "{}", ip(node, "neighbour"));
        std::thread::sleep(Duration::from_millis(20));
    }
    nft(pod, "delete table arp deaf\ndelete table ip6 deaf\n");
    for to in to {
        await_answer(fixture.client(), to).unwrap_or_else(|error| panic!("the pod is back: {error}"));
    }
}

/// The remote pod.
const POD: &str = "{10.244.2.13/32|fd00:244:2::d/128}";

#[test]
fn a_route_that_refuses_has_its_own_reason() {
    needs_datapath!();
    // Clients outside are judged by XDP, pods by TCX.
    let fixture = two_gateways("xdp");
    let to = serve(&fixture, REMOTE, fixture.pod(REMOTE.name).expect("runs").address());
    answer(&fixture, &to, REMOTE.name, "at first");
    let near = fixture.node_space(Node::One);
    for (kind, reason) in [("blackhole", "blackhole"), ("unreachable", "unreachable"), ("prohibit", "prohibited")] {
        ip_both(near, &format!("route add {kind} {POD}"));
        refused(&fixture, to, reason);
        ip_both(near, &format!("route del {kind} {POD}"));
    }
    answer(&fixture, &to, REMOTE.name, "without such a route");
}

#[test]
fn a_node_that_does_not_forward_says_so() {
    needs_datapath!();
    let fixture = two_gateways("xdp");
    let to = serve(&fixture, REMOTE, fixture.pod(REMOTE.name).expect("runs").address());
    let near = fixture.node_space(Node::One);
    near.sysctl("ipv4/ip_forward", 0).expect("a namespace of our own");
    near.sysctl("ipv6/conf/all/forwarding", 0).expect("a namespace of our own");
    refused(&fixture, to, "forwarding-disabled");
    let problems = fixture.status().expect("the daemon answers").problems;
    let told = problems.iter().find(|problem| problem.subject == "forwarding").expect("the status says so");
    assert!(told.message.contains("`sysctl -w net.ipv4.ip_forward=1`"), "{}", told.message);
}

/// Nobody is answered, and each attempt is counted for `reason`.
fn refused(fixture: &Fixture, to: [SocketAddr; 2], reason: &str) {
    for asker in traffic::askers(fixture) {
        for to in to {
            let before = fixture.reason(reason);
            let client = asker.client.with_timeout(Duration::from_millis(100));
            client.connect(to).expect_err("there is no way");
            assert!(fixture.reason(reason) > before, "{} to {to}: not counted as {reason}", asker.name);
        }
    }
}
