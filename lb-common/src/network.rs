//! Networks that clients are told by: where the pods of the cluster are, and who may use a Service's load balancer.

use crate::record;

/// One network of a group: the key of the maps [`crate::maps::NETWORKS4`] and [`crate::maps::NETWORKS6`], as the kernel's
/// longest-prefix-match tries have it. `A` is `[u8; 4]` or `[u8; 16]`. The value says nothing: the key is there, or not.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkKey<A> {
    /// Length of the prefix in bits, counted from the group on.
    pub prefix: u32,
    /// [`PODS`], [`KEPT`], or the id of the service port that only these networks may use ([`crate::Service::RANGED`]).
    pub group: u32,
    /// The address of the network.
    pub address: A,
}

/// The group of the networks in which the pods of the cluster are.
pub const PODS: u32 = u32::MAX;

/// The group of the networks whose clients keep their address at ClusterIPs, towards backends of other nodes too
/// ([`crate::Service::INTERNAL`]).
pub const KEPT: u32 = u32::MAX - 1;

/// Bits of the group.
const GROUP_BITS: u32 = u32::BITS;

impl<A> NetworkKey<A> {
    /// The network of `length` bits (those of the address alone) at `address`. With all bits: the address itself, to be looked
    /// up.
    pub const fn new(group: u32, address: A, length: u32) -> Self {
        Self { prefix: GROUP_BITS + length, group, address }
    }

    /// Bits of the address that count.
    pub const fn length(&self) -> u32 {
        self.prefix.saturating_sub(GROUP_BITS)
    }
}

record!(NetworkKey<[u8; 4]> = 12, NetworkKey<[u8; 16]> = 24);
