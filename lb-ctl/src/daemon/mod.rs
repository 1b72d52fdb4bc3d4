//! The daemon: settings, the loop that owns everything, and what feeds it.
//!
//! [`run`] takes the locks and opens everything before it touches anything, so that a daemon that cannot run leaves
//! nothing behind; then [`engine`] converges until it is told to stop.

mod auditor;
mod balancer;
mod by_hand;
mod capture;
pub mod config;
mod control;
mod describe;
mod engine;
#[cfg(test)]
mod engine_tests;
mod events;
#[cfg(test)]
mod fakes;
mod figures;
mod flows;
mod foresee;
mod host_clients;
mod interfaces;
pub mod logging;
pub mod name_server;
mod node;
mod notify;
pub mod offline;
pub mod options;
mod packet_trace;
pub mod pattern;
mod report;
mod requests;
mod sources;

pub use by_hand::ByHand;
pub use config::{Config, ConfigError};
pub use options::{DetectLocal, LogLevel, NodePortAddresses, Options};

use crate::api::{AuditStatus, ServeError, Server};
use crate::datapath::{self, Datapath};
use crate::dns::Dns;
use crate::figures::bound::Bound;
use crate::health::Health;
use crate::maps::MapError;
use crate::monitor::Monitor;
use crate::preflight::{self, Line, Verdict};
use crate::{host, source, store};
use auditor::Auditor;
use control::Handle;
use engine::{Engine, Parts};
use host_clients::HostClients;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sources::Sources;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Requests that wait for the engine.
const COMMANDS_AHEAD: usize = 64;
/// How long requests under way may take when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why the daemon could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The datapath: privilege, kernel, file system, locks, maps, programs.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// The state file.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The directory of manifests.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The network cannot be read.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// The network cannot be watched any more.
    #[error("the node's network cannot be watched any more")]
    HostWatchEnded,
    /// The control socket.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// What the maps hold cannot be read.
    #[error(transparent)]
    Maps(MapError),
    /// Events of the datapath.
    #[error("cannot wait for what the datapath tells: {0}")]
    Events(io::Error),
    /// Signals.
    #[error("cannot listen to signals: {0}")]
    Signals(io::Error),
    /// No threads.
    #[error("cannot start the runtime: {0}")]
    Runtime(io::Error),
}

/// Runs the daemon until a signal ends it.
pub fn run(config: Config, origin: config::Origin) -> Result<(), Error> {
    logging::init(config.log_level, config.log_format);
    info!(version = env!("CARGO_PKG_VERSION"), instance = config.instance, node = config.node_name, "starting");
    config.warnings().iter().for_each(|warning| warn!("{warning}"));
    allow_many_files();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(Error::Runtime)?;
    let ended = runtime.block_on(start(config, origin));
    runtime.shutdown_timeout(FAREWELL);
    ended
}

/// Takes as many open files as the system allows: each health check port needs one for each of the node's addresses.
fn allow_many_files() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        warn!(%error, "the limit of open files stays as it is");
    }
}

/// Logs what of the node is not as it should be.
fn look_ahead(config: &Config) {
    let lines = match preflight::run(&config.into()) {
        Ok(lines) => lines,
        Err(error) => return warn!(%error, "the node could not be looked at"),
    };
    for Line { check, subject, verdict, message, remedy } in lines {
        match verdict {
            Verdict::Pass => {}
            Verdict::Warn => warn!(check, subject, remedy, "preflight: {message}"),
            Verdict::Fail => error!(check, subject, remedy, "preflight: {message}"),
        }
    }
}

