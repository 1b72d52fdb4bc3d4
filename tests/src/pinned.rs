//! The maps of a running daemon, opened behind its back: whatever a test wants to stand in them.

use crate::fixture::{Fixture, find};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues, lpm_trie};
use lb_common::table::Key;
use lb_common::{Flow, FlowKey, NetworkKey};
use lb_ctl::datapath::flow_table::FlowTable;
use std::fmt::Debug;
use std::os::fd::{AsFd, AsRawFd};

impl Fixture {
    fn map(&self, name: &str) -> MapData {
        let pin = find(&self.name().bpffs(), name).unwrap_or_else(|| panic!("{name} is pinned"));
        MapData::from_pin(pin).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Bytes of memory that the kernel has taken for a map.
    pub fn memory(&self, name: &str) -> u64 {
        let map = self.map(name);
        let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or_else(|| panic!("{name}: {text}"))
    }

    /// A hash, or one that forgets the oldest.
    pub fn hash<K: Pod, V: Pod>(&self, name: &str) -> HashMap<MapData, K, V> {
        HashMap::try_from(Map::HashMap(self.map(name))).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// All entries of a hash.
    pub fn entries<K: Pod, V: Pod>(&self, name: &str) -> Vec<(K, V)> {
        self.hash(name).iter().filter_map(Result::ok).collect()
    }

    /// Writes an entry of a hash.
    pub fn put<K: Pod, V: Pod>(&self, name: &str, key: K, value: V) {
        self.hash(name).insert(key, value, 0).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Deletes an entry of a hash.
    pub fn delete<K: Pod, V: Pod>(&self, name: &str, key: &K) {
        self.hash::<K, V>(name).remove(key).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// A flow table.
    pub fn flow_table<A>(&self, name: &str) -> FlowTable<A>
    where
        A: Copy + Debug + 'static,
        FlowKey<A>: Pod + Key,
        Flow<A>: Pod,
    {
        let pin = find(&self.name().bpffs(), name).unwrap_or_else(|| panic!("{name} is pinned"));
        let directory = pin.parent().expect("a pin is in a directory");
        FlowTable::open(directory, name).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The flows of a table.
    pub fn flows<A>(&self, name: &str) -> Vec<(FlowKey<A>, Flow<A>)>
    where
        A: Copy + Debug + 'static,
        FlowKey<A>: Pod + Key,
        Flow<A>: Pod,
    {
        self.flow_table(name).iter().filter_map(Result::ok).collect()
    }

    /// An array.
    pub fn array<V: Pod>(&self, name: &str) -> Array<MapData, V> {
        Array::try_from(Map::Array(self.map(name))).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The value of an array's index, changed.
    pub fn change<V: Pod>(&self, name: &str, index: u32, change: impl FnOnce(&mut V)) {
        let mut array = self.array::<V>(name);
        let mut value = array.get(&index, 0).unwrap_or_else(|error| panic!("{name}: {error}"));
        change(&mut value);
        array.set(index, value, 0).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// The same for every CPU's copy.
    pub fn change_copies<V: Pod + Copy>(&self, name: &str, index: u32, mut change: impl FnMut(&mut V)) {
        let array = PerCpuArray::<_, V>::try_from(Map::PerCpuArray(self.map(name)));
        let mut array = array.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut copies: Vec<V> = array.get(&index, 0).unwrap_or_else(|error| panic!("{name}: {error}")).to_vec();
        copies.iter_mut().for_each(&mut change);
        let copies = PerCpuValues::try_from(copies).expect("a copy for each CPU");
        array.set(index, copies, 0).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Puts a network into a trie, or takes it out.
    pub fn set_network4(&self, name: &str, key: NetworkKey<[u8; 4]>, present: bool) {
        let mut rest = [0u8; 8];
        rest[..4].copy_from_slice(&key.group.to_ne_bytes());
        rest[4..].copy_from_slice(&key.address);
        self.set_network(name, key.prefix, rest, present);
    }

    /// The same for IPv6.
    pub fn set_network6(&self, name: &str, key: NetworkKey<[u8; 16]>, present: bool) {
        let mut rest = [0u8; 20];
        rest[..4].copy_from_slice(&key.group.to_ne_bytes());
        rest[4..].copy_from_slice(&key.address);
        self.set_network(name, key.prefix, rest, present);
    }

    fn set_network<const N: usize>(&self, name: &str, prefix: u32, rest: [u8; N], present: bool) {
        let trie = lpm_trie::LpmTrie::<_, [u8; N], u32>::try_from(Map::LpmTrie(self.map(name)));
        let mut trie = trie.unwrap_or_else(|error| panic!("{name}: {error}"));
        let key = lpm_trie::Key::new(prefix, rest);
        let done = if present { trie.insert(&key, 1, 0) } else { trie.remove(&key) };
        done.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
