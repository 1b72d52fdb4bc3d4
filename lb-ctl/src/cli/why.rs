//! `why`: what did not arrive lately, grouped by reason.

use super::age;
use super::args::{ReportFormat, Why};
use super::output::Output;
use super::{Failed, SUCCESS};
use crate::api::{Client, WhyAnswer, WhyClient, WhyGroup, WhyQuery, WhyReason};
use jiff::Timestamp;
use std::fmt::Write as _;

/// Groups of a reason that are printed; the rest is counted.
const GROUPS: usize = 10;

pub(super) async fn run(client: &Client, why: &Why, out: &mut Output) -> Result<u8, Failed> {
    let query = WhyQuery {
        service: why.service.as_ref().map(ToString::to_string),
        client: why.client.map(|network| network.to_string()),
        since: why.since.map(|since| since.as_secs()),
    };
    // It may have gone since; what was lost on the way to it is remembered all the same.
    if let Some(key) = &why.service
        && let Err(error) = super::query::service(client, key).await
    {
        eprintln!("Warning: {error}");
    }
    let answer = client.why(&query).await?;
    match why.output {
        ReportFormat::Json => out.json(&answer)?,
        ReportFormat::Yaml => out.yaml(&answer)?,
        ReportFormat::Text => out.text(&text(&answer, &query, Timestamp::now()))?,
    }
    Ok(SUCCESS)
}

fn text(answer: &WhyAnswer, query: &WhyQuery, now: Timestamp) -> String {
    let since = age::duration(i64::try_from(answer.since_seconds).unwrap_or(i64::MAX));
    let of = query.service.iter().map(|service| format!(" of Service {service}"));
    let from = query.client.iter().map(|client| format!(" from {client}"));
    let what: String = of.chain(from).collect();
    if answer.reasons.is_empty() {
        return format!("Nothing{what} was dropped or refused in the last {since}.\n");
    }
    let is_filtered = !what.is_empty();
    let mut text = String::new();
    for reason in &answer.reasons {
        if !text.is_empty() {
            text.push('\n');
        }
        // Writing to a string does not fail.
        let _ = write_reason(&mut text, reason, is_filtered, now);
    }
    text
}

fn write_reason(text: &mut String, reason: &WhyReason, is_filtered: bool, now: Timestamp) -> std::fmt::Result {
    let last = age::since(Some(&reason.last), now);
    let count = match (is_filtered, reason.packets == reason.seen) {
        (_, true) => packets(reason.seen),
        (false, false) => format!("{}, of which {} were seen one by one", packets(reason.packets), reason.seen),
        (true, false) => format!("{} seen, of {} in all", packets(reason.seen), reason.packets),
    };
    writeln!(text, "{}: {count}, the last {last} ago", reason.reason)?;
    writeln!(text, "  {}", reason.sentence)?;
    for group in reason.groups.iter().take(GROUPS) {
        writeln!(text, "  - {}", place(group, now))?;
    }
    let more = reason.groups.iter().skip(GROUPS);
    let (places, seen) = more.fold((0, 0), |(places, seen), group| (places + 1, seen + group.seen));
    if places > 0 {
        writeln!(text, "  - {places} more places: {}", packets(seen))?;
    }
    if reason.not_told_apart > 0 {
        writeln!(text, "  - too many places to tell apart: {}", packets(reason.not_told_apart))?;
    }
    if !reason.remedy.is_empty() {
        writeln!(text, "  What to do: {}", reason.remedy)?;
    }
    let next = reason.groups.first().map_or(&[][..], |group| &group.next);
    next.iter().try_for_each(|command| writeln!(text, "    {command}"))
}

fn place(group: &WhyGroup, now: Timestamp) -> String {
    let service = group.service.as_ref().map(|service| format!("{service} ")).unwrap_or_default();
    let last = age::since(Some(&group.last), now);
    let clients: Vec<String> = group.clients.iter().map(client).collect();
    let more = if group.more_clients > 0 { format!(" and {} more", group.more_clients) } else { String::new() };
    let (to, protocol) = (group.frontend, &group.protocol);
    let count = packets(group.seen);
    format!("{service}{to}/{protocol}: {count}, the last {last} ago, from {}{more}", clients.join(", "))
}

fn client(client: &WhyClient) -> String {
    let name = client.address.map_or_else(|| "a process of this machine".to_owned(), |address| address.to_string());
    format!("{name} ({})", client.seen)
}

fn packets(count: u64) -> String {
    if count == 1 { "1 packet".to_owned() } else { format!("{count} packets") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(packets: u64) -> WhyAnswer {
        let group = WhyGroup {
            service: Some("shop/web:http".to_owned()),
            frontend: "10.96.0.10:80".parse().unwrap(),
            protocol: "TCP".to_owned(),
            seen: 120,
            last: "2024-02-01T00:00:07Z".to_owned(),
            clients: vec![
                WhyClient { address: "192.0.2.1".parse().ok(), seen: 119 },
                WhyClient { address: None, seen: 1 },
            ],
            more_clients: 4,
            next: vec!["lb-ctl describe service web -n shop".to_owned()],
        };
        let reason = WhyReason {
            reason: "no-backend".to_owned(),
            sentence: "The Service has no ready backend.".to_owned(),
            remedy: "Make one ready.".to_owned(),
            packets,
            seen: 120,
            not_told_apart: 0,
            last: "2024-02-01T00:00:07Z".to_owned(),
            groups: vec![group],
        };
        WhyAnswer { since_seconds: 300, reasons: vec![reason] }
    }

    #[test]
    fn a_reason_is_a_paragraph() {
        let now = "2024-02-01T00:00:10Z".parse().unwrap();
        insta::assert_snapshot!(text(&answer(12_400), &WhyQuery::default(), now), @r"
        no-backend: 12400 packets, of which 120 were seen one by one, the last 3s ago
          The Service has no ready backend.
          - shop/web:http 10.96.0.10:80/TCP: 120 packets, the last 3s ago, from 192.0.2.1 (119), a process of this machine (1) and 4 more
          What to do: Make one ready.
            lb-ctl describe service web -n shop
        ");
        let query = WhyQuery { service: Some("shop/web".to_owned()), ..WhyQuery::default() };
        let first = |answer| text(&answer, &query, now).lines().next().unwrap_or_default().to_owned();
        insta::assert_snapshot!(first(answer(12_400)), @"no-backend: 120 packets seen, of 12400 in all, the last 3s ago");
        insta::assert_snapshot!(first(answer(120)), @"no-backend: 120 packets, the last 3s ago");
    }

    #[test]
    fn nothing_is_one_line() {
        let now = "2024-02-01T00:00:10Z".parse().unwrap();
        let nothing = WhyAnswer { since_seconds: 300, reasons: Vec::new() };
        insta::assert_snapshot!(text(&nothing, &WhyQuery::default(), now), @"Nothing was dropped or refused in the last 5m.");
        let query = WhyQuery {
            service: Some("shop/web".to_owned()),
            client: Some("192.0.2.1/32".to_owned()),
            ..WhyQuery::default()
        };
        insta::assert_snapshot!(text(&nothing, &query, now), @"Nothing of Service shop/web from 192.0.2.1/32 was dropped or refused in the last 5m.");
    }
}
