//! A Service as this node sees it: frontends, endpoints, and what is wrong.

use super::NodeView;
use super::endpoint::{EndpointSource, EndpointView, Gathered};
use super::frontend::{Frontend, Policy, families, frontends};
use super::host::Host;
use super::{Balancing, balancing, choice, pods, problem, slices};
use crate::objects::{EndpointSlice, IntOrString, IpFamily, Key, Labels, Pod, Protocol, Service, ServiceType};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

/// A Service as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// Namespace and name.
    #[serde(flatten)]
    pub key: Key,
    /// Type.
    pub r#type: ServiceType,
    /// Whether it has no address of its own.
    pub headless: bool,
    /// When it was created (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Labels its pods must have.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub selector: Labels,
    /// ClusterIPs, first the primary one.
    #[serde(default, rename = "clusterIPs")]
    pub cluster_addresses: Vec<IpAddr>,
    /// The name that an ExternalName Service stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    /// For how many seconds after its last new connection a client keeps its backend, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u32>,
    /// Which objects gave the endpoints.
    pub source: EndpointSource,
    /// How connections are given to endpoints.
    #[serde(default)]
    pub balancing: Balancing,
    /// Its ports.
    pub ports: Vec<PortView>,
    /// Its published endpoints, as far as they have names: all of a headless Service, else those that were given one.
    #[serde(skip)]
    pub hosts: Vec<Host>,
    /// What keeps it, or a part of it, from being served: sentences for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// One port of a Service, with the ways in and the ways out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortView {
    /// Name; empty for an unnamed port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// The Service's port.
    pub port: u16,
    /// The pods' port, as the manifest says it.
    pub target_port: IntOrString,
    /// Port on every node's addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// Where clients reach it.
    pub frontends: Vec<Frontend>,
    /// Where connections go, in order of address and port; those not ready too.
    pub endpoints: Vec<EndpointView>,
}

impl PortView {
    /// The endpoints that new connections through a frontend of `family` go to under `policy`.
    pub fn chosen(&self, family: IpFamily, policy: Policy) -> impl Iterator<Item = &EndpointView> {
        let is_chosen = move |endpoint: &EndpointView| match policy {
            Policy::Cluster => endpoint.chosen,
            Policy::Local => endpoint.chosen_here,
        };
        self.endpoints.iter().filter(move |endpoint| is_chosen(endpoint) && endpoint.family() == family)
    }

    /// Whether endpoints of the family are in use, and all of them have the weight 0.
    fn is_without_weight(&self, family: IpFamily) -> bool {
        let mut used = self.chosen(family, Policy::Cluster).peekable();
        used.peek().is_some() && used.all(|endpoint| endpoint.weight == 0)
    }
}

/// The view of `service`, of which these are the slices and the pods, before Services are compared with each other.
pub(super) fn view(
    service: &Service,
    node: &NodeView,
    slices: &[Arc<EndpointSlice>],
    pods: &[Arc<Pod>],
) -> ServiceView {
    let mut problems = Vec::new();
    let spec = &service.spec;
    let served = spec.r#type != ServiceType::ExternalName;
    if served && !service.is_headless() && service.cluster_addresses().is_empty() {
        problems.push("the Service has no ClusterIP".to_owned());
    }
    let mut gathered = if served { gather(service, node, slices, pods) } else { Gathered::default() };
    gathered.ports.resize_with(spec.ports.len(), Vec::new);
    problems.append(&mut gathered.problems);
    let mut ports = Vec::with_capacity(spec.ports.len());
    for (port, mut endpoints) in spec.ports.iter().zip(gathered.ports) {
        choice::choose(&mut endpoints, node);
        let view = PortView {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol,
            port: u16::try_from(port.port).unwrap_or_default(),
            target_port: port.target_port.clone().unwrap_or(IntOrString::Int(port.port)),
            node_port: port.node_port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0),
            frontends: frontends(service, port, node, &mut problems),
            endpoints,
        };
        for family in families_without_endpoints(&view) {
            let name = problem::port(port);
            problems.push(format!("{name}: no ready endpoint has an address of family {family:?}"));
        }
        for family in [IpFamily::IPv4, IpFamily::IPv6].into_iter().filter(|family| view.is_without_weight(*family)) {
            let name = problem::port(port);
            problems.push(format!(
                "{name}: every endpoint in use of family {family:?} has the weight 0, so new connections are refused"
            ));
        }
        ports.push(view);
    }
    problems.extend(problem::left_to_others(service));
    problems.extend(balancing::bad_weights(slices, pods));
    let balancing = node.balancing.of(service, &mut problems);
    ServiceView {
        key: service.metadata.key(),
        r#type: spec.r#type,
        headless: service.is_headless(),
        created: service.metadata.creation_timestamp.clone(),
        selector: spec.selector.clone().unwrap_or_default(),
        cluster_addresses: service.cluster_addresses(),
        external_name: spec.external_name.clone(),
        affinity_seconds: service.affinity_seconds(),
        source: gathered.source,
        balancing,
        ports,
        hosts: gathered.hosts,
        problems,
    }
}

/// Slices win over Pods; an empty selector is as good as none.
fn gather(service: &Service, node: &NodeView, slices: &[Arc<EndpointSlice>], pods: &[Arc<Pod>]) -> Gathered {
    // Slices of which another proxy makes endpoints are none of ours; a headless Service has no proxy.
    let is_headless = service.is_headless();
    let slices: Vec<_> = slices.iter().filter(|slice| is_headless || !slice.is_left_to_others()).collect();
    if !slices.is_empty() {
        return slices::gather(service, &slices, pods, node);
    }
    match &service.spec.selector {
        Some(selector) if !selector.is_empty() => pods::gather(service, selector, pods, &families(service), node),
        _ => {
            let problem = "the Service has no selector and no EndpointSlice names it: it has no endpoints";
            Gathered { problems: vec![problem.to_owned()], ..Gathered::default() }
        }
    }
}

/// Families that clients can reach and no endpoint in use has, while endpoints of the other family are used. (Where
/// none is at all there is a clearer sentence.)
fn families_without_endpoints(port: &PortView) -> Vec<IpFamily> {
    let mut families: Vec<IpFamily> = port.frontends.iter().map(|frontend| frontend.family).collect();
    families.sort_unstable();
    families.dedup();
    let any = port.endpoints.iter().any(|endpoint| endpoint.chosen);
    families.retain(|family| any && port.chosen(*family, Policy::Cluster).next().is_none());
    families
}
