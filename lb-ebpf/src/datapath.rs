//! The way of a packet: flow hit? owned? service? pick? rewrite, next hop, verdict.

use crate::conntrack;
use crate::env::{Env, Hook, Route};
use crate::event::{self, News};
use crate::packet::{self, Bytes, Packet};
use crate::parse::{ETHERTYPE_OFFSET, IP_OFFSET, IPV4, IPV6, Wire};
use crate::tables::{AddressTables, Tables};
use crate::verdict::{Action, Verdict};
use crate::{Address, affinity, answer, fragment, icmp, pick, rewrite, scope, shortcut, snat, trace};
use lb_common::gate::Place;
use lb_common::{
    Affinity, Backend, BackendSet, Device, Event, Flow, FlowKey, NextHop, Owned, Reason, SCTP, Scratch, Service,
    Settings, Slot, Step, StepKind,
};

/// The last four bytes of the destination's MAC, which tell one host of a link from another.
const MAC_END_OFFSET: usize = 2;
/// IEEE 802.1Q, 802.1ad, and the number stacked tags had before its standard.
const VLANS: [u16; 3] = [0x8100_u16.to_be(), 0x88a8_u16.to_be(), 0x9100_u16.to_be()];

/// The kernel revalidates a neighbour entry only when it sends by it itself, and XDP sends past it. So XDP leaves the first
/// packet of every such tick of a flow to TCX, which lets the kernel send; a MAC that has moved is then found out, with
/// nobody's help, within seconds ...
const REVALIDATION_TICKS: u32 = 4;
/// ... and so do the first new flow of a tick on each CPU and one in this many more, for Services whose connections are
/// shorter than a tick.
const REVALIDATION_FLOWS: u64 = 16;

/// Decides about one packet, rewrites it as decided, and counts the verdict.
#[inline(always)]
pub fn process<P: Packet, T: Tables, E: Env>(packet: &mut P, tables: &T, env: &E) -> Verdict {
    let short = shortcut::take(packet, tables, env);
    if let Some(verdict) = short
        && verdict.action.is_settled()
    {
        return verdict;
    }
    packet.measure();
    let length = packet.len();
    let verdict = if let Some(failed) = short {
        failed
    } else {
        trace::hook(tables, env, length);
        dispatch(packet, tables, env)
    };
    // What XDP hands on untouched meets TCX ingress on the same interface, which counts it.
    let is_final = match verdict.action {
        Action::Defer => false,
        Action::Pass => verdict.reason == Reason::Delivered || E::HOOK != Hook::Xdp,
        _ => true,
    };
    if is_final && verdict.reason != Reason::NotOurs {
        tables.count(verdict.reason, length);
        if verdict.reason.is_drop() {
            event::tell(tables, packet.opaque(verdict.reason as usize), verdict.action == Action::Drop);
        }
    }
    trace::verdict(tables, verdict);
    verdict
}

#[inline(always)]
fn dispatch<P: Packet, T: Tables, E: Env>(packet: &mut P, tables: &T, env: &E) -> Verdict {
    match packet.load(ETHERTYPE_OFFSET) {
        _ if packet.is_tagged() => Verdict::pass(if E::HOOK == Hook::Egress { Reason::NotOurs } else { Reason::Vlan }),
        Some(IPV4) => translate::<P, [u8; 4], T, E>(packet, tables, env),
        Some(IPV6) => translate::<P, [u8; 16], T, E>(packet, tables, env),
        Some(ethertype) if E::HOOK != Hook::Egress && VLANS.contains(&ethertype) => Verdict::pass(Reason::Vlan),
        _ => Verdict::pass(Reason::NotOurs),
    }
}

