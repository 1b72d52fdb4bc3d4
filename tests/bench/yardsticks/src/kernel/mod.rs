//! The programs. Each yardstick does one more thing than the one before.

#![expect(clippy::inline_always, reason = "a call costs nanoseconds, which is what is measured here")]
#![expect(clippy::needless_pass_by_value, reason = "the signature that the macros of aya want of a program")]

mod frame;
mod tc;
mod wrapper;
mod xdp;

use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LruHashMap, PerCpuArray};

/// As the product's: some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A flow's tuple as it lies in the frame: addresses, ports, protocol.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct FlowKey {
    addresses: u64,
    ports: u32,
    protocol: u32,
}

/// Where a flow's packets go, and what that adds to checksums.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Flow {
    address: u32,
    port: u16,
    delta: u16,
    port_delta: u16,
    service: u16,
    zero: u32,
}

/// Address, and port and protocol, of a service.
#[repr(C)]
#[derive(Clone, Copy)]
struct ServiceKey {
    address: u32,
    port: u32,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Count {
    packets: u64,
    bytes: u64,
}

#[map]
static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(1 << 16, 0);
/// The services' numbers.
#[map]
static SERVICES: HashMap<ServiceKey, u64> = HashMap::with_max_entries(1 << 16, 0);
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
