//! The same packets through the host's core and through the programs in the kernel: same bytes, verdict, reason, counters
//! and flow tables.

use lb_common::{Device, Reason, ReasonCount, Traffic, maps};
use lb_ebpf::{Action, Hook, Table, Verdict, process};
use lb_memory::Image;
use lb_memory::generator::{self, Case, World};
use lb_memory::trial::{Interfaces, Met, Passage, Trial};
use lb_tests::capture::{self, Captured};
use lb_tests::frames::{self, Flags};
use lb_tests::kernel::{self, Flows, Kernel};
use lb_tests::memory::{At, Frame, Memory, Surroundings};
use lb_tests::needs_datapath;
use lb_tests::small::{self, EMPTY, FAR, Family, LOCAL_1, LOCAL_2, NODE_PORT, ON_HOST, REMOTE, SINGLE, TWIN, WEB};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed, TestCaseError, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Cases of the differential test: in CI, and where time does not matter.
const CASES: u32 = 5_000;
const FULL_CASES: u32 = 100_000;
const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/differential.txt");
/// Small, so that a test can fill the tables.
const MAX_FLOWS: u32 = 1024;

/// A node of which there are two: one in memory, one in the kernel.
struct Both {
    tables: Memory,
    around: Surroundings,
    kernel: Kernel,
    uplink: u32,
    inside: u32,
}

impl Both {
    /// Makes a network namespace for this thread, whose routing table says what [`small::surroundings`] says.
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of our own");
        // One CPU: the node in memory has working memory for one.
        let mut cpus = CpuSet::new();
        cpus.set(0).expect("a first CPU");
        sched_setaffinity(Pid::from_raw(0), &cpus).expect("a CPU of our choice");
        ip("link add up0 type veth peer name up1");
        ip("link add in0 type veth peer name in1");
        for device in ["up0", "up1", "in0", "in1"] {
            ip(&format!("link set {device} up"));
        }
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{setting}"), "1").expect("a setting of this namespace");
        }
        let (uplink, inside) = (ifindex("up0"), ifindex("in0"));
        for (device, index) in [("up0", uplink), ("in0", inside)] {
            ip(&format!("link set {device} address {}", mac(&small::hop(index).macs[6..])));
        }
        for family in Family::BOTH {
            let bits = if family == Family::V4 { 32 } else { 128 };
            ip(&format!("address add {}/{bits} dev up0 {}", family.node(), if bits == 128 { "nodad" } else { "" }));
            neighbour(family.client(), bits, "up0", uplink);
            neighbour(family.backend(REMOTE), bits, "up0", uplink);
            neighbour(family.backend(LOCAL_1), bits, "in0", inside);
            neighbour(family.backend(LOCAL_2), bits, "in0", inside);
            neighbour(family.backend(generator::REPLACEMENT), bits, "in0", inside);
        }
        let mut image = small::image(uplink, inside);
        // A device that is no target, so that XDP has something to leave to TCX.
        image.devices.insert(uplink, Device { mac: frames::DESTINATION_MAC, ..Device::new(Device::OWN_MAC) });
        Self {
            kernel: Kernel::load(&image, MAX_FLOWS),
            tables: Memory::new(image),
            around: small::surroundings(uplink, inside, uplink, 0),
            uplink,
            inside,
        }
    }

    /// Runs one frame on the node in memory. Returns the frame as it left.
    fn on_host(&mut self, hook: Hook, ifindex: u32, bytes: &[u8]) -> (Verdict, Vec<u8>) {
        self.around.ifindex = ifindex;
        self.around.tick = tick();
        let mut frame = Frame::new(bytes.to_vec());
        let verdict = match hook {
            Hook::Xdp => process(&mut frame, &self.tables, &At::<0>(&self.around)),
            Hook::Ingress => process(&mut frame, &self.tables, &At::<1>(&self.around)),
            Hook::Egress => process(&mut frame, &self.tables, &At::<2>(&self.around)),
        };
        (verdict, frame.bytes)
    }

    /// Runs one frame on both, and compares. Returns the frame as it left.
    fn run(&mut self, hook: Hook, ifindex: u32, bytes: &[u8]) -> (Verdict, Vec<u8>) {
        let (verdict, after) = self.on_host(hook, ifindex, bytes);
        let (code, out) = self.kernel.run(hook, ifindex, bytes);
        let context =
            format!("{hook:?} by {ifindex}: {verdict:?}\nin   {bytes:02x?}\nhost {after:02x?}\nbpf  {out:02x?}");
        assert_eq!(code, expected_code(hook, ifindex, verdict), "return code; {context}");
        assert_eq!(out, after, "bytes; {context}");
        assert_eq!(self.kernel.reasons(), *self.tables.reasons.borrow(), "reasons; {context}");
        (verdict, after)
    }

    fn compare_flows(&mut self) {
        assert_eq!(self.kernel.flows(maps::FLOWS4), self.tables.flows4.contents(Table::Confirmed));
        assert_eq!(self.kernel.flows(maps::FLOWS6), self.tables.flows6.contents(Table::Confirmed));
        assert_eq!(self.kernel.flows(maps::NEW4), self.tables.flows4.contents(Table::New));
        assert_eq!(self.kernel.flows(maps::NEW6), self.tables.flows6.contents(Table::New));
    }
}

