//! An array of words that user space changes where it lies, as the datapath does.

use super::map::describe;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// The words of an array that was made with `BPF_F_MMAPABLE`.
#[derive(Debug)]
pub(crate) struct Words {
    first: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: memory that is shared with the kernel anyway, and changed word by word in one step.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps the array behind a descriptor into this process.
    pub(crate) fn map(fd: &OwnedFd) -> io::Result<Self> {
        let info = describe(fd.as_fd())?;
        if (info.key, info.value) != (4, 8) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no array of words of eight bytes"));
        }
        let count = info.entries as usize;
        // SAFETY: a new mapping, wherever the kernel has room for it.
        let first = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * size_of::<u64>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if first == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(first.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { first, count })
    }

    /// The words.
    pub(crate) fn get(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this length, is aligned to pages, and lives as long as this.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made, which nobody uses any more.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.count * size_of::<u64>()) };
    }
}
