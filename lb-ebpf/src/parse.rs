//! From a frame to its tuple.
//!
//! Only what can be translated rightly yields a [`Wire`]; everything else says why not ([`Reason::Malformed`], or what keeps a
//! well-formed packet from being translated) and is left as it came. Lengths are
//! checked against the frame: nothing behind the frame's end is ever read, and no header is believed that contradicts it.

use crate::Address;
use crate::packet::{self, Bytes, Head, Packet};
use lb_common::{FlowKey, Reason, SCTP, TCP, UDP};
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::sctp::SctpHdr;
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

/// Length of the Ethernet header, and so the offset of the IP header.
pub const IP_OFFSET: usize = core::mem::size_of::<EthHdr>();

/// Offset of the number that says what a frame carries, and those of the two families.
pub const ETHERTYPE_OFFSET: usize = 12;
/// IPv4 (RFC 894), as it lies in memory.
pub const IPV4: u16 = 0x0800_u16.to_be();
/// IPv6 (RFC 2464), as it lies in memory.
pub const IPV6: u16 = 0x86dd_u16.to_be();

/// TTL or hop limit of a packet that begins its way (RFC 1700).
pub const FIRST_TTL: u8 = 64;

/// `TCP_FLAGS & FIN`
pub const FIN: u8 = 1;
/// `TCP_FLAGS & SYN`
pub const SYN: u8 = 2;
/// `TCP_FLAGS & RST`
pub const RST: u8 = 4;
/// `TCP_FLAGS & ACK`
pub const ACK: u8 = 16;

/// Offset of the protocol in an IPv4 header (RFC 791) and in an IPv6 header (RFC 8200).
pub(crate) const PROTOCOL_OFFSET: usize = 9;
pub(crate) const NEXT_HEADER_OFFSET: usize = 6;

const FRAGMENT_HEADER: u8 = 44;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const NO_NEXT_HEADER: u8 = 59;
/// RFC 8200 names five kinds of extension headers that may precede the transport header, one of them twice.
const MAX_EXTENSION_HEADERS: usize = 6;

/// Which piece of its datagram a packet is: its offset in units of eight bytes and, in the lowest bit, whether more follow. A
/// plain number, tested only where it matters, so that the verifier need not follow each kind of packet apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Piece(pub u16);

impl Piece {
    /// By the flags and the offset of an IPv4 header (RFC 791).
    #[inline(always)]
    const fn ipv4(word: u16) -> Self {
        Self(word << 1 & 0x3ffe | word >> 13 & 1)
    }

    /// By the same of a fragment header (RFC 8200, 4.5).
    #[inline(always)]
    const fn ipv6(word: u16) -> Self {
        Self(word >> 2 & 0x3ffe | word & 1)
    }

    /// Whether it is all of it, even behind a fragment header (an "atomic fragment", RFC 6946).
    #[inline(always)]
    pub const fn is_whole(self) -> bool {
        self.0 == 0
    }

    /// Whether it is the fragment at offset zero, the only one that has a transport header. It must have all of it: what a
    /// later fragment could overlap (RFC 1858, RFC 3128) is never read from one.
    #[inline(always)]
    pub const fn is_first(self) -> bool {
        self.0 == 1
    }

    /// Whether it is a fragment without a transport header.
    #[inline(always)]
    pub const fn is_later(self) -> bool {
        self.0 > 1
    }
}

/// The types of SCTP chunks (RFC 9260, 3.2) that begin or end an association.
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const SHUTDOWN_COMPLETE: u8 = 14;
/// Bytes of the header of a chunk.
const CHUNK_HEADER: usize = 4;

/// What the first chunk of an SCTP packet does, in TCP's words: all of these stand alone in their packet or, like
/// SHUTDOWN behind a SACK, are followed by one that does.
#[inline(always)]
const fn chunk_flags(chunk: u8) -> u8 {
    match chunk {
        INIT => SYN,
        INIT_ACK => SYN | ACK,
        SHUTDOWN | SHUTDOWN_ACK => FIN,
        ABORT | SHUTDOWN_COMPLETE => RST,
        _ => ACK,
    }
}

/// A TCP, UDP or SCTP packet: its tuple and where its headers stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Wire<A> {
    /// The tuple on the wire. A later fragment has no ports, and in IPv6 no protocol, until [`crate::fragment::resolve`] finds them.
    pub key: FlowKey<A>,
    /// Bytes of the IP packet.
    pub length: u32,
    /// Offset of the transport header in the frame.
    pub transport: u16,
    /// Bytes from the start of the IP header to the end of the transport header.
    pub headers: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP flags, or what comes up to them in SCTP; zero for UDP and for later fragments.
    pub tcp_flags: u8,
    /// Which piece of its datagram it is.
    pub piece: Piece,
    /// What its datagram's fragments share; of no meaning in a whole packet.
    pub fragment_id: u32,
}

