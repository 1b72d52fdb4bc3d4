//! A daemon dies, or wants other sizes: what was there is taken over.

use crate::sandbox::{MAX_FLOWS, Sandbox, interface, names, run, sandboxed, veth};
use aya::maps::{Array, Map, MapData};
use lb_common::gate::{End, Place};
use lb_common::maps::{MAPS, entries_for};
use lb_common::{Backend, Flow, FlowKey, NextHop, Owned, Settings, TCP, UDP};
use lb_ctl::datapath::census::Census;
use lb_ctl::datapath::flow_table::FlowTable;
use lb_ctl::datapath::{Datapath, Mode, Options, XdpState, conntrack};
use lb_ctl::image::Withdrawn;
use lb_ctl::maps::{LbMaps, MapOp};
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The BPF file system of the daemon that `daemon` plays.
const BPFFS: &str = "LBE_BPFFS";
/// The size of its maps, if not the smallest.
const FLOWS: &str = "LBE_FLOWS";

/// How many daemons are killed while they start.
const KILLS: u32 = 12;

/// The id of the XDP program on an interface, as `ip` shows it.
fn xdp_program(name: &str) -> Option<u32> {
    let shown = run(&format!("ip link show {name}"));
    let words: Vec<_> = shown.split_whitespace().collect();
    let at = words.iter().position(|word| word.starts_with("prog/xdp"))?;
    words.get(at + 2)?.parse().ok()
}

/// A daemon in a process of its own, ready when this returns.
fn daemon(sandbox: &Sandbox) -> Child {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "adoption::play_daemon", "--ignored", "--nocapture"])
        .env(BPFFS, sandbox.bpffs())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a daemon");
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let ready = output.lines().map_while(Result::ok).any(|line| line.contains("the daemon is ready"));
    assert!(ready, "the daemon did not come up");
    child
}

/// A daemon of this many flows, killed after a while.
fn killed_daemon(sandbox: &Sandbox, max_flows: u32, after: Duration) {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "adoption::play_daemon", "--ignored"])
        .env(BPFFS, sandbox.bpffs())
        .env(FLOWS, max_flows.to_string())
        .stdout(Stdio::null())
        .spawn()
        .expect("a daemon");
    std::thread::sleep(after);
    child.kill().expect("killed");
    child.wait().expect("gone");
}

/// Attaches and waits for its end, called by the tests here.
#[test]
#[ignore = "called by another test, in its namespaces"]
fn play_daemon() {
    let bpffs = std::env::var(BPFFS).expect(BPFFS).into();
    let max_flows = std::env::var(FLOWS).map_or(MAX_FLOWS, |flows| flows.parse().expect(FLOWS));
    let options = Options { bpffs, instance: "one".to_owned(), max_flows, ..Options::default() };
    let mut datapath = Datapath::open(&options).expect("a datapath");
    datapath.attach(&interface("lbe0"), Mode::Xdp).expect("attached");
    datapath.attach(&interface("lbe2"), Mode::Tcx).expect("attached");
    datapath.settle().expect("settled");
    println!("the daemon is ready");
    std::thread::sleep(std::time::Duration::from_mins(1));
}

#[test]
fn a_killed_daemons_programs_stay_and_are_replaced_in_place() {
    sandboxed(|sandbox| {
        veth("lbe0", "lbe1");
        veth("lbe2", "lbe3");
        let mut child = daemon(sandbox);
        let before = xdp_program("lbe0").expect("a program");
        child.kill().expect("killed");
        child.wait().expect("gone");
        assert_eq!(xdp_program("lbe0"), Some(before), "it stays when the daemon is killed");

        put_flow(sandbox, 1, conntrack::now());
        let mut datapath = sandbox.open("one");
        assert_eq!(xdp_program("lbe0"), Some(before), "opening changes nothing yet");
        let attachment = datapath.attach(&interface("lbe0"), Mode::Xdp).expect("attached");
        assert!(attachment.adopted && attachment.tcx && attachment.xdp == XdpState::Native, "{attachment:?}");
        let after = xdp_program("lbe0").expect("a program");
        assert_ne!(after, before, "the program is the new daemon's");
        assert_eq!(names(&sandbox.pins("one").join("links")).len(), 5);
        // The other interface is not wanted any more.
        let settled = datapath.settle().expect("settled");
        assert_eq!(settled.detached.len(), 2, "{settled:?}");
        assert_eq!(names(&sandbox.pins("one").join("links")).len(), 3);
        assert_eq!(datapath.maps().flow_tables().iter().count(), 1, "the flow is still there");
        // Dropping detaches nothing.
        drop(datapath);
        assert_eq!(xdp_program("lbe0"), Some(after));
    });
}

