//! An endpoint: one address and port behind a service port, and where it was learned from.

use crate::objects::{DEFAULT_WEIGHT, IpFamily, ObjectId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

/// Which objects gave a Service its endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointSource {
    /// EndpointSlices labelled with the Service's name; they win over Pods.
    Slices,
    /// Pods that match the selector.
    Pods,
    /// Nothing.
    #[default]
    None,
}

/// One endpoint of a service port. Endpoints that get no connections are listed too, for people to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "conditions as the API has them, and what follows from each")]
pub struct EndpointView {
    /// Address.
    pub address: IpAddr,
    /// Port on that address.
    pub port: u16,
    /// Whether it is ready for new connections.
    pub ready: bool,
    /// Whether it still answers, ready or terminating.
    pub serving: bool,
    /// Whether it is about to go.
    pub terminating: bool,
    /// Its share of new connections, against the others' weights; 0: it gets none.
    #[serde(default = "default_weight", skip_serializing_if = "is_default_weight")]
    pub weight: u8,
    /// The node it is on, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether that is this node. `None`: nobody said; the node's routes tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<bool>,
    /// Zones whose clients should use it, as hints say; empty: no hint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Nodes whose clients should use it, as hints say; empty: no hint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Whether new connections go here that may go to any node.
    pub chosen: bool,
    /// Whether new connections go here that must stay on this node.
    pub chosen_here: bool,
    /// The Pod or the EndpointSlice that names it.
    pub source: ObjectId,
    /// Name of the pod behind it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

impl EndpointView {
    /// The family of its address.
    pub fn family(&self) -> IpFamily {
        IpFamily::of(self.address)
    }
}

const fn default_weight() -> u8 {
    DEFAULT_WEIGHT
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
const fn is_default_weight(weight: &u8) -> bool {
    *weight == DEFAULT_WEIGHT
}

/// The endpoints of one service port: each address and port once.
///
/// Of two that say the same address and port the ready one counts, else the first.
#[derive(Debug, Default)]
pub(super) struct EndpointSet(BTreeMap<(IpAddr, u16), EndpointView>);

impl EndpointSet {
    pub(super) fn insert(&mut self, endpoint: EndpointView) {
        match self.0.entry((endpoint.address, endpoint.port)) {
            Entry::Vacant(vacant) => drop(vacant.insert(endpoint)),
            Entry::Occupied(mut occupied) if endpoint.ready && !occupied.get().ready => {
                occupied.insert(endpoint);
            }
            Entry::Occupied(_) => {}
        }
    }

    /// In order of address and port.
    pub(super) fn into_endpoints(self) -> Vec<EndpointView> {
        self.0.into_values().collect()
    }
}

/// What the objects say about the endpoints of a Service.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Where they come from.
    pub(super) source: EndpointSource,
    /// One list for each port of the Service, in the order of its ports.
    pub(super) ports: Vec<Vec<EndpointView>>,
    /// What a person should know.
    pub(super) problems: Vec<String>,
}
