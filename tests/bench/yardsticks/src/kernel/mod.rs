//! The programs. Each yardstick does one more thing than the one before.

#![expect(clippy::inline_always, reason = "a call costs nanoseconds, which is what is measured here")]
#![expect(clippy::needless_pass_by_value, reason = "the signature that the macros of aya want of a program")]

mod frame;
mod opening;
mod serve;
mod tc;
mod wrapper;
mod xdp;

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use lb_yardsticks::Served;

/// As the product's: some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A flow's tuple as it lies in the frame.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct FlowKey {
    addresses: u64,
    /// Ports, and above them the protocol.
    rest: u64,
}

/// Where a flow's packets go, and what that adds to checksums.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Flow {
    address: u32,
    port: u16,
    delta: u16,
    port_delta: u16,
    /// Both of the former.
    sum: u16,
    service: u32,
}

/// Address, port and protocol of a service in one word: the kernel compares keys in words of eight bytes, and who reads a word
/// that was written in two pieces a moment ago waits for them.
type ServiceKey = u64;

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Count {
    packets: u64,
    bytes: u64,
}

/// A value as large as the product's.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Wide {
    flow: Flow,
    rest: [u64; 6],
}

#[map]
static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(1 << 16, 0);
/// The same flows in entries of the product's size and number: two for each flow, in a plain hash.
#[map]
static PAIRS: HashMap<FlowKey, Wide> = HashMap::with_max_entries(1 << 16, 0);
/// Where two entries of that size are made for each new flow, and nothing else is done.
#[map]
static BORN: LruHashMap<FlowKey, Wide> = LruHashMap::with_max_entries(1 << 16, 0);
/// The services' numbers.
#[map]
static SERVICES: HashMap<ServiceKey, u64> = HashMap::with_max_entries(1 << 16, 0);
/// What is known of a Service, as large as the product's record of it and in a table of the same kind.
#[map]
static RECORDS: HashMap<ServiceKey, [u64; 4]> = HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);
/// The same without a hash: a line of the caches for each Service, at the place that its address gives.
#[map]
static PLACES: Array<[u64; 8]> = Array::with_max_entries(1 << 16, 0);
/// Members of the Services, one after the other.
#[map]
static MEMBERS: Array<u64> = Array::with_max_entries(1 << 16, 0);
/// What each Service has counted.
#[map]
static TALLIES: PerCpuArray<Count> = PerCpuArray::with_max_entries(1 << 16, 0);
/// Whom [`serve::tc_serve`] serves.
#[map]
static SERVED: Array<Served> = Array::with_max_entries(1, 0);
/// The interface that [`xdp::xdp_relay`] sends by.
#[map]
static OUT: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static STATS: PerCpuArray<Count> = PerCpuArray::with_max_entries(1 << 12, 0);

#[inline(always)]
fn count(service: u32, bytes: usize) {
    if let Some(count) = STATS.get_ptr_mut(service) {
        // SAFETY: this CPU's own copy.
        let count = unsafe { &mut *count };
        count.packets += 1;
        count.bytes += bytes as u64;
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves this unreachable, or refuses the program.
    loop {}
}
