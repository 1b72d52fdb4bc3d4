//! Where things are in this workspace.

use std::path::{Path, PathBuf};

/// The target triple of the BPF object.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

/// The BPF build's own target directory: it has another compiler than the host's.
pub(crate) fn bpf_target_dir() -> PathBuf {
    root().join("target/bpf")
}

/// The name of the datapath's package and object.
pub(crate) const DATAPATH: &str = "lb-ebpf";
/// The name of the package and object of the yardsticks, for the bench alone.
pub(crate) const YARDSTICKS: &str = "lb-yardsticks";

/// Where a built BPF object is: lb-ctl's build script looks for the datapath's there.
pub(crate) fn bpf_object(name: &str) -> PathBuf {
    bpf_target_dir().join(BPF_TARGET).join("release").join(name)
}

/// Where tools of our own are installed.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// A path as a reader standing in the workspace's root would write it.
pub(crate) fn relative(path: &Path) -> std::path::Display<'_> {
    path.strip_prefix(root()).unwrap_or(path).display()
}
