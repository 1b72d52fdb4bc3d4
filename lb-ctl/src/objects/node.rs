//! `v1/Node`: addresses, pod CIDRs, and whether it is to go.

use super::Metadata;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Key of the taint that the cluster's autoscaler gives to a Node before it removes it.
pub const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Metadata.
    #[serde(default)]
    pub metadata: Metadata,
    /// Spec.
    #[serde(default)]
    pub spec: NodeSpec,
    /// Status.
    #[serde(default)]
    pub status: NodeStatus,
}

/// The label that names the zone a node is in.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// `NodeSpec`, tolerant: a Node is written by many controllers and only these fields are read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// The first of `podCIDRs`.
    #[serde(default, rename = "podCIDR", skip_serializing_if = "Option::is_none")]
    pub pod_cidr: Option<IpNet>,
    /// Addresses of the pods on this node.
    #[serde(default, rename = "podCIDRs", skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<IpNet>,
    /// What keeps pods away from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
}

/// `Taint`, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taint {
    /// Its key.
    pub key: String,
}

impl Node {
    /// Whether it is to go: it is being deleted, or the cluster's autoscaler has chosen it. No new connections should come
    /// to it from load balancers.
    pub fn is_leaving(&self) -> bool {
        let is_chosen = self.spec.taints.iter().any(|taint| taint.key == TO_BE_DELETED_TAINT);
        is_chosen || self.metadata.deletion_timestamp.is_some()
    }
}

/// `NodeStatus`, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Addresses of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<NodeAddress>,
}

/// `NodeAddress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, ...
    pub r#type: String,
    /// An address or a name, by type.
    pub address: String,
}
