//! EndpointSlices (`ValidateEndpointSlice` of `pkg/apis/discovery/validation/validation.go`).

use super::{Rules, metadata, names};
use crate::manifest::path::{FieldPath, field};
use crate::objects::{AddressType, Endpoint, EndpointHints, EndpointSlice, Hint, Labels};
use std::collections::HashSet;

/// `maxEndpoints`
const MAX_ENDPOINTS: usize = 1000;
/// `maxAddresses`
const MAX_ADDRESSES: usize = 100;
/// `maxPorts`
const MAX_PORTS: usize = 20_000;
/// `maxZoneHints` and `maxNodeHints`
const MAX_HINTS: usize = 8;
/// `maxTopologyLabels`
const MAX_TOPOLOGY_LABELS: usize = 16;

pub(super) fn check(slice: &EndpointSlice, rules: &mut Rules) {
    // ValidateEndpointSliceName = NameIsDNSSubdomain
    metadata::check(&slice.metadata, names::dns_subdomain, rules);
    metadata::weight(&slice.metadata, rules);
    ports(slice, rules);
    let count = slice.endpoints.len();
    if count > MAX_ENDPOINTS {
        return rules.error(field!["endpoints"], too_many(count, "endpoints", MAX_ENDPOINTS, "a slice"));
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        one(endpoint, &field!["endpoints", index], slice.address_type, rules);
    }
}

fn too_many(count: usize, what: &str, most: usize, whole: &str) -> String {
    format!("{count} {what}: at most {most} are allowed in {whole}")
}

/// `validateEndpoints`
fn one(endpoint: &Endpoint, path: &FieldPath, address_type: AddressType, rules: &mut Rules) {
    let count = endpoint.addresses.len();
    if count == 0 {
        rules.error(path.then("addresses"), "is required: at least one address");
    } else if count > MAX_ADDRESSES {
        rules.error(path.then("addresses"), too_many(count, "addresses", MAX_ADDRESSES, "an endpoint"));
    }
    for (position, text) in endpoint.addresses.iter().enumerate() {
        address(text, || path.then("addresses").then(position), address_type, rules);
    }
    if let Some(node) = &endpoint.node_name {
        rules.value(names::dns_subdomain(node), || path.then("nodeName"), node);
    }
    if let Some(hostname) = &endpoint.hostname {
        rules.value(names::dns_label(hostname), || path.then("hostname"), hostname);
    }
    if let Some(topology) = &endpoint.deprecated_topology {
        deprecated_topology(topology, &path.then("deprecatedTopology"), rules);
    }
    if let Some(hints) = &endpoint.hints {
        check_hints(hints, &path.then("hints"), rules);
    }
}

/// `IsValidIPv4Address`, `IsValidIPv6Address`, `ValidateNonSpecialIP`, `IsFullyQualifiedDomainName`
fn address(text: &str, path: impl Fn() -> FieldPath, address_type: AddressType, rules: &mut Rules) {
    if address_type == AddressType::FQDN {
        return rules.value(names::full_domain(text), path, text);
    }
    let Some(parsed) = rules.address(text, &path) else { return };
    if parsed.is_ipv4() == (address_type == AddressType::IPv4) {
        rules.value(names::not_special(parsed), path, text);
    } else {
        let (is, wanted) = if parsed.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        let message = format!("`{text}` is {is} and addressType is {wanted}: each family has slices of its own");
        rules.error(path(), message);
    }
}

fn deprecated_topology(topology: &Labels, path: &FieldPath, rules: &mut Rules) {
    if topology.len() > MAX_TOPOLOGY_LABELS {
        rules.error(path.clone(), too_many(topology.len(), "labels", MAX_TOPOLOGY_LABELS, "an endpoint"));
    }
    metadata::labels(topology, path, rules);
}

/// `validateHints`: zones are label values, nodes have the names of Nodes, and each is named once.
fn check_hints(hints: &EndpointHints, path: &FieldPath, rules: &mut Rules) {
    named(&hints.for_zones, &path.then("forZones"), names::label_value, rules);
    named(&hints.for_nodes, &path.then("forNodes"), names::dns_subdomain, rules);
}

fn named(hints: &[Hint], path: &FieldPath, check: fn(&str) -> names::Check, rules: &mut Rules) {
    if hints.len() > MAX_HINTS {
        return rules.error(path.clone(), too_many(hints.len(), "hints", MAX_HINTS, "an endpoint"));
    }
    let mut seen = HashSet::new();
    for (index, hint) in hints.iter().enumerate() {
        let path = || path.then(index).then("name");
        if !seen.insert(&hint.name) {
            rules.error(path(), format!("`{}` is named twice: name it once", hint.name));
        }
        rules.value(check(&hint.name), path, &hint.name);
    }
}

/// `validatePorts`. The API server looks at no port's number; one that is none is told, and not used.
fn ports(slice: &EndpointSlice, rules: &mut Rules) {
    let count = slice.ports.len();
    if count > MAX_PORTS {
        return rules.error(field!["ports"], too_many(count, "ports", MAX_PORTS, "a slice"));
    }
    let mut seen = HashSet::new();
    for (index, port) in slice.ports.iter().enumerate() {
        let path = |field: &str| field!["ports", index, field];
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            rules.value(names::dns_label(name), || path("name"), name);
        }
        if !seen.insert(name) {
            let message = match name {
                "" => "is required: another port of the slice has no name".to_owned(),
                name => format!("`{name}` is the name of two ports: each needs its own"),
            };
            rules.error(path("name"), message);
        }
        if let Some(protocol) = &port.app_protocol {
            rules.value(names::qualified_name(protocol), || path("appProtocol"), protocol);
        }
        if let Some(number) = port.port.filter(|number| names::port_number(*number).is_err()) {
            rules.warning(path("port"), format!("`{number}` is no port, and not used: give one between 1 and 65535"));
        }
    }
}
