//! A hash table of our own, over two BPF arrays: one of words and one of entries.
//!
//! What a packet of a known flow costs among many flows is how many places in memory it must look at one after the other. A hash of
//! the kernel's takes it to the head of a list, to the key and to the value; this table to the entry alone. A word of eight
//! bytes says all that must be known of a *set* of seven entries before one of them is looked at: a *tag* for each, which is
//! eight bits of its key's hash, and a byte of its own. The words of a million entries are a megabyte, which caches hold.
//!
//! ```text
//! words    ... | tag 0 | tag 1 | tag 2 | tag 3 | tag 4 | tag 5 | tag 6 | locked, changes | ...      a set
//! entries  ... |  key, value   |  key, value   |  key, value   | ...                                 seven of them
//! ```
//!
//! A key may stand in two sets that its hash names. It comes into the first, its *home*, as long as that has fewer than [`EASY`]
//! entries, and otherwise into that of the two which has more room. So few keys stand in their second set, and nobody finds
//! both full before the table is more than half full.
//!
//! In a set a key takes its *favourite* place, which its hash names too, if that is free. So the processor, which guesses that a key
//! stands where most keys stand, asks memory for the entry before the word has come that tells where it is.
//!
//! Readers take no lock, and may see an entry that is given to another key at this moment, as in the kernel's own preallocated
//! hashes. Who inserts a key in the datapath locks its home, by one bit and for some hundred nanoseconds, so that nobody else enters the same
//! key; there nothing can interrupt him. User space never locks, since it may be interrupted for long or killed: it changes a
//! word in one step or not at all, as who deletes does everywhere.
//!
//! The hash is pair-multiply-shift (Thorup, "High Speed Hashing for Integers and Strings", 2015, section 4) with seeds that nobody
//! outside knows: strongly universal, so that nobody can choose tuples that meet in one set.

use crate::atomic::{add, exchange, load, settled};
use crate::record;
use core::sync::atomic::AtomicU64;

/// Entries in a set.
pub const WAYS: u32 = 7;
/// So many entries a set takes before the other set of a key is looked at.
const EASY: u32 = 4;
/// The tag of an entry that is not there.
const EMPTY: u64 = 0;
/// The tag of an entry that is being written.
const BUSY: u64 = 1;
/// The smallest tag of a key.
const FIRST_TAG: u64 = 2;
/// A one in each byte.
const ONES: u64 = 0x0101_0101_0101_0101;
/// The highest bit of each tag.
const HIGH: u64 = 0x0080_8080_8080_8080;
/// The set is locked.
const LOCKED: u64 = 1 << 63;
/// One more change, of seven bits.
const CHANGE: u64 = 1 << 56;
const CHANGES: u64 = 0x7f << 56;
/// How often a lock is tried before a table counts as contended.
const LOCK_TRIES: u32 = 128;
/// The same for a change of a word.
const TRIES: u32 = 8;
/// Words of the longest key.
const LONGEST: usize = 5;

/// What must be known to find a key: the only value of the map [`crate::maps::HASHING`]. It is written once, before the first
/// packet.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Hashing {
    /// Random numbers, two for each word of a key.
    pub seeds: [u64; 2 * LONGEST],
    /// Sets of a table.
    pub sets: u32,
    /// Flows of each family that the tables were made for.
    pub max_flows: u32,
}

record!(Hashing = 88);

impl Hashing {
    /// Where `key` may stand.
    #[inline(always)]
    pub fn place<K: Key>(&self, key: &K) -> Place {
        const { assert!(size_of::<K>().is_multiple_of(8) && size_of::<K>() / 8 <= LONGEST && align_of::<K>() == 8) };
        let words = core::ptr::from_ref(key).cast::<u64>();
        let (mut sum, mut word) = (0u64, 0);
        while word < size_of::<K>() / 8 {
            // SAFETY: a key is a number of whole, aligned words.
            let both = unsafe { words.add(word).read() };
            let low = (both & 0xffff_ffff).wrapping_add(self.seeds[2 * word]);
            let high = (both >> 32).wrapping_add(self.seeds[2 * word + 1]);
            sum = sum.wrapping_add(low.wrapping_mul(high));
            word += 1;
        }
        Place { sum: settled(sum), sets: self.sets }
    }
}

/// A key: whole words without padding.
///
/// # Safety
/// The type has no padding, and every bit of it counts.
pub unsafe trait Key: Copy {}

/// A key with its value.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<K, V> {
    /// The key.
    pub key: K,
    /// The value.
    pub value: V,
}

