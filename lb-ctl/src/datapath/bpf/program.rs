//! What is known of other people's programs.

use super::{Hook, command, command_fd, info, kernel_name};
use aya_obj::generated::{bpf_cmd, bpf_prog_info};
use std::io;
use std::os::fd::AsFd;

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
