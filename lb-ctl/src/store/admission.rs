//! A Service on its way in: what an update keeps, what it drops, what it may not change, which families it gets.
//!
//! The order and the field paths are the API server's (`pkg/registry/core/service`: `normalizeClusterIPs`,
//! `patchAllocatedValues`, `dropTypeDependentFields`, `initIPFamilyFields`, and `ValidateServiceUpdate`).

use crate::manifest::is_externally_accessible;
use crate::manifest::path::{FieldPath, field};
use crate::objects::{IpFamily, Labels, NONE, ServiceSpec, ServiceType};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// What is wrong with a Service, by field.
pub(super) type Problems = Vec<(FieldPath, String)>;

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// Makes `new` what it will be, but for what has yet to be allocated. `configured` are the families of the service CIDRs.
pub(super) fn admit(new: &mut ServiceSpec, old: Option<&ServiceSpec>, configured: &[IpFamily]) -> Result<(), Problems> {
    let mut problems = Problems::new();
    if let Some(old) = old {
        normalize_cluster_ips(new, old);
        keep_allocated(new, old);
        drop_fields_of_the_old_type(new, old);
    } else if let (Some(first), true) = (&new.cluster_ip, new.cluster_ips.is_empty()) {
        new.cluster_ips = vec![first.clone()];
    }
    if new.r#type == ServiceType::ExternalName {
        // Allowed there, and without any meaning.
        new.ports.iter_mut().for_each(|port| port.node_port = None);
    }
    fields_of_the_type(new, &mut problems);
    if let Some(old) = old {
        unchanged_for_life(new, old, &mut problems);
    }
    if new.r#type != ServiceType::ExternalName {
        related_addresses(new, &mut problems);
        if problems.is_empty() {
            families(new, old, configured, &mut problems);
        }
    }
    if let (Some(old), true) = (old, problems.is_empty()) {
        families_unchanged(new, old, &mut problems);
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn has_address(spec: &ServiceSpec) -> bool {
    spec.r#type != ServiceType::ExternalName
}

/// Whether the type has node ports.
pub(super) fn has_node_ports(spec: &ServiceSpec) -> bool {
    matches!(spec.r#type, ServiceType::NodePort | ServiceType::LoadBalancer)
}

/// Whether a load balancer asks this node for its health.
pub(super) fn has_health_check(spec: &ServiceSpec) -> bool {
    spec.r#type == ServiceType::LoadBalancer && spec.external_traffic_policy.as_deref() == Some("Local")
}

pub(super) fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ips.first().is_some_and(|first| first == NONE)
}

/// Its endpoints are written by hand, and may be of any family.
fn is_headless_without_selector(spec: &ServiceSpec) -> bool {
    is_headless(spec) && spec.selector.as_ref().is_none_or(Labels::is_empty)
}

/// `clusterIP` and `clusterIPs` are one thing in two fields; a manifest may change either.
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

/// What was allocated stays, though the manifest does not name it.
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
    if has_node_ports(old) && has_node_ports(new) {
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

/// Fields that only the old type has go with it, unless the manifest changes them too (then they are errors).
fn drop_fields_of_the_old_type(new: &mut ServiceSpec, old: &ServiceSpec) {
    if has_address(old) && !has_address(new) {
        if new.cluster_ips == old.cluster_ips {
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

fn fields_of_the_type(spec: &ServiceSpec, problems: &mut Problems) {
    let kind = spec.r#type;
    let mut wrong = |path: FieldPath, message: String| problems.push((path, message));
    if kind == ServiceType::ExternalName {
        let absent = || "must be absent for the type ExternalName, which has no address".to_owned();
        if !spec.cluster_ips.is_empty() || spec.cluster_ip.is_some() {
            wrong(field!["spec", "clusterIPs"], absent());
        }
        if !spec.ip_families.is_empty() {
            wrong(field!["spec", "ipFamilies"], absent());
        }
        if spec.ip_family_policy.is_some() {
            wrong(field!["spec", "ipFamilyPolicy"], absent());
        }
    }
    if has_node_ports(spec) && is_headless(spec) {
        wrong(field!["spec", "clusterIPs", 0], format!("must not be `None` for the type {kind}"));
    }
    if kind == ServiceType::ClusterIP {
        for (index, number) in spec.ports.iter().enumerate().filter_map(|(index, port)| Some((index, port.node_port?)))
        {
            let message =
                format!("{number} is of no use for the type ClusterIP: leave it out, or set `type: NodePort`");
            wrong(field!["spec", "ports", index, "nodePort"], message);
        }
    }
    if spec.external_traffic_policy.is_some() && !is_externally_accessible(spec) {
        let message = format!("is of no use for the type {kind} without external addresses: leave it out");
        wrong(field!["spec", "externalTrafficPolicy"], message);
    }
    if spec.health_check_node_port.is_some() && !has_health_check(spec) {
        let message = "is for the type LoadBalancer with `externalTrafficPolicy: Local`: leave it out".to_owned();
        wrong(field!["spec", "healthCheckNodePort"], message);
    }
    let twin = |index: &usize| spec.ports[*index].node_port == spec.health_check_node_port;
    if let (Some(number), Some(index)) = (spec.health_check_node_port, (0..spec.ports.len()).find(twin)) {
        wrong(
            field!["spec", "healthCheckNodePort"],
            format!("{number} is ports[{index}].nodePort too: choose another"),
        );
    }
    if kind != ServiceType::LoadBalancer {
        let message = || format!("is for the type LoadBalancer, and this is {kind}: leave it out");
        if spec.load_balancer_class.is_some() {
            wrong(field!["spec", "loadBalancerClass"], message());
        }
        if spec.allocate_load_balancer_node_ports.is_some() {
            wrong(field!["spec", "allocateLoadBalancerNodePorts"], message());
        }
    }
}

/// How `clusterIP`, `clusterIPs` and `ipFamilies` go together.
fn related_addresses(spec: &ServiceSpec, problems: &mut Problems) {
    let path = || field!["spec", "clusterIPs"];
    match (&spec.cluster_ip, spec.cluster_ips.first()) {
        (Some(first), Some(of_list)) if first != of_list => {
            problems.push((path(), format!("the first must be clusterIP, which is {first}")));
        }
        (None, Some(of_list)) => problems.push((path(), format!("needs `clusterIP: {of_list}` beside it"))),
        _ => {}
    }
    if is_headless(spec) {
        return;
    }
    for (index, (text, family)) in spec.cluster_ips.iter().zip(&spec.ip_families).enumerate() {
        if let Some(address) = parse(text)
            && IpFamily::of(address) != *family
        {
            problems.push((
                path().then(index),
                format!("{address} is not of the family that ipFamilies[{index}] asks for"),
            ));
        }
    }
}

fn parse(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

const fn other(family: IpFamily) -> IpFamily {
    match family {
        IpFamily::IPv4 => IpFamily::IPv6,
        IpFamily::IPv6 => IpFamily::IPv4,
    }
}

const fn name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::IPv4 => "IPv4",
        IpFamily::IPv6 => "IPv6",
    }
}

/// Fills `ipFamilyPolicy` and `ipFamilies`.
fn families(new: &mut ServiceSpec, old: Option<&ServiceSpec>, configured: &[IpFamily], problems: &mut Problems) {
    let policy_path = || field!["spec", "ipFamilyPolicy"];
    if let Some(old) = old
        && new.ip_family_policy.as_deref() == Some(PREFER)
        && old.ip_family_policy == new.ip_family_policy
        && (old.r#type, &old.cluster_ips, &old.ip_families) == (new.r#type, &new.cluster_ips, &new.ip_families)
    {
        // What prefers two families keeps what it has when the node's ranges change.
        return;
    }
    let is_free_headless = is_headless_without_selector(new);
    let kept = old.and_then(|old| old.ip_family_policy.clone());
    let inferred = if is_free_headless { REQUIRE } else { SINGLE };
    let policy = new.ip_family_policy.get_or_insert_with(|| kept.unwrap_or_else(|| inferred.to_owned())).clone();
    if let Some(old) = old {
        if policy == SINGLE {
            if new.cluster_ips == old.cluster_ips {
                new.cluster_ips.truncate(1);
            }
            if new.ip_families == old.ip_families {
                new.ip_families.truncate(1);
            }
        } else if new.cluster_ips.len() == 1 && old.cluster_ips.len() == 2
            || new.ip_families.len() == 1 && old.ip_families.len() == 2
        {
            problems.push((policy_path(), "must be SingleStack to give up the second family".to_owned()));
        }
    }
    if policy == SINGLE && (new.cluster_ips.len() == 2 || new.ip_families.len() == 2) {
        let message = "must be PreferDualStack or RequireDualStack for two families".to_owned();
        problems.push((policy_path(), message));
    }
    let missing = |family: IpFamily| format!("{} is not configured on this node: no service CIDR has it", name(family));
    if !is_headless(new) {
        for index in new.ip_families.len()..new.cluster_ips.len() {
            let Some(family) = parse(&new.cluster_ips[index]).map(IpFamily::of) else { continue };
            if configured.contains(&family) {
                new.ip_families.push(family);
            } else {
                problems.push((field!["spec", "clusterIPs", index], missing(family)));
            }
        }
    }
    if !problems.is_empty() {
        return;
    }
    if !is_free_headless {
        if policy == REQUIRE && configured.len() < 2 {
            problems
                .push((policy_path(), "RequireDualStack needs service CIDRs of both families on this node".to_owned()));
        }
        for (index, family) in new.ip_families.iter().enumerate().filter(|(_, family)| !configured.contains(family)) {
            problems.push((field!["spec", "ipFamilies", index], missing(*family)));
        }
        if !problems.is_empty() {
            return;
        }
    }
    if new.ip_families.is_empty() {
        new.ip_families.extend(configured.first());
    }
    if let ([only], true) = (&new.ip_families[..], policy != SINGLE && (is_free_headless || configured.len() == 2)) {
        let second = other(*only);
        new.ip_families.push(second);
    }
}

const REMEDY: &str = "delete the Service and apply it again";

/// The addresses and a load balancer's class last as long as the Service.
fn unchanged_for_life(new: &ServiceSpec, old: &ServiceSpec, problems: &mut Problems) {
    if old.r#type == ServiceType::LoadBalancer
        && new.r#type == ServiceType::LoadBalancer
        && old.load_balancer_class != new.load_balancer_class
    {
        problems.push((field!["spec", "loadBalancerClass"], format!("cannot change: {REMEDY}")));
    }
    if !has_address(old) || !has_address(new) {
        return;
    }
    let mut pairs = old.cluster_ips.iter().zip(&new.cluster_ips).enumerate();
    if let Some((index, (before, after))) = pairs.find(|(_, (before, after))| before != after) {
        let message = format!("cannot change from {before} to {after}: {REMEDY}");
        problems.push((field!["spec", "clusterIPs", index], message));
    }
}

/// So do the families.
fn families_unchanged(new: &ServiceSpec, old: &ServiceSpec, problems: &mut Problems) {
    if !has_address(old) || !has_address(new) || is_headless_without_selector(new) {
        return;
    }
    for (index, (before, after)) in old.ip_families.iter().zip(&new.ip_families).enumerate() {
        if before != after {
            let message = format!("cannot change from {} to {}: {REMEDY}", name(*before), name(*after));
            problems.push((field!["spec", "ipFamilies", index], message));
        }
    }
}
