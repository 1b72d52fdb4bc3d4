//! Cases of names as files hold them. Strict, so that no word of a case is overlooked.

use crate::schema::{Level, Reference};
use serde::Deserialize;
use serde_yaml::Value;
use std::collections::BTreeMap;

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The cases, each read apart: one that is wrong does not take the others with it.
    pub groups: Vec<Value>,
    /// What a kubelet writes for pods, which is not ours to do.
    pub(super) resolv_conf: Option<Value>,
    /// What a pod's resolver asks for the names that a process gives it.
    pub search_expansion: Option<Expansion>,
}

/// A case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    #[serde(rename = "id")]
    _id: String,
    #[serde(rename = "title")]
    _title: Option<String>,
    #[serde(rename = "source")]
    _source: Option<String>,
    #[serde(rename = "note")]
    _note: Option<String>,
    pub(super) level: Option<Level>,
    /// The cluster's domain.
    #[serde(default = "domain")]
    pub zone: String,
    #[serde(default)]
    pub(super) reverse_zones: Vec<String>,
    /// What others know: records by name and type.
    #[serde(default)]
    pub upstream: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    #[serde(default)]
    pub(super) options: Options,
    /// Whether all objects have been told.
    pub(super) informers_synced: Option<bool>,
    /// Objects.
    #[serde(default)]
    pub manifests: Vec<Value>,
    /// Questions, each read apart.
    #[serde(default)]
    pub(super) queries: Vec<Value>,
    #[serde(default)]
    pub(super) steps: Vec<Step>,
}

fn domain() -> String {
    "cluster.local".to_owned()
}

/// What a server may be asked to do.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Options {
    #[serde(default)]
    pub(super) pods: Pods,
    /// What is not known here.
    #[serde(flatten)]
    pub(super) others: BTreeMap<String, Value>,
}

/// Whether pods have names of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Pods {
    #[default]
    Disabled,
    Verified,
    Insecure,
}

/// What changes, and what is asked then.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    #[serde(rename = "title")]
    _title: Option<String>,
    #[serde(rename = "note")]
    _note: Option<String>,
    #[serde(default)]
    pub(super) delete: Vec<Reference>,
    #[serde(default)]
    pub(super) apply: Vec<Value>,
    #[serde(default)]
    pub(super) queries: Vec<Value>,
}

/// A question and its answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// Name and type.
    pub q: [String; 2],
    /// How binding it is; `must` where absent.
    pub level: Option<Level>,
    #[serde(rename = "source")]
    _source: Option<String>,
    #[serde(rename = "note")]
    _note: Option<String>,
    /// The answer.
    pub expect: Expect,
}

/// An answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    pub(super) rcode: Option<String>,
    pub(super) kind: Kind,
    /// The records, in any order, but an alias before what it stands for.
    #[serde(default)]
    pub(super) answers: Vec<Expected>,
    #[serde(default)]
    pub(super) authority_soa: bool,
    /// Name, type and data of what may come with them.
    #[serde(default)]
    pub(super) additional_may_include: Vec<(String, String, String)>,
}

/// What an answer comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Answer,
    Nodata,
    Nxdomain,
    Error,
}

/// One record of an answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Expected {
    /// Its data, or only its type.
    Text(String),
    /// An SRV record.
    Service { port: u16, target: Option<String>, target_any_name_resolving_to: Option<String> },
    /// Its data by its type, in lower case.
    Typed(BTreeMap<String, String>),
}

/// See [`File`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expansion {
    /// Domains that are appended, in order.
    pub searches: Vec<String>,
    #[serde(rename = "note")]
    _note: Option<String>,
    /// Names.
    pub cases: Vec<Lookup>,
}

/// What is asked until there is an answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lookup {
    /// The name that a process gives.
    pub lookup: String,
    #[serde(rename = "from_namespace")]
    _namespace: String,
    /// A name with so many dots is tried as it is before anything is appended.
    pub ndots: u32,
    pub(super) queries_in_order: Vec<String>,
    /// The address that is found, or `SRV`.
    #[serde(rename = "final")]
    pub found: String,
}
