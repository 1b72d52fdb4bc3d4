//! Copies packets to user space, as they come and as they leave.
//!
//! Only an instance of the programs that was loaded for that does so; in every other one none of this is left.

use super::maps::{CAPTURE_ROOM, CAPTURED};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_ringbuf_output};
use core::mem::offset_of;
use lb_common::Reason;
use lb_common::capture::{CaptureRoom, Captured, SNAPLEN};
use lb_ebpf::{Action, Verdict};

/// A packet that can be copied.
pub(super) trait Whole {
    /// Bytes of it.
    fn length(&self) -> u32;

    /// Copies its first `length` bytes; zero if that worked.
    ///
    /// # Safety
    /// There is room for so many.
    unsafe fn copy(&self, to: *mut u8, length: u32) -> i64;
}

/// Copies the packet as it came into this CPU's room, where it stays until it is known what became of it.
#[inline(never)]
pub(super) fn came<P: Whole>(packet: &P) {
    let Some(room) = CAPTURE_ROOM.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own, and no program interrupts another one of the network.
    let room = unsafe { &mut *room };
    room.head.sequence = room.head.sequence.wrapping_add(1);
    copy(packet, room);
}

/// Tells user space of a packet that was not left alone: how it came, and how it leaves.
#[inline(never)]
pub(super) fn left<P: Whole>(packet: &P, hook: u8, ifindex: u32, verdict: Verdict, action: i32) {
    if verdict.reason == Reason::NotOurs {
        return;
    }
    let Some(room) = CAPTURE_ROOM.get_ptr_mut(0) else { return };
    // SAFETY: as above.
    let room = unsafe { &mut *room };
    let is_sent = matches!(verdict.action, Action::Redirect | Action::RedirectNeighbour | Action::RedirectPeer);
    let sent_to = if is_sent { verdict.ifindex } else { 0 };
    room.head = Captured {
        // SAFETY: helpers without arguments.
        time: unsafe { bpf_ktime_get_ns() },
        // SAFETY: as above.
        cpu: unsafe { bpf_get_smp_processor_id() },
        ifindex,
        sent_to,
        hook,
        side: Captured::CAME,
        action: action as i8,
        reason: verdict.reason as u8,
        ..room.head
    };
    tell(room);
    room.head.side = Captured::LEFT;
    copy(packet, room);
    tell(room);
}

/// Copies as much of the packet as there is room for.
#[inline(always)]
fn copy<P: Whole>(packet: &P, room: &mut CaptureRoom) {
    let length = packet.length();
    // Not a minimum: the verifier must see both bounds on the value that the helper gets.
    let wanted = if length > SNAPLEN as u32 { SNAPLEN as u32 } else { length };
    let wanted = super::opaque(wanted as usize) as u32;
    room.head.length = length;
    room.head.copied = 0;
    // SAFETY: checked against the room right here.
    if wanted > 0 && wanted <= SNAPLEN as u32 && unsafe { packet.copy(room.bytes.as_mut_ptr(), wanted) } == 0 {
        room.head.copied = wanted;
    }
}

#[inline(always)]
fn tell(room: &mut CaptureRoom) {
    let copied = room.head.copied;
    if copied > SNAPLEN as u32 {
        return;
    }
    let size = offset_of!(CaptureRoom, bytes) as u64 + u64::from(copied);
    let room: *mut CaptureRoom = room;
    // SAFETY: so much of the room was filled.
    if unsafe { bpf_ringbuf_output((&raw const CAPTURED).cast_mut().cast(), room.cast::<c_void>(), size, 0) } != 0 {
        // SAFETY: as above.
        unsafe { (*room).head.lost += 1 };
    }
}
