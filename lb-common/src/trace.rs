//! What a traced packet met, step by step.
//!
//! Steps are told by the datapath's core itself, in an instance of the programs of its own, where it decides; user space only
//! gives names to the numbers. Numbers of kinds are stable and append-only.

use crate::{FlowKey, record};

/// What a step tells. The number is [`Step::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum StepKind {
    /// The packet met a hook. `detail`: 0 XDP, 1 ingress, 2 egress; `number`: the interface; `more`: bytes of the frame.
    Hook = 1,
    /// Its headers were read. `words`: the tuple; `detail`: TTL; `flags`: [`Step::PIECE_SHIFT`]; `number`: bytes of the IP packet.
    Parsed = 2,
    /// Its headers cannot be translated. `reason`: why.
    Unparsed = 3,
    /// The gate is closed: neither its source nor its destination can be of ours.
    GateClosed = 4,
    /// An entry of a flow was found. `words`: the tuple it rewrites to; `flags`:
    /// [`crate::Flow::flags`] and above them those of the next hop; `number`: backend; `more`: service.
    FlowFound = 5,
    /// There is no entry for the tuple.
    FlowUnknown = 6,
    /// The entry does not count for this packet. `detail`: [`Step::OTHER_HOOK`] and its neighbours.
    FlowPassedOver = 7,
    /// Whose the destination is, where no Service has the port there. `detail`: whether it is ours; `number`: [`crate::Owned`].
    Owned = 8,
    /// A Service has the port. `words`: the key without its address, the set of backends, that of the members, id and flags and target port, affinity;
    /// `number`: [`crate::Service::id`]; `flags`: [`crate::Service::flags`].
    Service = 9,
    /// No Service has the port. `words`: the key without its address.
    NoService = 10,
    /// Who asks. `flags`: [`crate::Scratch::client_flags`]; `detail`: whether its source address is one that a client cannot have.
    Client = 11,
    /// Whether the client is in the Service's source ranges: `detail`.
    SourceRange = 12,
    /// Which record counts for the client, where the Service tells them apart: `detail` is 1 for that of clients within the
    /// cluster; the rest as of [`StepKind::Service`].
    Policy = 13,
    /// What the client had last. `number`: its place among the members, or [`crate::Affinity::NO_PLACE`]; `words`: the client.
    Affinity = 14,
    /// The pick. `number`: the place; `words`: the set, then the hash; `detail`: [`Step::BY_CONNECTION`] and its neighbours.
    Picked = 15,
    /// The backend at that place. `number`: its id; `words`: the address and then the port (network order, in the lowest bytes);
    /// `flags`: [`crate::Backend::flags`].
    Backend = 16,
    /// Where the packet leaves. `reason`: why there is no way, or [`crate::Reason::Forwarded`]; `number`: the interface; `flags`:
    /// [`crate::NextHop::flags`]; `more`: MTU; `words`: the MACs.
    NextHop = 17,
    /// The source that the backend sees is settled. `detail`: whether it is lent; `words`: the tuple; `reason`: as of the verdict.
    Source = 18,
    /// The packet is rewritten. `words`: the tuple after; `number`: backend; `more`: service.
    Rewritten = 19,
    /// An ICMP message. `detail`: its type.
    Icmp = 20,
    /// The flow that an ICMP error is about. `words`: the tuple of the entry that is looked up; `detail`: whether there is one.
    IcmpAbout = 21,
    /// The sender is answered. `detail`: [`Step::ECHO`] and its neighbours; `flags`: type and code of an ICMP error.
    Answered = 22,
    /// A write to a map that is not done in a trace. `detail`: [`Step::INSERT`] and its neighbours; `words`: the key.
    Write = 23,
    /// The verdict of the hook. `reason`: why; `detail`: [`Step::PASS`] and its neighbours; `number`: the interface.
    Verdict = 24,
}

impl StepKind {
    /// Every kind, in order of its number.
    pub const ALL: [Self; 24] = [
        Self::Hook,
        Self::Parsed,
        Self::Unparsed,
        Self::GateClosed,
        Self::FlowFound,
        Self::FlowUnknown,
        Self::FlowPassedOver,
        Self::Owned,
        Self::Service,
        Self::NoService,
        Self::Client,
        Self::SourceRange,
        Self::Policy,
        Self::Affinity,
        Self::Picked,
        Self::Backend,
        Self::NextHop,
        Self::Source,
        Self::Rewritten,
        Self::Icmp,
        Self::IcmpAbout,
        Self::Answered,
        Self::Write,
        Self::Verdict,
    ];

    /// The kind with this number; `None` for one that this build does not know.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// One step. What the fields mean stands at its [`StepKind`]; what it does not name is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Step {
    /// [`StepKind`].
    pub kind: u8,
    /// IP version of what `words` hold, where they hold a tuple or an address.
    pub family: u8,
    /// By kind.
    pub detail: u8,
    /// A [`crate::Reason`], where there is one.
    pub reason: u8,
    /// By kind.
    pub number: u32,
    /// By kind.
    pub flags: u32,
    /// By kind.
    pub more: u32,
    /// By kind. A tuple is a [`FlowKey`] of the family, as it lies in memory.
    pub words: [u64; 5],
}

