//! The maps as the core sees them.

use crate::Address;
use lb_common::{
    Affinity, AffinityKey, Backend, Budget, Device, Event, Flow, FlowKey, Fragment, FragmentKey, Owned, Reason,
    Scratch, Service, ServiceKey, Settings, Slot, Step, StepKind, Telling,
};

/// Why an entry could not be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// The key is there already.
    Exists,
    /// The table is full of flows that keep their places, or contended.
    Full,
}

/// The tables that are keyed by an address, one set for each family.
pub trait AddressTables<A: Address> {
    /// Whose `address` is, if it is ours.
    fn owned(&self, address: &A) -> Option<Owned>;

    /// Whether `address` is in one of the networks of a group ([`lb_common::network`]).
    fn is_in(&self, group: u32, address: &A) -> bool;

    /// The entry of a flow. It is shared with other CPUs: a racing write loses at most a freshness mark or a state
    /// flag, which the next packet sets again.
    #[expect(clippy::mut_from_ref, reason = "the entry lives in the kernel's map, not in `self`")]
    fn flow(&self, key: &FlowKey<A>) -> Option<&mut Flow<A>>;

    /// The same, if it stands where most entries do; `None` does not say that there is none.
    #[inline(always)]
    fn guessed(&self, key: &FlowKey<A>) -> Option<&mut Flow<A>> {
        self.flow(key)
    }

    /// Inserts an entry whose key must be new. Where there is no room, one makes way that does not keep its place
    /// ([`Flow::keeps_place`]) and was not met for a while.
    fn insert(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<(), InsertError>;

    /// Room for one packet's work.
    #[expect(clippy::mut_from_ref, reason = "each CPU has its own, outside of `self`")]
    fn scratch(&self) -> Option<&mut Scratch<A>>;

    /// Deletes an entry, if it is there.
    fn delete(&self, key: &FlowKey<A>);

    /// What a datagram's first fragment said.
    fn fragment(&self, key: &FragmentKey<A>) -> Option<&Fragment>;

    /// Notes what a datagram's first fragment said, in place of what stood there. Without room nothing is noted, and the
    /// fragments that follow are left to the host.
    fn note_fragment(&self, key: &FragmentKey<A>, fragment: &Fragment);
}

/// All tables.
pub trait Tables: AddressTables<[u8; 4]> + AddressTables<[u8; 16]> {
    /// A word of the gate ([`lb_common::gate`]).
    fn gate(&self, word: u32) -> u64;

    /// The record of a port.
    fn service(&self, key: &ServiceKey) -> Option<&Service>;

    /// A member of a backend set.
    fn slot(&self, index: u32) -> Option<&Slot>;

    /// A backend.
    fn backend(&self, id: u32) -> Option<&Backend>;

    /// An interface; no flags where it is not known.
    fn device(&self, ifindex: u32) -> Device;

    /// What the datapath shares.
    fn settings(&self) -> Option<&Settings>;

    /// What this CPU has spent.
    #[expect(clippy::mut_from_ref, reason = "each CPU has its own, outside of `self`")]
    fn budget(&self) -> Option<&mut Budget>;

    /// Which backend a client had last. Shared with other CPUs, as flows are.
    #[expect(clippy::mut_from_ref, reason = "the entry lives in the kernel's map, not in `self`")]
    fn affinity(&self, key: &AffinityKey) -> Option<&mut Affinity>;

    /// Notes which backend a client has, in place of what stood there, if there is room.
    fn note_affinity(&self, key: &AffinityKey, affinity: &Affinity);

    /// The place for what is told next of a packet that is traced ([`crate::trace`]), with its kind in it and zeros else; `None`
    /// where packets are not traced, or there is no more room.
    #[inline(always)]
    fn step(&self, _: StepKind) -> Option<&mut Step> {
        None
    }

    /// Whether packets are traced.
    #[inline(always)]
    fn traces(&self) -> bool {
        false
    }

    /// Whether somebody wants to hear of flows that begin and end.
    fn is_listened(&self) -> bool;

    /// What this CPU has told.
    #[expect(clippy::mut_from_ref, reason = "each CPU has its own, outside of `self`")]
    fn telling(&self) -> Option<&mut Telling>;

    /// Tells an event, with the time of now; whether there was room for it.
    fn tell(&self, event: &mut Event) -> bool;

    /// Counts a verdict.
    fn count(&self, reason: Reason, bytes: usize);

    /// Counts a translated packet for its service port and its backend.
    fn count_traffic(&self, service: u32, backend: u32, reply: bool, bytes: usize);

    /// Counts a new flow for its service port and its backend.
    fn count_connection(&self, service: u32, backend: u32);
}
