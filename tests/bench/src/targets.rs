//! What the project wants to reach, beside what was measured.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

use crate::report::{Part, Report, Row, number};

/// A target with what was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Target {
    /// What it is about.
    pub(crate) figure: String,
    /// What is wanted.
    pub(crate) wanted: String,
    /// What was measured; `None` if it was not.
    pub(crate) measured: Option<String>,
    /// Whether that is reached.
    pub(crate) met: Option<bool>,
    /// What was measured of the least that the figure could be.
    pub(crate) bound: Option<String>,
}

/// The targets as a table for a terminal.
pub(crate) fn table(report: &Report) -> String {
    let mut text = String::new();
    for target in all(report) {
        let Some(measured) = target.measured else { continue };
        let met = if target.met == Some(true) { "reached" } else { "MISSED" };
        let bound = target.bound.map(|bound| format!(" (bound: {bound})")).unwrap_or_default();
        writeln!(text, "{met:<8} {:<82} {:<12} {measured}{bound}", target.figure, target.wanted)
            .expect("a String takes all");
    }
    text
}

/// The most flows that are measured.
const MOST: u32 = 1 << 19;
const MANY: u32 = 1 << 16;

/// All targets, as far as they were measured.
pub(crate) fn all(report: &Report) -> Vec<Target> {
    let mut targets = Targets(Vec::new());
    established(report, &mut targets);
    new_flows(report, &mut targets);
    path(report, &mut targets);
    applications(report, &mut targets);
    control(report, &mut targets);
    targets.0
}

struct Targets(Vec<Target>);

impl Targets {
    /// A ratio that is not to be above a limit; with it goes what to show before it.
    fn ratio(&mut self, figure: impl Into<String>, limit: f64, measured: Option<(String, f64)>) {
        self.0.push(Target {
            figure: figure.into(),
            wanted: format!("<= {limit:.2} x"),
            measured: measured.as_ref().map(|(text, ratio)| format!("{text}{ratio:.2} x")),
            met: measured.map(|(_, ratio)| ratio <= limit),
            bound: None,
        });
    }

    /// A ratio that is to be at least one.
    fn no_less(&mut self, figure: impl Into<String>, measured: Option<(String, f64)>) {
        self.0.push(Target {
            figure: figure.into(),
            wanted: ">= 1.00 x".to_owned(),
            measured: measured.as_ref().map(|(text, ratio)| format!("{text}{ratio:.2} x")),
            met: measured.map(|(_, ratio)| ratio >= 1.0),
            bound: None,
        });
    }

    /// Names the bound of the last one.
    fn bounded(&mut self, bound: Option<String>) {
        if let Some(last) = self.0.last_mut() {
            last.bound = bound;
        }
    }

    /// A figure that is not to be above a limit.
    fn limit(&mut self, figure: impl Into<String>, limit: f64, unit: &str, measured: Option<f64>) {
        self.0.push(Target {
            figure: figure.into(),
            wanted: format!("<= {} {unit}", number(limit)),
            measured: measured.map(|value| format!("{} {unit}", number(value))),
            met: measured.map(|value| value <= limit),
            bound: None,
        });
    }
}

fn net(row: &Row) -> String {
    format!("{} ns, ", number(row.figure.best))
}

/// What a row was compared with.
fn compared(row: Option<&Row>) -> Option<(String, f64)> {
    let row = row?;
    Some((net(row), row.ratio?.best))
}

/// One row against another.
fn against(row: Option<&Row>, other: Option<&Row>) -> Option<(String, f64)> {
    let (row, other) = row.zip(other)?;
    Some((net(row), row.figure.best / other.figure.best))
}

fn established(report: &Report, targets: &mut Targets) {
    let xdp = |name: &str, flows| report.find(Part::Packet, "XDP", name, flows, 10);
    let tc = |name: &str, flows| report.find(Part::Packet, "TC", name, flows, 10);
    targets.ratio(
        "yardstick against one lookup in an LRU hash, 1 flow (else the run says nothing)",
        crate::established::YARDSTICK_LIMIT,
        against(xdp("full", 1), xdp("lru", 1)),
    );
    for (name, what) in [("TCP/IPv4 forward", "forward"), ("TCP/IPv4 reply", "reply")] {
        for flows in [1, MANY, MOST] {
            let figure = format!("established TCP/IPv4, {what}, {flows} flows, against the yardstick");
            targets.ratio(figure, 1.05, compared(xdp(name, flows)));
            if flows > 1 {
                let pairs = compared(xdp("pairs", flows));
                targets.bounded(
                    pairs.map(|(text, ratio)| format!("{text}{ratio:.2} x with two entries of our size a flow")),
                );
            }
        }
    }
    for (v6, v4) in [("TCP/IPv6 forward", "TCP/IPv4 forward"), ("UDP/IPv6 forward", "UDP/IPv4 forward")] {
        targets.ratio(format!("{v6} against IPv4, 1 flow"), 1.25, against(xdp(v6, 1), xdp(v4, 1)));
    }
    for flows in [1, MANY, MOST] {
        let figure = format!("TC, established TCP/IPv4, {flows} flows, against a TC yardstick");
        targets.ratio(figure, 1.15, compared(tc("TCP/IPv4 forward", flows)));
        if flows > 1 {
            let pairs = compared(tc("pairs", flows));
            targets
                .bounded(pairs.map(|(text, ratio)| format!("{text}{ratio:.2} x with two entries of our size a flow")));
        }
    }
    for flows in [1, MANY] {
        let figure = format!("not ours, {flows} flows, against one lookup in an LRU hash at 1 flow");
        targets.ratio(figure, 0.9, against(xdp("not ours", flows), xdp("lru", 1)));
    }
    let flooded = report.rows.iter().find(|row| row.name == "established, in a SYN flood");
    let figure = "established flows in a SYN flood from a million sources; none lost, busy or idle";
    targets.ratio(figure, 1.5, compared(flooded));
}

