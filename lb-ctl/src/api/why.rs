//! What did not arrive lately, and why: the answer to `GET /v1/why`.

use super::monitor::{network, refused, service};
use super::types::Failure;
use crate::objects::Key;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How far back is remembered.
pub const MEMORY: Duration = Duration::from_hours(1);

/// The query of `GET /v1/why`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhyQuery {
    /// `namespace/name`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// An address or a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// How many seconds back; an hour where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Of this Service alone.
    pub service: Option<Key>,
    /// Of clients in this network alone.
    pub client: Option<IpNet>,
    /// How far back.
    pub since: Duration,
}

impl Question {
    /// Whether it is about everything that did not arrive.
    pub const fn is_about_all(&self) -> bool {
        self.service.is_none() && self.client.is_none()
    }
}

impl TryFrom<WhyQuery> for Question {
    type Error = Failure;

    fn try_from(query: WhyQuery) -> Result<Self, Failure> {
        Ok(Self {
            service: query.service.as_deref().map(service).transpose().map_err(refused)?,
            client: query.client.as_deref().map(network).transpose().map_err(refused)?,
            since: query.since.map_or(MEMORY, Duration::from_secs).min(MEMORY),
        })
    }
}

/// What did not arrive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyAnswer {
    /// How far back was looked, in seconds.
    pub since_seconds: u64,
    /// By reason, first what happened most.
    pub reasons: Vec<WhyReason>,
}

/// What did not arrive for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyReason {
    /// Its name.
    pub reason: String,
    /// What happened.
    pub sentence: String,
    /// What to do about it; empty where nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    /// Packets (and calls of processes) by the datapath's counters, of all Services and clients.
    pub packets: u64,
    /// How many of those that are asked for were seen one by one.
    pub seen: u64,
    /// How many were seen that are not in the groups: there are too many clients and places to tell all apart.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_told_apart: u64,
    /// When the last one was seen (RFC 3339).
    pub last: String,
    /// Where to, first what happened most.
    pub groups: Vec<WhyGroup>,
}

/// What did not arrive at one place for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyGroup {
    /// `namespace/name:port` of the Service, or `namespace/name` where only the address is one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What was asked for.
    pub frontend: SocketAddr,
    /// `TCP`, `UDP`, `SCTP` or a number.
    pub protocol: String,
    /// How many were seen.
    pub seen: u64,
    /// When the last one was seen (RFC 3339).
    pub last: String,
    /// Some of the clients, first those with the most.
    pub clients: Vec<WhyClient>,
    /// How many clients there are beside those.
    pub more_clients: u64,
    /// Commands that tell more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
}

/// A client whose packets did not arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyClient {
    /// Its address; absent: a process of this machine, at its socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// How many were seen.
    pub seen: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde wants")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}
