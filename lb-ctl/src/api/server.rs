//! The server: routes requests to a [`Control`], and decides who may send which.
//!
//! A caller is known by the kernel's word (`SO_PEERCRED`): root and the daemon's own user may change things, anyone
//! else who can open the socket (mode 0660) may read.

use super::catalogue::{Catalogue, Resource, Selection};
use super::description::ServiceDescription;
use super::monitor::{Filter, MonitorLine, MonitorQuery};
use super::plan::PlanAnswer;
use super::status::Status;
use super::trace::{TraceAnswer, TraceRequest};
use super::types::{
    ApplyAnswer, ApplyRequest, CaptureRequest, DeleteAnswer, DeleteRequest, Event, EventKind, Failure, FailureReason,
    FlowLine, Items, Version,
};
use super::why::{Question, WhyAnswer, WhyQuery};
use crate::figures::Figures;
use crate::objects::Key;
use axum::body::{Body, Bytes};
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::rejection::{BytesRejection, FailedToBufferBody, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How long a request may take, reading its body included. Watches and flow listings may take longer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What the server needs of the daemon.
pub trait Control: Send + Sync + 'static {
    /// Applies manifests: all or nothing.
    fn apply(&self, request: ApplyRequest) -> impl Future<Output = Result<ApplyAnswer, Failure>> + Send;
    /// What an apply would do, or, without files, what is still to be done. Changes nothing.
    fn plan(&self, request: ApplyRequest) -> impl Future<Output = Result<PlanAnswer, Failure>> + Send;
    /// What would become of a packet, and why. Changes nothing.
    fn trace(&self, request: TraceRequest) -> impl Future<Output = Result<TraceAnswer, Failure>> + Send;
    /// Deletes objects: all or nothing.
    fn delete(&self, request: DeleteRequest) -> impl Future<Output = Result<DeleteAnswer, Failure>> + Send;
    /// The objects, now and whenever they change.
    fn catalogue(&self) -> watch::Receiver<Catalogue>;
    /// One Service as it works on this node.
    fn describe(&self, service: Key) -> impl Future<Output = Result<ServiceDescription, Failure>> + Send;
    /// How everything is.
    fn status(&self) -> impl Future<Output = Result<Status, Failure>> + Send;
    /// A file of packets that grows as they come.
    fn capture(&self, request: CaptureRequest)
    -> impl Future<Output = Result<mpsc::Receiver<Vec<u8>>, Failure>> + Send;
    /// Everything that is counted and measured.
    fn figures(&self) -> impl Future<Output = Result<Figures, Failure>> + Send;
    /// All flows, one after the other.
    fn flows(&self) -> impl Future<Output = Result<mpsc::Receiver<FlowLine>, Failure>> + Send;
    /// What happens to single flows and packets, from now on.
    fn monitor(&self, filter: Filter) -> impl Future<Output = Result<mpsc::Receiver<MonitorLine>, Failure>> + Send;
    /// What did not arrive lately.
    fn why(&self, question: Question) -> impl Future<Output = Result<WhyAnswer, Failure>> + Send;
}

/// The socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on the control socket {}: {action}: {source}", path.display())]
pub struct ServeError {
    /// The socket's path.
    pub path: PathBuf,
    /// What was tried.
    pub action: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
}

/// A bound control socket. Dropping it removes the file.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    listener: Option<UnixListener>,
}

impl Server {
    /// Binds the socket at `path`, in place of one that an earlier daemon left. The caller holds the instance's lock.
    pub fn bind(path: PathBuf) -> Result<Self, ServeError> {
        let failed = |action| {
            let path = path.clone();
            move |source| ServeError { path, action, source }
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed("creating its directory"))?;
        }
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.file_type().is_socket() => {
                if std::os::unix::net::UnixStream::connect(&path).is_ok() {
                    let source = io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers on it");
                    return Err(failed("looking at its path")(source));
                }
                std::fs::remove_file(&path).map_err(failed("removing the old one"))?;
            }
            Ok(_) => {
                let source = io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is in its place");
                return Err(failed("looking at its path")(source));
            }
            Err(_) => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed("binding it"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).map_err(failed("setting its mode"))?;
        Ok(Self { path, listener: Some(listener) })
    }

    /// Serves until `stop` is cancelled; then finishes what is under way and ends watches.
    pub async fn serve<C: Control>(mut self, control: Arc<C>, stop: CancellationToken) -> io::Result<()> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let app = router(Shared { control, stop: stop.clone() });
        let service = app.into_make_service_with_connect_info::<Peer>();
        axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody can be told, and a stale socket harms nothing: the next daemon replaces it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

impl Peer {
    fn may_write(self, own: u32) -> Result<(), Failure> {
        match self.uid {
            Some(uid) if uid == 0 || uid == own => Ok(()),
            Some(uid) => Err(Failure::new(
                FailureReason::Forbidden,
                format!("user {uid} may read but not change anything: only root and the daemon's user {own} may"),
            )),
            None => Err(Failure::new(FailureReason::Forbidden, "the kernel does not tell who is calling")),
        }
    }
}

