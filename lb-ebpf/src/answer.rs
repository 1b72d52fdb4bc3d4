//! Packets that we make ourselves: echo replies, TCP resets, ICMP and ICMPv6 errors.
//!
//! Each is made out of the packet that calls for it and goes back out of the interface that one came in by, to the MAC
//! it came from, so that no route is asked for. Its source is the address the packet was sent to, also for errors that a
//! router would send from an address of its own: that address need not be known here, and is one that the sender talks
//! to anyway. Packets are made at TCX ingress alone; XDP leaves what calls for an answer to it.
//!
//! A sender may have left its transport checksum to hardware: then only the pseudo-header is summed, and the kernel completes
//! the checksum on the way out if the device does not. Nothing tells us, and the mark stays on the packet that we
//! make. So a reset's checksum and the one that an error embeds are written such that they are right in both cases.

use crate::env::{Env, Hook, Step};
use crate::packet::{self, Packet, TransportChecksum};
use crate::parse::{self, FIRST_TTL, IP_OFFSET, Network};
use crate::rewrite::{self, TCP_CHECKSUM, UDP_CHECKSUM};
use crate::tables::{AddressTables, Tables};
use crate::verdict::{Action, Verdict};
use crate::{Address, checksum, icmp, trace};
use lb_common::{Budget, Device, Reason, SCTP, TCP, UDP};

/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;
/// Bytes of the payload that an error embeds, by protocol: enough to hold the transport checksum, below whose end the kernel
/// does not cut a packet that leaves it to hardware; and no less than RFC 792 asks for.
const fn embedded_payload(protocol: u8) -> usize {
    match protocol {
        TCP => TCP_HEADER,
        SCTP => 12,
        _ => 8,
    }
}
/// An error embeds no more of a packet than this: an IPv4 header with all options, or an IPv6 header with many.
const MAX_EMBEDDED: usize = 128;

/// Answers the packet as `due` says, or drops it where no answer may be given. Not inlined: it has a stack frame of its
/// own.
#[inline(never)]
pub fn answer<P, A, T, E>(packet: &mut P, tables: &T, env: &E, due: Verdict) -> Verdict
where
    P: Packet,
    A: Address + packet::Wire,
    T: Tables + AddressTables<A>,
    E: Env,
{
    match E::HOOK {
        Hook::Xdp => return Verdict::DEFER,
        Hook::Egress => return Verdict::drop(due.reason),
        Hook::Ingress => {}
    }
    let reason = due.reason;
    let Some(header) = A::header(packet, IP_OFFSET) else {
        return Verdict::drop(reason);
    };
    if let Err(reason) = permit(packet, tables, env, &header, reason) {
        return Verdict::drop(reason);
    }
    let made = if reason == Reason::EchoReplied {
        trace::answered(tables, trace::Step::ECHO, [0; 2]);
        echo_reply(packet, &header)
    } else if is_reset_due(&header, reason) {
        trace::answered(tables, trace::Step::RESET, [0; 2]);
        reset(packet, &header)
    } else {
        trace::answered(tables, trace::Step::ERROR, A::error_for(reason).unwrap_or_default());
        error(packet, env, &header, reason, due.ifindex)
    };
    if made.is_none() {
        return Verdict::drop(Reason::StoreFailed);
    }
    Verdict { ifindex: env.ifindex(), action: Action::Redirect, reason }
}

/// Whether a TCP reset says no, where other protocols take an ICMP error. Behind options or extension headers the reset
/// would have to move, and the mark of a checksum left to hardware would not move with it: an ICMP error refuses such a
/// connection as well.
#[inline(always)]
fn is_reset_due<A: Address>(header: &Network<A>, reason: Reason) -> bool {
    header.protocol == TCP
        && matches!(reason, Reason::NoServicePort | Reason::NoBackend)
        && usize::from(header.headers) == A::HEADER
}

/// Whether the packet may be answered (RFC 1122, 3.2.2; RFC 4443, 2.4); if not, why it is dropped.
#[inline(always)]
fn permit<P, A, T, E>(packet: &P, tables: &T, env: &E, header: &Network<A>, reason: Reason) -> Result<(), Reason>
where
    P: Packet,
    A: Address + packet::Wire,
    T: Tables + AddressTables<A>,
    E: Env,
{
    let is_echo = reason == Reason::EchoReplied;
    let macs = packet.load::<[u8; 12]>(0).ok_or(Reason::Malformed)?;
    // The node's own processes, behind the daemon's veth pair, do have addresses of the node.
    let is_host = tables.device(env.ifindex()).flags & Device::HOST != 0;
    if header.src.is_martian() || (!is_host && tables.owned(&header.src).is_some()) {
        return Err(if is_echo { Reason::MartianSource } else { reason });
    }
    // Multicast and broadcast, on the link or as an address, and fragments that do not tell who sent them.
    if (macs[0] | macs[6]) & 1 != 0 || header.dst.is_martian() || header.is_later_fragment {
        return Err(if is_echo { Reason::IcmpUnrelated } else { reason });
    }
    if is_echo {
        return Ok(());
    }
    if header.protocol == TCP && matches!(reason, Reason::NoServicePort | Reason::NoBackend) {
        let transport = packet.opaque(IP_OFFSET + usize::from(header.headers));
        let [_, flags]: [u8; 2] = packet.load(transport + 12).ok_or(reason)?;
        if flags & parse::RST != 0 {
            return Err(reason);
        }
    }
    let budget = tables.budget().ok_or(reason)?.in_tick(env.tick());
    if budget.answers >= Budget::ANSWERS {
        return Err(Reason::AnswerLimited);
    }
    budget.answers += 1;
    Ok(())
}