fn new_flows(report: &Report, targets: &mut Targets) {
    let xdp = |name: &str, flows, services| report.find(Part::Packet, "XDP", name, flows, services);
    let best = |row: Option<&Row>| row.map(|row| row.figure.best);
    let most = report.rows.iter().filter(|row| row.name == "Services: established").map(|row| row.services).max();
    let most = most.unwrap_or(0);
    for (name, flows) in [("Services: established", 1024), ("Services: new flow to one", 0)] {
        targets.ratio(format!("{name}, {most} Services against 10"), 1.05, compared(xdp(name, flows, most)));
    }
    let to_any = |services| best(xdp("Services: new flow to any", 0, services));
    let figure = format!("new flow to a random one of {most} Services, beyond one of 10");
    targets.limit(figure, 150.0, "ns", to_any(most).zip(to_any(10)).map(|(most, few)| most - few));
    let least = |services| best(xdp(crate::scale::LEAST, 0, services));
    targets.bounded(least(most).zip(least(10)).map(|(most, few)| {
        format!("{} ns for a record, a member and a counter of its own, without a search", number(most - few))
    }));
    for (name, limit) in [("new flow, with room", 750.0), ("new flow, while the table evicts", 1300.0)] {
        targets.limit(name, limit, "ns", best(xdp(name, 0, 10)));
        let two = best(xdp(&name.replace("new flow", "two entries"), 0, 10));
        let least = best(xdp(&format!("the least for a {name}"), 0, 10));
        targets.bounded(least.zip(two).map(|(least, two)| {
            format!(
                "{} ns for the least that must be done, of which {} ns for its two entries",
                number(least),
                number(two)
            )
        }));
    }
}

fn path(report: &Report, targets: &mut Targets) {
    let one = |who: &str| {
        let is_it = |row: &&Row| row.part == Part::Path && row.place == who && row.flows == 1;
        report.rows.iter().find(is_it)
    };
    for (peer, limit) in [("plain routing", 0.25), ("nftables", 0.15)] {
        let figure = format!("whole path, one flow, net of the generator's floor, against {peer}");
        targets.ratio(figure, limit, against(one("lb-ctl"), one(peer)));
        let least = against(one(crate::path::YARDSTICK), one(peer));
        targets.bounded(least.map(|(text, ratio)| format!("{text}{ratio:.2} x with {}", crate::path::YARDSTICK)));
    }
}

fn applications(report: &Report, targets: &mut Targets) {
    for (name, unit) in crate::applications::WORK {
        let row = report.find(Part::Application, "lb-ctl", name, 0, 1);
        let measured = row.and_then(|row| Some((format!("{} {unit}, ", number(row.figure.median)), row.ratio?)));
        let least = report.find(Part::Application, crate::path::YARDSTICK, name, 0, 1).and_then(|row| row.ratio);
        let bound = measured.as_ref().zip(least).map(|((_, ratio), least)| {
            format!(
                "noise of the ratio: {:.3}; {:.2} x with {}, noise {:.3}",
                ratio.noise,
                least.median,
                crate::path::YARDSTICK,
                least.noise
            )
        });
        let figure = format!("{name} from pod to pod, offloads on, against plain routing, median");
        targets.no_less(figure, measured.map(|(text, ratio)| (text, ratio.median)));
        targets.bounded(bound);
    }
}

fn control(report: &Report, targets: &mut Targets) {
    let most = report.rows.iter().filter(|row| row.part == Part::Control).map(|row| row.services).max().unwrap_or(0);
    let best =
        |name: &str, services| report.find(Part::Control, "daemon", name, 0, services).map(|row| row.figure.best);
    let maglev = |name| report.find(Part::Control, "maglev", name, 0, 0).map(|row| row.figure.best);
    targets.limit("Maglev table of 65537 for 1000 endpoints, to build", 2.0, "ms", maglev("build"));
    let figure = "connections of other endpoints that move when one of them goes";
    targets.limit(figure, 1.0, "%", maglev("moved beyond the ideal, at worst"));
    let figure = format!("{most} Services x 10 endpoints to programmed maps, CPU beyond one typed parse");
    targets.limit(figure, 1.5, "s", best("apply: CPU beyond the parse", most));
    targets.limit(format!("daemon's memory, {most} Services"), 200.0, "MB", best("resident memory", most));
    targets.limit("daemon's memory, idle, no Services", 20.0, "MB", best("resident memory", 0));
    targets.limit("daemon's CPU when idle (\"none\": below a thousandth)", 0.1, "%", best("idle CPU", most));
    for (which, limit) in [("p50", 1.0), ("p99", 5.0)] {
        let row = best(&format!("one endpoint, to its effect on a packet: {which}"), most);
        targets.limit(format!("one endpoint's change at {most} Services, {which}"), limit, "ms", row);
        if which == "p99" {
            let woken = best(crate::control::WOKEN, most);
            targets.bounded(woken.map(|woken| format!("{} ms for {}", number(woken), crate::control::WOKEN)));
        }
    }
    let row = best("one Service's port, to its name's answer: p99", most);
    targets.limit(format!("one Service's change at {most} Services, to the answer of its name, p99"), 10.0, "ms", row);
}
