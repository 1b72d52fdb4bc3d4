//! `preflight`: whether this node is fit for the daemon.

use super::args::{Preflight, ReportFormat, Target};
use super::output::{Output, Table};
use super::{FOUND, Failed, SUCCESS};
use crate::daemon::{Options, config};
use crate::preflight::{self, Line, Verdict, Wanted};
use lb_common::maps::{DEFAULT_MAX_FLOWS, MAX_FLOWS_RANGE};
use std::fmt::Write as _;

pub(super) fn run(arguments: Preflight, target: &Target, out: &mut Output) -> Result<u8, Failed> {
    let Preflight { interfaces, config, bpffs, max_flows, socket_lb, path, tc, output } = arguments;
    let instance = target.instance.clone();
    let flags = Options { interfaces, socket_lb, instance, path, tc, bpffs, max_flows, ..Options::default() };
    let options = config::Origin { flags, file: config }.options()?;
    let max_flows = options.max_flows.unwrap_or(DEFAULT_MAX_FLOWS);
    let (least, most) = MAX_FLOWS_RANGE;
    if !(least..=most).contains(&max_flows) {
        return Err(Failed::Usage(format!("--max-flows: {max_flows} is not between {least} and {most}")));
    }
    let lines = preflight::run(&Wanted {
        interfaces: options.interfaces,
        bpffs: options.bpffs.unwrap_or_else(|| config::DEFAULT_BPFFS.into()),
        max_flows,
        socket_lb: options.socket_lb,
        path: options.path.unwrap_or_default(),
        tc: options.tc.unwrap_or_default(),
    })?;
    match output {
        ReportFormat::Text => out.text(&text(&lines))?,
        ReportFormat::Json => out.json(&lines)?,
        ReportFormat::Yaml => out.yaml(&lines)?,
    }
    let fails = lines.iter().any(|line| line.verdict == Verdict::Fail);
    Ok(if fails { FOUND } else { SUCCESS })
}

fn text(lines: &[Line]) -> String {
    let mut table = Table::new(vec!["RESULT", "SUBJECT", "CHECK", "MESSAGE"]);
    for line in lines {
        table.push(vec![
            line.verdict.name().to_owned(),
            line.subject.clone(),
            line.check.clone(),
            line.message.clone(),
        ]);
    }
    let mut text = table.to_string();
    let of = |verdict| lines.iter().filter(|line| line.verdict == verdict).count();
    let remedies: Vec<&Line> = lines.iter().filter(|line| !line.remedy.is_empty()).collect();
    // Writing to a string does not fail.
    if !remedies.is_empty() {
        let _ = writeln!(text, "\nWhat would help:");
        for Line { subject, check, remedy, .. } in remedies {
            let _ = writeln!(text, "  {subject} {check}: {remedy}");
        }
    }
    let (passed, warned, failed) = (of(Verdict::Pass), of(Verdict::Warn), of(Verdict::Fail));
    let _ = writeln!(text, "\n{passed} passed, {warned} warned, {failed} failed.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_verdict_and_its_command() {
        let line = |check: &str, verdict, remedy: &str| Line {
            check: check.to_owned(),
            subject: "eth0".to_owned(),
            verdict,
            message: format!("{check} is so"),
            remedy: remedy.to_owned(),
        };
        let lines = [
            line("link", Verdict::Pass, ""),
            line("mtu", Verdict::Warn, "ip link set dev eth0 mtu 1500"),
            line("programs", Verdict::Fail, "ip link set dev eth0 xdp off"),
        ];
        insta::assert_snapshot!(text(&lines), @r"
        RESULT   SUBJECT   CHECK      MESSAGE
        pass     eth0      link       link is so
        warn     eth0      mtu        mtu is so
        fail     eth0      programs   programs is so

        What would help:
          eth0 mtu: ip link set dev eth0 mtu 1500
          eth0 programs: ip link set dev eth0 xdp off

        1 passed, 1 warned, 1 failed.
        ");
    }
}
