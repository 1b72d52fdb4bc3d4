//! The probe `grpc`: the health checking protocol (`grpc.health.v1.Health/Check` of `health.proto`) over HTTP/2 without TLS.
//!
//! Its two messages have one field each, so they are written and read here: a frame is a zero, the length of the message in
//! four bytes in network order, and the message.

use super::action::Target;
use super::http::{AGENT, authority, beside, connect, told};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};

/// Field 1 of the request, a text; and field 1 of the answer, a number.
const SERVICE: u8 = 1 << 3 | 2;
const STATUS: u8 = 1 << 3;
/// More than an answer has, in bytes.
const LIMIT: usize = 4096;
/// The names of statuses in the answer; the rest are not known.
const NAMES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// Asks whether `service` is served; an empty name stands for the server as a whole.
pub(super) async fn attempt(target: &Target, service: &str) -> Result<(), String> {
    let io = TokioIo::new(connect(target).await?);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(told)?;
    let request = Request::post(format!("http://{}/grpc.health.v1.Health/Check", authority(target)))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(Full::new(question(service)))
        .map_err(|error| error.to_string())?;
    let exchange = async { judge(sender.send_request(request).await.map_err(told)?).await };
    beside(connection, exchange).await
}

fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(SERVICE);
        varint(service.len(), &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], &message].concat().into()
}

fn varint(mut number: usize, to: &mut Vec<u8>) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

async fn judge<B>(answer: Response<B>) -> Result<(), String>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = answer.into_parts();
    if !head.status.is_success() {
        return Err(format!("HTTP status {}", head.status.as_u16()));
    }
    let body = Limited::new(body, LIMIT).collect().await.map_err(|error| error.to_string())?;
    // Where there is no body, trailers come as headers.
    let refused = body.trailers().and_then(refusal).or_else(|| refusal(&head.headers));
    match refused {
        Some(why) => Err(why),
        None => status(&body.to_bytes()),
    }
}

fn refusal(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status").filter(|code| *code != "0")?;
    Some(match text("grpc-message") {
        Some(message) if !message.is_empty() => format!("gRPC status {code}: {message}"),
        // `UNIMPLEMENTED`
        _ if code == "12" => "gRPC status 12: the server does not tell its health".to_owned(),
        _ => format!("gRPC status {code}"),
    })
}

/// Reads the frame of an answer. A field of the value zero is left out by those who write it.
fn status(frame: &[u8]) -> Result<(), String> {
    let status = match frame {
        [0, _, _, _, _] => Some(0),
        [0, _, _, _, _, STATUS, status] => Some(usize::from(*status)),
        _ => None,
    };
    match status.map(|status| (status, NAMES.get(status))) {
        Some((1, _)) => Ok(()),
        Some((_, Some(name))) => Err(format!("the status is {name}")),
        _ => Err("the answer is none of the health checking protocol".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_framed() {
        assert_eq!(question("")[..], [0; 5]);
        assert_eq!(question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(question(&"x".repeat(300))[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
    }

    #[test]
    fn answers_are_read() {
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 2]).unwrap_err(), "the status is NOT_SERVING");
        assert_eq!(status(&[0, 0, 0, 0, 0]).unwrap_err(), "the status is UNKNOWN");
        for odd in [&[][..], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 2, 8, 9], b"<html>"] {
            assert_eq!(status(odd).unwrap_err(), "the answer is none of the health checking protocol");
        }
    }
}
