//! Runs a cell: real clients, real servers, and everything that can be seen from both ends and from the node.

use super::stage::{HOST, REMOTE, Stage, Target, WITH_NAPI, WITHOUT_NAPI};
use super::{Asker, Backend, Cell, Family, Hook, Network, Outcome, Path, Protocol};
use crate::sniffer::Arrival;
use lb_ctl::api::description::Counters;
use lb_ctl::playground::content::Hash;
use lb_ctl::playground::echo::Answer;
use lb_ctl::playground::topology::{CLIENT, Dual, NODE, NODE_INSIDE, Node, SERVICE_PORT, SERVICE_PORT_UDP};
use lb_ctl::playground::{Client, Error};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes sent each way over TCP.
const LENGTH: u64 = 100_000;
/// A datagram that fits every path.
const LARGE: [u8; 1200] = [b'x'; 1200];
/// How often who did the work is looked at anew, before it counts as wrong: XDP leaves single packets to TCX on purpose.
const ATTEMPTS: usize = 4;

/// One client, one frontend, one backend.
struct Way<'a> {
    asker: &'static str,
    client: Client<'a>,
    own: IpAddr,
    target: Target,
    frontend: &'static str,
    to: SocketAddr,
}

/// What was sent over a way.
#[derive(Clone, Copy, Default)]
struct Sent {
    /// TCP connections, or UDP flows.
    flows: u64,
    /// Datagrams.
    datagrams: u64,
}

/// Packets that came off wires in one direction: all, and those that XDP had not translated.
#[derive(Clone, Copy, Default)]
struct Share {
    counted: u64,
    untouched: u64,
}

impl Share {
    /// Whether most packets were translated by XDP, or most were not.
    fn is_right(self, by_xdp: bool) -> bool {
        self.counted == 0 || by_xdp == (self.untouched * 2 < self.counted)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.untouched, self.counted)
    }
}

impl Stage {
    /// Runs a cell of this stage's environment.
    pub fn run(&self, cell: &Cell) -> Outcome {
        let before = self.reasons().unwrap_or_default();
        let done = self.take_all(cell);
        let after = self.reasons().unwrap_or_default();
        let dropped = after.iter().any(|(reason, (packets, drop))| *drop && *packets > counted(&before, reason));
        match done {
            Ok(how) if !dropped => Outcome::Good(how),
            done => {
                let moved = after.iter().filter(|(reason, (packets, _))| *packets > counted(&before, reason));
                let moved: Vec<String> = moved
                    .map(|(reason, (packets, _))| format!("{reason} +{}", packets - counted(&before, reason)))
                    .collect();
                let what = done.err().map_or_else(|| "packets were dropped".to_owned(), |error| error.to_string());
                Outcome::Failed(format!("{what}; counted: [{}]", moved.join(", ")))
            }
        }
    }

    fn take_all(&self, cell: &Cell) -> Result<String, Error> {
        let (mut counted, mut by_tcx) = (0, 0);
        let mut frontends: Vec<&str> = Vec::new();
        for way in self.ways(cell)? {
            let shares = self.take(cell, &way).map_err(|error| {
                Error::broken(format_args!(
                    "{} to the {} {} of {}: {error}",
                    way.asker, way.frontend, way.to, way.target.name
                ))
            })?;
            counted += shares.iter().map(|share| share.counted).sum::<u64>();
            by_tcx += shares.iter().map(|share| share.untouched.min(share.counted)).sum::<u64>();
            if !frontends.contains(&way.frontend) {
                frontends.push(way.frontend);
            }
        }
        let frontends = frontends.join(", ");
        Ok(match (cell.hook, counted) {
            (Hook::Socket, _) => format!("{frontends}; at the socket"),
            (_, 0) => format!("{frontends}; by TCX, nothing came off a wire"),
            _ => format!("{frontends}; off wires {} by XDP, {by_tcx} by TCX", counted - by_tcx),
        })
    }

