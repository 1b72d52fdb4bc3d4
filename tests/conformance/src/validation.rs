//! Cases of what an API server accepts, refuses, fills in and allocates: `validation/v1`.
//!
//! A manifest goes the way of `lb-ctl apply`: parsed, then admitted by a store with the cluster's ranges. Nothing of the
//! datapath takes part.

use crate::judge::{Judgement, Met};
use crate::report::Report;
use crate::schema::Level;
use anyhow::{Context, anyhow, bail, ensure};
use ipnet::IpNet;
use lb_ctl::manifest::{self, Diagnostic, Parsed};
use lb_ctl::objects::{IpFamily, ObjectId};
use lb_ctl::store::{Options, Rejected, SourceId, Store};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The name of the schema.
pub const SCHEMA: &str = "validation/v1";

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    defaults: Defaults,
    /// Each read apart: one that is wrong does not take the others with it.
    cases: Vec<serde_yaml::Value>,
}

/// What holds for all cases of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    cluster: Cluster,
}

/// What a cluster is configured with.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    service_cidrs: Option<Vec<IpNet>>,
    /// `FIRST-LAST`
    node_port_range: Option<String>,
    /// The families of the ranges, the default one first.
    ip_families: Option<Vec<IpFamily>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(rename = "id")]
    _id: String,
    #[serde(rename = "title")]
    _title: Option<String>,
    #[serde(rename = "source")]
    _source: Option<String>,
    #[serde(rename = "note")]
    _note: Option<String>,
    level: Option<Level>,
    #[serde(default)]
    cluster: Cluster,
    op: Op,
    /// What is there before a creation.
    #[serde(default)]
    existing: Vec<Value>,
    manifest: Option<Value>,
    old: Option<Value>,
    new: Option<Value>,
    expect: Expect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Create,
    Update,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    result: Verdict,
    /// The field of one of the errors, or the beginning of it, in whatever case.
    field: Option<String>,
    #[serde(rename = "reason")]
    _reason: Option<String>,
    #[serde(rename = "http_status")]
    _http_status: Option<u16>,
    /// Values afterwards; null is absent.
    #[serde(default)]
    resulting_fields: BTreeMap<String, Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Accept,
    Reject,
}

/// Judges all cases of a file.
pub fn run(name: &str, file: &File, report: &mut Report) {
    for value in &file.cases {
        let id = value["id"].as_str().unwrap_or("a case without `id`");
        let (level, judged) = match serde_yaml::from_value::<Case>(value.clone()) {
            Ok(case) => (case.level.unwrap_or(Level::Must), case.judge(&file.defaults.cluster)),
            Err(error) => (Level::Must, Err(error.into())),
        };
        let judgement = match judged {
            Ok(()) => Judgement::Met(Met::Exactly),
            Err(error) => Judgement::Missed(format!("{error:#}")),
        };
        report.add(format!("{name} {id}"), level, judgement);
    }
}

impl Case {
    fn judge(&self, defaults: &Cluster) -> anyhow::Result<()> {
        let cluster = self.cluster.over(defaults);
        let (mut store, manifest) = match (self.op, &self.manifest, &self.old, &self.new) {
            (Op::Create, Some(manifest), None, None) => (cluster.store_with(&self.existing)?, manifest),
            (Op::Update, None, Some(old), Some(new)) => {
                ensure!(self.existing.is_empty(), "`existing` belongs to `create`");
                (cluster.store_with(std::slice::from_ref(old))?, new)
            }
            _ => bail!("`create` takes `manifest`, and `update` takes `old` and `new`"),
        };
        let before = store.snapshot();
        match (self.expect.result, apply(&mut store, manifest)?) {
            (Verdict::Accept, Ok(id)) => self.compare(&store, &id),
            (Verdict::Accept, Err(errors)) => bail!("refused: {}", lines(&errors)),
            (Verdict::Reject, Ok(_)) => bail!("accepted"),
            (Verdict::Reject, Err(errors)) => {
                ensure!(before == store.snapshot(), "refused, and yet something changed");
                let Some(field) = self.expect.field.as_deref().map(str::to_lowercase) else { return Ok(()) };
                let is_it = |error: &Diagnostic| error.field.to_lowercase().starts_with(&field);
                ensure!(errors.iter().any(is_it), "refused for something else: {}", lines(&errors));
                Ok(())
            }
        }
    }

