//! What must become of each of many packets, given what became of those before.
//!
//! The [`Ledger`] is told in plain data what the node looks like ([`Node`]) and sees every packet before and after. It keeps a
//! book of the connections whose translation it has seen, and holds the datapath to what a Service promises:
//!
//! - What is not ours leaves as it came and is never dropped.
//! - A new connection goes to one of the Service's backends, with the client's address where the reply comes back by itself
//!   and a lent one where not; no two connections share what their backend sees.
//! - A known connection stays where it is; it is chosen anew only where that was allowed.
//! - What a backend answers comes back from the Service to the client: translation and its reverse are identity.
//!
//! Where the promise leaves a choice (which backend, XDP leaving a packet to TCX, a connection near its timeout, one whose entry
//! a test has spoiled), each choice is accepted, and what was chosen is what later packets are held to.

use crate::answer::{self, Error};
use crate::packet::{ACK, FIN, ICMP, ICMPV6, Packet, RST, SCTP, SYN, TCP, UDP};
use crate::translation::{self, Translation};
use crate::{Fault, demand, icmp};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Where a packet was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP.
    Xdp,
    /// TC, on the way in.
    Ingress,
    /// TC, on the way out.
    Egress,
}

/// What was done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Handed on.
    Passed,
    /// Dropped.
    Dropped,
    /// Sent out by this interface with its link-layer header complete.
    Sent(u32),
    /// Sent out by this interface; the kernel writes the link-layer header.
    SentByKernel(u32),
}

/// A backend of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its replies come back through this node by themselves.
    pub is_local: bool,
}

/// A network: an address of it and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpAddr, pub u8);

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        let differ = match (self.0, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                u128::from(u32::from(network) ^ u32::from(address)) << (u128::BITS - u32::BITS)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => u128::from(network) ^ u128::from(address),
            _ => return false,
        };
        differ.leading_zeros() >= u32::from(self.1)
    }
}

/// How a Service port tells its clients apart.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Policy {
    /// Clients outside of the cluster are sent to backends on this node alone, and to nobody else; those within are sent to
    /// all, with their own address.
    pub is_local: bool,
    /// Only clients in one of these networks are served, if there are any.
    pub sources: Vec<Network>,
    /// Clients in the networks [`Node::kept`] keep their address.
    pub is_internal: bool,
}

/// An interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Interface {
    /// Clients behind it are on this node.
    pub has_local_clients: bool,
    /// Only frames to this MAC are for the node.
    pub own_mac: Option<[u8; 6]>,
}

/// Where packets to a destination leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The interface.
    pub interface: u32,
    /// Destination and source MAC.
    pub macs: [u8; 12],
    /// Bytes of IP packet it takes.
    pub mtu: usize,
}

/// The node, as the judge is told of it.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Backends by address, port and IP protocol.
    pub services: BTreeMap<(SocketAddr, u8), Vec<Member>>,
    /// Policies, in the same way; without one a Service port is everybody's.
    pub policies: BTreeMap<(SocketAddr, u8), Policy>,
    /// Where the pods of the cluster are.
    pub pods: Vec<Network>,
    /// Whose address is kept at internal Service ports, wherever the backend is.
    pub kept: Vec<Network>,
    /// Addresses of backends that keep their UDP clients and get no new ones.
    pub draining: BTreeSet<IpAddr>,
    /// Addresses of Services, every port of which is ours.
    pub owned: BTreeSet<IpAddr>,
    /// Addresses of the node.
    pub own: BTreeSet<IpAddr>,
    /// Source addresses that may be lent.
    pub lent: BTreeSet<IpAddr>,
    /// First and last port that may be lent.
    pub lent_ports: (u16, u16),
    /// Interfaces by index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Ways by destination. Without one there is no route, or it is an address of the node.
    pub ways: BTreeMap<IpAddr, Way>,
    /// New connections whose client keeps its address take the way through the stack.
    pub stack: bool,
    /// How many answers may be given in this unit of time, echo replies apart.
    pub answers: usize,
}

impl Node {
    /// Whether nobody can have this address as his source, or it is the node's or a Service's own.
    fn is_martian(&self, address: IpAddr) -> bool {
        is_reserved(address) || self.owned.contains(&address) || self.own.contains(&address)
    }

    fn is_lent_port(&self, port: u16) -> bool {
        (self.lent_ports.0..=self.lent_ports.1).contains(&port)
    }
}

/// Whether no single host outside can have this address (RFC 6890).
fn is_reserved(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => matches!(address.octets()[0], 0 | 127 | 224..=255),
        IpAddr::V6(address) => {
            address.is_multicast() || address == Ipv6Addr::UNSPECIFIED || address == Ipv6Addr::LOCALHOST
        }
    }
}

