//! What becomes of a packet, and why.

use lb_common::Reason;

/// What the hook must do with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// Hand it on: untouched, or translated for a socket of this node.
    Pass,
    /// Send it out by [`Verdict::ifindex`]; its link-layer header is complete.
    Redirect,
    /// Send it out by [`Verdict::ifindex`]; the kernel finds the MAC of the neighbour that it named for
    /// this packet ([`crate::Env::route`]). Never at XDP.
    RedirectNeighbour,
    /// Hand it to the other end of [`Verdict::ifindex`], in another network namespace, as if it had come in there; its
    /// link-layer header is complete. At TCX ingress alone.
    RedirectPeer,
    /// At XDP: hand it on untouched and uncounted, since only TCX ingress can finish it.
    Defer,
    /// Drop it.
    Drop,
    /// Within the core: a flow must be opened. No hook ever sees it.
    Open,
    /// Within the core: the client is served, and a backend must be chosen for it. No hook ever sees it.
    Choose,
    /// Within the core: the flow that was chosen needs its source. No hook ever sees it.
    Lend,
    /// Within the core: the flow that was chosen can be entered. No hook ever sees it.
    Enter,
    /// Within the core: an ICMP message, to be judged by what it says. No hook ever sees it.
    Icmp,
    /// Within the core: the sender is due the answer that the reason calls for. No hook ever sees it.
    Answer,
}

impl Action {
    /// Whether the packet goes its way and nothing remains to be done with it: what nearly every packet asks, once.
    #[inline(always)]
    pub const fn is_settled(self) -> bool {
        (self as u8) < Action::Drop as u8
    }
}

/// An action and its reason, in eight bytes: a BPF function returns no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The interface to leave by, where the action sends the packet on; the MTU, where the answer
    /// [`Reason::MtuExceeded`] is due; the id of the owned address, where a flow is to be opened; otherwise zero.
    pub ifindex: u32,
    /// What to do.
    pub action: Action,
    /// Why.
    pub reason: Reason,
}

impl Verdict {
    /// Left to TCX ingress on the same interface.
    pub const DEFER: Self = Self { ifindex: 0, action: Action::Defer, reason: Reason::NotOurs };

    /// Handed on.
    pub const fn pass(reason: Reason) -> Self {
        Self { ifindex: 0, action: Action::Pass, reason }
    }

    /// The sender is told why (see [`crate::answer`]).
    pub const fn answer(reason: Reason) -> Self {
        Self { ifindex: 0, action: Action::Answer, reason }
    }

    /// Dropped.
    pub const fn drop(reason: Reason) -> Self {
        Self { ifindex: 0, action: Action::Drop, reason }
    }
}

const _: () = assert!(core::mem::size_of::<Verdict>() == 8);
