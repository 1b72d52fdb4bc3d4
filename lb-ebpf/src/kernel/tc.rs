//! TCX ingress and egress, on every managed interface.

use super::capture::{self, Whole};
use super::linear::Linear;
use super::maps::NEIGHBOUR;
use super::tables::KernelTables;
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{
    bpf_csum_update, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_adjust_room,
    bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_pull_data,
};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use lb_common::{Captured, FlowKey, Neighbour};
use lb_ebpf::env::Step;
use lb_ebpf::packet::{Bytes, Head, TransportChecksum, Wire};
use lb_ebpf::{Action, Address, Env, Hook, Packet, Route, Verdict, process};

/// `enum tcx_action_base` (include/uapi/linux/bpf.h): leave it to the next program.
const TCX_NEXT: i32 = -1;
const TCX_DROP: i32 = 2;

/// Flags of `bpf_l4_csum_replace` (include/uapi/linux/bpf.h).
const MARK_MANGLED_0: u64 = 1 << 5;
const PSEUDO_HDR: u64 = 1 << 4;
/// Since Linux 6.16: the change is IPv6's, whose addresses no other checksum covers.
const IPV6: u64 = 1 << 7;
/// `BPF_ADJ_ROOM_MAC` (include/uapi/linux/bpf.h): make room behind the link-layer header.
const ADJ_ROOM_MAC: u32 = 1;

/// Kind of a packet whose frame is to the MAC of the interface that it came in by (`include/uapi/linux/if_packet.h`).
const PACKET_HOST: u32 = 0;

/// Headers are read and written in the linear part of the buffer; this much of a packet is made linear where it is not.
const LINEAR: u32 = 192;

struct TcPacket<'a>(&'a TcContext);

impl<'a> TcPacket<'a> {
    #[inline(always)]
    fn new(ctx: &'a TcContext) -> Self {
        let wanted = ctx.len().min(LINEAR);
        if ctx.data() + (wanted as usize) > ctx.data_end() {
            // A failure shows as a header that is cut short.
            // SAFETY: the context of this program.
            unsafe { bpf_skb_pull_data(ctx.skb.skb, wanted) };
        }
        Self(ctx)
    }

    #[inline(always)]
    fn linear(&self) -> Linear {
        Linear { data: self.0.data(), data_end: self.0.data_end() }
    }
}

impl Bytes for TcPacket<'_> {
    #[inline(always)]
    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        self.linear().load(offset)
    }

    #[inline(always)]
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()> {
        self.linear().store(offset, value)
    }
}

impl Packet for TcPacket<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.len() as usize
    }

    #[inline(always)]
    fn head(&mut self, length: usize) -> Option<Head<'_>> {
        self.linear().head(length)
    }

    #[inline(always)]
    fn segment_size(&self) -> Option<u32> {
        // SAFETY: a field of the context, which the verifier lets us read.
        let size = unsafe { (*self.0.skb.skb).gso_size };
        (size != 0).then_some(size)
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        // SAFETY: a field of the context, which the verifier lets us read.
        unsafe { (*self.0.skb.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn may_be_for_another_host(&self) -> bool {
        // SAFETY: a field of the context, which the verifier lets us read.
        unsafe { (*self.0.skb.skb).pkt_type != PACKET_HOST }
    }

    #[inline(always)]
    fn opaque(&self, value: usize) -> usize {
        super::opaque(value)
    }

    #[inline(always)]
    fn note_change(&mut self, delta: u16) {
        // It has no effect, and says so, where the kernel keeps no such sum.
        // SAFETY: the context of this program.
        unsafe { bpf_csum_update(self.0.skb.skb, u32::from(delta)) };
    }

    #[inline(always)]
    fn update_checksum(&mut self, checksum: &TransportChecksum) -> Option<()> {
        let zero = if checksum.zero_means_none { MARK_MANGLED_0 } else { 0 };
        let replace = |delta: u16, flags: u64| {
            // SAFETY: the context of this program; the helper checks the offset. A size of zero (in the flags) says
            // that `to` is a difference.
            unsafe { bpf_l4_csum_replace(self.0.skb.skb, checksum.offset as u32, 0, u64::from(delta), flags | zero) }
        };
        let mut answer = -1;
        if checksum.ipv6 {
            answer = replace(checksum.address_delta, PSEUDO_HDR | IPV6);
        }
        if answer != 0 {
            answer = replace(checksum.address_delta, PSEUDO_HDR);
        }
        if answer != 0 || replace(checksum.port_delta, 0) != 0 {
            return None;
        }
        Some(())
    }

    #[inline(always)]
    fn trim(&mut self, length: usize) -> Option<()> {
        // SAFETY: the context of this program; the helper refuses a length it cannot make.
        (unsafe { bpf_skb_change_tail(self.0.skb.skb, length as u32, 0) } == 0).then_some(())
    }

    #[inline(always)]
    fn insert(&mut self, length: usize) -> Option<()> {
        // SAFETY: as above.
        (unsafe { bpf_skb_adjust_room(self.0.skb.skb, length as i32, ADJ_ROOM_MAC, 0) } == 0).then_some(())
    }
}

struct TcEnv<'a, const EGRESS: bool>(&'a TcContext);

impl<const EGRESS: bool> Env for TcEnv<'_, EGRESS> {
    const HOOK: Hook = if EGRESS { Hook::Egress } else { Hook::Ingress };

    #[inline(always)]
    fn tick(&self) -> u32 {
        super::tick()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: a field of the context, which the verifier lets us read.
        unsafe { (*self.0.skb.skb).ifindex }
    }

    #[inline(always)]
    fn repeat<S: Step>(&self, times: u32, body: &mut S) {
        super::repeat(times, body);
    }

    #[inline(always)]
    fn route<A: Address>(&self, key: &FlowKey<A>) -> Route {
        super::fib::route(self.0.as_ptr(), self.ifindex(), key)
    }
}

