//! The engine as the API server sees it: requests go in by a queue, answers come back one by one.

use super::auditor::{Auditor, Piece, Reference};
use super::capture::{self, Subscription};
use super::foresee::Foreseen;
use super::packet_trace::{self, Walked};
use super::{figures, flows};
use crate::api::monitor::{Filter, MonitorLine};
use crate::api::server::Control;
use crate::api::why::{Question, WhyAnswer};
use crate::api::{
    ApplyAnswer, ApplyRequest, AuditAnswer, CaptureRequest, Catalogue, DeleteAnswer, DeleteRequest, Failure,
    FailureReason, FlowLine, LentPorts, ManifestText, MapFill, PlanAnswer, ServiceDescription, Status, TraceAnswer,
    TraceRequest,
};
use crate::datapath::SharedMaps;
use crate::datapath::census::Census;
use crate::datapath::conntrack::{self, FlowEntry};
use crate::figures::{Counted, Figures, Names, Tally};
use crate::image::Cursor;
use crate::manifest::{self, Diagnostic, Parsed, Validate};
use crate::monitor::Monitor;
use crate::objects::{Key, Kind, ObjectId};
use crate::trace::{self, Scene};
use lb_common::Settings;
use lb_common::gate::End;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot, watch};

/// Lines of a flow listing that wait for a slow reader.
const FLOWS_AHEAD: usize = 1024;

/// Manifests of up to so many bytes are parsed where they are: to wake another thread for them takes longer.
const SHORT: usize = 1 << 16;

/// One request to the engine, and where its answer goes.
#[derive(Debug)]
pub(super) enum Command {
    /// Applies what was parsed.
    Apply(Parsed, How, oneshot::Sender<Result<ApplyAnswer, Failure>>),
    /// Deletes objects; `true`: those that are not there are no error.
    Delete(Vec<ObjectId>, bool, oneshot::Sender<Result<DeleteAnswer, Failure>>),
    /// Tells what applying these, or nothing, would change. They may be all of the set of a name.
    Plan(Option<Parsed>, Option<String>, oneshot::Sender<Result<Foreseen, Failure>>),
    /// Describes a Service.
    Describe(Key, oneshot::Sender<Result<ServiceDescription, Failure>>),
    /// Tells what a packet meets on this node.
    Scene(oneshot::Sender<Scene>),
    /// Tells what the service ports of these ids are called.
    Names(BTreeSet<u32>, oneshot::Sender<trace::Names>),
    /// Compares so many entries of the configuration maps with what they should be.
    Inspect(Cursor, usize, oneshot::Sender<Result<Piece, Failure>>),
    /// Tells what the datapath's tables are judged by; `true`: without what takes long.
    Reference(bool, oneshot::Sender<Reference>),
    /// Opens the gate for addresses, and makes the maps hold what they should.
    Repair(Vec<End>, oneshot::Sender<Result<(), Failure>>),
    /// Tells how everything is.
    Status(oneshot::Sender<Status>),
    /// Captures packets.
    Capture(CaptureRequest, oneshot::Sender<Result<Subscription, Failure>>),
    /// Somebody reads no more of them.
    CaptureLeft,
    /// Tells what the engine knows of the figures, and what the counters are called.
    Figures(oneshot::Sender<(Figures, Arc<Names>)>),
}

/// How manifests are applied.
#[derive(Debug, Default)]
pub(super) struct How {
    /// Nothing is changed.
    pub(super) dry_run: bool,
    /// They are all of the set of this name.
    pub(super) prune: Option<String>,
}

/// The flow tables and the counters, read without the engine, which has better things to do.
pub(super) trait FlowSource: Send + Sync {
    /// Gives each flow that is alive at tick `now` to `sink`, by the entry for what its client sends, until it wants no more.
    fn each(&self, now: u32, sink: &mut dyn FnMut(&FlowEntry) -> bool) -> Result<(), Failure>;
    /// How full the tables are.
    fn fill(&self) -> Fullness;
    /// What has been counted for the service port ids and the backend ids below these.
    fn counted(&self, services: u32, backends: u32) -> Result<Counted, Failure>;
}

