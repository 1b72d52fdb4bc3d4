//! Preflight: what a daemon would find on this node, without one. Nothing is changed by looking.
//!
//! Each line says one thing that is right, that could be better, or that keeps the daemon from its work, and gives the command
//! that puts it right. The daemon looks at the same when it starts and logs what is not right.

mod interface;
mod kernel;
mod node;
mod process;

use crate::daemon::Config;
use crate::daemon::options::PathMode;
use crate::daemon::pattern::InterfaceSpec;
use crate::datapath::TcMode;
use crate::host::{self, HostView};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the daemon would be told, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Interfaces to manage.
    pub interfaces: Vec<InterfaceSpec>,
    /// Where the BPF file system is.
    pub bpffs: PathBuf,
    /// Flows of each family that fit.
    pub max_flows: u32,
    /// Cgroup whose processes are served at their sockets.
    pub socket_lb: Option<PathBuf>,
    /// The way of new flows.
    pub path: PathMode,
    /// How programs come to the TC hooks.
    pub tc: TcMode,
}

impl From<&Config> for Wanted {
    fn from(config: &Config) -> Self {
        Self {
            interfaces: config.interfaces.clone(),
            bpffs: config.bpffs.clone(),
            max_flows: config.max_flows,
            socket_lb: config.socket_lb.clone(),
            path: config.path,
            tc: config.tc,
        }
    }
}

/// How one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// It works, and could be better.
    Warn,
    /// It does not work like this.
    Fail,
}

impl Verdict {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What was looked at: a stable name.
    pub check: String,
    /// Whose it is: `node`, or the name of an interface.
    pub subject: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found, and what it means.
    pub message: String,
    /// The command that puts it right; empty: nothing is wrong, or no single command does.
    #[serde(default)]
    pub remedy: String,
}

/// Lines in the making, about one subject.
struct Lines<'a> {
    subject: &'a str,
    lines: Vec<Line>,
}

impl<'a> Lines<'a> {
    const fn of(subject: &'a str) -> Self {
        Self { subject, lines: Vec::new() }
    }

    fn add(&mut self, check: &str, verdict: Verdict, message: impl Into<String>, remedy: impl Into<String>) {
        let (check, subject) = (check.to_owned(), self.subject.to_owned());
        self.lines.push(Line { check, subject, verdict, message: message.into(), remedy: remedy.into() });
    }

    fn pass(&mut self, check: &str, message: impl Into<String>) {
        self.add(check, Verdict::Pass, message, "");
    }

    fn warn(&mut self, check: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(check, Verdict::Warn, message, remedy);
    }

    fn fail(&mut self, check: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(check, Verdict::Fail, message, remedy);
    }
}

/// Looks at everything, in the network and mount namespace of the calling thread.
pub fn run(wanted: &Wanted) -> Result<Vec<Line>, host::Error> {
    let view = host::snapshot()?;
    let mut lines = kernel::lines(wanted);
    lines.extend(process::lines(wanted));
    lines.extend(node::lines(&view));
    lines.extend(interfaces(wanted, &view));
    Ok(lines)
}

fn interfaces(wanted: &Wanted, view: &HostView) -> Vec<Line> {
    let mut all = Vec::new();
    let mut missing = Lines::of("node");
    if wanted.interfaces.is_empty() {
        missing.warn("interfaces", "no interface is named: nothing is known of those that traffic comes in by", "");
    }
    for spec in &wanted.interfaces {
        let is_there = view.interfaces.values().any(|interface| spec.pattern.matches(&interface.name));
        if !is_there {
            let message = format!("no interface is called {}: the daemon waits for it", spec.pattern);
            missing.warn("interfaces", message, "");
        }
    }
    all.extend(missing.lines);
    for interface in view.interfaces.values() {
        if let Some(mode) = crate::daemon::pattern::mode_for(&wanted.interfaces, &interface.name) {
            all.extend(interface::lines(interface, mode, wanted, view));
        }
    }
    all
}

/// What a file of one line says.
fn file(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// A sysctl of this network namespace, by its name with dots for slashes, but for those in an interface's name.
fn sysctl(path: &str) -> Option<i64> {
    file(&format!("/proc/sys/{path}"))?.parse().ok()
}

/// A word as a shell takes it for one.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./@:=".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}
