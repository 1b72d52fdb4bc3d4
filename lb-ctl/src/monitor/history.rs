//! What did not arrive in the last hour: by reason, and by who asked for what. In memory alone, and bounded: of each reason so many
//! places are told apart, so that a flood of one hides nothing of another.

use crate::api::why::MEMORY;
use lb_common::{Event, Reason, ReasonCount};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

/// Places of one reason that are told apart.
const PLACES: usize = 256;
/// How far back seconds are told apart; beyond that minutes are.
const FINE: u64 = 60;
/// Entries of a course before its seconds are put together.
const COURSE: usize = 150;
const SECOND: u64 = 1_000_000_000;

/// How often something happened, by when, in seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Course(VecDeque<(u64, u64)>);

impl Course {
    fn add(&mut self, second: u64, count: u64) {
        match self.0.back_mut() {
            // What comes late counts as what came last.
            Some((last, sum)) if *last >= second => *sum += count,
            _ => self.0.push_back((second, count)),
        }
        if self.0.len() > COURSE {
            self.compact(second);
        }
    }

    fn compact(&mut self, now: u64) {
        let mut all: VecDeque<(u64, u64)> = VecDeque::with_capacity(self.0.len());
        for (second, count) in self.0.drain(..).filter(|(second, _)| now - second.min(&now) <= MEMORY.as_secs()) {
            let is_fine = second + FINE > now;
            match all.back_mut() {
                Some((last, sum)) if !is_fine && *last / FINE == second / FINE => {
                    (*last, *sum) = (second, *sum + count);
                }
                _ => all.push_back((second, count)),
            }
        }
        self.0 = all;
    }

    /// How often it happened since this second.
    pub(super) fn since(&self, second: u64) -> u64 {
        self.0.iter().rev().take_while(|(when, _)| *when >= second).map(|(_, count)| count).sum()
    }
}

/// Who asked for what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) client: Option<IpAddr>,
    pub(super) frontend: SocketAddr,
    pub(super) protocol: u8,
}

/// What happened at one place.
#[derive(Clone, Debug, Default)]
pub(super) struct Happened {
    pub(super) seen: Course,
    /// When the last one was, by the clock of events.
    pub(super) last: u64,
}

/// What did not arrive for one reason.
#[derive(Clone, Debug, Default)]
pub(super) struct Remembered {
    /// By the datapath's counters.
    counted: Course,
    /// All that was seen.
    pub(super) all: Happened,
    /// What was seen at places that are not told apart any more.
    pub(super) rest: Course,
    pub(super) places: HashMap<Place, Happened>,
}

impl Remembered {
    /// How many there were: by the counters, but no fewer than were seen.
    pub(super) fn packets(&self, second: u64) -> u64 {
        self.counted.since(second).max(self.all.seen.since(second))
    }

    fn see(&mut self, place: Place, time: u64) {
        let second = time / SECOND;
        self.all.seen.add(second, 1);
        self.all.last = self.all.last.max(time);
        if !self.places.contains_key(&place) && self.places.len() >= PLACES {
            self.put_together(second);
        }
        let happened = self.places.entry(place).or_default();
        happened.seen.add(second, 1);
        happened.last = happened.last.max(time);
    }

    /// Gives up the place where nothing has happened for the longest.
    fn put_together(&mut self, now: u64) {
        let oldest = self.places.iter().min_by_key(|(_, happened)| happened.last).map(|(place, _)| place.clone());
        if let Some(happened) = oldest.and_then(|place| self.places.remove(&place)) {
            let recent = happened.seen.since(now.saturating_sub(MEMORY.as_secs()));
            self.rest.add(happened.last / SECOND, recent);
        }
    }