impl Step {
    /// What precedes it in [`Step::flags`] of a parsed packet are its TCP flags, or what comes up to them in SCTP; above is which
    /// piece of its datagram it is (`Piece` of the core).
    pub const PIECE_SHIFT: u32 = 8;

    /// Packets of this flow's direction are translated at another hook.
    pub const OTHER_HOOK: u8 = 1;
    /// The frame is for another host.
    pub const STRAYS: u8 = 2;
    /// Nothing was seen of the flow for longer than its state allows.
    pub const EXPIRED: u8 = 3;
    /// The packet opens a new connection, or its UDP flow's backend is gone.
    pub const CHOSEN_ANEW: u8 = 4;

    /// The place follows from the connection's tuple.
    pub const BY_CONNECTION: u8 = 0;
    /// The place follows from the client's address: it is to keep what it gets.
    pub const BY_CLIENT: u8 = 1;
    /// The client keeps what it had.
    pub const KEPT: u8 = 2;

    /// An echo reply.
    pub const ECHO: u8 = 1;
    /// A TCP reset.
    pub const RESET: u8 = 2;
    /// An ICMP or ICMPv6 error.
    pub const ERROR: u8 = 3;

    /// A flow's entry is made.
    pub const INSERT: u8 = 1;
    /// A flow's entry is deleted.
    pub const DELETE: u8 = 2;
    /// What the client has is noted.
    pub const AFFINITY: u8 = 3;
    /// The ports of a first fragment are noted.
    pub const FRAGMENT: u8 = 4;

    /// The packet is handed on: as it is, or translated for the host.
    pub const PASS: u8 = 0;
    /// It is dropped.
    pub const DROP: u8 = 1;
    /// It is sent, its link-layer header complete.
    pub const SEND: u8 = 2;
    /// It is sent to the neighbour that the kernel has named.
    pub const SEND_TO_NEIGHBOUR: u8 = 3;
    /// XDP leaves it untouched to TCX ingress.
    pub const DEFER: u8 = 4;
    /// It is handed to the other end of the interface, in a pod.
    pub const SEND_TO_PEER: u8 = 5;

    /// The tuple in its words, to be written. `A` is `[u8; 4]` or `[u8; 16]`.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "in the datapath a pointer that crosses a call is lost")]
    pub fn tuple_mut<A: Copy>(&mut self) -> &mut FlowKey<A> {
        const { assert!(size_of::<FlowKey<A>>() <= size_of::<[u64; 5]>() && align_of::<FlowKey<A>>() <= 8) }
        // SAFETY: the words have the size and the alignment (asserted), and any bytes are a key.
        unsafe { &mut *(&raw mut self.words).cast::<FlowKey<A>>() }
    }

    /// The tuple in its words.
    pub fn tuple<A: Copy>(&self) -> FlowKey<A> {
        *Step { ..*self }.tuple_mut::<A>()
    }
}

/// The section of the programs that holds [`Steps`].
pub const STEPS: &str = ".data.steps";

/// How many steps are kept of one packet, a power of two. Of more than that the last are kept.
pub const MAX_STEPS: usize = 128;

/// What was told: the one value of the map that the programs' section [`STEPS`] becomes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// How many were told.
    pub count: u32,
    /// Padding; zero.
    pub zero: u32,
    /// The steps, in order.
    pub steps: [Step; MAX_STEPS],
}

impl Steps {
    /// No steps.
    pub const NONE: Self = Self {
        count: 0,
        zero: 0,
        steps: [Step { kind: 0, family: 0, detail: 0, reason: 0, number: 0, flags: 0, more: 0, words: [0; 5] };
            MAX_STEPS],
    };

    /// Those that were kept, in order.
    pub fn told(&self) -> impl Iterator<Item = Step> {
        let count = self.count as usize;
        (count.saturating_sub(MAX_STEPS)..count).map(|index| self.steps[index % MAX_STEPS])
    }
}

record!(Step = 56, Steps = 7176);

const _: () = assert!(MAX_STEPS.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_their_numbers() {
        for (index, kind) in StepKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index + 1);
            assert_eq!(StepKind::from_number(kind as u8), Some(kind));
        }
        assert_eq!((StepKind::from_number(0), StepKind::from_number(25)), (None, None));
    }

    #[test]
    fn a_tuple_is_read_as_it_was_written() {
        let key = FlowKey::new(crate::TCP, [1u8; 16], [2, 3], [4; 16], [5, 6]);
        let mut step = Step::default();
        *step.tuple_mut() = key;
        assert_eq!(step.tuple::<[u8; 16]>(), key);
        let key = FlowKey::new(crate::UDP, [1u8, 2, 3, 4], [2, 3], [4, 5, 6, 7], [5, 6]);
        *step.tuple_mut() = key;
        assert_eq!(step.tuple::<[u8; 4]>(), key);
    }
}
