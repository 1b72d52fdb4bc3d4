//! The yardsticks at XDP.

use super::frame::Frame;
use super::{FLOWS, SERVICES, count};
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
    // SAFETY: nobody deletes services while a run lasts.
    let Some(service) = (unsafe { SERVICES.get(frame.service()) }) else { return XDP_PASS };
    // SAFETY: as for services.
    let Some(flow) = (unsafe { FLOWS.get(frame.key()) }) else { return XDP_PASS };
    count(*service as u32, ctx.data_end() - ctx.data());
    frame.rewrite(flow);
    frame.update_transport(flow);
    frame.swap_macs();
    XDP_TX
}

/// Opens the flow, for the others to find.
#[xdp(frags)]
fn xdp_insert(ctx: XdpContext) -> u32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return XDP_PASS };
    let flow = frame.flow();
    let service = SERVICES.insert(frame.service(), u64::from(flow.service), 0);
    if service.is_err() || FLOWS.insert(frame.key(), flow, 0).is_err() {
        return XDP_PASS;
    }
    XDP_DROP
}
