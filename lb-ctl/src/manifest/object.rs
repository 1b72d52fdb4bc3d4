//! From a document's tree to its objects: `List`s unpacked, kinds told apart, each read into its type.

use super::diagnostic::printable;
use super::known::{self, Stranger};
use super::locate::{self, Located, Place};
use super::nearest::nearest;
use super::path::FieldPath;
use super::reader::Misfit;
use super::reader::{self, Reading};
use super::rules::{self, Rules};
use super::tree::{Entry, Node, Value};
use super::{Findings, Parsed, Skipped, defaults};
use crate::objects::{EndpointSlice, Kind, Labels, Namespace, Node as NodeObject, Object, Pod, Service};
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// Reads the object or `List` at `node`.
pub(super) fn read(node: &Node<'_>, place: &Place, namespace: &str, parsed: &mut Parsed, findings: &mut Findings) {
    Objects { namespace, parsed, findings }.read(node, place, None);
}

struct Objects<'a> {
    namespace: &'a str,
    parsed: &'a mut Parsed,
    findings: &'a mut Findings,
}

/// What a document says it is.
enum Identity {
    Object(Kind),
    /// A list; its items need not say their kind where the list's own kind does.
    List(Option<Kind>),
    Other,
    Broken,
}

impl Objects<'_> {
    fn read(&mut self, node: &Node<'_>, place: &Place, implied: Option<Kind>) {
        if node.is_null() {
            return;
        }
        if !matches!(node.value, Value::Map(_)) {
            let message = format!("must be an object with apiVersion, kind and metadata, not {}", node.shown());
            return self.findings.error(node.at, None, String::new(), message);
        }
        match self.identify(node, implied) {
            Identity::Object(kind) => self.object(node, place, kind),
            Identity::List(implied) => self.list(node, place, implied),
            Identity::Other => self.parsed.skipped.push(skipped(node, &self.findings.origin, self.namespace)),
            Identity::Broken => {}
        }
    }

    fn list(&mut self, node: &Node<'_>, place: &Place, implied: Option<Kind>) {
        match node.get("items").map(|items| (items, &items.value)) {
            Some((_, Value::List(items))) => {
                for (index, item) in items.iter().enumerate() {
                    self.read(item, &place.item(index), implied);
                }
            }
            Some((items, _)) if !items.is_null() => {
                let message = format!("must be a list of objects, not {}", items.shown());
                self.findings.error(items.at, None, "items".to_owned(), message);
            }
            _ => {}
        }
    }

    fn identify(&mut self, node: &Node<'_>, implied: Option<Kind>) -> Identity {
        let field = |name: &str| node.get(name).filter(|value| !value.is_null());
        let (kind, version) = (field("kind"), field("apiVersion"));
        if let (None, None, Some(kind)) = (kind, version, implied) {
            return Identity::Object(kind);
        }
        let mut text =
            |name: &str, value: Option<&Node<'_>>, example: &str| match value.map(|value| (value, value.text())) {
                Some((_, Some(text))) if !text.is_empty() => Some(text.to_owned()),
                Some((value, _)) => {
                    let message = format!("must be text such as `{example}`, not {}", value.shown());
                    self.findings.error(value.at, None, name.to_owned(), message);
                    None
                }
                None => {
                    self.findings.error(node.at, None, name.to_owned(), format!("is required, such as `{example}`"));
                    None
                }
            };
        let (kind_text, version_text) = (text("kind", kind, "Service"), text("apiVersion", version, "v1"));
        let (Some(kind_text), Some(version_text)) = (kind_text, version_text) else { return Identity::Broken };
        let known = |name: &str| Kind::ALL.into_iter().find(|kind| kind.name() == name);
        if (kind_text.as_str(), version_text.as_str()) == ("List", "v1") {
            return Identity::List(None);
        }
        let item = kind_text.strip_suffix("List").and_then(known).filter(|kind| kind.api_version() == version_text);
        if item.is_some() {
            return Identity::List(item);
        }
        match known(&kind_text) {
            Some(kind) if kind.api_version() == version_text => Identity::Object(kind),
            Some(kind) if !is_foreign(&version_text, kind) => {
                let at = version.map_or(node.at, |version| version.at);
                let message =
                    format!("`{}` is not served for {kind_text}: use {}", printable(&version_text), kind.api_version());
                self.findings.error(at, None, "apiVersion".to_owned(), message);
                Identity::Broken
            }
            Some(_) => Identity::Other,
            None => self.unknown_kind(node, &kind_text, &version_text),
        }
    }

    /// Another kind, unless it looks like a slip of the pen for one of ours.
    fn unknown_kind(&mut self, node: &Node<'_>, kind: &str, version: &str) -> Identity {
        let ours = Kind::ALL.into_iter().filter(|known| known.api_version() == version).map(Kind::name);
        match nearest(kind, ours) {
            Some(meant) if kind != "Endpoints" => {
                let at = node.get("kind").map_or(node.at, |kind| kind.at);
                let message = format!("`{}` is unknown in {version}: did you mean `{meant}`?", printable(kind));
                self.findings.error(at, None, "kind".to_owned(), message);
                Identity::Broken
            }
            _ => Identity::Other,
        }
    }

    fn object(&mut self, node: &Node<'_>, place: &Place, kind: Kind) {
        match kind {
            Kind::Namespace => self.typed::<Namespace>(node, place, kind, Object::Namespace),
            Kind::Node => self.typed::<NodeObject>(node, place, kind, Object::Node),
            Kind::Service => self.typed::<Service>(node, place, kind, Object::Service),
            Kind::Pod => self.typed::<Pod>(node, place, kind, Object::Pod),
            Kind::EndpointSlice => self.typed::<EndpointSlice>(node, place, kind, Object::EndpointSlice),
        }
    }

    fn typed<T: DeserializeOwned + Metadated>(
        &mut self,
        node: &Node<'_>,
        place: &Place,
        kind: Kind,
        wrap: fn(Arc<T>) -> Object,
    ) {
        let label: Arc<str> = label(node, kind, self.namespace).into();
        let mut reading = reader::read::<T>(node);
        let errors_before = self.findings.errors.len();
        for Misfit { at, path, message, is_stranger } in &reading.misfits {
            let find = if *is_stranger { Findings::stranger } else { Findings::error };
            find(self.findings, *at, Some(&label), path.to_string(), message.clone());
        }
        for Stranger { at, path, message } in known::strangers(node, kind) {
            self.findings.stranger(at, Some(&label), path.to_string(), message);
        }
        let Some(mut object) = reading.object.take() else { return };
        let metadata = object.metadata_mut();
        if !kind.is_namespaced() {
            metadata.namespace.clear();
        } else if metadata.namespace.is_empty() {
            self.namespace.clone_into(&mut metadata.namespace);
        }
        object.default();
        let object = wrap(Arc::new(object));
        let rules = rules::check(&object);
        self.judge(node, &label, rules, &reading);
        let (origin, at) = (self.findings.origin.clone(), node.at);
        let place = place.clone();
        let located = Located { object, origin, line: at.line, column: at.column, label, place };
        if self.findings.errors.len() == errors_before {
            self.parsed.objects.push(located);
        } else if reading.misfits.iter().all(|misfit| misfit.is_stranger) {
            self.parsed.suspects.push(located);
        }
    }

    /// Reports what the rules found, except where a value could not even be read.
    fn judge<T>(&mut self, node: &Node<'_>, label: &str, rules: Rules, reading: &Reading<T>) {
        let follows = |path: &FieldPath| {
            let mut misfits = reading.misfits.iter();
            misfits.any(|misfit| misfit.path.leads_to(path) || path.leads_to(&misfit.path))
        };
        for (path, message) in rules.errors {
            let path = reading.in_file(&path);
            if !follows(&path) {
                self.findings.error(locate::position(node, &path), Some(label), path.to_string(), message);
            }
        }
        for (path, message) in rules.warnings {
            self.findings.warning(locate::position(node, &path), Some(label), path.to_string(), message);
        }
    }
}

