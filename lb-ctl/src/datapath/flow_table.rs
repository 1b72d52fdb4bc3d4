//! One table of flows as user space sees it: [`lb_common::table`] over pinned maps.
//!
//! Its words are mapped into the process; its entries are read and written by calls, so that a table of a hundred megabytes is
//! not part of the daemon's memory.

use super::bpf::words::Words;
use super::bpf::{
    self,
    map::{Map, Put},
};
use aya::Pod;
use lb_common::maps::{HASHING, room};
use lb_common::table::{self, Entry, Hashing, Key, Memory, Place, Refused, WAYS};
use lb_common::{Flow, FlowKey};
use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries that are read at a time.
const BATCH: usize = 4096;
/// Entries that nobody asked for are read too where a call more would cost as much.
const GAP: u32 = 3;

type Record<A> = Entry<FlowKey<A>, Flow<A>>;

/// How the tables pinned in a directory are hashed.
pub fn hashing(directory: &Path) -> io::Result<Hashing> {
    let map: Map<u32, Hashing> = Map::new(bpf::open(&directory.join(HASHING))?)?;
    Ok(map.get(&0)?.ok_or(io::ErrorKind::InvalidData)?)
}

/// A table of flows.
#[derive(Clone, Debug)]
pub struct FlowTable<A> {
    words: Arc<Words>,
    entries: Map<u32, Record<A>>,
    hashing: Hashing,
}

impl<A> FlowTable<A>
where
    A: Copy + Debug + 'static,
    FlowKey<A>: Pod + Key,
    Flow<A>: Pod,
{
    /// The table whose entries are pinned by this name in a directory, beside its words and how it is hashed.
    pub fn open(directory: &Path, name: &str) -> io::Result<Self> {
        let open = |name: &str| bpf::open(&directory.join(name));
        Self::new(&open(&format!("{name}_SETS"))?, open(name)?, hashing(directory)?)
    }

    /// The table with these words and entries.
    pub fn new(words: &OwnedFd, entries: OwnedFd, hashing: Hashing) -> io::Result<Self> {
        let (words, entries) = (Words::map(words)?, Map::new(entries)?);
        let sets = words.get().len() as u64;
        if sets * u64::from(WAYS) != u64::from(entries.entries()) || sets != u64::from(hashing.sets) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its sets and its entries do not belong together"));
        }
        Ok(Self { words: Arc::new(words), entries, hashing })
    }

    /// How many entries that keep their places are sure to find room.
    pub const fn capacity(&self) -> u32 {
        room(self.hashing.max_flows)
    }

    /// The flow of a tuple.
    pub fn get(&self, key: &FlowKey<A>) -> io::Result<Option<Flow<A>>> {
        Ok(table::find(self, self.place(key), key).transpose()?.map(|(_, flow)| flow))
    }

    /// Writes the flow of a tuple.
    pub(crate) fn put(&self, key: &FlowKey<A>, flow: &Flow<A>, put: Put) -> io::Result<()> {
        let place = self.place(key);
        if put == Put::Any
            && let Some((index, _)) = table::find(self, place, key).transpose()?
        {
            return self.entries.put(&index, &Entry { key: *key, value: *flow }, Put::Any);
        }
        table::insert(self, place, key, flow).map_err(|refused| {
            io::Error::from_raw_os_error(match refused {
                Refused::Exists => libc::EEXIST,
                Refused::Full => libc::E2BIG,
            })
        })
    }

    /// Writes the flow of a tuple, whether there is one or not.
    pub fn set(&self, key: &FlowKey<A>, flow: &Flow<A>) -> io::Result<()> {
        self.put(key, flow, Put::Any)
    }

    /// Deletes the flow of a tuple; whether there was one.
    pub fn delete(&self, key: &FlowKey<A>) -> io::Result<bool> {
        Ok(table::delete(self, self.place(key), key))
    }

    /// All flows, some thousand at a time.
    pub(crate) fn batches(&self) -> Batches<'_, A> {
        Batches { table: self, position: 0, size: BATCH }
    }

    /// All flows. Those that are there all the time are seen; of those that come and go meanwhile some are.
    pub fn iter(&self) -> impl Iterator<Item = io::Result<(FlowKey<A>, Flow<A>)>> {
        self.batches().flat_map(|batch| match batch {
            Ok(entries) => entries.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    }

    fn sets(&self) -> u32 {
        self.words.get().len() as u32
    }

    fn place(&self, key: &FlowKey<A>) -> Place {
        self.hashing.place(key)
    }

    /// Which of these entries, each with its tag, still hold a flow, and what.
    fn read(&self, held: &[(u32, u8)]) -> io::Result<Vec<(FlowKey<A>, Flow<A>)>> {
        let mut flows = Vec::with_capacity(held.len());
        for near in held.chunk_by(|(one, _), (next, _)| next - one <= GAP) {
            let (first, last) = (near[0].0, near[near.len() - 1].0);
            let records = if first == last {
                self.entries.get(&first)?.map(|record| (first, record)).into_iter().collect()
            } else {
                self.entries.range(first, last - first + 1)?
            };
            for (index, tag) in near {
                let Some((_, Entry { key, value })) = records.get((index - first) as usize) else { continue };
                // Its place was given to another while it was read: it is neither's.
                let set = index / WAYS;
                let word = self.words.get()[set as usize].load(Ordering::SeqCst);
                let stays = table::held(word).any(|held| held == (index % WAYS, *tag));
                if stays && self.place(key).may_be(set, *tag) {
                    flows.push((*key, *value));
                }
            }
        }
        Ok(flows)
    }
}

impl<A> Memory<FlowKey<A>, Flow<A>> for FlowTable<A>
where
    A: Copy + Debug + 'static,
    FlowKey<A>: Pod + Key,
    Flow<A>: Pod,
{
    /// The index of the entry, and its flow.
    type Found = io::Result<(u32, Flow<A>)>;

    fn word(&self, set: u32) -> Option<&AtomicU64> {
        self.words.get().get(set as usize)
    }

    fn get(&self, index: u32, key: &FlowKey<A>) -> Option<Self::Found> {
        let record = match self.entries.get(&index) {
            Ok(record) => record?,
            Err(error) => return Some(Err(error)),
        };
        // SAFETY: a key of our own.
        unsafe { table::is_same(&raw const record.key, key) }.then_some(Ok((index, record.value)))
    }

    fn put(&self, index: u32, key: &FlowKey<A>, value: &Flow<A>) -> bool {
        self.entries.put(&index, &Entry { key: *key, value: *value }, Put::Any).is_ok()
    }

    fn take_stays(&self, _: u32) -> bool {
        // User space evicts nothing.
        true
    }
}

/// A walk through a table, set by set: it ends in any case.
pub(crate) struct Batches<'a, A> {
    table: &'a FlowTable<A>,
    /// The next set.
    position: u32,
    size: usize,
}

