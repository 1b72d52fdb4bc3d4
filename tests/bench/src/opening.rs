//! First packets of flows: with room in the tables, and without.
//!
//! The bound is a yardstick that does what nobody who translates both ways can leave out, with entries of the product's size in
//! tables of its size: neither tuple is known yet, whom the Service has, the way out, the two entries.

use anyhow::Context;
use aya::maps::{HashMap, Map, MapData};
use lb_common::maps::{self, DEFAULT_MAX_FLOWS};
use lb_common::{Flow, FlowKey, Reason};
use lb_ctl::datapath::flow_table::FlowTable;
use lb_tests::frames::Flags;

use crate::measure::{self, Expected, Measured, Member};
use crate::node::Node;
use crate::packets::{Bench, FRESH, Kind, Stage, row};
use crate::report::{Report, Row};
use crate::say;
use crate::statistics;
use crate::wrapper::{Hook, Packets};

/// What the rows are compared with: nobody who translates both ways does less.
pub(crate) const BOUND: &str = "the least";

/// Measures both, at both hooks.
pub(crate) fn all(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    let mut stage = bench.stage(DEFAULT_MAX_FLOWS, 10)?;
    // The yardsticks' Service is entered with their first flow.
    stage.establish(Kind::Tcp4, 0, 1)?;
    for hook in [Hook::Xdp, Hook::Tc] {
        say(format_args!("{}: new flows", hook.name()));
        for has_room in [true, false] {
            at(bench, &mut stage, hook, has_room, report)?;
        }
    }
    Ok(())
}

fn at(bench: &Bench<'_>, stage: &mut Stage, hook: Hook, has_room: bool, report: &mut Report) -> anyhow::Result<()> {
    let Stage { node, wrapper } = stage;
    let flows = maps::entries_for(maps::FLOWS4, DEFAULT_MAX_FLOWS) / 2;
    // Each CPU keeps some back.
    let count = flows / 8;
    let ifindex = node.uplink();
    let mut members: Vec<Member<'_>> = Vec::new();
    let mut add = |name, program, expected| {
        // Flows that nobody has met.
        let number = members.len() as u32 + 8 * (u32::from(hook == Hook::Tc) * 2 + u32::from(has_room));
        let packets = Packets { first: FRESH + (number << 25), ..Kind::Tcp4.requests(0, Flags::Syn) };
        members.push(Member { name, node, hook, program, ifindex, packets, count, expected });
    };
    let (of_product, of_yardstick) = if hook == Hook::Xdp {
        (Expected::Most(Reason::Forwarded), Expected::Verdict(XDP_TX))
    } else {
        (Expected::All(Reason::Forwarded), Expected::Verdict(TC_REDIRECT))
    };
    let [own, least, two] = if has_room {
        ["new flow, with room", LEAST[0], "two entries, with room"]
    } else {
        ["new flow, while the table evicts", LEAST[1], "two entries, while the table evicts"]
    };
    for (name, program) in node.programs(hook, ifindex, own)? {
        add(name, program, of_product);
    }
    if hook == Hook::Xdp {
        add(least, wrapper.yardstick(hook, "opened")?, of_yardstick);
        add(two, wrapper.yardstick(hook, "born")?, of_yardstick);
    }
    if !has_room {
        // Fills the tables.
        measure::rounds(wrapper, &mut members, flows.div_ceil(count) + 1)?;
    }
    let mut all: Vec<Measured> = members.iter().map(|_| Measured::empty()).collect();
    for _ in 0..bench.extent.rounds {
        for (member, all) in members.iter_mut().zip(&mut all) {
            if has_room {
                forget(node)?;
                clear(wrapper.map("BORN")?)?;
            }
            for round in measure::rounds(wrapper, std::slice::from_mut(member), 1)? {
                all.extend(round);
            }
        }
    }
    let bound = members.iter().position(|member| LEAST.contains(&member.name)).map(|index| &all[index]);
    for (member, own) in members.iter().zip(&all) {
        let ratio = bound.map(|bound| statistics::ratio((&own.own, &own.floor), (&bound.own, &bound.floor)));
        report.add(Row { ratio, to: BOUND.to_owned(), ..row(member, own, 0, 10) });
    }
    Ok(())
}

/// The names of the bounds: with room, and while the table evicts.
const LEAST: [&str; 2] = ["the least for a new flow, with room", "the least for a new flow, while the table evicts"];

const XDP_TX: u32 = 3;
const TC_REDIRECT: u32 = 7;

/// Removes every flow of the product that does not keep its place.
fn forget(node: &Node) -> anyhow::Result<()> {
    let pin = node.find(maps::FLOWS4).context("the flows are not pinned")?;
    let table = FlowTable::<[u8; 4]>::open(pin.parent().unwrap_or(&pin), maps::FLOWS4)?;
    for entry in table.iter() {
        let (key, flow) = entry?;
        // One that is gone already is as good.
        if !Flow::<[u8; 4]>::keeps_place(flow.flags) {
            table.delete(&key)?;
        }
    }
    Ok(())
}

/// Removes every entry of a yardstick's table.
fn clear(map: MapData) -> anyhow::Result<()> {
    let mut map: HashMap<_, FlowKey<[u8; 4]>, Flow<[u8; 4]>> = Map::LruHashMap(map).try_into()?;
    let keys: Vec<_> = map.keys().flatten().collect();
    for key in keys {
        map.remove(&key).ok();
    }
    Ok(())
}
