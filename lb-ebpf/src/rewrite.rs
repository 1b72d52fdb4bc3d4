//! Writes a flow's decision into a packet: addresses, ports, checksums, TTL, MACs.

use crate::Address;
use crate::checksum;
use crate::env::Env;
use crate::packet::{self, Bytes, Packet, TransportChecksum};
use crate::parse::{self, IP_OFFSET, Wire};
use crate::sctp;
use lb_common::{Flow, NextHop, SCTP, TCP};

/// Offset of the checksum in a TCP header (RFC 9293).
pub const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header (RFC 768).
pub const UDP_CHECKSUM: usize = 6;
/// Offset of the checksum in an SCTP header (RFC 9260, 3.1).
const SCTP_CHECKSUM: usize = 8;

/// Rewrites addresses, TTL and ports as `flow` says, and brings all checksums up to date. `None`: the packet could not be
/// written and must be dropped.
#[inline(always)]
pub fn tuple<P, A, E>(packet: &mut P, env: &E, wire: &Wire<A>, flow: &Flow<A>) -> Option<()>
where
    P: Packet,
    A: Address + packet::Wire,
    E: Env,
{
    header(packet, flow.src, flow.dst, flow.address_delta, flow.hop.takes_hop())?;
    if wire.is_later() {
        note_addresses::<_, A>(packet, flow);
        return Some(());
    }
    let ports = ports(flow.src_port, flow.dst_port);
    packet.store(usize::from(wire.transport), ports)?;
    if wire.key.protocol == SCTP {
        note_addresses::<_, A>(packet, flow);
        return sctp_checksum(packet, env, wire, flow, ports);
    }
    let is_tcp = wire.key.protocol == TCP;
    packet.update_checksum(&transport_checksum(usize::from(wire.transport), is_tcp, flow))
}

/// [`Address::rewrite_header`], and notes what no checksum makes up for.
#[inline(always)]
pub(crate) fn header<P, A>(packet: &mut P, src: A, dst: A, delta: u16, takes_hop: bool) -> Option<()>
where
    P: Packet,
    A: Address,
{
    A::rewrite_header(packet, src, dst, delta, takes_hop)?;
    if takes_hop && A::HEADER_CHECKSUM_OFFSET.is_none() {
        packet.note_change(A::HOP);
    }
    Some(())
}

/// [`tuple`] and [`macs`] for what [`crate::shortcut`] sends on: TCP and UDP behind a header of the usual length, forwarded by this node.
#[inline(always)]
pub fn plain<P, A>(packet: &mut P, is_tcp: bool, flow: &Flow<A>) -> Option<()>
where
    P: Packet,
    A: Address,
{
    let transport = IP_OFFSET + A::HEADER;
    // First, since it may move the frame. A constant offset for each.
    if is_tcp {
        packet.update_checksum(&transport_checksum(transport, true, flow))?;
    } else {
        packet.update_checksum(&transport_checksum(transport, false, flow))?;
    }
    if A::HEADER_CHECKSUM_OFFSET.is_none() {
        packet.note_change(A::HOP);
    }
    let mut head = packet.head(parse::plain_head::<A>())?;
    A::rewrite_header(&mut head, flow.src, flow.dst, flow.address_delta, true)?;
    head.store(transport, ports(flow.src_port, flow.dst_port))?;
    macs(&mut head, &flow.hop)
}

/// The checksum of TCP or UDP behind `transport`, and what rewriting the tuple does to it.
#[inline(always)]
fn transport_checksum<A: Address>(transport: usize, is_tcp: bool, flow: &Flow<A>) -> TransportChecksum {
    TransportChecksum {
        offset: transport + if is_tcp { TCP_CHECKSUM } else { UDP_CHECKSUM },
        ipv6: A::VERSION == 6,
        zero_means_none: !is_tcp,
        address_delta: flow.address_delta,
        port_delta: flow.port_delta,
    }
}

#[inline(always)]
fn ports([a, b]: [u8; 2], [c, d]: [u8; 2]) -> [u8; 4] {
    [a, b, c, d]
}

/// Where no transport checksum takes the change of addresses in, in IPv6 nothing does.
#[inline(always)]
fn note_addresses<P: Packet, A: Address>(packet: &mut P, flow: &Flow<A>) {
    if A::HEADER_CHECKSUM_OFFSET.is_none() {
        packet.note_change(flow.address_delta);
    }
}

/// Whether `flow` changes ports of the packet.
#[inline(always)]
pub fn changes_ports<A: Address>(wire: &Wire<A>, flow: &Flow<A>) -> bool {
    flow.src_port != wire.key.src_port || flow.dst_port != wire.key.dst_port
}

/// Brings the checksum of SCTP up to date with the new `ports`. Four bytes of zeros mean that the sender left it to hardware,
/// or to whoever sends the packet on in its place.
#[inline(always)]
fn sctp_checksum<P, A, E>(packet: &mut P, env: &E, wire: &Wire<A>, flow: &Flow<A>, after: [u8; 4]) -> Option<()>
where
    P: Packet,
    A: Address,
    E: Env,
{
    let transport = usize::from(wire.transport);
    let old: [u8; 4] = packet.load(transport + SCTP_CHECKSUM)?;
    if !changes_ports(wire, flow) {
        return Some(());
    }
    let mut new = old;
    if old != [0; 4] {
        let before = ports(wire.key.src_port, wire.key.dst_port);
        let length = (wire.length + IP_OFFSET as u32).saturating_sub(u32::from(wire.transport));
        let words = [u32::from_le_bytes(old), u32::from_le_bytes(before), u32::from_le_bytes(after)];
        new = sctp::update(env, words[0], words[1], words[2], length).to_le_bytes();
        packet.store(transport + SCTP_CHECKSUM, new)?;
    }
    let change = checksum::delta(checksum::words(word(old)), checksum::words(word(new)));
    packet.note_change(checksum::add(flow.port_delta, change));
    Some(())
}

#[inline(always)]
fn word(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_ne_bytes(bytes))
}

/// Writes the link-layer addresses of the way out.
#[inline(always)]
pub fn macs<B: Bytes>(packet: &mut B, hop: &NextHop) -> Option<()> {
    // In words: twelve bytes would be copied one by one, in a function of their own.
    let [first, second, third] = hop.macs.as_chunks().0 else {
        return None;
    };
    packet.store(0, [first, second, third].map(|word| u32::from_ne_bytes(*word)))
}

/// Brings the checksum at `offset`, of an IPv4 header or an ICMP message, up to date.
#[inline(always)]
pub fn checksum_at<P: Packet>(packet: &mut P, offset: usize, delta: u16) -> Option<()> {
    let old: [u8; 2] = packet.load(offset)?;
    packet.store(offset, checksum::update(old, delta))
}
