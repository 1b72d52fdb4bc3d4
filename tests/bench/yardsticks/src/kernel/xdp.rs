//! The yardsticks at XDP.

use super::frame::{BACKEND, BACKEND_PORT, Frame};
use super::{FLOWS, Flow, OUT, PAIRS, SERVICES, Wide, count};
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

/// Nothing: what the wrapper itself costs.
#[xdp(frags)]
fn xdp_nothing(_: XdpContext) -> u32 {
    XDP_DROP
}

/// Parse, swap the MACs, send back.
#[xdp(frags)]
fn xdp_floor(ctx: XdpContext) -> u32 {
    match Frame::parse(ctx.data(), ctx.data_end()) {
        Some(frame) => {
            frame.swap_macs();
            XDP_TX
        }
        None => XDP_PASS,
    }
}

/// And one lookup of a 16-byte key in an LRU hash.
#[xdp(frags)]
fn xdp_lru(ctx: XdpContext) -> u32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return XDP_PASS };
    if FLOWS.get_ptr(frame.key()).is_none() {
        return XDP_PASS;
    }
    frame.swap_macs();
    XDP_TX
}

/// And the rewrite of the destination, with both checksums.
#[xdp(frags)]
fn xdp_dnat(ctx: XdpContext) -> u32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return XDP_PASS };
    // SAFETY: nobody deletes flows while a run lasts.
    let Some(flow) = (unsafe { FLOWS.get(frame.key()) }) else { return XDP_PASS };
    frame.rewrite(flow);
    frame.update_transport(flow);
    frame.swap_macs();
    XDP_TX
}

/// And the lookup of the service, and its per-CPU counters.
#[xdp(frags)]
fn xdp_full(ctx: XdpContext) -> u32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return XDP_PASS };
    // SAFETY: as above.
    let Some(flow) = (unsafe { FLOWS.get(frame.key()) }) else { return XDP_PASS };
    translate(&ctx, frame, flow)
}

/// The same with entries as the product has them.
#[xdp(frags)]
fn xdp_pairs(ctx: XdpContext) -> u32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return XDP_PASS };
    // SAFETY: as above.
    let Some(wide) = (unsafe { PAIRS.get(frame.key()) }) else { return XDP_PASS };
    translate(&ctx, frame, &wide.flow)
}

/// What is done with a packet whose flow was found.
#[inline(always)]
fn translate(ctx: &XdpContext, frame: Frame, flow: &Flow) -> u32 {
    let service = frame.service();
    // While the kernel looks up the service: a processor that must not guess where a call returns to waits at each.
    frame.rewrite(flow);
    frame.update_transport(flow);
    // SAFETY: nobody deletes services while a run lasts.
    let Some(service) = (unsafe { SERVICES.get(service) }) else { return XDP_PASS };
    frame.swap_macs();
    count(*service as u32, ctx.data_end() - ctx.data());
    XDP_TX
}

/// The yardstick on the way from one interface to another: opens the flow where there is none, and leaves by `OUT`.
#[xdp(frags)]
fn xdp_relay(ctx: XdpContext) -> u32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return XDP_PASS };
    let Some(out) = OUT.get(0) else { return XDP_PASS };
    // SAFETY: as above.
    let Some(flow) = (unsafe { FLOWS.get(frame.key()) }) else { return relay_first(frame, *out) };
    let service = frame.service();
    // The checksum of UDP is absent.
    frame.rewrite(flow);
    // SAFETY: as above.
    let Some(service) = (unsafe { SERVICES.get(service) }) else { return XDP_PASS };
    frame.swap_macs();
    count(*service as u32, ctx.data_end() - ctx.data());
    // SAFETY: a helper that takes plain numbers.
    unsafe { bpf_redirect(*out, 0) as u32 }
}

/// Leaves all to the kernel.
#[xdp(frags)]
fn xdp_pass(_: XdpContext) -> u32 {
    XDP_PASS
}

#[inline(always)]
fn relay_first(frame: Frame, out: u32) -> u32 {
    let flow = frame.flow();
    let is_entered = SERVICES.insert(frame.service(), u64::from(flow.service), 0).is_ok()
        && FLOWS.insert(frame.key(), flow, 0).is_ok();
    frame.rewrite(&flow);
    frame.swap_macs();
    // SAFETY: as above.
    if is_entered { unsafe { bpf_redirect(out, 0) as u32 } } else { XDP_PASS }
}

/// Opens the flow, for the others to find.
#[xdp(frags)]
fn xdp_insert(ctx: XdpContext) -> u32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return XDP_PASS };
    let flow = frame.flow();
    let wide = Wide { flow, rest: [0; 6] };
    let is_entered = SERVICES.insert(frame.service(), u64::from(flow.service), 0).is_ok()
        && FLOWS.insert(frame.key(), flow, 0).is_ok()
        && PAIRS.insert(frame.reply_key(BACKEND, BACKEND_PORT), wide, 0).is_ok()
        && PAIRS.insert(frame.key(), wide, 0).is_ok();
    if is_entered { XDP_DROP } else { XDP_PASS }
}
