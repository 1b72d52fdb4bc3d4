//! The state file: what the CLI applied, and what every Service was allocated.
//!
//! Written whole to a temporary file, flushed to the disk, then renamed, so that there is a whole file at every moment;
//! a copy of it is `.bak`, which takes its place if it is damaged. A file that cannot be understood is never overwritten: the daemon refuses to start.
//!
//! A change costs what it changes: it is a line of the journal beside the file (`.journal`), which says what the objects
//! it touched have become. When the journal has outgrown the file, the whole is written anew and the journal ends. Its lines
//! may be read over a file that has them already, and the last one may be torn: that change was never confirmed.

use super::error::Error;
use crate::objects::{EndpointSlice, Key, Kind, Namespace, Node, Object, ObjectId, Pod, Service};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The version this program writes and reads.
const VERSION: u64 = 2;
/// The oldest that it reads: in version 2 Services hold addresses of load balancers too.
const OLDEST: u64 = 1;

/// A journal shorter than this is never too long, in bytes.
const SHORT: u64 = 1 << 20;

/// What there is to remember.
#[derive(Debug, Default)]
pub(super) struct State {
    /// What the CLI applied, with what was allocated.
    pub(super) objects: BTreeMap<ObjectId, Stored>,
    /// What Services hold, those of files included.
    pub(super) allocations: BTreeMap<Key, Allocation>,
    /// When objects of files were first seen.
    pub(super) created: BTreeMap<ObjectId, String>,
}

/// What there is to remember of one object; in a journal: from now on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) id: ObjectId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) object: Option<Stored>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) allocation: Option<Allocation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created: Option<String>,
}

impl State {
    pub(super) fn set(&mut self, entry: Entry) {
        fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
            match value {
                Some(value) => drop(map.insert(key, value)),
                None => drop(map.remove(&key)),
            }
        }
        let Entry { id, object, allocation, created } = entry;
        if id.kind == Kind::Service {
            set(&mut self.allocations, id.key.clone(), allocation);
        }
        set(&mut self.objects, id.clone(), object);
        set(&mut self.created, id, created);
    }
}

impl FromIterator<Entry> for State {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        let mut state = Self::default();
        entries.into_iter().for_each(|entry| state.set(entry));
        state
    }
}

/// A state as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    /// Comes first, so that a person sees it.
    version: u64,
    objects: Vec<Stored>,
    /// By `namespace/name`.
    allocations: BTreeMap<String, Allocation>,
    /// By `kind/namespace/name`.
    created: BTreeMap<String, String>,
}

impl From<State> for Written {
    fn from(state: State) -> Self {
        Self {
            version: VERSION,
            objects: state.objects.into_values().collect(),
            allocations: state.allocations.into_iter().map(|(key, held)| (key.to_string(), held)).collect(),
            created: state.created.into_iter().map(|(id, created)| (id.to_string(), created)).collect(),
        }
    }
}

impl From<Written> for State {
    fn from(written: Written) -> Self {
        let key = |text: &str| {
            let (namespace, name) = text.split_once('/').unwrap_or(("", text));
            Key::new(namespace, name)
        };
        let id = |text: &str| {
            let (resource, rest) = text.split_once('/')?;
            let kind = Kind::ALL.into_iter().find(|kind| kind.resource() == resource)?;
            Some(ObjectId { kind, key: key(rest) })
        };
        let objects = written.objects.into_iter().map(|stored| (Object::from(stored.clone()).id(), stored));
        Self {
            objects: objects.collect(),
            allocations: written.allocations.into_iter().map(|(text, held)| (key(&text), held)).collect(),
            created: written.created.into_iter().filter_map(|(text, created)| Some((id(&text)?, created))).collect(),
        }
    }
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) load_balancer: Vec<Held<IpAddr>>,
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
        self.cluster_ips.is_empty()
            && self.node_ports.is_empty()
            && self.health_check_node_port.is_none()
            && self.load_balancer.is_empty()
    }

    /// Every value, and whether the manifest asked for it.
    pub(super) fn values(&self) -> impl Iterator<Item = (super::ledger::Value, bool)> {
        use super::ledger::Value;
        let addresses = self.cluster_ips.iter().map(|held| (Value::Address(held.value), held.given));
        let ports = self.node_ports.values().chain(&self.health_check_node_port);
        let balancers = self.load_balancer.iter().map(|held| (Value::Balancer(held.value), held.given));
        addresses.chain(ports.map(|held| (Value::Port(held.value), held.given))).chain(balancers)
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

/// A state file and its journal.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    /// Absent until the whole has been written once, and after a failure.
    journal: Option<Journal>,
}

#[derive(Debug)]
struct Journal {
    file: File,
    length: u64,
    /// Longer than this is too long.
    limit: u64,
    /// Whether lines may not be on the disk yet.
    is_unflushed: bool,
}

