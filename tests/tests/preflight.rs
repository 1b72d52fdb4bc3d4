//! Preflight tells what is wrong with a node, and the command that it prints puts it right.

use lb_ctl::playground::Playground;
use lb_ctl::playground::netns::NetNs;
use lb_ctl::playground::topology::Node;
use lb_ctl::preflight::{Line, Verdict};
use lb_tests::fixture::{Setup, bare};
use lb_tests::privilege::has_program;
use lb_tests::{needs_root, occupant};
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// Runs a command in a namespace.
fn run(space: &NetNs, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments);
    space.run(|| command.output()).expect("enter").unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Runs a command line that has to work.
fn must(space: &NetNs, line: &str) {
    let output = run(space, "sh", &["-c", line]);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What preflight says on the playground's first node.
struct Node1(Playground);

impl Node1 {
    fn new() -> Self {
        Self(bare(BINARY, Setup::DEMO))
    }

    fn space(&self) -> &NetNs {
        self.0.node_space(Node::One)
    }

    fn look(&self, arguments: &[&str]) -> (i32, Vec<Line>) {
        let config = self.0.directory().join("preflight.yaml");
        std::fs::write(&config, "").expect("a file");
        let (config, bpffs) = (config.display().to_string(), self.0.name().bpffs().display().to_string());
        let mut all = vec!["preflight", "-o", "json", "--config", &config];
        if !arguments.contains(&"--bpffs") {
            all.extend(["--bpffs", &bpffs]);
        }
        all.extend(arguments);
        parse(&run(self.space(), BINARY, &all))
    }

    /// The line of a check, and that its command makes it pass.
    fn repairs(&self, arguments: &[&str], subject: &str, check: &str, verdict: Verdict, says: &str) {
        let line = find(&self.look(arguments).1, subject, check);
        assert_eq!(line.verdict, verdict, "{line:?}");
        assert!(line.message.contains(says), "{line:?}");
        must(self.space(), &line.remedy);
        let after = find(&self.look(arguments).1, subject, check);
        assert_eq!(after.verdict, Verdict::Pass, "after `{}`: {after:?}", line.remedy);
    }
}

fn parse(output: &Output) -> (i32, Vec<Line>) {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().expect("an exit code"), lines)
}

fn find(lines: &[Line], subject: &str, check: &str) -> Line {
    let found = lines.iter().find(|line| line.subject == subject && line.check == check);
    found.unwrap_or_else(|| panic!("nothing about {check} of {subject}: {lines:#?}")).clone()
}

const INTERFACES: [&str; 3] = ["eth0=xdp", "eth1=tcx", "veth*"];

#[test]
fn a_node_that_is_fit_fails_nothing_and_stays_as_it_is() {
    needs_root!();
    let node = Node1::new();
    let state = || {
        let told = |line: &str| String::from_utf8_lossy(&run(node.space(), "sh", &["-c", line]).stdout).into_owned();
        // But for counters and times.
        told(
            "ip -d link; ip address; ip route show table all; cat /proc/sys/net/ipv4/conf/*/* /proc/sys/net/ipv4/ip_forward; tc qdisc",
        )
    };
    let before = state();
    let (code, lines) = node.look(&INTERFACES);
    assert_eq!(code, 0, "{lines:#?}");
    assert!(lines.iter().all(|line| line.verdict != Verdict::Fail), "{lines:#?}");
    for (subject, check) in [
        ("node", "kernel"),
        ("node", "bpf"),
        ("node", "tcx"),
        ("node", "privileges"),
        ("node", "bpffs"),
        ("node", "memory"),
        ("node", "forwarding-v4"),
        ("node", "forwarding-v6"),
        ("node", "other-proxy"),
        ("eth0", "link"),
        ("eth0", "member"),
        ("eth0", "xdp"),
        ("eth0", "mtu"),
        ("eth0", "offloads"),
        ("eth0", "programs"),
        ("eth0", "redirect"),
        ("eth0", "rp-filter"),
        ("veth-web-1", "redirect"),
    ] {
        assert_eq!(find(&lines, subject, check).verdict, Verdict::Pass, "{:?}", find(&lines, subject, check));
    }
    // It stands for a wire here, which a veth is not.
    assert_eq!(find(&lines, "eth0", "checksums").verdict, Verdict::Warn);
    assert_eq!(state(), before, "looking changes nothing");
}

