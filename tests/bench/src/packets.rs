//! Part 1: what a packet costs, program against yardstick.

use anyhow::Context;
use aya::maps::HashMap;
use lb_common::{Flow, FlowKey, Reason};
use lb_tests::frames::{self, Flags};
use lb_yardsticks::Place;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::manifests::{BACKEND_PORT, BACKEND4, BACKEND6, FIRST, HOT4, HOT6};
use crate::measure::{self, Expected, Measured, Member};
use crate::node::{Node, client4, client6};
use crate::report::{Part, Report, Row};
use crate::statistics::{self, Rounds};
use crate::wrapper::{Hook, Packets, Wrapper};
use crate::{Extent, say};

const XDP_TX: u32 = 3;
const TC_REDIRECT: u32 = 7;

/// Bytes of every frame at least: what the wrapper restores.
const FRAME: usize = lb_yardsticks::HEAD;
/// Flows that are opened at once: so many fit into the table of new flows.
const BATCH: u32 = 1 << 14;
/// Where the numbers of flows that are opened while measuring begin.
const FRESH: u32 = 1 << 24;

/// Families and protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
}

impl Kind {
    /// What is measured at so many flows: the tables, which TCP and UDP share, have no room for the most flows of both.
    fn at(flows: u32) -> &'static [Kind] {
        const SHARED: u32 = 1 << 17;
        let all = &[Kind::Tcp4, Kind::Tcp6, Kind::Udp4, Kind::Udp6];
        if flows > SHARED { &all[..2] } else { all }
    }

    const fn is_v4(self) -> bool {
        matches!(self, Kind::Tcp4 | Kind::Udp4)
    }

    const fn is_tcp(self) -> bool {
        matches!(self, Kind::Tcp4 | Kind::Tcp6)
    }

    fn client(self) -> SocketAddr {
        SocketAddr::new(if self.is_v4() { client4().into() } else { client6().into() }, 1024)
    }

    fn service(self) -> SocketAddr {
        let address: IpAddr = if self.is_v4() { HOT4.into() } else { HOT6.into() };
        SocketAddr::new(address, if self.is_tcp() { 80 } else { 53 })
    }

    fn backend(self) -> SocketAddr {
        SocketAddr::new(if self.is_v4() { BACKEND4.into() } else { BACKEND6.into() }, BACKEND_PORT)
    }

    fn frame(self, from: SocketAddr, to: SocketAddr, flags: Flags) -> Vec<u8> {
        // Ethernet, IP and transport headers.
        let headers = 14 + if self.is_v4() { 20 } else { 40 } + if self.is_tcp() { 20 } else { 8 };
        let payload = vec![0x5a; FRAME.saturating_sub(headers)];
        if self.is_tcp() { frames::tcp(from, to, flags, &payload) } else { frames::udp(from, to, &payload) }
    }

    /// Requests of so many flows.
    fn requests(self, flows: u32, flags: Flags) -> Packets {
        let place = if self.is_v4() { Place::Source4 } else { Place::Source6 };
        let frame = self.frame(self.client(), self.service(), flags);
        Packets { frame, place, flows, first: 0, services: 1 }
    }

    /// Replies of so many flows.
    fn replies(self, flows: u32, flags: Flags) -> Packets {
        let place = if self.is_v4() { Place::Destination4 } else { Place::Destination6 };
        let frame = self.frame(self.backend(), self.client(), flags);
        Packets { frame, place, flows, first: 0, services: 1 }
    }
}

/// What is measured with.
pub(crate) struct Bench<'a> {
    pub(crate) wrapper: Wrapper,
    pub(crate) extent: &'a Extent,
    /// A build of the datapath to measure in place of what the daemon attached.
    pub(crate) datapath: Option<&'a Path>,
}

