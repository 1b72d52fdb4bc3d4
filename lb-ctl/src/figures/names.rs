//! What is counted under which name: the counters' ids in the maps, by Service port and by endpoint.

use super::{BackendFigures, Endpoints, ServiceFigures};
use crate::api::description::Counters;
use crate::image::Renderer;
use crate::model::{EndpointView, PortView, ServiceView, Views};
use crate::objects::Kind;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Everything that has a name, without its counters, and where these stand. Made anew when the maps have changed.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Service ports in order of namespace, name and port, with the indexes into `SERVICE_STATS` that count for each.
    pub services: Vec<(ServiceFigures, Vec<u32>)>,
    /// Endpoints in order of their address, with the index into `BACKEND_STATS`, if it has one.
    pub backends: Vec<(BackendFigures, Vec<u32>)>,
}

impl Names {
    /// The names of these views, with the ids that the renderer gave.
    pub fn new(views: &Views, renderer: &Renderer) -> Self {
        let ports = views.values().flat_map(|view| view.ports.iter().map(move |port| (view, port)));
        // Not those that nobody can reach here: of headless Services, and of those left to others.
        let ports: Vec<_> = ports.filter(|(_, port)| !port.frontends.is_empty()).collect();
        let services = ports.iter().map(|(view, port)| {
            let ids = port.frontends.iter().flat_map(|frontend| renderer.service_ids(frontend)).collect();
            (service(view, port), ids)
        });
        let services = services.collect();
        let mut pods: BTreeMap<IpAddr, String> = BTreeMap::new();
        for (view, port) in ports {
            for endpoint in &port.endpoints {
                let pod = pods.entry(endpoint.address).or_default();
                if pod.is_empty() {
                    *pod = pod_of(view, endpoint);
                }
            }
        }
        let backend = |(address, pod)| {
            let ids = renderer.backend_id(address).into_iter().collect();
            (BackendFigures { address, pod, traffic: Counters::default() }, ids)
        };
        Self { services, backends: pods.into_iter().map(backend).collect() }
    }
}

fn service(view: &ServiceView, port: &PortView) -> ServiceFigures {
    let used = port.endpoints.iter().filter(|endpoint| endpoint.chosen || endpoint.chosen_here).count();
    let mut addresses: Vec<IpAddr> = port.endpoints.iter().map(|endpoint| endpoint.address).collect();
    addresses.dedup();
    ServiceFigures {
        namespace: view.key.namespace.clone(),
        service: view.key.name.clone(),
        port: if port.name.is_empty() { port.port.to_string() } else { port.name.clone() },
        protocol: port.protocol,
        endpoints: Endpoints { used: used as u64, unused: (port.endpoints.len() - used) as u64, addresses },
        traffic: Counters::default(),
    }
}

/// The pod behind an endpoint, as `namespace/name`. Pods are named by slices of their own namespace.
fn pod_of(view: &ServiceView, endpoint: &EndpointView) -> String {
    match &endpoint.pod {
        Some(pod) => format!("{}/{pod}", view.key.namespace),
        None if endpoint.source.kind == Kind::Pod => endpoint.source.key.to_string(),
        None => String::new(),
    }
}
