//! Tables for a packet that is traced: what the datapath remembers is read and never written.
//!
//! An entry that is found is copied first, and from then on the copy counts; what would be inserted stands beside the copies, and
//! what would be deleted is marked there. So the packet meets what it has changed itself, as it would, and nobody else does.

use super::flows::{flows4, flows6};
use super::maps::{AFFINITY, TRACED_CLIENT, TRACED_FLOWS4, TRACED_FLOWS6};
use lb_common::trace::MAX_STEPS;
use lb_common::{Affinity, AffinityKey, Flow, FlowKey, Step, StepKind, Steps};
use lb_ebpf::InsertError;

/// Marks a copy as deleted, where an entry has padding.
const GONE: u8 = 1;

/// What was told, in a map of its own, so that user space finds it. No lookup can fail: the verifier would follow what comes
/// after each step twice.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.steps")]
static mut STEPS: Steps = Steps::NONE;

/// The next place for a step, with its kind in it. Not inlined: what is told is told in many places.
#[inline(never)]
pub(super) fn step(kind: StepKind) -> &'static mut Step {
    // SAFETY: the map of this instance, which runs one packet at a time. The place is one of the array's, and a step is a number
    // of whole words, the first of which begins with the kind.
    unsafe {
        let steps = &raw mut STEPS;
        let count = (&raw const (*steps).count).read_volatile();
        (&raw mut (*steps).count).write_volatile(count + 1);
        let place = super::opaque(count as usize) & (MAX_STEPS - 1);
        let step = (&raw mut (*steps).steps).cast::<Step>().add(place);
        let words = step.cast::<u64>();
        words.write_volatile(kind as u64);
        let mut word = 1;
        while word < size_of::<Step>() / size_of::<u64>() {
            words.add(word).write_volatile(0);
            word += 1;
        }
        &mut *step
    }
}

/// A copy of what the client had last.
#[inline(never)]
pub(super) fn affinity(key: &AffinityKey) -> Option<&'static mut Affinity> {
    let (kept, copy) = (AFFINITY.get_ptr(key)?, TRACED_CLIENT.get_ptr_mut(0)?);
    let (from, to) = (kept.cast::<u64>(), copy.cast::<u64>());
    let mut word = 0;
    // SAFETY: as for affinity that is written; the copy is of this instance. Both are whole words.
    unsafe {
        while word < size_of::<Affinity>() / size_of::<u64>() {
            to.add(word).write_volatile(from.add(word).read_volatile());
            word += 1;
        }
        Some(&mut *copy)
    }
}

macro_rules! flows {
    ($module:ident, $address:ty, $live:ident, $traced:ident) => {
        pub(super) mod $module {
            use super::*;

            /// A copy of an entry.
            #[inline(never)]
            pub(in super::super) fn find(key: &FlowKey<$address>) -> Option<&'static mut Flow<$address>> {
                let copy = if let Some(copy) = $traced.get_ptr_mut(key) {
                    copy
                } else {
                    let live = $live::find(key)?;
                    // SAFETY: as for an entry that is changed in place: it may be torn by another CPU that writes it.
                    let _ = $traced.insert(key, unsafe { &*live }, 0);
                    $traced.get_ptr_mut(key)?
                };
                // SAFETY: an element of this instance's map, which nobody deletes while it runs.
                let copy = unsafe { &mut *copy };
                if copy.zero[0] == GONE { None } else { Some(copy) }
            }

            /// Notes an entry that would be inserted.
            #[inline(always)]
            pub(in super::super) fn insert(key: &FlowKey<$address>, flow: &Flow<$address>) -> Result<(), InsertError> {
                if find(key).is_some() {
                    return Err(InsertError::Exists);
                }
                $traced.insert(key, flow, 0).map_err(|_| InsertError::Full)
            }

            /// Marks an entry as deleted; whether there was one.
            #[inline(always)]
            pub(in super::super) fn delete(key: &FlowKey<$address>) -> bool {
                let Some(entry) = find(key) else { return false };
                entry.zero[0] = GONE;
                true
            }
        }
    };
}

flows!(four, [u8; 4], flows4, TRACED_FLOWS4);
flows!(six, [u8; 16], flows6, TRACED_FLOWS6);