/// All is done one after the other and not one inside the other: with what it calls, and with this, each has a BPF stack of 512
/// bytes to share.
#[inline(always)]
fn translate<P, A, T, E>(packet: &mut P, tables: &T, env: &E) -> Verdict
where
    P: Packet,
    A: Address + packet::Wire,
    T: Tables + AddressTables<A>,
    E: Env,
{
    let mut verdict = match A::parse(packet) {
        Ok(mut wire) => {
            trace::parsed(tables, &wire);
            let mut verdict = look_up(packet, tables, env, &mut wire);
            if verdict.action.is_settled() {
                return verdict;
            }
            if verdict.action == Action::Open {
                verdict = scope::receive(packet, tables, env, &wire.key);
            }
            if verdict.action == Action::Choose {
                verdict = open_flow(packet, tables, env, &wire);
            }
            if verdict.action == Action::Lend {
                verdict = lend_source(tables, env, &wire);
            }
            if verdict.action == Action::Enter {
                verdict = enter_flow(packet, tables, env, &wire, verdict.reason);
            }
            if goes_nowhere::<E>(verdict) {
                event::note(tables, env, &wire);
            }
            verdict
        }
        Err(reason) => {
            let mut verdict = leave::<A, P, T, E>(packet, tables, env, reason);
            if verdict.action == Action::Icmp {
                verdict = icmp::judge::<P, A, T, E>(packet, tables, env);
            }
            if goes_nowhere::<E>(verdict) {
                event::note_bare::<P, A, T, E>(packet, tables, env);
            }
            verdict
        }
    };
    if verdict.action == Action::Answer {
        verdict = answer::answer::<P, A, T, E>(packet, tables, env, verdict);
    }
    verdict
}

/// Whether the packet ends here, as far as is known before it is answered. What XDP would have to answer meets TCX ingress.
#[inline(always)]
fn goes_nowhere<E: Env>(verdict: Verdict) -> bool {
    verdict.action == Action::Drop || (verdict.action == Action::Answer && E::HOOK != Hook::Xdp)
}

/// What becomes of a packet that cannot be sent on for this reason: its sender is told, if senders are told of such.
#[inline(always)]
pub(crate) fn refuse<A: Address>(reason: Reason) -> Verdict {
    if A::error_for(reason).is_some() { Verdict::answer(reason) } else { Verdict::drop(reason) }
}

/// Whether the packet is in a frame for another host, which the network flooded: every node that owns the address would
/// take it for its own.
#[inline(always)]
pub(crate) fn is_for_another_host<P: Packet>(packet: &P, device: &Device) -> bool {
    packet.may_be_for_another_host() && device.flags & Device::OWN_MAC != 0 && packet.load(0) != Some(device.mac)
}

/// The end of the MAC that a frame came to.
#[inline(always)]
pub(crate) fn came_to<B: Bytes>(frame: &B) -> Option<[u8; 4]> {
    frame.load(MAC_END_OFFSET)
}

/// Whether a packet of a known flow is in such a frame. The interface is asked once a tick, and when frames of the flow come
/// to another MAC than they did: for each packet that would cost a lookup.
#[inline(always)]
fn strays<P, A, T, E>(packet: &P, tables: &T, env: &E, flow: &mut Flow<A>, now: u32) -> bool
where
    P: Packet,
    A: Address,
    T: Tables,
    E: Env,
{
    // What leaves was sent by this node.
    if E::HOOK == Hook::Egress {
        return false;
    }
    let came_to = came_to(packet).unwrap_or_default();
    if flow.tick == now && flow.hop.came_to == came_to {
        return false;
    }
    if is_for_another_host(packet, &tables.device(env.ifindex())) {
        return true;
    }
    flow.hop.came_to = came_to;
    false
}

/// Leaves a packet that cannot be translated to the host, with a reason if it concerns us.
#[inline(never)]
fn leave<A, P, T, E>(packet: &P, tables: &T, env: &E, reason: Reason) -> Verdict
where
    A: Address + packet::Wire,
    P: Packet,
    T: Tables + AddressTables<A>,
    E: Env,
{
    trace::reason(tables, StepKind::Unparsed, reason);
    if reason == Reason::Icmp {
        return Verdict { ifindex: 0, action: Action::Icmp, reason };
    }
    if E::HOOK == Hook::Egress {
        return Verdict::pass(Reason::NotOurs);
    }
    if reason == Reason::Malformed {
        return Verdict::pass(reason);
    }
    let dst = packet.load(IP_OFFSET + A::SOURCE_OFFSET + core::mem::size_of::<A>()).unwrap_or(A::UNSPECIFIED);
    // ICMP, other protocols and fragments to the node itself are the host's own business.
    let owned = tables.owned(&dst);
    trace::owned(tables, owned);
    let is_hosts = owned.is_none_or(Owned::is_node);
    if is_hosts {
        Verdict::pass(Reason::NotOurs)
    } else if reason != Reason::Protocol {
        Verdict::pass(reason)
    } else if is_for_another_host(packet, &tables.device(env.ifindex())) {
        Verdict::pass(Reason::NotOurs)
    } else {
        // Not left to the host: it would route the packet to wherever such addresses are, perhaps back to us.
        Verdict::answer(reason)
    }
}

