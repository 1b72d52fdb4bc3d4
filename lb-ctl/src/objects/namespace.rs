//! `v1/Namespace`: only its existence and labels are read.

use super::Metadata;
use serde::{Deserialize, Serialize};

/// A Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Metadata.
    #[serde(default)]
    pub metadata: Metadata,
}
