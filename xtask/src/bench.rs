//! `cargo xtask bench`: set up, build, and hand over to `lb-bench`, as root.

use anyhow::{Context, bail};
use std::path::Path;

use crate::build;
use crate::privilege::{Needed, Privilege, through_sudo};
use crate::process::{self, shown, step};
use crate::toolchain::Route;
use crate::{setup, workspace};

/// Flags of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Take a minute or two: fewer flows, Services and rounds.
    #[arg(long)]
    quick: bool,
    /// Compare with the committed figures in under three minutes; fail if a ratio has slipped by more than the noise.
    #[arg(long, conflicts_with = "quick")]
    check: bool,
    /// Also write docs/performance.json, docs/performance.md and its plots.
    #[arg(long, conflicts_with = "check")]
    write_docs: bool,
    /// Measure only this part; repeatable.
    #[arg(long, value_name = "established|opening|flood|scale|control|path|applications")]
    only: Vec<String>,
}

/// Runs the bench.
pub(crate) fn run(route: Route, args: &Args) -> anyhow::Result<()> {
    setup::run(route)?;
    if !args.check
        && let Err(error) = setup::peers()
    {
        eprintln!("warning: {error:#}\nwarning: the bench leaves out what it cannot compare with, and says so");
    }
    build::bpf(route, workspace::DATAPATH)?;
    build::bpf(route, workspace::YARDSTICKS)?;
    let lb_ctl = build::binary("lb-ctl", true)?;
    // It parses manifests itself, to tell what that alone costs.
    let bench = build::binary("lb-bench", true)?;

    let bench = utf8(&bench)?;
    let mut arguments = vec!["--lb-ctl", utf8(&lb_ctl)?];
    let yardsticks = workspace::bpf_object(workspace::YARDSTICKS);
    arguments.extend(["--yardsticks", utf8(&yardsticks)?, "--workspace", utf8(workspace::root())?]);
    for (flag, is_set) in [("--quick", args.quick), ("--check", args.check), ("--write-docs", args.write_docs)] {
        arguments.extend(is_set.then_some(flag));
    }
    for part in &args.only {
        arguments.extend(["--only", part]);
    }
    let Some(mut command) = Privilege::detect().command(bench, &[]) else {
        let mut line = through_sudo(bench, &[]);
        line.args(&arguments);
        bail!(Needed::root("the bench makes network namespaces and loads BPF programs", &[line]));
    };
    command.args(&arguments);
    step(shown(&command));
    process::run(&mut command)
}

fn utf8(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the path of the workspace is no UTF-8")
}
