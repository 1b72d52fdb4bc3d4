//! The single owner of all objects.
//!
//! Every source has its own objects, and an object has one source. A change is a transaction: it is applied whole, or
//! not at all and with every reason. Services leave the store complete, with addresses and node ports, which they keep
//! for life and over restarts.
//!
//! - A file that turns bad keeps its last good objects, and is tried again by itself whenever something it collided with
//!   may have gone.
//! - Until every registered feed has delivered, an address that was merely chosen yields to one that a manifest asks for,
//!   so that the outcome of a start does not depend on the order of files. After that it is kept for the Service's life,
//!   and asking for it is an error that names its holder.

mod admission;
mod balancers;
mod change;
mod error;
mod ledger;
mod ownership;
mod pool;
mod sets;
mod source_id;
mod state;
mod transaction;
mod workloads;

pub use balancers::{AddressPool, AddressRange};
pub use change::{Applied, Change, Problem, Snapshot, Update};
pub use error::{Error, Rejected};
pub use sets::mark;
pub use source_id::SourceId;

use crate::manifest::{Diagnostic, Parsed};
use crate::objects::{Key, Kind, Object, ObjectId, Objects, Service, ServiceType};
use ipnet::IpNet;
use jiff::Timestamp;
use ledger::Ledger;
use ownership::{Owner, Ownership};
use state::{Allocation, Entry, State, StateFile};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use transaction::{Context, Plan};

/// Fewer objects than these are never most of what there is: the journal takes them faster.
const MANY: usize = 64;

/// What a store needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where applied objects and allocations survive; `None` keeps them in memory only.
    pub state_file: Option<PathBuf>,
    /// Where ClusterIPs come from, one after the other; the first one's family is the default.
    pub service_cidrs: Vec<IpNet>,
    /// Where node ports come from.
    pub node_port_range: RangeInclusive<u16>,
}

/// A refused snapshot, to be tried again.
#[derive(Debug)]
struct Refused {
    diagnostics: Vec<Diagnostic>,
    /// Absent when the file itself cannot be read.
    parsed: Option<Parsed>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Store {
    objects: Arc<Objects>,
    ownership: Ownership,
    ledger: Ledger,
    /// What Services that have not come (again) yet held.
    remembered: BTreeMap<Key, Allocation>,
    /// When objects that have not come (again) yet were first seen.
    created: BTreeMap<ObjectId, String>,
    /// Load balancers that wait for an address.
    waiting: BTreeSet<Key>,
    /// Objects of which something else is to be remembered than the state file says.
    unsaved: BTreeSet<ObjectId>,
    feeds: BTreeMap<String, bool>,
    refused: BTreeMap<SourceId, Refused>,
    state_file: Option<StateFile>,
    state_problem: Option<(String, String)>,
}

/// The way back to before a commit.
struct Undo {
    objects: Arc<Objects>,
    owners: Vec<(ObjectId, Option<Owner>)>,
    waiting: BTreeSet<Key>,
}

impl Store {
    /// Opens the state file and takes up what it holds.
    pub fn open(options: Options) -> Result<Self, Error> {
        let ledger = Ledger::new(&options.service_cidrs, &options.node_port_range)?;
        let state_file = options.state_file.map(StateFile::new);
        let state = state_file.as_ref().map_or_else(|| Ok(State::default()), StateFile::load)?;
        let mut store = Self {
            objects: Arc::default(),
            ownership: Ownership::default(),
            ledger,
            remembered: BTreeMap::new(),
            created: state.created,
            waiting: BTreeSet::new(),
            unsaved: BTreeSet::new(),
            feeds: BTreeMap::new(),
            refused: BTreeMap::new(),
            state_file,
            state_problem: None,
        };
        let objects = Arc::make_mut(&mut store.objects);
        for stored in state.objects.into_values() {
            let object = Object::from(stored);
            store.ownership.set(&object.id(), Some(Owner { source: SourceId::Cli, line: 0 }));
            if let Object::Service(service) = &object {
                store.ledger.take_up(&service.metadata.key(), &service.spec);
                store.ledger.balancers.take_up(service);
            }
            store.waiting.extend(waits(&object));
            objects.insert(object);
        }
        for (key, allocation) in state.allocations {
            store.ledger.reserve(&key, &allocation, |given| given);
            if !store.objects.services.contains_key(&key) {
                store.remembered.insert(key, allocation);
            }
        }
        store.ledger.commit();
        let tried = store.state_file.as_ref().map_or(Ok(()), StateFile::try_out);
        store.state_problem = tried.err().map(|error| state_problem(&error));
        Ok(store)
    }