/// Sends the frame back to whom it came from.
#[inline(always)]
fn turn_frame<P: Packet>(packet: &mut P) -> Option<()> {
    let destination: [u8; 6] = packet.load(0)?;
    let source: [u8; 6] = packet.load(6)?;
    packet.store(0, source)?;
    packet.store(6, destination)
}

/// Makes an echo request its reply, whole: identifier, sequence and content stay.
#[inline(always)]
fn echo_reply<P, A>(packet: &mut P, header: &Network<A>) -> Option<()>
where
    P: Packet,
    A: Address + packet::Wire,
{
    let icmp = packet.opaque(IP_OFFSET + usize::from(header.headers));
    turn_frame(packet)?;
    // Swapped addresses add up to the same, so that checksums stay.
    let source = IP_OFFSET + A::SOURCE_OFFSET;
    packet.store(source, header.dst)?;
    packet.store(source + core::mem::size_of::<A>(), header.src)?;
    packet.store(IP_OFFSET + A::TTL_OFFSET, FIRST_TTL)?;
    if let Some(offset) = A::HEADER_CHECKSUM_OFFSET {
        let delta = checksum::delta(checksum::word([header.ttl, 0]), checksum::word([FIRST_TTL, 0]));
        rewrite::checksum_at(packet, IP_OFFSET + offset, delta)?;
    }
    let [request, reply] = A::ECHO;
    let [_, code]: [u8; 2] = packet.load(icmp)?;
    packet.store(icmp, [reply, code])?;
    let delta = checksum::delta(checksum::word([request, 0]), checksum::word([reply, 0]));
    rewrite::checksum_at(packet, icmp + icmp::CHECKSUM, delta)
}

/// Makes a TCP segment without IP options the reset that answers it (RFC 9293, 3.5.2 and 3.10.7.1).
#[inline(always)]
fn reset<P, A>(packet: &mut P, header: &Network<A>) -> Option<()>
where
    P: Packet,
    A: Address + packet::Wire,
{
    let transport = IP_OFFSET + A::HEADER;
    let [a, b, c, d]: [u8; 4] = packet.load(transport)?;
    let sequence = u32::from_be_bytes(packet.load(transport + 4)?);
    let acknowledged: [u8; 4] = packet.load(transport + 8)?;
    let [offset, flags]: [u8; 2] = packet.load(transport + 12)?;
    let segment = header.length.checked_sub(A::HEADER as u32)?;
    let content = segment.checked_sub(u32::from(offset >> 4) * 4)?;
    let (sequence, acknowledgement, answering) = if flags & parse::ACK != 0 {
        (acknowledged, [0; 4], parse::RST)
    } else {
        let length = content + u32::from(flags >> 1 & 1) + u32::from(flags & parse::FIN);
        ([0; 4], sequence.wrapping_add(length).to_be_bytes(), parse::RST | parse::ACK)
    };
    packet.trim(transport + TCP_HEADER)?;
    turn_frame(packet)?;
    A::write_header(packet, header.dst, header.src, TCP, TCP_HEADER as u16)?;
    let last = [(TCP_HEADER as u8 / 4) << 4, answering, 0, 0];
    packet.store(transport, [c, d, a, b])?;
    packet.store(transport + 4, sequence)?;
    packet.store(transport + 8, acknowledgement)?;
    packet.store(transport + 12, last)?;
    packet.store(transport + 18, [0u8; 2])?;
    // Of a sum left to hardware only the pseudo-header is there, in which only the length has changed. A complete
    // sum becomes what it must be, whatever it was.
    let old: [u8; 2] = packet.load(transport + TCP_CHECKSUM)?;
    let ports = checksum::pair([c, d, a, b]);
    let words = checksum::pair(sequence) + checksum::pair(acknowledgement) + checksum::pair(last) + ports;
    let pseudo = header.src.sum() + header.dst.sum() + protocol_word(TCP) + length_words(TCP_HEADER as u32);
    let address_delta = checksum::delta(length_words(segment), length_words(TCP_HEADER as u32));
    let whole = checksum::delta(u32::from(!(checksum::word(old) as u16)), words + pseudo);
    packet.update_checksum(&TransportChecksum {
        offset: transport + TCP_CHECKSUM,
        ipv6: A::VERSION == 6,
        zero_means_none: false,
        address_delta,
        port_delta: checksum::add(whole, !address_delta),
    })
}

