//! What the datapath tells of single flows and packets, as it happens: the lines of `GET /v1/monitor`, and which are asked for.

use super::types::{Failure, FailureReason};
use crate::objects::Key;
use ipnet::IpNet;
use lb_common::Reason;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A line: an event, or how many are missing here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MonitorLine {
    /// Something happened to a flow or a packet.
    Event(Box<EventLine>),
    /// Some events are not shown.
    Missing(MissingLine),
}

/// What kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// A flow was opened.
    New,
    /// A flow has ended, or was silent for too long.
    Closed,
    /// A packet was not served, and its sender was told; or a process's call was refused.
    Rejected,
    /// A packet was dropped in silence.
    Dropped,
}

impl EventType {
    /// Every type.
    pub const ALL: [Self; 4] = [Self::New, Self::Closed, Self::Rejected, Self::Dropped];

    /// The name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Closed => "closed",
            Self::Rejected => "rejected",
            Self::Dropped => "dropped",
        }
    }

    /// Whether it is of a flow that begins or ends, and not of a packet that did not arrive.
    pub const fn is_of_flow(self) -> bool {
        matches!(self, Self::New | Self::Closed)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for EventType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| format!("`{name}` is no type of event: it is new, closed, rejected or dropped"))
    }
}

/// Something happened to a flow or a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventLine {
    /// When (RFC 3339).
    pub time: String,
    /// What.
    pub r#type: EventType,
    /// Why: a reason of `docs/reasons.md`.
    pub reason: String,
    /// Where: `xdp`, `ingress`, `egress`, `socket`, or `timeout` for a flow that was silent for too long.
    pub hook: String,
    /// `TCP`, `UDP`, `SCTP` or a number.
    pub protocol: String,
    /// `address:port` of the client; absent where a process was refused at its socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<SocketAddr>,
    /// `address:port` that was asked for.
    pub frontend: SocketAddr,
    /// `namespace/name:port` of the Service that has it, as far as one does now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `address:port` of the backend, where one was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<SocketAddr>,
    /// `namespace/name` of the pod behind it, as far as one has it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// State of the flow, where there is one, as `conntrack list` shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The packet came from the backend.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_backend: bool,
    /// Index of the interface; zero where there is none.
    pub ifindex: u32,
    /// Bytes of the packet, with its link-layer header; zero where there is none.
    pub bytes: u32,
}

/// How many events are not shown since the last such line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MissingLine {
    /// Not told by the datapath, which tells so many a second; whether they were asked for is not known.
    pub skipped: u64,
    /// Without room in the ring buffer between the datapath and the daemon; whether they were asked for is not known.
    pub lost: u64,
    /// Asked for, but the reader of these lines was too slow.
    pub missed: u64,
}

impl MissingLine {
    /// Whether nothing is missing.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// The query of `GET /v1/monitor`: each part narrows down what is told; lists are separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorQuery {
    /// `namespace/name`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Addresses or networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Names of reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Types of events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
}

/// Which events are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this Service.
    pub service: Option<Key>,
    /// Of clients in one of these networks; none named: all.
    pub clients: Vec<IpNet>,
    /// Of one of these backends; none named: all, and what has none.
    pub backends: Vec<IpAddr>,
    /// For one of these reasons; none named: all.
    pub reasons: Vec<Reason>,
    /// Of these types; none named: all.
    pub types: Vec<EventType>,
}

impl Filter {
    /// Whether flows that begin and end can be among them.
    pub fn wants_flows(&self) -> bool {
        self.types.is_empty() || self.types.iter().any(|kind| kind.is_of_flow())
    }

