//! The core's tables over the kernel's maps.

use super::flows::{flows4, flows6};
use super::maps::{
    AFFINITY, BACKEND_STATS, BACKENDS, BUDGETS, DEVICES, EVENTS, FRAGMENTS4, FRAGMENTS6, GATE, LISTENED, NETWORKS4,
    NETWORKS6, Network, OWNED4, OWNED6, REASONS, SCRATCH4, SCRATCH6, SERVICE_STATS, SERVICES, SETTINGS, SLOTS,
    TELLINGS,
};
use super::trace;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::maps::lpm_trie::Key;
use core::mem::MaybeUninit;
use lb_common::{
    Affinity, AffinityKey, Backend, Budget, Device, Event, Flow, FlowKey, Fragment, FragmentKey, NetworkKey, Owned,
    Reason, Scratch, Service, ServiceKey, Settings, Slot, Step, StepKind, Telling,
};
use lb_ebpf::trace as tell;
use lb_ebpf::{AddressTables, InsertError, Tables};

const EEXIST: i32 = -17;

/// The maps of this object. A packet that is traced changes none but those that the instance has for itself.
pub(super) struct KernelTables<const TRACE: bool>;

/// The verifier refuses words on the stack that are not where words belong. Fields are written one by one, since the compiler
/// would join two of them to a word wherever they are.
#[repr(C, align(8))]
struct Aligned<T>(T);

pub(super) fn insert_error(error: i32) -> InsertError {
    if error == EEXIST { InsertError::Exists } else { InsertError::Full }
}

macro_rules! address_tables {
    ($address:ty, $traced:ident, $owned:ident, $networks:ident, $flows:ident, $fragments:ident, $scratch:ident) => {
        impl<const TRACE: bool> AddressTables<$address> for KernelTables<TRACE> {
            #[inline(always)]
            fn owned(&self, address: &$address) -> Option<Owned> {
                // SAFETY: the daemon's writes to a NO_PREALLOC hash replace whole elements under RCU.
                unsafe { $owned.get(address) }.copied()
            }

            #[inline(always)]
            fn is_in(&self, group: u32, address: &$address) -> bool {
                const BITS: u32 = size_of::<$address>() as u32 * u8::BITS;
                let wanted = NetworkKey::new(group, *address, BITS);
                let mut key = MaybeUninit::<Aligned<NetworkKey<$address>>>::uninit();
                let place = key.as_mut_ptr();
                // SAFETY: each field within its own bytes; the library's key has the same fields in the same places.
                let key = unsafe {
                    (&raw mut (*place).0.prefix).write_volatile(wanted.prefix);
                    (&raw mut (*place).0.group).write_volatile(wanted.group);
                    (&raw mut (*place).0.address).write_volatile(wanted.address);
                    &*place.cast::<Key<Network<$address>>>()
                };
                $networks.get(key).is_some()
            }

            #[inline(always)]
            fn flow(&self, key: &FlowKey<$address>) -> Option<&mut Flow<$address>> {
                if TRACE {
                    return trace::$traced::find(key);
                }
                // SAFETY: the kernel keeps the element's memory while the program runs. Other CPUs may write it at the
                // same time; every field is a plain integer, and what a race can lose is documented at the trait.
                $flows::find(key).map(|flow| unsafe { &mut *flow })
            }

            #[inline(always)]
            fn guessed(&self, key: &FlowKey<$address>) -> Option<&mut Flow<$address>> {
                // SAFETY: as above.
                $flows::guess(key).map(|flow| unsafe { &mut *flow })
            }

            #[inline(always)]
            fn insert(&self, key: &FlowKey<$address>, flow: &Flow<$address>) -> Result<(), InsertError> {
                if TRACE {
                    return tell::inserted(self, key, trace::$traced::insert(key, flow));
                }
                $flows::insert(key, flow)
            }

            #[inline(always)]
            fn scratch(&self) -> Option<&mut Scratch<$address>> {
                // SAFETY: this CPU's own copy, and the program is not preempted by another of ours.
                $scratch.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
            }

            #[inline(always)]
            fn delete(&self, key: &FlowKey<$address>) {
                if TRACE {
                    if trace::$traced::delete(key) {
                        tell::wrote_flow(self, Step::DELETE, key);
                    }
                    return;
                }
                $flows::delete(key);
            }

            #[inline(always)]
            fn fragment(&self, key: &FragmentKey<$address>) -> Option<&Fragment> {
                // SAFETY: as for flows. An element that is given to another datagram at this moment reads as that one's,
                // whose tuple then has no flow, or, as if the sender had used it itself, another one's.
                unsafe { $fragments.get(key) }
            }

            #[inline(always)]
            fn note_fragment(&self, key: &FragmentKey<$address>, fragment: &Fragment) {
                if TRACE {
                    tell::detail(self, StepKind::Write, Step::FRAGMENT);
                    return;
                }
                let _ = $fragments.insert(key, fragment, 0);
            }
        }
    };
}

