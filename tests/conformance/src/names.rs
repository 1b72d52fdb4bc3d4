//! Cases of `dns/v1`: manifests, then questions that are asked of the daemon's own DNS server, over real sockets.

use crate::judge::{Judgement, Met};
use crate::report::Report;
use crate::run::Names;
use crate::schema::{Level, Reference};
use anyhow::{Context, anyhow, bail, ensure};
use hickory_proto::op::{Edns, Message, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;
use lb_ctl::dns::{Dns, Domain, Settings};
use lb_ctl::manifest;
use lb_ctl::model::{NodeView, services};
use lb_ctl::store::{self, SourceId, Store};
use serde::Deserialize;
use serde_yaml::Value;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::str::FromStr as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// Where everybody listens: any port that is free.
const LOCAL: &str = "127.0.0.1:0";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(6);
/// Networks of ClusterIPs, which cases do not name.
const NETWORKS: [&str; 2] = ["10.96.0.0/12", "fd00:96::/112"];

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(rename = "schema")]
    _schema: String,
    #[serde(rename = "file")]
    _path: Option<String>,
    #[serde(rename = "title")]
    _title: Option<String>,
    #[serde(rename = "note")]
    _note: Option<String>,
    /// The cases, each read apart: one that is wrong does not take the others with it.
    pub groups: Vec<Value>,
    /// What a kubelet writes for pods, which is not ours to do.
    resolv_conf: Option<Value>,
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
    level: Option<Level>,
    /// The cluster's domain.
    pub zone: String,
    #[serde(default)]
    reverse_zones: Vec<String>,
    /// What others know: records by name and type.
    #[serde(default)]
    pub upstream: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    #[serde(default)]
    options: Options,
    /// Whether all objects have been told.
    informers_synced: Option<bool>,
    /// Objects.
    #[serde(default)]
    pub manifests: Vec<Value>,
    /// Questions.
    #[serde(default)]
    pub queries: Vec<Query>,
    #[serde(default)]
    steps: Vec<Step>,
}

/// What a server may be asked to do.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    #[serde(default)]
    pods: Pods,
}

/// Whether pods have names of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Pods {
    #[default]
    Disabled,
    Verified,
    Insecure,
}

/// What changes, and what is asked then.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    #[serde(rename = "title")]
    _title: Option<String>,
    #[serde(default)]
    delete: Vec<Reference>,
    #[serde(default)]
    apply: Vec<Value>,
    #[serde(default)]
    queries: Vec<Query>,
}

/// A question and its answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// Name and type.
    pub q: (String, String),
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
    rcode: Option<String>,
    kind: Kind,
    /// The records, in any order, but an alias before what it stands for.
    #[serde(default)]
    answers: Vec<Expected>,
    #[serde(default)]
    authority_soa: bool,
    /// Name, type and data of what may come with them.
    #[serde(default)]
    additional_may_include: Vec<(String, String, String)>,
}

/// What an answer comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Answer,
    Nodata,
    Nxdomain,
    Error,
}

/// One record of an answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Expected {
    /// Its data, or only its type.
    Text(String),
    Alias {
        cname: String,
    },
    Service {
        port: u16,
        target: Option<String>,
        target_any_name_resolving_to: Option<String>,
    },
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
    queries_in_order: Vec<String>,
    /// The address that is found, or `SRV`.
    #[serde(rename = "final")]
    pub found: String,
}

/// An answer as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// As in `NOERROR`.
    pub code: String,
    /// Name, type and data of each record.
    pub answers: Vec<[String; 3]>,
    /// Types of what stands for the absence of answers.
    pub authorities: Vec<String>,
    /// As answers.
    pub additionals: Vec<[String; 3]>,
}

/// Runs all cases of a file.
pub fn run(file: &File, name: &str, report: &mut Report) {
    if let Some(conf) = &file.resolv_conf {
        let count = conf["cases"].as_sequence().map_or(0, Vec::len);
        report.skip(count, format!("{name}: resolv_conf is a kubelet's to write"));
    }
    for (index, value) in file.groups.iter().enumerate() {
        let id = value["id"].as_str().unwrap_or("?");
        let name = format!("{name} {id}");
        // What processes look up is of the first case.
        let expansion = file.search_expansion.as_ref().filter(|_| index == 0);
        let done = Group::read(value).and_then(|group| group.run(&name, expansion, report));
        if let Err(error) = done {
            report.add(name, Level::Must, Judgement::Missed(format!("{error:#}")));
        }
    }
}

