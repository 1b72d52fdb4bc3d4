//! One change of the objects: all of it, or nothing and every reason why not.

use super::admission::{admit, check_lasting, has_health_check, has_node_ports};
use super::ledger::{Claim, Ledger, Refusal, Value, claims};
use super::state::Allocation;
use super::{Owner, SourceId};
use crate::manifest::path::{FieldPath, field};
use crate::manifest::{Diagnostic, Located, Parsed, diagnostics};
use crate::objects::{Key, Object, ObjectId, Objects, SET_ANNOTATION, Service, ServiceSpec};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// What a transaction reads.
pub(super) struct Context<'s> {
    pub(super) objects: &'s Objects,
    pub(super) owners: &'s HashMap<ObjectId, Owner>,
    /// What Services of an earlier life held, if they come again.
    pub(super) remembered: &'s BTreeMap<Key, Allocation>,
    /// When objects of an earlier life were first seen.
    pub(super) created: &'s BTreeMap<ObjectId, String>,
    /// While sources are still missing, a value that was chosen yields to one that a manifest asks for.
    pub(super) is_synced: bool,
    pub(super) now: Timestamp,
}

/// What is to change.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// New and changed objects, with their line; also those that stay as they are.
    pub(super) objects: Vec<(Object, u32)>,
    pub(super) removed: Vec<ObjectId>,
    /// Services of others that had to give a value up.
    pub(super) moved: Vec<(Object, Diagnostic)>,
}

/// Plans the objects of `parsed` for `source`, and the removal of `removed`. The ledger has changed only after `Ok`.
pub(super) fn plan(
    context: &Context<'_>,
    ledger: &mut Ledger,
    source: &SourceId,
    parsed: &Parsed,
    removed: BTreeSet<ObjectId>,
) -> Result<Plan, Vec<Diagnostic>> {
    let mut transaction =
        Transaction { context, ledger, works: Vec::new(), by_key: HashMap::new(), errors: Vec::new() };
    let plan = transaction.run(source, parsed, removed);
    let errors = std::mem::take(&mut transaction.errors);
    if errors.is_empty() {
        return Ok(plan);
    }
    transaction.ledger.roll_back();
    let mut errors = diagnostics(errors);
    errors.sort_by(|a, b| (&a.origin, a.line, a.column).cmp(&(&b.origin, b.line, b.column)));
    Err(errors)
}

struct Transaction<'s, 'p> {
    context: &'s Context<'s>,
    ledger: &'s mut Ledger,
    works: Vec<Work<'p>>,
    by_key: HashMap<Key, usize>,
    errors: Vec<(&'p Located, FieldPath, String)>,
}

/// A Service on its way.
struct Work<'p> {
    key: Key,
    service: Service,
    /// Absent for a Service of another source that has to give something up.
    located: Option<&'p Located>,
    given: HashSet<Value>,
    loss: Option<String>,
}

