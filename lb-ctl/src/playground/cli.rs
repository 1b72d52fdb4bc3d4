//! The playground's subcommands: `demo`, and the hidden ones that its processes run.

use super::error::Error;
use super::{Name, by_name, demo, echo, janitor};
use std::path::PathBuf;

/// Arguments of `lb-ctl demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Leave the playground up and print commands to play with it
    #[arg(long)]
    keep: bool,
    /// Remove the playground that an earlier demo left up, or all of them
    #[arg(long, conflicts_with = "keep", value_name = "NAME", num_args = 0..=1, value_parser = name)]
    #[expect(clippy::option_option, reason = "absent, without a value, with a value")]
    cleanup: Option<Option<Name>>,
    /// Manage no interface, so that the demo must fail
    #[arg(long, hide = true)]
    without_hooks: bool,
}

/// Subcommands that only the playground itself runs.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum HiddenCommand {
    /// Serve HTTP and UDP echo
    #[command(hide = true, name = super::SERVER_SUBCOMMAND)]
    Server {
        /// Name in the answers
        #[arg(long)]
        name: String,
        /// TCP and UDP port
        #[arg(long)]
        port: u16,
    },
    /// Ask for a Service by its name
    #[command(hide = true, name = by_name::SUBCOMMAND)]
    Asker {
        /// The name
        #[arg(long)]
        host: String,
        /// TCP port
        #[arg(long)]
        port: u16,
        /// How many times
        #[arg(long)]
        count: usize,
    },
    /// Remove a playground when standard input ends, or now
    #[command(hide = true, name = janitor::SUBCOMMAND)]
    Janitor {
        /// Name of the playground
        #[arg(value_parser = name)]
        name: Name,
        /// Do not wait
        #[arg(long)]
        now: bool,
        /// Exit code on success
        #[arg(long, default_value_t = 0)]
        exit_code: u8,
    },
}

impl DemoArgs {
    /// Runs the demo: 0 when all was as promised, 1 when not, 2 when it cannot run here.
    pub fn run(&self) -> u8 {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("error: the demo makes network namespaces and loads BPF programs: run `sudo lb-ctl demo`");
            return crate::cli::UNABLE;
        }
        let wishes = demo::Wishes { keep: self.keep, without_hooks: self.without_hooks };
        let done = match &self.cleanup {
            Some(Some(name)) => demo::clean_up(name),
            Some(None) => demo::clean_up_all(),
            None => binary().and_then(|binary| demo::run(wishes, binary)),
        };
        exit_code(done, crate::cli::SUCCESS)
    }
}

impl HiddenCommand {
    /// Runs it and gives the exit code.
    pub fn run(&self) -> u8 {
        match self {
            HiddenCommand::Server { name, port } => exit_code(echo::serve(name, *port), crate::cli::SUCCESS),
            HiddenCommand::Asker { host, port, count } => {
                exit_code(by_name::ask(host, *port, *count), crate::cli::SUCCESS)
            }
            HiddenCommand::Janitor { name, now: true, exit_code: code } => {
                exit_code(janitor::remove(name).map(drop), *code)
            }
            HiddenCommand::Janitor { name, now: false, exit_code: code } => exit_code(janitor::attend(name), *code),
        }
    }
}

fn name(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error| error.to_string())
}

/// This binary.
fn binary() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(|source| Error::Io { action: "find this binary".to_owned(), source })
}

fn exit_code(done: Result<(), Error>, success: u8) -> u8 {
    match done {
        Ok(()) => success,
        Err(error) => {
            eprintln!("error: {error}");
            crate::cli::REFUSED
        }
    }
}
