//! `status`: how the daemon and its datapath are.

use super::args::{ReportFormat, Status as Arguments};
use super::output::{Output, Table, list};
use super::{Failed, SUCCESS, age};
use crate::api::{AuditStatus, Client, DnsCounters, InterfaceStatus, LentPorts, Status};
use lb_common::maps::{FLOWS4, FLOWS6};
use std::fmt::Write as _;

pub(super) async fn run(client: &Client, arguments: &Arguments, out: &mut Output) -> Result<u8, Failed> {
    let status = client.status().await?;
    match arguments.output {
        ReportFormat::Text => out.text(&text(&status))?,
        ReportFormat::Json => out.json(&status)?,
        ReportFormat::Yaml => out.yaml(&status)?,
    }
    Ok(SUCCESS)
}

fn text(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{:<16}{value}", format!("{name}:"));
    };
    let state = if status.ready { "ready" } else { "not ready" };
    let up = age::duration(status.uptime_seconds as i64);
    line("Daemon", &format_args!("lb-ctl {} ({}), {state}, up {up}", status.version, status.instance));
    line("Node", &status.node);
    line("Kernel", &status.kernel);
    line("Node addresses", &list(&status.node_addresses));
    line("SNAT addresses", &list(&status.snat_addresses));
    if let Some(LentPorts { backend, protocol, used, available }) = &status.lent_ports {
        line("SNAT ports", &format_args!("{used} of {available} lent towards {backend}/{protocol}, the fullest"));
    }
    line(
        "Path",
        &match status.path.as_str() {
            "stack" => "stack: through the host's stack; connections that need source translation go direct",
            path => path,
        },
    );
    line("Host clients", &status.host_clients);
    if status.adopted {
        line("Datapath", &"taken over from an earlier daemon");
    }
    let sockets = &status.socket_lb;
    let note = if sockets.note.is_empty() { String::new() } else { format!(" ({})", sockets.note) };
    line("Socket hooks", &format_args!("{}{note}", sockets.cgroup.as_deref().unwrap_or("off")));
    if let Some(dns) = &status.dns {
        let DnsCounters { udp, tcp, refused, own, forwarded, failed } = dns.counters;
        let asked = udp + tcp;
        line("DNS", &format_args!("{} on {}, others from {}", dns.domain, list(&dns.addresses), list(&dns.upstream)));
        line(
            "DNS messages",
            &format_args!(
                "{asked} ({tcp} by TCP): {own} answered, {forwarded} forwarded ({failed} failed), {refused} refused"
            ),
        );
    }
    line("Audit", &audit(&status.audit));
    line("Objects", &list(status.objects.iter().map(|(kind, count)| format!("{count} {kind}"))).replace(',', ", "));

    let mut interfaces = Table::new(vec!["INTERFACE", "INDEX", "WANTED", "ATTACHED", "ROLE"]);
    for interface in &status.interfaces {
        interfaces.push(vec![
            interface.name.clone(),
            if interface.index == 0 { "-".to_owned() } else { interface.index.to_string() },
            interface.wanted.clone(),
            list(&interface.attached),
            if interface.role.is_empty() { "-".to_owned() } else { interface.role.clone() },
        ]);
    }
    let mut sources = Table::new(vec!["SOURCE", "SYNCED", "OBJECTS"]);
    for source in &status.sources {
        let synced = if source.synced { "yes" } else { "no" };
        sources.push(vec![source.name.clone(), synced.to_owned(), source.objects.to_string()]);
    }
    let mut maps = Table::new(vec!["MAP", "USED", "CAPACITY", "FILL"]);
    for map in &status.maps {
        let percent = (map.used * 100).checked_div(map.capacity).unwrap_or_default();
        maps.push(vec![map.name.clone(), map.used.to_string(), map.capacity.to_string(), format!("{percent}%")]);
    }
    let mut counters = Table::new(vec!["REASON", "PACKETS", "BYTES", "MEANING"]);
    for counter in &status.counters {
        let remedy = if counter.remedy.is_empty() { String::new() } else { format!(" {}", counter.remedy) };
        counters.push(vec![
            counter.reason.clone(),
            counter.packets.to_string(),
            counter.bytes.to_string(),
            format!("{}{remedy}", counter.sentence),
        ]);
    }
    if !interfaces.is_empty() {
        let _ = write!(text, "\n{interfaces}{}", notes(&status.interfaces));
    }
    let flows = if status.maps.iter().any(|map| [FLOWS4, FLOWS6].contains(&map.name.as_str())) { OF_FLOWS } else { "" };
    for (table, note) in [(sources, ""), (maps, flows), (counters, "")].iter().filter(|(table, _)| !table.is_empty()) {
        let _ = write!(text, "\n{table}{note}");
    }
    text.push('\n');
    if status.problems.is_empty() {
        text.push_str("Problems: none\n");
    } else {
        text.push_str("Problems:\n");
        for problem in &status.problems {
            let _ = writeln!(text, "  {}: {}", problem.subject, problem.message);
        }
    }
    text
}

/// What counts as used of the tables of flows.
const OF_FLOWS: &str = "  FLOWS4, FLOWS6: two entries a flow; those not counted are not confirmed or have ended, and make way where there is no room\n";

/// What the audit in the background has come to.
fn audit(audit: &AuditStatus) -> String {
    match (audit.interval_seconds, audit.rounds) {
        (0, _) => "off".to_owned(),
        (seconds, 0) => format!("every {seconds} s, not yet"),
        (seconds, rounds) => format!(
            "every {seconds} s, {rounds} times, the last of {} entries in {:.1} ms; {} found, {} repaired",
            audit.entries,
            audit.busy_micros as f64 / 1000.0,
            audit.found,
            audit.repaired
        ),
    }
}

