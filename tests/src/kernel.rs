//! The built BPF object in the kernel, run on single frames by `BPF_PROG_TEST_RUN`.

use crate::memory::admitted;
use aya::maps::lpm_trie::{self, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_obj::generated::bpf_cmd;
use ipnet::IpNet;
use lb_common::gate::Place;
use lb_common::maps::{self, MAPS, MapKind, MapSpec};
use lb_common::table::{Hashing, Key};
use lb_common::{
    Backend, Budget, Device, Event, Flow, FlowKey, NetworkKey, Owned, Reason, ReasonCount, Service, ServiceKey,
    Settings, Slot, Telling, Traffic,
};
use lb_ctl::datapath::flow_table::FlowTable;
use lb_ctl::datapath::test_run::{self, HookPoint};
use lb_ebpf::Hook;
use lb_memory::{Image, memory};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

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

/// The entries of a flow map.
pub type Flows<A> = BTreeMap<FlowKey<A>, Flow<A>>;

/// [`NetworkKey`] without its first field, which the library adds.
#[repr(C)]
#[derive(Clone, Copy)]
struct Network<A> {
    group: u32,
    address: A,
}

// SAFETY: integers and bytes without padding.
unsafe impl aya::Pod for Network<[u8; 4]> {}
// SAFETY: as above.
unsafe impl aya::Pod for Network<[u8; 16]> {}

/// [`Telling`], beginning with nothing told.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Tellings(Telling);

// SAFETY: as the record itself.
unsafe impl aya::Pod for Tellings {}

impl Default for Tellings {
    fn default() -> Self {
        Self(Telling::NEW)
    }
}

/// The ring of events, by a descriptor of its own: the map stays where it is.
fn ring(ebpf: &Ebpf) -> RingBuf<MapData> {
    let Some(Map::RingBuf(map)) = ebpf.map(maps::EVENTS) else { panic!("a ring of ours") };
    let fd = map.fd().as_fd().try_clone_to_owned().expect("another descriptor");
    Map::RingBuf(MapData::from_fd(fd).expect("the same map")).try_into().expect("a ring")
}

/// Every network with its group.
fn networks(image: &Image) -> impl Iterator<Item = (u32, IpNet)> {
    image.networks.iter().flat_map(|(group, all)| all.iter().map(|one| (*group, *one)))
}

/// Attributes of the commands on many elements (`union bpf_attr`).
#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Where the datapath calls a hook so.
pub const fn point(hook: Hook) -> HookPoint {
    match hook {
        Hook::Xdp => HookPoint::Xdp,
        Hook::Ingress => HookPoint::Ingress,
        Hook::Egress => HookPoint::Egress,
    }
}

/// The loaded programs and their maps.
pub struct Kernel {
    ebpf: Ebpf,
    events: RingBuf<MapData>,
    cpus: usize,
    /// How many entries each map has room for.
    rooms: BTreeMap<&'static str, u32>,
}

/// How flows are hashed, always the same way.
pub fn hashing(max_flows: u32) -> Hashing {
    let seed = |n: u64| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    maps::hashing(std::array::from_fn(|n| seed(n as u64)), max_flows)
}

impl Kernel {
    /// Loads the object with maps for `max_flows` flows that hold `image`.
    pub fn load(image: &Image, max_flows: u32) -> Self {
        Self::load_with(image, max_flows, None)
    }

    /// The same with maps that are pinned in `pins`, a directory of a BPF file system, for other instances of the programs.
    pub fn load_pinned(image: &Image, max_flows: u32, pins: &Path) -> Self {
        Self::load_with(image, max_flows, Some(pins))
    }

    fn load_with(image: &Image, max_flows: u32, pins: Option<&Path>) -> Self {
        let object = lb_ctl::OBJECT.expect("the BPF object is not built: run `cargo xtask build`");
        let hashing = hashing(max_flows);
        let mut loader = EbpfLoader::new();
        loader.override_global("HASHED", &hashing, true);
        for map in MAPS {
            loader.map_max_entries(map.name, map.entries_for(max_flows));
            if let Some(pins) = pins {
                loader.map_pin_path(map.name, pins.join(map.name));
            }
        }
        let mut ebpf = loader.load(object).expect("the object loads");
        for name in ["lb_tcx_ingress", "lb_tcx_egress"] {
            let program: &mut SchedClassifier = ebpf.program_mut(name).expect(name).try_into().expect("a classifier");
            program.load().expect("the verifier accepts it");
        }
        let program: &mut Xdp = ebpf.program_mut("lb_xdp").expect("lb_xdp").try_into().expect("an XDP program");
        program.load().expect("the verifier accepts it");
        let events = ring(&ebpf);
        let mut copied: Array<_, Hashing> =
            ebpf.map_mut(maps::HASHING).expect("a map of ours").try_into().expect("an array");
        copied.set(0, hashing, 0).expect("the kernel takes the entry");
        let rooms = MAPS.iter().map(|map| (map.name, map.entries_for(max_flows))).collect();
        let mut kernel = Self { ebpf, events, cpus: aya::util::nr_cpus().expect("a number of CPUs"), rooms };
        kernel.write(image);
        kernel
    }

    /// Changes the configuration maps from what `old` says to what `new` says.
    pub fn rewrite(&mut self, old: &Image, new: &Image) {
        let kept = |address: &IpAddr| new.owned.contains_key(address);
        assert!(old.owned.keys().all(kept), "addresses stay");
        for key in old.services.keys().filter(|key| !new.services.contains_key(key)) {
            self.hash::<ServiceKey, Service>(maps::SERVICES).remove(key).expect("the kernel forgets the entry");
        }
        let held =
            |image: &Image, group: u32, network| image.networks.get(&group).is_some_and(|all| all.contains(&network));
        let gone = networks(old).filter(|(group, network)| !held(new, *group, *network));
        gone.for_each(|(group, network)| self.network(group, network, false));
        let come = networks(new).filter(|(group, network)| !held(old, *group, *network));
        come.for_each(|(group, network)| self.network(group, network, true));
        let mut changed = Image { settings: new.settings, ..Image::default() };
        let owned = new.owned.iter().filter(|(key, value)| old.owned.get(*key) != Some(*value));
        changed.owned.extend(owned);
        let services = new.services.iter().filter(|(key, value)| old.services.get(*key) != Some(*value));
        changed.services.extend(services);
        changed.slots.extend(new.slots.iter().filter(|(key, value)| old.slots.get(*key) != Some(*value)));
        let backends = new.backends.iter().filter(|(key, value)| old.backends.get(*key) != Some(*value));
        changed.backends.extend(backends);
        changed.devices.extend(new.devices.iter().filter(|(key, value)| old.devices.get(*key) != Some(*value)));
        self.write(&changed);
    }

    /// Changes a map of what the datapath remembers from what `old` says to what `new` says.
    pub fn rewrite_entries<K, V>(&mut self, name: &str, old: &BTreeMap<K, V>, new: &BTreeMap<K, V>)
    where
        K: aya::Pod + Ord,
        V: aya::Pod + PartialEq,
    {
        if old == new {
            return;
        }
        let mut map = self.hash::<K, V>(name);
        for key in old.keys().filter(|key| !new.contains_key(key)) {
            map.remove(key).expect("the kernel forgets the entry");
        }
        for (key, value) in new.iter().filter(|(key, value)| old.get(key) != Some(value)) {
            map.insert(key, value, 0).expect("the kernel takes the entry");
        }
    }

    /// Writes the working memory: when XDP last left a new flow to the kernel.
    pub fn revalidated_in(&mut self, tick: u32) {
        let cpus = self.cpus;
        macro_rules! write {
            ($name:expr, $scratch:expr) => {
                let map = self.ebpf.map_mut($name).expect("a map of ours");
                let mut map = PerCpuArray::try_from(map).expect("a per-CPU array");
                let copies = PerCpuValues::try_from(vec![$scratch; cpus]).expect("one for each CPU");
                map.set(0, copies, 0).expect("the kernel takes the entry");
            };
        }
        write!(maps::SCRATCH4, memory::scratch([0u8; 4], tick));
        write!(maps::SCRATCH6, memory::scratch([0u8; 16], tick));
    }

    /// The first `count` values of a per-CPU array, each copy of which `add` adds up. One call for all: the differential test
    /// reads them after each packet.
    fn sums<V: aya::Pod + Default>(&mut self, name: &str, count: usize, add: impl Fn(&mut V, &V)) -> Vec<V> {
        let Some(Map::PerCpuArray(map)) = self.ebpf.map(name) else { panic!("{name} is a per-CPU array") };
        let (mut keys, mut next) = (vec![0u32; count], 0u32);
        let mut values = vec![V::default(); count * self.cpus];
        let mut batch = Batch {
            from: 0,
            to: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: count as u32,
            map: map.fd().as_fd().as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the layout of BPF_MAP_LOOKUP_BATCH; both vectors have room for `count` entries of the map's sizes, which are
        // multiples of eight bytes, for each CPU.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_MAP_LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
        assert!(result == 0 && batch.count as usize == count, "{name}: {}", std::io::Error::last_os_error());
        values
            .chunks(self.cpus)
            .map(|copies| {
                let mut sum = V::default();
                for copy in copies {
                    add(&mut sum, copy);
                }
                sum
            })
            .collect()
    }

    /// Counters of service ports or backends, by id, of the first `count` ids.
    pub fn traffic(&mut self, name: &str, count: usize) -> Vec<Traffic> {
        self.sums(name, count, |sum: &mut Traffic, copy| {
            sum.connections += copy.connections;
            sum.packets += copy.packets;
            sum.bytes += copy.bytes;
            sum.reply_packets += copy.reply_packets;
            sum.reply_bytes += copy.reply_bytes;
        })
    }

    fn hash<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        HashMap::try_from(self.ebpf.map_mut(name).expect(name)).expect("a hash of these types")
    }

    fn network_of<A: Copy + 'static>(&mut self, name: &str, key: NetworkKey<A>, is_there: bool)
    where
        Network<A>: aya::Pod,
    {
        let map = self.ebpf.map_mut(name).expect(name);
        let mut map = LpmTrie::<_, Network<A>, u32>::try_from(map).expect("a trie of these types");
        let network = lpm_trie::Key::new(key.prefix, Network { group: key.group, address: key.address });
        let done = if is_there { map.insert(&network, 1, 0) } else { map.remove(&network) };
        done.expect("the kernel changes the entry");
    }

    /// Writes a network of a group, or takes it away.
    fn network(&mut self, group: u32, network: IpNet, is_there: bool) {
        let length = u32::from(network.prefix_len());
        match network.addr() {
            IpAddr::V4(address) => {
                self.network_of(maps::NETWORKS4, NetworkKey::new(group, address.octets(), length), is_there);
            }
            IpAddr::V6(address) => {
                self.network_of(maps::NETWORKS6, NetworkKey::new(group, address.octets(), length), is_there);
            }
        }
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
        for Place { word, bits } in admitted(image) {
            let mut gate = self.array::<u64>(maps::GATE);
            let open = gate.get(&word, 0).expect("a word of the gate");
            gate.set(word, open | bits, 0).expect(written);
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
        networks(image).for_each(|(group, network)| self.network(group, network, true));
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
        let point = point(hook);
        let program = self.ebpf.program(point.program()).expect("loaded").fd().expect("loaded");
        let ran = test_run::run(program.as_fd(), point, ifindex, frame).expect("the kernel runs the program");
        (ran.code, ran.frame)
    }

    /// What tells the instructions of a hook's program from those of another.
    pub fn tag(&self, point: HookPoint) -> u64 {
        self.ebpf.program(point.program()).expect("loaded").info().expect("it is loaded").tag()
    }

    /// All bytes of a map: keys and values in the order of the kernel, of a per-CPU map with each CPU's.
    pub fn dump(&self, spec: &MapSpec) -> Vec<u8> {
        let data = match self.ebpf.map(spec.name).expect("a map of ours") {
            Map::Array(data)
            | Map::HashMap(data)
            | Map::LruHashMap(data)
            | Map::LpmTrie(data)
            | Map::PerCpuArray(data) => data,
            // It has no keys: what is told is taken out of it ([`Kernel::take_events`]).
            Map::RingBuf(_) => return Vec::new(),
            _ => panic!("{} is of a kind we do not have", spec.name),
        };
        let copies = if spec.kind == MapKind::PerCpuArray { self.cpus } else { 1 };
        let room = self.rooms[spec.name] as usize;
        let value = spec.value.next_multiple_of(if copies > 1 { 8 } else { 1 }) * copies;
        let (mut keys, mut values) = (vec![0u8; room * spec.key], vec![0u8; room * value]);
        let mut next = [0u8; 64];
        let mut batch = Batch {
            from: 0,
            to: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map: data.fd().as_fd().as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the layout of BPF_MAP_LOOKUP_BATCH; both vectors have room for as many entries as the map has.
        unsafe { libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_MAP_LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
        let error = std::io::Error::last_os_error().raw_os_error();
        assert!(batch.count as usize == room || error == Some(libc::ENOENT), "{}: {error:?}", spec.name);
        keys.truncate(batch.count as usize * spec.key);
        values.truncate(batch.count as usize * value);
        keys.extend(values);
        keys
    }

    /// Writes what every CPU has spent.
    pub fn set_budgets(&mut self, budget: Budget) {
        let cpus = self.cpus;
        let map = self.ebpf.map_mut(maps::BUDGETS).expect("a map of ours");
        let mut map: PerCpuArray<_, Budget> = PerCpuArray::try_from(map).expect("a per-CPU array");
        let copies = PerCpuValues::try_from(vec![budget; cpus]).expect("one for each CPU");
        map.set(0, copies, 0).expect("the kernel takes the value");
    }

    /// Takes the events out that were told, without their time.
    pub fn take_events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            assert_eq!(item.len(), size_of::<Event>());
            // SAFETY: the record's size, and any bytes are a valid record.
            let event = unsafe { item.as_ptr().cast::<Event>().read_unaligned() };
            assert!(event.time > 0, "an event has its time");
            events.push(Event { time: 0, ..event });
        }
        events
    }

    /// Has flows that begin and end told, or not.
    pub fn listen(&mut self, listens: bool) {
        self.array::<u32>(maps::LISTENED).set(0, u32::from(listens), 0).expect("the kernel takes the value");
    }

    /// What all CPUs have told, but for the event in the making and the tick.
    pub fn telling(&mut self) -> Telling {
        self.sums(maps::TELLINGS, 1, |sum: &mut Tellings, copy| {
            for sort in [Telling::LOSSES, Telling::FLOWS] {
                sum.0.told[sort] += copy.0.told[sort];
                sum.0.skipped[sort] += copy.0.skipped[sort];
                sum.0.lost[sort] += copy.0.lost[sort];
            }
        })[0]
            .0
    }

    /// Writes what every CPU has told.
    pub fn set_tellings(&mut self, telling: Telling) {
        let cpus = self.cpus;
        let map = self.ebpf.map_mut(maps::TELLINGS).expect("a map of ours");
        let mut map: PerCpuArray<_, Telling> = PerCpuArray::try_from(map).expect("a per-CPU array");
        let copies = PerCpuValues::try_from(vec![telling; cpus]).expect("one for each CPU");
        map.set(0, copies, 0).expect("the kernel takes the value");
    }

    /// Counters by reason, without those that are zero.
    pub fn reasons(&mut self) -> BTreeMap<Reason, ReasonCount> {
        let counts = self.sums(maps::REASONS, Reason::ALL.len(), |sum: &mut ReasonCount, copy| {
            sum.packets += copy.packets;
            sum.bytes += copy.bytes;
        });
        Reason::ALL.iter().copied().zip(counts).filter(|(_, count)| count.packets > 0).collect()
    }

    /// The entries of a map of what the datapath remembers.
    pub fn entries<K: aya::Pod + Ord, V: aya::Pod>(&mut self, name: &str) -> BTreeMap<K, V> {
        self.hash::<K, V>(name).iter().map(|entry| entry.expect("an entry")).collect()
    }

    /// The entries of a flow table.
    pub fn flows<A>(&self, name: &str) -> Flows<A>
    where
        A: Ord + Copy + Debug + 'static,
        FlowKey<A>: aya::Pod + Key,
        Flow<A>: aya::Pod,
    {
        self.flow_table(name).iter().map(|entry| entry.expect("an entry")).collect()
    }

    /// Changes a flow table from what `old` says to what `new` says.
    pub fn rewrite_flows<A>(&mut self, name: &str, old: &Flows<A>, new: &Flows<A>)
    where
        A: Ord + Copy + Debug + 'static,
        FlowKey<A>: aya::Pod + Key,
        Flow<A>: aya::Pod,
    {
        if old == new {
            return;
        }
        let table = self.flow_table::<A>(name);
        for key in old.keys().filter(|key| !new.contains_key(key)) {
            assert!(table.delete(key).expect("a table"), "the flow was there");
        }
        for (key, flow) in new.iter().filter(|(key, flow)| old.get(key) != Some(flow)) {
            table.set(key, flow).expect("room for a flow");
        }
    }

    /// A flow table.
    pub fn flow_table<A>(&self, name: &str) -> FlowTable<A>
    where
        A: Copy + Debug + 'static,
        FlowKey<A>: aya::Pod + Key,
        Flow<A>: aya::Pod,
    {
        let fd = |name: &str| {
            let Some(Map::Array(map)) = self.ebpf.map(name) else { panic!("{name} is an array") };
            map.fd().as_fd().try_clone_to_owned().expect("a descriptor")
        };
        let hashing: Array<_, Hashing> = self.ebpf.map(maps::HASHING).expect("a map").try_into().expect("an array");
        let hashing = hashing.get(&0, 0).expect("how flows are hashed");
        FlowTable::new(&fd(&format!("{name}_SETS")), fd(name), hashing).expect("a flow table")
    }
}