/// A connection whose translation was seen.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Connection {
    protocol: u8,
    client: SocketAddr,
    service: SocketAddr,
    /// The client as the backend sees it.
    source: SocketAddr,
    backend: SocketAddr,
    /// The unit of time in which its last packet was seen.
    last: u32,
    answered: bool,
    confirmed: bool,
    fin_client: bool,
    fin_backend: bool,
    reset: bool,
    /// Its entries were spoiled: anything may have become of it.
    doubtful: bool,
    /// Its client has been given another backend; what its old backend still sends may yet be translated.
    replaced: bool,
    /// It takes the way through the stack.
    stack: bool,
}

impl Connection {
    /// One whose first packet is met at time `now`.
    fn new(protocol: u8, (client, service): (SocketAddr, SocketAddr), backend: SocketAddr, now: u32) -> Self {
        Self {
            protocol,
            client,
            service,
            source: client,
            backend,
            last: now,
            answered: false,
            confirmed: false,
            fin_client: false,
            fin_backend: false,
            reset: false,
            doubtful: false,
            replaced: false,
            stack: false,
        }
    }

    /// For how many units it is remembered in silence: RFC 5382, RFC 4787 and `nf_conntrack`, as the documents say.
    fn timeout(&self) -> u32 {
        let seconds = match self.protocol {
            TCP | SCTP if self.reset => 10,
            TCP if self.fin_client && self.fin_backend => 120,
            TCP if self.fin_client || self.fin_backend => 240,
            TCP if self.confirmed => 21_600,
            TCP => 60,
            SCTP if self.confirmed && !self.fin_client && !self.fin_backend => 210,
            SCTP => 3,
            _ if self.answered => 180,
            _ => 30,
        };
        // A unit is 2^30 ns.
        ((seconds * 1_000_000_000_u64) >> 30) as u32 + 1
    }

    /// Whether it must still be known, to within what two clocks may differ.
    fn must_live(&self, now: u32) -> bool {
        !self.doubtful && now.saturating_sub(self.last) + SLACK < self.timeout()
    }

    /// Whether it must be forgotten.
    fn must_be_dead(&self, now: u32) -> bool {
        !self.doubtful && now.saturating_sub(self.last) > self.timeout() + SLACK
    }

    /// Whether a SYN may begin anew on it.
    fn is_ending(&self) -> bool {
        self.reset || self.fin_client || self.fin_backend
    }

    /// Whether it waits only for stray packets.
    fn is_over(&self) -> bool {
        self.fin_client && self.fin_backend
    }

    /// Whether another may have its source: it is over, or may be no more than a forged packet.
    fn may_yield(&self) -> bool {
        self.is_over() || !self.confirmed || self.reset
    }

    /// Whether the host's stack stands between its two translations.
    fn is_through_stack(&self, node: &Node) -> bool {
        self.stack || node.own.contains(&self.backend.ip())
    }
}

/// Units of time by which the book's "last seen" may differ from the datapath's, each way.
const SLACK: u32 = 3;

/// Where fewer ports are lent, they may all be taken.
const FEW_PORTS: u16 = 64;

/// More IPv6 extension headers than this need not be understood: RFC 8200 (4.1) names five kinds, one of them twice.
const MANY_EXTENSIONS: usize = 6;

/// What is promised of one packet.
#[derive(Clone, Debug)]
struct Promise {
    /// It may leave as it came.
    untouched: bool,
    /// It may be dropped; if not, why not.
    dropped: bool,
    /// A connection that it would go on with is over for it, or has lost its backend.
    anew: bool,
    /// It may be translated like this.
    translated: Vec<Candidate>,
    /// Its sender may be told this in its place.
    answers: Vec<Answer>,
}

/// An answer to a packet that goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nobody serves this port: a RST, or an ICMP error where that is not TCP, or not bare.
    Refused,
    /// An ICMP error.
    Error(Error),
    /// An echo reply.
    Echo,
}

/// One translation that would be right.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    connection: Connection,
    is_reply: bool,
    /// The source port may be any that is lent (if it cannot be the connection's own).
    any_port: bool,
    /// The source address must be lent.
    lent_address: bool,
}

