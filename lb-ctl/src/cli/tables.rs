//! The columns of `get`: kubectl's, for each resource.

use super::age;
use super::output::{Table, list};
use crate::api::Resource;
use crate::api::catalogue::Endpoints;
use crate::objects::{EndpointSlice, Kind, Labels, NONE, Namespace, Node, Pod, Service, ServiceType};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::net::SocketAddr;

/// How many endpoints of a Service are listed.
const ENDPOINTS_LISTED: usize = 3;

/// What a table of `get` looks like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    /// What is listed.
    pub(super) resource: Resource,
    /// A first column of namespaces.
    pub(super) namespace: bool,
    /// Names as TYPE/NAME.
    pub(super) typed: bool,
    /// More columns.
    pub(super) wide: bool,
}

impl Columns {
    /// The empty table.
    pub(super) fn table(self) -> Table {
        let (mut header, wide): (Vec<&str>, &[&str]) = match self.resource {
            Resource::Kind(Kind::Service) => {
                (vec!["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"], &["SELECTOR"])
            }
            Resource::Kind(Kind::Pod) => (vec!["NAME", "READY", "STATUS", "RESTARTS", "AGE"], &["IP", "NODE"]),
            Resource::Kind(Kind::Node) => {
                (vec!["NAME", "STATUS", "ROLES", "AGE", "VERSION"], &["INTERNAL-IP", "EXTERNAL-IP", "POD-CIDR"])
            }
            Resource::Kind(Kind::Namespace) => (vec!["NAME", "STATUS", "AGE"], &[]),
            Resource::Kind(Kind::EndpointSlice) => (vec!["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"], &[]),
            Resource::Endpoints => (vec!["NAME", "ENDPOINTS", "AGE"], &["NOT READY"]),
        };
        if self.wide {
            header.extend(wide);
        }
        if self.namespace && self.resource.is_namespaced() {
            header.insert(0, "NAMESPACE");
        }
        Table::new(header)
    }

    /// The row of one object.
    pub(super) fn row(self, object: &Value, now: Timestamp) -> Result<Vec<String>, serde_json::Error> {
        let (mut row, wide) = match self.resource {
            Resource::Kind(Kind::Service) => service(&parse(object)?, now),
            Resource::Kind(Kind::Pod) => pod(&parse(object)?, now),
            Resource::Kind(Kind::Node) => node(&parse(object)?, now),
            Resource::Kind(Kind::Namespace) => {
                let namespace: Namespace = parse(object)?;
                let age = age::since(namespace.metadata.creation_timestamp.as_deref(), now);
                (vec!["Active".to_owned(), age], Vec::new())
            }
            Resource::Kind(Kind::EndpointSlice) => endpoint_slice(&parse(object)?, now),
            Resource::Endpoints => {
                let endpoints: Endpoints = parse(object)?;
                let age = age::since(endpoints.metadata.creation_timestamp.as_deref(), now);
                (vec![listed(&addresses(&endpoints)), age], vec![listed(&not_ready(&endpoints))])
            }
        };
        if self.wide {
            row.extend(wide);
        }
        let metadata = &object["metadata"];
        let name = metadata["name"].as_str().unwrap_or_default();
        row.insert(0, if self.typed { format!("{}/{name}", self.resource.singular()) } else { name.to_owned() });
        if self.namespace && self.resource.is_namespaced() {
            row.insert(0, metadata["namespace"].as_str().unwrap_or_default().to_owned());
        }
        Ok(row)
    }
}

fn parse<T: DeserializeOwned>(object: &Value) -> Result<T, serde_json::Error> {
    T::deserialize(object)
}

/// The cells behind the name, and those of `-o wide`.
type Cells = (Vec<String>, Vec<String>);

fn service(service: &Service, now: Timestamp) -> Cells {
    let spec = &service.spec;
    let cluster_ip = if service.is_headless() {
        NONE.to_owned()
    } else {
        service.cluster_addresses().first().map_or_else(|| "<none>".to_owned(), ToString::to_string)
    };
    let ports = spec.ports.iter().map(|port| match port.node_port.filter(|node_port| *node_port != 0) {
        Some(node_port) => format!("{}:{node_port}/{}", port.port, port.protocol),
        None => format!("{}/{}", port.port, port.protocol),
    });
    let row = vec![
        spec.r#type.to_string(),
        cluster_ip,
        external_addresses(service),
        list(ports),
        age::since(service.metadata.creation_timestamp.as_deref(), now),
    ];
    (row, vec![selector(spec.selector.as_ref())])
}

