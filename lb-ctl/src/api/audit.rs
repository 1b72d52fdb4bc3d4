//! Whether the live maps are as they should be: the answer to `GET /v1/audit`, and what the background audit tells in
//! `status`.

use serde::{Deserialize, Serialize};

/// One look at everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditAnswer {
    /// What does not hold; empty: all is well.
    pub findings: Vec<Finding>,
    /// Entries looked at, in all maps.
    pub entries: u64,
    /// Microseconds of work that it took, pauses left out.
    pub busy_micros: u64,
    /// What was left out, and why; empty: nothing was.
    #[serde(default)]
    pub left_out: Vec<String>,
}

/// One thing that does not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Name of the invariant: a row of docs/audit.md.
    pub invariant: String,
    /// The map.
    pub map: String,
    /// What it is about, in an operator's words.
    pub object: String,
    /// What is wrong with it.
    pub detail: String,
    /// Whether it was repaired.
    pub repaired: bool,
}

/// What the audit in the background has come to since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditStatus {
    /// Seconds between two rounds; 0: it is off.
    pub interval_seconds: u64,
    /// Rounds through all maps that were finished.
    pub rounds: u64,
    /// Entries looked at in the last round.
    pub entries: u64,
    /// Microseconds of work that the last round took.
    pub busy_micros: u64,
    /// Findings in all rounds.
    pub found: u64,
    /// Those of them that were repaired.
    pub repaired: u64,
    /// What the last round found and could not repair.
    pub open: Vec<Finding>,
    /// The latest findings, the newest last.
    pub latest: Vec<Finding>,
}
