//! Requests that change or describe objects, as the engine answers them.

use super::control::{How, invalid};
use super::engine::{Engine, MUCH};
use crate::api::{
    Applied, ApplyAnswer, DeleteAnswer, Failure, FailureReason, Outcome, Problem, Rehearsed, ServiceDescription,
    catalogue,
};
use crate::manifest::{Parsed, Skipped};
use crate::memory;
use crate::objects::{Key, Kind, ObjectId, Objects};
use crate::store::{self, Change, Rejected, Snapshot, SourceId, Update};
use jiff::Timestamp;
use std::collections::{BTreeSet, HashMap};
use tracing::{error, info, warn};

impl Engine {
    /// Applies manifests of the CLI: all or nothing. They are in the maps when it returns, or `status` says why not.
    pub(super) fn apply(&mut self, mut parsed: Parsed, how: How) -> Result<ApplyAnswer, Failure> {
        let removed = self.left_over(&mut parsed, how.prune);
        if how.dry_run {
            return self.rehearse(parsed, removed);
        }
        let skipped = parsed.skipped.iter().map(skipped).collect();
        let places = places(&parsed);
        let pruned = removed.iter().cloned().map(Into::into).collect();
        let done = self.store.apply_and_remove(&SourceId::Cli, parsed, removed, Timestamp::now()).map_err(refusal)?;
        let mut warnings: Vec<String> = done.warnings.iter().map(ToString::to_string).collect();
        let applied = outcomes(done.changes, &places);
        self.converge();
        let pods = applied.iter().filter(|applied| applied.object.kind == Kind::Pod);
        let pods = pods.flat_map(|pod| self.readiness.problems_of(&Key::new(&pod.object.namespace, &pod.object.name)));
        warnings.extend(pods.map(|problem| format!("{}: {}", problem.subject, problem.message)));
        warnings.extend(self.keep());
        let waiting = (!self.store.is_synced()).then_some("not every source has been read");
        let reason = self.failure().or(waiting);
        warnings.extend(reason.map(|reason| format!("accepted, but not in the datapath yet: {reason}")));
        Ok(ApplyAnswer { applied, skipped, warnings, pruned, rehearsed: Vec::new() })
    }

    /// What goes when these are all of the set of this name, which they are marked with.
    pub(super) fn left_over(&self, parsed: &mut Parsed, set: Option<String>) -> BTreeSet<ObjectId> {
        set.map_or_else(BTreeSet::new, |set| {
            store::mark(parsed, &set);
            self.store.left_over(parsed, &set)
        })
    }

    /// Tells what an apply would do.
    fn rehearse(&mut self, parsed: Parsed, removed: BTreeSet<ObjectId>) -> Result<ApplyAnswer, Failure> {
        let skipped = parsed.skipped.iter().map(skipped).collect();
        let places = places(&parsed);
        let pruned = removed.iter().cloned().map(Into::into).collect();
        let before = self.store.snapshot();
        let (after, done) = self.store.rehearse(&SourceId::Cli, parsed, removed, Timestamp::now()).map_err(refusal)?;
        let manifest = |objects: &Objects, id: &ObjectId| objects.get(id).map(|object| catalogue::whole(&object));
        let changed = done.changes.iter().filter(|(_, change)| *change != Change::Unchanged);
        let mut changed: Vec<&ObjectId> = changed.map(|(id, _)| id).collect();
        changed.sort_by_key(|id| places.get(id).copied().unwrap_or(usize::MAX));
        let rehearsed = changed.into_iter().map(|id| Rehearsed {
            before: manifest(&before, id),
            after: manifest(&after, id),
            object: id.clone().into(),
        });
        let rehearsed = rehearsed.collect();
        let warnings = done.warnings.iter().map(ToString::to_string).collect();
        Ok(ApplyAnswer { applied: outcomes(done.changes, &places), skipped, warnings, pruned, rehearsed })
    }

    /// Takes news from a feed of sources, such as the watched directory.
    pub(super) fn take_update(&mut self, update: Update) {
        let mut is_much = false;
        for (_, snapshot) in &update.changes {
            let Snapshot::Objects(parsed) = snapshot else { continue };
            parsed.skipped.iter().for_each(|of| info!("skipped {}", skipped(of)));
        }
        for (source, outcome) in self.store.update(update, Timestamp::now()) {
            is_much |= outcome.as_ref().is_ok_and(|applied| applied.changes.len() > MUCH);
            match outcome {
                Ok(applied) => {
                    applied.warnings.iter().for_each(|warning| warn!("{warning}"));
                    if applied.is_change() {
                        let changed = applied.changes.iter().filter(|(_, change)| *change != Change::Unchanged);
                        info!(%source, changed = changed.count(), "manifests taken");
                    }
                }
                Err(Rejected::Invalid(diagnostics)) => {
                    error!(%source, "the manifests are wrong, the last good ones count");
                    for diagnostic in diagnostics {
                        error!("{diagnostic}");
                    }
                }
                Err(rejected) => error!(%source, "{rejected}"),
            }
        }
        self.converge();
        self.keep().inspect(|warning| error!("{warning}"));
        if is_much {
            memory::give_back();
        }
    }

