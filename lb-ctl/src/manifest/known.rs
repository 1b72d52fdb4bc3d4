//! The names of fields, where the types are tolerant: a misspelt one would be lost in silence otherwise.
//!
//! Types that name every field of the API say so themselves (`deny_unknown_fields`). Those of objects that come from many
//! hands read a few fields of many; the names of the others are here (`staging/src/k8s.io/api/core/v1/types.go`), as deep
//! as anything is read.

use super::diagnostic::{Position, printable};
use super::nearest::nearest;
use super::path::{FieldPath, field};
use super::reader::unknown_field;
use super::tree::{Node, Value};
use crate::objects::Kind;

/// What a value may hold.
enum Shape {
    /// Anything: it is not read.
    Any,
    /// Named fields.
    Fields(&'static Fields),
    /// A list of such.
    Each(&'static Fields),
}

struct Fields {
    /// Names of fields that hold anything.
    plain: &'static [&'static str],
    /// Names of fields whose own fields are known.
    deep: &'static [(&'static str, Shape)],
    /// Written by programs, perhaps by newer ones: a name that resembles no other is let pass.
    grows: bool,
}

const fn fields(plain: &'static [&'static str], deep: &'static [(&'static str, Shape)]) -> Fields {
    Fields { plain, deep, grows: false }
}

const fn growing(plain: &'static [&'static str], deep: &'static [(&'static str, Shape)]) -> Fields {
    Fields { plain, deep, grows: true }
}

const METADATA: (&str, Shape) = ("metadata", Shape::Fields(&OBJECT_META));

static OBJECT_META: Fields = fields(
    &[
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "finalizers",
        "managedFields",
        "clusterName",
        "initializers",
    ],
    &[("ownerReferences", Shape::Each(&OWNER_REFERENCE))],
);
static OWNER_REFERENCE: Fields =
    fields(&["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"], &[]);

static NAMESPACE: Fields =
    fields(&["apiVersion", "kind"], &[METADATA, ("spec", Shape::Fields(&FINALIZERS)), ("status", Shape::Any)]);
static FINALIZERS: Fields = fields(&["finalizers"], &[]);

static SERVICE: Fields =
    fields(&["apiVersion", "kind"], &[METADATA, ("spec", Shape::Any), ("status", Shape::Fields(&SERVICE_STATUS))]);
static SERVICE_STATUS: Fields = growing(&["conditions"], &[("loadBalancer", Shape::Fields(&LOAD_BALANCER))]);
static LOAD_BALANCER: Fields = growing(&[], &[("ingress", Shape::Each(&INGRESS))]);
static INGRESS: Fields = growing(&["ip", "hostname", "ipMode", "ports"], &[]);

static NODE: Fields = fields(
    &["apiVersion", "kind"],
    &[METADATA, ("spec", Shape::Fields(&NODE_SPEC)), ("status", Shape::Fields(&NODE_STATUS))],
);
static NODE_SPEC: Fields = fields(
    &["podCIDR", "podCIDRs", "providerID", "unschedulable", "configSource", "externalID"],
    &[("taints", Shape::Each(&TAINT))],
);
static TAINT: Fields = fields(&["key", "value", "effect", "timeAdded"], &[]);
static NODE_STATUS: Fields = growing(
    &[
        "capacity",
        "allocatable",
        "phase",
        "conditions",
        "daemonEndpoints",
        "nodeInfo",
        "images",
        "volumesInUse",
        "volumesAttached",
        "config",
        "runtimeHandlers",
        "features",
        "declaredFeatures",
    ],
    &[("addresses", Shape::Each(&NODE_ADDRESS))],
);
static NODE_ADDRESS: Fields = growing(&["type", "address"], &[]);

