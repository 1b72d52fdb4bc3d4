//! `--path stack`: the host's stack sees both directions of a connection, each with one pair of tuples, and so does its
//! firewall.

use lb_ctl::playground::PodNetwork::{Bridged, Routed};
use lb_ctl::playground::offload::Offload;
use lb_ctl::playground::topology::{NODE, Node};
use lb_tests::fixture::{Fixture, Setup, node_port};
use lb_tests::{needs_datapath, traffic};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");
const STACK: Setup = Setup { path: "stack", ..Setup::DEMO };

fn works(setup: Setup) -> Fixture {
    let fixture = Fixture::new(BINARY, setup);
    let worked = traffic::tcp(&fixture, 200_000).and_then(|()| traffic::udp(&fixture));
    worked.unwrap_or_else(|error| panic!("{setup:?}: {error}"));
    fixture
}

#[test]
fn the_stack_path_works_with_routed_pods_behind_every_filter() {
    needs_datapath!();
    works(Setup { wire: "tcx", ..STACK });
    let fixture = works(Setup { rp_filter: 1, firewall: true, ..STACK });
    assert_eq!(fixture.status().expect("the daemon answers").path, "stack");
    works(Setup { wire: "xdp-generic", rp_filter: 2, firewall: true, ..STACK });
}

#[test]
fn the_stack_path_works_with_bridged_pods() {
    needs_datapath!();
    works(Setup { pods: Bridged, rp_filter: 1, napi: false, ..STACK });
    works(Setup { pods: Bridged, wire: "tcx", firewall: true, ..STACK });
}

/// The one thing that cannot be: a pod's reply to another pod of its bridge is switched. Where the bridge does not show it
/// to netfilter, a firewall that drops what it takes for invalid has seen half a connection.
#[test]
fn bridged_pods_behind_a_stateful_firewall_need_the_bridge_to_show_it_their_frames() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup { pods: Bridged, firewall: true, ..STACK });
    for family in ["iptables", "ip6tables"] {
        fixture.node_space(Node::One).sysctl(&format!("bridge/bridge-nf-call-{family}"), 0).expect("br_netfilter");
    }
    let visitor = fixture.pod("visitor").expect("runs").client().with_timeout(Duration::from_millis(300));
    let answers = (0..16).map(|_| visitor.get(fixture.cluster()[0]));
    let pods: Vec<_> = answers.map(|answer| answer.map_or_else(|_| "none".to_owned(), |answer| answer.pod)).collect();
    assert!(pods.iter().all(|pod| pod == "web-3" || pod == "none"), "{pods:?}");
    assert!(pods.iter().any(|pod| pod == "none"), "{pods:?}");
}

/// What is translated at egress may be several segments with a checksum still to be made, by a device or by the kernel.
#[test]
fn checksums_are_right_when_resolved_in_software_behind_the_egress() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup { wire: "tcx", ..STACK });
    let node = fixture.node_space(Node::One);
    let cables = fixture.pods().filter(|pod| pod.place().node == Node::One).map(|pod| pod.place().node_link());
    for link in cables.chain(["eth0".to_owned(), "eth1".to_owned()]) {
        Offload::TxChecksum.set(node, &link, false).unwrap_or_else(|error| panic!("{error}"));
    }
    let worked = traffic::tcp(&fixture, 200_000).and_then(|()| traffic::udp(&fixture));
    worked.unwrap_or_else(|error| panic!("{error}"));
}

fn nft(fixture: &Fixture, rules: &str) {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped());
    let mut nft = fixture.node_space(Node::One).spawn(&mut command).expect("nft is installed: cargo xtask setup");
    nft.stdin.take().expect("piped").write_all(rules.as_bytes()).expect("nft reads its rules");
    assert!(nft.wait().expect("a child").success(), "nft refused the rules");
}

/// A FORWARD rule that keeps `visitor` from everything.
const AGAINST_THE_VISITOR: &str = "table inet drops {
    chain forward { type filter hook forward priority 0; policy accept; iifname \"veth-visitor\" drop; }
}";