impl Bench<'_> {
    /// Measures everything on packets.
    pub(crate) fn all(&mut self, binary: &Path, report: &mut Report) -> anyhow::Result<()> {
        let mut node = Node::start(binary, self.extent.max_flows)?;
        node.fill(10, 10)?;
        if let Some(object) = self.datapath {
            node.measure_instead(object)?;
        }
        // What is measured is the kernel's part, which needs no daemon.
        node.end_daemon()?;
        let mut done = 0;
        for flows in self.extent.flows.clone() {
            for kind in Kind::at(flows) {
                self.establish(&node, *kind, done, flows)?;
            }
            done = flows;
            self.established(&node, Hook::Xdp, flows, report)?;
            self.established(&node, Hook::Tc, flows, report)?;
        }
        self.new_flows(&node, report)?;
        self.flood(&node, done, report)?;
        drop(node);
        if self.extent.services.len() > 1 {
            self.services(binary, report)?;
        }
        Ok(())
    }

    /// Opens the flows numbered `from..to` by a handshake through the product's own program, and in the yardsticks' table.
    fn establish(&mut self, node: &Node, kind: Kind, from: u32, to: u32) -> anyhow::Result<()> {
        let (uplink, inside) = (node.uplink(), node.inside());
        let steps = [
            ("SYN", uplink, kind.requests(1, Flags::Syn), Reason::Forwarded),
            ("SYN ACK", inside, kind.replies(1, Flags::SynAck), Reason::Replied),
            ("ACK", uplink, kind.requests(1, Flags::Ack), Reason::Forwarded),
        ];
        let mut first = from;
        while first < to {
            // Powers of two from a power of two on: a batch never passes `to`.
            let flows = BATCH.min(to - first).min(if first == 0 { BATCH } else { 1 << first.trailing_zeros() });
            let flows = 1 << flows.ilog2();
            for (name, ifindex, packets, reason) in &steps {
                let packets = Packets { flows, first, ..packets.clone() };
                let program = node.program(Hook::Tc, *ifindex)?;
                let expected = Expected::All(*reason);
                Member { name, node, hook: Hook::Tc, program, ifindex: *ifindex, packets, count: flows, expected }
                    .run(&mut self.wrapper)?;
            }
            if kind == Kind::Tcp4 {
                let packets = Packets { flows, first, ..kind.requests(1, Flags::Ack) };
                let program = self.wrapper.yardstick(Hook::Xdp, "insert")?;
                node.run(|| self.wrapper.run(Hook::Xdp, &program, uplink, &packets, flows))??;
            }
            first += flows;
        }
        Ok(())
    }

    /// Packets of flows that are known, and packets that are none of ours, at so many flows.
    fn established(&mut self, node: &Node, hook: Hook, flows: u32, report: &mut Report) -> anyhow::Result<()> {
        say(format_args!("{}: {flows} established flows", hook.name()));
        let (uplink, inside) = (node.uplink(), node.inside());
        let count = self.extent.packets.max(flows.saturating_mul(5) / 4);
        let mut members = Vec::new();
        let sent = if hook == Hook::Xdp { XDP_TX } else { TC_REDIRECT };
        let yardsticks: &[&str] = if hook == Hook::Xdp { &["full", "lru", "dnat", "floor"] } else { &["full", "lru"] };
        for name in yardsticks {
            members.push(Member {
                name,
                node,
                hook,
                program: self.wrapper.yardstick(hook, name)?,
                ifindex: uplink,
                packets: Kind::Tcp4.requests(flows, Flags::Ack),
                count,
                expected: Expected::Verdict(sent),
            });
        }
        let mut product = |name, ifindex, packets, expected| -> anyhow::Result<()> {
            let program = node.program(hook, ifindex)?;
            members.push(Member { name, node, hook, program, ifindex, packets, count, expected });
            Ok(())
        };
        let forwarded = Expected::All(Reason::Forwarded);
        let replied = Expected::All(Reason::Replied);
        product("TCP/IPv4 forward", uplink, Kind::Tcp4.requests(flows, Flags::Ack), forwarded)?;
        product("TCP/IPv4 reply", inside, Kind::Tcp4.replies(flows, Flags::Ack), replied)?;
        product("TCP/IPv6 forward", uplink, Kind::Tcp6.requests(flows, Flags::Ack), forwarded)?;
        product("TCP/IPv6 reply", inside, Kind::Tcp6.replies(flows, Flags::Ack), replied)?;
        if Kind::at(flows).contains(&Kind::Udp4) {
            product("UDP/IPv4 forward", uplink, Kind::Udp4.requests(flows, Flags::Ack), forwarded)?;
            product("UDP/IPv6 forward", uplink, Kind::Udp6.requests(flows, Flags::Ack), forwarded)?;
        }
        product("not ours", uplink, elsewhere(flows, "203.0.113.7:80")?, Expected::None)?;
        // The node's own address, at a port that is no node port.
        product("not ours, at an address of ours", uplink, elsewhere(flows, "192.0.2.1:81")?, Expected::None)?;
        let rounds = if flows > 1 << 17 { self.extent.rounds.div_ceil(2) } else { self.extent.rounds };
        let measured = measure::rounds(&mut self.wrapper, &mut members, rounds)?;
        record(&members, &measured, flows, 10, report);
        Ok(())
    }

    /// First packets: with room in the tables, and without.
    fn new_flows(&mut self, node: &Node, report: &mut Report) -> anyhow::Result<()> {
        for hook in [Hook::Xdp, Hook::Tc] {
            say(format_args!("{}: new flows", hook.name()));
            let room = node.map("NEW4")?;
            let aya::maps::Map::LruHashMap(data) = &room else { anyhow::bail!("NEW4 is no LRU hash") };
            let capacity = data.info()?.max_entries();
            // Two entries a flow, and each CPU keeps some back.
            let with_room = capacity / 2 * 3 / 4;
            let mut fresh = FRESH + if hook == Hook::Tc { 1 << 27 } else { 0 };
            for (name, count, clears) in
                [("new flow, with room", with_room, true), ("new flow, while the table evicts", capacity, false)]
            {
                let mut member = Member {
                    name,
                    node,
                    hook,
                    program: node.program(hook, node.uplink())?,
                    ifindex: node.uplink(),
                    packets: Packets { first: fresh, ..Kind::Tcp4.requests(0, Flags::Syn) },
                    count: count.min(lb_yardsticks::WINDOW * (lb_yardsticks::NOTES - 1)),
                    expected: if hook == Hook::Xdp {
                        Expected::Most(Reason::Forwarded)
                    } else {
                        Expected::All(Reason::Forwarded)
                    },
                };
                let mut all =
                    Measured { own: Rounds::default(), floor: Rounds::default(), share: 1.0, frame: Vec::new() };
                if !clears {
                    // Fills it.
                    member.run(&mut self.wrapper)?;
                }
                for _ in 0..self.extent.rounds.div_ceil(2) {
                    if clears {
                        clear(node, "NEW4")?;
                    }
                    let round = measure::rounds(&mut self.wrapper, std::slice::from_mut(&mut member), 1)?;
                    for round in round {
                        all.own.0.extend(round.own.0);
                        all.floor.0.extend(round.floor.0);
                        all.share = all.share.min(round.share);
                    }
                }
                fresh = member.packets.first;
                record(&[member], &[all], 0, 10, report);
            }
        }
        Ok(())
    }

    /// Established flows, busy and idle, while a million sources open connections and never go on.
    fn flood(&mut self, node: &Node, established: u32, report: &mut Report) -> anyhow::Result<()> {
        const SOURCES: u32 = 1 << 20;
        say("XDP: SYN flood");
        let busy = established.min(1024);
        let member = |name, packets, count, expected| -> anyhow::Result<Member<'_>> {
            let ifindex = node.uplink();
            let program = node.program(Hook::Xdp, ifindex)?;
            Ok(Member { name, node, hook: Hook::Xdp, program, ifindex, packets, count, expected })
        };
        let all = Expected::All(Reason::Forwarded);
        let count = self.extent.packets;
        let mut quiet = member("established, without a flood", Kind::Tcp4.requests(busy, Flags::Ack), count, all)?;
        let mut flooded = member("established, in a SYN flood", Kind::Tcp4.requests(busy, Flags::Ack), count, all)?;
        let syns = Packets { first: FRESH << 3, ..Kind::Tcp4.requests(0, Flags::Syn) };
        let rounds = self.extent.rounds;
        let mut flood = member("SYN flood", syns, SOURCES / rounds, Expected::Most(Reason::Forwarded))?;
        let mut measured = [Rounds::default(), Rounds::default()];
        let mut floors = measured.clone();
        for _ in 0..rounds {
            for (index, member) in [&mut quiet, &mut flooded].into_iter().enumerate() {
                if index == 1 {
                    flood.run(&mut self.wrapper)?;
                }
                for round in measure::rounds(&mut self.wrapper, std::slice::from_mut(member), 1)? {
                    measured[index].0.extend(round.own.0);
                    floors[index].0.extend(round.floor.0);
                }
            }
        }
        // Those that were silent all the while.
        member("idle flows after a SYN flood", Kind::Tcp4.requests(established, Flags::Ack), established, all)?
            .run(&mut self.wrapper)?;
        let ratio = statistics::ratio((&measured[1], &floors[1]), (&measured[0], &floors[0]));
        let (own, beneath) = (measured[1].clone(), floors[1].clone());
        let own = Measured { own, floor: beneath, share: 1.0, frame: Vec::new() };
        report.add(Row { ratio: Some(ratio), to: "without the flood".to_owned(), ..row(&flooded, &own, busy, 10) });
        Ok(())
    }

    /// The same packets beside few Services and beside many.
    fn services(&mut self, binary: &Path, report: &mut Report) -> anyhow::Result<()> {
        const FLOWS: u32 = 1024;
        say(format_args!("Services: {:?}", self.extent.services));
        let mut nodes = Vec::new();
        for services in &self.extent.services {
            let mut node = Node::start(binary, self.extent.max_flows)?;
            node.fill(*services, 10)?;
            if let Some(object) = self.datapath {
                node.measure_instead(object)?;
            }
            node.end_daemon()?;
            self.establish(&node, Kind::Tcp4, 0, FLOWS)?;
            nodes.push((*services, node));
        }
        let mut members = Vec::new();
        let mut numbers = Vec::new();
        for (services, node) in &nodes {
            let ifindex = node.uplink();
            let random = {
                let to = SocketAddr::new(FIRST.into(), 80);
                let frame = Kind::Tcp4.frame(Kind::Tcp4.client(), to, Flags::Syn);
                Packets { frame, place: Place::Source4, flows: 0, first: FRESH << 1, services: *services }
            };
            let fresh = Packets { first: FRESH, ..Kind::Tcp4.requests(0, Flags::Syn) };
            for (name, packets, expected) in [
                ("Services: established", Kind::Tcp4.requests(FLOWS, Flags::Ack), Expected::All(Reason::Forwarded)),
                ("Services: new flow to one", fresh, Expected::Most(Reason::Forwarded)),
                ("Services: new flow to any", random, Expected::Most(Reason::Forwarded)),
            ] {
                let program = node.program(Hook::Xdp, ifindex)?;
                let count = self.extent.packets;
                members.push(Member { name, node, hook: Hook::Xdp, program, ifindex, packets, count, expected });
                numbers.push(*services);
            }
        }
        // Fills the tables of new flows, so that all of them evict.
        measure::rounds(&mut self.wrapper, &mut members, 1)?;
        let measured = measure::rounds(&mut self.wrapper, &mut members, self.extent.rounds)?;
        for ((member, own), services) in members.iter().zip(&measured).zip(numbers) {
            // The first of this name is the one with the fewest Services.
            let fewest = members.iter().position(|other| other.name == member.name).map(|index| &measured[index]);
            let ratio = fewest.map(|fewest| statistics::ratio((&own.own, &own.floor), (&fewest.own, &fewest.floor)));
            report.add(Row {
                ratio,
                to: "fewest Services".to_owned(),
                ..row(member, own, member.packets.flows, services)
            });
        }
        Ok(())
    }
}

