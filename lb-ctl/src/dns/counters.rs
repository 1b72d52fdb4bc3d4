//! How often what was asked and answered.

use crate::api::DnsCounters;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counted by whoever answers, read by whoever asks for the status.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) udp: Counter,
    pub(super) tcp: Counter,
    /// Bytes that were no question.
    pub(super) refused: Counter,
    /// Answers from our own names.
    pub(super) own: Counter,
    /// Questions that others were asked, also for the end of an alias.
    pub(super) forwarded: Counter,
    /// Of these, those that nobody answered.
    pub(super) failed: Counter,
}

/// See [`Counters`].
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// As they are now.
    pub(super) fn read(&self) -> DnsCounters {
        DnsCounters {
            udp: self.udp.get(),
            tcp: self.tcp.get(),
            refused: self.refused.get(),
            own: self.own.get(),
            forwarded: self.forwarded.get(),
            failed: self.failed.get(),
        }
    }
}
