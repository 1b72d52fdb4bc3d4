//! What happens to single flows and packets, as the datapath tells it: shown to whoever listens, and what did not arrive remembered
//! for an hour.
//!
//! One task reads the ring. It sleeps as long as nothing is told; names are looked up only for somebody who listens, or asks. A
//! listener that is too slow misses events, and is told how many.

mod answer;
mod history;
mod line;
mod listeners;
mod names;

pub(crate) use line::protocol_name;

use crate::api::monitor::{Filter, MissingLine, MonitorLine};
use crate::api::why::{Question, WhyAnswer};
use crate::api::{Catalogue, Failure, FailureReason};
use crate::datapath::conntrack::FlowEntry;
use crate::datapath::{Events, Untold};
use crate::maps::{LbMaps as _, PinnedMaps};
use history::History;
use lb_common::{Event, Flow};
use listeners::Listeners;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

/// Events taken out of the ring at once.
const BATCH: usize = 1024;
/// Lines that wait for a listener.
const LINES_AHEAD: usize = 8192;
/// Requests, and flows that were swept, that wait for the task.
const ORDERS_AHEAD: usize = 1024;
/// The counters are looked at so long after events came, the first ones and the last ones: longer than a tick, in which a CPU may
/// count what it does not tell any more.
const LOOK: Duration = Duration::from_millis(1200);

enum Order {
    Listen(Filter, mpsc::Sender<MonitorLine>),
    /// A listener has gone.
    Left,
    Why(Question, oneshot::Sender<WhyAnswer>),
    /// A flow was silent for too long.
    Expired(Event),
}

/// A handle on the task.
#[derive(Clone, Debug)]
pub(crate) struct Monitor {
    orders: mpsc::Sender<Order>,
    /// Whether somebody listens to flows.
    listened: Arc<AtomicBool>,
}

impl Monitor {
    /// Starts the task, and with it the reading of `events`.
    pub(crate) fn start(events: Events, maps: PinnedMaps, catalogue: watch::Receiver<Catalogue>) -> io::Result<Self> {
        let events = events.watched()?;
        let (orders, received) = mpsc::channel(ORDERS_AHEAD);
        // A listener of an earlier daemon's has gone with it. This one knows of none yet, whatever the map says.
        let listened = Arc::new(AtomicBool::new(true));
        let task = Task {
            maps,
            catalogue,
            history: History::default(),
            listeners: Listeners::default(),
            untold: Untold::default(),
            orders: orders.downgrade(),
            listened: Arc::clone(&listened),
        };
        tokio::spawn(task.run(events, received));
        Ok(Self { orders, listened })
    }

    /// What happens from now on, as far as `filter` asks for it.
    pub(crate) async fn listen(&self, filter: Filter) -> Result<mpsc::Receiver<MonitorLine>, Failure> {
        let (sender, receiver) = mpsc::channel(LINES_AHEAD);
        self.orders.send(Order::Listen(filter, sender)).await.map_err(|_| stopping())?;
        Ok(receiver)
    }

    /// What did not arrive.
    pub(crate) async fn why(&self, question: Question) -> Result<WhyAnswer, Failure> {
        let (sender, answer) = oneshot::channel();
        self.orders.send(Order::Why(question, sender)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Tells that a flow was silent for too long, by one of its entries. Called for each that is swept, so it does not wait: where
    /// that are too many at once some are not told.
    pub(crate) fn expired(&self, entry: &FlowEntry) {
        // Whose end was seen was told then.
        let is_news = !entry.is_reply() && !Flow::<[u8; 4]>::has_ended(entry.flags);
        if is_news && self.listened.load(Ordering::Relaxed) {
            drop(self.orders.try_send(Order::Expired(line::expired(entry))));
        }
    }
}

fn stopping() -> Failure {
    Failure::new(FailureReason::ServiceUnavailable, "the daemon is stopping, or events cannot be read; its log tells")
}

struct Task {
    maps: PinnedMaps,
    catalogue: watch::Receiver<Catalogue>,
    history: History,
    listeners: Listeners,
    untold: Untold,
    orders: mpsc::WeakSender<Order>,
    listened: Arc<AtomicBool>,
}

impl Task {
    async fn run(mut self, mut events: AsyncFd<Events>, mut orders: mpsc::Receiver<Order>) {
        self.switch(false);
        self.look();
        let (mut look_at, mut heard): (Option<Instant>, Instant) = (None, Instant::now());
        loop {
            tokio::select! {
                ready = events.readable_mut() => {
                    let Ok(mut ready) = ready else { return };
                    let told = ready.get_inner_mut().take(BATCH);
                    if told.len() < BATCH {
                        ready.clear_ready();
                    }
                    self.hear(&told);
                    heard = Instant::now();
                    look_at.get_or_insert(heard + LOOK);
                }
                order = orders.recv() => match order {
                    Some(order) => {
                        let wanted = self.obey(order);
                        self.switch(wanted);
                    }
                    None => return,
                },
                () = async { sleep_until(look_at.unwrap_or_else(Instant::now)).await }, if look_at.is_some() => {
                    // What is not told comes after something that was, so there is always a look after the last of it.
                    look_at = Some(heard + LOOK).filter(|next| *next > Instant::now());
                    self.look();
                }
            }
        }
    }

    /// Has the programs tell of flows if they are `wanted`.
    fn switch(&self, wanted: bool) {
        if self.listened.swap(wanted, Ordering::Relaxed) != wanted
            && let Err(error) = self.maps.listen(wanted)
        {
            warn!(%error, "flows that begin and end are told, or not, as before");
        }
    }

    fn hear(&mut self, events: &[Event]) {
        for event in events {
            self.history.see(event);
        }
        if !self.listeners.is_empty() {
            let catalogue = self.catalogue.borrow().services.clone();
            self.listeners.tell(events, &catalogue);
        }
    }

    /// Does what is asked. Says whether somebody wants to hear of flows.
    fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Listen(filter, lines) => {
                let (orders, closed) = (self.orders.clone(), lines.clone());
                self.listeners.add(filter, lines);
                tokio::spawn(async move {
                    closed.closed().await;
                    if let Some(orders) = orders.upgrade() {
                        // The task is gone: so is the listener.
                        drop(orders.send(Order::Left).await);
                    }
                });
            }
            Order::Left => self.listeners.forget_gone(),
            Order::Why(question, sender) => {
                self.look();
                let views = self.catalogue.borrow().services.clone();
                drop(sender.send(answer::answer(&question, &self.history, &views)));
            }
            Order::Expired(event) => self.hear(&[event]),
        }
        self.listeners.want_flows()
    }

    /// Looks at what the datapath has counted beside what it told.
    fn look(&mut self) {
        match self.maps.reasons() {
            Ok(counters) => self.history.count(counters, line::now()),
            Err(error) => warn!(%error, "what did not arrive could not be counted"),
        }
        match self.maps.untold() {
            Ok(now) => {
                let since = |new: [u64; 2], old: [u64; 2]| -> u64 {
                    new.iter().zip(old).map(|(new, old)| new.saturating_sub(old)).sum()
                };
                let missing = MissingLine {
                    skipped: since(now.skipped, self.untold.skipped),
                    lost: since(now.lost, self.untold.lost),
                    missed: 0,
                };
                self.untold = now;
                self.listeners.miss(missing);
            }
            Err(error) => warn!(%error, "events that were not told could not be counted"),
        }
    }
}
