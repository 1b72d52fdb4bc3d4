//! `audit`: whether the live maps are as they should be.

use super::args::{Audit, ReportFormat};
use super::output::Output;
use super::{FOUND, Failed, SUCCESS};
use crate::api::{AuditAnswer, Client, Finding};
use crate::audit::Invariant;
use std::fmt::Write as _;

pub(super) async fn run(client: &Client, arguments: &Audit, out: &mut Output) -> Result<u8, Failed> {
    let answer = client.audit(arguments.repair).await.map_err(Failed::Compared)?;
    match arguments.output {
        ReportFormat::Text => out.text(&text(&answer))?,
        ReportFormat::Json => out.json(&answer)?,
        ReportFormat::Yaml => out.yaml(&answer)?,
    }
    Ok(if answer.findings.is_empty() { SUCCESS } else { FOUND })
}

fn text(answer: &AuditAnswer) -> String {
    let mut text = String::new();
    let mut last = None;
    for finding in &answer.findings {
        if last.replace(&finding.invariant) != Some(&finding.invariant) {
            heading(&mut text, finding);
        }
        let repaired = if finding.repaired { " (repaired)" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {}, {}: {}{repaired}", finding.map, finding.object, finding.detail);
    }
    for left_out in &answer.left_out {
        let _ = writeln!(text, "Left out: {left_out}");
    }
    let (entries, milliseconds) = (answer.entries, answer.busy_micros as f64 / 1000.0);
    let separator = if text.is_empty() { "" } else { "\n" };
    let found = match answer.findings.len() {
        0 => "Nothing was found".to_owned(),
        1 => "1 thing was found".to_owned(),
        count => format!("{count} things were found"),
    };
    let _ = writeln!(text, "{separator}{found} in {entries} entries, which took {milliseconds:.1} ms.");
    text
}

/// An invariant that does not hold, in its own words. A newer daemon may know some that we do not.
fn heading(text: &mut String, finding: &Finding) {
    let separator = if text.is_empty() { "" } else { "\n" };
    let invariant = Invariant::ALL.iter().find(|invariant| invariant.name() == finding.invariant);
    let sentence = invariant.map_or("", |invariant| invariant.sentence());
    let _ = writeln!(text, "{separator}{}: {sentence}", finding.invariant);
    let repair = invariant.map_or("", |invariant| invariant.repair());
    if !finding.repaired && !repair.is_empty() {
        let _ = writeln!(text, "  `lb-ctl audit --repair`: {repair}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_grouped_by_what_does_not_hold() {
        let finding = |invariant: Invariant, map: &str, object: &str, repaired| Finding {
            invariant: invariant.name().to_owned(),
            map: map.to_owned(),
            object: object.to_owned(),
            detail: "it is missing".to_owned(),
            repaired,
        };
        let answer = AuditAnswer {
            findings: vec![
                finding(Invariant::Slots, "SLOTS", "slot 3 of service shop/web on 10.96.0.10:80/TCP", false),
                finding(Invariant::Slots, "SLOTS", "slot 4 of service shop/web on 10.96.0.10:80/TCP", false),
                finding(Invariant::Devices, "DEVICES", "interface eth0", true),
            ],
            entries: 120,
            busy_micros: 1500,
            left_out: Vec::new(),
        };
        insta::assert_snapshot!(text(&answer), @r"
        slots: The slots of each published set are the Service's endpoints by their weights, or its Maglev table, and name a backend that is alive by id and generation.
          `lb-ctl audit --repair`: written again, while the Services that publish them are withdrawn
          SLOTS, slot 3 of service shop/web on 10.96.0.10:80/TCP: it is missing
          SLOTS, slot 4 of service shop/web on 10.96.0.10:80/TCP: it is missing

        devices: Each managed interface has its record with what may be done with it, and no other interface has one.
          DEVICES, interface eth0: it is missing (repaired)

        3 things were found in 120 entries, which took 1.5 ms.
        ");
        insta::assert_snapshot!(text(&AuditAnswer::default()), @"Nothing was found in 0 entries, which took 0.0 ms.");
    }
}
