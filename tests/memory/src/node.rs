//! A whole node on the core: its tables in memory, and a clock of the test's own.

use crate::frames::{self, Flags, checked};
use crate::memory::{At, Frame, Memory, Surroundings};
use crate::small;
use lb_common::flow::State;
use lb_common::{Flow, Reason};
use lb_ebpf::{Verdict, process};
use std::net::SocketAddr;

/// The interface that a wire feeds.
pub const UPLINK: u32 = 2;
/// The interface that pods feed.
pub const INSIDE: u32 = 3;

/// A node with its tables and its clock.
pub struct Node {
    /// Its tables.
    pub tables: Memory,
    /// Its clock and routes.
    pub around: Surroundings,
}

impl Node {
    /// A node that has met no packet yet.
    #[expect(clippy::new_without_default, reason = "a node is made on purpose")]
    pub fn new() -> Self {
        Self {
            tables: Memory::new(small::image(UPLINK, INSIDE)),
            around: small::surroundings(UPLINK, INSIDE, UPLINK, 1000),
        }
    }

    /// Sends a frame in by an interface, at TCX ingress.
    pub fn ingress(&mut self, ifindex: u32, bytes: &[u8]) -> (Verdict, Vec<u8>) {
        self.around.ifindex = ifindex;
        let mut frame = Frame::new(bytes.to_vec());
        let verdict = process(&mut frame, &self.tables, &At::<1>(&self.around));
        (verdict, frame.bytes)
    }

    /// Sends a frame in by the uplink, at XDP, which has already left a new flow of this tick to the kernel.
    pub fn xdp(&mut self, bytes: &[u8]) -> (Verdict, Vec<u8>) {
        self.tables.revalidated_in(self.around.tick);
        self.first_at_xdp(bytes)
    }

    /// The same, without one before it.
    pub fn first_at_xdp(&mut self, bytes: &[u8]) -> (Verdict, Vec<u8>) {
        self.around.ifindex = UPLINK;
        let mut frame = Frame::new(bytes.to_vec());
        let verdict = process(&mut frame, &self.tables, &At::<0>(&self.around));
        (verdict, frame.bytes)
    }

    /// Sends a frame in that leaves its checksum, which stands at `place`, to hardware, and that must be answered for
    /// `reason`; returns the answer.
    pub fn partial(&mut self, ifindex: u32, bytes: &[u8], place: usize, reason: Reason) -> Vec<u8> {
        self.around.ifindex = ifindex;
        let mut frame = Frame { partial: true, ..Frame::new(bytes.to_vec()) };
        // The sum of the pseudo-header is the complement of the checksum less the sum of what else it covers.
        let transport = if bytes[12..14] == [0x08, 0x00] { 34 } else { 54 };
        frame.bytes[place..place + 2].fill(0);
        let rest = frames::one_complement(&frame.bytes[transport..]);
        let complement = !u16::from_be_bytes([bytes[place], bytes[place + 1]]);
        let pseudo = lb_ebpf::checksum::add(complement, !rest);
        frame.bytes[place..place + 2].copy_from_slice(&pseudo.to_be_bytes());
        let verdict = process(&mut frame, &self.tables, &At::<1>(&self.around));
        assert_eq!((verdict.ifindex, verdict.reason), (ifindex, reason));
        frame.bytes
    }

    /// Sends a frame out by an interface, at TCX egress.
    pub fn egress(&mut self, ifindex: u32, bytes: &[u8]) -> (Verdict, Vec<u8>) {
        self.around.ifindex = ifindex;
        let mut frame = Frame::new(bytes.to_vec());
        let verdict = process(&mut frame, &self.tables, &At::<2>(&self.around));
        (verdict, frame.bytes)
    }

    /// Sends a frame that must be forwarded, and returns its tuple after the rewrite.
    pub fn forwarded(&mut self, ifindex: u32, bytes: &[u8]) -> (SocketAddr, SocketAddr) {
        let (verdict, bytes) = self.ingress(ifindex, bytes);
        assert!(matches!(verdict.reason, Reason::Forwarded | Reason::ForwardedMidway | Reason::Replied), "{verdict:?}");
        let (from, to, _) = checked(&bytes);
        (from, to)
    }

    /// Opens a TCP connection up to the client's first ACK; returns what the backend saw: (source, itself).
    pub fn connect(&mut self, client: SocketAddr, service: SocketAddr) -> (SocketAddr, SocketAddr) {
        let (seen, backend) = self.forwarded(UPLINK, &frames::tcp(client, service, Flags::Syn, b""));
        let reply = self.forwarded(INSIDE, &frames::tcp(backend, seen, Flags::SynAck, b""));
        assert_eq!(reply, (service, client), "the reply comes from the Service");
        assert_eq!(self.forwarded(UPLINK, &frames::tcp(client, service, Flags::Ack, b"")), (seen, backend));
        (seen, backend)
    }

    /// The states of all entries.
    pub fn states(&self) -> Vec<State> {
        let four = self.tables.flows4.contents().into_iter().map(|(key, flow)| flow.state(key.protocol));
        let six = self.tables.flows6.contents().into_iter().map(|(key, flow)| flow.state(key.protocol));
        four.chain(six).collect()
    }

    /// How many entries there are of both families: of flows that were ever confirmed, and of others.
    pub fn entries(&self) -> (usize, usize) {
        let four = self.tables.flows4.contents().into_values().map(|flow| flow.flags & Flow::<[u8; 4]>::CONFIRMED != 0);
        let six = self.tables.flows6.contents().into_values().map(|flow| flow.flags & Flow::<[u8; 4]>::CONFIRMED != 0);
        let (confirmed, others): (Vec<_>, Vec<_>) = four.chain(six).partition(|is_confirmed| *is_confirmed);
        (confirmed.len(), others.len())
    }
}