/// Makes the packet the ICMP error that tells its sender of `reason`. `mtu` is that of the way out, where that is the reason.
#[inline(always)]
fn error<P, A, E>(packet: &mut P, env: &E, header: &Network<A>, reason: Reason, mtu: u32) -> Option<()>
where
    P: Packet,
    A: Address + packet::Wire,
    E: Env,
{
    let [kind, code] = A::error_for(reason)?;
    // From here on the verifier need not follow each kind of error by itself.
    let message = packet.opaque(usize::from(u16::from_be_bytes([kind, code]))) as u16;
    let headers = usize::from(header.headers);
    // Whole words, so that they can be added up.
    let embedded = (headers + embedded_payload(header.protocol)).min(header.length as usize).min(MAX_EMBEDDED);
    let embedded = packet.opaque(embedded) & !3;
    let payload = embedded.checked_sub(headers)?;
    let room = A::HEADER + icmp::HEADER;
    packet.trim(IP_OFFSET + embedded)?;
    settle_checksum::<P, A, E>(packet, env, header.protocol, headers, payload)?;
    turn_frame(packet)?;
    packet.insert(room)?;
    let length = icmp::HEADER + embedded;
    A::write_header(packet, header.dst, header.src, A::ICMP, length as u16)?;
    let [kind, code] = message.to_be_bytes();
    let first = [kind, code, 0, 0];
    let second = match reason {
        // RFC 1191, section 4, and RFC 4443, section 3.2: the low 16 bits are those of both.
        Reason::MtuExceeded => mtu.to_be_bytes(),
        // RFC 4443, section 3.4: where the unknown protocol is named. IPv4 does not say.
        Reason::Protocol if A::VERSION == 6 => u32::from(header.named_at).to_be_bytes(),
        _ => [0; 4],
    };
    let at = IP_OFFSET + A::HEADER;
    packet.store(at, first)?;
    packet.store(at + 4, second)?;
    let mut sum = add_up(packet, env, at, length);
    if A::ICMP_COVERS_ADDRESSES {
        sum += header.src.sum() + header.dst.sum() + protocol_word(A::ICMP) + length_words(length as u32);
    }
    packet.store(at + icmp::CHECKSUM, (!checksum::fold(sum)).to_ne_bytes())
}

/// Makes a transport checksum that was left to hardware one that completing leaves as it is, so that the sum of the
/// error in which it is embedded stays right; a complete one is left alone.
///
/// Completing replaces the field `p` by `-(rest + p)`, where `rest` is the sum of what else is embedded of the transport
/// header. So `p = -rest/2` stays as it is. In one's complement a half is a rotation by one bit.
#[inline(always)]
fn settle_checksum<P, A, E>(packet: &mut P, env: &E, protocol: u8, headers: usize, payload: usize) -> Option<()>
where
    P: Packet,
    A: Address,
    E: Env,
{
    let offset = match protocol {
        TCP => TCP_CHECKSUM,
        UDP => UDP_CHECKSUM,
        _ => return Some(()),
    };
    if payload < offset + 2 {
        return Some(());
    }
    let transport = packet.opaque(IP_OFFSET + headers);
    let old = checksum::word(packet.load(transport + offset)?);
    let sum = add_up(packet, env, transport, payload);
    let rest = checksum::delta(old, sum);
    let settled = (!rest).rotate_right(1);
    let address_delta = checksum::delta(old, u32::from(settled));
    packet.update_checksum(&TransportChecksum {
        offset: transport + offset,
        ipv6: A::VERSION == 6,
        // Zero and all ones are one number in one's complement: each stays what it is.
        zero_means_none: true,
        address_delta,
        port_delta: !address_delta,
    })
}

/// The sum of `length` bytes from `at` on, whole words of four bytes.
#[inline(always)]
fn add_up<P: Packet, E: Env>(packet: &P, env: &E, at: usize, length: usize) -> u32 {
    const MOST: usize = MAX_EMBEDDED + icmp::HEADER;
    let mut sum = Sum { packet, at, end: at + length, total: 0 };
    env.repeat(MOST as u32 / 4, &mut sum);
    sum.total
}

/// The loop of [`add_up`].
struct Sum<'a, P> {
    packet: &'a P,
    at: usize,
    end: usize,
    total: u32,
}

impl<P: Packet> Step for Sum<'_, P> {
    #[inline(always)]
    fn step(&mut self, index: u32) -> bool {
        let at = self.at + index as usize * 4;
        if at >= self.end {
            return false;
        }
        let Some(word) = self.packet.load::<[u8; 4]>(at) else {
            return false;
        };
        self.total += checksum::pair(word);
        true
    }
}

/// The protocol as a word of the pseudo-header (RFC 9293, RFC 8200).
#[inline(always)]
fn protocol_word(protocol: u8) -> u32 {
    checksum::word([0, protocol])
}

/// A length as the words of the pseudo-header that hold it.
#[inline(always)]
fn length_words(length: u32) -> u32 {
    checksum::pair(length.to_be_bytes())
}