// SAFETY: both are; and whole words behind each other have no padding between them.
#[cfg(feature = "user")]
unsafe impl<K: Key + aya::Pod, V: aya::Pod> aya::Pod for Entry<K, V> {}

/// Where a key may stand.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    sum: u64,
    sets: u32,
}

impl Place {
    /// The set that is looked at first.
    #[inline(always)]
    pub fn home(self) -> u32 {
        (((self.sum >> 32) * u64::from(self.sets)) >> 32) as u32
    }

    /// The other set; of few keys the same.
    #[inline(always)]
    pub fn other(self) -> u32 {
        (((self.mixed() & 0xffff_ffff) * u64::from(self.sets)) >> 32) as u32
    }

    /// The place in a set that the key takes if it is free. It is known before the set's word has come from memory, so the processor
    /// can guess that the key stands there and wait for both at the same time.
    #[inline(always)]
    fn favourite(self) -> u32 {
        // What is left of the product of which `home` is the whole number.
        let fraction = ((self.sum >> 32) * u64::from(self.sets)) & 0xffff_ffff;
        ((fraction * u64::from(WAYS)) >> 32) as u32
    }

    /// Which of the free places of a set, if any, the key takes.
    #[inline(always)]
    fn choice(self, free: u64) -> u32 {
        let favourite = self.favourite();
        if free & 0x80 << (8 * favourite) != 0 { favourite } else { lowest(free) }
    }

    /// Whether a key with this place may stand in a set with a tag.
    pub fn may_be(self, set: u32, tag: u8) -> bool {
        self.tag() == u64::from(tag) && (self.home() == set || self.other() == set)
    }

    /// The key's tag.
    #[inline(always)]
    fn tag(self) -> u64 {
        let tag = self.mixed() >> 56;
        if tag < FIRST_TAG { tag + FIRST_TAG } else { tag }
    }

    /// The same number with each bit dependent on all below it (a step of `SplitMix64`).
    #[inline(always)]
    fn mixed(self) -> u64 {
        (self.sum ^ self.sum >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }
}

/// Where a table lies. The entries of the set `n` are those from `n * WAYS` on.
pub trait Memory<K, V> {
    /// What is found of an entry.
    type Found;

    /// The word of a set, if there is such a set.
    fn word(&self, set: u32) -> Option<&AtomicU64>;

    /// What an entry holds, if it is this key's. It may be given to another key at this moment: then its words are of both, and
    /// what this says was so a moment ago.
    fn get(&self, index: u32, key: &K) -> Option<Self::Found>;

    /// Writes an entry that is nobody else's now; whether that was done.
    fn put(&self, index: u32, key: &K, value: &V) -> bool;

    /// Whether an entry keeps its place: for good, or because it was met again since it was entered or last asked this; from now on
    /// it was not.
    fn take_stays(&self, index: u32) -> bool;
}

/// Why a key was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is there already.
    Exists,
    /// Neither of its sets has room, or others change them all the time.
    Full,
}

/// The index of an entry of a key's home, whose word this is, that has its tag: of its favourite place, else the first; [`NOWHERE`]
/// if there is none. Nearly every key that is there stands at it. No loop: what the verifier follows on every path must be short.
#[inline(always)]
pub fn first(home: &AtomicU64, place: Place) -> u32 {
    let (word, favourite) = (load(home), place.favourite());
    // A branch, not a choice of numbers: only what a branch leads to can be guessed.
    if word >> (8 * favourite) & 0xff == place.tag() {
        return place.home() * WAYS + favourite;
    }
    let hits = places_of(word, place.tag());
    if hits == 0 { NOWHERE } else { place.home() * WAYS + lowest(hits) }
}

/// [`index`] without a loop, or [`UNSURE`] if a key that stands at the first place with its tag is another.
#[inline(always)]
pub fn glance<K: Key, V, M: Memory<K, V>>(memory: &M, place: Place, key: &K) -> u32 {
    let (Some(home), Some(other)) = (memory.word(place.home()), memory.word(place.other())) else { return NOWHERE };
    // Asked for, but not waited for: who is about to enter the key asks for it again.
    let word_of_other = load(other);
    let guessed = first(home, place);
    if guessed != NOWHERE && memory.get(guessed, key).is_some() {
        return guessed;
    }
    let (at_home, at_other) = (places_of(load(home), place.tag()), places_of(word_of_other, place.tag()));
    if at_home | at_other == 0 {
        return NOWHERE;
    }
    let (set, hits) = if at_home == 0 { (place.other(), at_other) } else { (place.home(), at_home) };
    let index = set * WAYS + lowest(hits);
    if memory.get(index, key).is_some() { index } else { UNSURE }
}

