//! Publishes a new [`HostView`] whenever the network changes.
//!
//! A thread of its own listens and, after each burst of notifications, reads everything anew: whatever was lost or
//! misread is healed by the next change, at the latest by the next regular look. How long it waits for a burst to end
//! grows with what a reading costs, so that a node with a full routing table is not kept busy.

use super::netlink::{Connection, Event, Message};
use super::{Error, HostView, snapshot};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch::{Receiver, Sender, channel};
use tracing::warn;

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV6_IFADDR`, `RTNLGRP_IPV6_ROUTE`
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
/// `RTM_NEWROUTE`, `RTM_DELROUTE`
const ROUTE_MESSAGES: [u16; 2] = [24, 25];

/// A burst has ended when nothing came for so long.
const SETTLE: Duration = Duration::from_millis(30);
/// A burst is cut after so long, or after ten times what a reading costs.
const BURST: Duration = Duration::from_millis(200);
/// Everything is read anew at least this often.
const REGULAR: Duration = Duration::from_secs(30);
/// How often the thread looks whether anybody still listens.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// Watches the network of the calling thread's namespace, until the last receiver is dropped.
pub fn watch() -> Result<Receiver<Arc<HostView>>, Error> {
    // Both sockets are opened here: in the caller's namespace, and with errors reported to it. Listening begins before
    // the first reading, so nothing falls between.
    let mut events = Connection::route()?;
    for group in GROUPS {
        events.subscribe(group)?;
    }
    let mut connection = Connection::route()?;
    let (sender, receiver) = channel(Arc::new(snapshot::read(&mut connection)?));
    std::thread::Builder::new()
        .name("lb-host-watch".to_owned())
        .spawn(move || follow(&mut events, &mut connection, &sender))
        .map_err(Error::Thread)?;
    Ok(receiver)
}

fn follow(events: &mut Connection, connection: &mut Connection, sender: &Sender<Arc<HostView>>) {
    let mut last_reading = Instant::now();
    let mut cost = Duration::ZERO;
    while !sender.is_closed() {
        match events.wait(HEARTBEAT) {
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

/// Whether a notification may change the view: of routes only default routes do, and a router's table changes often.
fn matters(message: &Message) -> bool {
    !ROUTE_MESSAGES.contains(&message.kind) || message.payload.get(1) == Some(&0)
}
