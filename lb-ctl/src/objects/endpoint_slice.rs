//! `discovery.k8s.io/v1/EndpointSlice`.

use super::{HEADLESS_LABEL, Labels, Metadata, PROXY_NAME_LABEL, Protocol};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The label that names the Service a slice belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// An EndpointSlice, strict: every field of the API is named here, and any other is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSlice {
    /// As in the manifest; checked by the parser.
    #[serde(default)]
    pub api_version: String,
    /// As in the manifest; checked by the parser.
    #[serde(default)]
    pub kind: String,
    /// Metadata.
    #[serde(default)]
    pub metadata: Metadata,
    /// What the addresses are.
    pub address_type: AddressType,
    /// Endpoints.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Ports, the same for all endpoints of the slice.
    #[serde(default)]
    pub ports: Vec<EndpointPort>,
}

impl EndpointSlice {
    /// Whether a label leaves it to another proxy, as kube-proxy has it.
    pub fn is_left_to_others(&self) -> bool {
        [PROXY_NAME_LABEL, HEADLESS_LABEL].iter().any(|label| self.metadata.labels.contains_key(*label))
    }
}

/// Type of a slice's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressType {
    /// IPv4 addresses.
    IPv4,
    /// IPv6 addresses.
    IPv6,
    /// Names; not used by Service proxies.
    FQDN,
}

/// An endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Addresses that are fungible: only the first is used, as in kube-proxy.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Conditions.
    #[serde(default)]
    pub conditions: EndpointConditions,
    /// Name in DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The node it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The zone it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Which zones and nodes should use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hints: Option<Box<Value>>,
    /// The object behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<Box<Value>>,
    /// Deprecated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated_topology: Option<Labels>,
}

impl Endpoint {
    /// The names in one list of its hints: `forZones` or `forNodes`.
    pub fn hints_for(&self, list: &str) -> Vec<String> {
        let hints = self.hints.as_ref().and_then(|hints| hints.get(list)?.as_array());
        let names = hints.into_iter().flatten().filter_map(|hint| hint.get("name")?.as_str());
        names.map(str::to_owned).collect()
    }
}

/// Conditions of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConditions {
    /// Absent means true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Absent means the same as `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// Absent means false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// A port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointPort {
    /// Name of the Service port it serves; absent or empty for an unnamed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Port number; absent: all ports (not used by Service proxies).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// Protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// A hint for other software.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}