#[test]
fn sysctls_that_stand_in_the_way_are_told_with_the_command_that_sets_them() {
    needs_root!();
    let node = Node1::new();
    let set = |path, value| node.space().sysctl(path, value).expect("a sysctl");
    set("ipv4/ip_forward", 0);
    assert_eq!(node.look(&INTERFACES).0, 1, "a failure is an exit code");
    node.repairs(&INTERFACES, "node", "forwarding-v4", Verdict::Fail, "nothing can be sent on");
    set("ipv6/conf/all/forwarding", 0);
    node.repairs(&INTERFACES, "node", "forwarding-v6", Verdict::Fail, "nothing can be sent on");
    set("ipv4/conf/eth0/forwarding", 0);
    node.repairs(&INTERFACES, "eth0", "forwarding", Verdict::Fail, "forwarding-disabled");
    set("ipv4/conf/eth0/rp_filter", 1);
    assert_eq!(find(&node.look(&INTERFACES).1, "eth0", "rp-filter").verdict, Verdict::Pass, "nothing is lost to it");
    node.repairs(&["eth0", "--path", "stack"], "eth0", "rp-filter", Verdict::Warn, "strict");
}

#[test]
fn interfaces_that_do_not_fit_are_told_with_what_would() {
    needs_root!();
    let node = Node1::new();
    let space = node.space();
    must(space, "ip link set dev eth0 mtu 1200");
    node.repairs(&["eth0"], "eth0", "mtu", Verdict::Warn, "IPv6 needs 1280");
    must(space, "ip link set dev eth1 down");
    node.repairs(&["eth1"], "eth1", "link", Verdict::Warn, "down");

    let pin = node.0.name().bpffs().join("occupant");
    occupant::pin(&pin).expect("a program");
    must(space, &format!("ip link set dev eth0 xdp pinned {}", pin.display()));
    let auto = find(&node.look(&["eth0=tcx"]).1, "eth0", "programs");
    assert_eq!(auto.verdict, Verdict::Pass, "TCX does not mind: {auto:?}");
    node.repairs(&["eth0=xdp"], "eth0", "programs", Verdict::Fail, "somebody_elses");

    must(space, "ip link add br7 type bridge && ip link set veth-web-2 master br7");
    let (_, lines) = node.look(&["br7", "veth-web-2"]);
    assert!(find(&lines, "veth-web-2", "member").message.contains("port of the bridge br7"), "{lines:#?}");
    let bridge = find(&lines, "br7", "member");
    assert_eq!((bridge.verdict, bridge.remedy.as_str()), (Verdict::Warn, "lb-ctl preflight veth-web-2"));

    must(space, "ip link add link eth1 name eth1.5 type vlan id 5 || ip link add link eth1 name eth1.5 type macvlan");
    let lines = node.look(&["eth1", "eth1.5"]).1;
    if let Some(line) = lines.iter().find(|line| line.check == "vlan") {
        assert_eq!((line.subject.as_str(), line.remedy.as_str()), ("eth1", "lb-ctl preflight eth1 eth1.5"));
    }
    let (code, lines) = node.look(&["lacking0", "eth0"]);
    assert_eq!((code, find(&lines, "node", "interfaces").verdict), (0, Verdict::Warn));
}

#[test]
fn a_member_of_a_bond_is_refused_for_the_bond() {
    needs_root!();
    let node = Node1::new();
    let made = run(
        node.space(),
        "sh",
        &["-c", "ip link set dev eth1 down && ip link add bond7 type bond && ip link set eth1 master bond7"],
    );
    if !made.status.success() {
        eprintln!("LEFT OUT: this kernel has no bonds");
        return;
    }
    let (code, lines) = node.look(&["eth1"]);
    let line = find(&lines, "eth1", "member");
    assert_eq!((code, line.verdict, line.remedy.as_str()), (1, Verdict::Fail, "lb-ctl preflight bond7"));
    assert_eq!(find(&node.look(&["bond7"]).1, "bond7", "member").verdict, Verdict::Pass);
}

#[test]
fn a_pod_without_napi_is_told_and_repaired_in_the_pod() {
    needs_root!();
    if !has_program("ethtool") {
        return;
    }
    let node = Node1(bare(BINARY, Setup { napi: false, ..Setup::DEMO }));
    let line = find(&node.look(&["veth*"]).1, "veth-web-1", "redirect");
    assert_eq!(line.verdict, Verdict::Warn, "{line:?}");
    must(node.0.pod("web-1").expect("runs").space(), &line.remedy);
    assert_eq!(find(&node.look(&["veth*"]).1, "veth-web-1", "redirect").verdict, Verdict::Pass);
}

