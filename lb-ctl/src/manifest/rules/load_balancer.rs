//! What is said of a Service's load balancer: who may use it, who provides it, where it is reached.

use super::metadata::annotation;
use super::{Rules, names};
use crate::manifest::path::{FieldPath, field};
use crate::objects::{LoadBalancerIngress, Service, ServiceType};
use ipnet::IpNet;

/// `AnnotationLoadBalancerSourceRangesKey`
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

pub(super) fn check(service: &Service, rules: &mut Rules) {
    source_ranges(service, rules);
    let spec = &service.spec;
    // validateLoadBalancerClassField
    if let Some(class) = &spec.load_balancer_class
        && spec.r#type == ServiceType::LoadBalancer
    {
        rules.value(names::qualified_name(class), || field!["spec", "loadBalancerClass"], class);
    }
    if spec.r#type == ServiceType::LoadBalancer {
        for (index, entry) in service.status.load_balancer.ingress.iter().enumerate() {
            ingress(entry, &field!["status", "loadBalancer", "ingress", index], rules);
        }
    }
}

/// `ValidateService`: the field, or else the annotation; ranges with room around them.
fn source_ranges(service: &Service, rules: &mut Rules) {
    let spec = &service.spec;
    let annotated = service.metadata.annotations.get(SOURCE_RANGES).map(|ranges| ranges.trim());
    let (path, ranges): (_, Vec<(FieldPath, &str)>) = if !spec.load_balancer_source_ranges.is_empty() {
        let path = field!["spec", "loadBalancerSourceRanges"];
        let ranges = spec.load_balancer_source_ranges.iter().enumerate();
        let ranges = ranges.map(|(index, range)| (path.then(index), range.as_str())).collect();
        (path, ranges)
    } else if let Some(ranges) = annotated {
        let split = ranges.split(',').filter(|_| !ranges.is_empty());
        (annotation(SOURCE_RANGES), split.map(|range| (annotation(SOURCE_RANGES), range)).collect())
    } else {
        return;
    };
    if spec.r#type != ServiceType::LoadBalancer {
        rules.error(path, format!("is for the type LoadBalancer, and this is {}: leave it out", spec.r#type));
    }
    for (path, range) in ranges {
        let range = range.trim();
        let is_range = range.parse::<IpNet>().is_ok();
        rules.value(is_range.then_some(()).ok_or("must be a range such as 192.0.2.0/24"), || path, range);
    }
}

/// `ValidateLoadBalancerStatus`
fn ingress(entry: &LoadBalancerIngress, path: &FieldPath, rules: &mut Rules) {
    if let Some(text) = entry.ip.as_deref().filter(|text| !text.is_empty()) {
        rules.address(text, || path.then("ip"));
    }
    if let Some(mode) = &entry.ip_mode {
        rules.word(mode, &["VIP", "Proxy"], || path.then("ipMode"));
        if entry.ip.as_deref().is_none_or(str::is_empty) {
            rules.error(path.then("ipMode"), format!("`{mode}` belongs to an `ip`, and there is none"));
        }
    }
    if let Some(name) = entry.hostname.as_deref().filter(|name| !name.is_empty()) {
        rules.value(names::dns_subdomain(name), || path.then("hostname"), name);
        if names::address(name).is_some() {
            rules.error(path.then("hostname"), format!("`{name}` is an address: write it as `ip`"));
        }
    }
}
