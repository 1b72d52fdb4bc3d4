//! Cases as files hold them: `flows/v1`, `probes/v1` and `conntrack/v1`; those of `dns/v1` are in [`crate::names`]. Strict, so that no word of a case is overlooked.

use crate::{names, validation};
use anyhow::{Context, bail, ensure};
use lb_ctl::objects::{Key, Kind, ObjectId};
use serde::Deserialize;
use serde_yaml::{Mapping, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The schemas that are run. They share their cases' layout, and differ in what they ask.
const SCHEMAS: [&str; 3] = ["flows/v1", "probes/v1", "conntrack/v1"];
/// What a file of any schema may say for people.
const PROSE: [&str; 3] = ["file", "title", "note"];
/// The schema of questions to the DNS server.
const NAMES: &str = "dns/v1";

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// What holds for all cases.
    #[serde(default)]
    pub defaults: Defaults,
    /// The cases, each read apart: one that is wrong does not take the others with it.
    pub cases: Vec<Value>,
}

/// What holds for all cases of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// Their environment.
    #[serde(default)]
    pub env: Value,
}

/// What reading a file came to.
#[derive(Debug)]
pub enum Read {
    /// Cases to run.
    Cases(File),
    /// Cases of admission, which need no node.
    Validation(validation::File),
    /// Cases of names.
    Names(names::File),
}

/// One case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Its name in the file.
    pub id: String,
    #[serde(rename = "title")]
    _title: Option<String>,
    #[serde(rename = "source")]
    _source: Option<String>,
    #[serde(rename = "note")]
    _note: Option<String>,
    /// `None`: as its flows say.
    pub level: Option<Level>,
    /// What it differs in from the file's environment.
    #[serde(default)]
    pub env: Value,
    /// What the load balancer must be able to do.
    #[serde(default)]
    pub requires: Vec<String>,
    /// Whether the data plane keeps up, as the proxy's own health endpoints see it.
    pub proxy_healthy: Option<bool>,
    /// What is said of the node apart from its environment.
    #[serde(default)]
    pub node_state: NodeState,
    #[serde(default)]
    manifests: Vec<Value>,
    #[serde(default)]
    flows: Vec<Flow>,
    #[serde(default)]
    probes: Vec<Probe>,
    #[serde(default)]
    entries: Vec<Entry>,
    #[serde(default)]
    steps: Vec<Step>,
    // Prose for people, of informative cases alone.
    sequence: Option<Value>,
    changes: Option<Value>,
    behaviour: Option<Value>,
    #[serde(rename = "health_timeout_seconds")]
    _health_timeout_seconds: Option<f64>,
}

/// What a case says of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeState {
    /// Keys of its taints.
    #[serde(default)]
    pub taints: Vec<String>,
    /// Whether it is being deleted.
    #[serde(default, rename = "deletionTimestamp")]
    pub is_deleted: bool,
}

/// How binding an expectation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Kubernetes' proxies agree.
    Must,
    /// They differ.
    BackendSpecific,
    /// It was otherwise in other versions.
    VersionDependent,
    /// For information.
    Informative,
    /// Good to have.
    Should,
    /// Of a feature that one may leave out.
    OptionalFeature,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Must => "must",
            Self::BackendSpecific => "backend-specific",
            Self::VersionDependent => "version-dependent",
            Self::Informative => "informative",
            Self::Should => "should",
            Self::OptionalFeature => "optional-feature",
        })
    }
}

/// What changes, and what must hold then.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Objects that go; before others come.
    #[serde(default)]
    pub delete: Vec<Reference>,
    /// Manifests; each replaces the object of its name.
    #[serde(default)]
    pub apply: Vec<Value>,
    /// What it differs in from the case's environment.
    #[serde(default)]
    pub env: Value,
    /// Which kinds of objects have been told in full; absent: all.
    pub informers_synced: Option<BTreeMap<String, bool>>,
    /// Packets.
    #[serde(default)]
    pub flows: Vec<Flow>,
    /// HTTP requests.
    #[serde(default)]
    pub probes: Vec<Probe>,
    /// Connections from before.
    #[serde(default)]
    pub entries: Vec<Entry>,
}

