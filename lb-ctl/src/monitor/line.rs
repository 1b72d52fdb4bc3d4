//! From the datapath's record to a line that people and programs read.

use super::names::Names;
use crate::api::monitor::{EventLine, EventType};
use jiff::{SignedDuration, Timestamp};
use lb_common::flow::state;
use lb_common::{Event, Flow, Reason};
use nix::time::{ClockId, clock_gettime};
use std::net::{IpAddr, SocketAddr};

/// Nanoseconds since boot, by the clock that events are stamped with.
pub(super) fn now() -> u64 {
    // Never fails for this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// What time it was, or is, when the clock of events showed `time`.
pub(super) fn wall_clock(time: u64) -> Timestamp {
    let ago = SignedDuration::from_nanos(now().saturating_sub(time) as i64);
    Timestamp::now().checked_sub(ago).unwrap_or_default()
}

/// A moment as lines have it, to the microsecond.
pub(super) fn moment(time: u64) -> String {
    format!("{:.6}", wall_clock(time))
}

/// An address of an event.
pub(super) fn address(family: u8, bytes: [u8; 16]) -> IpAddr {
    match bytes {
        [a, b, c, d, ..] if family == 4 => IpAddr::from([a, b, c, d]),
        bytes => IpAddr::from(bytes),
    }
}

/// An address of an event, with its port.
pub(super) fn socket(event: &Event, bytes: [u8; 16], port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(address(event.family, bytes), u16::from_be_bytes(port))
}

/// The client of an event; none where a process was refused at its socket.
pub(super) fn client(event: &Event) -> Option<SocketAddr> {
    Some(socket(event, event.client, event.client_port)).filter(|client| !client.ip().is_unspecified())
}

/// What was asked for.
pub(super) fn frontend(event: &Event) -> SocketAddr {
    socket(event, event.frontend, event.frontend_port)
}

/// The name of a transport protocol, or its number.
pub(crate) fn protocol_name(number: u8) -> String {
    match number {
        lb_common::TCP => "TCP".to_owned(),
        lb_common::UDP => "UDP".to_owned(),
        lb_common::SCTP => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

/// The line of an event. `None` for one of a kind that this build does not know.
pub(super) fn line(event: &Event, names: &Names) -> Option<EventLine> {
    let kind = match event.kind {
        Event::NEW => EventType::New,
        Event::CLOSED => EventType::Closed,
        Event::REJECTED => EventType::Rejected,
        Event::DROPPED => EventType::Dropped,
        _ => return None,
    };
    let frontend = frontend(event);
    let backend = Some(socket(event, event.backend, event.backend_port)).filter(|to| !to.ip().is_unspecified());
    let has_flow = event.kind == Event::NEW || event.flow_flags != 0;
    Some(EventLine {
        time: moment(event.time),
        r#type: kind,
        reason: event.reason().map_or_else(|| event.reason.to_string(), |reason| reason.name().to_owned()),
        hook: hook(event.hook).to_owned(),
        protocol: protocol_name(event.protocol),
        client: client(event),
        frontend,
        service: names.service(frontend, event.protocol).map(str::to_owned),
        backend,
        pod: backend.and_then(|to| names.pod(to.ip())).map(str::to_owned),
        state: has_flow.then(|| state(event.flow_flags, event.protocol).name().to_owned()),
        from_backend: event.flow_flags & Flow::<[u8; 4]>::REPLY != 0,
        ifindex: event.ifindex,
        bytes: event.length,
    })
}

const fn hook(number: u8) -> &'static str {
    match number {
        Event::AT_XDP => "xdp",
        Event::AT_INGRESS => "ingress",
        Event::AT_EGRESS => "egress",
        Event::AT_SOCKET => "socket",
        Event::AT_SWEEP => "timeout",
        _ => "unknown",
    }
}

/// The event that says that a flow was silent for too long, by the entry for what its client sends.
pub(crate) fn expired(entry: &crate::datapath::conntrack::FlowEntry) -> Event {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
        IpAddr::V6(address) => address.octets(),
    };
    let port = |of: SocketAddr| of.port().to_be_bytes();
    Event {
        time: now(),
        client: bytes(entry.source.ip()),
        frontend: bytes(entry.destination.ip()),
        backend: bytes(entry.rewritten_destination.ip()),
        client_port: port(entry.source),
        frontend_port: port(entry.destination),
        backend_port: port(entry.rewritten_destination),
        kind: Event::CLOSED,
        reason: Reason::Forwarded as u8,
        hook: Event::AT_SWEEP,
        family: if entry.source.is_ipv4() { 4 } else { 6 },
        protocol: entry.protocol,
        flow_flags: entry.flags,
        service: entry.service,
        backend_id: entry.backend,
        ..Event::EMPTY
    }
}
