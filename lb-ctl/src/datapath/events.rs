//! The ring of events, from the daemon's end.
//!
//! Who reads takes out of the ring: there is one reader, the daemon that holds the instance.

use aya::maps::{MapData, RingBuf};
use lb_common::Event;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Events as the programs tell them. Readable when there are some.
pub struct Events(RingBuf<MapData>);

/// Events that the programs did not tell, or not to anybody, since their maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Untold {
    /// Beyond what a CPU tells in a tick: of packets that did not arrive, and of flows.
    pub skipped: [u64; 2],
    /// Without room in the ring: of packets that did not arrive, and of flows.
    pub lost: [u64; 2],
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self(ring)
    }

    /// The same in the event loop of the calling task.
    pub fn watched(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is the ring's own, which keeps it open and the same until it is dropped.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }

    /// Takes up to `most` events out of the ring, in the order in which they were told.
    pub fn take(&mut self, most: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < most {
            let Some(item) = self.0.next() else { break };
            if item.len() == size_of::<Event>() {
                // SAFETY: the record's size, and any bytes are a valid record.
                events.push(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
            }
        }
        events
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
