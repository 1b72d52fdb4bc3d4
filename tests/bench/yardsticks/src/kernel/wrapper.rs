//! The wrapper, for XDP and for TC: see [`lb_yardsticks`].

use super::frame::Frame;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_redirect};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, ProgramArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_yardsticks::{Control, HEAD, NOTES, Place, WINDOW, WORDS_AT, tuple};

/// `TC_ACT_SHOT`: never met, as there always is a program under test.
const DROP: i32 = 2;

#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, 0);
#[map]
static TIMES: Array<u64> = Array::with_max_entries(NOTES, 0);
/// The program under test. XDP and TC cannot share a map of programs.
#[map]
static XDP_TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static TC_TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[inline(always)]
fn set<T>(at: usize, value: T) {
    // SAFETY: `prepare` checked the bounds for every offset within the head.
    unsafe { (at as *mut T).write_unaligned(value) }
}

/// The two words of an address, added up.
#[inline(always)]
fn words(address: u32) -> u32 {
    (address & 0xffff) + (address >> 16)
}

/// Makes the frame ready for the next packet; false if it is too short.
#[inline(always)]
fn prepare(data: usize, end: usize) -> bool {
    if data + HEAD > end {
        return false;
    }
    let Some(control) = CONTROL.get_ptr_mut(0) else { return false };
    // SAFETY: an array's value lives as long as the map; one run at a time uses it.
    let control = unsafe { &mut *control };
    for (index, word) in control.head.iter().enumerate() {
        set(data + WORDS_AT + index * 8, *word);
    }
    for (index, word) in control.macs.iter().enumerate() {
        set(data + index * 4, *word);
    }
    let count = control.count;
    control.count = count + 1;
    if count & u64::from(WINDOW - 1) == 0
        && let Some(time) = TIMES.get_ptr_mut((count / u64::from(WINDOW)) as u32)
    {
        // SAFETY: as above; the helper takes no arguments.
        unsafe { *time = bpf_ktime_get_ns() };
    }
    let state = control.state.wrapping_mul(control.multiplier).wrapping_add(control.increment);
    control.state = state;
    let number = control.first.wrapping_add(state & control.mask);
    let (address, port) = tuple(number);
    let (address, port) = (address.to_be(), u32::from(port.to_be()));
    let mut fixed = control.address;
    if control.services > 1 {
        let random = (u64::from(number.wrapping_mul(0x9e37_79b1)) * u64::from(control.services)) >> 32;
        fixed = u32::from_be(fixed).wrapping_add(random as u32).to_be();
    }
    // In the pieces in which programs read them.
    if control.place == Place::Source4 as u32 {
        set(data + 26, u64::from(fixed) << 32 | u64::from(address));
        set(data + 34, control.port << 16 | port);
        if control.ifindex != 0 {
            // It will be looked at. The template's checksum is that of a source and destination of zero.
            let template = (control.head[2] >> 16) as u32 & 0xffff;
            let sum = (!template & 0xffff) + words(address) + words(fixed);
            let sum = (sum & 0xffff) + (sum >> 16);
            set(data + 24, !((sum & 0xffff) + (sum >> 16)) as u16);
        }
    } else if control.place == Place::Destination4 as u32 {
        set(data + 26, u64::from(address) << 32 | u64::from(fixed));
        set(data + 34, port << 16 | control.port);
    } else if control.place == Place::Source6 as u32 {
        set(data + 30, u64::from(address) << 32);
        set(data + 54, control.port << 16 | port);
    } else if control.place == Place::Destination6 as u32 {
        set(data + 46, u64::from(address) << 32);
        set(data + 54, port << 16 | control.port);
    }
    true
}

#[xdp(frags)]
fn xdp_wrapper(ctx: XdpContext) -> u32 {
    if prepare(ctx.data(), ctx.data_end()) {
        // SAFETY: the context of this program; it comes back only if there is no program under test.
        unsafe { XDP_TARGET.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

#[classifier]
fn tc_wrapper(ctx: TcContext) -> i32 {
    if prepare(ctx.data(), ctx.data_end()) {
        // SAFETY: as above.
        unsafe { TC_TARGET.tail_call(&ctx, 0) };
    }
    DROP
}

/// The generator's end: sends the frame by the interface that the harness named.
#[xdp(frags)]
fn xdp_send(_: XdpContext) -> u32 {
    match CONTROL.get(0) {
        // SAFETY: a helper that takes plain numbers.
        Some(control) => unsafe { bpf_redirect(control.ifindex, 0) as u32 },
        None => xdp_action::XDP_ABORTED,
    }
}

/// Where frames arrive: counts and drops them, and hands on what others send (neighbour discovery).
#[xdp(frags)]
fn xdp_count(ctx: XdpContext) -> u32 {
    const UDP: u8 = 17;
    match Frame::parse(ctx.data(), ctx.data_end()) {
        Some(frame) if frame.protocol() == UDP => {
            super::count(0, ctx.data_end() - ctx.data());
            xdp_action::XDP_DROP
        }
        _ => xdp_action::XDP_PASS,
    }
}
