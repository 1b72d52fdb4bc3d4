//! Removes everything that an instance owns.

use super::bpf::{self, Link};
use super::bpffs::{self, Pins, entries, remove_directory, remove_pin};
use super::layout::{self, Half, Layout};
use super::lock::{InstanceLock, NamespaceLock};
use super::meta::Meta;
use super::require;
use super::sockets::SocketLinks;
use super::{Error, Options, filters};
use crate::host;
use std::fs;

/// Takes the instance's programs off all interfaces and removes its maps; what that was, in words. Refused while a daemon
/// runs the instance. Nothing to remove is no error.
pub fn cleanup(options: &Options) -> Result<Vec<String>, Error> {
    require::options_make_sense(options)?;
    require::privilege()?;
    if !bpffs::is_bpffs(&options.bpffs) {
        // A mount namespace that ended took the pins along, with what they held.
        return remove_unpinned(&options.instance);
    }
    let pins = Pins::new(options);
    let lock = InstanceLock::take_existing(&pins, &options.instance)?;
    let mut removed = remove_unpinned(&options.instance)?;
    let Some(_lock) = lock else { return Ok(removed) };
    removed.extend(wipe(&pins)?);
    let root = pins.root();
    fs::remove_dir(root).map_err(|source| Error::Path { action: "remove", path: root.into(), source })?;
    removed.push(format!("removed {}", root.display()));
    // The directory of all instances goes with the last of them.
    if let Some(parent) = root.parent() {
        let _ = fs::remove_dir(parent);
    }
    Ok(removed)
}

/// Removes what is known without pins, unless a daemon serves this namespace: filters, and the pair by which processes of
/// this node reach Services.
fn remove_unpinned(instance: &str) -> Result<Vec<String>, Error> {
    let Ok(_lock) = NamespaceLock::take() else { return Ok(Vec::new()) };
    let mut removed = Vec::new();
    let owner = filters::owner(instance);
    for (ifindex, hook) in filters::scan(&owner).map_err(Error::Filters)? {
        filters::remove(&owner, ifindex, hook).map_err(Error::Filters)?;
        removed.push(format!("removed the filter {owner} in place of {hook} from interface {ifindex}"));
    }
    if host::pair::remove(instance)? {
        removed.push(format!("removed {} and {} with their routes", host::pair::INNER, host::pair::OUTER));
    }
    Ok(removed)
}

/// Removes everything but the directory itself, which carries the lock.
pub(super) fn wipe(pins: &Pins) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    // Names mean something only in the namespace that the links belong to.
    let here = Meta::here(Layout::wanted(0)).ok().zip(Meta::read(pins).ok().flatten());
    let view = match here {
        Some((here, there)) if here.same_namespace(&there) => host::snapshot().ok(),
        _ => None,
    };
    for (ifindex, hook) in pins.pinned_links()? {
        let path = pins.link(ifindex, hook);
        let alive = bpf::open(&path).map(Link::new).ok().filter(|link| {
            let attached = link.state().is_ok_and(|state| state.ifindex != 0);
            attached && link.detach().is_ok()
        });
        remove_pin(&path)?;
        let name = view.as_ref().and_then(|view| view.interfaces.get(&ifindex)).map(|interface| interface.name.clone());
        let name = name.map_or_else(|| format!("interface {ifindex}"), |name| format!("{name} (interface {ifindex})"));
        removed.push(match alive {
            Some(_) => format!("detached {hook} from {name}"),
            None => format!("removed the dead link of {hook} on {name}"),
        });
    }
    match SocketLinks::scan(pins)?.remove()? {
        0 => {}
        hooks => removed.push(format!("detached {hooks} socket hooks from their cgroup")),
    }
    remove_directory(&pins.links())?;
    for name in entries(pins.root())? {
        if [Half::Config, Half::Flows].into_iter().any(|half| layout::holds(half, &name)) {
            let maps = remove_directory(&pins.directory(&name))?;
            removed.push(format!("removed {maps} maps in {name}"));
        }
    }
    remove_pin(&pins.meta())?;
    Ok(removed)
}
