//! Packets of flows that are known, and packets that are none of ours.

use anyhow::{Context, bail};
use lb_common::Reason;
use lb_tests::frames::Flags;
use lb_yardsticks::Place;

use crate::measure::{self, Expected, Member};
use crate::packets::{self, Bench, Kind, Stage};
use crate::report::Report;
use crate::say;
use crate::statistics;
use crate::wrapper::{Hook, Packets};

/// What the yardstick may cost in lookups of an LRU hash, else a run says nothing.
pub(crate) const YARDSTICK_LIMIT: f64 = 1.9;

const XDP_TX: u32 = 3;
const TC_REDIRECT: u32 = 7;

/// What the tables are made for, at any number of flows, since their size shows in the figures: the table of confirmed flows
/// has four entries for each of the most flows.
const MAX_FLOWS: u32 = 1 << 19;

/// Measures all numbers of flows.
pub(crate) fn all(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    // TCP and UDP share tables, so each has a stage of its own.
    for kinds in [[Kind::Tcp4, Kind::Tcp6], [Kind::Udp4, Kind::Udp6]] {
        if !kinds[0].is_tcp() && !bench.extent.udp {
            continue;
        }
        let mut stage = well_placed(bench)?;
        let mut done = 0;
        for flows in bench.extent.flows.clone() {
            for kind in kinds {
                stage.establish(kind, done, flows)?;
            }
            done = flows;
            for hook in [Hook::Xdp, Hook::Tc] {
                at(bench, &mut stage, hook, kinds, flows, report)?;
            }
        }
    }
    Ok(())
}

/// A stage on which the yardstick is one. Where programs and maps come to lie in memory changes figures, now and then by a fifth;
/// loaded anew they lie elsewhere.
fn well_placed(bench: &Bench<'_>) -> anyhow::Result<Stage> {
    const ATTEMPTS: u32 = 4;
    let mut attempt = 1;
    loop {
        let mut stage = bench.stage(MAX_FLOWS, 10)?;
        stage.establish(Kind::Tcp4, 0, 1)?;
        let Stage { node, wrapper } = &mut stage;
        let (ifindex, hook, count) = (node.uplink(), Hook::Xdp, bench.extent.packets);
        let mut members = Vec::new();
        for name in ["full", "lru"] {
            let program = wrapper.yardstick(hook, name)?;
            let packets = Kind::Tcp4.requests(1, Flags::Ack);
            members.push(Member {
                name,
                node,
                hook,
                program,
                ifindex,
                packets,
                count,
                expected: Expected::Verdict(XDP_TX),
            });
        }
        let measured = measure::rounds(wrapper, &mut members, 5)?;
        let [full, lru] = &measured[..] else { bail!("two were measured") };
        let ratio = statistics::ratio((&full.own, &full.floor), (&lru.own, &lru.floor)).best;
        drop(members);
        if ratio <= YARDSTICK_LIMIT || attempt == ATTEMPTS {
            return Ok(stage);
        }
        say(format_args!("the yardstick is {ratio:.2} times one lookup: its programs are loaded anew"));
        attempt += 1;
    }
}

