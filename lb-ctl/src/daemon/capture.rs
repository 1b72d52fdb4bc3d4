//! Captures of packets: the programs that copy them are on the hooks as long as somebody reads.

use super::control::Command;
use super::engine::Engine;
use crate::api::{CaptureRequest, Failure, FailureReason};
use crate::capture::{File, Filter, Pair, Pairs};
use crate::datapath::Ring;
use crate::model::ServiceView;
use lb_common::Reason;
use nix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

/// Packets that wait for a slow reader, who misses what is beyond.
const PACKETS_AHEAD: usize = 1024;
/// Pieces of a file that wait for the connection.
const PIECES_AHEAD: usize = 16;
/// A piece of a file is sent when it is this large, or when there are no packets for the moment.
const PIECE: usize = 1 << 16;

/// Who reads captured packets.
#[derive(Debug)]
pub(super) struct Captures {
    packets: broadcast::Sender<Arc<Pair>>,
    reader: Option<JoinHandle<()>>,
    runtime: Handle,
}

/// One reader's share. What is captured goes on until it is dropped and the engine has been told so.
#[derive(Debug)]
pub(super) struct Subscription {
    packets: broadcast::Receiver<Arc<Pair>>,
    filter: Filter,
    names: HashMap<u32, String>,
}

impl Captures {
    /// Nobody reads.
    pub(super) fn new(runtime: Handle) -> Self {
        Self { packets: broadcast::channel(PACKETS_AHEAD).0, reader: None, runtime }
    }

    /// Reads what comes out of a ring until [`Captures::end`].
    fn read(&mut self, ring: Ring) -> io::Result<()> {
        let packets = self.packets.clone();
        let _in_runtime = self.runtime.enter();
        // SAFETY: the ring owns its descriptor, always the same, and lives in what is made of it here.
        let ring = unsafe { AsyncFd::register(ring) }?;
        self.reader = Some(self.runtime.spawn(follow(ring, packets)));
        Ok(())
    }

    /// Whether there was something to end.
    fn end(&mut self) -> bool {
        self.reader.take().inspect(JoinHandle::abort).is_some()
    }
}

async fn follow(mut ring: AsyncFd<Ring>, packets: broadcast::Sender<Arc<Pair>>) {
    let mut pairs = Pairs::default();
    loop {
        match ring.readable_mut().await {
            Ok(mut ready) => {
                ready.get_inner_mut().drain(|head, bytes| {
                    if let Some(pair) = pairs.take(head, bytes) {
                        // The last reader has just gone.
                        packets.send(Arc::new(pair)).ok();
                    }
                });
                ready.clear_ready();
            }
            Err(error) => return error!(%error, "captured packets cannot be read"),
        }
    }
}

impl Engine {
    /// Captures packets from now on.
    pub(super) fn capture(&mut self, request: &CaptureRequest) -> Result<Subscription, Failure> {
        let filter = self.capture_filter(request)?;
        if self.captures.reader.is_none() {
            let refused = |error: &dyn std::fmt::Display| {
                Failure::new(FailureReason::InternalError, format!("packets cannot be captured: {error}"))
            };
            let ring = self.hooks.capture().map_err(|error| refused(&error))?;
            if let Err(error) = self.captures.read(ring) {
                // The error to tell is the first.
                self.hooks.end_capture().ok();
                return Err(refused(&error));
            }
            info!("capturing: programs that copy packets are in place");
        }
        let interfaces = &self.host.borrow().interfaces;
        let names = interfaces.values().map(|interface| (interface.index, interface.name.clone())).collect();
        Ok(Subscription { packets: self.captures.packets.subscribe(), filter, names })
    }

    /// Ends the capture if nobody reads any more.
    pub(super) fn capture_left(&mut self) {
        if self.captures.reader.is_some() && self.captures.packets.receiver_count() == 0 {
            self.end_capture();
        }
    }

