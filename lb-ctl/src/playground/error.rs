//! What can go wrong while a playground is built, used or removed.

use std::fmt;
use std::io;

/// A step of the playground failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a file, mount, socket or process operation.
    #[error("{action}: {source}")]
    Io {
        /// What was tried, and on what.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("{action}: {source}")]
    Netlink {
        /// What was tried, and on what.
        action: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// Something answered, but not what was promised.
    #[error("{0}")]
    Broken(String),
}

impl Error {
    /// An [`Error::Broken`] that says so.
    pub fn broken(what: impl fmt::Display) -> Self {
        Error::Broken(what.to_string())
    }
}

/// Names the action that an I/O error interrupted.
pub(super) trait Doing<T> {
    /// The error with what was being done in front.
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io { action: action(), source })
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(io::Error::from).doing(action)
    }
}

impl<T> Doing<T> for Result<T, rtnetlink::Error> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Netlink { action: action(), source })
    }
}
