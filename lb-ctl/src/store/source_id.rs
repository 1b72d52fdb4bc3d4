//! Where objects come from.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// A source of objects. Each object belongs to exactly one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SourceId {
    /// What was applied over the socket.
    Cli,
    /// A file of the watched directory.
    File(PathBuf),
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceId::Cli => f.write_str("cli"),
            SourceId::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}
