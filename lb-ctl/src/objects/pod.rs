//! `v1/Pod`, as far as a Service proxy reads it. A `PodSpec` has hundreds of fields that are none of our business, so it is
//! tolerant; what is read is typed.

use super::{Labels, Metadata, POD_IP_ANNOTATION, Probe, Protocol};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The reason of a condition `Ready` that no manifest gave: the pod's node has probed it.
pub const PROBED: &str = "ProbedByLbCtl";
/// The condition by which a pod gets connections.
const READY: &str = "Ready";

/// A Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Metadata.
    #[serde(default)]
    pub metadata: Metadata,
    /// Spec.
    #[serde(default)]
    pub spec: PodSpec,
    /// Status.
    #[serde(default)]
    pub status: PodStatus,
}

/// `PodSpec`, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Its name below the Service that [`Self::subdomain`] names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The Service below whose name it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subdomain: Option<String>,
    /// Shares the node's network: its addresses are the node's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
    /// Containers, for the names of their ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<Container>,
}

/// `Container`, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,
    /// How to find out whether it is ready, where nobody says so in `status.conditions`.
    #[serde(default, rename = "readinessProbe", skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
}

/// `ContainerPort`, as far as it is read. Numbers are wide, so that validation names a value out of range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// The name a Service's `targetPort` may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Port number.
    #[serde(default)]
    pub container_port: i64,
    /// The same port on the node; not read, but checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<i64>,
    /// Protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

/// `PodStatus`, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Its first address.
    #[serde(default, rename = "podIP", skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<IpAddr>,
    /// All its addresses, at most one of each family.
    #[serde(default, rename = "podIPs", skip_serializing_if = "Vec::is_empty")]
    pub pod_ips: Vec<PodIp>,
    /// Conditions; `Ready` is read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// `PodIP`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodIp {
    /// Address.
    pub ip: IpAddr,
}

/// A condition of a Pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// `Ready`, ...
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in a word; [`PROBED`]: a daemon of ours has found it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// And in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Pod {
    /// Its addresses: `status.podIPs`, `status.podIP`, or the annotation [`POD_IP_ANNOTATION`], in this order.
    /// Empty: the pod cannot be an endpoint.
    pub fn addresses(&self) -> Vec<IpAddr> {
        if !self.status.pod_ips.is_empty() {
            return self.status.pod_ips.iter().map(|pod_ip| pod_ip.ip).collect();
        }
        if let Some(address) = self.status.pod_ip {
            return vec![address];
        }
        let annotation = self.metadata.annotations.get(POD_IP_ANNOTATION).map_or("", String::as_str);
        annotation.split(',').filter_map(|address| address.trim().parse().ok()).collect()
    }

    /// Whether it is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether its processes have ended for good.
    pub fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// Ready as the kubelet said in the condition `Ready`. A manifest without conditions is taken at its word: whoever
    /// wrote a pod's address by hand means it to be used.
    pub fn is_ready(&self) -> bool {
        !self.is_finished() && self.ready_condition().is_none_or(|condition| condition.status == "True")
    }

    fn ready_condition(&self) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.r#type == READY)
    }

    /// Whether its manifest says if it is ready, as a kubelet does. What a daemon has found out does not count, though
    /// somebody may have applied what `get -o yaml` told.
    pub fn has_ready_condition(&self) -> bool {
        self.ready_condition().is_some_and(|condition| condition.reason.as_deref() != Some(PROBED))
    }

    /// Why it is not ready, as far as its condition tells.
    pub fn why_not_ready(&self) -> Option<&str> {
        let condition = self.ready_condition().filter(|condition| condition.status != "True")?;
        condition.message.as_deref().or(condition.reason.as_deref()).filter(|text| !text.is_empty())
    }

    /// Makes what was found out its condition `Ready`: that it is, or why not.
    pub fn set_probed(&mut self, state: Result<(), String>) {
        self.status.conditions.retain(|condition| condition.r#type != READY);
        let status = if state.is_ok() { "True" } else { "False" };
        self.status.conditions.push(Condition {
            r#type: READY.to_owned(),
            status: status.to_owned(),
            reason: Some(PROBED.to_owned()),
            message: state.err(),
        });
    }

    /// The number of the container port with this name and protocol.
    pub fn named_port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let ports = self.spec.containers.iter().flat_map(|container| &container.ports);
        let mut named = ports.filter(|port| port.name.as_deref() == Some(name) && port.protocol == protocol);
        named.next().and_then(|port| u16::try_from(port.container_port).ok())
    }

    /// Its labels.
    pub fn labels(&self) -> &Labels {
        &self.metadata.labels
    }
}
