//! Services: what holds of one at its creation and after every update.

use super::metadata::{annotation, labels};
use super::{Rules, metadata, names};
use crate::manifest::path::{FieldPath, field};
use crate::objects::{
    ALGORITHM_ANNOTATION, Algorithm, IntOrString, NONE, Service, ServicePort, ServiceSpec, ServiceType,
};
use ipnet::IpNet;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
/// The kubelet's own port, which a load balancer must not take from the nodes.
const KUBELET_PORT: i64 = 10_250;
const MAX_AFFINITY_SECONDS: i64 = 86_400;

pub(super) fn check(service: &Service, rules: &mut Rules) {
    let spec = &service.spec;
    metadata::check(&service.metadata, names::dns_1035_label, rules);
    let annotations = &service.metadata.annotations;
    if let (Some(hints), Some(mode)) = (annotations.get(TOPOLOGY_HINTS), annotations.get(TOPOLOGY_MODE))
        && hints != mode
    {
        rules.error(
            annotation(TOPOLOGY_MODE),
            format!("must equal the older annotation `{TOPOLOGY_HINTS}`, or replace it"),
        );
    }
    if let Some(text) = annotations.get(ALGORITHM_ANNOTATION) {
        rules.value(Algorithm::of(annotations).map(drop), || annotation(ALGORITHM_ANNOTATION), text);
    }
    if spec.r#type == ServiceType::ExternalName {
        external_name(spec, rules);
    } else if spec.ports.is_empty() && !service.is_headless() {
        rules.error(field!["spec", "ports"], "is required: at least one port");
    }
    ports(spec, rules);
    if let Some(selector) = &spec.selector {
        labels(selector, &field!["spec", "selector"], rules);
    }
    words(spec, rules);
    affinity(spec, rules);
    addresses(spec, rules);
    source_ranges(service, rules);
    if let Some(class) = &spec.load_balancer_class {
        rules.value(names::qualified_name(class), || field!["spec", "loadBalancerClass"], class);
    }
}

fn external_name(spec: &ServiceSpec, rules: &mut Rules) {
    let name = spec.external_name.as_deref().unwrap_or_default();
    let path = || field!["spec", "externalName"];
    if name.is_empty() {
        rules.error(path(), "is required for the type ExternalName");
    } else {
        rules.value(names::dns_subdomain(name.strip_suffix('.').unwrap_or(name)), path, name);
    }
}

fn ports(spec: &ServiceSpec, rules: &mut Rules) {
    let mut by_name = HashSet::new();
    let mut by_number = HashMap::new();
    let mut by_node_port = HashMap::new();
    for (index, port) in spec.ports.iter().enumerate() {
        let path = |field: &str| field!["spec", "ports", index, field];
        match port.name.as_deref() {
            None if spec.ports.len() > 1 => {
                rules.error(path("name"), "is required where a Service has several ports");
            }
            None => {}
            Some(name) => {
                rules.value(names::dns_label(name), || path("name"), name);
                if !by_name.insert(name) {
                    rules.error(path("name"), format!("`{name}` is the name of two ports: each needs its own"));
                }
            }
        }
        rules.value(names::port_number(port.port), || path("port"), port.port);
        if spec.r#type == ServiceType::LoadBalancer && port.port == KUBELET_PORT {
            rules.error(path("port"), format!("{KUBELET_PORT} is the kubelet's own port on every node"));
        }
        target_port(port, || path("targetPort"), rules);
        if let Some(protocol) = port.app_protocol.as_deref().filter(|protocol| !protocol.is_empty()) {
            rules.value(names::qualified_name(protocol), || path("appProtocol"), protocol);
        }
        if let Some(first) = by_number.insert((port.protocol, port.port), index) {
            let message = format!("{} {} is given already by ports[{first}]", port.protocol, port.port);
            rules.error(field!["spec", "ports", index], message);
        }
        if let Some(number) = port.node_port
            && let Some(first) = by_node_port.insert((port.protocol, number), index)
        {
            let message = format!("{} {number} is given already by ports[{first}]", port.protocol);
            rules.error(path("nodePort"), message);
        }
    }
}

fn target_port(port: &ServicePort, path: impl FnOnce() -> FieldPath, rules: &mut Rules) {
    match &port.target_port {
        // A bad `port` has had its error.
        Some(IntOrString::Int(number)) if *number == port.port => {}
        Some(IntOrString::Int(number)) => rules.value(names::port_number(*number), path, number),
        Some(IntOrString::String(name)) => rules.value(names::port_name(name), path, name),
        None => {}
    }
}

