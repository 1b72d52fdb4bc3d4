//! The command line: kubectl's habits over the control API, and the daemon itself.
//!
//! What the user typed ([`args`]) is kept apart from what it means ([`query`], [`crate::daemon::Config`]).
//! Exit codes: 0 done; 1 refused (no such object, a manifest with errors, a conflict); 2 it could not be tried (usage,
//! configuration, privilege, no daemon). `diff` and `plan` have those of diff(1): 0 nothing would change, 1 something would, 2
//! anything else.

mod age;
mod apply;
pub mod args;
mod capture;
mod cleanup;
mod conntrack;
mod delete;
mod describe;
mod diff;
mod get;
mod manifests;
mod manual;
mod monitor;
mod output;
mod plan;
mod query;
mod status;
mod tables;
mod top;
mod trace;
mod why;

use crate::api::{Client, ClientError};
use crate::daemon::{self, config};
use args::{Args, Command};
use clap::Parser as _;
use output::Output;
use std::ffi::OsString;
use std::future::Future;
use std::io;

/// Done.
pub const SUCCESS: u8 = 0;
/// Refused.
pub const REFUSED: u8 = 1;
/// Of `diff` and `plan`: something would change.
pub const DIFFERENT: u8 = 1;
/// It could not be tried.
pub const UNABLE: u8 = 2;

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
enum Failed {
    /// The daemon refused, or does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The same where the answer would have been a comparison, whose exit code 1 means something else.
    #[error(transparent)]
    Compared(ClientError),
    /// Standard output is gone, or full.
    #[error("writing to standard output: {0}")]
    Output(#[from] io::Error),
    /// The arguments do not make sense together.
    #[error("{0}")]
    Usage(String),
    /// Manifests could not be read.
    #[error(transparent)]
    Manifests(#[from] manifests::ReadError),
    /// The daemon could not start, or had to stop.
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// Nothing could be removed.
    #[error(transparent)]
    Cleanup(#[from] crate::datapath::Error),
    /// No runtime.
    #[error("cannot start the runtime: {0}")]
    Runtime(io::Error),
}

impl Failed {
    const fn code(&self) -> u8 {
        match self {
            Failed::Client(ClientError::Refused(_)) => REFUSED,
            _ => UNABLE,
        }
    }

    /// Says it on standard error, as kubectl says it.
    fn report(&self) {
        match self {
            Failed::Client(ClientError::Refused(failure)) | Failed::Compared(ClientError::Refused(failure)) => {
                failure.diagnostics.iter().for_each(|diagnostic| eprintln!("{diagnostic}"));
                if failure.diagnostics.is_empty() {
                    eprintln!("Error from server ({}): {failure}", failure.reason);
                } else {
                    eprintln!("error: {failure}");
                }
            }
            other => eprintln!("error: {other}"),
        }
    }
}

/// Runs the command line and returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => {
            // Help and version come this way too, with exit code 0. A closed pipe is no news.
            let _ = error.print();
            return error.exit_code().try_into().unwrap_or(UNABLE);
        }
    };
    match dispatch(args) {
        Ok(code) => code,
        // Whoever reads our output has seen enough: `lb-ctl get pods | head`.
        Err(Failed::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => SUCCESS,
        Err(failed) => {
            failed.report();
            failed.code()
        }
    }
}

fn dispatch(args: Args) -> Result<u8, Failed> {
    let client = args.target.client();
    let mut out = Output::stdout();
    match args.command {
        Command::Daemon(daemon) => run_daemon(&args.target, *daemon, &mut out),
        Command::Cleanup(cleanup) => cleanup::run(&cleanup, &args.target, &mut out),
        Command::Apply(command) => wait(apply::run(&client, &command, &mut out)),
        Command::Diff(command) => wait(diff::run(&client, &command, &mut out)),
        Command::Plan(command) => wait(plan::planned(&client, &command, &mut out)),
        Command::Delete(command) => wait(delete::run(&client, &command, &mut out)),
        Command::Get(command) => wait(get::run(&client, &command, &mut out)),
        Command::Describe(command) => wait(describe::run(&client, &command, &mut out)),
        Command::Status(command) => wait(status::run(&client, &command, &mut out)),
        Command::Top(command) => wait(top::run(&client, &command, &mut out)),
        Command::Trace(command) => wait(trace::run(&client, &command, &mut out)),
        Command::Conntrack(args::Conntrack::List(command)) => wait(conntrack::run(&client, &command, &mut out)),
        Command::Monitor(command) => match &command.pcap {
            Some(path) => wait(capture::run(&client, &command, path)),
            None => wait(monitor::run(&client, &command, &mut out)),
        },
        Command::Why(command) => wait(why::run(&client, &command, &mut out)),
        Command::Demo(demo) => Ok(demo.run()),
        Command::Playground(command) => Ok(command.run()),
        Command::Completion { shell } => manual::completion(shell, &mut out),
        Command::Man { directory } => manual::write(&directory, &mut out),
        Command::Version => wait(version(&client, &mut out)),
    }
}

/// Runs a command that talks to the daemon.
fn wait(command: impl Future<Output = Result<u8, Failed>>) -> Result<u8, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failed::Runtime)?;
    runtime.block_on(command)
}

fn run_daemon(target: &args::Target, daemon: args::Daemon, out: &mut Output) -> Result<u8, Failed> {
    let args::Daemon { config, check_config, mut options } = daemon;
    options.socket.clone_from(&target.socket);
    options.instance.clone_from(&target.instance);
    let origin = config::Origin { flags: options, file: config };
    let config = origin.load()?;
    if check_config {
        out.line(format_args!("{config}"))?;
        config.warnings().iter().for_each(|warning| eprintln!("Warning: {warning}"));
        out.line(format_args!("The configuration is valid. Interfaces, directories and the cgroup that it names are looked for at the start."))?;
        return Ok(SUCCESS);
    }
    daemon::run(config, origin)?;
    Ok(SUCCESS)
}

async fn version(client: &Client, out: &mut Output) -> Result<u8, Failed> {
    out.line(format_args!("lb-ctl {}", env!("CARGO_PKG_VERSION")))?;
    match client.version().await {
        Ok(version) => out.line(format_args!("daemon {}", version.version))?,
        Err(ClientError::NotRunning { socket, .. }) => {
            out.line(format_args!("daemon: none on {}", socket.display()))?;
        }
        Err(error) => out.line(format_args!("daemon: {error}"))?,
    }
    Ok(SUCCESS)
}
