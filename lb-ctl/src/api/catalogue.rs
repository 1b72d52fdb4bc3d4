//! What `GET /v1/{resource}` reads: the objects as they are now, and the Endpoints made of them.

use super::endpoints::endpoints;
use super::types::{Event, EventKind};
use crate::model::Views;
use crate::objects::{Key, Kind, Metadata, Object, Objects, Protocol, Table, differences};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// What can be read and watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Objects of a kind.
    Kind(Kind),
    /// Endpoints of Services, by port: made from pods or slices, never applied.
    Endpoints,
}

impl Resource {
    /// Every resource.
    pub const ALL: [Resource; 6] = [
        Resource::Kind(Kind::Pod),
        Resource::Kind(Kind::Service),
        Resource::Endpoints,
        Resource::Kind(Kind::EndpointSlice),
        Resource::Kind(Kind::Node),
        Resource::Kind(Kind::Namespace),
    ];

    /// The names a user may give it, first the one in paths.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Resource::Kind(Kind::Service) => &["services", "service", "svc"],
            Resource::Kind(Kind::Pod) => &["pods", "pod", "po"],
            Resource::Kind(Kind::Node) => &["nodes", "node", "no"],
            Resource::Kind(Kind::Namespace) => &["namespaces", "namespace", "ns"],
            Resource::Kind(Kind::EndpointSlice) => {
                &["endpointslices", "endpointslice", "endpointslices.discovery.k8s.io", "eps"]
            }
            Resource::Endpoints => &["endpoints", "ep"],
        }
    }

    /// The name in paths: its plural.
    pub const fn plural(self) -> &'static str {
        self.names()[0]
    }

    /// The name in messages: its plural with its group.
    pub const fn qualified(self) -> &'static str {
        match self {
            Resource::Kind(kind) => super::types::plural(kind),
            Resource::Endpoints => "endpoints",
        }
    }

    /// As kubectl writes it in `service/web`.
    pub const fn singular(self) -> &'static str {
        match self {
            Resource::Kind(kind) => kind.resource(),
            Resource::Endpoints => "endpoints",
        }
    }

    /// Whether it lives in a namespace.
    pub const fn is_namespaced(self) -> bool {
        match self {
            Resource::Kind(kind) => kind.is_namespaced(),
            Resource::Endpoints => true,
        }
    }
}

impl From<Kind> for Resource {
    fn from(kind: Kind) -> Self {
        Resource::Kind(kind)
    }
}

/// No resource has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no resource type \"{0}\": it is services, pods, endpoints, endpointslices, nodes or namespaces")]
pub struct UnknownResource(pub String);

impl FromStr for Resource {
    type Err = UnknownResource;

    fn from_str(name: &str) -> Result<Self, UnknownResource> {
        let lower = name.to_ascii_lowercase();
        let found = Self::ALL.into_iter().find(|resource| resource.names().contains(&lower.as_str()));
        found.ok_or_else(|| UnknownResource(name.to_owned()))
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural())
    }
}

/// `v1/Endpoints`, as far as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Endpoints {
    /// That of its Service.
    pub metadata: Metadata,
    /// Addresses with the same ports.
    #[serde(default)]
    pub subsets: Vec<Subset>,
}

/// Addresses with the same port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subset {
    /// Ready ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<SubsetAddress>,
    /// The others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ready_addresses: Vec<SubsetAddress>,
    /// Ports.
    pub ports: Vec<SubsetPort>,
}

/// An address of a [`Subset`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubsetAddress {
    /// Address.
    pub ip: IpAddr,
    /// The node it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The Pod behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// Why it is not ready, where that is known. Kubernetes has no such field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not_ready: Option<String>,
}

/// What an address belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRef {
    /// `Pod`
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
}

/// A port of a [`Subset`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubsetPort {
    /// Name of the Service's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Number.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// All that can be listed, at one moment. Cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    /// The objects.
    pub objects: Objects,
    /// What they mean on this node.
    pub services: Views,
}

/// Which part of a [`Catalogue`] is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Which resource.
    pub resource: Resource,
    /// Which namespace; `None`: all.
    pub namespace: Option<String>,
    /// Which name; `None`: all.
    pub name: Option<String>,
}

impl Selection {
    fn includes(&self, key: &Key) -> bool {
        let namespace_fits = !self.resource.is_namespaced()
            || self.namespace.as_deref().is_none_or(|namespace| key.namespace == namespace);
        namespace_fits && self.name.as_deref().is_none_or(|name| key.name == name)
    }
}

impl Catalogue {
    /// What `selection` names, as Kubernetes writes it, ordered by namespace and name.
    pub fn items(&self, selection: &Selection) -> Vec<Value> {
        self.events_since(&Self::default(), selection).into_iter().map(|event| event.object).collect()
    }

