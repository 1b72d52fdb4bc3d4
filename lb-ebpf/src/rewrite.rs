//! Writes a flow's decision into a packet: addresses, ports, checksums, TTL, MACs.

use crate::Address;
use crate::checksum;
use crate::packet::{self, Packet, TransportChecksum};
use crate::parse::{IP_OFFSET, Wire};
use lb_common::{Flow, NextHop, TCP};

/// Offset of the checksum in a TCP header (RFC 9293).
pub const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header (RFC 768).
pub const UDP_CHECKSUM: usize = 6;

/// Rewrites addresses and ports as `flow` says, and brings all checksums up to date. `None`: the packet could not be
/// written and must be dropped.
#[inline(always)]
pub fn tuple<P, A>(packet: &mut P, wire: &Wire<A>, flow: &Flow<A>) -> Option<()>
where
    P: Packet,
    A: Address + packet::Wire,
{
    let source = IP_OFFSET + A::SOURCE_OFFSET;
    packet.store(source, flow.src)?;
    packet.store(source + core::mem::size_of::<A>(), flow.dst)?;
    let [a, b] = flow.src_port;
    let [c, d] = flow.dst_port;
    packet.store(usize::from(wire.transport), [a, b, c, d])?;
    if let Some(offset) = A::HEADER_CHECKSUM_OFFSET {
        checksum_at(packet, IP_OFFSET + offset, flow.address_delta)?;
    }
    let is_tcp = wire.key.protocol == TCP;
    packet.update_checksum(&TransportChecksum {
        offset: usize::from(wire.transport) + if is_tcp { TCP_CHECKSUM } else { UDP_CHECKSUM },
        ipv6: A::VERSION == 6,
        zero_means_none: !is_tcp,
        address_delta: flow.address_delta,
        port_delta: flow.port_delta,
    })
}

/// Takes one hop off the TTL, as the stack would have done in our place (RFC 1812, 5.3.1).
#[inline(always)]
pub fn ttl<P: Packet, A: Address>(packet: &mut P, ttl: u8) -> Option<()> {
    let offset = IP_OFFSET + A::TTL_OFFSET;
    packet.store(offset, ttl - 1)?;
    if let Some(checksum_offset) = A::HEADER_CHECKSUM_OFFSET {
        // The TTL is the first byte of its word, the protocol (unchanged, so left out of both sums) the second.
        let delta = checksum::delta(checksum::word([ttl, 0]), checksum::word([ttl - 1, 0]));
        checksum_at(packet, IP_OFFSET + checksum_offset, delta)?;
    }
    Some(())
}

/// Writes the link-layer addresses of the way out.
#[inline(always)]
pub fn macs<P: Packet>(packet: &mut P, hop: &NextHop) -> Option<()> {
    packet.store(0, hop.macs)
}

/// Brings the checksum at `offset`, of an IPv4 header or an ICMP message, up to date.
#[inline(always)]
pub fn checksum_at<P: Packet>(packet: &mut P, offset: usize, delta: u16) -> Option<()> {
    let old: [u8; 2] = packet.load(offset)?;
    packet.store(offset, checksum::update(old, delta))
}