impl Promise {
    /// Promises what a packet from the backend of `connection` is promised.
    fn add_reply(&mut self, node: &Node, hook: Hook, connection: &Connection) {
        let others = [false, true].map(|stack| Connection { stack, ..*connection });
        let others = others.iter().filter(|other| other.stack == connection.stack || connection.doubtful);
        for connection in others {
            // What takes the way through the stack is translated where it leaves, all else where it comes in.
            if (hook == Hook::Egress) == connection.is_through_stack(node) {
                self.translated.push(Candidate::reply(connection));
            } else {
                self.untouched = true;
            }
        }
    }

    const NOTHING: Self =
        Self { untouched: false, dropped: false, anew: false, translated: Vec::new(), answers: Vec::new() };
    const UNTOUCHED: Self =
        Self { untouched: true, dropped: false, anew: false, translated: Vec::new(), answers: Vec::new() };
}

/// What a packet is to the book.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// Left as it came.
    Untouched,
    /// Dropped.
    Dropped,
    /// Translated on its way to a backend; its source and destination now.
    Requested(SocketAddr, SocketAddr),
    /// Translated on its way to a client.
    Replied,
    /// An ICMP error that was translated.
    ErrorTranslated,
    /// Answered.
    Answered(Answer),
}

/// The book of connections.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    connections: Vec<Connection>,
    /// Protocol and tuple of first fragments that were translated.
    fragments: BTreeMap<FragmentKey, (u8, (SocketAddr, SocketAddr))>,
    /// What was answered in the unit of time that went last.
    answered: Answered,
}

/// Answers given, echo replies apart.
#[derive(Clone, Copy, Debug, Default)]
struct Answered {
    /// The unit of time.
    at: u32,
    /// How many.
    given: usize,
    /// How many more may have been allowed and could not be made.
    failed: usize,
}

impl Answered {
    /// Those at time `now`.
    fn at(self, now: u32) -> Self {
        if self.at == now { self } else { Self { at: now, ..Self::default() } }
    }
}

/// Source, destination, identification, and in IPv4 the protocol: what fragments of one packet share (RFC 791; RFC 8200, 4.5).
type FragmentKey = (IpAddr, IpAddr, u32, u8);

fn fragment_key(packet: &Packet<'_>) -> FragmentKey {
    let protocol = if packet.source.is_ipv4() { packet.protocol } else { 0 };
    (packet.source, packet.destination, packet.identification, protocol)
}

impl Ledger {
    /// Lets `units` of time pass for all connections.
    pub fn age(&mut self, units: u32) {
        for connection in &mut self.connections {
            connection.last = connection.last.saturating_sub(units);
        }
    }

    /// Takes note that entries of the datapath were spoiled: nothing is certain of a connection with this tuple.
    pub fn doubt(&mut self, protocol: u8, source: SocketAddr, destination: SocketAddr) {
        let tuple = (source, destination);
        let is_meant = |connection: &Connection| {
            let of_request = (connection.client, connection.service);
            let of_reply = (connection.backend, connection.source);
            connection.protocol == protocol && (of_request == tuple || of_reply == tuple)
        };
        let meant: Vec<Connection> = self.connections.iter().copied().filter(is_meant).collect();
        for connection in &mut self.connections {
            connection.doubtful |= is_meant(connection);
            // What it has replaced may come back in its place.
            connection.replaced &= !meant.iter().any(|one| {
                (one.protocol, one.client, one.service) == (connection.protocol, connection.client, connection.service)
            });
        }
    }

    /// Judges one packet that was met by `interface` at time `now`, and takes note of what became of it.
    pub fn judge(
        &mut self,
        node: &Node,
        (hook, interface, now): (Hook, u32, u32),
        before: &[u8],
        after: &[u8],
        fate: Fate,
    ) -> Result<Told, Fault> {
        let Ok(packet) = Packet::read(before) else { return stays(before, after, fate) };
        if hook != Hook::Egress && is_anothers(node, interface, before, 2) {
            return stays(before, after, fate);
        }
        let at = (hook, interface, now);
        if packet.is_later_fragment() {
            let Some((protocol, tuple)) = self.fragments.get(&fragment_key(&packet)).copied() else {
                return stays(before, after, fate);
            };
            let packet = Packet { protocol, ..packet };
            let promise = self.promise(node, at, &packet, before, tuple);
            return self.conclude(node, at, &packet, Some(tuple), (before, after), fate, promise);
        }
        let is_icmp = packet.protocol == if packet.source.is_ipv4() { ICMP } else { ICMPV6 };
        match packet.tuple() {
            Ok(Some(tuple)) => {
                let promise = self.promise(node, at, &packet, before, tuple);
                self.conclude(node, at, &packet, Some(tuple), (before, after), fate, promise)
            }
            Ok(None) if !packet.is_first_fragment() && is_icmp => {
                self.judge_icmp(node, at, &packet, (before, after), fate)
            }
            Ok(None) if !packet.is_first_fragment() && node.owned.contains(&packet.destination) => {
                let mut promise = Promise::NOTHING;
                promise.untouched = hook != Hook::Ingress || is_anothers(node, interface, before, 0) || is_odd(&packet);
                if hook == Hook::Ingress && !is_anothers(node, interface, before, 0) {
                    promise.answers.push(Answer::Error(Error::ProtocolUnreachable));
                }
                self.conclude(node, at, &packet, None, (before, after), fate, promise)
            }
            _ => stays(before, after, fate),
        }
    }