#[test]
fn a_daemon_killed_at_any_moment_leaves_what_the_next_one_takes_over() {
    sandboxed(|sandbox| {
        veth("lbe0", "lbe1");
        veth("lbe2", "lbe3");
        // How long a start takes here: the moments are spread over it.
        let start = Instant::now();
        let mut child = daemon(sandbox);
        let whole = start.elapsed();
        child.kill().expect("killed");
        child.wait().expect("gone");
        let now = conntrack::now();
        for port in 0..50 {
            put_flow(sandbox, port, now);
        }
        for kill in 1..=KILLS {
            // Sizes alternate, so that every start has maps to carry over.
            killed_daemon(sandbox, MAX_FLOWS * (1 + kill % 2), whole * kill / KILLS);
            assert!(xdp_program("lbe0").is_some(), "XDP stays attached, kill {kill}");
            let pins = names(&sandbox.pins("one"));
            assert!(pins.iter().any(|name| name.starts_with("flows-")), "{pins:?}");
        }
        let mut datapath = sandbox.open("one");
        assert_eq!(datapath.maps().flow_tables().iter().count(), 50, "no flow is lost");
        assert!(datapath.attach(&interface("lbe0"), Mode::Xdp).expect("attached").adopted);
        assert_eq!(datapath.settle().expect("settled").lost, 0);
        assert_eq!(datapath.maps().flow_tables().iter().count(), 50);
        let pins = names(&sandbox.pins("one"));
        assert_eq!(pins.len(), 4, "{pins:?}");
    });
}

#[test]
fn half_made_pins_are_completed() {
    sandboxed(|sandbox| {
        drop(sandbox.open("one"));
        let (config, flows) = (sandbox.maps("one", "config-"), sandbox.maps("one", "flows-"));
        for pin in [config.join("DEVICES"), flows.join("FLOWS6_SETS"), flows.join("FLOWS4")] {
            std::fs::remove_file(pin).expect("removed");
        }
        std::fs::create_dir(format!("{}-draft", config.display())).expect("made");
        std::fs::create_dir(sandbox.pins("one").join("flows-0123456789abcdef-1024")).expect("made");
        let mut datapath = sandbox.open("one");
        datapath.settle().expect("settled");
        assert_eq!(names(&flows).len(), MAPS.iter().filter(|map| map.holds_flows).count());
        assert_eq!(names(&sandbox.pins("one")).len(), 4, "leftovers are gone");
        // What is no map of ours is not touched.
        drop(datapath);
        std::fs::remove_file(flows.join("FLOWS6")).expect("removed");
        MapData::from_pin(flows.join("FLOWS4")).expect("a map").pin(flows.join("FLOWS6")).expect("pinned");
        let error = Datapath::open(&sandbox.options("one")).unwrap_err().to_string();
        assert!(error.contains("FLOWS6") && error.contains("lb-ctl cleanup"), "{error}");
    });
}

#[test]
fn a_change_of_mode_replaces_xdp_and_keeps_tcx() {
    sandboxed(|sandbox| {
        let interface = veth("lbe0", "lbe1");
        let mut datapath = sandbox.open("one");
        let expected = [
            (Mode::Xdp, "native", vec!["egress", "ingress", "xdp"]),
            (Mode::XdpGeneric, "generic", vec!["egress", "ingress", "xdp-generic"]),
            (Mode::Auto, "off", vec!["egress", "ingress"]),
            (Mode::Xdp, "native", vec!["egress", "ingress", "xdp"]),
            (Mode::Tcx, "off", vec!["egress", "ingress"]),
        ];
        for (mode, xdp, hooks) in expected {
            let attachment = datapath.attach(&interface, mode).expect("attached");
            assert_eq!(attachment.xdp.name(), xdp, "{attachment:?}");
            let pinned = names(&sandbox.pins("one").join("links"));
            let hooks: Vec<_> = hooks.iter().map(|hook| format!("{}-{hook}", interface.index)).collect();
            assert_eq!(pinned, hooks, "{mode}");
            assert_eq!(xdp_program("lbe0").is_some(), xdp != "off");
        }
    });
}

