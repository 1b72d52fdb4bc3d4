//! The flow tables: lines for `conntrack list`, and sweeping at a bounded cost.

use super::control::{FlowSource, Fullness};
use crate::api::{Failure, FailureReason, FlowLine, LentPorts, MapFill};
use crate::datapath::affinity::AffinitySweep;
use crate::datapath::census::{Census, Count};
use crate::datapath::conntrack::{self, Fill, FlowEntry, FlowTables, Lent, Samples, Sweep};
use crate::figures::Counted;
use crate::image::Withdrawn;
use crate::maps::{MapError, PinnedMaps};
use crate::monitor::{Monitor, protocol_name};
use lb_common::Flow;
use lb_common::flow::TICK_SHIFT;
use lb_common::maps::AFFINITY;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

/// Time between two steps of a sweep.
const STEP: Duration = Duration::from_secs(1);
/// Time from the end of a sweep to the next: short beside what any flow may be silent, and a node without flows rests.
const REST: Duration = Duration::from_secs(10);
/// A sweep goes round the tables in about this many steps, unless they are too large for that.
const STEPS_A_ROUND: usize = 128;
/// Entries looked at in one step, at least and at most.
const STEP_LIMITS: (usize, usize) = (2048, 65_536);

impl FlowSource for PinnedMaps {
    fn each(&self, now: u32, sink: &mut dyn FnMut(&FlowEntry) -> bool) -> Result<(), Failure> {
        for entry in self.flow_tables().iter() {
            let entry = entry.map_err(|error| Failure::new(FailureReason::InternalError, error.to_string()))?;
            // Each flow has an entry for replies too, which says the same from the other side.
            if !entry.is_reply() && !entry.is_expired(now) && !sink(&entry) {
                break;
            }
        }
        Ok(())
    }

    fn fill(&self) -> Fullness {
        let count = || {
            let (mut fill, lent) = self.flow_tables().fill(conntrack::now())?;
            fill.push(self.affinity().fill()?);
            Ok::<_, MapError>((fill, lent))
        };
        let (fill, lent) = count().unwrap_or_else(|error| {
            warn!(%error, "the flow tables could not be counted");
            (Vec::new(), Lent::default())
        });
        let line =
            |fill: Fill| MapFill { name: fill.map.to_owned(), used: fill.entries, capacity: fill.capacity.into() };
        let ports = lent.fullest().map(|((backend, protocol), used)| LentPorts {
            backend,
            protocol: protocol_name(protocol),
            used,
            available: 0,
        });
        Fullness { maps: fill.into_iter().map(line).collect(), ports }
    }

    fn counted(&self, services: u32, backends: u32) -> Result<Counted, Failure> {
        self.counted(services, backends).map_err(|error| Failure::new(FailureReason::InternalError, error.to_string()))
    }
}

/// The line of a flow in a listing.
pub(super) fn line(entry: &FlowEntry, now: u32) -> FlowLine {
    let seconds = |ticks: u32| (u64::from(ticks) << TICK_SHIFT) / 1_000_000_000;
    let idle = now.saturating_sub(entry.tick);
    let left = entry.state().timeout_ticks().saturating_sub(idle);
    let translated = entry.flags & Flow::<[u8; 4]>::SNAT != 0;
    FlowLine {
        protocol: protocol_name(entry.protocol),
        state: entry.state().name().to_owned(),
        client: entry.source.to_string(),
        frontend: entry.destination.to_string(),
        backend: entry.rewritten_destination.to_string(),
        source_nat: translated.then(|| entry.rewritten_source.to_string()),
        idle_seconds: seconds(idle),
        expires_seconds: seconds(left),
    }
}

/// How often the tables are searched for the flows of what was withdrawn: a packet that comes in between may make the entry
/// of one direction again from that of the other, and only once a tick.
const SEARCHES: usize = 3;

/// Where the sweeps stand.
#[derive(Debug, Default)]
pub(super) struct Position {
    flows: Sweep,
    clients: AffinitySweep,
    samples: Samples,
    /// Of the tables that nobody sweeps.
    counts: [Count; 3],
}

