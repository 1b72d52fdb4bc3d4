//! Events: what the datapath tells of single flows and packets, one record each, by the ring buffer [`crate::maps::EVENTS`].
//!
//! What did not arrive is always told, flows that begin and end only while somebody listens. A CPU tells so many in a tick and
//! counts the rest, and so it counts what found no room in the ring ([`Telling`]): nothing is missing in silence.

use crate::{Flow, FlowKey, Reason, record};

/// One event.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When: nanoseconds since boot, by `CLOCK_MONOTONIC`.
    pub time: u64,
    /// Who asks: an IPv6 address, or an IPv4 address in the first four bytes and zeros. Unspecified where a process was refused at
    /// its socket.
    pub client: [u8; 16],
    /// The address that was asked for.
    pub frontend: [u8; 16],
    /// The backend's address; unspecified where none was chosen.
    pub backend: [u8; 16],
    /// The client's port, network order; zero for a protocol without ports.
    pub client_port: [u8; 2],
    /// The port that was asked for.
    pub frontend_port: [u8; 2],
    /// The backend's port.
    pub backend_port: [u8; 2],
    /// [`Event::NEW`] and its neighbours.
    pub kind: u8,
    /// [`Reason`], by its number.
    pub reason: u8,
    /// [`Event::AT_XDP`] and its neighbours: where it happened.
    pub hook: u8,
    /// IP version, 4 or 6.
    pub family: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Padding; zero.
    pub zero: u8,
    /// [`Flow::flags`] of the flow; [`Flow::REPLY`] says that the packet came from the backend. Zero where there is no flow.
    pub flow_flags: u16,
    /// Padding; zero.
    pub zeros: [u8; 2],
    /// Index into the map [`crate::maps::SERVICE_STATS`]; [`Event::NOBODY`]: not known.
    pub service: u32,
    /// Index into the map [`crate::maps::BACKENDS`]; [`Event::NOBODY`]: not known.
    pub backend_id: u32,
    /// The interface that the packet came in by, or left by.
    pub ifindex: u32,
    /// Bytes of the packet, with its link-layer header.
    pub length: u32,
}

impl Event {
    /// A flow was opened. Zero is no kind: the record is empty.
    pub const NEW: u8 = 1;
    /// A flow has ended: both sides have said so, one has reset it, or it was silent for too long.
    pub const CLOSED: u8 = 2;
    /// A packet was not served, and its sender was told; or a process's call was refused.
    pub const REJECTED: u8 = 3;
    /// A packet was dropped in silence.
    pub const DROPPED: u8 = 4;

    /// At XDP.
    pub const AT_XDP: u8 = 0;
    /// At TCX ingress.
    pub const AT_INGRESS: u8 = 1;
    /// At TCX egress.
    pub const AT_EGRESS: u8 = 2;
    /// At a process's socket.
    pub const AT_SOCKET: u8 = 3;
    /// In the flow tables, where the daemon forgets what was silent for too long.
    pub const AT_SWEEP: u8 = 4;

    /// No id.
    pub const NOBODY: u32 = u32::MAX;

    /// The empty record.
    pub const EMPTY: Self = Self {
        time: 0,
        client: [0; 16],
        frontend: [0; 16],
        backend: [0; 16],
        client_port: [0; 2],
        frontend_port: [0; 2],
        backend_port: [0; 2],
        kind: 0,
        reason: 0,
        hook: 0,
        family: 0,
        protocol: 0,
        zero: 0,
        flow_flags: 0,
        zeros: [0; 2],
        service: 0,
        backend_id: 0,
        ifindex: 0,
        length: 0,
    };

    /// Why; `None` for a number that this build does not know.
    pub fn reason(&self) -> Option<Reason> {
        Reason::from_number(self.reason)
    }

    /// Names the parties of a flow by one of its entries.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs the datapath stack and nanoseconds")]
    pub fn name_parties<A: Copy>(&mut self, key: &FlowKey<A>, flow: &Flow<A>) {
        if flow.is_reply() {
            write(&mut self.client, flow.dst);
            write(&mut self.frontend, flow.src);
            write(&mut self.backend, key.src);
            (self.client_port, self.frontend_port, self.backend_port) = (flow.dst_port, flow.src_port, key.src_port);
        } else {
            write(&mut self.client, key.src);
            write(&mut self.frontend, key.dst);
            write(&mut self.backend, flow.dst);
            (self.client_port, self.frontend_port, self.backend_port) = (key.src_port, key.dst_port, flow.dst_port);
        }
        self.flow_flags = flow.flags;
        self.service = flow.service;
        self.backend_id = flow.backend;
    }