    /// Whether an answer may be given (RFC 1122, 3.2.2; RFC 4443, 2.4e).
    fn may_answer(&self, node: &Node, now: u32, packet: &Packet<'_>, frame: &[u8], answer: Answer) -> bool {
        let is_groups = (frame[0] | frame[6]) & 1 != 0 || is_reserved(packet.destination);
        let is_reset = answer == Answer::Refused && packet.protocol == TCP && packet.flags() & RST != 0;
        let is_left = answer == Answer::Echo || self.answered.at(now).given < node.answers;
        !node.is_martian(packet.source) && !is_groups && !packet.is_later_fragment() && !is_reset && is_left
    }

    /// Holds what became of a packet against what was promised.
    #[expect(clippy::too_many_arguments, reason = "all there is to know of a packet")]
    fn conclude(
        &mut self,
        node: &Node,
        (hook, interface, now): (Hook, u32, u32),
        packet: &Packet<'_>,
        tuple: Option<(SocketAddr, SocketAddr)>,
        (before, after): (&[u8], &[u8]),
        fate: Fate,
        mut promise: Promise,
    ) -> Result<Told, Fault> {
        let due = promise.answers.len();
        promise.answers.retain(|answer| hook == Hook::Ingress && self.may_answer(node, now, packet, before, *answer));
        promise.dropped |= promise.answers.len() < due && hook != Hook::Xdp;
        self.answered = self.answered.at(now);
        // Headers that an error need not hold whole.
        let is_long = due > 0 && packet.transport - packet.ip + 8 > answer::QUOTED;
        let may_be_spent = due > 0 && self.answered.given + self.answered.failed >= node.answers;
        promise.dropped |= is_long || may_be_spent;
        let told = match fate {
            Fate::Dropped => {
                demand(promise.dropped, || format!("dropped, while {promise:?}"))?;
                self.answered.failed += usize::from(is_long);
                Ok(Told::Dropped)
            }
            Fate::Passed if before == after => {
                demand(promise.untouched, || format!("left as it came, while {promise:?}"))?;
                Ok(Told::Untouched)
            }
            Fate::Sent(way) if way == interface && !promise.answers.is_empty() => {
                match judge_answer(&promise.answers, packet, before, after) {
                    Ok(answer) => {
                        self.answered.given += usize::from(answer != Answer::Echo);
                        Ok(Told::Answered(answer))
                    }
                    Err(objection) if promise.translated.is_empty() => Err(objection),
                    Err(_) => self.judge_translation(node, (hook, now), packet, (before, after), fate, &promise),
                }
            }
            _ => self.judge_translation(node, (hook, now), packet, (before, after), fate, &promise),
        }?;
        if let Some((from, to)) = tuple.filter(|_| promise.anew && !matches!(told, Told::Requested(..))) {
            // What it would have gone on with is forgotten before it is known whether the packet may leave.
            self.doubt(packet.protocol, from, to);
        }
        Ok(told)
    }