    /// Takes up the pools that load balancers get their addresses from. Who waits for one gets it now. Who has one that is in
    /// no pool any more loses it, and gets another if there is one: the answer says so of each.
    pub fn offer(&mut self, pools: Vec<AddressPool>) -> Vec<String> {
        self.ledger.balancers.pools = pools;
        let mut messages = Vec::new();
        for service in self.snapshot().services.values() {
            let mut service = Service::clone(service);
            let lost = self.ledger.balancers.move_out(&mut service);
            if lost.is_empty() {
                continue;
            }
            let key = service.metadata.key();
            let joined =
                |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let now = match service.load_balancer_addresses().as_slice() {
                [] => "it waits for another".to_owned(),
                addresses => format!("it has {} now", joined(addresses)),
            };
            let lost = joined(&lost);
            messages.push(format!("service/{key} gave up {lost}, which its address pools do not have any more: {now}"));
            let object = Object::Service(Arc::new(service));
            self.waiting.extend(waits(&object));
            self.unsaved.insert(object.id());
            Arc::make_mut(&mut self.objects).insert(object);
        }
        let mut applied = Applied::default();
        self.serve_the_waiting(&mut applied);
        self.ledger.commit();
        if !messages.is_empty() || applied.is_change() {
            self.save_if_synced();
        }
        messages
    }

    /// Why a Service of the type LoadBalancer has no address, if it has none.
    pub fn why_pending(&self, key: &Key) -> Option<String> {
        self.objects.services.get(key).and_then(|service| self.ledger.balancers.why_none(service))
    }

    /// Gives addresses that have become free to load balancers that wait for one.
    fn serve_the_waiting(&mut self, applied: &mut Applied) {
        if self.ledger.balancers.pools.is_empty() {
            return;
        }
        for key in self.waiting.clone() {
            let Some(mut service) = self.objects.services.get(&key).map(|service| Service::clone(service)) else {
                continue;
            };
            self.ledger.balancers.assign(&mut service, &[]);
            if service.status.is_empty() {
                continue;
            }
            let object = Object::Service(Arc::new(service));
            let id = object.id();
            self.waiting.remove(&key);
            self.unsaved.insert(id.clone());
            Arc::make_mut(&mut self.objects).insert(object);
            if applied.changes.iter().all(|(changed, _)| *changed != id) {
                applied.changes.push((id, Change::Configured));
            }
        }
    }

    /// Allocates from other service CIDRs from now on. One that goes must have no address in use.
    pub fn set_service_cidrs(&mut self, cidrs: &[IpNet]) -> Result<(), Error> {
        self.ledger.set_cidrs(cidrs)
    }

    /// Announces a feed: until it has delivered, the store is not synced.
    pub fn register(&mut self, feed: impl Into<String>) {
        self.feeds.insert(feed.into(), false);
    }

    /// Whether every registered feed has told of all its sources.
    pub fn is_synced(&self) -> bool {
        self.feeds.values().all(|synced| *synced)
    }

    /// All objects. Cheap, and never changes under its reader.
    pub fn snapshot(&self) -> Arc<Objects> {
        Arc::clone(&self.objects)
    }

    /// Where an object comes from.
    pub fn source_of(&self, id: &ObjectId) -> Option<SourceId> {
        self.ownership.owners.get(id).map(|owner| owner.source.clone())
    }

    /// Sources that are not as their files say.
    pub fn problems(&self) -> Vec<Problem> {
        let refused = self.refused.iter().map(|(source, refused)| Problem {
            source: source.to_string(),
            diagnostics: refused.diagnostics.clone(),
            kept: self.ownership.of(source).count(),
        });
        let state = self.state_problem.iter().map(|(file, message)| Problem {
            source: file.clone(),
            diagnostics: vec![Diagnostic::of_file(file, message)],
            kept: 0,
        });
        refused.chain(state).collect()
    }

