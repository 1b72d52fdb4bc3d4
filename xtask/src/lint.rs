//! `cargo xtask lint`: formatting and lints, for the host and for BPF. Warnings are errors.

use anyhow::{Context, ensure};

use crate::process::{self, step};
use crate::setup;
use crate::toolchain::Route;
use crate::workspace::{DATAPATH, YARDSTICKS};

/// Checks everything, and says at the end what all failed.
pub(crate) fn run(route: Route) -> anyhow::Result<()> {
    setup::run(route)?;
    let mut failed = Vec::new();
    let mut check = |what: &'static str, remedy: &'static str, command: &mut std::process::Command| {
        step(format_args!("lint: {what}"));
        if let Err(error) = process::run(command).context(remedy) {
            eprintln!("error: {error:#}");
            failed.push(what);
        }
    };

    check("formatting", "`cargo fmt --all` mends it", process::host_cargo().args(["fmt", "--all", "--check"]));
    check(
        "clippy for the host",
        "clippy's complaints stand above",
        process::host_cargo().args(["clippy", "--workspace", "--all-targets", "--", "-Dwarnings"]),
    );
    for (what, object) in [("clippy for BPF", DATAPATH), ("clippy for the yardsticks", YARDSTICKS)] {
        check(what, "clippy's complaints stand above", route.cargo("clippy", object).args(["--", "-Dwarnings"]));
    }
    ensure!(failed.is_empty(), "lint: {} failed", failed.join(" and "));
    step("lint: all clean");
    Ok(())
}