/// What is found of a key.
#[inline(always)]
pub fn find<K: Key, V, M: Memory<K, V>>(memory: &M, place: Place, key: &K) -> Option<M::Found> {
    let (_, found) = look(memory, place.home(), place, key).or_else(|| look(memory, place.other(), place, key))?;
    Some(found)
}

/// The index of the entry of a key.
pub fn index<K: Key, V, M: Memory<K, V>>(memory: &M, place: Place, key: &K) -> Option<u32> {
    let (index, _) = look(memory, place.home(), place, key).or_else(|| look(memory, place.other(), place, key))?;
    Some(index)
}

/// The index of the entry of a key in one of its sets, and what is found there.
#[inline(always)]
pub fn look<K: Key, V, M: Memory<K, V>>(memory: &M, set: u32, place: Place, key: &K) -> Option<(u32, M::Found)> {
    let mut hits = places_of(load(memory.word(set)?), place.tag());
    // Some may be false, but no more than there are places.
    let mut left = WAYS;
    while hits != 0 && left > 0 {
        let index = set * WAYS + lowest(hits);
        if let Some(found) = memory.get(index, key) {
            return Some((index, found));
        }
        hits &= hits - 1;
        left -= 1;
    }
    None
}

/// Enters a key that must be new, without a lock: for who could be interrupted or killed while he holds one. The key should be his
/// own. Where the datapath enters it at this very moment it may stand twice, and one of the two is met no more.
pub fn insert<K: Key, V, M: Memory<K, V>>(memory: &M, place: Place, key: &K, value: &V) -> Result<(), Refused> {
    if index(memory, place, key).is_some() {
        return Err(Refused::Exists);
    }
    let index = claim(memory, place);
    if index == NOWHERE {
        return Err(Refused::Full);
    }
    let is_written = memory.put(index, key, value);
    publish(memory, place, index, is_written);
    if is_written { Ok(()) } else { Err(Refused::Full) }
}

/// Enters a key that must be new, as nearly always can be done in one go: neither of its sets has its tag, one of them has room, and
/// nobody else changes them. No loop either. Returns whether it was entered; if not, [`insert_locked`] can tell why.
#[inline(always)]
pub fn insert_at_once<K: Key, V, M: Memory<K, V>>(memory: &M, place: Place, key: &K, value: &V) -> bool {
    let (Some(home), Some(other)) = (memory.word(place.home()), memory.word(place.other())) else { return false };
    let (seen, seen_other) = (load(home), load(other));
    if seen & LOCKED != 0 || places_of(seen, place.tag()) != 0 {
        return false;
    }
    let (free_at_home, free_at_other) = (free_of(seen), free_of(seen_other));
    let is_home = prefers_home(free_at_home, free_at_other);
    let free = if is_home { free_at_home } else { free_at_other };
    if free == 0 {
        return false;
    }
    let way = place.choice(free);
    // If it goes there, its home is locked and the entry taken in one step.
    let locked = if is_home { with_tag(seen, way, BUSY) } else { changed(seen) } | LOCKED;
    if !exchange(home, seen, locked) {
        return false;
    }
    // Who has entered the same key in its other set had locked its home until then.
    let is_taken = if is_home {
        places_of(load(other), place.tag()) == 0
    } else {
        places_of(seen_other, place.tag()) == 0 && exchange(other, seen_other, with_tag(seen_other, way, BUSY))
    };
    let set = if is_home { place.home() } else { place.other() };
    let is_entered = is_taken && memory.put(set * WAYS + way, key, value);
    let publication = publication(place, way, is_entered);
    if is_home {
        add(home, publication.wrapping_add(LOCKED));
    } else {
        if is_taken {
            add(other, publication);
        }
        add(home, LOCKED);
    }
    is_entered
}

/// The steps of an insertion by the datapath: functions of this module, each of which the verifier looks at by itself. All take the
/// key, and find its place anew, since what must be kept from step to step takes room on a stack that has none.
pub trait Steps<K, V> {
    /// [`lock`].
    fn lock(&self, key: &K) -> bool;
    /// [`unlock`].
    fn unlock(&self, key: &K);
    /// [`index`], or [`NOWHERE`].
    fn index(&self, key: &K) -> u32;
    /// [`claim`].
    fn claim(&self, key: &K) -> u32;
    /// [`evict`].
    fn evict(&self, key: &K) -> u32;
    /// [`Memory::put`] and [`publish`].
    fn enter(&self, key: &K, value: &V, index: u32);
}

