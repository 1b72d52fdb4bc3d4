//! Makes the [`Figures`] from what the engine knows and from what is counted beside it.

use super::control::{FlowSource, Handle};
use super::engine::Engine;
use super::flows::lock;
use super::report;
use crate::api::server::Control as _;
use crate::api::{Failure, MapFill};
use crate::datapath::census::Census;
use crate::datapath::conntrack::Fill;
use crate::figures::bound::Bound;
use crate::figures::{
    Figures, Histogram, Interfaces, LentFigures, Names, ProcessFigures, ReasonFigures, SourceFigures, Tally, exposition,
};
use crate::health::Scrape;
use crate::image::Renderer;
use crate::model::Views;
use crate::monitor::protocol_name;
use crate::store;
use lb_common::{Reason, Settings};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What the engine measures of itself.
#[derive(Debug, Default)]
pub(super) struct Measured {
    changes: Histogram,
    map_writes: u64,
    failed_rounds: u64,
    /// When the oldest change was taken that the maps do not have.
    taken: Option<Instant>,
    /// The names that were made last, and of what.
    names: Option<(Views, Arc<Names>)>,
}

impl Measured {
    /// A change was taken.
    pub(super) fn took(&mut self, now: Instant) {
        self.taken.get_or_insert(now);
    }

    /// Nothing is to be written before all objects are known.
    pub(super) fn is_starting(&mut self) {
        self.taken = None;
    }

    /// The maps have everything, by so many writes.
    pub(super) fn wrote(&mut self, writes: usize) {
        let taken = self.taken.take();
        if writes > 0 {
            self.map_writes += writes as u64;
            if let Some(taken) = taken {
                self.changes.observe(taken.elapsed());
            }
            // Ids may be others.
            self.names = None;
        }
    }

    /// They have not.
    pub(super) fn failed(&mut self) {
        self.failed_rounds += 1;
        self.names = None;
    }

    fn names(&mut self, views: &Views, renderer: &Renderer) -> Arc<Names> {
        match &self.names {
            Some((of, names)) if of.ptr_eq(views) => Arc::clone(names),
            _ => {
                let names = Arc::new(Names::new(views, renderer));
                self.names = Some((views.clone(), Arc::clone(&names)));
                names
            }
        }
    }
}

impl Engine {
    /// What the engine knows of the figures, and what the counters are called. The rest [`complete`] adds, beside it.
    pub(super) fn figures(&mut self) -> (Figures, Arc<Names>) {
        let names = self.measured.names(self.balancer.views(), self.balancer.renderer());
        let ports = u64::from(Settings::SNAT_PORTS.1 - Settings::SNAT_PORTS.0) + 1;
        let lent = |address| LentFigures { address, ports, used: 0, fullest: None };
        let host = self.host.borrow().clone();
        let interfaces = self.interfaces.status(self.hooks.as_ref(), &host);
        let attached = interfaces.iter().filter(|interface| !interface.attached.is_empty()).count();
        let figures = Figures {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            layout: crate::datapath::layout(),
            instance: self.config.instance.clone(),
            node: self.config.node_name.clone(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            ready: self.is_ready(),
            waiting_seconds: self.health.waiting(self.now()).as_secs_f64(),
            problems: self.problems().len() as u64,
            sources: self.source_figures(),
            objects: report::counted(&self.store.snapshot()),
            interfaces: Interfaces { attached: attached as u64, missing: (interfaces.len() - attached) as u64 },
            reasons: self.maps.reasons().map(|counts| reasons(&counts)).unwrap_or_default(),
            maps: report::fill(self.balancer.realized(), self.maps.as_ref()),
            lent: self.balancer.lent_addresses().into_iter().map(lent).collect(),
            changes: self.measured.changes.clone(),
            map_writes: self.measured.map_writes,
            failed_rounds: self.measured.failed_rounds,
            dns: self.dns.status().map(|status| status.counters),
            probes: self.readiness.figures(),
            ..Figures::default()
        };
        (figures, names)
    }

    /// The CLI, and the directory as a whole: its files would be too many names.
    fn source_figures(&self) -> Vec<SourceFigures> {
        let errors = |source: &store::Problem| source.diagnostics.len() as u64;
        let of_files =
            self.store.problems().iter().map(errors).sum::<u64>() + u64::from(self.sources.problem().is_some());
        let directory = self.sources.directory().map(|_| SourceFigures {
            name: "directory".to_owned(),
            synced: self.store.is_synced(),
            errors: of_files,
        });
        let cli = SourceFigures { name: "cli".to_owned(), synced: true, errors: 0 };
        [cli].into_iter().chain(directory).collect()
    }
}

fn reasons(counts: &[lb_common::ReasonCount]) -> Vec<ReasonFigures> {
    let line = |(reason, count): (&Reason, &lb_common::ReasonCount)| ReasonFigures {
        reason: reason.name().to_owned(),
        drop: reason.is_drop(),
        packets: count.packets,
        bytes: count.bytes,
    };
    Reason::ALL.iter().zip(counts).map(line).collect()
}

/// The text that Prometheus scrapes, made anew for each scrape, one at a time.
pub(super) fn scrape(handle: Arc<Handle>, bound: Bound) -> Scrape {
    let bound = Arc::new(tokio::sync::Mutex::new(bound));
    Arc::new(move || {
        let (handle, bound) = (Arc::clone(&handle), Arc::clone(&bound));
        Box::pin(async move {
            let mut bound = bound.lock_owned().await;
            let mut figures = handle.figures().await.map_err(|failure| failure.to_string())?;
            let written = tokio::task::spawn_blocking(move || {
                let told = bound.apply(&mut figures);
                exposition::text(&figures, told)
            });
            written.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        })
    })
}

/// Adds what is read without the engine: counters by name, the sweeper's census, the process.
pub(super) fn complete(
    mut figures: Figures,
    names: &Arc<Names>,
    flows: &dyn FlowSource,
    tally: &Mutex<Tally>,
    census: &Mutex<Census>,
) -> Result<Figures, Failure> {
    let room = |ids: &mut dyn Iterator<Item = &u32>| ids.max().map_or(0, |most| most + 1);
    let services = room(&mut names.services.iter().flat_map(|(_, ids)| ids));
    let backends = room(&mut names.backends.iter().flat_map(|(_, ids)| ids));
    {
        // Counters are read with the tally in hand, so that a later reading never comes before an earlier one.
        let mut tally = lock(tally);
        let counted = flows.counted(services, backends)?;
        (figures.services, figures.backends) = tally.read(names, &counted);
    }
    let Census { fill, evictable, evictions, lent } = lock(census).clone();
    let line = |fill: &Fill| MapFill { name: fill.map.to_owned(), used: fill.entries, capacity: fill.capacity.into() };
    figures.maps.extend(fill.values().map(line));
    figures.evictable = evictable.iter().map(|(map, count)| ((*map).to_owned(), *count)).collect();
    figures.evictions = evictions.iter().map(|(map, count)| ((*map).to_owned(), count.round() as u64)).collect();
    for one in &mut figures.lent {
        if let Some((backend, protocol, used)) = lent.get(&one.address) {
            (one.used, one.fullest) = (*used, Some((*backend, protocol_name(*protocol))));
        }
    }
    figures.process = ProcessFigures::read();
    Ok(figures)
}