impl<'p> Transaction<'_, 'p> {
    fn run(&mut self, source: &SourceId, parsed: &'p Parsed, removed: BTreeSet<ObjectId>) -> Plan {
        let mut plan = Plan { removed: removed.into_iter().collect(), ..Plan::default() };
        for id in &plan.removed {
            if let Some(Object::Service(service)) = self.context.objects.get(id) {
                self.ledger.release(&id.key, &service.spec);
                self.ledger.balancers.release(&service);
            }
        }
        let mut seen: HashMap<ObjectId, &Located> = HashMap::new();
        for located in &parsed.objects {
            let id = located.object.id();
            if let Some(first) = seen.get(&id) {
                let message = format!("is here twice: it is also in {}:{}", first.origin, first.line);
                self.errors.push((located, FieldPath::default(), message));
                continue;
            }
            self.check_owner(source, located, &id);
            match self.prepare(located, &id) {
                Object::Service(service) => self.admit(source, located, Arc::unwrap_or_clone(service)),
                object => plan.objects.push((object, located.line)),
            }
            seen.insert(id, located);
        }
        self.settle();
        for work in std::mem::take(&mut self.works) {
            let object = Object::Service(Arc::new(work.service));
            match (work.located, work.loss) {
                (Some(located), _) => plan.objects.push((object, located.line)),
                (None, loss) => {
                    let diagnostic = self.moved(&object, loss.unwrap_or_default());
                    plan.moved.push((object, diagnostic));
                }
            }
        }
        plan
    }

    fn check_owner(&mut self, source: &SourceId, located: &'p Located, id: &ObjectId) {
        let Some(owner) = self.context.owners.get(id).filter(|owner| owner.source != *source) else { return };
        let message = match &owner.source {
            SourceId::Cli => {
                let namespace =
                    if id.kind.is_namespaced() { format!(" -n {}", id.key.namespace) } else { String::new() };
                let delete = format!("lb-ctl delete {}/{}{namespace}", id.kind.resource(), id.key.name);
                format!("was applied with `lb-ctl apply`, and {source} has it too: keep it in one place (`{delete}`)")
            }
            SourceId::File(path) => {
                let here = if *source == SourceId::Cli { "`lb-ctl apply`".to_owned() } else { source.to_string() };
                format!("is in {}:{} already, and {here} has it too: keep it in one place", path.display(), owner.line)
            }
        };
        self.errors.push((located, FieldPath::default(), message));
    }

    /// The object with the time of its creation, which stays what it was.
    fn prepare(&mut self, located: &'p Located, id: &ObjectId) -> Object {
        let mut object = located.object.clone();
        let old = self.context.objects.get(id);
        if let Some(old) = &old {
            let problems = check_lasting(&object, old);
            self.errors.extend(problems.into_iter().map(|(path, message)| (located, path, message)));
        }
        // What was applied as part of a set stays part of it.
        let set = old.as_ref().and_then(|old| old.metadata().annotations.get(SET_ANNOTATION));
        if let Some(set) = set.filter(|_| !object.metadata().annotations.contains_key(SET_ANNOTATION)) {
            object.metadata_mut().annotations.insert(SET_ANNOTATION.to_owned(), set.clone());
        }
        if object.metadata().creation_timestamp.is_none() {
            let known = match &old {
                Some(old) => old.metadata().creation_timestamp.clone(),
                None => self.context.created.get(id).cloned(),
            };
            let now = || self.context.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            object.metadata_mut().creation_timestamp = Some(known.unwrap_or_else(now));
        }
        object
    }

    fn admit(&mut self, source: &SourceId, located: &'p Located, mut service: Service) {
        let key = service.metadata.key();
        let mut given = service.spec.clone();
        if let (true, Some(first)) = (given.cluster_ips.is_empty(), &given.cluster_ip) {
            given.cluster_ips.push(first.clone());
        }
        let given = claims(&given, |_| true).into_iter().map(|claim| claim.value).collect();
        let old = self.context.objects.services.get(&key);
        if let Some(old) = old {
            self.ledger.release(&key, &old.spec);
            self.ledger.balancers.release(old);
        } else if let Some(had) = self.context.remembered.get(&key) {
            self.ledger.reserve(&key, had, |_| false);
            self.ledger.adopt_families(&mut service.spec, had);
        }
        let families = self.ledger.families();
        let mut admitted = Ok(());
        if let (Some(_), SourceId::File(_)) = (old, source) {
            // A file must also hold by itself: after a restart there is no Service that it could be an update of.
            admitted = admit(&mut service.spec.clone(), None, &families);
        }
        let admitted = admitted.and_then(|()| admit(&mut service.spec, old.map(|old| &old.spec), &families));
        let mut problems = admitted.err().unwrap_or_default();
        let mut unfit = self.unfit(&service.spec, old.map(|old| &old.spec));
        unfit.retain(|(path, _)| problems.iter().all(|(known, _)| known != path));
        problems.extend(unfit);
        if problems.is_empty() {
            self.by_key.insert(key.clone(), self.works.len());
            self.works.push(Work { key, service, located: Some(located), given, loss: None });
        }
        self.errors.extend(problems.into_iter().map(|(path, message)| (located, path, message)));
    }

    /// Values that are in none of the ranges, but for those that it has had before the ranges were changed.
    fn unfit(&self, spec: &ServiceSpec, old: Option<&ServiceSpec>) -> Vec<(FieldPath, String)> {
        let mut problems = Vec::new();
        let had_ip = |text: &String| old.is_some_and(|old| old.cluster_ips.contains(text));
        for (index, text) in spec.cluster_ips.iter().enumerate().filter(|(_, text)| !had_ip(text)) {
            if let Some(Err(why)) = text.parse().ok().map(|address| self.ledger.check_address(address)) {
                problems.push((field!["spec", "clusterIPs", index], why));
            }
        }
        let ports = spec.ports.iter().enumerate().filter(|_| has_node_ports(spec));
        let ports =
            ports.filter_map(|(index, port)| Some((field!["spec", "ports", index, "nodePort"], port.node_port?)));
        let health = spec.health_check_node_port.filter(|_| has_health_check(spec));
        let health = health.map(|number| (field!["spec", "healthCheckNodePort"], number));
        let had_port = |number: i64| {
            old.is_some_and(|old| {
                let ports = old.ports.iter().map(|port| port.node_port);
                ports.chain([old.health_check_node_port]).any(|had| had == Some(number))
            })
        };
        let numbers = ports.chain(health).filter(|(_, number)| !had_port(*number));
        problems.extend(numbers.filter_map(|(path, number)| Some((path, self.ledger.check_port(number).err()?))));
        problems
    }

    /// Everyone keeps what it had, then takes what it asks for, then gets what it lacks.
    fn settle(&mut self) {
        for asked_for in [false, true] {
            for index in 0..self.works.len() {
                let given = &self.works[index].given;
                let all = claims(&self.works[index].service.spec, |value| given.contains(&value));
                for claim in all.into_iter().filter(|claim| claim.given == asked_for) {
                    self.take(index, &claim);
                }
            }
        }
        let anyone = self.works.iter().find_map(|work| work.located);
        for work in &mut self.works {
            let had = self.context.remembered.get(&work.key);
            if let Err((path, message)) = self.ledger.allocate(&work.key, &mut work.service.spec, had)
                && let Some(located) = work.located.or(anyone)
            {
                self.errors.push((located, path, message));
            }
            if let Some(had) = had {
                self.ledger.release_unused(&work.key, had, &work.service.spec);
            }
            if work.located.is_some() {
                let old = self.context.objects.services.get(&work.key);
                let mut before = old.map(|old| old.load_balancer_addresses()).unwrap_or_default();
                before.extend(had.into_iter().flat_map(|had| &had.load_balancer).map(|held| held.value));
                self.ledger.balancers.assign(&mut work.service, &before);
            }
        }
    }

    fn take(&mut self, index: usize, claim: &Claim) {
        let Work { key, located, .. } = &self.works[index];
        let (key, located) = (key.clone(), *located);
        let before = self.context.objects.services.get(&key);
        let had =
            before.is_some_and(|before| claims(&before.spec, |_| true).iter().any(|held| held.value == claim.value));
        // What it has is kept, though the ranges of the configuration may have changed.
        let taken = if had { self.ledger.keep(&key, claim) } else { self.ledger.claim(&key, claim) };
        match taken {
            Ok(()) => {}
            Err(Refusal::Held { by, given: false }) if claim.given && !self.context.is_synced => {
                self.evict(&by, claim, &key);
                self.ledger.hold(&key, claim);
            }
            Err(refusal) => {
                if let Some(located) = located {
                    self.errors.push((located, claim.field.clone(), self.refused(claim, refusal)));
                }
            }
        }
    }

    fn refused(&self, claim: &Claim, refusal: Refusal) -> String {
        let (what, by) = match (claim.value, refusal) {
            (_, Refusal::Unfit(message)) => return message,
            (Value::Address(address) | Value::Balancer(address), Refusal::Held { by, .. }) => (address.to_string(), by),
            (Value::Port(port), Refusal::Held { by, .. }) => (port.to_string(), by),
        };
        let id = ObjectId { kind: crate::objects::Kind::Service, key: by };
        let place = match self.context.owners.get(&id).map(|owner| &owner.source) {
            Some(source @ SourceId::File(_)) => format!(" ({source})"),
            _ => String::new(),
        };
        format!("{what} is in use by {id}{place}: choose another, or leave it out to get a free one")
    }

    /// Takes a value from a Service that did not ask for it; it will be allocated another.
    fn evict(&mut self, loser: &Key, claim: &Claim, winner: &Key) {
        let index = if let Some(index) = self.by_key.get(loser) {
            *index
        } else {
            // One that is only remembered loses nothing yet.
            let Some(service) = self.context.objects.services.get(loser) else { return };
            let service = Service::clone(service);
            self.by_key.insert(loser.clone(), self.works.len());
            self.works.push(Work { key: loser.clone(), service, located: None, given: HashSet::new(), loss: None });
            self.works.len() - 1
        };
        let work = &mut self.works[index];
        let spec = &mut work.service.spec;
        let what = match claim.value {
            Value::Address(address) | Value::Balancer(address) => {
                let lost = address.to_string();
                spec.cluster_ips.iter_mut().filter(|ip| **ip == lost).for_each(String::clear);
                lost
            }
            Value::Port(port) => {
                let lost = Some(i64::from(port));
                spec.ports.iter_mut().filter(|of| of.node_port == lost).for_each(|of| of.node_port = None);
                spec.health_check_node_port = spec.health_check_node_port.filter(|of| Some(*of) != lost);
                port.to_string()
            }
        };
        work.loss = Some(format!("gave up {what}, because the manifest of service/{winner} asks for it"));
    }

    fn moved(&self, object: &Object, message: String) -> Diagnostic {
        let id = object.id();
        let owner = self.context.owners.get(&id);
        let origin = owner.map_or_else(|| "cli".to_owned(), |owner| owner.source.to_string());
        let mut diagnostic = Diagnostic::of_file(origin, message);
        diagnostic.object = Some(id.to_string());
        diagnostic
    }
}
