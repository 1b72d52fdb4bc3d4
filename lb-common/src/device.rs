//! Interfaces as the datapath sees them.

use crate::record;

/// What the datapath may do with an interface: the value of the map [`crate::maps::DEVICES`], keyed by ifindex.
/// An interface without a record is treated as one with no flags.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Device {
    /// [`Device::XDP_TARGET`] and its neighbours.
    pub flags: u32,
    /// Its own MAC, under [`Device::OWN_MAC`].
    pub mac: [u8; 6],
    /// Padding; zero.
    pub zero: [u8; 2],
}

impl Device {
    /// Takes frames redirected from XDP: its driver transmits them, and (for a veth) its peer receives them.
    pub const XDP_TARGET: u32 = 1;
    /// Clients behind it are on this node, so replies to their own addresses come back through this node.
    pub const LOCAL_CLIENTS: u32 = 2;
    /// XDP runs in generic mode on it: what comes in here may be redirected to any device.
    pub const XDP_GENERIC: u32 = 4;
    /// Only frames to its own MAC are for this node. (The port of a bridge also sees frames to the bridge's MAC.)
    pub const OWN_MAC: u32 = 8;
    /// The outer end of the daemon's own veth pair: its clients are processes of this node, with the node's own addresses.
    pub const HOST: u32 = 16;
    /// A veth that leads to a pod: its other end is in another network namespace, and nobody shapes or filters what this end sends.
    /// TCX ingress may hand packets straight to the other end (`bpf_redirect_peer`).
    pub const PEER: u32 = 32;
    /// XDP runs on it, in either mode.
    pub const XDP: u32 = 64;

    /// An interface with these flags.
    pub const fn new(flags: u32) -> Self {
        Self { flags, mac: [0; 6], zero: [0; 2] }
    }
}

record!(Device = 12);