    /// Adds and replaces objects of `source`, all or none; the others it has stay. On the disk after [`Store::flush`].
    pub fn apply(&mut self, source: &SourceId, parsed: Parsed, now: Timestamp) -> Result<Applied, Rejected> {
        self.apply_and_remove(source, parsed, BTreeSet::new(), now)
    }

    /// The same, and takes `removed` away in the same transaction.
    pub fn apply_and_remove(
        &mut self,
        source: &SourceId,
        parsed: Parsed,
        removed: BTreeSet<ObjectId>,
        now: Timestamp,
    ) -> Result<Applied, Rejected> {
        self.forget_the_gone();
        if !parsed.errors.is_empty() {
            return Err(Rejected::Invalid(self.everything_wrong(source, &parsed, removed, now)));
        }
        let (applied, undo) = self.change(source, &parsed, removed, now).map_err(Rejected::Invalid)?;
        self.keep(undo)?;
        self.recognize(&applied);
        self.try_refused_again(now);
        Ok(Applied { warnings: [parsed.warnings, applied.warnings].concat(), ..applied })
    }

    /// What [`Store::apply_and_remove`] would come to: all objects as they would be, and what would happen to which. Nothing is
    /// changed.
    pub fn rehearse(
        &mut self,
        source: &SourceId,
        parsed: Parsed,
        removed: BTreeSet<ObjectId>,
        now: Timestamp,
    ) -> Result<(Arc<Objects>, Applied), Rejected> {
        self.forget_the_gone();
        if !parsed.errors.is_empty() {
            return Err(Rejected::Invalid(self.everything_wrong(source, &parsed, removed, now)));
        }
        let unsaved = self.unsaved.clone();
        let (applied, undo) = self.change(source, &parsed, removed, now).map_err(Rejected::Invalid)?;
        let objects = self.snapshot();
        self.undo(undo);
        self.unsaved = unsaved;
        Ok((objects, Applied { warnings: [parsed.warnings, applied.warnings].concat(), ..applied }))
    }

    /// What is wrong with manifests by themselves, and what else would be with the objects that could be read.
    fn everything_wrong(
        &mut self,
        source: &SourceId,
        parsed: &Parsed,
        removed: BTreeSet<ObjectId>,
        now: Timestamp,
    ) -> Vec<Diagnostic> {
        let mut errors = parsed.errors.clone();
        let all = Parsed { objects: [parsed.objects.as_slice(), &parsed.suspects].concat(), ..Parsed::default() };
        let (context, ledger) = self.context(now);
        let more = transaction::plan(&context, ledger, source, &all, removed).err().unwrap_or_default();
        self.ledger.roll_back();
        let told = errors.len();
        errors.extend(
            more.into_iter()
                .filter(|error| !errors[..told].iter().any(|known| known.covers(error)))
                .collect::<Vec<_>>(),
        );
        errors.sort_by(|a, b| (&a.origin, a.line, a.column).cmp(&(&b.origin, b.line, b.column)));
        errors
    }

    fn context(&mut self, now: Timestamp) -> (Context<'_>, &mut Ledger) {
        let context = Context {
            is_synced: self.feeds.values().all(|synced| *synced),
            objects: &self.objects,
            owners: &self.ownership.owners,
            remembered: &self.remembered,
            created: &self.created,
            now,
        };
        (context, &mut self.ledger)
    }

    /// Makes the objects of `source` exactly those of `parsed`, or leaves them as they are.
    pub fn replace(&mut self, source: &SourceId, parsed: Parsed, now: Timestamp) -> Result<Applied, Rejected> {
        let changes = vec![(source.clone(), Snapshot::Objects(parsed))];
        let mut outcomes = self.replace_all(changes, now);
        outcomes.pop().map_or_else(|| Ok(Applied::default()), |(_, outcome)| outcome)
    }

    /// Takes news from a feed: each source is a transaction of its own.
    pub fn update(&mut self, update: Update, now: Timestamp) -> Vec<(SourceId, Result<Applied, Rejected>)> {
        let outcomes = self.replace_all(update.changes, now);
        if update.synced && self.feeds.insert(update.feed, true) != Some(true) && self.is_synced() {
            self.forget_the_gone();
            self.try_refused_again(now);
            self.save_if_synced();
        }
        outcomes
    }

