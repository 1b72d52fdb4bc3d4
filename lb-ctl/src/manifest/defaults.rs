//! What the API server fills in before it looks at a Service (`SetDefaults_Service`).
//!
//! What needs the node's configuration or other objects (families, addresses, node ports) comes from the
//! [`store`](crate::store).

use crate::objects::{AFFINITY_SECONDS, IntOrString, ServiceSpec, ServiceType};
use serde_json::json;

pub(super) fn service(spec: &mut ServiceSpec) {
    let blank = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    if blank(&spec.cluster_ip) {
        spec.cluster_ip = None;
    }
    if spec.ip_family_policy.as_deref() == Some("") {
        spec.ip_family_policy = None;
    }
    if blank(&spec.session_affinity) {
        spec.session_affinity = Some("None".to_owned());
    }
    match spec.session_affinity.as_deref() {
        Some("ClientIP") => affinity_timeout(spec),
        Some("None") => spec.session_affinity_config = None,
        _ => {}
    }
    if spec.r#type == ServiceType::ExternalName {
        if blank(&spec.external_traffic_policy) {
            spec.external_traffic_policy = None;
        }
    } else {
        if blank(&spec.internal_traffic_policy) {
            spec.internal_traffic_policy = Some("Cluster".to_owned());
        }
        if blank(&spec.external_traffic_policy) {
            spec.external_traffic_policy = is_externally_accessible(spec).then(|| "Cluster".to_owned());
        }
    }
    if spec.r#type == ServiceType::LoadBalancer {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    for port in &mut spec.ports {
        let is_given = match &port.target_port {
            Some(IntOrString::Int(number)) => *number != 0,
            Some(IntOrString::String(name)) => !name.is_empty(),
            None => false,
        };
        if !is_given {
            port.target_port = Some(IntOrString::Int(port.port));
        }
        port.name = port.name.take().filter(|name| !name.is_empty());
        port.node_port = port.node_port.filter(|number| *number != 0);
    }
    spec.health_check_node_port = spec.health_check_node_port.filter(|number| *number != 0);
}

/// Whether traffic from outside can reach it, so that `externalTrafficPolicy` means something.
pub(crate) fn is_externally_accessible(spec: &ServiceSpec) -> bool {
    match spec.r#type {
        ServiceType::NodePort | ServiceType::LoadBalancer => true,
        ServiceType::ClusterIP => !spec.external_ips.is_empty(),
        ServiceType::ExternalName => false,
    }
}

/// Fills `sessionAffinityConfig.clientIP.timeoutSeconds`; what has the wrong shape is left to the rules.
fn affinity_timeout(spec: &mut ServiceSpec) {
    let config = spec.session_affinity_config.get_or_insert_with(|| json!({}));
    let Some(config) = config.as_object_mut() else { return };
    let client_ip = config.entry("clientIP").or_insert_with(|| json!({}));
    if client_ip.is_null() {
        *client_ip = json!({});
    }
    let Some(client_ip) = client_ip.as_object_mut() else { return };
    let timeout = client_ip.entry("timeoutSeconds").or_insert_with(|| AFFINITY_SECONDS.into());
    if timeout.is_null() {
        *timeout = AFFINITY_SECONDS.into();
    }
}
