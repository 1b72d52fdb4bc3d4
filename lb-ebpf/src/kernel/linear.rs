//! The part of a packet that lies in one piece, read and written in place.
//!
//! The bounds are taken from the context anew at every access, as the verifier wants it: helpers move the buffer.

use core::mem::MaybeUninit;
use lb_ebpf::packet::Wire;

/// Beyond this offset no header is looked for: the verifier wants a bound.
const MAX_OFFSET: usize = 0x3fff;

/// Where the piece begins and ends.
#[derive(Clone, Copy)]
pub(super) struct Linear {
    pub(super) data: usize,
    pub(super) data_end: usize,
}

impl Linear {
    #[inline(always)]
    fn at(self, offset: usize, size: usize) -> Option<*mut u8> {
        if offset > MAX_OFFSET {
            return None;
        }
        let start = self.data + offset;
        (start + size <= self.data_end).then_some(start as *mut u8)
    }

    /// Copies out what stands at `offset`.
    #[inline(always)]
    pub(super) fn load<T: Wire>(self, offset: usize) -> Option<T> {
        self.at(offset, size_of::<T>()).map(|bytes| {
            let mut value = MaybeUninit::<T>::uninit();
            // SAFETY: `at` checked the bounds for the size of `T`, for which every bit pattern is valid.
            unsafe {
                copy::<T>(bytes, value.as_mut_ptr().cast());
                value.assume_init()
            }
        })
    }

    /// Writes at `offset`.
    #[inline(always)]
    pub(super) fn store<T: Wire>(self, offset: usize, value: T) -> Option<()> {
        // SAFETY: as for `load`.
        self.at(offset, size_of::<T>()).map(|bytes| unsafe { copy::<T>((&raw const value).cast(), bytes) })
    }
}

/// Copies a `T`: in words, if it is made up of such. As it has no alignment, the compiler would copy it byte by byte.
///
/// # Safety
/// As of [`core::ptr::copy_nonoverlapping`], for the size of `T`.
#[inline(always)]
#[expect(clippy::cast_ptr_alignment, reason = "read and written unaligned")]
unsafe fn copy<T: Wire>(from: *const u8, to: *mut u8) {
    const WORD: usize = size_of::<u64>();
    // SAFETY: by the caller.
    unsafe {
        if size_of::<T>().is_multiple_of(WORD) {
            for index in 0..size_of::<T>() / WORD {
                to.cast::<u64>().add(index).write_unaligned(from.cast::<u64>().add(index).read_unaligned());
            }
        } else {
            to.cast::<T>().write_unaligned(from.cast::<T>().read_unaligned());
        }
    }
}
