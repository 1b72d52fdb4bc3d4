//! What a change would do: the answer to `POST /v1/plan`.

use super::types::Applied;
use serde::{Deserialize, Serialize};

/// What would change, and what that would mean for live connections. Nothing is changed by asking.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanAnswer {
    /// What would become of the objects, in the order of the manifests.
    pub objects: Vec<Applied>,
    /// Objects of kinds that are not read.
    pub skipped: Vec<String>,
    /// Writes to the maps.
    pub writes: usize,
    /// Services that would come, go, or work in another way on this node.
    pub services: Vec<ServicePlan>,
    /// What would become of each map.
    pub maps: Vec<MapPlan>,
    /// What would become of the connections of `services`.
    pub connections: ConnectionPlan,
    /// What is likely not meant, and what would not be served.
    pub warnings: Vec<String>,
}

/// What would become of one Service on this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePlan {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it comes, goes or changes.
    pub change: ServiceChange,
    /// Addresses and ports on which clients reach it.
    pub frontends: Count,
    /// Addresses and ports that new connections go to.
    pub endpoints: Count,
    /// The largest share among its ports, from 0 to 1, of new connections that go elsewhere than before; absent where no port
    /// has endpoints both before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots_moved: Option<f64>,
    /// Its connections.
    pub connections: ConnectionPlan,
}

/// What becomes of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceChange {
    /// It was not there before.
    Added,
    /// It works in another way.
    Changed,
    /// It is there no more.
    Removed,
}

impl ServiceChange {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            ServiceChange::Added => "added",
            ServiceChange::Changed => "changed",
            ServiceChange::Removed => "removed",
        }
    }
}

/// How many before and after, and how many of them are not the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Before.
    pub before: usize,
    /// After.
    pub after: usize,
    /// After, and not before.
    pub added: usize,
    /// Before, and not after.
    pub removed: usize,
}

/// What becomes of live connections, counted in the flow tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionPlan {
    /// All there are now.
    pub total: u64,
    /// Go to another backend with their next packet: UDP, whose backend is withdrawn while the Service has others.
    pub moving: u64,
    /// Go on with a backend that is withdrawn until they end: TCP and SCTP, and UDP of a port that is gone.
    pub lingering: u64,
    /// End: UDP, whose backend is withdrawn and the Service has no other.
    pub ending: u64,
}

impl ConnectionPlan {
    /// Adds the counts of another.
    pub const fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.moving += other.moving;
        self.lingering += other.lingering;
        self.ending += other.ending;
    }
}

/// What becomes of one map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapPlan {
    /// Name of the map.
    pub name: String,
    /// Keys that come.
    pub added: usize,
    /// Keys that get another value.
    pub changed: usize,
    /// Keys that go.
    pub removed: usize,
    /// Entries before.
    pub entries_before: usize,
    /// Entries after.
    pub entries_after: usize,
    /// Entries that fit.
    pub capacity: u64,
    /// Bytes of keys and values before.
    pub bytes_before: usize,
    /// Bytes of keys and values after.
    pub bytes_after: usize,
}

impl PlanAnswer {
    /// Whether anything would change, in the maps or among the objects.
    pub fn is_change(&self) -> bool {
        self.writes > 0 || self.objects.iter().any(|applied| applied.outcome != super::Outcome::Unchanged)
    }
}
