//! Counters by name, added up from counters by id.
//!
//! A Service port has an id for each of its addresses. When one goes, what it had counted stays with the name; when an
//! id begins anew, so does what follows from it. So the sum never goes down.

use super::{BackendFigures, Names, ServiceFigures};
use crate::api::description::Counters;
use crate::objects::Protocol;
use lb_common::Traffic;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// What the maps have counted, by id.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// `SERVICE_STATS`, from id 0 on.
    pub services: Vec<Traffic>,
    /// `BACKEND_STATS`, from id 0 on.
    pub backends: Vec<Traffic>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Tally {
    names: Arc<Names>,
    services: Vec<Sum>,
    backends: Vec<Sum>,
}

/// What one name has come to.
#[derive(Clone, Debug, Default)]
struct Sum {
    /// Of ids that it has no more.
    before: Counters,
    /// Of those it has, as they were read last.
    last: Vec<(u32, Traffic)>,
}

impl Tally {
    /// Everything that has a name, with what has been counted for it.
    pub fn read(&mut self, names: &Arc<Names>, counted: &Counted) -> (Vec<ServiceFigures>, Vec<BackendFigures>) {
        if !Arc::ptr_eq(&self.names, names) {
            self.services = carry(&self.names.services, &mut self.services, &names.services, port);
            self.backends = carry(&self.names.backends, &mut self.backends, &names.backends, |one| one.address);
            self.names = Arc::clone(names);
        }
        let services = names.services.iter().zip(&mut self.services);
        let services =
            services.map(|((name, _), sum)| ServiceFigures { traffic: sum.update(&counted.services), ..name.clone() });
        let backends = names.backends.iter().zip(&mut self.backends);
        let backends =
            backends.map(|((name, _), sum)| BackendFigures { traffic: sum.update(&counted.backends), ..name.clone() });
        (services.collect(), backends.collect())
    }
}

/// What makes a Service port the same one.
fn port(one: &ServiceFigures) -> (&str, &str, &str, Protocol) {
    (&one.namespace, &one.service, &one.port, one.protocol)
}

/// The sums of new names: those that there were before go on.
fn carry<'n, N, K: Eq + Hash + 'n>(
    names: &'n [(N, Vec<u32>)],
    sums: &mut Vec<Sum>,
    now: &'n [(N, Vec<u32>)],
    key: impl Fn(&'n N) -> K,
) -> Vec<Sum> {
    let mut known: HashMap<K, Sum> = names.iter().map(|(name, _)| key(name)).zip(sums.drain(..)).collect();
    let sum = |(name, ids): &'n (N, Vec<u32>)| known.remove(&key(name)).unwrap_or_default().with(ids);
    now.iter().map(sum).collect()
}

impl Sum {
    /// The same name with these ids.
    fn with(mut self, ids: &[u32]) -> Self {
        let (kept, gone): (Vec<_>, Vec<_>) = self.last.into_iter().partition(|(id, _)| ids.contains(id));
        gone.iter().for_each(|(_, traffic)| self.before.add(traffic));
        let last =
            |id: &u32| kept.iter().find(|(other, _)| other == id).map_or_else(Traffic::default, |(_, last)| *last);
        Self { before: self.before, last: ids.iter().map(|id| (*id, last(id))).collect() }
    }

    fn update(&mut self, counted: &[Traffic]) -> Counters {
        let mut sum = self.before;
        for (id, last) in &mut self.last {
            let now = counted.get(*id as usize).copied().unwrap_or_default();
            if is_reset(last, &now) {
                self.before.add(last);
                sum.add(last);
            }
            *last = now;
            sum.add(&now);
        }
        sum
    }
}

/// Whether a counter has begun anew in between.
fn is_reset(last: &Traffic, now: &Traffic) -> bool {
    now.connections < last.connections || now.packets < last.packets || now.reply_packets < last.reply_packets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Endpoints;

    fn names(ports: &[(&str, &[u32])]) -> Arc<Names> {
        let service = |(name, ids): &(&str, &[u32])| {
            let figures = ServiceFigures {
                namespace: "d".to_owned(),
                service: (*name).to_owned(),
                port: "80".to_owned(),
                protocol: Protocol::TCP,
                endpoints: Endpoints::default(),
                traffic: Counters::default(),
            };
            (figures, ids.to_vec())
        };
        Arc::new(Names { services: ports.iter().map(service).collect(), backends: Vec::new() })
    }

    fn packets(tally: &mut Tally, names: &Arc<Names>, counted: &[u64]) -> Vec<u64> {
        let services = counted.iter().map(|packets| Traffic { packets: *packets, ..Traffic::default() }).collect();
        let (services, _) = tally.read(names, &Counted { services, backends: Vec::new() });
        services.iter().map(|service| service.traffic.packets).collect()
    }

    #[test]
    fn a_name_counts_by_all_its_ids_and_keeps_what_those_had_that_went() {
        let mut tally = Tally::default();
        let both = names(&[("a", &[0, 2]), ("b", &[1])]);
        assert_eq!(packets(&mut tally, &both, &[5, 7, 3]), [8, 7]);
        assert_eq!(packets(&mut tally, &both, &[6, 7, 3]), [9, 7]);
        let fewer = names(&[("a", &[2]), ("b", &[1])]);
        assert_eq!(packets(&mut tally, &fewer, &[0, 8, 4]), [10, 8], "id 0 is somebody else's now");
        let other = names(&[("a", &[2, 3]), ("c", &[0])]);
        assert_eq!(packets(&mut tally, &other, &[1, 8, 4, 2]), [12, 1], "what is new begins with its id");
        assert_eq!(packets(&mut tally, &other, &[1, 8, 1, 2]), [13, 1], "id 2 has begun anew");
        assert_eq!(packets(&mut tally, &other, &[1, 8, 2, 2]), [14, 1]);
        assert!(packets(&mut tally, &names(&[]), &[1]).is_empty());
    }
}
