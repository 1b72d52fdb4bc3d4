//! The control API: HTTP and JSON over a Unix socket. The CLI is its client, and so is `curl --unix-socket`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/version` | [`Version`] |
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/figures` | [`Figures`](crate::figures::Figures) |
//! | `GET /v1/{resource}?namespace=&name=` | [`Items`] |
//! | `GET /v1/{resource}?watch=true` | JSON lines of [`Event`], first the present state |
//! | `GET /v1/services/{namespace}/{name}/description` | [`ServiceDescription`] |
//! | `GET /v1/flows` | JSON lines of [`FlowLine`] |
//! | `GET /v1/monitor?service=&client=&backend=&reason=&type=` | JSON lines of [`MonitorLine`], as it happens |
//! | `GET /v1/why?service=&client=&since=` | [`WhyAnswer`] |
//! | `POST /v1/capture` | [`CaptureRequest`] to a pcapng file that grows until the request ends |
//! | `POST /v1/apply` | [`ApplyRequest`] to [`ApplyAnswer`] |
//! | `POST /v1/plan` | [`ApplyRequest`] to [`PlanAnswer`]; changes nothing; without files, what is still to be done |
//! | `POST /v1/trace` | [`TraceRequest`] to [`TraceAnswer`]; changes nothing |
//! | `POST /v1/delete` | [`DeleteRequest`] to [`DeleteAnswer`] |
//!
//! A failure has a status code and a [`Failure`] as its body. Manifests cross as text and are parsed in the daemon, so
//! that they are judged in one place.

pub mod catalogue;
pub mod client;
pub mod description;
mod endpoints;
pub mod monitor;
pub mod plan;
pub mod server;
pub mod status;
pub mod trace;
pub mod types;
pub mod why;

#[cfg(test)]
mod round_trip;

pub use catalogue::{Catalogue, Resource};
pub use client::{Client, ClientError};
pub use description::{EndpointDescription, PortDescription, ServiceDescription};
pub use monitor::{EventLine, EventType, MissingLine, MonitorLine, MonitorQuery};
pub use plan::PlanAnswer;
pub use server::{Control, ServeError, Server};
pub use status::{
    CounterLine, DnsCounters, DnsStatus, InterfaceStatus, LentPorts, MapFill, SocketStatus, SourceStatus, Status,
};
pub use trace::{TraceAnswer, TraceRequest};
pub use types::{
    Applied, ApplyAnswer, ApplyRequest, CaptureRequest, DeleteAnswer, DeleteRequest, Event, EventKind, Failure,
    FailureReason, FlowLine, Items, ManifestText, ObjectName, Outcome, Problem, Rehearsed, Version,
};
pub use why::{WhyAnswer, WhyClient, WhyGroup, WhyQuery, WhyReason};

/// Largest body of a request, in bytes.
pub const MAX_BODY: usize = 64 << 20;
