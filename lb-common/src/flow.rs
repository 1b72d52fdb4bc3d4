//! Conntrack: two self-sufficient entries for each flow, one for each direction.
//!
//! An entry is keyed by the tuple on the wire and holds the whole rewrite, so a packet of a known flow needs one
//! lookup. The two entries name each other: the partner's key is the reverse of this entry's rewrite.
//!
//! An entry is a decision that holds for one tick. The first packet of a later tick makes it anew: has the entry
//! expired, does its partner still stand, which way out does the kernel's routing table give now. Nothing that user
//! space must keep fresh is trusted for longer, so forwarding stays right when the daemon is gone.

use crate::table::{Entry, Key};
use crate::{AffinityKey, Service, record};

/// Nanoseconds in a tick, as a shift: 2^30 ns, about 1.07 s.
pub const TICK_SHIFT: u32 = 30;

/// A tuple on the wire: the key of the flow maps. `A` is `[u8; 4]` or `[u8; 16]`.
///
/// Aligned, like [`Flow`], so that the datapath copies it in words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port, network order.
    pub src_port: [u8; 2],
    /// Destination port, network order.
    pub dst_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// Padding; zero.
    pub zero: [u8; 3],
}

impl<A: Copy> FlowKey<A> {
    /// A tuple from its parts.
    pub fn new(protocol: u8, src: A, src_port: [u8; 2], dst: A, dst_port: [u8; 2]) -> Self {
        Self { src, dst, src_port, dst_port, protocol, zero: [0; 3] }
    }

    /// The tuple of a packet where its source and destination lie as `addresses`, and both ports as the number `ports`. Written in the words in
    /// which it is hashed and compared: a word that is written in pieces and read whole waits for its pieces.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs the datapath stack and nanoseconds")]
    pub fn on_wire(protocol: u8, addresses: [A; 2], ports: u32) -> Self {
        let mut key = core::mem::MaybeUninit::<Self>::uninit();
        let at = key.as_mut_ptr();
        // SAFETY: these writes are all of the record: both addresses lie behind each other, whole words of them, and the last word
        // is both ports, the protocol, and its padding (asserted below).
        unsafe {
            let (from, to) = ((&raw const addresses).cast::<u64>(), at.cast::<u64>());
            let count = size_of::<[A; 2]>() / 8;
            for word in 0..count {
                to.add(word).write(from.add(word).read_unaligned());
            }
            let rest = u64::from(u32::from_le(ports)) | u64::from(protocol) << 32;
            to.add(count).write(rest.to_le());
            key.assume_init()
        }
    }

    /// Writes the protocol and the padding behind it, in one word.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs the datapath stack and nanoseconds")]
    pub fn set_protocol(&mut self, protocol: u8) {
        let at = &raw mut *self;
        // SAFETY: as above.
        unsafe { (&raw mut (*at).protocol).cast::<u32>().write_unaligned(u32::from(protocol).to_le()) };
    }

    /// The tuple of the packet that answers this one.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self::new(self.protocol, self.dst, self.dst_port, self.src, self.src_port)
    }
}

/// Where a packet leaves, as the kernel's routing table said in [`Flow::tick`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NextHop {
    /// Destination and source MAC, as they stand in the frame. Zeros: no neighbour entry yet, the kernel must resolve
    /// it.
    pub macs: [u8; 12],
    /// Interface; zero: not known.
    pub ifindex: u32,
    /// MTU of the way out, in bytes of IP packet; zero: not known.
    pub mtu: u16,
    /// [`NextHop::XDP`] and its neighbours.
    pub flags: u16,
    /// Not of the way out but of the way in, kept where there is room: the end of the MAC that frames of this direction
    /// came to when they were last found to be for this node. Zeros: they were not yet looked at.
    pub came_to: [u8; 4],
}

impl NextHop {
    /// XDP can finish packets by this hop: the interface takes its frames, and the neighbour is known.
    pub const XDP: u16 = 1;
    /// The backend is a socket of this node; always together with [`NextHop::STACK`].
    pub const LOCAL: u16 = 2;
    /// Through the host's stack, both ways: requests are passed up translated, and replies are translated where they leave
    /// the node, at egress.
    pub const STACK: u16 = 4;
    /// The client came in by the daemon's veth pair: it is a process of this node. Its replies go back by the pair, and
    /// nothing is forwarded, so the TTL stays.
    pub const HOST: u16 = 8;
    /// Into the daemon's veth pair: the MACs are known for good, and the kernel has no say in it.
    pub const PAIR: u16 = 16;
    /// TCX ingress hands packets straight to the other end of the interface, in a pod of this node.
    pub const PEER: u16 = 32;
    /// What is decided once, when the flow is created, and holds for both of its entries.
    pub const FIXED: u16 = Self::LOCAL | Self::STACK | Self::HOST;

