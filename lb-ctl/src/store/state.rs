//! The state file: what the CLI applied, and what every Service was allocated.
//!
//! Written whole to a temporary file, flushed to the disk, then renamed, so that there is a whole file at every moment;
//! the one before stays as `.bak`. A file that cannot be understood is never overwritten: the daemon refuses to start.

use super::error::Error;
use crate::objects::{EndpointSlice, Namespace, Node, Object, Pod, Service};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The version this program writes and reads.
const VERSION: u64 = 1;

/// What a state file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct State {
    /// Comes first, so that a person sees it.
    pub(super) version: u64,
    /// What the CLI applied, with what was allocated.
    pub(super) objects: Vec<Stored>,
    /// What Services hold, those of files included, by `namespace/name`.
    pub(super) allocations: BTreeMap<String, Allocation>,
    /// When objects of files were first seen, by `kind/namespace/name`.
    pub(super) created: BTreeMap<String, String>,
}

/// An object with its kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", content = "object")]
pub(super) enum Stored {
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    Service(Arc<Service>),
    Pod(Arc<Pod>),
    EndpointSlice(Arc<EndpointSlice>),
}

/// What a Service holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Allocation {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) cluster_ips: Vec<Held<IpAddr>>,
    /// Which families it wants: an update that does not say keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ip_family_policy: Option<String>,
    /// By the port's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) node_ports: BTreeMap<String, Held<u16>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) health_check_node_port: Option<Held<u16>>,
}

/// A value, and whether the manifest asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Held<T> {
    pub(super) value: T,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) given: bool,
}

impl Allocation {
    pub(super) fn is_empty(&self) -> bool {
        self.cluster_ips.is_empty() && self.node_ports.is_empty() && self.health_check_node_port.is_none()
    }

    /// Every value, and whether the manifest asked for it.
    pub(super) fn values(&self) -> impl Iterator<Item = (super::ledger::Value, bool)> {
        use super::ledger::Value;
        let addresses = self.cluster_ips.iter().map(|held| (Value::Address(held.value), held.given));
        let ports = self.node_ports.values().chain(&self.health_check_node_port);
        addresses.chain(ports.map(|held| (Value::Port(held.value), held.given)))
    }
}

impl From<Object> for Stored {
    fn from(object: Object) -> Self {
        match object {
            Object::Namespace(object) => Stored::Namespace(object),
            Object::Node(object) => Stored::Node(object),
            Object::Service(object) => Stored::Service(object),
            Object::Pod(object) => Stored::Pod(object),
            Object::EndpointSlice(object) => Stored::EndpointSlice(object),
        }
    }
}

impl From<Stored> for Object {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Namespace(object) => Object::Namespace(object),
            Stored::Node(object) => Object::Node(object),
            Stored::Service(object) => Object::Service(object),
            Stored::Pod(object) => Object::Pod(object),
            Stored::EndpointSlice(object) => Object::EndpointSlice(object),
        }
    }
}

/// A state file's place.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn beside(&self, extension: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(extension);
        path.into()
    }

    /// Reads it; a file that was never written is an empty state.
    pub(super) fn load(&self) -> Result<State, Error> {
        let backup = self.beside(".bak");
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = self.path.clone();
                return if backup.exists() { Err(Error::Missing { path, backup }) } else { Ok(State::default()) };
            }
            Err(error) => return Err(Error::Io { path: self.path.clone(), doing: "read", error }),
        };
        read(&bytes).map_err(|problem| {
            let path = self.path.clone();
            let backup = fs::read(&backup).is_ok_and(|bytes| read(&bytes).is_ok()).then_some(backup);
            match problem {
                Unreadable::Damaged(reason) => Error::Damaged { path, reason, backup },
                Unreadable::Newer(found) => Error::Newer { path, found, known: VERSION, backup },
            }
        })
    }

    /// Writes it, so that it is whole on the disk when this returns.
    pub(super) fn save(&self, mut state: State) -> Result<(), Error> {
        state.version = VERSION;
        self.write(&state).map_err(|error| Error::Io { path: self.path.clone(), doing: "written", error })
    }

    fn write(&self, state: &State) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let temporary = self.beside(".tmp");
        let mut file = BufWriter::new(private(&temporary)?);
        serde_json::to_writer(&mut file, state)?;
        file.write_all(b"\n")?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        self.back_up()?;
        fs::rename(&temporary, &self.path)?;
        File::open(folder)?.sync_all()
    }

    /// Gives the present file its second name, by way of a rename so that the copy is whole at every moment too.
    fn back_up(&self) -> io::Result<()> {
        let link = self.beside(".bak.tmp");
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match fs::hard_link(&self.path, &link) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A file system without hard links.
            Err(_) => drop(fs::copy(&self.path, &link)?),
        }
        fs::rename(&link, self.beside(".bak"))
    }
}

/// A new file that only the owner reads: manifests may hold what others should not see.
fn private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

enum Unreadable {
    Damaged(String),
    Newer(u64),
}

fn read(bytes: &[u8]) -> Result<State, Unreadable> {
    #[derive(Deserialize)]
    struct Header {
        version: u64,
    }
    let damaged = |error: serde_json::Error| Unreadable::Damaged(error.to_string());
    // The version alone first: of a newer file nothing else need be understood.
    let header: Header = serde_json::from_slice(bytes).map_err(damaged)?;
    match header.version {
        VERSION => serde_json::from_slice(bytes).map_err(damaged),
        0 => Err(Unreadable::Damaged("version 0".to_owned())),
        newer => Err(Unreadable::Newer(newer)),
    }
}
