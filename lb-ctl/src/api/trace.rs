//! What would become of a packet: the answer to `POST /v1/trace`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// A packet that is to be traced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TraceRequest {
    /// Its source; the port is of no meaning in ICMP.
    pub from: SocketAddr,
    /// Its destination.
    pub to: SocketAddr,
    /// What it is.
    pub protocol: TraceProtocol,
    /// TCP flags by their names; empty: SYN.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// The interface that it comes in by; absent: the one that the node's routes lead to its source by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// What a traced packet can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceProtocol {
    /// A segment of the flags given.
    TCP,
    /// A datagram without content.
    UDP,
    /// An INIT.
    SCTP,
    /// An echo request, of either version.
    ICMP,
}

impl fmt::Display for TraceProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TCP => "TCP",
            Self::UDP => "UDP",
            Self::SCTP => "SCTP",
            Self::ICMP => "ICMP",
        })
    }
}

/// What would become of the packet, and why. Nothing is changed by asking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceAnswer {
    /// The packet, in words.
    pub packet: String,
    /// What to know of how it was traced.
    pub notes: Vec<String>,
    /// The hooks that it met, in order.
    pub hooks: Vec<TracedHook>,
    /// Whether it is forwarded, delivered or answered as its sender expects.
    pub forwarded: bool,
    /// Name of the reason of its fate.
    pub reason: String,
    /// What that means.
    pub sentence: String,
    /// What can be done; empty where nothing is wrong.
    pub remedy: String,
    /// The backend that it goes to, where it goes to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<SocketAddr>,
    /// The frame as it came, in hexadecimal.
    pub frame_in: String,
    /// The frame as it left; of one that is dropped what it was then.
    pub frame_out: String,
}

/// One hook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TracedHook {
    /// `XDP`, `TCX ingress` or `TCX egress`.
    pub hook: String,
    /// The interface.
    pub interface: String,
    /// The tag of the program that was run, in hexadecimal.
    pub program: String,
    /// What the program told, in order.
    pub steps: Vec<TracedStep>,
    /// Name of the reason of its verdict.
    pub reason: String,
}

/// One step, as the program told it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TracedStep {
    /// What it is about, in a word.
    pub step: String,
    /// What it says.
    pub says: String,
    /// Of a pick: what could have been picked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
}

/// A backend that could have been picked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// The pod, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// How many places of the set are its.
    pub places: u32,
    /// Its share of new connections, from 0 to 1.
    pub odds: f64,
    /// Whether it was picked.
    pub picked: bool,
}
