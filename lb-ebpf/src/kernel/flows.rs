//! The flow tables: [`lb_common::table`] over this object's maps.
//!
//! What searches, enters and deletes is a *global* function of BPF: the verifier looks at it once, for whatever key, and not again
//! on every way that leads to it. Such functions take pointers that may be null, as far as the verifier knows, and return
//! numbers. The first look, which nearly always is the last, is part of the program itself. Each call costs as much as a look at a
//! table does: nearly always there is one to find a flow and one to enter it, and what may take several steps is apart.

use super::maps::{FLOWS4, FLOWS4_SETS, FLOWS6, FLOWS6_SETS, NEW4, NEW4_SETS, NEW6, NEW6_SETS};
use core::sync::atomic::AtomicU64;
use lb_common::table::{self, Hashing, Memory, NOWHERE, Place, Refused, Steps, UNSURE, is_same};
use lb_common::{Flow, FlowKey};
use lb_ebpf::{InsertError, Table};

// What the functions return that enter flows.
const ENTERED: u32 = 0;
const EXISTS: u32 = 1;
const FULL: u32 = 2;
/// What the function returns that deletes them, if it is to be asked again.
const AGAIN: u32 = 1;

/// The only record of the map [`lb_common::maps::HASHING`], which the loader copies here: a constant is where it is, and a record in a
/// map must be looked up. Mutable for the compiler alone, which would believe what it reads here; the map it lies in is frozen.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.hashing")]
static mut HASHED: Hashing = Hashing { seeds: [0; 10], confirmed: 0, new: 0, max_flows: 0, zero: 0 };

/// How the tables are hashed.
#[inline(always)]
fn hashing() -> &'static Hashing {
    let hashed = &raw const HASHED;
    // SAFETY: nobody writes it while a program runs.
    unsafe { &*hashed }
}

/// Copies whole words one by one. Left to itself the compiler reads them all first, and keeps them on the stack meanwhile.
///
/// # Safety
/// `to` may be written.
#[inline(always)]
unsafe fn copy<T>(from: &T, to: *mut T) {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8) };
    let (from, to) = (core::ptr::from_ref(from).cast::<u64>(), to.cast::<u64>());
    let mut word = 0;
    while word < size_of::<T>() / 8 {
        // SAFETY: both are a number of whole, aligned words.
        unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) };
        word += 1;
    }
}

