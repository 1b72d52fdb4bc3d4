use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::vec::Vec;

#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tuple([u64; 2]);

// SAFETY: two words.
unsafe impl Key for Tuple {}

/// A table in ordinary memory, with words in place of records so that threads may write them.
struct Plain {
    words: Vec<AtomicU64>,
    entries: Vec<[AtomicU64; 3]>,
    met: Vec<AtomicBool>,
    /// The entries that keep their places.
    kept: Vec<AtomicBool>,
    hashing: Hashing,
    evicts: bool,
}

impl Plain {
    fn new(sets: usize, evicts: bool) -> Self {
        let seeds = core::array::from_fn(|n| (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self {
            words: (0..sets).map(|_| AtomicU64::new(0)).collect(),
            entries: (0..sets * WAYS as usize).map(|_| core::array::from_fn(|_| AtomicU64::new(0))).collect(),
            met: (0..sets * WAYS as usize).map(|_| AtomicBool::new(false)).collect(),
            kept: (0..sets * WAYS as usize).map(|_| AtomicBool::new(false)).collect(),
            hashing: Hashing { seeds, sets: sets as u32, ..Hashing::default() },
            evicts,
        }
    }

    fn place(&self, key: &Tuple) -> Place {
        self.hashing.place(key)
    }

    fn find(&self, key: &Tuple) -> Option<u64> {
        let found = find(self, self.place(key), key);
        match glance(self, self.place(key), key) {
            UNSURE => found,
            NOWHERE => None,
            index => self.get(index, key),
        }
    }

    fn insert(&self, key: &Tuple, value: u64) -> Result<(), Refused> {
        let is_entered = insert_at_once(self, self.place(key), key, &value);
        if is_entered { Ok(()) } else { insert_locked(self, key, &value) }
    }

    fn delete(&self, key: &Tuple) -> bool {
        delete(self, self.place(key), key)
    }

    /// What stands in it, as a walk finds it; nothing is locked or half done.
    fn contents(&self) -> BTreeMap<Tuple, u64> {
        let mut contents = BTreeMap::new();
        for (set, word) in self.words.iter().enumerate() {
            let word = word.load(SeqCst);
            assert_eq!(word & LOCKED, 0, "set {set}");
            let free = free_of(word).count_ones();
            assert_eq!(held(word).count() as u32 + free, WAYS, "set {set}: {word:x}");
            for (way, tag) in held(word) {
                let [a, b, value] = &self.entries[set * WAYS as usize + way as usize];
                let key = Tuple([a.load(SeqCst), b.load(SeqCst)]);
                assert!(self.place(&key).may_be(set as u32, tag), "{key:?} in set {set}");
                assert_eq!(contents.insert(key, value.load(SeqCst)), None, "{key:?} stands twice");
            }
        }
        contents
    }
}

impl Memory<Tuple, u64> for Plain {
    type Found = u64;

    fn word(&self, set: u32) -> Option<&AtomicU64> {
        self.words.get(set as usize)
    }

    fn get(&self, index: u32, key: &Tuple) -> Option<u64> {
        let [a, b, value] = &self.entries[index as usize];
        (Tuple([a.load(SeqCst), b.load(SeqCst)]) == *key).then(|| value.load(SeqCst))
    }

    fn put(&self, index: u32, key: &Tuple, value: &u64) -> bool {
        for (word, written) in self.entries[index as usize].iter().zip([key.0[0], key.0[1], *value]) {
            word.store(written, SeqCst);
        }
        self.met[index as usize].store(false, SeqCst);
        true
    }

    fn take_stays(&self, index: u32) -> bool {
        self.met[index as usize].swap(false, SeqCst) || self.kept[index as usize].load(SeqCst)
    }
}

impl Steps<Tuple, u64> for Plain {
    fn lock(&self, key: &Tuple) -> bool {
        lock(self, self.place(key))
    }

    fn unlock(&self, key: &Tuple) {
        unlock(self, self.place(key));
    }

    fn index(&self, key: &Tuple) -> u32 {
        index(self, self.place(key), key).unwrap_or(NOWHERE)
    }

    fn claim(&self, key: &Tuple) -> u32 {
        claim(self, self.place(key))
    }

    fn evict(&self, key: &Tuple) -> u32 {
        if self.evicts { evict(self, self.place(key)) } else { NOWHERE }
    }

    fn enter(&self, key: &Tuple, value: &u64, index: u32) {
        self.put(index, key, value);
        publish(self, self.place(key), index, true);
    }
}

fn tuple(number: u64) -> Tuple {
    // Neighbours, as an attacker would choose them.
    Tuple([0x0a00_0001_0b00_0000 + number, 6 << 32 | 0x50])
}

/// A generator good enough to choose what is done (Marsaglia's xorshift).
fn chance(state: &mut u64, below: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % below
}

#[test]
fn it_does_what_a_map_does() {
    for sets in [1, 3, 64] {
        let (table, mut model, mut state) = (Plain::new(sets, false), BTreeMap::new(), 88_172_645_463_325_252);
        for round in 0..50_000 {
            let key = tuple(chance(&mut state, sets as u64 * 10));
            match chance(&mut state, 3) {
                0 => assert_eq!(table.find(&key), model.get(&key).copied(), "round {round}"),
                1 => assert_eq!(table.delete(&key), model.remove(&key).is_some(), "round {round}"),
                _ => match table.insert(&key, round) {
                    Ok(()) => assert_eq!(model.insert(key, round), None, "round {round}"),
                    Err(Refused::Exists) => assert!(model.contains_key(&key), "round {round}"),
                    Err(Refused::Full) => assert!(model.len() >= WAYS as usize && !model.contains_key(&key)),
                },
            }
        }
        assert_eq!(table.contents(), model);
    }
}

#[test]
fn nobody_is_refused_before_it_is_half_full() {
    let table = Plain::new(20_000, false);
    for number in 0..20_000 * u64::from(WAYS) / 2 {
        assert_eq!(table.insert(&tuple(number), number), Ok(()), "{number}");
    }
    let at_home = |number: &u64| {
        let key = tuple(*number);
        look(&table, table.place(&key).home(), table.place(&key), &key).is_some()
    };
    let home = (0..20_000 * u64::from(WAYS) / 2).filter(at_home).count();
    assert!(home > 60_000, "{home} of 70,000 stand at home");
    let is_guessed = |number: &u64| {
        let place = table.place(&tuple(*number));
        let guess = place.home() * WAYS + place.favourite();
        let found = first(&table.words[place.home() as usize], place);
        found == guess && table.get(guess, &tuple(*number)).is_some()
    };
    let guessed = (0..20_000 * u64::from(WAYS) / 2).filter(is_guessed).count();
    assert!(guessed > 50_000, "{guessed} of 70,000 stand where they are looked for first");
    let mut number = 70_000;
    while table.insert(&tuple(number), number).is_ok() {
        number += 1;
    }
    assert!(number > 77_000, "the first is refused at {number} of 140,000");
}

#[test]
fn a_table_that_evicts_refuses_nobody_and_keeps_what_is_met() {
    let table = Plain::new(100, true);
    let kept: Vec<u64> = (0..100).collect();
    for number in &kept {
        table.insert(&tuple(*number), *number).expect("room");
    }
    for number in 1000..21_000 {
        assert_eq!(table.insert(&tuple(number), number), Ok(()));
        for number in &kept {
            let index = table.index(&tuple(*number));
            assert_ne!(index, NOWHERE, "{number} was met all the time");
            table.met[index as usize].store(true, SeqCst);
        }
    }
    let contents = table.contents();
    assert!(contents.len() > 600, "{} of 700 are used", contents.len());
    assert!(contents.keys().max().is_some_and(|last| *last == tuple(20_999)), "the last is there");
}

#[test]
fn whoever_keeps_his_place_finds_one_in_a_table_that_is_full_of_others() {
    const SETS: u64 = 20_000;
    const NOMINAL: u64 = SETS * WAYS as u64 / 2;
    let table = Plain::new(SETS as usize, true);
    // Not neighbours, which are spread more evenly than by chance.
    let mut state = 88_172_645_463_325_252;
    let mut keys = || -> Vec<Tuple> { (0..2 * NOMINAL).map(|_| tuple(chance(&mut state, 1 << 40))).collect() };
    for key in keys().iter().chain(&keys()) {
        assert_eq!(table.insert(key, 0), Ok(()));
    }
    assert_eq!(table.contents().len() as u64, SETS * u64::from(WAYS), "no entry is free");
    let keys = &keys()[..NOMINAL as usize];
    let refused = keys.iter().filter(|key| {
        let is_refused = table.insert(key, 1).is_err();
        if !is_refused {
            table.kept[table.index(key) as usize].store(true, SeqCst);
        }
        is_refused
    });
    let refused = refused.count();
    // Where only the home is asked it is one in a hundred.
    assert!(refused < NOMINAL as usize / 1000, "{refused} of {NOMINAL}");
    let kept = keys.iter().filter(|key| table.find(key) == Some(1)).count();
    assert_eq!((kept + refused) as u64, NOMINAL);
}

#[test]
fn of_many_who_enter_a_key_one_succeeds() {
    const THREADS: u64 = 4;
    const KEYS: u64 = 20_000;
    let table = Plain::new(KEYS as usize / 3, false);
    let entered: Vec<BTreeSet<u64>> = thread::scope(|scope| {
        let enter = |thread: u64| {
            let table = &table;
            scope.spawn(move || {
                (0..KEYS)
                    .filter(|number| {
                        loop {
                            match table.insert(&tuple(*number), thread) {
                                Ok(()) => break true,
                                Err(Refused::Exists) => break false,
                                // A thread that holds the lock may be interrupted here, as a CPU in the datapath is not.
                                Err(Refused::Full) => thread::yield_now(),
                            }
                        }
                    })
                    .collect()
            })
        };
        let threads: Vec<_> = (0..THREADS).map(enter).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(entered.iter().map(BTreeSet::len).sum::<usize>() as u64, KEYS);
    let contents = table.contents();
    assert_eq!(contents.len() as u64, KEYS);
    for (thread, entered) in entered.iter().enumerate() {
        assert!(entered.iter().all(|number| contents[&tuple(*number)] == thread as u64));
    }
}

#[test]
fn threads_that_come_and_go_disturb_nobody() {
    const THREADS: u64 = 4;
    // Crowded, so that all meet in the same sets.
    let table = Plain::new(32, false);
    let left: Vec<BTreeMap<Tuple, u64>> = thread::scope(|scope| {
        let work = |thread: u64| {
            let table = &table;
            scope.spawn(move || {
                let (mut own, mut state) = (BTreeMap::new(), 88_172_645_463_325_252 + thread);
                for round in 0..100_000 {
                    let key = tuple(chance(&mut state, 40) * THREADS + thread);
                    let user = round % 2 == 0;
                    if chance(&mut state, 2) == 0 {
                        let done = if user {
                            insert(table, table.place(&key), &key, &round)
                        } else {
                            table.insert(&key, round)
                        };
                        match done {
                            Ok(()) => assert_eq!(own.insert(key, round), None),
                            Err(Refused::Exists) => assert!(own.contains_key(&key)),
                            Err(Refused::Full) => assert!(!own.contains_key(&key) || !user),
                        }
                    } else if own.contains_key(&key) {
                        // Others may change its set eight times in a row.
                        while !table.delete(&key) {}
                        own.remove(&key);
                    }
                    assert_eq!(table.find(&key), own.get(&key).copied());
                }
                own
            })
        };
        let threads: Vec<_> = (0..THREADS).map(work).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let all: BTreeMap<Tuple, u64> = left.into_iter().flatten().collect();
    assert_eq!(table.contents(), all);
}

#[test]
fn words_are_taken_apart_rightly() {
    let tags = [0u8, 1, 2, 255, 2, 0, 128];
    let word = tags.iter().rev().fold(0x55u64, |word, tag| word << 8 | u64::from(*tag));
    assert_eq!(held(word).collect::<Vec<_>>(), [(2, 2), (3, 255), (4, 2), (6, 128)]);
    assert_eq!((count(free_of(word)), lowest(free_of(word))), (2, 0));
    assert_eq!(lowest(places_of(word, 255)), 3);
    assert_eq!(places_of(word, 7), 0);
    let changed = with_tag(word, 6, BUSY);
    assert_eq!(changed >> 48, 0x5601);
    assert_eq!(with_tag(0x7d << 56 | LOCKED, 0, BUSY), LOCKED | BUSY, "changes begin anew and leave the lock");
}