impl<A> Wire<A> {
    /// Whether it is a fragment that has no ports of its own.
    #[inline(always)]
    pub const fn is_later(&self) -> bool {
        self.piece.is_later()
    }
}

/// Bytes that a frame must have for what its IP header says: those of a header that leaves it open (RFC 2675) are not to be told,
/// and those of no IP packet are none.
#[inline(always)]
pub fn claimed<P: Packet>(packet: &P) -> usize {
    let length = |at| packet.load(at).map_or(0, |bytes| usize::from(u16::from_be_bytes(bytes)));
    match packet.load(ETHERTYPE_OFFSET) {
        Some(IPV4) => IP_OFFSET + length(IP_OFFSET + 2),
        Some(IPV6) => match length(IP_OFFSET + 4) {
            0 => usize::MAX,
            payload => IP_OFFSET + Ipv6Hdr::LEN + payload,
        },
        _ => 0,
    }
}

/// Parses the IPv4 packet behind the Ethernet header (RFC 791).
#[inline(always)]
pub fn ipv4<P: Packet>(packet: &P) -> Result<Wire<[u8; 4]>, Reason> {
    let header: Ipv4Hdr = packet.load(IP_OFFSET).ok_or(Reason::Malformed)?;
    let header_length = usize::from(header.ihl());
    let length = usize::from(u16::from_be_bytes(header.tot_len));
    if header.version() != 4
        || header_length < Ipv4Hdr::LEN
        || length < header_length
        || IP_OFFSET + length > packet.len()
    {
        return Err(Reason::Malformed);
    }
    let fragment = (u32::from(u16::from_be_bytes(header.id)), Piece::ipv4(u16::from_be_bytes(header.frags)));
    let addresses = [header.src_addr, header.dst_addr];
    transport(packet, addresses, header.proto, header_length, length, header.ttl, fragment)
}

/// Parses the IPv6 packet behind the Ethernet header (RFC 8200).
#[inline(always)]
pub fn ipv6<P: Packet>(packet: &P) -> Result<Wire<[u8; 16]>, Reason> {
    let header: Ipv6Hdr = packet.load(IP_OFFSET).ok_or(Reason::Malformed)?;
    let payload = usize::from(u16::from_be_bytes(header.payload_len));
    // A GSO packet above 64 KiB says zero (RFC 2675 in spirit, `skb->len` in fact).
    let length = if payload == 0 { packet.len().saturating_sub(IP_OFFSET) } else { Ipv6Hdr::LEN + payload };
    if header.vcf[0] >> 4 != 6 || IP_OFFSET + length > packet.len() {
        return Err(Reason::Malformed);
    }
    let chain = extension_headers(packet, IP_OFFSET, header.next_hdr, length)?;
    let Chain { next, offset, piece, id, .. } = chain;
    if matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT_HEADER | DESTINATION_OPTIONS | AUTHENTICATION) {
        return Err(Reason::ExtensionHeader);
    }
    let addresses = [header.src_addr, header.dst_addr];
    transport(packet, addresses, next, offset, length, header.hop_limit, (id, piece))
}

/// A whole TCP or UDP packet behind an IP header of the usual length: what [`crate::shortcut`] needs of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain<A> {
    /// The tuple on the wire.
    pub key: FlowKey<A>,
    /// Whether it is TCP.
    pub is_tcp: bool,
    /// Bytes of the IP packet.
    pub length: u32,
    /// Bytes of the IP and the transport header.
    pub headers: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP flags; zero for UDP.
    pub tcp_flags: u8,
}

/// Bytes of a frame in which the headers of a [`Plain`] packet lie.
#[inline(always)]
pub const fn plain_head<A: Address>() -> usize {
    IP_OFFSET + A::HEADER + TcpHdr::LEN
}

/// Parses a packet without options (RFC 791), of a frame of so many bytes. `None`: it is not such, and [`ipv4`] can tell more.
#[inline(always)]
pub fn plain_ipv4(head: &Head<'_>, frame: usize) -> Option<Plain<[u8; 4]>> {
    const WHOLE: u16 = 0x3fff_u16.to_be();
    let [first, _]: [u8; 2] = head.load(IP_OFFSET)?;
    let length = usize::from(u16::from_be(head.load(IP_OFFSET + 2)?));
    let [ttl, protocol] = head.load(IP_OFFSET + <[u8; 4]>::TTL_OFFSET)?;
    if first != 0x45 || head.load::<u16>(IP_OFFSET + 6)? & WHOLE != 0 {
        return None;
    }
    plain(head, frame, length, protocol, ttl)
}

