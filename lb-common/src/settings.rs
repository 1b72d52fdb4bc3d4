//! What the whole datapath shares: one record, written by the daemon.

use crate::record;

/// The only value of the map [`crate::maps::SETTINGS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    /// Keys the hash that picks backends. Chosen once and pinned: the same connection picks the same backend after
    /// its flow entry was lost, and in a trace.
    pub seed: u64,
    /// Keys the hash of Services with [`crate::Service::SAME_EVERYWHERE`]: the same on all nodes.
    pub shared_seed: u64,
    /// Cookie of the network namespace the datapath serves, as `bpf_get_netns_cookie` gives it; zero: not known.
    pub netns_cookie: u64,
    /// Source addresses lent to IPv4 connections that need source translation: those before the first of zeros.
    pub snat4: [[u8; 4]; Settings::SNAT_ADDRESSES],
    /// Source addresses lent to IPv6 connections.
    pub snat6: [[u8; 16]; Settings::SNAT_ADDRESSES],
    /// First source port lent, host order.
    pub snat_port_first: u16,
    /// Last source port lent, host order, inclusive.
    pub snat_port_last: u16,
    /// [`Settings::STACK`] and its neighbours.
    pub flags: u32,
    /// How packets reach the node's own processes through the daemon's veth pair.
    pub host: HostPair,
}

/// The daemon's veth pair: what leaves by the outer end comes in by the inner one, which holds the routes to the Services.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HostPair {
    /// Index of the outer end, where our programs are attached; zero: there is no pair.
    pub ifindex: u32,
    /// Destination (inner end's) and source (outer end's) MAC, as they stand in a frame.
    pub macs: [u8; 12],
}

impl Settings {
    /// How many source addresses of each family may be lent.
    pub const SNAT_ADDRESSES: usize = 4;

    /// Source ports lent by default: below Linux's default `ip_local_port_range` (32768 on) and below the default node
    /// ports (30000 on), so that they meet neither a connection of the node's own nor a node port.
    pub const SNAT_PORTS: (u16, u16) = (1024, 29_999);

    /// A list of addresses to lend as it stands in the record: those that fit, then zeros.
    pub fn lent<A: Copy + Default>(addresses: impl IntoIterator<Item = A>) -> [A; Self::SNAT_ADDRESSES] {
        let mut list = [A::default(); Self::SNAT_ADDRESSES];
        for (place, address) in list.iter_mut().zip(addresses) {
            *place = address;
        }
        list
    }

    /// [`Settings::shared_seed`] where none is configured: the first 64 bits of the fraction of pi.
    pub const SHARED_SEED: u64 = 0x243f_6a88_85a3_08d3;

    /// New flows take the way through the host's stack, so that its firewall sees them.
    pub const STACK: u32 = 1;
    /// Node ports are not served on loopback addresses.
    pub const NO_LOOPBACK: u32 = 2;
}

record!(HostPair = 16, Settings = 128);
