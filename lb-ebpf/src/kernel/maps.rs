//! The maps, as [`lb_common::maps`] says.

use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::LpmTrie;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use lb_common::maps::{self, DEFAULT_MAX_FLOWS, MMAPABLE, NO_PREALLOC, entries_for};
use lb_common::table::{Entry, Hashing};
use lb_common::{
    Affinity, AffinityKey, Backend, Budget, CaptureRoom, Device, Flow, FlowKey, Fragment, FragmentKey, Neighbour,
    Owned, Peer, ReasonCount, Scratch, Service, ServiceKey, Settings, Slot, SocketKey, Telling, Traffic,
};

/// [`lb_common::NetworkKey`] without its first field, which the library adds.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Network<A> {
    pub(super) group: u32,
    pub(super) address: A,
}

type Entry4 = Entry<FlowKey<[u8; 4]>, Flow<[u8; 4]>>;
type Entry6 = Entry<FlowKey<[u8; 16]>, Flow<[u8; 16]>>;

const fn size(name: &str) -> u32 {
    entries_for(name, DEFAULT_MAX_FLOWS)
}

#[map]
pub(super) static GATE: Array<u64> = Array::with_max_entries(size(maps::GATE), 0);
#[map]
pub(super) static OWNED4: HashMap<[u8; 4], Owned> = HashMap::with_max_entries(size(maps::OWNED4), NO_PREALLOC);
#[map]
pub(super) static OWNED6: HashMap<[u8; 16], Owned> = HashMap::with_max_entries(size(maps::OWNED6), NO_PREALLOC);
#[map]
pub(super) static SERVICES: HashMap<ServiceKey, Service> = HashMap::with_max_entries(size(maps::SERVICES), NO_PREALLOC);
#[map]
pub(super) static NETWORKS4: LpmTrie<Network<[u8; 4]>, u32> = LpmTrie::with_max_entries(size(maps::NETWORKS4), 0);
#[map]
pub(super) static NETWORKS6: LpmTrie<Network<[u8; 16]>, u32> = LpmTrie::with_max_entries(size(maps::NETWORKS6), 0);
#[map]
pub(super) static SLOTS: Array<Slot> = Array::with_max_entries(size(maps::SLOTS), 0);
#[map]
pub(super) static BACKENDS: Array<Backend> = Array::with_max_entries(size(maps::BACKENDS), 0);
#[map]
pub(super) static FLOWS4: Array<Entry4> = Array::with_max_entries(size(maps::FLOWS4), MMAPABLE);
#[map]
pub(super) static FLOWS6: Array<Entry6> = Array::with_max_entries(size(maps::FLOWS6), MMAPABLE);
#[map]
pub(super) static FLOWS4_SETS: Array<u64> = Array::with_max_entries(size(maps::FLOWS4_SETS), MMAPABLE);
#[map]
pub(super) static FLOWS6_SETS: Array<u64> = Array::with_max_entries(size(maps::FLOWS6_SETS), MMAPABLE);
#[map]
pub(super) static HASHING: Array<Hashing> = Array::with_max_entries(size(maps::HASHING), 0);
#[map]
pub(super) static FRAGMENTS4: LruHashMap<FragmentKey<[u8; 4]>, Fragment> =
    LruHashMap::with_max_entries(size(maps::FRAGMENTS4), 0);
#[map]
pub(super) static FRAGMENTS6: LruHashMap<FragmentKey<[u8; 16]>, Fragment> =
    LruHashMap::with_max_entries(size(maps::FRAGMENTS6), 0);
#[map]
pub(super) static NODE_PORTS: HashMap<ServiceKey, Peer> =
    HashMap::with_max_entries(size(maps::NODE_PORTS), NO_PREALLOC);
#[map]
pub(super) static SOCKETS: LruHashMap<SocketKey, Peer> = LruHashMap::with_max_entries(size(maps::SOCKETS), 0);
#[map]
pub(super) static AFFINITY: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(size(maps::AFFINITY), 0);
#[map]
pub(super) static DEVICES: HashMap<u32, Device> = HashMap::with_max_entries(size(maps::DEVICES), NO_PREALLOC);
#[map]
pub(super) static SETTINGS: Array<Settings> = Array::with_max_entries(size(maps::SETTINGS), 0);
#[map]
pub(super) static REASONS: PerCpuArray<ReasonCount> = PerCpuArray::with_max_entries(size(maps::REASONS), 0);
#[map]
pub(super) static SERVICE_STATS: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(size(maps::SERVICE_STATS), 0);
#[map]
pub(super) static BACKEND_STATS: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(size(maps::BACKEND_STATS), 0);
#[map]
pub(super) static BUDGETS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(size(maps::BUDGETS), 0);
#[map]
pub(super) static EVENTS: RingBuf = RingBuf::with_byte_size(size(maps::EVENTS), 0);
#[map]
pub(super) static LISTENED: Array<u32> = Array::with_max_entries(size(maps::LISTENED), 0);
#[map]
pub(super) static TELLINGS: PerCpuArray<Telling> = PerCpuArray::with_max_entries(size(maps::TELLINGS), 0);
#[map]
pub(super) static NEIGHBOUR: PerCpuArray<Neighbour> = PerCpuArray::with_max_entries(size(maps::NEIGHBOUR), 0);
#[map]
pub(super) static SCRATCH4: PerCpuArray<Scratch<[u8; 4]>> = PerCpuArray::with_max_entries(size(maps::SCRATCH4), 0);
#[map]
pub(super) static SCRATCH6: PerCpuArray<Scratch<[u8; 16]>> = PerCpuArray::with_max_entries(size(maps::SCRATCH6), 0);

// What only an instance that captures packets uses.
#[map]
pub(super) static CAPTURED: RingBuf = RingBuf::with_byte_size(maps::SMALLEST_RING, 0);
#[map]
pub(super) static CAPTURE_ROOM: PerCpuArray<CaptureRoom> = PerCpuArray::with_max_entries(1, 0);

// What only an instance that traces packets uses, whose loader gives it room.
#[map]
pub(super) static TRACED_FLOWS4: HashMap<FlowKey<[u8; 4]>, Flow<[u8; 4]>> = HashMap::with_max_entries(1, 0);
#[map]
pub(super) static TRACED_FLOWS6: HashMap<FlowKey<[u8; 16]>, Flow<[u8; 16]>> = HashMap::with_max_entries(1, 0);
#[map]
pub(super) static TRACED_CLIENT: Array<Affinity> = Array::with_max_entries(1, 0);