static POD: Fields = fields(
    &["apiVersion", "kind"],
    &[METADATA, ("spec", Shape::Fields(&POD_SPEC)), ("status", Shape::Fields(&POD_STATUS))],
);
static POD_SPEC: Fields = fields(
    &[
        "activeDeadlineSeconds",
        "affinity",
        "automountServiceAccountToken",
        "dnsConfig",
        "dnsPolicy",
        "enableServiceLinks",
        "hostAliases",
        "hostIPC",
        "hostNetwork",
        "hostPID",
        "hostUsers",
        "hostname",
        "hostnameOverride",
        "imagePullSecrets",
        "nodeName",
        "nodeSelector",
        "os",
        "overhead",
        "preemptionPolicy",
        "priority",
        "priorityClassName",
        "readinessGates",
        "resourceClaims",
        "resources",
        "restartPolicy",
        "runtimeClassName",
        "schedulerName",
        "schedulingGates",
        "schedulingGroup",
        "securityContext",
        "serviceAccount",
        "serviceAccountName",
        "setHostnameAsFQDN",
        "shareProcessNamespace",
        "subdomain",
        "terminationGracePeriodSeconds",
        "tolerations",
        "topologySpreadConstraints",
        "volumes",
        "workloadRef",
    ],
    &[
        ("containers", Shape::Each(&CONTAINER)),
        ("initContainers", Shape::Each(&CONTAINER)),
        ("ephemeralContainers", Shape::Each(&CONTAINER)),
    ],
);
static CONTAINER: Fields = fields(
    &[
        "name",
        "image",
        "command",
        "args",
        "workingDir",
        "envFrom",
        "env",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "volumeMounts",
        "volumeDevices",
        "lifecycle",
        "terminationMessagePath",
        "terminationMessagePolicy",
        "imagePullPolicy",
        "securityContext",
        "stdin",
        "stdinOnce",
        "tty",
        "targetContainerName",
        // Its type names every field.
        "readinessProbe",
        "livenessProbe",
        "startupProbe",
    ],
    &[("ports", Shape::Each(&CONTAINER_PORT))],
);
static CONTAINER_PORT: Fields = fields(&["name", "hostPort", "containerPort", "protocol", "hostIP"], &[]);
static POD_STATUS: Fields = growing(
    &[
        "observedGeneration",
        "phase",
        "message",
        "reason",
        "nominatedNodeName",
        "hostIP",
        "hostIPs",
        "podIP",
        "startTime",
        "initContainerStatuses",
        "containerStatuses",
        "qosClass",
        "ephemeralContainerStatuses",
        "resize",
        "resourceClaimStatuses",
        "extendedResourceClaimStatus",
        "allocatedResources",
        "resources",
    ],
    &[("podIPs", Shape::Each(&POD_IP)), ("conditions", Shape::Each(&CONDITION))],
);
static POD_IP: Fields = growing(&["ip"], &[]);
static CONDITION: Fields =
    growing(&["type", "status", "observedGeneration", "lastProbeTime", "lastTransitionTime", "reason", "message"], &[]);

/// A field that nobody knows.
pub(super) struct Stranger {
    pub(super) at: Position,
    pub(super) path: FieldPath,
    pub(super) message: String,
}

/// The unknown fields of an object.
pub(super) fn strangers(object: &Node<'_>, kind: Kind) -> Vec<Stranger> {
    let mut found = Vec::new();
    match kind {
        Kind::Namespace => NAMESPACE.look(object, &field![], &mut found),
        Kind::Node => NODE.look(object, &field![], &mut found),
        Kind::Service => SERVICE.look(object, &field![], &mut found),
        Kind::Pod => POD.look(object, &field![], &mut found),
        // Its own type is strict.
        Kind::EndpointSlice => {
            let metadata = object.get("metadata").into_iter();
            metadata.for_each(|metadata| OBJECT_META.look(metadata, &field!["metadata"], &mut found));
        }
    }
    found
}

impl Fields {
    fn look(&self, node: &Node<'_>, path: &FieldPath, found: &mut Vec<Stranger>) {
        let Value::Map(entries) = &node.value else { return };
        for entry in entries {
            let key = entry.key.as_ref();
            if self.plain.contains(&key) {
                continue;
            }
            let path = || path.then(printable(key).as_str());
            match self.deep.iter().find(|(name, _)| *name == key) {
                Some((_, shape)) => shape.look(&entry.value, &path(), found),
                None if self.grows && nearest(key, self.names()).is_none() => {}
                None => {
                    let known: Vec<&str> = self.names().collect();
                    found.push(Stranger { at: entry.at, path: path(), message: unknown_field(key, &known) });
                }
            }
        }
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.plain.iter().copied().chain(self.deep.iter().map(|(name, _)| *name))
    }
}

impl Shape {
    fn look(&self, node: &Node<'_>, path: &FieldPath, found: &mut Vec<Stranger>) {
        match (self, &node.value) {
            (Shape::Fields(fields), _) => fields.look(node, path, found),
            (Shape::Each(fields), Value::List(items)) => {
                for (index, item) in items.iter().enumerate() {
                    fields.look(item, &path.then(index), found);
                }
            }
            // What is no list has its error already.
            (Shape::Any | Shape::Each(_), _) => {}
        }
    }
}
