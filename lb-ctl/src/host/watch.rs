//! Publishes a new [`HostView`] whenever the network changes.
//!
//! A thread of its own listens and, after each burst of notifications, reads everything anew: whatever was lost or
//! misread is healed by the next change, at the latest by the next regular look. How long it waits for a burst to end
//! grows with what a reading costs, so that a node with a full routing table is not kept busy.

use super::netlink::{Connection, Event, Message};
use super::{Error, HostView, snapshot};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch::{Receiver, Sender, channel};
use tracing::warn;

/// `RTNLGRP_LINK`, `RTNLGRP_TC`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV4_RULE`, `RTNLGRP_IPV6_IFADDR`, `RTNLGRP_IPV6_ROUTE`,
/// `RTNLGRP_IPV6_RULE`, `RTNLGRP_NEXTHOP`
const GROUPS: [u32; 9] = [1, 4, 5, 7, 8, 9, 11, 19, 32];
/// `RTM_NEWROUTE`, `RTM_DELROUTE`
const ROUTE_MESSAGES: [u16; 2] = [24, 25];
/// What else routes follow from: `RTM_NEWRULE`, `RTM_DELRULE`, `RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP`. It is in no view.
const RULE_MESSAGES: [u16; 4] = [32, 33, 104, 105];

/// A burst has ended when nothing came for so long.
const SETTLE: Duration = Duration::from_millis(30);
/// A burst is cut after so long, or after ten times what a reading costs.
const BURST: Duration = Duration::from_millis(200);
/// Everything is read anew at least this often.
const REGULAR: Duration = Duration::from_secs(30);
/// How often the thread looks whether anybody still listens.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Whether routes may lead elsewhere than they did when this was last asked. A view tells of default routes alone.
#[derive(Clone, Debug, Default)]
pub struct RouteNews(Arc<AtomicBool>);

impl RouteNews {
    /// Whether they may; from now on they are as they are.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    /// They may.
    pub fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a watch tells.
#[derive(Debug)]
pub struct Watch {
    /// The network as it is.
    pub view: Receiver<Arc<HostView>>,
    /// Whether routes have changed.
    pub routes: RouteNews,
}

/// Watches the network of the calling thread's namespace, until the last receiver of its view is dropped.
pub fn watch() -> Result<Watch, Error> {
    // Both sockets are opened here: in the caller's namespace, and with errors reported to it. Listening begins before
    // the first reading, so nothing falls between.
    let mut events = Connection::route()?;
    for group in GROUPS {
        events.subscribe(group)?;
    }
    let mut connection = Connection::route()?;
    let (sender, view) = channel(Arc::new(snapshot::read(&mut connection)?));
    let routes = RouteNews::default();
    let news = routes.clone();
    std::thread::Builder::new()
        .name("lb-host-watch".to_owned())
        .spawn(move || follow(&mut events, &mut connection, &sender, &news))
        .map_err(Error::Thread)?;
    Ok(Watch { view, routes })
}

fn follow(events: &mut Connection, connection: &mut Connection, sender: &Sender<Arc<HostView>>, routes: &RouteNews) {
    let mut last_reading = Instant::now();
    let mut cost = Duration::ZERO;
    while !sender.is_closed() {
        let heard = events.wait(HEARTBEAT);
        match &heard {
            Ok(Event::Silence) => {}
            Ok(Event::Messages(messages)) if !messages.iter().any(leads_elsewhere) => {}
            _ => routes.note(),
        }
        match heard {
            Ok(Event::Silence) if last_reading.elapsed() < REGULAR => continue,
            Ok(Event::Messages(messages)) if !messages.iter().any(matters) => continue,
            Ok(Event::Silence) => {}
            Ok(Event::Messages(_) | Event::Overrun) => drain(events, BURST.max(cost * 10)),
            Err(error) => {
                warn!(%error, "listening to changes of the network failed; looking at it regularly instead");
                std::thread::sleep(HEARTBEAT);
            }
        }
        last_reading = Instant::now();
        match snapshot::read(connection) {
            Ok(view) => {
                sender.send_if_modified(|current| {
                    let changed = **current != view;
                    if changed {
                        *current = Arc::new(view);
                    }
                    changed
                });
            }
            Err(error) => warn!(%error, "the network could not be read; trying again"),
        }
        cost = last_reading.elapsed();
    }
}

/// Takes notifications until a burst ends or lasts too long.
fn drain(events: &mut Connection, longest: Duration) {
    let start = Instant::now();
    let settle = SETTLE.max(longest / 10);
    while start.elapsed() < longest {
        if !matches!(events.wait(settle), Ok(Event::Messages(_) | Event::Overrun)) {
            return;
        }
    }
}

/// Whether routes may lead elsewhere after a notification.
fn leads_elsewhere(message: &Message) -> bool {
    ROUTE_MESSAGES.contains(&message.kind) || RULE_MESSAGES.contains(&message.kind)
}

/// Whether a notification may change the view: of routes only default routes do, and a router's table changes often.
fn matters(message: &Message) -> bool {
    !leads_elsewhere(message) || (ROUTE_MESSAGES.contains(&message.kind) && message.payload.get(1) == Some(&0))
}
