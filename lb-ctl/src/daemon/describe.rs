//! Makes the [`ServiceDescription`] of one Service from the object, the model and the counters.

use crate::api::description::{Counters, EndpointDescription, PortDescription, ServiceDescription, ServiceEvent};
use crate::api::types::Problem;
use crate::image::Renderer;
use crate::maps::{LbMaps, MapError};
use crate::model::{EndpointSource, EndpointView, Policy, PortView, ServiceView};
use crate::objects::{Kind, Service};
use std::net::IpAddr;

/// What is known of a Service beside its object.
pub(super) struct Known<'a> {
    /// The model.
    pub(super) view: &'a ServiceView,
    /// Where the object came from.
    pub(super) source: String,
    /// What happened lately.
    pub(super) events: Vec<ServiceEvent>,
    /// Problems of the Service that the model does not know.
    pub(super) problems: Vec<String>,
    /// This node's addresses that node ports answer on.
    pub(super) node_addresses: &'a [IpAddr],
    /// Which endpoints are on this node.
    pub(super) is_local: &'a dyn Fn(&EndpointView) -> bool,
}

/// The description of `service`.
pub(super) fn describe(
    service: &Service,
    known: &Known<'_>,
    renderer: &Renderer,
    maps: &dyn LbMaps,
) -> Result<ServiceDescription, MapError> {
    let spec = &service.spec;
    let view = known.view;
    let ports = view.ports.iter().map(|port| describe_port(port, known, renderer, maps)).collect::<Result<_, _>>()?;
    let word = |field: &Option<String>, default: &str| field.clone().unwrap_or_else(|| default.to_owned());
    let subject = format!("service {}", view.key);
    let nobody_here = local_and_nobody_here(view);
    let problems = view.problems.iter().chain(&known.problems).chain(&nobody_here);
    Ok(ServiceDescription {
        name: view.key.name.clone(),
        namespace: view.key.namespace.clone(),
        labels: service.metadata.labels.clone(),
        annotations: service.metadata.annotations.clone(),
        selector: spec.selector.clone(),
        r#type: spec.r#type,
        ip_family_policy: word(&spec.ip_family_policy, "SingleStack"),
        ip_families: spec.ip_families.clone(),
        cluster_ips: view.cluster_addresses.iter().map(ToString::to_string).collect(),
        external_ips: spec.external_ips.clone(),
        load_balancer_addresses: service.load_balancer_addresses(),
        load_balancer_pending: false,
        load_balancer_source_ranges: spec.load_balancer_source_ranges.clone(),
        node_addresses: known.node_addresses.to_vec(),
        session_affinity: word(&spec.session_affinity, "None"),
        algorithm: view.balancing.algorithm,
        affinity_seconds: view.affinity_seconds,
        external_traffic_policy: spec.external_traffic_policy.clone(),
        health_check_node_port: service.health_check_port(),
        internal_traffic_policy: word(&spec.internal_traffic_policy, "Cluster"),
        source: known.source.clone(),
        endpoints_from: source_name(view.source).to_owned(),
        ports,
        problems: problems.map(|message| Problem { subject: subject.clone(), message: message.clone() }).collect(),
        events: known.events.clone(),
    })
}

/// What is as it should be on all nodes but those with endpoints, and yet where clients look for them in vain.
fn local_and_nobody_here(view: &ServiceView) -> Option<String> {
    let is_local = |port: &&PortView| port.frontends.iter().any(|frontend| frontend.policy == Policy::Local);
    let mut ports = view.ports.iter().filter(is_local).peekable();
    ports.peek()?;
    let chosen = |policy: fn(&EndpointView) -> bool| move |port: &PortView| port.endpoints.iter().any(policy);
    let is_served = ports.clone().any(chosen(|endpoint| endpoint.chosen));
    let is_served_here = ports.any(chosen(|endpoint| endpoint.chosen_here));
    (is_served && !is_served_here).then(|| {
        "its traffic policy is Local and none of its endpoints is on this node: clients that come here by that policy get no \
         answer (no-local-backend)"
            .to_owned()
    })
}

fn chosen_for(endpoint: &EndpointView) -> Vec<Policy> {
    let policies = [(Policy::Cluster, endpoint.chosen), (Policy::Local, endpoint.chosen_here)];
    policies.into_iter().filter_map(|(policy, is_chosen)| is_chosen.then_some(policy)).collect()
}

const fn source_name(source: EndpointSource) -> &'static str {
    match source {
        EndpointSource::Slices => "EndpointSlices",
        EndpointSource::Pods => "Pods",
        EndpointSource::None => "none",
    }
}

fn describe_port(
    port: &PortView,
    known: &Known<'_>,
    renderer: &Renderer,
    maps: &dyn LbMaps,
) -> Result<PortDescription, MapError> {
    let ids: Vec<u32> = port.frontends.iter().flat_map(|frontend| renderer.service_ids(frontend)).collect();
    let mut traffic = Counters::default();
    maps.service_stats(&ids)?.values().for_each(|counted| traffic.add(counted));
    let backends: Vec<Option<u32>> =
        port.endpoints.iter().map(|endpoint| renderer.backend_id(endpoint.address)).collect();
    let stats = maps.backend_stats(&backends.iter().copied().flatten().collect::<Vec<_>>())?;
    let endpoints = port.endpoints.iter().zip(backends).map(|(endpoint, id)| {
        let mut traffic = Counters::default();
        id.and_then(|id| stats.get(&id)).into_iter().for_each(|counted| traffic.add(counted));
        EndpointDescription {
            address: endpoint.address,
            port: endpoint.port,
            ready: endpoint.ready,
            why_not_ready: endpoint.why_not_ready.clone(),
            chosen_for: chosen_for(endpoint),
            weight: endpoint.weight,
            pod: endpoint.pod.clone(),
            slice: (endpoint.source.kind == Kind::EndpointSlice).then(|| endpoint.source.key.name.clone()),
            node: endpoint.node.clone(),
            local: (known.is_local)(endpoint),
            traffic,
        }
    });
    Ok(PortDescription {
        name: port.name.clone(),
        protocol: port.protocol,
        port: port.port,
        target_port: port.target_port.to_string(),
        node_port: port.node_port,
        traffic,
        endpoints: endpoints.collect(),
    })
}
