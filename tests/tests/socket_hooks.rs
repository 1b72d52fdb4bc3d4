//! Socket hooks on real processes: in a cgroup of the test's own, on the node and in a pod.

use aya::EbpfLoader;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use lb_common::maps::MAPS;
use lb_common::{Peer, SocketKey, TCP, UDP};
use lb_ctl::datapath;
use lb_ctl::playground::manifests;
use lb_ctl::playground::topology::{Dual, NODE, NODE_INSIDE, NODE_PORT, NODE_PORT_UDP, Node, POD_PORT};
use lb_ebpf::pick;
use lb_tests::cgroup::Cgroup;
use lb_tests::fixture::{self, Fixture, Setup, interfaces};
use lb_tests::process::{Process, Told};
use lb_tests::{needs_datapath, traffic};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");
const PROCESS: &str = env!("CARGO_BIN_EXE_lb-tests-process");

/// `enum bpf_attach_type`: connect, sendmsg, recvmsg, getpeername.
const HOOKS: [u32; 8] = [10, 11, 14, 15, 19, 20, 29, 30];
const CONNECT4: u32 = 10;
/// Connections in which each of three pods is met, but for once in 10^10.
const ENOUGH: usize = 60;

/// A fixture whose daemon serves a cgroup.
fn fixture(cgroup: &Cgroup) -> Fixture {
    let mut playground = fixture::bare(BINARY, Setup::DEMO);
    playground.serve_sockets(Some(cgroup.path()));
    Fixture::start(playground, &interfaces(Setup::DEMO))
}

fn on_node(fixture: &Fixture, cgroup: &Cgroup) -> Process {
    Process::start(PROCESS, fixture.node_space(Node::One), cgroup)
}

