//! `plan`: what an apply would change, and `apply --plan`, which is the same.
//!
//! Exit codes are those of diff(1): 0 nothing would change, 1 something would, 2 it could not be told.

use super::args::{Plan, ReportFormat};
use super::output::{Output, Table};
use super::{DIFFERENT, Failed, SUCCESS, manifests};
use crate::api::plan::{ConnectionPlan, Count, MapPlan, PlanAnswer, ServicePlan};
use crate::api::{ApplyRequest, Client, Outcome};
use crate::manifest::Validate;
use std::fmt::Write as _;

/// The columns of Services: the last four are connections that there are, that move, that linger and that end.
const HEADER: [&str; 9] =
    ["SERVICE", "CHANGE", "FRONTENDS", "ENDPOINTS", "SLOTS", "CONNECTIONS", "MOVE", "LINGER", "END"];

/// The plan of manifests, or, without any, of what is still to be done.
pub(super) async fn planned(client: &Client, plan: &Plan, out: &mut Output) -> Result<u8, Failed> {
    let namespace = plan.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let files = if plan.files.filename.is_empty() { Vec::new() } else { manifests::read(&plan.files)? };
    let request = ApplyRequest { namespace, files, validate: Validate::Strict, dry_run: true, prune: None };
    run(client, &request, plan.output, out).await
}

/// Asks for the plan of what an apply would do, and prints it.
pub(super) async fn run(
    client: &Client,
    request: &ApplyRequest,
    output: ReportFormat,
    out: &mut Output,
) -> Result<u8, Failed> {
    let answer = client.plan(request).await.map_err(Failed::Compared)?;
    match output {
        ReportFormat::Text => {
            answer.warnings.iter().for_each(|warning| eprintln!("Warning: {warning}"));
            answer.skipped.iter().for_each(|skipped| eprintln!("Skipped: {skipped}"));
            out.text(&text(&answer))?;
        }
        ReportFormat::Json => out.json(&answer)?,
        ReportFormat::Yaml => out.yaml(&answer)?,
    }
    Ok(if answer.is_change() { DIFFERENT } else { SUCCESS })
}

fn text(answer: &PlanAnswer) -> String {
    if !answer.is_change() {
        return "Nothing to change.\n".to_owned();
    }
    let mut text = String::new();
    if !answer.objects.is_empty() {
        let of = |outcome| answer.objects.iter().filter(|applied| applied.outcome == outcome).count();
        let (created, configured, unchanged) = (of(Outcome::Created), of(Outcome::Configured), of(Outcome::Unchanged));
        // Writing to a string does not fail.
        let _ = writeln!(text, "Objects: {created} created, {configured} configured, {unchanged} unchanged");
    }
    let mut services = Table::new(HEADER.to_vec());
    answer.services.iter().for_each(|service| services.push(service_row(service)));
    let mut maps = Table::new(vec!["MAP", "ADD", "CHANGE", "REMOVE", "ENTRIES", "CAPACITY"]);
    answer.maps.iter().filter(|map| map.added + map.changed + map.removed > 0).for_each(|map| maps.push(map_row(map)));
    for table in [services, maps].iter().filter(|table| !table.is_empty()) {
        let _ = write!(text, "{}{table}", if text.is_empty() { "" } else { "\n" });
    }
    let bytes = |of: fn(&MapPlan) -> usize| size(answer.maps.iter().map(of).sum());
    let (before, after) = (bytes(|map| map.bytes_before), bytes(|map| map.bytes_after));
    let separator = if text.is_empty() { "" } else { "\n" };
    let _ = writeln!(text, "{separator}Writes:      {}", answer.writes);
    let _ = writeln!(text, "Memory:      {before} -> {after} of keys and values");
    let _ = writeln!(text, "Connections: {}", connections(&answer.connections));
    text
}