async fn start(config: Config, origin: config::Origin) -> Result<(), Error> {
    look_ahead(&config);
    let mut store = store::Store::open(store::Options {
        state_file: Some(config.state_file.clone()),
        service_cidrs: config.service_cidrs.clone(),
        node_port_range: config.node_port_range.clone(),
    })?;
    store.offer(config.load_balancer_pools.clone()).iter().for_each(|message| warn!("{message}"));
    // Daemon and manifests work all the same.
    for problem in store.problems() {
        problem.diagnostics.iter().for_each(|diagnostic| error!("{diagnostic}"));
    }
    let (sources, updates) = Sources::open(config.manifests.clone(), &mut store)?;
    if let Some(cgroup) = &config.socket_lb {
        // A name that is none is told at once, not by and by.
        datapath::Cgroup::open(cgroup)?;
    }
    let mut datapath = Datapath::open(&datapath::Options {
        bpffs: config.bpffs.clone(),
        instance: config.instance.clone(),
        max_flows: config.max_flows,
        tc: config.tc,
    })?;
    // The programs log only if the subscriber that is installed by now wants to hear it.
    let packet_log = (config.log_level >= LogLevel::Debug).then(|| datapath.packet_log()).flatten();
    let packet_log = packet_log.map(|log| tokio::spawn(logging::follow(log)));
    // Before the network is looked at for the first time, so that it is seen from the start.
    let host_clients = HostClients::open(&config.instance, config.host_clients);
    let network = host::watch()?;
    let routes = host::Routes::open()?;
    // With the instance's lock in hand a socket in this place is nobody's.
    let server = Server::bind(config.socket.clone())?;
    let (command_sender, commands) = mpsc::channel(COMMANDS_AHEAD);
    let (catalogue, catalogue_receiver) = watch::channel(crate::api::Catalogue::default());
    let maps = datapath.maps();
    let monitor =
        Monitor::start(datapath.events()?, maps.clone(), catalogue_receiver.clone()).map_err(Error::Events)?;
    let (withdrawn, endpoints) = mpsc::unbounded_channel();
    let census = Arc::default();
    let sweep = flows::sweep(maps.clone(), config.max_flows, monitor.clone(), endpoints, Arc::clone(&census));
    let sweeper = tokio::spawn(sweep);
    let auditor = Auditor { commands: command_sender.clone(), maps: Some(maps.clone()) };
    let audit = Arc::new(Mutex::new(AuditStatus::default()));
    let interval = Duration::from_secs(config.audit_interval.into());
    let auditing = (!interval.is_zero())
        .then(|| tokio::spawn(auditor::in_background(auditor.clone(), interval, Arc::clone(&audit))));
    let handle = Arc::new(Handle {
        commands: command_sender,
        catalogue: catalogue_receiver,
        flows: Arc::new(maps.clone()),
        census,
        tally: Arc::default(),
        traced: datapath.shared_maps().into(),
        monitor: Some(monitor),
        auditor,
    });
    let scrape = figures::scrape(Arc::clone(&handle), Bound::new(config.metrics_detail, config.metrics_limit));
    let stop = CancellationToken::new();
    info!(socket = %config.socket.display(), "listening");
    let serving = tokio::spawn(server.serve(handle, stop.clone()));
    let dns = Dns::new(config.dns.clone(), runtime::Handle::current());
    let parts = Parts {
        config,
        origin,
        store,
        maps: Box::new(maps),
        hooks: Box::new(datapath),
        host: network.view,
        route_news: network.routes,
        host_clients,
        health: Health::with_metrics(runtime::Handle::current(), scrape),
        runtime: runtime::Handle::current(),
        dns,
        route_to: Box::new(move |address| routes.to(address).unwrap_or_default()),
        sources,
        updates,
        commands,
        withdrawn,
        catalogue,
        audit,
    };
    let engine = Engine::new(parts).map_err(Error::Maps)?;
    let ended = engine.run().await;
    stop.cancel();
    sweeper.abort();
    auditing.inspect(JoinHandle::abort);
    packet_log.inspect(JoinHandle::abort);
    match tokio::time::timeout(FAREWELL, serving).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => warn!(%error, "the control socket failed"),
        Ok(Err(error)) => warn!(%error, "the control socket failed"),
        Err(_) => warn!("requests were still under way"),
    }
    ended
}
