//! The part of a packet that lies in one piece, read and written in place.
//!
//! The bounds are taken from the context anew at every access, as the verifier wants it: helpers move the buffer.

use lb_ebpf::packet::{self, Head, Wire};

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

    /// The first `length` bytes.
    #[inline(always)]
    pub(super) fn head<'a>(self, length: usize) -> Option<Head<'a>> {
        // SAFETY: `at` checked the bounds; the frame lives as long as the context, whose borrower gives this away.
        self.at(0, length).map(|bytes| Head(unsafe { core::slice::from_raw_parts_mut(bytes, length) }))
    }

    /// Copies out what stands at `offset`.
    #[inline(always)]
    pub(super) fn load<T: Wire>(self, offset: usize) -> Option<T> {
        // SAFETY: `at` checked the bounds for the size of `T`.
        self.at(offset, size_of::<T>()).map(|bytes| unsafe { packet::read(bytes) })
    }

    /// Writes at `offset`.
    #[inline(always)]
    pub(super) fn store<T: Wire>(self, offset: usize, value: T) -> Option<()> {
        // SAFETY: as for `load`.
        self.at(offset, size_of::<T>()).map(|bytes| unsafe { packet::write(bytes, value) })
    }
}
