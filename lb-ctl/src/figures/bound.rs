//! How many names a scrape has at most: what is beyond is added up under one.
//!
//! Who has a name keeps it for as long as it is there, so that no counter jumps because a Service with an earlier name came.

use super::{BackendFigures, Endpoints, Figures, ServiceFigures};
use crate::api::description::Counters;
use crate::objects::Protocol;
use clap::ValueEnum;
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;

/// The label of what is added up, in place of a name.
pub const OTHERS: &str = "(others)";

/// Whose traffic a scrape tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    /// Nobody's: reasons, maps and the daemon alone.
    None,
    /// That of each port of each Service.
    Service,
    /// That of each endpoint's address too.
    #[default]
    Backend,
}

/// Chooses whose figures are told by name.
#[derive(Debug)]
pub struct Bound {
    detail: Detail,
    /// Service ports, and then backends, that are told by name.
    limit: usize,
    services: Named<(String, String, String, Protocol)>,
    backends: Named<IpAddr>,
}

/// How much was told by name, and how much was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// By name.
    pub named: u64,
    /// Added up.
    pub others: u64,
}

impl Bound {
    /// Of Service ports and of backends up to `limit` each are named.
    pub fn new(detail: Detail, limit: usize) -> Self {
        Self { detail, limit, services: Named::default(), backends: Named::default() }
    }

    /// Adds up what is beyond the limit, and leaves out what is not to be told. Says what was told of Service ports and
    /// of backends.
    pub fn apply(&mut self, figures: &mut Figures) -> [Told; 2] {
        if self.detail < Detail::Service {
            figures.services.clear();
        }
        if self.detail < Detail::Backend {
            figures.backends.clear();
        }
        let key = |one: &ServiceFigures| (one.namespace.clone(), one.service.clone(), one.port.clone(), one.protocol);
        let services = self.services.choose(&mut figures.services, self.limit, key, |one| one.traffic);
        if let Some((traffic, rest)) = services.1 {
            let sum = |count: fn(&Endpoints) -> u64| rest.iter().map(|one| count(&one.endpoints)).sum();
            let endpoints =
                Endpoints { used: sum(|all| all.used), unused: sum(|all| all.unused), addresses: Vec::new() };
            figures.services.push(ServiceFigures {
                namespace: OTHERS.to_owned(),
                service: OTHERS.to_owned(),
                port: OTHERS.to_owned(),
                protocol: Protocol::TCP,
                endpoints,
                traffic,
            });
        }
        let backends = self.backends.choose(&mut figures.backends, self.limit, |one| one.address, |one| one.traffic);
        if let Some((traffic, _)) = backends.1 {
            let (address, pod) = (IpAddr::from([0, 0, 0, 0]), OTHERS.to_owned());
            figures.backends.push(BackendFigures { address, pod, traffic });
        }
        [services.0, backends.0]
    }
}

/// Who has a name, and what the others come to.
#[derive(Debug)]
struct Named<K> {
    names: HashSet<K>,
    /// Of others that are gone or have a name by now.
    before: Counters,
    last: HashMap<K, Counters>,
}

impl<K> Default for Named<K> {
    fn default() -> Self {
        Self { names: HashSet::new(), before: Counters::default(), last: HashMap::new() }
    }
}

