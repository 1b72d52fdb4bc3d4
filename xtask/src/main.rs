//! Every developer command: `cargo xtask setup | build | demo | test | mutate | fuzz | bench | lint`.
//!
//! Everything is built as the user; only apt, the demo and the privileged tests go through sudo, and each such command
//! is printed first. Exit codes: 0 done, 1 something failed, 2 the user has something to do first (or misused a flag).

mod bench;
mod build;
mod demo;
mod fuzz;
mod lint;
mod mutate;
mod ownership;
mod privilege;
mod process;
mod setup;
mod test;
mod toolchain;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

use crate::privilege::Needed;
use crate::toolchain::Route;

#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", about = "Every developer command of lb-ctl.")]
struct Cli {
    /// The toolchain for the BPF object; by default Debian's where apt has it, else rustup's nightly.
    #[arg(long, global = true, value_enum, value_name = "ROUTE")]
    toolchain: Option<Route>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building and testing need, after saying what that is.
    Setup,
    /// Build the BPF object, then the binary lb-ctl, which carries it.
    Build(build::Args),
    /// Set up, build, and show the load balancer at work in a playground of network namespaces.
    Demo(demo::Args),
    /// Set up, build, and run every test; without root, those that need none.
    Test(test::Args),
    /// Make listed mistakes in a copy of the datapath's core, each of which the oracle must notice.
    Mutate(mutate::Args),
    /// Let libFuzzer look for input that upsets what reads it.
    Fuzz(fuzz::Args),
    /// Set up, build, and measure against yardsticks and peers.
    Bench(bench::Args),
    /// Check formatting and lints, for the host and for BPF.
    Lint,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = run(cli);
    ownership::hand_over();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<Needed>() { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let route = cli.toolchain.unwrap_or_else(Route::detect);
    match cli.command {
        Command::Setup => setup::run(route),
        Command::Build(args) => build::run(route, &args),
        Command::Demo(args) => demo::run(route, &args),
        Command::Test(args) => test::run(route, &args),
        Command::Mutate(args) => mutate::run(&args),
        Command::Fuzz(args) => {
            setup::run(route)?;
            fuzz::run(&args)
        }
        Command::Bench(args) => bench::run(route, &args),
        Command::Lint => lint::run(route),
    }
}
