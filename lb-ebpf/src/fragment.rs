//! Fragments: the first one of a datagram leaves its ports for those that follow.
//!
//! Only a first fragment that was translated does, so a datagram is translated as a whole or left alone as a whole, from its
//! first fragment on. Nothing is put together here. Ports are only ever read from a fragment at offset zero, which must hold
//! the whole transport header, so what overlaps or comes in tiny pieces (RFC 1858, RFC 3128) can at worst lead its own
//! datagram to a backend that its sender could address anyway; what to make of the pieces is for the receiver to say.

use crate::parse::Wire;
use crate::{Address, AddressTables};
use lb_common::{Fragment, FragmentKey};

/// What a datagram's fragments share, as the protocol stands in the key.
#[inline(always)]
fn key_of<A: Address>(wire: &Wire<A>) -> FragmentKey<A> {
    let protocol = if A::VERSION == 4 { wire.key.protocol } else { 0 };
    FragmentKey::new(wire.key.src, wire.key.dst, wire.fragment_id, protocol)
}

/// Leaves the ports of a first fragment to those that follow. Not inlined: it has a stack frame of its own.
#[inline(never)]
pub fn note<A: Address, T: AddressTables<A>>(tables: &T, wire: &Wire<A>, now: u32) {
    let key = &wire.key;
    let fragment =
        Fragment { src_port: key.src_port, dst_port: key.dst_port, tick: now, protocol: key.protocol, zero: [0; 7] };
    tables.note_fragment(&key_of(wire), &fragment);
}

/// Gives a later fragment the ports that its first one left; a whole packet and a first fragment have their own. Whether
/// it has ports now.
#[inline(always)]
pub fn resolve<A: Address, T: AddressTables<A>>(tables: &T, wire: &mut Wire<A>, now: impl FnOnce() -> u32) -> bool {
    !wire.is_later() || find(tables, wire, now())
}

/// Not inlined: it has a stack frame of its own, and few packets are fragments.
#[inline(never)]
fn find<A: Address, T: AddressTables<A>>(tables: &T, wire: &mut Wire<A>, now: u32) -> bool {
    let Some(first) = tables.fragment(&key_of(wire)) else {
        return false;
    };
    if first.is_expired(now) {
        return false;
    }
    wire.key.src_port = first.src_port;
    wire.key.dst_port = first.dst_port;
    wire.key.protocol = first.protocol;
    true
}