fn expected_code(hook: Hook, ifindex: u32, verdict: Verdict) -> u32 {
    match (hook, verdict.action) {
        (_, Action::Open) => panic!("the core kept this to itself"),
        (Hook::Xdp, Action::Pass | Action::Defer) => kernel::XDP_PASS,
        (Hook::Xdp, Action::Drop) => kernel::XDP_DROP,
        (Hook::Xdp, _) if verdict.ifindex == ifindex => kernel::XDP_TX,
        (Hook::Xdp, _) => kernel::XDP_REDIRECT,
        (_, Action::Pass | Action::Defer) => kernel::TCX_NEXT,
        (_, Action::Drop) => kernel::TCX_DROP,
        (_, Action::Redirect | Action::RedirectNeighbour) => kernel::TCX_REDIRECT,
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

fn neighbour(address: IpAddr, bits: u8, device: &str, index: u32) {
    ip(&format!("route add {address}/{bits} dev {device}"));
    ip(&format!("neighbour add {address} lladdr {} dev {device}", mac(&small::hop(index).macs[..6])));
}

fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn ifindex(device: &str) -> u32 {
    nix::net::if_::if_nametoindex(device).expect("a device of ours")
}

/// The tick the kernel is in.
fn tick() -> u32 {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("a clock"));
    (now.as_nanos() >> lb_common::flow::TICK_SHIFT) as u32
}

/// Runs `test` in a namespace of its own. The two nodes read their clocks one after the other, so that a tick may end
/// between them: a run that a tick ends in says nothing and is repeated.
fn on_both(test: impl Fn(&mut Both) + Send + Sync + 'static) {
    let test = Arc::new(test);
    for attempt in 1.. {
        let test = test.clone();
        let outcome = thread::Builder::new().name("both".into()).spawn(move || {
            let mut both = Both::new();
            let started = tick();
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&mut both)));
            (outcome, tick() != started)
        });
        match outcome.expect("a thread").join().expect("a namespace") {
            (Ok(()), _) => return,
            (Err(_), true) if attempt < 20 => {}
            (Err(panic), _) => std::panic::resume_unwind(panic),
        }
    }
}

#[test]
fn one_table_of_packets_host_and_kernel_alike() {
    needs_datapath!();
    on_both(|both| {
        let (uplink, inside) = (both.uplink, both.inside);
        for family in Family::BOTH {
            for (port, service) in
                [(1, WEB), (2, WEB), (3, SINGLE), (3, TWIN), (4, FAR), (5, EMPTY), (6, ON_HOST), (7, WEB)]
            {
                let (client, service) = (SocketAddr::new(family.client(), port), family.cluster(service, 80));
                let hook = if port == 7 { Hook::Ingress } else { Hook::Xdp };
                let (verdict, seen) = both.run(hook, uplink, &frames::tcp(client, service, Flags::Syn, b""));
                if verdict.action == Action::Drop {
                    continue;
                }
                let (verdict, seen) = if verdict.action == Action::Defer {
                    both.run(Hook::Ingress, uplink, &frames::tcp(client, service, Flags::Syn, b""))
                } else {
                    (verdict, seen)
                };
                let (source, backend, _) = frames::checked(&seen);
                let (way, by) = match verdict.action {
                    Action::Pass => (Hook::Egress, uplink),
                    _ => (Hook::Ingress, verdict.ifindex),
                };
                for flags in [Flags::SynAck, Flags::Ack, Flags::Fin] {
                    let (_, reply) = both.run(way, by, &frames::tcp(backend, source, flags, b"answer"));
                    let (from, to, payload) = frames::checked(&reply);
                    assert_eq!((from, to, payload.as_slice()), (service, client, &b"answer"[..]));
                    both.run(hook, uplink, &frames::tcp(client, service, Flags::Ack, b"question"));
                }
                both.run(hook, uplink, &frames::tcp(client, service, Flags::Rst, b""));
                both.run(hook, uplink, &frames::tcp(client, service, Flags::Syn, b""));
            }
            let (client, dns) = (SocketAddr::new(family.client(), 9), family.cluster(small::DNS, 53));
            both.run(Hook::Xdp, uplink, &frames::udp(client, dns, b"query"));
            let pod = SocketAddr::new(family.backend(LOCAL_1), 10);
            both.run(Hook::Ingress, inside, &frames::tcp(pod, family.cluster(SINGLE, 80), Flags::Syn, b""));
            both.run(Hook::Ingress, inside, &frames::tcp(pod, family.cluster(FAR, 80), Flags::Syn, b""));
            let node_port = SocketAddr::new(family.node(), NODE_PORT);
            both.run(Hook::Xdp, uplink, &frames::tcp(client, node_port, Flags::Syn, b""));
            both.run(Hook::Xdp, uplink, &frames::tcp(client, family.cluster(WEB, 81), Flags::Syn, b""));
            both.run(Hook::Ingress, uplink, &frames::tcp(client, family.cluster(WEB, 81), Flags::Syn, b""));
            both.run(Hook::Ingress, uplink, &frames::echo(family.client(), dns.ip()));
            both.run(Hook::Ingress, uplink, &frames::echo(family.client(), family.node()));
            both.run(Hook::Ingress, uplink, &frames::other(family.client(), dns.ip()));
        }
        both.compare_flows();
    });
}