/// Whether packets of this flow's direction are translated at this hook. What takes the way through the stack is translated at
/// the first hook and at the last: the stack sees one pair of tuples. Everything else is translated where it comes in.
#[inline(always)]
pub(crate) fn is_translated_here<A: Address, E: Env>(flow: &Flow<A>) -> bool {
    let leaves_translated = flow.is_reply() && flow.hop.is_through_stack();
    leaves_translated == (E::HOOK == Hook::Egress)
}

/// The bits of an address in the gate that say whose it can be, if it is ours: of [`lb_common::gate::SERVICES`] and [`lb_common::gate::NODE`].
#[inline(always)]
pub(crate) fn owners<A: Address, T: Tables>(tables: &T, address: &A) -> u64 {
    let Place { word, bits } = Place::of_destination(address.words());
    tables.gate(word) & bits
}

/// Whether a packet between these addresses can be of a flow, or open one.
#[inline(always)]
pub(crate) fn is_admitted<A: Address, T: Tables>(tables: &T, key: &FlowKey<A>) -> bool {
    let Place { word, bits } = Place::of_source(key.src.words());
    owners(tables, &key.dst) != 0 || tables.gate(word) & bits != 0
}

/// Finds the packet's flow and goes on with it. [`Action::Open`] says that there is none and that the packet may be for us.
#[inline(always)]
fn look_up<P, A, T, E>(packet: &mut P, tables: &T, env: &E, wire: &mut Wire<A>) -> Verdict
where
    P: Packet,
    A: Address + packet::Wire,
    T: Tables + AddressTables<A>,
    E: Env,
{
    if !is_admitted(tables, &wire.key) {
        trace::detail(tables, StepKind::GateClosed, 0);
        return Verdict::pass(Reason::NotOurs);
    }
    if fragment::resolve(tables, wire, || env.tick())
        && let Some(flow) = tables.flow(&wire.key)
    {
        conntrack::meet(flow);
        trace::found(tables, wire.key.protocol, flow);
        if !is_translated_here::<A, E>(flow) {
            trace::detail(tables, StepKind::FlowPassedOver, Step::OTHER_HOOK);
            return Verdict::pass(Reason::NotOurs);
        }
        let now = env.tick();
        if strays(packet, tables, env, flow, now) {
            trace::detail(tables, StepKind::FlowPassedOver, Step::STRAYS);
            return Verdict::pass(Reason::NotOurs);
        }
        let expired = flow.tick != now && flow.is_expired(wire.key.protocol, now);
        if !expired && (flow.is_reply() || conntrack::stands(tables, wire, flow)) {
            return continue_flow(packet, tables, env, wire, flow, now);
        }
        trace::detail(tables, StepKind::FlowPassedOver, if expired { Step::EXPIRED } else { Step::CHOSEN_ANEW });
        if flow.is_reply() {
            return Verdict::pass(Reason::NotOurs);
        }
        conntrack::forget(tables, &wire.key, flow);
    } else {
        trace::detail(tables, StepKind::FlowUnknown, 0);
    }
    if wire.is_later() {
        return leave::<A, P, T, E>(packet, tables, env, Reason::Fragment);
    }
    if E::HOOK == Hook::Egress {
        return Verdict::pass(Reason::NotOurs);
    }
    if owners(tables, &wire.key.dst) == 0 {
        trace::owned(tables, None);
        return Verdict::pass(Reason::NotOurs);
    }
    Verdict { ifindex: 0, action: Action::Open, reason: Reason::NotOurs }
}