impl Group {
    /// Reads a case. The error names the field.
    pub fn read(value: &Value) -> anyhow::Result<Self> {
        Ok(serde_yaml::from_value(value.clone())?)
    }

    fn run(&self, name: &str, expansion: Option<&Expansion>, report: &mut Report) -> anyhow::Result<()> {
        if self.options.pods != Pods::Disabled {
            let count = self.queries.len() + self.steps.iter().map(|step| step.queries.len()).sum::<usize>();
            report.skip(count, format!("{name}: it requires names of pods"));
            return Ok(());
        }
        let mut server = Server::start(self, LOCAL)?;
        let mut names = Names::default();
        let mut ask = |server: &Server, name: &str, queries: &[Query], report: &mut Report| {
            for query in queries {
                let (asked, kind) = &query.q;
                let judged = judge(query, |name, kind| server.ask(name, kind));
                let level = self.level.filter(|level| *level != Level::Must).or(query.level).unwrap_or(Level::Must);
                let judged =
                    judged.map_or_else(|why| Judgement::Missed(format!("{why:#}")), |()| Judgement::Met(Met::Exactly));
                report.add(names.unique(format!("{name}: {asked} {kind}")), level, judged);
            }
        };
        server.change(&[], &self.manifests)?;
        ask(&server, name, &self.queries, report);
        for (index, step) in self.steps.iter().enumerate() {
            server.change(&step.delete, &step.apply)?;
            ask(&server, &format!("{name}: step {}", index + 1), &step.queries, report);
        }
        for lookup in expansion.iter().flat_map(|expansion| &expansion.cases) {
            let judged = match lookup.judge(&server) {
                Ok(()) => Judgement::Met(Met::Exactly),
                Err(why) => Judgement::Missed(format!("{why:#}")),
            };
            report.add(format!("{name}: lookup {} ndots {}", lookup.lookup, lookup.ndots), Level::Must, judged);
        }
        Ok(())
    }
}

impl Lookup {
    /// Each name before the last one must not exist: whoever looks up would stop there.
    fn judge(&self, server: &Server) -> anyhow::Result<()> {
        let (last, before) = self.queries_in_order.split_last().context("nothing is asked")?;
        for name in before {
            let seen = server.ask(name, "A")?;
            ensure!(seen.code == "NXDOMAIN", "{name}: expected NXDOMAIN; it is {}", seen.code);
        }
        let is_service = self.found == "SRV";
        let seen = server.ask(last, if is_service { "SRV" } else { "A" })?;
        let found = seen.answers.iter().any(|[_, kind, data]| *(if is_service { kind } else { data }) == self.found);
        ensure!(found, "{last}: expected {}; it is {:?}", self.found, seen.answers);
        Ok(())
    }
}

/// Holds an answer, which `ask` gets, against what is expected.
pub fn judge(query: &Query, ask: impl Fn(&str, &str) -> anyhow::Result<Seen>) -> anyhow::Result<()> {
    let (name, kind) = &query.q;
    let (expect, seen) = (&query.expect, ask(name, kind)?);
    let code = match expect.kind {
        Kind::Answer | Kind::Nodata => "NOERROR",
        Kind::Nxdomain => "NXDOMAIN",
        Kind::Error => "SERVFAIL",
    };
    let code = expect.rcode.as_deref().unwrap_or(code);
    ensure!(seen.code == code, "expected {code}; it is {}", seen.code);
    ensure!(expect.kind != Kind::Answer || !seen.answers.is_empty(), "expected answers; there are none");
    let mut left = seen.answers.clone();
    for expected in &expect.answers {
        let mut found = Err(anyhow!("it is {:?}", seen.answers));
        for (index, record) in left.iter().enumerate() {
            if expected.is(record, &ask)? {
                found = Ok(index);
                break;
            }
        }
        left.remove(found.with_context(|| format!("expected {expected:?}"))?);
    }
    ensure!(left.is_empty(), "not expected: {left:?}");
    // What an alias stands for comes behind it.
    for (index, [_, kind, target]) in seen.answers.iter().enumerate() {
        let early = |[owner, ..]: &[String; 3]| kind == "CNAME" && owner.eq_ignore_ascii_case(target);
        ensure!(!seen.answers[..index].iter().any(early), "{target} comes before its alias");
    }
    ensure!(!expect.authority_soa || seen.authorities.iter().any(|kind| kind == "SOA"), "there is no SOA record");
    if !expect.additional_may_include.is_empty() {
        for [owner, kind, data] in &seen.additionals {
            let allowed = expect.additional_may_include.iter().any(|(name, wanted, value)| {
                same_name(name, owner) && wanted == kind && value.eq_ignore_ascii_case(data)
            });
            ensure!(allowed, "not expected beside the answers: {owner} {kind} {data}");
        }
    }
    Ok(())
}

