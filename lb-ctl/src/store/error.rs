//! What the store refuses, and why.

use crate::manifest::Diagnostic;
use crate::objects::{Key, ObjectId};
use std::io;
use std::path::PathBuf;

/// Why the store cannot be opened, or cannot keep what it was given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state file does not hold what this program wrote.
    #[error("the state file {path} is damaged ({reason}): {}", way_out(path, backup.as_ref()), path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser met.
        reason: String,
        /// The last good copy, if it is readable.
        backup: Option<PathBuf>,
    },
    /// The state file belongs to a later version of this program.
    #[error(
        "the state file {path} has version {found} and this lb-ctl reads version {known}: run the newer lb-ctl, or {}",
        way_out(path, backup.as_ref()),
        path = path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version of this program.
        known: u64,
        /// The last good copy, if this program can read it.
        backup: Option<PathBuf>,
    },
    /// The state file is gone, its last good copy is not.
    #[error(
        "the state file {path} is missing, but its last good copy {backup} is there: rename the copy to restore it, or \
         remove it to begin without the applied objects",
        path = path.display(),
        backup = backup.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// The last good copy.
        backup: PathBuf,
    },
    /// The state file cannot be read or written.
    #[error("the state file {path} cannot be {doing}: {error}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        doing: &'static str,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
    /// The service CIDRs cannot be used.
    #[error("service CIDR {cidr}: {reason}")]
    ServiceCidr {
        /// The range.
        cidr: ipnet::IpNet,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A service CIDR that is to go has addresses in use.
    #[error(
        "service CIDR {cidr} cannot be taken away: service/{owner} has {address}{}; delete such Services first, or leave \
         the CIDR where it is",
        match others { 0 => String::new(), 1 => ", and another Service an address of it".to_owned(), _ => format!(", and {others} others have addresses of it") }
    )]
    ServiceCidrInUse {
        /// The range.
        cidr: ipnet::IpNet,
        /// A Service with an address of it.
        owner: Key,
        /// That address.
        address: std::net::IpAddr,
        /// How many more addresses of it are in use.
        others: usize,
    },
    /// There is not one service CIDR.
    #[error("no service CIDR is given: ClusterIPs have to come from one, such as 10.96.0.0/16")]
    NoServiceCidr,
    /// The range of node ports is empty.
    #[error("the node port range {first}-{last} is empty")]
    NodePortRange {
        /// Its first port.
        first: u16,
        /// Its last port.
        last: u16,
    },
}

fn way_out(path: &std::path::Path, backup: Option<&PathBuf>) -> String {
    match backup {
        Some(backup) => format!(
            "restore the last good copy with `cp {} {}`, or move both away to begin without the applied objects",
            backup.display(),
            path.display()
        ),
        None => "move it away to begin without the applied objects (there is no good copy)".to_owned(),
    }
}

/// Why a change was refused. Nothing of it was applied.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// Objects that cannot be, each with its place and reason.
    #[error("{} errors; nothing was changed", .0.len())]
    Invalid(Vec<Diagnostic>),
    /// Objects to delete that are not there.
    #[error("not found: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    NotFound(Vec<ObjectId>),
    /// The change cannot be kept over a restart.
    #[error(transparent)]
    State(#[from] Error),
}