    /// Judges an ICMP message: an error is translated like the packets of the connection that it is about, in its direction.
    fn judge_icmp(
        &mut self,
        node: &Node,
        at @ (hook, interface, now): (Hook, u32, u32),
        packet: &Packet<'_>,
        (before, after): (&[u8], &[u8]),
        fate: Fate,
    ) -> Result<Told, Fault> {
        if hook == Hook::Xdp || (hook == Hook::Ingress && is_anothers(node, interface, before, 0)) {
            return stays(before, after, fate);
        }
        let mut promise = Promise::NOTHING;
        let mut is_known = false;
        let about = if icmp::is_translated(packet) { icmp::quoted(packet).ok() } else { None };
        let about = about.filter(|inner| inner.source == packet.destination && !inner.is_later_fragment());
        let about = about.filter(|inner| matches!(inner.protocol, TCP | UDP | SCTP));
        let about = about.and_then(|inner| inner.ports().map(|ports| (inner, ports)));
        if let Some((inner, [from_port, to_port])) = about {
            // It travels like an answer to what it is about.
            let from = SocketAddr::new(inner.destination, to_port);
            let to = SocketAddr::new(inner.source, from_port);
            for connection in self.connections.iter().filter(|connection| connection.protocol == inner.protocol) {
                let candidate = if (connection.backend, connection.source) == (from, to) {
                    Candidate::reply(connection)
                } else if (connection.client, connection.service) == (from, to) && !connection.replaced {
                    Candidate::request(connection)
                } else {
                    continue;
                };
                if connection.must_be_dead(now) {
                    continue;
                }
                is_known |= connection.must_live(now);
                let leaves = candidate.is_reply && connection.is_through_stack(node);
                if (hook == Hook::Egress) != leaves {
                    promise.untouched = true;
                } else if is_reserved(packet.source) || !candidate.refusals(node, packet).is_empty() {
                    promise.dropped = true;
                } else {
                    promise.translated.push(candidate);
                }
            }
            // What it is about need not be understood; then it is about nothing known.
            is_known &= !is_odd(&inner);
        }
        if !is_known {
            let is_ours = node.owned.contains(&packet.destination);
            let kind = packet.payload().first().copied();
            let echo = if packet.source.is_ipv4() { 8 } else { 128 };
            promise.untouched |= hook == Hook::Egress || !is_ours || packet.payload().len() < 2;
            if is_ours && hook == Hook::Ingress && kind == Some(echo) {
                promise.answers.push(Answer::Echo);
            } else {
                promise.dropped |= is_ours && hook == Hook::Ingress;
            }
        }
        promise.untouched |= is_odd(packet);
        let is_translated = before != after && !matches!(fate, Fate::Dropped) && promise.answers.is_empty();
        if !is_translated {
            return self.conclude(node, at, packet, None, (before, after), fate, promise);
        }
        let mut fault = Fault(format!("translated, while {promise:?}"));
        for candidate in &promise.translated {
            let connection = &candidate.connection;
            // As the receiver knows its own packet.
            let (own, peer, speaker) = if candidate.is_reply {
                (connection.client, connection.service, connection.backend)
            } else {
                (connection.backend, connection.source, connection.client)
            };
            let judged = candidate.way_out(node, hook, fate).and_then(|(forwarded, macs)| {
                let source = if packet.source == speaker.ip() { peer.ip() } else { packet.source };
                let destination = own.ip();
                let promised = icmp::Translation {
                    source,
                    destination,
                    quoted_source: own,
                    quoted_destination: peer,
                    forwarded,
                    macs,
                };
                icmp::judge(before, after, &promised)
            });
            match judged {
                Ok(()) => return Ok(Told::ErrorTranslated),
                Err(objection) => fault = objection,
            }
        }
        Err(fault)
    }

    /// What is promised of a packet with these ports.
    fn promise(
        &self,
        node: &Node,
        (hook, interface, now): (Hook, u32, u32),
        packet: &Packet<'_>,
        frame: &[u8],
        (from, to): (SocketAddr, SocketAddr),
    ) -> Promise {
        let opens = packet.flags() & (SYN | ACK) == SYN;
        let mut promise = Promise::NOTHING;
        let mut is_known = false;

        for connection in self.connections.iter().filter(|connection| connection.protocol == packet.protocol) {
            if (connection.backend, connection.source) == (from, to) {
                if connection.must_be_dead(now) {
                    continue;
                }
                is_known |= connection.must_live(now);
                promise.add_reply(node, hook, connection);
            } else if (connection.client, connection.service) == (from, to)
                && hook != Hook::Egress
                && !connection.replaced
            {
                if connection.must_be_dead(now) {
                    continue;
                }
                let moves = opens || packet.protocol == UDP;
                let members = node.services.get(&(to, packet.protocol));
                let is_member = members.is_some_and(|all| all.iter().any(|one| one.address == connection.backend));
                // A datagram to a port that no Service has any more can go nowhere else.
                let stays = !opens && (members.is_none() || node.draining.contains(&connection.backend.ip()));
                let has_ended = opens && connection.is_ending() && !connection.doubtful;
                if has_ended || (moves && !is_member && !stays) {
                    promise.anew = true;
                    // A first packet that is sent again may stay with a backend that another Service still has.
                    let mut others = node.services.values().flatten();
                    if opens && !has_ended && others.any(|one| one.address == connection.backend) {
                        promise.translated.push(Candidate::request(connection));
                    }
                    continue;
                }
                is_known |= connection.must_live(now);
                promise.translated.push(Candidate::request(connection));
            }
        }
        promise.untouched |= hook == Hook::Xdp || is_odd(packet);
        // Where a connection is known, the end of the MAC may stand for all of it.
        promise.untouched |= hook != Hook::Egress && is_anothers(node, interface, frame, 0);
        if !is_known && packet.is_later_fragment() {
            promise.untouched = true;
        } else if !is_known {
            let opened = self.open(node, (hook, interface, now), packet, frame, (from, to));
            promise.untouched |= opened.untouched;
            promise.dropped |= opened.dropped;
            promise.translated.extend(opened.translated);
            promise.answers.extend(opened.answers);
        }
        for candidate in &promise.translated {
            promise.dropped |= candidate.may_be_dropped(node, packet);
            promise.answers.extend(candidate.refusals(node, packet));
        }
        promise.translated.retain(|candidate| !candidate.must_be_dropped(node, packet));
        promise
    }

