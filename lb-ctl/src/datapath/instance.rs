//! Instances of the BPF object: it is loaded for the hooks, and may be loaded again beside that with other constants, over
//! the same maps or over some of its own.
//!
//! A constant lies in a read-only map, which is frozen before the programs are loaded. So the verifier knows its value and
//! removes what it rules out, and the programs of all instances are the same instructions as they were given to the kernel:
//! they have the same tag (`bpf_prog_calc_tag` in kernel/bpf/core.c leaves maps out of it).

use super::{Error, flow_table};
use aya::maps::Map;
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use lb_common::maps::{HASHING, INSTANCE_MAPS, MAPS, MapKind, MapSpec, SMALLEST_RING};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Lines of the verifier's log that are worth reading: the refusal stands at its end.
const LOG_LINES: usize = 20;

/// Where the maps are that instances share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedMaps {
    /// The directory of configuration and counters.
    pub(super) config: PathBuf,
    /// The directory of flows.
    pub(super) flows: PathBuf,
}

impl SharedMaps {
    /// Maps that are pinned in these directories, by their names.
    pub fn new(config: PathBuf, flows: PathBuf) -> Self {
        Self { config, flows }
    }

    /// The pin of a map.
    pub(crate) fn pin(&self, spec: &MapSpec) -> PathBuf {
        self.directory(spec).join(spec.name)
    }

    fn directory(&self, spec: &MapSpec) -> &Path {
        if spec.holds_flows { &self.flows } else { &self.config }
    }
}

/// A loaded object. Its programs and what maps of its own it has go with it.
#[derive(Debug)]
pub struct Instance {
    object: Ebpf,
}

impl Instance {
    /// Makes an instance of `object` in which each of `constants`, a byte, has the value given. Of the maps of the contract it
    /// takes those pinned in `shared`, but for those that `own` gives a number of entries: these are made for it alone. So
    /// are [`INSTANCE_MAPS`], as small as can be where `own` says nothing. No program is loaded yet.
    pub fn new(
        object: &[u8],
        constants: &[(&str, u8)],
        shared: &SharedMaps,
        own: impl Fn(&MapSpec) -> Option<u32>,
    ) -> Result<Self, Error> {
        check_maps(object)?;
        let mut loader = EbpfLoader::new();
        for (name, value) in constants {
            loader.override_global(name, value, true);
        }
        let failed = |source| Error::Map { map: HASHING, action: "read", entries: 1, source };
        let hashing = flow_table::hashing(&shared.flows).map_err(failed)?;
        loader.override_global("HASHED", &hashing, true);
        for spec in INSTANCE_MAPS {
            let smallest = if spec.kind == MapKind::RingBuf { SMALLEST_RING } else { 1 };
            loader.map_max_entries(spec.name, own(spec).unwrap_or(smallest));
        }
        for spec in MAPS {
            match own(spec) {
                Some(entries) => loader.map_max_entries(spec.name, entries),
                None => loader.map_pin_path(spec.name, shared.pin(spec)),
            };
        }
        let object = loader.load(object).map_err(|error| Error::Object(chain(&error)))?;
        Ok(Self { object })
    }

    /// Loads the program of this name, unless that was done.
    pub fn load(&mut self, name: &'static str) -> Result<(), Error> {
        if self.find(name).is_some() {
            return Ok(());
        }
        let program =
            self.object.program_mut(name).ok_or_else(|| Error::Object(format!("it has no program named {name}")))?;
        let result = match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            _ => return Err(Error::Object(format!("its program {name} is of a kind that has no place here"))),
        };
        result.map_err(|error| rejected(name, error))
    }

    /// The program of this name, if it was loaded.
    pub fn find(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.object.program(name)?.fd().ok().map(|fd| fd.as_fd())
    }

    /// What tells the instructions of a loaded program from those of another.
    pub fn tag(&self, name: &str) -> io::Result<u64> {
        let program = self.object.program(name).ok_or(io::ErrorKind::NotFound)?;
        program.info().map(|info| info.tag()).map_err(|error| io::Error::other(chain(&error)))
    }

    /// A map of this name, to be used as what it is.
    pub fn map(&self, name: &str) -> Option<&Map> {
        self.object.map(name)
    }

    /// The same, to be changed.
    pub fn map_mut(&mut self, name: &str) -> Option<&mut Map> {
        self.object.map_mut(name)
    }

    /// A map of this name, whatever it is.
    pub fn map_fd(&self, name: &str) -> io::Result<OwnedFd> {
        let (Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)) = self.map(name).ok_or(io::ErrorKind::NotFound)?
        else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        data.fd().as_fd().try_clone_to_owned()
    }

    /// The object as the library knows it.
    pub(super) fn object(&self) -> &Ebpf {
        &self.object
    }

    /// The same, to be changed.
    pub(super) fn object_mut(&mut self) -> &mut Ebpf {
        &mut self.object
    }
}

/// Whether the object means the same maps as this build: one that was built from other sources would read them wrongly.
fn check_maps(object: &[u8]) -> Result<(), Error> {
    let object = aya_obj::Object::parse(object).map_err(|error| Error::Object(chain(&error)))?;
    for spec in MAPS {
        let fits = object.maps.get(spec.name).is_some_and(|map| {
            let sizes = (map.key_size() as usize, map.value_size() as usize);
            map.map_type() == spec.kind as u32 && sizes == (spec.key, spec.value)
        });
        if !fits {
            let reason = format!(
                "its map {} is not the one this build expects; build both again with `cargo xtask build`",
                spec.name
            );
            return Err(Error::Object(reason));
        }
    }
    Ok(())
}

fn rejected(program: &'static str, error: ProgramError) -> Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let text = verifier_log.to_string();
            let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            let log = last.iter().flat_map(|line| ["\n    ", line]).collect();
            Error::Rejected { program, reason: io_error, log }
        }
        other => Error::Rejected { program, reason: io::Error::other(chain(&other)), log: String::new() },
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let sentence = error.to_string();
        if !text.contains(&sentence) {
            text = format!("{text}: {sentence}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_shows_the_end_of_the_verifiers_log() {
        let text = "0: (79) r1 = *(u64 *)(r1 +0)\n\n".repeat(100);
        let verifier_log = aya_obj::VerifierLog::new(text + "R1 invalid mem access\n");
        let io_error = io::Error::from_raw_os_error(libc::EACCES);
        let shown = rejected("lb_xdp", ProgramError::LoadError { io_error, verifier_log }).to_string();
        assert!(shown.starts_with("the kernel refused the program lb_xdp: Permission denied"), "{shown}");
        assert!(shown.ends_with("\n    R1 invalid mem access"), "{shown}");
        assert_eq!(shown.lines().count(), 1 + LOG_LINES, "{shown}");
    }

    #[test]
    fn what_is_no_object_is_said_to_be_none() {
        assert!(matches!(check_maps(b"no ELF at all"), Err(Error::Object(_))));
    }
}
