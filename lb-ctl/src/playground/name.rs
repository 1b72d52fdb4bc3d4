//! The name that everything of one playground carries.
//!
//! Removal goes by the name alone, so a name is checked before anything else happens: it cannot stand for a path, nor
//! for namespaces that somebody else made.

use super::error::Error;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// What starts the names of the demo's playgrounds.
pub const DEMO: &str = "lbdemo";
/// What starts the names of the tests' playgrounds.
pub const TEST: &str = "lbtest";

/// `lbdemo-PID`, or `lbtest-PID-NUMBER`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The name of this process's demo.
    pub fn of_demo() -> Self {
        Self(format!("{DEMO}-{}", std::process::id()))
    }

    /// The name of this process's test playground of this number.
    pub fn of_test(number: u32) -> Self {
        Self(format!("{TEST}-{}-{number}", std::process::id()))
    }

    /// Checks a name that came from outside.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut parts = text.split('-');
        let known = matches!(parts.next(), Some(DEMO | TEST));
        let numbers: Vec<bool> = parts.map(|part| part.parse::<u32>().is_ok_and(|n| n.to_string() == part)).collect();
        if known && (1..=2).contains(&numbers.len()) && numbers.iter().all(|good| *good) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::broken(format_args!("`{text}` is not the name of a playground, such as {DEMO}-4711")))
        }
    }

    /// Every playground of this machine whose name starts with `prefix`, whether its maker is alive or not.
    pub fn all(prefix: &str) -> Vec<Self> {
        let entries = fs::read_dir("/run").into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| Self::parse(entry.file_name().to_str()?).ok());
        let mut names: Vec<Self> = names.filter(|name| name.0.starts_with(prefix)).collect();
        names.sort();
        names
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its directory.
    pub fn directory(&self) -> PathBuf {
        Path::new("/run").join(&self.0)
    }

    /// Its bpffs.
    pub fn bpffs(&self) -> PathBuf {
        self.directory().join("bpf")
    }

    /// The registered name of the namespace of `role`.
    pub fn space(&self, role: &str) -> String {
        format!("{}-{role}", self.0)
    }

    /// Whether a registered namespace is one of this playground's.
    pub fn owns(&self, space: &str) -> bool {
        let role = space.strip_prefix(&self.0).and_then(|rest| rest.strip_prefix('-'));
        role.is_some_and(|role| role.starts_with(|first: char| first.is_ascii_alphabetic()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn only_names_of_playgrounds_pass() {
        for good in ["lbdemo-1", "lbtest-4711-0", "lbtest-4711-12"] {
            assert_eq!(Name::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "lbdemo",
            "lbdemo-",
            "lbdemo-x",
            "lbdemo-1/..",
            "systemd",
            "lbdemo-1-2-3",
            "lbdemo-01",
            "lbdemo-+1",
        ] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_owns_its_own_namespaces_only() {
        let name = Name::parse("lbtest-1-1").unwrap();
        assert!(name.owns("lbtest-1-1-node-1") && name.owns(&name.space("client")));
        for foreign in ["lbtest-1-10-node-1", "lbtest-1-1", "lbtest-1-1-", "prod", "lbtest-1-1-2-client"] {
            assert!(!name.owns(foreign), "{foreign}");
        }
    }
}
