//! What the core tells of a traced packet, where it decides ([`lb_common::trace`]).
//!
//! Tables that record give each step a place ([`Tables::step`]); others have none to give, and then nothing of this is compiled.
//! Every field is written where it is to stand, since a BPF stack has no room for what is told.

use crate::address::Address;
use crate::parse::{Network, Wire};
use crate::tables::{AddressTables, InsertError, Tables};
use crate::verdict::{Action, Verdict};
use crate::{Env, Hook};
pub use lb_common::trace::{Step, StepKind};
use lb_common::{
    AffinityKey, Backend, BackendSet, Flow, FlowKey, NextHop, Owned, Reason, Scratch, Service, ServiceKey, Slot,
};

/// The packet met a hook.
#[inline(always)]
pub fn hook<T: Tables, E: Env>(tables: &T, env: &E, length: usize) {
    let Some(step) = tables.step(StepKind::Hook) else { return };
    step.detail = match E::HOOK {
        Hook::Xdp => 0,
        Hook::Ingress => 1,
        Hook::Egress => 2,
    };
    step.number = env.ifindex();
    step.more = length as u32;
}

/// Its headers were read.
#[inline(always)]
pub fn parsed<A: Address, T: Tables>(tables: &T, wire: &Wire<A>) {
    let Some(step) = tables.step(StepKind::Parsed) else { return };
    step.family = A::VERSION;
    step.detail = wire.ttl;
    step.flags = u32::from(wire.tcp_flags) | u32::from(wire.piece.0) << Step::PIECE_SHIFT;
    step.number = wire.length;
    *step.tuple_mut() = wire.key;
}

/// Something that its kind says, or a reason with it.
#[inline(always)]
pub fn reason<T: Tables>(tables: &T, kind: StepKind, reason: Reason) {
    if let Some(step) = tables.step(kind) {
        step.reason = reason as u8;
    }
}

/// Something that its kind and a detail say.
#[inline(always)]
pub fn detail<T: Tables>(tables: &T, kind: StepKind, detail: u8) {
    if let Some(step) = tables.step(kind) {
        step.detail = detail;
    }
}

/// What a flow's entry makes of the packet.
#[inline(always)]
fn rewrite<A: Address, T: Tables>(tables: &T, kind: StepKind, protocol: u8, flow: &Flow<A>, detail: u8) {
    let Some(step) = tables.step(kind) else { return };
    step.family = A::VERSION;
    step.detail = detail;
    step.number = flow.backend;
    step.more = flow.service;
    step.flags = u32::from(flow.flags) | u32::from(flow.hop.flags) << 16;
    let tuple = step.tuple_mut::<A>();
    tuple.src = flow.src;
    tuple.dst = flow.dst;
    tuple.src_port = flow.src_port;
    tuple.dst_port = flow.dst_port;
    tuple.set_protocol(protocol);
}

/// An entry of its flow was found.
#[inline(always)]
pub fn found<A: Address, T: Tables>(tables: &T, protocol: u8, flow: &Flow<A>) {
    rewrite(tables, StepKind::FlowFound, protocol, flow, 0);
}

/// The source that the backend sees is settled.
#[inline(always)]
pub fn source<A: Address, T: Tables>(tables: &T, protocol: u8, flow: &Flow<A>) {
    rewrite(tables, StepKind::Source, protocol, flow, u8::from(flow.flags & Flow::<A>::SNAT != 0));
}

/// It is rewritten.
#[inline(always)]
pub fn rewritten<A: Address, T: Tables>(tables: &T, protocol: u8, flow: &Flow<A>) {
    rewrite(tables, StepKind::Rewritten, protocol, flow, 0);
}

/// Whose the destination is.
#[inline(always)]
pub fn owned<T: Tables>(tables: &T, owned: Option<Owned>) {
    let Some(step) = tables.step(StepKind::Owned) else { return };
    if let Some(owned) = owned {
        step.detail = 1;
        step.number = owned.0;
    }
}

#[inline(always)]
fn asked(key: &ServiceKey) -> u64 {
    let [port_high, port_low] = key.port;
    u64::from_ne_bytes([0, 0, 0, 0, port_high, port_low, key.protocol, key.family])
}

/// The record that a Service has for the port.
#[inline(always)]
pub fn service<T: Tables>(tables: &T, kind: StepKind, key: &ServiceKey, service: &Service, detail: u8) {
    let Some(step) = tables.step(kind) else { return };
    step.detail = detail;
    step.number = service.id;
    step.flags = u32::from(service.flags);
    step.words = [
        asked(key),
        service.backends.0,
        service.members.0,
        u64::from(u16::from_ne_bytes(service.target_port)),
        u64::from(service.affinity_ticks) | u64::from(service.affinity_id) << 32,
    ];
}

/// No Service has the port.
#[inline(always)]
pub fn no_service<T: Tables>(tables: &T, key: &ServiceKey) {
    if let Some(step) = tables.step(StepKind::NoService) {
        step.words[0] = asked(key);
    }
}

