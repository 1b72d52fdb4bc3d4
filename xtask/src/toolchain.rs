//! The toolchain that builds the BPF object, which is not the host's.
//!
//! Two routes lead to one:
//! - Debian's `rustc-web` and `libstd-rust-web-dev-bpf`, which brings a built `core` for BPF: no nightly compiler and no
//!   `-Zbuild-std`. It installs beside rustup. This is the route that is tested.
//! - rustup's nightly with `rust-src` and `-Zbuild-std=core`, with a `bpf-linker` from `PATH`. It is not tested.
//!
//! Their compilers cannot be mixed with the host's: each build starts from a cleaned environment and has its own target
//! directory.

use clap::ValueEnum;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process;
use crate::workspace::{self, BPF_TARGET};

/// The version of bpf-linker that is installed with cargo.
pub(crate) const BPF_LINKER: &str = "0.13.0";
/// The major version of LLVM in Debian's `rustc-web`: bpf-linker must read the bitcode of that one.
pub(crate) const LLVM: &str = "22";
/// The rustup toolchain of the second route.
pub(crate) const NIGHTLY: &str = "nightly";

/// Debian's compiler. A rustup proxy earlier in `PATH` has the same name.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Debian's cargo.
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
/// Debian's clippy.
pub(crate) const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";
/// The package of that compiler; it tells whether Debian's route exists.
pub(crate) const DEBIAN_COMPILER: &str = "rustc-web";
/// The package that brings `core` for BPF.
pub(crate) const DEBIAN_BPF_CORE: &str = "libstd-rust-web-dev-bpf";

/// A way to a toolchain for BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Route {
    /// Debian's packages.
    Debian,
    /// rustup's nightly, rust-src and -Zbuild-std=core (not tested by the project).
    Rustup,
}

impl Route {
    /// Debian's packages where apt is, unless it is known not to have them.
    pub(crate) fn detect() -> Self {
        if !Path::new("/usr/bin/apt-get").exists() {
            return Self::Rustup;
        }
        let knows = |package: &str| process::answer(Command::new("apt-cache").args(["show", package])).is_some();
        // Lists of an older day know the compiler and not yet its `core` for BPF; before the first `apt-get update` apt
        // knows no package at all. Neither is an answer: the set-up renews the lists first.
        if debian_core_is_installed() || knows(DEBIAN_COMPILER) || !knows("libc6") {
            Self::Debian
        } else {
            Self::Rustup
        }
    }

    /// The bpf-linker of this route, if it is there.
    pub(crate) fn linker(self) -> Option<PathBuf> {
        match self {
            Self::Debian => Some(workspace::tools().join("bin/bpf-linker")).filter(|path| path.is_file()),
            Self::Rustup => process::find("bpf-linker"),
        }
    }

    /// A cargo command (`build`, `clippy`) on a BPF object, which has the name of its package; without its linker when that
    /// is not there.
    pub(crate) fn cargo(self, subcommand: &str, object: &str) -> Command {
        let mut command = match (self, subcommand) {
            (Self::Debian, "clippy") => Command::new(DEBIAN_CLIPPY),
            (Self::Debian, _) => Command::new(DEBIAN_CARGO),
            (Self::Rustup, _) => {
                let mut command = Command::new("rustup");
                command.args(["run", NIGHTLY, "cargo"]);
                command
            }
        };
        clean(&mut command);
        if self == Self::Debian {
            // `core` for BPF is part of a stable release here, and yet unstable to use.
            command.env("RUSTC", DEBIAN_RUSTC).env("CARGO", DEBIAN_CARGO).env("RUSTC_BOOTSTRAP", "1");
        }
        if let Some(linker) = self.linker() {
            command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
        }
        command.current_dir(workspace::root()).env("CARGO_TARGET_DIR", workspace::bpf_target_dir()).args([
            subcommand,
            "--locked",
            "--release",
            "--package",
            object,
            "--bin",
            object,
            "--target",
            BPF_TARGET,
        ]);
        if self == Self::Rustup {
            command.arg("-Zbuild-std=core");
        }
        command
    }
}

/// Removes what a cargo or rustup above us set, so that another toolchain can be run. What tells cargo how to reach its
/// registry and how to print stays.
fn clean(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_of_a_toolchain) {
            command.env_remove(&name);
        }
    }
}

fn is_of_a_toolchain(variable: &str) -> bool {
    const KEPT: [&str; 6] = ["CARGO_HOME", "CARGO_NET", "CARGO_HTTP", "CARGO_REGISTR", "CARGO_TERM", "RUSTUP_HOME"];
    let theirs = variable.starts_with("CARGO") || variable.starts_with("RUST") || variable == "LD_LIBRARY_PATH";
    theirs && !KEPT.iter().any(|prefix| variable.starts_with(prefix))
}

/// Whether Debian's `core` for BPF is there.
pub(crate) fn debian_core_is_installed() -> bool {
    Path::new("/usr/lib/rustlib").join(BPF_TARGET).is_dir()
}

/// Debian's compiler, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// Version of Rust, such as `1.96.0`.
    pub(crate) release: String,
    /// Major version of its LLVM.
    pub(crate) llvm: String,
}

impl Compiler {
    /// Asks the installed compiler.
    pub(crate) fn of_debian() -> Option<Self> {
        let mut command = Command::new(DEBIAN_RUSTC);
        clean(&mut command);
        Self::parse(&process::answer(command.arg("-vV"))?)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let llvm = field("LLVM version: ")?.split('.').next()?;
        Some(Self { release: field("release: ")?.to_owned(), llvm: llvm.to_owned() })
    }

    /// Whether it is new enough for this workspace.
    pub(crate) fn is_new_enough(&self) -> bool {
        number(&self.release) >= number(env!("CARGO_PKG_RUST_VERSION"))
    }
}

/// Major and minor version, to be compared.
fn number(release: &str) -> (u32, u32) {
    let mut parts = release.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_says_its_release_and_llvm() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let compiler = Compiler::parse(text).unwrap();
        assert_eq!(compiler, Compiler { release: "1.96.0".to_owned(), llvm: "22".to_owned() });
        assert!(compiler.is_new_enough());
        assert_eq!(Compiler::parse("rustc 1.96.0"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(number("1.100.0") > number("1.95"));
        assert!(number("1.85.0") < number("1.95"));
        assert!(number("1.95.1") >= number("1.95"));
    }

    #[test]
    fn only_the_toolchain_is_cleaned_from_the_environment() {
        for removed in
            ["CARGO", "CARGO_TARGET_DIR", "CARGO_PKG_NAME", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"]
        {
            assert!(is_of_a_toolchain(removed), "{removed}");
        }
        for kept in ["CARGO_HOME", "CARGO_HTTP_PROXY", "CARGO_REGISTRIES_X_INDEX", "CARGO_TERM_COLOR", "PATH", "HOME"] {
            assert!(!is_of_a_toolchain(kept), "{kept}");
        }
    }
}
