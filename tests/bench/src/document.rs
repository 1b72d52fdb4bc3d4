//! docs/performance.md and its plots, made from the figures.

use anyhow::Context;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::plot::{self, Series};
use crate::report::{Part, Report, Row, number};
use crate::statistics::Figure;
use crate::targets;

/// Between these lines stands what people write; it is kept.
const BY_HAND: [&str; 2] = ["<!-- written by hand: begin -->", "<!-- written by hand: end -->"];

const METHOD: &str = "\
Every figure is net of the bench itself, and every comparison is made in one run, round by round, one thing after the other, since a
virtual machine is robbed of time now and then: *best* is the second percentile of windows of 1024 packets, *median* their
median, and the ratio is that of the best, with the median of the rounds' ratios in the JSON. Before each run a loop that leaves nothing of
a core unused tells whether somebody else uses the machine's cores too; while it takes a seventh longer than it can, the bench waits, for some
minutes in all. Runs of the whole path and of applications are repeated if it is so after them.

- **Per packet**: `BPF_PROG_TEST_RUN` repeats a program on one buffer, so a program that rewrites packets would see its own output. A
  wrapper restores the frame's head, gives it the next flow's address and port, and calls the program that the daemon has attached,
  complete and unmodified, by a tail call. The same wrapper with an empty program is subtracted. Flows are opened by a handshake
  through the product's own programs; the bench checks that the program's own counters rose by exactly the packets that were sent.
  Every few seconds XDP leaves packets of a flow to TCX, so that the kernel looks after its neighbours; there is no TCX behind a
  test run, so such a run is repeated.
  Like the yardsticks, the product sends packets out where they came in, as a load balancer with one arm does; leaving by another
  interface is one more call of the kernel's and has a row of its own.
- **Yardsticks** of our own, so that figures of other machines can be compared: parsing, swapping MACs and sending back (`floor`); that and one
  lookup of a 16-byte key in an LRU hash (`lru`); that and the rewrite of the destination with its checksums (`dnat`); that and
  the lookup of the service and its per-CPU counters (`full`, *the yardstick*). They do nothing else: no lifetimes, no states, no
  IPv6, no options.
- **Many flows.** The tables of both have four entries for each of 524,288 flows, whatever the number of flows. The yardstick has one
  small entry (88 bytes in all) for each flow, though whoever translates addresses both ways needs two; `pairs` is the
  yardstick with two entries as large as ours in the kernel's hash for each flow (128 bytes in all). Percentiles: the first packet of a flow in each tick (1.07 s) makes its
  decision anew, with a question to the routing table and a look at the partner; at many flows and short runs that is every
  other packet, and shows in the median.
- **New flows** are measured with tables of the daemon's default size, since that is what is filled. `the least` does what nobody who
  translates both ways can leave out: it looks both tuples up among confirmed flows, finds the Service, asks the routing table and
  makes the two entries of the flow; `two entries` only makes these.
- **Many Services.** `the least for any` does for a new flow what nobody who translates both ways can leave out, where each Service has a record,
  members and a counter of its own, in tables of the product's size. `In a hash`, the record is looked up by address and port in a hash of the kernel's; `not
  sought`, the address itself tells at which place it stands.
- **Whole path**: client, node and backend in network namespaces. A generator at the client's end sends UDP (the header's checksum right,
  UDP's own absent), and a program at the backend's end counts and drops it; all of it must arrive. The bench prepares the backend's NAPI as a NIC would have it (`ethtool -K gro on`).
  `the yardstick in its place` finds the flow and the Service, counts, rewrites and redirects, and does nothing else.
- **Applications**: wrk (16 connections, one thread; each request with a connection of its own, and kept alive) and iperf3 (one connection) in one
  pod, nginx and iperf3 in another pod of the node, offloads on. Runs of a second, interleaved; medians, and the median of the rounds' ratios.
  `the yardstick in its place` makes two entries for each connection, finds one of them for each packet, counts, rewrites, and hands the packet from pod to pod (`bpf_redirect_peer`);
  it does nothing else, and forgets nothing.
- **Control plane**: the real daemon in a namespace, told by its API and by the CLI; its names are asked over UDP without a pause.
";

/// What others need, in nanoseconds a packet, net of the same wrapper, beside the same yardsticks.
const FIELD: &str = "\
Measured earlier by the same wrapper and on machines of the same kind, not in this run; compare through the yardsticks, which
both have (there: one LRU lookup 24-28 ns at 1 flow and 332-385 ns at 64k flows, the full yardstick 45-47 ns and 364-408 ns).

