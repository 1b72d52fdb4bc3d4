//! What is remembered of a flow.
//!
//! Two entries for each flow, one for each direction, each keyed by the tuple on the wire and each holding its whole
//! rewrite ([`lb_common::flow`]). A flow is confirmed when the client has proven that it receives what the backend answers; where
//! there is no room, entries make way that are not confirmed or whose connection has ended, so a flood of first packets evicts
//! nothing that goes on.
//!
//! ```text
//!            SYN, or first packet           reply                 client goes on
//!  (nothing) ────────────────────► SYN_SENT ─────► SYN_RECV ────────────────────► ESTABLISHED
//!                                  UNREPLIED       REPLIED                           (confirmed)
//!  ESTABLISHED ─ FIN of one side ► FIN_WAIT ─ FIN of the other ► TIME_WAIT      any ─ RST ► CLOSE
//! ```
//! A SYN without ACK makes a flow in `TIME_WAIT`, `FIN_WAIT` or `CLOSE`, or one whose backend takes no new connections,
//! choose again. A packet of a known flow goes on in every state: whether a RST counts is for its receiver to say (RFC 5961), so
//! it only shortens the time that the flow may be silent.
//!
//! SCTP takes the same way with other words ([`crate::parse`] translates the chunks): `INIT` is a SYN, `INIT ACK` its
//! answer, `SHUTDOWN` and `SHUTDOWN ACK` are FINs, `ABORT` and `SHUTDOWN COMPLETE` a RST.

use crate::parse::{self, Wire};
use crate::tables::{AddressTables, Tables};
use crate::{Address, checksum, scope};
use lb_common::{Flow, FlowKey, NextHop, Owned, Scratch, UDP};

/// Notes that a packet has met the entry of its own tuple, where that may have to make way for others.
#[inline(always)]
pub fn meet<A: Address>(flow: &mut Flow<A>) {
    if !Flow::<A>::keeps_place(flow.flags) {
        flow.met = 1;
    }
}

/// Forgets both entries of a flow, given one of them. A partner that has meanwhile been given to another flow stays.
#[inline(never)]
pub fn forget<A: Address, T: AddressTables<A>>(tables: &T, key: &FlowKey<A>, flow: &Flow<A>) {
    if let Some(scratch) = tables.scratch() {
        // Not on the stack, which has no room for it here.
        let partner_key = &mut scratch.forgotten_key;
        write_partner(key.protocol, flow, partner_key);
        if let Some(partner) = tables.flow(partner_key)
            && partner.is_partner(key)
        {
            tables.delete(partner_key);
        }
    }
    tables.delete(key);
}

/// Writes the entry for the other direction and its key, as they were when the flow was created. Field by field: a value
/// built first and then copied would take its room on the stack.
#[inline(always)]
pub fn mirror<A: Address>(key: &FlowKey<A>, flow: &Flow<A>, scratch: &mut Scratch<A>) {
    write_partner(key.protocol, flow, &mut scratch.mirror_key);
    let mirror = &mut scratch.mirror;
    mirror.src = key.dst;
    mirror.dst = key.src;
    mirror.src_port = key.dst_port;
    mirror.dst_port = key.src_port;
    // The opposite change of words.
    mirror.address_delta = !flow.address_delta;
    mirror.port_delta = !flow.port_delta;
    // As of the tick before: it has made no decision of its own yet.
    mirror.tick = flow.tick.saturating_sub(1);
    mirror.flags = (flow.flags & Flow::<A>::SHARED) | (!flow.flags & Flow::<A>::REPLY);
    mirror.generation = flow.generation;
    mirror.backend = flow.backend;
    mirror.service = flow.service;
    mirror.met = 0;
    mirror.hop.renew(flow.hop.flags & NextHop::FIXED, [0; 4]);
}

/// Writes the key of the entry for the other direction ([`Flow::partner`]).
#[inline(always)]
pub fn write_partner<A: Address>(protocol: u8, flow: &Flow<A>, key: &mut FlowKey<A>) {
    key.src = flow.dst;
    key.dst = flow.src;
    key.src_port = flow.dst_port;
    key.dst_port = flow.src_port;
    key.set_protocol(protocol);
}

/// Notes in `flow` what the change from the tuple `key` to the one it writes adds to checksums.
#[inline(always)]
pub fn note_deltas<A: Address>(key: &FlowKey<A>, flow: &mut Flow<A>) {
    flow.address_delta = checksum::delta(key.src.sum() + key.dst.sum(), flow.src.sum() + flow.dst.sum());
    let old_ports = checksum::word(key.src_port) + checksum::word(key.dst_port);
    let new_ports = checksum::word(flow.src_port) + checksum::word(flow.dst_port);
    flow.port_delta = checksum::delta(old_ports, new_ports);
}