/// A packet of a flow that is known and stands.
#[inline(always)]
fn continue_flow<P, A, T, E>(
    packet: &mut P,
    tables: &T,
    env: &E,
    wire: &Wire<A>,
    flow: &mut Flow<A>,
    now: u32,
) -> Verdict
where
    P: Packet,
    A: Address + packet::Wire,
    T: Tables + AddressTables<A>,
    E: Env,
{
    // The decision holds for one tick. The way out is asked for first, since XDP may have to leave the packet to TCX as
    // it came; the tick then stays, so that TCX asks again.
    let is_new_tick = flow.tick != now;
    // Without a neighbour the kernel sends, to whom it names for this very packet.
    let is_settled = flow.hop.flags & (NextHop::XDP | NextHop::STACK) != 0 || flow.hop.has_neighbour();
    let asks = is_new_tick || !is_settled;
    if asks {
        let answer = next_hop(tables, env, wire.key.protocol, flow);
        if answer.is_drop() {
            return refuse::<A>(answer);
        }
    }
    let revalidates = is_new_tick && now.is_multiple_of(REVALIDATION_TICKS);
    if E::HOOK == Hook::Xdp && (revalidates || !finishes(&flow.hop, wire)) {
        return Verdict::DEFER;
    }
    if let Err(verdict) = may_leave(packet, wire, flow) {
        return verdict;
    }
    let news = conntrack::flags_of(wire, flow) & !flow.flags;
    let reason = if flow.is_reply() { Reason::Replied } else { Reason::Forwarded };
    if is_new_tick || news != 0 {
        let ends = Flow::<A>::has_ended(flow.flags | news) && !Flow::<A>::has_ended(flow.flags);
        flow.tick = now;
        flow.flags |= news;
        if ends && tables.is_listened() {
            event::tell_flow(tables, env, wire, flow, News { kind: Event::CLOSED, reason });
        }
        conntrack::refresh(tables, &wire.key, flow);
    }
    finish(packet, tables, env, wire, flow, asks, reason)
}

/// The first packet of a flow, to an address of ours: who gets it, and by which way. What is decided stands in the working memory.
#[inline(never)]
fn open_flow<P, A, T, E>(packet: &mut P, tables: &T, env: &E, wire: &Wire<A>) -> Verdict
where
    P: Packet,
    A: Address + packet::Wire,
    T: Tables + AddressTables<A>,
    E: Env,
{
    let key = &wire.key;
    let Some(settings) = tables.settings() else {
        return Verdict::drop(Reason::StoreFailed);
    };
    let Some(Scratch { flow, revalidated, place, client, service, client_flags, .. }) = tables.scratch() else {
        return Verdict::drop(Reason::StoreFailed);
    };
    let is = |flag| *client_flags & flag != 0;
    let is_host = is(Scratch::<A>::HOST);
    // What is this node's own business goes by its own seed, whatever the Service's backends go by.
    let hash = pick::hash(settings.seed, key);
    let seed = pick::seed(settings, service);
    let mut set = service.backends;
    let mut by = if seed == settings.seed { hash } else { pick::hash(seed, key) };
    let mut chosen = pick::place(by, set.count());
    let mut how = Step::BY_CONNECTION;
    *place = Affinity::NO_PLACE;
    if affinity::is_kept(service) {
        // The node is one client, by whichever of its addresses, and at its sockets too.
        if is(Scratch::<A>::NODE) {
            affinity::write_namespace(service, settings.netns_cookie, client);
        } else {
            affinity::write_client(service, &key.src, client);
        }
        chosen = affinity::place(tables, env, service, client);
        trace::affinity(tables, client, chosen);
        how = Step::KEPT;
        if chosen == Affinity::NO_PLACE {
            how = Step::BY_CLIENT;
            by = pick::of_client(seed, client);
            chosen = pick::place(by, set.count());
        } else {
            set = service.members;
        }
        *place = chosen;
    }
    trace::picked(tables, set, chosen, by, how);
    let (slot, backend, address) = match backend_at::<A, T>(tables, service.flags, set, chosen) {
        Ok(picked) => picked,
        Err(reason) => return refuse::<A>(reason),
    };
    trace::backend(tables, slot, backend, affinity::port_of(service, slot));
    // Field by field: a value built first and then copied would take its room on the stack.
    flow.src = key.src;
    flow.dst = address;
    flow.src_port = key.src_port;
    flow.dst_port = affinity::port_of(service, slot);
    flow.tick = env.tick();
    flow.flags = 0;
    // Of a connection whose entry was lost this may be the end already.
    flow.flags = conntrack::flags_of(wire, flow);
    flow.generation = slot.generation;
    flow.backend = slot.backend;
    flow.service = service.id;
    flow.hop.renew(0, came_to(packet).unwrap_or_default());
    let lent = packet.opaque(A::lent_count(settings) as usize) as u32;
    if is_host {
        flow.hop.flags = NextHop::HOST;
    }
    if backend.is_node() {
        if is_host {
            // The node talks to itself. It takes no packet from outside with a source of its own, and would answer one
            // behind our back; but it sends by the pair whatever it sends to the Service.
            flow.src = key.dst;
        } else {
            flow.hop.flags = NextHop::STACK | NextHop::LOCAL;
        }
    } else if key.src == address || !(backend.is_local() || is(Scratch::<A>::KEEPS_ADDRESS)) {
        // The reply would not come back through this node by itself: from a backend that is itself the client, or from a
        // backend elsewhere to a client elsewhere. Never through the stack, which refuses the source lent to it.
        if lent == 0 {
            return Verdict::drop(Reason::NoSnatAddress);
        }
        flow.src = snat::address(settings, lent, hash);
        flow.flags |= Flow::<A>::SNAT;
    } else if settings.flags & Settings::STACK != 0 && !is_host {
        flow.hop.flags = NextHop::STACK;
    }
    // Before anything is recorded: XDP may have to leave the packet to TCX as it came.
    let answer = next_hop(tables, env, key.protocol, flow);
    if answer.is_drop() {
        return refuse::<A>(answer);
    }
    if E::HOOK == Hook::Xdp {
        let revalidates = *revalidated != flow.tick || hash.is_multiple_of(REVALIDATION_FLOWS);
        *revalidated = flow.tick;
        if revalidates || !finishes(&flow.hop, wire) {
            return Verdict::DEFER;
        }
    }
    if let Err(verdict) = may_leave(packet, wire, flow) {
        return verdict;
    }
    Verdict { ifindex: 0, action: Action::Lend, reason: Reason::Forwarded }
}