struct Shared<C> {
    control: Arc<C>,
    stop: CancellationToken,
}

impl<C> Clone for Shared<C> {
    fn clone(&self) -> Self {
        Self { control: Arc::clone(&self.control), stop: self.stop.clone() }
    }
}

fn router<C: Control>(shared: Shared<C>) -> Router {
    let writes = Router::new()
        .route("/v1/apply", post(apply::<C>))
        .route("/v1/delete", post(delete::<C>))
        // It changes nothing, but has the kernel verify programs.
        .route("/v1/trace", post(trace::<C>))
        .layer(axum::middleware::from_fn(authorise));
    // What others say to each other is not for everybody.
    let captures = Router::new().route("/v1/capture", post(capture::<C>)).layer(axum::middleware::from_fn(authorise));
    let reads = Router::new()
        .route("/v1/version", get(version))
        .route("/v1/status", get(status::<C>))
        .route("/v1/figures", get(figures::<C>))
        .route("/v1/plan", post(plan::<C>))
        .route("/v1/why", get(why::<C>))
        .route("/v1/services/{namespace}/{name}/description", get(describe::<C>));
    let streams = Router::new()
        .route("/v1/flows", get(flows::<C>))
        .route("/v1/monitor", get(monitor::<C>))
        .route("/v1/{resource}", get(list::<C>));
    writes
        .merge(reads)
        .layer(axum::middleware::from_fn(limit_time))
        .merge(streams)
        .merge(captures)
        .fallback(async || Failure::new(FailureReason::NotFound, "there is no such path; the paths are below /v1/"))
        .method_not_allowed_fallback(async || {
            Failure::new(FailureReason::BadRequest, "this path does not take this method")
        })
        .layer(DefaultBodyLimit::max(super::MAX_BODY))
        .layer(axum::middleware::from_fn(limit_size))
        .with_state(shared)
}

async fn authorise(ConnectInfo(peer): ConnectInfo<Peer>, request: Request, next: Next) -> Response {
    match peer.may_write(nix::unistd::geteuid().as_raw()) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

/// Refuses a body that says it is too large, before a byte of it is read.
async fn limit_size(request: Request, next: Next) -> Response {
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > super::MAX_BODY as u64 => too_large().into_response(),
        _ => next.run(request).await,
    }
}

fn too_large() -> Failure {
    let message = format!("the request is larger than {} MiB: apply in parts", super::MAX_BODY >> 20);
    Failure::new(FailureReason::RequestEntityTooLarge, message)
}

async fn limit_time(request: Request, next: Next) -> Response {
    tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await.unwrap_or_else(|_| {
        let seconds = REQUEST_TIMEOUT.as_secs();
        let message = format!("not finished after {seconds} s; what was begun may still complete");
        Failure::new(FailureReason::Timeout, message).into_response()
    })
}

async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION").to_owned() })
}

async fn status<C: Control>(State(shared): State<Shared<C>>) -> Result<Json<Status>, Failure> {
    shared.control.status().await.map(Json)
}

async fn figures<C: Control>(State(shared): State<Shared<C>>) -> Result<Json<Figures>, Failure> {
    shared.control.figures().await.map(Json)
}

