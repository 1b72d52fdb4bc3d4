//! `v1/Endpoints` of a Service, made from its view when they are asked for: what `get endpoints` lists.

use super::catalogue::{Endpoints, Subset, SubsetAddress, SubsetPort, TargetRef};
use crate::model::{EndpointView, ServiceView};
use crate::objects::Metadata;
use std::collections::BTreeMap;

/// The Endpoints of one Service.
pub(super) fn endpoints(service: &ServiceView) -> Endpoints {
    let metadata = Metadata {
        name: service.key.name.clone(),
        namespace: service.key.namespace.clone(),
        creation_timestamp: service.created.clone(),
        ..Metadata::default()
    };
    let mut subsets = Vec::new();
    for port in &service.ports {
        // A named target port may be another number on each pod: one subset for each number.
        let mut by_number: BTreeMap<u16, Vec<&EndpointView>> = BTreeMap::new();
        for endpoint in &port.endpoints {
            by_number.entry(endpoint.port).or_default().push(endpoint);
        }
        for (number, endpoints) in by_number {
            let addresses = |ready: bool| {
                let chosen = endpoints.iter().filter(|endpoint| endpoint.ready == ready);
                chosen.map(|endpoint| address(endpoint, &service.key.namespace)).collect()
            };
            let name = (!port.name.is_empty()).then(|| port.name.clone());
            subsets.push(Subset {
                addresses: addresses(true),
                not_ready_addresses: addresses(false),
                ports: vec![SubsetPort { name, port: number, protocol: port.protocol }],
            });
        }
    }
    Endpoints { metadata, subsets }
}

fn address(endpoint: &EndpointView, namespace: &str) -> SubsetAddress {
    let target_ref = endpoint.pod.as_ref().map(|name| TargetRef {
        kind: "Pod".to_owned(),
        name: name.clone(),
        namespace: namespace.to_owned(),
    });
    let why_not_ready = endpoint.why_not_ready.clone();
    SubsetAddress { ip: endpoint.address, node_name: endpoint.node.clone(), target_ref, why_not_ready }
}
