//! The answer to `why`, from what is remembered and what has names now.

use super::history::{Happened, History, Place, Remembered};
use super::line::{moment, now, protocol_name};
use super::names::Names;
use crate::api::monitor::is_port_of;
use crate::api::why::{Question, WhyAnswer, WhyClient, WhyGroup, WhyReason};
use crate::model::Views;
use lb_common::{Reason, SCTP, TCP, UDP};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Clients of a group that are named.
const CLIENTS: usize = 3;
const SECOND: u64 = 1_000_000_000;

/// Answers `question`.
pub(super) fn answer(question: &Question, history: &History, views: &Views) -> WhyAnswer {
    let since = (now() / SECOND).saturating_sub(question.since.as_secs());
    let names = Names::of(views);
    let told = history.reasons().filter_map(|(reason, remembered)| tell(question, since, reason, remembered, &names));
    let mut reasons: Vec<WhyReason> = told.collect();
    // The counters are of everything; what was asked for may be less.
    reasons.sort_by_key(|reason| Reverse(if question.is_about_all() { reason.packets } else { reason.seen }));
    WhyAnswer { since_seconds: question.since.as_secs(), reasons }
}

fn tell(question: &Question, since: u64, reason: Reason, remembered: &Remembered, names: &Names) -> Option<WhyReason> {
    let groups = groups(question, since, reason, remembered, names);
    let packets = remembered.packets(since);
    if packets == 0 || (groups.is_empty() && !question.is_about_all()) {
        return None;
    }
    let (seen, last) = if question.is_about_all() {
        (remembered.all.seen.since(since), moment(remembered.all.last))
    } else {
        let last = groups.iter().map(|group| group.last.clone()).max();
        (groups.iter().map(|group| group.seen).sum(), last.unwrap_or_default())
    };
    Some(WhyReason {
        reason: reason.name().to_owned(),
        sentence: reason.sentence().to_owned(),
        remedy: reason.remedy().to_owned(),
        packets,
        seen,
        not_told_apart: remembered.rest.since(since),
        last,
        groups,
    })
}

/// A place, what happened there, and how often in the time asked for.
type Seen<'a> = (&'a Place, &'a Happened, u64);

/// What happened at each frontend, first what happened most.
fn groups(question: &Question, since: u64, reason: Reason, remembered: &Remembered, names: &Names) -> Vec<WhyGroup> {
    let mut by_frontend: BTreeMap<(SocketAddr, u8), Vec<Seen<'_>>> = BTreeMap::new();
    for (place, happened) in &remembered.places {
        let seen = happened.seen.since(since);
        let is_asked = question.client.is_none_or(|network| place.client.is_some_and(|it| network.contains(&it)));
        if seen > 0 && is_asked {
            by_frontend.entry((place.frontend, place.protocol)).or_default().push((place, happened, seen));
        }
    }
    let group = |((frontend, protocol), mut places): ((SocketAddr, u8), Vec<Seen<'_>>)| {
        let service = names.service(frontend, protocol);
        if question.service.as_ref().is_some_and(|key| !service.is_some_and(|service| is_port_of(service, key))) {
            return None;
        }
        places.sort_by_key(|(place, _, seen)| (Reverse(*seen), place.client));
        let clients: Vec<WhyClient> =
            places.iter().map(|(place, _, seen)| WhyClient { address: place.client, seen: *seen }).collect();
        Some(WhyGroup {
            service: service.map(str::to_owned),
            frontend,
            protocol: protocol_name(protocol),
            seen: clients.iter().map(|client| client.seen).sum(),
            last: moment(places.iter().map(|(_, happened, _)| happened.last).max().unwrap_or_default()),
            more_clients: clients.len().saturating_sub(CLIENTS) as u64,
            next: next(reason, service, frontend, protocol, &clients),
            clients: clients.into_iter().take(CLIENTS).collect(),
        })
    };
    let mut groups: Vec<WhyGroup> = by_frontend.into_iter().filter_map(group).collect();
    groups.sort_by_key(|group| Reverse(group.seen));
    groups
}

/// Commands that tell more of a group.
fn next(
    reason: Reason,
    service: Option<&str>,
    frontend: SocketAddr,
    protocol: u8,
    clients: &[WhyClient],
) -> Vec<String> {
    let name = service.map(|service| service.split_once(':').map_or(service, |(name, _)| name));
    let name = name.and_then(|name| name.split_once('/'));
    let describe = name.map(|(namespace, name)| format!("lb-ctl describe service {name} -n {namespace}"));
    let client = clients.iter().find_map(|client| client.address);
    // A packet that is made up has no route, TTL or MTU of its own to find out about.
    let is_traced =
        matches!(protocol, TCP | UDP | SCTP) && !matches!(reason, Reason::TtlExceeded | Reason::MtuExceeded);
    let trace = client.filter(|_| is_traced).map(|client| {
        format!("lb-ctl trace --from {client} --to {frontend}/{}", protocol_name(protocol).to_lowercase())
    });
    describe.into_iter().chain(trace).collect()
}
