//! EndpointSlices.

use super::{Rules, metadata, names};
use crate::manifest::path::field;
use crate::objects::{AddressType, Endpoint, EndpointSlice};
use serde_json::Value;
use std::collections::HashSet;

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_HINTS: usize = 8;

pub(super) fn check(slice: &EndpointSlice, rules: &mut Rules) {
    metadata::check(&slice.metadata, names::dns_subdomain, rules);
    metadata::weight(&slice.metadata, rules);
    if slice.endpoints.len() > MAX_ENDPOINTS {
        let count = slice.endpoints.len();
        rules.error(field!["endpoints"], format!("{count} endpoints: at most {MAX_ENDPOINTS} are allowed in a slice"));
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        check_endpoint(endpoint, index, slice.address_type, rules);
    }
    check_ports(slice, rules);
}

fn check_endpoint(endpoint: &Endpoint, index: usize, address_type: AddressType, rules: &mut Rules) {
    let count = endpoint.addresses.len();
    if count == 0 {
        rules.error(field!["endpoints", index, "addresses"], "is required: at least one address");
    } else if count > MAX_ADDRESSES {
        let message = format!("{count} addresses: at most {MAX_ADDRESSES} are allowed in an endpoint");
        rules.error(field!["endpoints", index, "addresses"], message);
    }
    for (position, address) in endpoint.addresses.iter().enumerate() {
        let path = || field!["endpoints", index, "addresses", position];
        match address_type {
            AddressType::FQDN => rules.value(names::dns_subdomain(address), path, address),
            AddressType::IPv4 | AddressType::IPv6 => {
                let Some(parsed) = rules.address(address, path) else { continue };
                if parsed.is_ipv4() == (address_type == AddressType::IPv4) {
                    rules.value(names::unicast(parsed), path, address);
                } else {
                    rules.error(path(), format!("`{address}` does not match addressType {}", family(address_type)));
                }
            }
        }
    }
    if let Some(node) = &endpoint.node_name {
        rules.value(names::dns_subdomain(node), || field!["endpoints", index, "nodeName"], node);
    }
    if let Some(hostname) = &endpoint.hostname {
        rules.value(names::dns_label(hostname), || field!["endpoints", index, "hostname"], hostname);
    }
    if let Some(hints) = &endpoint.hints {
        check_hints(hints, index, rules);
    }
}

const fn family(address_type: AddressType) -> &'static str {
    match address_type {
        AddressType::IPv4 => "IPv4",
        AddressType::IPv6 => "IPv6",
        AddressType::FQDN => "FQDN",
    }
}

/// `hints: {forZones: [{name}], forNodes: [{name}]}`.
fn check_hints(hints: &Value, index: usize, rules: &mut Rules) {
    let path = field!["endpoints", index, "hints"];
    let Value::Object(hints) = hints else {
        return rules.error(path, "must be a mapping with forZones or forNodes");
    };
    for (key, list) in hints {
        let path = path.then(key.as_str());
        if !matches!(key.as_str(), "forZones" | "forNodes") {
            rules.error(path, "unknown field: the fields here are forZones, forNodes");
            continue;
        }
        let Value::Array(list) = list else {
            if !list.is_null() {
                rules.error(path, "must be a list of names, as in `- name: zone-1`");
            }
            continue;
        };
        if list.len() > MAX_HINTS {
            rules.error(path.clone(), format!("{} hints: at most {MAX_HINTS} are allowed", list.len()));
        }
        for (position, hint) in list.iter().enumerate() {
            let name = hint.get("name").and_then(Value::as_str).unwrap_or_default();
            if name.is_empty() {
                rules.error(path.then(position).then("name"), "is required");
            }
        }
    }
}

fn check_ports(slice: &EndpointSlice, rules: &mut Rules) {
    if slice.ports.len() > MAX_PORTS {
        let count = slice.ports.len();
        rules.error(field!["ports"], format!("{count} ports: at most {MAX_PORTS} are allowed in a slice"));
    }
    let mut seen = HashSet::new();
    for (index, port) in slice.ports.iter().enumerate() {
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            rules.value(names::dns_label(name), || field!["ports", index, "name"], name);
        }
        if !seen.insert(name) {
            rules.error(
                field!["ports", index, "name"],
                format!("`{name}` is the name of two ports: each needs its own"),
            );
        }
        if let Some(number) = port.port {
            rules.value(names::port_number(number), || field!["ports", index, "port"], number);
        }
        if let Some(protocol) = &port.app_protocol {
            rules.value(names::qualified_name(protocol), || field!["ports", index, "appProtocol"], protocol);
        }
    }
}
