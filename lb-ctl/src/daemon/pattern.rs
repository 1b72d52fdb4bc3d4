//! Which interfaces the user named: shell patterns over names, each with the mode to attach in.
//!
//! Nothing is ever attached to an interface that no pattern matches, and no pattern matches `lo`.

use crate::datapath::{Mode, UnknownMode};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;

/// Longest interface name the kernel takes (`IFNAMSIZ` without its NUL).
const LONGEST_NAME: usize = 15;

/// One `--interface`: a shell pattern and a mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceSpec {
    /// `eth0`, `veth*`, `ens[0-3]`, ...
    pub pattern: Pattern,
    /// How to attach.
    pub mode: Mode,
}

/// A shell pattern over an interface's name: `*`, `?`, `[a-z]` and `[!a-z]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

/// Why a text is no [`InterfaceSpec`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing before the `=`.
    #[error("the interface's name is empty: write NAME or PATTERN, such as eth0 or veth*")]
    Empty,
    /// An unknown word after the `=`.
    #[error(transparent)]
    Mode(#[from] UnknownMode),
    /// A `[` without its `]`.
    #[error("pattern `{0}` has a `[` without its `]`")]
    Unclosed(String),
    /// A plain name that no interface can have.
    #[error("`{0}` cannot be an interface's name: it has more than 15 characters, a `/` or a space")]
    Name(String),
    /// The loopback interface.
    #[error("the loopback interface `lo` is never managed: name the interfaces that traffic comes in by")]
    Loopback,
}

impl Pattern {
    /// Whether the interface `name` is meant. Never true for `lo`.
    pub fn matches(&self, name: &str) -> bool {
        name != "lo" && matches(self.0.as_bytes(), name.as_bytes())
    }

    /// The only name it matches, if it is no pattern but a name.
    pub fn as_name(&self) -> Option<&str> {
        (!self.0.contains(['*', '?', '['])).then_some(self.0.as_str())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for InterfaceSpec {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (pattern, mode) = match text.split_once('=') {
            Some((pattern, mode)) => (pattern, mode.parse()?),
            None => (text, Mode::Auto),
        };
        if pattern.is_empty() {
            return Err(PatternError::Empty);
        }
        if pattern == "lo" {
            return Err(PatternError::Loopback);
        }
        if pattern.match_indices('[').any(|(at, _)| class(&pattern.as_bytes()[at..]).is_none()) {
            return Err(PatternError::Unclosed(pattern.to_owned()));
        }
        let pattern = Pattern(pattern.to_owned());
        let is_name =
            |name: &str| name.len() <= LONGEST_NAME && !name.contains(|c: char| c == '/' || c.is_whitespace());
        if pattern.as_name().is_some_and(|name| !is_name(name)) {
            return Err(PatternError::Name(pattern.0));
        }
        Ok(Self { pattern, mode })
    }
}

impl fmt::Display for InterfaceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.pattern, self.mode)
    }
}

impl<'de> Deserialize<'de> for InterfaceSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The mode of the first spec that means the interface `name`.
pub fn mode_for(specs: &[InterfaceSpec], name: &str) -> Option<Mode> {
    specs.iter().find(|spec| spec.pattern.matches(name)).map(|spec| spec.mode)
}

/// The class `[...]` at the start of `pattern`: whether it is negated, its members, and what follows it.
fn class(pattern: &[u8]) -> Option<(bool, &[u8], &[u8])> {
    let inner = pattern.strip_prefix(b"[")?;
    let (negated, inner) = match inner {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, inner),
    };
    // A `]` in the first place is a member.
    let end = inner.iter().skip(1).position(|byte| *byte == b']')? + 1;
    Some((negated, &inner[..end], &inner[end + 1..]))
}

fn is_member(members: &[u8], byte: u8) -> bool {
    match members {
        [] => false,
        [first, b'-', last, rest @ ..] => (*first..=*last).contains(&byte) || is_member(rest, byte),
        [first, rest @ ..] => *first == byte || is_member(rest, byte),
    }
}

/// Interface names are at most 15 bytes, so plain recursion is cheap enough for any pattern: runs of `*` count as one.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) if rest.first() == Some(&b'*') => matches(rest, name),
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|skip| matches(rest, &name[skip..])),
        ([b'?', rest @ ..], [_, tail @ ..]) => matches(rest, tail),
        ([b'[', ..], [byte, tail @ ..]) => class(pattern)
            .is_some_and(|(negated, members, rest)| is_member(members, *byte) != negated && matches(rest, tail)),
        ([first, rest @ ..], [byte, tail @ ..]) => first == byte && matches(rest, tail),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse::<InterfaceSpec>().unwrap().pattern
    }

    #[test]
    fn shell_patterns_match_whole_names() {
        for (text, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("veth*", "veth", true),
            ("veth*", "veth1234", true),
            ("veth*", "xveth1", false),
            ("*0", "eth0", true),
            ("e*h?", "eth9", true),
            ("ens[0-3]", "ens2", true),
            ("ens[0-3]", "ens4", false),
            ("ens[!0-3]", "ens4", true),
            ("ens[0-3]*", "ens3f1", true),
            ("a[]]b", "a]b", true),
            ("**a**b**", "xxaxxbxx", true),
            ("?", "", false),
        ] {
            assert_eq!(pattern(text).matches(name), expected, "{text} against {name:?}");
        }
    }

    #[test]
    fn the_loopback_interface_is_never_meant() {
        for text in ["*", "l*", "l?", "[l]o"] {
            assert!(!pattern(text).matches("lo"), "{text}");
        }
        assert_eq!("lo".parse::<InterfaceSpec>(), Err(PatternError::Loopback));
    }

    #[test]
    fn a_spec_is_a_pattern_and_a_mode() {
        let spec: InterfaceSpec = "ens*=xdp-generic".parse().unwrap();
        assert_eq!((spec.pattern.to_string().as_str(), spec.mode), ("ens*", Mode::XdpGeneric));
        assert_eq!(spec.to_string(), "ens*=xdp-generic");
        assert_eq!("eth0".parse::<InterfaceSpec>().unwrap().mode, Mode::Auto);
        assert_eq!("=xdp".parse::<InterfaceSpec>(), Err(PatternError::Empty));
        assert!(matches!("eth0=fast".parse::<InterfaceSpec>(), Err(PatternError::Mode(_))));
        assert_eq!("ens[0".parse::<InterfaceSpec>(), Err(PatternError::Unclosed("ens[0".into())));
        assert!(matches!("a-name-of-16-char".parse::<InterfaceSpec>(), Err(PatternError::Name(_))));
    }

    #[test]
    fn the_first_spec_that_matches_gives_the_mode() {
        let specs: Vec<InterfaceSpec> = ["eth0=xdp", "eth*=tcx"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(mode_for(&specs, "eth0"), Some(Mode::Xdp));
        assert_eq!(mode_for(&specs, "eth1"), Some(Mode::Tcx));
        assert_eq!(mode_for(&specs, "wlan0"), None);
    }
}
