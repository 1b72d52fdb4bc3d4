//! Who listens, and to what.

use super::line::line;
use super::names::Names;
use crate::api::monitor::{Filter, MissingLine, MonitorLine};
use crate::model::Views;
use lb_common::Event;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

#[derive(Debug)]
struct Listener {
    filter: Filter,
    lines: mpsc::Sender<MonitorLine>,
    /// What it was not yet told that it is missing.
    missing: MissingLine,
}

impl Listener {
    fn tell(&mut self, line: &MonitorLine) {
        self.tell_missing();
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line.clone()) {
            self.missing.missed += 1;
        }
    }

    fn tell_missing(&mut self) {
        if !self.missing.is_nothing() && self.lines.try_send(MonitorLine::Missing(self.missing)).is_ok() {
            self.missing = MissingLine::default();
        }
    }
}

/// All listeners, and the names that they are told.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    all: Vec<Listener>,
    names: Names,
}

impl Listeners {
    pub(super) fn add(&mut self, filter: Filter, lines: mpsc::Sender<MonitorLine>) {
        self.all.push(Listener { filter, lines, missing: MissingLine::default() });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether somebody wants to hear of flows that begin and end.
    pub(super) fn want_flows(&self) -> bool {
        self.all.iter().any(|listener| listener.filter.wants_flows())
    }

    /// Forgets those that have gone, and with the last of them the names.
    pub(super) fn forget_gone(&mut self) {
        self.all.retain(|listener| !listener.lines.is_closed());
        if self.all.is_empty() {
            self.names = Names::default();
        }
    }

    /// Tells each what it asked for, by the names in `views`.
    pub(super) fn tell(&mut self, events: &[Event], views: &Views) {
        self.names.follow(views);
        for line in events.iter().filter_map(|event| line(event, &self.names)) {
            let asking: Vec<_> = self.all.iter_mut().filter(|listener| listener.filter.admits(&line)).collect();
            let line = MonitorLine::Event(Box::new(line));
            for listener in asking {
                listener.tell(&line);
            }
        }
    }

    /// Tells all that the datapath did not tell everything.
    pub(super) fn miss(&mut self, missing: MissingLine) {
        for listener in &mut self.all {
            listener.missing.skipped += missing.skipped;
            listener.missing.lost += missing.lost;
            listener.tell_missing();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_listener_is_told_how_many_it_missed() {
        let mut listeners = Listeners::default();
        let (sender, mut lines) = mpsc::channel(2);
        listeners.add(Filter::default(), sender);
        let event = Event { kind: Event::DROPPED, family: 4, ..Event::EMPTY };
        listeners.tell(&[event; 5], &Views::default());
        listeners.miss(MissingLine { skipped: 7, ..MissingLine::default() });
        assert!(matches!(lines.try_recv(), Ok(MonitorLine::Event(_))));
        assert!(matches!(lines.try_recv(), Ok(MonitorLine::Event(_))));
        listeners.tell(&[event], &Views::default());
        let missing = MissingLine { skipped: 7, lost: 0, missed: 3 };
        assert_eq!(lines.try_recv(), Ok(MonitorLine::Missing(missing)));
        assert!(matches!(lines.try_recv(), Ok(MonitorLine::Event(_))));
        drop(lines);
        listeners.forget_gone();
        assert!(listeners.is_empty() && !listeners.want_flows());
    }
}
