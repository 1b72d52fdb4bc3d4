//! The Kubernetes objects a Service proxy reads, as a user writes them.
//!
//! The types are our own and strict: an unknown field in `spec` is an error with its line and column, where generated
//! types would drop it in silence. `metadata` and `status` are tolerant, as they come from many hands.

mod annotations;
mod balancing;
mod endpoint_slice;
mod meta;
mod namespace;
mod node;
mod pod;
mod probe;
mod service;
mod table;

pub use annotations::{
    ALGORITHM_ANNOTATION, ANNOTATION_PREFIX, ANNOTATIONS, POD_IP_ANNOTATION, POOL_ANNOTATION, SET_ANNOTATION,
    WEIGHT_ANNOTATION,
};
pub use balancing::{Algorithm, DEFAULT_WEIGHT, MAX_WEIGHT, weight};
pub use endpoint_slice::{
    AddressType, Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, Hint, SERVICE_NAME_LABEL,
};
pub use meta::{Key, Labels, Metadata};
pub use namespace::Namespace;
pub use node::{Node, NodeAddress, NodeSpec, NodeStatus, TO_BE_DELETED_TAINT, Taint, ZONE_LABEL};
pub use pod::{Condition, Container, ContainerPort, PROBED, Pod, PodIp, PodSpec, PodStatus};
pub use probe::{GrpcAction, HttpGetAction, HttpHeader, Probe, TcpSocketAction};
pub use service::{
    AFFINITY_SECONDS, ClientIpConfig, HEADLESS_LABEL, IntOrString, IpFamily, LoadBalancerIngress, LoadBalancerStatus,
    NONE, PROXY_NAME_LABEL, Protocol, Service, ServicePort, ServiceSpec, ServiceStatus, ServiceType,
    SessionAffinityConfig,
};
pub use table::{Table, differences};

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// The kinds of objects that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `v1/Namespace`
    Namespace,
    /// `v1/Node`
    Node,
    /// `v1/Service`
    Service,
    /// `v1/Pod`
    Pod,
    /// `discovery.k8s.io/v1/EndpointSlice`
    EndpointSlice,
}

impl Kind {
    /// Every kind, in the order in which they are shown.
    pub const ALL: [Kind; 5] = [Kind::Namespace, Kind::Node, Kind::Service, Kind::Pod, Kind::EndpointSlice];

    /// `apiVersion` of its manifests.
    pub const fn api_version(self) -> &'static str {
        match self {
            Kind::EndpointSlice => "discovery.k8s.io/v1",
            _ => "v1",
        }
    }

    /// The kind's name in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::Node => "Node",
            Kind::Service => "Service",
            Kind::Pod => "Pod",
            Kind::EndpointSlice => "EndpointSlice",
        }
    }

    /// Whether objects of this kind live in a namespace.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Kind::Namespace | Kind::Node)
    }

    /// As kubectl writes it in `service/web`.
    pub const fn resource(self) -> &'static str {
        match self {
            Kind::Namespace => "namespace",
            Kind::Node => "node",
            Kind::Service => "service",
            Kind::Pod => "pod",
            Kind::EndpointSlice => "endpointslice.discovery.k8s.io",
        }
    }
}

/// An object of any kind we read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Object {
    /// A Namespace.
    Namespace(Arc<Namespace>),
    /// A Node.
    Node(Arc<Node>),
    /// A Service.
    Service(Arc<Service>),
    /// A Pod.
    Pod(Arc<Pod>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Namespace(_) => Kind::Namespace,
            Object::Node(_) => Kind::Node,
            Object::Service(_) => Kind::Service,
            Object::Pod(_) => Kind::Pod,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Object::Namespace(object) => &object.metadata,
            Object::Node(object) => &object.metadata,
            Object::Service(object) => &object.metadata,
            Object::Pod(object) => &object.metadata,
            Object::EndpointSlice(object) => &object.metadata,
        }
    }

    /// Its metadata, to be changed. What others share is copied first.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        match self {
            Object::Namespace(object) => &mut Arc::make_mut(object).metadata,
            Object::Node(object) => &mut Arc::make_mut(object).metadata,
            Object::Service(object) => &mut Arc::make_mut(object).metadata,
            Object::Pod(object) => &mut Arc::make_mut(object).metadata,
            Object::EndpointSlice(object) => &mut Arc::make_mut(object).metadata,
        }
    }

    /// Kind, namespace and name.
    pub fn id(&self) -> ObjectId {
        ObjectId { kind: self.kind(), key: self.metadata().key() }
    }
}

/// What identifies an object: kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId {
    /// Kind.
    pub kind: Kind,
    /// Namespace (empty for kinds without one) and name.
    pub key: Key,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.resource(), self.key)
    }
}

/// An immutable snapshot of all objects: what the pure stages read. Cloning is cheap, however many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Namespaces by name.
    pub namespaces: Table<Namespace>,
    /// Nodes by name.
    pub nodes: Table<Node>,
    /// Services by namespace and name, defaulted and with addresses and node ports allocated.
    pub services: Table<Service>,
    /// Pods by namespace and name.
    pub pods: Table<Pod>,
    /// EndpointSlices by namespace and name.
    pub endpoint_slices: Table<EndpointSlice>,
}

impl Objects {
    /// Inserts or replaces an object.
    pub fn insert(&mut self, object: Object) {
        let key = object.metadata().key();
        match object {
            Object::Namespace(object) => drop(self.namespaces.insert(key, object)),
            Object::Node(object) => drop(self.nodes.insert(key, object)),
            Object::Service(object) => drop(self.services.insert(key, object)),
            Object::Pod(object) => drop(self.pods.insert(key, object)),
            Object::EndpointSlice(object) => drop(self.endpoint_slices.insert(key, object)),
        }
    }

    /// Takes an object away.
    pub fn remove(&mut self, id: &ObjectId) {
        match id.kind {
            Kind::Namespace => drop(self.namespaces.remove(&id.key)),
            Kind::Node => drop(self.nodes.remove(&id.key)),
            Kind::Service => drop(self.services.remove(&id.key)),
            Kind::Pod => drop(self.pods.remove(&id.key)),
            Kind::EndpointSlice => drop(self.endpoint_slices.remove(&id.key)),
        }
    }

    /// The object with this id.
    pub fn get(&self, id: &ObjectId) -> Option<Object> {
        match id.kind {
            Kind::Namespace => self.namespaces.get(&id.key).cloned().map(Object::Namespace),
            Kind::Node => self.nodes.get(&id.key).cloned().map(Object::Node),
            Kind::Service => self.services.get(&id.key).cloned().map(Object::Service),
            Kind::Pod => self.pods.get(&id.key).cloned().map(Object::Pod),
            Kind::EndpointSlice => self.endpoint_slices.get(&id.key).cloned().map(Object::EndpointSlice),
        }
    }
}
