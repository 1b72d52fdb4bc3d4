//! The probe `httpGet` (`pkg/probe/http`): ready is an answer with a status from 200 to 399. Redirects are not followed.
//! With `scheme: HTTPS` the same is asked by [`tls`].

use super::action::Target;
use super::attempt::plainly;
use super::tls;
use crate::objects::HttpGetAction;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::future::Future;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// By this servers know a probe; the first word is the kubelet's.
pub(super) const AGENT: &str = concat!("kube-probe/", env!("CARGO_PKG_VERSION"), " lb-ctl/", env!("CARGO_PKG_VERSION"));
/// Of a body so much is read, in bytes, as the kubelet does.
const BODY: usize = 10 << 10;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpGet {
    pub(super) target: Target,
    is_secure: bool,
    path: Uri,
    headers: HeaderMap,
}

impl HttpGet {
    /// An error says what of it cannot be sent.
    pub(super) fn new(target: Target, action: &HttpGetAction) -> Result<Self, String> {
        let path = format!("/{}", action.path.strip_prefix('/').unwrap_or(&action.path));
        let path = path.parse().map_err(|_| format!("`{}` is no path", action.path))?;
        let mut headers = HeaderMap::new();
        for header in &action.http_headers {
            let name: Result<HeaderName, _> = header.name.parse();
            let (Ok(name), Ok(value)) = (name, header.value.parse()) else {
                return Err(format!("the header `{}: {}` cannot be sent", header.name, header.value));
            };
            headers.append(name, value);
        }
        let host = authority(&target).parse().map_err(|_| format!("`{}` is no host", target.0))?;
        headers.entry(HOST).or_insert(host);
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(Self { target, is_secure: action.scheme == "HTTPS", path, headers })
    }

    pub(super) async fn attempt(&self) -> Result<(), String> {
        let stream = connect(&self.target).await?;
        if self.is_secure { self.ask(tls::begin(&self.target, stream).await?).await } else { self.ask(stream).await }
    }

    async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), String> {
        let io = TokioIo::new(stream);
        let (mut sender, connection) = http1::handshake(io).await.map_err(told)?;
        let mut request = Request::new(Empty::<Bytes>::new());
        request.uri_mut().clone_from(&self.path);
        request.headers_mut().clone_from(&self.headers);
        let exchange = async { judge(sender.send_request(request).await.map_err(told)?).await };
        beside(connection, exchange).await
    }
}

impl fmt::Display for HttpGet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(f, "GET {scheme}://{}{}", authority(&self.target), self.path)
    }
}

async fn judge(answer: Response<Incoming>) -> Result<(), String> {
    let status = answer.status();
    let (mut body, mut read) = (answer.into_body(), 0);
    while let Some(frame) = body.frame().await {
        read += frame.map_err(told)?.data_ref().map_or(0, Bytes::len);
        if read > BODY {
            break;
        }
    }
    if (200..400).contains(&status.as_u16()) { Ok(()) } else { Err(format!("status {}", status.as_u16())) }
}

/// `host:port`, as URLs have it.
pub(super) fn authority((host, port): &Target) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

pub(super) async fn connect((host, port): &Target) -> Result<TcpStream, String> {
    TcpStream::connect((host.as_str(), *port)).await.map_err(|error| plainly(&error))
}

/// Waits for `exchange`, which a connection has to be driven for. How the connection ends is told by the exchange.
pub(super) async fn beside<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let driven = async {
        connection.await;
        std::future::pending::<T>().await
    };
    tokio::select! {
        biased;
        done = exchange => done,
        never = driven => never,
    }
}

/// What hyper says, and why.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn told(error: hyper::Error) -> String {
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
