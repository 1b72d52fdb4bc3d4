//! What is probed, from a pod's manifest.

use crate::objects::{Container, HttpGetAction, IntOrString, Pod, Probe, Protocol};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// One container's probe, ready to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The container's name.
    pub(super) container: String,
    pub(super) action: Action,
    pub(super) initial_delay: Duration,
    pub(super) period: Duration,
    pub(super) timeout: Duration,
    /// Successes in a row that make it ready.
    pub(super) successes: u32,
    /// Failures in a row that make it unready.
    pub(super) failures: u32,
}

/// What is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Http {
        to: String,
        port: u16,
        path: String,
        headers: Vec<(String, String)>,
    },
    Tcp {
        to: String,
        port: u16,
    },
    Grpc {
        to: SocketAddr,
        service: String,
    },
    /// It cannot be tried.
    Never(String),
}

/// The probes of a pod that is probed from here; `None`: it is not. A kubelet has spoken where there is a condition `Ready`.
pub(super) fn of(pod: &Pod) -> Option<Vec<Target>> {
    let address = *pod.addresses().first()?;
    if pod.has_ready_condition() || pod.is_finished() {
        return None;
    }
    let containers = pod.spec.containers.iter();
    let targets: Vec<Target> = containers.filter_map(|container| target(container, address)).collect();
    (!targets.is_empty()).then_some(targets)
}

fn target(container: &Container, address: IpAddr) -> Option<Target> {
    let probe = container.readiness_probe.as_ref()?;
    let seconds = |number: i64| Duration::from_secs(u64::try_from(number).unwrap_or(0));
    let count = |number: i64| u32::try_from(number).unwrap_or(1).max(1);
    Some(Target {
        container: container.name.clone(),
        action: action(probe, container, address),
        initial_delay: seconds(probe.initial_delay_seconds),
        period: seconds(probe.period_seconds.max(1)),
        timeout: seconds(probe.timeout_seconds.max(1)),
        successes: count(probe.success_threshold),
        failures: count(probe.failure_threshold),
    })
}

fn action(probe: &Probe, container: &Container, address: IpAddr) -> Action {
    let host = |host: &str| if host.is_empty() { address.to_string() } else { host.to_owned() };
    if let Some(get) = &probe.http_get {
        return match port(&get.port, container) {
            Ok(port) => Action::Http { to: host(&get.host), port, path: path(get), headers: headers(get) },
            Err(why) => Action::Never(why),
        };
    }
    if let Some(socket) = &probe.tcp_socket {
        return match port(&socket.port, container) {
            Ok(port) => Action::Tcp { to: host(&socket.host), port },
            Err(why) => Action::Never(why),
        };
    }
    let grpc = probe.grpc.as_ref().and_then(|grpc| Some((u16::try_from(grpc.port).ok()?, grpc)));
    match grpc {
        Some((port, grpc)) => {
            Action::Grpc { to: SocketAddr::new(address, port), service: grpc.service.clone().unwrap_or_default() }
        }
        None => Action::Never("the probe has no action that can be taken from here".to_owned()),
    }
}

fn path(get: &HttpGetAction) -> String {
    if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) }
}

fn headers(get: &HttpGetAction) -> Vec<(String, String)> {
    get.http_headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect()
}

/// The number of a port that is given by number or by the name of one of the container's (`ResolveContainerPort`).
fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().filter(|port| port.protocol == Protocol::TCP);
            ports.find(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port)
        }
    };
    let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0);
    number.ok_or_else(|| format!("the container has no TCP port `{port}`"))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "container {}, ", self.container)?;
        match &self.action {
            Action::Http { to, port, path, .. } => write!(f, "GET http://{}:{port}{path}", bracketed(to)),
            Action::Tcp { to, port } => write!(f, "connection to {}:{port}", bracketed(to)),
            Action::Grpc { to, .. } => write!(f, "gRPC health at {to}"),
            Action::Never(_) => f.write_str("its probe"),
        }
    }
}

/// An IPv6 address as it stands before a port.
pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}
