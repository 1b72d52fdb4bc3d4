//! ICMP and ICMPv6 messages (RFC 792, RFC 4443).
//!
//! An error embeds the start of the packet that it is about. If that packet is of a flow of ours, the error is translated and
//! sent on the way that packets of the flow take in its direction: an error about the tuple `e` travels like a packet of
//! the tuple `e` reversed, so that one entry is looked up, and the same rule serves both directions:
//!
//! ```text
//!  entry = flows[reversed e]
//!  embedded source := entry's destination      embedded destination := entry's source
//!  outer destination := entry's destination
//!  outer source := entry's source, if the error is from e's destination itself; a router on the way keeps its own address
//! ```
//! An error changes nothing that is remembered of its flow: anybody can send one.
//!
//! Path MTU discovery needs no more: an error that says "too big" passes like any other, and since translation leaves
//! a packet's length alone, the MTU in it holds on the other side too.

use crate::datapath::{is_for_another_host, is_translated_here, next_hop, send};
use crate::env::{Env, Hook};
use crate::packet::{self, Packet};
use crate::parse::{IP_OFFSET, Network};
use crate::rewrite::{self, TCP_CHECKSUM, UDP_CHECKSUM};
use crate::tables::{AddressTables, Tables};
use crate::verdict::Verdict;
use crate::{Address, checksum, trace};
use lb_common::{Flow, FlowKey, Owned, Reason, SCTP, Step, StepKind, TCP, UDP};

/// Bytes of an ICMP header.
pub const HEADER: usize = 8;
/// Offset of the checksum in an ICMP header.
pub const CHECKSUM: usize = 2;

/// Where the parts of an error stand in its frame.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Places {
    /// The ICMP header.
    icmp: u16,
    /// The embedded transport header.
    transport: u16,
    /// The end of the IP packet.
    end: u16,
    /// The embedded packet's protocol.
    protocol: u8,
    /// Whether the error is forwarded here in place of the stack.
    takes_hop: bool,
}

/// Decides about an ICMP message. Not inlined: it has a stack frame of its own.
#[inline(never)]
pub fn judge<P, A, T, E>(packet: &mut P, tables: &T, env: &E) -> Verdict
where
    P: Packet,
    A: Address + packet::Wire,
    T: Tables + AddressTables<A>,
    E: Env,
{
    if E::HOOK == Hook::Xdp {
        return Verdict::DEFER;
    }
    if E::HOOK == Hook::Ingress && is_for_another_host(packet, &tables.device(env.ifindex())) {
        return Verdict::pass(Reason::NotOurs);
    }
    let Some(outer) = A::header(packet, IP_OFFSET) else {
        return Verdict::pass(Reason::NotOurs);
    };
    let icmp = packet.opaque(IP_OFFSET + usize::from(outer.headers));
    let Some([kind, _]) = packet.load::<[u8; 2]>(icmp) else {
        return Verdict::pass(Reason::NotOurs);
    };
    trace::icmp(tables, &outer, kind);
    if A::is_error(kind) {
        let verdict = translate::<P, A, T, E>(packet, tables, env, &outer, icmp);
        if verdict.reason != Reason::IcmpUnrelated {
            return verdict;
        }
    }
    // At egress only the node itself can have sent it.
    let owned = tables.owned(&outer.dst);
    trace::owned(tables, owned);
    match owned {
        None | Some(Owned::NODE | Owned::SILENT) => Verdict::pass(Reason::NotOurs),
        Some(_) if E::HOOK == Hook::Egress => Verdict::pass(Reason::NotOurs),
        Some(_) if kind == A::ECHO[0] => Verdict::answer(Reason::EchoReplied),
        Some(_) => Verdict::drop(Reason::IcmpUnrelated),
    }
}

