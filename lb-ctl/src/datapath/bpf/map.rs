//! BPF maps with typed keys and values.

use super::{command, command_fd, info};
use aya::Pod;
use aya_obj::generated::{bpf_cmd, bpf_map_info};
use lb_common::maps::{MMAPABLE, NO_PREALLOC};
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Entries read by one call. A bucket that holds more than fit makes the kernel ask for more room.
const BATCH: usize = 4096;

/// Attributes of `BPF_MAP_CREATE`, as far as Linux 4.15 knew them.
#[repr(C)]
struct CreateAttributes {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// Attributes of the commands on one element.
#[repr(C)]
struct ElementAttributes {
    fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Attributes of the commands on many elements.
#[repr(C)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    fd: u32,
    element_flags: u64,
    flags: u64,
}

/// Whether an entry may, must or must not be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// `BPF_ANY`
    Any = 0,
    /// `BPF_NOEXIST`
    New = 1,
}

/// What a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MapInfo {
    pub(crate) kind: u32,
    pub(crate) key: u32,
    pub(crate) value: u32,
    pub(crate) entries: u32,
    pub(crate) flags: u32,
}

/// Makes a map.
pub(crate) fn create(name: &str, wanted: &MapInfo) -> io::Result<OwnedFd> {
    let mut attributes = CreateAttributes {
        kind: wanted.kind,
        key_size: wanted.key,
        value_size: wanted.value,
        max_entries: wanted.entries,
        flags: wanted.flags,
        inner_map_fd: 0,
        numa_node: 0,
        name: [0; 16],
    };
    let length = name.len().min(15);
    attributes.name[..length].copy_from_slice(&name.as_bytes()[..length]);
    // SAFETY: the layout of BPF_MAP_CREATE, which holds no pointers.
    unsafe { command_fd(bpf_cmd::BPF_MAP_CREATE, &mut attributes) }
}

/// What the map behind a descriptor is.
pub(crate) fn describe(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    // SAFETY: the kernel's structure for maps, numbers only.
    let info: bpf_map_info = unsafe { info(fd) }?;
    Ok(MapInfo {
        kind: info.type_,
        key: info.key_size,
        value: info.value_size,
        entries: info.max_entries,
        // The kernel adds flags of its own to those a map was made with.
        flags: info.map_flags & (NO_PREALLOC | MMAPABLE),
    })
}

/// How many entries a hash holds, whatever its keys and values are.
pub(crate) fn count(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let info = describe(fd)?;
    let size = info.key as usize;
    let (mut key, mut next, mut count) = (None::<Vec<u8>>, vec![0u8; size], 0);
    loop {
        let mut attributes = ElementAttributes {
            fd: fd.as_raw_fd() as u32,
            reserved: 0,
            key: key.as_ref().map_or(0, |key| key.as_ptr() as u64),
            value: next.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the layout of BPF_MAP_GET_NEXT_KEY; both keys are vectors of the map's key size, the first may be null.
        match unsafe { command(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attributes) } {
            Ok(_) => count += 1,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(count),
            Err(error) => return Err(error),
        }
        // A key that vanishes meanwhile makes the walk begin anew: it must end in any case.
        if count >= u64::from(info.entries) {
            return Ok(count);
        }
        key = Some(next.clone());
    }
}

fn wrong_size(what: &str, found: u32, expected: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("its {what} has {found} bytes instead of {expected}"))
}

/// A map of one value for each key.
#[derive(Clone, Debug)]
pub(crate) struct Map<K, V> {
    fd: Arc<OwnedFd>,
    entries: u32,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Pod, V: Pod> Map<K, V> {
    /// The map behind this descriptor, if it has keys and values of these types.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let info = describe(fd.as_fd())?;
        if info.key as usize != size_of::<K>() {
            return Err(wrong_size("key", info.key, size_of::<K>()));
        }
        if info.value as usize != size_of::<V>() {
            return Err(wrong_size("value", info.value, size_of::<V>()));
        }
        Ok(Self { fd: Arc::new(fd), entries: info.entries, types: PhantomData })
    }