impl StateFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, journal: None }
    }

    fn beside(&self, extension: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(extension);
        path.into()
    }

    /// Reads it; a file that was never written is an empty state.
    pub(super) fn load(&self) -> Result<State, Error> {
        let backup = self.beside(".bak");
        let unreadable = |path: &Path, error| Error::Io { path: path.to_owned(), doing: "read", error };
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = self.path.clone();
                return if backup.exists() { Err(Error::Missing { path, backup }) } else { Ok(State::default()) };
            }
            Err(error) => return Err(unreadable(&self.path, error)),
        };
        let state = read(&bytes).map_err(|problem| {
            let path = self.path.clone();
            let backup = fs::read(&backup).is_ok_and(|bytes| read(&bytes).is_ok()).then_some(backup);
            match problem {
                Unreadable::Damaged(reason) => Error::Damaged { path, reason, backup },
                Unreadable::Newer(found) => Error::Newer { path, found, known: VERSION, backup },
            }
        })?;
        let journal = self.beside(".journal");
        match fs::read(&journal) {
            Ok(lines) => {
                replay(state, &lines).map_err(|reason| Error::Damaged { path: journal.clone(), reason, backup: None })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(state),
            Err(error) => Err(unreadable(&journal, error)),
        }
    }

    /// Whether it can be written at all: better known at the start than at the first change.
    pub(super) fn try_out(&self) -> Result<(), Error> {
        let temporary = self.beside(".tmp");
        let tried = fs::create_dir_all(self.folder()).and_then(|()| private(&temporary));
        tried.and_then(|_| fs::remove_file(&temporary)).map_err(|error| self.not_written(error))
    }

    fn folder(&self) -> &Path {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Whether it is time to write the whole.
    pub(super) fn wants_all(&self) -> bool {
        self.journal.as_ref().is_none_or(|journal| journal.length > journal.limit)
    }

    /// Writes the whole, so that it is on the disk when this returns.
    pub(super) fn save(&mut self, state: State) -> Result<(), Error> {
        self.journal = None;
        self.write(&state.into()).map_err(|error| self.not_written(error))
    }

    /// Adds a change. It is on the disk after [`StateFile::flush`].
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<(), Error> {
        let Some(journal) = &mut self.journal else {
            return Err(self.not_written(io::ErrorKind::NotFound.into()));
        };
        let written = serde_json::to_vec(entries).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            journal.file.write_all(&line).map(|()| line.len() as u64)
        });
        match written {
            Ok(length) => {
                journal.length += length;
                journal.is_unflushed = true;
                Ok(())
            }
            Err(error) => {
                // What did not happen is not to be read again. Should this fail too, the line is torn.
                let _ = journal.file.set_len(journal.length);
                self.journal = None;
                Err(self.not_written(error))
            }
        }
    }

    /// Sees to it that everything is on the disk. After a failure the whole wants to be written.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        let Some(journal) = self.journal.as_mut().filter(|journal| journal.is_unflushed) else { return Ok(()) };
        match journal.file.sync_data() {
            Ok(()) => {
                journal.is_unflushed = false;
                Ok(())
            }
            Err(error) => {
                self.journal = None;
                Err(self.not_written(error))
            }
        }
    }

    fn not_written(&self, error: io::Error) -> Error {
        Error::Io { path: self.path.clone(), doing: "written", error }
    }

    fn write(&mut self, state: &Written) -> io::Result<()> {
        let folder = self.folder().to_owned();
        fs::create_dir_all(&folder)?;
        let temporary = self.beside(".tmp");
        let mut file = BufWriter::new(private(&temporary)?);
        serde_json::to_writer(&mut file, state)?;
        file.write_all(b"\n")?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        // A copy of the same state and not of the one before: the journal's lines go on from either.
        let copy = self.beside(".bak.tmp");
        io::copy(&mut File::open(&temporary)?, &mut private(&copy)?)?;
        File::open(&copy)?.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        fs::rename(&copy, self.beside(".bak"))?;
        File::open(&folder)?.sync_all()?;
        // Its lines are in the file now, and in the copy.
        let journal = private(&self.beside(".journal"))?;
        File::open(folder)?.sync_all()?;
        let limit = file.metadata()?.len().max(SHORT);
        self.journal = Some(Journal { file: journal, length: 0, limit, is_unflushed: false });
        Ok(())
    }
}

/// A state after the changes of a journal; an error says what cannot be understood.
fn replay(mut state: State, journal: &[u8]) -> Result<State, String> {
    // What follows the last line's end was never written whole.
    let end = journal.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    for (number, line) in journal[..end].split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let entries: Vec<Entry> =
            serde_json::from_slice(line).map_err(|error| format!("line {}: {error}", number + 1))?;
        for entry in entries {
            state.set(entry);
        }
    }
    Ok(state)
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
        OLDEST..=VERSION => serde_json::from_slice::<Written>(bytes).map(State::from).map_err(damaged),
        0 => Err(Unreadable::Damaged("version 0".to_owned())),
        newer => Err(Unreadable::Newer(newer)),
    }
}