fn words(spec: &ServiceSpec, rules: &mut Rules) {
    let fields: [(_, &Option<String>, &[&str]); 5] = [
        ("externalTrafficPolicy", &spec.external_traffic_policy, &["Cluster", "Local"]),
        ("internalTrafficPolicy", &spec.internal_traffic_policy, &["Cluster", "Local"]),
        ("ipFamilyPolicy", &spec.ip_family_policy, &["SingleStack", "PreferDualStack", "RequireDualStack"]),
        ("sessionAffinity", &spec.session_affinity, &["None", "ClientIP"]),
        ("trafficDistribution", &spec.traffic_distribution, &["PreferSameZone", "PreferSameNode", "PreferClose"]),
    ];
    for (field, value, words) in fields {
        if let Some(value) = value {
            rules.word(value, words, || field!["spec", field]);
        }
    }
}

/// `sessionAffinityConfig: {clientIP: {timeoutSeconds}}`, as the defaults left it.
fn affinity(spec: &ServiceSpec, rules: &mut Rules) {
    let Some(config) = &spec.session_affinity_config else { return };
    let config_path = field!["spec", "sessionAffinityConfig"];
    let Some(client_ip) = only_field(config, "clientIP", &config_path, rules) else { return };
    let path = config_path.then("clientIP");
    let Some(timeout) = only_field(client_ip, "timeoutSeconds", &path, rules) else { return };
    let seconds = timeout.as_i64();
    if !seconds.is_some_and(|seconds| (1..=MAX_AFFINITY_SECONDS).contains(&seconds)) {
        let message = format!("`{timeout}` must be a whole number between 1 and {MAX_AFFINITY_SECONDS}");
        rules.error(path.then("timeoutSeconds"), message);
    }
}

/// The one field a mapping may have.
fn only_field<'v>(value: &'v Value, field: &str, path: &FieldPath, rules: &mut Rules) -> Option<&'v Value> {
    let Some(map) = value.as_object() else {
        rules.error(path.clone(), "must be a mapping");
        return None;
    };
    for key in map.keys().filter(|key| *key != field) {
        rules.error(path.then(key.as_str()), format!("unknown field: the only one here is {field}"));
    }
    map.get(field)
}

fn addresses(spec: &ServiceSpec, rules: &mut Rules) {
    let mut families = HashSet::new();
    for (index, family) in spec.ip_families.iter().enumerate() {
        if !families.insert(family) {
            rules.error(field!["spec", "ipFamilies", index], format!("IPv{} is given twice", family.version()));
        }
    }
    cluster_ips(spec, rules);
    for (index, text) in spec.external_ips.iter().enumerate() {
        let path = || field!["spec", "externalIPs", index];
        if let Some(address) = rules.address(text, path) {
            rules.value(names::unicast(address), path, address);
        }
    }
}

/// The addresses by themselves; how they go with each other and with the families is the store's.
fn cluster_ips(spec: &ServiceSpec, rules: &mut Rules) {
    let path = || field!["spec", "clusterIPs"];
    let given: Vec<&str> = if spec.cluster_ips.is_empty() {
        spec.cluster_ip.as_deref().into_iter().collect()
    } else {
        spec.cluster_ips.iter().map(String::as_str).collect()
    };
    if given.first() == Some(&NONE) {
        if given.len() > 1 {
            rules.error(path(), "`None` must be the only value");
        }
        return;
    }
    if given.len() > 2 {
        rules.error(path(), format!("{} addresses: at most one of each family is allowed", given.len()));
    }
    let parsed: Vec<_> =
        given.iter().enumerate().map(|(index, text)| rules.address(text, || path().then(index))).collect();
    if let [Some(first), Some(second)] = parsed[..]
        && first.is_ipv4() == second.is_ipv4()
    {
        rules.error(path(), "at most one address of each family is allowed");
    }
}

fn source_ranges(service: &Service, rules: &mut Rules) {
    let spec = &service.spec;
    let annotated = service.metadata.annotations.get(SOURCE_RANGES_ANNOTATION).map(|ranges| ranges.trim());
    let is_load_balancer = spec.r#type == ServiceType::LoadBalancer;
    if !spec.load_balancer_source_ranges.is_empty() {
        if !is_load_balancer {
            let message = format!("is for the type LoadBalancer, and this is {}", spec.r#type);
            rules.error(field!["spec", "loadBalancerSourceRanges"], message);
        }
        for (index, range) in spec.load_balancer_source_ranges.iter().enumerate() {
            source_range(range, || field!["spec", "loadBalancerSourceRanges", index], rules);
        }
    } else if let Some(ranges) = annotated {
        if !is_load_balancer {
            let message = format!("is for the type LoadBalancer, and this is {}", spec.r#type);
            rules.error(annotation(SOURCE_RANGES_ANNOTATION), message);
        }
        for range in ranges.split(',').filter(|_| !ranges.is_empty()) {
            source_range(range, || annotation(SOURCE_RANGES_ANNOTATION), rules);
        }
    }
}

fn source_range(range: &str, path: impl FnOnce() -> FieldPath, rules: &mut Rules) {
    let ok = range.trim().parse::<IpNet>().is_ok();
    rules.value(ok.then_some(()).ok_or("must be a range such as 192.0.2.0/24"), path, range.trim());
}
