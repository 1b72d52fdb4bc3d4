//! Tells of single packets and flows ([`lb_common::event`]).
//!
//! A packet that goes nowhere is told in two steps, since an answer to it is made of the packet itself: whose it was is written down
//! first ([`note`]), and why it went nowhere when that is final ([`tell`]). What a CPU may tell in a tick is bounded, so a flood
//! buys little work, and what is not told is counted. Flows that begin and end are told while somebody listens.

use crate::env::{Env, Hook};
use crate::packet::{self, Packet};
use crate::parse::{IP_OFFSET, Wire};
use crate::socket::SocketTables;
use crate::tables::{AddressTables, Tables};
use crate::{Address, scope};
use lb_common::event::Telling;
use lb_common::{Event, Flow, FlowKey, Peer, Reason, SCTP, Scratch, TCP, UDP};

/// A kind of event and its reason, in two bytes: a BPF function takes no more than five arguments.
#[derive(Clone, Copy)]
pub struct News {
    /// [`Event::NEW`] or [`Event::CLOSED`].
    pub kind: u8,
    /// What became of the packet that brought it.
    pub reason: Reason,
}

const fn at(hook: Hook) -> u8 {
    match hook {
        Hook::Xdp => Event::AT_XDP,
        Hook::Ingress => Event::AT_INGRESS,
        Hook::Egress => Event::AT_EGRESS,
    }
}

/// Writes down whose packet it is that goes nowhere. Not inlined: it has a stack frame of its own.
#[inline(never)]
pub(crate) fn note<A, T, E>(tables: &T, env: &E, wire: &Wire<A>)
where
    A: Address,
    T: Tables + AddressTables<A>,
    E: Env,
{
    begin(tables, env, &wire.key, IP_OFFSET as u32 + wire.length);
}

/// The same for a packet without ports: ICMP, and protocols that no Service has.
#[inline(never)]
pub(crate) fn note_bare<P, A, T, E>(packet: &P, tables: &T, env: &E)
where
    P: Packet,
    A: Address + packet::Wire,
    T: Tables + AddressTables<A>,
    E: Env,
{
    let address = |place: usize| packet.load(IP_OFFSET + A::SOURCE_OFFSET + place).unwrap_or(A::UNSPECIFIED);
    let protocol = packet.load(IP_OFFSET + A::PROTOCOL_OFFSET).map_or(0, |[protocol]: [u8; 1]| protocol);
    let key = FlowKey::on_wire(protocol, [address(0), address(size_of::<A>())], 0);
    begin(tables, env, &key, packet.len() as u32);
}

/// Begins the event of a packet that does not arrive, unless this CPU has told its share. Its tuple waits in the working memory.
#[inline(always)]
fn begin<A, T, E>(tables: &T, env: &E, key: &FlowKey<A>, length: u32)
where
    A: Address,
    T: Tables + AddressTables<A>,
    E: Env,
{
    let Some(telling) = tables.telling() else {
        return;
    };
    telling.event.kind = 0;
    let Some(Scratch { mirror_key, .. }): Option<&mut Scratch<A>> = tables.scratch() else {
        return;
    };
    if !telling.has_share(Telling::LOSSES, env.tick()) {
        return;
    }
    *mirror_key = *key;
    let event = &mut telling.event;
    event.kind = Event::DROPPED;
    event.hook = at(E::HOOK);
    event.family = A::VERSION;
    event.protocol = key.protocol;
    event.ifindex = env.ifindex();
    event.length = length;
}

/// Tells what was noted of a packet, now that its verdict is final: the number of the reason, and whether nobody was told. Not
/// inlined, so that packets that arrive pay nothing for it.
#[inline(never)]
pub(crate) fn tell<T: Tables>(tables: &T, reason: usize, is_silent: bool) {
    let Some(telling) = tables.telling() else {
        return;
    };
    let event = &mut telling.event;
    if event.kind == 0 {
        telling.skipped[Telling::LOSSES] += 1;
        return;
    }
    let is_chosen = CHOSEN >> (reason & 63) & 1 != 0;
    if event.family == <[u8; 4]>::VERSION {
        name::<[u8; 4], T>(tables, event, is_chosen);
    } else {
        name::<[u8; 16], T>(tables, event, is_chosen);
    }
    if !is_silent {
        event.kind = Event::REJECTED;
    }
    event.reason = reason as u8;
    if !tables.tell(event) {
        telling.lost[Telling::LOSSES] += 1;
    }
    telling.event.kind = 0;
    telling.told[Telling::LOSSES] += 1;
}

