//! `completion` and `man`: what the arguments tell to shells and to man(1).

use super::args::Args;
use super::output::Output;
use super::{Failed, SUCCESS};
use clap::CommandFactory as _;
use clap_complete::Shell;
use std::io;
use std::path::Path;

/// Prints a shell's completions.
pub(super) fn completion(shell: Shell, out: &mut Output) -> Result<u8, Failed> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "lb-ctl", &mut script);
    out.text(&String::from_utf8(script).map_err(io::Error::other)?)?;
    Ok(SUCCESS)
}

/// Writes the manual pages.
pub(super) fn write(directory: &Path, out: &mut Output) -> Result<u8, Failed> {
    let failed = |error: io::Error| Failed::Usage(format!("{}: {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Args::command(), directory).map_err(failed)?;
    out.line(format_args!("The manual pages are in {}.", directory.display()))?;
    Ok(SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_but_for_the_hidden() {
        let directory = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(Args::command(), directory.path()).unwrap();
        let pages: Vec<String> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        for command in Args::command().get_subcommands() {
            let page = format!("lb-ctl-{}.1", command.get_name());
            assert_eq!(pages.contains(&page), !command.is_hide_set(), "{page}");
        }
        let text = std::fs::read_to_string(directory.path().join("lb-ctl-apply.1")).unwrap();
        assert!(text.contains("\\-\\-dry\\-run") && text.contains("Say what would happen"), "{text}");
    }

    #[test]
    fn shells_get_a_script_that_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "lb-ctl", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(["conntrack", "dry-run", "describe"].iter().all(|word| script.contains(word)), "{shell}");
        }
    }
}
