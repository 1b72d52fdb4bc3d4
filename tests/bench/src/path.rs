//! Part 2: the whole path through a node, from the client's cable to the backend's, against others who do the same.
//!
//! Frames are made at the client's end by a generator in the kernel and counted at the backend's end. In between is
//! everything: the cables, the node's receive path, whoever balances, and the way out. All frames must arrive.

use anyhow::{Context, ensure};
use lb_ctl::playground::links::Links;
use lb_ctl::playground::offload::Offload;
use lb_ctl::playground::topology::Node as Role;
use lb_tests::frames;
use lb_yardsticks::Place;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::manifests::{self, BACKEND_PORT, BACKEND4, FIRST, HOT4};
use crate::node::{Node, client4};
use crate::report::{Part, Report, Row};
use crate::statistics::{self, Rounds};
use crate::wrapper::{Packets, Wrapper};
use crate::{Extent, say};

/// Packets of one flow in a run.
const PACKETS: u32 = 1 << 16;
/// New flows in a run: few, since some need a fifth of a millisecond for each.
const FLOWS: u32 = 1 << 13;
/// The number of the first of them.
const FRESH: u32 = 1 << 24;

/// Who balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Nobody: the node drops what comes in. What the generator and the cable cost.
    Floor,
    /// Nobody: the client sends to the backend's own address.
    Routing,
    /// We.
    Ours,
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
pub(crate) fn all(binary: &Path, wrapper: &mut Wrapper, extent: &Extent, report: &mut Report) -> anyhow::Result<()> {
    let mut contenders =
        vec![Contender::new(Who::Floor, 0, binary, wrapper)?, Contender::new(Who::Routing, 0, binary, wrapper)?];
    let iptables = ["iptables-legacy-restore", "iptables-restore"].into_iter().find(|program| exists(program));
    if iptables.is_none() {
        report.skip("whole path, iptables: iptables is not installed (`cargo xtask bench --setup`)");
    }
    for services in extent.path.clone() {
        for who in [Who::Ours, Who::Nftables, Who::Iptables] {
            if who != Who::Iptables || iptables.is_some() {
                say(format_args!("whole path: {} with {services} Services", who.name()));
                contenders.push(Contender::new(who, services, binary, wrapper)?);
            }
        }
    }
    for (name, flows, count) in [("UDP, one flow", 1, PACKETS), ("UDP, each packet a new flow", 0, FLOWS)] {
        say(format_args!("whole path: {name}"));
        let mut measured: Vec<Rounds> = contenders.iter().map(|_| Rounds::default()).collect();
        for _ in 0..extent.rounds.div_ceil(2) {
            for (contender, rounds) in contenders.iter_mut().zip(&mut measured) {
                rounds.0.push(contender.run(wrapper, flows, count)?);
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
    for peer in ["haproxy", "nginx", "wrk", "iperf3"] {
        report.skip(format!("applications: {peer} is not compared yet"));
    }
    Ok(())
}

impl Contender {
    fn new(who: Who, services: u32, binary: &Path, wrapper: &mut Wrapper) -> anyhow::Result<Self> {
        let mut node = if who == Who::Ours {
            Node::start(binary, lb_common::maps::DEFAULT_MAX_FLOWS)?
        } else {
            Node::bare(binary)?
        };
        match who {
            Who::Floor => node.run(|| wrapper.attach("xdp_nothing", "eth0"))??,
            Who::Routing => {}
            Who::Ours => {
                node.fill(services, 10)?;
                node.end_daemon()?;
            }
            Who::Nftables => feed(&node, "nft", &["-f", "-"], &nftables(services))?,
            Who::Iptables => {
                let program =
                    if exists("iptables-legacy-restore") { "iptables-legacy-restore" } else { "iptables-restore" };
                feed(&node, program, &[], &iptables(services))?;
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

fn exists(program: &str) -> bool {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().any(|directory| Path::new(directory).join(program).exists())
}

/// Runs a program in the node's namespace with `text` on its standard input.
fn feed(node: &Node, program: &str, arguments: &[&str], text: &str) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped());
    let mut child = node.space().spawn(&mut command)?;
    child.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "{program} refuses the rules: {status}");
    Ok(())
}

/// Address, protocol, port and endpoints of all Services, the one that is measured last.
fn services(number: u32) -> impl Iterator<Item = (Ipv4Addr, &'static str, u16, Vec<Ipv4Addr>)> {
    let others = (0..number).map(|number| {
        let address = Ipv4Addr::from_bits(FIRST.to_bits() + number);
        let endpoints = (0..10).map(|index| Ipv4Addr::from_bits(0x0ac8_0000 + (number * 10 + index) % 4096)).collect();
        (address, "tcp", 80, endpoints)
    });
    others.chain([(HOT4, "udp", 53, vec![manifests::BACKEND4])])
}

/// What kube-proxy writes in its mode nftables (`pkg/proxy/nftables/proxier.go`), for a cluster whose network it is not told: a verdict map from address, protocol and port
/// to the Service's chain, there a random choice, and a chain for each endpoint.
fn nftables(number: u32) -> String {
    let mut chains = String::new();
    let mut elements = Vec::new();
    for (index, (address, protocol, port, endpoints)) in services(number).enumerate() {
        let mut choices = Vec::new();
        for (place, endpoint) in endpoints.iter().enumerate() {
            writeln!(
                chains,
                "chain endpoint-{index}-{place} {{ ip saddr {endpoint} jump mark-for-masquerade; meta l4proto {protocol} dnat to {endpoint}:{BACKEND_PORT}; }}"
            )
            .expect("a String takes all");
            choices.push(format!("{place} : goto endpoint-{index}-{place}"));
        }
        writeln!(
            chains,
            "chain service-{index} {{ numgen random mod {} vmap {{ {} }}; }}",
            choices.len(),
            choices.join(", ")
        )
        .expect("a String takes all");
        elements.push(format!("{address} . {protocol} . {port} : goto service-{index}"));
    }
    format!(
        "table ip kube-proxy {{
chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
chain masquerading {{ meta mark and 0x4000 == 0 return; meta mark set meta mark xor 0x4000; masquerade fully-random; }}
{chains}map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }} }}
chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; }}
chain nat-prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump services; }}
chain nat-output {{ type nat hook output priority -100; policy accept; jump services; }}
chain nat-postrouting {{ type nat hook postrouting priority srcnat; policy accept; jump masquerading; }}
}}
",
        elements.join(",\n")
    )
}