    /// Deletes objects, all or none; those of a file are refused. On the disk after [`Store::flush`].
    pub fn delete(&mut self, ids: &[ObjectId], now: Timestamp) -> Result<Vec<ObjectId>, Rejected> {
        let (found, missing): (Vec<_>, Vec<_>) =
            ids.iter().cloned().partition(|id| self.ownership.owners.contains_key(id));
        if !missing.is_empty() {
            return Err(Rejected::NotFound(missing));
        }
        let of_files: Vec<Diagnostic> = found.iter().filter_map(|id| self.of_file(id)).collect();
        if !of_files.is_empty() {
            return Err(Rejected::Invalid(of_files));
        }
        self.forget_the_gone();
        let removed = found.iter().cloned().collect();
        let (_, undo) = self.change(&SourceId::Cli, &Parsed::default(), removed, now).map_err(Rejected::Invalid)?;
        self.keep(undo)?;
        self.try_refused_again(now);
        Ok(found)
    }

    /// The refusal to delete an object of a file.
    fn of_file(&self, id: &ObjectId) -> Option<Diagnostic> {
        let owner = self.ownership.owners.get(id)?;
        let SourceId::File(path) = &owner.source else { return None };
        let mut diagnostic = Diagnostic::of_file(path.display().to_string(), "is given by this file: remove it there");
        (diagnostic.line, diagnostic.column) = (owner.line, 1);
        diagnostic.object = Some(id.to_string());
        Some(diagnostic)
    }

    fn replace_all(
        &mut self,
        mut changes: Vec<(SourceId, Snapshot)>,
        now: Timestamp,
    ) -> Vec<(SourceId, Result<Applied, Rejected>)> {
        // A file that is gone may be another's new name: what its Services held waits for them until the end.
        // One that cannot be read is judged last, when it can be told what else is wrong with it.
        changes.sort_by_key(|(_, snapshot)| match snapshot {
            Snapshot::Gone => 0,
            Snapshot::Objects(parsed) => 1 + u8::from(!parsed.errors.is_empty()),
        });
        let mut outcomes = Vec::new();
        for (source, snapshot) in changes {
            let outcome = self.take(&source, snapshot, now).map_err(Rejected::Invalid);
            outcomes.push((source, outcome));
        }
        self.try_refused_again(now);
        self.forget_the_gone();
        if outcomes.iter().any(|(_, outcome)| outcome.as_ref().is_ok_and(Applied::is_change)) {
            self.save_if_synced();
        }
        // What a later file of the batch made possible is no refusal.
        for (source, outcome) in outcomes.iter_mut().filter(|(_, outcome)| outcome.is_err()) {
            if !self.refused.contains_key(source) {
                *outcome = Ok(self.present(source));
            }
        }
        outcomes
    }

    /// One source's new state.
    fn take(&mut self, source: &SourceId, snapshot: Snapshot, now: Timestamp) -> Result<Applied, Vec<Diagnostic>> {
        let parsed = match snapshot {
            Snapshot::Objects(parsed) => parsed,
            Snapshot::Gone => Parsed::default(),
        };
        let stays = parsed.objects.iter().chain(&parsed.suspects);
        let stays: BTreeSet<ObjectId> = stays.map(|located| located.object.id()).collect();
        let removed: BTreeSet<ObjectId> = self.ownership.of(source).filter(|id| !stays.contains(id)).cloned().collect();
        if !parsed.errors.is_empty() {
            let diagnostics = self.everything_wrong(source, &parsed, removed, now);
            self.refused.insert(source.clone(), Refused { diagnostics: diagnostics.clone(), parsed: None });
            return Err(diagnostics);
        }
        let memories = self.memories(&removed);
        match self.change(source, &parsed, removed, now) {
            Ok((applied, _)) => {
                self.refused.remove(source);
                self.recognize(&applied);
                self.remember(memories);
                self.ledger.commit();
                Ok(Applied { warnings: [parsed.warnings, applied.warnings].concat(), ..applied })
            }
            Err(diagnostics) => {
                let refused = Refused { diagnostics: diagnostics.clone(), parsed: Some(parsed) };
                self.refused.insert(source.clone(), refused);
                Err(diagnostics)
            }
        }
    }

    /// A source's objects as the outcome of a change that succeeded at the second try.
    fn present(&self, source: &SourceId) -> Applied {
        let changes = self.ownership.of(source).map(|id| (id.clone(), Change::Configured)).collect();
        Applied { changes, warnings: Vec::new() }
    }

