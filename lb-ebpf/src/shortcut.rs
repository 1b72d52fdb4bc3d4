//! The short way: what nearly every packet asks, and nothing else.
//!
//! Nearly every packet belongs to a flow that is known and has made its decision in this tick, opens nothing, and has
//! headers of the usual lengths, whose places are constants. Whether all that is so is asked here before anything is changed; where
//! it is, the packet is rewritten and sent on at once. Everything else takes the long way ([`crate::datapath`]) from its beginning, which would
//! do the same with these packets: nothing is decided here that is not decided there. (TCP's *header prediction*, of the same make: Van
//! Jacobson, "4BSD Header Prediction", 1990.)
//!
//! What is traced takes the long way, which tells each of its steps.

use crate::datapath::is_admitted;
use crate::env::{Env, Hook};
use crate::packet::{self, Packet};
use crate::parse::{self, ETHERTYPE_OFFSET, IPV4, IPV6, SYN};
use crate::tables::{AddressTables, Tables};
use crate::verdict::{Action, Verdict};
use crate::{Address, conntrack, datapath, rewrite};
use lb_common::{Flow, NextHop, Reason};

/// What becomes of a packet that takes the short way, counted if it is sent on. `None` of any other: nothing was changed but the mark that its flow
/// was met, which the long way makes too.
#[inline(always)]
pub(crate) fn take<P: Packet, T: Tables, E: Env>(packet: &mut P, tables: &T, env: &E) -> Option<Verdict> {
    if tables.traces() || packet.is_tagged() {
        return None;
    }
    match packet.load(ETHERTYPE_OFFSET)? {
        IPV4 => go::<P, [u8; 4], T, E>(packet, tables, env),
        IPV6 => go::<P, [u8; 16], T, E>(packet, tables, env),
        _ => None,
    }
}

#[inline(always)]
fn go<P, A, T, E>(packet: &mut P, tables: &T, env: &E) -> Option<Verdict>
where
    P: Packet,
    A: Address + packet::Wire,
    T: Tables + AddressTables<A>,
    E: Env,
{
    let frame = packet.len();
    let head = packet.head(parse::plain_head::<A>())?;
    let came_to: [u8; 4] = datapath::came_to(&head)?;
    let plain = A::parse_plain(&head, frame)?;
    if !is_admitted(tables, &plain.key) {
        return Some(Verdict::pass(Reason::NotOurs));
    }
    if E::HOOK == Hook::Egress || plain.tcp_flags & SYN != 0 || plain.ttl <= 1 {
        return None;
    }
    let flow = tables.guessed(&plain.key)?;
    conntrack::meet(flow);
    let is_reply = flow.is_reply();
    let length = packet.segment_size().map_or(plain.length, |segment| plain.headers + segment);
    if flow.tick != env.tick()
        || flow.hop.came_to != came_to
        || !is_plain::<E>(&flow.hop)
        || length > u32::from(flow.hop.mtu)
        || !(plain.is_tcp || is_reply || is_serving(tables, flow))
    {
        return None;
    }
    let news = conntrack::flags_by(plain.tcp_flags, flow) & !flow.flags;
    if news != 0 {
        // Who listens is told of a connection's end by the long way.
        if Flow::<A>::has_ended(flow.flags | news) && tables.is_listened() {
            return None;
        }
        // A copy to point at: the tuple itself stays in registers.
        let scratch = tables.scratch()?;
        flow.flags |= news;
        scratch.forgotten_key = plain.key;
        conntrack::refresh(tables, &scratch.forgotten_key, flow);
    }
    if rewrite::plain(packet, plain.is_tcp, flow).is_none() {
        return Some(Verdict::drop(Reason::StoreFailed));
    }
    tables.count_traffic(flow.service, flow.backend, is_reply, frame);
    let reason = if is_reply { Reason::Replied } else { Reason::Forwarded };
    tables.count(reason, frame);
    let to_peer = E::HOOK == Hook::Ingress && flow.hop.flags & NextHop::PEER != 0;
    let action = if to_peer { Action::RedirectPeer } else { Action::Redirect };
    Some(Verdict { ifindex: flow.hop.ifindex, action, reason })
}

/// Whether the way out is that of a packet between others, and this hook can finish by it without asking anybody.
#[inline(always)]
fn is_plain<E: Env>(hop: &NextHop) -> bool {
    let flags = hop.flags & !NextHop::PEER;
    flags == NextHop::XDP || (E::HOOK != Hook::Xdp && flags == 0 && hop.has_neighbour())
}

/// Whether the flow's backend may have its next datagram.
#[inline(always)]
fn is_serving<A: Address, T: Tables>(tables: &T, flow: &Flow<A>) -> bool {
    let backend = tables.backend(flow.backend);
    backend.is_some_and(|backend| backend.generation == flow.generation && backend.is_serving())
}
