//! Sockets of processes as the hooks in a cgroup see them: whom a process asked for, and whom its socket got.

use crate::record;

/// Whom a socket talks to: the value of the maps [`crate::maps::SOCKETS`] and [`crate::maps::NODE_PORTS`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// IPv6 address, or an IPv4 address in the first four bytes and zeros; never an IPv4 address mapped into IPv6.
    pub address: [u8; 16],
    /// Network order.
    pub port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// IP version, 4 or 6.
    pub family: u8,
    /// Padding; zero.
    pub zero: [u8; 4],
}

impl Peer {
    /// A peer from its parts.
    pub const fn new(family: u8, protocol: u8, address: [u8; 16], port: [u8; 2]) -> Self {
        Self { address, port, protocol, family, zero: [0; 4] }
    }

    /// The first four bytes of the address: for IPv4 all of it.
    pub const fn v4(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.address;
        [a, b, c, d]
    }
}

/// A peer as a socket got it: the key of the map [`crate::maps::SOCKETS`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketKey {
    /// The socket's cookie (`SO_COOKIE`), which the kernel gives to no other socket until it boots again.
    pub cookie: u64,
    /// Whom it talks to on the wire.
    pub peer: Peer,
}

record!(Peer = 24, SocketKey = 32);
