//! The node and the cluster that a case describes, and the daemon's settings for them.

use crate::schema::NodeState;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::json;
use serde_yaml::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// An environment: of the file, the case and the step, one over the other.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// The node that packets come to.
    pub this_node: String,
    /// All nodes.
    pub nodes: BTreeMap<String, Node>,
    /// Networks of ClusterIPs.
    #[serde(default)]
    pub service_cidrs: Vec<IpNet>,
    /// Networks of all pods.
    #[serde(default)]
    pub cluster_pod_cidrs: Vec<IpNet>,
    /// How a pod's address is told from one outside.
    #[serde(default)]
    pub local_detect: LocalDetect,
    /// The node's addresses that serve node ports.
    #[serde(default)]
    pub nodeport_addresses: NodePortAddresses,
    /// Whether the source of every connection is rewritten.
    #[serde(default)]
    pub masquerade_all: bool,
    /// Whether node ports are served on loopback addresses.
    #[serde(default)]
    pub localhost_nodeports: bool,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// All its addresses.
    pub ips: Vec<IpAddr>,
    /// Those by which other nodes know it.
    pub primary_ips: Vec<IpAddr>,
    /// Networks of its pods.
    #[serde(default)]
    pub pod_cidrs: Vec<IpNet>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// How a pod's address is told from one outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocalDetect {
    /// It is of the cluster's pod networks.
    #[default]
    ClusterCidr,
    /// It is of this node's pod networks.
    NodeCidr,
    /// Not at all.
    None,
}

/// The node's addresses that serve node ports.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum NodePortAddresses {
    /// By a word.
    Named(NamedAddresses),
    /// Those in these networks.
    In(Vec<IpNet>),
}

impl Default for NodePortAddresses {
    fn default() -> Self {
        Self::Named(NamedAddresses::Primary)
    }
}

/// Addresses that have a name together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamedAddresses {
    /// Those by which other nodes know it.
    Primary,
    /// All of them.
    All,
}

impl Environment {
    /// The environment that these parts say together, later ones over earlier ones.
    pub fn of(parts: [&Value; 3]) -> anyhow::Result<Self> {
        let whole = parts.into_iter().fold(Value::Null, merge);
        let environment: Self = serde_yaml::from_value(whole)?;
        anyhow::ensure!(environment.nodes.contains_key(&environment.this_node), "`this_node` is not among the `nodes`");
        Ok(environment)
    }

    /// The node that packets come to.
    pub fn this_node(&self) -> &Node {
        &self.nodes[&self.this_node]
    }

    /// The manifests of the nodes; `state` is this one's.
    pub fn manifests(&self, state: &NodeState) -> Vec<serde_json::Value> {
        let manifest = |(name, node): (&String, &Node)| {
            let addresses: Vec<_> =
                node.primary_ips.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
            let mut manifest = json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": node.labels},
                "spec": {"podCIDR": node.pod_cidrs.first(), "podCIDRs": node.pod_cidrs},
                "status": {"addresses": addresses},
            });
            if *name == self.this_node {
                let taint = |key: &String| json!({"key": key, "effect": "NoSchedule"});
                manifest["spec"]["taints"] = state.taints.iter().map(taint).collect();
                if state.is_deleted {
                    manifest["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                }
            }
            manifest
        };
        self.nodes.iter().map(manifest).collect()
    }
}

/// `over` over `under`: maps field by field, but `labels` and everything else whole.
fn merge(under: Value, over: &Value) -> Value {
    match (under, over) {
        (under, Value::Null) => under,
        (Value::Mapping(mut under), Value::Mapping(over)) => {
            for (name, value) in over {
                let merged = match under.remove(name) {
                    Some(before) if name.as_str() != Some("labels") => merge(before, value),
                    _ => value.clone(),
                };
                under.insert(name.clone(), merged);
            }
            Value::Mapping(under)
        }
        (_, over) => over.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(parts: [&str; 2]) -> Value {
        parts.iter().fold(Value::Null, |whole, part| merge(whole, &serde_yaml::from_str(part).unwrap()))
    }

    #[test]
    fn maps_merge_and_lists_and_labels_replace() {
        let whole = merged(["a: {b: 1, c: [1, 2], labels: {x: y}}", "a: {c: [3], d: 4, labels: {z: w}}"]);
        assert_eq!(whole, serde_yaml::from_str::<Value>("a: {b: 1, c: [3], d: 4, labels: {z: w}}").unwrap());
        assert_eq!(merged(["a: 1", "~"]), serde_yaml::from_str::<Value>("a: 1").unwrap());
    }
}
