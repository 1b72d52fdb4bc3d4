//! Ctrl-C and its kin while a playground is up: the process becomes its own janitor.

use super::Name;
use super::error::{Doing, Error};
use super::janitor;
use nix::sys::signal::Signal;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use tokio::signal::unix::{SignalKind, signal};

/// From now on SIGINT, SIGTERM and SIGHUP replace this process (and with it all its threads, so that nothing new is
/// made any more) by `binary`, which removes the playground and exits as the signal demands. Processes that are
/// started later have the default handlers: a blocked signal would stay blocked in them.
pub(super) fn remove_when_told(name: Name, binary: PathBuf) -> Result<(), Error> {
    let action = || "wait for signals".to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing(action)?;
    let context = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).doing(action)?;
    let mut terminate = signal(SignalKind::terminate()).doing(action)?;
    let mut hang_up = signal(SignalKind::hangup()).doing(action)?;
    drop(context);
    let watch = move || {
        let signal = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => Signal::SIGINT,
                _ = terminate.recv() => Signal::SIGTERM,
                _ = hang_up.recv() => Signal::SIGHUP,
            }
        });
        eprintln!("\n{signal}: removing the playground {name}");
        let code = 128 + signal as i32;
        let error = Command::new(&binary)
            .args([janitor::SUBCOMMAND, name.as_str(), "--now", "--exit-code", &code.to_string()])
            .exec();
        // The janitor process does it as soon as we are gone.
        eprintln!("lb-ctl: {}: {error}", binary.display());
        std::process::exit(code);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).doing(action)?;
    Ok(())
}
