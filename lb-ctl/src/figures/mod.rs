//! Figures: what can be counted and measured of the daemon and its datapath, in one snapshot.
//!
//! [`Figures`] is what `lb-ctl top` reads over the control API and what Prometheus scrapes as text ([`exposition`], by the
//! names in [`metrics`]). The engine says what is counted under which name ([`Names`]); the maps are read beside it
//! ([`Tally`]), so that a scrape holds up no change. What takes a walk through a table is not walked for here: the sweeper
//! counts as it goes.
//!
//! Invariant: a counter never goes down while the daemon runs, also when a Service loses one of its addresses.

pub mod bound;
pub mod exposition;
pub mod histogram;
pub mod metrics;
pub mod names;
pub mod process;
pub mod tally;

pub use bound::Detail;
pub use histogram::Histogram;
pub use names::Names;
pub use process::ProcessFigures;
pub use tally::{Counted, Tally};

use crate::api::description::Counters;
use crate::api::{DnsCounters, MapFill};
use crate::objects::Protocol;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// See the [module](self). Counters begin anew with the daemon, but those of the maps with the maps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Version of the daemon.
    pub version: String,
    /// What its maps look like: the hashes of the layouts of configuration maps and flow tables. Daemons with the same ones
    /// adopt each other's maps.
    pub layout: String,
    /// Instance.
    pub instance: String,
    /// This node's name.
    pub node: String,
    /// Milliseconds since the daemon started: what rates are made with.
    pub uptime_ms: u64,
    /// Whether every source has been read, the maps hold the image, and every named interface that exists is attached.
    pub ready: bool,
    /// For how many seconds the oldest change has waited to be in the maps; 0: none waits.
    pub waiting_seconds: f64,
    /// What an operator should look at, as many as `lb-ctl status` lists.
    pub problems: u64,
    /// Sources of objects: the CLI, and the directory as a whole.
    pub sources: Vec<SourceFigures>,
    /// How many objects of each kind are known, by plural.
    pub objects: Vec<(String, u64)>,
    /// Named interfaces with hooks, and those that are waited for.
    pub interfaces: Interfaces,
    /// Every port of every Service that is served here.
    pub services: Vec<ServiceFigures>,
    /// Every endpoint's address.
    pub backends: Vec<BackendFigures>,
    /// Verdicts, every reason there is, in order of its number.
    pub reasons: Vec<ReasonFigures>,
    /// How full the maps are. Those that packets write were counted by the sweeper on its last round.
    pub maps: Vec<MapFill>,
    /// Entries of flows that do not keep their places, by map.
    pub evictable: Vec<(String, u64)>,
    /// Entries that left an LRU map before their time, by map: an estimate, made from a sample each second.
    pub evictions: Vec<(String, u64)>,
    /// Lent source addresses.
    pub lent: Vec<LentFigures>,
    /// From the moment a change was taken to the moment the maps had it, in seconds.
    pub changes: Histogram,
    /// Writes to the configuration maps.
    pub map_writes: u64,
    /// Rounds in which the maps could not be brought up to date, and were tried again.
    pub failed_rounds: u64,
    /// The DNS server; absent: it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsCounters>,
    /// Readiness probes from here.
    pub probes: ProbeFigures,
    /// The daemon's process.
    pub process: ProcessFigures,
}

/// One source of objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFigures {
    /// `cli` or `directory`.
    pub name: String,
    /// Whether it has been read in full at least once.
    pub synced: bool,
    /// Errors in what it gave last: what was good before still counts.
    pub errors: u64,
}

/// How many interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interfaces {
    /// With hooks.
    pub attached: u64,
    /// Named, and without hooks.
    pub missing: u64,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFigures {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub service: String,
    /// Name of the port, or its number where it has none.
    pub port: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Endpoints.
    pub endpoints: Endpoints,
    /// What passed through it, on all its addresses together.
    #[serde(flatten)]
    pub traffic: Counters,
}

/// Endpoints of one port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Those that new connections go to.
    pub used: u64,
    /// The others: not ready, terminating, or left out by hints.
    pub unused: u64,
    /// Their addresses, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// One endpoint's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendFigures {
    /// Address.
    pub address: IpAddr,
    /// Namespace and name of the pod behind it; empty: not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// What this node sent there and got back, by all Services and ports together.
    #[serde(flatten)]
    pub traffic: Counters,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonFigures {
    /// The stable name of the [`lb_common::Reason`].
    pub reason: String,
    /// Whether the packets were dropped.
    pub drop: bool,
    /// Packets.
    pub packets: u64,
    /// Bytes, with link-layer headers.
    pub bytes: u64,
}

/// One address that is lent to connections that need source translation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LentFigures {
    /// Address.
    pub address: IpAddr,
    /// Ports that can be lent towards each backend port.
    pub ports: u64,
    /// Ports that live connections hold towards the backend port to which most are lent.
    pub used: u64,
    /// That backend port and its protocol; absent: nothing is lent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fullest: Option<(SocketAddr, String)>,
}

/// Readiness probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeFigures {
    /// Attempts that succeeded.
    pub succeeded: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Pods that are probed and ready.
    pub ready: u64,
    /// Pods that are probed and not ready.
    pub not_ready: u64,
}