/// Who asks.
#[inline(always)]
pub fn client<A, T: Tables>(tables: &T, scratch: &Scratch<A>) {
    if let Some(step) = tables.step(StepKind::Client) {
        step.flags = scratch.client_flags;
    }
}

/// Whether the client is in the source ranges of the service port with this id.
#[inline(always)]
pub fn source_range<T: Tables>(tables: &T, id: u32, is_in: bool) {
    let Some(step) = tables.step(StepKind::SourceRange) else { return };
    step.detail = u8::from(is_in);
    step.number = id;
}

/// At which place stands what the client had last.
#[inline(always)]
pub fn affinity<T: Tables>(tables: &T, client: &AffinityKey, place: u32) {
    let Some(step) = tables.step(StepKind::Affinity) else { return };
    step.family = client.kind;
    step.number = place;
    step.words[0] = client.client[0];
    step.words[1] = client.client[1];
}

/// The pick.
#[inline(always)]
pub fn picked<T: Tables>(tables: &T, set: BackendSet, place: u32, hash: u64, detail: u8) {
    let Some(step) = tables.step(StepKind::Picked) else { return };
    step.detail = detail;
    step.number = place;
    step.words[0] = set.0;
    step.words[1] = hash;
}

/// The backend that was picked.
#[inline(always)]
pub fn backend<T: Tables>(tables: &T, slot: &Slot, backend: &Backend, port: [u8; 2]) {
    let Some(step) = tables.step(StepKind::Backend) else { return };
    step.family = backend.family;
    step.number = slot.backend;
    step.flags = u32::from(backend.flags);
    let [first, second] = backend.address.as_chunks().0 else { return };
    step.words[0] = u64::from_ne_bytes(*first);
    step.words[1] = u64::from_ne_bytes(*second);
    step.words[2] = u64::from(u16::from_ne_bytes(port));
}

/// Where the packet leaves.
#[inline(always)]
pub fn next_hop<T: Tables>(tables: &T, hop: &NextHop, reason: Reason) {
    let Some(step) = tables.step(StepKind::NextHop) else { return };
    step.reason = reason as u8;
    step.number = hop.ifindex;
    step.flags = u32::from(hop.flags);
    step.more = u32::from(hop.mtu);
    let [first, second, third] = hop.macs.as_chunks().0 else { return };
    let word = |bytes: &[u8; 4]| u64::from(u32::from_ne_bytes(*bytes));
    step.words[0] = word(first) | word(second) << 32;
    step.words[1] = word(third);
}

/// The flow that an ICMP error is about.
#[inline(always)]
pub fn about<A: Address, T: Tables>(tables: &T, key: &FlowKey<A>, is_known: bool) {
    let Some(step) = tables.step(StepKind::IcmpAbout) else { return };
    step.family = A::VERSION;
    step.detail = u8::from(is_known);
    *step.tuple_mut() = *key;
}

/// The ICMP message that it is.
#[inline(always)]
pub fn icmp<A: Address, T: Tables>(tables: &T, outer: &Network<A>, kind: u8) {
    let Some(step) = tables.step(StepKind::Icmp) else { return };
    step.family = A::VERSION;
    step.detail = kind;
    let tuple = step.tuple_mut::<A>();
    tuple.src = outer.src;
    tuple.dst = outer.dst;
    tuple.set_protocol(outer.protocol);
}

/// The sender is answered.
#[inline(always)]
pub fn answered<T: Tables>(tables: &T, detail: u8, message: [u8; 2]) {
    let Some(step) = tables.step(StepKind::Answered) else { return };
    step.detail = detail;
    step.flags = u32::from(u16::from_be_bytes(message));
}

/// An entry of a flow is made or deleted. Told by the tables, which know whether there was one.
#[inline(always)]
pub fn wrote_flow<A: Address, T: AddressTables<A> + Tables>(tables: &T, detail: u8, key: &FlowKey<A>) {
    let Some(step) = tables.step(StepKind::Write) else { return };
    step.family = A::VERSION;
    step.detail = detail;
    *step.tuple_mut() = *key;
}

/// What an insert came to, told if it was one.
#[inline(always)]
pub fn inserted<A: Address, T: AddressTables<A> + Tables>(
    tables: &T,
    key: &FlowKey<A>,
    outcome: Result<(), InsertError>,
) -> Result<(), InsertError> {
    if outcome.is_ok() {
        wrote_flow(tables, Step::INSERT, key);
    }
    outcome
}

/// The verdict of the hook.
#[inline(always)]
pub fn verdict<T: Tables>(tables: &T, verdict: Verdict) {
    let Some(step) = tables.step(StepKind::Verdict) else { return };
    step.reason = verdict.reason as u8;
    step.number = verdict.ifindex;
    step.detail = match verdict.action {
        Action::Drop => Step::DROP,
        Action::Redirect => Step::SEND,
        Action::RedirectNeighbour => Step::SEND_TO_NEIGHBOUR,
        Action::RedirectPeer => Step::SEND_TO_PEER,
        Action::Defer => Step::DEFER,
        _ => Step::PASS,
    };
}
