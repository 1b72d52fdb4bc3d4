//! How the daemon and its datapath are: the answer to `status`.

use super::audit::AuditStatus;
use super::types::Problem;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// The daemon, its interfaces, sources, maps and counters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Instance.
    pub instance: String,
    /// This node's name.
    pub node: String,
    /// Whether every source has been read, the maps hold the image, and every named interface that exists is attached.
    pub ready: bool,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// Whether the maps of an earlier daemon were taken over.
    pub adopted: bool,
    /// The kernel's release.
    pub kernel: String,
    /// Addresses that node ports answer on.
    pub node_addresses: Vec<IpAddr>,
    /// Addresses lent to connections that need source translation.
    pub snat_addresses: Vec<IpAddr>,
    /// Where the ports of these addresses are nearest to being used up; absent: none is lent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lent_ports: Option<LentPorts>,
    /// The way of new connections: `direct` or `stack`.
    pub path: String,
    /// How processes of this node reach Services, or why they do not.
    pub host_clients: String,
    /// Sockets of processes.
    #[serde(default)]
    pub socket_lb: SocketStatus,
    /// The DNS server; absent: it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsStatus>,
    /// What the audit in the background has come to.
    #[serde(default)]
    pub audit: AuditStatus,
    /// Interfaces, managed and waited for.
    pub interfaces: Vec<InterfaceStatus>,
    /// Sources of objects.
    pub sources: Vec<SourceStatus>,
    /// How many objects of each kind are known, by plural.
    pub objects: Vec<(String, u64)>,
    /// What an operator should look at.
    pub problems: Vec<Problem>,
    /// How full the maps are.
    pub maps: Vec<MapFill>,
    /// Verdicts by reason, only those that were counted.
    pub counters: Vec<CounterLine>,
}

/// Whether processes are served at their sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketStatus {
    /// Directory of the cgroup whose processes are; none: nobody is.
    pub cgroup: Option<String>,
    /// What processes of the node do not reach; empty: they reach everything.
    pub note: String,
}

/// The DNS server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsStatus {
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// The cluster's domain.
    pub domain: String,
    /// Whom it asks for other names.
    pub upstream: Vec<SocketAddr>,
    /// What it was asked.
    pub counters: DnsCounters,
}

/// Messages and answers of the DNS server since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsCounters {
    /// Messages by UDP.
    pub udp: u64,
    /// Messages by TCP.
    pub tcp: u64,
    /// Of all messages, those that ask nothing that can be answered.
    pub refused: u64,
    /// Answers from the cluster's own names.
    pub own: u64,
    /// Questions for which others were asked.
    pub forwarded: u64,
    /// Of these, those that nobody answered.
    pub failed: u64,
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceStatus {
    /// Name, or the name that is waited for.
    pub name: String,
    /// Index; 0: it does not exist yet.
    pub index: u32,
    /// The mode asked for.
    pub wanted: String,
    /// What is attached: `xdp`, `xdp-generic`, `tcx-ingress`, `tcx-egress`, or `clsact-ingress`, `clsact-egress`.
    pub attached: Vec<String>,
    /// Why it is not a better mode, or why nothing is attached; empty: all is well.
    pub note: String,
    /// What it is taken for: `wire`, `local`, or `host` for the daemon's own.
    pub role: String,
}

/// One source of objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// `cli`, or `directory` and a path.
    pub name: String,
    /// Whether it has been read in full at least once.
    pub synced: bool,
    /// Objects it gave.
    pub objects: u64,
}

/// Source ports lent to connections to one backend port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LentPorts {
    /// The backend's address and port.
    pub backend: SocketAddr,
    /// Its protocol.
    pub protocol: String,
    /// Ports that live connections hold.
    pub used: u64,
    /// Ports that can be lent, over all addresses of the family.
    pub available: u64,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFill {
    /// Name.
    pub name: String,
    /// Entries in it.
    pub used: u64,
    /// Entries that fit.
    pub capacity: u64,
}

/// How often a reason was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterLine {
    /// The stable name of the [`lb_common::Reason`].
    pub reason: String,
    /// Whether the packets were dropped.
    pub drop: bool,
    /// Packets.
    pub packets: u64,
    /// Bytes, with link-layer headers.
    pub bytes: u64,
    /// What happened, in a sentence.
    pub sentence: String,
    /// What an operator can do about it; empty: nothing is wrong.
    pub remedy: String,
}