    /// The ways that a cell stands for.
    fn ways(&self, cell: &Cell) -> Result<Vec<Way<'_>>, Error> {
        let pairs: &[(&'static str, Target)] = match (cell.asker, cell.backend) {
            (Asker::Outside, Backend::Local) => &[("outside", WITH_NAPI), ("outside", WITHOUT_NAPI)],
            (Asker::Outside, Backend::Remote) => &[("outside", REMOTE)],
            (Asker::Pod, Backend::Local) => &[("visitor", WITH_NAPI), ("visitor", WITHOUT_NAPI)],
            (Asker::Pod, Backend::Remote) => &[("visitor", REMOTE), (WITHOUT_NAPI.name, REMOTE)],
            (Asker::Pod, Backend::Itself) => &[(WITH_NAPI.name, WITH_NAPI), (WITHOUT_NAPI.name, WITHOUT_NAPI)],
            (Asker::Host, Backend::Local) => &[("the node", WITH_NAPI), ("the node", WITHOUT_NAPI)],
            (Asker::Host, Backend::Remote) => &[("the node", REMOTE)],
            (Asker::Host, Backend::Itself) => &[("the node", HOST)],
            (Asker::Outside, Backend::Itself) => &[],
        };
        let mut ways = Vec::new();
        for &(asker, target) in pairs {
            let (client, own) = match cell.asker {
                Asker::Outside => (self.fixture.client(), CLIENT),
                Asker::Pod => {
                    let pod = self.fixture.pod(asker)?;
                    (pod.client(), pod.address())
                }
                Asker::Host => (Client::new(self.fixture.node_space(Node::One)), NODE),
            };
            let own = of(cell, own);
            for (frontend, to) in self.frontends(cell, target) {
                ways.push(Way { asker, client, own, target, frontend, to });
            }
        }
        Ok(ways)
    }

    /// The frontends of a target that a cell's clients can use.
    fn frontends(&self, cell: &Cell, target: Target) -> Vec<(&'static str, SocketAddr)> {
        let (port, node_port) = match cell.protocol {
            Protocol::Tcp => (SERVICE_PORT, target.node_port()),
            Protocol::Udp => (SERVICE_PORT_UDP, target.node_port_udp()),
        };
        let loopback = match cell.family {
            Family::V4 => IpAddr::from(Ipv4Addr::LOCALHOST),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        };
        let mut frontends = Vec::new();
        // No packet hook sees what a node sends to itself.
        if cell.asker != Asker::Host || cell.hook == Hook::Socket {
            frontends.push(("NodePort", SocketAddr::new(of(cell, NODE), node_port)));
        }
        if let Some(cluster) = self.clusters.get(&target.service()) {
            frontends.push(("ClusterIP", SocketAddr::new(of(cell, *cluster), port)));
        }
        if cell.asker == Asker::Host && cell.hook == Hook::Socket {
            frontends.push(("loopback NodePort", SocketAddr::new(loopback, node_port)));
        }
        frontends
    }

    /// Sends over a way, until who did the work is as it should be: XDP leaves the first packets to TCX, and while a
    /// neighbour is not known all of them.
    fn take(&self, cell: &Cell, way: &Way<'_>) -> Result<[Share; 2], Error> {
        let by_xdp = is_for_xdp(cell, way);
        let mut attempt = 1;
        loop {
            let shares = self.attempt(cell, way)?;
            if shares.iter().all(|share| share.is_right(by_xdp)) {
                return Ok(shares);
            }
            if attempt == ATTEMPTS {
                let ([requests, replies], should) = (shares, if by_xdp { "few" } else { "most" });
                return Err(Error::broken(format_args!(
                    "the stack saw {requests} requests and {replies} replies untranslated, which should be {should}",
                )));
            }
            attempt += 1;
        }
    }