    /// Applies what was refused and may be possible now, as long as one of them succeeds.
    fn try_refused_again(&mut self, now: Timestamp) {
        loop {
            let sources: Vec<SourceId> = self
                .refused
                .iter()
                .filter(|(_, refused)| refused.parsed.is_some())
                .map(|(source, _)| source.clone())
                .collect();
            let mut progress = false;
            for source in sources {
                let Some(parsed) = self.refused.get_mut(&source).and_then(|refused| refused.parsed.take()) else {
                    continue;
                };
                progress |= self.take(&source, Snapshot::Objects(parsed), now).is_ok();
            }
            if !progress {
                return;
            }
            self.save_if_synced();
        }
    }

    /// Plans and commits a change. The ledger can still be rolled back by the answer.
    fn change(
        &mut self,
        source: &SourceId,
        parsed: &Parsed,
        removed: BTreeSet<ObjectId>,
        now: Timestamp,
    ) -> Result<(Applied, Undo), Vec<Diagnostic>> {
        let (context, ledger) = self.context(now);
        let plan = transaction::plan(&context, ledger, source, parsed, removed)?;
        let (mut applied, undo) = self.commit(source, plan);
        self.serve_the_waiting(&mut applied);
        applied.warnings.extend(workloads::warnings(parsed, &self.objects));
        Ok((applied, undo))
    }

    fn commit(&mut self, source: &SourceId, plan: Plan) -> (Applied, Undo) {
        let waiting = self.waiting.clone();
        let mut undo = Undo { objects: Arc::clone(&self.objects), owners: Vec::new(), waiting };
        let mut applied = Applied::default();
        let objects = Arc::make_mut(&mut self.objects);
        for (object, line) in plan.objects {
            let id = object.id();
            let owner = Owner { source: source.clone(), line };
            self.unsaved.insert(id.clone());
            undo.owners.push((id.clone(), self.ownership.set(&id, Some(owner))));
            let change = match objects.get(&id) {
                None => Change::Created,
                Some(old) if old == object => Change::Unchanged,
                Some(_) => Change::Configured,
            };
            if id.kind == Kind::Service {
                self.waiting.remove(&id.key);
                self.waiting.extend(waits(&object));
            }
            if change != Change::Unchanged {
                objects.insert(object);
            }
            applied.changes.push((id, change));
        }
        for (object, warning) in plan.moved {
            self.unsaved.insert(object.id());
            applied.changes.push((object.id(), Change::Configured));
            applied.warnings.push(warning);
            objects.insert(object);
        }
        for id in plan.removed {
            self.unsaved.insert(id.clone());
            undo.owners.push((id.clone(), self.ownership.set(&id, None)));
            if id.kind == Kind::Service {
                self.waiting.remove(&id.key);
            }
            objects.remove(&id);
            applied.changes.push((id, Change::Deleted));
        }
        (applied, undo)
    }

    /// Writes the state; if that fails, the change did not happen.
    fn keep(&mut self, undo: Undo) -> Result<(), Rejected> {
        if let Err(error) = self.save() {
            self.undo(undo);
            return Err(error.into());
        }
        self.ledger.commit();
        self.state_problem = None;
        Ok(())
    }

    /// The change did not happen.
    fn undo(&mut self, undo: Undo) {
        self.ledger.roll_back();
        self.objects = undo.objects;
        self.waiting = undo.waiting;
        for (id, owner) in undo.owners.into_iter().rev() {
            self.ownership.set(&id, owner);
        }
    }

    /// What came again need not be remembered.
    fn recognize(&mut self, applied: &Applied) {
        if self.created.is_empty() && self.remembered.is_empty() {
            return;
        }
        for (id, _) in applied.changes.iter().filter(|(_, change)| *change != Change::Deleted) {
            self.created.remove(id);
            if id.kind == Kind::Service {
                self.remembered.remove(&id.key);
            }
        }
    }

    /// Writes the state if that failed after a change of files: there may be room by now.
    pub fn save_again(&mut self) {
        if self.state_problem.is_some() {
            self.save_if_synced();
        }
    }

    /// Writes the state after a change of files, which does not depend on it: a failure is a problem to be shown.
    fn save_if_synced(&mut self) {
        if self.is_synced() {
            self.state_problem = self.save().err().map(|error| state_problem(&error));
        }
    }

