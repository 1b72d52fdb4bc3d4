//! What the whole datapath shares: one record, written by the daemon.

use crate::record;

/// The only value of the map [`crate::maps::SETTINGS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    /// Keys the hash that picks backends. Chosen once and pinned: the same connection picks the same backend after
    /// its flow entry was lost, and in a trace.
    pub seed: u64,
    /// Source address lent to IPv4 connections that need source translation; zeros: none.
    pub snat4: [u8; 4],
    /// First source port lent, host order.
    pub snat_port_first: u16,
    /// Last source port lent, host order, inclusive.
    pub snat_port_last: u16,
    /// Source address lent to IPv6 connections; zeros: none.
    pub snat6: [u8; 16],
}

impl Settings {
    /// Source ports lent by default: below Linux's default `ip_local_port_range` (32768 on) and below the default node
    /// ports (30000 on), so that they meet neither a connection of the node's own nor a node port.
    pub const SNAT_PORTS: (u16, u16) = (1024, 29_999);
}

record!(Settings = 32);
