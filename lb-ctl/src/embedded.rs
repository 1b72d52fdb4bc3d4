//! The BPF object that this build carries.
//!
//! The build script copies it here from where `cargo xtask build` left it. It is aligned as an ELF file must be to be
//! read in place.

/// The datapath's ELF object, or `None` when it had not been built: `cargo xtask build` makes it.
#[cfg(lb_ebpf_object)]
pub static OBJECT: Option<&'static [u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf")));

/// The datapath's ELF object, or `None` when it had not been built: `cargo xtask build` makes it.
#[cfg(not(lb_ebpf_object))]
pub static OBJECT: Option<&'static [u8]> = None;

/// Gives the object's memory back, which nobody needs after the programs are loaded: megabytes. Whoever reads it again has it read from
/// the executable again.
pub(crate) fn give_back() {
    let Some(object) = OBJECT else { return };
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as usize;
    let start = object.as_ptr().addr().next_multiple_of(page);
    let end = (object.as_ptr().addr() + object.len()) / page * page;
    if start < end {
        let first = object.as_ptr().wrapping_add(start - object.as_ptr().addr());
        // SAFETY: whole pages of a static that lies in the executable's read-only part: nobody has written them, so what the kernel
        // reads there again is the same. If it will not, they stay.
        unsafe { libc::madvise(first.cast_mut().cast(), end - start, libc::MADV_DONTNEED) };
    }
}
