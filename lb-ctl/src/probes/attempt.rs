//! One attempt: a connection, an HTTP request, or a question by gRPC's health checking protocol.

use super::target::{Action, bracketed};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, TE, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// Who asks.
const AGENT: &str = concat!("kube-probe/lb-ctl-", env!("CARGO_PKG_VERSION"));
/// `grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING`
const SERVING: u8 = 1;

/// Tries it once; the error says why it did not succeed.
pub(super) async fn attempt(action: &Action) -> Result<(), String> {
    match action {
        Action::Tcp { to, port } => connect((to.as_str(), *port)).await.map(drop),
        Action::Http { to, port, path, headers } => http(to, *port, path, headers).await,
        Action::Grpc { to, service } => grpc(*to, service).await,
        Action::Never(why) => Err(why.clone()),
    }
}

async fn connect(to: impl tokio::net::ToSocketAddrs) -> Result<TcpStream, String> {
    TcpStream::connect(to).await.map_err(|error| error.to_string())
}

/// Succeeds with a status from 200 to 399 (`pkg/probe/http`), whose redirects are not followed.
async fn http(to: &str, port: u16, path: &str, headers: &[(String, String)]) -> Result<(), String> {
    let stream = connect((to, port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let mut request = Request::builder().method(Method::GET).uri(path);
    let is_given =
        |name: &hyper::header::HeaderName| headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name.as_str()));
    for (name, value) in
        [(HOST, format!("{}:{port}", bracketed(to))), (USER_AGENT, AGENT.into()), (ACCEPT, "*/*".into())]
    {
        if !is_given(&name) {
            request = request.header(name, value);
        }
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let status = sender.send_request(request).await.map_err(|error| error.to_string())?.status();
    if (200..400).contains(&status.as_u16()) { Ok(()) } else { Err(format!("status {status}")) }
}

/// Succeeds with `SERVING`.
async fn grpc(to: SocketAddr, service: &str) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = connect(to).await?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| text(&error))?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{to}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(Full::new(Bytes::from(question(service))))
        .map_err(|error| text(&error))?;
    let response = sender.send_request(request).await.map_err(|error| text(&error))?;
    let headers = response.headers().clone();
    let body = response.into_body().collect().await.map_err(|error| text(&error))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let code = trailers.get("grpc-status").or(headers.get("grpc-status"));
    if let Some(code) = code.and_then(|code| code.to_str().ok()).filter(|code| *code != "0") {
        return Err(format!("gRPC status {code}"));
    }
    match status(&body.to_bytes()) {
        Some(SERVING) => Ok(()),
        Some(other) => Err(format!("health status {other}, which is not SERVING")),
        None => Err("an answer that is none of the health checking protocol".to_owned()),
    }
}

/// A `HealthCheckRequest` behind gRPC's prefix: not compressed, and its length.
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, of the type string.
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend(service.bytes());
    }
    let mut whole = vec![0];
    whole.extend((message.len() as u32).to_be_bytes());
    whole.extend(message);
    whole
}

/// The status in a `HealthCheckResponse` behind gRPC's prefix.
fn status(body: &[u8]) -> Option<u8> {
    let (prefix, message) = body.split_at_checked(5)?;
    if prefix[0] != 0 || prefix[1..] != (message.len() as u32).to_be_bytes() {
        return None;
    }
    match message {
        [] => Some(0),
        // Field 1, of the type enum.
        [0x08, status] if *status < 0x80 => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpcs_messages_have_their_shape() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = question(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        for bad in [&[][..], &[0, 0, 0], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 9, 8, 1], &[0, 0, 0, 0, 2, 9, 1]] {
            assert_eq!(status(bad), None, "{bad:?}");
        }
    }
}
