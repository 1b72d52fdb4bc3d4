//! The contract between the datapath and user space, stated once.
//!
//! Every map's name, kind, key, value and size stands here ([`maps`]), and so does every reason a packet can get
//! ([`Reason`]). Values cross the boundary as plain `#[repr(C)]` records without Rust enums or hidden padding: their
//! sizes and offsets are asserted at compile time, and a test compares them with the built BPF object.
//!
//! Byte order: addresses and ports are byte arrays in network order, as they stand in a packet; every other number is
//! in host order.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(clippy::inline_always, reason = "a call costs the datapath stack and nanoseconds")]

#[cfg(test)]
extern crate std;

pub mod affinity;
mod atomic;
pub mod backend;
pub mod budget;
pub mod capture;
pub mod device;
pub mod event;
pub mod flow;
pub mod fragment;
pub mod gate;
pub mod maps;
pub mod network;
pub mod reason;
pub mod service;
pub mod settings;
pub mod socket;
pub mod stats;
pub mod table;
pub mod trace;

pub use affinity::{Affinity, AffinityKey};
pub use backend::Backend;
pub use budget::Budget;
pub use capture::{CaptureRoom, Captured};
pub use device::Device;
pub use event::{Event, Telling};
pub use flow::{Flow, FlowKey, Neighbour, NextHop, Scratch};
pub use fragment::{Fragment, FragmentKey};
pub use network::NetworkKey;
pub use reason::Reason;
pub use service::{BackendSet, Owned, Service, ServiceKey, Slot};
pub use settings::{HostPair, Settings};
pub use socket::{Peer, SocketKey};
pub use stats::{ReasonCount, Traffic};
pub use trace::{Step, StepKind, Steps};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of SCTP.
pub const SCTP: u8 = 132;

/// A record that is copied to and from BPF maps byte for byte.
///
/// # Safety
/// The type is `#[repr(C)]`, `Copy`, has no padding, and every bit pattern is a valid value.
pub unsafe trait Record: Copy + 'static {}

/// Declares that types are [`Record`]s, and (for user space) aya `Pod`s, after checking that they have no padding.
macro_rules! record {
    ($($type:ty = $size:literal),+ $(,)?) => {$(
        const _: () = assert!(core::mem::size_of::<$type>() == $size);
        // SAFETY: `#[repr(C)]` of integers and byte arrays; the size assertion above counts every named byte.
        unsafe impl crate::Record for $type {}
        #[cfg(feature = "user")]
        // SAFETY: as above.
        unsafe impl aya::Pod for $type {}
    )+};
}
pub(crate) use record;
