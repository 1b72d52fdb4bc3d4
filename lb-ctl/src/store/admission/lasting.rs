//! What of Pods, Nodes and EndpointSlices lasts as long as they do. An object with another `metadata.uid` is another object
//! of the same name: whoever keeps a cluster's dumps in a file sees Pods come back under their names.

use super::Problems;
use crate::manifest::path::{FieldPath, field};
use crate::objects::{Container, EndpointSlice, Node, Object, Pod};
use ipnet::IpNet;
use std::fmt::Debug;

/// What `new` may not change of `old`, which has its kind and name.
pub(in crate::store) fn check_lasting(new: &Object, old: &Object) -> Problems {
    let mut problems = Problems::new();
    if let (Some(new), Some(old)) = (&new.metadata().uid, &old.metadata().uid)
        && new != old
    {
        return problems;
    }
    match (new, old) {
        (Object::Pod(new), Object::Pod(old)) => pod(new, old, &mut problems),
        (Object::Node(new), Object::Node(old)) => node(new, old, &mut problems),
        (Object::EndpointSlice(new), Object::EndpointSlice(old)) => endpoint_slice(new, old, &mut problems),
        _ => {}
    }
    problems
}

/// `ValidatePodUpdate`: of the spec only fields that are not read here may change. What is read of it is compared.
fn pod(new: &Pod, old: &Pod, problems: &mut Problems) {
    let (new, old) = (&new.spec, &old.spec);
    let mut fixed = |name: &str, before: Option<&String>, after: Option<&String>| {
        if before != after {
            let shown = |value: Option<&String>| value.map_or("none".to_owned(), |value| format!("`{value}`"));
            problems.push((field!["spec", name], changed("Pod", &shown(before), &shown(after))));
        }
    };
    fixed("hostname", given(old.hostname.as_ref()), given(new.hostname.as_ref()));
    fixed("subdomain", given(old.subdomain.as_ref()), given(new.subdomain.as_ref()));
    // A Pod gets its node once (`assignPod` of the REST storage of bindings).
    if let Some(before) = given(old.node_name.as_ref()) {
        fixed("nodeName", Some(before), given(new.node_name.as_ref()));
    }
    if new.host_network != old.host_network {
        let message = changed("Pod", &old.host_network.to_string(), &new.host_network.to_string());
        problems.push((field!["spec", "hostNetwork"], message));
    }
    if new.containers.len() != old.containers.len() {
        let message = changed("Pod", &old.containers.len().to_string(), &new.containers.len().to_string());
        return problems.push((field!["spec", "containers"], format!("the number of containers {message}")));
    }
    for (index, (new, old)) in new.containers.iter().zip(&old.containers).enumerate() {
        container(new, old, &field!["spec", "containers", index], problems);
    }
}

fn container(new: &Container, old: &Container, path: &FieldPath, problems: &mut Problems) {
    if new.name != old.name {
        problems.push((path.then("name"), changed("Pod", &format!("`{}`", old.name), &format!("`{}`", new.name))));
    }
    let parts = [("ports", new.ports != old.ports), ("readinessProbe", new.readiness_probe != old.readiness_probe)];
    for (name, _) in parts.into_iter().filter(|(_, differs)| *differs) {
        problems.push((path.then(name), format!("cannot change: {}", remedy("Pod"))));
    }
}

/// `ValidateNodeUpdate`: the networks of its pods are given once.
fn node(new: &Node, old: &Node, problems: &mut Problems) {
    let networks = |node: &Node| -> Vec<IpNet> {
        let single = node.spec.pod_cidr.iter().filter(|_| node.spec.pod_cidrs.is_empty());
        node.spec.pod_cidrs.iter().chain(single).copied().collect()
    };
    let (before, after) = (networks(old), networks(new));
    if !before.is_empty() && before != after {
        let shown = |networks: &[IpNet]| match networks {
            [] => "none".to_owned(),
            networks => networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        problems.push((field!["spec", "podCIDRs"], changed("Node", &shown(&before), &shown(&after))));
    }
}

/// `ValidateEndpointSliceUpdate`
fn endpoint_slice(new: &EndpointSlice, old: &EndpointSlice, problems: &mut Problems) {
    if new.address_type != old.address_type {
        let shown = |value: &dyn Debug| format!("{value:?}");
        let message = changed("EndpointSlice", &shown(&old.address_type), &shown(&new.address_type));
        problems.push((field!["addressType"], message));
    }
}

fn given(value: Option<&String>) -> Option<&String> {
    value.filter(|value| !value.is_empty())
}

fn changed(kind: &str, before: &str, after: &str) -> String {
    format!("cannot change from {before} to {after}: {}", remedy(kind))
}

fn remedy(kind: &str) -> String {
    format!("delete the {kind} and apply it again")
}
