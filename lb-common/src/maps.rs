//! Every map: its name, kind, key, value and size.
//!
//! One knob sizes them all: the number of flows ([`MapSpec::entries_for`]). The sizes compiled into the BPF object are those
//! for [`DEFAULT_MAX_FLOWS`]; the loader overrides them.

use crate::table::{Entry, Hashing, WAYS};
use crate::{
    Affinity, AffinityKey, Backend, Budget, CaptureRoom, Device, Flow, FlowKey, Fragment, FragmentKey, Neighbour,
    NetworkKey, Owned, Peer, ReasonCount, Scratch, Service, ServiceKey, Settings, Slot, SocketKey, Telling, Traffic,
};
use core::mem::size_of;

/// Flows of each family that fit when the user does not say otherwise.
pub const DEFAULT_MAX_FLOWS: u32 = 131_072;
/// The smallest and the largest value of the knob.
pub const MAX_FLOWS_RANGE: (u32, u32) = (1024, 16_777_216);

/// The bits of [`crate::gate`].
pub const GATE: &str = "GATE";
/// IPv4 addresses that are ours.
pub const OWNED4: &str = "OWNED4";
/// IPv6 addresses that are ours.
pub const OWNED6: &str = "OWNED6";
/// Service ports on owned addresses.
pub const SERVICES: &str = "SERVICES";
/// IPv4 networks that clients are told by.
pub const NETWORKS4: &str = "NETWORKS4";
/// IPv6 networks that clients are told by.
pub const NETWORKS6: &str = "NETWORKS6";
/// Members of backend sets.
pub const SLOTS: &str = "SLOTS";
/// Backends by id.
pub const BACKENDS: &str = "BACKENDS";
/// IPv4 flows: entries of a [`crate::table`]. Where there is no room those make way that do not keep their places ([`Flow::keeps_place`]).
pub const FLOWS4: &str = "FLOWS4";
/// IPv6 flows.
pub const FLOWS6: &str = "FLOWS6";
/// The words of [`FLOWS4`].
pub const FLOWS4_SETS: &str = "FLOWS4_SETS";
/// The words of [`FLOWS6`].
pub const FLOWS6_SETS: &str = "FLOWS6_SETS";
/// How both are hashed.
pub const HASHING: &str = "HASHING";
/// What first fragments of IPv4 datagrams said. An LRU: only a datagram of a flow gets in.
pub const FRAGMENTS4: &str = "FRAGMENTS4";
/// What first fragments of IPv6 datagrams said.
pub const FRAGMENTS6: &str = "FRAGMENTS6";
/// For UDP node ports: the ClusterIP and port of the same Service port. Only for socket hooks.
pub const NODE_PORTS: &str = "NODE_PORTS";
/// Whom translated sockets asked for, by whom they got. An LRU: what is lost shows the backend in place of the Service.
pub const SOCKETS: &str = "SOCKETS";
/// Which backend each client of a Service with session affinity had last. An LRU: who is lost is given what the hash of the
/// client gives, which is the same as long as the backends are.
pub const AFFINITY: &str = "AFFINITY";
/// Interfaces by ifindex.
pub const DEVICES: &str = "DEVICES";
/// The one record of [`Settings`].
pub const SETTINGS: &str = "SETTINGS";
/// Counters by [`crate::Reason`].
pub const REASONS: &str = "REASONS";
/// Counters by service port id.
pub const SERVICE_STATS: &str = "SERVICE_STATS";
/// Counters by backend id.
pub const BACKEND_STATS: &str = "BACKEND_STATS";
/// What each CPU has spent in this tick on answers and searches.
pub const BUDGETS: &str = "BUDGETS";
/// What happened to single packets and flows: a ring of [`crate::Event`]s, which the daemon takes out.
pub const EVENTS: &str = "EVENTS";
/// Whether somebody listens to flows that begin and end: not zero.
pub const LISTENED: &str = "LISTENED";
/// What each CPU has told of it.
pub const TELLINGS: &str = "TELLINGS";
/// The neighbour that the kernel's routing table named for the packet at hand.
pub const NEIGHBOUR: &str = "NEIGHBOUR";
/// Working memory of the programs.
pub const SCRATCH4: &str = "SCRATCH4";
/// Working memory of the programs.
pub const SCRATCH6: &str = "SCRATCH6";

/// The ring that a capturing instance of the programs fills.
pub const CAPTURED: &str = "CAPTURED";
/// Where it puts its copies together.
pub const CAPTURE_ROOM: &str = "CAPTURE_ROOM";
/// What a trace would have made of IPv4 flows: entries that it would have written, and copies of those it has read.
pub const TRACED_FLOWS4: &str = "TRACED_FLOWS4";
/// The same of IPv6 flows.
pub const TRACED_FLOWS6: &str = "TRACED_FLOWS6";
/// A copy of what a traced packet's client had last.
pub const TRACED_CLIENT: &str = "TRACED_CLIENT";

