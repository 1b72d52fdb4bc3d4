//! Which pods a selector matches, without comparing every Service with every pod.
//!
//! Pods are listed under each `key=value` of their labels that some selector asks for. A selector walks the shortest
//! of its lists and checks the other labels.

use crate::objects::{Labels, Objects, Pod};
use std::collections::HashMap;

/// A label in a namespace.
type Label<'a> = (&'a str, &'a str, &'a str);

/// Pods by the labels that selectors ask for.
pub(super) struct PodIndex<'a> {
    by_label: HashMap<Label<'a>, Vec<&'a Pod>>,
}

impl<'a> PodIndex<'a> {
    pub(super) fn new(objects: &'a Objects) -> Self {
        let mut by_label: HashMap<Label<'a>, Vec<&'a Pod>> = HashMap::new();
        for service in objects.services.values() {
            let namespace = service.metadata.namespace.as_str();
            for (key, value) in service.spec.selector.iter().flatten() {
                by_label.entry((namespace, key, value)).or_default();
            }
        }
        for pod in objects.pods.values() {
            for (key, value) in pod.labels() {
                if let Some(pods) = by_label.get_mut(&(pod.metadata.namespace.as_str(), key.as_str(), value.as_str())) {
                    pods.push(pod);
                }
            }
        }
        Self { by_label }
    }

    /// The pods in `namespace` that have all of these labels, in order of name. An empty selector matches none, as in
    /// Kubernetes.
    pub(super) fn matching(&self, namespace: &'a str, selector: &'a Labels) -> Vec<&'a Pod> {
        let lists = selector.iter().map(|(key, value)| self.by_label.get(&(namespace, key.as_str(), value.as_str())));
        let Some(shortest) = lists.map(|list| list.map_or(&[][..], Vec::as_slice)).min_by_key(|list| list.len()) else {
            return Vec::new();
        };
        let has_all = |pod: &Pod| selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value));
        shortest.iter().copied().filter(|pod| has_all(pod)).collect()
    }
}
