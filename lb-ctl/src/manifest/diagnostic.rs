//! What is wrong with a manifest, and where: one line each, for a person and for an editor's jump-to-error.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One finding, as `web.yaml:12:7: service/web: spec.ports[0].port: ...`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file, or `-` for standard input.
    pub origin: String,
    /// Line in the file, from 1; 0 where there is none.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The object, as `service/web`; absent where there is no object yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Path of the field, as the API server writes it; empty for the object as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Diagnostic {
    /// A finding about a file as a whole.
    pub fn of_file(origin: impl Into<String>, message: impl Into<String>) -> Self {
        Self { origin: origin.into(), line: 0, column: 0, object: None, field: String::new(), message: message.into() }
    }
}

impl Diagnostic {
    /// Whether it is about the same object, and the same field or one around or in it: one of the two is enough.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let leads = |around: &str, inner: &str| {
            let rest = inner.strip_prefix(around);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        (&self.origin, &self.object) == (&other.origin, &other.object)
            && (leads(&self.field, &other.field) || leads(&other.field, &self.field))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// A place in a file, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// A user's text made fit for one line of a terminal: control characters escaped, and not longer than a line.
pub(crate) fn printable(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == LONGEST {
            shown.push('…');
            break;
        }
        if character.is_control() { shown.extend(character.escape_default()) } else { shown.push(character) }
    }
    shown
}
