//! Which maps fit together: the layout of the configuration maps, and that of the flow tables, each by a hash.
//!
//! Maps of one layout and one size share a directory. A daemon that wants another layout or size makes new ones beside
//! them and leaves the old alone until no attached program uses them any more.

use super::Error;
use super::bpf::map::{Map, Put};
use super::bpf::{self, map::MapInfo};
use super::bpffs::{make_directory, remove_directory};
use lb_common::maps::{HASHING, MAPS, MapSpec, hashing};
use lb_common::table::Hashing;
use std::array;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// The two halves of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// Configuration and counters: rebuilt from the manifests when their layout changes.
    Config,
    /// Flows: carried over.
    Flows,
}

impl Half {
    fn specs(self) -> impl Iterator<Item = &'static MapSpec> {
        MAPS.iter().filter(move |spec| spec.holds_flows == (self == Self::Flows))
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Config => "config-",
            Self::Flows => "flows-",
        }
    }

    /// FNV-1a over everything but the number of entries.
    fn hash(self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for spec in self.specs() {
            let text = format!("{},{},{},{},{};", spec.name, spec.kind as u32, spec.key, spec.value, spec.flags);
            for byte in text.bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        hash
    }
}

/// A set of maps that fit together.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    config: u64,
    flows: u64,
    max_flows: u32,
    reserved: u32,
}

impl Layout {
    /// What this build wants.
    pub(super) fn wanted(max_flows: u32) -> Self {
        Self { config: Half::Config.hash(), flows: Half::Flows.hash(), max_flows, reserved: 0 }
    }

    /// Both hashes, as a text.
    pub(super) fn text(&self) -> String {
        format!("{:016x}-{:016x}", self.config, self.flows)
    }

    /// How many flows of each family fit.
    pub(super) fn max_flows(&self) -> u32 {
        self.max_flows
    }

    /// The directory of one half.
    pub(super) fn directory(&self, half: Half) -> String {
        let hash = match half {
            Half::Config => self.config,
            Half::Flows => self.flows,
        };
        format!("{}{hash:016x}-{}", half.prefix(), self.max_flows)
    }

    /// Whether `directory` holds this half in this layout, though perhaps of another size.
    pub(super) fn same_but_for_size(&self, half: Half, directory: &str) -> bool {
        let own = self.directory(half);
        let stem = &own[..=own.rfind('-').unwrap_or(0)];
        directory.strip_prefix(stem).is_some_and(|size| size.parse::<u32>().is_ok())
    }
}

/// Whether a directory holds maps of this half, whole or in the making.
pub(super) fn holds(half: Half, directory: &str) -> bool {
    directory.starts_with(half.prefix())
}

/// Opens the maps of one half in `directory`, and makes those that are missing.
pub(super) fn open_or_create(directory: &Path, half: Half, max_flows: u32) -> Result<(), Error> {
    make_directory(directory)?;
    for spec in half.specs() {
        let path = directory.join(spec.name);
        let failed =
            |action, source| Error::Map { map: spec.name, action, entries: spec.entries_for(max_flows), source };
        let wanted = info(spec, max_flows);
        match bpf::open(&path) {
            Ok(fd) => {
                let found = bpf::map::describe(fd.as_fd()).map_err(|source| failed("described", source))?;
                if found != wanted {
                    return Err(Error::ForeignPin(path));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let fd = bpf::map::create(spec.name, &wanted).map_err(|source| failed("created", source))?;
                bpf::pin(fd.as_fd(), &path).map_err(|source| failed("pinned", source))?;
            }
            Err(error) => return Err(failed("opened", error)),
        }
    }
    if half == Half::Flows { choose_seeds(&directory.join(HASHING), max_flows) } else { Ok(()) }
}

/// Chooses how the tables of flows are hashed, unless that was done: the numbers hold as long as the tables.
fn choose_seeds(path: &Path, max_flows: u32) -> Result<(), Error> {
    let failed = |action| move |source| Error::Map { map: HASHING, action, entries: 1, source };
    let map: Map<u32, Hashing> = bpf::open(path).and_then(Map::new).map_err(failed("opened"))?;
    let chosen = map.get(&0).map_err(failed("read"))?.unwrap_or_default();
    if chosen != Hashing::default() {
        return Ok(());
    }
    map.put(&0, &hashing(array::from_fn(|_| random()), max_flows), Put::Any).map_err(failed("written"))
}

/// A number that nobody outside can guess: the standard library seeds its hashers from the kernel's random numbers.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn info(spec: &MapSpec, max_flows: u32) -> MapInfo {
    MapInfo {
        kind: spec.kind as u32,
        key: spec.key as u32,
        value: spec.value as u32,
        entries: spec.entries_for(max_flows),
        flags: spec.flags,
    }
}

/// Makes a directory of maps that nobody sees before `fill` has filled it.
pub(super) fn build(
    root: &Path,
    name: &str,
    half: Half,
    max_flows: u32,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    let draft = root.join(format!("{name}-draft"));
    remove_directory(&draft)?;
    open_or_create(&draft, half, max_flows)?;
    fill(&draft)?;
    let finished = root.join(name);
    fs::rename(&draft, &finished).map_err(|source| Error::Path { action: "rename to", path: finished, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_are_hashed_apart_and_sizes_are_not_hashed() {
        let (small, large) = (Layout::wanted(1024), Layout::wanted(2048));
        for half in [Half::Config, Half::Flows] {
            assert_ne!(small.directory(half), large.directory(half));
            assert!(small.same_but_for_size(half, &large.directory(half)));
            assert!(holds(half, &small.directory(half)));
        }
        assert_ne!(small.config, small.flows);
        assert!(!small.same_but_for_size(Half::Config, &small.directory(Half::Flows)));
        let draft = format!("{}-draft", small.directory(Half::Config));
        assert!(!small.same_but_for_size(Half::Config, &draft), "a draft is no source");
        assert!(holds(Half::Config, &draft), "a draft is cleaned up");
    }
}
