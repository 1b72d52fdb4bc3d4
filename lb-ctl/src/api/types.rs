//! What crosses the socket: requests, answers and failures.

use crate::manifest::Validate;
use crate::objects::{Key, Kind, ObjectId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::net::IpAddr;

/// Versions of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Version of the package.
    pub version: String,
}

/// One file of manifests, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestText {
    /// What diagnostics call it: the path as the user typed it.
    pub origin: String,
    /// YAML or JSON, one or more documents.
    pub text: String,
}

/// Applies manifests: all of them or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplyRequest {
    /// Namespace of objects that name none.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// The files.
    pub files: Vec<ManifestText>,
    /// What to do about unknown fields and repeated keys.
    #[serde(default)]
    pub validate: Validate,
    /// Only tell what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// The name of a set that these are all of: what else was applied as part of it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<String>,
}

/// Which packets to capture; what is empty asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct CaptureRequest {
    /// Networks of clients.
    pub clients: Vec<IpNet>,
    /// Addresses of backends.
    pub backends: Vec<IpAddr>,
    /// A Service.
    pub service: Option<Key>,
    /// Names of [`lb_common::Reason`]s.
    pub reasons: Vec<String>,
    /// So many packets and no more; each is told as it came and as it left.
    pub count: Option<u64>,
}

/// What [`ApplyRequest`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyAnswer {
    /// In the order of the manifests.
    pub applied: Vec<Applied>,
    /// Objects of kinds that are not read, as `deployment/web (web.yaml:12)`.
    pub skipped: Vec<String>,
    /// What is accepted and likely not meant, as `web.yaml:12:7: pod/web: ...`.
    pub warnings: Vec<String>,
    /// What was deleted, since it is no more in the set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pruned: Vec<ObjectName>,
    /// Of a dry run: the objects that would be another, before and after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rehearsed: Vec<Rehearsed>,
}

/// An object before and after a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehearsed {
    /// Which.
    pub object: ObjectName,
    /// The manifest before; absent: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// The manifest after; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Which.
    pub object: ObjectName,
    /// What happened.
    pub outcome: Outcome,
}

/// What an apply did to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was not there before.
    Created,
    /// It was changed.
    Configured,
    /// It was the same before.
    Unchanged,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Outcome::Created => "created",
            Outcome::Configured => "configured",
            Outcome::Unchanged => "unchanged",
        })
    }
}

/// Deletes the objects of manifests, or objects by name: all of them or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeleteRequest {
    /// Namespace of objects that name none.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Manifests of the objects.
    #[serde(default)]
    pub files: Vec<ManifestText>,
    /// Objects by name.
    #[serde(default)]
    pub objects: Vec<ObjectName>,
    /// An object that is not there is no error.
    #[serde(default)]
    pub ignore_not_found: bool,
}

/// What [`DeleteRequest`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteAnswer {
    /// What was deleted.
    pub deleted: Vec<ObjectName>,
}

/// Kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectName {
    /// Kind, as in manifests.
    pub kind: Kind,
    /// Namespace; empty for kinds without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl From<ObjectId> for ObjectName {
    fn from(id: ObjectId) -> Self {
        Self { kind: id.kind, namespace: id.key.namespace, name: id.key.name }
    }
}

/// The objects of a `GET`, as Kubernetes writes them, ordered by namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Items {
    /// Each with `apiVersion`, `kind`, `metadata` and the rest.
    pub items: Vec<Value>,
}

/// One line of a watch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What happened to the object.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// The object as it is now, or was last.
    pub object: Value,
}

/// What happened to a watched object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EventKind {
    /// It is there (already, or now).
    Added,
    /// It changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// One flow of the datapath: a line of `conntrack list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowLine {
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// As `conntrack -L` calls it.
    pub state: String,
    /// `address:port` of the client.
    pub client: String,
    /// `address:port` that the client addressed.
    pub frontend: String,
    /// `address:port` of the backend.
    pub backend: String,
    /// `address:port` lent to the client where its source was translated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_nat: Option<String>,
    /// Seconds since the last packet.
    pub idle_seconds: u64,
    /// Seconds until it is forgotten, if nothing comes.
    pub expires_seconds: u64,
}

/// Something an operator should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where: `interface eth0`, `file /etc/lb-ctl/manifests/web.yaml`, `datapath`.
    pub subject: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// Why a request was refused: the body of every answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of refusal.
    pub reason: FailureReason,
    /// One sentence.
    pub message: String,
    /// Everything wrong with the manifests, one `file:line:column: object: field: message` each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnostics: Vec<String>,
}

/// Kinds of refusal, as the Kubernetes API names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureReason {
    /// The request is no such request.
    BadRequest,
    /// The caller may not.
    Forbidden,
    /// No such object.
    NotFound,
    /// The manifests are wrong, see the diagnostics.
    Invalid,
    /// It contradicts what another source says.
    Conflict,
    /// The body is too large.
    RequestEntityTooLarge,
    /// It took too long.
    Timeout,
    /// The daemon is stopping.
    ServiceUnavailable,
    /// A defect, or a failing disk or kernel.
    InternalError,
}

impl FailureReason {
    /// The HTTP status code.
    pub const fn status(self) -> u16 {
        match self {
            FailureReason::BadRequest => 400,
            FailureReason::Forbidden => 403,
            FailureReason::NotFound => 404,
            FailureReason::Conflict => 409,
            FailureReason::RequestEntityTooLarge => 413,
            FailureReason::Invalid => 422,
            FailureReason::InternalError => 500,
            FailureReason::ServiceUnavailable => 503,
            FailureReason::Timeout => 504,
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Failure {
    /// A failure without diagnostics.
    pub fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), diagnostics: Vec::new() }
    }

    /// `services "web" not found`, as the Kubernetes API says it.
    pub fn not_found(kind: Kind, name: &str) -> Self {
        Self::new(FailureReason::NotFound, format!("{} \"{name}\" not found", plural(kind)))
    }
}

/// The kind's plural, as the Kubernetes API writes it in messages.
pub const fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "namespaces",
        Kind::Node => "nodes",
        Kind::Service => "services",
        Kind::Pod => "pods",
        Kind::EndpointSlice => "endpointslices.discovery.k8s.io",
    }
}

fn default_namespace() -> String {
    "default".to_owned()
}