    /// Forgets the way out, in words, each by itself: the compiler would clear two of them byte by byte, in a call.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs the datapath stack and nanoseconds")]
    pub fn renew(&mut self, flags: u16, came_to: [u8; 4]) {
        let at = (&raw mut *self).cast::<u64>();
        let rest = u64::from(flags) << 16 | u64::from(u32::from_le_bytes(came_to)) << 32;
        // SAFETY: the record is three aligned words, of which the last holds the MTU and what is given here (asserted below).
        unsafe {
            at.write_volatile(0);
            at.add(1).write_volatile(0);
            at.add(2).write_volatile(rest.to_le());
        }
    }

    /// Whether the packet is forwarded here in place of the stack, which costs it a hop.
    pub const fn takes_hop(&self) -> bool {
        self.flags & (Self::STACK | Self::HOST) == 0
    }

    /// Whether the way leads through the host's stack.
    pub const fn is_through_stack(&self) -> bool {
        self.flags & Self::STACK != 0
    }

    /// Whether a frame can be addressed without asking the kernel for the neighbour.
    pub fn has_neighbour(&self) -> bool {
        self.macs.first_chunk() != Some(&[0; 6])
    }
}

/// Whom a packet is handed to on the link that it leaves by, as `bpf_redirect_neigh` takes it (`struct bpf_redir_neigh`,
/// include/uapi/linux/bpf.h): the value of the map [`crate::maps::NEIGHBOUR`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Neighbour {
    /// `AF_INET` or `AF_INET6`; a gateway may be of another family than its packets (RFC 5549).
    pub family: u32,
    /// An IPv4 address stands in the first four bytes.
    pub address: [u8; 16],
}

/// One direction of a flow: the value of the flow maps. `A` is `[u8; 4]` or `[u8; 16]`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    /// Source address to write.
    pub src: A,
    /// Destination address to write.
    pub dst: A,
    /// Source port to write, network order.
    pub src_port: [u8; 2],
    /// Destination port to write, network order.
    pub dst_port: [u8; 2],
    /// What the change of addresses adds to a checksum (RFC 1624), as a folded one's complement sum.
    pub address_delta: u16,
    /// What the change of ports adds to a checksum.
    pub port_delta: u16,
    /// Tick of the last packet in either direction, to within one tick.
    pub tick: u32,
    /// [`Flow::REPLY`] and its neighbours.
    pub flags: u16,
    /// [`crate::Backend::generation`] of the backend meant.
    pub generation: u16,
    /// Index into the map [`crate::maps::BACKENDS`].
    pub backend: u32,
    /// Index into the map [`crate::maps::SERVICE_STATS`].
    pub service: u32,
    /// Where the rewritten packet leaves.
    pub hop: NextHop,
    /// Not zero: a packet of its own has met it since it was entered, or since the table last looked for an entry to evict. Not kept
    /// where it keeps its place anyway.
    pub met: u8,
    /// Padding; zero. With it an entry of IPv4 with its key never lies across more than two cache lines.
    pub zero: [u8; 7],
}

impl<A: Copy> Flow<A> {
    /// This entry translates replies.
    pub const REPLY: u16 = 1;
    /// The source was translated too: the backend does not see the client's address.
    pub const SNAT: u16 = 2;
    /// A reply was seen.
    pub const ANSWERED: u16 = 4;
    /// The client sent on after a reply was seen: proof that it receives what we send back.
    pub const CONFIRMED: u16 = 8;
    /// The client sent a FIN.
    pub const FIN_CLIENT: u16 = 16;
    /// The backend sent a FIN.
    pub const FIN_BACKEND: u16 = 32;
    /// Either side sent a RST.
    pub const RST: u16 = 64;
    /// The flags that both entries of a flow share.
    pub const SHARED: u16 =
        Self::SNAT | Self::ANSWERED | Self::CONFIRMED | Self::FIN_CLIENT | Self::FIN_BACKEND | Self::RST;
    /// Both sides sent a FIN.
    pub const FINS: u16 = Self::FIN_CLIENT | Self::FIN_BACKEND;

