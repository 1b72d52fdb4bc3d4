//! Connections that were made before something changed: which go on, and which are forgotten.
//!
//! An entry says where an earlier connection goes. It is made as clients make it: under manifests in which the Service has
//! that port and that backend alone. Then the case's manifests come, live, and the connection's next packet tells.

use crate::environment::{Environment, NamedAddresses, NodePortAddresses};
use crate::judge::Memory;
use crate::node::Node;
use crate::packet::{Ends, Outcome, Turn};
use crate::schema::{ClientKind, Entry, Fate, NodeState, Protocol};
use anyhow::{Context, ensure};
use lb_ctl::objects::{Key, Kind, ObjectId};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The slice of the time before.
const BEFORE: &str = "before";
/// Fields of a Service's spec that keep clients and backends apart.
const CHOICES: [&str; 4] =
    ["externalTrafficPolicy", "internalTrafficPolicy", "healthCheckNodePort", "loadBalancerSourceRanges"];
/// The client, from a network for documentation.
const CLIENT: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7))];

/// Makes the connection, lets the manifests come, and says why it is not as expected, if so.
pub fn judge(
    node: &mut Node,
    environment: &Environment,
    state: &NodeState,
    manifests: &[Value],
    entry: &Entry,
    memory: &mut Memory,
) -> anyhow::Result<()> {
    let to = SocketAddr::new(entry.orig_dst, entry.orig_dport);
    let client = CLIENT[usize::from(!to.is_ipv4())];
    let ends = Ends { protocol: entry.proto, from: SocketAddr::new(client, memory.port()), to };
    let mut before = environment.clone();
    before.nodeport_addresses = NodePortAddresses::Named(NamedAddresses::All);
    node.begin(&before, state)?;
    let Some(port) = entry.reply_sport else {
        return judge_untranslated(node, environment, state, manifests, entry.expect, ends);
    };
    let backend = SocketAddr::new(entry.reply_src, port);
    let (earlier, slice) = earlier(environment, manifests, entry, backend)?;
    node.apply(&earlier)?;
    connect(node, ends, backend)?;
    node.enter(environment, state, &earlier)?;
    // First those that come: what is in both is never away.
    node.apply(manifests)?;
    node.delete(vec![slice])?;
    let outcome = node.send(ClientKind::External, ends, Turn::Continue)?;
    let goes_on = matches!(outcome, Outcome::Forwarded { backend: now, .. } if now == backend);
    match entry.expect {
        Fate::Keep => ensure!(goes_on, "expected to go on to {backend}; it was {outcome}"),
        Fate::Delete => ensure!(!goes_on, "expected to be forgotten; it goes on to {backend}"),
    }
    Ok(())
}

/// The same for a connection that was made without the Service.
fn judge_untranslated(
    node: &mut Node,
    environment: &Environment,
    state: &NodeState,
    manifests: &[Value],
    expect: Fate,
    ends: Ends,
) -> anyhow::Result<()> {
    let outcome = node.send(ClientKind::External, ends, Turn::Open)?;
    ensure!(outcome == Outcome::Passed, "it cannot be made: without the Service it is {outcome}");
    node.enter(environment, state, &[])?;
    node.apply(manifests)?;
    let outcome = node.send(ClientKind::External, ends, Turn::Continue)?;
    let is_translated = matches!(outcome, Outcome::Forwarded { .. });
    match expect {
        Fate::Keep => ensure!(!is_translated, "expected to stay untranslated; it was {outcome}"),
        Fate::Delete => ensure!(is_translated, "expected to be translated from now on; it was {outcome}"),
    }
    Ok(())
}

/// Makes the connection: packets in both directions.
fn connect(node: &mut Node, ends: Ends, backend: SocketAddr) -> anyhow::Result<()> {
    let opened = node.send(ClientKind::External, ends, Turn::Open)?;
    let Outcome::Forwarded { source, backend: chosen } = opened else {
        anyhow::bail!("it cannot be made: its first packet is {opened}");
    };
    ensure!(chosen == backend, "it cannot be made: it goes to {chosen}");
    let answer = node.answer(Ends { protocol: ends.protocol, from: backend, to: source })?;
    let right = Outcome::Forwarded { source: ends.to, backend: ends.from };
    ensure!(answer == right, "it cannot be made: its answer is {answer}");
    let next = node.send(ClientKind::External, ends, Turn::Continue)?;
    ensure!(next == opened, "it cannot be made: its second packet is {next}");
    Ok(())
}

/// The manifests of the time before: the Service that the client asked, with this port and this backend alone. And the name
/// of their slice.
fn earlier(
    environment: &Environment,
    manifests: &[Value],
    entry: &Entry,
    backend: SocketAddr,
) -> anyhow::Result<(Vec<Value>, ObjectId)> {
    let by_node_port = environment.this_node().ips.contains(&entry.orig_dst);
    let is_asked = |service: &&Value| {
        if by_node_port { service["spec"]["type"] != "ClusterIP" } else { names(service, entry.orig_dst) }
    };
    let services = manifests.iter().filter(|manifest| manifest["kind"] == "Service");
    let mut service = services.into_iter().find(is_asked).cloned().context("no Service has its `orig_dst`")?;
    let mut port = json!({
        "name": BEFORE,
        "protocol": protocol(entry.proto)?,
        "port": if by_node_port { backend.port() } else { entry.orig_dport },
        "targetPort": backend.port(),
    });
    if by_node_port {
        port["nodePort"] = json!(entry.orig_dport);
    }
    service["spec"]["ports"] = json!([port]);
    // Whatever it is to be chosen by: this backend was.
    let spec = service["spec"].as_object_mut().context("a Service without a spec")?;
    spec.retain(|field, _| !CHOICES.contains(&field.as_str()));
    let namespace = service["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": BEFORE,
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service["metadata"]["name"]},
        },
        "addressType": if backend.is_ipv4() { "IPv4" } else { "IPv6" },
        "ports": [{"name": BEFORE, "protocol": protocol(entry.proto)?, "port": backend.port()}],
        "endpoints": [{"addresses": [backend.ip()]}],
    });
    Ok((vec![service, slice], ObjectId { kind: Kind::EndpointSlice, key: Key::new(namespace, BEFORE) }))
}

/// Whether a Service has an address.
fn names(service: &Value, address: IpAddr) -> bool {
    let spec = &service["spec"];
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
    let of_list = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let mut all = of_list(&spec["clusterIPs"]);
    all.push(spec["clusterIP"].clone());
    all.extend(of_list(&spec["externalIPs"]));
    all.extend(ingress.into_iter().flatten().map(|entry| entry["ip"].clone()));
    all.iter().filter_map(Value::as_str).any(|text| text.parse() == Ok(address))
}

fn protocol(protocol: Protocol) -> anyhow::Result<&'static str> {
    match protocol {
        Protocol::TCP => Ok("TCP"),
        Protocol::UDP => Ok("UDP"),
        Protocol::SCTP => Ok("SCTP"),
        Protocol::ICMP | Protocol::ICMPv6 => anyhow::bail!("a Service has no port of ICMP"),
    }
}
