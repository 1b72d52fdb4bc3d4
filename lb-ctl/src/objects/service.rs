//! `v1/Service`.

use super::{Labels, Metadata};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::net::IpAddr;

/// `clusterIP` of a headless Service.
pub const NONE: &str = "None";

/// How long a client keeps its backend under `sessionAffinity: ClientIP` where nothing else is said, as the API server
/// has it.
pub const AFFINITY_SECONDS: u32 = 10_800;

/// A Service with this label, whatever its value, is left to another proxy.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// And so is one with this.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Metadata.
    #[serde(default)]
    pub metadata: Metadata,
    /// Spec.
    #[serde(default)]
    pub spec: ServiceSpec,
    /// Status, kept as given: only the load balancer's addresses are ever read.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub status: Value,
}

/// `ServiceSpec`, strict: every field of the API is named here, and any other is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    /// Type; `ClusterIP` where absent.
    #[serde(default)]
    pub r#type: ServiceType,
    /// Labels that pods must have; absent: endpoints are given by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Labels>,
    /// First of `clusterIPs`; `None` for a headless Service; empty: to be allocated.
    #[serde(default, rename = "clusterIP", skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<String>,
    /// At most one address of each family.
    #[serde(default, rename = "clusterIPs", skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<String>,
    /// Families in order of preference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_families: Vec<IpFamily>,
    /// `SingleStack`, `PreferDualStack` or `RequireDualStack`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<String>,
    /// Ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    /// `Cluster` or `Local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<String>,
    /// `Cluster` or `Local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<String>,
    /// `None` or `ClientIP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<String>,
    /// Timeout of the affinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<Value>,
    /// Name that an ExternalName Service stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    /// Addresses routed to the nodes by other means.
    #[serde(default, rename = "externalIPs", skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<String>,
    /// Deprecated way to ask for a load balancer address.
    #[serde(default, rename = "loadBalancerIP", skip_serializing_if = "Option::is_none")]
    pub load_balancer_ip: Option<String>,
    /// Clients allowed to use the load balancer address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_source_ranges: Vec<String>,
    /// Who implements the load balancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer_class: Option<String>,
    /// Whether a LoadBalancer gets node ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocate_load_balancer_node_ports: Option<bool>,
    /// Port of the health check under `externalTrafficPolicy: Local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check_node_port: Option<i64>,
    /// Count endpoints that are not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_not_ready_addresses: Option<bool>,
    /// `PreferSameZone`, `PreferSameNode` or `PreferClose`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
}

/// `ServicePort`. Numbers are wide, so that validation names a value out of range instead of a type error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    /// Name; required where there is more than one port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Protocol; `TCP` where absent.
    #[serde(default)]
    pub protocol: Protocol,
    /// A hint for other software.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// The Service's port.
    #[serde(default)]
    pub port: i64,
    /// The pods' port, by number or by name; `port` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<IntOrString>,
    /// Port on every node's addresses; absent or zero: none, or to be allocated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<i64>,
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// A number.
    Int(i64),
    /// A name.
    String(String),
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IntOrString::Int(number) => number.fmt(f),
            IntOrString::String(name) => name.fmt(f),
        }
    }
}

/// Type of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// An address inside the cluster.
    #[default]
    ClusterIP,
    /// And a port on every node.
    NodePort,
    /// And addresses from outside.
    LoadBalancer,
    /// A DNS alias; nothing for the datapath.
    ExternalName,
}

impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ServiceType::ClusterIP => "ClusterIP",
            ServiceType::NodePort => "NodePort",
            ServiceType::LoadBalancer => "LoadBalancer",
            ServiceType::ExternalName => "ExternalName",
        })
    }
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP
    #[default]
    TCP,
    /// UDP
    UDP,
    /// SCTP
    SCTP,
}

impl Protocol {
    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::TCP => lb_common::TCP,
            Protocol::UDP => lb_common::UDP,
            Protocol::SCTP => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Protocol::TCP => "TCP",
            Protocol::UDP => "UDP",
            Protocol::SCTP => "SCTP",
        })
    }
}

/// IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4
    IPv4,
    /// IPv6
    IPv6,
}

impl IpFamily {
    /// The family of `address`.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { IpFamily::IPv4 } else { IpFamily::IPv6 }
    }

    /// IP version, 4 or 6.
    pub const fn version(self) -> u8 {
        match self {
            IpFamily::IPv4 => 4,
            IpFamily::IPv6 => 6,
        }
    }
}

impl Service {
    /// Whether it has no address of its own: its name resolves to its pods.
    pub fn is_headless(&self) -> bool {
        self.spec.cluster_ip.as_deref() == Some(NONE) || self.spec.cluster_ips.iter().any(|ip| ip == NONE)
    }

    /// The port on which load balancers ask whether this node has endpoints for what they would send it (after allocation).
    pub fn health_check_port(&self) -> Option<u16> {
        let spec = &self.spec;
        let is_asked_for =
            spec.r#type == ServiceType::LoadBalancer && spec.external_traffic_policy.as_deref() == Some("Local");
        spec.health_check_node_port.filter(|_| is_asked_for).and_then(|number| u16::try_from(number).ok())
    }

    /// For how many seconds after its last new connection a client keeps its backend, if it does
    /// (`sessionAffinity: ClientIP`).
    pub fn affinity_seconds(&self) -> Option<u32> {
        let is_kept = self.spec.session_affinity.as_deref() == Some("ClientIP");
        let timeout = self.spec.session_affinity_config.as_ref().and_then(|config| {
            let seconds = config.get("clientIP")?.get("timeoutSeconds")?.as_u64()?;
            u32::try_from(seconds).ok()
        });
        is_kept.then(|| timeout.unwrap_or(AFFINITY_SECONDS))
    }

    /// The label by which it is left to another proxy, if it has one.
    pub fn left_to_others_by(&self) -> Option<&'static str> {
        [PROXY_NAME_LABEL, HEADLESS_LABEL].into_iter().find(|label| self.metadata.labels.contains_key(*label))
    }

    /// The addresses that a load balancer has announced and whose packets come to the nodes as they are: those of
    /// `ipMode` VIP, which is the default. What is no address is left out.
    pub fn load_balancer_addresses(&self) -> Vec<IpAddr> {
        if self.spec.r#type != ServiceType::LoadBalancer {
            return Vec::new();
        }
        let ingress = self.status["loadBalancer"]["ingress"].as_array().map(Vec::as_slice).unwrap_or_default();
        let vips = ingress.iter().filter(|entry| entry["ipMode"].as_str().unwrap_or("VIP") == "VIP");
        vips.filter_map(|entry| entry["ip"].as_str()?.parse().ok()).collect()
    }

    /// Its ClusterIPs (after allocation), first the primary one.
    pub fn cluster_addresses(&self) -> Vec<IpAddr> {
        let all = self.spec.cluster_ips.iter().filter_map(|address| address.parse().ok());
        let addresses: Vec<IpAddr> = all.collect();
        if addresses.is_empty() {
            self.spec.cluster_ip.iter().filter_map(|address| address.parse().ok()).collect()
        } else {
            addresses
        }
    }
}
