//! The same packets through the host's core and through the programs in the kernel: same bytes, verdict, reason, counters
//! and flow tables.

use lb_common::{Budget, Device, HostPair, Reason, Settings, maps};
use lb_ctl::maps::Image;
use lb_ebpf::{Action, Hook, Table, Verdict, process};
use lb_tests::frames::{self, Flags};
use lb_tests::kernel::{self, Kernel};
use lb_tests::memory::{At, Frame, Memory, Surroundings};
use lb_tests::needs_datapath;
use lb_tests::small::{self, EMPTY, FAR, Family, LOCAL_1, LOCAL_2, NODE_PORT, ON_HOST, REMOTE, SINGLE, TWIN, WEB};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::Duration;

const RANDOM_FRAMES: usize = 3_000;
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
    fn new(prepare: impl Fn(&mut Image)) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of our own");
        // One CPU: the node in memory has working memory for one.
        let mut cpus = CpuSet::new();
        cpus.set(0).expect("a first CPU");
        sched_setaffinity(Pid::from_raw(0), &cpus).expect("a CPU of our choice");
        // A peer comes first: up0 is the interface that a frame's MAC names (`small::hop`), as the kernel will see too.
        ip("link add up1 type veth peer name up0");
        ip("link add in0 type veth peer name in1");
        ip("link add lbh0 type veth peer name lbh1");
        for device in ["up0", "up1", "in0", "in1", "lbh0", "lbh1"] {
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
        }
        let mut image = small::image(uplink, inside);
        prepare(&mut image);
        assert_eq!(small::hop(uplink).macs[6..], frames::DESTINATION_MAC);
        // A device that is no target, so that XDP has something to leave to TCX.
        image.devices.insert(uplink, Device { mac: frames::DESTINATION_MAC, ..Device::new(Device::OWN_MAC) });
        let pair = ifindex("lbh1");
        image.devices.insert(pair, Device::new(Device::HOST | Device::LOCAL_CLIENTS));
        image.settings.host = HostPair { ifindex: pair, macs: [7; 12] };
        Self {
            kernel: Kernel::load(&image, MAX_FLOWS),
            tables: Memory::new(image),
            around: small::surroundings(uplink, inside, uplink, 0),
            uplink,
            inside,
        }
    }

    /// Runs one frame on both, and compares. Returns the frame as it left.
    fn run(&mut self, hook: Hook, ifindex: u32, bytes: &[u8]) -> (Verdict, Vec<u8>) {
        self.around.ifindex = ifindex;
        self.around.tick = tick();
        let mut frame = Frame::new(bytes.to_vec());
        let verdict = match hook {
            Hook::Xdp => process(&mut frame, &self.tables, &At::<0>(&self.around)),
            Hook::Ingress => process(&mut frame, &self.tables, &At::<1>(&self.around)),
            Hook::Egress => process(&mut frame, &self.tables, &At::<2>(&self.around)),
        };
        let (code, out) = self.kernel.run(hook, ifindex, bytes);
        let context = format!(
            "{hook:?} by {ifindex}: {verdict:?}\nin   {bytes:02x?}\nhost {:02x?}\nbpf  {out:02x?}",
            frame.bytes
        );
        assert_eq!(code, expected_code(hook, ifindex, verdict), "return code; {context}");
        assert_eq!(out, frame.bytes, "bytes; {context}");
        assert_eq!(self.kernel.reasons(), *self.tables.reasons.borrow(), "reasons; {context}");
        (verdict, frame.bytes)
    }

    /// Lets the CPU search again in this tick.
    fn renew_budget(&mut self) {
        *self.tables.budget.get_mut() = Budget::default();
        self.kernel.renew_budgets();
    }

    /// New flows take the way through the stack from now on.
    fn use_the_stack(&mut self) {
        self.tables.image.settings.flags |= Settings::STACK;
        self.kernel.set_settings(self.tables.image.settings);
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
        (_, Action::Open | Action::Lend | Action::Enter | Action::Icmp | Action::Answer) => {
            panic!("the core kept this to itself")
        }
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
    on_both_with(|_| (), test);
}

