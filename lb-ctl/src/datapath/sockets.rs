//! The socket hooks: on a cgroup, for the processes in it and in the cgroups below.
//!
//! Eight links, pinned like those of interfaces and adopted like them. Others' programs on the same cgroup run as before:
//! the kernel attaches links beside each other. A directory that is removed takes its hooks with it; one that is made
//! again under the same path gets them again.

use super::Error;
use super::bpf::{self, Link, Map, SocketHook, map::Put};
use super::bpffs::{Pins, make_directory, remove_pin};
use super::programs::Programs;
use crate::maps::{MapError, pinned};
use lb_common::maps::SOCKETS;
use lb_common::{Peer, SocketKey};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tracing::info;

/// A directory of the cgroup2 file system, open.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    directory: File,
    /// The kernel's number for it, by which a link tells where it is.
    id: u64,
}

impl Cgroup {
    /// Opens the cgroup that this directory is.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let refused = |reason: String| Error::Cgroup { path: path.into(), reason, remedy: remedy() };
        let directory = File::open(path).map_err(|error| refused(error.to_string()))?;
        let kind = fstatfs(&directory).map_err(|errno| refused(errno.to_string()))?;
        let metadata = directory.metadata().map_err(|error| refused(error.to_string()))?;
        if kind.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(refused("it is not on a cgroup2 file system".to_owned()));
        }
        if !metadata.is_dir() {
            return Err(refused("it is no directory".to_owned()));
        }
        Ok(Self { path: path.into(), directory, id: metadata.ino() })
    }
}

/// What to do about a path that is no cgroup.
fn remedy() -> String {
    match mount_point(&fs::read_to_string("/proc/self/mounts").unwrap_or_default()) {
        Some(found) => format!("name {found} or a directory below it"),
        None => "mount the file system first (`mount -t cgroup2 none DIRECTORY`)".to_owned(),
    }
}

/// Where a cgroup2 file system is mounted. Where cgroups are hybrid it is not `/sys/fs/cgroup`.
fn mount_point(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some(place)
    })
}

/// The hooks that are attached.
#[derive(Debug)]
pub(super) struct SocketLinks {
    pins: Pins,
    held: BTreeMap<SocketHook, Link>,
    /// The cgroup that is served under this daemon.
    served: Option<PathBuf>,
}

impl SocketLinks {
    /// Opens the pinned links that are alive, and removes the pins of the others.
    pub(super) fn scan(pins: &Pins) -> Result<Self, Error> {
        make_directory(&pins.links())?;
        let mut links = Self { pins: pins.clone(), held: BTreeMap::new(), served: None };
        for hook in SocketHook::ALL {
            let path = pins.socket_link(hook);
            if !path.exists() {
                continue;
            }
            let failed = |source| Error::Path { action: "open", path: path.clone(), source };
            let link = Link::new(bpf::open(&path).map_err(failed)?);
            if link.cgroup().map_err(failed)? == 0 {
                remove_pin(&path)?;
            } else {
                links.held.insert(hook, link);
            }
        }
        Ok(links)
    }

    /// The cgroup that is served.
    pub(super) fn served(&self) -> Option<&Path> {
        self.served.as_deref()
    }

    /// The cgroup that was served has gone.
    pub(super) fn lose(&mut self) {
        self.served = None;
    }

    /// Whether every hook is on this cgroup, by this daemon's programs.
    pub(super) fn serves(&self, cgroup: &Cgroup) -> bool {
        let is_there = |hook| self.held.get(&hook).is_some_and(|link| link.cgroup().is_ok_and(|id| id == cgroup.id));
        self.served.as_deref() == Some(&cgroup.path) && SocketHook::ALL.into_iter().all(is_there)
    }

    /// Brings every hook to the cgroup: by replacing the program in a link that is there, or by a new one in place of a
    /// link elsewhere. All or none.
    pub(super) fn serve(&mut self, cgroup: &Cgroup, programs: &Programs) -> Result<(), Error> {
        let placed: Result<Vec<bool>, Error> =
            SocketHook::ALL.into_iter().map(|hook| self.place(hook, cgroup, programs)).collect();
        match placed {
            Ok(placed) => {
                let adopted = placed.contains(&true);
                info!(cgroup = %cgroup.path.display(), adopted, "socket hooks in place");
                self.served = Some(cgroup.path.clone());
                Ok(())
            }
            Err(error) => {
                self.remove()?;
                Err(error)
            }
        }
    }

    /// Brings a program to its hook; whether a link was there.
    fn place(&mut self, hook: SocketHook, cgroup: &Cgroup, programs: &Programs) -> Result<bool, Error> {
        let refused = |source| Error::SocketHook { hook: hook.name(), cgroup: cgroup.path.clone(), source };
        let program = programs.at(hook.program());
        let present = self.held.get(&hook).filter(|link| link.cgroup().is_ok_and(|id| id == cgroup.id));
        match present.map(|link| link.replace(program)) {
            Some(Ok(())) => return Ok(true),
            // The cgroup went at this moment.
            Some(Err(error)) if error.raw_os_error() != Some(libc::ENOLINK) => return Err(refused(error)),
            Some(Err(_)) | None => {}
        }
        let link = Link::create_on_cgroup(program, cgroup.directory.as_fd(), hook).map_err(refused)?;
        self.take_off(hook)?;
        let path = self.pins.socket_link(hook);
        bpf::pin(link.as_fd(), &path).map_err(|source| Error::Path { action: "pin", path, source })?;
        self.held.insert(hook, link);
        Ok(false)
    }

    /// Takes a hook off; whether there was something.
    fn take_off(&mut self, hook: SocketHook) -> Result<bool, Error> {
        // Detached first: a crash leaves the pin of a dead link, which the next scan removes.
        let detached = self.held.remove(&hook).is_some_and(|link| link.detach().is_ok());
        Ok(remove_pin(&self.pins.socket_link(hook))? || detached)
    }

    /// Takes every hook off; how many there were.
    pub(super) fn remove(&mut self) -> Result<usize, Error> {
        self.served = None;
        let mut removed = 0;
        for hook in SocketHook::ALL {
            removed += usize::from(self.take_off(hook)?);
        }
        Ok(removed)
    }
}

/// Carries what sockets asked for over into maps of another size. What finds no room is forgotten, as an LRU does.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    // A directory that a crash left half made holds nothing.
    let Ok(from) = pinned::open(from, SOCKETS, Map::<SocketKey, Peer>::new) else { return Ok(()) };
    let to = pinned::open(to, SOCKETS, Map::<SocketKey, Peer>::new)?;
    let failed = |action: &str, source| MapError { map: SOCKETS, action: action.to_owned(), source };
    for entry in from.iter() {
        let (key, asked) = entry.map_err(|source| failed("read", source))?;
        match to.put(&key, &asked, Put::New) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOMEM | libc::E2BIG)) => {
                return Err(failed("write", error).into());
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_where_cgroups_are_hybrid() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mount_point("tmpfs /run tmpfs rw 0 0\n"), None);
    }

    #[test]
    fn what_is_no_cgroup_is_refused_with_a_remedy() {
        for (path, reason) in [("/proc", "not on a cgroup2 file system"), ("/nonexistent", "No such file")] {
            let error = Cgroup::open(Path::new(path)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--socket-lb {path}: ")) && error.contains(reason), "{error}");
            assert!(error.contains("name /") || error.contains("mount -t cgroup2"), "{error}");
        }
    }
}