    /// Names the parties of a packet that has no flow.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs the datapath stack and nanoseconds")]
    pub fn name_wire<A: Copy>(&mut self, key: &FlowKey<A>) {
        write(&mut self.client, key.src);
        write(&mut self.frontend, key.dst);
        self.backend = [0; 16];
        (self.client_port, self.frontend_port, self.backend_port) = (key.src_port, key.dst_port, [0; 2]);
        self.flow_flags = 0;
        self.service = Self::NOBODY;
        self.backend_id = Self::NOBODY;
    }
}

/// Writes an address of either family as the record has it.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call costs the datapath stack and nanoseconds")]
fn write<A: Copy>(place: &mut [u8; 16], address: A) {
    const { assert!(size_of::<A>() == 4 || size_of::<A>() == 16) };
    *place = [0; 16];
    // SAFETY: an address is bytes, and no more of them than there is room for.
    unsafe { place.as_mut_ptr().cast::<A>().write_unaligned(address) };
}

/// What one CPU has told: the value of the map [`crate::maps::TELLINGS`]. Of each pair the first is of packets that did not
/// arrive ([`Telling::LOSSES`]), the second of flows that begin and end ([`Telling::FLOWS`]).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Telling {
    /// The tick that `told` is of.
    pub tick: u32,
    /// Padding; zero.
    pub zero: u32,
    /// Events told in that tick.
    pub told: [u32; 2],
    /// Events that were not told since the CPU had told its share of a tick; never reset.
    pub skipped: [u64; 2],
    /// Events that found no room in the ring; never reset.
    pub lost: [u64; 2],
    /// The event in the making.
    pub event: Event,
}

impl Telling {
    /// Packets that did not arrive.
    pub const LOSSES: usize = 0;
    /// Flows that begin and end.
    pub const FLOWS: usize = 1;

    /// Events of each sort that a CPU tells in a tick.
    pub const SHARE: [u32; 2] = [500, 2000];

    /// A CPU that has told nothing.
    pub const NEW: Self = Self { tick: 0, zero: 0, told: [0; 2], skipped: [0; 2], lost: [0; 2], event: Event::EMPTY };

    /// Whether there is something left to tell of this sort at tick `now`.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs the datapath stack and nanoseconds")]
    pub fn has_share(&mut self, sort: usize, now: u32) -> bool {
        if self.tick != now {
            self.tick = now;
            self.told = [0; 2];
        }
        self.told[sort] < Self::SHARE[sort]
    }
}

record!(Event = 88, Telling = 136);

const _: () = {
    use core::mem::offset_of;
    // The ring keeps records at multiples of eight bytes.
    assert!(size_of::<Event>().is_multiple_of(8));
    assert!(offset_of!(Event, client_port) == 56 && offset_of!(Event, kind) == 62);
    assert!(offset_of!(Event, flow_flags) == 68 && offset_of!(Event, service) == 72);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NextHop, TCP};

    #[test]
    fn both_entries_of_a_flow_name_the_same_parties() {
        let key = FlowKey::new(TCP, [192_u8, 0, 2, 1], [1, 2], [10, 96, 0, 1], [0, 80]);
        let flow = Flow {
            src: [192, 0, 2, 200],
            dst: [10, 244, 0, 7],
            src_port: [9, 9],
            dst_port: [31, 144],
            address_delta: 0,
            port_delta: 0,
            tick: 0,
            flags: Flow::<[u8; 4]>::SNAT,
            generation: 1,
            backend: 5,
            service: 6,
            hop: NextHop::default(),
            met: 0,
            zero: [0; 7],
        };
        let reply = Flow {
            src: key.dst,
            dst: key.src,
            src_port: key.dst_port,
            dst_port: key.src_port,
            flags: flow.flags | Flow::<[u8; 4]>::REPLY,
            ..flow
        };
        let (mut one, mut other) = (Event::EMPTY, Event { backend: [7; 16], ..Event::EMPTY });
        one.name_parties(&key, &flow);
        other.name_parties(&flow.partner(TCP), &reply);
        assert_eq!((one.service, one.backend_id, &one.client[..5]), (6, 5, &[192, 0, 2, 1, 0][..]));
        assert_eq!(Event { flow_flags: 0, ..one }, Event { flow_flags: 0, ..other });
    }

    #[test]
    fn a_share_is_renewed_with_the_tick() {
        let mut telling = Telling::NEW;
        assert!(telling.has_share(Telling::LOSSES, 1));
        telling.told = Telling::SHARE;
        assert!(!telling.has_share(Telling::LOSSES, 1) && !telling.has_share(Telling::FLOWS, 1));
        assert!(telling.has_share(Telling::LOSSES, 2));
    }
}