/// Adds what was measured, each compared with the yardstick among them.
fn record(members: &[Member<'_>], measured: &[Measured], flows: u32, services: u32, report: &mut Report) {
    let yardstick = members.iter().position(|member| member.name == "full").map(|index| &measured[index]);
    for (member, measured) in members.iter().zip(measured) {
        let ratio = yardstick.map(|full| statistics::ratio((&measured.own, &measured.floor), (&full.own, &full.floor)));
        report.add(Row { ratio, to: "yardstick".to_owned(), ..row(member, measured, flows, services) });
    }
}

fn row(member: &Member<'_>, measured: &Measured, flows: u32, services: u32) -> Row {
    Row {
        part: Part::Packet,
        place: member.hook.name().to_owned(),
        name: member.name.to_owned(),
        flows,
        services,
        unit: "ns".to_owned(),
        figure: measured.own.net_of(&measured.floor),
        ratio: None,
        to: String::new(),
        share: measured.share,
    }
}

/// Removes every entry of a table of new flows.
fn clear(node: &Node, name: &str) -> anyhow::Result<()> {
    let mut map: HashMap<_, FlowKey<[u8; 4]>, Flow<[u8; 4]>> = node.map(name)?.try_into()?;
    let keys: Vec<_> = map.keys().flatten().collect();
    for key in keys {
        // One that is gone already is as good.
        map.remove(&key).ok();
    }
    Ok(())
}

/// Packets to an address and port that are no Service's.
fn elsewhere(flows: u32, to: &str) -> anyhow::Result<Packets> {
    let frame = Kind::Tcp4.frame(Kind::Tcp4.client(), to.parse().context("an address")?, Flags::Ack);
    Ok(Packets { frame, place: Place::Source4, flows, first: 0, services: 1 })
}
