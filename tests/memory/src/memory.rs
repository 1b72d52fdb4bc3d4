//! The core's tables and kernel in memory: what the model tests run flows on, and what the kernel is compared with.

use crate::Image;
use crate::socket::Sockets;
use lb_common::gate::{End, Place};
use lb_common::{
    Affinity, AffinityKey, Backend, BackendSet, Budget, Device, Event, Flow, FlowKey, Fragment, FragmentKey, Owned,
    Reason, ReasonCount, Scratch, Service, ServiceKey, Settings, Slot, Step as Told, StepKind, Telling, Traffic,
};
use lb_ebpf::env::Step;
use lb_ebpf::packet::{Bytes, Head, TransportChecksum, Wire};
use lb_ebpf::parse::IP_OFFSET;
use lb_ebpf::trace;
use lb_ebpf::{Address, AddressTables, Env, Hook, InsertError, Packet, Route, Tables, checksum};
use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

/// A frame in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The bytes, Ethernet header first.
    pub bytes: Vec<u8>,
    /// Payload bytes of each segment, where the frame stands for several.
    pub segment_size: Option<u32>,
    /// Whether the transport checksum was left to hardware: only the pseudo-header is summed (`CHECKSUM_PARTIAL`).
    pub partial: bool,
}

impl Frame {
    /// A frame of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, segment_size: None, partial: false }
    }
}

impl Bytes for Frame {
    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        let bytes = self.bytes.get(offset..offset + size_of::<T>())?;
        // SAFETY: the slice has the size of `T`, for which every bit pattern is valid.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()> {
        let bytes = self.bytes.get_mut(offset..offset + size_of::<T>())?;
        // SAFETY: the slice has the size of `T`.
        unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(value) };
        Some(())
    }
}

impl Packet for Frame {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn head(&mut self, length: usize) -> Option<Head<'_>> {
        self.bytes.get_mut(..length).map(Head)
    }

    fn segment_size(&self) -> Option<u32> {
        self.segment_size
    }

    fn update_checksum(&mut self, checksum: &TransportChecksum) -> Option<()> {
        let old: [u8; 2] = self.load(checksum.offset)?;
        if self.partial {
            // As `inet_proto_csum_replace_by_diff` does: the place holds a sum, not its complement.
            let sum = checksum::add(checksum::word(old) as u16, checksum.address_delta);
            return self.store(checksum.offset, sum.to_ne_bytes());
        }
        if checksum.zero_means_none && old == [0; 2] {
            return Some(());
        }
        let new = checksum::update(old, checksum::add(checksum.address_delta, checksum.port_delta));
        self.store(checksum.offset, if checksum.zero_means_none && new == [0; 2] { [0xff; 2] } else { new })
    }

    fn trim(&mut self, length: usize) -> Option<()> {
        self.segment_size = None;
        (length <= self.bytes.len()).then(|| self.bytes.truncate(length))
    }

    fn insert(&mut self, length: usize) -> Option<()> {
        self.bytes.splice(IP_OFFSET..IP_OFFSET, std::iter::repeat_n(0, length));
        Some(())
    }
}

/// An entry, shared with whoever found it, as in the kernel, where a deleted entry's memory stays while a program runs.
type Entry<A> = Rc<UnsafeCell<Flow<A>>>;

/// One flow table.
#[derive(Debug)]
struct FlowMap<A> {
    entries: RefCell<BTreeMap<FlowKey<A>, Entry<A>>>,
    deleted: RefCell<Vec<Entry<A>>>,
    room: Cell<usize>,
}

impl<A: Ord + Copy> FlowMap<A> {
    fn new() -> Self {
        Self { entries: RefCell::default(), deleted: RefCell::default(), room: Cell::new(usize::MAX) }
    }

    #[expect(clippy::mut_from_ref, reason = "as in the kernel, whose map this stands for")]
    fn find(&self, key: &FlowKey<A>) -> Option<&mut Flow<A>> {
        let entry = self.entries.borrow().get(key)?.clone();
        // SAFETY: the entry lives until `self` is dropped, since deleted ones are kept; the core holds no two references
        // to one entry at a time.
        Some(unsafe { &mut *entry.get() })
    }

