//! Objects on their way in: what an update may not change, and of Services what it keeps, what it drops, and which families
//! they get.
//!
//! The order and the field paths are the API server's (`pkg/registry/core/service`: `storage/storage.go`,
//! `storage/alloc.go`, `strategy.go`; and `ValidateServiceUpdate` of `pkg/apis/core/validation/validation.go`). Each
//! function names the one that it restates.

mod families;
mod kind;
mod lasting;
mod update;

pub(super) use lasting::check_lasting;

use crate::manifest::path::FieldPath;
use crate::objects::{IpFamily, NONE, ServiceSpec, ServiceType};

/// What is wrong with a Service, by field.
pub(super) type Problems = Vec<(FieldPath, String)>;

/// Makes `new` what it will be, but for what has yet to be allocated. `configured` are the families of the service CIDRs.
pub(super) fn admit(new: &mut ServiceSpec, old: Option<&ServiceSpec>, configured: &[IpFamily]) -> Result<(), Problems> {
    let mut problems = Problems::new();
    match old {
        Some(old) => update::merge(new, old),
        // normalizeClusterIPs, of a creation
        None if new.cluster_ips.is_empty() => new.cluster_ips = new.cluster_ip.iter().cloned().collect(),
        None => {}
    }
    if new.r#type == ServiceType::ExternalName {
        // Allowed there, and without any meaning.
        new.ports.iter_mut().for_each(|port| port.node_port = None);
    }
    kind::check(new, &mut problems);
    if let Some(old) = old {
        update::check(new, old, &mut problems);
    }
    if has_address(new) {
        families::related(new, &mut problems);
        if problems.is_empty() {
            families::complete(new, old, configured, &mut problems);
        }
    }
    if let Some(old) = old {
        update::check_families(new, old, &mut problems);
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// `needsClusterIP`
fn has_address(spec: &ServiceSpec) -> bool {
    spec.r#type != ServiceType::ExternalName
}

/// Whether the type has node ports (`needsNodePort` of `strategy.go`).
pub(super) fn has_node_ports(spec: &ServiceSpec) -> bool {
    matches!(spec.r#type, ServiceType::NodePort | ServiceType::LoadBalancer)
}

/// Whether a port without a node port gets one (`shouldAllocateNodePorts`).
pub(super) fn gets_node_ports(spec: &ServiceSpec) -> bool {
    match spec.r#type {
        ServiceType::NodePort => true,
        ServiceType::LoadBalancer => spec.allocate_load_balancer_node_ports != Some(false),
        ServiceType::ClusterIP | ServiceType::ExternalName => false,
    }
}

/// Whether a load balancer asks this node for its health (`NeedsHealthCheck`).
pub(super) fn has_health_check(spec: &ServiceSpec) -> bool {
    spec.r#type == ServiceType::LoadBalancer && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// `isHeadlessService`
pub(super) fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ips.first().is_some_and(|first| first == NONE)
}
