//! `lb-conformance PATH...`: runs the cases in these files and directories.

use clap::Parser;
use lb_conformance::node::Under;
use lb_conformance::{process, run};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs cases of what a Service proxy must do against the programs.
#[derive(Parser)]
struct Args {
    /// Files of cases, and directories of such.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    if std::env::args().nth(1).as_deref() == Some(process::ARGUMENT) {
        process::serve();
        return Ok(ExitCode::SUCCESS);
    }
    let args = Args::parse();
    let report = run::run(&run::files(&args.paths)?, &std::env::current_exe()?, Under::Test)?;
    println!("{report}");
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
