//! What load balancers and supervisors ask by HTTP: the health check ports of Services, and the proxy's own `/healthz`,
//! `/livez` and `/readyz`; and what Prometheus asks, `/metrics`.
//!
//! [`Health`] keeps a listener open for each port on each of the node's addresses that node ports are served on, as
//! kube-proxy does, while Services and addresses come and go. A port that cannot be had is told, and tried again.

mod answers;
mod check;
mod listener;

pub(crate) use answers::{PATIENCE, Ready};
pub(crate) use listener::Scrape;

use crate::api::Problem;
use crate::model::Views;
use crate::objects::{IpFamily, Key, Service, Table};
use check::Checks;
use jiff::Timestamp;
use listener::{Desk, Listener, Role};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tracing::{info, warn};

/// Pause before what could not be bound is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Where somebody may ask, and for what.
type Place = (SocketAddr, Role);

/// See the [module](self).
pub(crate) struct Health {
    desk: Desk,
    checks: Checks,
    proxy: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    addresses: Vec<IpAddr>,
    open: BTreeMap<Place, Listener>,
    /// Places that could not be had.
    refused: BTreeMap<Place, String>,
    retry: Option<Instant>,
}

impl Health {
    /// Nobody is listened to yet; `runtime` is where requests will be answered.
    pub(crate) fn new(runtime: Handle) -> Self {
        Self {
            desk: Desk::new(runtime),
            checks: Checks::default(),
            proxy: None,
            metrics: None,
            addresses: Vec::new(),
            open: BTreeMap::new(),
            refused: BTreeMap::new(),
            retry: None,
        }
    }

    /// The same, and it tells metrics.
    pub(crate) fn with_metrics(runtime: Handle, scrape: Scrape) -> Self {
        let mut health = Self::new(runtime);
        health.desk.scrape = Some(scrape);
        health
    }

    /// Answers for the proxy at the one address, and with metrics at the other; `None`: nowhere.
    pub(crate) fn answer_at(&mut self, proxy: Option<SocketAddr>, metrics: Option<SocketAddr>, now: Instant) {
        let is_other = (self.proxy, self.metrics) != (proxy, metrics);
        (self.proxy, self.metrics) = (proxy, metrics);
        self.listen(is_other, now);
    }

    /// Answers for these Services, as this node sees them, at these addresses of the node.
    pub(crate) fn follow(&mut self, services: &Table<Service>, views: &Views, addresses: &[IpAddr], now: Instant) {
        let mut is_other = self.checks.update(services, views);
        if is_other {
            self.desk.answers.take(self.checks.iter());
        }
        if self.addresses != addresses {
            self.addresses = addresses.to_vec();
            is_other = true;
        }
        self.listen(is_other, now);
    }

    /// Opens and closes what has to be, and tries again what is due.
    fn listen(&mut self, is_other: bool, now: Instant) {
        let is_due = self.retry.is_some_and(|when| when <= now);
        if !is_other && !is_due {
            return;
        }
        let wanted: BTreeMap<Place, Option<Key>> = self.places().collect();
        self.open.retain(|place, _| wanted.contains_key(place));
        let mut refused = BTreeMap::new();
        for (place, service) in wanted {
            if self.open.contains_key(&place) {
                continue;
            }
            let (address, role) = place;
            match Listener::open(address, role, &self.desk) {
                Ok(listener) => {
                    let of = service.map_or_else(|| "the proxy".to_owned(), |key| format!("service {key}"));
                    let what = if role == Role::Metrics { "metrics and health" } else { "health" };
                    info!(%address, "{what} of {of}: answered by HTTP");
                    self.open.insert(place, listener);
                }
                Err(error) => {
                    let message = sentence(address, &error);
                    if self.refused.get(&place) != Some(&message) {
                        warn!("{message}");
                    }
                    refused.insert(place, message);
                }
            }
        }
        self.retry = (!refused.is_empty()).then(|| now + RETRY);
        self.refused = refused;
    }

    /// Everywhere that somebody may ask, and about which Service.
    fn places(&self) -> impl Iterator<Item = (Place, Option<Key>)> {
        // Where both are the same, metrics come with the rest.
        let proxy = self.proxy.filter(|_| self.proxy != self.metrics).map(|address| (address, Role::Proxy));
        let proxy = proxy.into_iter().chain(self.metrics.map(|address| (address, Role::Metrics)));
        let proxy = proxy.map(|place| (place, None));
        let of_services = self.checks.iter().flat_map(|check| {
            let has = |address: &&IpAddr| check.endpoints.contains_key(&IpFamily::of(**address));
            let place = |address: &IpAddr| (SocketAddr::new(*address, check.port), Role::Service);
            self.addresses.iter().filter(has).map(move |address| (place(address), Some(check.service.clone())))
        });
        proxy.chain(of_services)
    }

    /// When to try again what was refused.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.retry
    }

    /// What cannot be asked, and why.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let services: BTreeMap<u16, &Key> = self.checks.iter().map(|check| (check.port, &check.service)).collect();
        let problem = |((address, role), message): (&Place, &String)| {
            let service = services.get(&address.port()).filter(|_| *role == Role::Service);
            let own = if *role == Role::Metrics { "metrics" } else { "healthz" };
            let subject = service.map_or_else(|| own.to_owned(), |key| format!("service {key}"));
            Problem { subject, message: message.clone() }
        };
        self.refused.iter().map(problem).collect()
    }

    /// What cannot be asked about this Service, and why.
    pub(crate) fn problems_of(&self, service: &Key) -> Vec<Problem> {
        let subject = format!("service {service}");
        self.problems().into_iter().filter(|problem| problem.subject == subject).collect()
    }

    /// Whether this node is to go, and should get no new connections.
    pub(crate) fn set_leaving(&self, is_leaving: bool) {
        self.desk.answers.facts().is_leaving = is_leaving;
    }

    /// How far the daemon has come.
    pub(crate) fn set_ready(&self, ready: Ready) {
        self.desk.answers.facts().ready = ready;
    }

    /// The engine's clock is ahead of the system's by so much.
    pub(crate) fn set_ahead(&self, ahead: Duration) {
        self.desk.answers.facts().ahead = ahead;
    }

    /// Something has to get into the maps, from now on by the engine's clock, if not for longer.
    pub(crate) fn waits(&self, now: Instant) {
        self.desk.answers.facts().waiting.get_or_insert(now);
    }

    /// For how long the oldest change has waited to be in the maps.
    pub(crate) fn waiting(&self, now: Instant) -> Duration {
        let waiting = self.desk.answers.facts().waiting;
        waiting.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// The maps hold everything.
    pub(crate) fn is_done(&self) {
        let mut facts = self.desk.answers.facts();
        (facts.waiting, facts.updated) = (None, Some(Timestamp::now()));
    }

    /// Nothing is to be written before all objects are known.
    pub(crate) fn is_starting(&self) {
        self.desk.answers.facts().waiting = None;
    }
}

/// Why nobody can ask here, and what to do.
fn sentence(address: SocketAddr, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "; `ss -ltnp` says whose it is",
        io::ErrorKind::AddrNotAvailable => "; the node does not have this address, or not yet",
        _ => "",
    };
    format!("cannot listen on {address} to tell the health: {error}{remedy}; it is tried again")
}

#[cfg(test)]
mod tests;
