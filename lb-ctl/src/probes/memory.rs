//! What was found out, on the disk: which pods were ready.
//!
//! It is a memory and no record: without it, or with a damaged one, pods are not ready until their next success.

use crate::objects::{Key, Pod};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};
use tracing::warn;

/// The file's content: which pods were ready, by namespace and name, and how to know them again.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ready {
    ready: BTreeMap<String, String>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Memory {
    path: Option<PathBuf>,
    known: Ready,
}

impl Memory {
    /// Remembers nothing.
    pub(super) const fn none() -> Self {
        Self { path: None, known: Ready { ready: BTreeMap::new() } }
    }

    pub(super) fn open(path: PathBuf) -> Self {
        let read = fs::read(&path).and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from));
        let known = read.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(
                    "which pods were ready is not known ({}: {error}): they are once their probes succeed",
                    path.display()
                );
            }
            Ready::default()
        });
        Self { path: Some(path), known }
    }

    /// Whether this very pod was ready.
    pub(super) fn was_ready(&self, key: &Key, pod: &Pod) -> bool {
        self.known.ready.get(&key.to_string()).is_some_and(|sign| *sign == self::sign(pod))
    }

    pub(super) fn keep(&mut self, key: &Key, pod: &Pod, ready: bool) {
        let key = key.to_string();
        let before = if ready { self.known.ready.insert(key, sign(pod)) } else { self.known.ready.remove(&key) };
        if before.is_some() != ready || ready {
            self.write();
        }
    }

    /// The pod is gone: what comes under its name is another.
    pub(super) fn forget(&mut self, key: &Key) {
        if self.known.ready.remove(&key.to_string()).is_some() {
            self.write();
        }
    }

    fn write(&self) {
        let Some(path) = &self.path else { return };
        if let Err(error) = write(path, &self.known) {
            warn!("which pods are ready cannot be remembered ({}: {error})", path.display());
        }
    }
}

/// A file that is whole at every moment.
fn write(path: &Path, known: &Ready) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, serde_json::to_vec(known)?)?;
    fs::rename(&temporary, path)
}

/// What tells a pod from a later one of its name.
fn sign(pod: &Pod) -> String {
    let addresses: Vec<String> = pod.addresses().iter().map(ToString::to_string).collect();
    addresses.join(",")
}
