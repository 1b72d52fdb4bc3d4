//! A packet as the core sees it.

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

/// A frame: Ethernet header first.
pub trait Packet {
    /// Bytes in the frame.
    fn len(&self) -> usize;

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

    /// Copies out what stands at `offset`; `None` if the frame ends before.
    fn load<T: Wire>(&self, offset: usize) -> Option<T>;

    /// Writes at `offset`; `None` if the frame ends before or could not be written.
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()>;

    /// Tells the kernel of a change of words that nothing in the packet makes up for (RFC 1624 delta), where it keeps a sum
    /// over the whole packet that the device gave it (`CHECKSUM_COMPLETE`).
    #[inline(always)]
    fn note_change(&mut self, delta: u16) {
        let _ = delta;
    }

    /// Brings a transport checksum up to date. `None` if it could not be written.
    fn update_checksum(&mut self, checksum: &TransportChecksum) -> Option<()>;

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
