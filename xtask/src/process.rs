//! Running other programs: what is printed before, and what is said when they fail.

use anyhow::{Context, bail};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, fmt};

use crate::workspace;

/// Says in a line what comes next.
pub(crate) fn step(what: impl fmt::Display) {
    eprintln!("==> {what}");
}

/// Runs a command to its end with our own input and output.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// What a command prints, or `None` when it cannot be run or fails. It says nothing to the user.
pub(crate) fn answer(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The program of this name in `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(program)).find(|candidate| candidate.is_file())
}

/// The host's cargo, in the workspace's root.
///
/// What `cargo run` told this process about the package xtask is not passed on: build scripts that watch such variables
/// would otherwise run anew each time the developer changes between `cargo` and `cargo xtask`.
pub(crate) fn host_cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace::root());
    for (name, _) in env::vars_os() {
        if is_about_this_package(&name) {
            command.env_remove(&name);
        }
    }
    command
}

fn is_about_this_package(variable: &OsStr) -> bool {
    const PREFIXES: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    variable.to_str().is_some_and(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_can_be_pasted_into_a_shell() {
        let mut command = Command::new("/usr/bin/printf");
        command.args(["%s|", "two words", "it's", "", "--a=b"]);
        let line = shown(&command);
        assert_eq!(line, r"/usr/bin/printf '%s|' 'two words' 'it'\''s' '' --a=b");
        let printed = answer(Command::new("sh").args(["-c", &line])).unwrap();
        assert_eq!(printed, "two words|it's||--a=b|");
    }
}
