//! The same packets beside few Services and beside many.

use lb_common::{Reason, maps};
use lb_tests::frames::Flags;
use lb_yardsticks::Place;
use std::net::SocketAddr;

use crate::manifests::FIRST;
use crate::measure::{self, Expected, Member};
use crate::packets::{Bench, FRESH, Kind, Stage, row};
use crate::report::{Report, Row};
use crate::say;
use crate::statistics;
use crate::wrapper::{Hook, Packets};

/// Flows that are established.
const FLOWS: u32 = 1024;
/// What the tables are made for, beside few Services too: their size shows in the figures. The tables of Services have half as
/// many entries.
const MAX_FLOWS: u32 = 3 << 17;

/// The yardsticks' rows: what nobody who translates both ways can leave out of a new flow, with a record, members and a counter for
/// each Service. The record is found in a hash of the kernel's, or stands at a place that the address itself tells.
const SOUGHT: &str = "Services: the least for any, in a hash";
/// The bound: nothing is faster than no search.
pub(crate) const LEAST: &str = "Services: the least for any, not sought";

const XDP_TX: u32 = 3;

/// First packets to the first Service, or to those behind it.
fn to_any() -> Packets {
    let to = SocketAddr::new(FIRST.into(), 80);
    let frame = Kind::Tcp4.frame(Kind::Tcp4.client(), to, Flags::Syn);
    Packets { frame, place: Place::Source4, flows: 0, first: FRESH << 1, services: 1 }
}

/// Fills the flow tables with flows that nobody has met, so that later ones have them make way.
fn fill(Stage { node, wrapper }: &mut Stage) -> anyhow::Result<()> {
    let ifindex = node.uplink();
    let name = "fills the tables";
    let packets = Packets { first: FRESH << 2, ..Kind::Tcp4.requests(0, Flags::Syn) };
    let count = maps::entries_for(maps::FLOWS4, MAX_FLOWS);
    let program = node.program(Hook::Xdp, ifindex)?;
    let expected = Expected::Most(Reason::Forwarded);
    let mut member = Member { name, node, hook: Hook::Xdp, program, ifindex, packets, count, expected };
    member.run(wrapper).map(drop)
}

/// Measures all numbers of Services, round by round.
pub(crate) fn all(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    let mut stages = Vec::new();
    for services in &bench.extent.services {
        say(format_args!("a node with {services} Services"));
        let mut stage = bench.stage(MAX_FLOWS, *services)?;
        stage.establish(Kind::Tcp4, 0, FLOWS)?;
        fill(&mut stage)?;
        stages.push((*services, stage));
    }
    let mut members = Vec::new();
    let mut numbers = Vec::new();
    for (services, Stage { node, .. }) in &stages {
        let ifindex = node.uplink();
        let random = Packets { services: *services, ..to_any() };
        let fresh = Packets { first: FRESH, ..Kind::Tcp4.requests(0, Flags::Syn) };
        for (name, packets, expected) in [
            ("Services: established", Kind::Tcp4.requests(FLOWS, Flags::Ack), Expected::All(Reason::Forwarded)),
            ("Services: new flow to one", fresh, Expected::Most(Reason::Forwarded)),
            ("Services: new flow to any", random, Expected::Most(Reason::Forwarded)),
        ] {
            let count = bench.extent.packets;
            for (build, (name, program)) in (0..).zip(node.programs(Hook::Xdp, ifindex, name)?) {
                // New flows are to be new for each build.
                let first = if packets.flows == 0 { packets.first + (build << 22) } else { packets.first };
                let packets = Packets { first, ..packets.clone() };
                members.push(Member { name, node, hook: Hook::Xdp, program, ifindex, packets, count, expected });
                numbers.push(*services);
            }
        }
    }
    let mut wrapper = crate::wrapper::Wrapper::load(bench.yardsticks, MAX_FLOWS)?;
    // What a Service of its own costs at least: the same yardstick on few Services and on many.
    let mut least = Vec::new();
    for (name, yardstick) in [(SOUGHT, "opened_sought"), (LEAST, "opened_known")] {
        least.push((name, wrapper.yardstick(Hook::Xdp, yardstick)?));
    }
    wrapper.enter_records(FIRST, bench.extent.services.iter().copied().max().unwrap_or(0))?;
    let mut first = to_any().first;
    for (services, Stage { node, .. }) in &stages {
        for (name, program) in &least {
            // All make their entries in one table, where replies to the clients of one Service are those to another's.
            first += FRESH << 2;
            let packets = Packets { services: *services, first, ..to_any() };
            let (ifindex, count, expected) = (node.uplink(), bench.extent.packets, Expected::Verdict(XDP_TX));
            let program = program.try_clone()?;
            members.push(Member { name, node, hook: Hook::Xdp, program, ifindex, packets, count, expected });
            numbers.push(*services);
        }
    }
    say("the same packets beside few Services and beside many");
    // Warms up.
    measure::rounds(&mut wrapper, &mut members, 1)?;
    let measured = measure::rounds(&mut wrapper, &mut members, bench.extent.rounds.div_ceil(2))?;
    for ((member, own), services) in members.iter().zip(&measured).zip(numbers) {
        // The first of this name is the one with the fewest Services.
        let fewest = members.iter().position(|other| other.name == member.name).map(|index| &measured[index]);
        let ratio = fewest.map(|fewest| statistics::ratio((&own.own, &own.floor), (&fewest.own, &fewest.floor)));
        report.add(Row { ratio, to: "fewest Services".to_owned(), ..row(member, own, member.packets.flows, services) });
    }
    Ok(())
}
