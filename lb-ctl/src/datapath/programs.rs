//! Loads the programs of the BPF object against the pinned maps.

use super::bpf::{Hook, SocketHook};
use super::{Error, Events};
use aya::maps::{Array, Map, MapData, MapError};
use aya::programs::{Program, ProgramError, TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::maps::{EVENTS, MAPS};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

/// The program that sends a test frame to an interface.
const PROBE: &str = "lb_xdp_probe";
/// Lines of the verifier's log that are worth reading: the refusal stands at its end.
const LOG_LINES: usize = 20;

/// A reader of what the programs log, which they do when `lb_ebpf=debug` is enabled at the time they are loaded. Becomes
/// readable when there is something to flush.
pub type PacketLog = aya_log::EbpfLogger<&'static dyn tracing_log::log::Log>;

/// The map that says how far the programs' clock is ahead.
const CLOCK: &str = ".data.clock";

/// The map that says whether somebody listens to flows that begin and end.
const LISTENED: &str = ".data.listened";

/// A clock of the programs that can be set ahead of the kernel's, for tests of what takes its time.
pub struct Clock(Array<MapData, u64>);

impl Clock {
    /// Sets it ahead of the kernel's by so much, from the next packet on.
    pub fn set_ahead(&mut self, ahead: Duration) -> io::Result<()> {
        self.0.set(0, ahead.as_nanos() as u64, 0).map_err(io::Error::other)
    }
}

/// The loaded programs.
#[derive(Debug)]
pub(super) struct Programs {
    object: Ebpf,
}

impl Programs {
    /// Loads everything that the hooks of interfaces need. `clock_moves`: there is a [`Clock`].
    pub(super) fn load(object: &[u8], config: &Path, flows: &Path, clock_moves: bool) -> Result<Self, Error> {
        check_maps(object)?;
        let log = u8::from(tracing::enabled!(target: "lb_ebpf", tracing::Level::DEBUG));
        let mut loader = EbpfLoader::new();
        loader.override_global("LOG", &log, true);
        let clock_moves = u8::from(clock_moves);
        loader.override_global("CLOCK_MOVES", &clock_moves, true);
        for spec in MAPS {
            let directory = if spec.holds_flows { flows } else { config };
            loader.map_pin_path(spec.name, directory.join(spec.name));
        }
        let object = loader.load(object).map_err(|error| Error::Object(chain(&error)))?;
        let mut programs = Self { object };
        for name in ["lb_xdp", "lb_xdp_generic", "lb_tcx_ingress", "lb_tcx_egress", PROBE] {
            programs.load_one(name)?;
        }
        Ok(programs)
    }

    /// Loads what the hooks of a cgroup need, unless that was done. Not everybody wants them, and not every kernel has them.
    pub(super) fn load_sockets(&mut self) -> Result<(), Error> {
        for hook in SocketHook::ALL {
            if self.object.program(hook.program()).is_none_or(|program| program.fd().is_err()) {
                self.load_one(hook.program())?;
            }
        }
        Ok(())
    }

    fn load_one(&mut self, name: &'static str) -> Result<(), Error> {
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

    /// What the programs log, if they log at all; to be asked for once.
    pub(super) fn packet_log(&mut self) -> Option<PacketLog> {
        PacketLog::init(&mut self.object).ok()
    }

    /// The clock of programs that were loaded with one; to be asked for once.
    pub(super) fn clock(&mut self) -> Result<Clock, Error> {
        self.take(CLOCK).map(Clock)
    }

    /// What the programs tell; to be asked for once.
    pub(super) fn events(&mut self) -> Result<Events, Error> {
        Ok(Events::new(self.take(EVENTS)?, self.take(LISTENED)?))
    }

    /// Takes a map of the object's out, which can be done once.
    fn take<M: TryFrom<Map, Error = MapError>>(&mut self, name: &str) -> Result<M, Error> {
        let broken = |reason: String| Error::Object(format!("its map {name} cannot be used: {reason}"));
        let map = self.object.take_map(name).ok_or_else(|| broken("there is none".to_owned()))?;
        M::try_from(map).map_err(|error| broken(chain(&error)))
    }

    /// The program that belongs on a hook.
    pub(super) fn on(&self, hook: Hook) -> BorrowedFd<'_> {
        self.at(hook.program())
    }

    /// The program of this name, which must have been loaded.
    pub(super) fn at(&self, name: &str) -> BorrowedFd<'_> {
        self.find(name).expect("`load` has loaded it")
    }

    /// The program of this name, if it was loaded.
    pub(super) fn find(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.object.program(name)?.fd().ok().map(|fd| fd.as_fd())
    }

    /// Sends one frame to the interface the way XDP redirects. That nothing failed does not mean that it arrived.
    pub(super) fn probe(&self, frame: &[u8]) -> Result<(), ProgramError> {
        let program: &Xdp = self.object.program(PROBE).expect("`load` has found it").try_into()?;
        let options = TestRunOptions {
            data_in: Some(frame),
            attrs: TestRunAttrs::new().xdp_live_frames(1),
            ..TestRunOptions::new()
        };
        program.test_run(options).map(drop)
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
fn chain(error: &dyn std::error::Error) -> String {
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
