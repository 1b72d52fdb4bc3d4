//! Services: what holds of one at its creation and after every update (`ValidateService` of
//! `pkg/apis/core/validation/validation.go`). What an update may change, and what depends on the node's ranges, is the
//! store's.

use super::metadata::{annotation, labels};
use super::{Rules, load_balancer, metadata, names, ports};
use crate::manifest::path::field;
use crate::objects::{ALGORITHM_ANNOTATION, Algorithm, NONE, Service, ServiceSpec, ServiceType};
use std::collections::HashSet;

const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
/// `MaxClientIPServiceAffinitySeconds`
const MAX_AFFINITY_SECONDS: i64 = 86_400;

pub(super) fn check(service: &Service, rules: &mut Rules) {
    let spec = &service.spec;
    // ValidateServiceName = NameIsDNS1035Label
    metadata::check(&service.metadata, names::dns_1035_label, rules);
    topology(service, rules);
    let annotations = &service.metadata.annotations;
    if let Some(text) = annotations.get(ALGORITHM_ANNOTATION) {
        rules.value(Algorithm::of(annotations).map(drop), || annotation(ALGORITHM_ANNOTATION), text);
    }
    if spec.r#type == ServiceType::ExternalName {
        external_name(spec, rules);
    } else if spec.ports.is_empty() && !service.is_headless() {
        rules.error(field!["spec", "ports"], "is required: at least one port, as in `- port: 80`");
    }
    ports::check(spec, rules);
    if let Some(selector) = &spec.selector {
        labels(selector, &field!["spec", "selector"], rules);
    }
    words(spec, rules);
    affinity(spec, rules);
    if spec.r#type != ServiceType::ExternalName {
        families(spec, rules);
        cluster_ips(spec, rules);
    }
    external_ips(spec, rules);
    load_balancer::check(service, rules);
}

/// `ValidateService`: the deprecated annotation and its successor agree.
fn topology(service: &Service, rules: &mut Rules) {
    let annotations = &service.metadata.annotations;
    if let (Some(hints), Some(mode)) = (annotations.get(TOPOLOGY_HINTS), annotations.get(TOPOLOGY_MODE))
        && hints != mode
    {
        let message = format!(
            "`{mode}` must be `{hints}`, as the older annotation `{TOPOLOGY_HINTS}` has it: keep the newer one alone"
        );
        rules.error(annotation(TOPOLOGY_MODE), message);
    }
}

/// `ValidateService`, case `ExternalName`: a DNS name, which may end in a dot.
fn external_name(spec: &ServiceSpec, rules: &mut Rules) {
    let name = spec.external_name.as_deref().unwrap_or_default();
    let path = || field!["spec", "externalName"];
    match name.strip_suffix('.').unwrap_or(name) {
        "" => rules.error(path(), "is required for the type ExternalName, such as `db.example.net`"),
        bare => rules.value(names::dns_subdomain(bare), path, name),
    }
}

/// Values that are one of a few words: `supportedSessionAffinityType`, `supportedServiceIPFamilyPolicy`,
/// `validateServiceExternalTrafficPolicy`, `validateServiceInternalTrafficFieldsValue`,
/// `validateServiceTrafficDistribution`.
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

/// `validateClientIPAffinityConfig`, of what the defaults left.
fn affinity(spec: &ServiceSpec, rules: &mut Rules) {
    let config = spec.session_affinity_config.as_ref().filter(|_| spec.session_affinity.as_deref() == Some("ClientIP"));
    let Some(seconds) = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds) else { return };
    if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) {
        let path = field!["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"];
        rules.error(path, format!("`{seconds}` must be a whole number between 1 and {MAX_AFFINITY_SECONDS}"));
    }
}

/// `ValidateServiceClusterIPsRelatedFields`: each family once.
fn families(spec: &ServiceSpec, rules: &mut Rules) {
    let mut seen = HashSet::new();
    for (index, family) in spec.ip_families.iter().enumerate() {
        if !seen.insert(family) {
            let message = format!("IPv{} is given twice: name each family once", family.version());
            rules.error(field!["spec", "ipFamilies", index], message);
        }
    }
}

/// `ValidateServiceClusterIPsRelatedFields`: the addresses by themselves. How they go with `clusterIP` and the families is
/// looked at when an update has been merged with what was there.
fn cluster_ips(spec: &ServiceSpec, rules: &mut Rules) {
    let path = || field!["spec", "clusterIPs"];
    let given: Vec<&str> = if spec.cluster_ips.is_empty() {
        spec.cluster_ip.as_deref().into_iter().collect()
    } else {
        spec.cluster_ips.iter().map(String::as_str).collect()
    };
    if given.first() == Some(&NONE) {
        if given.len() > 1 {
            rules.error(path(), format!("`{}`: `None` must be the only value", given.join(", ")));
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
        rules.error(path(), format!("`{first}, {second}`: at most one address of each family is allowed"));
    }
}

/// `ValidateService`: addresses that packets from afar can come to (`ValidateNonSpecialIP`).
fn external_ips(spec: &ServiceSpec, rules: &mut Rules) {
    for (index, text) in spec.external_ips.iter().enumerate() {
        let path = || field!["spec", "externalIPs", index];
        if let Some(address) = rules.address(text, path) {
            rules.value(names::not_special(address), path, address);
            if address.is_multicast() && names::not_special(address).is_ok() {
                rules.warning(path(), format!("{address} is a multicast address: no connection comes to it"));
            }
        }
    }
}