    /// What is promised of a packet of no known connection.
    fn open(
        &self,
        node: &Node,
        (hook, interface, now): (Hook, u32, u32),
        packet: &Packet<'_>,
        frame: &[u8],
        (from, to): (SocketAddr, SocketAddr),
    ) -> Promise {
        let members = node.services.get(&(to, packet.protocol));
        let is_ours = members.is_some() || node.owned.contains(&to.ip());
        let device = node.interfaces.get(&interface).copied().unwrap_or_default();
        if hook == Hook::Egress || !is_ours || is_anothers(node, interface, frame, 0) {
            return Promise::UNTOUCHED;
        }
        let members = members.filter(|_| !node.is_martian(from.ip())).map(Vec::as_slice).unwrap_or_default();
        let mut promise = Promise::NOTHING;
        let is_in = |networks: &[Network]| networks.iter().any(|network| network.contains(from.ip()));
        let policy = node.policies.get(&(to, packet.protocol));
        let is_refused = policy.is_some_and(|policy| !policy.sources.is_empty() && !is_in(&policy.sources));
        // The stack would refuse such a source without a word, and so does who stands in for it.
        promise.dropped = node.is_martian(from.ip()) || is_refused;
        if promise.dropped {
            return promise;
        }
        if members.is_empty() {
            promise.answers.push(Answer::Refused);
        }
        let is_split = policy.is_some_and(|policy| policy.is_local);
        let is_kept = is_split || (policy.is_some_and(|policy| policy.is_internal) && is_in(&node.kept));
        let is_outside = is_split && !is_in(&node.pods);
        // There are backends, but none for this client: it is to try another node.
        promise.dropped = is_outside && !members.is_empty() && members.iter().all(|member| !member.is_local);
        for member in members.iter().filter(|member| member.is_local || !is_outside) {
            let is_hairpin = member.address.ip() == from.ip();
            let lends = is_hairpin || (!member.is_local && !device.has_local_clients && !is_kept);
            let mut connection = Connection::new(packet.protocol, (from, to), member.address, now);
            connection.stack = node.stack && !lends && !node.own.contains(&member.address.ip());
            let is_taken = self.holders(&connection).any(|holder| !holder.must_be_dead(now));
            let (first, last) = node.lent_ports;
            promise.dropped |= (lends || is_taken) && last.saturating_sub(first) < FEW_PORTS;
            promise.translated.push(Candidate {
                connection,
                is_reply: false,
                any_port: lends || is_taken,
                lent_address: lends,
            });
        }
        promise
    }

    /// Other connections that show their backend what this one would.
    fn holders<'a>(&'a self, connection: &'a Connection) -> impl Iterator<Item = &'a Connection> {
        self.connections.iter().filter(|other| {
            (other.protocol, other.backend, other.source)
                == (connection.protocol, connection.backend, connection.source)
                && (other.client, other.service) != (connection.client, connection.service)
        })
    }