/// Whether a known flow is still the answer for this packet of its client; if not, it is forgotten and chosen anew.
#[inline(always)]
pub fn stands<A: Address, T: Tables + AddressTables<A>>(tables: &T, wire: &Wire<A>, flow: &Flow<A>) -> bool {
    let opens = wire.tcp_flags & (parse::SYN | parse::ACK) == parse::SYN;
    if !opens && wire.key.protocol != UDP {
        // TCP and SCTP keep their backend even when that is gone: only the backend can end the connection rightly.
        return true;
    }
    if opens && flow.state(wire.key.protocol).is_ending() {
        return false;
    }
    let backend = tables.backend(flow.backend).filter(|backend| backend.generation == flow.generation);
    let is_there = backend.is_some_and(|backend| if opens { backend.is_alive() } else { backend.is_serving() });
    is_there || (!opens && !is_served(tables, &wire.key))
}

/// Whether a Service has the address and the port that the client asks for. Where none has them any more there is nothing to
/// choose anew, and what was chosen stays: kube-proxy too leaves flows alone that ask for none of its ports
/// (`pkg/proxy/conntrack/cleanup.go`). A node port counts on every address of the node. Not inlined: it has a stack frame of its
/// own, and it is asked only for what a backend that is gone has left.
#[inline(never)]
fn is_served<A: Address, T: Tables + AddressTables<A>>(tables: &T, key: &FlowKey<A>) -> bool {
    let mut asked = scope::asked(key);
    if tables.service(&asked).is_some() {
        return true;
    }
    asked = asked.at_node();
    tables.owned(&key.dst).is_some_and(Owned::is_node) && tables.service(&asked).is_some()
}

/// Whether the packet is from the middle of a connection: one without a flow has lost it, or had it at another node.
#[inline(always)]
pub const fn is_midway<A>(wire: &Wire<A>) -> bool {
    wire.key.protocol != UDP && wire.tcp_flags & parse::SYN == 0
}

/// The flags that this packet sets, for both entries of its flow. Without a branch: each would have the verifier follow all that is
/// behind it twice.
#[inline(always)]
pub fn flags_of<A: Address>(wire: &Wire<A>, flow: &Flow<A>) -> u16 {
    // Of a later fragment the first has said it all.
    if wire.is_later() { 0 } else { flags_by(wire.tcp_flags, flow) }
}

/// The flags that a packet with these TCP flags sets, which is no later fragment.
#[inline(always)]
pub fn flags_by<A: Address>(tcp_flags: u8, flow: &Flow<A>) -> u16 {
    let (tcp_flags, is_reply) = (u16::from(tcp_flags), flow.flags & Flow::<A>::REPLY);
    let opens = tcp_flags >> parse::SYN.trailing_zeros() & 1;
    // A client that goes on after an answer has confirmed it.
    let goes_on = flow.flags >> Flow::<A>::ANSWERED.trailing_zeros() & 1 & !(is_reply | opens);
    let ends = tcp_flags & u16::from(parse::FIN);
    let breaks = tcp_flags >> parse::RST.trailing_zeros() & 1;
    (is_reply * Flow::<A>::ANSWERED)
        | (goes_on * Flow::<A>::CONFIRMED)
        | (ends * Flow::<A>::FIN_CLIENT) << is_reply
        | (breaks * Flow::<A>::RST)
}

/// What the first packet of a tick, or one that changed the flow's state, does beyond its own entry: it shares news with the entry for
/// the other direction, state flags both ways and a sign of life. An entry that was lost is made again from its partner. Not
/// inlined: it has a stack frame of its own.
///
/// The partner is marked as of the tick before, so that it still makes its own decision anew in this one.
#[inline(never)]
pub fn refresh<A: Address, T: AddressTables<A>>(tables: &T, key: &FlowKey<A>, flow: &mut Flow<A>) {
    let Some(scratch) = tables.scratch() else {
        return;
    };
    write_partner(key.protocol, flow, &mut scratch.mirror_key);
    let last_tick = flow.tick.saturating_sub(1);
    if let Some(partner) = tables.flow(&scratch.mirror_key) {
        if partner.is_partner(key) {
            flow.flags |= partner.flags & Flow::<A>::SHARED;
            partner.flags |= flow.flags & Flow::<A>::SHARED;
            if partner.tick < last_tick {
                partner.tick = last_tick;
            }
        }
    } else {
        mirror(key, flow, scratch);
        // A failure leaves things as they were; the next tick tries again.
        let _ = tables.insert(&scratch.mirror_key, &scratch.mirror);
    }
}

const _: () = {
    type AnyFlow = Flow<[u8; 4]>;
    assert!(AnyFlow::REPLY == 1 && AnyFlow::FIN_CLIENT << AnyFlow::REPLY == AnyFlow::FIN_BACKEND && parse::FIN == 1);
};
