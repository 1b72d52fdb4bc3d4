//! `bpf_fib_lookup` (include/uapi/linux/bpf.h, net/core/filter.c).

use super::maps::NEIGHBOUR;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_check_mtu, bpf_fib_lookup};
use lb_common::{FlowKey, NextHop, Reason};
use lb_ebpf::{Address, Route};

/// `struct bpf_fib_lookup` with its unions resolved as used here.
#[repr(C, align(8))]
struct Lookup {
    /// From the lowest byte on: family (`AF_INET`, `AF_INET6`), protocol, and in two bytes each source port and destination
    /// port (for ECMP; as they lie in the packet) and, in, bytes to check against the MTU, out, the MTU. One word, since
    /// two ports stored at once would be a misaligned store, which the verifier forbids on the stack.
    head: u64,
    /// In: where the packet came in; out: where it leaves.
    ifindex: u32,
    tos_or_flowinfo: u32,
    /// In words too: bytes would be cleared and copied one by one.
    source: [u64; 2],
    destination: [u64; 2],
    /// VLAN or table (4 bytes), source MAC (6), destination MAC (6); as words for the same reason.
    tail: [u64; 2],
}

impl Lookup {
    /// The MACs in the order in which they stand in a frame.
    #[inline(always)]
    fn macs(&self) -> [u8; 12] {
        let [first, second] = self.tail;
        let source = first >> 32 | (second & 0xffff) << 32;
        let destination = second >> 16;
        let mut macs = [0; 12];
        macs[..8].copy_from_slice(&(destination | source << 48).to_le_bytes());
        macs[8..].copy_from_slice(&((source >> 16) as u32).to_le_bytes());
        macs
    }
}

const _: () = assert!(core::mem::size_of::<Lookup>() == 64);

const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;

/// Writes an address as it lies in a packet, with zeros behind it.
#[inline(always)]
fn put<A: Address>(at: &mut [u64; 2], address: &A) {
    if A::VERSION == 4 {
        *at = [u64::from((address.words()[0] as u32).to_be()), 0];
    } else {
        // SAFETY: an address of IPv6 is as large as the two words.
        unsafe { (&raw mut *at).cast::<A>().write_unaligned(*address) };
    }
}

/// The MTU of a device, or the largest there is if the kernel does not tell.
#[inline(always)]
fn device_mtu(ctx: *mut c_void, ifindex: u32) -> u16 {
    let mut mtu = 0;
    // SAFETY: the context of this program, and a number for the answer. Whether this packet fits is not asked.
    let answer = unsafe { bpf_check_mtu(ctx, ifindex, &raw mut mtu, 0, 0) };
    if answer < 0 || mtu > u32::from(u16::MAX) { u16::MAX } else { mtu as u16 }
}

/// Asks how a packet with the tuple `key` that came in by `ifindex` would be forwarded.
#[inline(always)]
pub(super) fn route<A: Address>(ctx: *mut c_void, ifindex: u32, key: &FlowKey<A>) -> Route {
    let family = if A::VERSION == 4 { AF_INET } else { AF_INET6 };
    let ports = u64::from(u16::from_le_bytes(key.src_port)) | u64::from(u16::from_le_bytes(key.dst_port)) << 16;
    let mut lookup = Lookup {
        // One byte always fits: the kernel then tells the MTU instead of judging a packet that may be several (GSO).
        head: family | u64::from(key.protocol) << 8 | ports << 16 | 1 << 48,
        ifindex,
        tos_or_flowinfo: 0,
        source: [0; 2],
        destination: [0; 2],
        // Not known to be zeros: two words would be cleared byte by byte, in a call.
        tail: [super::opaque(0) as u64; 2],
    };
    put(&mut lookup.source, &key.src);
    put(&mut lookup.destination, &key.dst);
    // SAFETY: the context of this program, and a structure of the size the kernel knows.
    let answer = unsafe { bpf_fib_lookup(ctx, (&raw mut lookup).cast(), core::mem::size_of::<Lookup>() as i32, 0) };
    // The helper leaves the gateway, or else the destination, in place of the destination, and its family.
    if (answer == 0 || answer == 7)
        && let Some(neighbour) = NEIGHBOUR.get_ptr_mut(0)
    {
        // SAFETY: this CPU's own copy.
        let neighbour = unsafe { &mut *neighbour };
        neighbour.family = (lookup.head & 0xff) as u32;
        // In words, as all of this.
        let [first, second] = lookup.destination.map(u64::to_ne_bytes);
        neighbour.address[..8].copy_from_slice(&first);
        neighbour.address[8..].copy_from_slice(&second);
    }
    match answer {
        // BPF_FIB_LKUP_RET_SUCCESS, _NO_NEIGH (the MACs are then zero)
        0 | 7 => Route::Via(NextHop {
            ifindex: lookup.ifindex,
            macs: lookup.macs(),
            // Without a neighbour the kernel returns before it writes the MTU; that of the device is then the best we know.
            mtu: if answer == 7 { device_mtu(ctx, lookup.ifindex) } else { (lookup.head >> 48) as u16 },
            flags: 0,
            came_to: [0; 4],
        }),
        // _BLACKHOLE, _UNREACHABLE, _PROHIBIT
        1 => Route::Failed(Reason::Blackhole),
        2 => Route::Failed(Reason::Unreachable),
        3 => Route::Failed(Reason::Prohibited),
        // _NOT_FWDED
        4 => Route::NotForwarded,
        // _FWD_DISABLED, _UNSUPP_LWT, _FRAG_NEEDED
        5 => Route::Failed(Reason::ForwardingDisabled),
        6 => Route::Failed(Reason::NextHopUnsupported),
        8 => Route::Failed(Reason::MtuExceeded),
        _ => Route::Failed(Reason::NoRoute),
    }
}