impl Position {
    /// Deletes what is too old at tick `now` among the next `limit` flow entries, which it shows to `gone`, and `limit` clients;
    /// how many that were.
    pub(super) fn step(
        &mut self,
        maps: &PinnedMaps,
        now: u32,
        limit: usize,
        gone: &mut dyn FnMut(&FlowEntry),
    ) -> Result<usize, MapError> {
        let flows = maps.flow_tables().sweep_expired(&mut self.flows, now, limit, gone)?;
        Ok(flows + maps.affinity().sweep(&mut self.clients, now, limit)?)
    }

    /// Counts as it goes: what is known by now goes into the census.
    fn count(&mut self, maps: &PinnedMaps, census: &Mutex<Census>, now: u32, limit: usize) -> Result<(), MapError> {
        // Nobody else writes it; whoever reads it must not wait for the tables.
        let mut next = lock(census).clone();
        self.flows.tell(&mut next);
        maps.flow_tables().count_evictions(&mut self.samples, &mut next, now)?;
        if let Some(entries) = self.clients.entries() {
            next.fill.insert(AFFINITY, Fill { map: AFFINITY, entries, capacity: maps.affinity().capacity() });
        }
        let others = maps.count_others(&mut self.counts, limit)?;
        next.fill.extend(others.into_iter().map(|fill| (fill.map, fill)));
        *lock(census) = next;
        Ok(())
    }

    /// How long to wait for the next step.
    fn pause(&self) -> Duration {
        let has_been_round = self.flows.is_at_the_start() && self.clients.is_at_the_start();
        // Where flows come and go it is counted what is evicted.
        if has_been_round && self.samples.is_empty() { REST } else { STEP }
    }
}

/// The value; whoever panicked with it in hand has left it whole.
pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets the flows of withdrawn endpoints, and gives the memory of expired flows back, a little at a time, for as long as
/// the daemon runs.
pub(super) async fn sweep(
    maps: PinnedMaps,
    max_flows: u32,
    monitor: Monitor,
    mut withdrawn: mpsc::UnboundedReceiver<HashSet<Withdrawn>>,
    census: Arc<Mutex<Census>>,
) {
    // Two entries for each flow, in tables of two families.
    let limit = (max_flows as usize * 4 / STEPS_A_ROUND).clamp(STEP_LIMITS.0, STEP_LIMITS.1);
    let mut position = Position::default();
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(next) => {}
            Some(mut endpoints) = withdrawn.recv() => {
                while let Ok(more) = withdrawn.try_recv() {
                    endpoints.extend(more);
                }
                let tables = maps.flow_tables().clone();
                // Not if the runtime is going away.
                tokio::task::spawn_blocking(move || forget(&tables, &endpoints)).await.ok();
                // What was forgotten is not what was evicted.
                position.samples = Samples::default();
                continue;
            }
        }
        let (maps, census, monitor) = (maps.clone(), Arc::clone(&census), monitor.clone());
        let step = tokio::task::spawn_blocking(move || {
            let now = conntrack::now();
            let swept = position.step(&maps, now, limit, &mut |entry| monitor.expired(entry));
            let swept = swept.and_then(|swept| position.count(&maps, &census, now, limit).map(|()| swept));
            (position, swept)
        });
        match step.await {
            Ok((next, Ok(swept))) => {
                position = next;
                if swept > 0 {
                    debug!(swept, "expired flows and clients forgotten");
                }
            }
            Ok((_, Err(error))) => {
                warn!(%error, "expired flows and clients could not be forgotten; beginning anew");
                position = Position::default();
            }
            // The runtime is going away.
            Err(_) => return,
        }
        next = Instant::now() + position.pause();
    }
}

/// Forgets the flows to endpoints that were withdrawn.
pub(super) fn forget(tables: &FlowTables, endpoints: &HashSet<Withdrawn>) {
    for _ in 0..SEARCHES {
        match tables.forget(endpoints) {
            Ok(0) => break,
            Ok(forgotten) => debug!(forgotten, "flows to withdrawn endpoints forgotten"),
            Err(error) => {
                warn!(%error, "flows to withdrawn endpoints could not be forgotten");
                break;
            }
        }
    }
}