    /// The tuple of a packet after this entry rewrote it.
    pub fn rewritten(&self, protocol: u8) -> FlowKey<A> {
        FlowKey::new(protocol, self.src, self.src_port, self.dst, self.dst_port)
    }

    /// The key of the entry for the other direction.
    pub fn partner(&self, protocol: u8) -> FlowKey<A> {
        self.rewritten(protocol).reversed()
    }

    /// Whether `key` is the key of the entry for the other direction.
    pub fn is_partner(&self, key: &FlowKey<A>) -> bool
    where
        A: PartialEq,
    {
        self.src == key.dst && self.dst == key.src && self.src_port == key.dst_port && self.dst_port == key.src_port
    }

    /// Whether this entry translates replies.
    pub const fn is_reply(&self) -> bool {
        self.flags & Self::REPLY != 0
    }

    /// Whether an entry with these flags keeps its place where there is no room: both sides have proven that they receive what the
    /// other sends, and their connection goes on.
    pub const fn keeps_place(flags: u16) -> bool {
        flags & Self::CONFIRMED != 0 && !Self::has_ended(flags)
    }

    /// The state a person knows, from the flags.
    pub const fn state(&self, protocol: u8) -> State {
        state(self.flags, protocol)
    }

    /// Whether these flags say that the connection has ended, or that it may have: both sides said so, or one reset it.
    pub const fn has_ended(flags: u16) -> bool {
        flags & Self::FINS == Self::FINS || flags & Self::RST != 0
    }

    /// Whether nothing was seen for longer than the state allows, at tick `now`.
    pub const fn is_expired(&self, protocol: u8, now: u32) -> bool {
        now.saturating_sub(self.tick) > self.state(protocol).timeout_ticks()
    }
}

/// Room for what is too large for a BPF stack of 512 bytes: the value of the maps [`crate::maps::SCRATCH4`] and
/// [`crate::maps::SCRATCH6`]. One packet at a time uses it: a CPU finishes a packet before it takes the next.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scratch<A> {
    /// The flow that is being opened.
    pub flow: Flow<A>,
    /// The entry for its other direction.
    pub mirror: Flow<A>,
    /// The key of that entry.
    pub mirror_key: FlowKey<A>,
    /// The key of the other entry of a flow that is being forgotten.
    pub forgotten_key: FlowKey<A>,
    /// The last tick in which XDP left a new flow to the kernel, so that it looks after its neighbours.
    pub revalidated: u32,
    /// The place among the members of the Service that the client of the flow being opened is to keep; [`crate::Affinity::NO_PLACE`] if it keeps
    /// none.
    pub place: u32,
    /// That client.
    pub client: AffinityKey,
    /// What the Service that is asked for is to the client.
    pub service: Service,
    /// [`Scratch::HOST`] and its neighbours: who the client of the flow being opened is.
    pub client_flags: u32,
    /// Padding; zero.
    pub zero: u32,
}

impl<A> Scratch<A> {
    /// The packet comes by the daemon's veth pair, from the host.
    pub const HOST: u32 = 1;
    /// The client has an address of the node itself.
    pub const NODE: u32 = 2;
    /// The client has an address that is ours.
    pub const OWN: u32 = 4;
    /// The client is shown to backends everywhere by its own address.
    pub const KEEPS_ADDRESS: u32 = 8;
}

impl<A: Copy> Flow<A> {
    /// Whether its tuple may be given to another flow at tick `now`: it has expired, or its connection is over and waits
    /// only for stray packets.
    pub const fn is_over(&self, protocol: u8, now: u32) -> bool {
        self.state(protocol).is_over() || self.is_expired(protocol, now)
    }

    /// Whether its tuple may be given to another flow where no better one is found: nobody has proven yet that it is more than
    /// a first packet, or a RST was seen. (It may be forged, so the connection may go on.)
    pub const fn is_doubtful(&self) -> bool {
        self.flags & (Self::CONFIRMED | Self::RST) != Self::CONFIRMED
    }
}