/// Has the kernel send the packet to the neighbour that its routing table named a moment ago, for this very packet. Asked once
/// more it may name another of several gateways, and look for that one on this link.
#[inline(always)]
fn redirect_neighbour(ifindex: u32) -> i32 {
    let Some(neighbour) = NEIGHBOUR.get_ptr_mut(0) else {
        return TCX_DROP;
    };
    // SAFETY: a record of the size and layout that the helper reads.
    unsafe { bpf_redirect_neigh(ifindex, neighbour.cast(), size_of::<Neighbour>() as i32, 0) as i32 }
}

/// Hands the packet to the other end of a veth. There it counts as what it counted as here, and no MAC is looked at any more: a
/// frame to the MAC of a bridge that this interface is a port of must become one for the pod (Linux 6.16 sees to that itself).
#[inline(always)]
fn redirect_peer(ctx: &TcContext, ifindex: u32) -> i32 {
    // SAFETY: a field of the context, which the verifier lets us read; helpers on the context of this program and on numbers.
    unsafe {
        if (*ctx.skb.skb).pkt_type != PACKET_HOST {
            bpf_skb_change_type(ctx.skb.skb, PACKET_HOST);
        }
        bpf_redirect_peer(ifindex, 0) as i32
    }
}

impl Whole for TcContext {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.len()
    }

    #[inline(always)]
    unsafe fn copy(&self, to: *mut u8, length: u32) -> i64 {
        // SAFETY: the context of this program; by the caller.
        unsafe { bpf_skb_load_bytes(self.skb.skb.cast(), 0, to.cast(), length) }
    }
}

#[inline(always)]
fn run<const EGRESS: bool>(ctx: &TcContext) -> i32 {
    if super::traces() { decide::<EGRESS, true>(ctx) } else { decide::<EGRESS, false>(ctx) }
}

#[inline(always)]
fn decide<const EGRESS: bool, const TRACE: bool>(ctx: &TcContext) -> i32 {
    let env = TcEnv::<EGRESS>(ctx);
    let captures = super::captures();
    if captures {
        capture::came(ctx);
    }
    let verdict = process(&mut TcPacket::new(ctx), &KernelTables::<TRACE>, &env);
    let action = act(ctx, verdict);
    if captures {
        let hook = if EGRESS { Captured::EGRESS } else { Captured::INGRESS };
        capture::left(ctx, hook, env.ifindex(), verdict, action);
    }
    action
}

#[inline(always)]
fn act(ctx: &TcContext, verdict: Verdict) -> i32 {
    match verdict.action {
        Action::Pass
        | Action::Defer
        | Action::Open
        | Action::Choose
        | Action::Lend
        | Action::Enter
        | Action::Icmp
        | Action::Answer => TCX_NEXT,
        // SAFETY: a helper that takes plain numbers.
        Action::Redirect => unsafe { bpf_redirect(verdict.ifindex, 0) as i32 },
        Action::RedirectNeighbour => redirect_neighbour(verdict.ifindex),
        Action::RedirectPeer => redirect_peer(ctx, verdict.ifindex),
        Action::Drop => {
            if super::logs() {
                aya_log_ebpf::debug!(ctx, "dropped at TCX, reason {}", verdict.reason as u8);
            }
            TCX_DROP
        }
    }
}

#[classifier]
#[inline(always)]
fn lb_tcx_ingress(ctx: TcContext) -> i32 {
    run::<false>(&ctx)
}

#[classifier]
#[inline(always)]
fn lb_tcx_egress(ctx: TcContext) -> i32 {
    run::<true>(&ctx)
}
