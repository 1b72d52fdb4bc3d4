//! The programs under test, run on one frame at a time by `BPF_PROG_TEST_RUN`.

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_type};
use lb_ctl::datapath::Datapath;
pub use lb_ctl::datapath::test_run::Action;
use lb_ctl::datapath::test_run::{self, HookPoint};
use lb_ebpf::Hook;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

/// One program for each hook of an interface.
#[derive(Debug)]
pub struct Programs {
    xdp: OwnedFd,
    ingress: OwnedFd,
    egress: OwnedFd,
}

impl Programs {
    /// Those that the datapath has loaded.
    pub fn of(datapath: &Datapath) -> io::Result<Self> {
        Ok(Self {
            xdp: datapath.program("lb_xdp")?,
            ingress: datapath.program("lb_tcx_ingress")?,
            egress: datapath.program("lb_tcx_egress")?,
        })
    }

    /// Programs that pass every packet as it is: whatever is tested with them must fail, unless it is to be left alone.
    pub fn that_pass() -> io::Result<Self> {
        let (xdp, tc) = (bpf_prog_type::BPF_PROG_TYPE_XDP, bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS);
        Ok(Self { xdp: returning(xdp, 2)?, ingress: returning(tc, -1)?, egress: returning(tc, -1)? })
    }

    /// Runs the program of a hook on a frame that came in (at egress: that leaves) by an interface of the calling thread's
    /// namespace. Returns what it said, and the frame as it left.
    pub fn run(&self, hook: Hook, ifindex: u32, frame: &[u8]) -> io::Result<(Action, Vec<u8>)> {
        let (program, point) = match hook {
            Hook::Xdp => (&self.xdp, HookPoint::Xdp),
            Hook::Ingress => (&self.ingress, HookPoint::Ingress),
            Hook::Egress => (&self.egress, HookPoint::Egress),
        };
        let ran = test_run::run(program.as_fd(), point, ifindex, frame)?;
        Ok((ran.action(point), ran.frame))
    }
}

/// Loads a program of two instructions: `r0 = value; exit`.
fn returning(kind: bpf_prog_type, value: i32) -> io::Result<OwnedFd> {
    let [a, b, c, d] = value.to_ne_bytes();
    let instructions: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, a, b, c, d], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    // SAFETY: as above.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the member of the union that the command reads.
    let load = unsafe { &mut attributes.__bindgen_anon_3 };
    load.prog_type = kind as u32;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = instructions.len() as u32;
    load.license = c"Dual MIT/GPL".as_ptr() as u64;
    let fd = command(bpf_cmd::BPF_PROG_LOAD, &mut attributes)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs a command whose pointers lead to memory of the lengths beside them, as in the two functions above.
fn command(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: the whole union; its pointers are the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_uint,
            std::ptr::from_mut(attributes),
            size_of::<bpf_attr>() as libc::c_uint,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