fn at(
    bench: &Bench<'_>,
    stage: &mut Stage,
    hook: Hook,
    kinds: [Kind; 2],
    flows: u32,
    report: &mut Report,
) -> anyhow::Result<()> {
    let is_tcp = kinds[0].is_tcp();
    say(format_args!("{}: {flows} established flows of {}", hook.name(), if is_tcp { "TCP" } else { "UDP" }));
    let Stage { node, wrapper } = stage;
    let uplink = node.uplink();
    let count = bench.extent.packets.max(flows.saturating_mul(5) / 4);
    let mut members = Vec::new();
    // The yardsticks know no checksum of UDP: beside that, product is only compared with product.
    let yardsticks: &[&str] = match hook {
        _ if !is_tcp => &[],
        Hook::Xdp => &["full", "lru", "dnat", "floor", "pairs"],
        Hook::Tc => &["full", "lru", "pairs"],
    };
    for name in yardsticks {
        members.push(Member {
            name,
            node,
            hook,
            program: wrapper.yardstick(hook, name)?,
            ifindex: uplink,
            packets: kinds[0].requests(flows, Flags::Ack),
            count,
            expected: Expected::Verdict(if hook == Hook::Xdp { XDP_TX } else { TC_REDIRECT }),
        });
    }
    let mut product = |name, ifindex, packets: Packets, expected| -> anyhow::Result<()> {
        for (name, program) in node.programs(hook, ifindex, name)? {
            members.push(Member { name, node, hook, program, ifindex, packets: packets.clone(), count, expected });
        }
        Ok(())
    };
    for kind in kinds {
        let [forward, reply] = names(kind);
        product(forward, uplink, kind.requests(flows, Flags::Ack), Expected::All(Reason::Forwarded))?;
        product(reply, uplink, kind.replies(flows, Flags::Ack), Expected::All(Reason::Replied))?;
    }
    if is_tcp {
        product("not ours", uplink, elsewhere(flows, "203.0.113.7:80")?, Expected::None)?;
        // The node's own address, at a port that is no node port.
        product("not ours, at an address of ours", uplink, elsewhere(flows, "192.0.2.1:81")?, Expected::None)?;
    }
    let rounds = if flows > 1 << 17 { bench.extent.rounds.div_ceil(3) } else { bench.extent.rounds };
    let measured = measure::rounds(wrapper, &mut members, rounds)?;
    packets::record(&members, &measured, flows, 10, report);
    drop(members);
    if flows == 1 && is_tcp && hook == Hook::Xdp { two_arms(bench, stage, count, report) } else { Ok(()) }
}

/// The same packet where it leaves by another interface than it came in by, which takes a call of the kernel's.
fn two_arms(bench: &Bench<'_>, stage: &mut Stage, count: u32, report: &mut Report) -> anyhow::Result<()> {
    let Stage { node, wrapper } = stage;
    node.route_hot(false)?;
    let (ifindex, hook, packets) = (node.uplink(), Hook::Xdp, Kind::Tcp4.requests(1, Flags::Ack));
    let yardstick = wrapper.yardstick(hook, "full")?;
    let verdict = Expected::Verdict(XDP_TX);
    let full = Member { name: "full", node, hook, program: yardstick, ifindex, packets, count, expected: verdict };
    let (program, expected) = (node.program(hook, ifindex)?, Expected::All(Reason::Forwarded));
    let name = "TCP/IPv4 forward, to another interface";
    let packets = Kind::Tcp4.requests(1, Flags::Ack);
    let own = Member { name, node, hook, program, ifindex, packets, count, expected };
    let mut members = [full, own];
    let measured = measure::rounds(wrapper, &mut members, bench.extent.rounds)?;
    packets::record(&members, &measured, 1, 10, report);
    // The first row of this name stands.
    report.rows.remove(report.rows.len() - 2);
    node.route_hot(true)
}

const fn names(kind: Kind) -> [&'static str; 2] {
    match kind {
        Kind::Tcp4 => ["TCP/IPv4 forward", "TCP/IPv4 reply"],
        Kind::Tcp6 => ["TCP/IPv6 forward", "TCP/IPv6 reply"],
        Kind::Udp4 => ["UDP/IPv4 forward", "UDP/IPv4 reply"],
        Kind::Udp6 => ["UDP/IPv6 forward", "UDP/IPv6 reply"],
    }
}

/// Packets to an address and port that are no Service's.
fn elsewhere(flows: u32, to: &str) -> anyhow::Result<Packets> {
    let frame = Kind::Tcp4.frame(Kind::Tcp4.client(), to.parse().context("an address")?, Flags::Ack);
    Ok(Packets { frame, place: Place::Source4, flows, first: 0, services: 1 })
}
