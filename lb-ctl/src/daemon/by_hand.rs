//! The daemon without its loop, one thing at a time and by a clock that can be moved: for tests that hold what a whole node
//! does against what it should do.
//!
//! It is the daemon's own engine over a real datapath. Left out are what feeds the engine (the control socket, a directory,
//! the kernel's notifications) and what runs beside it.

use super::balancer::Balancer;
use super::control::How;
use super::engine::{Engine, Parts};
use super::host_clients::HostClients;
use super::sources::Sources;
use super::{Config, Error, config, flows};
use crate::api::{Catalogue, Failure, PlanAnswer};
use crate::datapath::conntrack;
use crate::datapath::{Clock, Datapath};
use crate::dns::Dns;
use crate::health::{self, Health};
use crate::host::{self, HostView, RouteNews};
use crate::image::Withdrawn;
use crate::manifest::{self, Parsed};
use crate::maps::PinnedMaps;
use crate::objects::ObjectId;
use crate::readiness::Readiness;
use crate::store::{self, Store, Update};
use lb_common::flow::TICK_SHIFT;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, watch};

/// The feed that holds everything back until it is synced.
const FEED: &str = "by hand";
/// Entries that one step of a sweep looks at.
const SWEEP: usize = 65_536;

/// See the [module](self).
pub struct ByHand {
    engine: Engine,
    maps: PinnedMaps,
    host: watch::Sender<Arc<HostView>>,
    clock: Clock,
    /// Endpoints whose flows are to be forgotten.
    withdrawn: mpsc::UnboundedReceiver<HashSet<Withdrawn>>,
    /// Answers who asks for the health, and probes pods.
    runtime: Runtime,
}

impl ByHand {
    /// A daemon over `datapath`, in the calling thread's network namespace. It has no objects yet, and nothing is attached.
    pub fn new(config: Config, datapath: Datapath, clock: Clock) -> Result<Self, Error> {
        // Its thread is started here, so that it is in the same namespaces.
        let runtime =
            runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(Error::Runtime)?;
        let mut store = open_store(&config)?;
        let (sources, updates) = Sources::open(None, &mut store)?;
        let maps = datapath.maps();
        let host_clients = HostClients::open(&config.instance, config.host_clients);
        let (host, host_receiver) = watch::channel(Arc::new(host::snapshot()?));
        // Nobody asks and nobody listens.
        let (_, commands) = mpsc::channel(1);
        let (withdrawn, withdrawn_receiver) = mpsc::unbounded_channel();
        let (catalogue, _) = watch::channel(Catalogue::default());
        let dns = Dns::new(config.dns.clone(), runtime.handle().clone());
        let parts = Parts {
            config,
            origin: config::Origin::default(),
            store,
            maps: Box::new(maps.clone()),
            hooks: Box::new(datapath),
            host: host_receiver,
            route_news: RouteNews::default(),
            host_clients,
            health: Health::new(runtime.handle().clone()),
            runtime: runtime.handle().clone(),
            dns,
            route_to: Box::new(|address| host::route_to(address).unwrap_or_default()),
            sources,
            updates,
            commands,
            catalogue,
            withdrawn,
            audit: Arc::default(),
        };
        let engine = Engine::new(parts).map_err(Error::Maps)?;
        Ok(Self { engine, maps, host, clock, withdrawn: withdrawn_receiver, runtime })
    }

    /// Begins anew with other settings and without objects, as a daemon does that is started again after its state file was
    /// removed: it takes over what the maps hold. The interfaces, the cgroup and the size of the maps stay.
    pub fn restart(&mut self, config: Config) -> Result<(), Error> {
        self.engine.store = open_store(&config)?;
        let (name, addresses) = (config.node_name.clone(), config.snat_addresses.clone());
        let now = self.now();
        self.engine.balancer = Balancer::adopt(&self.maps, name.clone(), addresses, now).map_err(Error::Maps)?;
        let served = self.engine.balancer.served();
        self.engine.readiness = Readiness::new(name, served, self.runtime.handle().clone());
        self.engine.config = config;
        Ok(())
    }