/// The state of a flow: for TCP after RFC 9293 and for SCTP after RFC 9260 as far as a middlebox can tell, for UDP whether
/// it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// TCP: a SYN was seen, or the first packet of a connection whose entry was lost.
    SynSent,
    /// TCP: answered, not yet confirmed by the client.
    SynReceived,
    /// TCP: data flows.
    Established,
    /// TCP: one side has sent its FIN.
    HalfClosed,
    /// TCP: both sides have sent their FIN.
    TimeWait,
    /// TCP: reset. SCTP: aborted, or shut down to the end.
    Closed,
    /// SCTP: the association is being set up.
    CookieWait,
    /// SCTP: data flows.
    Associated,
    /// SCTP: one side has sent its SHUTDOWN.
    ShutdownSent,
    /// SCTP: the other has acknowledged it.
    ShutdownAckSent,
    /// UDP: no answer yet.
    Unreplied,
    /// UDP: answered.
    Replied,
}

impl State {
    /// How long a flow in this state may be silent, in seconds. The values follow RFC 5382 (TCP: more than 2 h 4 min
    /// established, 4 min in transition), RFC 4787 (UDP: more than 2 min) and Linux's `nf_conntrack`; those of SCTP, whose
    /// heartbeats keep an idle association alive, are those of its `nf_conntrack_proto_sctp.c`.
    pub const fn timeout_seconds(self) -> u32 {
        match self {
            State::SynSent | State::SynReceived => 60,
            State::Established => 21_600,
            State::HalfClosed => 240,
            State::TimeWait => 120,
            State::Closed => 10,
            State::CookieWait | State::ShutdownSent | State::ShutdownAckSent => 3,
            State::Associated => 210,
            State::Unreplied => 30,
            State::Replied => 180,
        }
    }

    /// The same in ticks, rounded up.
    pub const fn timeout_ticks(self) -> u32 {
        ((self.timeout_seconds() as u64 * 1_000_000_000) >> TICK_SHIFT) as u32 + 1
    }

    /// Whether the connection is over by what both sides have said, and only waits for stray packets.
    pub const fn is_over(self) -> bool {
        matches!(self, State::TimeWait | State::ShutdownAckSent)
    }

    /// Whether it has begun to end: a new one may begin in its place.
    pub const fn is_ending(self) -> bool {
        self.is_over() || matches!(self, State::HalfClosed | State::ShutdownSent | State::Closed)
    }

    /// The name as `conntrack -L` users know it.
    pub const fn name(self) -> &'static str {
        match self {
            State::SynSent => "SYN_SENT",
            State::SynReceived => "SYN_RECV",
            State::Established | State::Associated => "ESTABLISHED",
            State::HalfClosed => "FIN_WAIT",
            State::TimeWait => "TIME_WAIT",
            State::Closed => "CLOSE",
            State::CookieWait => "COOKIE_WAIT",
            State::ShutdownSent => "SHUTDOWN_SENT",
            State::ShutdownAckSent => "SHUTDOWN_ACK_SENT",
            State::Unreplied => "UNREPLIED",
            State::Replied => "REPLIED",
        }
    }
}

/// The state that [`Flow::flags`] of a flow of `protocol` tell.
pub const fn state(flags: u16, protocol: u8) -> State {
    type F = Flow<[u8; 4]>;
    let is_sctp = protocol == crate::SCTP;
    if protocol != crate::TCP && !is_sctp {
        return if flags & F::ANSWERED != 0 { State::Replied } else { State::Unreplied };
    }
    if flags & F::RST != 0 {
        State::Closed
    } else if flags & F::FINS == F::FINS {
        if is_sctp { State::ShutdownAckSent } else { State::TimeWait }
    } else if flags & F::FINS != 0 {
        if is_sctp { State::ShutdownSent } else { State::HalfClosed }
    } else if flags & F::CONFIRMED != 0 {
        if is_sctp { State::Associated } else { State::Established }
    } else if is_sctp {
        State::CookieWait
    } else if flags & F::ANSWERED != 0 {
        State::SynReceived
    } else {
        State::SynSent
    }
}

// SAFETY: whole words without padding (asserted below), which say nothing but the tuple.
unsafe impl Key for FlowKey<[u8; 4]> {}
// SAFETY: as above.
unsafe impl Key for FlowKey<[u8; 16]> {}

