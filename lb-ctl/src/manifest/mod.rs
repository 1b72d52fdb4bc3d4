//! From a file's text to objects, or to every reason why not.
//!
//! What `kubectl apply` takes is taken: YAML or JSON, several documents, `List`s, a full `kubectl get -o yaml` dump. Kinds
//! that are none of a Service proxy's business are named and skipped. What the API server refuses is refused, with line
//! and column, and all errors at once.
//!
//! ```text
//! text ─► documents ─► tree (values with places) ─► reader (typed objects) ─► defaults ─► rules ─► Parsed
//! ```
//!
//! The YAML parser is an event parser with places (saphyr), not a serde one. serde's parsers drop the places, stop at the
//! first error, and (`serde_yaml` and its successors) never end when documents are iterated past a syntax error. Reading
//! 10,000 Services and 10,000 EndpointSlices (14 MB) by way of a tree costs about as much as a serde parser's own pass.
//!
//! What depends on other objects or on the node's configuration (addresses in use, the service CIDRs, what an update may
//! change) is the [`store`](crate::store)'s to judge.

mod defaults;
mod diagnostic;
mod documents;
mod known;
mod locate;
mod nearest;
mod object;
pub(crate) mod path;
mod reader;
pub(crate) mod rules;
mod scalar;
mod settings;
mod tree;

pub(crate) use defaults::is_externally_accessible;
pub use diagnostic::Diagnostic;
pub use locate::Located;
pub(crate) use locate::diagnostics;
pub(crate) use settings::settings;

use crate::objects::Labels;
use diagnostic::Position;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Larger files are refused.
pub const MAX_BYTES: usize = 64 << 20;

/// Diagnostics beyond this number are counted, not shown.
const MAX_DIAGNOSTICS: usize = 500;

/// What a file held.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The objects in the order of the file, defaulted and valid by themselves.
    pub objects: Vec<Located>,
    /// Objects of kinds that are not read.
    pub skipped: Vec<Skipped>,
    /// What is allowed, but hardly what was meant.
    pub warnings: Vec<Diagnostic>,
    /// What is wrong. Nothing may be done with any of the objects then but look for more that is wrong.
    pub errors: Vec<Diagnostic>,
    /// Objects that could be read, and have errors.
    pub suspects: Vec<Located>,
}

/// What to do about fields that nobody knows and keys that are given twice: kubectl's `--validate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Validate {
    /// They are errors.
    #[default]
    Strict,
    /// They are warnings.
    Warn,
    /// They are let pass.
    Ignore,
}

/// An object of a kind that is not read, such as a Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub origin: String,
    /// Line in the file.
    pub line: u32,
    /// `apiVersion` as given.
    pub api_version: String,
    /// `kind` as given.
    pub kind: String,
    /// `metadata.name`, or empty.
    pub name: String,
    /// The namespace it would be in.
    pub namespace: String,
    /// The labels of the pods that it would make, where it is a kind that makes pods.
    pub pod_labels: Labels,
}

impl Skipped {
    /// Why it is not read, and what would be.
    pub fn why(&self) -> String {
        match (self.api_version.as_str(), self.kind.as_str()) {
            ("v1", "Endpoints") => format!(
                "lb-ctl does not read this kind: say the addresses in an EndpointSlice (discovery.k8s.io/v1) with the \
                 label `kubernetes.io/service-name: {}`",
                self.name
            ),
            _ => "lb-ctl does not read this kind".to_owned(),
        }
    }
}

impl Parsed {
    /// Of a file that cannot be read at all.
    pub fn unreadable(why: Diagnostic) -> Self {
        Self { errors: vec![why], ..Self::default() }
    }

    /// Adds what another file held, so that both are applied in one transaction.
    pub fn extend(&mut self, other: Parsed) {
        self.objects.extend(other.objects);
        self.skipped.extend(other.skipped);
        self.warnings.extend(other.warnings);
        self.errors.extend(other.errors);
        self.suspects.extend(other.suspects);
    }

