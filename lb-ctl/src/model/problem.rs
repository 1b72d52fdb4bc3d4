//! The sentences in which a view tells what keeps a Service from being served.

use crate::objects::{Labels, Service, ServicePort};

/// How many names a sentence lists.
const LISTED: usize = 3;

/// `a, b, c and 4 more`.
pub(super) fn listed(names: &[String]) -> String {
    let shown = names.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// `1 pod`, `2 pods`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// `app=web,tier=front`, as kubectl prints a selector.
pub(super) fn selector(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// `port http (80/TCP)`.
pub(super) fn port(port: &ServicePort) -> String {
    match port.name.as_deref() {
        Some(name) if !name.is_empty() => format!("port {name} ({}/{})", port.port, port.protocol),
        _ => format!("port {}/{}", port.port, port.protocol),
    }
}

/// The Service is another proxy's.
pub(super) fn left_to_others(service: &Service) -> Option<String> {
    let label = service.left_to_others_by()?;
    Some(format!("the Service is left to another proxy: it has the label {label}"))
}
