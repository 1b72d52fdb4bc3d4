//! Where an object and its fields are in their file.
//!
//! An object remembers its document, not the places of its hundred fields: those are found again, by reading the document
//! once more, when the [`store`](crate::store) has something to say about one of them.

use super::diagnostic::{Diagnostic, Position};
use super::documents::Document;
use super::path::{FieldPath, Segment};
use super::tree::{self, Node, Value};
use crate::objects::Object;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// An object and where it was found.
#[derive(Clone, Debug)]
pub struct Located {
    /// The object.
    pub object: Object,
    /// The file's name.
    pub origin: Arc<str>,
    /// Line in the file, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// As diagnostics name it: `service/web`.
    pub label: Arc<str>,
    pub(super) place: Place,
}

/// The document an object is in, and the way to it through `List`s.
#[derive(Clone, Debug)]
pub(super) struct Place {
    text: Arc<str>,
    document: Range<usize>,
    lines_before: u32,
    items: Vec<usize>,
}

impl Place {
    pub(super) fn new(text: &Arc<str>, document: &Document<'_>) -> Self {
        let start = document.text.as_ptr().addr() - text.as_ptr().addr();
        let range = start..start + document.text.len();
        Self { text: text.clone(), document: range, lines_before: document.lines_before, items: Vec::new() }
    }

    pub(super) fn item(&self, index: usize) -> Self {
        let mut place = self.clone();
        place.items.push(index);
        place
    }

    fn document(&self) -> Document<'_> {
        Document { text: &self.text[self.document.clone()], lines_before: self.lines_before }
    }

    fn find<'n, 't>(&self, root: &'n Node<'t>) -> Option<&'n Node<'t>> {
        self.items.iter().try_fold(root, |node, index| match &node.get("items")?.value {
            Value::List(items) => items.get(*index),
            _ => None,
        })
    }
}

impl Located {
    /// A diagnostic about the object as a whole.
    pub fn diagnostic(&self, field: impl Into<String>, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            origin: self.origin.to_string(),
            line: self.line,
            column: self.column,
            object: Some(self.label.to_string()),
            field: field.into(),
            message: message.into(),
        }
    }
}

/// Diagnostics for findings about fields, each with its place. Every document is read once.
pub(crate) fn diagnostics(findings: Vec<(&Located, FieldPath, String)>) -> Vec<Diagnostic> {
    let mut by_document: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for (index, (located, ..)) in findings.iter().enumerate() {
        let key = (located.place.text.as_ptr().addr(), located.place.document.start);
        by_document.entry(key).or_default().push(index);
    }
    let mut places = vec![None; findings.len()];
    for indices in by_document.into_values() {
        let document = findings[indices[0]].0.place.document();
        let (Some(root), _) = tree::read(&document) else { continue };
        for index in indices {
            let (located, field, _) = &findings[index];
            places[index] = located.place.find(&root).map(|node| position(node, field));
        }
    }
    let findings = findings.into_iter().zip(places);
    let diagnostics = findings.map(|((located, field, message), place)| {
        let mut diagnostic = located.diagnostic(field.to_string(), message);
        if let Some(Position { line, column }) = place {
            (diagnostic.line, diagnostic.column) = (line, column);
        }
        diagnostic
    });
    diagnostics.collect()
}

/// The place of a field, or of the nearest thing around it that is there.
pub(super) fn position(object: &Node<'_>, field: &FieldPath) -> Position {
    let mut node = object;
    for segment in &field.0 {
        let next = match (segment, &node.value) {
            (Segment::Index(index), Value::List(items)) => items.get(*index),
            // `clusterIPs[0]` and `clusterIP` are one: a manifest may give either.
            (Segment::Field(name), _) if name == "clusterIPs" => node.get(name).or_else(|| node.get("clusterIP")),
            (Segment::Field(name), _) => node.get(name),
            (Segment::Entry(key), Value::Map(entries)) => {
                return entries.iter().find(|entry| entry.key == *key).map_or(node.at, |entry| entry.at);
            }
            _ => None,
        };
        let Some(next) = next else { break };
        node = next;
    }
    node.at
}
