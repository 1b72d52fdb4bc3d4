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

use crate::packet::{ACK, FIN, Packet, RST, SYN, TCP, UDP, Unread};
use crate::translation::{self, Translation};
use crate::{Fault, demand};
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
}

impl Node {
    /// Whether nobody can have this address as his source, or it is the node's or a Service's own.
    fn is_martian(&self, address: IpAddr) -> bool {
        let reserved = match address {
            IpAddr::V4(address) => matches!(address.octets()[0], 0 | 127 | 224..=255),
            IpAddr::V6(address) => {
                address.is_multicast() || address == Ipv6Addr::UNSPECIFIED || address == Ipv6Addr::LOCALHOST
            }
        };
        reserved || self.owned.contains(&address) || self.own.contains(&address)
    }

    fn is_lent_port(&self, port: u16) -> bool {
        (self.lent_ports.0..=self.lent_ports.1).contains(&port)
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
        }
    }

    /// For how many units it is remembered in silence: RFC 5382, RFC 4787 and `nf_conntrack`, as the documents say.
    fn timeout(&self) -> u32 {
        let seconds = match self.protocol {
            TCP if self.reset => 10,
            TCP if self.fin_client && self.fin_backend => 120,
            TCP if self.fin_client || self.fin_backend => 240,
            TCP if self.confirmed => 21_600,
            TCP => 60,
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
}

/// Units of time by which the book's "last seen" may differ from the datapath's, each way.
const SLACK: u32 = 3;

/// Where fewer ports are lent, they may all be taken.
const FEW_PORTS: u16 = 64;

/// What is promised of one packet.
#[derive(Clone, Debug)]
struct Promise {
    /// It may leave as it came.
    untouched: bool,
    /// It may be dropped; if not, why not.
    dropped: bool,
    /// Dropped, it leaves no trace: it was refused before anything was opened for it.
    refused: bool,
    /// It may be translated like this.
    translated: Vec<Candidate>,
}

/// One translation that would be right.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Candidate {
    connection: Connection,
    is_reply: bool,
    /// The source port may be any that is lent (if it cannot be the connection's own).
    any_port: bool,
    /// The source address must be lent.
    lent_address: bool,
    /// The connection begins with this packet.
    opens: bool,
    /// It may have begun earlier, under other settings.
    may_be_known: bool,
}

impl Promise {
    const UNTOUCHED: Self = Self { untouched: true, dropped: false, refused: true, translated: Vec::new() };
}

/// What a packet is to the book.
pub enum Told {
    /// Left as it came.
    Untouched,
    /// Dropped.
    Dropped,
    /// Translated on its way to a backend; its source and destination now.
    Requested(SocketAddr, SocketAddr),
    /// Translated on its way to a client.
    Replied,
}