    /// Judges a packet whose bytes changed, or that was sent on.
    fn judge_translation(
        &mut self,
        node: &Node,
        (hook, now): (Hook, u32),
        packet: &Packet<'_>,
        (before, after): (&[u8], &[u8]),
        fate: Fate,
        promise: &Promise,
    ) -> Result<Told, Fault> {
        let unread = |unread| Fault(format!("what came out is {unread:?}"));
        let seen = Packet::read(after).map_err(unread)?;
        let (source, destination) = if packet.is_later_fragment() {
            let addresses = (seen.source, seen.destination);
            let tuples = promise.translated.iter().map(Candidate::tuple);
            let mut fitting = tuples.filter(|(from, to)| (from.ip(), to.ip()) == addresses);
            fitting.next().ok_or_else(|| Fault(format!("{addresses:?}, while {:?}", promise.translated)))?
        } else {
            let tuple = seen.tuple().map_err(unread)?;
            tuple.ok_or_else(|| Fault("what came out has no ports".to_owned()))?
        };
        let candidates = &promise.translated;
        let mut way = Err(Fault(format!("{source} to {destination}, while {candidates:?}")));
        for candidate in candidates.iter().filter(|candidate| candidate.fits(node, source, destination)) {
            way = candidate.way_out(node, hook, fate).map(|way| (candidate, way));
            if way.is_ok() {
                break;
            }
        }
        let (candidate, (forwarded, macs)) = way?;
        if forwarded {
            let way = node.ways.get(&destination.ip());
            demand(way.is_none_or(|way| packet.length() <= way.mtu), || "larger than the way out takes".to_owned())?;
        }
        translation::judge(before, after, &Translation { source, destination, forwarded, macs })?;

        let is_reply = candidate.is_reply;
        let mut connection = candidate.connection;
        if !is_reply {
            connection.source = source;
            // What is in doubt yields only where everything else is taken.
            let has_room = node.lent_ports.1.saturating_sub(node.lent_ports.0) >= FEW_PORTS;
            let stays = |other: &&Connection| {
                other.must_live(now)
                    && !connection.doubtful
                    && if has_room { !other.is_over() } else { !other.may_yield() }
            };
            if let Some(holder) = self.holders(&connection).find(stays) {
                return Err(Fault(format!("{destination} sees {source} for {holder:?} too")));
            }
        }
        if packet.is_first_fragment() {
            let tuple = packet.tuple().map_err(unread)?.ok_or_else(|| Fault("no ports".to_owned()))?;
            self.fragments.insert(fragment_key(packet), (packet.protocol, tuple));
        }
        self.note(connection, is_reply, packet.flags(), packet.is_later_fragment(), now);
        Ok(if is_reply { Told::Replied } else { Told::Requested(source, destination) })
    }

    /// Writes into the book what a packet tells of its connection.
    fn note(&mut self, mut connection: Connection, is_reply: bool, flags: u8, is_later: bool, now: u32) {
        connection.last = now;
        if is_later {
            // Its first fragment has said it all.
        } else if is_reply {
            connection.answered = true;
        } else if connection.answered && flags & SYN == 0 {
            connection.confirmed = true;
        }
        if flags & FIN != 0 {
            *(if is_reply { &mut connection.fin_backend } else { &mut connection.fin_client }) = true;
        }
        connection.reset |= flags & RST != 0;
        self.connections.retain_mut(|other| {
            if other.protocol != connection.protocol {
                return true;
            }
            if (other.backend, other.source) == (connection.backend, connection.source) {
                // Who lost his source is forgotten, unless the two entries of one of them no longer knew each other.
                other.doubtful |= connection.doubtful && other.may_yield();
                let is_another = (other.client, other.service) != (connection.client, connection.service);
                return is_another && (other.doubtful || connection.doubtful);
            }
            // Chosen anew: the old reply's entry goes with it, unless the two no longer knew each other.
            other.replaced |= !is_reply && (other.client, other.service) == (connection.client, connection.service);
            !other.replaced || other.doubtful
        });
        self.connections.push(connection);
    }
}

impl Candidate {
    fn request(connection: &Connection) -> Self {
        Self { connection: *connection, is_reply: false, any_port: connection.doubtful, lent_address: false }
    }

    fn reply(connection: &Connection) -> Self {
        Self { connection: *connection, is_reply: true, any_port: false, lent_address: false }
    }

    /// Source and destination that its packet leaves with.
    fn tuple(&self) -> (SocketAddr, SocketAddr) {
        let source = if self.is_reply { self.connection.service } else { self.connection.source };
        (source, self.destination())
    }

    /// Whether its packet may leave like this, and if so whether it is forwarded in place of the stack, and with which MACs.
    fn way_out(&self, node: &Node, hook: Hook, fate: Fate) -> Result<(bool, Option<[u8; 12]>), Fault> {
        let destination = self.destination();
        let way = node.ways.get(&destination.ip());
        if self.connection.is_through_stack(node) {
            // XDP can do nothing for what the stack sends on.
            let is_right = fate == Fate::Passed && (hook != Hook::Xdp || self.is_hosts(node));
            demand(is_right, || format!("{fate:?} at {hook:?}, while it goes through the stack"))?;
            return Ok((false, None));
        }
        match (fate, way) {
            (Fate::Sent(interface), Some(way)) if interface == way.interface => Ok((true, Some(way.macs))),
            (Fate::SentByKernel(interface), Some(way)) if interface == way.interface => Ok((true, None)),
            _ => Err(Fault(format!("{fate:?}, while the way to {destination} is {way:?}"))),
        }
    }

