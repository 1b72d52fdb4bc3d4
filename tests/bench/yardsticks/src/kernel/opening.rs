//! Yardsticks for first packets of flows: what nobody who translates both ways can leave out.

use super::frame::{BACKEND, Frame};
use super::{BORN, MEMBERS, PAIRS, RECORDS, SERVICES, TALLIES, Wide};
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

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

/// `struct bpf_fib_lookup` in words: family and protocol; interface; source; destination; MACs.
#[repr(C, align(8))]
struct Route([u64; 8]);

/// The same, and what must be known before: that neither direction has an entry among the confirmed flows yet, whom the Service
/// has, and by which way the packet leaves.
#[xdp(frags)]
fn xdp_opened(ctx: XdpContext) -> u32 {
    const AF_INET: u64 = 2;
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return XDP_PASS };
    let (key, reply_key) = (frame.key(), frame.reply_key());
    // SAFETY: nobody deletes flows or services while a run lasts.
    if unsafe { PAIRS.get(key).is_some() || SERVICES.get(frame.service()).is_none() || PAIRS.get(reply_key).is_some() }
    {
        return XDP_PASS;
    }
    // SAFETY: a field of the context, which the verifier lets us read.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    let source = key.addresses & 0xffff_ffff;
    let mut route = Route([AF_INET, u64::from(ifindex), source, 0, u64::from(BACKEND), 0, 0, 0]);
    // SAFETY: the context of this program, and a structure of the size that the kernel knows.
    let found = unsafe { bpf_fib_lookup(ctx.as_ptr(), (&raw mut route).cast(), size_of::<Route>() as i32, 0) };
    if found != 0 {
        return XDP_PASS;
    }
    let wide = Wide { flow: frame.flow(), rest: [route.0[6], route.0[7], route.0[1], 0, 0, 0] };
    let noexist = u64::from(BPF_NOEXIST);
    if BORN.insert(reply_key, wide, noexist).is_err() || BORN.insert(key, wide, noexist).is_err() {
        return XDP_PASS;
    }
    frame.swap_macs();
    XDP_TX
}

/// What a Service of its own costs a packet beyond a Service that all share: one lookup of its address and port, one of its
/// members, and its counter.
#[xdp(frags)]
fn xdp_record(ctx: XdpContext) -> u32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return XDP_PASS };
    // SAFETY: as above.
    let Some([base, number, ..]) = (unsafe { RECORDS.get(frame.service()) }) else { return XDP_PASS };
    let Some(member) = MEMBERS.get(*base as u32 + (frame.key().rest & 7) as u32) else { return XDP_PASS };
    let Some(tally) = TALLIES.get_ptr_mut(*number as u32) else { return XDP_PASS };
    // SAFETY: this CPU's own copy.
    unsafe { (*tally).packets += 1 + *member };
    frame.swap_macs();
    XDP_TX
}