type Key = FlowKey<[u8; 4]>;
type Entry = Flow<[u8; 4]>;

fn key(port: u16) -> Key {
    FlowKey::new(TCP, [10, 0, 0, 1], port.to_be_bytes(), [10, 96, 0, 1], [0, 80])
}

fn entry(tick: u32) -> Entry {
    Flow {
        src: [10, 0, 0, 1],
        dst: [10, 244, 0, 7],
        src_port: [1, 2],
        dst_port: [31, 144],
        address_delta: 0,
        port_delta: 0,
        tick,
        flags: Entry::ANSWERED | Entry::CONFIRMED,
        generation: 1,
        backend: 3,
        service: 4,
        hop: NextHop::default(),
        met: 0,
        zero: [0; 7],
    }
}

/// A flow table, opened behind the datapath's back.
fn flows(sandbox: &Sandbox, table: &str) -> FlowTable<[u8; 4]> {
    FlowTable::open(&sandbox.maps("one", "flows-"), table).expect("a flow table")
}

/// Writes a flow as the datapath would.
fn put_flow(sandbox: &Sandbox, port: u16, tick: u32) {
    flows(sandbox, "FLOWS4").set(&key(port), &entry(tick)).expect("written");
}

#[test]
fn another_size_carries_flows_configuration_and_seed_over() {
    sandboxed(|sandbox| {
        let now = conntrack::now();
        let address = "10.96.0.1".parse().expect("an address");
        let mut datapath = sandbox.open("one");
        let settings = Settings { seed: 42, ..Settings::default() };
        datapath.maps().apply(&MapOp::PutSettings(settings)).expect("written");
        datapath.maps().apply(&MapOp::PutOwned(address, Owned::SERVICE)).expect("written");
        datapath.settle().expect("settled");
        for port in 0..100 {
            put_flow(sandbox, port, now);
        }
        drop(datapath);

        // Larger, and the daemon dies before it has settled: both sets are left.
        let larger = Options { max_flows: 4 * MAX_FLOWS, ..sandbox.options("one") };
        let datapath = Datapath::open(&larger).expect("a datapath");
        assert_eq!(datapath.maps().capacity("FLOWS4"), 8 * MAX_FLOWS);
        assert_eq!(datapath.maps().flow_tables().iter().count(), 100);
        drop(datapath);
        assert_eq!(names(&sandbox.pins("one")).iter().filter(|name| name.starts_with("flows-")).count(), 2);

        let mut datapath = Datapath::open(&larger).expect("a datapath");
        let image = datapath.maps().read().expect("an image");
        assert_eq!((image.settings, image.owned.get(&address)), (settings, Some(&Owned::SERVICE)));
        let settled = datapath.settle().expect("settled");
        assert_eq!(settled.lost, 0, "{settled:?}");
        assert_eq!(datapath.maps().flow_tables().iter().count(), 100);
        let newest = datapath.maps().flow_tables().iter().map(|entry| entry.expect("an entry").tick).max();
        assert_eq!(newest, Some(now));
        sandbox.maps("one", "flows-");
        sandbox.maps("one", "config-");
        drop(datapath);

        // Smaller again, with fewer places than flows: it says how many were lost.
        for port in 0..6000 {
            put_flow(sandbox, port, now);
        }
        let mut datapath = Datapath::open(&sandbox.options("one")).expect("a datapath");
        // However long that takes.
        std::thread::sleep(Duration::from_millis(2500));
        let settled = datapath.settle().expect("settled");
        assert_eq!(settled.carried + settled.lost, 6000, "{settled:?}");
        // The last free places are those of sets that no key is left for.
        let room = u64::from(entries_for("FLOWS4", MAX_FLOWS));
        assert!((room * 95 / 100..=room).contains(&settled.carried), "{settled:?} {room}");
        assert_eq!(datapath.maps().read().expect("an image").settings, settings);
    });
}