    fn attempt(&self, cell: &Cell, way: &Way<'_>) -> Result<[Share; 2], Error> {
        let port = if cell.protocol == Protocol::Tcp { "tcp" } else { "udp" };
        let (before, translated) = (self.traffic(way.target, port)?, self.socket_calls()?);
        self.sniffer.arrivals();
        let sent = match (cell.protocol, cell.hook) {
            (Protocol::Tcp, _) => tcp(cell, way)?,
            (Protocol::Udp, Hook::Socket) => datagrams(cell, way, false)?,
            (Protocol::Udp, _) => {
                let (connected, not) = (datagrams(cell, way, true)?, datagrams(cell, way, false)?);
                Sent { flows: connected.flows + not.flows, datagrams: connected.datagrams + not.datagrams }
            }
        };
        let arrivals = self.sniffer.arrivals();
        let after = self.traffic(way.target, port)?;
        if cell.hook == Hook::Socket {
            let translated = self.socket_calls()? - translated;
            let expected = if cell.protocol == Protocol::Tcp { sent.flows } else { sent.datagrams };
            if translated != expected || after.packets != before.packets {
                let packets = after.packets - before.packets;
                return Err(Error::broken(format_args!(
                    "{expected} calls were made, {translated} translated at the socket, {packets} packets on their way"
                )));
            }
            return Ok([Share::default(); 2]);
        }
        check_counters(cell, sent, &before, &after)?;
        let requests = if cell.asker == Asker::Outside { after.packets - before.packets } else { 0 };
        // Through the stack, a reply is translated where it leaves.
        let replies_come_off_a_wire = cell.backend == Backend::Remote && !is_through_stack(cell);
        let replies = if replies_come_off_a_wire { after.reply_packets - before.reply_packets } else { 0 };
        let backend = of(cell, way.target.address(&self.fixture)?);
        let on_wires = arrivals.iter().filter(|arrival| self.wires.contains(&arrival.index));
        let (mut seen_requests, mut seen_replies) = (0, 0);
        for Arrival { source, destination, .. } in on_wires {
            seen_requests += u64::from(*source == way.own && *destination == way.to.ip());
            seen_replies += u64::from(replies_come_off_a_wire && *source == backend);
        }
        let requests = Share { counted: requests, untouched: seen_requests };
        Ok([requests, Share { counted: replies, untouched: seen_replies }])
    }

    fn socket_calls(&self) -> Result<u64, Error> {
        Ok(counted(&self.reasons()?, "socket-translated"))
    }
}

/// Two connections, several requests over one of them, and content each way.
fn tcp(cell: &Cell, way: &Way<'_>) -> Result<Sent, Error> {
    let mut connection = way.client.connect(way.to)?;
    let peer = connection.peer()?;
    if peer != way.to {
        return Err(Error::broken(format_args!("the client is told that its peer is {peer}")));
    }
    check(cell, way, &connection.get()?)?;
    let (received, hash) = (connection.upload(LENGTH)?, Hash::of_content(LENGTH, LENGTH));
    if (received.length, received.hash) != (LENGTH, hash.value()) {
        return Err(Error::broken(format_args!("{} other bytes arrived than were sent", received.length)));
    }
    if connection.download(LENGTH)? != (LENGTH, hash) {
        return Err(Error::broken("other bytes came back than were sent"));
    }
    let last = connection.get()?;
    if last.request != 4 {
        return Err(Error::broken(format_args!("the fourth request was the server's {}.", last.request)));
    }
    check(cell, way, &last)?;
    check(cell, way, &way.client.get(way.to)?)?;
    Ok(Sent { flows: 2, datagrams: 0 })
}

