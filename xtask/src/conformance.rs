//! `cargo xtask conformance`: set up, build, and hand over to `lb-conformance`, as root.

use anyhow::{Context, bail};
use std::path::PathBuf;

use crate::privilege::{Needed, Privilege, through_sudo};
use crate::process::{self, shown, step};
use crate::toolchain::Route;
use crate::{build, setup, workspace};

/// Flags of `cargo xtask conformance`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Files of cases, and directories of such: schemas flows/v1, probes/v1, conntrack/v1 and dns/v1.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Runs the cases.
pub(crate) fn run(route: Route, args: &Args) -> anyhow::Result<()> {
    setup::run(route)?;
    build::bpf(route, workspace::DATAPATH)?;
    let runner = build::binary("lb-conformance", false)?;
    let runner = runner.to_str().context("the path of the workspace is no UTF-8")?;
    let Some(mut command) = Privilege::detect().command(runner, &[]) else {
        let mut line = through_sudo(runner, &[]);
        line.args(&args.paths);
        bail!(Needed::root("the runner makes network namespaces and loads BPF programs", &[line]));
    };
    command.args(&args.paths);
    step(shown(&command));
    process::run(&mut command)
}