    fn destination(&self) -> SocketAddr {
        if self.is_reply { self.connection.client } else { self.connection.backend }
    }

    /// Whether the packet left with a tuple that this candidate allows.
    fn fits(&self, node: &Node, source: SocketAddr, destination: SocketAddr) -> bool {
        if destination != self.destination() {
            return false;
        }
        if self.is_reply {
            return source == self.connection.service;
        }
        let own = self.connection.source;
        let address = if self.lent_address { node.lent.contains(&source.ip()) } else { source.ip() == own.ip() };
        let kept = source.port() == own.port() && !self.lent_address;
        address && (kept || (self.any_port && node.is_lent_port(source.port())))
    }

    /// Whether its packet goes to a socket of the node itself, or comes from one.
    fn is_hosts(&self, node: &Node) -> bool {
        node.own.contains(&self.connection.backend.ip())
    }

    /// What its sender is told instead, where it cannot go on.
    fn refusals(&self, node: &Node, packet: &Packet<'_>) -> Vec<Answer> {
        if self.connection.is_through_stack(node) {
            return Vec::new();
        }
        let Some(way) = node.ways.get(&self.destination().ip()) else { return vec![Answer::Error(Error::NoWay)] };
        let mut refusals = Vec::new();
        if packet.ttl <= 1 {
            refusals.push(Answer::Error(Error::TimeExceeded));
        }
        if packet.length() > way.mtu {
            refusals.push(Answer::Error(Error::TooBig(way.mtu as u16)));
        }
        refusals
    }

    /// Whether its packet is a first fragment whose checksum (over all fragments, by a CRC) nobody here can bring up to date.
    fn is_beyond_repair(&self, packet: &Packet<'_>) -> bool {
        let ports = packet.ports().unwrap_or_default();
        let (source, destination) = self.tuple();
        let changes = destination.port() != ports[1] || (!self.any_port && source.port() != ports[0]);
        packet.protocol == SCTP && packet.is_first_fragment() && changes
    }

    fn must_be_dropped(&self, node: &Node, packet: &Packet<'_>) -> bool {
        !self.refusals(node, packet).is_empty() || self.is_beyond_repair(packet)
    }

    /// Whether it may be dropped without a word.
    fn may_be_dropped(&self, node: &Node, packet: &Packet<'_>) -> bool {
        let is_torn = packet.protocol == SCTP && packet.is_first_fragment() && self.any_port;
        (self.lent_address && node.lent.is_empty()) || is_torn || self.is_beyond_repair(packet)
    }
}

/// Judges an answer that may be any of these.
fn judge_answer(answers: &[Answer], packet: &Packet<'_>, before: &[u8], after: &[u8]) -> Result<Answer, Fault> {
    let is_bare = packet.transport - packet.ip == if packet.source.is_ipv4() { 20 } else { 40 };
    let speaker = Some(packet.destination);
    let mut fault = Fault("answered, and nothing was due".to_owned());
    for answer in answers {
        let judged = match answer {
            Answer::Refused if packet.protocol == TCP && is_bare => answer::reset(before, after),
            Answer::Refused => answer::error(before, after, Error::PortUnreachable, speaker),
            Answer::Error(error) => answer::error(before, after, *error, speaker),
            Answer::Echo => answer::echo(before, after),
        };
        match judged {
            Ok(()) => return Ok(*answer),
            Err(objection) => fault = objection,
        }
    }
    Err(fault)
}

/// Whether the frame is for another host's MAC, by the bytes of it that come after the `first`.
fn is_anothers(node: &Node, interface: u32, frame: &[u8], first: usize) -> bool {
    let device = node.interfaces.get(&interface).copied().unwrap_or_default();
    device.own_mac.is_some_and(|mac| frame[first..6] != mac[first..])
}

/// Whether it may be left alone as well as understood.
fn is_odd(packet: &Packet<'_>) -> bool {
    packet.odd || packet.extensions > MANY_EXTENSIONS
}

/// A packet that is nobody's business, or that cannot be understood.
fn stays(before: &[u8], after: &[u8], fate: Fate) -> Result<Told, Fault> {
    demand(fate == Fate::Passed && before == after, || {
        format!("{fate:?}{}, while it was to leave as it came", if before == after { "" } else { " with other bytes" })
    })?;
    Ok(Told::Untouched)
}
