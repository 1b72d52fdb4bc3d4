//! Tests that need root, or the datapath: they run, or they say loudly that they did not.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Set to anything, it turns a test that would be left out into one that fails.
pub const REQUIRE_ROOT: &str = "LB_REQUIRE_ROOT";

/// Whether this process may make namespaces. When not, says past the capture of the test runner what is left out.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root() || left_out("it is not run as root")
}

/// Whether this process may load the datapath, and has it.
pub fn has_datapath() -> bool {
    is_root() && (lb_ctl::OBJECT.is_some() || left_out("the BPF object is not built: `cargo xtask build` makes it"))
}

/// Whether a program is installed.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
        || left_out(&format!("`{name}` is not installed: `cargo xtask setup` does that"))
}

/// Prometheus' promtool, where `cargo xtask setup` found it or put it.
pub fn promtool() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/prometheus/usr/bin");
    let mut places = std::env::split_paths(&path).chain([unpacked]).map(|folder| folder.join("promtool"));
    let found = places.find(|place| place.is_file());
    if found.is_none() {
        left_out("there is no `promtool`: `cargo xtask setup` brings it");
    }
    found
}

fn left_out(missing: &str) -> bool {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    assert!(std::env::var_os(REQUIRE_ROOT).is_none(), "{test} cannot do its work: {missing}");
    // Not `eprintln!`, which the runner captures when the test passes. If this fails there is nobody to tell.
    writeln!(std::io::stderr(), "LEFT OUT: {test}: {missing}").ok();
    false
}

/// Leaves the calling test out, loudly, unless it may make namespaces.
#[macro_export]
macro_rules! needs_root {
    () => {
        if !$crate::privilege::is_root() {
            return;
        }
    };
}

/// Leaves the calling test out, loudly, unless it may load the datapath.
#[macro_export]
macro_rules! needs_datapath {
    () => {
        if !$crate::privilege::has_datapath() {
            return;
        }
    };
}