/// Settles the source of the flow that [`open_flow`] left in the working memory, and with it the entry for its replies.
#[inline(never)]
fn lend_source<A, T, E>(tables: &T, env: &E, wire: &Wire<A>) -> Verdict
where
    A: Address,
    T: Tables + AddressTables<A>,
    E: Env,
{
    let Some(settings) = tables.settings() else {
        return Verdict::drop(Reason::StoreFailed);
    };
    let Some(Scratch { flow, .. }) = tables.scratch() else {
        return Verdict::drop(Reason::StoreFailed);
    };
    let (key, keeps_port) = (&wire.key, is_sctp_fragment(wire));
    let hash = pick::hash(settings.seed, key);
    let reason = match snat::lend(tables, env, settings, A::lent_count(settings), key, flow, hash, keeps_port) {
        Ok(false) if conntrack::is_midway(wire) => Reason::ForwardedMidway,
        Ok(false) => Reason::Forwarded,
        Ok(true) => Reason::ForwardedSnatScarce,
        Err(reason) => return Verdict::drop(reason),
    };
    trace::source(tables, key.protocol, flow);
    Verdict { ifindex: 0, action: Action::Enter, reason }
}

/// Enters the flow and sends its first packet on.
#[inline(never)]
fn enter_flow<P, A, T, E>(packet: &mut P, tables: &T, env: &E, wire: &Wire<A>, reason: Reason) -> Verdict
where
    P: Packet,
    A: Address + packet::Wire,
    T: Tables + AddressTables<A>,
    E: Env,
{
    let Some(Scratch { flow, mirror_key, place, client, .. }) = tables.scratch() else {
        return Verdict::drop(Reason::StoreFailed);
    };
    if tables.insert(&wire.key, flow).is_err() {
        // What was lent a moment ago.
        tables.delete(mirror_key);
        return Verdict::drop(Reason::TableFull);
    }
    tables.count_connection(flow.service, flow.backend);
    if tables.is_listened() {
        event::tell_flow(tables, env, wire, flow, News { kind: Event::NEW, reason });
    }
    if *place != Affinity::NO_PLACE {
        let kept = Affinity {
            backend: flow.backend,
            tick: flow.tick,
            generation: flow.generation,
            port: flow.dst_port,
            place: *place,
        };
        affinity::note(tables, client, &kept);
    }
    finish(packet, tables, env, wire, flow, true, reason)
}