/// The book of connections.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    connections: Vec<Connection>,
    /// Client and service of connections that the book does not hold and the datapath may know: opened by a packet that was then
    /// dropped, or over when another took its source. With the backends of the time.
    shadows: BTreeMap<(u8, SocketAddr, SocketAddr), Vec<Member>>,
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
        for connection in &mut self.connections {
            let of_request = (connection.client, connection.service);
            let of_reply = (connection.backend, connection.source);
            let tuple = (source, destination);
            if connection.protocol == protocol && (of_request == tuple || of_reply == tuple) {
                connection.doubtful = true;
            }
        }
    }

    /// A connection that was opened and not seen may have taken the place of one that is over, or not confirmed.
    fn doubt_those_that_yield(&mut self, protocol: u8) {
        for connection in self.connections.iter_mut().filter(|connection| connection.protocol == protocol) {
            connection.doubtful |= connection.is_ending() || !connection.confirmed;
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
        let packet = match Packet::read(before) {
            Ok(packet) => packet,
            Err(Unread::NotIp | Unread::Tagged | Unread::Broken) => return stays(before, after, fate),
        };
        let tuple = match packet.tuple() {
            Ok(Some(tuple)) if packet.fragment.is_none() && matches!(packet.protocol, TCP | UDP) => tuple,
            _ => return stays(before, after, fate),
        };
        let promise = self.promise(node, (hook, interface, now), &packet, before, tuple);
        match fate {
            Fate::Dropped => {
                demand(promise.dropped, || format!("dropped, while {promise:?}"))?;
                // It may have left its mark on a connection before it was dropped.
                self.doubt(packet.protocol, tuple.0, tuple.1);
                if !promise.refused {
                    let members = node.services.get(&(tuple.1, packet.protocol)).cloned().unwrap_or_default();
                    self.shadows.entry((packet.protocol, tuple.0, tuple.1)).or_default().extend(members);
                    self.doubt_those_that_yield(packet.protocol);
                }
                Ok(Told::Dropped)
            }
            Fate::Passed if before == after => {
                demand(promise.untouched, || format!("left as it came, while {promise:?}"))?;
                Ok(Told::Untouched)
            }
            _ => self.judge_translation(node, now, &packet, (before, after), fate, &promise),
        }
    }

    /// What is promised of a whole TCP or UDP packet.
    fn promise(
        &self,
        node: &Node,
        (hook, interface, now): (Hook, u32, u32),
        packet: &Packet<'_>,
        frame: &[u8],
        (from, to): (SocketAddr, SocketAddr),
    ) -> Promise {
        let flags = packet.tcp_flags();
        let opens = packet.protocol == TCP && flags & (SYN | ACK) == SYN;
        let mut promise = Promise { untouched: false, dropped: false, refused: false, translated: Vec::new() };
        let mut is_known = false;

        for connection in self.connections.iter().filter(|connection| connection.protocol == packet.protocol) {
            if (connection.backend, connection.source) == (from, to) {
                if connection.must_be_dead(now) {
                    continue;
                }
                let is_hosts = node.own.contains(&connection.backend.ip());
                if hook == Hook::Egress && !is_hosts {
                    continue;
                }
                is_known |= connection.must_live(now);
                promise.translated.push(Candidate::reply(connection));
            } else if (connection.client, connection.service) == (from, to)
                && hook != Hook::Egress
                && !connection.replaced
            {
                if connection.must_be_dead(now) {
                    continue;
                }
                let moves = opens || packet.protocol == UDP;
                let is_member = node
                    .services
                    .get(&(to, packet.protocol))
                    .is_some_and(|members| members.iter().any(|member| member.address == connection.backend));
                if (opens && connection.is_ending() && !connection.doubtful) || (moves && !is_member) {
                    continue;
                }
                is_known |= connection.must_live(now);
                promise.translated.push(Candidate::request(connection));
            }
        }
        if !is_known {
            let opened = self.open(node, (hook, interface, now), packet, frame, (from, to));
            promise.untouched |= opened.untouched;
            promise.dropped |= opened.dropped;
            promise.refused = opened.refused && promise.translated.is_empty();
            promise.translated.extend(opened.translated);
        }
        // XDP may leave to TCX what it would have to translate, and what a test has spoiled may be gone.
        promise.untouched |= hook == Hook::Xdp || packet.odd || packet.extensions > 5;
        promise.dropped |= promise.translated.iter().any(|candidate| candidate.may_be_dropped(node, packet));
        if let [candidate, rest @ ..] = promise.translated.as_slice()
            && rest.iter().chain([candidate]).all(|candidate| candidate.must_be_dropped(node, packet))
        {
            promise.translated.clear();
        }
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
        let is_anothers = device.own_mac.is_some_and(|mac| frame[..6] != mac);
        // One dropped on its way out may have been known by then, and what is known is not asked for its MAC.
        let shadow = self.shadows.get(&(packet.protocol, from, to));
        let may_be_known = shadow.is_some();
        if hook == Hook::Egress || !is_ours || (is_anothers && !may_be_known) {
            return Promise::UNTOUCHED;
        }
        let members = members.filter(|_| !node.is_martian(from.ip())).map(Vec::as_slice).unwrap_or_default();
        let dropped = members.is_empty();
        let mut promise = Promise { untouched: is_anothers, dropped, refused: dropped, translated: Vec::new() };
        for member in members.iter().chain(shadow.into_iter().flatten()) {
            let is_hairpin = member.address.ip() == from.ip();
            let lends = is_hairpin || (!member.is_local && !device.has_local_clients);
            let connection = Connection::new(packet.protocol, (from, to), member.address, now);
            let is_shadowed = |(protocol, client, service): &(u8, SocketAddr, SocketAddr)| -> bool {
                *protocol == packet.protocol && *client == from && *service != to
            };
            let is_taken = self.holders(&connection).any(|holder| !holder.must_be_dead(now))
                || self.shadows.keys().any(is_shadowed);
            let (first, last) = node.lent_ports;
            promise.dropped |= (lends || is_taken) && last.saturating_sub(first) < FEW_PORTS;
            let usual = Candidate {
                connection,
                is_reply: false,
                any_port: lends || is_taken || may_be_known,
                lent_address: lends,
                opens: true,
                may_be_known,
            };
            promise.translated.push(usual);
            if may_be_known {
                // It may have been opened by another interface, where the other was right.
                promise.translated.push(Candidate { lent_address: !lends, ..usual });
            }
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
        now: u32,
        packet: &Packet<'_>,
        (before, after): (&[u8], &[u8]),
        fate: Fate,
        promise: &Promise,
    ) -> Result<Told, Fault> {
        let unread = |unread| Fault(format!("what came out is {unread:?}"));
        let seen = Packet::read(after).and_then(|after| after.tuple()).map_err(unread)?;
        let (source, destination) = seen.ok_or_else(|| Fault("what came out has no ports".to_owned()))?;
        let mut candidates = promise.translated.clone();
        let shadow = (packet.protocol, destination, source);
        let is_certain = candidates.iter().any(|candidate| candidate.is_reply && !candidate.connection.doubtful);
        if !is_certain && self.shadows.contains_key(&shadow) {
            // A reply of a connection whose only request so far was dropped on its way out.
            let (backend, client) = packet.tuple().map_err(unread)?.ok_or_else(|| Fault("no ports".to_owned()))?;
            let mut connection = Connection::new(packet.protocol, (destination, source), backend, now);
            (connection.source, connection.doubtful) = (client, true);
            candidates.push(Candidate::reply(&connection));
        }
        let fits = candidates.iter().find(|candidate| candidate.fits(node, source, destination));
        let candidate = fits.ok_or_else(|| Fault(format!("{source} to {destination}, while {candidates:?}")))?;

        let way = node.ways.get(&destination.ip());
        let (forwarded, macs) = match (fate, way, candidate.is_reply) {
            (Fate::Passed, _, true) if node.own.contains(&candidate.connection.backend.ip()) => (false, None),
            (Fate::Passed, None, false) if node.own.contains(&destination.ip()) => (false, None),
            (Fate::Sent(interface), Some(way), _) if interface == way.interface => (true, Some(way.macs)),
            (Fate::SentByKernel(interface), Some(way), _) if interface == way.interface => (true, None),
            _ => return Err(Fault(format!("{fate:?}, while the way to {destination} is {way:?}"))),
        };
        if forwarded {
            demand(way.is_none_or(|way| packet.length() <= way.mtu), || "larger than the way out takes".to_owned())?;
        }
        translation::judge(before, after, &Translation { source, destination, forwarded, macs })?;

        let is_reply = candidate.is_reply;
        let mut connection = candidate.connection;
        if !is_reply {
            connection.source = source;
            // What nobody has confirmed yields only where everything else is taken.
            let has_room = node.lent_ports.1.saturating_sub(node.lent_ports.0) >= FEW_PORTS;
            let stays =
                |other: &&Connection| other.must_live(now) && !other.is_ending() && (other.confirmed || has_room);
            // Strays of a connection that was over when another took its source still go where they went.
            if let Some(holder) = self.holders(&connection).find(stays).filter(|_| !candidate.may_be_known) {
                return Err(Fault(format!("{destination} sees {source} for {holder:?} too")));
            }
        }
        // Whether the end of a connection that began unseen is noted is left open.
        connection.doubtful |= candidate.may_be_known;
        connection.doubtful |= candidate.opens && packet.tcp_flags() & (FIN | RST) != 0;
        self.note(connection, is_reply, packet.tcp_flags(), now);
        Ok(if is_reply { Told::Replied } else { Told::Requested(source, destination) })
    }

    /// Writes into the book what a packet tells of its connection.
    fn note(&mut self, mut connection: Connection, is_reply: bool, flags: u8, now: u32) {
        connection.last = now;
        if is_reply {
            connection.answered = true;
        } else if connection.answered && flags & SYN == 0 {
            connection.confirmed = true;
        }
        if flags & FIN != 0 {
            *(if is_reply { &mut connection.fin_backend } else { &mut connection.fin_client }) = true;
        }
        connection.reset |= flags & RST != 0;
        let shadows = &mut self.shadows;
        self.connections.retain_mut(|other| {
            if other.protocol != connection.protocol {
                return true;
            }
            if (other.backend, other.source) == (connection.backend, connection.source) {
                if (other.client, other.service) != (connection.client, connection.service) {
                    let old = Member { address: other.backend, is_local: true };
                    shadows.entry((other.protocol, other.client, other.service)).or_default().push(old);
                }
                return false;
            }
            // Chosen anew: the old reply's entry goes with it, unless the two no longer knew each other.
            other.replaced |= (other.client, other.service) == (connection.client, connection.service);
            !other.replaced || other.doubtful
        });
        self.connections.push(connection);
    }
}

impl Candidate {
    fn request(connection: &Connection) -> Self {
        Self {
            connection: *connection,
            is_reply: false,
            any_port: connection.doubtful,
            lent_address: false,
            opens: false,
            may_be_known: false,
        }
    }

    fn reply(connection: &Connection) -> Self {
        Self {
            connection: *connection,
            is_reply: true,
            any_port: false,
            lent_address: false,
            opens: false,
            may_be_known: false,
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
        let address = if self.lent_address {
            self.may_be_known || node.lent.contains(&source.ip())
        } else {
            source.ip() == own.ip()
        };
        let kept = source.port() == own.port() && !self.lent_address;
        address && (kept || (self.any_port && (self.may_be_known || node.is_lent_port(source.port()))))
    }

    /// Whether its packet goes to a socket of the node itself, or comes from one.
    fn is_hosts(&self, node: &Node) -> bool {
        node.own.contains(&self.connection.backend.ip())
    }

    fn must_be_dropped(&self, node: &Node, packet: &Packet<'_>) -> bool {
        if self.is_hosts(node) {
            return false;
        }
        match node.ways.get(&self.destination().ip()) {
            Some(way) => packet.ttl <= 1 || packet.length() > way.mtu,
            None => true,
        }
    }

    fn may_be_dropped(&self, node: &Node, packet: &Packet<'_>) -> bool {
        self.must_be_dropped(node, packet) || (self.lent_address && node.lent.is_empty())
    }
}

/// A packet that is nobody's business, or that cannot be understood.
fn stays(before: &[u8], after: &[u8], fate: Fate) -> Result<Told, Fault> {
    demand(fate == Fate::Passed && before == after, || {
        format!("{fate:?}{}, while it was to leave as it came", if before == after { "" } else { " with other bytes" })
    })?;
    Ok(Told::Untouched)
}
