//! The audit at work: one round through all maps, as fast as it goes for whoever asks, and a little at a time in the
//! background.
//!
//! The configuration maps are compared by the engine itself, which alone writes them, a bounded piece between other things that
//! it does. The tables that the datapath writes are read away from it; what looks wrong there is looked at again some ticks
//! later. Where time is no matter, each piece of work is followed by a pause of many times its length: so the audit takes no
//! more than a fiftieth of one CPU, however large the maps are.

use super::control::Command;
use super::engine::Engine;
use crate::api::audit::{AuditAnswer, AuditStatus, Finding};
use crate::api::{Failure, FailureReason};
use crate::audit::{Invariant, words::Names};
use crate::datapath::conntrack::audit::{FlowFacts, Suspect};
use crate::datapath::conntrack::{self, Sweep};
use crate::datapath::side::{self, SideFinding, SideWalk};
use crate::image::{Cursor, Difference, Given, dangling};
use crate::maps::{LbMaps as _, MapError, PinnedMaps};
use lb_common::gate::End;
use lb_common::maps;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

/// Entries looked at in one piece.
const PIECE: usize = 1024;
/// A pause is so many times as long as the work before it.
const PAUSES: u32 = 49;
/// Time between two looks at what looks wrong: a flow entry that was lost, or half of a change, is put right by the first packet
/// of the next tick.
const SECOND_LOOK: Duration = Duration::from_millis(3500);
/// So many entries that look wrong are looked at again; where there are more, the next round goes on.
const SUSPECTS: usize = 4096;
/// So many of the latest findings are kept.
const LATEST: usize = 64;

/// What the engine knows that a look at the datapath's tables is judged by.
#[derive(Debug, Default)]
pub(super) struct Reference {
    given: Given,
    interfaces: BTreeSet<u32>,
    /// The ids of the counters in use, with whose they are.
    services: HashMap<u32, String>,
    backends: HashMap<u32, String>,
    /// What the image itself has wrong.
    dangling: Vec<String>,
}

/// What the engine found in one piece of the configuration maps.
#[derive(Debug, Default)]
pub(super) struct Piece {
    findings: Vec<Finding>,
    /// Addresses for which the gate is shut.
    shut: Vec<End>,
    entries: u64,
    next: Option<Cursor>,
    spent: Duration,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub(super) struct Auditor {
    pub(super) commands: mpsc::Sender<Command>,
    /// `None`: there are no tables of a datapath.
    pub(super) maps: Option<PinnedMaps>,
}

/// One round.
struct Round<'a> {
    auditor: &'a Auditor,
    /// With pauses.
    calm: bool,
    repair: bool,
    answer: AuditAnswer,
}

