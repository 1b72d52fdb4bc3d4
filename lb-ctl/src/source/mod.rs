//! Where manifests come from, apart from the socket.
//!
//! A source knows nothing of the store: it tells the state of each of its parts, and when it has told all of them. The
//! Kubernetes API, once it is one, tells the same.

mod directory;
mod scan;

pub use directory::Directory;

use crate::store::Update;
use std::future::Future;
use std::path::PathBuf;
use tokio::sync::mpsc;

/// Something that tells objects until it is dropped.
pub trait Source: Send + 'static {
    /// The name by which it is registered in the store.
    fn feed(&self) -> String;

    /// Tells the present state, then every change of it. Ends when nobody listens any more, or when it cannot go on.
    fn run(self, updates: mpsc::Sender<Update>) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Why a source cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such directory.
    #[error("the manifest directory {} does not exist: create it (`mkdir -p {}`) or name another with --manifests", .0.display(), .0.display())]
    Missing(PathBuf),
    /// It is something else.
    #[error("{} is not a directory: --manifests takes the directory that holds the files", .0.display())]
    NotADirectory(PathBuf),
    /// It cannot be read.
    #[error("the manifest directory {} cannot be read: {error}", path.display())]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        error: std::io::Error,
    },
    /// It cannot be watched.
    #[error("the manifest directory {} cannot be watched: {error}{}", path.display(), remedy(error))]
    Unwatchable {
        /// The directory.
        path: PathBuf,
        /// The watcher's reason.
        #[source]
        error: notify::Error,
    },
}

fn remedy(error: &notify::Error) -> &'static str {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => " (raise the sysctl fs.inotify.max_user_watches)",
        notify::ErrorKind::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => {
            " (raise the sysctl fs.inotify.max_user_instances)"
        }
        _ => "",
    }
}
