//! Part 2: the whole path through a node, from the client's cable to the backend's, against others who do the same.
//!
//! Frames are made at the client's end by a generator in the kernel and counted at the backend's end. In between is
//! everything: the cables, the node's receive path, whoever balances, and the way out. All frames must arrive.

use anyhow::ensure;
use lb_ctl::playground::links::Links;
use lb_ctl::playground::offload::Offload;
use lb_ctl::playground::topology::Node as Role;
use lb_tests::frames;
use lb_yardsticks::Place;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::manifests::{BACKEND_PORT, BACKEND4, FIRST, HOT4};
use crate::node::{Node, client4};
use crate::quiet;
use crate::report::{Part, Report, Row};
use crate::rules::{self, Served};
use crate::statistics::{self, Rounds};
use crate::tools::Tools;
use crate::wrapper::{Packets, Wrapper};
use crate::{Extent, say};

/// Packets of one flow in a run.
const PACKETS: u32 = 1 << 16;
/// New flows in a run: few, since some need a fifth of a millisecond for each.
const FLOWS: u32 = 1 << 13;
/// The number of the first of them.
const FRESH: u32 = 1 << 24;

/// How the yardstick's rows are called.
pub(crate) const YARDSTICK: &str = "the yardstick in its place";

/// Who balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Nobody: the node drops what comes in. What the generator and the cable cost.
    Floor,
    /// Nobody: the client sends to the backend's own address.
    Routing,
    /// We.
    Ours,
    /// The yardstick in our place: what no load balancer at XDP is without.
    Yardstick,
    /// Rules as kube-proxy writes them for nftables.
    Nftables,
    /// Rules as kube-proxy writes them for iptables.
    Iptables,
}

impl Who {
    const fn name(self) -> &'static str {
        match self {
            Who::Floor => "floor",
            Who::Routing => "plain routing",
            Who::Ours => "lb-ctl",
            Who::Yardstick => YARDSTICK,
            Who::Nftables => "nftables",
            Who::Iptables => "iptables",
        }
    }
}

struct Contender {
    who: Who,
    services: u32,
    node: Node,
    ifindex: u32,
    fresh: u32,
}

/// Measures all of it.
pub(crate) fn all(
    binary: &Path,
    tools: &Tools,
    wrapper: &mut Wrapper,
    extent: &Extent,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut contenders = vec![
        Contender::new(Who::Floor, 0, binary, tools, wrapper)?,
        Contender::new(Who::Routing, 0, binary, tools, wrapper)?,
        Contender::new(Who::Yardstick, 0, binary, tools, wrapper)?,
    ];
    let has_iptables = tools.find("iptables-legacy-restore").is_some();
    if !has_iptables {
        report.skip("whole path, iptables: there is no iptables-legacy-restore");
    }
    for services in extent.path.clone() {
        for who in [Who::Ours, Who::Nftables, Who::Iptables] {
            if who != Who::Iptables || has_iptables {
                say(format_args!("whole path: {} with {services} Services", who.name()));
                contenders.push(Contender::new(who, services, binary, tools, wrapper)?);
            }
        }
    }
    for (name, flows, count) in [("UDP, one flow", 1, PACKETS), ("UDP, each packet a new flow", 0, FLOWS)] {
        say(format_args!("whole path: {name}"));
        let mut measured: Vec<Rounds> = contenders.iter().map(|_| Rounds::default()).collect();
        for _ in 0..extent.rounds.div_ceil(2) {
            for (contender, rounds) in contenders.iter_mut().zip(&mut measured) {
                rounds.0.push(quiet::undisturbed(|| contender.run(wrapper, flows, count))?);
            }
        }
        let floor = &measured[0];
        let routing = &measured[1];
        for (contender, rounds) in contenders.iter().zip(&measured) {
            report.add(Row {
                part: Part::Path,
                place: contender.who.name().to_owned(),
                name: name.to_owned(),
                flows,
                services: contender.services,
                unit: "ns".to_owned(),
                figure: if contender.who == Who::Floor {
                    rounds.net_of(&Rounds(rounds.0.iter().map(|_| vec![0.0]).collect()))
                } else {
                    rounds.net_of(floor)
                },
                ratio: (contender.who != Who::Floor).then(|| statistics::ratio((rounds, floor), (routing, floor))),
                to: "plain routing".to_owned(),
                share: 1.0,
            });
        }
    }
    Ok(())
}

