//! The `bpf()` system call as far as the datapath needs it, each command behind a safe function.
//!
//! This is the only place where user space touches the kernel's BPF interface by hand. aya loads and relocates programs; what
//! it lacks stands here: batches, links whose refusal is not papered over by a netlink fallback, a link's interface.

pub(crate) mod link;
pub(crate) mod map;
pub(crate) mod program;
pub(crate) mod words;

pub(crate) use link::{Hook, Link, SocketHook};
pub(crate) use map::{Map, PerCpuArray};

use aya_obj::generated::bpf_cmd;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Runs a command.
///
/// # Safety
/// `A` is laid out as the part of `union bpf_attr` that `command` reads, without padding, and every pointer in it leads
/// to memory that is as large as the command assumes and lives until the call returns.
unsafe fn command<A>(command: bpf_cmd, attributes: &mut A) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes no more than the size given, which is that of `attributes`; the rest is the
    // caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_uint, std::ptr::from_mut(attributes), size_of::<A>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Runs a command whose result is a new file descriptor.
///
/// # Safety
/// As for [`command`], and `command` returns a descriptor that nobody else owns.
unsafe fn command_fd<A>(name: bpf_cmd, attributes: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { command(name, attributes) }?;
    // SAFETY: the kernel has just opened it for us (with close-on-exec set).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attributes of `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct ObjectAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Makes a BPF object reachable by a path on a BPF file system.
pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjectAttributes { path: path.as_ptr() as u64, fd: fd.as_raw_fd() as u32, flags: 0 };
    // SAFETY: the layout of BPF_OBJ_PIN; the path is a C string that lives until the end of this function.
    unsafe { command(bpf_cmd::BPF_OBJ_PIN, &mut attributes) }.map(drop)
}

/// Opens a pinned BPF object.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjectAttributes { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the layout of BPF_OBJ_GET; the path is a C string that lives until the end of this function.
    unsafe { command_fd(bpf_cmd::BPF_OBJ_GET, &mut attributes) }
}

/// Attributes of `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoAttributes {
    fd: u32,
    length: u32,
    info: u64,
}

/// What the kernel says of a BPF object.
///
/// # Safety
/// `I` is the kernel's info structure for objects of this kind: plain numbers, for which zeros are a valid value, and
/// pointers that stay null when zeroed.
unsafe fn info<I>(fd: BorrowedFd<'_>) -> io::Result<I> {
    // SAFETY: the caller's promise.
    let mut info: I = unsafe { std::mem::zeroed() };
    let mut attributes =
        InfoAttributes { fd: fd.as_raw_fd() as u32, length: size_of::<I>() as u32, info: (&raw mut info) as u64 };
    // SAFETY: the layout of BPF_OBJ_GET_INFO_BY_FD; the kernel writes at most `length` bytes to `info`.
    unsafe { command(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info)
}

/// Attributes of `BPF_MAP_GET_NEXT_ID`.
#[repr(C)]
struct NextIdAttributes {
    start: u32,
    next: u32,
    flags: u32,
}

/// Whether the kernel answers to the system call, and to us.
pub(crate) fn answers() -> io::Result<()> {
    let mut attributes = NextIdAttributes { start: i32::MAX as u32 - 1, next: 0, flags: 0 };
    // SAFETY: the layout of BPF_MAP_GET_NEXT_ID, which holds no pointers.
    match unsafe { command(bpf_cmd::BPF_MAP_GET_NEXT_ID, &mut attributes) } {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// A name of at most 15 bytes, as the kernel stores it.
fn kernel_name(bytes: &[libc::c_char]) -> String {
    bytes.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte as u8)).collect()
}