#[test]
fn the_gate_is_opened_for_what_is_written_and_for_flows_that_are_found() {
    sandboxed(|sandbox| {
        let is_open = |end: End| {
            let Place { word, bits } = Place::from(end);
            let pin = sandbox.maps("one", "config-").join("GATE");
            let gate: Array<_, u64> =
                Map::Array(MapData::from_pin(pin).expect("the map")).try_into().expect("an array");
            gate.get(&word, 0).expect("a word") & bits != 0
        };
        let cluster = IpAddr::from([10, 96, 0, 9]);
        let [owned, service] = [cluster, [10, 96, 0, 1].into()].map(End::Destination);
        let [backend, pod] = [[10, 244, 0, 9], [10, 244, 0, 7]].map(|address| End::Source(address.into()));
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[10, 244, 0, 9]);
        let record = Backend { address, generation: 1, family: 4, ..Backend::UNUSED };
        let datapath = sandbox.open("one");
        let mut maps = datapath.maps();
        assert!(![owned, service, backend, pod].into_iter().any(is_open));
        for op in [MapOp::PutOwned(cluster, Owned::SERVICE), MapOp::PutBackend(3, record)] {
            maps.apply(&op).expect("written");
        }
        // Flows outlive what they were opened by.
        for op in [MapOp::DeleteOwned(cluster), MapOp::DeleteBackend(3)] {
            maps.apply(&op).expect("written");
        }
        assert!(is_open(owned) && is_open(backend) && !is_open(service) && !is_open(pod));

        put_flow(sandbox, 1, conntrack::now());
        let map = flows(sandbox, "FLOWS4");
        let flow = entry(conntrack::now());
        map.set(&flow.partner(TCP), &Entry { flags: flow.flags | Entry::REPLY, ..flow }).expect("written");
        drop((datapath, maps));
        std::fs::remove_file(sandbox.maps("one", "config-").join("GATE")).expect("removed");
        drop(sandbox.open("one"));
        assert!(is_open(service) && is_open(pod) && !is_open(owned) && !is_open(backend));
    });
}

#[test]
fn what_the_earlier_programs_write_during_the_take_over_is_carried_over() {
    sandboxed(|sandbox| {
        let now = conntrack::now();
        let mut datapath = sandbox.open("one");
        datapath.settle().expect("settled");
        put_flow(sandbox, 1, now - 100);
        let earlier = flows(sandbox, "FLOWS4");
        drop(datapath);
        let larger = Options { max_flows: 2 * MAX_FLOWS, ..sandbox.options("one") };
        let mut datapath = Datapath::open(&larger).expect("a datapath");
        // The earlier programs are still attached: one flow goes on, one begins.
        earlier.set(&key(1), &entry(conntrack::now())).expect("written");
        earlier.set(&key(2), &entry(conntrack::now())).expect("written");
        datapath.settle().expect("settled");
        let ticks: Vec<_> = datapath.maps().flow_tables().iter().map(|entry| entry.expect("an entry").tick).collect();
        assert_eq!(ticks.len(), 2);
        assert!(ticks.iter().all(|tick| *tick >= now), "{ticks:?} {now}");
    });
}

#[test]
fn lent_ports_are_counted_by_the_backend_port_they_are_lent_towards() {
    sandboxed(|sandbox| {
        let datapath = sandbox.open("one");
        let now = conntrack::now() + 30_000;
        let map = flows(sandbox, "FLOWS4");
        let put = |backend_port: u16, port: u16, flags, tick| {
            let (backend, node) = ([10, 244, 2, 3], [192, 0, 2, 1]);
            let key = FlowKey::new(TCP, backend, backend_port.to_be_bytes(), node, port.to_be_bytes());
            map.set(&key, &Entry { flags, ..entry(tick) }).expect("written");
        };
        let lent = Entry::REPLY | Entry::SNAT | Entry::ANSWERED | Entry::CONFIRMED;
        for port in 0..9 {
            put(8080, port, lent, now);
            put(9090, port, if port < 5 { lent } else { lent | Entry::FINS }, now);
            put(7070, port, if port < 5 { lent } else { lent & !Entry::SNAT }, now);
            put(6060, port, lent & !Entry::REPLY, now);
        }
        put(8080, 99, lent, now - 25_000);
        let (_, ports) = datapath.maps().flow_tables().fill(now).expect("counted");
        assert_eq!(ports.fullest(), Some((("10.244.2.3:8080".parse().expect("an address"), TCP), 9)));
    });
}

