//! The loop that owns everything: objects, maps, hooks. One thing happens at a time.
//!
//! Whatever happened (a request, a changed file, a changed network, a retry that is due), the loop converges: what is
//! known goes into the maps, and the named interfaces get their hooks. The first time it waits until every source has
//! told its objects, then fills the maps, then attaches, so that no packet meets a half-filled datapath and nothing an
//! earlier daemon left is pruned too early.

use super::balancer::{Balancer, Inputs};
use super::capture::Captures;
use super::control::Command;
use super::figures::Measured;
use super::host_clients::HostClients;
use super::interfaces::{self, Hooks, Interfaces};
use super::sources::Sources;
use super::{Config, Error, config, notify, packet_trace};
use crate::api::{AuditStatus, Catalogue};
use crate::dns::Dns;
use crate::health::{Health, Ready};
use crate::host::{HostView, Route, RouteNews};
use crate::image::Withdrawn;
use crate::maps::{LbMaps, MapError};
use crate::memory;
use crate::objects::{Key, Objects};
use crate::readiness::Readiness;
use crate::store::{Store, Update};
use jiff::Timestamp;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

/// First and longest pause before a failed round is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// Routes are asked for again at least this often, whatever was heard of them.
const ROUTES: Duration = Duration::from_mins(5);
/// Everything is looked at again at least this often.
const REGULAR: Duration = Duration::from_secs(10);

/// Asks the kernel for the route to an address.
pub(super) type RouteTo = Box<dyn Fn(IpAddr) -> Option<Route> + Send>;

/// After a change of more objects than this there is memory to give back.
pub(super) const MUCH: usize = 1000;

/// What the engine is made of.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) origin: config::Origin,
    pub(super) store: Store,
    pub(super) maps: Box<dyn LbMaps>,
    pub(super) hooks: Box<dyn Hooks>,
    pub(super) host: watch::Receiver<Arc<HostView>>,
    /// Whether the routes must be asked for anew.
    pub(super) route_news: RouteNews,
    /// The way of the node's own processes.
    pub(super) host_clients: HostClients,
    /// What load balancers and supervisors ask.
    pub(super) health: Health,
    /// Where probes run.
    pub(super) runtime: Handle,
    /// Tells the names of Services.
    pub(super) dns: Dns,
    /// Asks the kernel for the route to an address.
    pub(super) route_to: RouteTo,
    pub(super) sources: Sources,
    pub(super) updates: mpsc::Receiver<Update>,
    pub(super) commands: mpsc::Receiver<Command>,
    /// Whose flows are to be forgotten.
    pub(super) withdrawn: mpsc::UnboundedSender<HashSet<Withdrawn>>,
    pub(super) catalogue: watch::Sender<Catalogue>,
    /// What the audit in the background has come to.
    pub(super) audit: Arc<Mutex<AuditStatus>>,
}

/// See the [module](self).
pub(super) struct Engine {
    pub(super) config: Config,
    origin: config::Origin,
    pub(super) store: Store,
    pub(super) maps: Box<dyn LbMaps>,
    pub(super) hooks: Box<dyn Hooks>,
    pub(super) host: watch::Receiver<Arc<HostView>>,
    route_news: RouteNews,
    pub(super) host_clients: HostClients,
    pub(super) health: Health,
    pub(super) readiness: Readiness,
    pub(super) captures: Captures,
    pub(super) dns: Dns,
    pub(super) route_to: RouteTo,
    pub(super) sources: Sources,
    updates: mpsc::Receiver<Update>,
    commands: mpsc::Receiver<Command>,
    withdrawn: mpsc::UnboundedSender<HashSet<Withdrawn>>,
    catalogue: watch::Sender<Catalogue>,
    pub(super) audit: Arc<Mutex<AuditStatus>>,
    pub(super) balancer: Balancer,
    pub(super) interfaces: Interfaces,
    progress: Progress,
    pub(super) measured: Measured,
    pub(super) started: Instant,
    /// The configuration file turned bad: the last good one counts.
    pub(super) config_problem: Option<String>,
    /// The cgroup is not served.
    pub(super) socket_problem: Option<String>,
    /// By how much the engine's clock is ahead of the system's; not zero only where a test moves time.
    pub(super) ahead: Duration,
}

/// How far the engine has come, and when it must look again.
#[derive(Debug, Default)]
struct Progress {
    /// The maps held the image at least once.
    filled: bool,
    /// The take-over from an earlier daemon is done.
    settled: bool,
    /// Readiness was told.
    announced: bool,
    /// Why the last round failed.
    failure: Option<String>,
    retry: Option<(Instant, Duration)>,
    next_look: Option<Instant>,
    next_routes: Option<Instant>,
}