#[test]
fn a_forward_rule_holds_on_the_stack_path_and_is_passed_by_on_the_direct_one() {
    needs_datapath!();
    for (setup, holds) in [(STACK, true), (Setup::DEMO, false)] {
        let fixture = Fixture::new(BINARY, setup);
        nft(&fixture, AGAINST_THE_VISITOR);
        let visitor = fixture.pod("visitor").expect("runs").client().with_timeout(Duration::from_millis(500));
        for to in fixture.cluster() {
            assert_eq!(visitor.get(to).is_err(), holds, "{}: {to}", setup.path);
        }
        // Others are let through.
        for to in fixture.cluster().into_iter().chain(node_port()) {
            fixture.client().get(to).unwrap_or_else(|error| panic!("{}: {error}", setup.path));
        }
    }
}

/// The firewall knows each connection by one pair of tuples, with nothing left over.
#[test]
fn connection_tracking_sees_whole_connections() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, STACK);
    let rules = "table inet watch {
        chain forward {
            type filter hook forward priority 0; policy accept;
            ct state invalid counter
            ct state established counter accept
            ct state new counter
        }
    }";
    nft(&fixture, rules);
    let visitor = fixture.pod("visitor").expect("runs").client();
    for to in fixture.cluster() {
        visitor.connect(to).and_then(|mut connection| connection.upload(100_000)).expect("the Service answers");
    }
    let mut list = Command::new("nft");
    list.args(["list", "table", "inet", "watch"]);
    let output = fixture.node_space(Node::One).run(|| list.output()).expect("enter").expect("start");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let packets = |state: &str| -> u64 {
        let line = text.lines().find(|line| line.contains(&format!("ct state {state}"))).expect("the rule is listed");
        line.split("packets ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .and_then(|n| n.parse().ok())
            .expect("a count")
    };
    assert_eq!(packets("invalid"), 0, "{text}");
    assert!(packets("new") >= 2 && packets("established") > 10, "{text}");
}

#[test]
fn a_new_setting_leaves_connections_on_their_path() {
    needs_datapath!();
    let mut fixture = Fixture::new(BINARY, Setup { firewall: true, rp_filter: 1, ..STACK });
    let ways: Vec<_> = fixture.cluster().into_iter().chain(node_port()).collect();
    let mut held: Vec<_> = ways.iter().map(|to| fixture.client().connect(*to).expect("the Service answers")).collect();
    for path in ["direct", "stack"] {
        held.extend(ways.iter().map(|to| fixture.client().connect(*to).expect("the Service answers")));
        for connection in &mut held {
            connection.upload(10_000).expect("the pod reads");
        }
        fixture.end_daemon(nix::sys::signal::Signal::SIGTERM).expect("the daemon ends");
        fixture.add_daemon_argument(&format!("--path={path}"));
        fixture.start_daemon(&lb_tests::fixture::interfaces(Setup::DEMO)).expect("the next daemon starts");
        for connection in &mut held {
            connection.upload(10_000).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(connection.download(10_000).expect("the pod writes").0, 10_000);
        }
        assert_eq!(fixture.status().expect("the daemon answers").path, path);
    }
    assert_eq!(fixture.status().expect("the daemon answers").snat_addresses, NODE.addresses());
}

const DATAGRAMS: u64 = 20;

/// Both ways are counted once, by whatever hooks the packets pass.
#[test]
fn no_packet_counts_twice() {
    needs_datapath!();
    for setup in
        [Setup::DEMO, Setup { wire: "tcx", ..Setup::DEMO }, STACK, Setup { pods: Routed, wire: "tcx", ..STACK }]
    {
        let fixture = Fixture::new(BINARY, setup);
        let visitor = fixture.pod("visitor").expect("runs").client();
        for client in [fixture.client(), visitor] {
            let before = (fixture.reason("forwarded"), fixture.reason("replied"));
            let socket = client.datagrams(fixture.cluster_udp()[0]).expect("a socket");
            for _ in 0..DATAGRAMS {
                socket.exchange(b"once").expect("an echo");
            }
            let counted = (fixture.reason("forwarded") - before.0, fixture.reason("replied") - before.1);
            assert_eq!(counted, (DATAGRAMS, DATAGRAMS), "{setup:?}");
        }
    }
}
