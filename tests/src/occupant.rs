//! An XDP program of somebody else, which passes everything.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `BPF_PROG_LOAD`, `BPF_OBJ_PIN`, `BPF_PROG_TYPE_XDP`
const LOAD: libc::c_long = 5;
const PIN: libc::c_long = 6;
const XDP: u32 = 6;

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

/// Loads the program and pins it, for `ip link set dev NAME xdp pinned PATH`.
pub fn pin(path: &Path) -> io::Result<()> {
    // r0 = XDP_PASS; exit
    let instructions: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
    let mut load = Load {
        kind: XDP,
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
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let path = CString::new(path.as_os_str().as_bytes())?;
    call(PIN, &mut Pin { path: path.as_ptr() as u64, fd: program.as_raw_fd() as u32, flags: 0 }).map(drop)
}

fn call<A>(command: libc::c_long, attributes: &mut A) -> io::Result<i32> {
    // SAFETY: the attributes are those of the command, and what they point to lives until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