    /// Has the disk keep what was changed; a warning says that it does not. The maps come first: the disk is slow.
    fn keep(&mut self) -> Option<String> {
        self.store.flush().err().map(|error| format!("in force, but perhaps not after a restart: {error}"))
    }

    /// Deletes objects of the CLI: all or nothing.
    pub(super) fn delete(&mut self, mut ids: Vec<ObjectId>, ignore_not_found: bool) -> Result<DeleteAnswer, Failure> {
        let objects = self.store.snapshot();
        if ignore_not_found {
            ids.retain(|id| objects.get(id).is_some());
        }
        let deleted = self.store.delete(&ids, Timestamp::now()).map_err(refusal)?;
        self.converge();
        self.keep().inspect(|warning| error!("{warning}"));
        Ok(DeleteAnswer { deleted: deleted.into_iter().map(Into::into).collect() })
    }

    /// Describes a Service as it works on this node.
    pub(super) fn describe(&self, key: &Key) -> Result<ServiceDescription, Failure> {
        let id = ObjectId { kind: Kind::Service, key: key.clone() };
        let source = self.store.source_of(&id).map(|source| source.to_string()).unwrap_or_default();
        let described = self.balancer.describe(key, source, self.maps.as_ref());
        let described = described.ok_or_else(|| Failure::not_found(Kind::Service, &key.name))?;
        let mut described = described.map_err(|error| Failure::new(FailureReason::InternalError, error.to_string()))?;
        described.problems.extend(self.health.problems_of(key));
        let subject = format!("service {key}");
        let pending = self.store.why_pending(key).map(|why| format!("no load balancer address: {why}"));
        described.load_balancer_pending = pending.is_some();
        described.problems.extend(pending.map(|message| Problem { subject, message }));
        let endpoints = described.ports.iter().flat_map(|port| &port.endpoints);
        let pods: BTreeSet<&String> = endpoints.filter_map(|endpoint| endpoint.pod.as_ref()).collect();
        let unprobed = pods.into_iter().flat_map(|pod| self.readiness.problems_of(&Key::new(&key.namespace, pod)));
        let unprobed: Vec<Problem> = unprobed.collect();
        described.problems.extend(unprobed);
        Ok(described)
    }
}

/// Where each object stands in the manifests.
pub(super) fn places(parsed: &Parsed) -> HashMap<ObjectId, usize> {
    parsed.objects.iter().enumerate().map(|(place, located)| (located.object.id(), place)).collect()
}

/// What became of each object, in the order of the manifests; those of others come last.
pub(super) fn outcomes(mut changes: Vec<(ObjectId, Change)>, places: &HashMap<ObjectId, usize>) -> Vec<Applied> {
    let outcome = |change| match change {
        Change::Created => Some(Outcome::Created),
        Change::Configured => Some(Outcome::Configured),
        Change::Unchanged => Some(Outcome::Unchanged),
        // These are told apart.
        Change::Deleted => None,
    };
    changes.sort_by_key(|(id, _)| places.get(id).copied().unwrap_or(usize::MAX));
    let applied = changes
        .into_iter()
        .filter_map(|(id, change)| outcome(change).map(|outcome| Applied { object: id.into(), outcome }));
    applied.collect()
}

/// What of the manifests is none of ours, and why.
pub(super) fn skipped(skipped: &Skipped) -> String {
    let Skipped { origin, line, kind, name, .. } = skipped;
    format!("{}/{name} ({origin}:{line}): {}", kind.to_lowercase(), skipped.why())
}

pub(super) fn refusal(rejected: Rejected) -> Failure {
    match rejected {
        Rejected::Invalid(diagnostics) => invalid(&diagnostics),
        Rejected::NotFound(ids) => match ids.as_slice() {
            [id] => Failure::not_found(id.kind, &id.key.name),
            ids => {
                let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
                Failure::new(FailureReason::NotFound, format!("{} not found; nothing was deleted", names.join(", ")))
            }
        },
        Rejected::State(error) => Failure::new(FailureReason::InternalError, format!("{error}; nothing was changed")),
    }
}
