//! Memory that is free, given back to the system.
//!
//! Reading programs and manifests takes many times the memory of what comes of it. The C library keeps freed memory for the
//! next request; a daemon has no such request for hours.

/// Gives free memory back. Takes some milliseconds; worth it after much was freed.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function takes a number, touches nothing but the allocator's own free lists, and takes its locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