    /// Forgets what is too long ago.
    fn forget(&mut self, now: u64) {
        self.places.retain(|_, happened| happened.last / SECOND + MEMORY.as_secs() >= now);
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct History {
    reasons: BTreeMap<Reason, Remembered>,
    /// The counters when they were last looked at.
    counters: Option<Vec<ReasonCount>>,
}

impl History {
    /// Remembers a packet that did not arrive.
    pub(super) fn see(&mut self, event: &Event) {
        let Some(reason) = event.reason().filter(|_| matches!(event.kind, Event::REJECTED | Event::DROPPED)) else {
            return;
        };
        let (client, frontend) = (super::line::client(event), super::line::frontend(event));
        let place = Place { client: client.map(|client| client.ip()), frontend, protocol: event.protocol };
        self.reasons.entry(reason).or_default().see(place, event.time);
    }

    /// Looks at the datapath's counters, by number of the reason, at this time by the clock of events.
    pub(super) fn count(&mut self, counters: Vec<ReasonCount>, time: u64) {
        let now = time / SECOND;
        // What was counted before the first look was not watched.
        let before = self.counters.get_or_insert_with(|| counters.clone());
        for (number, (old, new)) in before.iter().zip(&counters).enumerate() {
            let Some(reason) = u8::try_from(number).ok().and_then(Reason::from_number).filter(|it| it.is_drop()) else {
                continue;
            };
            let more = new.packets.saturating_sub(old.packets);
            if more > 0 {
                let remembered = self.reasons.entry(reason).or_default();
                remembered.counted.add(now, more);
                // Where nothing was seen, this is all that is known of when it was.
                remembered.all.last = remembered.all.last.max(if remembered.places.is_empty() { time } else { 0 });
            }
        }
        self.counters = Some(counters);
        self.reasons.values_mut().for_each(|remembered| remembered.forget(now));
    }

    /// What is remembered, by reason.
    pub(super) fn reasons(&self) -> impl Iterator<Item = (Reason, &Remembered)> {
        self.reasons.iter().map(|(reason, remembered)| (*reason, remembered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(reason: Reason, client: u8, port: u16, second: u64) -> Event {
        let mut event = Event { kind: Event::DROPPED, reason: reason as u8, family: 4, protocol: 6, ..Event::EMPTY };
        event.time = second * SECOND;
        event.client[..4].copy_from_slice(&[192, 0, 2, client]);
        event.frontend[..4].copy_from_slice(&[10, 96, 0, 1]);
        event.frontend_port = port.to_be_bytes();
        event
    }

    fn counters(reason: Reason, packets: u64) -> Vec<ReasonCount> {
        let mut counters = vec![ReasonCount::default(); Reason::ALL.len()];
        counters[reason as usize].packets = packets;
        counters
    }

    #[test]
    fn a_course_forgets_seconds_and_keeps_sums() {
        let mut course = Course::default();
        (10_000..13_000).for_each(|second| course.add(second, 2));
        assert!(course.0.len() <= COURSE, "{}", course.0.len());
        assert_eq!(course.since(0), 6000);
        assert_eq!(course.since(12_990), 20);
        let about = course.since(12_000);
        assert!((1880..=2120).contains(&about), "{about}");
        course.add(30_000, 1);
        course.compact(30_000);
        assert_eq!(course.since(0), 1);
    }

    #[test]
    fn what_was_seen_and_what_was_counted_are_told_apart() {
        let mut history = History::default();
        history.count(counters(Reason::NoBackend, 1000), 90 * SECOND);
        history.see(&event(Reason::NoBackend, 1, 80, 100));
        history.see(&event(Reason::NoBackend, 2, 80, 101));
        history.count(counters(Reason::NoBackend, 1500), 101 * SECOND);
        let (reason, remembered) = history.reasons().next().unwrap();
        assert_eq!((reason, remembered.packets(0), remembered.all.seen.since(0)), (Reason::NoBackend, 500, 2));
        assert_eq!((remembered.places.len(), remembered.all.seen.since(101)), (2, 1));
    }

    #[test]
    fn a_flood_of_one_reason_hides_nothing_of_another_and_is_counted() {
        let mut history = History::default();
        history.see(&event(Reason::NoBackend, 1, 80, 100));
        (1..=10_000).for_each(|port| history.see(&event(Reason::NoServicePort, 2, port, 101)));
        let all: BTreeMap<Reason, &Remembered> = history.reasons().collect();
        assert_eq!(all[&Reason::NoBackend].places.len(), 1);
        let flood = all[&Reason::NoServicePort];
        assert_eq!(flood.places.len(), PLACES);
        let apart: u64 = flood.places.values().map(|happened| happened.seen.since(0)).sum();
        assert_eq!((apart + flood.rest.since(0), flood.all.seen.since(0)), (10_000, 10_000));
    }

    #[test]
    fn flows_and_what_is_not_known_are_not_remembered() {
        let mut history = History::default();
        history.see(&Event { kind: Event::NEW, ..event(Reason::Forwarded, 1, 80, 100) });
        history.see(&Event { reason: 250, ..event(Reason::NoRoute, 1, 80, 100) });
        assert_eq!(history.reasons().count(), 0);
    }
}