/// The same with another image.
fn on_both_with(
    prepare: impl Fn(&mut Image) + Copy + Send + 'static,
    test: impl Fn(&mut Both) + Send + Sync + 'static,
) {
    let test = std::sync::Arc::new(test);
    for attempt in 1.. {
        let test = test.clone();
        let outcome = thread::Builder::new().name("both".into()).spawn(move || {
            let mut both = Both::new(prepare);
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
                let (verdict, seen) = if verdict.action == Action::Defer {
                    both.run(Hook::Ingress, uplink, &frames::tcp(client, service, Flags::Syn, b""))
                } else {
                    (verdict, seen)
                };
                if verdict.reason == Reason::NoBackend {
                    frames::checked(&seen);
                    continue;
                }
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
fn both_paths_and_the_nodes_own_processes_host_and_kernel_alike() {
    needs_datapath!();
    on_both(|both| {
        let (uplink, inside, pair) = (both.uplink, both.inside, ifindex("lbh1"));
        for family in Family::BOTH {
            let own = SocketAddr::new(family.node(), 1);
            for (service, by) in [(SINGLE, inside), (FAR, uplink), (ON_HOST, pair)] {
                let service = family.cluster(service, 80);
                let (verdict, seen) = both.run(Hook::Ingress, pair, &frames::tcp(own, service, Flags::Syn, b""));
                let (source, backend, _) = frames::checked(&seen);
                assert_eq!(verdict.ifindex, by);
                let (verdict, reply) =
                    both.run(Hook::Ingress, by, &frames::tcp(backend, source, Flags::SynAck, b"answer"));
                assert_eq!((verdict.ifindex, verdict.action), (pair, Action::Redirect));
                assert_eq!((frames::checked(&reply).0, frames::checked(&reply).1), (service, own));
                both.run(Hook::Ingress, uplink, &frames::tcp(own, service, Flags::Ack, b"forged"));
                both.run(Hook::Ingress, pair, &frames::tcp(own, service, Flags::Ack, b"question"));
            }
        }
        both.use_the_stack();
        for family in Family::BOTH {
            let client = SocketAddr::new(family.client(), 20);
            for service in [WEB, SINGLE, FAR, ON_HOST] {
                let service = family.cluster(service, 80);
                let syn = frames::tcp(client, service, Flags::Syn, b"");
                let (verdict, seen) = both.run(Hook::Xdp, uplink, &syn);
                let (verdict, seen) = if verdict.action == Action::Defer {
                    both.run(Hook::Ingress, uplink, &syn)
                } else {
                    (verdict, seen)
                };
                let (source, backend, _) = frames::checked(&seen);
                for flags in [Flags::SynAck, Flags::Ack, Flags::Fin] {
                    let answer = frames::tcp(backend, source, flags, b"answer");
                    both.run(Hook::Ingress, if verdict.action == Action::Pass { inside } else { uplink }, &answer);
                    both.run(Hook::Xdp, uplink, &answer);
                    both.run(Hook::Egress, uplink, &answer);
                    both.run(Hook::Ingress, uplink, &frames::tcp(client, service, Flags::Ack, b"question"));
                }
            }
        }
        both.compare_flows();
    });
}

#[test]
fn icmp_and_answers_host_and_kernel_alike() {
    needs_datapath!();
    on_both(|both| {
        let (uplink, inside) = (both.uplink, both.inside);
        for family in Family::BOTH {
            let v4 = family == Family::V4;
            let router = IpAddr::V4([203, 0, 113, 77].into());
            let router = if v4 { router } else { IpAddr::V6([0x2001, 0xdb8, 7, 0, 0, 0, 0, 7].into()) };
            for (service, protocol, by) in [
                (family.cluster(SINGLE, 80), lb_common::TCP, inside),
                (family.cluster(small::DNS, 53), lb_common::UDP, inside),
                (family.cluster(FAR, 80), lb_common::TCP, uplink),
                (family.cluster(ON_HOST, 80), lb_common::TCP, uplink),
            ] {
                let client = SocketAddr::new(family.client(), 77);
                let make = |from, to, payload: &[u8]| match protocol {
                    lb_common::TCP => frames::tcp(from, to, Flags::Ack, payload),
                    _ => frames::udp(from, to, payload),
                };
                let (_, bytes) = both.run(Hook::Ingress, uplink, &make(client, service, b"x"));
                let (seen, backend, _) = frames::checked(&bytes);
                let request = make(seen, backend, b"some content, of an odd length");
                let reply = make(service, client, b"some more content");
                let way = if service == family.cluster(ON_HOST, 80) { Hook::Egress } else { Hook::Ingress };
                let kinds: &[[u8; 2]] =
                    if v4 { &[[3, 4], [3, 3], [11, 0], [12, 0]] } else { &[[1, 4], [2, 0], [3, 0], [4, 1]] };
                for message in kinds {
                    for embedded in [24, 31, 44, 60, 68, 200] {
                        for from in [backend.ip(), router] {
                            let error = frames::icmp_error(from, seen.ip(), *message, 1400, &request, embedded);
                            both.run(Hook::Xdp, uplink, &error);
                            both.run(way, by, &error);
                        }
                        let error = frames::icmp_error(client.ip(), service.ip(), *message, 0, &reply, embedded);
                        both.run(Hook::Ingress, uplink, &error);
                    }
                }
                let unknown = make(SocketAddr::new(service.ip(), 4), client, b"");
                let error = frames::icmp_error(client.ip(), service.ip(), kinds[0], 0, &unknown, 200);
                let (verdict, _) = both.run(Hook::Ingress, uplink, &error);
                assert_eq!(verdict, Verdict::drop(Reason::IcmpUnrelated));
            }
            let client = SocketAddr::new(family.client(), 5);
            let service = family.cluster(WEB, 80);
            for payload in [0, 1, 2, 3, 30, 1400] {
                let payload = vec![9; payload];
                for port in [80, 81] {
                    let to = SocketAddr::new(service.ip(), port);
                    both.run(Hook::Ingress, uplink, &frames::udp(client, to, &payload));
                }
                for flags in [Flags::Syn, Flags::SynAck, Flags::Ack, Flags::Fin, Flags::Rst] {
                    both.run(Hook::Ingress, uplink, &frames::tcp(client, family.cluster(EMPTY, 80), flags, &payload));
                }
                let mut spent = frames::tcp(client, service, Flags::Ack, &payload);
                spent[if v4 { 22 } else { 21 }] = 1;
                let (verdict, _) = both.run(Hook::Ingress, uplink, &spent);
                assert_eq!((verdict.action, verdict.reason), (Action::Redirect, Reason::TtlExceeded));
                let mut behind = frames::tcp(client, family.cluster(EMPTY, 80), Flags::Syn, &payload);
                if v4 {
                    behind.splice(34..34, [1; 12]);
                    behind[14] = 0x48;
                    let length = u16::from_be_bytes([behind[16], behind[17]]) + 12;
                    behind[16..18].copy_from_slice(&length.to_be_bytes());
                } else {
                    behind.splice(54..54, [6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                    let length = u16::from_be_bytes([behind[18], behind[19]]) + 16;
                    behind[18..20].copy_from_slice(&length.to_be_bytes());
                    behind[20] = 60;
                }
                let (verdict, _) = both.run(Hook::Ingress, uplink, &behind);
                assert_eq!((verdict.action, verdict.reason), (Action::Redirect, Reason::NoBackend));
            }
            let large = frames::tcp(client, service, Flags::Ack, &[7; 1800]);
            let (verdict, _) = both.run(Hook::Ingress, uplink, &large);
            assert_eq!((verdict.action, verdict.reason), (Action::Redirect, Reason::MtuExceeded));
            both.run(Hook::Ingress, uplink, &frames::echo(client.ip(), service.ip()));
            both.run(Hook::Ingress, uplink, &frames::other(client.ip(), service.ip()));
            for byte in [0, 6] {
                let mut frame = frames::udp(client, SocketAddr::new(service.ip(), 99), b"");
                frame[byte] |= 1;
                both.run(Hook::Ingress, uplink, &frame);
            }
        }
        // The rest of the tick's budget, and one more.
        let refused = frames::udp(SocketAddr::new(Family::V4.client(), 1), Family::V4.cluster(WEB, 81), b"");
        while both.run(Hook::Ingress, uplink, &refused).0.action == Action::Redirect {}
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

/// What a random frame is made of: hook, interface, whether a pod sends it, family, service, its port, the sender's port,
/// flags (none for UDP), payload length, and up to two bytes to spoil.
type Recipe = (Hook, bool, Family, u32, u16, u16, Option<Flags>, usize, Vec<(usize, u8)>);

fn recipe() -> impl Strategy<Value = Recipe> {
    (
        select(vec![Hook::Xdp, Hook::Ingress, Hook::Ingress, Hook::Egress]),
        any::<bool>(),
        select(Family::BOTH.to_vec()),
        select(vec![WEB, SINGLE, TWIN, FAR, EMPTY, ON_HOST, small::WEB_NODE_PORT]),
        select(vec![80, 80, 80, 53, 81]),
        1..6u16,
        select(vec![None, Some(Flags::Syn), Some(Flags::Ack), Some(Flags::Ack), Some(Flags::Fin), Some(Flags::Rst)]),
        0..1600usize,
        proptest::collection::vec((0..80usize, any::<u8>()), 0..3).prop_map(|spoils| {
            // Most frames stay whole.
            if spoils.len() < 2 { Vec::new() } else { spoils }
        }),
    )
}

fn cook(recipe: &Recipe) -> Vec<u8> {
    let (_, inside, family, service, port, source, flags, length, spoils) = recipe;
    let from = SocketAddr::new(if *inside { family.backend(LOCAL_1) } else { family.client() }, *source);
    let to = match *service {
        small::WEB_NODE_PORT => SocketAddr::new(family.node(), NODE_PORT),
        service => family.cluster(service, *port),
    };
    let payload = vec![0x5a; *length];
    let mut frame = match flags {
        Some(flags) => frames::tcp(from, to, *flags, &payload),
        None => frames::udp(from, to, &payload),
    };
    for (offset, byte) in spoils {
        if let Some(spoiled) = frame.get_mut(*offset) {
            *spoiled = *byte;
        }
    }
    frame
}

#[test]
fn random_packets_host_and_kernel_alike() {
    needs_datapath!();
    on_both(|both| {
        let seed = std::env::var("LB_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(2026);
        let mut runner = TestRunner::new(Config { rng_seed: RngSeed::Fixed(seed), ..Config::default() });
        let mut sent = Vec::new();
        for _ in 0..RANDOM_FRAMES {
            let recipe = recipe().new_tree(&mut runner).expect("a recipe").current();
            let (hook, inside) = (recipe.0, recipe.1);
            // XDP is on the uplink alone.
            let ifindex = if inside && hook != Hook::Xdp { both.inside } else { both.uplink };
            let (verdict, bytes) = both.run(hook, ifindex, &cook(&recipe));
            if verdict.reason == Reason::Forwarded && recipe.8.is_empty() {
                sent.push((verdict, bytes));
            }
            // Now and then a backend answers.
            if sent.len() >= 3 {
                let (verdict, bytes) = sent.swap_remove(0);
                let (source, backend, _) = frames::checked(&bytes);
                let answer = if bytes[23] == lb_common::UDP || bytes[20] == lb_common::UDP {
                    frames::udp(backend, source, b"answer")
                } else {
                    frames::tcp(backend, source, Flags::SynAck, b"")
                };
                both.run(Hook::Ingress, verdict.ifindex, &answer);
            }
        }
        both.compare_flows();
        println!("seed {seed}: {} reasons met", both.tables.reasons.borrow().len());
    });
}

/// Runs frames on both, at XDP and, what that leaves to it, at TCX ingress; how they leave.
fn onward(both: &mut Both, frames: &[Vec<u8>]) -> (Vec<Vec<u8>>, u32) {
    let mut by = 0;
    let sent = frames.iter().map(|frame| {
        let (verdict, bytes) = both.run(Hook::Xdp, both.uplink, frame);
        let (verdict, bytes) = match verdict.action {
            Action::Defer | Action::Pass => both.run(Hook::Ingress, both.uplink, frame),
            _ => (verdict, bytes),
        };
        by = verdict.ifindex;
        bytes
    });
    (sent.collect(), by)
}

#[test]
fn fragments_host_and_kernel_alike() {
    needs_datapath!();
    on_both(|both| {
        for family in Family::BOTH {
            let content = vec![0x5a; 4000];
            for (port, service) in [(21, WEB), (22, FAR), (23, ON_HOST)] {
                let (client, service) = (SocketAddr::new(family.client(), port), family.cluster(service, 80));
                // Twice: the flow is first new, then known. The later ones also come before their first.
                for id in [1, 2] {
                    let whole = frames::tcp(client, service, Flags::Syn, &content);
                    let mut pieces = frames::fragments(&whole, 1432, id);
                    let early = both.run(Hook::Ingress, both.uplink, &pieces[1]).0;
                    assert_eq!(early.reason, Reason::Fragment);
                    pieces.truncate(3);
                    let (pieces, by) = onward(both, &pieces);
                    let (source, backend, seen) = frames::checked(&frames::reassembled(&pieces));
                    assert_eq!(seen, content);
                    let reply = frames::fragments(&frames::tcp(backend, source, Flags::SynAck, &content), 1432, id);
                    let way = if by == 0 { (Hook::Egress, both.uplink) } else { (Hook::Ingress, by) };
                    let back: Vec<_> = reply.iter().map(|piece| both.run(way.0, way.1, piece).1).collect();
                    let (from, to, _) = frames::checked(&frames::reassembled(&back));
                    assert_eq!((from, to), (service, client));
                }
            }
        }
        both.compare_flows();
    });
}

#[test]
fn sctp_host_and_kernel_alike() {
    needs_datapath!();
    on_both(|both| {
        for family in Family::BOTH {
            for (port, service) in [(31, small::SIGNAL), (32, small::SIGNAL_FAR)] {
                let (client, service) = (SocketAddr::new(family.client(), port), family.cluster(service, 80));
                for (length, chunks) in [(0, [1, 2]), (3, [10, 11]), (1300, [0, 3]), (517, [7, 8]), (8, [14, 6])] {
                    let payload = vec![0x77; length];
                    let there = onward(both, &[frames::sctp(client, service, chunks[0], &payload)]);
                    let (source, backend, _) = frames::checked_sctp(&there.0[0]);
                    let reply = frames::sctp(backend, source, chunks[1], &payload);
                    let (_, back) = both.run(Hook::Ingress, there.1, &reply);
                    assert_eq!(frames::checked_sctp(&back), (service, client, payload));
                }
                let whole = frames::sctp(client, service, 0, &[1; 3000]);
                let pieces = frames::fragments(&whole, 1200, 5);
                assert_eq!(both.run(Hook::Ingress, both.uplink, &pieces[0]).0.reason, Reason::SctpFragment);
                let mut unsummed = frames::sctp(client, service, 1, b"");
                let at = if family == Family::V4 { 42 } else { 62 };
                unsummed[at..at + 4].copy_from_slice(&[0; 4]);
                assert_eq!(onward(both, &[unsummed]).0[0][at..at + 4], [0; 4]);
            }
            let client = SocketAddr::new(family.client(), 33);
            let whole = frames::sctp(client, family.cluster(small::SIGNAL, small::TARGET_PORT), 0, &[1; 3000]);
            let (pieces, _) = onward(both, &frames::fragments(&whole, 1200, 6));
            frames::checked_sctp(&frames::reassembled(&pieces));
        }
        both.compare_flows();
    });
}

#[test]
fn headers_that_are_kept_host_and_kernel_alike() {
    needs_datapath!();
    on_both(|both| {
        for family in Family::BOTH {
            let (client, service) = (SocketAddr::new(family.client(), 41), family.cluster(WEB, 80));
            let plain = frames::tcp(client, service, Flags::Syn, b"");
            for tags in frames::TAGS {
                let tagged = frames::tagged(&plain, tags);
                for hook in [Hook::Xdp, Hook::Ingress, Hook::Egress] {
                    let (verdict, bytes) = both.run(hook, both.uplink, &tagged);
                    let reason = if hook == Hook::Egress { Reason::NotOurs } else { Reason::Vlan };
                    assert_eq!((verdict, bytes), (Verdict::pass(reason), tagged.clone()));
                }
            }
            for class in [0x01, 0x03, 0xb8, 0xff] {
                let marked = frames::of_class(&plain, class);
                let (out, _) = onward(both, &[marked]);
                assert_eq!(frames::class(&out[0]), class, "DSCP and ECN");
                frames::checked(&out[0]);
            }
            let dns = family.cluster(small::DNS, 53);
            let at = if family == Family::V4 { 40 } else { 60 };
            let (out, _) = onward(both, &[frames::udp(client, dns, b"")]);
            let (_, backend, _) = frames::checked(&out[0]);
            let payload = frames::sums_to_zero(client, backend).expect("a sum of words reaches every word");
            for hook in [Hook::Xdp, Hook::Ingress] {
                let mut query = frames::udp(client, dns, &payload);
                let (_, out) = both.run(hook, both.uplink, &query);
                assert_eq!(out[at..at + 2], [0xff; 2], "a computed zero at {hook:?}");
                if family == Family::V4 {
                    query[at..at + 2].copy_from_slice(&[0; 2]);
                    let (_, out) = both.run(hook, both.uplink, &query);
                    assert_eq!(out[at..at + 2], [0; 2], "none stays none at {hook:?}");
                }
            }
        }
        both.compare_flows();
    });
}

/// Ports of each address that are lent in the next test.
const PORTS: u16 = 400;

#[test]
fn the_last_free_port_is_found_and_then_none_host_and_kernel_alike() {
    needs_datapath!();
    let lends = |image: &mut Image| {
        image.settings.snat_port_first = 2000;
        image.settings.snat_port_last = 2000 + PORTS - 1;
        image.settings.snat4 = Settings::lent([[192, 0, 2, 1], [192, 0, 2, 2]]);
    };
    on_both_with(lends, |both| {
        let (uplink, service) = (both.uplink, Family::V4.cluster(FAR, 80));
        let mut seen = BTreeSet::new();
        let mut reasons = Vec::new();
        for port in 1..=PORTS * 2 + 1 {
            let client = SocketAddr::new(Family::V4.client(), port);
            let syn = frames::tcp(client, service, Flags::Syn, b"");
            let mut opened = both.run(Hook::Ingress, uplink, &syn);
            if opened.0 == Verdict::drop(Reason::SnatExhausted) && port <= PORTS * 2 {
                // The search was spent in this tick already: it comes back with the next.
                both.renew_budget();
                opened = both.run(Hook::Ingress, uplink, &syn);
            }
            reasons.push(opened.0.reason);
            if opened.0.action == Action::Drop {
                continue;
            }
            let (source, backend, _) = frames::checked(&opened.1);
            assert!(seen.insert(source), "{source} was lent twice");
            both.run(Hook::Ingress, uplink, &frames::tcp(backend, source, Flags::SynAck, b""));
            both.run(Hook::Ingress, uplink, &frames::tcp(client, service, Flags::Ack, b""));
        }
        assert_eq!(seen.len(), usize::from(PORTS) * 2, "every port of both addresses");
        assert_eq!(seen.iter().map(SocketAddr::ip).collect::<BTreeSet<_>>().len(), 2);
        assert_eq!(reasons.pop(), Some(Reason::SnatExhausted));
        let scarce = reasons.iter().filter(|reason| **reason == Reason::ForwardedSnatScarce).count();
        assert!(scarce > 0 && scarce < 400, "{scarce} were found by searching all");
        both.compare_flows();
    });
}