impl<K: Eq + Hash + Clone> Named<K> {
    /// Leaves those in `all` that are told by name. Gives the others, and what all who ever were among them have come to.
    fn choose<T>(
        &mut self,
        all: &mut Vec<T>,
        limit: usize,
        key: impl Fn(&T) -> K,
        traffic: impl Fn(&T) -> Counters,
    ) -> (Told, Option<(Counters, Vec<T>)>) {
        let present: HashSet<K> = all.iter().map(&key).collect();
        if all.len() <= limit && self.last.is_empty() && self.before == Counters::default() {
            self.names = present;
            return (Told { named: all.len() as u64, others: 0 }, None);
        }
        self.names.retain(|name| present.contains(name));
        for one in all.iter() {
            if self.names.len() >= limit {
                break;
            }
            self.names.insert(key(one));
        }
        let (named, others): (Vec<T>, Vec<T>) =
            std::mem::take(all).into_iter().partition(|one| self.names.contains(&key(one)));
        *all = named;
        let now: HashMap<K, Counters> = others.iter().map(|one| (key(one), traffic(one))).collect();
        for (name, last) in &self.last {
            if !now.contains_key(name) {
                self.before.merge(last);
            }
        }
        let mut sum = self.before;
        now.values().for_each(|counters| sum.merge(counters));
        self.last = now;
        (Told { named: all.len() as u64, others: others.len() as u64 }, Some((sum, others)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(services: &[(&str, u64)]) -> Figures {
        let service = |(name, packets): &(&str, u64)| ServiceFigures {
            namespace: "d".to_owned(),
            service: (*name).to_owned(),
            port: "80".to_owned(),
            protocol: Protocol::TCP,
            endpoints: Endpoints { used: 1, ..Endpoints::default() },
            traffic: Counters { packets: *packets, ..Counters::default() },
        };
        let backends = vec![BackendFigures {
            address: IpAddr::from([10, 0, 0, 1]),
            pod: String::new(),
            traffic: Counters::default(),
        }];
        Figures { services: services.iter().map(service).collect(), backends, ..Figures::default() }
    }

    fn told(bound: &mut Bound, services: &[(&str, u64)]) -> (Vec<(String, u64)>, Told) {
        let mut figures = figures(services);
        let [told, _] = bound.apply(&mut figures);
        (figures.services.into_iter().map(|one| (one.service, one.traffic.packets)).collect(), told)
    }

    fn expect(services: &[(&str, u64)], named: u64, others: u64) -> (Vec<(String, u64)>, Told) {
        (services.iter().map(|(name, packets)| ((*name).to_owned(), *packets)).collect(), Told { named, others })
    }

    #[test]
    fn what_is_beyond_the_limit_is_added_up_and_never_goes_down() {
        let mut bound = Bound::new(Detail::Service, 2);
        assert_eq!(told(&mut bound, &[("b", 1), ("c", 2)]), expect(&[("b", 1), ("c", 2)], 2, 0));
        let all = [("b", 1), ("c", 2), ("d", 30), ("e", 40)];
        let first = told(&mut bound, &[("0", 1), ("b", 1), ("c", 2)]);
        assert_eq!(first, expect(&[("b", 1), ("c", 2), (OTHERS, 1)], 2, 1), "who has a name keeps it");
        let mut bound = Bound::new(Detail::Service, 2);
        assert_eq!(told(&mut bound, &all), expect(&[("b", 1), ("c", 2), (OTHERS, 70)], 2, 2));
        let earlier = [("a", 5), ("b", 1), ("c", 2), ("d", 30)];
        assert_eq!(told(&mut bound, &earlier), expect(&[("b", 1), ("c", 2), (OTHERS, 75)], 2, 2), "e's 40 stay");
        let room = [("a", 5), ("c", 2), ("d", 31)];
        assert_eq!(told(&mut bound, &room), expect(&[("a", 5), ("c", 2), (OTHERS, 76)], 2, 1));
        assert_eq!(told(&mut bound, &[("c", 2)]), expect(&[("c", 2), (OTHERS, 76)], 1, 0), "it stays once it was told");
    }

    #[test]
    fn less_detail_is_less_told() {
        for (detail, counts) in [(Detail::None, (0, 0)), (Detail::Service, (1, 0)), (Detail::Backend, (1, 1))] {
            let mut all = figures(&[("a", 1)]);
            Bound::new(detail, 10).apply(&mut all);
            assert_eq!((all.services.len(), all.backends.len()), counts, "{detail:?}");
        }
    }
}
