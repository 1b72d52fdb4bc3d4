//! The yardsticks at XDP.

use super::frame::Frame;
use super::{BORN, FLOWS, Flow, PAIRS, SERVICES, Wide, count};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
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

/// Two entries for a flow that was not there, one a direction, and nothing else.
#[xdp(frags)]
fn xdp_born(ctx: XdpContext) -> u32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return XDP_PASS };
    let wide = Wide { flow: frame.flow(), rest: [0; 6] };
    let noexist = u64::from(BPF_NOEXIST);
    if BORN.insert(frame.reply_key(), wide, noexist).is_err() || BORN.insert(frame.key(), wide, noexist).is_err() {
        return XDP_PASS;
    }
    frame.swap_macs();
    XDP_TX
}

/// Opens the flow, for the others to find.
#[xdp(frags)]
fn xdp_insert(ctx: XdpContext) -> u32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return XDP_PASS };
    let flow = frame.flow();
    let wide = Wide { flow, rest: [0; 6] };
    let is_entered = SERVICES.insert(frame.service(), u64::from(flow.service), 0).is_ok()
        && FLOWS.insert(frame.key(), flow, 0).is_ok()
        && PAIRS.insert(frame.reply_key(), wide, 0).is_ok()
        && PAIRS.insert(frame.key(), wide, 0).is_ok();
    if is_entered { XDP_DROP } else { XDP_PASS }
}