/// Whether a version belongs to someone else's API of the same kind, such as `serving.knative.dev/v1`.
fn is_foreign(version: &str, kind: Kind) -> bool {
    let own_group = kind.api_version().split_once('/').map_or("", |(group, _)| group);
    version.split_once('/').is_some_and(|(group, _)| group != own_group && group.contains('.'))
}

fn skipped(node: &Node<'_>, origin: &str, default_namespace: &str) -> Skipped {
    let text = |path: &[&str]| descend(node, path).and_then(Node::text).map(printable).unwrap_or_default();
    let namespace = text(&["metadata", "namespace"]);
    Skipped {
        origin: origin.to_owned(),
        line: node.at.line,
        api_version: text(&["apiVersion"]),
        kind: text(&["kind"]),
        name: text(&["metadata", "name"]),
        namespace: if namespace.is_empty() { default_namespace.to_owned() } else { namespace },
        pod_labels: pod_labels(node),
    }
}

/// The labels of the pod template of a Deployment, of one of its kin, or of a `CronJob`.
fn pod_labels(node: &Node<'_>) -> Labels {
    let template = descend(node, &["spec", "template"]);
    let template = template.or_else(|| descend(node, &["spec", "jobTemplate", "spec", "template"]));
    let labels = template.and_then(|template| descend(template, &["metadata", "labels"]));
    let Some(Value::Map(entries)) = labels.map(|labels| &labels.value) else { return Labels::new() };
    let label = |entry: &Entry<'_>| Some((entry.key.clone().into_owned(), entry.value.text()?.to_owned()));
    entries.iter().filter_map(label).collect()
}

