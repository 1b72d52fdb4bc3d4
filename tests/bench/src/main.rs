//! The bench: what lb-ctl costs against yardsticks and peers, in one run on one machine. Run by `cargo xtask bench`.

mod applications;
mod check;
mod control;
mod document;
mod established;
mod flood;
mod maglev;
mod manifests;
mod measure;
mod names;
mod node;
mod opening;
mod packets;
mod path;
mod plot;
mod quiet;
mod report;
mod rules;
mod scale;
mod statistics;
mod targets;
mod tools;
mod wrapper;

use anyhow::{Context, ensure};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::{fmt, fs};

use crate::packets::Bench;
use crate::report::Report;
use crate::tools::Tools;
use crate::wrapper::Wrapper;

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    pub(crate) name: &'static str,
    /// Rounds of each comparison.
    pub(crate) rounds: u32,
    /// Packets in a run, at least.
    pub(crate) packets: u32,
    /// Numbers of flows, each a power of two.
    pub(crate) flows: Vec<u32>,
    /// Whether UDP is measured too.
    pub(crate) udp: bool,
    /// Numbers of Services.
    pub(crate) services: Vec<u32>,
    /// Numbers of Services for the control plane.
    pub(crate) control: Vec<u32>,
    /// Numbers of Services for the whole path.
    pub(crate) path: Vec<u32>,
    /// How often an endpoint is changed.
    pub(crate) changes: u32,
    /// Rounds of a second for each application and who is between.
    pub(crate) application_rounds: u32,
    /// How long it may wait for the machine to be quiet, in all.
    pub(crate) patience: Duration,
}

#[derive(Parser)]
#[command(name = "lb-bench", about = "Measures lb-ctl; `cargo xtask bench` builds what it needs and runs it.")]
struct Args {
    /// The binary lb-ctl.
    #[arg(long)]
    lb_ctl: PathBuf,
    /// The BPF object of the yardsticks.
    #[arg(long)]
    yardsticks: PathBuf,
    /// The workspace: figures are written to target/bench.json in it.
    #[arg(long)]
    workspace: PathBuf,
    /// A minute or two: fewer flows, Services and rounds.
    #[arg(long)]
    quick: bool,
    /// Compare with the committed figures.
    #[arg(long)]
    check: bool,
    /// Write docs/performance.json, docs/performance.md and its plots.
    #[arg(long)]
    write_docs: bool,
    /// Measure this build of the datapath on packets, in place of the one that the daemon attached: another that has the same
    /// maps.
    #[arg(long, value_name = "OBJECT", conflicts_with = "write_docs")]
    datapath: Option<PathBuf>,
    /// Measure packets and applications by this build of the datapath too, which has the same maps, round by round beside the other; repeatable.
    /// What it shows is how two builds compare on a machine that others use.
    #[arg(long, value_name = "OBJECT", conflicts_with = "write_docs")]
    beside: Vec<PathBuf>,
    /// Numbers of flows to measure.
    #[arg(long, value_delimiter = ',', value_parser = flows)]
    flows: Vec<u32>,
    /// Measure only this part.
    #[arg(long, value_parser = ["established", "opening", "flood", "scale", "control", "path", "applications"])]
    only: Vec<String>,
}

fn flows(text: &str) -> Result<u32, String> {
    let flows: u32 = text.parse().map_err(|error| format!("{error}"))?;
    if flows.is_power_of_two() { Ok(flows) } else { Err(format!("{flows} is no power of two")) }
}