    /// How many entries it holds at most.
    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    fn element<T>(&self, key: &K, value: *mut T, flags: u64) -> ElementAttributes {
        ElementAttributes {
            fd: self.fd.as_raw_fd() as u32,
            reserved: 0,
            key: std::ptr::from_ref(key) as u64,
            value: value as u64,
            flags,
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = MaybeUninit::<V>::uninit();
        let mut attributes = self.element(key, value.as_mut_ptr(), 0);
        // SAFETY: the layout of BPF_MAP_LOOKUP_ELEM; `new` has checked that key and value have the map's sizes.
        match unsafe { command(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attributes) } {
            // SAFETY: the kernel has written all of it, and any bytes are a valid `Pod`.
            Ok(_) => Ok(Some(unsafe { value.assume_init() })),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the value of a key.
    pub(crate) fn put(&self, key: &K, value: &V, put: Put) -> io::Result<()> {
        let mut attributes = self.element(key, std::ptr::from_ref(value).cast_mut(), put as u64);
        // SAFETY: the layout of BPF_MAP_UPDATE_ELEM; `new` has checked the sizes, and the kernel only reads the value.
        unsafe { command(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes) }.map(drop)
    }

    /// Deletes a key; whether it was there.
    pub(crate) fn delete(&self, key: &K) -> io::Result<bool> {
        let mut attributes = self.element(key, std::ptr::null_mut::<V>(), 0);
        // SAFETY: the layout of BPF_MAP_DELETE_ELEM; `new` has checked the key's size.
        match unsafe { command(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attributes) } {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All keys, one at a time: for kinds of maps whose bookmark of a walk is a key. Of those that come and go meanwhile some
    /// are seen.
    pub(crate) fn keys(&self) -> io::Result<Vec<K>> {
        let mut keys: Vec<K> = Vec::new();
        loop {
            let mut next = MaybeUninit::<K>::uninit();
            let mut attributes = ElementAttributes {
                fd: self.fd.as_raw_fd() as u32,
                reserved: 0,
                key: keys.last().map_or(0, |key| std::ptr::from_ref(key) as u64),
                value: next.as_mut_ptr() as u64,
                flags: 0,
            };
            // SAFETY: the layout of BPF_MAP_GET_NEXT_KEY; both keys have the map's size, and the first may be null.
            match unsafe { command(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attributes) } {
                // SAFETY: the kernel has written all of it, and any bytes are a valid `Pod`.
                Ok(_) => keys.push(unsafe { next.assume_init() }),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
                Err(error) => return Err(error),
            }
            // A key that vanishes meanwhile makes the walk begin anew: it must end in any case.
            if keys.len() >= self.entries as usize {
                return Ok(keys);
            }
        }
    }

    /// All entries, some thousand at a time.
    pub(crate) fn batches(&self) -> Batches<'_, K, V> {
        Batches { map: self, position: None, size: BATCH, done: false }
    }

    /// All entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = io::Result<(K, V)>> {
        self.batches().flat_map(|batch| match batch {
            Ok(entries) => entries.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    }
}

impl<V: Pod> Map<u32, V> {
    /// `count` values of an array from index `first` on.
    pub(crate) fn range(&self, first: u32, count: u32) -> io::Result<Vec<(u32, V)>> {
        let position = first.checked_sub(1);
        let mut left = count.min(self.entries.saturating_sub(first)) as usize;
        let mut batches = Batches { map: self, position, size: BATCH, done: false };
        let mut values = Vec::with_capacity(left);
        while left > 0 {
            batches.size = left.min(BATCH);
            let Some(batch) = batches.next() else { break };
            let batch = batch?;
            left = left.saturating_sub(batch.len());
            values.extend(batch);
        }
        Ok(values)
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A walk through a map.
///
/// Entries that are there all the time are seen; of those that come and go meanwhile some are. It ends in any case: the
/// kernel walks arrays by index and hashes by bucket.
pub(crate) struct Batches<'a, K, V> {
    map: &'a Map<K, V>,
    /// The kernel's bookmark: an array's last index, a hash's next bucket.
    position: Option<u32>,
    size: usize,
    done: bool,
}

impl<K, V> Batches<'_, K, V> {
    /// Where a later walk may go on: after the end at the beginning.
    pub(crate) fn position(&self) -> Option<u32> {
        self.position.filter(|_| !self.done)
    }

    /// Whether everything has been seen.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Where a later walk may go on; `None`: this one has come to its end.
    pub(crate) fn goes_on(&self) -> Option<u32> {
        self.position.filter(|_| !self.done)
    }

    /// Reads about so many entries at a time.
    pub(crate) fn of(mut self, size: usize) -> Self {
        self.size = size.clamp(1, BATCH);
        self
    }

    /// Goes on where an earlier walk stood.
    pub(crate) fn resume(mut self, position: Option<u32>) -> Self {
        self.position = position;
        self
    }
}

impl<K: Pod, V: Pod> Iterator for Batches<'_, K, V> {
    type Item = io::Result<Vec<(K, V)>>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            match self.read() {
                Ok(batch) if batch.is_empty() => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => self.size *= 2,
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
                batch => return Some(batch),
            }
        }
        None
    }
}

impl<K: Pod, V: Pod> Batches<'_, K, V> {
    fn read(&mut self) -> io::Result<Vec<(K, V)>> {
        let mut keys = Vec::<K>::with_capacity(self.size);
        let mut values = Vec::<V>::with_capacity(self.size);
        let mut out_batch = 0u32;
        let in_batch = self.position;
        let mut attributes = BatchAttributes {
            in_batch: in_batch.as_ref().map_or(0, |position| std::ptr::from_ref(position) as u64),
            out_batch: (&raw mut out_batch) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: self.size as u32,
            fd: self.map.fd.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the layout of BPF_MAP_LOOKUP_BATCH. Both vectors have room for `count` entries of the map's sizes, which
        // `Map::new` has checked; the bookmarks are of the four bytes that arrays (an index) and hashes (a bucket) use.
        let result = unsafe { command(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attributes) };
        match result {
            Ok(_) => self.position = Some(out_batch),
            // The end: what is left has been written.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.done = true,
            Err(error) => return Err(error),
        }
        let count = (attributes.count as usize).min(self.size);
        // SAFETY: the kernel has written that many entries, and any bytes are a valid `Pod`.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        Ok(keys.into_iter().zip(values).collect())
    }
}

/// An array with one copy of each value for each CPU.
#[derive(Clone, Debug)]
pub(crate) struct PerCpuArray<V> {
    fd: Arc<OwnedFd>,
    entries: u32,
    cpus: usize,
    types: PhantomData<fn() -> V>,
}

impl<V: Pod> PerCpuArray<V> {
    /// The array behind this descriptor, if its values are of this type.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        const { assert!(size_of::<V>().is_multiple_of(8), "the kernel rounds each CPU's copy up to eight bytes") };
        let info = describe(fd.as_fd())?;
        if info.key != 4 {
            return Err(wrong_size("key", info.key, 4));
        }
        if info.value as usize != size_of::<V>() {
            return Err(wrong_size("value", info.value, size_of::<V>()));
        }
        let cpus =
            aya::util::nr_cpus().map_err(|(path, error)| io::Error::new(error.kind(), format!("{path}: {error}")))?;
        Ok(Self { fd: Arc::new(fd), entries: info.entries, cpus, types: PhantomData })
    }

    /// How many values it holds.
    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    /// Every CPU's copy of a value.
    pub(crate) fn get(&self, index: u32) -> io::Result<Vec<V>> {
        let mut copies = Vec::<V>::with_capacity(self.cpus);
        let mut attributes = ElementAttributes {
            fd: self.fd.as_raw_fd() as u32,
            reserved: 0,
            key: (&raw const index) as u64,
            value: copies.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the layout of BPF_MAP_LOOKUP_ELEM; the vector has room for one value for each possible CPU, which is what
        // the kernel writes, and `new` has checked the value's size.
        unsafe { command(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attributes) }?;
        // SAFETY: the kernel has written all of them, and any bytes are a valid `Pod`.
        unsafe { copies.set_len(self.cpus) };
        Ok(copies)
    }

    /// The values of the indexes below `count`, each added up over the CPUs by `add`: many by each call.
    pub(crate) fn sums(&self, count: u32, add: impl Fn(&V, &V) -> V) -> io::Result<Vec<V>> {
        let count = count.min(self.entries) as usize;
        let mut sums = Vec::with_capacity(count);
        while sums.len() < count {
            let chunk = (count - sums.len()).min(BATCH / self.cpus + 1);
            let mut indexes = Vec::<u32>::with_capacity(chunk);
            let mut copies = Vec::<V>::with_capacity(chunk * self.cpus);
            let (before, mut last) = ((sums.len() as u32).checked_sub(1), 0u32);
            let mut attributes = BatchAttributes {
                in_batch: before.as_ref().map_or(0, |index| std::ptr::from_ref(index) as u64),
                out_batch: (&raw mut last) as u64,
                keys: indexes.as_mut_ptr() as u64,
                values: copies.as_mut_ptr() as u64,
                count: chunk as u32,
                fd: self.fd.as_raw_fd() as u32,
                element_flags: 0,
                flags: 0,
            };
            // SAFETY: the layout of BPF_MAP_LOOKUP_BATCH. The vectors have room for `chunk` indexes, and for one value of each
            // for each possible CPU, which is what the kernel writes; `new` has checked the value's size.
            let read = unsafe { command(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attributes) };
            // ENOENT says that this was the array's end.
            read.map(drop)
                .or_else(|error| if error.raw_os_error() == Some(libc::ENOENT) { Ok(()) } else { Err(error) })?;
            let read = (attributes.count as usize).min(chunk);
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // SAFETY: the kernel has written the copies of that many values, and any bytes are a valid `Pod`.
            unsafe { copies.set_len(read * self.cpus) };
            let sum = |copies: &[V]| copies[1..].iter().fold(copies[0], |sum, copy| add(&sum, copy));
            sums.extend(copies.chunks(self.cpus).map(sum));
        }
        Ok(sums)
    }

    /// Writes every CPU's copy of a value.
    pub(crate) fn put(&self, index: u32, mut copies: Vec<V>) -> io::Result<()> {
        assert_eq!(copies.len(), self.cpus, "one copy for each possible CPU");
        let mut attributes = ElementAttributes {
            fd: self.fd.as_raw_fd() as u32,
            reserved: 0,
            key: (&raw const index) as u64,
            value: copies.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the layout of BPF_MAP_UPDATE_ELEM; the vector holds one value for each possible CPU, which is what the
        // kernel reads, and `new` has checked the value's size.
        unsafe { command(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes) }.map(drop)
    }

    /// Sets every CPU's copy of a value.
    pub(crate) fn fill(&self, index: u32, value: V) -> io::Result<()> {
        self.put(index, vec![value; self.cpus])
    }
}
