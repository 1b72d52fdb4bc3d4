//! What a driver counts (`ethtool -S`), does in hardware (`ethtool -k`) and has of queues (`ethtool -l`).

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
/// `ETH_SS_FEATURES`, `ETHTOOL_GFEATURES`, `ETHTOOL_GCHANNELS`
const FEATURES_SET: u32 = 4;
const FEATURES: u32 = 0x3a;
const CHANNELS: u32 = 0x3c;
const STRING: usize = 32;
/// More counters than any driver has. The kernel fills in as many as the driver has NOW, whatever the caller made room
/// for, so every buffer has room for so many; untouched pages of it cost nothing.
const MOST: usize = 65_536;

/// The counters of the interface by name.
pub(crate) fn counters(interface: &str) -> io::Result<BTreeMap<String, u64>> {
    let socket = open()?;
    let names = strings(&socket, interface, STATS_SET)?;
    // `struct ethtool_stats`: command, count, then 64-bit values.
    let mut values = vec![0u32; 2 + MOST * 2];
    values[..2].copy_from_slice(&[STATS, names.len() as u32]);
    ask(&socket, interface, &mut values)?;
    let value = |index: usize| {
        let (low, high) = (values[2 + index * 2].to_ne_bytes(), values[3 + index * 2].to_ne_bytes());
        u64::from_ne_bytes([low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]])
    };
    Ok(names.into_iter().enumerate().map(|(index, name)| (name, value(index))).collect())
}

/// What the interface leaves to hardware, or does like hardware, by the kernel's names: whether each is on.
pub(crate) fn features(interface: &str) -> io::Result<BTreeMap<String, bool>> {
    let socket = open()?;
    let names = strings(&socket, interface, FEATURES_SET)?;
    let blocks = names.len().div_ceil(32);
    // `struct ethtool_gfeatures`: command, blocks of 32, then for each available, requested, active and fixed bits.
    let mut values = vec![0u32; 2 + MOST * 4 / 32];
    values[..2].copy_from_slice(&[FEATURES, blocks as u32]);
    ask(&socket, interface, &mut values)?;
    let is_on = |index: usize| values.get(2 + index / 32 * 4 + 2).is_some_and(|bits| bits >> (index % 32) & 1 == 1);
    Ok(names.into_iter().enumerate().map(|(index, name)| (name, is_on(index))).collect())
}

/// The queues of an interface, and how many it could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Channels {
    pub(crate) most_tx: u32,
    pub(crate) most_combined: u32,
    pub(crate) tx: u32,
    pub(crate) combined: u32,
}

/// The queues of an interface.
pub(crate) fn channels(interface: &str) -> io::Result<Channels> {
    // `struct ethtool_channels`: command, then the most of rx, tx, other and combined, then as many as there are.
    let mut values = vec![CHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
    ask(&open()?, interface, &mut values)?;
    Ok(Channels { most_tx: values[2], most_combined: values[4], tx: values[6], combined: values[8] })
}

fn open() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

/// The names in one of the driver's sets.
fn strings(socket: &OwnedFd, interface: &str, set: u32) -> io::Result<Vec<String>> {
    // `struct ethtool_sset_info`: command, reserved, mask (64 bits), then one count for each bit of the mask.
    let mut info = vec![SET_INFO, 0, 1 << set, 0, 0];
    ask(socket, interface, &mut info)?;
    let count = info[4] as usize;
    if count == 0 || count > MOST {
        return Ok(Vec::new());
    }
    // `struct ethtool_gstrings`: command, set, count, then the names.
    let mut names = vec![0u32; 3 + MOST * STRING / 4];
    names[..3].copy_from_slice(&[STRINGS, set, count as u32]);
    ask(socket, interface, &mut names)?;
    let name = |index: usize| {
        let start = 3 + index * STRING / 4;
        let bytes: Vec<u8> = names[start..start + STRING / 4].iter().flat_map(|word| word.to_ne_bytes()).collect();
        super::netlink::text(&bytes)
    };
    Ok((0..count).map(name).collect())
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
    // room for whatever the command in it makes the kernel write: a structure of fixed length, or up to MOST entries.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
