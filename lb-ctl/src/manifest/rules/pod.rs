//! Pods: what makes one a possible endpoint. Of the rest of a Pod only the names of fields are looked at.

use super::{Rules, metadata, names, probe};
use crate::manifest::diagnostic::printable;
use crate::manifest::path::{FieldPath, field};
use crate::objects::{Container, POD_IP_ANNOTATION, Pod};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

pub(super) fn check(pod: &Pod, rules: &mut Rules) {
    // ValidatePodName = NameIsDNSSubdomain
    metadata::check(&pod.metadata, names::dns_subdomain, rules);
    for (index, container) in pod.spec.containers.iter().enumerate() {
        ports(container, index, pod.spec.host_network, rules);
    }
    host_ports(pod, rules);
    probe::check(pod, rules);
    if let Some(node) = pod.spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        rules.value(names::dns_subdomain(node), || field!["spec", "nodeName"], node);
    }
    // ValidatePodSpec
    for (name, label) in [("hostname", &pod.spec.hostname), ("subdomain", &pod.spec.subdomain)] {
        if let Some(label) = label.as_deref().filter(|label| !label.is_empty()) {
            rules.value(names::dns_label(label), || field!["spec", name], label);
        }
    }
    addresses(pod, rules);
    addresses_annotation(pod, rules);
    metadata::weight(&pod.metadata, rules);
    if pod.addresses().is_empty() && !pod.is_finished() && rules.errors.is_empty() {
        let message = format!(
            "no address, so no endpoint of any Service: take the manifest from `kubectl get pods -o yaml`, write an \
             EndpointSlice, or add the annotation `{POD_IP_ANNOTATION}`"
        );
        rules.warning(FieldPath::default(), message);
    }
}

/// `validateContainerPorts`, and of `validateHostNetwork` that a host's ports are the container's.
fn ports(container: &Container, container_index: usize, host_network: bool, rules: &mut Rules) {
    let mut seen = HashSet::new();
    for (index, port) in container.ports.iter().enumerate() {
        let path = |field: &str| field!["spec", "containers", container_index, "ports", index, field];
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            rules.value(names::port_name(name), || path("name"), name);
            if !seen.insert(name) {
                rules.error(path("name"), format!("`{name}` is the name of two ports: each needs its own"));
            }
        }
        let number = port.container_port;
        rules.value(names::port_number(number), || path("containerPort"), number);
        let Some(host) = port.host_port.filter(|number| *number != 0) else { continue };
        rules.value(names::port_number(host), || path("hostPort"), host);
        if host_network && host != number {
            rules
                .error(path("hostPort"), format!("`{host}` must be containerPort, {number}, with `hostNetwork: true`"));
        }
    }
}

/// `checkHostPortConflicts`
fn host_ports(pod: &Pod, rules: &mut Rules) {
    let mut seen = HashMap::new();
    for (container_index, container) in pod.spec.containers.iter().enumerate() {
        for (index, port) in container.ports.iter().enumerate() {
            let Some(host) = port.host_port.filter(|number| *number != 0) else { continue };
            let place = field!["spec", "containers", container_index, "ports", index, "hostPort"];
            if let Some(first) = seen.insert((port.protocol, host), place.clone()) {
                rules.error(place, format!("{} {host} is given already by {first}: choose another", port.protocol));
            }
        }
    }
}

/// `validatePodIPs`, and that the first of `podIPs` is `podIP`.
fn addresses(pod: &Pod, rules: &mut Rules) {
    let addresses: Vec<IpAddr> = pod.status.pod_ips.iter().map(|pod_ip| pod_ip.ip).collect();
    one_of_each_family(&addresses, &field!["status", "podIPs"], rules);
    if let (Some(first), Some(primary)) = (addresses.first(), pod.status.pod_ip)
        && *first != primary
    {
        rules.error(field!["status", "podIPs"], format!("`{first}`: the first must be podIP, which is {primary}"));
    }
}

fn addresses_annotation(pod: &Pod, rules: &mut Rules) {
    let Some(text) = pod.metadata.annotations.get(POD_IP_ANNOTATION) else { return };
    let path = metadata::annotation(POD_IP_ANNOTATION);
    let mut addresses = Vec::new();
    for part in text.split(',') {
        if let Ok(address) = part.trim().parse() {
            addresses.push(address);
            continue;
        }
        let shown = printable(part.trim());
        let message = format!("`{shown}` is not an IP address: give one, or one of each family with a comma between");
        rules.error(path.clone(), message);
    }
    one_of_each_family(&addresses, &path, rules);
}

fn one_of_each_family(addresses: &[IpAddr], path: &FieldPath, rules: &mut Rules) {
    let v4 = addresses.iter().filter(|address| address.is_ipv4()).count();
    if v4 > 1 || addresses.len() - v4 > 1 {
        let given: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        rules.error(path.clone(), format!("`{}`: at most one address of each family is allowed", given.join(", ")));
    }
    for address in addresses {
        if address.is_unspecified() || address.is_multicast() {
            rules.error(path.clone(), format!("`{address}` is not the address of a pod"));
        }
    }
}
