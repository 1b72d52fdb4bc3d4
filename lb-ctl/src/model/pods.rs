//! Endpoints from Pods that match the Service's selector, as Kubernetes' endpoint slice controller makes them.

use super::endpoint::{EndpointSet, EndpointSource, EndpointView, Gathered};
use super::problem;
use super::{NodeView, balancing};
use crate::objects::{IntOrString, IpFamily, Key, Kind, Labels, ObjectId, Pod, Service, ServicePort};
use std::net::IpAddr;
use std::sync::Arc;

/// The endpoints of `service` from these pods, all of which match `selector`.
pub(super) fn gather(
    service: &Service,
    selector: &Labels,
    pods: &[Arc<Pod>],
    families: &[IpFamily],
    node: &NodeView,
) -> Gathered {
    let publish_not_ready = service.spec.publish_not_ready_addresses == Some(true);
    let mut sets: Vec<EndpointSet> = service.spec.ports.iter().map(|_| EndpointSet::default()).collect();
    let mut unusable = Unusable::new(service.spec.ports.len());
    let mut ready_pods = 0;
    for pod in pods {
        let state = State::of(pod, publish_not_ready);
        match state.why_not {
            None => ready_pods += 1,
            Some(why) => unusable.not_ready.push(format!("{} ({why})", pod.metadata.name)),
        }
        if pod.is_finished() {
            continue;
        }
        let mut addresses = pod.addresses();
        if addresses.is_empty() {
            unusable.no_address.push(pod.metadata.name.clone());
        }
        addresses.retain(|address| families.contains(&IpFamily::of(*address)));
        for (index, port) in service.spec.ports.iter().enumerate() {
            match target_port(port, pod) {
                Some(number) => addresses.iter().for_each(|address| {
                    sets[index].insert(view(service, pod, *address, number, &state, node));
                }),
                None => unusable.no_port[index].push(pod.metadata.name.clone()),
            }
        }
    }
    let mut problems = Vec::new();
    if pods.is_empty() {
        let (namespace, selector) = (&service.metadata.namespace, problem::selector(selector));
        problems.push(format!("no pod in namespace {namespace} matches the selector {selector}"));
    } else if ready_pods == 0 {
        let verb = if pods.len() == 1 { "matches" } else { "match" };
        let (count, names) = (problem::counted(pods.len(), "pod"), problem::listed(&unusable.not_ready));
        problems.push(format!("{count} {verb} the selector but none is ready: {names}"));
    }
    unusable.tell(service, &mut problems);
    let ports = sets.into_iter().map(EndpointSet::into_endpoints).collect();
    Gathered { source: EndpointSource::Pods, ports, problems }
}

/// A pod's conditions as an endpoint's.
struct State {
    ready: bool,
    serving: bool,
    terminating: bool,
    /// Why no new connections go to it.
    why_not: Option<&'static str>,
}

impl State {
    fn of(pod: &Pod, publish_not_ready: bool) -> Self {
        let (serving, terminating) = (pod.is_ready(), pod.is_terminating());
        let why_not = if pod.is_finished() {
            Some("finished")
        } else if publish_not_ready {
            None
        } else if terminating {
            Some("terminating")
        } else if serving {
            None
        } else {
            Some("not ready")
        };
        Self { ready: why_not.is_none(), serving, terminating, why_not }
    }
}

/// Pods that match and cannot be used, by why.
struct Unusable {
    not_ready: Vec<String>,
    no_address: Vec<String>,
    /// For each port of the Service.
    no_port: Vec<Vec<String>>,
}

impl Unusable {
    fn new(ports: usize) -> Self {
        Self { not_ready: Vec::new(), no_address: Vec::new(), no_port: vec![Vec::new(); ports] }
    }

    fn tell(&self, service: &Service, problems: &mut Vec<String>) {
        if !self.no_address.is_empty() {
            let (noun, verb) = if self.no_address.len() == 1 { ("pod", "has") } else { ("pods", "have") };
            let names = problem::listed(&self.no_address);
            problems.push(format!("{noun} {names} {verb} no address: status.podIP is absent"));
        }
        for (port, pods) in service.spec.ports.iter().zip(&self.no_port) {
            if pods.is_empty() {
                continue;
            }
            let (noun, verb) = if pods.len() == 1 { ("pod", "has") } else { ("pods", "have") };
            let names = problem::listed(pods);
            problems.push(match &port.target_port {
                Some(IntOrString::String(name)) => {
                    format!("{noun} {names} {verb} no port named {name} ({})", port.protocol)
                }
                _ => format!("{}: the target port is not a port number", problem::port(port)),
            });
        }
    }
}

/// The number of the pod's port that a service port leads to.
fn target_port(port: &ServicePort, pod: &Pod) -> Option<u16> {
    let number = match &port.target_port {
        None | Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => i64::from(pod.named_port(name, port.protocol)?),
    };
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn view(service: &Service, pod: &Pod, address: IpAddr, port: u16, state: &State, node: &NodeView) -> EndpointView {
    let (zones, nodes) = hints(service, pod, node);
    EndpointView {
        address,
        port,
        ready: state.ready,
        serving: state.serving,
        terminating: state.terminating,
        weight: balancing::of_pod(pod),
        node: pod.spec.node_name.clone(),
        local: pod.spec.node_name.as_ref().map(|name| *name == node.name),
        zones,
        nodes,
        chosen: false,
        chosen_here: false,
        source: ObjectId { kind: Kind::Pod, key: Key::new(&pod.metadata.namespace, &pod.metadata.name) },
        pod: Some(pod.metadata.name.clone()),
    }
}

/// The zones and the nodes whose clients should use a pod of a Service with `trafficDistribution`, as the endpoint slice
/// controller hints: its own.
fn hints(service: &Service, pod: &Pod, node: &NodeView) -> (Vec<String>, Vec<String>) {
    let Some(preference) = service.spec.traffic_distribution.as_deref() else { return Default::default() };
    let place = pod.spec.node_name.as_ref();
    let zone = place.and_then(|name| node.zones.get(name)).cloned();
    let place = place.filter(|_| preference == "PreferSameNode").cloned();
    (zone.into_iter().collect(), place.into_iter().collect())
}
