//! `monitor`: one event a line, as it happens.

use super::args::{LineFormat, Monitor};
use super::output::Output;
use super::{Failed, SUCCESS, query};
use crate::api::{Client, EventLine, MissingLine, MonitorLine, MonitorQuery};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::AsFd;
use tokio::sync::oneshot;

/// Room for the columns before the last: most IPv4 addresses stand in line, IPv6 takes what it needs.
const HEADERS: [&str; 9] = ["TIME", "TYPE", "REASON", "PROTO", "CLIENT", "FRONTEND", "SERVICE", "BACKEND", "DETAILS"];

pub(super) async fn run(client: &Client, monitor: &Monitor, out: &mut Output) -> Result<u8, Failed> {
    if let Some(key) = &monitor.service {
        query::service(client, key).await?;
    }
    let mut lines = client.monitor(&query(monitor)).await?;
    let is_text = monitor.output == LineFormat::Text;
    if is_text && !monitor.no_headers {
        out.line(format_args!("{}", row(HEADERS)))?;
    }
    let mut left = monitor.count;
    let mut gone = gone();
    loop {
        let line = tokio::select! {
            line = lines.next() => line?,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(SUCCESS);
            }
            _ = &mut gone => return Ok(SUCCESS),
        };
        let Some(line) = line else { return Ok(SUCCESS) };
        match (&line, is_text) {
            (_, false) => out.line(format_args!("{}", serde_json::to_string(&line).map_err(io::Error::other)?))?,
            (MonitorLine::Event(event), true) => out.line(format_args!("{}", text(event)))?,
            (MonitorLine::Missing(missing), true) => out.line(format_args!("{}", missing_text(missing)))?,
        }
        if let (MonitorLine::Event(_), Some(count)) = (&line, &mut left) {
            *count -= 1;
            if *count == 0 {
                return Ok(SUCCESS);
            }
        }
    }
}

/// Waits until nobody reads our output any more. A pipe says so; a file or `/dev/null` never does.
fn gone() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    // A thread of its own, which nobody waits for at the end. Hang-ups and errors are told whatever is asked for.
    std::thread::spawn(move || {
        let stdout = io::stdout();
        let mut end = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        while poll(&mut end, PollTimeout::NONE) == Err(Errno::EINTR) {}
        // Whoever waited may have ended.
        sender.send(()).ok();
    });
    receiver
}

fn query(monitor: &Monitor) -> MonitorQuery {
    fn list<T: ToString>(items: &[T]) -> Option<String> {
        let items: Vec<String> = items.iter().map(ToString::to_string).collect();
        (!items.is_empty()).then(|| items.join(","))
    }
    MonitorQuery {
        service: monitor.service.as_ref().map(ToString::to_string),
        client: list(&monitor.client),
        backend: list(&monitor.backend),
        reason: list(&monitor.reason),
        r#type: list(&monitor.r#type),
    }
}

fn text(event: &EventLine) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let pod = event.pod.as_ref().map(|pod| format!("pod={pod}"));
    let state = event.state.as_ref().map(|state| format!("state={state}"));
    let from = event.from_backend.then(|| "from=backend".to_owned());
    let length = (event.bytes > 0).then(|| format!("bytes={}", event.bytes));
    let interface = (event.ifindex > 0).then(|| format!("ifindex={}", event.ifindex));
    let hook = Some(format!("hook={}", event.hook));
    let details: Vec<String> = [pod, state, from, hook, interface, length].into_iter().flatten().collect();
    row([
        // The day is known, and zones are left to JSON.
        event.time.split_once('T').map_or(event.time.as_str(), |(_, time)| time),
        event.r#type.name(),
        &event.reason,
        &event.protocol,
        &or_dash(event.client.map(|client| client.to_string())),
        &event.frontend.to_string(),
        event.service.as_deref().unwrap_or("-"),
        &or_dash(event.backend.map(|backend| backend.to_string())),
        &details.join(" "),
    ])
}

fn missing_text(missing: &MissingLine) -> String {
    let parts = [
        (missing.skipped, "not told by the datapath, which tells a sample"),
        (missing.lost, "lost: the ring buffer was full"),
        (missing.missed, "missed: this reader is too slow"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} events {what}"));
    format!("({})", parts.collect::<Vec<_>>().join("; "))
}

fn row(cells: [&str; 9]) -> String {
    let [time, kind, reason, protocol, client, frontend, service, backend, details] = cells;
    format!(
        "{time:<16} {kind:<8} {reason:<16} {protocol:<5} {client:<21} {frontend:<21} {service:<24} {backend:<21} {details}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::EventType;

    #[test]
    fn an_event_is_one_line() {
        let event = EventLine {
            time: "2024-02-01T10:11:12.131415Z".to_owned(),
            r#type: EventType::Closed,
            reason: "forwarded".to_owned(),
            hook: "xdp".to_owned(),
            protocol: "TCP".to_owned(),
            client: Some("192.0.2.1:40000".parse().unwrap()),
            frontend: "10.96.0.1:80".parse().unwrap(),
            service: Some("shop/web:http".to_owned()),
            backend: Some("10.244.0.5:8080".parse().unwrap()),
            pod: Some("shop/web-1".to_owned()),
            state: Some("TIME_WAIT".to_owned()),
            from_backend: true,
            ifindex: 7,
            bytes: 66,
        };
        insta::assert_snapshot!(text(&event), @"10:11:12.131415Z closed   forwarded        TCP   192.0.2.1:40000       10.96.0.1:80          shop/web:http            10.244.0.5:8080       pod=shop/web-1 state=TIME_WAIT from=backend hook=xdp ifindex=7 bytes=66");
        let refused = EventLine {
            r#type: EventType::Rejected,
            reason: "no-backend".to_owned(),
            hook: "socket".to_owned(),
            client: None,
            backend: None,
            pod: None,
            state: None,
            from_backend: false,
            ifindex: 0,
            bytes: 0,
            ..event
        };
        insta::assert_snapshot!(text(&refused), @"10:11:12.131415Z rejected no-backend       TCP   -                     10.96.0.1:80          shop/web:http            -                     hook=socket");
    }

    #[test]
    fn what_is_missing_is_counted() {
        let missing = MissingLine { skipped: 12, lost: 0, missed: 3 };
        insta::assert_snapshot!(missing_text(&missing), @"(12 events not told by the datapath, which tells a sample; 3 events missed: this reader is too slow)");
    }
}
