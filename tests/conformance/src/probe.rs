//! HTTP requests to what the daemon listens on.

use crate::schema::Probe;
use anyhow::{Context, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks, and says why the answer is not as expected, if so.
pub fn judge(probe: &Probe) -> anyhow::Result<()> {
    let url = &probe.request.url;
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is no URL of HTTP"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address: SocketAddr = host.parse().with_context(|| format!("{url} names no address and port"))?;
    let expect = &probe.expect;
    let mut stream = match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            ensure!(!expect.listening, "nobody listens on {address}");
            return Ok(());
        }
        Err(error) => bail!("{address}: {error}"),
    };
    ensure!(expect.listening, "somebody listens on {address}");
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "{} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n", probe.request.method)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| url.clone())?;
    let (status, headers, body) = parse(&text).context("the answer is not HTTP")?;
    if let Some(expected) = expect.status {
        ensure!(status == expected, "expected status {expected}; it is {status}");
    }
    for (name, expected) in &expect.headers {
        let found = headers.get(&name.to_lowercase());
        ensure!(found == Some(expected), "expected the header {name}: {expected}; it is {found:?}");
    }
    if let Some(expected) = &expect.json {
        let found: Value = serde_json::from_str(body).context("the body is no JSON")?;
        ensure!(holds(&found, expected), "expected the body {expected}; it is {found}");
    }
    Ok(())
}

/// Whether everything expected of the body is in it; what is not named, such as times, is free.
fn holds(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            expected.iter().all(|(name, expected)| found.get(name).is_some_and(|found| holds(found, expected)))
        }
        _ => found == expected,
    }
}

/// Status, headers by lowercase name, and body of an answer.
fn parse(text: &str) -> Option<(u16, BTreeMap<String, String>, &str)> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let header = |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    Some((status, lines.filter_map(header).collect(), body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_status_headers_and_body() {
        let (status, headers, body) = parse("HTTP/1.1 503 Service Unavailable\r\nX-A: b\r\n\r\n{}").unwrap();
        assert_eq!((status, headers["x-a"].as_str(), body), (503, "b", "{}"));
        let body = serde_json::json!({"a": {"b": 1, "c": 2}});
        assert!(holds(&body, &serde_json::json!({"a": {"b": 1}})));
        assert!(!holds(&body, &serde_json::json!({"a": {"b": 2}})) && !holds(&body, &serde_json::json!({"d": null})));
        assert!(parse("SSH-2.0\r\n\r\n").is_none());
    }
}