/// Several datagrams over one socket.
fn datagrams(cell: &Cell, way: &Way<'_>, connected: bool) -> Result<Sent, Error> {
    let socket = if connected { way.client.datagrams(way.to) } else { way.client.unconnected_datagrams(way.to) }?;
    let payloads: [&[u8]; 5] = [b"one", b"two", b"", &LARGE, b"five"];
    for payload in payloads {
        check(cell, way, &socket.exchange(payload)?)?;
    }
    Ok(Sent { flows: 1, datagrams: payloads.len() as u64 })
}

/// Whether the right backend answered, and saw the address that it should.
fn check(cell: &Cell, way: &Way<'_>, answer: &Answer) -> Result<(), Error> {
    let nodes = [NODE, NODE_INSIDE, Node::One.gateway()].map(|node| of(cell, node));
    let is_right = match (cell.asker, cell.backend) {
        // By the daemon's veth pair the node cannot come to itself with an address of its own.
        (Asker::Host, Backend::Itself) if cell.hook != Hook::Socket => answer.client == way.to.ip(),
        (Asker::Pod, Backend::Itself) if cell.hook == Hook::Socket => answer.client == way.own,
        // One of the node's, as its routes choose; or lent.
        (Asker::Host, _) | (Asker::Outside, Backend::Remote) | (Asker::Pod, Backend::Itself) => {
            nodes.contains(&answer.client)
        }
        _ => answer.client == way.own,
    };
    if answer.pod != way.target.name || !is_right {
        return Err(Error::broken(format_args!("{} answered, and saw {}", answer.pod, answer.client)));
    }
    Ok(())
}

/// Whether the datapath counted what was sent, each packet once.
fn check_counters(cell: &Cell, sent: Sent, before: &Counters, after: &Counters) -> Result<(), Error> {
    let flows = after.connections - before.connections;
    let (packets, replies) = (after.packets - before.packets, after.reply_packets - before.reply_packets);
    let fits = match cell.protocol {
        // A connection's own packets: SYN, ACK, request, FIN; SYN and ACK, answer.
        Protocol::Tcp => packets >= 3 * sent.flows && replies >= 2 * sent.flows,
        Protocol::Udp => packets == sent.datagrams && replies == sent.datagrams,
    };
    if fits && flows == sent.flows {
        return Ok(());
    }
    let Sent { flows: sent_flows, datagrams } = sent;
    Err(Error::broken(format_args!(
        "{sent_flows} flows with {datagrams} datagrams were sent; counted were {flows} flows, {packets} packets, {replies} replies"
    )))
}

/// Whether the host's stack carries it: where the daemon is told so, and the client's address is kept. (The stack takes
/// no packet from outside with a source of the node's own.)
fn is_through_stack(cell: &Cell) -> bool {
    let is_kept = !matches!((cell.asker, cell.backend), (Asker::Outside, Backend::Remote) | (_, Backend::Itself));
    cell.path == Path::Stack && is_kept && cell.asker != Asker::Host
}

/// Whether XDP, and not TCX behind it, should finish what comes off wires.
fn is_for_xdp(cell: &Cell, way: &Way<'_>) -> bool {
    // The pod to which packets off a wire go.
    let pod = if cell.asker == Asker::Pod { way.asker } else { way.target.name };
    match cell.hook {
        Hook::Tcx | Hook::Socket => false,
        // TCX alone can tell whether a checksum is complete, and send by the pair of the node's own processes.
        Hook::Native | Hook::Generic if is_through_stack(cell) || cell.asker == Asker::Host => false,
        Hook::Generic => true,
        // Native XDP sends to neither a bridge nor a pod without NAPI.
        Hook::Native if cell.asker == Asker::Outside && cell.backend == Backend::Remote => true,
        Hook::Native => cell.network == Network::Routed && pod != WITHOUT_NAPI.name,
    }
}

fn of(cell: &Cell, address: Dual) -> IpAddr {
    address.addresses()[cell.family as usize]
}

fn counted(reasons: &BTreeMap<String, (u64, bool)>, reason: &str) -> u64 {
    reasons.get(reason).map_or(0, |(packets, _)| *packets)
}
