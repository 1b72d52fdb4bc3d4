//! Memory that nobody needs for now, given back to the system.
//!
//! Reading programs and manifests takes many times the memory of what comes of it. The C library keeps freed memory for the
//! next request; a daemon has no such request for hours. And most of what the executable holds is read once: the datapath's object, and
//! the code of the start.

use std::ffi::{c_int, c_void};
use std::ptr;

/// Gives back what is free. Takes some milliseconds; worth it after much was freed.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function takes a number, touches nothing but the allocator's own free lists, and takes its locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives back the pages of the executable and its libraries that nobody writes. What is needed of them comes back by itself, from the
/// page cache as a rule; worth it once much was read for the last time, and not where somebody waits.
pub(crate) fn give_back_files() {
    /// Called for each file; zero asks for the next.
    unsafe extern "C" fn give_back(file: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
        // SAFETY: the loader lends it for the time of the call, with as many headers as it says.
        let (base, headers) = unsafe {
            let file = &*file;
            (file.dlpi_addr, std::slice::from_raw_parts(file.dlpi_phdr, file.dlpi_phnum.into()))
        };
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as u64;
        for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0)
        {
            // Whole pages: at its ends it may share one with what is written.
            let start = (base + header.p_vaddr).next_multiple_of(page);
            let end = (base + header.p_vaddr + header.p_memsz) / page * page;
            if start < end {
                let first = ptr::with_exposed_provenance_mut(start as usize);
                // SAFETY: private pages of a file that are mapped read-only, so what the kernel reads there again is the same. If it
                // will not, they stay.
                unsafe { libc::madvise(first, (end - start) as usize, libc::MADV_DONTNEED) };
            }
        }
        0
    }
    // SAFETY: the function does not unwind, and needs no data.
    unsafe { libc::dl_iterate_phdr(Some(give_back), ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Megabytes of files in memory that this process has mapped.
    fn of_files() -> usize {
        let status = std::fs::read_to_string("/proc/self/smaps_rollup").expect("procfs");
        let line = |name: &str| -> usize {
            let line = status.lines().find(|line| line.starts_with(name)).expect("it is told");
            line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
        };
        (line("Rss:") - line("Anonymous:")) / 1024
    }

    #[test]
    fn what_was_read_once_is_given_back_and_stays_the_same() {
        let sum =
            |object: &[u8]| object.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
        // More than any code of a test that runs meanwhile.
        let Some(object) = crate::OBJECT else { return };
        let (before, with) = (sum(object), of_files());
        give_back_files();
        assert!(of_files() + object.len() / (1 << 20) <= with + 2, "{} of {with} MB", of_files());
        assert_eq!(sum(object), before);
    }
}
