//! `v1.Probe`: how to find out whether a container is ready.

use super::IntOrString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A probe: one action, and how often to take it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// A command in the container, which nobody but its kubelet can run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Value>,
    /// An HTTP request; ready is a status from 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGetAction>,
    /// A TCP connection; ready is one that is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocketAction>,
    /// gRPC's health checking protocol; ready is `SERVING`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcAction>,
    /// Seconds between the pod's appearance and the first attempt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub initial_delay_seconds: i64,
    /// Seconds that an attempt may take; 1 where absent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout_seconds: i64,
    /// Seconds from one attempt to the next; 10 where absent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub period_seconds: i64,
    /// Successes in a row that make it ready; 1 where absent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub success_threshold: i64,
    /// Failures in a row that make it unready; 3 where absent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failure_threshold: i64,
    /// Of liveness probes alone; not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<i64>,
}

/// `HTTPGetAction`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpGetAction {
    /// Path and query; `/` where absent.
    #[serde(default)]
    pub path: String,
    /// Number, or name of one of the container's ports.
    pub port: IntOrString,
    /// Where to connect to; the pod's address where absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// `HTTP` or `HTTPS`, whose certificate is not looked at; `HTTP` where absent.
    #[serde(default)]
    pub scheme: String,
    /// Headers of the request.
    #[serde(default, rename = "httpHeaders", skip_serializing_if = "Vec::is_empty")]
    pub http_headers: Vec<HttpHeader>,
}

/// `HTTPHeader`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpHeader {
    /// Name.
    pub name: String,
    /// Value.
    #[serde(default)]
    pub value: String,
}

/// `TCPSocketAction`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpSocketAction {
    /// Number, or name of one of the container's ports.
    pub port: IntOrString,
    /// Where to connect to; the pod's address where absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
}

/// `GRPCAction`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcAction {
    /// Port number.
    pub port: i64,
    /// The name that is asked for; empty for the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}
