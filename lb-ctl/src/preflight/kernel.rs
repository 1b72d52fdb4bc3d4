//! What the kernel has.

use super::{Line, Lines, Wanted, file, sysctl};
use crate::datapath::{TcMode, bpf, kernel_is_at_least};
use std::path::Path;

pub(super) fn lines(wanted: &Wanted) -> Vec<Line> {
    let mut lines = Lines::of("node");
    let release = file("/proc/sys/kernel/osrelease").unwrap_or_default();
    if kernel_is_at_least(5, 18) {
        lines.pass("kernel", format!("Linux {release}"));
    } else {
        lines.fail("kernel", format!("Linux {release}: at least 5.18 is needed"), "");
    }
    match (kernel_is_at_least(6, 6), wanted.tc) {
        (_, TcMode::Clsact) => lines.pass("tcx", "filters on a clsact qdisc are asked for (--tc=clsact)"),
        (true, _) => lines.pass("tcx", "programs come to the TC hooks by TCX"),
        (false, TcMode::Auto) => {
            lines.warn("tcx", "there is no TCX before Linux 6.6: filters on a clsact qdisc do the same", "");
        }
        (false, TcMode::Tcx) => lines.fail("tcx", "there is no TCX before Linux 6.6: leave --tc out", ""),
    }
    match bpf::answers() {
        Ok(()) => lines.pass("bpf", "the kernel takes the BPF commands that are used"),
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            lines.fail("bpf", "the kernel is built without BPF (CONFIG_BPF_SYSCALL)", "");
        }
        // Who may not ask is told so by the line on privileges.
        Err(error) => lines.warn("bpf", format!("the kernel cannot be asked for its maps: {error}"), ""),
    }
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        lines.pass("btf", "the kernel tells its types (BTF)");
    } else {
        lines.warn(
            "btf",
            "the kernel does not tell its types (CONFIG_DEBUG_INFO_BTF): tools show less of our programs",
            "",
        );
    }
    // In a namespace of its own the sysctl is not there.
    match sysctl("net/core/bpf_jit_enable") {
        Some(0) => lines.warn(
            "jit",
            "BPF programs are interpreted, which takes several times as long",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(_) => lines.pass("jit", "BPF programs are compiled"),
        None => {}
    }
    lines.lines
}