impl Args {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says whether all is well.
fn run(args: &Args) -> anyhow::Result<bool> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the bench makes network namespaces and loads BPF programs: run `cargo xtask bench` as root, or with sudo installed"
    );
    if args.check {
        return compare(args);
    }
    let mut extent = if args.quick { Extent::quick() } else { Extent::full() };
    if !args.flows.is_empty() {
        extent.flows.clone_from(&args.flows);
    }
    let mut report = Report::new(extent.name);
    quiet::begin(extent.patience);
    let tools = Tools::of(&args.workspace);
    packets(args, &extent, &mut report)?;
    if args.wants("control") {
        let mut wrapper = Wrapper::load(&args.yardsticks, 1024)?;
        control::all(&args.lb_ctl, &mut wrapper, &extent, &mut report)?;
    }
    if args.wants("path") {
        let mut wrapper = Wrapper::load(&args.yardsticks, 1024)?;
        path::all(&args.lb_ctl, &tools, &mut wrapper, &extent, &mut report)?;
    }
    if args.wants("applications") {
        let mut wrapper = Wrapper::load(&args.yardsticks, lb_common::maps::DEFAULT_MAX_FLOWS)?;
        applications::all(&args.lb_ctl, &tools, &mut wrapper, &extent, &args.beside, &mut report)?;
    }
    report.waited = quiet::told();
    println!("{}\n{}", report.table(), targets::table(&report));
    say(report.waited);
    let path = args.workspace.join("target/bench.json");
    fs::write(&path, serde_json::to_string_pretty(&report)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    say(format_args!("written to {}", path.display()));
    if args.write_docs {
        document::write(&report, &args.workspace.join("docs"))?;
        say("docs/performance.md is written");
    }
    Ok(true)
}

fn packets(args: &Args, extent: &Extent, report: &mut Report) -> anyhow::Result<()> {
    let bench = Bench {
        lb_ctl: &args.lb_ctl,
        yardsticks: &args.yardsticks,
        extent,
        datapath: args.datapath.as_deref(),
        beside: &args.beside,
    };
    if args.wants("established") {
        established::all(&bench, report)?;
    }
    if args.wants("opening") {
        opening::all(&bench, report)?;
    }
    if args.wants("flood") {
        flood::all(&bench, report)?;
    }
    if args.wants("scale") && extent.services.len() > 1 {
        scale::all(&bench, report)?;
    }
    Ok(())
}

/// Measures twice and compares with the committed figures.
fn compare(args: &Args) -> anyhow::Result<bool> {
    let path = args.workspace.join("docs/performance.json");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: `cargo xtask bench --write-docs` writes it", path.display()))?;
    let committed: Report = serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
    let extent = Extent::check();
    let mut runs = Vec::new();
    quiet::begin(extent.patience);
    for _ in 0..2 {
        let mut report = Report::new(extent.name);
        packets(args, &extent, &mut report)?;
        runs.push(report);
    }
    let (compared, slips) = check::slips(&committed, &runs);
    ensure!(compared > 0, "{} has no figure that could be compared", path.display());
    for check::Slip { what, ratios, margin } in &slips {
        println!("SLIPPED: {what}: from {:.3} x to {:.3} x, noise explains {margin:.3}", ratios.0, ratios.1);
    }
    println!("{compared} ratios compared with those of {}: {} slipped", committed.date, slips.len());
    let (then, now) = (&committed.machine.processor, &runs[0].machine.processor);
    if then != now {
        eprintln!(
            "warning: those are of {then}, this is {now}: the kernel's lookups, of which the yardsticks are made, cost one processor twice what \
             they cost another; commit figures of this one by `cargo xtask bench --write-docs` and compare with them"
        );
    }
    Ok(slips.is_empty())
}

impl Extent {
    fn quick() -> Self {
        Self {
            name: "quick",
            rounds: 5,
            packets: 131_072,
            flows: vec![1, 65_536],
            udp: false,
            services: vec![10, 10_000],
            control: vec![0, 10_000],
            path: vec![10],
            changes: 40,
            application_rounds: 1,
            patience: Duration::from_secs(20),
        }
    }

    fn full() -> Self {
        Self {
            name: "full",
            rounds: 15,
            packets: 262_144,
            flows: vec![1, 1024, 65_536, 524_288],
            udp: true,
            services: vec![10, 1000, 10_000, 100_000],
            control: vec![0, 100, 1000, 10_000],
            path: vec![10, 1000, 10_000],
            changes: 300,
            application_rounds: 7,
            patience: Duration::from_mins(6),
        }
    }

    fn check() -> Self {
        Self { name: "check", services: vec![10], ..Self::quick() }
    }
}

/// Says in a line what comes next.
fn say(what: impl fmt::Display) {
    eprintln!("==> {what}");
}
