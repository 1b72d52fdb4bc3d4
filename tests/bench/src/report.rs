//! What was measured, as data: tables, plots and the document are made of it.

use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::fs;
use std::process::Command;

use crate::quiet::Waited;
use crate::statistics::Figure;

/// The parts of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// Programs on packets.
    Packet,
    /// The whole path through a node.
    Path,
    /// Clients and servers through a node.
    Application,
    /// From manifests to maps.
    Control,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) part: Part,
    /// Where: a hook, or who does the work.
    pub(crate) place: String,
    /// What.
    pub(crate) name: String,
    /// At so many flows; zero where each packet opens one.
    pub(crate) flows: u32,
    /// Beside so many Services.
    pub(crate) services: u32,
    pub(crate) unit: String,
    pub(crate) figure: Figure,
    /// Compared with what [`Row::to`] names, in the same run.
    pub(crate) ratio: Option<Figure>,
    pub(crate) to: String,
    /// The share of packets that got the verdict expected.
    pub(crate) share: f64,
}

impl Row {
    /// Whether both measure the same thing.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let key = |row: &Self| (row.part, row.place.clone(), row.name.clone(), row.flows, row.services, row.to.clone());
        key(self) == key(other)
    }
}

/// The machine it was measured on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) kernel: String,
    pub(crate) memory_gib: u64,
    /// Processes that waited for a CPU, on average, when the run began.
    pub(crate) load: String,
}

/// One run of the bench.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) date: String,
    /// `quick`, `full` or `check`.
    pub(crate) extent: String,
    pub(crate) commit: String,
    pub(crate) machine: Machine,
    #[serde(default)]
    pub(crate) waited: Waited,
    pub(crate) rows: Vec<Row>,
    /// What was left out, and why.
    pub(crate) skipped: Vec<String>,
}

impl Report {
    /// An empty one, of here and now.
    pub(crate) fn new(extent: &str) -> Self {
        Self {
            date: answer("date", &["--utc", "+%Y-%m-%d %H:%M UTC"]),
            extent: extent.to_owned(),
            commit: answer("git", &["rev-parse", "--short", "HEAD"]),
            machine: Machine::here(),
            ..Self::default()
        }
    }

    /// Adds a figure, and shows it.
    pub(crate) fn add(&mut self, row: Row) {
        eprintln!("{}", row.line());
        self.rows.push(row);
    }

    /// Notes that something was left out.
    pub(crate) fn skip(&mut self, what: impl Into<String>) {
        let what = what.into();
        eprintln!("LEFT OUT: {what}");
        self.skipped.push(what);
    }

    /// The row of this name at a place, with so many flows and Services.
    pub(crate) fn find(&self, part: Part, place: &str, name: &str, flows: u32, services: u32) -> Option<&Row> {
        self.rows.iter().find(|row| {
            row.part == part && row.place == place && row.name == name && row.flows == flows && row.services == services
        })
    }

    /// All figures as a table for a terminal.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for part in [Part::Packet, Part::Path, Part::Application, Part::Control] {
            let rows: Vec<_> = self.rows.iter().filter(|row| row.part == part).collect();
            if !rows.is_empty() {
                writeln!(text, "\n{}", Row::HEADER).expect("a String takes all");
            }
            for row in rows {
                writeln!(text, "{}", row.line()).expect("a String takes all");
            }
        }
        text
    }
}

impl Row {
    const HEADER: &str = "where          what                                  flows services        best      median    ratio  (best)  ±";

    fn line(&self) -> String {
        let ratio = self.ratio.map_or_else(String::new, |ratio| {
            format!("{:>8.2} {:>7.2}  {:.3}  x {}", ratio.median, ratio.best, ratio.noise, self.to)
        });
        let share =
            if self.share < 0.9995 { format!("  ({:.1} % of packets)", self.share * 100.0) } else { String::new() };
        format!(
            "{:<14} {:<36} {:>7} {:>8} {:>11} {:>11} {:<3}{ratio}{share}",
            self.place,
            self.name,
            self.flows,
            self.services,
            number(self.figure.best),
            number(self.figure.median),
            self.unit
        )
    }
}

/// A number with as many digits as it deserves.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        1.0.. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

impl Machine {
    fn here() -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let kib: u64 = field("/proc/meminfo", "MemTotal").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        Self {
            processor: field("/proc/cpuinfo", "model name"),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel: answer("uname", &["-r"]),
            memory_gib: kib >> 20,
            load: fs::read_to_string("/proc/loadavg")
                .unwrap_or_default()
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
        }
    }
}

fn answer(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