/// The signals that the daemon knows.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Engine {
    /// Takes over what the maps hold.
    pub(super) fn new(parts: Parts) -> Result<Self, MapError> {
        let Parts {
            config,
            origin,
            store,
            maps,
            hooks,
            host,
            route_news,
            host_clients,
            health,
            runtime,
            dns,
            route_to,
            sources,
            updates,
            commands,
            withdrawn,
            catalogue,
            audit,
        } = parts;
        let (name, addresses) = (config.node_name.clone(), config.snat_addresses.clone());
        let balancer = Balancer::adopt(maps.as_ref(), name, addresses, Instant::now())?;
        let interfaces = Interfaces::new(config.interfaces.clone());
        let readiness = Readiness::new(config.node_name.clone(), balancer.served(), runtime.clone());
        Ok(Self {
            config,
            origin,
            store,
            maps,
            hooks,
            host,
            route_news,
            host_clients,
            health,
            readiness,
            captures: Captures::new(runtime),
            dns,
            route_to,
            sources,
            updates,
            commands,
            withdrawn,
            catalogue,
            audit,
            balancer,
            interfaces,
            progress: Progress::default(),
            measured: Measured::default(),
            started: Instant::now(),
            config_problem: None,
            socket_problem: None,
            ahead: Duration::ZERO,
        })
    }

    /// Runs until a signal says to stop. What is attached goes on forwarding.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let listen = |kind| signal(kind).map_err(Error::Signals);
        let mut signals = Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            reload: listen(SignalKind::hangup())?,
        };
        self.look_again();
        self.converge();
        loop {
            let wake = self.next_wake();
            tokio::select! {
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                _ = signals.reload.recv() => self.reload(),
                command = self.commands.recv() => match command {
                    Some(command) => self.handle(command),
                    None => break,
                },
                Some(update) = self.updates.recv() => {
                    self.measured.took(Instant::now());
                    self.take_update(update);
                }
                () = self.readiness.changed() => if self.readiness.take() {
                    self.measured.took(Instant::now());
                    self.converge();
                },
                changed = self.host.changed() => {
                    if changed.is_err() {
                        return Err(Error::HostWatchEnded);
                    }
                    self.measured.took(Instant::now());
                    self.balancer.forget_routes();
                    self.interfaces.look_again();
                    self.host_clients.look_again();
                    self.converge();
                }
                () = tokio::time::sleep_until(wake.into()) => {
                    self.look_again();
                    self.converge();
                }
            }
        }
        info!("stopping; what is attached goes on forwarding, `lb-ctl cleanup` removes it");
        notify::stopping();
        self.end_capture();
        Ok(())
    }

    fn next_wake(&self) -> Instant {
        let retry = self.progress.retry.map(|(when, _)| when);
        let retries = [retry, self.interfaces.next_retry(), self.host_clients.next_retry(), self.health.next_retry()];
        let retries = retries.into_iter().chain([self.dns.next_retry()]);
        let times = retries.chain([self.progress.next_look, self.balancer.next_expiry()]);
        let soonest = times.flatten().min().unwrap_or_else(|| Instant::now() + REGULAR);
        // Whatever is due already is done now, but never without a breath in between.
        soonest.max(Instant::now() + Duration::from_millis(10))
    }

    /// What is due by the clock.
    fn look_again(&mut self) {
        let now = Instant::now();
        self.interfaces.look_again();
        if self.progress.next_look.is_none_or(|when| when <= now) {
            self.progress.next_look = Some(now + REGULAR);
            if self.progress.next_routes.is_none_or(|when| when <= now) {
                // Whatever was not heard of.
                self.route_news.note();
                self.progress.next_routes = Some(now + ROUTES);
            }
            if self.route_news.take() {
                self.balancer.forget_routes();
            }
            self.host_clients.look_again();
            self.dns.find_upstream();
            self.sources.look_after();
            self.store.save_again();
        }
    }

    /// Brings maps and hooks to what is known now. A failure is tried again later.
    pub(super) fn converge(&mut self) {
        self.round();
        let programmed = self.progress.settled && self.progress.failure.is_none();
        self.health.set_ready(Ready { synced: self.store.is_synced(), programmed, attached: self.is_attached() });
    }

    fn round(&mut self) {
        let now = self.now();
        self.health.waits(now);
        self.health.answer_at(self.config.healthz_address.0, self.config.metrics.0, now);
        self.readiness.follow(&self.store.snapshot().pods);
        self.dns.listen(now);
        let own_node = self.store.snapshot().nodes.get(&Key::new("", &self.config.node_name)).cloned();
        self.health.set_leaving(own_node.is_some_and(|node| node.is_leaving()));
        let host = Arc::clone(&self.host.borrow_and_update());
        let (host, moved) = self.balancer.survey(&host, &self.store.snapshot(), &*self.route_to);
        if moved {
            self.interfaces.look_again();
        }
        let managed: Vec<u32> = self.hooks.attachments().iter().map(|attachment| attachment.ifindex).collect();
        let managed = managed.iter().filter_map(|index| host.interfaces.get(index));
        self.host_clients.keep_pair(&host, managed, now);
        self.interfaces.set_pair(self.host_clients.ends());
        self.observe(&host);
        self.catalogue.send_if_modified(|catalogue| {
            let now = self.balancer.catalogue();
            let changed = *catalogue != now;
            *catalogue = now;
            changed
        });
        if !self.store.is_synced() {
            self.measured.is_starting();
            return self.health.is_starting();
        }
        let filled = self.fill();
        // Names come after what they lead to; but maps that cannot be filled do not hold them up.
        self.dns.follow(&self.store.snapshot().namespaces, self.balancer.views());
        if let Err(error) = filled {
            return self.failed(&error);
        }
        let services = &self.store.snapshot().services;
        self.health.follow(services, self.balancer.views(), &self.balancer.node_addresses(), now);
        if self.interfaces.update(self.hooks.as_mut(), &host, now) {
            // The interfaces' roles are known only now.
            self.observe(&host);
            if let Err(error) = self.fill() {
                return self.failed(&error);
            }
        }
        let is_attached = self
            .host_clients
            .ends()
            .is_some_and(|(_, outer)| self.hooks.attachments().iter().any(|attachment| attachment.ifindex == outer));
        let destinations = self.balancer.destinations(&self.config.service_cidrs);
        self.host_clients.keep_routes(&destinations, is_attached, now);
        self.serve_sockets();
        if !self.progress.settled {
            match self.hooks.settle() {
                Ok(settled) => {
                    self.progress.settled = true;
                    self.readiness.settle();
                    info!(carried = settled.carried, lost = settled.lost, "the take-over is complete");
                    settled.detached.iter().for_each(|what| info!("detached {what}: it is no longer named"));
                }
                Err(error) => return self.failed(&error),
            }
        }
        self.progress.retry = None;
        self.progress.failure = None;
        self.health.is_done();
        if !self.progress.announced && self.is_ready() {
            self.progress.announced = true;
            let attachments = self.hooks.attachments();
            let interfaces: Vec<&str> = attachments.iter().map(|attachment| attachment.name.as_str()).collect();
            info!(interfaces = interfaces.join(","), services = self.store.snapshot().services.len(), "ready");
            notify::ready();
            memory::give_back_files();
            memory::give_back();
        }
    }

    /// Brings the socket hooks to their cgroup; one that is refused, or that is not there at the moment, is tried again
    /// whenever anything is looked at.
    fn serve_sockets(&mut self) {
        let Some(cgroup) = &self.config.socket_lb else { return };
        let problem = self.hooks.serve_sockets(cgroup).err().map(|error| error.to_string());
        if let Some(problem) = problem.iter().find(|problem| self.socket_problem.as_ref() != Some(problem)) {
            error!("sockets are not served: {problem}");
        }
        self.socket_problem = problem;
    }

    fn observe(&mut self, host: &Arc<HostView>) {
        let inputs = self.inputs(&self.store.snapshot(), Arc::clone(host));
        self.balancer.observe(&inputs, &*self.route_to, Timestamp::now());
    }

    /// What the maps would follow from, were these the objects and this the network.
    pub(super) fn inputs(&self, objects: &Objects, host: Arc<HostView>) -> Inputs {
        let mut attached = interfaces::devices(self.hooks.attachments(), self.config.to_pods);
        self.host_clients.mark(&mut attached);
        Inputs {
            objects: Arc::new(self.readiness.judged(objects)),
            host,
            // Before the first attachment those of an earlier daemon count.
            devices: self.progress.filled.then_some(attached),
            pair: self.host_clients.settings(),
            balancing: self.config.balancing,
            maglev_seed: self.config.maglev_seed,
            path: self.config.path,
            pods: (self.config.detect_local, self.config.cluster_cidrs.clone()),
            masquerade_all: self.config.masquerade_all,
            nodeport_addresses: self.config.nodeport_addresses.clone(),
            no_loopback: !self.config.localhost_nodeports,
        }
    }

    fn fill(&mut self) -> Result<(), crate::image::ReconcileError> {
        let now = self.now();
        let reconciled = self.balancer.reconcile(self.maps.as_mut(), now);
        let withdrawn = self.balancer.take_withdrawn();
        if !withdrawn.is_empty() {
            // Nobody listens any more: the daemon is ending.
            self.withdrawn.send(withdrawn).ok();
        }
        let writes = reconciled?;
        self.measured.wrote(writes);
        if writes > 0 {
            debug!(writes, "maps written");
        }
        self.progress.filled = true;
        Ok(())
    }

    /// The engine's clock.
    pub(super) fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    fn failed(&mut self, error: &dyn std::error::Error) {
        let pause = self.progress.retry.map_or(BACKOFF.0, |(_, pause)| (pause * 2).min(BACKOFF.1));
        error!(retry_in = ?pause, "{error}");
        self.measured.failed();
        self.progress.failure = Some(error.to_string());
        self.progress.retry = Some((Instant::now() + pause, pause));
    }

    fn reload(&mut self) {
        notify::reloading();
        let loaded = self.origin.load().map_err(|error| error.to_string());
        // All of it or nothing: a network that cannot go is as good as a file that cannot be read.
        let taken = loaded.and_then(|new| match self.store.set_service_cidrs(&new.service_cidrs) {
            Ok(()) => Ok(new),
            Err(error) => Err(error.to_string()),
        });
        match taken {
            Ok(new) => {
                for setting in self.config.needs_restart_for(&new) {
                    warn!(setting, "changed in the configuration, but takes effect only with a restart");
                }
                if self.config.load_balancer_pools != new.load_balancer_pools {
                    for message in self.store.offer(new.load_balancer_pools.clone()) {
                        warn!("{message}");
                    }
                    self.config.load_balancer_pools = new.load_balancer_pools;
                }
                self.interfaces.set_specs(new.interfaces.clone());
                self.config.interfaces = new.interfaces;
                self.config.balancing = new.balancing;
                self.config.maglev_seed = new.maglev_seed;
                self.config.healthz_address = new.healthz_address;
                self.config.metrics = new.metrics;
                self.config.service_cidrs = new.service_cidrs;
                self.config_problem = None;
                info!("configuration reloaded");
            }
            Err(error) => {
                error!("the configuration was not reloaded: {error}");
                self.config_problem = Some(error);
            }
        }
        self.sources.look_anew();
        self.interfaces.look_again();
        self.converge();
        notify::ready();
    }

    fn handle(&mut self, command: Command) {
        // Whoever asked may have gone; then nobody is there to be told.
        match command {
            Command::Apply(parsed, how, answer) => {
                self.measured.took(Instant::now());
                let is_much = parsed.objects.len() > MUCH;
                drop(answer.send(self.apply(parsed, how)));
                if is_much {
                    memory::give_back();
                }
            }
            Command::Delete(ids, ignore, answer) => {
                self.measured.took(Instant::now());
                drop(answer.send(self.delete(ids, ignore)));
            }
            Command::Plan(parsed, prune, answer) => drop(answer.send(self.foresee(parsed, prune))),
            Command::Inspect(cursor, limit, answer) => drop(answer.send(self.inspect(cursor, limit))),
            Command::Reference(calm, answer) => drop(answer.send(self.reference(calm))),
            Command::Repair(shut, answer) => drop(answer.send(self.repair(&shut))),
            Command::Describe(key, answer) => drop(answer.send(self.describe(&key))),
            Command::Scene(answer) => drop(answer.send(self.scene())),
            Command::Names(ids, answer) => drop(answer.send(packet_trace::names(&self.balancer, &ids))),
            Command::Status(answer) => drop(answer.send(self.status())),
            Command::Capture(request, answer) => {
                drop(answer.send(self.capture(&request)));
                self.capture_left();
            }
            Command::CaptureLeft => self.capture_left(),
            Command::Figures(answer) => drop(answer.send(self.figures())),
        }
    }

    /// Whether the maps hold what they should, as far as the last round could bring them there.
    pub(super) fn is_filled(&self) -> bool {
        self.progress.filled && self.progress.failure.is_none()
    }

    /// Why the last round failed.
    pub(super) fn failure(&self) -> Option<&str> {
        self.progress.failure.as_deref()
    }

    /// Whether every source was read, the maps hold the image, every named interface that exists is attached, and so are the
    /// socket hooks if they are wanted.
    pub(super) fn is_ready(&self) -> bool {
        self.progress.settled && self.progress.failure.is_none() && self.is_attached()
    }

    fn is_attached(&self) -> bool {
        self.interfaces.all_attached() && self.socket_problem.is_none()
    }
}
