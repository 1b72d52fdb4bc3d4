//! Figures as Prometheus reads them: its text format, version 0.0.4.

use super::bound::{OTHERS, Told};
use super::metrics::{Kind, Metric};
use super::{BackendFigures, Figures, ServiceFigures};
use crate::api::description::Counters;
use lb_common::Reason;
use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};
use prometheus::{Encoder as _, TextEncoder};

/// What the text is, for the header `Content-Type`.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The text of `figures`, of which so much was told by name.
pub fn text(figures: &Figures, told: [Told; 2]) -> Result<Vec<u8>, prometheus::Error> {
    // Families without a series are no error, but the encoder takes them for one.
    let families: Vec<MetricFamily> = Metric::ALL.iter().filter_map(|metric| family(*metric, figures, told)).collect();
    let mut text = Vec::with_capacity(4096 + 800 * (figures.services.len() + figures.backends.len()));
    TextEncoder::new().encode(&families, &mut text)?;
    Ok(text)
}

/// The series of one metric.
struct Series {
    metric: Metric,
    all: Vec<proto::Metric>,
}

impl Series {
    /// One more: the values of the labels, and its own.
    fn push(&mut self, labels: &[&str], value: f64) {
        let mut one = self.labelled(labels);
        match self.metric.kind() {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                one.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                one.set_gauge(gauge);
            }
        }
        self.all.push(one);
    }

    fn labelled(&self, values: &[&str]) -> proto::Metric {
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        proto::Metric::from_label(self.metric.labels().iter().zip(values).map(pair).collect())
    }

    fn histogram(&mut self, histogram: &super::Histogram) {
        let bucket = |(bound, count)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut told = proto::Histogram::default();
        told.set_bucket(histogram.cumulative().map(bucket).collect());
        told.set_sample_count(histogram.count());
        told.set_sample_sum(histogram.sum());
        let mut one = self.labelled(&[]);
        one.set_histogram(told);
        self.all.push(one);
    }
}