/// The backend at a place of a set, and its address.
#[inline(always)]
fn backend_at<A, T>(tables: &T, flags: u16, set: BackendSet, place: u32) -> Result<(&Slot, &Backend, A), Reason>
where
    A: Address,
    T: Tables,
{
    if set.count() == 0 {
        return Err(if flags & Service::ELSEWHERE != 0 { Reason::NoLocalBackend } else { Reason::NoBackend });
    }
    let slot = tables.slot(set.base() + place).ok_or(Reason::BackendGone)?;
    let backend = tables.backend(slot.backend).ok_or(Reason::BackendGone)?;
    if backend.generation != slot.generation {
        return Err(Reason::BackendGone);
    }
    let address = A::of_backend(backend).ok_or(Reason::BackendGone)?;
    Ok((slot, backend, address))
}

/// Asks the kernel for the way out of a packet as `flow` rewrites it, and notes it there. Not inlined: it has a stack frame
/// of its own, and it runs once a tick.
#[inline(never)]
pub(crate) fn next_hop<A, T, E>(tables: &T, env: &E, protocol: u8, flow: &mut Flow<A>) -> Reason
where
    A: Address,
    T: Tables + AddressTables<A>,
    E: Env,
{
    let reason = find_next_hop(tables, env, protocol, flow);
    trace::next_hop(tables, &flow.hop, reason);
    reason
}

#[inline(always)]
fn find_next_hop<A, T, E>(tables: &T, env: &E, protocol: u8, flow: &mut Flow<A>) -> Reason
where
    A: Address,
    T: Tables + AddressTables<A>,
    E: Env,
{
    let (fixed, came_to) = (flow.hop.flags & NextHop::FIXED, flow.hop.came_to);
    if fixed & NextHop::STACK != 0 {
        return Reason::Forwarded;
    }
    flow.hop.renew(fixed, came_to);
    // To the node itself leads only the pair: it is the client's way back, and the way to a backend that the node is too.
    let is_home = || flow.is_reply() || tables.owned(&flow.dst).is_some_and(Owned::is_node);
    if fixed & NextHop::HOST != 0 && is_home() {
        flow.hop.flags |= NextHop::PAIR;
        return match tables.settings() {
            Some(Settings { host, .. }) if host.ifindex != 0 => {
                flow.hop.ifindex = host.ifindex;
                flow.hop.macs = host.macs;
                flow.hop.mtu = u16::MAX;
                Reason::Forwarded
            }
            _ => Reason::NoRoute,
        };
    }
    match env.route(&flow.rewritten(protocol)) {
        Route::Via(found) => flow.hop = NextHop { flags: fixed, came_to, ..found },
        Route::NotForwarded => return Reason::NoRoute,
        Route::Failed(reason) => return reason,
    }
    if flow.hop.has_neighbour() {
        flow.hop.flags |= ways_on(tables, env, flow.hop.ifindex);
    }
    Reason::Forwarded
}

/// Which hooks can finish packets that leave by an interface to a known neighbour.
#[inline(always)]
fn ways_on<T: Tables, E: Env>(tables: &T, env: &E, leaves_by: u32) -> u16 {
    let leads_by = tables.device(leaves_by).flags;
    let leads = |flag| leads_by & flag != 0;
    let comes = |flag| tables.device(env.ifindex()).flags & flag != 0;
    // Also when TCX asks: XDP may see the next packet of the same tick.
    let by_xdp = leads(Device::XDP_TARGET) || comes(Device::XDP_GENERIC);
    // What XDP could finish and leaves to TCX, the kernel is to send.
    let is_left = || by_xdp && (E::HOOK == Hook::Xdp || comes(Device::XDP));
    let by_peer = leads(Device::PEER) && !is_left();
    (if by_xdp { NextHop::XDP } else { 0 }) | (if by_peer { NextHop::PEER } else { 0 })
}

