//! The hooks: XDP, TCX and those of a cgroup adapted to the core's traits, a dozen lines each.

#![expect(clippy::inline_always, reason = "a BPF call costs stack and nanoseconds; what is not inlined says so")]
#![expect(clippy::needless_pass_by_value, reason = "the signature that the macros of aya want of a program")]

mod capture;
mod fib;
mod flows;
mod linear;
mod maps;
mod socket;
mod tables;
mod tc;
mod trace;
mod xdp;

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_loop};
use lb_ebpf::env::Step;

/// Dual, since helpers such as `bpf_fib_lookup` are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Whether drops are logged: set by the loader, zero costs nothing.
#[unsafe(no_mangle)]
static LOG: u8 = 0;

/// Whether packets are copied to user space: set by the loader, zero costs nothing.
#[unsafe(no_mangle)]
static CAPTURE: u8 = 0;

/// Whether packets are traced: the core then tells what it decides, and writes to no map but this instance's own. Zero costs a
/// packet one load: what is traced is a copy of the core of which the verifier leaves nothing.
#[unsafe(no_mangle)]
static TRACE: u8 = 0;

/// Always zero, but the verifier cannot know: it lies in a writable map.
#[unsafe(no_mangle)]
static mut ZERO: usize = 0;

/// Whether the clock is [`CLOCK_AHEAD`] of the kernel's: set by a loader that moves time, zero costs nothing.
#[unsafe(no_mangle)]
static CLOCK_MOVES: u8 = 0;

/// Nanoseconds, in a map of its own, so that who moves time finds it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.clock")]
static mut CLOCK_AHEAD: u64 = 0;

/// The same number, of which the verifier knows nothing more.
#[inline(always)]
fn opaque(value: usize) -> usize {
    // SAFETY: nobody writes it; volatile, so that the compiler does not know either.
    value.wrapping_add(unsafe { core::ptr::read_volatile(&raw const ZERO) })
}

/// `bpf_loop` over `body`.
#[inline(always)]
fn repeat<S: Step>(times: u32, body: &mut S) {
    extern "C" fn round<S: Step>(index: u64, body: *mut S) -> i64 {
        // SAFETY: the pointer given to `bpf_loop` below, which is not used otherwise meanwhile.
        i64::from(!unsafe { &mut *body }.step(index as u32))
    }
    let round: extern "C" fn(u64, *mut S) -> i64 = round::<S>;
    // SAFETY: the helper calls `round` with the index and the pointer it is given.
    unsafe { bpf_loop(times, round as *mut c_void, (&raw mut *body).cast(), 0) };
}

/// Whether the loader asked for a log.
#[inline(always)]
fn logs() -> bool {
    // SAFETY: a frozen constant in a read-only map; volatile, so that the compiler does not fold the value it sees.
    unsafe { core::ptr::read_volatile(&raw const LOG) != 0 }
}

/// Whether the loader wants copies of packets.
#[inline(always)]
fn captures() -> bool {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const CAPTURE) != 0 }
}

/// Whether this instance traces packets.
#[inline(always)]
fn traces() -> bool {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const TRACE) != 0 }
}

/// The tick that the coarse clock showed when it was last read, and in the upper half when that was: the lower half of the
/// kernel's count of timer interrupts.
#[unsafe(no_mangle)]
static mut CLOCK: u64 = 0;

/// Coarse time in ticks. The coarse clock goes on with the kernel's timer interrupts, whose count costs one load; so it is read
/// once for each, by whichever CPU comes first.
#[inline(always)]
fn tick() -> u32 {
    // SAFETY: a frozen constant, volatile as above; a number that user space writes whole; a helper without arguments.
    unsafe {
        if core::ptr::read_volatile(&raw const CLOCK_MOVES) != 0 {
            let ahead = core::ptr::read_volatile(&raw const CLOCK_AHEAD);
            return ((bpf_ktime_get_coarse_ns() + ahead) >> lb_common::flow::TICK_SHIFT) as u32;
        }
    }
    // SAFETY: a helper without arguments; and one aligned word, which CPUs that write it at the same time write alike.
    unsafe {
        let jiffies = bpf_jiffies64() << 32;
        let read = core::ptr::read_volatile(&raw const CLOCK);
        if (read ^ jiffies) >> 32 == 0 {
            return read as u32;
        }
        let tick = (bpf_ktime_get_coarse_ns() >> lb_common::flow::TICK_SHIFT) as u32;
        core::ptr::write_volatile(&raw mut CLOCK, jiffies | u64::from(tick));
        tick
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves this unreachable, or refuses the program.
    loop {}
}