fn in_pod(fixture: &Fixture, cgroup: &Cgroup, name: &str) -> Process {
    Process::start(PROCESS, fixture.pod(name).expect("runs").space(), cgroup)
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn at(addresses: Dual, port: u16) -> Vec<SocketAddr> {
    addresses.addresses().map(|address| SocketAddr::new(address, port)).into()
}

/// Loopback of both families.
const LOOPBACK: Dual = Dual { v4: Ipv4Addr::LOCALHOST, v6: Ipv6Addr::LOCALHOST };

fn any(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn refused(what: io::Result<Told>, way: &str) {
    let error = what.map(|told| panic!("{way}: {told:?}")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{way}: {error}");
}

/// Every pod answers over TCP, is shown as `to`, and sees one of the process's own addresses.
fn check_tcp(process: &mut Process, to: SocketAddr, own: &[IpAddr], way: &str) -> u64 {
    let mut met = BTreeSet::new();
    for connections in 1..=ENOUGH as u64 {
        let opened = process.connect(to).unwrap_or_else(|error| panic!("{way}: {error}"));
        assert_eq!(opened.shown, Some(to), "{way}: getpeername");
        let told = process.get(opened.socket).unwrap_or_else(|error| panic!("{way}: {error}"));
        let answer = told.answer.expect("somebody was asked");
        assert!(own.contains(&answer.client), "{way}: {answer:?}");
        assert_eq!(told.local.port(), answer.port, "{way}: no translation of the source");
        met.insert(answer.pod);
        if met.len() == traffic::PODS.len() {
            return connections;
        }
    }
    panic!("{way}: only {met:?} answered");
}

/// Every pod answers a datagram, as it seems from `to`, and one socket keeps its pod.
fn check_udp(process: &mut Process, to: SocketAddr, way: &str) {
    let mut met = BTreeSet::new();
    for _ in 0..ENOUGH {
        let socket = process.bind(any(to)).expect("a socket").socket;
        let mut exchange = || {
            let told = process.send(socket, to).unwrap_or_else(|error| panic!("{way}: {error}"));
            assert_eq!(told.shown, Some(to), "{way}: recvfrom");
            told.answer.expect("somebody was asked").pod
        };
        let pod = exchange();
        assert_eq!(exchange(), pod, "{way}: a socket keeps its pod");
        met.insert(pod);
        if met.len() == traffic::PODS.len() {
            return;
        }
    }
    panic!("{way}: only {met:?} answered");
}

#[test]
fn processes_are_served_at_their_sockets() {
    needs_datapath!();
    let cgroup = Cgroup::new("served");
    let fixture = fixture(&cgroup);
    let status = fixture.status().expect("the daemon answers");
    assert_eq!(status.socket_lb.cgroup.as_deref(), Some(&*cgroup.path().to_string_lossy()));
    let shown = fixture.cli(&["status"], "").expect("the daemon answers");
    assert!(shown.contains(&format!("Socket hooks:   {}", cgroup.path().display())), "{shown}");

    let of_pod = |name| fixture.pod(name).expect("runs").address().addresses().to_vec();
    let node = [NODE, NODE_INSIDE].iter().flat_map(|own| own.addresses()).chain(gateways()).collect::<Vec<_>>();
    let processes = [
        ("the node", on_node(&fixture, &cgroup), node),
        ("a pod", in_pod(&fixture, &cgroup, "visitor"), of_pod("visitor")),
        // It also meets itself, by its own address.
        ("a backend", in_pod(&fixture, &cgroup, "web-1"), of_pod("web-1")),
    ];
    let before = fixture.counted("http");
    let mut connections = 0;
    for (name, mut process, own) in processes {
        let process = &mut process;
        let mut ways = fixture.cluster().to_vec();
        ways.extend(at(NODE, NODE_PORT));
        ways.extend(if name == "the node" { at(LOOPBACK, NODE_PORT) } else { Vec::new() });
        for to in ways.iter().copied().chain(ways.iter().copied().filter(SocketAddr::is_ipv4).map(mapped)) {
            connections += check_tcp(process, to, &own, &format!("{name} to {to}"));
        }
        let mut ways = fixture.cluster_udp().to_vec();
        ways.extend(at(NODE, NODE_PORT_UDP));
        ways.extend(if name == "the node" { at(LOOPBACK, NODE_PORT_UDP) } else { Vec::new() });
        for to in ways.iter().copied().chain(ways.iter().copied().filter(SocketAddr::is_ipv4).map(mapped)) {
            check_udp(process, to, &format!("{name} to {to} by UDP"));
        }
        // What is no Service's goes where it was sent.
        for to in at(fixture.pod("web-2").expect("runs").address(), POD_PORT) {
            let opened = process.connect(to).expect("the pod listens");
            let told = process.get(opened.socket).expect("the pod answers");
            assert_eq!((told.shown, told.answer.expect("asked").pod.as_str()), (Some(to), "web-2"));
        }
    }
    assert_eq!(fixture.counted("http"), before + connections, "connections are counted, each once");
    assert!(fixture.reason("socket-translated") > connections, "and every call");
    assert_eq!(fixture.counted("echo"), 0, "datagrams are no connections, and no packet hook saw one to translate");
}

fn gateways() -> [IpAddr; 2] {
    Node::One.gateway().addresses()
}

/// The pod that the core on the host chooses for a socket.
fn chosen(seed: u64, cookie: u64, protocol: u8, to: SocketAddr) -> &'static str {
    let (family, address) = match to.ip() {
        IpAddr::V4(v4) => (4, std::array::from_fn(|index| v4.octets().get(index).copied().unwrap_or(0))),
        IpAddr::V6(v6) => (6, v6.octets()),
    };
    let peer = Peer::new(family, protocol, address, to.port().to_be_bytes());
    // A backend set is in order of address, as the pods are in order of name.
    traffic::PODS[pick::place(pick::of_socket(seed, &SocketKey { cookie, peer }), 3) as usize]
}

#[test]
fn the_kernel_chooses_as_the_core_does_on_the_host() {
    needs_datapath!();
    let cgroup = Cgroup::new("choice");
    let fixture = fixture(&cgroup);
    let seed = fixture.seed();
    let mut process = on_node(&fixture, &cgroup);
    for (tcp, udp) in fixture.cluster().into_iter().zip(fixture.cluster_udp()) {
        for _ in 0..20 {
            let opened = process.connect(tcp).expect("the Service answers");
            let told = process.get(opened.socket).expect("the Service answers");
            assert_eq!(told.answer.expect("asked").pod, chosen(seed, told.cookie, TCP, tcp));
            let socket = process.bind(any(udp)).expect("a socket").socket;
            let told = process.send(socket, udp).expect("the Service answers");
            assert_eq!(told.answer.expect("asked").pod, chosen(seed, told.cookie, UDP, udp));
        }
    }
}

#[test]
fn what_cannot_be_had_is_refused_at_once() {
    needs_datapath!();
    let cgroup = Cgroup::new("refused");
    let fixture = fixture(&cgroup);
    let mut processes = [("the node", on_node(&fixture, &cgroup)), ("a pod", in_pod(&fixture, &cgroup, "visitor"))];
    let check = |processes: &mut [(&str, Process); 2], tcp: [SocketAddr; 2], udp: [SocketAddr; 2], why: &str| {
        let counted = fixture.reason(why);
        for (name, process) in processes {
            for (tcp, udp) in tcp.into_iter().zip(udp) {
                let start = Instant::now();
                refused(process.connect(tcp), &format!("{name} to {tcp}"));
                let socket = process.bind(any(udp)).expect("a socket").socket;
                refused(process.send(socket, udp), &format!("{name} to {udp} by UDP"));
                assert!(start.elapsed() < Duration::from_secs(1), "at once");
            }
        }
        assert_eq!(fixture.reason(why), counted + 8);
        let told = fixture.cli(&["why"], "").expect("it answers");
        let paragraph = told.split("\n\n").find(|paragraph| paragraph.starts_with(why));
        assert!(paragraph.is_some_and(|told| told.contains("from a process of this machine (2)")), "{told}");
    };
    let other_port = |addresses: [SocketAddr; 2]| addresses.map(|address| SocketAddr::new(address.ip(), 9));
    check(&mut processes, other_port(fixture.cluster()), other_port(fixture.cluster_udp()), "no-service-port");
    for pod in traffic::PODS {
        fixture.delete_pod_object(pod).expect("the CLI deletes");
    }
    check(&mut processes, fixture.cluster(), fixture.cluster_udp(), "no-backend");
    check(&mut processes, fixture::node_port(), fixture::node_port_udp(), "no-backend");
}

#[test]
fn a_udp_client_leaves_a_backend_that_dies_and_keeps_its_port() {
    needs_datapath!();
    let cgroup = Cgroup::new("udp");
    let mut fixture = fixture(&cgroup);
    let (mut on_node, mut in_pod) = (on_node(&fixture, &cgroup), in_pod(&fixture, &cgroup, "visitor"));
    let to = fixture.cluster_udp()[0];
    let own = SocketAddr::new(LOOPBACK.v4.into(), NODE_PORT_UDP);
    // Connected sockets of pods are the packet hooks' business; enough of them, so that some talk to the pod that dies.
    // A socket of both families counts as one that names its peer with each datagram.
    let connected: Vec<(usize, SocketAddr, Told)> = (0..24)
        .map(|number| {
            let to = if number % 2 == 0 { to } else { mapped(to) };
            let socket = in_pod.connect_udp(to).expect("a socket").socket;
            (socket, to, in_pod.exchange(socket).expect("the Service answers"))
        })
        .collect();
    let unconnected: Vec<(usize, SocketAddr, Told)> = (0..24)
        .map(|number| {
            let to = if number % 2 == 0 { to } else { own };
            let socket = on_node.bind(any(to)).expect("a socket").socket;
            (socket, to, on_node.send(socket, to).expect("the Service answers"))
        })
        .collect();
    fixture.delete_pod_object("web-1").expect("the CLI deletes");
    fixture.kill_pod("web-1").expect("the pod dies");
    let pod = |told: &Told| told.answer.clone().expect("asked").pod;
    let mut moved = [0, 0];
    for (socket, to, before) in connected {
        let after = in_pod.exchange(socket).expect("another pod answers at once");
        assert_eq!((after.shown, after.local), (Some(to), before.local));
        assert_ne!(pod(&after), "web-1");
        moved[0] += u32::from(pod(&before) == "web-1");
    }
    for (socket, to, before) in unconnected {
        let after = on_node.send(socket, to).expect("another pod answers at once");
        assert_eq!((after.shown, after.local), (Some(to), before.local));
        assert_ne!(pod(&after), "web-1");
        moved[1] += u32::from(pod(&before) == "web-1");
    }
    assert!(moved.iter().all(|moved| *moved > 0), "some of 24 talked to the pod that died: {moved:?}");
}

/// No packet hook sees what a node sends to its own node port, and no socket hook what a connected socket sends: only
/// both together serve such a socket, and keep it from a dead pod.
#[test]
fn a_connected_udp_socket_to_the_nodes_own_node_port_leaves_a_backend_that_dies() {
    needs_datapath!();
    let cgroup = Cgroup::new("connected");
    let mut fixture = fixture(&cgroup);
    let mut process = on_node(&fixture, &cgroup);
    let own: Vec<SocketAddr> =
        [NODE, NODE_INSIDE, LOOPBACK].into_iter().flat_map(|own| at(own, NODE_PORT_UDP)).collect();
    let ways: Vec<SocketAddr> =
        own.iter().copied().chain(own.iter().copied().filter(SocketAddr::is_ipv4).map(mapped)).collect();
    // Each of three pods is met but for once in 10^9.
    let mut sockets = Vec::new();
    for to in ways.iter().copied().cycle().take(54) {
        let opened = process.connect_udp(to).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!(opened.shown, Some(to), "getpeername");
        let told = process.exchange(opened.socket).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!((told.shown, told.local), (Some(to), opened.local), "recvfrom");
        sockets.push((to, told));
    }
    assert_eq!(fixture.counted("echo"), 54, "each was a flow for the packet hooks of the veth pair");
    let pod = |told: &Told| told.answer.clone().expect("asked").pod;
    let met: BTreeSet<String> = sockets.iter().map(|(_, told)| pod(told)).collect();
    assert_eq!(met.iter().map(String::as_str).collect::<Vec<_>>(), traffic::PODS);
    for dead in ["web-1", "web-2"] {
        fixture.delete_pod_object(dead).expect("the CLI deletes");
        fixture.kill_pod(dead).expect("the pod dies");
        for (to, before) in &mut sockets {
            let after = process.exchange(before.socket).unwrap_or_else(|error| panic!("{to} without {dead}: {error}"));
            assert_eq!((after.shown, after.local), (Some(*to), before.local), "it is the same socket");
            assert_ne!(pod(&after), dead);
            if pod(before) != dead {
                assert_eq!(pod(&after), pod(before), "{to}: nobody else moves");
            }
            *before = after;
        }
    }
    // What nobody can serve any more is refused, and served again by whoever comes.
    fixture.delete_pod_object("web-3").expect("the CLI deletes");
    for (to, told) in &sockets {
        refused(process.exchange(told.socket), &format!("{to} without any pod"));
    }
    fixture.apply(&manifests::pod(fixture.pod("web-3").expect("runs").place())).expect("the CLI applies");
    for (to, told) in &sockets {
        let after = process.exchange(told.socket).unwrap_or_else(|error| panic!("{to} after a return: {error}"));
        assert_eq!((pod(&after).as_str(), after.local), ("web-3", told.local));
    }
}

#[test]
fn without_the_pair_a_connected_udp_socket_to_a_node_port_is_not_served_and_status_says_so() {
    needs_datapath!();
    let cgroup = Cgroup::new("no-pair");
    let mut playground = fixture::bare(BINARY, Setup::DEMO);
    playground.serve_sockets(Some(cgroup.path()));
    playground.add_daemon_argument("--host-clients=false");
    let fixture = Fixture::start(playground, &interfaces(Setup::DEMO));
    let note = fixture.status().expect("the daemon answers").socket_lb.note;
    assert!(note.contains("connected UDP socket"), "{note}");
    let mut process = on_node(&fixture, &cgroup);
    for to in fixture::node_port_udp() {
        let connected = process.connect_udp(to).expect("a socket").socket;
        refused(process.exchange(connected), "the node's own port, where nobody listens");
        let unconnected = process.bind(any(to)).expect("a socket").socket;
        process.send(unconnected, to).expect("a socket that is not connected is served");
    }
}

/// A program of somebody else's, which lets everything pass.
fn foreign(cgroup: &Cgroup) -> aya::Ebpf {
    let mut loader = EbpfLoader::new();
    for map in MAPS {
        loader.map_max_entries(map.name, map.entries_for(1024));
    }
    let mut object = loader.load(lb_ctl::OBJECT.expect("checked before")).expect("the object loads");
    let program: &mut CgroupSockAddr =
        object.program_mut("lb_connect4").expect("one").try_into().expect("of this kind");
    program.load().expect("the verifier accepts it");
    let directory = std::fs::File::open(cgroup.path()).expect("the cgroup");
    program.attach(directory, CgroupAttachMode::Single).expect("the cgroup takes it");
    object
}

#[test]
fn hooks_outlive_the_daemon_and_its_successor_adopts_them() {
    needs_datapath!();
    let (cgroup, other) = (Cgroup::new("survival"), Cgroup::new("survival-other"));
    let neighbour = foreign(&cgroup);
    let theirs = cgroup.programs(CONNECT4);
    assert_eq!(theirs.len(), 1);
    let mut fixture = fixture(&cgroup);
    let attached = || HOOKS.map(|hook| cgroup.programs(hook).len());
    assert_eq!(attached(), [2, 1, 1, 1, 1, 1, 1, 1], "beside the other's program");
    let mut process = on_node(&fixture, &cgroup);
    let loopback = at(LOOPBACK, NODE_PORT);
    let mut held = Vec::new();
    for to in fixture.cluster().into_iter().chain(loopback.iter().copied()) {
        let socket = process.connect(to).expect("the Service answers").socket;
        held.push((socket, to, process.get(socket).expect("the Service answers").answer.expect("asked").pod));
    }
    let to = fixture.cluster_udp()[0];
    let datagrams = process.bind(any(to)).expect("a socket").socket;
    let first = process.send(datagrams, to).expect("the Service answers").answer;
    let check = |process: &mut Process, when: &str| {
        for (socket, to, pod) in &held {
            let told = process.get(*socket).unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_eq!((told.shown, &told.answer.expect("asked").pod), (Some(*to), pod), "{when}");
        }
        let told = process.send(datagrams, to).unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_eq!((told.shown, &told.answer), (Some(to), &first), "{when}");
        for to in &loopback {
            process.connect(*to).unwrap_or_else(|error| panic!("{when}: a new connection to {to}: {error}"));
        }
    };
    fixture.end_daemon(Signal::SIGKILL).expect("the daemon is killed");
    check(&mut process, "after kill -9");
    let before = cgroup.programs(CONNECT4);
    fixture.start_daemon(&interfaces(Setup::DEMO)).expect("the next daemon starts");
    check(&mut process, "after the next daemon adopted");
    let after = cgroup.programs(CONNECT4);
    assert_eq!(attached(), [2, 1, 1, 1, 1, 1, 1, 1]);
    assert!(before[1] != after[1] && before[0] == after[0], "replaced in place: {before:?} {after:?}");

    // Another cgroup, then none.
    fixture.end_daemon(Signal::SIGTERM).expect("the daemon ends");
    fixture.serve_sockets(Some(other.path()));
    fixture.start_daemon(&interfaces(Setup::DEMO)).expect("the next daemon starts");
    assert_eq!((cgroup.programs(CONNECT4), other.programs(CONNECT4).len()), (theirs.clone(), 1));
    fixture.end_daemon(Signal::SIGTERM).expect("the daemon ends");
    fixture.serve_sockets(None);
    fixture.start_daemon(&interfaces(Setup::DEMO)).expect("the next daemon starts");
    assert!(HOOKS.iter().all(|hook| other.programs(*hook).is_empty()), "nothing is left where nobody is served");
    let status = fixture.status().expect("the daemon answers").socket_lb;
    assert!(status.cgroup.is_none() && status.note.contains("--socket-lb"), "{status:?}");
    refused(process.connect(loopback[0]), "loopback without socket hooks");

    // And removal.
    fixture.end_daemon(Signal::SIGTERM).expect("the daemon ends");
    fixture.serve_sockets(Some(cgroup.path()));
    fixture.start_daemon(&interfaces(Setup::DEMO)).expect("the next daemon starts");
    assert_eq!(attached(), [2, 1, 1, 1, 1, 1, 1, 1]);
    fixture.end_daemon(Signal::SIGKILL).expect("the daemon is killed");
    let options = datapath::Options {
        bpffs: fixture.name().bpffs(),
        instance: fixture.name().as_str().to_owned(),
        ..datapath::Options::default()
    };
    let removed = fixture.node_space(Node::One).run(|| datapath::cleanup(&options)).expect("the namespace");
    let removed = removed.expect("the datapath is removed");
    assert!(removed.iter().any(|line| line == "detached 8 socket hooks from their cgroup"), "{removed:?}");
    assert_eq!(attached(), [1, 0, 0, 0, 0, 0, 0, 0], "nothing is left but the other's program");
    drop(neighbour);
}

#[test]
fn a_cgroup_that_goes_is_told_and_one_that_returns_is_served() {
    needs_datapath!();
    let cgroup = Cgroup::new("return");
    let child = cgroup.path().join("child");
    std::fs::create_dir(&child).expect("root makes cgroups");
    let mut playground = fixture::bare(BINARY, Setup::DEMO);
    playground.serve_sockets(Some(&child));
    let fixture = Fixture::start(playground, &interfaces(Setup::DEMO));
    std::fs::remove_dir(&child).expect("nobody is in it");
    // Whatever is applied makes the daemon look.
    let look = || fixture.apply_everything().expect("the CLI applies");
    look();
    let status = fixture.status().expect("the daemon answers");
    assert!(status.problems.iter().any(|problem| problem.subject == "socket-lb"), "{:?}", status.problems);
    assert!(!status.ready && status.socket_lb.cgroup.is_none());
    std::fs::create_dir(&child).expect("root makes cgroups");
    look();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !fixture.status().expect("the daemon answers").ready {
        assert!(Instant::now() < deadline, "{:?}", fixture.status());
        thread::sleep(Duration::from_millis(50));
    }
    std::fs::remove_dir(&child).expect("nobody is in it");
}

#[test]
fn what_is_no_cgroup_is_refused_before_anything_is_touched() {
    needs_datapath!();
    let mut playground = fixture::bare(BINARY, Setup::DEMO);
    playground.serve_sockets(Some(&playground.directory()));
    let socket = playground.socket();
    let command = playground.daemon_command(playground.name().as_str(), &socket, &interfaces(Setup::DEMO));
    let mut command = command.expect("a command");
    let output = playground.node_space(Node::One).run(|| command.output()).expect("enter").expect("start");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--socket-lb") && said.contains("not on a cgroup2 file system; name /"), "{said}");
}
