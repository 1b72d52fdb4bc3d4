//! Interfaces that come, go and change their names, and filters on clsact where there is no TCX.

use lb_ctl::playground::Client;
use lb_ctl::playground::topology::Node;
use lb_tests::fixture::{Fixture, Setup, interfaces};
use lb_tests::matrix::stage::Stage;
use lb_tests::matrix::{Environment, Firewall, Hook, Network, Outcome, Path, RpFilter, rules};
use lb_tests::{needs_datapath, traffic};
use nix::sys::signal::Signal;
use std::process::Command;
use std::time::{Duration, Instant};

/// What is attached to a cable of a pod.
const TCX: [&str; 2] = ["tcx-ingress", "tcx-egress"];
/// The same where the kernel has no TCX.
const CLSACT: [&str; 2] = ["clsact-ingress", "clsact-egress"];
const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

fn inside(fixture: &Fixture, command: &str) -> String {
    let mut words = command.split_whitespace();
    let mut command_line = Command::new(words.next().expect("a program"));
    command_line.args(words);
    let output = fixture.node_space(Node::One).run(|| command_line.output()).expect("enter").expect("start");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What is attached to an interface, once it is `wanted`.
fn attached(fixture: &Fixture, name: &str, wanted: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let status = fixture.status().expect("the daemon answers");
        let line = status.interfaces.iter().find(|line| line.name == name);
        let found: Vec<&str> = line.map(|line| line.attached.iter().map(String::as_str).collect()).unwrap_or_default();
        if found == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{name}: {found:?} instead of {wanted:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn patterns_follow_interfaces_that_come_go_and_are_renamed() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let visitor = fixture.pod("visitor").expect("runs").client();
    let mut held = visitor.connect(fixture.cluster()[0]).expect("the Service answers");
    inside(&fixture, "ip link set veth-visitor name veth-other");
    attached(&fixture, "veth-other", &TCX);
    held.upload(10_000).expect("a new name changes nothing");
    // By another name it is meant no more, and then again.
    inside(&fixture, "ip link set veth-other name aside");
    attached(&fixture, "aside", &[]);
    let unserved = visitor.with_timeout(Duration::from_millis(300)).get(fixture.cluster()[0]);
    // The host forwards what is for a Service into its own pair, so the pod is served even so, as the host's.
    unserved.expect("by the way of the host");
    inside(&fixture, "ip link set aside name veth-visitor");
    attached(&fixture, "veth-visitor", &TCX);
    held.upload(10_000).expect("the connection was only interrupted");
    // Made anew, by another number.
    inside(&fixture, "ip link add veth-new type veth peer name far");
    attached(&fixture, "veth-new", &TCX);
    inside(&fixture, "ip link delete veth-new");
    attached(&fixture, "veth-new", &[]);
    inside(&fixture, "ip link add veth-new index 4242 type veth peer name far");
    attached(&fixture, "veth-new", &TCX);
}

#[test]
fn filters_on_clsact_do_what_tcx_does() {
    needs_datapath!();
    for setup in [Setup::DEMO, Setup { wire: "tcx", path: "stack", rp_filter: 1, firewall: true, ..Setup::DEMO }] {
        let mut fixture = Fixture::with(BINARY, setup, &["--tc=clsact"]);
        attached(&fixture, "veth-web-1", &CLSACT);
        let worked = traffic::tcp(&fixture, 200_000).and_then(|()| traffic::udp(&fixture));
        worked.unwrap_or_else(|error| panic!("{setup:?}: {error}"));
        let node = Client::new(fixture.node_space(Node::One));
        let ways = fixture.cluster();
        let mut held = ways.map(|to| node.connect(to).expect("the node's own processes too"));
        fixture.end_daemon(Signal::SIGKILL).expect("the daemon is killed");
        traffic::one_each(&fixture).expect("forwarding goes on");
        fixture.start_daemon(&interfaces(setup)).expect("the next daemon starts");
        for connection in &mut held {
            connection.upload(10_000).unwrap_or_else(|error| panic!("{setup:?}: {error}"));
        }
        fixture.end_daemon(Signal::SIGTERM).expect("the daemon ends");
        let (config, bpffs) = (fixture.directory().join("config.yaml"), fixture.name().bpffs());
        let (config, bpffs, instance) = (config.display(), bpffs.display(), fixture.name().as_str());
        inside(&fixture, &format!("{BINARY} cleanup --config {config} --instance {instance} --bpffs {bpffs}"));
        assert!(!inside(&fixture, "tc qdisc").contains("clsact"));
    }
}

/// The cells of the matrix in an environment, by filters on clsact in place of TCX.
fn cells_are_green_by_filters(hook: Hook, path: Path, network: Network) {
    let (rp_filter, firewall) = (RpFilter::Strict, Firewall::Stateful);
    let environment = Environment { hook, path, rp_filter, firewall, network };
    let stage = Stage::with(BINARY, environment, &["--tc=clsact"]).expect("the stage is set");
    let cells = environment.cells();
    let outcomes =
        cells.iter().filter(|cell| rules::not_applicable(cell).is_none()).map(|cell| (cell, stage.run(cell)));
    let wrong = outcomes.filter(|(_, outcome)| !matches!(outcome, Outcome::Good(_)));
    let wrong: Vec<String> = wrong.map(|(cell, outcome)| format!("{cell} {outcome}")).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let status = stage.fixture.status().expect("the daemon answers");
    for line in status.interfaces.iter().filter(|line| line.index != 0) {
        let found: Vec<&str> =
            line.attached.iter().map(String::as_str).filter(|hook| !hook.starts_with("xdp")).collect();
        assert_eq!(found, CLSACT, "{}", line.name);
    }
}

#[test]
fn cells_of_the_matrix_are_green_by_filters_on_clsact() {
    needs_datapath!();
    cells_are_green_by_filters(Hook::Tcx, Path::Direct, Network::Routed);
}

#[test]
fn cells_of_the_matrix_are_green_by_filters_on_clsact_through_the_stack() {
    needs_datapath!();
    cells_are_green_by_filters(Hook::Tcx, Path::Stack, Network::Bridge);
}

#[test]
fn cells_of_the_matrix_are_green_by_filters_on_clsact_beside_xdp() {
    needs_datapath!();
    cells_are_green_by_filters(Hook::Native, Path::Direct, Network::Bridge);
}
