//! Offloads of a link: what `ethtool -K` does (`linux/ethtool.h`, `ETHTOOL_STXCSUM` and its neighbours).

use super::error::{Doing, Error};
use super::netns::NetNs;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::io;
use std::os::fd::AsRawFd;

/// An offload that can be switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// `tx`: leave checksums of sent packets to the device. Off, packets carry complete checksums, as on a wire.
    TxChecksum,
    /// `gro`: on a veth, also what makes it receive frames redirected by XDP (NAPI).
    Gro,
}

impl Offload {
    const fn command(self) -> u32 {
        match self {
            Offload::TxChecksum => 0x17,
            Offload::Gro => 0x2c,
        }
    }

    /// Switches the offload of `link` in the calling thread's network namespace.
    pub fn set_here(self, link: &str, on: bool) -> io::Result<()> {
        set(link, self.command(), u32::from(on))
    }

    /// Switches the offload of `link` in `space`.
    pub fn set(self, space: &NetNs, link: &str, on: bool) -> Result<(), Error> {
        let done = space.run(|| self.set_here(link, on))?;
        done.doing(|| format!("switch {self:?} of {link} in {} {}", space.name(), if on { "on" } else { "off" }))
    }
}

/// `struct ethtool_value`
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

fn set(link: &str, command: u32, data: u32) -> io::Result<()> {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = Value { command, data };
    // SAFETY: all-zero bytes are a valid `ifreq`: integers, arrays and nullable pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if link.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(link.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL reads an `ifreq` whose `ifru_data` points to the command's structure, here `ethtool_value`;
    // both live until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
