//! Fields that belong to some types of Services alone.

use super::{Problems, has_health_check, has_node_ports, is_headless};
use crate::manifest::is_externally_accessible;
use crate::manifest::path::field;
use crate::objects::{ServiceSpec, ServiceType};

/// What the type does not allow.
pub(super) fn check(spec: &ServiceSpec, problems: &mut Problems) {
    external_name(spec, problems);
    node_ports(spec, problems);
    traffic(spec, problems);
    load_balancer(spec, problems);
}

/// `ValidateService`, case `ExternalName`: no address, and no family of one.
fn external_name(spec: &ServiceSpec, problems: &mut Problems) {
    if spec.r#type != ServiceType::ExternalName {
        return;
    }
    let given = [
        ("clusterIPs", !spec.cluster_ips.is_empty() || spec.cluster_ip.is_some()),
        ("ipFamilies", !spec.ip_families.is_empty()),
        ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
    ];
    for (name, _) in given.into_iter().filter(|(_, given)| *given) {
        let message = "must be absent for the type ExternalName, which has no address".to_owned();
        problems.push((field!["spec", name], message));
    }
}

/// `ValidateService`: node ports want an address, and a type that has them.
fn node_ports(spec: &ServiceSpec, problems: &mut Problems) {
    if has_node_ports(spec) && is_headless(spec) {
        let message = format!("must not be `None` for the type {}: leave it out to get an address", spec.r#type);
        problems.push((field!["spec", "clusterIPs", 0], message));
    }
    if spec.r#type == ServiceType::ClusterIP {
        for (index, port) in spec.ports.iter().enumerate() {
            let Some(number) = port.node_port else { continue };
            let message =
                format!("{number} is of no use for the type ClusterIP: leave it out, or set `type: NodePort`");
            problems.push((field!["spec", "ports", index, "nodePort"], message));
        }
    }
}

/// `validateServiceExternalTrafficPolicy`
fn traffic(spec: &ServiceSpec, problems: &mut Problems) {
    if let Some(policy) = spec.external_traffic_policy.as_ref().filter(|_| !is_externally_accessible(spec)) {
        let message =
            format!("`{policy}` is of no use for the type {} without external addresses: leave it out", spec.r#type);
        problems.push((field!["spec", "externalTrafficPolicy"], message));
    }
    let Some(number) = spec.health_check_node_port else { return };
    let path = || field!["spec", "healthCheckNodePort"];
    if !has_health_check(spec) {
        let message =
            format!("{number} is for the type LoadBalancer with `externalTrafficPolicy: Local`: leave it out");
        problems.push((path(), message));
    }
    if let Some(index) = spec.ports.iter().position(|port| port.node_port == Some(number)) {
        problems.push((path(), format!("{number} is ports[{index}].nodePort too: choose another")));
    }
}

/// `ValidateService` and `validateLoadBalancerClassField`
fn load_balancer(spec: &ServiceSpec, problems: &mut Problems) {
    if spec.r#type == ServiceType::LoadBalancer {
        return;
    }
    let given = [
        ("loadBalancerClass", spec.load_balancer_class.clone()),
        ("allocateLoadBalancerNodePorts", spec.allocate_load_balancer_node_ports.map(|value| value.to_string())),
    ];
    for (name, value) in given.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        let message = format!("`{value}` is for the type LoadBalancer, and this is {}: leave it out", spec.r#type);
        problems.push((field!["spec", name], message));
    }
}
