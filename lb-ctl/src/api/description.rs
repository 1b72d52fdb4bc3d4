//! What is known of one Service: the answer to `describe service`, and its `-o json`.
//!
//! Counters are numbers that only grow while the daemon and its maps live. The shape is part of the API:
//! `.ports[].connections`, `.ports[].endpoints[].connections` and their neighbours are read by programs.

use super::types::Problem;
use crate::model::Policy;
use crate::objects::{Algorithm, DEFAULT_WEIGHT, IpFamily, Labels, Protocol, ServiceType};
use lb_common::Traffic;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One Service as it works on this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDescription {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// Labels its pods must have; absent: endpoints are given by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Labels>,
    /// Type.
    pub r#type: ServiceType,
    /// `SingleStack`, ...
    pub ip_family_policy: String,
    /// Families.
    pub ip_families: Vec<IpFamily>,
    /// Its `ClusterIPs`; a headless Service has none.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// Addresses routed to the nodes by other means.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// Addresses that its load balancer has announced and that are served here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_addresses: Vec<IpAddr>,
    /// The networks whose clients alone may use these; empty: everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_source_ranges: Vec<String>,
    /// This node's addresses that its node ports answer on.
    pub node_addresses: Vec<IpAddr>,
    /// `None` or `ClientIP`.
    pub session_affinity: String,
    /// `random` or `maglev`.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// For how many seconds after its last new connection a client keeps its backend, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u32>,
    /// `Cluster` or `Local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<String>,
    /// Port on which load balancers ask for this node's endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check_node_port: Option<u16>,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: String,
    /// Where the manifest came from: `cli`, or `file:` and a path.
    pub source: String,
    /// Where its endpoints came from: `EndpointSlices`, `Pods` or `none`.
    pub endpoints_from: String,
    /// Ports.
    pub ports: Vec<PortDescription>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
    /// What happened to it lately, oldest first, as `2024-01-31T10:00:00Z message`.
    pub events: Vec<ServiceEvent>,
}

/// Something that happened to a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEvent {
    /// When, RFC 3339.
    pub time: String,
    /// What.
    pub message: String,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortDescription {
    /// Name; empty where it has none.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the `ClusterIPs`.
    pub port: u16,
    /// The pods' port, as in the manifest.
    pub target_port: String,
    /// Port of the nodes' addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// What passed through it on this node, on all its addresses together.
    #[serde(flatten)]
    pub traffic: Counters,
    /// Endpoints, ready or not, of both families.
    pub endpoints: Vec<EndpointDescription>,
}

/// One endpoint of a port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointDescription {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Whether it is ready for new connections.
    pub ready: bool,
    /// Why not, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not_ready: Option<String>,
    /// Its share of new connections, against the others' weights.
    #[serde(default = "default_weight")]
    pub weight: u8,
    /// The Pod behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The `EndpointSlice` that named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
    /// The node it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Under which traffic policies new connections go there: `Cluster`, `Local`, both or neither.
    #[serde(default)]
    pub chosen_for: Vec<Policy>,
    /// Whether it is on this node, so that it sees the client's own address.
    pub local: bool,
    /// What this node sent to its ADDRESS and got back, by all Services and ports together.
    #[serde(flatten)]
    pub traffic: Counters,
}

const fn default_weight() -> u8 {
    DEFAULT_WEIGHT
}

/// Counters of [`Traffic`], as they cross the socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Flows created.
    pub connections: u64,
    /// Packets from clients.
    pub packets: u64,
    /// Bytes from clients, with link-layer headers.
    pub bytes: u64,
    /// Packets from backends.
    pub reply_packets: u64,
    /// Bytes from backends, with link-layer headers.
    pub reply_bytes: u64,
}

impl Counters {
    /// Adds `traffic`.
    pub fn add(&mut self, traffic: &Traffic) {
        self.connections += traffic.connections;
        self.packets += traffic.packets;
        self.bytes += traffic.bytes;
        self.reply_packets += traffic.reply_packets;
        self.reply_bytes += traffic.reply_bytes;
    }

    /// Adds those of somebody else.
    pub fn merge(&mut self, other: &Self) {
        self.connections += other.connections;
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.reply_packets += other.reply_packets;
        self.reply_bytes += other.reply_bytes;
    }
}