fn external_addresses(service: &Service) -> String {
    let spec = &service.spec;
    match spec.r#type {
        ServiceType::ExternalName => spec.external_name.clone().unwrap_or_else(|| "<none>".to_owned()),
        ServiceType::LoadBalancer => {
            let ingress = service.status.load_balancer.ingress.iter();
            let given = ingress.filter_map(|entry| entry.ip.as_deref().or(entry.hostname.as_deref()));
            let all = list(given.chain(spec.external_ips.iter().map(String::as_str)));
            if all == "<none>" { "<pending>".to_owned() } else { all }
        }
        ServiceType::ClusterIP | ServiceType::NodePort => list(&spec.external_ips),
    }
}

/// `app=web,tier=front`, or `<none>`.
pub(super) fn selector(labels: Option<&Labels>) -> String {
    list(labels.into_iter().flatten().map(|(name, value)| format!("{name}={value}")))
}

fn pod(pod: &Pod, now: Timestamp) -> Cells {
    let containers = pod.spec.containers.len();
    let ready = if pod.is_ready() { containers } else { 0 };
    let status = if pod.is_terminating() { "Terminating" } else { pod.status.phase.as_deref().unwrap_or("Unknown") };
    let row = vec![
        format!("{ready}/{containers}"),
        status.to_owned(),
        "0".to_owned(),
        age::since(pod.metadata.creation_timestamp.as_deref(), now),
    ];
    let address = pod.addresses().first().map_or_else(|| "<none>".to_owned(), ToString::to_string);
    (row, vec![address, pod.spec.node_name.clone().unwrap_or_else(|| "<none>".to_owned())])
}