fn descend<'n, 't>(node: &'n Node<'t>, path: &[&str]) -> Option<&'n Node<'t>> {
    path.iter().try_fold(node, |node, name| node.get(name))
}

/// `service/web`, with the namespace where it is not the default one.
fn label(node: &Node<'_>, kind: Kind, default_namespace: &str) -> String {
    let of_metadata = |field: &str| node.get("metadata").and_then(|metadata| metadata.get(field)?.text());
    let Some(name) = of_metadata("name").filter(|name| !name.is_empty()) else { return kind.resource().to_owned() };
    let namespace = of_metadata("namespace").filter(|_| kind.is_namespaced()).unwrap_or(default_namespace);
    if namespace == default_namespace || namespace.is_empty() {
        return format!("{}/{}", kind.resource(), printable(name));
    }
    format!("{}/{}/{}", kind.resource(), printable(namespace), printable(name))
}

/// What all kinds have, for [`Objects::typed`].
trait Metadated {
    fn metadata_mut(&mut self) -> &mut crate::objects::Metadata;
    fn default(&mut self) {}
}

impl Metadated for Namespace {
    fn metadata_mut(&mut self) -> &mut crate::objects::Metadata {
        &mut self.metadata
    }

    fn default(&mut self) {
        defaults::namespace(self);
    }
}

impl Metadated for NodeObject {
    fn metadata_mut(&mut self) -> &mut crate::objects::Metadata {
        &mut self.metadata
    }
}

impl Metadated for Pod {
    fn metadata_mut(&mut self) -> &mut crate::objects::Metadata {
        &mut self.metadata
    }

    fn default(&mut self) {
        defaults::pod(self);
    }
}

impl Metadated for Service {
    fn metadata_mut(&mut self) -> &mut crate::objects::Metadata {
        &mut self.metadata
    }

    fn default(&mut self) {
        defaults::service(&mut self.spec);
    }
}

impl Metadated for EndpointSlice {
    fn metadata_mut(&mut self) -> &mut crate::objects::Metadata {
        &mut self.metadata
    }

    /// In a typed list the items do not say what they are.
    fn default(&mut self) {
        Kind::EndpointSlice.api_version().clone_into(&mut self.api_version);
        Kind::EndpointSlice.name().clone_into(&mut self.kind);
        defaults::plain_addresses(self.endpoints.iter_mut().flat_map(|endpoint| &mut endpoint.addresses));
    }
}
