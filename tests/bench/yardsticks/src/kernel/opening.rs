//! Yardsticks for first packets of flows: what nobody who translates both ways can leave out.

use super::frame::{BACKEND, BACKEND_PORT, Frame};
use super::{BORN, MEMBERS, PAIRS, PLACES, RECORDS, SERVICES, TALLIES, Wide};
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
    if BORN.insert(frame.reply_key(BACKEND, BACKEND_PORT), wide, noexist).is_err()
        || BORN.insert(frame.key(), wide, noexist).is_err()
    {
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
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return XDP_PASS };
    // SAFETY: nobody deletes services while a run lasts.
    let find = || unsafe { SERVICES.get(frame.service()) }.map(|_| BACKEND);
    open(&ctx, frame, find).map_or(XDP_PASS, |()| XDP_TX)
}

/// The same where each Service has a record, members and a counter of its own, and the record is found in a hash.
#[xdp(frags)]
fn xdp_opened_sought(ctx: XdpContext) -> u32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return XDP_PASS };
    let find = || {
        // SAFETY: as above.
        let [base, number, ..] = unsafe { RECORDS.get(frame.service()) }?;
        pick(frame, *base as u32, *number as u32)
    };
    open(&ctx, frame, find).map_or(XDP_PASS, |()| XDP_TX)
}

/// The same where the address itself tells at which place the record stands, so that nothing is sought.
#[xdp(frags)]
fn xdp_opened_known(ctx: XdpContext) -> u32 {
    let Some(frame) = Frame::parse(ctx.data(), ctx.data_end()) else { return XDP_PASS };
    let find = || {
        let number = frame.service_address() & lb_yardsticks::PLACES;
        let [base, ..] = PLACES.get(number)?;
        pick(frame, *base as u32, number)
    };
    open(&ctx, frame, find).map_or(XDP_PASS, |()| XDP_TX)
}

/// Counts for a Service, and gives the address of one of its members.
#[inline(always)]
fn pick(frame: Frame, base: u32, number: u32) -> Option<u32> {
    let member = MEMBERS.get(base + (frame.key().rest & 7) as u32)?;
    let tally = TALLIES.get_ptr_mut(number)?;
    // SAFETY: this CPU's own copy.
    unsafe { (*tally).packets += 1 };
    // All hold zero, which nobody knows before it has come.
    Some(BACKEND | *member as u32)
}

/// Makes the two entries of a flow, to the backend that `find` gives, and sends the packet back.
#[inline(always)]
fn open(ctx: &XdpContext, frame: Frame, find: impl FnOnce() -> Option<u32>) -> Option<()> {
    const AF_INET: u64 = 2;
    let key = frame.key();
    // SAFETY: nobody deletes flows while a run lasts.
    if unsafe { PAIRS.get(key) }.is_some() {
        return None;
    }
    let backend = find()?;
    let reply_key = frame.reply_key(backend, BACKEND_PORT);
    // SAFETY: as above.
    if unsafe { PAIRS.get(reply_key) }.is_some() {
        return None;
    }
    // SAFETY: a field of the context, which the verifier lets us read.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    let source = key.addresses & 0xffff_ffff;
    let mut route = Route([AF_INET, u64::from(ifindex), source, 0, u64::from(backend), 0, 0, 0]);
    // SAFETY: the context of this program, and a structure of the size that the kernel knows.
    let found = unsafe { bpf_fib_lookup(ctx.as_ptr(), (&raw mut route).cast(), size_of::<Route>() as i32, 0) };
    if found != 0 {
        return None;
    }
    let wide = Wide { flow: frame.flow(), rest: [route.0[6], route.0[7], route.0[1], 0, 0, 0] };
    let noexist = u64::from(BPF_NOEXIST);
    BORN.insert(reply_key, wide, noexist).ok()?;
    BORN.insert(key, wide, noexist).ok()?;
    frame.swap_macs();
    Some(())
}
