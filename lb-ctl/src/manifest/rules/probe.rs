//! Readiness probes (`validateReadinessProbe`, `validateProbe`, `validateHandler`).

use super::{Rules, names};
use crate::manifest::path::{FieldPath, field};
use crate::objects::{IntOrString, Pod, Probe};

pub(super) fn check(pod: &Pod, rules: &mut Rules) {
    for (index, container) in pod.spec.containers.iter().enumerate() {
        let Some(probe) = &container.readiness_probe else { continue };
        let path = field!["spec", "containers", index, "readinessProbe"];
        handler(probe, &path, rules);
        for (name, value) in [
            ("initialDelaySeconds", probe.initial_delay_seconds),
            ("timeoutSeconds", probe.timeout_seconds),
            ("periodSeconds", probe.period_seconds),
            ("successThreshold", probe.success_threshold),
            ("failureThreshold", probe.failure_threshold),
        ] {
            if !(0..=i64::from(i32::MAX)).contains(&value) {
                rules.error(path.then(name), format!("`{value}` must be a number from 0 to {}", i32::MAX));
            }
        }
        // Not the API server's: it leaves probes to the kubelet, who has been here where there is such a condition.
        if !pod.has_ready_condition() {
            from_here(probe, &path, rules);
        }
    }
}

/// What cannot be done from outside of the container.
fn from_here(probe: &Probe, path: &FieldPath, rules: &mut Rules) {
    if probe.exec.is_some() {
        let message = "a command in the container cannot be run from here: probe by httpGet, tcpSocket or grpc, or say \
                       `status: {conditions: [{type: Ready, status: \"True\"}]}`";
        rules.error(path.then("exec"), message);
    }
}

/// `validateHandler`
fn handler(probe: &Probe, path: &FieldPath, rules: &mut Rules) {
    let actions = [
        ("exec", probe.exec.is_some()),
        ("httpGet", probe.http_get.is_some()),
        ("tcpSocket", probe.tcp_socket.is_some()),
        ("grpc", probe.grpc.is_some()),
    ];
    let given: Vec<&str> = actions.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    match given.as_slice() {
        [] => rules.error(path.clone(), "needs an action: httpGet, tcpSocket or grpc"),
        [_] => {}
        [.., last] => {
            rules
                .error(path.then(*last), format!("a probe takes one action, and this one has {}", given.join(" and ")));
        }
    }
    if let Some(get) = &probe.http_get {
        let path = path.then("httpGet");
        port(&get.port, || path.then("port"), rules);
        rules.word(&get.scheme, &["HTTP", "HTTPS"], || path.then("scheme"));
        for (index, header) in get.http_headers.iter().enumerate() {
            rules.value(
                names::header_name(&header.name),
                || path.then("httpHeaders").then(index).then("name"),
                &header.name,
            );
        }
    }
    if let Some(socket) = &probe.tcp_socket {
        port(&socket.port, || path.then("tcpSocket").then("port"), rules);
    }
    if let Some(grpc) = &probe.grpc {
        rules.value(names::port_number(grpc.port), || path.then("grpc").then("port"), grpc.port);
    }
}

/// `ValidatePortNumOrName`
fn port(port: &IntOrString, path: impl FnOnce() -> FieldPath, rules: &mut Rules) {
    match port {
        IntOrString::Int(number) => rules.value(names::port_number(*number), path, number),
        IntOrString::String(name) => rules.value(names::port_name(name), path, name),
    }
}