impl Auditor {
    /// Looks at everything, and repairs what it finds.
    pub(super) async fn round(&self, calm: bool, repair: bool) -> Result<AuditAnswer, Failure> {
        let mut round = Round { auditor: self, calm, repair, answer: AuditAnswer::default() };
        round.configuration().await?;
        match &self.maps {
            Some(maps) => round.tables(maps).await?,
            None => round.answer.left_out.push("flows: there is no datapath".to_owned()),
        }
        let mut answer = round.answer;
        answer.findings.sort();
        Ok(answer)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Failure> {
        let stopping = || Failure::new(FailureReason::ServiceUnavailable, "the daemon is stopping");
        let (sender, answer) = oneshot::channel();
        self.commands.send(command(sender)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

impl Round<'_> {
    async fn spent(&mut self, spent: Duration) {
        self.answer.busy_micros += u64::try_from(spent.as_micros()).unwrap_or(u64::MAX);
        if self.calm {
            tokio::time::sleep(spent * PAUSES).await;
        }
    }

    /// The maps that the daemon writes.
    async fn configuration(&mut self) -> Result<(), Failure> {
        let (mut cursor, mut shut) = (Some(Cursor::START), Vec::new());
        let mut findings = Vec::new();
        while let Some(at) = cursor {
            let piece = self.auditor.ask(|answer| Command::Inspect(at, PIECE, answer)).await??;
            findings.extend(piece.findings);
            shut.extend(piece.shut);
            self.answer.entries += piece.entries;
            cursor = piece.next;
            self.spent(piece.spent).await;
        }
        if self.repair && !findings.is_empty() {
            let repaired = self.auditor.ask(|answer| Command::Repair(shut, answer)).await?;
            match repaired {
                Ok(()) => findings.iter_mut().for_each(|finding| finding.repaired = true),
                Err(failure) => warn!("what the audit found could not be repaired: {failure}"),
            }
        }
        self.answer.findings.extend(findings);
        Ok(())
    }

    /// The tables that the datapath writes.
    async fn tables(&mut self, maps: &PinnedMaps) -> Result<(), Failure> {
        let calm = self.calm;
        let reference = Arc::new(self.auditor.ask(|answer| Command::Reference(calm, answer)).await?);
        for wrong in &reference.dangling {
            self.answer.findings.push(Finding {
                invariant: Invariant::References.name().to_owned(),
                map: maps::SERVICES.to_owned(),
                object: "what the daemon means to write".to_owned(),
                detail: wrong.clone(),
                repaired: false,
            });
        }
        let suspects = self.flows(maps, &reference).await?;
        let first = self.side(maps, &reference).await?;
        if suspects.is_empty() && first.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(SECOND_LOOK).await;
        let reference = Arc::new(self.auditor.ask(|answer| Command::Reference(calm, answer)).await?);
        self.suspects(maps, &reference, suspects).await?;
        let again = self.side(maps, &reference).await?;
        let confirmed = again.into_iter().filter(|finding| first.iter().any(|other| other.is_same(finding)));
        for finding in confirmed {
            let repaired = self.repair && maps.side_tables().repair(&finding).unwrap_or_else(|error| told(&error));
            let SideFinding { invariant, map, object, detail, .. } = finding;
            let (invariant, map) = (invariant.name().to_owned(), map.to_owned());
            self.answer.findings.push(Finding { invariant, map, object, detail, repaired });
        }
        Ok(())
    }

    /// The flows that look wrong.
    async fn flows(&mut self, maps: &PinnedMaps, reference: &Arc<Reference>) -> Result<Vec<Suspect>, Failure> {
        let gate = Arc::new(maps.gate().map_err(failed)?);
        let (mut sweep, mut suspects) = (Sweep::default(), Vec::new());
        loop {
            let (maps, reference, gate) = (maps.clone(), Arc::clone(reference), Arc::clone(&gate));
            let (seen, found, next, spent) = blocking(move || {
                let (begun, mut found) = (Instant::now(), Vec::new());
                let facts = reference.facts(&gate);
                let seen = maps.flow_tables().suspects(&mut sweep, &facts, PIECE, &mut found)?;
                Ok((seen, found, sweep, begun.elapsed()))
            })
            .await?;
            sweep = next;
            let Some(seen) = seen else { return Ok(suspects) };
            self.answer.entries += seen as u64;
            let room = SUSPECTS.saturating_sub(suspects.len());
            suspects.extend(found.into_iter().take(room));
            self.spent(spent).await;
        }
    }

    /// Looks again at flows that look wrong.
    async fn suspects(
        &mut self,
        maps: &PinnedMaps,
        reference: &Arc<Reference>,
        suspects: Vec<Suspect>,
    ) -> Result<(), Failure> {
        let gate = maps.gate().map_err(failed)?;
        let (maps, reference, repair) = (maps.clone(), Arc::clone(reference), self.repair);
        let (findings, shut, spent) = blocking(move || {
            let begun = Instant::now();
            let facts = reference.facts(&gate);
            let (mut findings, mut shut) = (Vec::new(), Vec::new());
            for suspect in suspects {
                let Some(found) = maps.flow_tables().look_again(&suspect, &facts)? else { continue };
                let idle = found.entry.tick == suspect.entry.tick;
                for (invariant, detail) in &found.violations {
                    let repaired = match invariant {
                        Invariant::Gate => {
                            shut.push(found.admitted());
                            false
                        }
                        invariant => repair && maps.flow_tables().repair(&found, *invariant, idle)?,
                    };
                    let (map, object) = (found.map.to_owned(), found.name());
                    let invariant = invariant.name().to_owned();
                    findings.push(Finding { invariant, map, object, detail: detail.clone(), repaired });
                }
            }
            Ok((findings, shut, begun.elapsed()))
        })
        .await?;
        let mut findings: Vec<Finding> = findings;
        if self.repair && !shut.is_empty() {
            // The engine alone writes the gate.
            let admitted = self.auditor.ask(|answer| Command::Repair(shut, answer)).await?.is_ok();
            let of_gate = findings.iter_mut().filter(|finding| finding.invariant == Invariant::Gate.name());
            of_gate.for_each(|finding| finding.repaired = admitted);
        }
        // What one repair has removed, the next found removed.
        let removed: BTreeSet<String> =
            findings.iter().filter(|finding| finding.repaired).map(|finding| finding.object.clone()).collect();
        for finding in &mut findings {
            finding.repaired |= removed.contains(&finding.object);
        }
        self.answer.findings.extend(findings);
        self.spent(spent).await;
        Ok(())
    }

    /// What looks wrong in the tables beside the flows, and in the counters of what is in use.
    async fn side(&mut self, maps: &PinnedMaps, reference: &Arc<Reference>) -> Result<Vec<SideFinding>, Failure> {
        let (mut walk, mut all) = (SideWalk::default(), Vec::new());
        loop {
            let (maps, reference) = (maps.clone(), Arc::clone(reference));
            let (seen, found, next, spent) = blocking(move || {
                let (begun, mut found) = (Instant::now(), Vec::new());
                let now = conntrack::now();
                let seen = maps.side_tables().step(&mut walk, &reference.given, now, PIECE, &mut found)?;
                Ok((seen, found, walk, begun.elapsed()))
            })
            .await?;
            walk = next;
            all.extend(found);
            let Some(seen) = seen else { break };
            self.answer.entries += seen as u64;
            self.spent(spent).await;
        }
        for map in [maps::SERVICE_STATS, maps::BACKEND_STATS] {
            let users = if map == maps::SERVICE_STATS { &reference.services } else { &reference.backends };
            let ids: Vec<u32> = users.keys().copied().collect();
            for ids in ids.chunks(PIECE) {
                let (maps, reference, ids) = (maps.clone(), Arc::clone(reference), ids.to_vec());
                let (found, spent) = blocking(move || {
                    let begun = Instant::now();
                    Ok((counters(&maps, &reference, map, &ids)?, begun.elapsed()))
                })
                .await?;
                all.extend(found);
                self.spent(spent).await;
            }
            self.answer.entries += users.len() as u64;
        }
        Ok(all)
    }
}

fn counters(
    maps: &PinnedMaps,
    reference: &Reference,
    map: &'static str,
    ids: &[u32],
) -> Result<Vec<SideFinding>, MapError> {
    let (traffic, users) = if map == maps::SERVICE_STATS {
        (maps.service_stats(ids)?, &reference.services)
    } else {
        (maps.backend_stats(ids)?, &reference.backends)
    };
    let wrong = traffic.iter().filter_map(|(id, traffic)| {
        let object = users.get(id).cloned().unwrap_or_default();
        side::wrong_traffic(traffic).map(|detail| side::counter_finding(map, object, detail))
    });
    Ok(wrong.collect())
}

impl Reference {
    fn facts<'a>(&'a self, gate: &'a [u64]) -> FlowFacts<'a> {
        FlowFacts { now: conntrack::now(), given: &self.given, interfaces: &self.interfaces, gate }
    }
}

impl Engine {
    /// Compares a piece of the configuration maps with what they should hold.
    pub(super) fn inspect(&self, cursor: Cursor, limit: usize) -> Result<Piece, Failure> {
        let begun = Instant::now();
        let busy =
            || Failure::new(FailureReason::ServiceUnavailable, "the maps are being brought up to date: ask again");
        if !self.is_filled() {
            return Err(busy());
        }
        let inspected = self.balancer.inspect(self.maps.as_ref(), cursor, limit).map_err(failed)?.ok_or_else(busy)?;
        let host = self.host.borrow();
        let names = Names::new(self.balancer.renderer(), &host);
        let shut = inspected.differences.iter().filter_map(|difference| match difference {
            Difference::Shut(_, address) => Some(*address),
            _ => None,
        });
        Ok(Piece {
            shut: shut.collect(),
            findings: inspected.differences.iter().map(|difference| names.finding(difference)).collect(),
            entries: inspected.entries,
            next: inspected.next,
            spent: begun.elapsed(),
        })
    }

    /// Opens the gate for these, and makes the maps hold what they should.
    pub(super) fn repair(&mut self, shut: &[End]) -> Result<(), Failure> {
        for end in shut {
            self.maps.admit(*end).map_err(failed)?;
        }
        self.balancer.audit(self.maps.as_mut()).map_err(failed).map(drop)
    }

    /// What a look at the datapath's tables is judged by. Whether the image is sound is told where time is no matter.
    pub(super) fn reference(&self, calm: bool) -> Reference {
        let (renderer, host) = (self.balancer.renderer(), self.host.borrow());
        let names = Names::new(renderer, &host);
        let image = renderer.image();
        let mut wrong = if calm { Vec::new() } else { dangling(image) };
        let mut services = HashMap::new();
        for (key, service) in &image.services {
            // Ten thousand names take some milliseconds to write.
            let name = if calm { format!("service port id {}", service.id) } else { names.service(*key) };
            if let Some(other) = services.insert(service.id, name) {
                wrong.push(format!("{other} and {} have the same counter id", names.service(*key)));
            }
        }
        let backends = image.backends.iter().map(|(id, backend)| {
            let address = backend.ip().map_or_else(String::new, |address| format!(" ({address})"));
            (*id, format!("backend {id}{address}"))
        });
        Reference {
            given: renderer.given(),
            interfaces: host.interfaces.keys().copied().collect(),
            services,
            backends: backends.collect(),
            dangling: wrong,
        }
    }
}

/// Runs rounds for as long as the daemon runs, `interval` after each other, and keeps what they come to.
pub(super) async fn in_background(auditor: Auditor, interval: Duration, status: Arc<Mutex<AuditStatus>>) {
    let lock = || status.lock().unwrap_or_else(PoisonError::into_inner);
    lock().interval_seconds = interval.as_secs();
    loop {
        tokio::time::sleep(interval).await;
        let answer = match auditor.round(true, true).await {
            Ok(answer) => answer,
            Err(failure) => {
                debug!("the audit was put off: {failure}");
                continue;
            }
        };
        for Finding { invariant, map, object, detail, repaired } in &answer.findings {
            warn!(invariant, map, object, repaired, "the audit found: {detail}");
        }
        debug!(entries = answer.entries, busy_micros = answer.busy_micros, "the maps were audited");
        let mut status = lock();
        status.rounds += 1;
        status.entries = answer.entries;
        status.busy_micros = answer.busy_micros;
        status.found += answer.findings.len() as u64;
        status.repaired += answer.findings.iter().filter(|finding| finding.repaired).count() as u64;
        status.open = answer.findings.iter().filter(|finding| !finding.repaired).cloned().collect();
        status.latest.extend(answer.findings);
        let surplus = status.latest.len().saturating_sub(LATEST);
        status.latest.drain(..surplus);
    }
}

/// Work that waits for the kernel, on a thread for such.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MapError> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    let broke_off = |error| Failure::new(FailureReason::InternalError, format!("the audit broke off: {error}"));
    done.map_err(broke_off)?.map_err(failed)
}

fn failed(error: impl std::error::Error) -> Failure {
    Failure::new(FailureReason::InternalError, error.to_string())
}

fn told(error: &MapError) -> bool {
    warn!("what the audit found could not be repaired: {error}");
    false
}