/// Parses a packet without extension headers (RFC 8200), of a frame of so many bytes. `None`: it is not such, and [`ipv6`] can tell
/// more.
#[inline(always)]
pub fn plain_ipv6(head: &Head<'_>, frame: usize) -> Option<Plain<[u8; 16]>> {
    let [first, _]: [u8; 2] = head.load(IP_OFFSET)?;
    let payload = usize::from(u16::from_be(head.load(IP_OFFSET + 4)?));
    let [protocol, limit] = head.load(IP_OFFSET + NEXT_HEADER_OFFSET)?;
    if first >> 4 != 6 || payload == 0 {
        return None;
    }
    plain(head, frame, Ipv6Hdr::LEN + payload, protocol, limit)
}

#[inline(always)]
fn plain<A: Address + packet::Wire>(
    head: &Head<'_>,
    frame: usize,
    length: usize,
    protocol: u8,
    ttl: u8,
) -> Option<Plain<A>> {
    let at = IP_OFFSET + A::HEADER;
    let is_tcp = protocol == TCP;
    let (headers, tcp_flags) = if is_tcp {
        let [data_offset, flags] = head.load(at + 12)?;
        let words = usize::from(data_offset >> 4);
        if words < TcpHdr::LEN / 4 {
            return None;
        }
        (A::HEADER + words * 4, flags)
    } else if protocol == UDP {
        (A::HEADER + UdpHdr::LEN, 0)
    } else {
        return None;
    };
    if headers > length || IP_OFFSET + length > frame {
        return None;
    }
    let key = FlowKey::on_wire(protocol, head.load(IP_OFFSET + A::SOURCE_OFFSET)?, head.load(at)?);
    Some(Plain { key, is_tcp, length: length as u32, headers: headers as u32, ttl, tcp_flags })
}

/// Where a chain of IPv6 extension headers ends.
struct Chain {
    /// The first header that is none of them, or one that is not walked.
    next: u8,
    /// Bytes from the start of the IPv6 header to it.
    offset: usize,
    /// Bytes from the start of the IPv6 header to the byte that names it.
    named_at: usize,
    /// Which piece of its datagram the packet is.
    piece: Piece,
    /// What its datagram's fragments share.
    id: u32,
}

/// Walks the extension headers of the IPv6 packet of `length` bytes whose header stands at `at` and names `next`.
#[inline(always)]
fn extension_headers<P: Packet>(packet: &P, at: usize, next: u8, length: usize) -> Result<Chain, Reason> {
    // Opaque from the start, so that chains of every length come out alike.
    let mut chain = Chain {
        next,
        offset: packet.opaque(Ipv6Hdr::LEN),
        named_at: packet.opaque(NEXT_HEADER_OFFSET),
        piece: Piece(0),
        id: packet.opaque(0) as u32,
    };
    let mut fragment = packet.opaque(0) as u16;
    for _ in 0..MAX_EXTENSION_HEADERS {
        // Nothing behind an authentication header may be changed (RFC 4302): it is not walked.
        let unit = match chain.next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => 8,
            FRAGMENT_HEADER => 0,
            _ => break,
        };
        let header: [u8; 8] = packet.load(at + chain.offset).ok_or(Reason::Malformed)?;
        let [following, units, high, low, id_bytes @ ..] = header;
        // Nor is a routing header with segments left: the packet's destination, which the checksum covers, is not the one that
        // the IPv6 header names (RFC 8200, 4.4 and 8.1).
        if chain.next == ROUTING && low != 0 {
            break;
        }
        if unit == 0 {
            // What an inner one says is added: a first fragment stays one.
            fragment |= u16::from_be_bytes([high, low]);
            chain.id = u32::from_be_bytes(id_bytes);
        }
        chain.named_at = chain.offset;
        // RFC 8200: in 8-byte units without the first 8 bytes. A fragment header is 8 bytes.
        chain.offset = packet.opaque(chain.offset + 8 + usize::from(units) * unit);
        if chain.offset > length {
            return Err(Reason::Malformed);
        }
        // What follows a later fragment's header is payload.
        chain.next = if Piece::ipv6(fragment).is_later() { NO_NEXT_HEADER } else { following };
    }
    chain.piece = Piece::ipv6(fragment);
    Ok(chain)
}

