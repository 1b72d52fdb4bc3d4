//! The client: one connection to the control socket for each request.

use super::catalogue::{Resource, Selection};
use super::description::ServiceDescription;
use super::monitor::{MonitorLine, MonitorQuery};
use super::plan::PlanAnswer;
use super::status::Status;
use super::trace::{TraceAnswer, TraceRequest};
use super::types::{
    ApplyAnswer, ApplyRequest, CaptureRequest, DeleteAnswer, DeleteRequest, Event, Failure, FlowLine, Items, Version,
};
use super::why::{WhyAnswer, WhyQuery};
use crate::figures::Figures;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// A little longer than the server takes for anything.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);

/// A client of the daemon behind one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// A request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error(
        "no lb-ctl daemon answers on {}: {source}; start one with `lb-ctl daemon --interface NAME`, or name its socket \
         with --socket or --instance",
        socket.display()
    )]
    NotRunning {
        /// The socket's path.
        socket: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The socket may not be opened.
    #[error("user {uid} may not open the daemon's socket {}: run as root", socket.display())]
    NotAllowed {
        /// The socket's path.
        socket: PathBuf,
        /// Who tried.
        uid: u32,
    },
    /// The daemon refused.
    #[error("{0}")]
    Refused(Failure),
    /// The connection broke, or what came is no answer of ours.
    #[error("talking to the daemon on {}: {message}", socket.display())]
    Broken {
        /// The socket's path.
        socket: PathBuf,
        /// What happened.
        message: String,
    },
}

/// JSON lines that come as they happen.
#[derive(Debug)]
pub struct Lines<T> {
    socket: PathBuf,
    body: Incoming,
    pending: Vec<u8>,
    read: usize,
    line: std::marker::PhantomData<fn() -> T>,
}

/// Bytes that come as something happens.
#[derive(Debug)]
pub struct Pieces {
    socket: PathBuf,
    body: Incoming,
}

impl Pieces {
    /// The next bytes, or `None` when there are no more. Waits for as long as it takes.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame
                .map_err(|error| ClientError::Broken { socket: self.socket.clone(), message: error.to_string() })?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }
}

impl Client {
    /// A client of the daemon behind `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Versions of the daemon.
    pub async fn version(&self) -> Result<Version, ClientError> {
        self.get("/v1/version").await
    }

    /// How everything is.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Everything that is counted and measured.
    pub async fn figures(&self) -> Result<Figures, ClientError> {
        self.get("/v1/figures").await
    }

    /// Applies manifests: all or nothing.
    pub async fn apply(&self, request: &ApplyRequest) -> Result<ApplyAnswer, ClientError> {
        self.post("/v1/apply", request).await
    }

    /// What an apply would do, or, without files, what is still to be done. Changes nothing.
    pub async fn plan(&self, request: &ApplyRequest) -> Result<PlanAnswer, ClientError> {
        self.post("/v1/plan", request).await
    }

    /// What would become of a packet, and why. Changes nothing.
    pub async fn trace(&self, request: &TraceRequest) -> Result<TraceAnswer, ClientError> {
        self.post("/v1/trace", request).await
    }

    /// Deletes objects: all or nothing.
    pub async fn delete(&self, request: &DeleteRequest) -> Result<DeleteAnswer, ClientError> {
        self.post("/v1/delete", request).await
    }

    /// The objects that `selection` names.
    pub async fn list(&self, selection: &Selection) -> Result<Vec<Value>, ClientError> {
        let items: Items = self.get(&path_of(selection, false)).await?;
        Ok(items.items)
    }

    /// The objects that `selection` names, and what happens to them.
    pub async fn watch(&self, selection: &Selection) -> Result<Lines<Event>, ClientError> {
        self.lines(&path_of(selection, true)).await
    }

    /// One Service as it works on this node.
    pub async fn describe(&self, namespace: &str, name: &str) -> Result<ServiceDescription, ClientError> {
        self.get(&format!("/v1/services/{}/{}/description", encode(namespace), encode(name))).await
    }

    /// All flows.
    pub async fn flows(&self) -> Result<Lines<FlowLine>, ClientError> {
        self.lines("/v1/flows").await
    }