#[test]
fn a_full_table_breaks_no_connection_and_is_counted() {
    needs_datapath!();
    on_both(|both| {
        let uplink = both.uplink;
        both.tables.flows4.limit(Table::Confirmed, maps::entries_for(maps::FLOWS4, MAX_FLOWS) as usize);
        let service = Family::V4.cluster(WEB, 80);
        let flows = MAX_FLOWS as u16;
        for port in 1..=flows + 1 {
            let client = SocketAddr::new(Family::V4.client(), port);
            let syn = frames::tcp(client, service, Flags::Syn, b"");
            let (verdict, seen) = both.run(Hook::Ingress, uplink, &syn);
            let (source, backend, _) = frames::checked(&seen);
            both.run(Hook::Ingress, verdict.ifindex, &frames::tcp(backend, source, Flags::SynAck, b""));
            let ack = frames::tcp(client, service, Flags::Ack, b"");
            let (verdict, _) = both.run(Hook::Ingress, uplink, &ack);
            let expected = if port > flows { Reason::ForwardedTableFull } else { Reason::Forwarded };
            assert_eq!(verdict.reason, expected, "connection {port}");
        }
        let last = SocketAddr::new(Family::V4.client(), flows + 1);
        let (verdict, _) = both.run(Hook::Ingress, uplink, &frames::tcp(last, service, Flags::Ack, b"goes on"));
        assert_eq!(verdict.action, Action::Redirect, "it lives on among the new flows");
        both.compare_flows();
    });
}

/// Longer frames do not fit into the page that `BPF_PROG_TEST_RUN` works in.
const LONGEST_FRAME: usize = 3_400;

#[test]
fn mixed_traffic_leaves_byte_for_byte_as_it_came() {
    needs_datapath!();
    on_both(|both| {
        let (mut tagged, mut malformed) = (0, 0);
        for Captured { frame, .. } in capture::mixed() {
            for (hook, ifindex) in [
                (Hook::Xdp, both.uplink),
                (Hook::Ingress, both.uplink),
                (Hook::Ingress, both.inside),
                (Hook::Egress, both.uplink),
                (Hook::Egress, both.inside),
            ] {
                let (verdict, after) = if frame.len() <= LONGEST_FRAME {
                    both.run(hook, ifindex, &frame)
                } else {
                    both.on_host(hook, ifindex, &frame)
                };
                assert_eq!((verdict.action, &after), (Action::Pass, &frame), "{hook:?}: {verdict:?}");
                let is_counted = counts(hook, verdict);
                match verdict.reason {
                    Reason::NotOurs => {}
                    Reason::Vlan => tagged += u64::from(is_counted),
                    Reason::Malformed => malformed += u64::from(is_counted),
                    reason => panic!("{hook:?}: {reason:?}"),
                }
            }
        }
        // What cannot be read is said to have been left; of what is not ours nothing is counted, and nothing remembered.
        assert!(tagged > 0 && malformed > 0);
        let packets = |reason| both.tables.packets(reason);
        assert_eq!((packets(Reason::Vlan), packets(Reason::Malformed)), (tagged, malformed));
        assert_eq!(both.tables.reasons.borrow().len(), 2);
        assert!(both.tables.services.borrow().is_empty() && both.tables.backends.borrow().is_empty());
        both.compare_flows();
        assert!(
            both.kernel.flows::<[u8; 4]>(maps::NEW4).is_empty() && both.kernel.flows::<[u8; 16]>(maps::NEW6).is_empty()
        );
    });
}

