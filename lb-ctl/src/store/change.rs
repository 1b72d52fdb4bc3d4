//! What goes into the store, and what came of it.

use super::SourceId;
use crate::manifest::{Diagnostic, Parsed};
use crate::objects::ObjectId;

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created,
    /// It is not what it was.
    Configured,
    /// It is what it was.
    Unchanged,
    /// It is gone.
    Deleted,
}

/// What a transaction did.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Every object it named, in the order of the manifest, then those that are gone.
    pub changes: Vec<(ObjectId, Change)>,
    /// The manifest's warnings, and what other Services had to give up.
    pub warnings: Vec<Diagnostic>,
}

impl Applied {
    /// Whether anything is not what it was.
    pub fn is_change(&self) -> bool {
        self.changes.iter().any(|(_, change)| *change != Change::Unchanged)
    }
}

/// The state of one source.
#[derive(Clone, Debug)]
pub enum Snapshot {
    /// All its objects; where not all can be read, it keeps those it had.
    Objects(Parsed),
    /// It is no more.
    Gone,
}

/// News from a feed of sources, such as a watched directory.
#[derive(Clone, Debug)]
pub struct Update {
    /// The feed's name, as registered.
    pub feed: String,
    /// Sources that changed.
    pub changes: Vec<(SourceId, Snapshot)>,
    /// With this update, every source of the feed has been told of.
    pub synced: bool,
}

/// A source that is not as its file says.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The source, or the state file.
    pub source: String,
    /// What is wrong.
    pub diagnostics: Vec<Diagnostic>,
    /// How many objects of its last good state are kept.
    pub kept: usize,
}
