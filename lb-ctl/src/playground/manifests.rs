//! The manifests that the playground's daemon is given: what `kubectl apply` would take.

use super::topology::{NODE_PORT, NODE_PORT_UDP, Node, POD_PORT, Place, SERVICE_PORT, SERVICE_PORT_UDP};

/// Namespace of everything in the playground.
pub const NAMESPACE: &str = "playground";
/// The Service in front of the `web-*` pods.
pub const SERVICE: &str = "web";
/// Another Service in front of the same pods, which the demo's clients know by name alone.
pub const NUMBERS: &str = "numbers-api";
/// Name of its HTTP port.
pub const HTTP: &str = "http";
/// Name of its UDP port.
pub const ECHO: &str = "echo";

/// The Namespace, both Nodes and the Service.
pub fn cluster() -> String {
    let nodes = [(Node::One, super::topology::NODE), (Node::Two, super::topology::NODE2)];
    let nodes = nodes.map(|(node, address)| {
        let [v4, v6] = node.pod_networks();
        format!(
            "---
apiVersion: v1
kind: Node
metadata:
  name: {name}
spec:
  podCIDRs: [\"{v4}\", \"{v6}\"]
status:
  addresses:
  - {{ type: InternalIP, address: \"{}\" }}
  - {{ type: InternalIP, address: \"{}\" }}
",
            address.v4,
            address.v6,
            name = node.name(),
        )
    });
    format!(
        "apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
{}---
apiVersion: v1
kind: Service
metadata:
  name: {SERVICE}
  namespace: {NAMESPACE}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  selector:
    app: web
    tier: front
  ports:
  - name: {HTTP}
    port: {SERVICE_PORT}
    targetPort: {HTTP}
    nodePort: {NODE_PORT}
  - name: {ECHO}
    protocol: UDP
    port: {SERVICE_PORT_UDP}
    targetPort: {POD_PORT}
    nodePort: {NODE_PORT_UDP}
",
        nodes.concat()
    )
}

/// The Service [`NUMBERS`].
pub fn numbers() -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: {NUMBERS}
  namespace: {NAMESPACE}
spec:
  ipFamilyPolicy: RequireDualStack
  selector:
    app: web
    tier: front
  ports:
  - name: {HTTP}
    port: {SERVICE_PORT}
    targetPort: {HTTP}
"
    )
}

/// The Pod at `place`, a backend of the Service if its name says so.
pub fn pod(place: &Place) -> String {
    let (name, address) = (&place.name, place.address());
    let app = if is_backend(name) { "web" } else { "none" };
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {NAMESPACE}
  labels:
    app: {app}
    tier: front
spec:
  nodeName: {node}
  containers:
  - name: server
    ports:
    - name: {HTTP}
      containerPort: {POD_PORT}
status:
  phase: Running
  podIP: {v4}
  podIPs:
  - ip: {v4}
  - ip: {v6}
  conditions:
  - {{ type: Ready, status: \"True\" }}
",
        node = place.node.name(),
        v4 = address.v4,
        v6 = address.v6,
    )
}

/// Whether the pod of this name is a backend of [`SERVICE`].
pub fn is_backend(name: &str) -> bool {
    name.starts_with("web-")
}
