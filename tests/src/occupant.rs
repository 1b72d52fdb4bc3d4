//! Programs of somebody else, which pass everything.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `BPF_PROG_LOAD`, `BPF_OBJ_PIN`, `BPF_PROG_ATTACH`, `BPF_PROG_DETACH`
const LOAD: libc::c_long = 5;
const PIN: libc::c_long = 6;
const ATTACH: libc::c_long = 8;
const DETACH: libc::c_long = 9;
/// `BPF_PROG_TYPE_SCHED_CLS`, `BPF_PROG_TYPE_XDP`, `BPF_TCX_EGRESS`
const CLASSIFIER: u32 = 3;
const XDP: u32 = 6;
const EGRESS: u32 = 47;
/// `XDP_PASS`, `TCX_NEXT`
const PASS: u32 = 2;
const NEXT: u32 = u32::MAX;

/// Attributes of `BPF_PROG_LOAD` up to the name.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 2],
    version: u32,
    flags: u32,
    name: [u8; 16],
}

/// Attributes of `BPF_OBJ_PIN`.
#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Attributes of `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
struct Attach {
    ifindex: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// A program at the TCX egress of an interface of the calling thread's namespace.
pub struct AtEgress(OwnedFd, u32);

impl AtEgress {
    /// Puts it there.
    pub fn new(ifindex: u32) -> io::Result<Self> {
        let program = load(CLASSIFIER, NEXT)?;
        let mut attach = Attach { ifindex, program: program.as_raw_fd() as u32, kind: EGRESS, flags: 0 };
        call(ATTACH, &mut attach)?;
        Ok(Self(program, ifindex))
    }

    /// Takes it away, in the namespace of the interface.
    pub fn remove(self) -> io::Result<()> {
        let Self(program, ifindex) = self;
        let mut attach = Attach { ifindex, program: program.as_raw_fd() as u32, kind: EGRESS, flags: 0 };
        call(DETACH, &mut attach).map(drop)
    }
}

/// Loads an XDP program and pins it, for `ip link set dev NAME xdp pinned PATH`.
pub fn pin(path: &Path) -> io::Result<()> {
    let program = load(XDP, PASS)?;
    let path = CString::new(path.as_os_str().as_bytes())?;
    call(PIN, &mut Pin { path: path.as_ptr() as u64, fd: program.as_raw_fd() as u32, flags: 0 }).map(drop)
}

/// Loads a program that answers each packet alike.
fn load(kind: u32, answer: u32) -> io::Result<OwnedFd> {
    // r0 = answer; exit
    let instructions: [u64; 2] = [u64::from(answer) << 32 | 0xb7, 0x95];
    let mut load = Load {
        kind,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 2],
        version: 0,
        flags: 0,
        name: *b"somebody_elses\0\0",
    };
    let program = call(LOAD, &mut load)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

fn call<A>(command: libc::c_long, attributes: &mut A) -> io::Result<i32> {
    // SAFETY: the attributes are those of the command, and what they point to lives until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
