//! The pinned links of an instance.
//!
//! A pin whose link is dead (its interface has gone, or it was detached) is removed when it is met. A link is pinned right
//! after it was made; a crash in between closes it, and the kernel detaches it.

use super::Error;
use super::bpf::{self, Hook, Link};
use super::bpffs::{Pins, make_directory, remove_pin};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// How a program came to its hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// In place of another on a link that was there.
    Adopted,
    /// By a new link.
    Created,
}

/// Why a program did not come to its hook.
#[derive(Debug)]
pub(super) enum PlaceError {
    /// The kernel refused it.
    Refused(io::Error),
    /// The pin could not be made or removed.
    Pin(Error),
}

impl From<Error> for PlaceError {
    fn from(error: Error) -> Self {
        Self::Pin(error)
    }
}

/// The links.
#[derive(Debug)]
pub(super) struct Links {
    pins: Pins,
    held: BTreeMap<(u32, Hook), Link>,
}

impl Links {
    /// Opens the pinned links that are alive, and removes the pins of the others.
    pub(super) fn scan(pins: &Pins) -> Result<Self, Error> {
        make_directory(&pins.links())?;
        let mut links = Self { pins: pins.clone(), held: BTreeMap::new() };
        for (ifindex, hook) in pins.pinned_links()? {
            let path = pins.link(ifindex, hook);
            let failed = |source| Error::Path { action: "open", path: path.clone(), source };
            let link = Link::new(bpf::open(&path).map_err(failed)?);
            if link.state().map_err(failed)?.ifindex == ifindex {
                links.held.insert((ifindex, hook), link);
            } else {
                remove_pin(&path)?;
            }
        }
        Ok(links)
    }

    /// Whether a live link is on this hook.
    pub(super) fn has(&self, ifindex: u32, hook: Hook) -> bool {
        self.held.get(&(ifindex, hook)).is_some_and(|link| link.state().is_ok_and(|state| state.ifindex == ifindex))
    }

    /// The interfaces that have links.
    pub(super) fn interfaces(&self) -> BTreeSet<u32> {
        self.held.keys().map(|(ifindex, _)| *ifindex).collect()
    }

    /// Brings `program` to a hook: in place of the present one if a link is there.
    pub(super) fn place(&mut self, ifindex: u32, hook: Hook, program: BorrowedFd<'_>) -> Result<Placed, PlaceError> {
        if self.has(ifindex, hook) {
            match self.held[&(ifindex, hook)].replace(program) {
                Ok(()) => return Ok(Placed::Adopted),
                // The interface went at this moment.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                Err(error) => return Err(PlaceError::Refused(error)),
            }
        }
        self.remove(ifindex, hook)?;
        let link = Link::create(program, ifindex, hook).map_err(PlaceError::Refused)?;
        let path = self.pins.link(ifindex, hook);
        bpf::pin(link.as_fd(), &path).map_err(|source| Error::Path { action: "pin", path, source })?;
        self.held.insert((ifindex, hook), link);
        Ok(Placed::Created)
    }

    /// Takes what is on a hook off; whether there was something.
    pub(super) fn remove(&mut self, ifindex: u32, hook: Hook) -> Result<bool, Error> {
        // Detached first: a crash leaves the pin of a dead link, which the next scan removes.
        let detached = self.held.remove(&(ifindex, hook)).is_some_and(|link| link.detach().is_ok());
        Ok(remove_pin(&self.pins.link(ifindex, hook))? || detached)
    }

    /// Takes everything off an interface; what it was.
    pub(super) fn remove_all(&mut self, ifindex: u32) -> Result<Vec<Hook>, Error> {
        let mut removed = Vec::new();
        for hook in Hook::ALL {
            if self.remove(ifindex, hook)? {
                removed.push(hook);
            }
        }
        Ok(removed)
    }
}