    /// Itself, unless anything is wrong.
    pub fn sound(self) -> Result<Self, Vec<Diagnostic>> {
        if self.errors.is_empty() { Ok(self) } else { Err(self.errors) }
    }
}

/// Reads a file's text. `origin` is the file's name in diagnostics; objects without a namespace get `default_namespace`.
pub fn parse(text: &str, origin: &str, default_namespace: &str) -> Result<Parsed, Vec<Diagnostic>> {
    read(text, origin, default_namespace, Validate::Strict).sound()
}

/// Reads a file's text as far as that is possible.
pub fn read(text: &str, origin: &str, default_namespace: &str, validate: Validate) -> Parsed {
    if text.len() > MAX_BYTES {
        let limit = MAX_BYTES >> 20;
        let error = Diagnostic::of_file(origin, format!("larger than {limit} MiB: split it into several files"));
        return Parsed::unreadable(error);
    }
    // Without the byte order mark, the columns of the first line are what an editor shows.
    let text: Arc<str> = text.strip_prefix('\u{feff}').unwrap_or(text).into();
    let mut findings = Findings::new(origin, validate);
    let mut parsed = Parsed::default();
    for document in documents::documents(&text) {
        let (root, faults) = tree::read(&document);
        for fault in faults {
            let find = if fault.is_repetition { Findings::stranger } else { Findings::error };
            find(&mut findings, fault.at, None, String::new(), fault.message);
        }
        if let Some(root) = root {
            let place = locate::Place::new(&text, &document);
            object::read(&root, &place, default_namespace, &mut parsed, &mut findings);
        }
    }
    findings.finish(parsed)
}

/// Reads a file's bytes, which may not be text at all, as far as that is possible.
pub fn read_bytes(bytes: &[u8], origin: &str, default_namespace: &str) -> Parsed {
    match std::str::from_utf8(bytes) {
        Ok(text) => read(text, origin, default_namespace, Validate::Strict),
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line = before.split(|byte| *byte == b'\n').count();
            let mut diagnostic = Diagnostic::of_file(origin, "not UTF-8 text: save it in that encoding");
            (diagnostic.line, diagnostic.column) = (u32::try_from(line).unwrap_or(u32::MAX), 1);
            Parsed::unreadable(diagnostic)
        }
    }
}

/// Errors and warnings of one file, as they are found.
pub(crate) struct Findings {
    origin: Arc<str>,
    validate: Validate,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Findings {
    fn new(origin: &str, validate: Validate) -> Self {
        Self { origin: origin.into(), validate, errors: Vec::new(), warnings: Vec::new() }
    }

    /// What is right or wrong by the user's choice.
    pub(crate) fn stranger(&mut self, at: Position, object: Option<&str>, field: String, message: String) {
        match self.validate {
            Validate::Strict => self.error(at, object, field, message),
            Validate::Warn => self.warning(at, object, field, message),
            Validate::Ignore => {}
        }
    }

    pub(crate) fn error(&mut self, at: Position, object: Option<&str>, field: String, message: String) {
        let diagnostic = self.diagnostic(at, object, field, message);
        self.errors.push(diagnostic);
    }

    pub(crate) fn warning(&mut self, at: Position, object: Option<&str>, field: String, message: String) {
        let diagnostic = self.diagnostic(at, object, field, message);
        self.warnings.push(diagnostic);
    }

    fn diagnostic(&self, at: Position, object: Option<&str>, field: String, message: String) -> Diagnostic {
        let origin = self.origin.to_string();
        Diagnostic { origin, line: at.line, column: at.column, object: object.map(str::to_owned), field, message }
    }

    fn finish(mut self, parsed: Parsed) -> Parsed {
        self.errors.sort_by_key(|error| (error.line, error.column));
        if let Some(more) = self.errors.len().checked_sub(MAX_DIAGNOSTICS).filter(|more| *more > 0) {
            self.errors.truncate(MAX_DIAGNOSTICS);
            self.errors.push(Diagnostic::of_file(&*self.origin, format!("and {more} more errors")));
        }
        Parsed { errors: self.errors, warnings: self.warnings, ..parsed }
    }
}
