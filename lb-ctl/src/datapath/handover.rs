//! From an earlier daemon's maps to ours.
//!
//! While the earlier programs are attached they go on using their maps, so the flows are copied (and the gate is opened for
//! them) twice: before the new programs are loaded, and, as far as they changed, after the last of them is in place. Only then
//! the old maps go. A crash anywhere leaves both sets, and the next daemon does the same again: copying is idempotent, the
//! newer entry wins.

use super::Error;
use super::bpf::{self, Map, map::Put};
use super::bpffs::{Pins, entries, remove_directory};
use super::conntrack::{self, FlowTables};
use super::layout::{self, Half, Layout};
use super::meta::Meta;
use super::sockets;
use crate::maps::pinned::ConfigMaps;
use lb_common::Settings;
use lb_common::maps::{MAPS, SETTINGS};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use tracing::{info, warn};

/// What the change of maps came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Flow entries (two for each flow) that were carried over from maps of another size.
    pub carried: u64,
    /// Flow entries that were lost: the new tables are too small, or the old ones have another layout.
    pub lost: u64,
    /// What was taken off interfaces that are no longer managed, in words.
    pub detached: Vec<String>,
}

/// A change of maps under way.
#[derive(Debug)]
pub(super) struct Handover {
    pins: Pins,
    wanted: Layout,
    /// When the first copy began.
    began: u32,
    /// Directories of flow tables that differ only in size.
    sources: Vec<PathBuf>,
    settled: Settled,
}

impl Handover {
    /// Makes the maps of the wanted layout, filled from earlier ones where that is possible.
    pub(super) fn begin(pins: &Pins, wanted: Layout, in_use: Option<Layout>) -> Result<Self, Error> {
        let names = entries(pins.root())?;
        prepare_config(pins, wanted, in_use, &names)?;
        let flows = pins.directory(&wanted.directory(Half::Flows));
        layout::open_or_create(&flows, Half::Flows, wanted.max_flows())?;
        let sources: Vec<_> = names
            .iter()
            .filter(|name| wanted.same_but_for_size(Half::Flows, name))
            .map(|name| pins.directory(name))
            .filter(|source| *source != flows)
            .collect();
        let mut handover =
            Self { pins: pins.clone(), wanted, began: conntrack::now(), sources, settled: Settled::default() };
        handover.copy(0)?;
        Ok(handover)
    }

    /// The directory of one half of the new maps.
    pub(super) fn directory(&self, half: Half) -> PathBuf {
        self.pins.directory(&self.wanted.directory(half))
    }

    fn copy(&mut self, since: u32) -> Result<(), Error> {
        self.copy_flows(since)?;
        // Flows outlive what they were opened by, and the gate of these maps may never have known that.
        let config = ConfigMaps::open(&self.directory(Half::Config))?;
        for end in FlowTables::open(&self.directory(Half::Flows))?.admitted()? {
            config.admit(end)?;
        }
        Ok(())
    }

    fn copy_flows(&mut self, since: u32) -> Result<(), Error> {
        if self.sources.is_empty() {
            return Ok(());
        }
        let to = FlowTables::open(&self.directory(Half::Flows))?;
        for source in &self.sources {
            sockets::copy(source, &self.directory(Half::Flows))?;
            // A directory that a crash left half made holds nothing.
            let Ok(from) = FlowTables::open(source) else { continue };
            let carried = from.copy_to(&to, since)?;
            self.settled.carried += carried.copied;
            self.settled.lost += carried.lost;
        }
        Ok(())
    }

    /// Copies what has changed since the first copy, and removes what is no longer used. To be called when no attached
    /// program uses earlier maps any more.
    pub(super) fn finish(&mut self) -> Result<Settled, Error> {
        // Where something found no room the first time, everything is tried once more: the count at the end is what counts.
        let since = if self.settled.lost > 0 { 0 } else { self.began.saturating_sub(1) };
        self.settled.lost = 0;
        self.copy(since)?;
        self.sources.clear();
        Meta::here(self.wanted)?.write(&self.pins)?;
        for name in entries(self.pins.root())? {
            let half = [Half::Config, Half::Flows].into_iter().find(|half| layout::holds(*half, &name));
            let Some(half) = half.filter(|half| name != self.wanted.directory(*half)) else { continue };
            let path = self.pins.directory(&name);
            if half == Half::Flows && !self.wanted.same_but_for_size(half, &name) {
                self.settled.lost += count(&path);
            }
            remove_directory(&path)?;
        }
        let settled = std::mem::take(&mut self.settled);
        if settled.carried > 0 {
            info!(entries = settled.carried, "flows were carried over into tables of another size");
        }
        if settled.lost > 0 {
            warn!(entries = settled.lost, "flows were lost: the new tables are too small or of another layout");
        }
        Ok(settled)
    }
}

fn prepare_config(pins: &Pins, wanted: Layout, in_use: Option<Layout>, names: &[String]) -> Result<(), Error> {
    let name = wanted.directory(Half::Config);
    let max_flows = wanted.max_flows();
    if names.contains(&name) {
        return layout::open_or_create(&pins.directory(&name), Half::Config, max_flows);
    }
    let preferred = in_use.map(|layout| layout.directory(Half::Config)).filter(|name| names.contains(name));
    let other = names.iter().find(|name| wanted.same_but_for_size(Half::Config, name)).cloned();
    let source = preferred.or(other).map(|name| (wanted.same_but_for_size(Half::Config, &name), pins.directory(&name)));
    layout::build(pins.root(), &name, Half::Config, max_flows, |draft| match source {
        Some((true, source)) => copy_config(&source, draft, max_flows),
        // Another layout is rebuilt from the manifests; the seed keeps each connection with its backend.
        Some((false, source)) => carry_seed(&source, draft),
        None => Ok(()),
    })
}

fn copy_config(source: &Path, draft: &Path, max_flows: u32) -> Result<(), Error> {
    let copied = ConfigMaps::open(source).and_then(|from| from.copy_to(&ConfigMaps::open(draft)?));
    if let Err(error) = copied {
        warn!(%error, "the configuration does not fit the new maps; it is rebuilt from the manifests");
        remove_directory(draft)?;
        layout::open_or_create(draft, Half::Config, max_flows)?;
        carry_seed(source, draft)?;
    }
    Ok(())
}

fn carry_seed(source: &Path, draft: &Path) -> Result<(), Error> {
    let read = || -> std::io::Result<Option<Settings>> {
        Map::<u32, Settings>::new(bpf::open(&source.join(SETTINGS))?)?.get(&0)
    };
    if let Ok(Some(Settings { seed, .. })) = read() {
        let settings = Settings { seed, ..Settings::default() };
        bpf::open(&draft.join(SETTINGS))
            .and_then(Map::<u32, Settings>::new)
            .and_then(|map| map.put(&0, &settings, Put::Any))
            .map_err(|source| Error::Path { action: "write", path: draft.join(SETTINGS), source })?;
    }
    Ok(())
}

/// Entries in flow tables of whatever layout.
fn count(directory: &Path) -> u64 {
    let count = |name: &str| bpf::open(&directory.join(name)).and_then(|fd| bpf::map::count(fd.as_fd())).unwrap_or(0);
    MAPS.iter().filter(|spec| spec.holds_flows).map(|spec| count(spec.name)).sum()
}
