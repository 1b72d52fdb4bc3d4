//! A packet that never was: what the datapath would make of it, and why.
//!
//! It is crafted ([`packet`]), runs through an instance of the programs that tells what it decides ([`walk`]), hook after hook as a
//! packet of its kind meets them, and what was told is put into words ([`explain`]). Nothing is concluded here: each
//! sentence is a step that the program told, with names for its numbers.

mod explain;
pub mod packet;
mod text;
pub mod walk;

pub use explain::{Names, ServiceName, explain};
pub use text::text;
pub use walk::{Met, Scene, walk};

use crate::datapath;

/// Why a packet cannot be traced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense.
    #[error("{0}")]
    Request(String),
    /// The instance could not be loaded or run.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// The node's network could not be asked.
    #[error(transparent)]
    Host(#[from] crate::host::Error),
    /// The programs are others than those on the hooks.
    #[error(
        "the program of {hook} has the tag {found:016x}, and that on {interface} {attached:016x}: what would be told is not what \
         is attached; restart the daemon"
    )]
    OtherProgram {
        /// Where.
        hook: &'static str,
        /// On which interface.
        interface: String,
        /// What would be run.
        found: u64,
        /// What is there.
        attached: u64,
    },
}
