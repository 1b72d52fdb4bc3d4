//! Established flows, busy and idle, while a million sources open connections and never go on.

use lb_common::Reason;
use lb_common::maps::DEFAULT_MAX_FLOWS;
use lb_tests::frames::Flags;

use crate::measure::{self, Expected, Measured, Member};
use crate::packets::{Bench, FRESH, Kind, Stage, row};
use crate::report::{Report, Row};
use crate::say;
use crate::statistics;
use crate::wrapper::{Hook, Packets};

/// Sources that open a connection each, over the whole measurement.
const SOURCES: u32 = 1 << 20;
/// Flows that are established: they take a quarter of the table.
const ESTABLISHED: u32 = DEFAULT_MAX_FLOWS / 2;
/// Flows that send all the while; the others are idle until the end.
const BUSY: u32 = 1024;

/// Measures it.
pub(crate) fn all(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    say("XDP: SYN flood");
    let mut stage = bench.stage(DEFAULT_MAX_FLOWS, 10)?;
    stage.establish(Kind::Tcp4, 0, ESTABLISHED)?;
    let Stage { node, wrapper } = &mut stage;
    let member = |name, packets, count, expected| -> anyhow::Result<Member<'_>> {
        let ifindex = node.uplink();
        let program = node.program(Hook::Xdp, ifindex)?;
        Ok(Member { name, node, hook: Hook::Xdp, program, ifindex, packets, count, expected })
    };
    // Every packet counts: one that is lost ends the bench.
    let all = Expected::All(Reason::Forwarded);
    let busy = |name| member(name, Kind::Tcp4.requests(BUSY, Flags::Ack), bench.extent.packets, all);
    let mut quiet = [busy("established, without a flood")?];
    let mut flooded = [busy("established, in a SYN flood")?];
    let syns = Packets { first: FRESH << 3, ..Kind::Tcp4.requests(0, Flags::Syn) };
    let rounds = bench.extent.rounds;
    let mut flood = member("SYN flood", syns, SOURCES.div_ceil(rounds), Expected::Most(Reason::Forwarded))?;
    let (mut before, mut after) = (Measured::empty(), Measured::empty());
    for _ in 0..rounds {
        for round in measure::rounds(wrapper, &mut quiet, 1)? {
            before.extend(round);
        }
        flood.run(wrapper)?;
        for round in measure::rounds(wrapper, &mut flooded, 1)? {
            after.extend(round);
        }
    }
    // Those that were silent all the while: each of them has its entry still.
    member("idle flows after a SYN flood", Kind::Tcp4.requests(ESTABLISHED, Flags::Ack), ESTABLISHED, all)?
        .run(wrapper)?;
    let ratio = statistics::ratio((&after.own, &after.floor), (&before.own, &before.floor));
    report.add(Row { ratio: Some(ratio), to: "without the flood".to_owned(), ..row(&flooded[0], &after, BUSY, 10) });
    Ok(())
}