macro_rules! table {
    (
        $module:ident, $address:ty, $entries:ident, $words:ident, $sets:ident, $evicts:literal,
        $find:ident, $home:ident, $other:ident, $insert:ident, $search:ident, $lock:ident, $unlock:ident, $claim:ident, $evict:ident, $enter:ident, $erase:ident
    ) => {
        pub(super) mod $module {
            use super::*;

            pub(super) struct Maps;

            impl Memory<FlowKey<$address>, Flow<$address>> for Maps {
                /// That it is there.
                type Found = ();

                #[inline(always)]
                fn word(&self, set: u32) -> Option<&AtomicU64> {
                    // SAFETY: an aligned word of a map, which nobody changes but in one step.
                    $words.get_ptr_mut(set).map(|word| unsafe { AtomicU64::from_ptr(word) })
                }

                #[inline(always)]
                fn get(&self, index: u32, key: &FlowKey<$address>) -> Option<()> {
                    let entry = $entries.get_ptr(index)?;
                    // SAFETY: an entry of the map. Other CPUs may write it at the same time: the words that are compared may be of
                    // two keys, and then they are as a rule none's.
                    unsafe { is_same(&raw const (*entry).key, key) }.then_some(())
                }

                #[inline(always)]
                fn put(&self, index: u32, key: &FlowKey<$address>, value: &Flow<$address>) -> bool {
                    let Some(entry) = $entries.get_ptr_mut(index) else { return false };
                    // SAFETY: an entry of the map that was taken for this key: nobody else writes it.
                    unsafe {
                        copy(key, &raw mut (*entry).key);
                        copy(value, &raw mut (*entry).value);
                    }
                    true
                }

                #[inline(always)]
                fn take_met(&self, index: u32) -> bool {
                    let Some(entry) = $entries.get_ptr_mut(index) else { return false };
                    // SAFETY: a byte of an entry of the map.
                    let met = unsafe { &mut (*entry).value.met };
                    let was_met = *met != 0;
                    *met = 0;
                    was_met
                }
            }

            /// The flow of a tuple.
            #[inline(always)]
            pub(in super::super) fn find(key: &FlowKey<$address>) -> Option<*mut Flow<$address>> {
                // SAFETY: an entry of the map.
                $entries.get_ptr_mut(index(key)).map(|entry| unsafe { &raw mut (*entry).value })
            }

            /// The same, for a tuple with this place, if it stands at the first entry that may be its own.
            #[inline(always)]
            pub(in super::super) fn guess(key: &FlowKey<$address>, place: Place) -> Option<*mut Flow<$address>> {
                // No entry is nowhere.
                let entry = $entries.get_ptr_mut(table::first(Maps.word(place.home())?, place))?;
                // SAFETY: an entry of the map, as in `Memory::get`.
                unsafe { is_same(&raw const (*entry).key, key).then_some(&raw mut (*entry).value) }
            }

            /// The index of the entry of a tuple; [`NOWHERE`] if there is none.
            #[inline(always)]
            fn index(key: &FlowKey<$address>) -> u32 {
                match $find(key) {
                    UNSURE => {}
                    index => return index,
                }
                let index = $home(key);
                if index == NOWHERE { $other(key) } else { index }
            }

            /// [`index`], as far as one glance tells.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $find(key: *const FlowKey<$address>) -> u32 {
                // SAFETY: the verifier knows that it leads to a key, or nowhere.
                let Some(key) = (unsafe { key.as_ref() }) else { return NOWHERE };
                table::glance(&Maps, hashing().place(hashing().$sets, key), key)
            }

            /// [`index`] in the tuple's home.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $home(key: *const FlowKey<$address>) -> u32 {
                // SAFETY: as above.
                let Some(key) = (unsafe { key.as_ref() }) else { return NOWHERE };
                let place = hashing().place(hashing().$sets, key);
                table::look(&Maps, place.home(), place, key).map_or(NOWHERE, |(index, ())| index)
            }

            /// [`index`] in its other set.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $other(key: *const FlowKey<$address>) -> u32 {
                // SAFETY: as above.
                let Some(key) = (unsafe { key.as_ref() }) else { return NOWHERE };
                let place = hashing().place(hashing().$sets, key);
                table::look(&Maps, place.other(), place, key).map_or(NOWHERE, |(index, ())| index)
            }

            impl Steps<FlowKey<$address>, Flow<$address>> for Maps {
                #[inline(always)]
                fn lock(&self, key: &FlowKey<$address>) -> bool {
                    $lock(key) != 0
                }

                #[inline(always)]
                fn unlock(&self, key: &FlowKey<$address>) {
                    $unlock(key);
                }

                #[inline(always)]
                fn index(&self, key: &FlowKey<$address>) -> u32 {
                    index(key)
                }

                #[inline(always)]
                fn claim(&self, key: &FlowKey<$address>) -> u32 {
                    $claim(key)
                }

                #[inline(always)]
                fn evict(&self, key: &FlowKey<$address>) -> u32 {
                    if $evicts { $evict(key) } else { NOWHERE }
                }

                #[inline(always)]
                fn enter(&self, key: &FlowKey<$address>, flow: &Flow<$address>, index: u32) {
                    $enter(key, flow, index);
                }
            }

            /// Enters a flow whose tuple must be new.
            #[inline(always)]
            pub(in super::super) fn insert(key: &FlowKey<$address>, flow: &Flow<$address>) -> Result<(), InsertError> {
                if $insert(key, flow) == ENTERED {
                    return Ok(());
                }
                match $search(key, flow) {
                    ENTERED => Ok(()),
                    EXISTS => Err(InsertError::Exists),
                    _ => Err(InsertError::Full),
                }
            }

            /// Returns [`ENTERED`], or that the table is full, as far as one attempt tells.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $insert(key: *const FlowKey<$address>, flow: *const Flow<$address>) -> u32 {
                // SAFETY: as above.
                let Some(key) = (unsafe { key.as_ref() }) else { return FULL };
                // SAFETY: as above.
                let Some(flow) = (unsafe { flow.as_ref() }) else { return FULL };
                let place = hashing().place(hashing().$sets, key);
                if table::insert_at_once(&Maps, place, key, flow) { ENTERED } else { FULL }
            }

            /// The same, with a search for room.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $search(key: *const FlowKey<$address>, flow: *const Flow<$address>) -> u32 {
                // SAFETY: as above.
                let (Some(key), Some(flow)) = (unsafe { key.as_ref() }, unsafe { flow.as_ref() }) else { return FULL };
                match table::insert_locked(&Maps, key, flow) {
                    Ok(()) => ENTERED,
                    Err(Refused::Exists) => EXISTS,
                    Err(Refused::Full) => FULL,
                }
            }

            /// Returns whether the tuple's home is locked now: 0 or 1.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $lock(key: *const FlowKey<$address>) -> u32 {
                // SAFETY: as above.
                let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
                u32::from(table::lock(&Maps, hashing().place(hashing().$sets, key)))
            }

            /// Returns 0.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $unlock(key: *const FlowKey<$address>) -> u32 {
                // SAFETY: as above.
                let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
                table::unlock(&Maps, hashing().place(hashing().$sets, key));
                0
            }

            /// The index of an entry that was free; [`NOWHERE`] if there is none.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $claim(key: *const FlowKey<$address>) -> u32 {
                // SAFETY: as above.
                let Some(key) = (unsafe { key.as_ref() }) else { return NOWHERE };
                table::claim(&Maps, hashing().place(hashing().$sets, key))
            }

            /// The index of an entry that was another's; [`NOWHERE`] if there is none.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $evict(key: *const FlowKey<$address>) -> u32 {
                // SAFETY: as above.
                let Some(key) = (unsafe { key.as_ref() }) else { return NOWHERE };
                table::evict(&Maps, hashing().place(hashing().$sets, key))
            }

            /// Writes an entry and says whose it is. Returns 0.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $enter(key: *const FlowKey<$address>, flow: *const Flow<$address>, index: u32) -> u32 {
                // SAFETY: as above.
                let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
                // SAFETY: as above.
                let Some(flow) = (unsafe { flow.as_ref() }) else { return 0 };
                let is_written = Maps.put(index, key, flow);
                table::publish(&Maps, hashing().place(hashing().$sets, key), index, is_written);
                0
            }

            /// Deletes the flow of a tuple; whether there was one.
            #[inline(always)]
            pub(in super::super) fn delete(key: &FlowKey<$address>) {
                // Again if others have changed its set meanwhile.
                if $erase(key, index(key)) == AGAIN {
                    $erase(key, index(key));
                }
            }

            /// Deletes the flow of a tuple from an entry. Returns [`AGAIN`] if its set was changed meanwhile, otherwise 0.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $erase(key: *const FlowKey<$address>, index: u32) -> u32 {
                // SAFETY: as above.
                let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
                if index == NOWHERE || table::erase(&Maps, key, index) { 0 } else { AGAIN }
            }
        }
    };
}