    /// What happens to single flows and packets, from now on.
    pub async fn monitor(&self, query: &MonitorQuery) -> Result<Lines<MonitorLine>, ClientError> {
        self.lines(&self.with_query("/v1/monitor", query)?).await
    }

    /// What did not arrive lately.
    pub async fn why(&self, query: &WhyQuery) -> Result<WhyAnswer, ClientError> {
        self.get(&self.with_query("/v1/why", query)?).await
    }

    /// A path with the fields of `query` that are set.
    fn with_query(&self, path: &str, query: &impl Serialize) -> Result<String, ClientError> {
        let fields = serde_json::to_value(query).map_err(|error| self.broken(&error))?;
        let fields = fields.as_object().into_iter().flatten().map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{name}={}", encode(&text))
        });
        let fields: Vec<String> = fields.collect();
        Ok(if fields.is_empty() { path.to_owned() } else { format!("{path}?{}", fields.join("&")) })
    }

    /// The pieces of a file of packets, as they come.
    pub async fn capture(&self, request: &CaptureRequest) -> Result<Pieces, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.broken(&error))?;
        let body = self.send(Method::POST, "/v1/capture", body.into()).await?.into_body();
        Ok(Pieces { socket: self.socket.clone(), body })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.answer(Method::GET, path, Bytes::new()).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.broken(&error))?;
        self.answer(Method::POST, path, body.into()).await
    }

    async fn answer<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let whole = async {
            let response = self.send(method, path, body).await?;
            response.into_body().collect().await.map_err(|error| self.broken(&error))
        };
        let seconds = ANSWER_TIMEOUT.as_secs();
        let body = tokio::time::timeout(ANSWER_TIMEOUT, whole)
            .await
            .map_err(|_| self.broken(&format_args!("no answer after {seconds} s")))??
            .to_bytes();
        serde_json::from_slice(&body).map_err(|error| self.broken(&error))
    }

    async fn lines<T>(&self, path: &str) -> Result<Lines<T>, ClientError> {
        let body = self.send(Method::GET, path, Bytes::new()).await?.into_body();
        let line = std::marker::PhantomData;
        Ok(Lines { socket: self.socket.clone(), body, pending: Vec::new(), read: 0, line })
    }

    /// Sends a request; an answer that is no success becomes an error.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => {
                ClientError::NotAllowed { socket: self.socket.clone(), uid: nix::unistd::getuid().as_raw() }
            }
            _ => ClientError::NotRunning { socket: self.socket.clone(), source },
        })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(&error))?;
        // The connection ends with the answer; its errors come out of the request.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "lb-ctl")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| self.broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.broken(&error))?.to_bytes();
        match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => Err(ClientError::Refused(failure)),
            Err(_) => Err(self.broken(&format_args!("{status}: {}", String::from_utf8_lossy(&body)))),
        }
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), message: error.to_string() }
    }
}

impl<T: DeserializeOwned> Lines<T> {
    /// The next line, or `None` when there are no more. Waits for as long as it takes.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(length) = self.pending[self.read..].iter().position(|byte| *byte == b'\n') {
                let line = &self.pending[self.read..self.read + length];
                let parsed = serde_json::from_slice(line).map_err(|error| self.broken(&error))?;
                self.read += length + 1;
                return Ok(Some(parsed));
            }
            self.pending.drain(..self.read);
            self.read = 0;
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    let frame = frame.map_err(|error| self.broken(&error))?;
                    if let Some(data) = frame.data_ref() {
                        self.pending.extend_from_slice(data);
                    }
                }
            }
        }
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), message: error.to_string() }
    }
}

fn path_of(selection: &Selection, watch: bool) -> String {
    let mut path = format!("/v1/{}", Resource::plural(selection.resource));
    let parameters = [
        ("namespace", selection.namespace.as_deref()),
        ("name", selection.name.as_deref()),
        ("watch", watch.then_some("true")),
    ];
    let mut separator = '?';
    for (name, value) in parameters {
        if let Some(value) = value {
            // Writing to a string does not fail.
            let _ = write!(path, "{separator}{name}={}", encode(value));
            separator = '&';
        }
    }
    path
}

/// Percent-encodes whatever is not unreserved (RFC 3986).
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
