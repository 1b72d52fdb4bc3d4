//! Pods: what makes one a possible endpoint.

use super::{Rules, metadata, names};
use crate::manifest::diagnostic::printable;
use crate::manifest::path::{FieldPath, field};
use crate::objects::{POD_IP_ANNOTATION, Pod};
use std::net::IpAddr;

pub(super) fn check(pod: &Pod, rules: &mut Rules) {
    metadata::check(&pod.metadata, names::dns_subdomain, rules);
    for (container_index, container) in pod.spec.containers.iter().enumerate() {
        for (index, port) in container.ports.iter().enumerate() {
            let path = || field!["spec", "containers", container_index, "ports", index];
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                rules.value(names::port_name(name), || path().then("name"), name);
            }
            let number = i64::from(port.container_port);
            rules.value(names::port_number(number), || path().then("containerPort"), number);
        }
    }
    let addresses: Vec<IpAddr> = pod.status.pod_ips.iter().map(|pod_ip| pod_ip.ip).collect();
    one_of_each_family(&addresses, &field!["status", "podIPs"], rules);
    if let (Some(first), Some(primary)) = (addresses.first(), pod.status.pod_ip)
        && *first != primary
    {
        rules.error(field!["status", "podIPs"], format!("the first must be podIP, which is {primary}"));
    }
    addresses_annotation(pod, rules);
    metadata::weight(&pod.metadata, rules);
    if pod.addresses().is_empty() && !pod.is_finished() && rules.errors.is_empty() {
        let message = format!(
            "no address, so no endpoint of any Service: take the manifest from `kubectl get pods -o yaml`, write an \
             EndpointSlice, or add the annotation `{POD_IP_ANNOTATION}`"
        );
        rules.warnings.push((FieldPath::default(), message));
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
        rules.error(path.clone(), "at most one address of each family is allowed");
    }
    for address in addresses {
        if address.is_unspecified() || address.is_multicast() {
            rules.error(path.clone(), format!("`{address}` is not the address of a pod"));
        }
    }
}