fn node(node: &Node, now: Timestamp) -> Cells {
    const ROLE: &str = "node-role.kubernetes.io/";
    let roles = node.metadata.labels.keys().filter_map(|label| label.strip_prefix(ROLE));
    let address = |kind: &str| {
        list(node.status.addresses.iter().filter(|address| address.r#type == kind).map(|address| &address.address))
    };
    let row = vec![
        "Unknown".to_owned(),
        list(roles),
        age::since(node.metadata.creation_timestamp.as_deref(), now),
        "<unknown>".to_owned(),
    ];
    let pod_cidr = node.spec.pod_cidrs.first().or(node.spec.pod_cidr.as_ref());
    (row, vec![address("InternalIP"), address("ExternalIP"), list(pod_cidr)])
}

fn endpoint_slice(slice: &EndpointSlice, now: Timestamp) -> Cells {
    let ports = slice.ports.iter().filter_map(|port| port.port);
    let addresses: Vec<String> = slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect();
    let row = vec![
        format!("{:?}", slice.address_type),
        list(ports),
        listed(&addresses),
        age::since(slice.metadata.creation_timestamp.as_deref(), now),
    ];
    (row, Vec::new())
}

/// `address:port` of every ready endpoint.
fn addresses(endpoints: &Endpoints) -> Vec<String> {
    let mut all = Vec::new();
    for subset in &endpoints.subsets {
        for port in &subset.ports {
            all.extend(subset.addresses.iter().map(|address| SocketAddr::new(address.ip, port.port).to_string()));
        }
    }
    all
}

/// `address:port (why)` of every endpoint that is not ready.
fn not_ready(endpoints: &Endpoints) -> Vec<String> {
    let mut all = Vec::new();
    for subset in &endpoints.subsets {
        for port in &subset.ports {
            all.extend(subset.not_ready_addresses.iter().map(|address| {
                let why = address.why_not_ready.as_deref().unwrap_or("not ready");
                format!("{} ({why})", SocketAddr::new(address.ip, port.port))
            }));
        }
    }
    all
}

/// The first few, and how many more there are.
fn listed(all: &[String]) -> String {
    let shown = list(all.iter().take(ENDPOINTS_LISTED));
    match all.len().saturating_sub(ENDPOINTS_LISTED) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table(columns: Columns, objects: &[Value]) -> String {
        let now = "2024-02-01T00:10:00Z".parse().unwrap();
        let mut table = columns.table();
        for object in objects {
            table.push(columns.row(object, now).unwrap());
        }
        table.to_string()
    }

    fn columns(resource: impl Into<Resource>) -> Columns {
        Columns { resource: resource.into(), namespace: false, typed: false, wide: false }
    }

    fn metadata(name: &str) -> Value {
        json!({"name": name, "namespace": "default", "creationTimestamp": "2024-02-01T00:00:00Z"})
    }

    fn services() -> Vec<Value> {
        vec![
            json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata("web"), "spec": {
                "type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
                "selector": {"app": "web", "tier": "front"},
                "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}]}}),
            json!({"metadata": metadata("headless"), "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}),
            json!({"metadata": metadata("alias"), "spec": {"type": "ExternalName", "externalName": "example.com"}}),
            json!({"metadata": metadata("waiting"), "spec":
                {"type": "LoadBalancer", "clusterIP": "10.96.0.2", "ports": [{"port": 443, "nodePort": 31000}]}}),
            json!({"metadata": metadata("given"), "spec":
                {"type": "LoadBalancer", "clusterIP": "10.96.0.3", "ports": [{"port": 443}], "externalIPs": ["192.0.2.9"]},
                "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}),
        ]
    }

    #[test]
    fn services_look_as_in_kubectl() {
        insta::assert_snapshot!(table(columns(Kind::Service), &services()), @r"
        NAME       TYPE           CLUSTER-IP   EXTERNAL-IP           PORT(S)               AGE
        web        NodePort       10.96.0.1    <none>                80:30080/TCP,53/UDP   10m
        headless   ClusterIP      None         <none>                80/TCP                10m
        alias      ExternalName   <none>       example.com           <none>                10m
        waiting    LoadBalancer   10.96.0.2    <pending>             443:31000/TCP         10m
        given      LoadBalancer   10.96.0.3    192.0.2.1,192.0.2.9   443/TCP               10m
        ");
    }

    #[test]
    fn wide_and_all_namespaces_add_columns() {
        let columns = Columns { wide: true, namespace: true, ..columns(Kind::Service) };
        insta::assert_snapshot!(table(columns, &services()[..2]), @r"
        NAMESPACE   NAME       TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)               AGE   SELECTOR
        default     web        NodePort    10.96.0.1    <none>        80:30080/TCP,53/UDP   10m   app=web,tier=front
        default     headless   ClusterIP   None         <none>        80/TCP                10m   <none>
        ");
    }

    #[test]
    fn pods_nodes_namespaces_and_slices_have_their_columns() {
        let pod = |name: &str, ready: &str| {
            json!({"metadata": metadata(name), "spec": {"nodeName": "n1", "containers": [{"name": "a"}, {"name": "b"}]},
                   "status": {"phase": "Running", "podIP": "10.244.0.5", "conditions": [{"type": "Ready", "status": ready}]}})
        };
        let wide = |kind| Columns { wide: true, ..columns(kind) };
        insta::assert_snapshot!(table(wide(Kind::Pod), &[pod("a", "True"), pod("b", "False")]), @r"
        NAME   READY   STATUS    RESTARTS   AGE   IP           NODE
        a      2/2     Running   0          10m   10.244.0.5   n1
        b      0/2     Running   0          10m   10.244.0.5   n1
        ");
        let node = json!({"metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/worker": ""}},
            "spec": {"podCIDR": "10.244.0.0/24"},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.10"}]}});
        insta::assert_snapshot!(table(wide(Kind::Node), &[node]), @r"
        NAME   STATUS    ROLES    AGE         VERSION     INTERNAL-IP   EXTERNAL-IP   POD-CIDR
        n1     Unknown   worker   <unknown>   <unknown>   192.0.2.10    <none>        10.244.0.0/24
        ");
        insta::assert_snapshot!(table(columns(Kind::Namespace), &[json!({"metadata": {"name": "default"}})]), @r"
        NAME      STATUS   AGE
        default   Active   <unknown>
        ");
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata("web-1"),
            "addressType": "IPv4", "ports": [{"port": 8080}],
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]});
        insta::assert_snapshot!(table(columns(Kind::EndpointSlice), &[slice]), @r"
        NAME    ADDRESSTYPE   PORTS   ENDPOINTS           AGE
        web-1   IPv4          8080    10.0.0.1,10.0.0.2   10m
        ");
    }

    #[test]
    fn endpoints_list_the_first_ready_ones() {
        let many: Vec<Value> = (1..=5).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
        let endpoints = [
            json!({"metadata": metadata("web"), "subsets": [{"addresses": many, "ports": [{"port": 80, "protocol": "TCP"}]}]}),
            json!({"metadata": metadata("six"), "subsets": [
                {"addresses": [{"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "fd00::2"}],
                 "ports": [{"port": 80, "protocol": "TCP"}]}]}),
            json!({"metadata": metadata("none")}),
        ];
        let columns = Columns { typed: true, ..columns(Resource::Endpoints) };
        insta::assert_snapshot!(table(columns, &endpoints), @r"
        NAME             ENDPOINTS                                         AGE
        endpoints/web    10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...   10m
        endpoints/six    [fd00::1]:80                                      10m
        endpoints/none   <none>                                            10m
        ");
    }
}