    /// Whether an event is asked for, by what needs no names.
    pub fn admits(&self, line: &EventLine) -> bool {
        let client = |network: &IpNet| line.client.is_some_and(|client| network.contains(&client.ip()));
        let backend = |address: &IpAddr| line.backend.is_some_and(|backend| backend.ip() == *address);
        let service = |key: &Key| line.service.as_deref().is_some_and(|service| is_port_of(service, key));
        (self.clients.is_empty() || self.clients.iter().any(client))
            && (self.backends.is_empty() || self.backends.iter().any(backend))
            && self.service.as_ref().is_none_or(service)
            && (self.reasons.is_empty() || self.reasons.iter().any(|reason| reason.name() == line.reason))
            && (self.types.is_empty() || self.types.contains(&line.r#type))
    }
}

/// Whether `namespace/name` or `namespace/name:port` is `key`, or a port of it.
pub(crate) fn is_port_of(service: &str, key: &Key) -> bool {
    let name = service.split_once(':').map_or(service, |(name, _)| name);
    name.split_once('/') == Some((&key.namespace, &key.name))
}

impl TryFrom<MonitorQuery> for Filter {
    type Error = Failure;

    fn try_from(query: MonitorQuery) -> Result<Self, Failure> {
        Ok(Self {
            service: query.service.as_deref().map(service).transpose().map_err(refused)?,
            clients: list(query.client.as_deref(), network).map_err(refused)?,
            backends: list(query.backend.as_deref(), address).map_err(refused)?,
            reasons: list(query.reason.as_deref(), reason).map_err(refused)?,
            types: list(query.r#type.as_deref(), str::parse).map_err(refused)?,
        })
    }
}

/// The refusal of a query.
pub(super) fn refused(message: String) -> Failure {
    Failure::new(FailureReason::BadRequest, message)
}

fn list<T>(text: Option<&str>, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.into_iter().flat_map(|text| text.split(',')).map(parse).collect()
}

/// Reads `namespace/name`, or the name of a Service in the namespace `default`.
pub fn service(text: &str) -> Result<Key, String> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err(format!("`{text}` is no Service: write NAMESPACE/NAME"));
    }
    Ok(Key::new(namespace, name))
}

/// Reads an address or a network.
pub fn network(text: &str) -> Result<IpNet, String> {
    let parsed = text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse::<IpNet>());
    parsed.map_err(|_| format!("`{text}` is neither an address nor a network: write 192.0.2.1 or 192.0.2.0/24"))
}

/// Reads an address.
pub fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is no address"))
}

/// Reads the name of a reason.
pub fn reason(name: &str) -> Result<Reason, String> {
    let found = Reason::ALL.iter().find(|reason| reason.name() == name);
    found.copied().ok_or_else(|| format!("there is no reason `{name}`: docs/reasons.md names them all"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> EventLine {
        EventLine {
            time: "2024-02-01T00:00:00Z".to_owned(),
            r#type: EventType::Rejected,
            reason: "no-backend".to_owned(),
            hook: "ingress".to_owned(),
            protocol: "TCP".to_owned(),
            client: Some("192.0.2.1:40000".parse().unwrap()),
            frontend: "10.96.0.1:80".parse().unwrap(),
            service: Some("shop/web:http".to_owned()),
            backend: Some("10.244.0.5:8080".parse().unwrap()),
            pod: None,
            state: None,
            from_backend: false,
            ifindex: 2,
            bytes: 74,
        }
    }

    #[test]
    fn each_part_of_a_filter_narrows_down() {
        let query = |field: &str, value: &str| {
            let query = serde_json::json!({ field: value });
            Filter::try_from(serde_json::from_value::<MonitorQuery>(query).unwrap()).unwrap()
        };
        assert!(Filter::default().admits(&line()));
        for (field, fits, does_not) in [
            ("service", "shop/web", "shop/we"),
            ("client", "192.0.2.0/24", "192.0.2.2"),
            ("backend", "10.244.0.5", "10.244.0.6"),
            ("reason", "not-ours,no-backend", "no-route"),
            ("type", "new,rejected", "new,closed"),
        ] {
            assert!(query(field, fits).admits(&line()), "{field}={fits}");
            assert!(!query(field, does_not).admits(&line()), "{field}={does_not}");
        }
        assert!(query("type", "closed").wants_flows() && !query("type", "dropped,rejected").wants_flows());
    }

    #[test]
    fn what_is_no_filter_is_named() {
        for (field, value, expected) in [
            ("service", "shop/", "write NAMESPACE/NAME"),
            ("client", "nobody", "neither an address nor a network"),
            ("backend", "10.0.0.0/8", "is no address"),
            ("reason", "no-luck", "there is no reason `no-luck`"),
            ("type", "lost", "no type of event"),
        ] {
            let query: MonitorQuery = serde_json::from_value(serde_json::json!({ field: value })).unwrap();
            let failure = Filter::try_from(query).unwrap_err();
            assert_eq!(failure.reason, FailureReason::BadRequest);
            assert!(failure.message.contains(expected), "{field}={value}: {failure}");
        }
    }

    #[test]
    fn lines_are_told_apart_by_their_fields() {
        let missing = MonitorLine::Missing(MissingLine { skipped: 1, ..MissingLine::default() });
        for line in [MonitorLine::Event(Box::new(line())), missing] {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<MonitorLine>(&text).unwrap(), line, "{text}");
        }
    }
}
