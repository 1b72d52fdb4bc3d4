//! Whose pins these are: one record beside them.
//!
//! A directory on the BPF file system can be seen from many network namespaces, but its links and flows belong to one.
//! The record names that namespace by its cookie, which the kernel never gives out twice.

use super::bpf::{self, Map, map::Put};
use super::bpffs::Pins;
use super::layout::Layout;
use super::{Error, bpf::map::MapInfo};
use crate::host;
use lb_common::maps::MapKind;
use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::AsFd;

/// The record. All numbers in the machine's order: it never leaves it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Version of this record.
    version: u64,
    /// `SO_NETNS_COOKIE` of the namespace.
    pub(super) namespace: u64,
    /// When the machine was booted, as its boot id.
    boot: [u8; 16],
    /// The maps that the attached programs use.
    pub(super) layout: Layout,
}

// SAFETY: `#[repr(C)]`, numbers only, and the size below leaves no room for padding.
unsafe impl aya::Pod for Meta {}
const _: () = assert!(size_of::<Meta>() == 56);

impl Meta {
    const VERSION: u64 = 1;

    /// The record of the calling thread's namespace.
    pub(super) fn here(layout: Layout) -> Result<Self, Error> {
        let namespace = host::namespace_cookie().map_err(Error::Namespace)?;
        Ok(Self { version: Self::VERSION, namespace, boot: boot_id(), layout })
    }

    /// Whether both are of the same namespace.
    pub(super) fn same_namespace(&self, other: &Self) -> bool {
        self.namespace == other.namespace && self.boot == other.boot
    }

    /// The record that is pinned.
    pub(super) fn read(pins: &Pins) -> Result<Option<Self>, Error> {
        let path = pins.meta();
        let failed = |source| Error::Path { action: "read", path: path.clone(), source };
        match bpf::open(&path) {
            Ok(fd) => Map::<u32, Self>::new(fd).and_then(|map| map.get(&0)).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Pins the record, in place of the present one.
    pub(super) fn write(&self, pins: &Pins) -> Result<(), Error> {
        let path = pins.meta();
        let written = (|| {
            if let Ok(fd) = bpf::open(&path) {
                return Map::<u32, Self>::new(fd)?.put(&0, self, Put::Any);
            }
            // Filled before it is pinned: it is never seen empty.
            let info =
                MapInfo { kind: MapKind::Array as u32, key: 4, value: size_of::<Self>() as u32, entries: 1, flags: 0 };
            let map = Map::<u32, Self>::new(bpf::map::create("LB_META", &info)?)?;
            map.put(&0, self, Put::Any)?;
            bpf::pin(map.as_fd(), &path)
        })();
        written.map_err(|source| Error::Path { action: "write", path, source })
    }
}

/// The boot id, or zeros where it cannot be read.
fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or_default().to_be_bytes()
}
