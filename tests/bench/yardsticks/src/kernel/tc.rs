//! The yardsticks at TC: the same steps by the means of TC.

use super::frame::{Frame, TCP_CHECKSUM};
use super::{FLOWS, Flow, PAIRS, SERVICES, count};
use aya_ebpf::helpers::{bpf_l4_csum_replace, bpf_redirect};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

pub(super) const NEXT: i32 = -1;
pub(super) const DROP: i32 = 2;
/// `BPF_F_PSEUDO_HDR`: the change is one of addresses too.
const PSEUDO_HDR: u64 = 1 << 4;

/// Nothing: what the wrapper itself costs.
#[classifier]
fn tc_nothing(_: TcContext) -> i32 {
    DROP
}

/// Parse, one lookup of a 16-byte key, redirect.
#[classifier]
fn tc_lru(ctx: TcContext) -> i32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return NEXT };
    if FLOWS.get_ptr(frame.key()).is_none() {
        return NEXT;
    }
    frame.swap_macs();
    back(&ctx)
}

/// Flow, service, counters, rewrite with both checksums (that of TCP by the kernel, since it may be partial), redirect.
#[classifier]
fn tc_full(ctx: TcContext) -> i32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return NEXT };
    // SAFETY: nobody deletes flows while a run lasts.
    let Some(flow) = (unsafe { FLOWS.get(frame.key()) }) else { return NEXT };
    translate(&ctx, frame, flow)
}

/// The same with entries as the product has them.
#[classifier]
fn tc_pairs(ctx: TcContext) -> i32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return NEXT };
    // SAFETY: as above.
    let Some(wide) = (unsafe { PAIRS.get(frame.key()) }) else { return NEXT };
    translate(&ctx, frame, &wide.flow)
}

/// What is done with a packet whose flow was found.
#[inline(always)]
fn translate(ctx: &TcContext, frame: Frame, flow: &Flow) -> i32 {
    let service = frame.service();
    frame.rewrite(flow);
    // SAFETY: as for flows.
    let Some(service) = (unsafe { SERVICES.get(service) }) else { return NEXT };
    count(*service as u32, ctx.len() as usize);
    frame.swap_macs();
    if update_transport(ctx, flow) { back(ctx) } else { DROP }
}

/// Brings the checksum of TCP up to date; whether that succeeded. What was known of the frame is not known any more.
#[inline(always)]
pub(super) fn update_transport(ctx: &TcContext, flow: &Flow) -> bool {
    // SAFETY: the context of this program; the helper checks the offset.
    let replace = |delta: u16, flags| unsafe {
        bpf_l4_csum_replace(ctx.skb.skb, TCP_CHECKSUM as u32, 0, u64::from(delta), flags)
    };
    // Addresses and port apart: only the former counts where the checksum is partial.
    replace(flow.delta, PSEUDO_HDR) == 0 && replace(flow.port_delta, 0) == 0
}

#[inline(always)]
fn back(ctx: &TcContext) -> i32 {
    // SAFETY: a field of the context, which the verifier lets us read, and a helper that takes plain numbers.
    unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 }
}