/// Whether XDP can finish a packet by this hop. What the stack is to forward is left to TCX, which alone can tell whether a
/// checksum is complete.
#[inline(always)]
fn finishes<A>(hop: &NextHop, wire: &Wire<A>) -> bool {
    hop.flags & NextHop::LOCAL != 0
        || (hop.flags & NextHop::XDP != 0
            // The host may have merged packets (GRO) before a generic XDP program; only TCX can tell.
            && wire.length <= u32::from(hop.mtu))
}

/// Whether the packet's checksum covers fragments that nobody has seen yet.
#[inline(always)]
fn is_sctp_fragment<A>(wire: &Wire<A>) -> bool {
    wire.piece.is_first() && wire.key.protocol == SCTP
}

/// Whether the packet may leave as `flow` says, or what becomes of it instead. Asked before anything is remembered of it:
/// a packet that ends here must not keep a flow alive, and still less take a source from another.
#[inline(always)]
fn may_leave<P: Packet, A: Address>(packet: &P, wire: &Wire<A>, flow: &Flow<A>) -> Result<(), Verdict> {
    let hop = &flow.hop;
    if hop.takes_hop() && wire.ttl <= 1 {
        return Err(refuse::<A>(Reason::TtlExceeded));
    }
    if !hop.is_through_stack() {
        let length = packet.segment_size().map_or(wire.length, |segment| u32::from(wire.headers) + segment);
        if length > u32::from(hop.mtu) {
            return Err(Verdict { ifindex: u32::from(hop.mtu), ..refuse::<A>(Reason::MtuExceeded) });
        }
    }
    if is_sctp_fragment(wire) && rewrite::changes_ports(wire, flow) {
        return Err(Verdict::drop(Reason::SctpFragment));
    }
    Ok(())
}

/// Rewrites the packet and sends it on. `has_asked`: the kernel was asked for the way with this very packet.
#[inline(always)]
fn finish<P, A, T, E>(
    packet: &mut P,
    tables: &T,
    env: &E,
    wire: &Wire<A>,
    flow: &Flow<A>,
    has_asked: bool,
    reason: Reason,
) -> Verdict
where
    P: Packet,
    A: Address + packet::Wire,
    T: Tables + AddressTables<A>,
    E: Env,
{
    let hop = &flow.hop;
    if wire.piece.is_first() {
        fragment::note(tables, wire, env.tick());
    }
    let length = packet.len();
    if rewrite::tuple(packet, env, wire, flow).is_none() {
        return Verdict::drop(Reason::StoreFailed);
    }
    trace::rewritten(tables, wire.key.protocol, flow);
    tables.count_traffic(flow.service, flow.backend, flow.is_reply(), length);
    // Looked at anew: what the verifier learnt above would make it follow the rewrite for each kind of hop apart.
    let flags = packet.opaque(usize::from(hop.flags)) as u16;
    if flags & NextHop::STACK != 0 {
        let is_delivered = flags & NextHop::LOCAL != 0 && !flow.is_reply();
        return Verdict::pass(if is_delivered { Reason::Delivered } else { reason });
    }
    send::<_, E>(packet, hop, has_asked, reason)
}

/// Sends a rewritten packet on by `hop`. Where the kernel was asked for the way, it also sends the packet: that keeps its
/// neighbour entry honest, which our own frames would never do. What is handed to a pod meets nobody who compares its MAC, and is
/// not to be overtaken by what comes behind it: all of a flow takes that way, or none.
#[inline(always)]
pub(crate) fn send<P: Packet, E: Env>(packet: &mut P, hop: &NextHop, has_asked: bool, reason: Reason) -> Verdict {
    // Asked twice, since the stack has no room to keep the answer.
    let to_peer = || E::HOOK == Hook::Ingress && hop.flags & NextHop::PEER != 0;
    if E::HOOK != Hook::Xdp && hop.flags & NextHop::PAIR == 0 && has_asked && !to_peer() {
        return Verdict { ifindex: hop.ifindex, action: Action::RedirectNeighbour, reason };
    }
    if rewrite::macs(packet, hop).is_none() {
        return Verdict::drop(Reason::StoreFailed);
    }
    let action = if to_peer() { Action::RedirectPeer } else { Action::Redirect };
    Verdict { ifindex: hop.ifindex, action, reason }
}