impl<A> Batches<'_, A>
where
    A: Copy + Debug + 'static,
    FlowKey<A>: Pod + Key,
    Flow<A>: Pod,
{
    /// Where a later walk may go on; `None`: this one has come to its end.
    pub(crate) fn position(&self) -> Option<u32> {
        (!self.is_done()).then_some(self.position)
    }

    /// Whether everything has been seen.
    pub(crate) fn is_done(&self) -> bool {
        self.position >= self.table.sets()
    }

    /// Goes on where an earlier walk stood; with `None` it begins anew.
    pub(crate) fn resume(mut self, position: Option<u32>) -> Self {
        self.position = position.unwrap_or(0);
        self
    }

    /// Reads about so many entries at a time.
    pub(crate) fn of_size(mut self, size: usize) -> Self {
        self.size = size.clamp(1, BATCH);
        self
    }
}

impl<A> Iterator for Batches<'_, A>
where
    A: Copy + Debug + 'static,
    FlowKey<A>: Pod + Key,
    Flow<A>: Pod,
{
    type Item = io::Result<Vec<(FlowKey<A>, Flow<A>)>>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_done() {
            let mut held = Vec::with_capacity(self.size + WAYS as usize);
            while held.len() < self.size && !self.is_done() {
                let set = self.position;
                let word = self.table.words.get()[set as usize].load(Ordering::SeqCst);
                held.extend(table::held(word).map(|(way, tag)| (set * WAYS + way, tag)));
                self.position += 1;
            }
            match self.table.read(&held) {
                Ok(flows) if flows.is_empty() => {}
                read => return Some(read),
            }
        }
        None
    }
}