/// How full the flow tables are, and the ranges of ports that they lend from.
#[derive(Clone, Debug, Default)]
pub(super) struct Fullness {
    pub(super) maps: Vec<MapFill>,
    /// The backend port to which most ports are lent, where any are; what is available is for the engine to say.
    pub(super) ports: Option<LentPorts>,
}

/// A handle on the engine.
pub(super) struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) catalogue: watch::Receiver<Catalogue>,
    pub(super) flows: Arc<dyn FlowSource>,
    /// What the sweeper has counted.
    pub(super) census: Arc<Mutex<Census>>,
    /// What the counters have come to, by name.
    pub(super) tally: Arc<Mutex<Tally>>,
    /// What traced packets meet; one at a time, since each has an instance of the programs loaded.
    pub(super) traced: tokio::sync::Mutex<SharedMaps>,
    /// What the datapath tells, where it tells anything.
    pub(super) monitor: Option<Monitor>,
    pub(super) auditor: Auditor,
}

impl Handle {
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Failure> {
        let stopping = || Failure::new(FailureReason::ServiceUnavailable, "the daemon is stopping");
        let (sender, answer) = oneshot::channel();
        self.commands.send(command(sender)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

impl Handle {
    fn monitor(&self) -> Result<&Monitor, Failure> {
        let missing = || Failure::new(FailureReason::ServiceUnavailable, "this datapath tells no events");
        self.monitor.as_ref().ok_or_else(missing)
    }
}

impl Control for Handle {
    async fn apply(&self, request: ApplyRequest) -> Result<ApplyAnswer, Failure> {
        let ApplyRequest { namespace, files, validate, dry_run, prune } = request;
        // What is wrong with them is told with what the engine finds wrong beside it.
        let parsed = read(files, namespace, validate).await?;
        self.ask(|answer| Command::Apply(parsed, How { dry_run, prune }, answer)).await?
    }

    async fn delete(&self, request: DeleteRequest) -> Result<DeleteAnswer, Failure> {
        let DeleteRequest { namespace, files, objects, ignore_not_found } = request;
        let by_name = objects.into_iter().map(|object| {
            let namespace = match object.kind {
                Kind::Namespace | Kind::Node => String::new(),
                _ if object.namespace.is_empty() => namespace.clone(),
                _ => object.namespace,
            };
            ObjectId { kind: object.kind, key: Key { namespace, name: object.name } }
        });
        let mut ids: Vec<ObjectId> = by_name.collect();
        let parsed = parse(files, namespace).await?;
        ids.extend(parsed.objects.iter().map(|located| located.object.id()));
        self.ask(|answer| Command::Delete(ids, ignore_not_found, answer)).await?
    }

    async fn plan(&self, request: ApplyRequest) -> Result<PlanAnswer, Failure> {
        let ApplyRequest { namespace, files, validate, dry_run: _, prune } = request;
        let parsed = if files.is_empty() { None } else { Some(read(files, namespace, validate).await?) };
        let foreseen = self.ask(|answer| Command::Plan(parsed, prune, answer)).await??;
        let flows = Arc::clone(&self.flows);
        let counted = tokio::task::spawn_blocking(move || foreseen.count(flows.as_ref()));
        counted.await.unwrap_or_else(|error| {
            Err(Failure::new(FailureReason::InternalError, format!("counting connections broke off: {error}")))
        })
    }

    async fn trace(&self, request: TraceRequest) -> Result<TraceAnswer, Failure> {
        let maps = self.traced.lock().await;
        let scene = self.ask(Command::Scene).await?;
        let asked = (request.clone(), scene.clone(), maps.clone());
        let walked = tokio::task::spawn_blocking(move || Walked::walk(&asked.0, &asked.1, &asked.2)).await;
        let walked = walked
            .map_err(|error| Failure::new(FailureReason::InternalError, format!("the trace broke off: {error}")))?
            .map_err(|error| packet_trace::failure(&error))?;
        let names = self.ask(|answer| Command::Names(walked.services(), answer)).await?;
        Ok(walked.explain(&request, &scene, names))
    }

    async fn audit(&self, repair: bool) -> Result<AuditAnswer, Failure> {
        self.auditor.round(false, repair).await
    }

    fn catalogue(&self) -> watch::Receiver<Catalogue> {
        self.catalogue.clone()
    }

    async fn describe(&self, service: Key) -> Result<ServiceDescription, Failure> {
        self.ask(|answer| Command::Describe(service, answer)).await?
    }

    async fn status(&self) -> Result<Status, Failure> {
        let flows = Arc::clone(&self.flows);
        let fill = tokio::task::spawn_blocking(move || flows.fill());
        let mut status = self.ask(Command::Status).await?;
        let Fullness { maps, ports } = fill.await.unwrap_or_default();
        status.maps.extend(maps);
        status.lent_ports = ports.map(|ports| {
            let addresses = status.snat_addresses.iter();
            let addresses = addresses.filter(|address| address.is_ipv4() == ports.backend.is_ipv4()).count();
            let (first, last) = Settings::SNAT_PORTS;
            LentPorts { available: addresses as u64 * (u64::from(last - first) + 1), ..ports }
        });
        Ok(status)
    }

    async fn capture(&self, request: CaptureRequest) -> Result<mpsc::Receiver<Vec<u8>>, Failure> {
        let count = request.count;
        let subscription = self.ask(|answer| Command::Capture(request, answer)).await??;
        capture::write(subscription, count, self.commands.clone())
            .map_err(|error| Failure::new(FailureReason::InternalError, format!("packets cannot be captured: {error}")))
    }

    async fn figures(&self) -> Result<Figures, Failure> {
        let (figures, names) = self.ask(Command::Figures).await?;
        let (flows, tally, census) = (Arc::clone(&self.flows), Arc::clone(&self.tally), Arc::clone(&self.census));
        let read =
            tokio::task::spawn_blocking(move || figures::complete(figures, &names, flows.as_ref(), &tally, &census));
        read.await.unwrap_or_else(|error| {
            Err(Failure::new(FailureReason::InternalError, format!("reading the counters broke off: {error}")))
        })
    }

    async fn flows(&self) -> Result<mpsc::Receiver<FlowLine>, Failure> {
        let (sender, receiver) = mpsc::channel(FLOWS_AHEAD);
        let source = Arc::clone(&self.flows);
        tokio::task::spawn_blocking(move || {
            let now = conntrack::now();
            let listed = source.each(now, &mut |flow| sender.blocking_send(flows::line(flow, now)).is_ok());
            if let Err(failure) = listed {
                tracing::warn!("listing flows ended early: {failure}");
            }
        });
        Ok(receiver)
    }

    async fn monitor(&self, filter: Filter) -> Result<mpsc::Receiver<MonitorLine>, Failure> {
        self.monitor()?.listen(filter).await
    }

    async fn why(&self, question: Question) -> Result<WhyAnswer, Failure> {
        self.monitor()?.why(question).await
    }
}

/// Parses all files; tells everything wrong with any of them.
async fn parse(files: Vec<ManifestText>, namespace: String) -> Result<Parsed, Failure> {
    read(files, namespace, Validate::Strict).await?.sound().map_err(|wrong| invalid(&wrong))
}

/// Reads all files as far as that is possible, away from the engine, and from the server's own tasks if that takes long.
async fn read(files: Vec<ManifestText>, namespace: String, validate: Validate) -> Result<Parsed, Failure> {
    let is_short = files.iter().map(|file| file.text.len()).sum::<usize>() <= SHORT;
    let read_all = move || {
        let mut all = Parsed::default();
        for file in &files {
            all.extend(manifest::read(&file.text, &file.origin, &namespace, validate));
        }
        all
    };
    if is_short {
        return Ok(read_all());
    }
    let read = tokio::task::spawn_blocking(read_all).await;
    read.map_err(|error| Failure::new(FailureReason::InternalError, format!("parsing broke off: {error}")))
}

/// The refusal of manifests, with everything that is wrong.
pub(super) fn invalid(diagnostics: &[Diagnostic]) -> Failure {
    let count = match diagnostics.len() {
        1 => "1 error".to_owned(),
        count => format!("{count} errors"),
    };
    Failure {
        reason: FailureReason::Invalid,
        message: format!("{count}; nothing was changed"),
        diagnostics: diagnostics.iter().map(ToString::to_string).collect(),
    }
}
