//! What the API server fills in before it looks at an object (`SetDefaults_Service`, `SetDefaults_Namespace` and
//! `SetDefaults_Probe` of `pkg/apis/core/v1/defaults.go`).
//!
//! What needs the node's configuration or other objects (families, addresses, node ports) comes from the
//! [`store`](crate::store).

use super::rules::names;
use crate::objects::{AFFINITY_SECONDS, IntOrString, Namespace, Pod, ServiceSpec, ServiceType};

/// `LabelMetadataName`
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Every Namespace can be selected by its name.
pub(super) fn namespace(namespace: &mut Namespace) {
    let metadata = &mut namespace.metadata;
    if !metadata.name.is_empty() {
        metadata.labels.insert(NAME_LABEL.to_owned(), metadata.name.clone());
    }
}

/// `SetDefaults_Probe` and `SetDefaults_HTTPGetAction`
pub(super) fn pod(pod: &mut Pod) {
    let probes = pod.spec.containers.iter_mut().filter_map(|container| container.readiness_probe.as_mut());
    for probe in probes {
        for (value, default) in [
            (&mut probe.timeout_seconds, 1),
            (&mut probe.period_seconds, 10),
            (&mut probe.success_threshold, 1),
            (&mut probe.failure_threshold, 3),
        ] {
            if *value == 0 {
                *value = default;
            }
        }
        if let Some(get) = &mut probe.http_get {
            for (text, default) in [(&mut get.path, "/"), (&mut get.scheme, "HTTP")] {
                if text.is_empty() {
                    default.clone_into(text);
                }
            }
        }
    }
}

pub(super) fn service(spec: &mut ServiceSpec) {
    let blank = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    if blank(&spec.cluster_ip) {
        spec.cluster_ip = None;
    }
    plain_addresses(spec.cluster_ip.iter_mut().chain(&mut spec.cluster_ips).chain(&mut spec.external_ips));
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
        spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
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

/// Fills `sessionAffinityConfig.clientIP.timeoutSeconds`.
fn affinity_timeout(spec: &mut ServiceSpec) {
    let config = spec.session_affinity_config.get_or_insert_default();
    config.client_ip.get_or_insert_default().timeout_seconds.get_or_insert(AFFINITY_SECONDS.into());
}

/// Writes addresses as everybody reads them, where the API server's reader is more lenient than others.
pub(super) fn plain_addresses<'t>(texts: impl IntoIterator<Item = &'t mut String>) {
    for text in texts {
        if let Some(address) = names::address(text).filter(|address| text.parse() != Ok(*address)) {
            *text = address.to_string();
        }
    }
}