impl Contender {
    fn new(who: Who, services: u32, binary: &Path, tools: &Tools, wrapper: &mut Wrapper) -> anyhow::Result<Self> {
        let mut node = if who == Who::Ours {
            Node::start(binary, lb_common::maps::DEFAULT_MAX_FLOWS)?
        } else {
            Node::bare(binary)?
        };
        match who {
            Who::Floor => node.run(|| wrapper.attach("xdp_nothing", "eth0"))??,
            Who::Routing => {}
            Who::Yardstick => {
                let out = Links::open(node.space())?.index("eth1")?;
                wrapper.relay_to(out)?;
                node.run(|| wrapper.attach("xdp_relay", "eth0"))??;
                // Whoever sends frames by an interface has a program there, if it is a veth.
                node.run(|| wrapper.attach("xdp_pass", "eth1"))??;
            }
            Who::Ours => {
                node.fill(services, 10)?;
                node.end_daemon()?;
            }
            Who::Nftables => tools.feed(node.space(), "nft", &["-f", "-"], &rules::nftables(&services_of(services)))?,
            Who::Iptables => {
                tools.feed(node.space(), "iptables-legacy-restore", &[], &rules::iptables(&services_of(services)))?;
            }
        }
        // As a NIC would have it: without NAPI a veth takes no frames that XDP sends.
        Offload::Gro.set(node.space(), "eth0", true)?;
        node.playground().node_space(Role::Two).run(|| wrapper.attach("xdp_count", "eth0"))??;
        let ifindex = Links::open(node.playground().client_space())?.index("eth0")?;
        Ok(Self { who, services, node, ifindex, fresh: FRESH })
    }

    /// Sends `count` packets; all must arrive.
    fn run(&mut self, wrapper: &mut Wrapper, flows: u32, count: u32) -> anyhow::Result<Vec<f64>> {
        let to = if self.who == Who::Routing {
            SocketAddr::new(BACKEND4.into(), BACKEND_PORT)
        } else {
            SocketAddr::new(HOT4.into(), 53)
        };
        let mut frame = frames::udp(SocketAddr::new(client4().into(), 1024), to, &[0x5a; 40]);
        // No checksum (RFC 768), as the source changes; and the IPv4 header's as if both addresses were zero.
        frame[40..42].fill(0);
        let sum = header_checksum_without_addresses(&frame);
        frame[24..26].copy_from_slice(&sum);
        let first = if flows == 0 { self.fresh } else { 0 };
        let packets = Packets { frame, place: Place::Source4, flows, first, services: 1 };
        self.fresh = self.fresh.wrapping_add(count);
        let ifindex = self.ifindex;
        let before = wrapper.arrived()?;
        let windows = self.node.playground().client_space().run(|| wrapper.send(ifindex, &packets, count))??;
        let expected = if self.who == Who::Floor { 0 } else { u64::from(count) };
        let mut arrived = wrapper.arrived()? - before;
        for _ in 0..50 {
            if arrived >= expected {
                break;
            }
            thread::sleep(Duration::from_millis(10));
            arrived = wrapper.arrived()? - before;
        }
        let share = arrived as f64 / f64::from(count);
        ensure!(
            arrived == expected,
            "{} with {} Services delivered {share:.3} of the packets: the figure would be of something else",
            self.who.name(),
            self.services
        );
        Ok(windows)
    }
}

/// The checksum that the IPv4 header of a frame would have if its addresses were zero.
fn header_checksum_without_addresses(frame: &[u8]) -> [u8; 2] {
    let words = frame[14..24].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// So many Services with ten endpoints each, and the one that is measured last.
fn services_of(number: u32) -> Vec<Served> {
    let others = (0..number).map(|number| {
        let address = Ipv4Addr::from_bits(FIRST.to_bits() + number);
        let endpoints = (0..10).map(|index| Ipv4Addr::from_bits(0x0ac8_0000 + (number * 10 + index) % 4096)).collect();
        Served { address, protocol: "tcp", port: 80, endpoints, target: BACKEND_PORT }
    });
    let hot = Served { address: HOT4, protocol: "udp", port: 53, endpoints: vec![BACKEND4], target: BACKEND_PORT };
    others.chain([hot]).collect()
}
