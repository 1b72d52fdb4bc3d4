//! The instance of the BPF object whose programs are on the hooks.

use super::bpf::{Hook, SocketHook};
use super::instance::{Instance, SharedMaps, chain};
use super::{Error, Events, capture};
use aya::maps::{Array, Map, MapData, MapError};
use aya::programs::{ProgramError, TestRun, TestRunAttrs, TestRunOptions, Xdp};
use lb_common::maps::{CAPTURED, EVENTS, MapSpec};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// The program that sends a test frame to an interface.
const PROBE: &str = "lb_xdp_probe";

/// A reader of what the programs log, which they do when `lb_ebpf=debug` is enabled at the time they are loaded. Becomes
/// readable when there is something to flush.
pub type PacketLog = aya_log::EbpfLogger<&'static dyn tracing_log::log::Log>;

/// The map that says how far the programs' clock is ahead.
const CLOCK: &str = ".data.clock";

/// A clock of the programs that can be set ahead of the kernel's, for tests of what takes its time.
pub struct Clock(Array<MapData, u64>);

impl Clock {
    /// Sets it ahead of the kernel's by so much, from the next packet on.
    pub fn set_ahead(&mut self, ahead: Duration) -> io::Result<()> {
        self.0.set(0, ahead.as_nanos() as u64, 0).map_err(io::Error::other)
    }
}

/// What programs do beside their work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    Plain,
    /// They have a [`Clock`].
    Timed,
    /// They copy packets to user space.
    Copying,
}

/// The loaded programs.
#[derive(Debug)]
pub(super) struct Programs {
    instance: Instance,
}

impl Programs {
    /// Loads everything that the hooks of interfaces need.
    pub(super) fn load(object: &[u8], maps: &SharedMaps, kind: Kind) -> Result<Self, Error> {
        let logs = tracing::enabled!(target: "lb_ebpf", tracing::Level::DEBUG);
        let constants = [
            ("LOG", u8::from(logs)),
            ("CLOCK_MOVES", u8::from(kind == Kind::Timed)),
            ("CAPTURE", u8::from(kind == Kind::Copying)),
        ];
        let own = |spec: &MapSpec| (kind == Kind::Copying && spec.name == CAPTURED).then_some(capture::RING);
        let mut instance = Instance::new(object, &constants, maps, own)?;
        for name in ["lb_xdp", "lb_xdp_generic", "lb_tcx_ingress", "lb_tcx_egress", PROBE] {
            instance.load(name)?;
        }
        Ok(Self { instance })
    }

    /// Loads what the hooks of a cgroup need, unless that was done. Not everybody wants them, and not every kernel has them.
    pub(super) fn load_sockets(&mut self) -> Result<(), Error> {
        SocketHook::ALL.into_iter().try_for_each(|hook| self.instance.load(hook.program()))
    }

    /// What the programs log, if they log at all; to be asked for once.
    pub(super) fn packet_log(&mut self) -> Option<PacketLog> {
        PacketLog::init(self.instance.object_mut()).ok()
    }

    /// The clock of programs that were loaded with one; to be asked for once.
    pub(super) fn clock(&mut self) -> Result<Clock, Error> {
        self.take(CLOCK).map(Clock)
    }

    /// What the programs tell; to be asked for once.
    pub(super) fn events(&mut self) -> Result<Events, Error> {
        self.take(EVENTS).map(Events::new)
    }

    /// Takes a map of the object's out, which can be done once.
    fn take<M: TryFrom<Map, Error = MapError>>(&mut self, name: &str) -> Result<M, Error> {
        let broken = |reason: String| Error::Object(format!("its map {name} cannot be used: {reason}"));
        let map = self.take_map(name).ok_or_else(|| broken("there is none".to_owned()))?;
        M::try_from(map).map_err(|error| broken(chain(&error)))
    }

    /// A map that these programs have for themselves; once.
    pub(super) fn take_map(&mut self, name: &str) -> Option<Map> {
        self.instance.object_mut().take_map(name)
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
        self.instance.find(name)
    }

    /// Sends one frame to the interface the way XDP redirects. That nothing failed does not mean that it arrived.
    pub(super) fn probe(&self, frame: &[u8]) -> Result<(), ProgramError> {
        let program: &Xdp = self.instance.object().program(PROBE).expect("`load` has found it").try_into()?;
        let options = TestRunOptions {
            data_in: Some(frame),
            attrs: TestRunAttrs::new().xdp_live_frames(1),
            ..TestRunOptions::new()
        };
        program.test_run(options).map(drop)
    }
}