    /// Holds the object against the fields that the case names.
    fn compare(&self, store: &Store, id: &ObjectId) -> anyhow::Result<()> {
        let object = store.snapshot().get(id).with_context(|| format!("{id} is accepted, and not there"))?;
        let object = serde_json::to_value(object)?;
        for (path, expected) in &self.expect.resulting_fields {
            let found = field(&object, path);
            ensure!(found == expected, "{path} is {found}, not {expected}");
        }
        Ok(())
    }
}

impl Cluster {
    fn over(&self, defaults: &Self) -> Self {
        Self {
            service_cidrs: self.service_cidrs.clone().or_else(|| defaults.service_cidrs.clone()),
            node_port_range: self.node_port_range.clone().or_else(|| defaults.node_port_range.clone()),
            ip_families: self.ip_families.clone().or_else(|| defaults.ip_families.clone()),
        }
    }

    /// What a store of this cluster is opened with. Which range comes first says which family is the default.
    fn options(&self, state_file: Option<PathBuf>) -> anyhow::Result<Options> {
        let mut service_cidrs = self.service_cidrs.clone().context("`service_cidrs` is missing")?;
        if let Some(families) = &self.ip_families {
            let rank = |cidr: &IpNet| families.iter().position(|family| *family == IpFamily::of(cidr.addr()));
            service_cidrs.retain(|cidr| rank(cidr).is_some());
            service_cidrs.sort_by_key(rank);
        }
        let range = self.node_port_range.as_deref().unwrap_or("30000-32767");
        let (first, last) = range.split_once('-').context("`node_port_range` is FIRST-LAST")?;
        Ok(Options { state_file, service_cidrs, node_port_range: first.parse()?..=last.parse()? })
    }

    /// A store that holds these objects. What this cluster would refuse may be older than its configuration: then a cluster of
    /// both families took it, and the state file brings it here.
    fn store_with(&self, objects: &[Value]) -> anyhow::Result<Store> {
        let mut store = Store::open(self.options(None)?)?;
        let taken = objects.iter().all(|object| matches!(apply(&mut store, object), Ok(Ok(_))));
        if taken {
            return Ok(store);
        }
        let directory = tempfile::tempdir()?;
        let state_file = Some(directory.path().join("state.json"));
        let mut earlier = Store::open(self.of_both_families()?.options(state_file.clone())?)?;
        for object in objects {
            apply(&mut earlier, object)?.map_err(|errors| anyhow!("what is there before: {}", lines(&errors)))?;
        }
        earlier.flush()?;
        Ok(Store::open(self.options(state_file)?)?)
    }

    fn of_both_families(&self) -> anyhow::Result<Self> {
        let mut service_cidrs = self.service_cidrs.clone().unwrap_or_default();
        for other in ["10.96.0.0/16", "fd00:96::/112"] {
            let other: IpNet = other.parse()?;
            if service_cidrs.iter().all(|cidr| IpFamily::of(cidr.addr()) != IpFamily::of(other.addr())) {
                service_cidrs.push(other);
            }
        }
        Ok(Self { service_cidrs: Some(service_cidrs), ip_families: None, ..self.clone() })
    }
}

/// Applies one manifest; an inner error is the refusal.
fn apply(store: &mut Store, manifest: &Value) -> anyhow::Result<Result<ObjectId, Vec<Diagnostic>>> {
    let text = serde_json::to_string_pretty(manifest)?;
    let parsed = match manifest::parse(&text, "case.json", "default") {
        Ok(parsed) => parsed,
        Err(errors) => return Ok(Err(errors)),
    };
    let id = only_object(&parsed)?;
    match store.apply(&SourceId::Cli, parsed, jiff::Timestamp::UNIX_EPOCH) {
        Ok(_) => Ok(Ok(id)),
        Err(Rejected::Invalid(errors)) => Ok(Err(errors)),
        Err(other) => Err(other.into()),
    }
}

fn only_object(parsed: &Parsed) -> anyhow::Result<ObjectId> {
    match parsed.objects.as_slice() {
        [located] => Ok(located.object.id()),
        others => bail!("a manifest of {} objects", others.len()),
    }
}

/// The value at a path such as `spec.ports[0].nodePort`; null where there is none.
fn field<'v>(value: &'v Value, path: &str) -> &'v Value {
    let steps = path.split(['.', '[']).map(|step| step.trim_end_matches(']'));
    steps.fold(value, |value, step| match value {
        Value::Array(items) => step.parse().ok().and_then(|index: usize| items.get(index)).unwrap_or(&Value::Null),
        _ => value.get(step).unwrap_or(&Value::Null),
    })
}

fn lines(errors: &[Diagnostic]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