/// What both nodes hold of flows, as the one in memory says.
#[derive(Clone, Default)]
struct Tables {
    confirmed4: Flows<[u8; 4]>,
    new4: Flows<[u8; 4]>,
    confirmed6: Flows<[u8; 16]>,
    new6: Flows<[u8; 16]>,
}

impl Tables {
    fn of(tables: &Memory) -> Self {
        Self {
            confirmed4: tables.flows4.contents(Table::Confirmed),
            new4: tables.flows4.contents(Table::New),
            confirmed6: tables.flows6.contents(Table::Confirmed),
            new6: tables.flows6.contents(Table::New),
        }
    }
}

/// The kernel's side of the differential test.
struct Differential {
    kernel: Kernel,
    interfaces: Interfaces,
    /// What the kernel's configuration maps hold.
    image: Image,
    /// What its flow maps hold.
    tables: Tables,
    met: Met,
}

impl Differential {
    fn rewrite(&mut self, image: &Image, tables: Tables) {
        self.kernel.rewrite(&self.image, image);
        self.image = image.clone();
        self.kernel.rewrite_flows(maps::FLOWS4, &self.tables.confirmed4, &tables.confirmed4);
        self.kernel.rewrite_flows(maps::NEW4, &self.tables.new4, &tables.new4);
        self.kernel.rewrite_flows(maps::FLOWS6, &self.tables.confirmed6, &tables.confirmed6);
        self.kernel.rewrite_flows(maps::NEW6, &self.tables.new6, &tables.new6);
        self.tables = tables;
    }

    /// Runs one case on both. `Err` says how they differ, or what the oracle objects to.
    fn run(&mut self, case: &Case) -> Result<(), String> {
        let mut trial = Trial::new(self.interfaces, case, tick());
        self.rewrite(&self.interfaces.image(case.world), Tables::default());
        self.kernel.revalidated_in(if case.revalidated { tick() } else { 0 });
        let outcome = self.steps(&mut trial, case);
        // Whatever happened: what is there now is what the next case takes away.
        self.tables = Tables {
            confirmed4: self.kernel.flows(maps::FLOWS4),
            new4: self.kernel.flows(maps::NEW4),
            confirmed6: self.kernel.flows(maps::FLOWS6),
            new6: self.kernel.flows(maps::NEW6),
        };
        outcome?;
        let expected = Tables::of(&trial.tables);
        equal("confirmed IPv4 flows", &self.tables.confirmed4, &expected.confirmed4)?;
        equal("new IPv4 flows", &self.tables.new4, &expected.new4)?;
        equal("confirmed IPv6 flows", &self.tables.confirmed6, &expected.confirmed6)?;
        equal("new IPv6 flows", &self.tables.new6, &expected.new6)
    }

    fn steps(&mut self, trial: &mut Trial, case: &Case) -> Result<(), String> {
        let mut counted = self.kernel.reasons();
        let traffic = self.traffic();
        for step in &case.steps {
            let (passages, judged) = trial.step(step);
            if passages.is_empty() {
                self.tables = Tables {
                    confirmed4: self.kernel.flows(maps::FLOWS4),
                    new4: self.kernel.flows(maps::NEW4),
                    confirmed6: self.kernel.flows(maps::FLOWS6),
                    new6: self.kernel.flows(maps::NEW6),
                };
                self.rewrite(&trial.tables.image.clone(), Tables::of(&trial.tables));
            }
            for passage in &passages {
                self.met.add(passage);
                self.compare(passage, &mut counted)?;
            }
            judged.map_err(|fault| format!("the oracle: {fault}"))?;
        }
        for (id, (before, now)) in traffic.iter().zip(self.traffic()).enumerate() {
            let id = id as u32;
            for (what, before, now, host) in [
                ("service", before[0], now[0], &trial.tables.services),
                ("backend", before[1], now[1], &trial.tables.backends),
            ] {
                let host = host.borrow().get(&id).copied().unwrap_or_default();
                equal(&format!("the counters of {what} {id}"), &difference(now, before), &host)?;
            }
        }
        Ok(())
    }