    fn insert(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<(), InsertError> {
        let mut entries = self.entries.borrow_mut();
        if entries.contains_key(key) {
            return Err(InsertError::Exists);
        }
        if entries.len() >= self.room.get() {
            return Err(InsertError::Full);
        }
        entries.insert(*key, Rc::new(UnsafeCell::new(*flow)));
        Ok(())
    }

    /// Whether there was one.
    fn delete(&self, key: &FlowKey<A>) -> bool {
        let deleted = self.entries.borrow_mut().remove(key);
        let is_one = deleted.is_some();
        self.deleted.borrow_mut().extend(deleted);
        is_one
    }

    fn contents(&self) -> BTreeMap<FlowKey<A>, Flow<A>> {
        // SAFETY: nobody holds a reference between packets.
        self.entries.borrow().iter().map(|(key, flow)| (*key, unsafe { *flow.get() })).collect()
    }
}

/// Working memory before the first packet. In `tick`, XDP has already left a new flow to the kernel.
pub fn scratch<A: Copy>(zero: A, tick: u32) -> Scratch<A> {
    let key = FlowKey::new(0, zero, [0; 2], zero, [0; 2]);
    let flow = Flow {
        src: zero,
        dst: zero,
        src_port: [0; 2],
        dst_port: [0; 2],
        address_delta: 0,
        port_delta: 0,
        tick: 0,
        flags: 0,
        generation: 0,
        backend: 0,
        service: 0,
        hop: lb_common::NextHop::default(),
        met: 0,
        zero: [0; 7],
    };
    let service = Service {
        backends: BackendSet::EMPTY,
        id: 0,
        target_port: [0; 2],
        flags: 0,
        affinity_ticks: 0,
        affinity_id: 0,
        members: BackendSet::EMPTY,
    };
    let client = AffinityKey::default();
    Scratch {
        flow,
        mirror: flow,
        mirror_key: key,
        forgotten_key: key,
        revalidated: tick,
        place: 0,
        client,
        service,
        client_flags: 0,
        zero: 0,
    }
}

/// The flow tables of one family.
#[derive(Debug)]
pub struct Flows<A> {
    map: FlowMap<A>,
    fragments: RefCell<BTreeMap<FragmentKey<A>, &'static Fragment>>,
    scratch: Box<UnsafeCell<Scratch<A>>>,
}

impl<A: Ord + Copy> Flows<A> {
    fn new(zero: A) -> Self {
        let scratch = Box::new(UnsafeCell::new(scratch(zero, 0)));
        Self { map: FlowMap::new(), fragments: RefCell::default(), scratch }
    }

    /// The entries.
    pub fn contents(&self) -> BTreeMap<FlowKey<A>, Flow<A>> {
        self.map.contents()
    }

    /// What first fragments have said.
    pub fn fragments(&self) -> BTreeMap<FragmentKey<A>, Fragment> {
        self.fragments.borrow().iter().map(|(key, fragment)| (*key, **fragment)).collect()
    }

    /// Lets no more than so many entries in.
    pub fn limit(&self, entries: usize) {
        self.map.room.set(entries);
    }

    /// Changes the entries, between packets.
    pub fn change(&self, mut change: impl FnMut(&FlowKey<A>, &mut Flow<A>)) {
        for (key, flow) in self.map.entries.borrow().iter() {
            // SAFETY: nobody holds a reference between packets.
            change(key, unsafe { &mut *flow.get() });
        }
    }

    /// Loses an entry, as where it made way for another.
    pub fn lose(&self, key: &FlowKey<A>) {
        self.map.delete(key);
    }
}

/// Which backend clients had last.
#[derive(Debug, Default)]
pub struct Affinities {
    /// Each value lives until the process ends, as in the kernel it lives until a program ends.
    entries: RefCell<BTreeMap<AffinityKey, &'static UnsafeCell<Affinity>>>,
}

impl Affinities {
    /// The entries.
    pub fn contents(&self) -> BTreeMap<AffinityKey, Affinity> {
        // SAFETY: nobody holds a reference between packets.
        self.entries.borrow().iter().map(|(key, affinity)| (*key, unsafe { *affinity.get() })).collect()
    }

