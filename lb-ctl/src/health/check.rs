//! What load balancers ask about Services: how many ready endpoints this node has.

use crate::model::{ServiceView, Views};
use crate::objects::{IpFamily, Key, Service, Table, differences};
use std::collections::{BTreeMap, BTreeSet};

/// What is asked about one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    /// Namespace and name.
    pub(super) service: Key,
    /// The port that is asked.
    pub(super) port: u16,
    /// How many ready endpoints are on this node, for each family that the Service has. As in kube-proxy each family is
    /// asked for on addresses of its own.
    pub(super) endpoints: BTreeMap<IpFamily, usize>,
}

/// The checks of all Services, kept up to date by what changes.
#[derive(Debug, Default)]
pub(super) struct Checks {
    services: Table<Service>,
    views: Views,
    by_service: BTreeMap<Key, Check>,
}

impl Checks {
    /// Follows the objects and the views of them. Says whether any check is another.
    pub(super) fn update(&mut self, services: &Table<Service>, views: &Views) -> bool {
        let changed = differences(&self.services, services).map(|(key, ..)| key);
        let affected: BTreeSet<Key> =
            changed.chain(differences(&self.views, views).map(|(key, ..)| key)).cloned().collect();
        (self.services, self.views) = (services.clone(), views.clone());
        let mut is_changed = false;
        for key in affected {
            let known = services.get(&key).zip(views.get(&key));
            let now = known.and_then(|(service, view)| check(service, view));
            is_changed |= self.by_service.get(&key) != now.as_ref();
            match now {
                Some(check) => drop(self.by_service.insert(key, check)),
                None => drop(self.by_service.remove(&key)),
            }
        }
        is_changed
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Check> {
        self.by_service.values()
    }
}

/// What is asked about a Service, if anything is.
fn check(service: &Service, view: &ServiceView) -> Option<Check> {
    if service.left_to_others_by().is_some() {
        return None;
    }
    let endpoints = view.ports.iter().flat_map(|port| &port.endpoints);
    // An endpoint whose node nobody told counts nowhere: it could otherwise count on several nodes.
    let here = endpoints.filter(|endpoint| endpoint.ready && endpoint.local == Some(true));
    let here: BTreeSet<_> = here.map(|endpoint| endpoint.address).collect();
    let count = |family| here.iter().filter(|address| IpFamily::of(**address) == family).count();
    let families = view.cluster_addresses.iter().copied().map(IpFamily::of);
    let endpoints = families.map(|family| (family, count(family))).collect();
    Some(Check { service: view.key.clone(), port: service.health_check_port()?, endpoints })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NodeView, services};
    use crate::objects::{Object, Objects};
    use std::sync::Arc;

    fn objects(service: &str, slices: &[&str]) -> Objects {
        let mut objects = Objects::default();
        objects.insert(Object::Service(Arc::new(serde_yaml::from_str(service).unwrap())));
        for slice in slices {
            objects.insert(Object::EndpointSlice(Arc::new(serde_yaml::from_str(slice).unwrap())));
        }
        objects
    }

    fn checks(objects: &Objects) -> Vec<Check> {
        let mut checks = Checks::default();
        let node = NodeView { name: "n1".to_owned(), ..NodeView::default() };
        checks.update(&objects.services, &services(objects, &node));
        checks.iter().cloned().collect()
    }

    const SERVICE: &str = "
metadata: {name: s, namespace: d}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, 'fd00:96::1']
  externalTrafficPolicy: Local
  healthCheckNodePort: 31000
  ports: [{name: a, port: 80}, {name: b, port: 443}]
";

    const V4: &str = "
metadata: {name: s4, namespace: d, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{name: a, port: 80}, {name: b, port: 443}]
endpoints:
- {addresses: [10.0.0.1], nodeName: n1}
- {addresses: [10.0.0.2], nodeName: n1, conditions: {ready: true}}
- {addresses: [10.0.0.3], nodeName: n1, conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.0.0.4], nodeName: n2}
- {addresses: [10.0.0.5]}
";

    const V6: &str = "
metadata: {name: s6, namespace: d, labels: {kubernetes.io/service-name: s}}
addressType: IPv6
ports: [{name: a, port: 80}]
endpoints: [{addresses: ['fd00::1'], nodeName: n1}]
";

    #[test]
    fn ready_endpoints_on_this_node_are_counted_once_and_by_family() {
        let found = checks(&objects(SERVICE, &[V4, V6]));
        let endpoints = BTreeMap::from([(IpFamily::IPv4, 2), (IpFamily::IPv6, 1)]);
        assert_eq!(found, [Check { service: Key::new("d", "s"), port: 31000, endpoints }]);
        let single = SERVICE.replace("clusterIPs: [10.96.0.1, 'fd00:96::1']", "clusterIPs: [10.96.0.1]");
        assert_eq!(checks(&objects(&single, &[V4, V6]))[0].endpoints, BTreeMap::from([(IpFamily::IPv4, 2)]));
        assert_eq!(checks(&objects(SERVICE, &[]))[0].endpoints.values().sum::<usize>(), 0, "it is asked all the same");
    }

    #[test]
    fn only_load_balancers_that_keep_to_the_node_are_asked_about() {
        for (from, to) in [
            ("LoadBalancer", "NodePort"),
            ("externalTrafficPolicy: Local", "externalTrafficPolicy: Cluster"),
            ("healthCheckNodePort: 31000", "sessionAffinity: None"),
            ("name: s, ", "name: s, labels: {service.kubernetes.io/service-proxy-name: other}, "),
            ("name: s, ", "name: s, labels: {service.kubernetes.io/headless: ''}, "),
        ] {
            let other = SERVICE.replace(from, to);
            assert_ne!(other, SERVICE);
            assert_eq!(checks(&objects(&other, &[V4])), [], "{to}");
        }
    }

    #[test]
    fn a_check_follows_its_service() {
        let node = NodeView { name: "n1".to_owned(), ..NodeView::default() };
        let mut checks = Checks::default();
        let mut follow = |objects: &Objects| {
            let is_changed = checks.update(&objects.services, &services(objects, &node));
            (is_changed, checks.iter().map(|check| (check.port, check.endpoints[&IpFamily::IPv4])).collect::<Vec<_>>())
        };
        let both = objects(SERVICE, &[V4]);
        assert_eq!(follow(&both), (true, vec![(31000, 2)]));
        assert_eq!(follow(&both), (false, vec![(31000, 2)]));
        assert_eq!(follow(&objects(SERVICE, &[])), (true, vec![(31000, 0)]));
        assert_eq!(follow(&objects(&SERVICE.replace("31000", "31001"), &[])), (true, vec![(31001, 0)]));
        assert_eq!(follow(&Objects::default()), (true, vec![]));
    }
}