#[test]
fn flows_to_a_withdrawn_endpoint_are_forgotten_and_no_others() {
    sandboxed(|sandbox| {
        let datapath = sandbox.open("one");
        let tables = datapath.maps().flow_tables().clone();
        let now = conntrack::now();
        let put = |number: u16, protocol, flow: Entry| {
            let backend = if flow.is_reply() { [31, 144] } else { [0, 80] };
            let key = FlowKey::new(protocol, [10, 0, 0, 1], backend, [10, 96, 0, 1], number.to_be_bytes());
            flows(sandbox, "FLOWS4").set(&key, &flow).expect("written");
        };
        // Its endpoint is backend 3 of service port 4, at port 8080.
        let whole = entry(now);
        for (first, flags) in [(0, whole.flags), (10, whole.flags & !Entry::CONFIRMED)] {
            let whole = Entry { flags, ..whole };
            put(first, UDP, whole);
            put(first + 1, UDP, Entry { flags: flags | Entry::REPLY, dst_port: [1, 2], ..whole });
            put(first + 2, TCP, whole);
            put(first + 3, UDP, Entry { service: 5, ..whole });
            put(first + 4, UDP, Entry { backend: 2, ..whole });
            put(first + 5, UDP, Entry { dst_port: [31, 145], ..whole });
        }
        let withdrawn = [Withdrawn { service: 4, backend: 3, port: 8080 }].into();
        assert_eq!(tables.forget(&withdrawn).expect("forgotten"), 4);
        assert_eq!(tables.forget(&withdrawn).expect("forgotten"), 0);
        assert_eq!(tables.iter().count(), 8);
    });
}

#[test]
fn a_sweep_takes_what_has_expired_and_nothing_else() {
    sandboxed(|sandbox| {
        let datapath = sandbox.open("one");
        // An established connection may be silent for six hours.
        let now = conntrack::now() + 30_000;
        for port in 0..50 {
            put_flow(sandbox, port, if port < 20 { now - 25_000 } else { now - 10 });
        }
        let tables = datapath.maps().flow_tables().clone();
        let mut sweep = conntrack::Sweep::default();
        assert_eq!(tables.sweep_expired(&mut sweep, now, 100_000, &mut |_| {}).expect("swept"), 20);
        assert_eq!(tables.sweep_expired(&mut sweep, now, 100_000, &mut |_| {}).expect("swept"), 0);
        let counted = |sweep: &conntrack::Sweep| {
            let mut census = Census::default();
            sweep.tell(&mut census);
            census.fill.values().map(|fill| (fill.map, fill.entries)).collect::<Vec<_>>()
        };
        let expected = [("FLOWS4", 30), ("FLOWS6", 0)];
        assert_eq!(counted(&sweep), expected, "it counts as it goes");
        // A table that is read at once, and holds more than a step may look at, is not the end of the sweep.
        let mut sweep = conntrack::Sweep::default();
        for _ in 0..4 {
            assert_eq!(tables.sweep_expired(&mut sweep, now, 1, &mut |_| {}).expect("swept"), 0);
        }
        assert_eq!(counted(&sweep), expected);
        let (fill, ports) = tables.fill(now).expect("counted");
        assert_eq!(ports.fullest(), None, "these flows keep their own source");
        assert_eq!((fill[0].map, fill[0].entries, fill[0].capacity), ("FLOWS4", 30, 2 * MAX_FLOWS));
        let left: Vec<_> = tables.iter().map(|entry| entry.expect("an entry")).collect();
        assert_eq!(left.len(), 30);
        assert_eq!(left[0].state().name(), "ESTABLISHED");
        assert_eq!(left[0].rewritten_destination, "10.244.0.7:8080".parse().expect("an address"));
    });
}
