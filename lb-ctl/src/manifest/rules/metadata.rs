//! Name, namespace, labels and annotations.

use super::Rules;
use super::names::{self, Check};
use crate::manifest::path::{FieldPath, Segment, field};
use crate::objects::{
    ALGORITHM_ANNOTATION, ANNOTATION_PREFIX, ANNOTATIONS, Kind, Labels, Metadata, Object, POD_IP_ANNOTATION,
    POOL_ANNOTATION, WEIGHT_ANNOTATION,
};

/// `TotalAnnotationSizeLimitB`
const MAX_ANNOTATION_BYTES: usize = 256 << 10;

/// `ValidateObjectMeta`; `name` is the kind's own check of names.
pub(super) fn check(metadata: &Metadata, name: impl Fn(&str) -> Check, rules: &mut Rules) {
    if let Some(prefix) = metadata.generate_name.as_deref().filter(|prefix| !prefix.is_empty()) {
        // As a prefix it may end in a dash: then something follows.
        let whole = prefix.strip_suffix('-').map_or_else(|| prefix.to_owned(), |start| format!("{start}-x"));
        rules.value(name(&whole), || field!["metadata", "generateName"], prefix);
    }
    if metadata.name.is_empty() {
        rules.error(field!["metadata", "name"], "is required (names are not generated here)");
    } else {
        rules.value(name(&metadata.name), || field!["metadata", "name"], &metadata.name);
    }
    if !metadata.namespace.is_empty() {
        rules.value(names::dns_label(&metadata.namespace), || field!["metadata", "namespace"], &metadata.namespace);
    }
    for (field, text) in
        [("creationTimestamp", &metadata.creation_timestamp), ("deletionTimestamp", &metadata.deletion_timestamp)]
    {
        if let Some(text) = text {
            let check =
                text.parse::<jiff::Timestamp>().map(drop).map_err(|_| "must be a time such as 2024-01-31T12:00:00Z");
            rules.value(check, || field!["metadata", field], text);
        }
    }
    labels(&metadata.labels, &field!["metadata", "labels"], rules);
    annotations(metadata, rules);
}

/// `ValidateAnnotations`
fn annotations(metadata: &Metadata, rules: &mut Rules) {
    for key in metadata.annotations.keys() {
        // Their keys, unlike those of labels, may be written in upper case before the slash.
        let check = names::qualified_name(&key.to_lowercase());
        rules.value(check, || entry(&field!["metadata", "annotations"], key), key);
        if key.starts_with(ANNOTATION_PREFIX) && !ANNOTATIONS.contains(&key.as_str()) {
            let message = format!("lb-ctl has no such annotation: there are {}", ANNOTATIONS.join(", "));
            rules.warning(annotation(key), message);
        }
    }
    let bytes: usize = metadata.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > MAX_ANNOTATION_BYTES {
        rules.error(field!["metadata", "annotations"], format!("{bytes} bytes in all: at most 262144 are allowed"));
    }
}

/// Warns of annotations of ours that mean nothing on an object of this kind.
pub(super) fn misplaced(object: &Object, rules: &mut Rules) {
    const PLACES: [(&str, &[Kind]); 4] = [
        (ALGORITHM_ANNOTATION, &[Kind::Service]),
        (POOL_ANNOTATION, &[Kind::Service]),
        (POD_IP_ANNOTATION, &[Kind::Pod]),
        (WEIGHT_ANNOTATION, &[Kind::Pod, Kind::EndpointSlice]),
    ];
    let kind = object.id().kind;
    for (name, kinds) in PLACES {
        if object.metadata().annotations.contains_key(name) && !kinds.contains(&kind) {
            let right = kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" or ");
            rules.warning(annotation(name), format!("means nothing on a {}: it is for a {right}", kind.name()));
        }
    }
}

/// Checks the annotation that gives the weight of an endpoint.
pub(super) fn weight(metadata: &Metadata, rules: &mut Rules) {
    if let Some(text) = metadata.annotations.get(WEIGHT_ANNOTATION) {
        let check = crate::objects::weight(&metadata.annotations).map(drop);
        rules.value(check, || annotation(WEIGHT_ANNOTATION), text);
    }
}

/// Where an annotation stands.
pub(super) fn annotation(name: &str) -> FieldPath {
    entry(&field!["metadata", "annotations"], name)
}

/// Checks labels or a selector at `path` (`ValidateLabels`).
pub(super) fn labels(labels: &Labels, path: &FieldPath, rules: &mut Rules) {
    for (key, value) in labels {
        if let Err(right) = names::qualified_name(key) {
            rules.error(entry(path, key), format!("the key {right}"));
        }
        rules.value(names::label_value(value), || entry(path, key), value);
    }
}

fn entry(path: &FieldPath, key: &str) -> FieldPath {
    path.then(Segment::Entry(key.to_owned()))
}