/// What kube-proxy writes in its mode iptables (`pkg/proxy/iptables/proxier.go`): one rule for each Service in one list, there a
/// rule for each endpoint with its probability, and a chain for each endpoint.
fn iptables(number: u32) -> String {
    let mut chains = String::from(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-NODEPORTS - [0:0]\n",
    );
    let mut rules = String::from(
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
",
    );
    for (index, (address, protocol, port, endpoints)) in services(number).enumerate() {
        writeln!(chains, ":KUBE-SVC-{index} - [0:0]").expect("a String takes all");
        writeln!(
            rules,
            "-A KUBE-SERVICES -d {address}/32 -p {protocol} -m {protocol} --dport {port} -j KUBE-SVC-{index}"
        )
        .expect("a String takes all");
        for (place, endpoint) in endpoints.iter().enumerate() {
            let left = endpoints.len() - place;
            let chance = if left > 1 {
                format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64)
            } else {
                String::new()
            };
            writeln!(chains, ":KUBE-SEP-{index}-{place} - [0:0]").expect("a String takes all");
            write!(
                rules,
                "-A KUBE-SVC-{index} {chance}-j KUBE-SEP-{index}-{place}
-A KUBE-SEP-{index}-{place} -s {endpoint}/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-{index}-{place} -p {protocol} -m {protocol} -j DNAT --to-destination {endpoint}:{BACKEND_PORT}
"
            )
            .expect("a String takes all");
        }
    }
    rules += "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n";
    format!("{chains}{rules}COMMIT\n")
}
