//! Endpoints from EndpointSlices, as kube-proxy reads them.
//!
//! All slices of a Service are merged; a slice's ports are matched to the Service's by name and protocol; an endpoint
//! stands for its first address only; a condition `ready` that is absent counts as true, but what says that it does not serve is
//! not ready.

use super::endpoint::{EndpointSet, EndpointSource, EndpointView, Gathered};
use super::problem;
use super::{NodeView, balancing};
use crate::objects::{
    AddressType, DEFAULT_WEIGHT, Endpoint, EndpointSlice, Key, Kind, ObjectId, Pod, Service, ServicePort,
};
use std::net::IpAddr;
use std::sync::Arc;

/// The endpoints of `service` from its slices, of which there is at least one. `pods` are those that its selector matches.
pub(super) fn gather(service: &Service, slices: &[Arc<EndpointSlice>], pods: &[Arc<Pod>], node: &NodeView) -> Gathered {
    let mut problems = bad_addresses(slices);
    let mut ports = Vec::with_capacity(service.spec.ports.len());
    for port in &service.spec.ports {
        let mut endpoints = EndpointSet::default();
        let mut has_port = false;
        for slice in slices {
            let Some(number) = port_number(slice, port) else { continue };
            has_port = true;
            for endpoint in &slice.endpoints {
                if let Some(address) = address(slice.address_type, endpoint) {
                    let mut view = view(slice, endpoint, address, number, node);
                    view.weight = balancing::of_endpoint(slice, view.pod.as_deref(), pods);
                    endpoints.insert(view);
                }
            }
        }
        if !has_port {
            problems.push(format!("no EndpointSlice of the Service has {}", problem::port(port)));
        }
        ports.push(endpoints.into_endpoints());
    }
    let count = slices.iter().map(|slice| slice.endpoints.len()).sum();
    if count == 0 {
        problems.push("the EndpointSlices of the Service hold no endpoint".to_owned());
    } else if ports.iter().flatten().all(|endpoint: &EndpointView| !endpoint.ready)
        && ports.iter().any(|p| !p.is_empty())
    {
        let endpoints = problem::counted(count, "endpoint");
        problems.push(format!("the EndpointSlices of the Service hold {endpoints}, but none is ready"));
    }
    Gathered { source: EndpointSource::Slices, ports, problems }
}

/// The number that the slice gives to a port of the Service.
fn port_number(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    let name = port.name.as_deref().unwrap_or_default();
    let mut ports = slice.ports.iter();
    let found = ports.find(|p| p.name.as_deref().unwrap_or_default() == name && p.protocol == port.protocol)?;
    u16::try_from(found.port?).ok().filter(|number| *number != 0)
}

/// The address of an endpoint, if it is one of the slice's type.
fn address(address_type: AddressType, endpoint: &Endpoint) -> Option<IpAddr> {
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    (address.is_ipv4() == (address_type == AddressType::IPv4)).then_some(address)
}

fn bad_addresses(slices: &[Arc<EndpointSlice>]) -> Vec<String> {
    let mut problems = Vec::new();
    for slice in slices {
        for endpoint in &slice.endpoints {
            if let Some(given) = endpoint.addresses.first()
                && address(slice.address_type, endpoint).is_none()
            {
                let (name, kind) = (&slice.metadata.name, slice.address_type);
                problems.push(format!("EndpointSlice {name}: {given:?} is not an address of type {kind:?}"));
            }
        }
    }
    problems
}

fn view(slice: &EndpointSlice, endpoint: &Endpoint, address: IpAddr, port: u16, node: &NodeView) -> EndpointView {
    let serving = endpoint.conditions.serving;
    let ready = endpoint.conditions.ready.unwrap_or(true) && serving.unwrap_or(true);
    let target = endpoint.target_ref.as_ref();
    let pod = target.filter(|target| target.get("kind").and_then(|kind| kind.as_str()) == Some("Pod"));
    EndpointView {
        address,
        port,
        ready,
        serving: serving.unwrap_or(ready),
        terminating: endpoint.conditions.terminating.unwrap_or(false),
        weight: DEFAULT_WEIGHT,
        node: endpoint.node_name.clone(),
        local: endpoint.node_name.as_ref().map(|name| *name == node.name),
        zones: endpoint.hints_for("forZones"),
        nodes: endpoint.hints_for("forNodes"),
        chosen: false,
        chosen_here: false,
        source: ObjectId { kind: Kind::EndpointSlice, key: Key::new(&slice.metadata.namespace, &slice.metadata.name) },
        pod: pod.and_then(|pod| pod.get("name")?.as_str().map(str::to_owned)),
    }
}
