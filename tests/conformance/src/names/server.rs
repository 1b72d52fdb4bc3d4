//! The servers that a case is asked of: the daemon's, and the others that it asks.

use super::judge::{Seen, same_name};
use super::schema::Group;
use crate::schema::Reference;
use anyhow::{Context, anyhow, bail, ensure};
use hickory_proto::op::{Edns, Message, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;
use lb_ctl::dns::{Dns, Domain, Settings};
use lb_ctl::manifest;
use lb_ctl::model::{NodeView, services};
use lb_ctl::store::{self, SourceId, Store};
use serde_yaml::Value;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::str::FromStr as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// Where everybody listens: any port that is free.
pub(super) const LOCAL: &str = "127.0.0.1:0";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(6);
/// Networks of ClusterIPs, which cases do not name.
const NETWORKS: [&str; 2] = ["10.96.0.0/12", "fd00:96::/112"];

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
    pub(super) fn ask(&self, name: &str, kind: &str) -> anyhow::Result<Seen> {
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

/// A server of these names alone, which ends with the process: what it does not know does not exist.
fn others(names: BTreeMap<String, BTreeMap<String, Vec<String>>>) -> anyhow::Result<SocketAddr> {
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