async fn describe<C: Control>(
    State(shared): State<Shared<C>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<ServiceDescription>, Failure> {
    shared.control.describe(Key { namespace, name }).await.map(Json)
}

async fn apply<C: Control>(
    State(shared): State<Shared<C>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ApplyAnswer>, Failure> {
    shared.control.apply(parse(body)?).await.map(Json)
}

async fn plan<C: Control>(
    State(shared): State<Shared<C>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<PlanAnswer>, Failure> {
    shared.control.plan(parse(body)?).await.map(Json)
}

async fn trace<C: Control>(
    State(shared): State<Shared<C>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<TraceAnswer>, Failure> {
    shared.control.trace(parse(body)?).await.map(Json)
}

async fn delete<C: Control>(
    State(shared): State<Shared<C>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<DeleteAnswer>, Failure> {
    shared.control.delete(parse(body)?).await.map(Json)
}

async fn flows<C: Control>(State(shared): State<Shared<C>>) -> Result<Response, Failure> {
    Ok(stream(shared.control.flows().await?, shared.stop))
}

/// The query of a request, read and understood.
fn understand<Q, T>(query: Result<Query<Q>, QueryRejection>) -> Result<T, Failure>
where
    T: TryFrom<Q, Error = Failure>,
{
    let Query(query) = query.map_err(|error| Failure::new(FailureReason::BadRequest, error.body_text()))?;
    T::try_from(query)
}

async fn monitor<C: Control>(
    State(shared): State<Shared<C>>,
    query: Result<Query<MonitorQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    Ok(stream(shared.control.monitor(understand(query)?).await?, shared.stop))
}

async fn why<C: Control>(
    State(shared): State<Shared<C>>,
    query: Result<Query<WhyQuery>, QueryRejection>,
) -> Result<Json<WhyAnswer>, Failure> {
    shared.control.why(understand(query)?).await.map(Json)
}

/// Lines as they come, until there are no more or the daemon stops.
fn stream<T: Serialize + Send + 'static>(lines: mpsc::Receiver<T>, stop: CancellationToken) -> Response {
    json_lines(Body::from_stream(futures_util::stream::unfold((lines, stop), async |(mut lines, stop)| {
        let first = tokio::select! {
            () = stop.cancelled() => return None,
            first = lines.recv() => first?,
        };
        let mut chunk = Vec::new();
        write_line(&mut chunk, &first);
        while chunk.len() < 1 << 16
            && let Ok(next) = lines.try_recv()
        {
            write_line(&mut chunk, &next);
        }
        Some((Ok::<_, io::Error>(chunk), (lines, stop)))
    })))
}

async fn capture<C: Control>(
    State(shared): State<Shared<C>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let pieces = shared.control.capture(parse(body)?).await?;
    let file = futures_util::stream::unfold((pieces, shared.stop), async |(mut pieces, stop)| {
        let piece = tokio::select! {
            () = stop.cancelled() => return None,
            piece = pieces.recv() => piece?,
        };
        Some((Ok::<_, io::Error>(piece), (pieces, stop)))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-pcapng")], Body::from_stream(file)).into_response())
}

/// The query of a listing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    namespace: Option<String>,
    name: Option<String>,
    #[serde(default)]
    watch: bool,
}

async fn list<C: Control>(
    State(shared): State<Shared<C>>,
    Path(resource): Path<String>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    let resource: Resource =
        resource.parse().map_err(|error| Failure::new(FailureReason::NotFound, format!("{error}")))?;
    let Query(query) = query.map_err(|error| Failure::new(FailureReason::BadRequest, error.body_text()))?;
    let selection = Selection { resource, namespace: query.namespace, name: query.name };
    let catalogue = shared.control.catalogue();
    if query.watch {
        return Ok(json_lines(watch_body(catalogue, selection, shared.stop)));
    }
    let items = catalogue.borrow().items(&selection);
    match &selection.name {
        Some(name) if items.is_empty() => {
            Err(Failure::new(FailureReason::NotFound, format!("{} \"{name}\" not found", resource.qualified())))
        }
        _ => Ok(Json(Items { items }).into_response()),
    }
}

/// First what is there, then what changes, until the daemon stops or the client goes.
fn watch_body(mut catalogue: watch::Receiver<Catalogue>, selection: Selection, stop: CancellationToken) -> Body {
    let start = catalogue.borrow_and_update().clone();
    let added = |object| Event { kind: EventKind::Added, object };
    let first: Vec<Event> = start.items(&selection).into_iter().map(added).collect();
    let state = (catalogue, start, Some(first), selection, stop);
    Body::from_stream(futures_util::stream::unfold(state, async |(mut now, seen, first, selection, stop)| {
        if let Some(first) = first.filter(|first| !first.is_empty()) {
            return Some((Ok::<_, io::Error>(lines(&first)), (now, seen, None, selection, stop)));
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return None,
                changed = now.changed() => changed.ok()?,
            }
            let latest = now.borrow_and_update().clone();
            let events = latest.events_since(&seen, &selection);
            if !events.is_empty() {
                return Some((Ok(lines(&events)), (now, latest, None, selection, stop)));
            }
        }
    }))
}

fn lines(events: &[Event]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events {
        write_line(&mut bytes, event);
    }
    bytes
}

fn write_line(bytes: &mut Vec<u8>, line: &impl Serialize) {
    // Writing plain data to memory does not fail; a line that somehow did is left out whole.
    let start = bytes.len();
    if serde_json::to_writer(&mut *bytes, line).is_err() {
        bytes.truncate(start);
    } else {
        bytes.push(b'\n');
    }
}

fn json_lines(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/jsonl")], body).into_response()
}

/// Parses a body without asking for a content type: `curl --data @file` works.
fn parse<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Failure> {
    let bytes = body.map_err(|rejection| match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => too_large(),
        other => Failure::new(FailureReason::BadRequest, other.body_text()),
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::new(FailureReason::BadRequest, format!("the request's body: {error}")))
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::Peer;

    #[test]
    fn root_and_the_daemons_own_user_may_write() {
        assert!(Peer { uid: Some(0) }.may_write(990).is_ok());
        assert!(Peer { uid: Some(990) }.may_write(990).is_ok());
        let refused = Peer { uid: Some(1000) }.may_write(990).unwrap_err();
        insta::assert_snapshot!(refused, @"user 1000 may read but not change anything: only root and the daemon's user 990 may");
        assert!(Peer { uid: None }.may_write(990).is_err());
    }
}
