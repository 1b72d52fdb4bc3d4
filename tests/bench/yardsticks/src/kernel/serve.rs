//! The yardstick between two pods of a node: what nobody who translates connections both ways can leave out.

use super::frame::{Frame, delta};
use super::tc::{DROP, NEXT, update_transport};
use super::{Flow, PAIRS, SERVED, Wide, count};
use aya_ebpf::helpers::bpf_redirect_peer;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use lb_yardsticks::{Pod, Served};

/// What an entry holds beside the rewrite.
const MACS: usize = 0;
const MACS_AND_IFINDEX: usize = 1;
const IS_REPLY: usize = 2;

/// Makes two entries for each connection to the Service, and hands the packets of both directions from pod to pod.
#[classifier]
fn tc_serve(ctx: TcContext) -> i32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return NEXT };
    if frame.is_syn() {
        let Some(served) = SERVED.get(0) else { return NEXT };
        if !enter(frame, served) {
            return NEXT;
        }
    }
    // SAFETY: nobody deletes flows while a run lasts.
    let Some(wide) = (unsafe { PAIRS.get(frame.key()) }) else { return NEXT };
    let (flow, rest) = (wide.flow, wide.rest);
    if rest[IS_REPLY] == 0 {
        frame.rewrite(&flow);
    } else {
        frame.rewrite_source(&flow);
    }
    frame.set_macs([rest[MACS] as u32, (rest[MACS] >> 32) as u32, rest[MACS_AND_IFINDEX] as u32]);
    count(flow.service, ctx.len() as usize);
    if !update_transport(&ctx, &flow) {
        return DROP;
    }
    // SAFETY: a helper that takes plain numbers.
    unsafe { bpf_redirect_peer((rest[MACS_AND_IFINDEX] >> 32) as u32, 0) as i32 }
}

/// Enters both directions of a connection, if it is to the Service.
#[inline(always)]
fn enter(frame: Frame, served: &Served) -> bool {
    let key = frame.key();
    if (key.addresses >> 32) as u32 != served.service {
        return false;
    }
    let port = (key.rest >> 16) as u16;
    let forth = delta(served.service, served.server.address);
    let back = delta(served.server.address, served.service);
    PAIRS.insert(key, wide(&served.server, served.server.address, port, forth, false), 0).is_ok()
        && PAIRS
            .insert(
                frame.reply_key(served.server.address, port),
                wide(&served.client, served.service, port, back, true),
                0,
            )
            .is_ok()
}

#[inline(always)]
fn wide(to: &Pod, address: u32, port: u16, delta: u16, is_reply: bool) -> Wide {
    let [first, second, third] = to.macs.map(u64::from);
    let rest = [first | second << 32, third | u64::from(to.ifindex) << 32, u64::from(is_reply), 0, 0, 0];
    Wide { flow: Flow { address, port, delta, port_delta: 0, sum: delta, service: 0 }, rest }
}
