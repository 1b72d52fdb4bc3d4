//! What is known of other people's programs.

use super::{Hook, command, command_fd, info, kernel_name};
use aya_obj::generated::{bpf_cmd, bpf_prog_info};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Attributes of `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
struct IdAttributes {
    id: u32,
    next: u32,
    flags: u32,
}

/// Attributes of `BPF_PROG_QUERY` with all that Linux 6.6 writes back, whatever size it is told.
#[repr(C)]
struct QueryAttributes {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    reserved: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The name of the program with this id.
pub(crate) fn name(id: u32) -> io::Result<String> {
    let mut attributes = IdAttributes { id, next: 0, flags: 0 };
    // SAFETY: the layout of BPF_PROG_GET_FD_BY_ID, which holds no pointers.
    let fd = unsafe { command_fd(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attributes) }?;
    // SAFETY: the kernel's structure for programs, numbers and pointers that stay null.
    let info: bpf_prog_info = unsafe { info(fd.as_fd()) }?;
    Ok(kernel_name(&info.name))
}

/// The ids of the programs on a TCX hook, in order.
pub(crate) fn on_hook(ifindex: u32, hook: Hook) -> io::Result<Vec<u32>> {
    // The kernel allows 64 programs on a hook.
    let mut ids = vec![0u32; 64];
    let mut attributes = QueryAttributes {
        ifindex,
        attach_type: hook.attach_type(),
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        reserved: 0,
        program_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: the layout of BPF_PROG_QUERY; the vector has room for `count` ids.
    unsafe { command(bpf_cmd::BPF_PROG_QUERY, &mut attributes) }?;
    ids.truncate(attributes.count as usize);
    Ok(ids)
}

/// Attributes of `BPF_PROG_TEST_RUN`.
#[repr(C)]
struct TestRunAttributes {
    program: u32,
    code: u32,
    length_in: u32,
    length_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_length_in: u32,
    context_length_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    reserved: u32,
}

/// Runs a program on a frame in a context of its type. Returns its code, and the frame as it left, of at most `room` bytes.
pub(crate) fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    context: &[u8],
    room: usize,
) -> io::Result<(u32, Vec<u8>)> {
    let mut out = vec![0u8; room];
    let mut attributes = TestRunAttributes {
        program: program.as_raw_fd() as u32,
        code: 0,
        length_in: frame.len() as u32,
        length_out: room as u32,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: 0,
        duration: 0,
        context_length_in: context.len() as u32,
        context_length_out: 0,
        context_in: context.as_ptr() as u64,
        context_out: 0,
        flags: 0,
        cpu: 0,
        batch: 0,
        reserved: 0,
    };
    // SAFETY: the layout of BPF_PROG_TEST_RUN; every pointer leads to as many bytes as the length beside it says, which live until
    // the call returns.
    unsafe { command(bpf_cmd::BPF_PROG_TEST_RUN, &mut attributes) }?;
    out.truncate(attributes.length_out as usize);
    Ok((attributes.code, out))
}

/// What tells the instructions of the program with this id from those of another (`bpf_prog_calc_tag`, kernel/bpf/core.c).
pub(crate) fn tag(id: u32) -> io::Result<u64> {
    let mut attributes = IdAttributes { id, next: 0, flags: 0 };
    // SAFETY: the layout of BPF_PROG_GET_FD_BY_ID, which holds no pointers.
    let fd = unsafe { command_fd(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attributes) }?;
    // SAFETY: the kernel's structure for programs, numbers and pointers that stay null.
    let info: bpf_prog_info = unsafe { info(fd.as_fd()) }?;
    Ok(u64::from_be_bytes(info.tag))
}
