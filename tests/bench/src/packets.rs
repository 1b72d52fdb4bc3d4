//! Part 1: what a packet costs, program against yardstick. Here is what its measurements share; [`crate::established`],
//! [`crate::opening`], [`crate::flood`] and [`crate::scale`] make them.

use lb_common::Reason;
use lb_tests::frames::{self, Flags};
use lb_yardsticks::Place;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::Extent;
use crate::manifests::{BACKEND_PORT, BACKEND4, BACKEND6, HOT4, HOT6};
use crate::measure::{Expected, Measured, Member};
use crate::node::{Node, client4, client6};
use crate::report::{Part, Report, Row};
use crate::statistics;
use crate::wrapper::{Hook, Packets, Wrapper};

/// Bytes of every frame at least: what the wrapper restores.
const FRAME: usize = lb_yardsticks::HEAD;
/// Flows that are opened at once: so many are confirmed before the next.
const BATCH: u32 = 1 << 14;
/// Where the numbers of flows that are opened while measuring begin.
pub(crate) const FRESH: u32 = 1 << 24;

/// Families and protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
}

impl Kind {
    pub(crate) const fn is_v4(self) -> bool {
        matches!(self, Kind::Tcp4 | Kind::Udp4)
    }

    pub(crate) const fn is_tcp(self) -> bool {
        matches!(self, Kind::Tcp4 | Kind::Tcp6)
    }

    pub(crate) fn client(self) -> SocketAddr {
        SocketAddr::new(if self.is_v4() { client4().into() } else { client6().into() }, 1024)
    }

    fn service(self) -> SocketAddr {
        let address: IpAddr = if self.is_v4() { HOT4.into() } else { HOT6.into() };
        SocketAddr::new(address, if self.is_tcp() { 80 } else { 53 })
    }

    fn backend(self) -> SocketAddr {
        SocketAddr::new(if self.is_v4() { BACKEND4.into() } else { BACKEND6.into() }, BACKEND_PORT)
    }

    pub(crate) fn frame(self, from: SocketAddr, to: SocketAddr, flags: Flags) -> Vec<u8> {
        // Ethernet, IP and transport headers.
        let headers = 14 + if self.is_v4() { 20 } else { 40 } + if self.is_tcp() { 20 } else { 8 };
        let payload = vec![0x5a; FRAME.saturating_sub(headers)];
        if self.is_tcp() { frames::tcp(from, to, flags, &payload) } else { frames::udp(from, to, &payload) }
    }

    /// Requests of so many flows.
    pub(crate) fn requests(self, flows: u32, flags: Flags) -> Packets {
        let place = if self.is_v4() { Place::Source4 } else { Place::Source6 };
        let frame = self.frame(self.client(), self.service(), flags);
        Packets { frame, place, flows, first: 0, services: 1 }
    }

    /// Replies of so many flows.
    pub(crate) fn replies(self, flows: u32, flags: Flags) -> Packets {
        let place = if self.is_v4() { Place::Destination4 } else { Place::Destination6 };
        let frame = self.frame(self.backend(), self.client(), flags);
        Packets { frame, place, flows, first: 0, services: 1 }
    }
}

/// What all of part 1 is measured with.
pub(crate) struct Bench<'a> {
    pub(crate) lb_ctl: &'a Path,
    pub(crate) yardsticks: &'a Path,
    pub(crate) extent: &'a Extent,
    /// A build of the datapath to measure in place of what the daemon attached.
    pub(crate) datapath: Option<&'a Path>,
    /// Builds to measure beside it.
    pub(crate) beside: &'a [PathBuf],
}

impl Bench<'_> {
    /// A stage with so many Services, its tables made for `max_flows` flows.
    pub(crate) fn stage(&self, max_flows: u32, services: u32) -> anyhow::Result<Stage> {
        let mut node = Node::start(self.lb_ctl, max_flows)?;
        node.route_hot(true)?;
        node.fill(services, 10)?;
        if let Some(object) = self.datapath {
            node.measure_instead(object)?;
        }
        for object in self.beside {
            node.measure_beside(object)?;
        }
        // What is measured is the kernel's part, which needs no daemon.
        node.end_daemon()?;
        Ok(Stage { node, wrapper: Wrapper::load(self.yardsticks, max_flows)? })
    }
}

/// A node, and yardsticks whose tables are of the size of the node's.
pub(crate) struct Stage {
    pub(crate) node: Node,
    pub(crate) wrapper: Wrapper,
}

impl Stage {
    /// Opens the flows numbered `from..to` by a handshake through the product's own program, and in the yardsticks' table.
    pub(crate) fn establish(&mut self, kind: Kind, from: u32, to: u32) -> anyhow::Result<()> {
        let node = &self.node;
        let uplink = node.uplink();
        let steps = [
            ("SYN", uplink, kind.requests(1, Flags::Syn), Reason::Forwarded),
            ("SYN ACK", uplink, kind.replies(1, Flags::SynAck), Reason::Replied),
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
            if kind.is_v4() {
                let packets = Packets { flows, first, ..kind.requests(1, Flags::Ack) };
                let program = self.wrapper.yardstick(Hook::Xdp, "insert")?;
                node.run(|| self.wrapper.run(Hook::Xdp, &program, uplink, &packets, flows))??;
            }
            first += flows;
        }
        Ok(())
    }
}

/// Adds what was measured, each compared with the yardstick among them.
pub(crate) fn record(members: &[Member<'_>], measured: &[Measured], flows: u32, services: u32, report: &mut Report) {
    let yardstick = members.iter().position(|member| member.name == "full").map(|index| &measured[index]);
    for (member, measured) in members.iter().zip(measured) {
        let ratio = yardstick.map(|full| statistics::ratio((&measured.own, &measured.floor), (&full.own, &full.floor)));
        report.add(Row { ratio, to: "yardstick".to_owned(), ..row(member, measured, flows, services) });
    }
}

pub(crate) fn row(member: &Member<'_>, measured: &Measured, flows: u32, services: u32) -> Row {
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
