//! First packets of flows: with room in the tables, and without.
//!
//! The bound is a yardstick that makes the two entries of a flow, of the product's size and in a table of its size, and does
//! nothing else.

use anyhow::bail;
use aya::maps::{HashMap, Map, MapData};
use lb_common::maps::{self, DEFAULT_MAX_FLOWS};
use lb_common::{Flow, FlowKey, Reason};
use lb_tests::frames::Flags;

use crate::measure::{self, Expected, Measured, Member};
use crate::packets::{Bench, FRESH, Kind, Stage, row};
use crate::report::{Report, Row};
use crate::say;
use crate::statistics::{self, Rounds};
use crate::wrapper::{Hook, Packets};

/// What the product's row is compared with.
pub(crate) const BOUND: &str = "two entries, nothing else";

/// Measures both, at both hooks.
pub(crate) fn all(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    let mut stage = bench.stage(DEFAULT_MAX_FLOWS, 10)?;
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
    let capacity = maps::entries_for(maps::NEW4, DEFAULT_MAX_FLOWS);
    // Two entries a flow, and each CPU keeps some back.
    let count = if has_room { capacity / 2 * 3 / 4 } else { capacity };
    let number = u32::from(hook == Hook::Tc) * 2 + u32::from(has_room);
    let packets = Packets { first: FRESH + (number << 27), ..Kind::Tcp4.requests(0, Flags::Syn) };
    let ifindex = node.uplink();
    let expected = match hook {
        Hook::Xdp => Expected::Most(Reason::Forwarded),
        Hook::Tc => Expected::All(Reason::Forwarded),
    };
    let name = if has_room { "new flow, with room" } else { "new flow, while the table evicts" };
    let program = node.program(hook, ifindex)?;
    let mut members = vec![Member { name, node, hook, program, ifindex, packets: packets.clone(), count, expected }];
    if hook == Hook::Xdp {
        let name = if has_room { "two entries, with room" } else { "two entries, while the table evicts" };
        let program = wrapper.yardstick(hook, "born")?;
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
    if !has_room {
        // Fills the tables.
        measure::rounds(wrapper, &mut members, 1)?;
    }
    let mut all: Vec<Measured> = members.iter().map(|_| Measured::empty()).collect();
    for _ in 0..bench.extent.rounds {
        if has_room {
            clear(node.map(maps::NEW4)?)?;
            clear(Map::LruHashMap(wrapper.map("BORN")?))?;
        }
        for (all, round) in all.iter_mut().zip(measure::rounds(wrapper, &mut members, 1)?) {
            all.extend(round);
        }
    }
    let bound = all.get(1).map(|bound| (&bound.own, &bound.floor));
    for (member, own) in members.iter().zip(&all) {
        let ratio = bound.map(|bound: (&Rounds, &Rounds)| statistics::ratio((&own.own, &own.floor), bound));
        report.add(Row { ratio, to: BOUND.to_owned(), ..row(member, own, 0, 10) });
    }
    Ok(())
}

const XDP_TX: u32 = 3;

/// Removes every entry of a table of new flows.
fn clear(map: Map) -> anyhow::Result<()> {
    let Map::LruHashMap(data) = map else { bail!("a table of new flows is no LRU hash") };
    let mut map: HashMap<MapData, FlowKey<[u8; 4]>, Flow<[u8; 4]>> = Map::LruHashMap(data).try_into()?;
    let keys: Vec<_> = map.keys().flatten().collect();
    for key in keys {
        // One that is gone already is as good.
        map.remove(&key).ok();
    }
    Ok(())
}