#[test]
fn mounts_privileges_and_memory_are_looked_at() {
    needs_root!();
    let node = Node1::new();
    let place = node.0.directory().join("no-bpffs");
    std::fs::create_dir(&place).expect("a directory");
    let place = place.display().to_string();
    let line = find(&node.look(&["eth0", "--bpffs", &place]).1, "node", "bpffs");
    assert_eq!((line.verdict, line.remedy.clone()), (Verdict::Fail, format!("mount -t bpf bpf {place}")));
    // In a mount namespace that goes with its process: the command helps, and that the mount is private is told.
    let config = node.0.directory().join("preflight.yaml").display().to_string();
    let script = format!("{} && exec {BINARY} preflight eth0 -o json --config {config} --bpffs {place}", line.remedy);
    let (_, lines) = parse(&run(node.space(), "unshare", &["--mount", "sh", "-c", &script]));
    assert_eq!(find(&lines, "node", "bpffs").verdict, Verdict::Pass);
    let private = find(&lines, "node", "bpffs-private");
    assert_eq!(private.verdict, Verdict::Warn);
    assert!(private.message.contains("forwarding with it, ends"), "{private:?}");
    let read_only =
        format!("mount -t bpf -o ro bpf {place} && {BINARY} preflight eth0 -o json --config {config} --bpffs {place}");
    let (code, lines) = parse(&run(node.space(), "unshare", &["--mount", "sh", "-c", &read_only]));
    let line = find(&lines, "node", "bpffs");
    assert_eq!((code, line.verdict, line.remedy), (1, Verdict::Fail, format!("mount -o remount,rw {place}")));

    let less = ["--bounding-set", "-bpf,-sys_admin,-net_admin", "--inh-caps", "-all", BINARY];
    let mut arguments = less.to_vec();
    let bpffs = node.0.name().bpffs().display().to_string();
    arguments.extend(["preflight", "eth0", "-o", "json", "--config", &config, "--bpffs", &bpffs]);
    let (code, lines) = parse(&run(node.space(), "setpriv", &arguments));
    let line = find(&lines, "node", "privileges");
    assert_eq!((code, line.verdict), (1, Verdict::Fail));
    assert!(line.message.contains("CAP_NET_ADMIN and CAP_BPF"), "{line:?}");

    let line = find(&node.look(&["eth0", "--max-flows", "16777216"]).1, "node", "memory");
    assert_ne!(line.verdict, Verdict::Pass, "{line:?}");
    let fitting = line.remedy.rsplit(' ').next().expect("a number");
    assert_eq!(find(&node.look(&["eth0", "--max-flows", fitting]).1, "node", "memory").verdict, Verdict::Pass);
    assert_eq!(run(node.space(), BINARY, &["preflight", "--max-flows", "1"]).status.code(), Some(2));

    let line = find(&node.look(&["eth0", "--socket-lb", "/tmp"]).1, "node", "cgroup");
    assert_eq!(line.verdict, Verdict::Fail, "{line:?}");
    let named =
        line.message.split("name ").nth(1).and_then(|rest| rest.split(' ').next()).expect("where one is mounted");
    assert_eq!(find(&node.look(&["eth0", "--socket-lb", named]).1, "node", "cgroup").verdict, Verdict::Pass);
}

#[test]
fn the_bill_is_what_the_kernel_takes() {
    lb_tests::needs_datapath!();
    let fixture = lb_tests::Fixture::new(BINARY, Setup::DEMO);
    let taken: u64 = lb_common::maps::MAPS.iter().map(|map| fixture.memory(map.name)).sum();
    let node = Node1::new();
    // The playground's daemon has as many.
    let line = find(&node.look(&["eth0", "--max-flows", "16384"]).1, "node", "memory");
    let told = line.message.strip_prefix("the maps take ").and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    let (taken, told) = (taken as f64 / f64::from(1 << 20), told.expect("a number") as f64);
    println!("{told} MiB are told and {taken:.1} MiB are taken");
    assert!((taken / told - 1.0).abs() < 0.1, "{taken} {line:?}");
}

#[test]
fn rules_of_another_proxy_are_seen() {
    needs_root!();
    if !has_program("nft") {
        return;
    }
    let node = Node1::new();
    must(node.space(), "nft 'add table ip nat; add chain ip nat KUBE-SERVICES'");
    let line = find(&node.look(&["eth0"]).1, "node", "other-proxy");
    assert_eq!((line.verdict, line.remedy.as_str()), (Verdict::Warn, "kube-proxy --cleanup"));
    must(node.space(), "nft delete table ip nat; nft 'add table ip6 kube-proxy; add chain ip6 kube-proxy services'");
    node.repairs(&["eth0"], "node", "other-proxy", Verdict::Warn, "table ip6 kube-proxy");
}

#[test]
fn the_daemon_says_at_its_start_what_is_not_right() {
    lb_tests::needs_datapath!();
    let mut node = Node1::new();
    node.space().sysctl("ipv4/ip_forward", 0).expect("a sysctl");
    node.0.start_daemon(&INTERFACES).expect("the daemon starts");
    let log = node.0.log();
    let line = log.lines().find(|line| line.contains("preflight: net.ipv4.ip_forward is 0"));
    let line = line.unwrap_or_else(|| panic!("nothing of it in {log}"));
    assert!(line.contains("ERROR") && line.contains("sysctl -w net.ipv4.ip_forward=1"), "{line}");
    assert!(!log.contains("preflight: it is up"), "what is right is not told: {log}");
}