/// Translates the error whose ICMP header stands at `icmp`, or says [`Reason::IcmpUnrelated`] if no flow of ours is meant.
#[inline(always)]
fn translate<P, A, T, E>(packet: &mut P, tables: &T, env: &E, outer: &Network<A>, icmp: usize) -> Verdict
where
    P: Packet,
    A: Address + packet::Wire,
    T: Tables + AddressTables<A>,
    E: Env,
{
    const UNRELATED: Verdict = Verdict::drop(Reason::IcmpUnrelated);

    let Some(inner) = A::header(packet, icmp + HEADER) else {
        return UNRELATED;
    };
    let transport = packet.opaque(icmp + HEADER + usize::from(inner.headers));
    let end = IP_OFFSET + outer.length as usize;
    let Some([a, b, c, d]) = packet.load::<[u8; 4]>(transport) else {
        return UNRELATED;
    };
    // An error goes to who sent what it is about; and nothing behind the packet's end is believed.
    if outer.dst != inner.src || inner.is_later_fragment || transport + 4 > end {
        return UNRELATED;
    }
    if !matches!(inner.protocol, TCP | UDP | SCTP) {
        return UNRELATED;
    }
    let key = FlowKey::new(inner.protocol, inner.dst, [c, d], inner.src, [a, b]);
    let Some(entry) = tables.flow(&key) else {
        trace::about(tables, &key, false);
        return UNRELATED;
    };
    trace::about(tables, &key, true);
    trace::found(tables, key.protocol, entry);
    if entry.is_expired(key.protocol, env.tick()) {
        trace::detail(tables, StepKind::FlowPassedOver, Step::EXPIRED);
        return UNRELATED;
    }
    if !is_translated_here::<A, E>(entry) {
        trace::detail(tables, StepKind::FlowPassedOver, Step::OTHER_HOOK);
        return Verdict::pass(Reason::NotOurs);
    }
    if outer.src.is_martian() {
        return Verdict::drop(Reason::MartianSource);
    }
    let Some(scratch) = tables.scratch() else {
        return Verdict::drop(Reason::StoreFailed);
    };
    // A copy, so that the flow's own next hop is left alone.
    scratch.flow = *entry;
    let flow = &mut scratch.flow;
    let answer = next_hop(tables, env, key.protocol, flow);
    if answer.is_drop() {
        // Nobody is told of the fate of an error (RFC 1122, 3.2.2).
        return Verdict::drop(answer);
    }
    let (through_stack, takes_hop) = (flow.hop.is_through_stack(), flow.hop.takes_hop());
    if takes_hop && outer.ttl <= 1 {
        return Verdict::drop(Reason::TtlExceeded);
    }
    if !through_stack && outer.length > u32::from(flow.hop.mtu) {
        return Verdict::drop(Reason::MtuExceeded);
    }
    let places =
        Places { icmp: icmp as u16, transport: transport as u16, end: end as u16, protocol: key.protocol, takes_hop };
    let source = if outer.src == key.src { flow.src } else { outer.src };
    if rewrite_error(packet, outer, source, flow, &places).is_none() {
        return Verdict::drop(Reason::StoreFailed);
    }
    trace::rewritten(tables, key.protocol, &scratch.flow);
    if through_stack {
        return Verdict::pass(Reason::IcmpTranslated);
    }
    send::<_, E>(packet, &scratch.flow.hop, true, Reason::IcmpTranslated)
}

/// Rewrites the error and what it embeds as `flow` says, and brings the checksums up to date: both IP headers', the
/// embedded transport header's where it was embedded, and the error's own, which covers all that it embeds.
#[inline(always)]
fn rewrite_error<P, A>(packet: &mut P, outer: &Network<A>, source: A, flow: &Flow<A>, places: &Places) -> Option<()>
where
    P: Packet,
    A: Address + packet::Wire,
{
    let size = core::mem::size_of::<A>();
    // The entry changes the reverse tuple, whose words add up to the same.
    let (address_delta, port_delta) = (flow.address_delta, flow.port_delta);
    let [a, b] = flow.dst_port;
    let [c, d] = flow.src_port;
    let transport = usize::from(places.transport);
    packet.store(transport, [a, b, c, d])?;
    let mut delta = port_delta;

    let embedded = usize::from(places.icmp) + HEADER;
    packet.store(embedded + A::SOURCE_OFFSET, flow.dst)?;
    packet.store(embedded + A::SOURCE_OFFSET + size, flow.src)?;
    match A::HEADER_CHECKSUM_OFFSET {
        // What it adds makes good for what the addresses add.
        Some(offset) => rewrite::checksum_at(packet, embedded + offset, address_delta)?,
        None => delta = checksum::add(delta, address_delta),
    }

    let offset = match places.protocol {
        TCP => TCP_CHECKSUM,
        UDP => UDP_CHECKSUM,
        // SCTP's does not cover the addresses.
        _ => 0,
    };
    let at = transport + offset;
    if offset != 0 && at + 2 <= usize::from(places.end) {
        let old: [u8; 2] = packet.load(at)?;
        let has_none = places.protocol == UDP && old == [0; 2];
        if !has_none {
            let change = checksum::add(address_delta, port_delta);
            let new = checksum::update(old, change);
            packet.store(at, if places.protocol == UDP && new == [0; 2] { [0xff; 2] } else { new })?;
            delta = checksum::add(delta, !change);
        }
    }

    let outer_delta = checksum::delta(outer.src.sum() + outer.dst.sum(), source.sum() + flow.dst.sum());
    rewrite::header(packet, source, flow.dst, outer_delta, places.takes_hop)?;
    if A::ICMP_COVERS_ADDRESSES {
        delta = checksum::add(delta, outer_delta);
    }
    rewrite::checksum_at(packet, usize::from(places.icmp) + CHECKSUM, delta)
}