| ns a packet | 1 flow | 1k flows | 64k flows | new flow | not ours |
|---|---|---|---|---|---|
| Katran, established (IPIP) | 87-94 | 92-104 | 325-370 | 547-606 (flood guard lifted) | 38-41 |
| Cilium, DSR-IPIP, real fib | 261 | 270 | 390-410 | 540-580 | 65-99 |
| Cilium, SNAT and Maglev, real fib | 422-434 | 498-525 | 937-1200 | 1500-1570 | 65-99 |
";

/// Writes figures, document and plots below `docs`.
pub(crate) fn write(report: &Report, docs: &Path) -> anyhow::Result<()> {
    let put = |name: &str, text: &str| {
        let path = docs.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put("performance.json", &(serde_json::to_string_pretty(report)? + "\n"))?;
    let old = fs::read_to_string(docs.join("performance.md")).unwrap_or_default();
    put("performance.md", &text(report, by_hand(&old)))?;
    for (name, svg) in plots(report) {
        put(&name, &svg)?;
    }
    Ok(())
}

/// The field and us in yardsticks of the same run each: what can be compared across machines.
fn in_yardsticks(report: &Report) -> String {
    let ours = |flows| {
        let row = report.find(Part::Packet, "XDP", "TCP/IPv4 forward", flows, 10);
        row.and_then(|row| row.ratio).map_or_else(|| "not measured".to_owned(), |ratio| format!("{:.2}", ratio.best))
    };
    format!(
        "In full yardsticks of the same run each, from the middles of these ranges:

| established, in yardsticks | 1 flow | 1k flows | 64k flows |
|---|---|---|---|
| lb-ctl, complete, forward | {} | {} | {} |
| Katran | 1.97 | 1.32 | 0.90 |
| Cilium, DSR-IPIP | 5.67 | 3.65 | 1.04 |
| Cilium, SNAT and Maglev | 9.30 | 6.91 | 2.77 |

Katran remembers a backend's number for a flow and encapsulates: it has one small entry for a flow, and no way back to translate.
",
        ours(1),
        ours(1024),
        ours(65_536)
    )
}

/// What people wrote into the document.
fn by_hand(document: &str) -> &str {
    let between = document.split_once(BY_HAND[0]).and_then(|(_, rest)| rest.split_once(BY_HAND[1]));
    between.map_or("\n\n", |(text, _)| text)
}

/// The document.
fn text(report: &Report, by_hand: &str) -> String {
    let mut text = String::from(
        "# Performance\n\n<!-- Written by `cargo xtask bench --write-docs` from what it measured (performance.json); only the part \
         marked so is written by hand. -->\n\n",
    );
    let machine = &report.machine;
    let mut line = |words: String| {
        text += &words;
        text.push('\n');
    };
    line(format!(
        "Measured on {} at commit {} ({}), on {} CPUs of {}, {} GiB, Linux {}; load average at the start {}; {}.\n",
        report.date,
        report.commit,
        report.extent,
        machine.processors,
        machine.processor,
        machine.memory_gib,
        machine.kernel,
        machine.load,
        report.waited
    ));
    line("## Targets\n".to_owned());
    line("| figure | wanted | measured | | measured beside it |\n|---|---|---|---|---|".to_owned());
    for target in targets::all(report) {
        let met = target.met.map_or("", |met| if met { "reached" } else { "**missed**" });
        let measured = target.measured.unwrap_or_else(|| "not measured".to_owned());
        let bound = target.bound.unwrap_or_default();
        line(format!("| {} | {} | {measured} | {met} | {bound} |", target.figure, target.wanted));
    }
    line(format!("\n## How it is measured\n\n{METHOD}"));
    let has = |part| report.rows.iter().any(|row| row.part == part);
    if has(Part::Packet) {
        line("## Per packet\n".to_owned());
        for hook in ["XDP", "TC"] {
            line(format!("![{hook}](performance-{}.svg)\n", hook.to_lowercase()));
            line(packets(report, hook));
        }
        line(others(report, Part::Packet, "what", "so many Services"));
        line(format!("### The field\n\n{FIELD}\n{}", in_yardsticks(report)));
    }
    if has(Part::Path) {
        line("## Whole path\n\n![Whole path](performance-path.svg)\n".to_owned());
        line(others(report, Part::Path, "what", "Services"));
    }
    if has(Part::Application) {
        line("## Applications\n".to_owned());
        line(others(report, Part::Application, "what", "Services"));
    }
    if has(Part::Control) {
        line(format!("## Control plane\n\n{}", others(report, Part::Control, "what", "Services")));
    }
    if !report.skipped.is_empty() {
        line("## Left out\n".to_owned());
        for skipped in &report.skipped {
            line(format!("- {skipped}"));
        }
        line(String::new());
    }
    line(format!("## What was tried\n\n{}{by_hand}{}", BY_HAND[0], BY_HAND[1]));
    text
}

/// Rows that differ in the number of flows only become columns.
fn packets(report: &Report, hook: &str) -> String {
    let rows: Vec<&Row> = report
        .rows
        .iter()
        .filter(|row| row.part == Part::Packet && row.place == hook && row.to == "yardstick")
        .collect();
    let mut flows: Vec<u32> = rows.iter().map(|row| row.flows).filter(|flows| *flows > 0).collect();
    flows.sort_unstable();
    flows.dedup();
    let mut text = format!("| {hook}, ns a packet: best / median (ratio) |");
    for flows in &flows {
        write!(text, " {flows} flows |").expect("a String takes all");
    }
    text += "\n|---|";
    text += &"---|".repeat(flows.len());
    text.push('\n');
    for name in names(&rows) {
        write!(text, "| {name} |").expect("a String takes all");
        for flows in &flows {
            let row = rows.iter().find(|row| row.name == name && row.flows == *flows);
            text += &row.map_or_else(
                || " |".to_owned(),
                |row| {
                    let ratio = row.ratio.map_or_else(String::new, |ratio| format!(" ({:.2})", ratio.best));
                    format!(" {} / {}{ratio} |", number(row.figure.best), number(row.figure.median))
                },
            );
        }
        text.push('\n');
    }
    text
}

/// All other rows of a part, one a line.
fn others(report: &Report, part: Part, what: &str, services: &str) -> String {
    let mut text =
        format!("| who | {what} | flows | {services} | best | median | compared |\n|---|---|---|---|---|---|---|\n");
    let rows = report.rows.iter().filter(|row| row.part == part && row.to != "yardstick");
    for row in rows {
        let of = |ratio: Figure| if part == Part::Application { ratio.median } else { ratio.best };
        let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{:.2} x {}", of(ratio), row.to));
        let share =
            if row.share < 0.9995 { format!(" ({:.1} % of packets)", row.share * 100.0) } else { String::new() };
        writeln!(
            text,
            "| {} | {}{share} | {} | {} | {} {u} | {} {u} | {ratio} |",
            row.place,
            row.name,
            if row.flows == 0 { String::new() } else { row.flows.to_string() },
            row.services,
            number(row.figure.best),
            number(row.figure.median),
            u = row.unit
        )
        .expect("a String takes all");
    }
    text
}

/// Names in the order of their first row.
fn names<'a>(rows: &[&'a Row]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    names
}