    /// What happened to what `selection` names since `old`; what is gone comes first.
    pub fn events_since(&self, old: &Self, selection: &Selection) -> Vec<Event> {
        let (old, old_services) = (&old.objects, &old.services);
        let now = &self.objects;
        match selection.resource {
            Resource::Endpoints => events(old_services, &self.services, selection, |service| {
                manifest("v1", "Endpoints", &endpoints(service))
            }),
            Resource::Kind(kind) => {
                fn whole<T: Serialize>(kind: Kind) -> impl Fn(&T) -> Value {
                    move |object| manifest(kind.api_version(), kind.name(), object)
                }
                match kind {
                    Kind::Namespace => events(&old.namespaces, &now.namespaces, selection, whole(kind)),
                    Kind::Node => events(&old.nodes, &now.nodes, selection, whole(kind)),
                    Kind::Service => events(&old.services, &now.services, selection, whole(kind)),
                    Kind::Pod => events(&old.pods, &now.pods, selection, whole(kind)),
                    Kind::EndpointSlice => events(&old.endpoint_slices, &now.endpoint_slices, selection, whole(kind)),
                }
            }
        }
    }
}

fn events<T: Eq>(before: &Table<T>, now: &Table<T>, selection: &Selection, show: impl Fn(&T) -> Value) -> Vec<Event> {
    let (mut gone, mut others) = (Vec::new(), Vec::new());
    for (_, old, new) in differences(before, now).filter(|(key, ..)| selection.includes(key)) {
        match (old.map(|old| show(old)), new.map(|new| show(new))) {
            (Some(object), None) => gone.push(Event { kind: EventKind::Deleted, object }),
            (None, Some(object)) => others.push(Event { kind: EventKind::Added, object }),
            (Some(old), Some(object)) if old != object => others.push(Event { kind: EventKind::Modified, object }),
            _ => {}
        }
    }
    gone.extend(others);
    gone
}

/// An object as a manifest.
pub fn whole(object: &Object) -> Value {
    let kind = object.kind();
    manifest(kind.api_version(), kind.name(), object)
}

/// A manifest as kubectl prints it: `apiVersion` and `kind` first, no empty parts.
fn manifest(api_version: &str, kind: &str, body: &impl Serialize) -> Value {
    let mut whole = Map::new();
    whole.insert("apiVersion".to_owned(), api_version.into());
    whole.insert("kind".to_owned(), kind.into());
    if let Ok(Value::Object(fields)) = serde_json::to_value(body) {
        let is_empty = |value: &Value| value.is_null() || value.as_object().is_some_and(Map::is_empty);
        let kept = fields.into_iter().filter(|(name, value)| {
            !matches!(name.as_str(), "apiVersion" | "kind") && (name == "metadata" || !is_empty(value))
        });
        whole.extend(kept);
    }
    Value::Object(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Object, Pod, Service};
    use std::sync::Arc;

    fn pod(name: &str, phase: &str) -> Object {
        let mut pod = Pod::default();
        pod.metadata.name = name.to_owned();
        pod.metadata.namespace = "default".to_owned();
        pod.status.phase = Some(phase.to_owned());
        Object::Pod(Arc::new(pod))
    }

    fn catalogue(objects: impl IntoIterator<Item = Object>) -> Catalogue {
        let mut all = Objects::default();
        objects.into_iter().for_each(|object| all.insert(object));
        Catalogue { objects: all, ..Catalogue::default() }
    }

    fn pods(namespace: Option<&str>) -> Selection {
        Selection { resource: Resource::Kind(Kind::Pod), namespace: namespace.map(str::to_owned), name: None }
    }

    #[test]
    fn resources_have_kubectls_aliases() {
        for (name, expected) in [
            ("svc", Resource::Kind(Kind::Service)),
            ("Pods", Resource::Kind(Kind::Pod)),
            ("ep", Resource::Endpoints),
            ("no", Resource::Kind(Kind::Node)),
            ("ns", Resource::Kind(Kind::Namespace)),
        ] {
            assert_eq!(name.parse(), Ok(expected));
        }
        assert!("deployments".parse::<Resource>().is_err());
    }

    #[test]
    fn a_manifest_names_its_kind_first_and_leaves_empty_parts_out() {
        let mut service = Service::default();
        service.metadata.name = "web".to_owned();
        let all = catalogue([Object::Service(Arc::new(service))]);
        let selection = Selection { resource: Resource::Kind(Kind::Service), namespace: None, name: None };
        insta::assert_snapshot!(serde_json::to_string(&all.items(&selection)).unwrap(), @r#"[{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":{"type":"ClusterIP"}}]"#);
    }

    #[test]
    fn changes_between_two_moments_are_events() {
        let before = catalogue([pod("a", "Running"), pod("b", "Running"), pod("c", "Running")]);
        let now = catalogue([pod("b", "Running"), pod("c", "Failed"), pod("d", "Running")]);
        let events = now.events_since(&before, &pods(Some("default")));
        let events: Vec<_> =
            events.iter().map(|event| (event.kind, event.object["metadata"]["name"].as_str().unwrap())).collect();
        assert_eq!(events, [(EventKind::Deleted, "a"), (EventKind::Modified, "c"), (EventKind::Added, "d")]);
        assert!(now.events_since(&before, &pods(Some("other"))).is_empty());
    }
}
