//! A packet as the core sees it.

use crate::checksum;
use core::mem::MaybeUninit;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

/// Plain bytes that may be copied out of and into a packet.
///
/// # Safety
/// The type has alignment 1 or is copied unaligned, has no padding, and every bit pattern is valid.
pub unsafe trait Wire: Copy {}

// SAFETY: a byte.
unsafe impl Wire for u8 {}
// SAFETY: a number, as it lies in memory.
unsafe impl Wire for u16 {}
// SAFETY: as above.
unsafe impl Wire for u32 {}
// SAFETY: such behind each other.
unsafe impl<T: Wire, const N: usize> Wire for [T; N] {}
// SAFETY: `#[repr(C)]` structs of byte arrays and integers without padding, laid out as on the wire.
unsafe impl Wire for EthHdr {}
// SAFETY: as above.
unsafe impl Wire for Ipv4Hdr {}
// SAFETY: as above.
unsafe impl Wire for Ipv6Hdr {}

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

/// Copies a `T` out of a packet.
///
/// # Safety
/// So many bytes may be read there.
#[inline(always)]
pub unsafe fn read<T: Wire>(from: *const u8) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: by the caller; every bit pattern is valid.
    unsafe {
        copy::<T>(from, value.as_mut_ptr().cast());
        value.assume_init()
    }
}

/// Copies a `T` into a packet.
///
/// # Safety
/// So many bytes may be written there.
#[inline(always)]
pub unsafe fn write<T: Wire>(to: *mut u8, value: T) {
    // SAFETY: by the caller.
    unsafe { copy::<T>((&raw const value).cast(), to) };
}

/// A transport checksum to be brought up to date.
#[derive(Clone, Copy, Debug)]
pub struct TransportChecksum {
    /// Where it stands in the frame.
    pub offset: usize,
    /// Whether the addresses, which it covers through the pseudo-header, are IPv6.
    pub ipv6: bool,
    /// Whether zero means "none" (UDP).
    pub zero_means_none: bool,
    /// What the change of addresses adds. A sender that leaves its checksum to hardware has already summed the
    /// pseudo-header and nothing else, so this delta always applies ...
    pub address_delta: u16,
    /// ... and this one only where the checksum is complete. Hence the two apart.
    pub port_delta: u16,
}

/// What can be read and written in place.
pub trait Bytes {
    /// Copies out what stands at `offset`; `None` if there is nothing any more.
    fn load<T: Wire>(&self, offset: usize) -> Option<T>;

    /// Writes at `offset`; `None` if there is nothing any more, or it could not be written.
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()>;
}

/// A frame: Ethernet header first.
pub trait Packet: Bytes {
    /// Bytes in the frame; until it is [measured](Packet::measure), perhaps only those of its first piece.
    fn len(&self) -> usize;

    /// Finds out how long the frame is, where that takes a question.
    #[inline(always)]
    fn measure(&mut self) {}

    /// The first bytes of the frame, where they lie in one piece: its bounds are checked once. `None` if that is shorter.
    fn head(&mut self, length: usize) -> Option<Head<'_>>;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Payload bytes in each segment, if the frame stands for several (GSO).
    fn segment_size(&self) -> Option<u32>;

    /// Whether a VLAN tag stands beside the frame, where the kernel puts it.
    #[inline(always)]
    fn is_tagged(&self) -> bool {
        false
    }

    /// Whether the frame may be for another host, which the network flooded; no where the kernel has seen that it is not.
    #[inline(always)]
    fn may_be_for_another_host(&self) -> bool {
        true
    }

    /// The same number, of which the verifier knows nothing more. It follows every path with what it knows of each
    /// value; forgetting makes paths alike, so that it need not follow them all.
    #[inline(always)]
    fn opaque(&self, value: usize) -> usize {
        value
    }

    /// Tells the kernel of a change of words that nothing in the packet makes up for (RFC 1624 delta), where it keeps a sum
    /// over the whole packet that the device gave it (`CHECKSUM_COMPLETE`).
    #[inline(always)]
    fn note_change(&mut self, delta: u16) {
        let _ = delta;
    }

    /// Brings a transport checksum up to date. `None` if it could not be written.
    #[inline(always)]
    fn update_checksum(&mut self, checksum: &TransportChecksum) -> Option<()> {
        let old: [u8; 2] = self.load(checksum.offset)?;
        if checksum.zero_means_none && old == [0; 2] {
            return Some(());
        }
        let new = checksum::update(old, checksum::add(checksum.address_delta, checksum.port_delta));
        self.store(checksum.offset, if checksum.zero_means_none && new == [0; 2] { [0xff; 2] } else { new })
    }

    /// Cuts the frame off behind its first `length` bytes, which then no longer stand for several segments. `None` if
    /// it could not be cut, as where packets are never made (XDP).
    #[inline(always)]
    fn trim(&mut self, _length: usize) -> Option<()> {
        None
    }

    /// Makes room for `length` bytes, zeros, between the Ethernet header and the IP header. `None` as for
    /// [`Packet::trim`].
    #[inline(always)]
    fn insert(&mut self, _length: usize) -> Option<()> {
        None
    }
}

/// The first bytes of a frame, in one piece.
pub struct Head<'a>(pub &'a mut [u8]);

impl Bytes for Head<'_> {
    #[inline(always)]
    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        // SAFETY: the slice has the size of `T`.
        self.0.get(offset..offset + size_of::<T>()).map(|bytes| unsafe { read(bytes.as_ptr()) })
    }

    #[inline(always)]
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()> {
        // SAFETY: as above.
        self.0.get_mut(offset..offset + size_of::<T>()).map(|bytes| unsafe { write(bytes.as_mut_ptr(), value) })
    }
}