/// An IP header by itself, wherever it stands: a packet's own, or the one that an ICMP error embeds, whose packet is
/// mostly cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Network<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Bytes of the packet, as the header says.
    pub length: u32,
    /// Bytes of the header with options or extension headers.
    pub headers: u16,
    /// Bytes from the start of the header to the byte that names the protocol.
    pub named_at: u16,
    /// The protocol of the payload.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether it is a fragment other than the first: its payload does not begin with a transport header.
    pub is_later_fragment: bool,
}

/// Reads the IPv4 header that stands at `at`; `None` if it is none.
#[inline(always)]
pub fn ipv4_header<P: Packet>(packet: &P, at: usize) -> Option<Network<[u8; 4]>> {
    let header: Ipv4Hdr = packet.load(at)?;
    let headers = usize::from(header.ihl());
    let length = u16::from_be_bytes(header.tot_len);
    (header.version() == 4 && headers >= Ipv4Hdr::LEN && usize::from(length) >= headers).then_some(Network {
        src: header.src_addr,
        dst: header.dst_addr,
        length: u32::from(length),
        headers: packet.opaque(headers) as u16,
        named_at: PROTOCOL_OFFSET as u16,
        protocol: header.proto,
        ttl: header.ttl,
        is_later_fragment: header.frag_offset() != 0,
    })
}

/// Reads the IPv6 header that stands at `at` and its extension headers; `None` if there is none.
#[inline(always)]
pub fn ipv6_header<P: Packet>(packet: &P, at: usize) -> Option<Network<[u8; 16]>> {
    let header: Ipv6Hdr = packet.load(at)?;
    let payload = usize::from(u16::from_be_bytes(header.payload_len));
    // As for the packet itself: a GSO packet says zero.
    let length = if payload == 0 { packet.len().saturating_sub(at) } else { Ipv6Hdr::LEN + payload };
    let chain = extension_headers(packet, at, header.next_hdr, length).ok()?;
    (header.vcf[0] >> 4 == 6).then_some(Network {
        src: header.src_addr,
        dst: header.dst_addr,
        length: length as u32,
        headers: packet.opaque(chain.offset) as u16,
        named_at: packet.opaque(chain.named_at) as u16,
        protocol: packet.opaque(usize::from(chain.next)) as u8,
        ttl: header.hop_limit,
        is_later_fragment: chain.piece.is_later(),
    })
}

/// Parses the transport header that stands `offset` bytes into an IP packet of `length` bytes, unless it is a later fragment.
#[inline(always)]
fn transport<P: Packet, A: Address>(
    packet: &P,
    addresses: [A; 2],
    protocol: u8,
    offset: usize,
    length: usize,
    ttl: u8,
    (fragment_id, piece): (u32, Piece),
) -> Result<Wire<A>, Reason> {
    // One number, so that the one whose bounds are checked is the one that is used.
    let at = packet.opaque(IP_OFFSET + offset);
    let (header_length, tcp_flags) = match protocol {
        _ if piece.is_later() => (0, 0),
        // At the same place in both. Two bytes, since the verifier cannot follow the check of a single one.
        TCP | SCTP => match packet.load::<[u8; 2]>(at + 12).ok_or(Reason::Malformed)? {
            [chunk, _] if protocol == SCTP => (SctpHdr::LEN + CHUNK_HEADER, chunk_flags(chunk)),
            [data_offset, flags] => (usize::from(data_offset >> 4) * 4, flags),
        },
        UDP => (UdpHdr::LEN, 0),
        // Of a message in pieces nothing can be said.
        _ if !piece.is_whole() => return Err(Reason::Fragment),
        protocol if protocol == A::ICMP => return Err(Reason::Icmp),
        _ => return Err(Reason::Protocol),
    };
    // From here on all are alike.
    let known = packet.opaque(header_length << 16 | usize::from(tcp_flags) << 8 | usize::from(protocol));
    let (header_length, tcp_flags, protocol) = (known >> 16, (known >> 8) as u8, known as u8);
    if (protocol == TCP && header_length < TcpHdr::LEN && !piece.is_later()) || offset + header_length > length {
        return Err(Reason::Malformed);
    }
    let ports = if piece.is_later() { 0 } else { packet.load(at).ok_or(Reason::Malformed)? };
    Ok(Wire {
        key: FlowKey::on_wire(protocol, addresses, ports),
        length: length as u32,
        transport: at as u16,
        headers: (offset + header_length) as u16,
        ttl,
        tcp_flags,
        piece,
        fragment_id,
    })
}