    /// Loses everything, as an LRU does under pressure.
    pub fn lose(&self) {
        self.entries.borrow_mut().clear();
    }
}

/// All tables.
#[derive(Debug)]
pub struct Memory {
    /// What the daemon wrote.
    pub image: Image,
    /// IPv4 flows.
    pub flows4: Flows<[u8; 4]>,
    /// IPv6 flows.
    pub flows6: Flows<[u8; 16]>,
    /// Whom sockets asked for.
    pub sockets: Sockets,
    /// Which backend clients had last.
    pub affinity: Affinities,
    /// Counters by reason.
    pub reasons: RefCell<BTreeMap<Reason, ReasonCount>>,
    /// Counters by service port id.
    pub services: RefCell<BTreeMap<u32, Traffic>>,
    /// Counters by backend id.
    pub backends: RefCell<BTreeMap<u32, Traffic>>,
    /// What the CPU has spent.
    pub budget: Box<UnsafeCell<Budget>>,
    /// Whether what the core decides is recorded.
    pub tells: Cell<bool>,
    told: RefCell<Vec<UnsafeCell<Told>>>,
    /// Packets whose flow the short way found.
    pub guessed: Cell<u64>,
    /// What the CPU has told.
    pub telling: Box<UnsafeCell<Telling>>,
    /// Events that were told, without a time.
    pub events: RefCell<Vec<Event>>,
    /// Whether somebody listens to flows that begin and end.
    pub listened: Cell<bool>,
    /// Events that there is room for.
    pub event_room: Cell<usize>,
    /// The places of all addresses that the gate has been opened for.
    gate: RefCell<BTreeSet<Place>>,
}

/// What the gate must be open for.
pub fn admitted(image: &Image) -> impl Iterator<Item = Place> + '_ {
    let to = image
        .owned
        .iter()
        .map(|(address, owned)| if owned.is_node() { End::Node(*address) } else { End::Service(*address) });
    let asked = image.services.keys().filter_map(ServiceKey::ip).map(End::Service);
    let from = image.backends.values().filter_map(Backend::ip).map(End::Source);
    to.chain(asked).chain(from).map(Place::from)
}

impl Memory {
    /// Tables that hold `image` and no flows.
    pub fn new(image: Image) -> Self {
        Self {
            image,
            flows4: Flows::new([0; 4]),
            flows6: Flows::new([0; 16]),
            sockets: Sockets::default(),
            affinity: Affinities::default(),
            reasons: RefCell::default(),
            services: RefCell::default(),
            backends: RefCell::default(),
            budget: Box::default(),
            tells: Cell::default(),
            told: RefCell::default(),
            guessed: Cell::default(),
            telling: Box::new(UnsafeCell::new(Telling::NEW)),
            events: RefCell::default(),
            listened: Cell::default(),
            event_room: Cell::new(usize::MAX),
            gate: RefCell::default(),
        }
    }

    /// Takes it that in this tick XDP has already left a new flow to the kernel.
    pub fn revalidated_in(&mut self, tick: u32) {
        self.flows4.scratch.get_mut().revalidated = tick;
        self.flows6.scratch.get_mut().revalidated = tick;
    }

    /// What the core has told since this was last asked for.
    pub fn take_steps(&self) -> Vec<Told> {
        self.told.take().into_iter().map(UnsafeCell::into_inner).collect()
    }

    /// Packets counted for a reason.
    pub fn packets(&self, reason: Reason) -> u64 {
        self.reasons.borrow().get(&reason).map_or(0, |count| count.packets)
    }
}

macro_rules! address_tables {
    ($address:ty, $flows:ident) => {
        impl AddressTables<$address> for Memory {
            fn owned(&self, address: &$address) -> Option<Owned> {
                self.image.owned.get(&IpAddr::from(*address)).copied()
            }

            fn is_in(&self, group: u32, address: &$address) -> bool {
                let networks = self.image.networks.get(&group);
                networks.is_some_and(|all| all.iter().any(|network| network.contains(&IpAddr::from(*address))))
            }

            fn flow(&self, key: &FlowKey<$address>) -> Option<&mut Flow<$address>> {
                self.$flows.map.find(key)
            }

            fn guessed(&self, key: &FlowKey<$address>) -> Option<&mut Flow<$address>> {
                let flow = self.flow(key)?;
                self.guessed.set(self.guessed.get() + 1);
                Some(flow)
            }

            fn insert(&self, key: &FlowKey<$address>, flow: &Flow<$address>) -> Result<(), InsertError> {
                trace::inserted(self, key, self.$flows.map.insert(key, flow))
            }

            fn scratch(&self) -> Option<&mut Scratch<$address>> {
                // SAFETY: one packet at a time, as on a CPU.
                Some(unsafe { &mut *self.$flows.scratch.get() })
            }

            fn delete(&self, key: &FlowKey<$address>) {
                if self.$flows.map.delete(key) {
                    trace::wrote_flow(self, Told::DELETE, key);
                }
            }

            fn fragment(&self, key: &FragmentKey<$address>) -> Option<&Fragment> {
                self.$flows.fragments.borrow().get(key).copied()
            }

            fn note_fragment(&self, key: &FragmentKey<$address>, fragment: &Fragment) {
                trace::detail(self, StepKind::Write, Told::FRAGMENT);
                // Leaked, as the kernel keeps an element that was replaced while somebody may read it.
                self.$flows.fragments.borrow_mut().insert(*key, Box::leak(Box::new(*fragment)));
            }
        }
    };
}

