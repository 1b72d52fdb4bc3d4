//! Copies of packets, as a capturing instance of the programs hands them to user space.

use crate::record;

/// Bytes of a packet that are copied at most: a jumbo frame. What is longer (a local sender's, which a network card or the
/// other end cuts) is copied up to here.
pub const SNAPLEN: usize = 9216;

/// What stands before the bytes of each copy. Host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Captured {
    /// Nanoseconds of the kernel's monotonic clock.
    pub time: u64,
    /// The CPU that had the packet.
    pub cpu: u32,
    /// A number that the copies of one packet share, and no other that this CPU had lately.
    pub sequence: u32,
    /// How many copies this CPU has lost so far: there was no room in the ring.
    pub lost: u32,
    /// The interface that the packet came in by, or (at egress) leaves by.
    pub ifindex: u32,
    /// The interface that it was sent to, if it was.
    pub sent_to: u32,
    /// Bytes of the packet.
    pub length: u32,
    /// Bytes of it that follow.
    pub copied: u32,
    /// The program ([`Captured::XDP`] and so on).
    pub hook: u8,
    /// [`Captured::CAME`] or [`Captured::LEFT`].
    pub side: u8,
    /// What the program answered to the kernel: `XDP_*` or `TCX_*` (`include/uapi/linux/bpf.h`), as a signed byte.
    pub action: i8,
    /// The number of the [`crate::Reason`].
    pub reason: u8,
}

impl Captured {
    /// At XDP.
    pub const XDP: u8 = 0;
    /// At TCX ingress.
    pub const INGRESS: u8 = 1;
    /// At TCX egress.
    pub const EGRESS: u8 = 2;
    /// As it came.
    pub const CAME: u8 = 0;
    /// As it left.
    pub const LEFT: u8 = 1;
}

/// Where a CPU puts a copy together.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CaptureRoom {
    /// The first part.
    pub head: Captured,
    /// The packet.
    pub bytes: [u8; SNAPLEN],
}

record!(Captured = 40, CaptureRoom = 9256);
