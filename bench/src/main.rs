//! The bench: what lb-ctl costs against yardsticks and peers, in one run on one machine. Run by `cargo xtask bench`.

mod manifests;
mod measure;
mod node;
mod packets;
mod report;
mod statistics;
mod wrapper;

use anyhow::ensure;
use clap::Parser;
use std::fmt;
use std::path::PathBuf;

use crate::packets::Bench;
use crate::report::Report;
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
    /// Numbers of Services.
    pub(crate) services: Vec<u32>,
    /// Flows that the maps are made for.
    pub(crate) max_flows: u32,
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
    /// A minute or two: fewer flows, Services and rounds.
    #[arg(long)]
    quick: bool,
    /// Where to write the figures.
    #[arg(long)]
    json: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(nix::unistd::geteuid().is_root(), "the bench makes network namespaces and loads BPF programs: run it as root");
    let extent = if args.quick { Extent::quick() } else { Extent::full() };
    let mut report = Report::new(extent.name);
    // As many entries as the table of confirmed flows has.
    let wrapper = Wrapper::load(&args.yardsticks, extent.max_flows * 2)?;
    Bench { wrapper, extent: &extent }.all(&args.lb_ctl, &mut report)?;
    println!("{}", report.table());
    std::fs::write(&args.json, serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

impl Extent {
    fn quick() -> Self {
        Self {
            name: "quick",
            rounds: 5,
            packets: 131_072,
            flows: vec![1, 1024, 65_536],
            services: vec![10, 10_000],
            max_flows: 1 << 18,
        }
    }

    fn full() -> Self {
        Self {
            name: "full",
            rounds: 15,
            packets: 262_144,
            flows: vec![1, 1024, 65_536, 524_288],
            services: vec![10, 1000, 10_000, 100_000],
            // So that the table of confirmed flows has 2.5 entries for each of the most flows.
            max_flows: 5 << 17,
        }
    }
}

/// Says in a line what comes next.
fn say(what: impl fmt::Display) {
    eprintln!("==> {what}");
}
