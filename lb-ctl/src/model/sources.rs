//! Which slices and pods give which Service its endpoints: kept up to date by what changes, so that neither every Service
//! is compared with every pod, nor anything with what has not changed.

use crate::objects::{
    AddressType, EndpointSlice, Key, Labels, Objects, Pod, SERVICE_NAME_LABEL, Service, Table, differences,
};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Namespace, key and value of a label.
type Label = (String, String, String);

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    slices: Members<EndpointSlice>,
    pods: Members<Pod>,
    /// Services by one label of their selectors: a pod that a selector matches has it.
    selecting: HashMap<Label, BTreeSet<Key>>,
}

impl Sources {
    /// The Service's slices in order of name. Those of names (`addressType: FQDN`) are left out.
    pub(super) fn slices(&self, service: &Key) -> &[Arc<EndpointSlice>] {
        self.slices.of(service)
    }

    /// The pods that the Service's selector matches, in order of name. An empty selector matches none, as in Kubernetes.
    pub(super) fn pods(&self, service: &Key) -> &[Arc<Pod>] {
        self.pods.of(service)
    }

    /// Follows the objects; gives the Services whose own object, slices or pods are not what they were.
    pub(super) fn update(&mut self, before: &Objects, now: &Objects) -> BTreeSet<Key> {
        let mut affected = BTreeSet::new();
        let mut selecting_anew = BTreeSet::new();
        for (key, old, new) in differences(&before.services, &now.services) {
            affected.insert(key.clone());
            let (old, new) = (old.and_then(selector), new.and_then(selector));
            if old != new {
                old.inspect(|old| self.unlist(key, old));
                if let Some(new) = new {
                    self.list(key, new);
                    selecting_anew.insert(key.clone());
                }
            }
        }
        self.select(&selecting_anew, before, now);
        for (_, old, new) in differences(&before.pods, &now.pods) {
            for (pod, is_new) in old.map(|pod| (pod, false)).into_iter().chain(new.map(|pod| (pod, true))) {
                for service in self.matching(pod, &now.services) {
                    if is_new {
                        self.pods.insert(&service, pod);
                    } else {
                        self.pods.remove(&service, pod);
                    }
                    affected.insert(service);
                }
            }
        }
        for (_, old, new) in differences(&before.endpoint_slices, &now.endpoint_slices) {
            for (slice, is_new) in old.map(|slice| (slice, false)).into_iter().chain(new.map(|slice| (slice, true))) {
                let Some(service) = service_of(slice) else { continue };
                if is_new {
                    self.slices.insert(&service, slice);
                } else {
                    self.slices.remove(&service, slice);
                }
                affected.insert(service);
            }
        }
        affected
    }

    /// Lists a Service under the label of its selector that the fewest others are under.
    fn list(&mut self, service: &Key, selector: &Labels) {
        let labels = labels(&service.namespace, selector);
        if let Some(rarest) = labels.min_by_key(|label| self.selecting.get(label).map_or(0, BTreeSet::len)) {
            self.selecting.entry(rarest).or_default().insert(service.clone());
        }
    }

    fn unlist(&mut self, service: &Key, selector: &Labels) {
        for label in labels(&service.namespace, selector) {
            if let Some(services) = self.selecting.get_mut(&label)
                && services.remove(service)
                && services.is_empty()
            {
                self.selecting.remove(&label);
            }
        }
        self.pods.forget(service);
    }

    /// Finds the pods, of those that were there `before`, for Services whose selectors are new.
    fn select(&mut self, services: &BTreeSet<Key>, before: &Objects, now: &Objects) {
        let namespaces: BTreeSet<&String> = services.iter().map(|service| &service.namespace).collect();
        for namespace in namespaces {
            let from = Key::new(namespace, "");
            for (_, pod) in before.pods.range(from..).take_while(|(key, _)| key.namespace == *namespace) {
                for service in self.matching(pod, &now.services).into_iter().filter(|key| services.contains(key)) {
                    self.pods.insert(&service, pod);
                }
            }
        }
    }

    /// The Services whose selectors match a pod.
    fn matching(&self, pod: &Pod, services: &Table<Service>) -> Vec<Key> {
        let labels = labels(&pod.metadata.namespace, pod.labels());
        let candidates = labels.filter_map(|label| self.selecting.get(&label)).flatten();
        let selects = |service: &&Key| {
            let selector = services.get(*service).and_then(selector);
            selector.is_some_and(|selector| selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value)))
        };
        candidates.filter(selects).cloned().collect()
    }
}

fn selector(service: &Arc<Service>) -> Option<&Labels> {
    service.spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

fn labels(namespace: &str, labels: &Labels) -> impl Iterator<Item = Label> {
    labels.iter().map(move |(key, value)| (namespace.to_owned(), key.clone(), value.clone()))
}

/// The Service that a slice is of, by its label.
fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let labels = &slice.metadata.labels;
    let name = labels.get(SERVICE_NAME_LABEL).filter(|_| slice.address_type != AddressType::FQDN)?;
    Some(Key::new(&slice.metadata.namespace, name))
}

/// Objects of one kind by the Service, of their own namespace, that they are for; each list in order of name.
#[derive(Clone, Debug)]
struct Members<T>(HashMap<Key, Vec<Arc<T>>>);

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

/// What has a name.
trait Named {
    fn name(&self) -> &str;
}

impl Named for Pod {
    fn name(&self) -> &str {
        &self.metadata.name
    }
}

impl Named for EndpointSlice {
    fn name(&self) -> &str {
        &self.metadata.name
    }
}

impl<T: Named> Members<T> {
    fn of(&self, service: &Key) -> &[Arc<T>] {
        self.0.get(service).map_or(&[], Vec::as_slice)
    }

    fn insert(&mut self, service: &Key, object: &Arc<T>) {
        let members = self.0.entry(service.clone()).or_default();
        match members.binary_search_by(|member| member.name().cmp(object.name())) {
            Ok(place) => members[place] = Arc::clone(object),
            Err(place) => members.insert(place, Arc::clone(object)),
        }
    }

    fn remove(&mut self, service: &Key, object: &T) {
        let Some(members) = self.0.get_mut(service) else { return };
        if let Ok(place) = members.binary_search_by(|member| member.name().cmp(object.name())) {
            members.remove(place);
        }
        if members.is_empty() {
            self.0.remove(service);
        }
    }

    fn forget(&mut self, service: &Key) {
        self.0.remove(service);
    }
}