    /// Runs a packet in the kernel as it ran on the host: return code, bytes, the reason's counter and no other.
    fn compare(&mut self, passage: &Passage, counted: &mut BTreeMap<Reason, ReasonCount>) -> Result<(), String> {
        let Passage { hook, ifindex, before, verdict, after } = passage;
        let (code, out) = self.kernel.run(*hook, *ifindex, before);
        let context =
            || format!("{hook:?} by {ifindex}: {verdict:?}\nin   {before:02x?}\nhost {after:02x?}\nbpf  {out:02x?}");
        equal("the return code", &code, &expected_code(*hook, *ifindex, *verdict)).map_err(|e| e + &context())?;
        equal("the bytes", &out, after).map_err(|error| error + &context())?;
        if counts(*hook, *verdict) {
            let count = counted.entry(verdict.reason).or_default();
            count.packets += 1;
            count.bytes += before.len() as u64;
        }
        equal("the counters", &self.kernel.reasons(), counted).map_err(|error| error + &context())
    }

    /// Counters of the service ports and backends there are, by id.
    fn traffic(&mut self) -> Vec<[Traffic; 2]> {
        let backends = self.image.backends.keys().copied();
        let ids = self.image.services.values().map(|service| service.id).chain(backends).max().map_or(0, |id| id + 1);
        let services = self.kernel.traffic(maps::SERVICE_STATS, ids as usize);
        services.into_iter().zip(self.kernel.traffic(maps::BACKEND_STATS, ids as usize)).map(|(a, b)| [a, b]).collect()
    }
}

fn difference(now: Traffic, before: Traffic) -> Traffic {
    Traffic {
        connections: now.connections - before.connections,
        packets: now.packets - before.packets,
        bytes: now.bytes - before.bytes,
        reply_packets: now.reply_packets - before.reply_packets,
        reply_bytes: now.reply_bytes - before.reply_bytes,
    }
}

fn equal<T: PartialEq + Debug>(what: &str, kernel: &T, host: &T) -> Result<(), String> {
    if kernel == host { Ok(()) } else { Err(format!("{what} differ: the kernel says {kernel:?}, the host {host:?}\n")) }
}

/// Whether a verdict is counted: where it is final, and the packet is ours.
fn counts(hook: Hook, verdict: Verdict) -> bool {
    let is_left = matches!(verdict.action, Action::Pass | Action::Defer) && verdict.reason != Reason::Delivered;
    verdict.reason != Reason::NotOurs && !(hook == Hook::Xdp && is_left)
}

fn number(variable: &str) -> Option<u32> {
    let number = std::env::var(variable).ok()?;
    Some(number.parse().unwrap_or_else(|_| panic!("{variable}={number} is no number")))
}

#[test]
fn generated_packets_and_states_host_and_kernel_alike() {
    needs_datapath!();
    // A difference is told after the namespace is gone: it is final, where other tests are repeated when a tick ends.
    let failure = Arc::new(Mutex::new(None));
    let told = failure.clone();
    on_both(move |both| {
        let full = std::env::var_os("LB_FULL").is_some();
        let cases = number("LB_CASES").unwrap_or(if full { FULL_CASES } else { CASES });
        let seed = number("LB_SEED").unwrap_or(2026);
        let config = Config {
            cases,
            rng_seed: RngSeed::Fixed(seed.into()),
            failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
            ..Config::default()
        };
        let interfaces = Interfaces { uplink: both.uplink, inside: both.inside };
        let image = interfaces.image(World::default());
        let kernel = Kernel::load(&image, MAX_FLOWS);
        let tables = Tables::default();
        let differential = RefCell::new(Differential { kernel, interfaces, image, tables, met: Met::default() });
        let started = Instant::now();
        let outcome = TestRunner::new(config).run(&generator::cases(), |case| {
            // The two read their clocks one after the other: a case that a tick ends in says nothing.
            loop {
                let began = tick();
                let outcome = differential.borrow_mut().run(&case);
                if tick() == began {
                    return outcome.map_err(TestCaseError::fail);
                }
            }
        });
        if let Err(error) = outcome {
            let phase = tick() % 4;
            let text = format!("{error}\nkept in {REGRESSIONS}; LB_SEED={seed}; now in tick {phase} of four");
            *told.lock().expect("one thread at a time") = Some(text);
            return;
        }
        let (met, took) = (&differential.borrow().met, started.elapsed().as_secs_f64());
        println!("{cases} cases, seed {seed}: {} packets in {took:.1} s, reasons {:?}", met.packets, met.reasons);
        met.check();
    });
    let failure = failure.lock().expect("one thread at a time").take();
    assert!(failure.is_none(), "{}", failure.unwrap_or_default());
}