    /// Writes what is unsaved.
    fn save(&mut self) -> Result<(), Error> {
        let Some(mut state_file) = self.state_file.take() else { return Ok(()) };
        // Where most has changed, lines for all of it would only be written twice.
        let is_most = self.unsaved.len() > MANY && self.unsaved.len() * 2 > self.ownership.owners.len();
        let saved = if is_most || state_file.wants_all() {
            let known = self.ownership.owners.keys().chain(self.created.keys()).cloned();
            let services = self.remembered.keys().map(|key| ObjectId { kind: Kind::Service, key: key.clone() });
            state_file.save(known.chain(services).map(|id| self.entry(id)).collect())
        } else {
            state_file.append(&self.unsaved.iter().map(|id| self.entry(id.clone())).collect::<Vec<_>>())
        };
        self.state_file = Some(state_file);
        if saved.is_ok() {
            self.unsaved.clear();
        }
        saved
    }

    /// Waits until everything is on the disk.
    pub fn flush(&mut self) -> Result<(), Error> {
        let Some(state_file) = &mut self.state_file else { return Ok(()) };
        // What was not flushed may be lost: then the whole is written elsewhere.
        state_file.flush().or_else(|_| self.save())
    }

    /// What is to be remembered of an object.
    fn entry(&self, id: ObjectId) -> Entry {
        let live = self.objects.get(&id).zip(self.ownership.owners.get(&id));
        let mut entry = Entry { object: None, allocation: None, created: None, id };
        let id = &entry.id;
        match live {
            Some((object, owner)) => {
                if let Object::Service(service) = &object {
                    entry.allocation = Some(self.ledger.allocation(service));
                }
                if owner.source == SourceId::Cli {
                    entry.object = Some(object.into());
                } else {
                    entry.created.clone_from(&object.metadata().creation_timestamp);
                }
            }
            None if id.kind == Kind::Service => entry.allocation = self.remembered.get(&id.key).cloned(),
            None => {}
        }
        entry.created = entry.created.or_else(|| self.created.get(id).cloned());
        entry.allocation = entry.allocation.filter(|allocation| !allocation.is_empty());
        entry
    }

    /// What the Services among `ids` hold, and when all of them were created.
    fn memories(&self, ids: &BTreeSet<ObjectId>) -> Vec<(ObjectId, Allocation, Option<String>)> {
        let memory = |id: &ObjectId| {
            let object = self.objects.get(id)?;
            let allocation = match &object {
                Object::Service(service) => self.ledger.allocation(service),
                _ => Allocation::default(),
            };
            Some((id.clone(), allocation, object.metadata().creation_timestamp.clone()))
        };
        ids.iter().filter_map(memory).collect()
    }

    fn remember(&mut self, memories: Vec<(ObjectId, Allocation, Option<String>)>) {
        for (id, allocation, created) in memories {
            self.unsaved.insert(id.clone());
            if let Some(created) = created {
                self.created.insert(id.clone(), created);
            }
            if id.kind == Kind::Service && !allocation.is_empty() {
                self.ledger.reserve(&id.key, &allocation, |given| given);
                self.remembered.insert(id.key, allocation);
            }
        }
    }

    /// Frees what Services held that have not come again, once it is known that they will not.
    fn forget_the_gone(&mut self) {
        if !self.is_synced() {
            return;
        }
        for (key, allocation) in std::mem::take(&mut self.remembered) {
            self.ledger.forget(&key, &allocation);
            self.unsaved.insert(ObjectId { kind: Kind::Service, key });
        }
        self.ledger.commit();
        self.unsaved.extend(std::mem::take(&mut self.created).into_keys());
    }
}

/// Its key, if it is a load balancer without an address.
fn waits(object: &Object) -> Option<Key> {
    let Object::Service(service) = object else { return None };
    let waits = service.spec.r#type == ServiceType::LoadBalancer && service.status.load_balancer.ingress.is_empty();
    waits.then(|| service.metadata.key())
}

/// The file that cannot be written, and why.
fn state_problem(error: &Error) -> (String, String) {
    let file = match error {
        Error::Io { path, .. } => path.display().to_string(),
        _ => "state".to_owned(),
    };
    (file, error.to_string())
}
