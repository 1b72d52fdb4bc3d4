//! What Prometheus would see of a daemon: scrapes, and the files that name metrics.

use crate::fixture::Fixture;
use lb_ctl::figures::metrics::{Kind, Metric};
use lb_ctl::playground::topology::Node;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the tests' daemons tell their metrics, in the node's namespace.
pub const ADDRESS: &str = "127.0.0.1:10249";

/// The daemon's argument for it.
pub const ARGUMENT: &str = "--metrics=127.0.0.1:10249";

/// The files that name metrics: dashboard and alerts.
pub const FILES: [&str; 2] = ["packaging/grafana/lb-ctl.json", "packaging/prometheus/alerts.yaml"];

/// A file of the workspace.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Status and body of an answer to `GET` in the node's namespace.
pub fn ask(fixture: &Fixture, path: &str) -> (u16, String) {
    let ask = || {
        let address: SocketAddr = ADDRESS.parse().expect("an address");
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).expect("somebody listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").expect("a request is sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the answer ends");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), body.to_owned())
    };
    fixture.node_space(Node::One).run(ask).expect("the namespace is entered")
}

/// One scrape: the value of every series, by its name with its labels as they are written.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// As it came.
    pub text: String,
    series: BTreeMap<String, f64>,
}

impl Scrape {
    /// Scrapes the daemon of a fixture.
    pub fn of(fixture: &Fixture) -> Self {
        let (status, text) = ask(fixture, "/metrics");
        assert_eq!(status, 200, "{text}");
        Self::parse(text)
    }

    /// Takes a scrape apart.
    pub fn parse(text: String) -> Self {
        let line = |line: &str| {
            let (name, value) = line.rsplit_once(' ').expect("a series and its value");
            (name.to_owned(), value.parse().expect("a number"))
        };
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let series = lines.map(line).collect();
        Self { text, series }
    }

    /// The sum of all series of this name whose labels contain each of these texts.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.all(name, labels).map(|(_, value)| value).sum()
    }

    /// All series of this name whose labels contain each of these texts.
    pub fn all<'s>(&'s self, name: &'s str, labels: &'s [&'s str]) -> impl Iterator<Item = (&'s str, f64)> {
        let is_meant = move |series: &str| {
            series.split('{').next() == Some(name) && labels.iter().all(|label| series.contains(label))
        };
        self.series.iter().filter(move |(series, _)| is_meant(series)).map(|(series, value)| (series.as_str(), *value))
    }

    /// The metrics that have a series.
    pub fn names(&self) -> BTreeSet<&str> {
        fn name(series: &str) -> &str {
            let name = series.split('{').next().unwrap_or(series);
            metric_of(name).map_or(name, |metric| metric.name())
        }
        self.series.keys().map(|series| name(series)).collect()
    }

    /// Counters that went down from this scrape to a later one, and those that are gone.
    pub fn went_down<'s>(&'s self, later: &'s Self) -> Vec<&'s String> {
        let is_counter = |series: &str| {
            let name = series.split('{').next().unwrap_or_default();
            metric_of(name).is_some_and(|metric| metric.kind() != Kind::Gauge)
        };
        let down = |(series, before): (&'s String, &f64)| {
            (is_counter(series) && later.series.get(series).is_none_or(|now| now < before)).then_some(series)
        };
        self.series.iter().filter_map(down).collect()
    }
}

/// The metric that a series of this name belongs to.
pub fn metric_of(series: &str) -> Option<Metric> {
    let is_of = |metric: &&Metric| {
        metric.name() == series
            || (metric.kind() == Kind::Histogram
                && series.strip_prefix(metric.name()).is_some_and(|rest| ["_bucket", "_sum", "_count"].contains(&rest)))
    };
    Metric::ALL.iter().find(is_of).copied()
}

/// The names of our metrics in a text, as its expressions have them.
pub fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    words.filter(|word| word.starts_with("lbctl_") || word.starts_with("process_")).collect()
}