    /// Applies manifests, all or none, and brings maps and hooks up to date. The error tells every reason.
    pub fn apply(&mut self, manifests: &str) -> Result<(), String> {
        self.engine.apply(parse(manifests)?, How::default()).map_err(|failure| reasons(&failure))?;
        self.finish()
    }

    /// What would change if these manifests were applied; without any, what is still to be done.
    pub fn plan(&mut self, manifests: Option<&str>) -> Result<PlanAnswer, String> {
        let parsed = manifests.map(parse).transpose()?;
        let foreseen = self.engine.foresee(parsed, None).map_err(|failure| reasons(&failure))?;
        foreseen.count(&self.maps).map_err(|failure| reasons(&failure))
    }

    /// Deletes objects, all or none, and brings maps and hooks up to date.
    pub fn delete(&mut self, ids: Vec<ObjectId>) -> Result<(), String> {
        self.engine.delete(ids, false).map_err(|failure| reasons(&failure))?;
        self.finish()
    }

    /// Whether all sources have told all their objects. Until then nothing new gets into the maps.
    pub fn set_synced(&mut self, synced: bool) -> Result<(), String> {
        if synced {
            self.engine.take_update(Update { feed: FEED.to_owned(), changes: Vec::new(), synced });
        } else {
            self.engine.store.register(FEED);
        }
        self.finish()
    }

    /// Looks at the node's network, and brings maps and hooks to what is there.
    pub fn look(&mut self) -> Result<(), String> {
        // What is made of one look can be seen by the next: the pair, its routes.
        for _ in 0..2 {
            let view = host::snapshot().map_err(|error| error.to_string())?;
            self.host.send_replace(Arc::new(view));
            self.engine.balancer.forget_routes();
            self.engine.interfaces.look_again();
            self.engine.host_clients.look_again();
            self.engine.converge();
        }
        self.finish()
    }

    /// Sets the clock of the engine and of the programs ahead of the system's, and forgets flows that are too old by then.
    pub fn set_ahead(&mut self, ahead: Duration) -> Result<(), String> {
        self.engine.ahead = ahead;
        self.engine.health.set_ahead(ahead);
        self.clock.set_ahead(ahead).map_err(|error| format!("the programs' clock cannot be set: {error}"))?;
        let now = conntrack::now() + (ahead.as_nanos() >> TICK_SHIFT) as u32;
        flows::Position::default()
            .step(&self.maps, now, SWEEP, &mut |_| {})
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// Lets a change wait from now on that never gets into the maps, until the next one does. Says how much time has to pass
    /// until the daemon counts as unhealthy for that.
    pub fn stall(&mut self) -> Duration {
        self.engine.health.waits(self.now());
        health::PATIENCE
    }

    /// Does what else a change asks for, and tells why not everything is as it should be, if that is so.
    fn finish(&mut self) -> Result<(), String> {
        while let Ok(endpoints) = self.withdrawn.try_recv() {
            flows::forget(self.maps.flow_tables(), &endpoints);
        }
        if let Some(failure) = self.engine.failure() {
            return Err(failure.to_owned());
        }
        let problems = self.engine.interfaces.problems().into_iter().chain(self.engine.host_clients.problems());
        let problems = problems.chain(self.engine.health.problems());
        let problems = problems.map(|problem| format!("{}: {}", problem.subject, problem.message));
        let problems: Vec<String> = problems.chain(self.engine.socket_problem.clone()).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    fn now(&self) -> Instant {
        Instant::now() + self.engine.ahead
    }
}

fn open_store(config: &Config) -> Result<Store, store::Error> {
    let mut store = Store::open(store::Options {
        state_file: None,
        service_cidrs: config.service_cidrs.clone(),
        node_port_range: config.node_port_range.clone(),
    })?;
    store.offer(config.load_balancer_pools.clone());
    Ok(store)
}

fn parse(manifests: &str) -> Result<Parsed, String> {
    manifest::parse(manifests, "manifests", "default")
        .map_err(|diagnostics| diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

/// A refusal in one line.
fn reasons(failure: &Failure) -> String {
    if failure.diagnostics.is_empty() { failure.message.clone() } else { failure.diagnostics.join("; ") }
}
