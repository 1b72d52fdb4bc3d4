//! What holds an instance's programs on their hooks: pinned links, and filters where TC has no links.
//!
//! A pin whose link is dead (its interface has gone, or it was detached) is removed when it is met. A link is pinned right
//! after it was made; a crash in between closes it, and the kernel detaches it.

use super::attachment::TcMode;
use super::bpf::{self, Hook, Link};
use super::bpffs::{Pins, make_directory, remove_pin};
use super::test_run::HookPoint;
use super::{Error, Options, filters};
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
    /// Where filters are, and whose.
    filters: BTreeSet<(u32, Hook)>,
    owner: String,
    tc: TcMode,
}

impl Links {
    /// Opens the pinned links that are alive, and removes the pins of the others.
    pub(super) fn scan(pins: &Pins) -> Result<Self, Error> {
        make_directory(&pins.links())?;
        let mut links = Self {
            pins: pins.clone(),
            held: BTreeMap::new(),
            filters: BTreeSet::new(),
            owner: String::new(),
            tc: TcMode::Auto,
        };
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

    /// The same, with the filters of this namespace.
    pub(super) fn open(pins: &Pins, options: &Options) -> Result<Self, Error> {
        let owner = filters::owner(&options.instance);
        let found = filters::scan(&owner).map_err(Error::Filters)?;
        Ok(Self { filters: found.into_iter().collect(), owner, tc: options.tc, ..Self::scan(pins)? })
    }

    /// Whether a filter is on this hook.
    pub(super) fn has_filter(&self, ifindex: u32, hook: Hook) -> bool {
        self.filters.contains(&(ifindex, hook))
    }

    /// Whether a live link is on this hook.
    pub(super) fn has(&self, ifindex: u32, hook: Hook) -> bool {
        self.held.get(&(ifindex, hook)).is_some_and(|link| link.state().is_ok_and(|state| state.ifindex == ifindex))
    }

    /// The tags of the programs that links hold.
    pub(super) fn tags(&self) -> BTreeMap<(u32, HookPoint), u64> {
        let tag = |(key, link): (&(u32, Hook), &Link)| {
            let point = match key.1 {
                Hook::XdpNative | Hook::XdpGeneric => HookPoint::Xdp,
                Hook::Ingress => HookPoint::Ingress,
                Hook::Egress => HookPoint::Egress,
            };
            let state = link.state().ok().filter(|state| state.ifindex == key.0)?;
            Some(((key.0, point), bpf::program::tag(state.program).ok()?))
        };
        self.held.iter().filter_map(tag).collect()
    }

    /// The interfaces that have links or filters.
    pub(super) fn interfaces(&self) -> BTreeSet<u32> {
        self.held.keys().chain(&self.filters).map(|(ifindex, _)| *ifindex).collect()
    }

    /// Brings `program` to a hook: in place of the present one if there is one.
    pub(super) fn place(&mut self, ifindex: u32, hook: Hook, program: BorrowedFd<'_>) -> Result<Placed, PlaceError> {
        if hook.is_xdp() {
            return self.place_link(ifindex, hook, program);
        }
        let was_filter = self.has_filter(ifindex, hook);
        if self.tc != TcMode::Clsact {
            match self.place_link(ifindex, hook, program) {
                // The kernel does not know TCX.
                Err(PlaceError::Refused(error)) if self.tc == TcMode::Auto && is_unknown(&error) => {}
                Ok(placed) => {
                    // There is no moment without a program: the other way goes only now.
                    if was_filter {
                        self.remove_filter(ifindex, hook)?;
                    }
                    return Ok(if was_filter { Placed::Adopted } else { placed });
                }
                Err(error) => return Err(error),
            }
        }
        filters::place(&self.owner, ifindex, hook, program).map_err(PlaceError::Refused)?;
        self.filters.insert((ifindex, hook));
        let was_link = self.remove_link(ifindex, hook)?;
        Ok(if was_filter || was_link { Placed::Adopted } else { Placed::Created })
    }

    fn place_link(&mut self, ifindex: u32, hook: Hook, program: BorrowedFd<'_>) -> Result<Placed, PlaceError> {
        if self.has(ifindex, hook) {
            match self.held[&(ifindex, hook)].replace(program) {
                Ok(()) => return Ok(Placed::Adopted),
                // The interface went at this moment.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                Err(error) => return Err(PlaceError::Refused(error)),
            }
        }
        self.remove_link(ifindex, hook)?;
        let link = Link::create(program, ifindex, hook).map_err(PlaceError::Refused)?;
        let path = self.pins.link(ifindex, hook);
        bpf::pin(link.as_fd(), &path).map_err(|source| Error::Path { action: "pin", path, source })?;
        self.held.insert((ifindex, hook), link);
        Ok(Placed::Created)
    }

    /// Takes what is on a hook off; whether there was something.
    pub(super) fn remove(&mut self, ifindex: u32, hook: Hook) -> Result<bool, Error> {
        let had_filter = self.has_filter(ifindex, hook) && self.remove_filter(ifindex, hook)?;
        Ok(self.remove_link(ifindex, hook)? || had_filter)
    }

    fn remove_filter(&mut self, ifindex: u32, hook: Hook) -> Result<bool, Error> {
        self.filters.remove(&(ifindex, hook));
        filters::remove(&self.owner, ifindex, hook).map_err(Error::Filters)
    }

    fn remove_link(&mut self, ifindex: u32, hook: Hook) -> Result<bool, Error> {
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

/// Whether the kernel says that there is no such hook: those before 6.6 by the first, those built without it may by the
/// second. They say the same of an interface that they do not take; then the filter is refused too, in words.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}
