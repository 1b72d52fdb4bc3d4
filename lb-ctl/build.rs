//! Embeds the built BPF object, where there is one.
//!
//! The object is made by `cargo xtask build` with a toolchain of its own and is never committed. Without it this crate
//! still builds, its tests still run, and everything that would load the datapath says what is missing.
//!
//! `LB_EBPF_OBJECT` names another object than the one in the workspace's `target` directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{env, io};

/// The variable that names another object.
const OVERRIDE: &str = "LB_EBPF_OBJECT";

/// Where `cargo xtask build` leaves the object, from the workspace's root.
const BUILT: &str = "target/bpf/bpfel-unknown-none/release/lb-ebpf";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(lb_ebpf_object)");
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    println!("cargo::rerun-if-changed=build.rs");

    if let Some(object) = env::var_os(OVERRIDE).filter(|value| !value.is_empty()) {
        let object = PathBuf::from(object);
        match embed(&object) {
            Ok(()) => watch(&object),
            Err(error) => println!("cargo::error={OVERRIDE} names {}, which cannot be read: {error}", object.display()),
        }
        return;
    }

    let object = directory("CARGO_MANIFEST_DIR").join("..").join(BUILT);
    match embed(&object) {
        Ok(()) => watch(&object),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!(
                "cargo::warning=the BPF object is not built yet, so this build carries no datapath: `cargo xtask build` makes it"
            );
            watch_for(&object);
        }
        Err(error) => println!("cargo::error={} cannot be read: {error}", object.display()),
    }
}

/// Copies the object to where the crate includes it from, so that a rebuild of it in mid-compilation does no harm.
fn embed(object: &Path) -> io::Result<()> {
    fs::copy(object, directory("OUT_DIR").join("lb-ebpf"))?;
    println!("cargo::rustc-cfg=lb_ebpf_object");
    Ok(())
}

/// Asks cargo to run this script again when the file changes or goes.
fn watch(object: &Path) {
    println!("cargo::rerun-if-changed={}", object.display());
}

/// Asks cargo to run this script again when the missing file appears.
///
/// Naming a missing file would make cargo rebuild the crate every time, so its directory is named instead. It is made
/// if need be, with an old date: a date later than this script's start would cost one more rebuild.
fn watch_for(object: &Path) {
    let watched = object.parent().filter(|parent| {
        parent.is_dir()
            || (fs::create_dir_all(parent).is_ok()
                && File::open(parent).and_then(|dir| dir.set_modified(SystemTime::UNIX_EPOCH)).is_ok())
    });
    watch(watched.unwrap_or(object));
}

/// A directory that cargo names to every build script.
fn directory(variable: &str) -> PathBuf {
    env::var_os(variable).map_or_else(|| panic!("cargo sets {variable} for build scripts"), PathBuf::from)
}