fn service_row(service: &ServicePlan) -> Vec<String> {
    vec![
        format!("{}/{}", service.namespace, service.name),
        service.change.name().to_owned(),
        count(&service.frontends),
        count(&service.endpoints),
        service.slots_moved.map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", share * 100.0)),
        service.connections.total.to_string(),
        service.connections.moving.to_string(),
        service.connections.lingering.to_string(),
        service.connections.ending.to_string(),
    ]
}

fn map_row(map: &MapPlan) -> Vec<String> {
    vec![
        map.name.clone(),
        map.added.to_string(),
        map.changed.to_string(),
        map.removed.to_string(),
        format!("{} -> {}", map.entries_before, map.entries_after),
        map.capacity.to_string(),
    ]
}

/// `2`, or `2 -> 3 (+2 -1)`.
fn count(count: &Count) -> String {
    if count.added + count.removed == 0 {
        return count.after.to_string();
    }
    let added = if count.added > 0 { format!("+{}", count.added) } else { String::new() };
    let removed = if count.removed > 0 { format!("-{}", count.removed) } else { String::new() };
    let separator = if added.is_empty() || removed.is_empty() { "" } else { " " };
    format!("{} -> {} ({added}{separator}{removed})", count.before, count.after)
}

fn connections(plan: &ConnectionPlan) -> String {
    let parts = [
        (plan.moving, "move to another backend"),
        (plan.lingering, "linger with a withdrawn backend until they end"),
        (plan.ending, "end"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    match (plan.total, parts.is_empty()) {
        (0, _) => "none".to_owned(),
        (total, true) => format!("{total}, all stay"),
        (total, false) => format!("{total}: {}", parts.join(", ")),
    }
}

/// `512 B`, `1.5 KiB`.
fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::plan::ServiceChange;
    use crate::api::{Applied, ObjectName};
    use crate::objects::Kind;

    #[test]
    fn a_plan_says_what_changes_and_what_that_means() {
        let moved = ConnectionPlan { total: 12, moving: 2, lingering: 3, ending: 1 };
        let service = |name: &str, change, connections| ServicePlan {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            change,
            frontends: Count { before: 2, after: 2, added: 0, removed: 0 },
            endpoints: Count { before: 2, after: 3, added: 2, removed: 1 },
            slots_moved: (change == ServiceChange::Changed).then_some(1.0 / 3.0),
            connections,
        };
        let object = ObjectName { kind: Kind::Pod, namespace: "shop".to_owned(), name: "a".to_owned() };
        let map = |name: &str, added| MapPlan {
            name: name.to_owned(),
            added,
            changed: 0,
            removed: 0,
            entries_before: 10,
            entries_after: 10 + added,
            capacity: 65_536,
            bytes_before: 1000,
            bytes_after: 1000 + 100 * added,
        };
        let answer = PlanAnswer {
            objects: vec![Applied { object, outcome: Outcome::Created }],
            writes: 7,
            services: vec![
                service("web", ServiceChange::Changed, moved),
                service("api", ServiceChange::Added, ConnectionPlan::default()),
            ],
            maps: vec![map("SERVICES", 2), map("DEVICES", 0)],
            connections: moved,
            ..PlanAnswer::default()
        };
        insta::assert_snapshot!(text(&answer), @r"
        Objects: 1 created, 0 configured, 0 unchanged

        SERVICE    CHANGE    FRONTENDS   ENDPOINTS        SLOTS   CONNECTIONS   MOVE   LINGER   END
        shop/web   changed   2           2 -> 3 (+2 -1)   33.3%   12            2      3        1
        shop/api   added     2           2 -> 3 (+2 -1)   -       0             0      0        0

        MAP        ADD   CHANGE   REMOVE   ENTRIES    CAPACITY
        SERVICES   2     0        0        10 -> 12   65536

        Writes:      7
        Memory:      2.0 KiB -> 2.1 KiB of keys and values
        Connections: 12: 2 move to another backend, 3 linger with a withdrawn backend until they end, 1 end
        ");
    }

    #[test]
    fn nothing_is_said_to_change_where_nothing_does() {
        assert_eq!(text(&PlanAnswer::default()), "Nothing to change.\n");
    }
}
