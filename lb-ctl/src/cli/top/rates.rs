//! Figures a second, made of two readings, and what they were lately.

use crate::api::description::Counters;
use crate::cli::args::Sort;
use crate::figures::{Figures, ServiceFigures};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// Values of the past that are kept.
const KEPT: usize = 120;

/// A Service's port, or an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// `namespace/name:port/protocol`, or an address.
    pub(super) name: String,
    /// The pod behind an endpoint.
    pub(super) pod: String,
    /// Endpoints in use, and all.
    pub(super) endpoints: (u64, u64),
    /// Their addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// Connections since the beginning.
    pub(super) total: u64,
    /// What it does.
    pub(super) rate: Rate,
    /// Bytes a second, lately.
    pub(super) trend: VecDeque<f32>,
}

/// What happens in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) connections: f64,
    /// To the backend, and from it.
    pub(super) packets: [f64; 2],
    /// The same.
    pub(super) bytes: [f64; 2],
}

/// One reason, and how many packets a second get it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Drops {
    pub(super) reason: String,
    /// Since the beginning.
    pub(super) total: u64,
    pub(super) rate: f64,
    pub(super) trend: VecDeque<f32>,
}

/// Everything that is told of the present.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    pub(super) services: Vec<Row>,
    pub(super) backends: Vec<Row>,
    /// Reasons that dropped anything ever, those that do now first.
    pub(super) drops: Vec<Drops>,
    /// Of all Services together.
    pub(super) all: Rate,
    pub(super) all_drops: f64,
    /// Connections, packets, bytes and drops a second, lately.
    pub(super) trends: [VecDeque<f32>; 4],
    trend_of: HashMap<String, VecDeque<f32>>,
}

impl Rates {
    /// The rates between two readings; `before` is absent, or of another daemon: then nothing is known yet.
    pub(super) fn update(&mut self, before: Option<&Figures>, now: &Figures) {
        let before = before.filter(|before| before.uptime_ms < now.uptime_ms);
        if before.is_none() {
            *self = Self::default();
        }
        let seconds = before.map_or(1.0, |before| (now.uptime_ms - before.uptime_ms) as f64 / 1000.0);
        let services: HashMap<String, &Counters> =
            before.iter().flat_map(|before| &before.services).map(|one| (name(one), &one.traffic)).collect();
        let backends: HashMap<IpAddr, &Counters> =
            before.iter().flat_map(|before| &before.backends).map(|one| (one.address, &one.traffic)).collect();
        let mut trends = std::mem::take(&mut self.trend_of);
        let mut row = |name: String, earlier: Option<&&Counters>, traffic: &Counters| {
            // What is new had nothing before.
            let rate = if before.is_some() { rate(earlier.copied(), traffic, seconds) } else { Rate::default() };
            let mut trend = trends.remove(&name).unwrap_or_default();
            if before.is_some() {
                push(&mut trend, rate.bytes.iter().sum());
            }
            let (pod, addresses) = (String::new(), Vec::new());
            Row { name, pod, endpoints: (0, 0), addresses, total: traffic.connections, rate, trend }
        };
        self.services = Vec::with_capacity(now.services.len());
        for one in &now.services {
            let name = name(one);
            let row = row(name.clone(), services.get(&name), &one.traffic);
            let endpoints = (one.endpoints.used, one.endpoints.used + one.endpoints.unused);
            self.services.push(Row { endpoints, addresses: one.endpoints.addresses.clone(), ..row });
        }
        self.backends = Vec::with_capacity(now.backends.len());
        for one in &now.backends {
            let row = row(one.address.to_string(), backends.get(&one.address), &one.traffic);
            self.backends.push(Row { pod: one.pod.clone(), addresses: vec![one.address], ..row });
        }
        let rows = self.services.iter().chain(&self.backends);
        self.trend_of = rows.map(|row| (row.name.clone(), row.trend.clone())).collect();
        self.count_drops(before, now, seconds);
        self.add_up(before.is_some());
    }

    fn count_drops(&mut self, before: Option<&Figures>, now: &Figures, seconds: f64) {
        let mut trends: HashMap<String, VecDeque<f32>> =
            self.drops.drain(..).map(|drops| (drops.reason, drops.trend)).collect();
        for (number, reason) in now.reasons.iter().enumerate().filter(|(_, reason)| reason.drop && reason.packets > 0) {
            let earlier = before.and_then(|before| before.reasons.get(number)).map_or(0, |earlier| earlier.packets);
            let moved = reason.packets.saturating_sub(earlier) as f64;
            let rate = if before.is_some() { moved / seconds } else { 0.0 };
            let mut trend = trends.remove(&reason.reason).unwrap_or_default();
            push(&mut trend, rate);
            self.drops.push(Drops { reason: reason.reason.clone(), total: reason.packets, rate, trend });
        }
        self.drops.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.total.cmp(&a.total)));
    }

    fn add_up(&mut self, is_known: bool) {
        let rows = self.services.iter();
        self.all = rows.fold(Rate::default(), |sum, row| Rate {
            connections: sum.connections + row.rate.connections,
            packets: [0, 1].map(|way| sum.packets[way] + row.rate.packets[way]),
            bytes: [0, 1].map(|way| sum.bytes[way] + row.rate.bytes[way]),
        });
        self.all_drops = self.drops.iter().map(|drops| drops.rate).sum();
        if is_known {
            let now =
                [self.all.connections, self.all.packets.iter().sum(), self.all.bytes.iter().sum(), self.all_drops];
            self.trends.iter_mut().zip(now).for_each(|(trend, value)| push(trend, value));
        }
    }
}

fn push(trend: &mut VecDeque<f32>, value: f64) {
    trend.push_back(value as f32);
    while trend.len() > KEPT {
        trend.pop_front();
    }
}

fn rate(before: Option<&Counters>, now: &Counters, seconds: f64) -> Rate {
    let before = before.copied().unwrap_or_default();
    let moved = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    Rate {
        connections: moved(now.connections, before.connections),
        packets: [moved(now.packets, before.packets), moved(now.reply_packets, before.reply_packets)],
        bytes: [moved(now.bytes, before.bytes), moved(now.reply_bytes, before.reply_bytes)],
    }
}

fn name(one: &ServiceFigures) -> String {
    format!("{}/{}:{}/{}", one.namespace, one.service, one.port, one.protocol)
}

/// Sorts rows; what is equal stays in order of its name.
pub(super) fn sort(rows: &mut [&Row], by: Sort, is_reversed: bool) {
    let value = |row: &Row| match by {
        Sort::Name => 0.0,
        Sort::Endpoints => row.endpoints.0 as f64,
        Sort::Connections => row.rate.connections,
        Sort::Packets => row.rate.packets.iter().sum(),
        Sort::Bytes => row.rate.bytes.iter().sum(),
    };
    rows.sort_by(|a, b| value(b).total_cmp(&value(a)).then_with(|| a.name.cmp(&b.name)));
    if is_reversed {
        rows.reverse();
    }
}