fn same_name(one: &str, other: &str) -> bool {
    one.trim_end_matches('.').eq_ignore_ascii_case(other.trim_end_matches('.'))
}

impl Expect {
    /// The addresses that a process gets which looks the name up; none where an answer is no address.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let addresses = self
            .answers
            .iter()
            .filter_map(|answer| if let Expected::Text(text) = answer { text.parse().ok() } else { None });
        addresses.collect()
    }
}

impl Expected {
    fn is(
        &self,
        [_, kind, data]: &[String; 3],
        ask: &impl Fn(&str, &str) -> anyhow::Result<Seen>,
    ) -> anyhow::Result<bool> {
        Ok(match self {
            // Addresses, names and texts; zones have one SOA and one NS record, whatever these say.
            Self::Text(text) => text == kind || same_name(text, data),
            Self::Alias { cname } => kind == "CNAME" && same_name(cname, data),
            Self::Service { port, target, target_any_name_resolving_to: address } => {
                let mut parts = data.split(' ').skip(2);
                let (found, host) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                let resolves = || -> anyhow::Result<bool> {
                    let Some(address) = address else { return Ok(true) };
                    let kind = if address.contains(':') { "AAAA" } else { "A" };
                    Ok(ask(host, kind)?.answers.iter().any(|[.., data]| data == address))
                };
                kind == "SRV"
                    && found == port.to_string()
                    && target.as_ref().is_none_or(|target| same_name(target, host))
                    && resolves()?
            }
        })
    }
}

/// The daemon's server for one case, fed as the daemon feeds it, and the other servers it asks.
pub struct Server {
    dns: Dns,
    store: Store,
    is_synced: bool,
    address: SocketAddr,
    _runtime: Runtime,
}

impl Server {
    /// Starts one on this address that knows of no object yet.
    pub fn start(group: &Group, address: &str) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let networks = group
            .reverse_zones
            .iter()
            .map(|zone| Ok(Name::from_ascii(zone)?.append_domain(&Name::root())?.parse_arpa_name()?));
        let settings = Settings {
            addresses: vec![address.parse()?],
            domain: Domain::parse(&group.zone).with_context(|| format!("zone: {} is no domain", group.zone))?,
            upstream: vec![others(group.upstream.clone())?],
            networks: networks.collect::<anyhow::Result<Vec<IpNet>>>()?,
        };
        let mut dns = Dns::new(settings, runtime.handle().clone());
        dns.listen(Instant::now());
        let address = *dns.addresses().first().context("the server does not listen")?;
        let store = Store::open(store::Options {
            state_file: None,
            service_cidrs: NETWORKS.iter().map(|network| network.parse()).collect::<Result<_, _>>()?,
            node_port_range: 30_000..=32_767,
        })?;
        Ok(Self { dns, store, is_synced: group.informers_synced != Some(false), address, _runtime: runtime })
    }

    /// Deletes and applies objects.
    pub fn change(&mut self, delete: &[Reference], apply: &[Value]) -> anyhow::Result<()> {
        let now = jiff::Timestamp::now();
        let gone = delete.iter().map(Reference::id).collect::<anyhow::Result<Vec<_>>>()?;
        if !gone.is_empty() {
            self.store.delete(&gone, now).map_err(|why| anyhow!("delete: {why:?}"))?;
        }
        let documents = apply.iter().map(serde_yaml::to_string).collect::<Result<Vec<_>, _>>()?;
        if !documents.is_empty() {
            let parsed = manifest::parse(&documents.join("\n---\n"), "manifests", "default");
            let parsed = parsed.map_err(|why| anyhow!("the manifests are refused: {}", why[0]))?;
            let applied = self.store.apply(&SourceId::Cli, parsed, now);
            applied.map_err(|why| anyhow!("the manifests are refused: {why:?}"))?;
        }
        if self.is_synced {
            let objects = self.store.snapshot();
            self.dns.follow(&objects.namespaces, &services(&objects, &NodeView::default()));
        }
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks by UDP, and by TCP what does not fit.
    fn ask(&self, name: &str, kind: &str) -> anyhow::Result<Seen> {
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        let kind = RecordType::from_str(kind).map_err(|error| anyhow!("{error}"))?;
        question.add_query(Question::query(Name::from_ascii(name)?, kind));
        question.set_edns(Edns::new());
        let bytes = question.to_vec()?;
        let socket = UdpSocket::bind(LOCAL)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(self.address)?;
        socket.send(&bytes)?;
        let mut buffer = vec![0; 65_535];
        let length = socket.recv(&mut buffer).context("no answer")?;
        let mut answer = Message::from_vec(&buffer[..length])?;
        if answer.metadata.truncation {
            let mut stream = TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            answer = Message::from_vec(&exchange(&mut stream, &bytes)?)?;
        }
        ensure!(answer.metadata.id == question.metadata.id, "it answers another question");
        Ok(Seen::of(&answer))
    }
}