address_tables!([u8; 4], flows4);
address_tables!([u8; 16], flows6);

impl Tables for Memory {
    fn gate(&self, word: u32) -> u64 {
        let mut open = self.gate.borrow_mut();
        open.extend(admitted(&self.image));
        let places = Place { word, bits: 0 }..=Place { word, bits: u64::MAX };
        open.range(places).fold(0, |bits, place| bits | place.bits)
    }

    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.image.services.get(key)
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        self.image.slots.get(&index)
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.image.backends.get(&id)
    }

    fn device(&self, ifindex: u32) -> Device {
        self.image.devices.get(&ifindex).copied().unwrap_or_default()
    }

    fn settings(&self) -> Option<&Settings> {
        Some(&self.image.settings)
    }

    fn budget(&self) -> Option<&mut Budget> {
        // SAFETY: one packet at a time, as on a CPU.
        Some(unsafe { &mut *self.budget.get() })
    }

    fn affinity(&self, key: &AffinityKey) -> Option<&mut Affinity> {
        // SAFETY: leaked, so it lives; the core holds no two references to one entry at a time.
        self.affinity.entries.borrow().get(key).map(|affinity| unsafe { &mut *affinity.get() })
    }

    fn note_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
        trace::detail(self, StepKind::Write, Told::AFFINITY);
        self.affinity.entries.borrow_mut().insert(*key, Box::leak(Box::new(UnsafeCell::new(*affinity))));
    }

    fn traces(&self) -> bool {
        self.tells.get()
    }

    fn step(&self, kind: StepKind) -> Option<&mut Told> {
        if !self.tells.get() {
            return None;
        }
        let mut told = self.told.borrow_mut();
        told.push(UnsafeCell::new(Told { kind: kind as u8, ..Told::default() }));
        // SAFETY: the core writes one step and forgets it before it asks for the next, which may move it.
        told.last().map(|step| unsafe { &mut *step.get() })
    }

    fn is_listened(&self) -> bool {
        self.listened.get()
    }

    fn telling(&self) -> Option<&mut Telling> {
        // SAFETY: one packet at a time, as on a CPU.
        Some(unsafe { &mut *self.telling.get() })
    }

    fn tell(&self, event: &mut Event) -> bool {
        let mut events = self.events.borrow_mut();
        let has_room = events.len() < self.event_room.get();
        if has_room {
            events.push(*event);
        }
        has_room
    }

    fn count(&self, reason: Reason, bytes: usize) {
        let mut reasons = self.reasons.borrow_mut();
        let count = reasons.entry(reason).or_default();
        count.packets += 1;
        count.bytes += bytes as u64;
    }

    fn count_traffic(&self, service: u32, backend: u32, reply: bool, bytes: usize) {
        self.services.borrow_mut().entry(service).or_default().count(reply, bytes);
        self.backends.borrow_mut().entry(backend).or_default().count(reply, bytes);
    }

    fn count_connection(&self, service: u32, backend: u32) {
        self.services.borrow_mut().entry(service).or_default().connections += 1;
        self.backends.borrow_mut().entry(backend).or_default().connections += 1;
    }
}

/// The kernel around a packet, as a test wants it.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The tick.
    pub tick: u32,
    /// Where the packet was met.
    pub ifindex: u32,
    /// What the routing table says of destinations; of others, that they are not forwarded to.
    pub routes: BTreeMap<IpAddr, Route>,
}

/// [`Surroundings`] at a hook: 0 is XDP, 1 TCX ingress, 2 TCX egress.
pub struct At<'a, const HOOK: u8>(pub &'a Surroundings);

impl<const HOOK: u8> Env for At<'_, HOOK> {
    const HOOK: Hook = match HOOK {
        0 => Hook::Xdp,
        1 => Hook::Ingress,
        _ => Hook::Egress,
    };

    fn tick(&self) -> u32 {
        self.0.tick
    }

    fn ifindex(&self) -> u32 {
        self.0.ifindex
    }

    fn repeat<S: Step>(&self, times: u32, body: &mut S) {
        for index in 0..times {
            if !body.step(index) {
                break;
            }
        }
    }

    fn route<A: Address>(&self, key: &FlowKey<A>) -> Route {
        let [first, second] = key.dst.words();
        let address = if A::VERSION == 4 {
            IpAddr::from((first as u32).to_be_bytes())
        } else {
            IpAddr::from((u128::from(first) << 64 | u128::from(second)).to_be_bytes())
        };
        self.0.routes.get(&address).copied().unwrap_or(Route::NotForwarded)
    }
}