fn family(metric: Metric, figures: &Figures, told: [Told; 2]) -> Option<MetricFamily> {
    let mut series = Series { metric, all: Vec::new() };
    fill(&mut series, figures, told);
    (!series.all.is_empty()).then(|| {
        let mut family = MetricFamily::default();
        family.set_name(metric.name().to_owned());
        family.set_help(metric.help().to_owned());
        family.set_field_type(match metric.kind() {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(series.all);
        family
    })
}

/// Writes the series of a metric.
fn fill(series: &mut Series, figures: &Figures, told: [Told; 2]) {
    match series.metric {
        Metric::BuildInfo => series.push(&[&figures.version, &figures.layout], 1.0),
        Metric::Ready => series.push(&[], figures.ready.into()),
        Metric::Problems => series.push(&[], figures.problems as f64),
        Metric::SourceSynced => {
            figures.sources.iter().for_each(|source| series.push(&[&source.name], source.synced.into()));
        }
        Metric::SourceErrors => {
            figures.sources.iter().for_each(|source| series.push(&[&source.name], source.errors as f64));
        }
        Metric::Objects => figures.objects.iter().for_each(|(kind, count)| series.push(&[kind], *count as f64)),
        Metric::Interfaces => {
            series.push(&["attached"], figures.interfaces.attached as f64);
            series.push(&["missing"], figures.interfaces.missing as f64);
        }
        Metric::ChangeDelay => series.histogram(&figures.changes),
        Metric::ChangeWaiting => series.push(&[], figures.waiting_seconds),
        Metric::MapWrites => series.push(&[], figures.map_writes as f64),
        Metric::FailedRounds => series.push(&[], figures.failed_rounds as f64),
        Metric::ReasonPackets | Metric::ReasonBytes => reasons(series, figures),
        Metric::ServiceConnections | Metric::ServicePackets | Metric::ServiceBytes | Metric::ServiceEndpoints => {
            figures.services.iter().for_each(|one| service(series, one));
        }
        Metric::BackendConnections | Metric::BackendPackets | Metric::BackendBytes => {
            figures.backends.iter().for_each(|one| backend(series, one));
        }
        Metric::Names => {
            for (of, told) in ["service", "backend"].into_iter().zip(told) {
                series.push(&[of, "by name"], told.named as f64);
                series.push(&[of, OTHERS], told.others as f64);
            }
        }
        Metric::MapEntries => figures.maps.iter().for_each(|map| series.push(&[&map.name], map.used as f64)),
        Metric::MapMax => figures.maps.iter().for_each(|map| series.push(&[&map.name], map.capacity as f64)),
        Metric::MapEvictable => {
            figures.evictable.iter().for_each(|(map, count)| series.push(&[map], *count as f64));
        }
        Metric::MapEvictions => {
            figures.evictions.iter().for_each(|(map, count)| series.push(&[map], *count as f64));
        }
        Metric::InsertFailures => {
            let packets = figures.reasons.get(Reason::TableFull as usize).map_or(0, |counted| counted.packets);
            series.push(&[], packets as f64);
        }
        Metric::NatPorts => lent(series, figures, |lent| lent.ports),
        Metric::NatPortsUsed => lent(series, figures, |lent| lent.used),
        Metric::DnsMessages | Metric::DnsAnswers => dns(series, figures),
        Metric::Probes => {
            series.push(&["success"], figures.probes.succeeded as f64);
            series.push(&["failure"], figures.probes.failed as f64);
        }
        Metric::ProbedPods => {
            series.push(&["ready"], figures.probes.ready as f64);
            series.push(&["not_ready"], figures.probes.not_ready as f64);
        }
        Metric::CpuSeconds => series.push(&[], figures.process.cpu_seconds),
        Metric::Resident => series.push(&[], figures.process.resident_bytes as f64),
        Metric::StartTime => series.push(&[], figures.process.start_seconds),
        Metric::OpenFiles => series.push(&[], figures.process.open_files as f64),
    }
}

fn reasons(series: &mut Series, figures: &Figures) {
    for counted in &figures.reasons {
        let fate = if counted.drop { "dropped" } else { "passed" };
        let value = if series.metric == Metric::ReasonPackets { counted.packets } else { counted.bytes };
        series.push(&[&counted.reason, fate], value as f64);
    }
}

fn service(series: &mut Series, one: &ServiceFigures) {
    let protocol = if one.port == OTHERS { OTHERS.to_owned() } else { one.protocol.to_string() };
    let name = [one.namespace.as_str(), &one.service, &one.port, &protocol];
    if series.metric == Metric::ServiceEndpoints {
        for (state, count) in [("used", one.endpoints.used), ("unused", one.endpoints.unused)] {
            series.push(&[name[0], name[1], name[2], name[3], state], count as f64);
        }
        return;
    }
    for (direction, value) in directions(series.metric, &one.traffic) {
        series.push(&[name[0], name[1], name[2], name[3], direction], value as f64);
    }
}

fn backend(series: &mut Series, one: &BackendFigures) {
    let address = if one.pod == OTHERS { OTHERS.to_owned() } else { one.address.to_string() };
    for (direction, value) in directions(series.metric, &one.traffic) {
        series.push(&[&address, &one.pod, direction], value as f64);
    }
}

/// The values of a metric of traffic, and the direction of each; a metric without that label leaves it away.
fn directions(metric: Metric, traffic: &Counters) -> impl Iterator<Item = (&'static str, u64)> + use<> {
    let (request, reply) = match metric {
        Metric::ServicePackets | Metric::BackendPackets => (traffic.packets, Some(traffic.reply_packets)),
        Metric::ServiceBytes | Metric::BackendBytes => (traffic.bytes, Some(traffic.reply_bytes)),
        _ => (traffic.connections, None),
    };
    [("request", Some(request)), ("reply", reply)].into_iter().filter_map(|(name, value)| Some((name, value?)))
}

fn lent(series: &mut Series, figures: &Figures, value: fn(&super::LentFigures) -> u64) {
    for lent in &figures.lent {
        series.push(&[&lent.address.to_string()], value(lent) as f64);
    }
}

/// Of a server that is off nothing is told.
fn dns(series: &mut Series, figures: &Figures) {
    let Some(dns) = figures.dns else { return };
    let values: &[(&str, u64)] = if series.metric == Metric::DnsMessages {
        &[("udp", dns.udp), ("tcp", dns.tcp)]
    } else {
        let forwarded = dns.forwarded.saturating_sub(dns.failed);
        &[("own", dns.own), ("forwarded", forwarded), ("failed", dns.failed), ("refused", dns.refused)]
    };
    for (label, value) in values {
        series.push(&[label], *value as f64);
    }
}
