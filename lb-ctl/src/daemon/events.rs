//! What happened to each Service lately: told by comparing one model with the next.

use crate::api::description::ServiceEvent;
use crate::model::{PortView, ServiceView, Views};
use crate::objects::{Key, differences};
use jiff::{Timestamp, Unit};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Events kept for each Service.
const KEPT: usize = 16;

/// The latest events of every Service that exists.
#[derive(Clone, Debug, Default)]
pub(super) struct Events(BTreeMap<Key, VecDeque<ServiceEvent>>);

impl Events {
    /// Notes what is different in `now`.
    pub(super) fn note(&mut self, before: &Views, now: &Views, time: Timestamp) {
        let time = time.round(Unit::Second).unwrap_or(time).to_string();
        for (key, old, new) in differences(before, now) {
            let Some(service) = new else {
                self.0.remove(key);
                continue;
            };
            let messages = match old {
                None => vec![format!("appeared with {}", counted(endpoints(service).len()))],
                Some(old) => differences_between(old, service),
            };
            let events = self.0.entry(key.clone()).or_default();
            events.extend(messages.into_iter().map(|message| ServiceEvent { time: time.clone(), message }));
            while events.len() > KEPT {
                events.pop_front();
            }
        }
    }

    /// The latest events of a Service, oldest first.
    pub(super) fn of(&self, service: &Key) -> Vec<ServiceEvent> {
        self.0.get(service).into_iter().flatten().cloned().collect()
    }
}

/// The ready endpoints by what a person calls them.
fn endpoints(service: &ServiceView) -> BTreeSet<String> {
    let of_port = |port: &PortView| {
        let ready = port.endpoints.iter().filter(|endpoint| endpoint.ready);
        let named = ready.map(|endpoint| match &endpoint.pod {
            Some(pod) => format!("{} (pod {pod})", endpoint.address),
            None => endpoint.address.to_string(),
        });
        named.collect::<Vec<_>>()
    };
    service.ports.iter().flat_map(of_port).collect()
}

fn differences_between(old: &ServiceView, new: &ServiceView) -> Vec<String> {
    let (before, now) = (endpoints(old), endpoints(new));
    let mut messages = Vec::new();
    messages.extend(listed("lost", before.difference(&now)));
    messages.extend(listed("gained", now.difference(&before)));
    if old.cluster_addresses != new.cluster_addresses {
        messages.push(format!("its ClusterIPs became {:?}", new.cluster_addresses));
    }
    for problem in new.problems.iter().filter(|problem| !old.problems.contains(problem)) {
        messages.push(format!("problem: {problem}"));
    }
    for problem in old.problems.iter().filter(|problem| !new.problems.contains(problem)) {
        messages.push(format!("solved: {problem}"));
    }
    if messages.is_empty() {
        messages.push("changed".to_owned());
    }
    messages
}

fn listed<'a>(verb: &str, endpoints: impl Iterator<Item = &'a String>) -> Option<String> {
    let all: Vec<&str> = endpoints.map(String::as_str).collect();
    match all.as_slice() {
        [] => None,
        [a] => Some(format!("{verb} endpoint {a}")),
        [a, b] => Some(format!("{verb} endpoints {a}, {b}")),
        [a, b, rest @ ..] => Some(format!("{verb} endpoints {a}, {b} and {} more", rest.len())),
    }
}

fn counted(count: usize) -> String {
    if count == 1 { "1 ready endpoint".to_owned() } else { format!("{count} ready endpoints") }
}