/// What object is meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    kind: String,
    #[serde(default)]
    namespace: String,
    name: String,
}

impl Reference {
    /// An object of `kind`.
    pub fn new(kind: String, namespace: String, name: String) -> Self {
        Self { kind, namespace, name }
    }

    /// The same as the store names objects.
    pub fn id(&self) -> anyhow::Result<ObjectId> {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == self.kind);
        let kind = kind.with_context(|| format!("delete: there is no kind {}", self.kind))?;
        Ok(ObjectId { kind, key: Key::new(&self.namespace, &self.name) })
    }
}

/// Packets of one client to one destination.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// What it shows.
    pub name: String,
    /// The client.
    pub from: Client,
    /// Whom it asks.
    pub to: Destination,
    /// How binding it is; `must` where absent.
    pub level: Option<Level>,
    /// What must become of them; where proxies differ, kube-proxy's nftables mode.
    pub expect: Expect,
    /// What the iptables mode does where it differs.
    pub expect_iptables: Option<Expect>,
    /// All flows of a case with this label go to one backend.
    pub sticky: Option<String>,
    /// The label may be another backend's from now on.
    #[serde(default)]
    pub may_move: bool,
    /// Seconds since the step began.
    pub at_seconds: Option<f64>,
    /// How many connections.
    pub repeat: Option<u32>,
    /// How connections spread.
    pub distribution: Option<Distribution>,
    #[serde(rename = "note")]
    _note: Option<String>,
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Which way it comes in.
    pub kind: ClientKind,
    /// Its address.
    pub ip: IpAddr,
    /// Its port; absent: another one for each packet.
    pub port: Option<u16>,
}

/// Which way a packet comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientKind {
    /// By a pod's veth.
    PodOnThisNode,
    /// By the uplink.
    PodOnOtherNode,
    /// From a process of the node.
    Node,
    /// By the uplink.
    External,
    /// From a process of the node, by loopback.
    Loopback,
    /// From a process of the node, with a Service's address as its source.
    SelfVip,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// Address.
    pub ip: IpAddr,
    /// Port, for protocols that have ports.
    pub port: Option<u16>,
    /// Protocol.
    pub protocol: Protocol,
}

/// What a packet is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    /// TCP
    TCP,
    /// UDP
    UDP,
    /// SCTP
    SCTP,
    /// ICMP
    ICMP,
    /// ICMPv6
    #[serde(rename = "ICMPv6")]
    ICMPv6,
}

/// What must become of packets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// What becomes of them.
    pub verdict: Verdict,
    /// Exactly the backends that may be chosen, all of them over repeats.
    #[serde(default)]
    pub backends: Vec<SocketAddr>,
    /// Whether kube-proxy rewrites the source.
    pub masquerade: Option<bool>,
    /// The same where it depends on the backend.
    #[serde(default)]
    pub masquerade_by_backend: BTreeMap<SocketAddr, bool>,
    reject_with: Option<RejectWith>,
}

/// How kube-proxy says no; a reset is as good where TCP asks.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RejectWith {
    IcmpPortUnreachable,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It goes to a backend.
    Forward,
    /// The client is told that nobody is there.
    Reject,
    /// Silence.
    Drop,
    /// It is left alone.
    Passthrough,
    /// It is left to a listener on the node.
    Local,
}

/// How connections spread.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// Every backend gets the same share, but for the tolerance.
    #[serde(default)]
    pub uniform: bool,
    /// How many connections to look at.
    pub min_samples: Option<u32>,
    /// Deviation of a share from the ideal one, relative to it.
    pub tolerance: Option<f64>,
    /// How many backends must be met at least.
    pub min_distinct: Option<usize>,
}

/// An HTTP request and its answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// What it shows.
    pub name: String,
    /// How binding it is; `must` where absent.
    pub level: Option<Level>,
    /// The request.
    pub request: Request,
    /// The answer.
    pub expect: Answer,
}