/// What is to be said of interfaces, each sentence once: too long for a column of the table.
fn notes(interfaces: &[InterfaceStatus]) -> String {
    let mut by_note: Vec<(&str, Vec<&str>)> = Vec::new();
    for interface in interfaces.iter().filter(|interface| !interface.note.is_empty()) {
        match by_note.iter_mut().find(|(note, _)| *note == interface.note) {
            Some((_, names)) => names.push(&interface.name),
            None => by_note.push((&interface.note, vec![&interface.name])),
        }
    }
    let mut text = String::new();
    for (note, names) in by_note {
        let _ = writeln!(text, "  {}: {note}", names.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        AuditStatus, CounterLine, DnsStatus, InterfaceStatus, MapFill, Problem, SocketStatus, SourceStatus,
    };

    #[test]
    fn the_report_says_what_is_attached_and_why_not_better() {
        let reason = lb_common::Reason::NoBackend;
        let status = Status {
            version: "0.1.0".to_owned(),
            instance: "default".to_owned(),
            node: "n1".to_owned(),
            ready: true,
            uptime_seconds: 75,
            adopted: true,
            kernel: "6.18.5".to_owned(),
            node_addresses: vec!["192.0.2.10".parse().unwrap()],
            snat_addresses: vec!["192.0.2.10".parse().unwrap()],
            lent_ports: Some(LentPorts {
                backend: "10.244.0.7:8080".parse().unwrap(),
                protocol: "TCP".to_owned(),
                used: 28_000,
                available: 28_976,
            }),
            path: "direct".to_owned(),
            host_clients: "by lbh0: 10.96.0.0/12 from 192.0.2.10".to_owned(),
            socket_lb: SocketStatus { cgroup: None, note: "the node's own ports are not served".to_owned() },
            dns: Some(DnsStatus {
                addresses: vec!["10.244.0.1:53".parse().unwrap()],
                domain: "cluster.local".to_owned(),
                upstream: vec!["192.0.2.53:53".parse().unwrap()],
                counters: DnsCounters { udp: 20, tcp: 2, refused: 1, own: 15, forwarded: 6, failed: 3 },
            }),
            audit: AuditStatus {
                interval_seconds: 300,
                rounds: 2,
                entries: 5120,
                busy_micros: 3100,
                ..AuditStatus::default()
            },
            interfaces: vec![
                InterfaceStatus {
                    name: "eth0".to_owned(),
                    index: 2,
                    wanted: "auto".to_owned(),
                    attached: vec!["xdp-generic".to_owned(), "tcx-ingress".to_owned(), "tcx-egress".to_owned()],
                    note: "the driver has no native XDP".to_owned(),
                    role: "wire".to_owned(),
                },
                InterfaceStatus {
                    name: "eth7".to_owned(),
                    wanted: "xdp".to_owned(),
                    note: "no such interface yet".to_owned(),
                    ..InterfaceStatus::default()
                },
            ],
            sources: vec![SourceStatus { name: "cli".to_owned(), synced: true, objects: 3 }],
            objects: vec![("services".to_owned(), 1), ("pods".to_owned(), 2)],
            problems: vec![Problem { subject: "file /m/web.yaml".to_owned(), message: "line 3 is bad".to_owned() }],
            maps: vec![MapFill { name: "FLOWS4".to_owned(), used: 10, capacity: 100 }],
            counters: vec![CounterLine {
                reason: reason.name().to_owned(),
                drop: true,
                packets: 5,
                bytes: 300,
                sentence: reason.sentence().to_owned(),
                remedy: reason.remedy().to_owned(),
            }],
        };
        insta::assert_snapshot!(text(&status), @r"
        Daemon:         lb-ctl 0.1.0 (default), ready, up 75s
        Node:           n1
        Kernel:         6.18.5
        Node addresses: 192.0.2.10
        SNAT addresses: 192.0.2.10
        SNAT ports:     28000 of 28976 lent towards 10.244.0.7:8080/TCP, the fullest
        Path:           direct
        Host clients:   by lbh0: 10.96.0.0/12 from 192.0.2.10
        Datapath:       taken over from an earlier daemon
        Socket hooks:   off (the node's own ports are not served)
        DNS:            cluster.local on 10.244.0.1:53, others from 192.0.2.53:53
        DNS messages:   22 (2 by TCP): 15 answered, 6 forwarded (3 failed), 1 refused
        Audit:          every 300 s, 2 times, the last of 5120 entries in 3.1 ms; 0 found, 0 repaired
        Objects:        1 services, 2 pods

        INTERFACE   INDEX   WANTED   ATTACHED                             ROLE
        eth0        2       auto     xdp-generic,tcx-ingress,tcx-egress   wire
        eth7        -       xdp      <none>                               -
          eth0: the driver has no native XDP
          eth7: no such interface yet

        SOURCE   SYNCED   OBJECTS
        cli      yes      3

        MAP      USED   CAPACITY   FILL
        FLOWS4   10     100        10%
          FLOWS4, FLOWS6: two entries a flow; those not counted are not confirmed or have ended, and make way where there is no room

        REASON       PACKETS   BYTES   MEANING
        no-backend   5         300     The Service has no ready backend; the packet was rejected with a TCP reset or an ICMP error. See `lb-ctl describe service NAME -n NAMESPACE`: do the selector's labels match pods, and are these ready?

        Problems:
          file /m/web.yaml: line 3 is bad
        ");
    }
}
