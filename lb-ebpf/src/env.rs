//! What the core asks of the kernel.

use crate::Address;
use lb_common::{FlowKey, NextHop, Reason};

/// Where a packet was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP, on an interface fed by a wire.
    Xdp,
    /// TCX ingress, on every managed interface.
    Ingress,
    /// TCX egress, on every managed interface: only replies that come through the host's stack are translated here.
    Egress,
}

/// What the kernel's routing table says of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Leave by this next hop. Without a neighbour entry its MACs are zero.
    Via(NextHop),
    /// The destination is not forwarded to: an address of this node, or no route at all.
    NotForwarded,
    /// The packet must be dropped.
    Failed(Reason),
}

/// The body of a loop.
pub trait Step {
    /// Runs once; whether to go on.
    fn step(&mut self, index: u32) -> bool;
}

/// What of the kernel is also around a system call.
pub trait Clock {
    /// As [`Env::tick`].
    fn tick(&self) -> u32;

    /// As [`Env::repeat`].
    fn repeat<S: Step>(&self, times: u32, body: &mut S);
}

impl<E: Env> Clock for E {
    #[inline(always)]
    fn tick(&self) -> u32 {
        Env::tick(self)
    }

    #[inline(always)]
    fn repeat<S: Step>(&self, times: u32, body: &mut S) {
        Env::repeat(self, times, body);
    }
}

/// The kernel around one packet.
pub trait Env {
    /// Where the packet was met.
    const HOOK: Hook;

    /// Coarse time in units of 2^[`lb_common::flow::TICK_SHIFT`] ns since boot.
    fn tick(&self) -> u32;

    /// The interface the packet came in by, or (at egress) leaves by.
    fn ifindex(&self) -> u32;

    /// Runs `body` for each index below `times`, until it says to stop. The verifier checks the body once, where it would
    /// follow an ordinary loop through all its rounds.
    fn repeat<S: Step>(&self, times: u32, body: &mut S);

    /// Asks the kernel's routing table how a packet with the tuple `key` would leave if it came in by
    /// [`Env::ifindex`]. Whom it named is remembered for [`crate::Action::RedirectNeighbour`].
    fn route<A: Address>(&self, key: &FlowKey<A>) -> Route;
}