/// An HTTP request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Its URL, with address and port.
    pub url: String,
    /// Who asks. Listeners answer everybody; that the packets get to them is for flows to show.
    #[serde(rename = "from")]
    _from: Option<IpAddr>,
}

/// An HTTP answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Whether anybody listens at all.
    pub listening: bool,
    /// Status code.
    pub status: Option<u16>,
    /// Headers that it has.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub json: Option<serde_json::Value>,
}

/// A connection that was made earlier.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Protocol.
    pub proto: Protocol,
    /// How binding it is; `must` where absent.
    pub level: Option<Level>,
    /// Whom the client asked.
    pub orig_dst: IpAddr,
    /// The port it asked.
    pub orig_dport: u16,
    /// Who answers.
    pub reply_src: IpAddr,
    /// The port that answers; absent: the connection was never translated.
    pub reply_sport: Option<u16>,
    /// What becomes of it.
    pub expect: Fate,
    /// What it shows.
    #[serde(default)]
    pub why: String,
}

/// What becomes of an earlier connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It goes on as before.
    Keep,
    /// It is forgotten.
    Delete,
}

impl Read {
    /// Reads a file.
    pub fn file(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let mut root: Mapping = serde_yaml::from_str(&text)?;
        let schema = root.remove("schema").context("it names no `schema`")?;
        let schema = schema.as_str().context("its `schema` is no name")?;
        for name in PROSE {
            root.remove(name);
        }
        let root = Value::from(root);
        if schema == NAMES {
            return Ok(Self::Names(serde_yaml::from_value(root)?));
        }
        if schema == validation::SCHEMA {
            return Ok(Self::Validation(serde_yaml::from_value(root)?));
        }
        ensure!(SCHEMAS.contains(&schema), "its schema {schema} is not known: {} and {NAMES} are", SCHEMAS.join(", "));
        Ok(Self::Cases(serde_yaml::from_value(root)?))
    }
}

impl Case {
    /// Reads a case. The error names it and the field.
    pub fn read(value: &Value) -> anyhow::Result<Self> {
        let case: Self = serde_yaml::from_value(value.clone())?;
        let informative = case.level.is_some_and(|level| level != Level::Must);
        let prose = case.sequence.is_some() || case.changes.is_some() || case.behaviour.is_some();
        ensure!(informative || !prose, "`sequence`, `changes` and `behaviour` are prose, of informative cases alone");
        let direct = [case.manifests.len(), case.flows.len(), case.probes.len(), case.entries.len()];
        if !case.steps.is_empty() && direct.iter().any(|count| *count > 0) {
            bail!("it has `steps` and, beside them, what belongs into a step");
        }
        for flow in case.steps().flat_map(|step| step.flows) {
            flow.check().with_context(|| format!("flow `{}`", flow.name))?;
        }
        Ok(case)
    }

    /// The name that a case has in its file, as far as one can tell.
    pub fn id_of(value: &Value) -> &str {
        value.get("id").and_then(Value::as_str).unwrap_or("?")
    }

    /// What happens one after the other.
    pub fn steps(&self) -> impl Iterator<Item = StepView<'_>> {
        let one = self.steps.is_empty().then_some(StepView {
            delete: &[],
            apply: &self.manifests,
            env: &Value::Null,
            informers_synced: None,
            flows: &self.flows,
            probes: &self.probes,
            entries: &self.entries,
        });
        one.into_iter().chain(self.steps.iter().map(|step| StepView {
            delete: &step.delete,
            apply: &step.apply,
            env: &step.env,
            informers_synced: step.informers_synced.as_ref(),
            flows: &step.flows,
            probes: &step.probes,
            entries: &step.entries,
        }))
    }

    /// How much it asks.
    pub fn size(&self) -> usize {
        self.steps().map(|step| step.flows.len() + step.probes.len() + step.entries.len()).sum()
    }

    /// How binding something of it is that says `level` of itself.
    pub fn level_of(&self, level: Option<Level>) -> Level {
        let own = level.unwrap_or(Level::Must);
        // What the case says of all of them outweighs that its flows are `must` among themselves.
        self.level.filter(|level| *level != Level::Must).unwrap_or(own)
    }
}

