//! The built BPF object in the kernel, run on single frames by `BPF_PROG_TEST_RUN`.

use crate::memory::admitted;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::gate::Place;
use lb_common::maps::{self, MAPS};
use lb_common::{
    Backend, Budget, Device, Flow, FlowKey, Owned, Reason, ReasonCount, Record, Service, ServiceKey, Settings, Slot,
};
use lb_ctl::maps::Image;
use lb_ebpf::Hook;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// `XDP_*` and `TCX_*` return codes.
pub const XDP_DROP: u32 = 1;
/// Handed on.
pub const XDP_PASS: u32 = 2;
/// Sent back by the interface it came in by.
pub const XDP_TX: u32 = 3;
/// Sent on by another.
pub const XDP_REDIRECT: u32 = 4;
/// Handed on.
pub const TCX_NEXT: u32 = u32::MAX;
/// Dropped.
pub const TCX_DROP: u32 = 2;
/// Sent on.
pub const TCX_REDIRECT: u32 = 7;

/// The loaded programs and their maps.
pub struct Kernel {
    ebpf: Ebpf,
}

impl Kernel {
    /// Loads the object with maps for `max_flows` flows that hold `image`.
    pub fn load(image: &Image, max_flows: u32) -> Self {
        let object = lb_ctl::OBJECT.expect("the BPF object is not built: run `cargo xtask build`");
        let mut loader = EbpfLoader::new();
        for map in MAPS {
            loader.map_max_entries(map.name, map.entries_for(max_flows));
        }
        let mut ebpf = loader.load(object).expect("the object loads");
        for name in ["lb_tcx_ingress", "lb_tcx_egress"] {
            let program: &mut SchedClassifier = ebpf.program_mut(name).expect(name).try_into().expect("a classifier");
            program.load().expect("the verifier accepts it");
        }
        let program: &mut Xdp = ebpf.program_mut("lb_xdp").expect("lb_xdp").try_into().expect("an XDP program");
        program.load().expect("the verifier accepts it");
        let mut kernel = Self { ebpf };
        kernel.write(image);
        kernel
    }

    fn hash<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        HashMap::try_from(self.ebpf.map_mut(name).expect(name)).expect("a hash of these types")
    }

    fn array<V: aya::Pod>(&mut self, name: &str) -> Array<&mut MapData, V> {
        Array::try_from(self.ebpf.map_mut(name).expect(name)).expect("an array of this type")
    }

    /// Writes the settings.
    pub fn set_settings(&mut self, settings: Settings) {
        self.array::<Settings>(maps::SETTINGS).set(0, settings, 0).expect("the kernel takes the entry");
    }

    fn write(&mut self, image: &Image) {
        let written = "the kernel takes the entry";
        self.set_settings(image.settings);
        for Place { word, bit } in admitted(image).map(Place::from) {
            let mut gate = self.array::<u64>(maps::GATE);
            let bits = gate.get(&word, 0).expect("a word of the gate");
            gate.set(word, bits | bit, 0).expect(written);
        }
        for (address, owned) in &image.owned {
            match address {
                IpAddr::V4(address) => {
                    self.hash::<[u8; 4], Owned>(maps::OWNED4).insert(address.octets(), owned, 0).expect(written);
                }
                IpAddr::V6(address) => {
                    self.hash::<[u8; 16], Owned>(maps::OWNED6).insert(address.octets(), owned, 0).expect(written);
                }
            }
        }
        for (key, service) in &image.services {
            self.hash::<ServiceKey, Service>(maps::SERVICES).insert(key, service, 0).expect(written);
        }
        for (index, slot) in &image.slots {
            self.array::<Slot>(maps::SLOTS).set(*index, slot, 0).expect(written);
        }
        for (id, backend) in &image.backends {
            self.array::<Backend>(maps::BACKENDS).set(*id, backend, 0).expect(written);
        }
        for (ifindex, device) in &image.devices {
            self.hash::<u32, Device>(maps::DEVICES).insert(ifindex, device, 0).expect(written);
        }
    }

    /// Runs one frame through the program of `hook` as if it had come in by `ifindex`. Returns the program's return code and
    /// the frame as it left.
    pub fn run(&mut self, hook: Hook, ifindex: u32, frame: &[u8]) -> (u32, Vec<u8>) {
        let mut out = vec![0; frame.len() + 256];
        let options =
            |ctx_in, out| TestRunOptions { data_in: Some(frame), data_out: Some(out), ctx_in, ..Default::default() };
        let result = match hook {
            Hook::Xdp => {
                // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
                let mut context = [0u8; 24];
                context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
                context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
                let program: &mut Xdp = self.ebpf.program_mut("lb_xdp").expect("loaded").try_into().expect("XDP");
                program.test_run(options(Some(&context), &mut out))
            }
            Hook::Ingress | Hook::Egress => {
                // `struct __sk_buff`: ifindex is its eleventh word.
                let mut context = [0u8; 192];
                context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
                let name = if hook == Hook::Ingress { "lb_tcx_ingress" } else { "lb_tcx_egress" };
                let program: &mut SchedClassifier = self.ebpf.program_mut(name).expect(name).try_into().expect("TC");
                program.test_run(options(Some(&context), &mut out))
            }
        }
        .expect("the kernel runs the program");
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    /// Makes every CPU forget what it has spent in this tick.
    pub fn renew_budgets(&mut self) {
        let map = self.ebpf.map_mut(maps::BUDGETS).expect("a map of ours");
        let mut map: PerCpuArray<_, Budget> = PerCpuArray::try_from(map).expect("a per-CPU array");
        let cpus = aya::util::nr_cpus().expect("the kernel tells its CPUs");
        let fresh = PerCpuValues::try_from(vec![Budget::default(); cpus]).expect("one for each CPU");
        map.set(0, fresh, 0).expect("the kernel takes the value");
    }

    /// Counters by reason, without those that are zero.
    pub fn reasons(&mut self) -> BTreeMap<Reason, ReasonCount> {
        let map = self.ebpf.map_mut(maps::REASONS).expect("a map of ours");
        let map: PerCpuArray<_, ReasonCount> = PerCpuArray::try_from(map).expect("a per-CPU array");
        let sum = |reason: &Reason| {
            let copies = map.get(&(*reason as u32), 0).expect("in bounds");
            copies.iter().fold(ReasonCount::default(), |sum, copy| ReasonCount {
                packets: sum.packets + copy.packets,
                bytes: sum.bytes + copy.bytes,
            })
        };
        Reason::ALL.iter().map(|reason| (*reason, sum(reason))).filter(|(_, count)| count.packets > 0).collect()
    }

    /// The entries of a flow map.
    pub fn flows<A>(&mut self, name: &str) -> BTreeMap<FlowKey<A>, Flow<A>>
    where
        A: Ord + Copy + 'static,
        FlowKey<A>: aya::Pod + Record,
        Flow<A>: aya::Pod + Record,
    {
        self.hash::<FlowKey<A>, Flow<A>>(name).iter().map(|entry| entry.expect("an entry")).collect()
    }
}
