//! Programs that copy packets to user space, in the place of those that do not.
//!
//! They are the same object over the same maps, loaded with another constant, so a capture costs nothing while there is none, and
//! no packet goes by while programs take each other's place. If the daemon dies meanwhile the copying programs stay, with nobody to
//! read their ring, until the next daemon puts its own in their place.

use super::bpf::Hook;
use super::instance::chain;
use super::links::PlaceError;
use super::programs::{Kind, Programs};
use super::{Datapath, Error};
use aya::maps::{MapData, RingBuf};
use lb_common::Captured;
use lb_common::maps::CAPTURED;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// Bytes of the ring: some ten thousand packets of the usual sizes.
pub(super) const RING: u32 = 16 << 20;

/// What copying programs fill. Becomes readable when there is something.
pub struct Ring(RingBuf<MapData>);

impl fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Ring")
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Ring {
    /// Gives everything that is there to `sink`: what the program says of the copy, and the copied bytes.
    pub fn drain(&mut self, mut sink: impl FnMut(Captured, &[u8])) {
        while let Some(item) = self.0.next() {
            let Some((head, bytes)) = item.split_at_checked(size_of::<Captured>()) else { continue };
            // SAFETY: so many bytes are there, every pattern is valid, and they are read unaligned.
            let head = unsafe { head.as_ptr().cast::<Captured>().read_unaligned() };
            sink(head, &bytes[..bytes.len().min(head.copied as usize)]);
        }
    }
}

impl Datapath {
    /// Puts programs that copy packets on every hook; what they copy comes out of the ring.
    pub fn capture(&mut self) -> Result<Ring, Error> {
        let mut copying = Programs::load(crate::OBJECT.ok_or(Error::NoObject)?, &self.shared, Kind::Copying)?;
        let ring = copying.take_map(CAPTURED).ok_or_else(|| Error::Object(format!("it has no map {CAPTURED}")))?;
        let ring = RingBuf::try_from(ring).map_err(|error| Error::Object(chain(&error)))?;
        let plain = std::mem::replace(&mut self.programs, copying);
        self.plain.get_or_insert(plain);
        self.replace_all().inspect_err(|_| {
            // What was replaced goes back; the first error is the one to tell.
            self.end_capture().ok();
        })?;
        Ok(Ring(ring))
    }

    /// Puts the programs back that do not.
    pub fn end_capture(&mut self) -> Result<(), Error> {
        let Some(plain) = self.plain.take() else { return Ok(()) };
        self.programs = plain;
        self.replace_all()
    }

    /// Puts the present programs on each hook that has one of ours.
    fn replace_all(&mut self) -> Result<(), Error> {
        let mut first = Ok(());
        for ifindex in self.links.interfaces() {
            for hook in Hook::ALL {
                if !self.links.has(ifindex, hook) && !self.links.has_filter(ifindex, hook) {
                    continue;
                }
                let placed = self.links.place(ifindex, hook, self.programs.on(hook));
                let placed = placed.map(drop).map_err(|error| match error {
                    PlaceError::Pin(error) => error,
                    PlaceError::Refused(error) => Error::Replace { hook: hook.to_string(), ifindex, source: error },
                });
                first = first.and(placed);
            }
        }
        first
    }
}
