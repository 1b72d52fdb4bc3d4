//! The BPF file system and what stands where on it.
//!
//! ```text
//! <bpffs>/lb-ctl/<instance>/            locked by the daemon
//!     meta                              whose this is
//!     config-<layout>-<max flows>/NAME  the configuration maps and the counters
//!     flows-<layout>-<max flows>/NAME   the flow tables
//!     links/<ifindex>-<hook>            what holds the programs on the interfaces
//!     links/socket-<hook>               and those on a cgroup
//! ```
//! The kernel allows no dots in these names.

use super::bpf::{Hook, SocketHook};
use super::{Error, Options};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, SYSFS_MAGIC, statfs};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where distributions mount it.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";

/// Makes sure that `path` lies on a BPF file system. At the default path one is mounted if there is none.
pub(super) fn ensure(path: &Path) -> Result<(), Error> {
    let kind =
        statfs(path).map_err(|errno| Error::Path { action: "look at", path: path.into(), source: errno.into() })?;
    if kind.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    if path != Path::new(DEFAULT_BPFFS) || kind.filesystem_type() != SYSFS_MAGIC {
        return Err(Error::NotBpffs(path.into()));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700")).map_err(|errno| Error::Path {
        action: "mount a BPF file system at",
        path: path.into(),
        source: errno.into(),
    })
}

/// Whether `path` lies on a BPF file system.
pub(crate) fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|kind| kind.filesystem_type() == BPF_FS_MAGIC)
}

/// The directory of one instance.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    pub(super) fn new(options: &Options) -> Self {
        Self { root: options.bpffs.join("lb-ctl").join(&options.instance) }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn meta(&self) -> PathBuf {
        self.root.join("meta")
    }

    pub(super) fn directory(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    pub(super) fn link(&self, ifindex: u32, hook: Hook) -> PathBuf {
        self.links().join(format!("{ifindex}-{}", hook.pin()))
    }

    pub(super) fn socket_link(&self, hook: SocketHook) -> PathBuf {
        self.links().join(format!("socket-{}", hook.name()))
    }

    /// The links to interfaces that are pinned.
    pub(super) fn pinned_links(&self) -> Result<Vec<(u32, Hook)>, Error> {
        let names = entries(&self.links())?;
        Ok(names.iter().filter_map(|name| parse_link(name)).collect())
    }
}

fn parse_link(name: &str) -> Option<(u32, Hook)> {
    let (ifindex, hook) = name.split_once('-')?;
    let hook = Hook::ALL.into_iter().find(|candidate| candidate.pin() == hook)?;
    Some((ifindex.parse().ok()?, hook))
}

/// The names in a directory, sorted; none if it does not exist.
pub(super) fn entries(path: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Path { action: "list", path: path.into(), source };
    let listing = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in listing {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Makes a directory and those above it, for root alone.
pub(super) fn make_directory(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| Error::Path {
        action: "make the directory",
        path: path.into(),
        source,
    })
}

/// Removes a directory of pins, if it is there; how many pins it had.
pub(super) fn remove_directory(path: &Path) -> Result<usize, Error> {
    let names = entries(path)?;
    for name in &names {
        remove_pin(&path.join(name))?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Path { action: "remove", path: path.into(), source: error })
        }
        _ => Ok(names.len()),
    }
}

/// Removes a pin; whether it was there.
pub(super) fn remove_pin(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Path { action: "remove", path: path.into(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_name_tells_interface_and_hook() {
        let pins = Pins { root: PathBuf::from("/b") };
        for hook in Hook::ALL {
            let name = pins.link(7, hook).file_name().expect("a name").to_string_lossy().into_owned();
            assert_eq!(parse_link(&name), Some((7, hook)));
            assert!(!name.contains('.'));
        }
        assert_eq!(parse_link("7-sideways"), None);
        assert_eq!(parse_link("x-xdp"), None);
    }
}