record!(
    FlowKey<[u8; 4]> = 16,
    FlowKey<[u8; 16]> = 40,
    NextHop = 24,
    Neighbour = 20,
    Flow<[u8; 4]> = 64,
    Flow<[u8; 16]> = 88,
    Scratch<[u8; 4]> = 232,
    Scratch<[u8; 16]> = 328,
);

const _: () = {
    assert!(size_of::<Entry<FlowKey<[u8; 4]>, Flow<[u8; 4]>>>() == 80);
    assert!(size_of::<Entry<FlowKey<[u8; 16]>, Flow<[u8; 16]>>>() == 128);
    assert!(core::mem::offset_of!(FlowKey<[u8; 4]>, src_port) == size_of::<[[u8; 4]; 2]>());
    assert!(core::mem::offset_of!(NextHop, mtu) == 16);
    assert!(core::mem::offset_of!(NextHop, flags) == 18);
    assert!(core::mem::offset_of!(NextHop, came_to) == 20);
    assert!(core::mem::offset_of!(FlowKey<[u8; 4]>, src_port) + 4 == core::mem::offset_of!(FlowKey<[u8; 4]>, protocol));
    assert!(core::mem::offset_of!(FlowKey<[u8; 4]>, src_port) + 2 == core::mem::offset_of!(FlowKey<[u8; 4]>, dst_port));
    assert!(core::mem::offset_of!(FlowKey<[u8; 4]>, protocol) + 4 == size_of::<FlowKey<[u8; 4]>>());
    assert!(core::mem::offset_of!(Flow<[u8; 4]>, tick) == 16 && core::mem::offset_of!(Flow<[u8; 4]>, hop) == 32);
    assert!(core::mem::offset_of!(Flow<[u8; 16]>, tick) == 40 && core::mem::offset_of!(Flow<[u8; 16]>, hop) == 56);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partners_name_each_other() {
        let key = FlowKey::new(crate::TCP, [10, 0, 0, 1], [1, 2], [10, 96, 0, 1], [0, 80]);
        let backend = ([10, 244, 0, 7], [31, 144]);
        let forward = Flow {
            src: key.src,
            dst: backend.0,
            src_port: key.src_port,
            dst_port: backend.1,
            address_delta: 0,
            port_delta: 0,
            tick: 0,
            flags: 0,
            generation: 1,
            backend: 0,
            service: 0,
            hop: NextHop::default(),
            met: 0,
            zero: [0; 7],
        };
        let reply_key = forward.partner(crate::TCP);
        assert_eq!(reply_key, FlowKey::new(crate::TCP, backend.0, backend.1, key.src, key.src_port));
        let reply = Flow { src: key.dst, dst: key.src, src_port: key.dst_port, dst_port: key.src_port, ..forward };
        assert_eq!(reply.partner(crate::TCP), key);
        assert!(forward.is_partner(&reply_key) && reply.is_partner(&key) && !reply.is_partner(&reply_key));
    }

    #[test]
    fn states_follow_the_flags() {
        type F = Flow<[u8; 4]>;
        for (flags, expected) in [
            (0, State::SynSent),
            (F::ANSWERED, State::SynReceived),
            (F::ANSWERED | F::CONFIRMED, State::Established),
            (F::ANSWERED | F::CONFIRMED | F::FIN_CLIENT, State::HalfClosed),
            (F::ANSWERED | F::CONFIRMED | F::FINS, State::TimeWait),
            (F::ANSWERED | F::CONFIRMED | F::FINS | F::RST, State::Closed),
        ] {
            assert_eq!(state(flags, crate::TCP), expected);
        }
        for (flags, expected) in [
            (0, State::CookieWait),
            (F::ANSWERED, State::CookieWait),
            (F::ANSWERED | F::CONFIRMED, State::Associated),
            (F::ANSWERED | F::CONFIRMED | F::FIN_BACKEND, State::ShutdownSent),
            (F::ANSWERED | F::CONFIRMED | F::FINS, State::ShutdownAckSent),
            (F::ANSWERED | F::CONFIRMED | F::FINS | F::RST, State::Closed),
        ] {
            assert_eq!(state(flags, crate::SCTP), expected);
        }
        assert_eq!(state(0, crate::UDP), State::Unreplied);
        assert_eq!(state(F::ANSWERED, crate::UDP), State::Replied);
    }
}
