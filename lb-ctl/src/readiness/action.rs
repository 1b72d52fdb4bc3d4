//! What a probe does, with its names resolved and its defaults filled in.

use super::http::HttpGet;
use crate::objects::{Container, IntOrString, Pod, Probe};
use std::net::IpAddr;
use std::time::Duration;

/// How one container is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) container: String,
    /// The pod's first address.
    pub(super) pod: IpAddr,
    pub(super) action: Action,
    pub(super) period: Duration,
    pub(super) timeout: Duration,
    /// Between the pod's creation and the first attempt.
    pub(super) delay: Duration,
    /// When the pod was created (RFC 3339), if that is known.
    pub(super) created: Option<String>,
    /// Successes in a row that make it ready, and failures in a row that make it unready.
    pub(super) thresholds: (u32, u32),
}

impl Plan {
    /// Whether the two probe the same container, perhaps in other ways.
    pub(super) fn is_of_same_container(&self, other: &Self) -> bool {
        (&self.container, self.pod) == (&other.container, other.pod)
    }
}

/// Where to connect to: an address or a name, and a port.
pub(super) type Target = (String, u16);

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// An answer with a status from 200 to 399.
    Http(HttpGet),
    /// A connection that is taken.
    Tcp(Target),
    /// `SERVING`, for a service, or for the server as a whole.
    Grpc(Target, String),
}

/// How the containers of a pod are probed from `node`; and why some are not, although they have probes.
pub(super) fn plans(pod: &Pod, node: &str) -> (Vec<Plan>, Vec<String>) {
    let (mut plans, mut refused) = (Vec::new(), Vec::new());
    if pod.has_ready_condition() || pod.is_finished() {
        return (plans, refused);
    }
    let containers = pod.spec.containers.iter();
    for (container, probe) in containers.filter_map(|container| Some((container, container.readiness_probe.as_ref()?)))
    {
        let planned = match &pod.spec.node_name {
            Some(name) if name != node => continue,
            Some(_) => plan(pod, container, probe),
            None => Err("the pod has no `spec.nodeName`, so no node probes it".to_owned()),
        };
        match planned {
            Ok(plan) => plans.extend(plan),
            Err(why) => {
                refused.push(format!("the readiness probe of container {} is not taken: {why}", container.name));
            }
        }
    }
    (plans, refused)
}

/// `None`: without an address there is nothing to probe, nor to be ready.
fn plan(pod: &Pod, container: &Container, probe: &Probe) -> Result<Option<Plan>, String> {
    let Some(address) = pod.addresses().first().copied() else { return Ok(None) };
    let seconds = |number: i64, default: u64| {
        Duration::from_secs(u64::try_from(number).ok().filter(|seconds| *seconds > 0).unwrap_or(default))
    };
    let count = |number: i64, default: u32| u32::try_from(number).ok().filter(|count| *count > 0).unwrap_or(default);
    Ok(Some(Plan {
        container: container.name.clone(),
        pod: address,
        action: action(container, probe, address)?,
        period: seconds(probe.period_seconds, 10),
        timeout: seconds(probe.timeout_seconds, 1),
        delay: seconds(probe.initial_delay_seconds, 0),
        created: pod.metadata.creation_timestamp.clone(),
        thresholds: (count(probe.success_threshold, 1), count(probe.failure_threshold, 3)),
    }))
}

fn action(container: &Container, probe: &Probe, address: IpAddr) -> Result<Action, String> {
    let target = |host: &str, port: &IntOrString| {
        let host = if host.is_empty() { address.to_string() } else { host.to_owned() };
        Ok::<Target, String>((host, number(container, port)?))
    };
    if let Some(get) = &probe.http_get {
        return HttpGet::new(target(&get.host, &get.port)?, get).map(Action::Http);
    }
    if let Some(socket) = &probe.tcp_socket {
        return target(&socket.host, &socket.port).map(Action::Tcp);
    }
    if let Some(grpc) = &probe.grpc {
        let target = target("", &IntOrString::Int(grpc.port))?;
        return Ok(Action::Grpc(target, grpc.service.clone().unwrap_or_default()));
    }
    Err("a command in the container can be run by its kubelet alone: probe by httpGet, tcpSocket or grpc".to_owned())
}

/// The number of a port, which may be named.
fn number(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().find(|port| port.name.as_ref() == Some(name));
            named.ok_or_else(|| format!("the container has no port named {name}"))?.container_port
        }
    };
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| format!("{number} is no port"))
}
