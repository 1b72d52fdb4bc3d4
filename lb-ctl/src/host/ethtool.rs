//! A driver's own counters, as `ethtool -S` shows them.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// `SIOCETHTOOL`
const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// `ETHTOOL_GSSET_INFO`, `ETHTOOL_GSTRINGS`, `ETHTOOL_GSTATS`, `ETH_SS_STATS`, `ETH_GSTRING_LEN`
const SET_INFO: u32 = 0x37;
const STRINGS: u32 = 0x1b;
const STATS: u32 = 0x1d;
const STATS_SET: u32 = 1;
const STRING: usize = 32;
/// More counters than any driver has. The kernel fills in as many as the driver has NOW, whatever the caller made room
/// for, so every buffer has room for so many; untouched pages of it cost nothing.
const MOST: usize = 65_536;

/// The counters of the interface by name.
pub(crate) fn counters(interface: &str) -> io::Result<BTreeMap<String, u64>> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // `struct ethtool_sset_info`: command, reserved, mask (64 bits), then one count for each bit of the mask.
    let mut info = vec![SET_INFO, 0, 1 << STATS_SET, 0, 0];
    ask(&socket, interface, &mut info)?;
    let count = info[4] as usize;
    if count == 0 || count > MOST {
        return Ok(BTreeMap::new());
    }
    // `struct ethtool_gstrings`: command, set, count, then the names.
    let mut names = vec![0u32; 3 + MOST * STRING / 4];
    names[..3].copy_from_slice(&[STRINGS, STATS_SET, count as u32]);
    ask(&socket, interface, &mut names)?;
    // `struct ethtool_stats`: command, count, then 64-bit values.
    let mut values = vec![0u32; 2 + MOST * 2];
    values[..2].copy_from_slice(&[STATS, count as u32]);
    ask(&socket, interface, &mut values)?;
    let name = |index: usize| {
        let start = 3 + index * STRING / 4;
        let bytes: Vec<u8> = names[start..start + STRING / 4].iter().flat_map(|word| word.to_ne_bytes()).collect();
        super::netlink::text(&bytes)
    };
    let value = |index: usize| {
        let (low, high) = (values[2 + index * 2].to_ne_bytes(), values[3 + index * 2].to_ne_bytes());
        u64::from_ne_bytes([low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]])
    };
    Ok((0..count).map(|index| (name(index), value(index))).collect())
}

/// `struct ifreq` as far as ethtool uses it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    data: *mut u32,
    rest: [u8; 16],
}

fn ask(socket: &OwnedFd, interface: &str, buffer: &mut [u32]) -> io::Result<()> {
    let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], data: buffer.as_mut_ptr(), rest: [0; 16] };
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    request.name[..interface.len()].copy_from_slice(interface.as_bytes());
    // SAFETY: the request is as large as `struct ifreq`, and its pointer leads to a buffer that outlives the call and has
    // room for whatever the command in it makes the kernel write: one count for one bit, or up to MOST entries.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