/// Enters a key that must be new. Nothing may interrupt who does this, but for a short time.
#[inline(always)]
pub fn insert_locked<K, V, S: Steps<K, V>>(steps: &S, key: &K, value: &V) -> Result<(), Refused> {
    if !steps.lock(key) {
        return Err(Refused::Full);
    }
    if steps.index(key) != NOWHERE {
        steps.unlock(key);
        return Err(Refused::Exists);
    }
    let mut index = steps.claim(key);
    if index == NOWHERE {
        index = steps.evict(key);
    }
    if index != NOWHERE {
        steps.enter(key, value, index);
    }
    steps.unlock(key);
    if index == NOWHERE { Err(Refused::Full) } else { Ok(()) }
}

/// Says whose an entry is that was taken, or that it is nobody's.
#[inline(always)]
pub fn publish<K, V, M: Memory<K, V>>(memory: &M, place: Place, index: u32, is_written: bool) {
    if let Some(word) = memory.word(index / WAYS) {
        add(word, publication(place, index % WAYS, is_written));
    }
}

/// What is to be added to a set's word for that.
#[inline(always)]
fn publication(place: Place, way: u32, is_written: bool) -> u64 {
    let tag = if is_written { place.tag() } else { EMPTY };
    // The byte that says BUSY becomes the tag, without a carry.
    tag.wrapping_sub(BUSY) << (8 * way)
}

/// Deletes a key from the entry at which it was found a moment ago; whether it still was there and the set as it had been.
#[inline(always)]
pub fn erase<K: Key, V, M: Memory<K, V>>(memory: &M, key: &K, index: u32) -> bool {
    let way = index % WAYS;
    let Some(word) = memory.word(index / WAYS) else { return false };
    let seen = load(word);
    let is_held = seen >> (8 * way) & 0xff >= FIRST_TAG && memory.get(index, key).is_some();
    // If the entry is given to another from here on, the word changes.
    is_held && exchange(word, seen, with_tag(seen, way, EMPTY))
}

/// Deletes a key; whether it was there.
pub fn delete<K: Key, V, M: Memory<K, V>>(memory: &M, place: Place, key: &K) -> bool {
    for _ in 0..TRIES {
        let Some(index) = index(memory, place, key) else { return false };
        if erase(memory, key, index) {
            return true;
        }
    }
    false
}

/// No entry's index.
pub const NOWHERE: u32 = u32::MAX;
/// Nor is this: [`glance`] does not tell.
pub const UNSURE: u32 = u32::MAX - 1;

/// Locks a key's home, so that no two enter the same key; whether that succeeded.
#[inline(always)]
pub fn lock<K, V, M: Memory<K, V>>(memory: &M, place: Place) -> bool {
    let Some(word) = memory.word(place.home()) else { return false };
    let mut tries = LOCK_TRIES;
    while tries > 0 {
        let seen = load(word);
        if seen & LOCKED == 0 && exchange(word, seen, changed(seen) | LOCKED) {
            return true;
        }
        tries -= 1;
    }
    false
}

/// Unlocks a key's home again.
#[inline(always)]
pub fn unlock<K, V, M: Memory<K, V>>(memory: &M, place: Place) {
    if let Some(word) = memory.word(place.home()) {
        // The highest bit: one more makes it zero.
        add(word, LOCKED);
    }
}

/// Takes a free entry of one of a key's sets; its index, or [`NOWHERE`].
#[inline(always)]
pub fn claim<K, V, M: Memory<K, V>>(memory: &M, place: Place) -> u32 {
    let (home, other) = (place.home(), place.other());
    let (Some(at_home), Some(at_other)) = (memory.word(home), memory.word(other)) else { return NOWHERE };
    let is_home = prefers_home(free_of(load(at_home)), free_of(load(at_other)));
    let (set, word) = if is_home { (home, at_home) } else { (other, at_other) };
    let mut tries = TRIES;
    while tries > 0 {
        let seen = load(word);
        let free = free_of(seen);
        if free == 0 {
            return NOWHERE;
        }
        let way = place.choice(free);
        if exchange(word, seen, with_tag(seen, way, BUSY)) {
            return set * WAYS + way;
        }
        tries -= 1;
    }
    NOWHERE
}

