//! The flow tables: [`lb_common::table`] over this object's maps.
//!
//! What searches, enters and deletes is a *global* function of BPF: the verifier looks at it once, for whatever key, and not again
//! on every way that leads to it. Such functions take pointers that may be null, as far as the verifier knows, and return
//! numbers. The first look, which nearly always is the last, is part of the program itself. Each call costs as much as a look at a
//! table does: nearly always there is one to find a flow and one to enter it, and what may take several steps is apart.

use super::maps::{FLOWS4, FLOWS4_SETS, FLOWS6, FLOWS6_SETS};
use core::sync::atomic::AtomicU64;
use lb_common::table::{self, Hashing, Memory, NOWHERE, Refused, Steps, UNSURE, is_same};
use lb_common::{Flow, FlowKey};
use lb_ebpf::InsertError;

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
static mut HASHED: Hashing = Hashing { seeds: [0; 10], sets: 0, max_flows: 0 };

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
        $module:ident, $address:ty, $entries:ident, $words:ident,
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
                fn take_stays(&self, index: u32) -> bool {
                    let Some(entry) = $entries.get_ptr_mut(index) else { return false };
                    // SAFETY: two fields of an entry of the map.
                    let (flags, met) = unsafe { ((*entry).value.flags, &mut (*entry).value.met) };
                    let stays = Flow::<$address>::keeps_place(flags) || *met != 0;
                    *met = 0;
                    stays
                }
            }

            /// The flow of a tuple.
            #[inline(always)]
            pub(in super::super) fn find(key: &FlowKey<$address>) -> Option<*mut Flow<$address>> {
                // SAFETY: an entry of the map.
                $entries.get_ptr_mut(index(key)).map(|entry| unsafe { &raw mut (*entry).value })
            }

            /// The same, if it stands at the first entry that may be its own.
            #[inline(always)]
            pub(in super::super) fn guess(key: &FlowKey<$address>) -> Option<*mut Flow<$address>> {
                let place = hashing().place(key);
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
                table::glance(&Maps, hashing().place(key), key)
            }

            /// [`index`] in the tuple's home.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $home(key: *const FlowKey<$address>) -> u32 {
                // SAFETY: as above.
                let Some(key) = (unsafe { key.as_ref() }) else { return NOWHERE };
                let place = hashing().place(key);
                table::look(&Maps, place.home(), place, key).map_or(NOWHERE, |(index, ())| index)
            }

            /// [`index`] in its other set.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $other(key: *const FlowKey<$address>) -> u32 {
                // SAFETY: as above.
                let Some(key) = (unsafe { key.as_ref() }) else { return NOWHERE };
                let place = hashing().place(key);
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
                    $evict(key)
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
                let place = hashing().place(key);
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
                u32::from(table::lock(&Maps, hashing().place(key)))
            }

            /// Returns 0.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $unlock(key: *const FlowKey<$address>) -> u32 {
                // SAFETY: as above.
                let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
                table::unlock(&Maps, hashing().place(key));
                0
            }

            /// The index of an entry that was free; [`NOWHERE`] if there is none.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $claim(key: *const FlowKey<$address>) -> u32 {
                // SAFETY: as above.
                let Some(key) = (unsafe { key.as_ref() }) else { return NOWHERE };
                table::claim(&Maps, hashing().place(key))
            }

            /// The index of an entry that was another's; [`NOWHERE`] if there is none.
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $evict(key: *const FlowKey<$address>) -> u32 {
                // SAFETY: as above.
                let Some(key) = (unsafe { key.as_ref() }) else { return NOWHERE };
                table::evict(&Maps, hashing().place(key))
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
                table::publish(&Maps, hashing().place(key), index, is_written);
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
    flows4,
    [u8; 4],
    FLOWS4,
    FLOWS4_SETS,
    find_flow4,
    find_home4,
    find_other4,
    insert_flow4,
    search_flow4,
    lock_flow4,
    unlock_flow4,
    claim_flow4,
    evict_flow4,
    enter_flow4,
    erase_flow4
);
table!(
    flows6,
    [u8; 16],
    FLOWS6,
    FLOWS6_SETS,
    find_flow6,
    find_home6,
    find_other6,
    insert_flow6,
    search_flow6,
    lock_flow6,
    unlock_flow6,
    claim_flow6,
    evict_flow6,
    enter_flow6,
    erase_flow6
);
