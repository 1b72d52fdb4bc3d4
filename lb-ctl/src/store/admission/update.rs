//! What an update keeps of what was there, what it drops, and what it may not change.

use super::{Problems, gets_node_ports, has_address, has_health_check, has_node_ports, is_headless};
use crate::manifest::is_externally_accessible;
use crate::manifest::path::field;
use crate::objects::{IpFamily, ServiceSpec, ServiceType};
use std::collections::{HashMap, HashSet};

const REMEDY: &str = "delete the Service and apply it again";

/// Fills in what was allocated, and takes away what only the old type had.
pub(super) fn merge(new: &mut ServiceSpec, old: &ServiceSpec) {
    normalize_cluster_ips(new, old);
    keep_allocated(new, old);
    drop_fields_of_the_old_type(new, old);
}

/// `clusterIP` and `clusterIPs` are one thing in two fields; a manifest may change either (`normalizeClusterIPs`).
fn normalize_cluster_ips(new: &mut ServiceSpec, old: &ServiceSpec) {
    if new.cluster_ips.is_empty() {
        new.cluster_ips = match &new.cluster_ip {
            Some(first) if old.cluster_ip.as_ref() == Some(first) => old.cluster_ips.clone(),
            Some(first) => vec![first.clone()],
            None => Vec::new(),
        };
    } else if new.cluster_ip != old.cluster_ip && new.cluster_ips == old.cluster_ips {
        new.cluster_ips = new.cluster_ip.iter().cloned().collect();
    }
}

/// What was allocated stays, though the manifest does not name it (`patchAllocatedValues`).
fn keep_allocated(new: &mut ServiceSpec, old: &ServiceSpec) {
    if has_address(old) && has_address(new) {
        if new.cluster_ip.is_none() {
            new.cluster_ip.clone_from(&old.cluster_ip);
        }
        if new.cluster_ips.is_empty() {
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
        // Like the addresses, so that applying the same manifest again changes nothing.
        if new.ip_families.is_empty() && new.cluster_ips == old.cluster_ips {
            new.ip_families.clone_from(&old.ip_families);
        }
    }
    if gets_node_ports(old) && gets_node_ports(new) {
        let given: HashSet<i64> = new.ports.iter().filter_map(|port| port.node_port).collect();
        let by_name: HashMap<_, _> = old.ports.iter().map(|port| (port.name.clone(), port.node_port)).collect();
        for port in new.ports.iter_mut().filter(|port| port.node_port.is_none()) {
            let kept = by_name.get(&port.name).copied().flatten();
            port.node_port = kept.filter(|number| !given.contains(number));
        }
    }
    if has_health_check(old) && has_health_check(new) && new.health_check_node_port.is_none() {
        new.health_check_node_port = old.health_check_node_port;
    }
}

/// Fields that only the old type has go with it, unless the manifest changes them too: then they are errors
/// (`dropTypeDependentFields`).
fn drop_fields_of_the_old_type(new: &mut ServiceSpec, old: &ServiceSpec) {
    if has_address(old) && !has_address(new) {
        if (&new.cluster_ip, &new.cluster_ips) == (&old.cluster_ip, &old.cluster_ips) {
            new.cluster_ip = None;
            new.cluster_ips.clear();
        }
        if new.ip_families == old.ip_families {
            new.ip_families.clear();
        }
        if new.ip_family_policy == old.ip_family_policy {
            new.ip_family_policy = None;
        }
    }
    if has_node_ports(old) && !has_node_ports(new) {
        let before: HashSet<i64> = old.ports.iter().filter_map(|port| port.node_port).collect();
        if new.ports.iter().filter_map(|port| port.node_port).all(|number| before.contains(&number)) {
            new.ports.iter_mut().for_each(|port| port.node_port = None);
        }
    }
    if has_health_check(old) && !has_health_check(new) && new.health_check_node_port == old.health_check_node_port {
        new.health_check_node_port = None;
    }
    let is_balancer = |spec: &ServiceSpec| spec.r#type == ServiceType::LoadBalancer;
    if is_balancer(old) && !is_balancer(new) {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if new.load_balancer_class == old.load_balancer_class {
            new.load_balancer_class = None;
        }
    }
    if is_externally_accessible(old)
        && !is_externally_accessible(new)
        && new.external_traffic_policy == old.external_traffic_policy
    {
        new.external_traffic_policy = None;
    }
}

/// The addresses, a load balancer's class and the port of its health check last as long as the Service.
pub(super) fn check(new: &ServiceSpec, old: &ServiceSpec, problems: &mut Problems) {
    class(new, old, problems);
    health_check(new, old, problems);
    cluster_ips(new, old, problems);
}

/// `validateLoadBalancerClassField`
fn class(new: &ServiceSpec, old: &ServiceSpec, problems: &mut Problems) {
    let are_balancers = old.r#type == ServiceType::LoadBalancer && new.r#type == ServiceType::LoadBalancer;
    if are_balancers && old.load_balancer_class != new.load_balancer_class {
        let shown = |class: &Option<String>| class.as_ref().map_or("none".to_owned(), |class| format!("`{class}`"));
        let (before, after) = (shown(&old.load_balancer_class), shown(&new.load_balancer_class));
        let message = format!("cannot change from {before} to {after}: {REMEDY}");
        problems.push((field!["spec", "loadBalancerClass"], message));
    }
}

/// `validateServiceExternalTrafficFieldsUpdate`
fn health_check(new: &ServiceSpec, old: &ServiceSpec, problems: &mut Problems) {
    let numbers = (old.health_check_node_port, new.health_check_node_port);
    if has_health_check(old)
        && has_health_check(new)
        && let (Some(before), Some(after)) = numbers
        && before != after
    {
        let message = format!("cannot change from {before} to {after}: leave it out, or {REMEDY}");
        problems.push((field!["spec", "healthCheckNodePort"], message));
    }
}

/// `validateUpgradeDowngradeClusterIPs`
fn cluster_ips(new: &ServiceSpec, old: &ServiceSpec, problems: &mut Problems) {
    if !has_address(old) || !has_address(new) || is_headless(old) && is_headless(new) {
        return;
    }
    for (index, (before, after)) in old.cluster_ips.iter().zip(&new.cluster_ips).enumerate() {
        if before != after {
            let message = format!("cannot change from {before} to {after}: {REMEDY}");
            problems.push((field!["spec", "clusterIPs", index], message));
        }
    }
}

/// The families last as long as the Service too, but for one that is headless (`validateUpgradeDowngradeIPFamilies`).
pub(super) fn check_families(new: &ServiceSpec, old: &ServiceSpec, problems: &mut Problems) {
    if !has_address(old) || !has_address(new) || is_headless(old) || is_headless(new) {
        return;
    }
    for (index, (before, after)) in old.ip_families.iter().zip(&new.ip_families).enumerate() {
        if before != after {
            let name = |family: &IpFamily| format!("IPv{}", family.version());
            let message = format!("cannot change from {} to {}: {REMEDY}", name(before), name(after));
            problems.push((field!["spec", "ipFamilies", index], message));
        }
    }
}
