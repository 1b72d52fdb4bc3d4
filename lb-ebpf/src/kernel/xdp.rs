//! XDP, for interfaces fed by a wire.

use super::capture::{self, Whole};
use super::linear::Linear;
use super::tables::KernelTables;
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::{bpf_redirect, bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::{Captured, FlowKey};
use lb_ebpf::env::Step;
use lb_ebpf::packet::{Bytes, Head, Wire};
use lb_ebpf::{Action, Address, Env, Hook, Packet, Route, Verdict, parse, process};

/// Where the frame lies is read once: nothing that we ask of the kernel at XDP moves it.
struct XdpPacket<'a> {
    ctx: &'a XdpContext,
    linear: Linear,
    length: usize,
}

impl<'a> XdpPacket<'a> {
    #[inline(always)]
    fn new(ctx: &'a XdpContext) -> Self {
        let linear = Linear { data: ctx.data(), data_end: ctx.data_end() };
        Self { ctx, linear, length: linear.data_end - linear.data }
    }
}

impl Bytes for XdpPacket<'_> {
    #[inline(always)]
    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        self.linear.load(offset)
    }

    #[inline(always)]
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()> {
        self.linear.store(offset, value)
    }
}

impl Packet for XdpPacket<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.length
    }

    #[inline(always)]
    fn measure(&mut self) {
        // A frame in several pieces has more, which the kernel must be asked for. Few have: those that claim more.
        if parse::claimed(self) > self.length {
            // SAFETY: the context of this program.
            self.length = unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) as usize };
        }
    }

    #[inline(always)]
    fn head(&mut self, length: usize) -> Option<Head<'_>> {
        self.linear.head(length)
    }

    #[inline(always)]
    fn segment_size(&self) -> Option<u32> {
        None
    }

    #[inline(always)]
    fn opaque(&self, value: usize) -> usize {
        super::opaque(value)
    }
}

struct XdpEnv<'a>(&'a XdpContext);

impl Env for XdpEnv<'_> {
    const HOOK: Hook = Hook::Xdp;

    #[inline(always)]
    fn tick(&self) -> u32 {
        super::tick()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.0.ingress_ifindex() as u32
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

/// For drivers that run XDP themselves.
#[xdp(frags)]
#[inline(always)]
fn lb_xdp(ctx: XdpContext) -> u32 {
    run(&ctx)
}

/// For the kernel's receive path. Not `frags`: there the kernel copies nearly every packet into a new buffer for such a
/// program and forgets the length of its Ethernet header (`mac_len`, in `skb_pp_cow_data`), so that TCX ingress, behind us
/// on the same interface, is shown the packet without that header and takes it for none of ours.
#[xdp]
#[inline(always)]
fn lb_xdp_generic(ctx: XdpContext) -> u32 {
    run(&ctx)
}

impl Whole for XdpContext {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context of this program.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as u32 }
    }

    #[inline(always)]
    unsafe fn copy(&self, to: *mut u8, length: u32) -> i64 {
        // SAFETY: the context of this program; by the caller.
        unsafe { bpf_xdp_load_bytes(self.ctx, 0, to.cast(), length) }
    }
}

#[inline(always)]
fn run(ctx: &XdpContext) -> u32 {
    if super::traces() { decide::<true>(ctx) } else { decide::<false>(ctx) }
}

#[inline(always)]
fn decide<const TRACE: bool>(ctx: &XdpContext) -> u32 {
    let env = XdpEnv(ctx);
    let captures = super::captures();
    if captures {
        capture::came(ctx);
    }
    let verdict = process(&mut XdpPacket::new(ctx), &KernelTables::<TRACE>, &env);
    let action = act(ctx, &env, verdict);
    if captures {
        capture::left(ctx, Captured::XDP, env.ifindex(), verdict, action as i32);
    }
    action
}

#[inline(always)]
fn act(ctx: &XdpContext, env: &XdpEnv<'_>, verdict: Verdict) -> u32 {
    match verdict.action {
        Action::Pass
        | Action::Defer
        | Action::Open
        | Action::Choose
        | Action::Lend
        | Action::Enter
        | Action::Icmp
        | Action::Answer => xdp_action::XDP_PASS,
        Action::Redirect if verdict.ifindex == env.ifindex() => xdp_action::XDP_TX,
        // SAFETY: a helper that takes plain numbers.
        Action::Redirect => unsafe { bpf_redirect(verdict.ifindex, 0) as u32 },
        Action::Drop | Action::RedirectNeighbour | Action::RedirectPeer => {
            if super::logs() {
                aya_log_ebpf::debug!(ctx, "dropped at XDP, reason {}", verdict.reason as u8);
            }
            xdp_action::XDP_DROP
        }
    }
}

/// Where the target's ifindex stands in a probe frame: behind the Ethernet header, little-endian.
const PROBE_OFFSET: usize = 14;

/// Run by the loader on frames of its own: redirects them to the interface they name, so that the loader can see
/// whether that takes redirected frames. Never attached.
#[xdp]
fn lb_xdp_probe(ctx: XdpContext) -> u32 {
    match XdpPacket::new(&ctx).load::<[u8; 4]>(PROBE_OFFSET) {
        // SAFETY: a helper that takes plain numbers.
        Some(ifindex) => unsafe { bpf_redirect(u32::from_le_bytes(ifindex), 0) as u32 },
        None => xdp_action::XDP_DROP,
    }
}