/// File names and contents.
fn plots(report: &Report) -> Vec<(String, String)> {
    let mut plots = Vec::new();
    for hook in ["XDP", "TC"] {
        let rows: Vec<&Row> =
            report.rows.iter().filter(|row| row.place == hook && row.to == "yardstick" && row.flows > 0).collect();
        let mut flows: Vec<u32> = rows.iter().map(|row| row.flows).collect();
        flows.sort_unstable();
        flows.dedup();
        let series: Vec<Series> = names(&rows)
            .into_iter()
            .filter(|name| !["floor", "dnat", "TCP/IPv6 reply", "UDP/IPv4 forward"].contains(name))
            .map(|name| {
                let at = |flows: &u32| rows.iter().find(|row| row.name == name && row.flows == *flows);
                (name.to_owned(), flows.iter().map(|flows| at(flows).map(|row| row.figure.best)).collect())
            })
            .collect();
        if !series.is_empty() {
            let places: Vec<String> = flows.iter().map(|flows| format!("{flows} flows")).collect();
            let svg = plot::lines(&format!("{hook}: a packet of an established flow"), "ns", &places, &series);
            plots.push((format!("performance-{}.svg", hook.to_lowercase()), svg));
        }
    }
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.part == Part::Path && row.unit == "ns").collect();
    if !rows.is_empty() {
        let mut services: Vec<u32> = rows.iter().map(|row| row.services).collect();
        services.sort_unstable();
        services.dedup();
        let mut who: Vec<&str> = Vec::new();
        for row in &rows {
            if !who.contains(&row.place.as_str()) {
                who.push(&row.place);
            }
        }
        let series: Vec<Series> = who
            .into_iter()
            .map(|who| {
                let at = |services: &u32| rows.iter().find(|row| row.place == who && row.services == *services);
                (who.to_owned(), services.iter().map(|services| at(services).map(|row| row.figure.best)).collect())
            })
            .collect();
        let places: Vec<String> = services.iter().map(|services| format!("{services} Services")).collect();
        plots.push(("performance-path.svg".to_owned(), plot::bars("Whole path, one flow", "ns", &places, &series)));
    }
    plots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_survives() {
        let first = text(&Report::default(), "\nNothing was tried.\n");
        let second = text(&Report::default(), by_hand(&first));
        assert!(second.contains("Nothing was tried.") && first == second);
        assert_eq!(by_hand("no marks"), "\n\n");
    }
}
