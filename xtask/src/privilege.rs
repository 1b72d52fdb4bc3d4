//! Root: whether we are it, or can become it for a command.

use nix::unistd::geteuid;
use std::fmt;
use std::io::{IsTerminal, stdin};
use std::process::Command;

use crate::process::{self, shown};

/// How a command gets to run as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// We are root.
    Root,
    /// Through sudo.
    Sudo,
    /// Not at all.
    Neither,
}

impl Privilege {
    /// Looks at who we are. Where nobody could type a password, sudo counts only if it asks for none.
    pub(crate) fn detect() -> Self {
        if geteuid().is_root() {
            Self::Root
        } else if process::find("sudo").is_some()
            && (stdin().is_terminal() || process::answer(Command::new("sudo").args(["-n", "true"])).is_some())
        {
            Self::Sudo
        } else {
            Self::Neither
        }
    }

    /// The command that runs `program` as root with these variables set; `None` where there is no way.
    pub(crate) fn command(self, program: &str, variables: &[(&str, String)]) -> Option<Command> {
        match self {
            Self::Root => {
                let mut command = Command::new(program);
                command.envs(variables.iter().map(|(name, value)| (name, value)));
                Some(command)
            }
            Self::Sudo => Some(through_sudo(program, variables)),
            Self::Neither => None,
        }
    }
}

/// The command line that runs `program` through sudo, which clears the environment but for what `env` sets again.
pub(crate) fn through_sudo(program: &str, variables: &[(&str, String)]) -> Command {
    let mut command = Command::new("sudo");
    if !variables.is_empty() {
        command.arg("env").args(variables.iter().map(|(name, value)| format!("{name}={value}")));
    }
    command.arg(program);
    command
}

/// Something that the user must do first. xtask then exits with 2.
#[derive(Debug)]
pub(crate) struct Needed {
    what: String,
    lines: Vec<String>,
}

impl Needed {
    /// `what` is missing; running `lines` mends it.
    pub(crate) fn new(what: impl Into<String>, lines: impl IntoIterator<Item = String>) -> Self {
        Self { what: what.into(), lines: lines.into_iter().collect() }
    }

    /// These commands need root, and there is no way to it.
    pub(crate) fn root(what: impl Into<String>, commands: &[Command]) -> Self {
        Self::new(format!("{}, and there is neither root nor sudo here", what.into()), commands.iter().map(shown))
    }
}

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if !self.lines.is_empty() {
            write!(f, "\nRun this, then try again:")?;
        }
        self.lines.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

impl std::error::Error for Needed {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_gets_the_variables_through_env() {
        let command = through_sudo("/x/tests", &[("LB_REQUIRE_ROOT", "1".to_owned())]);
        assert_eq!(shown(&command), "sudo env LB_REQUIRE_ROOT=1 /x/tests");
        assert_eq!(shown(&through_sudo("apt-get", &[])), "sudo apt-get");
    }

    #[test]
    fn what_is_needed_ends_with_lines_to_run() {
        let needed = Needed::root("ip is missing", &[Command::new("apt-get")]);
        let text = needed.to_string();
        assert_eq!(
            text,
            "ip is missing, and there is neither root nor sudo here\nRun this, then try again:\n    apt-get"
        );
    }
}