table!(
    confirmed4,
    [u8; 4],
    FLOWS4,
    FLOWS4_SETS,
    confirmed,
    false,
    find_confirmed4,
    home_confirmed4,
    other_confirmed4,
    insert_confirmed4,
    search_confirmed4,
    lock_confirmed4,
    unlock_confirmed4,
    claim_confirmed4,
    evict_confirmed4,
    enter_confirmed4,
    erase_confirmed4
);
table!(
    confirmed6,
    [u8; 16],
    FLOWS6,
    FLOWS6_SETS,
    confirmed,
    false,
    find_confirmed6,
    home_confirmed6,
    other_confirmed6,
    insert_confirmed6,
    search_confirmed6,
    lock_confirmed6,
    unlock_confirmed6,
    claim_confirmed6,
    evict_confirmed6,
    enter_confirmed6,
    erase_confirmed6
);
table!(
    new4,
    [u8; 4],
    NEW4,
    NEW4_SETS,
    new,
    true,
    find_new4,
    home_new4,
    other_new4,
    insert_new4,
    search_new4,
    lock_new4,
    unlock_new4,
    claim_new4,
    evict_new4,
    enter_new4,
    erase_new4
);
table!(
    new6,
    [u8; 16],
    NEW6,
    NEW6_SETS,
    new,
    true,
    find_new6,
    home_new6,
    other_new6,
    insert_new6,
    search_new6,
    lock_new6,
    unlock_new6,
    claim_new6,
    evict_new6,
    enter_new6,
    erase_new6
);

macro_rules! guessed {
    ($guessed:ident, $address:ty, $confirmed:ident, $new:ident) => {
        /// The flow of a tuple, and where it stands, as far as the first look tells.
        #[inline(always)]
        pub(super) fn $guessed(key: &FlowKey<$address>) -> Option<(Table, *mut Flow<$address>)> {
            let place = hashing().place(hashing().confirmed, key);
            if let Some(flow) = $confirmed::guess(key, place) {
                return Some((Table::Confirmed, flow));
            }
            $new::guess(key, place.among(hashing().new)).map(|flow| (Table::New, flow))
        }
    };
}

guessed!(guessed4, [u8; 4], confirmed4, new4);
guessed!(guessed6, [u8; 16], confirmed6, new6);

macro_rules! claim {
    ($name:ident, $address:ty, $confirmed:ident, $new:ident, $at_once:ident) => {
        /// Enters a flow among the new ones whose tuple must be new there and among the confirmed ones. One hash serves both, and what
        /// the one waits for from memory the other waits for at the same time.
        #[inline(always)]
        pub(super) fn $name(key: &FlowKey<$address>, flow: &Flow<$address>) -> Result<(), InsertError> {
            if $at_once(key, flow) == ENTERED {
                return Ok(());
            }
            if $confirmed::find(key).is_some() {
                return Err(InsertError::Exists);
            }
            $new::insert(key, flow)
        }

        /// Returns [`ENTERED`], or that the table is full, as far as one attempt tells.
        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $at_once(key: *const FlowKey<$address>, flow: *const Flow<$address>) -> u32 {
            // SAFETY: as for the functions of one table.
            let Some(key) = (unsafe { key.as_ref() }) else { return FULL };
            // SAFETY: as above.
            let Some(flow) = (unsafe { flow.as_ref() }) else { return FULL };
            let place = hashing().place(hashing().confirmed, key);
            let Some(home) = $confirmed::Maps.word(place.home()) else { return FULL };
            let is_new = table::is_absent(&$confirmed::Maps, home, place)
                && table::insert_at_once(&$new::Maps, place.among(hashing().new), key, flow);
            if is_new { ENTERED } else { FULL }
        }
    };
}

claim!(claim4, [u8; 4], confirmed4, new4, claim_tuple4);
claim!(claim6, [u8; 16], confirmed6, new6, claim_tuple6);