    /// Ends the capture whoever reads.
    pub(super) fn end_capture(&mut self) {
        if !self.captures.end() {
            return;
        }
        match self.hooks.end_capture() {
            Ok(()) => info!("the capture has ended"),
            Err(error) => warn!(%error, "programs that copy packets are still in place"),
        }
    }

    fn capture_filter(&self, request: &CaptureRequest) -> Result<Filter, Failure> {
        let reason = |name: &String| {
            Reason::ALL.iter().copied().find(|reason| reason.name() == name).ok_or_else(|| {
                let message = format!("no reason is called \"{name}\": docs/reasons.md lists them");
                Failure::new(FailureReason::BadRequest, message)
            })
        };
        let places = request.service.as_ref().map(|key| {
            let found = self.balancer.views().get(key).map(|view| places(view));
            found.ok_or_else(|| Failure::new(FailureReason::NotFound, format!("services \"{key}\" not found")))
        });
        Ok(Filter {
            clients: request.clients.clone(),
            backends: request.backends.clone(),
            places: places.transpose()?,
            reasons: request.reasons.iter().map(reason).collect::<Result<_, _>>()?,
        })
    }
}

/// Where a Service is asked.
fn places(view: &ServiceView) -> Vec<(SocketAddr, crate::objects::Protocol)> {
    let frontends = view.ports.iter().flat_map(|port| &port.frontends);
    let places = frontends.flat_map(|frontend| {
        frontend.addresses.iter().map(|address| (SocketAddr::new(*address, frontend.port), frontend.protocol))
    });
    places.collect()
}

/// Turns what a subscription brings into the pieces of a file, up to so many packets, and tells the engine when nobody reads them
/// any more.
pub(super) fn write(
    subscription: Subscription,
    count: Option<u64>,
    engine: mpsc::Sender<Command>,
) -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let file = File::new(monotonic_offset())?;
    tokio::spawn(async move {
        // That the reader has gone is no news.
        write_all(subscription, count, file, &sender).await.ok();
        // The daemon may be ending.
        engine.send(Command::CaptureLeft).await.ok();
    });
    Ok(receiver)
}

async fn write_all(
    mut subscription: Subscription,
    count: Option<u64>,
    mut file: File,
    pieces: &mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let mut left = count.unwrap_or(u64::MAX);
    let mut missed = 0;
    let mut piece = file.bytes();
    while left > 0 {
        let next = match subscription.packets.try_recv() {
            Ok(pair) if piece.len() < PIECE => Ok(pair),
            full_or_empty => {
                pieces.send(std::mem::take(&mut piece)).await.map_err(gone)?;
                match full_or_empty {
                    Ok(pair) => Ok(pair),
                    Err(broadcast::error::TryRecvError::Lagged(count)) => {
                        Err(broadcast::error::RecvError::Lagged(count))
                    }
                    Err(_) => tokio::select! {
                        () = pieces.closed() => return Ok(()),
                        next = subscription.packets.recv() => next,
                    },
                }
            }
        };
        match next {
            Ok(pair) if subscription.filter.takes(&pair) => {
                let name = |ifindex: u32| {
                    let known = subscription.names.get(&ifindex).cloned();
                    known.unwrap_or_else(|| format!("if{ifindex}"))
                };
                let pair = Pair { lost: pair.lost.saturating_add(std::mem::take(&mut missed)), ..(*pair).clone() };
                file.write(&pair, &name)?;
                piece.extend(file.bytes());
                left -= 1;
            }
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(count)) => {
                missed = missed.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
            }
            Err(broadcast::error::RecvError::Closed) => break,
        }
    }
    pieces.send(piece).await.map_err(gone)
}

/// What the monotonic clock lacks of the time of day.
fn monotonic_offset() -> Duration {
    let read = |clock| clock_gettime(clock).map(Duration::from).unwrap_or_default();
    read(ClockId::CLOCK_REALTIME).saturating_sub(read(ClockId::CLOCK_MONOTONIC))
}
