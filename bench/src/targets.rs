//! What the project wants to reach, beside what was measured.

use serde::{Deserialize, Serialize};

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
}

/// The targets as a table for a terminal.
pub(crate) fn table(report: &Report) -> String {
    let mut text = String::new();
    for target in all(report) {
        let Some(measured) = target.measured else { continue };
        let met = if target.met == Some(true) { "reached" } else { "MISSED" };
        text += &format!("{met:<8} {:<82} {:<12} {measured}\n", target.figure, target.wanted);
    }
    text
}

/// The most flows that are measured.
const MOST: u32 = 1 << 19;
const MANY: u32 = 1 << 16;

/// All targets, as far as they were measured.
pub(crate) fn all(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    let xdp = |name: &str, flows| report.find(Part::Packet, "XDP", name, flows, 10);
    let tc = |name: &str, flows| report.find(Part::Packet, "TC", name, flows, 10);
    let to_yardstick = |row: &Row| row.ratio.map(|ratio| ratio.best);
    let net = |row: &Row| format!("{} ns, ", number(row.figure.best));
    let mut ratio = |figure: String, limit: f64, of: Option<(String, f64)>| {
        targets.push(Target {
            figure,
            wanted: format!("<= {limit:.2} x"),
            measured: of.as_ref().map(|(text, ratio)| format!("{text}{ratio:.2} x")),
            met: of.map(|(_, ratio)| ratio <= limit),
        });
    };

    ratio(
        "yardstick against one lookup in an LRU hash, 1 flow (else the run says nothing)".to_owned(),
        1.9,
        xdp("full", 1).zip(xdp("lru", 1)).map(|(full, lru)| {
            let texts = (number(full.figure.best), number(lru.figure.best));
            (format!("{} ns and {} ns, ", texts.0, texts.1), full.figure.best / lru.figure.best)
        }),
    );
    for (name, what) in [("TCP/IPv4 forward", "forward"), ("TCP/IPv4 reply", "reply")] {
        for flows in [1, MANY, MOST] {
            let row = xdp(name, flows);
            ratio(
                format!("established TCP/IPv4, {what}, {flows} flows, against the yardstick"),
                1.05,
                row.and_then(|row| Some((net(row), to_yardstick(row)?))),
            );
        }
    }
    for (v6, v4) in [("TCP/IPv6 forward", "TCP/IPv4 forward"), ("UDP/IPv6 forward", "UDP/IPv4 forward")] {
        let both = xdp(v6, 1).zip(xdp(v4, 1));
        ratio(
            format!("{v6} against IPv4, 1 flow"),
            1.25,
            both.map(|(six, four)| (net(six), six.figure.best / four.figure.best)),
        );
    }
    for flows in [1, MANY] {
        let row = tc("TCP/IPv4 forward", flows);
        ratio(
            format!("TC, established TCP/IPv4, {flows} flows, against a TC yardstick"),
            1.15,
            row.and_then(|row| Some((net(row), to_yardstick(row)?))),
        );
    }
    for flows in [1, MANY] {
        let both = xdp("not ours", flows).zip(xdp("lru", 1));
        ratio(
            format!("not ours, {flows} flows, against one lookup in an LRU hash at 1 flow"),
            0.9,
            both.map(|(own, lru)| (net(own), own.figure.best / lru.figure.best)),
        );
    }
    let few = report.rows.iter().filter(|row| row.name == "Services: established").map(|row| row.services).max();
    for (name, limit) in [("Services: established", 1.05), ("Services: new flow to one", 1.05)] {
        let flows = if limit > 0.0 && name.ends_with("established") { 1024 } else { 0 };
        let row = few.and_then(|services| report.find(Part::Packet, "XDP", name, flows, services));
        ratio(
            format!("{name}, 10 Services to {}", few.unwrap_or(0)),
            limit,
            row.and_then(|row| Some((net(row), to_yardstick(row)?))),
        );
    }
    let mut limit = |figure: &str, wanted: f64, unit: &str, measured: Option<f64>| {
        targets.push(Target {
            figure: figure.to_owned(),
            wanted: format!("<= {} {unit}", number(wanted)),
            measured: measured.map(|value| format!("{} {unit}", number(value))),
            met: measured.map(|value| value <= wanted),
        });
    };
    let best = |row: Option<&Row>| row.map(|row| row.figure.best);
    let to_any = |services| best(report.find(Part::Packet, "XDP", "Services: new flow to any", 0, services));
    limit(
        "new flow to a random one of the most Services, beyond one of 10",
        150.0,
        "ns",
        few.and_then(|services| Some(to_any(services)? - to_any(10)?)),
    );
    limit("new flow, with room", 750.0, "ns", best(xdp("new flow, with room", 0)));
    limit("new flow, while the table evicts", 1300.0, "ns", best(xdp("new flow, while the table evicts", 0)));
    let control = |name: &str, services| report.find(Part::Control, "daemon", name, 0, services);
    let services =
        report.rows.iter().filter(|row| row.part == Part::Control).map(|row| row.services).max().unwrap_or(0);
    limit(
        &format!("{services} Services x 10 endpoints to programmed maps, CPU beyond one typed parse"),
        1.5,
        "s",
        best(control("apply: CPU beyond the parse", services)),
    );
    limit(
        &format!("daemon's memory with {services} Services"),
        200.0,
        "MB",
        best(control("resident memory", services)),
    );
    limit("daemon's memory when idle without Services", 20.0, "MB", best(control("resident memory", 0)));
    limit("daemon's CPU when idle", 0.1, "%", best(control("idle CPU", services)));
    let change = control("one endpoint, to its effect on a packet: p50", services);
    limit(&format!("one endpoint's change at {services} Services, p50"), 1.0, "ms", best(change));
    let change = control("one endpoint, to its effect on a packet: p99", services);
    limit(&format!("one endpoint's change at {services} Services, p99"), 5.0, "ms", best(change));
    for (peer, wanted) in [("plain routing", 0.25), ("nftables", 0.15)] {
        let ours = report.find(Part::Path, "lb-ctl", "UDP, one flow", 1, 10);
        let peer_row = report.rows.iter().find(|row| row.part == Part::Path && row.place == peer && row.flows == 1);
        let both = ours.zip(peer_row).map(|(ours, peer)| ours.figure.best / peer.figure.best);
        targets.push(Target {
            figure: format!("whole path, one flow, net of the generator's floor, against {peer}"),
            wanted: format!("<= {wanted:.2} x"),
            measured: both.map(|ratio| format!("{ratio:.2} x")),
            met: both.map(|ratio| ratio <= wanted),
        });
    }
    targets
}