/// Names the parties of the packet whose tuple waits in the working memory. Where it is the first of its flow and a backend
/// `is_chosen`, that stands there too.
#[inline(always)]
fn name<A, T>(tables: &T, event: &mut Event, is_chosen: bool)
where
    A: Address,
    T: Tables + AddressTables<A>,
{
    let Some(Scratch { flow, mirror_key: key, .. }): Option<&mut Scratch<A>> = tables.scratch() else {
        return;
    };
    if let Some(known) = tables.flow(key) {
        return event.name_parties(key, known);
    }
    if is_chosen && matches!(key.protocol, TCP | UDP | SCTP) {
        event.name_parties(key, flow);
        // It was not entered.
        event.flow_flags = 0;
        return;
    }
    event.name_wire(key);
    let mut asked = scope::asked(key);
    if let Ok(service) = scope::find(tables, key, &mut asked) {
        event.service = service.id;
    }
}

/// What happens to the first packet of a flow when it has met its backend, by the number of the reason.
const CHOSEN: u64 = bit(Reason::TableFull)
    | bit(Reason::SnatExhausted)
    | bit(Reason::NoSnatAddress)
    | bit(Reason::NoRoute)
    | bit(Reason::Blackhole)
    | bit(Reason::Unreachable)
    | bit(Reason::Prohibited)
    | bit(Reason::ForwardingDisabled)
    | bit(Reason::NextHopUnsupported)
    | bit(Reason::MtuExceeded)
    | bit(Reason::TtlExceeded)
    | bit(Reason::SctpFragment);

const fn bit(reason: Reason) -> u64 {
    assert!(Reason::ALL.len() <= 64);
    1 << reason as u8
}

/// Tells that a flow begins or ends, by the entry that the packet at hand meets. Not inlined: it has a stack frame of its own, and
/// nobody calls it unless somebody listens.
#[inline(never)]
pub(crate) fn tell_flow<A, T, E>(tables: &T, env: &E, wire: &Wire<A>, flow: &Flow<A>, news: News)
where
    A: Address,
    T: Tables,
    E: Env,
{
    let Some(telling) = tables.telling() else {
        return;
    };
    if !telling.has_share(Telling::FLOWS, env.tick()) {
        telling.skipped[Telling::FLOWS] += 1;
        return;
    }
    telling.told[Telling::FLOWS] += 1;
    let event = &mut telling.event;
    event.name_parties(&wire.key, flow);
    event.kind = news.kind;
    event.reason = news.reason as u8;
    event.hook = at(E::HOOK);
    event.family = A::VERSION;
    event.protocol = wire.key.protocol;
    event.ifindex = env.ifindex();
    event.length = IP_OFFSET as u32 + wire.length;
    if !tables.tell(event) {
        telling.lost[Telling::FLOWS] += 1;
    }
    telling.event.kind = 0;
}

/// Tells that a process's call fails. Its socket need not have an address yet, so nobody is named as the client. Not inlined: it has
/// a stack frame of its own, which holds the event, since packets interrupt a call on its CPU and use what the CPU has.
#[inline(never)]
pub(crate) fn tell_refusal<T: SocketTables>(tables: &T, asked: &Peer, reason: Reason, now: u32) {
    let mut event = Event::EMPTY;
    event.kind = Event::REJECTED;
    event.reason = reason as u8;
    event.hook = Event::AT_SOCKET;
    event.family = asked.family;
    event.protocol = asked.protocol;
    event.frontend = asked.address;
    event.frontend_port = asked.port;
    event.service = Event::NOBODY;
    event.backend_id = Event::NOBODY;
    tables.tell_call(&mut event, now);
}