/// A step, also of a case that has no steps.
#[derive(Clone, Copy, Debug)]
pub struct StepView<'a> {
    /// See [`Step`].
    pub delete: &'a [Reference],
    /// See [`Step`].
    pub apply: &'a [Value],
    /// See [`Step`].
    pub env: &'a Value,
    /// See [`Step`].
    pub informers_synced: Option<&'a BTreeMap<String, bool>>,
    /// See [`Step`].
    pub flows: &'a [Flow],
    /// See [`Step`].
    pub probes: &'a [Probe],
    /// See [`Step`].
    pub entries: &'a [Entry],
}

impl Flow {
    /// What the types cannot say.
    fn check(&self) -> anyhow::Result<()> {
        let has_ports = !matches!(self.to.protocol, Protocol::ICMP | Protocol::ICMPv6);
        ensure!(has_ports == self.to.port.is_some(), "`to.port` belongs to TCP, UDP and SCTP, and to these alone");
        ensure!(self.from.ip.is_ipv4() == self.to.ip.is_ipv4(), "`from.ip` and `to.ip` are of different families");
        for expect in std::iter::once(&self.expect).chain(&self.expect_iptables) {
            let forwards = expect.verdict == Verdict::Forward;
            ensure!(forwards != expect.backends.is_empty(), "`backends` belongs to `forward`, and to it alone");
            let rejects = expect.verdict == Verdict::Reject;
            ensure!(rejects || expect.reject_with.is_none(), "`reject_with` belongs to `reject`");
        }
        Ok(())
    }
}

impl Expect {
    /// Whether kube-proxy rewrites the source towards this backend.
    pub fn masquerades(&self, backend: SocketAddr) -> Option<bool> {
        self.masquerade_by_backend.get(&backend).copied().or(self.masquerade)
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verdict {
            Verdict::Forward => {
                write!(f, "forward to ")?;
                for (index, backend) in self.backends.iter().enumerate() {
                    write!(f, "{}{backend}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Verdict::Reject => f.write_str("reject"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Passthrough => f.write_str("passthrough"),
            Verdict::Local => f.write_str("local"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(text: &str) -> Result<Case, String> {
        Case::read(&serde_yaml::from_str(text).unwrap()).map_err(|error| format!("{error:#}"))
    }

    const FLOW: &str =
        "name: a\n  from: {kind: external, ip: 192.0.2.1}\n  to: {ip: 10.0.0.1, port: 80, protocol: TCP}";

    #[test]
    fn an_unknown_field_is_named() {
        let error = case(&format!("id: x\nflows:\n- {FLOW}\n  expect: {{verdict: drop, backend: []}}")).unwrap_err();
        assert!(error.contains("unknown field `backend`"), "{error}");
        let error = case(&format!("id: x\nflows:\n- {FLOW}\n  retries: 3\n  expect: {{verdict: drop}}")).unwrap_err();
        assert!(error.contains("unknown field `retries`"), "{error}");
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (text, complaint) in [
            (format!("id: x\nflows:\n- {FLOW}\n  expect: {{verdict: forward}}"), "`backends` belongs"),
            (
                format!("id: x\nmanifests: [{{}}]\nsteps: [{{}}]\nflows:\n- {FLOW}\n  expect: {{verdict: drop}}"),
                "`steps`",
            ),
            ("id: x\nchanges: []".to_owned(), "prose"),
        ] {
            let error = case(&text).unwrap_err();
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn a_case_without_steps_is_one_step() {
        let case = case(&format!("id: x\nlevel: informative\nflows:\n- {FLOW}\n  expect: {{verdict: drop}}")).unwrap();
        assert_eq!(case.steps().map(|step| step.flows.len()).collect::<Vec<_>>(), [1]);
        assert_eq!(case.level_of(Some(Level::Must)), Level::Informative);
    }
}
