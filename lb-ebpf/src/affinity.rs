//! Session affinity: a client keeps its backend, whichever address and port of a Service it asks for.
//!
//! What a client had last is looked up and noted when a flow is opened, and at no other packet. An entry counts as long as its
//! backend is in the set at hand, so what is withdrawn is left, and a set of fewer backends (those of this node, say) is
//! kept to. Where there is no entry the hash of the client decides: connections that are opened at the same time agree, and a
//! client whose entry was lost comes back to where it was while the backends are the same.

use crate::Address;
use crate::env::{Clock, Step};
use crate::tables::Tables;
use lb_common::{Affinity, AffinityKey, Service, Slot};

/// Whether clients of the Service keep their backends.
#[inline(always)]
pub const fn is_kept(service: &Service) -> bool {
    service.affinity_ticks != 0
}

/// Writes who the client with this address is to the Service. Field by field, as the key lies in the working memory.
#[inline(always)]
pub fn write_client<A: Address>(service: &Service, address: &A, key: &mut AffinityKey) {
    key.client = address.words();
    key.service = service.affinity_id;
    key.kind = A::VERSION;
    key.zero = [0; 3];
}

/// Writes that the client is a process of the network namespace with this cookie.
#[inline(always)]
pub fn write_namespace(service: &Service, cookie: u64, key: &mut AffinityKey) {
    key.client = [cookie, 0];
    key.service = service.affinity_id;
    key.kind = 0;
    key.zero = [0; 3];
}

/// The port of a slot's backend, network order.
#[inline(always)]
pub const fn port_of(service: &Service, slot: &Slot) -> [u8; 2] {
    if slot.port[0] == 0 && slot.port[1] == 0 { service.target_port } else { slot.port }
}

/// The place among the Service's members at which the backend that the client is to keep stands now; [`Affinity::NO_PLACE`] if
/// there is none.
/// Not inlined: it has a stack frame of its own.
#[inline(never)]
pub fn place<T: Tables, C: Clock>(tables: &T, clock: &C, service: &Service, key: &AffinityKey) -> u32 {
    let Some(kept) = tables.affinity(key) else {
        return Affinity::NO_PLACE;
    };
    if kept.is_expired(clock.tick(), service.affinity_ticks) {
        return Affinity::NO_PLACE;
    }
    let (base, count) = (service.members.base(), service.members.count());
    let place = kept.place;
    let (backend, generation, port) = (kept.backend, kept.generation, kept.port);
    let mut search = Search { tables, service, base, backend, generation, port, place: Affinity::NO_PLACE };
    // Where it stood the last time: but for the first connection after the set has changed, that is all.
    if place >= count || search.step(place) {
        clock.repeat(count, &mut search);
    }
    search.place
}

/// The search for a backend among the members, one slot for each index.
struct Search<'a, T> {
    tables: &'a T,
    service: &'a Service,
    base: u32,
    backend: u32,
    generation: u16,
    port: [u8; 2],
    place: u32,
}

impl<T: Tables> Step for Search<'_, T> {
    #[inline(always)]
    fn step(&mut self, index: u32) -> bool {
        let is_found = self.tables.slot(self.base + index).is_some_and(|slot| {
            slot.backend == self.backend
                && slot.generation == self.generation
                && port_of(self.service, slot) == self.port
        });
        if is_found {
            self.place = index;
        }
        !is_found
    }
}

/// Notes that the client has this backend now. Without room nothing is noted: then the hash gives the same again. Not inlined: it
/// has a stack frame of its own.
#[inline(never)]
pub fn note<T: Tables>(tables: &T, key: &AffinityKey, now: &Affinity) {
    if let Some(kept) = tables.affinity(key)
        && (kept.backend, kept.generation, kept.port) == (now.backend, now.generation, now.port)
    {
        // In place: a racing write loses at most a mark of freshness or a hint.
        kept.tick = now.tick;
        kept.place = now.place;
        return;
    }
    tables.note_affinity(key, now);
}
