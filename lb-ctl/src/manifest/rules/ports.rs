//! A Service's ports (`validateServicePort` and what `ValidateService` asks of them together).

use super::{Rules, names};
use crate::manifest::path::{FieldPath, field};
use crate::objects::{IntOrString, ServicePort, ServiceSpec};
use std::collections::{HashMap, HashSet};

pub(super) fn check(spec: &ServiceSpec, rules: &mut Rules) {
    let mut names = HashSet::new();
    for (index, port) in spec.ports.iter().enumerate() {
        one(port, index, spec.ports.len() > 1, &mut names, rules);
    }
    twins(spec, rules);
}

/// `validateServicePort`
fn one<'s>(port: &'s ServicePort, index: usize, needs_name: bool, seen: &mut HashSet<&'s str>, rules: &mut Rules) {
    let path = |field: &str| field!["spec", "ports", index, field];
    match port.name.as_deref() {
        None if needs_name => {
            rules.error(path("name"), "is required where a Service has several ports, such as `http`");
        }
        None => {}
        Some(name) => {
            rules.value(names::dns_label(name), || path("name"), name);
            if !seen.insert(name) {
                rules.error(path("name"), format!("`{name}` is the name of two ports: each needs its own"));
            }
        }
    }
    rules.value(names::port_number(port.port), || path("port"), port.port);
    target_port(port, || path("targetPort"), rules);
    if let Some(protocol) = &port.app_protocol {
        rules.value(names::qualified_name(protocol), || path("appProtocol"), protocol);
    }
}

/// `ValidatePortNumOrName`
fn target_port(port: &ServicePort, path: impl FnOnce() -> FieldPath, rules: &mut Rules) {
    match &port.target_port {
        // A bad `port` has had its error.
        Some(IntOrString::Int(number)) if *number == port.port => {}
        Some(IntOrString::Int(number)) => rules.value(names::port_number(*number), path, number),
        Some(IntOrString::String(name)) if name.bytes().all(|byte| byte.is_ascii_digit()) => {
            rules.error(path(), format!("`\"{name}\"` is the name of a port: write the number {name} without quotes"));
        }
        Some(IntOrString::String(name)) => rules.value(names::port_name(name), path, name),
        None => {}
    }
}

/// `ValidateService`: no two ports have protocol and number in common, neither as ports nor as node ports.
fn twins(spec: &ServiceSpec, rules: &mut Rules) {
    let mut by_number = HashMap::new();
    let mut by_node_port = HashMap::new();
    for (index, port) in spec.ports.iter().enumerate() {
        let protocol = port.protocol;
        if let Some(number) = port.node_port
            && let Some(first) = by_node_port.insert((protocol, number), index)
        {
            let message = format!("{protocol} {number} is the node port of ports[{first}] already: choose another");
            rules.error(field!["spec", "ports", index, "nodePort"], message);
        }
        if let Some(first) = by_number.insert((protocol, port.port), index) {
            let message = format!("{protocol} {} is given already by ports[{first}]: keep one", port.port);
            rules.error(field!["spec", "ports", index], message);
        }
    }
}