fn exchange(stream: &mut TcpStream, question: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(&[&(question.len() as u16).to_be_bytes(), question].concat())?;
    receive(stream)
}

fn receive(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl Seen {
    fn of(message: &Message) -> Self {
        let whole =
            |record: &Record| [record.name.to_string(), record.record_type().to_string(), record.data.to_string()];
        let code = match message.metadata.response_code {
            ResponseCode::NoError => "NOERROR".to_owned(),
            ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
            ResponseCode::ServFail => "SERVFAIL".to_owned(),
            ResponseCode::Refused => "REFUSED".to_owned(),
            other => other.to_string(),
        };
        Self {
            code,
            answers: message.answers.iter().map(whole).collect(),
            authorities: message.authorities.iter().map(|record| record.record_type().to_string()).collect(),
            additionals: message.additionals.iter().map(whole).collect(),
        }
    }
}

/// A server of these names alone, which ends with the process: what it does not know does not exist.
pub fn others(names: BTreeMap<String, BTreeMap<String, Vec<String>>>) -> anyhow::Result<SocketAddr> {
    let tcp = TcpListener::bind(LOCAL)?;
    let address = tcp.local_addr()?;
    let udp = UdpSocket::bind(address)?;
    let names = Arc::new(names);
    let of_udp = Arc::clone(&names);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            // Whoever gets no answer asks again.
            if let Ok(reply) = reply(&buffer[..length], &of_udp) {
                udp.send_to(&reply, from).ok();
            }
        }
    });
    thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            let Ok(question) = receive(&mut stream) else { continue };
            if let Ok(reply) = reply(&question, &names) {
                stream.write_all(&[&(reply.len() as u16).to_be_bytes(), &*reply].concat()).ok();
            }
        }
    });
    Ok(address)
}

fn reply(question: &[u8], names: &BTreeMap<String, BTreeMap<String, Vec<String>>>) -> anyhow::Result<Vec<u8>> {
    let question = Message::from_vec(question)?;
    let [asked] = question.queries.as_slice() else { bail!("one question at a time") };
    let mut reply = Message::response(question.metadata.id, OpCode::Query);
    reply.add_query(asked.clone());
    match names.iter().find(|(name, _)| same_name(name, &asked.name.to_string())) {
        None => reply.metadata.response_code = ResponseCode::NXDomain,
        Some((_, types)) => {
            for data in types.get(&asked.query_type.to_string()).into_iter().flatten() {
                let data = RData::try_from_str(asked.query_type, data).map_err(|error| anyhow!("{error}"))?;
                reply.add_answer(Record::from_rdata(asked.name.clone(), 60, data));
            }
        }
    }
    Ok(reply.to_vec()?)
}