/// Whether a key goes to its home, as far as these are the free places of its sets.
#[inline(always)]
const fn prefers_home(free: u64, free_at_other: u64) -> bool {
    let room = count(free);
    room >= WAYS - EASY || room >= count(free_at_other)
}

/// How many places are marked.
#[inline(always)]
const fn count(marks: u64) -> u32 {
    ((marks >> 7).wrapping_mul(ONES) >> 56) as u32
}

/// Takes an entry of one of a key's sets that was not met for long, as far as one bit for each tells (the algorithm called CLOCK), and
/// that may be taken; its index, or [`NOWHERE`]. The sets are asked in turns, the home first: that of the two which keeps more gives
/// way less often, so few find nothing but kept entries in both: at the nominal number of kept entries, one in some two thousand.
#[inline(always)]
pub fn evict<K, V, M: Memory<K, V>>(memory: &M, place: Place) -> u32 {
    let mut set = place.home();
    // Twice around each, for those that were met since the last time.
    let mut tries = 4 * WAYS;
    while tries > 0 {
        tries -= 1;
        let Some(word) = memory.word(set) else { return NOWHERE };
        let seen = load(word);
        // The changes tell how far the hand of the clock has come.
        let way = (seen >> 56 & 0x7f) as u32 % WAYS;
        // The mark may be another's by now, who then stays a little longer or goes a little earlier.
        let stays = seen >> (8 * way) & 0xff == BUSY || memory.take_stays(set * WAYS + way);
        let next = if stays { changed(seen) } else { with_tag(seen, way, BUSY) };
        if exchange(word, seen, next) && !stays {
            return set * WAYS + way;
        }
        set = if tries & 1 == 0 { place.home() } else { place.other() };
    }
    NOWHERE
}

/// The word with another tag in one place, and one more change.
#[inline(always)]
const fn with_tag(word: u64, way: u32, tag: u64) -> u64 {
    changed(word) & !(0xff << (8 * way)) | tag << (8 * way)
}

/// The word with one more change: who has seen it before cannot take it for what he has seen. So many times around the places that
/// the hand of the clock jumps over none when the changes begin anew.
#[inline(always)]
const fn changed(word: u64) -> u64 {
    const LAST: u64 = (0x80 / WAYS as u64 * WAYS as u64 - 1) << 56;
    if word & CHANGES >= LAST { word & !CHANGES } else { word + CHANGE }
}

/// The highest bit of each place that has this tag. Of several the lowest is right; those above it may be wrong, and their keys tell.
#[inline(always)]
const fn places_of(word: u64, tag: u64) -> u64 {
    let zero = word ^ (tag * ONES);
    zero.wrapping_sub(ONES) & !zero & HIGH
}

/// The highest bit of each free place.
#[inline(always)]
const fn free_of(word: u64) -> u64 {
    // Exact, unlike the above: no borrow reaches the next place.
    !((word & (0x7f * ONES)).wrapping_add(0x7f * ONES) | word) & HIGH
}

/// The lowest place that is marked by its highest bit.
#[inline(always)]
const fn lowest(marks: u64) -> u32 {
    /// In each byte the number of the byte as counted from above.
    const NUMBERS: u64 = 0x0001_0203_0405_0607;
    (((marks & marks.wrapping_neg()) >> 7).wrapping_mul(NUMBERS) >> 56) as u32
}

/// Whether two keys are the same, word by word.
///
/// # Safety
/// `stored` may be read.
#[inline(always)]
pub unsafe fn is_same<K: Key>(stored: *const K, key: &K) -> bool {
    let (stored, key) = (stored.cast::<u64>(), core::ptr::from_ref(key).cast::<u64>());
    let mut word = 0;
    while word < size_of::<K>() / 8 {
        // SAFETY: a key is a number of whole, aligned words.
        if unsafe { stored.add(word).read_volatile() != key.add(word).read() } {
            return false;
        }
        word += 1;
    }
    true
}

/// A word taken apart, for who walks through a table: the places that hold a key, with its tag.
pub fn held(word: u64) -> impl Iterator<Item = (u32, u8)> {
    // Of a table that is nearly empty this is what a walk costs.
    let ways = if word.trailing_zeros() >= 8 * WAYS { 0 } else { WAYS };
    (0..ways).map(move |way| (way, (word >> (8 * way)) as u8)).filter(|(_, tag)| u64::from(*tag) >= FIRST_TAG)
}

#[cfg(test)]
mod tests;