/// Kinds of BPF maps that are used, with the kernel's numbers (`enum bpf_map_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`
    Array = 2,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`
    PerCpuArray = 6,
    /// `BPF_MAP_TYPE_LRU_HASH`
    LruHash = 9,
    /// `BPF_MAP_TYPE_LPM_TRIE`
    LpmTrie = 11,
    /// `BPF_MAP_TYPE_RINGBUF`: without keys and values, and as large as it has bytes.
    RingBuf = 27,
}

/// `BPF_F_NO_PREALLOC`: for hashes that only the daemon writes, so that memory is used as entries come.
pub const NO_PREALLOC: u32 = 1;

/// `BPF_F_MMAPABLE`: for words that the daemon changes as the datapath does, in one step; and for entries that are not to begin within a
/// line of the caches, since the values of such an array begin with a page, those of others behind its head.
pub const MMAPABLE: u32 = 1 << 10;

/// What one map is.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec {
    /// Name of the map's symbol and of its pin.
    pub name: &'static str,
    /// Kind of map.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value (of each CPU's copy).
    pub value: usize,
    /// Map flags.
    pub flags: u32,
    /// Whether it holds flows: kept across changes of the configuration maps' layout.
    pub holds_flows: bool,
}

const fn spec<K, V>(name: &'static str, kind: MapKind, flags: u32, holds_flows: bool) -> MapSpec {
    MapSpec { name, kind, key: size_of::<K>(), value: size_of::<V>(), flags, holds_flows }
}

/// All maps of the datapath.
pub const MAPS: &[MapSpec] = &[
    spec::<u32, u64>(GATE, MapKind::Array, 0, false),
    spec::<[u8; 4], Owned>(OWNED4, MapKind::Hash, NO_PREALLOC, false),
    spec::<[u8; 16], Owned>(OWNED6, MapKind::Hash, NO_PREALLOC, false),
    spec::<ServiceKey, Service>(SERVICES, MapKind::Hash, NO_PREALLOC, false),
    spec::<NetworkKey<[u8; 4]>, u32>(NETWORKS4, MapKind::LpmTrie, NO_PREALLOC, false),
    spec::<NetworkKey<[u8; 16]>, u32>(NETWORKS6, MapKind::LpmTrie, NO_PREALLOC, false),
    spec::<u32, Slot>(SLOTS, MapKind::Array, 0, false),
    spec::<u32, Backend>(BACKENDS, MapKind::Array, 0, false),
    spec::<u32, Entry<FlowKey<[u8; 4]>, Flow<[u8; 4]>>>(FLOWS4, MapKind::Array, MMAPABLE, true),
    spec::<u32, Entry<FlowKey<[u8; 16]>, Flow<[u8; 16]>>>(FLOWS6, MapKind::Array, MMAPABLE, true),
    spec::<u32, u64>(FLOWS4_SETS, MapKind::Array, MMAPABLE, true),
    spec::<u32, u64>(FLOWS6_SETS, MapKind::Array, MMAPABLE, true),
    spec::<u32, Hashing>(HASHING, MapKind::Array, 0, true),
    spec::<FragmentKey<[u8; 4]>, Fragment>(FRAGMENTS4, MapKind::LruHash, 0, false),
    spec::<FragmentKey<[u8; 16]>, Fragment>(FRAGMENTS6, MapKind::LruHash, 0, false),
    spec::<ServiceKey, Peer>(NODE_PORTS, MapKind::Hash, NO_PREALLOC, false),
    spec::<SocketKey, Peer>(SOCKETS, MapKind::LruHash, 0, true),
    // Its keys and values name ids of the configuration, with which it goes.
    spec::<AffinityKey, Affinity>(AFFINITY, MapKind::LruHash, 0, false),
    spec::<u32, Device>(DEVICES, MapKind::Hash, NO_PREALLOC, false),
    spec::<u32, Settings>(SETTINGS, MapKind::Array, 0, false),
    spec::<u32, ReasonCount>(REASONS, MapKind::PerCpuArray, 0, false),
    spec::<u32, Traffic>(SERVICE_STATS, MapKind::PerCpuArray, 0, false),
    spec::<u32, Traffic>(BACKEND_STATS, MapKind::PerCpuArray, 0, false),
    spec::<u32, Budget>(BUDGETS, MapKind::PerCpuArray, 0, false),
    spec::<(), ()>(EVENTS, MapKind::RingBuf, 0, false),
    spec::<u32, u32>(LISTENED, MapKind::Array, 0, false),
    spec::<u32, Telling>(TELLINGS, MapKind::PerCpuArray, 0, false),
    spec::<u32, Neighbour>(NEIGHBOUR, MapKind::PerCpuArray, 0, false),
    spec::<u32, Scratch<[u8; 4]>>(SCRATCH4, MapKind::PerCpuArray, 0, false),
    spec::<u32, Scratch<[u8; 16]>>(SCRATCH6, MapKind::PerCpuArray, 0, false),
];

/// Entries of a flow table that one traced packet may touch, as a search of all source ports that one address lends by default does.
pub const TRACED: u32 = 32_768;

/// Maps that are no part of the datapath's state and never pinned: every instance of the programs has its own. Only one that
/// traces or captures packets uses those for that, and its loader gives them room; in others they are as small as can be.
pub const INSTANCE_MAPS: &[MapSpec] = &[
    spec::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(TRACED_FLOWS4, MapKind::Hash, 0, false),
    spec::<FlowKey<[u8; 16]>, Flow<[u8; 16]>>(TRACED_FLOWS6, MapKind::Hash, 0, false),
    spec::<u32, Affinity>(TRACED_CLIENT, MapKind::Array, 0, false),
    spec::<(), ()>(CAPTURED, MapKind::RingBuf, 0, false),
    spec::<u32, CaptureRoom>(CAPTURE_ROOM, MapKind::PerCpuArray, 0, false),
];

/// Bytes of the smallest ring: a page, on every architecture.
pub const SMALLEST_RING: u32 = 1 << 16;

/// Maps of the datapath that a packet writes as working memory or counters, on its own CPU: a trace has its own of these too, so
/// that it disturbs neither a packet on the same CPU nor a count.
pub const PER_PACKET: [&str; 7] = [REASONS, SERVICE_STATS, BACKEND_STATS, BUDGETS, NEIGHBOUR, SCRATCH4, SCRATCH6];

/// Entries (of a ring: bytes) of the map `name` when `max_flows` flows of each family must fit. Zero for a name that is no map of ours.
pub const fn entries_for(name: &str, max_flows: u32) -> u32 {
    let control = at_least(max_flows / 2, 4096);
    match name.as_bytes() {
        b"FLOWS4" | b"FLOWS6" => flow_sets(max_flows) * WAYS,
        b"FLOWS4_SETS" | b"FLOWS6_SETS" => flow_sets(max_flows),
        // Datagrams whose fragments are under way at one time; the LRU wants room for its batches on every CPU.
        b"FRAGMENTS4" | b"FRAGMENTS6" => at_least(max_flows / 8, 4096),
        b"SOCKETS" | b"AFFINITY" => at_least(max_flows, 4096),
        b"OWNED4" | b"OWNED6" | b"SERVICES" | b"NODE_PORTS" | b"SERVICE_STATS" | b"BACKENDS" | b"BACKEND_STATS" => {
            control
        }
        b"NETWORKS4" | b"NETWORKS6" => control,
        // A Maglev table takes 65,537 by default; four fit at least.
        b"SLOTS" => at_least(control * 16, 300_000),
        b"GATE" => crate::gate::WORDS,
        b"DEVICES" => 4096,
        b"HASHING" | b"SETTINGS" | b"BUDGETS" | b"LISTENED" | b"TELLINGS" | b"NEIGHBOUR" | b"SCRATCH4"
        | b"SCRATCH6" | b"TRACED_CLIENT" | b"CAPTURE_ROOM" => 1,
        b"CAPTURED" => SMALLEST_RING,
        // Bytes: a power of two, and whole pages on every architecture. More than five thousand events wait in it.
        b"EVENTS" => 1 << 19,
        b"REASONS" => 256,
        b"TRACED_FLOWS4" | b"TRACED_FLOWS6" => TRACED,
        _ => 0,
    }
}

/// Sets of a flow table: twice as many entries as two for each flow, one a direction. In a table that is half full nobody finds both of
/// his sets full; at six tenths it is one of some hundred thousand. Where the table is full of others, who make way ([`Flow::keeps_place`]), one in some two
/// thousand of those that keep their places finds none before these are as many as must fit.
const fn flow_sets(max_flows: u32) -> u32 {
    (max_flows * 4).div_ceil(WAYS)
}

/// How the tables of flows are hashed when `max_flows` flows of each family must fit, with these random numbers.
pub const fn hashing(seeds: [u64; 10], max_flows: u32) -> Hashing {
    Hashing { seeds, sets: flow_sets(max_flows), max_flows }
}

/// How many entries that keep their places must find room in a flow table: two for each flow, one a direction. It is larger than that: see
/// [`crate::table`].
pub const fn room(max_flows: u32) -> u32 {
    max_flows * 2
}

const fn at_least(value: u32, minimum: u32) -> u32 {
    if value < minimum { minimum } else { value }
}

impl MapSpec {
    /// Entries when `max_flows` flows of each family must fit.
    pub const fn entries_for(&self, max_flows: u32) -> u32 {
        entries_for(self.name, max_flows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_has_a_size_and_a_name_the_kernel_keeps_whole() {
        for map in MAPS.iter().chain(INSTANCE_MAPS) {
            assert!(map.entries_for(DEFAULT_MAX_FLOWS) > 0, "{}", map.name);
            assert!(map.entries_for(MAX_FLOWS_RANGE.1).checked_mul(1).is_some());
            assert!(map.name.len() < 16, "{} is longer than BPF_OBJ_NAME_LEN", map.name);
        }
    }
}
