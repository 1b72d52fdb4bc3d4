//! `cargo xtask demo`: set up, build, and hand over to `lb-ctl demo`.

use anyhow::{Context, bail};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use crate::build;
use crate::ownership;
use crate::privilege::{Needed, Privilege, through_sudo};
use crate::process::{shown, step};
use crate::setup;
use crate::toolchain::Route;
use crate::workspace;

/// Flags of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Passed on to `lb-ctl demo`, such as `--keep`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
    args: Vec<OsString>,
}

/// Runs the demo. It replaces this process, so that Ctrl-C reaches the demo alone, which then removes what it made.
pub(crate) fn run(route: Route, args: &Args) -> anyhow::Result<()> {
    setup::run(route)?;
    build::bpf(route, workspace::DATAPATH)?;
    let binary = build::lb_ctl(false)?;
    let binary = binary.to_str().context("the path of the workspace is no UTF-8")?;

    let Some(mut command) = Privilege::detect().command(binary, &[]) else {
        let mut line = through_sudo(binary, &[]);
        line.arg("demo").args(&args.args);
        bail!(Needed::root("the demo makes network namespaces", &[line]));
    };
    command.arg("demo").args(&args.args);
    step(shown(&command));
    ownership::hand_over();
    Err(command.exec()).with_context(|| format!("cannot start `{}`", shown(&command)))
}