address_tables!([u8; 4], four, OWNED4, NETWORKS4, flows4, FRAGMENTS4, SCRATCH4);
address_tables!([u8; 16], six, OWNED6, NETWORKS6, flows6, FRAGMENTS6, SCRATCH6);

impl<const TRACE: bool> Tables for KernelTables<TRACE> {
    #[inline(always)]
    fn gate(&self, word: u32) -> u64 {
        GATE.get(word).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        // SAFETY: as for the owned addresses; the backend set is one aligned word.
        unsafe { SERVICES.get(key) }
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<&Slot> {
        SLOTS.get(index)
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        BACKENDS.get(id)
    }

    #[inline(always)]
    fn device(&self, ifindex: u32) -> Device {
        // SAFETY: as for the owned addresses.
        unsafe { DEVICES.get(ifindex) }.copied().unwrap_or_default()
    }

    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn budget(&self) -> Option<&mut Budget> {
        // SAFETY: as for the working memory.
        BUDGETS.get_ptr_mut(0).map(|budget| unsafe { &mut *budget })
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<&mut Affinity> {
        if TRACE {
            return trace::affinity(key);
        }
        // SAFETY: as for flows. An element that is given to another client at this moment reads as that one's, and at worst
        // sends one connection to a backend of the same Service.
        AFFINITY.get_ptr_mut(key).map(|affinity| unsafe { &mut *affinity })
    }

    #[inline(always)]
    fn note_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
        if TRACE {
            tell::detail(self, StepKind::Write, Step::AFFINITY);
            return;
        }
        let _ = AFFINITY.insert(key, affinity, 0);
    }

    #[inline(always)]
    fn is_listened(&self) -> bool {
        !TRACE && LISTENED.get(0).is_some_and(|listened| *listened != 0)
    }

    #[inline(always)]
    fn telling(&self) -> Option<&mut Telling> {
        // What is traced did not happen.
        if TRACE {
            return None;
        }
        // SAFETY: as for the working memory.
        TELLINGS.get_ptr_mut(0).map(|telling| unsafe { &mut *telling })
    }

    #[inline(always)]
    fn tell(&self, event: &mut Event) -> bool {
        // SAFETY: a helper without arguments.
        event.time = unsafe { bpf_ktime_get_ns() };
        EVENTS.output::<Event>(&*event, 0).is_ok()
    }

    #[inline(always)]
    fn traces(&self) -> bool {
        TRACE
    }

    #[inline(always)]
    fn step(&self, kind: StepKind) -> Option<&mut Step> {
        if TRACE { Some(trace::step(kind)) } else { None }
    }

    #[inline(always)]
    fn count(&self, reason: Reason, bytes: usize) {
        if let Some(count) = REASONS.get_ptr_mut(reason as u32) {
            // SAFETY: this CPU's own copy.
            let count = unsafe { &mut *count };
            count.packets += 1;
            count.bytes += bytes as u64;
        }
    }

    #[inline(always)]
    fn count_traffic(&self, service: u32, backend: u32, reply: bool, bytes: usize) {
        // One after the other: joined, the two lookups make the compiler test both pointers at once, which the verifier
        // refuses.
        if let Some(traffic) = SERVICE_STATS.get_ptr_mut(service) {
            // SAFETY: this CPU's own copy.
            unsafe { &mut *traffic }.count(reply, bytes);
        }
        if let Some(traffic) = BACKEND_STATS.get_ptr_mut(backend) {
            // SAFETY: this CPU's own copy.
            unsafe { &mut *traffic }.count(reply, bytes);
        }
    }

    #[inline(always)]
    fn count_connection(&self, service: u32, backend: u32) {
        if let Some(traffic) = SERVICE_STATS.get_ptr_mut(service) {
            // SAFETY: this CPU's own copy.
            unsafe { (*traffic).connections += 1 };
        }
        if let Some(traffic) = BACKEND_STATS.get_ptr_mut(backend) {
            // SAFETY: this CPU's own copy.
            unsafe { (*traffic).connections += 1 };
        }
    }
}
