//! A node of which there are two: one in memory, one in the kernel.

use lb_common::{Budget, Device, Event, HostPair, Reason, Settings, maps};
use lb_ebpf::{Action, Hook, Verdict, process};
use lb_memory::Image;
use lb_memory::generator;
use lb_tests::frames;
use lb_tests::kernel::{self, Kernel};
use lb_tests::memory::{At, Frame, Memory, Surroundings};
use lb_tests::small::{self, Family, LOCAL_1, LOCAL_2, REMOTE};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Small, so that a test can fill the tables.
pub(crate) const MAX_FLOWS: u32 = 1024;

/// A node of which there are two: one in memory, one in the kernel.
pub(crate) struct Both {
    pub(crate) tables: Memory,
    pub(crate) around: Surroundings,
    pub(crate) kernel: Kernel,
    pub(crate) uplink: u32,
    pub(crate) inside: u32,
    /// The events of the last packet.
    pub(crate) told: Vec<Event>,
}

impl Both {
    /// Makes a network namespace for this thread, whose routing table says what [`small::surroundings`] says.
    pub(crate) fn new(prepare: impl Fn(&mut Image)) -> Self {
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
            neighbour(family.backend(generator::REPLACEMENT), bits, "in0", inside);
        }
        let mut image = small::image(uplink, inside);
        prepare(&mut image);
        assert_eq!(small::hop(uplink).macs[6..], frames::DESTINATION_MAC);
        // A device that is no target, so that XDP has something to leave to TCX.
        image.devices.insert(uplink, Device { mac: frames::DESTINATION_MAC, ..Device::new(Device::OWN_MAC) });
        let pair = ifindex("lbh1");
        image.devices.insert(pair, Device::new(Device::HOST | Device::LOCAL_CLIENTS));
        image.settings.host = HostPair { ifindex: pair, macs: [7; 12] };
        let (mut kernel, tables) = (Kernel::load(&image, MAX_FLOWS), Memory::new(image));
        kernel.listen(true);
        tables.listened.set(true);
        Self {
            kernel,
            tables,
            around: small::surroundings(uplink, inside, uplink, 0),
            uplink,
            inside,
            told: Vec::new(),
        }
    }

    /// Runs one frame on the node in memory. Returns the frame as it left.
    pub(crate) fn on_host(&mut self, hook: Hook, ifindex: u32, bytes: &[u8]) -> (Verdict, Vec<u8>) {
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
    pub(crate) fn run(&mut self, hook: Hook, ifindex: u32, bytes: &[u8]) -> (Verdict, Vec<u8>) {
        let (verdict, after) = self.on_host(hook, ifindex, bytes);
        let (code, out) = self.kernel.run(hook, ifindex, bytes);
        let context =
            format!("{hook:?} by {ifindex}: {verdict:?}\nin   {bytes:02x?}\nhost {after:02x?}\nbpf  {out:02x?}");
        assert_eq!(code, expected_code(hook, ifindex, verdict), "return code; {context}");
        assert_eq!(out, after, "bytes; {context}");
        assert_eq!(self.kernel.reasons(), *self.tables.reasons.borrow(), "reasons; {context}");
        self.told = self.kernel.take_events();
        assert_eq!(self.told, self.tables.events.take(), "events; {context}");
        (verdict, after)
    }

    /// Lets the CPU search again in this tick.
    pub(crate) fn renew_budget(&mut self) {
        *self.tables.budget.get_mut() = Budget::default();
        self.kernel.set_budgets(Budget::default());
    }

    /// New flows take the way through the stack from now on.
    pub(crate) fn use_the_stack(&mut self) {
        self.tables.image.settings.flags |= Settings::STACK;
        self.kernel.set_settings(self.tables.image.settings);
    }

    pub(crate) fn compare_flows(&mut self) {
        assert_eq!(self.kernel.flows(maps::FLOWS4), self.tables.flows4.contents());
        assert_eq!(self.kernel.flows(maps::FLOWS6), self.tables.flows6.contents());
    }
}

pub(crate) fn expected_code(hook: Hook, ifindex: u32, verdict: Verdict) -> u32 {
    match (hook, verdict.action) {
        (_, Action::Open | Action::Choose | Action::Lend | Action::Enter | Action::Icmp | Action::Answer) => {
            panic!("the core kept this to itself")
        }
        (Hook::Xdp, Action::Pass | Action::Defer) => kernel::XDP_PASS,
        (Hook::Xdp, Action::Drop) => kernel::XDP_DROP,
        (Hook::Xdp, _) if verdict.ifindex == ifindex => kernel::XDP_TX,
        (Hook::Xdp, _) => kernel::XDP_REDIRECT,
        (_, Action::Pass | Action::Defer) => kernel::TCX_NEXT,
        (_, Action::Drop) => kernel::TCX_DROP,
        (_, Action::Redirect | Action::RedirectNeighbour | Action::RedirectPeer) => kernel::TCX_REDIRECT,
    }
}

pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

pub(crate) fn neighbour(address: IpAddr, bits: u8, device: &str, index: u32) {
    ip(&format!("route add {address}/{bits} dev {device}"));
    ip(&format!("neighbour add {address} lladdr {} dev {device}", mac(&small::hop(index).macs[..6])));
}

pub(crate) fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

pub(crate) fn ifindex(device: &str) -> u32 {
    nix::net::if_::if_nametoindex(device).expect("a device of ours")
}

/// The tick the kernel is in.
pub(crate) fn tick() -> u32 {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("a clock"));
    (now.as_nanos() >> lb_common::flow::TICK_SHIFT) as u32
}

/// Runs `test` in a namespace of its own. The two nodes read their clocks one after the other, so that a tick may end
/// between them: a run that a tick ends in says nothing and is repeated.
pub(crate) fn on_both(test: impl Fn(&mut Both) + Send + Sync + 'static) {
    on_both_with(|_| (), test);
}

/// The same with another image.
pub(crate) fn on_both_with(
    prepare: impl Fn(&mut Image) + Copy + Send + 'static,
    test: impl Fn(&mut Both) + Send + Sync + 'static,
) {
    let test = Arc::new(test);
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

/// Whether a verdict is counted: where it is final, and the packet is ours.
pub(crate) fn counts(hook: Hook, verdict: Verdict) -> bool {
    let is_left = matches!(verdict.action, Action::Pass | Action::Defer) && verdict.reason != Reason::Delivered;
    verdict.reason != Reason::NotOurs && !(hook == Hook::Xdp && is_left)
}
