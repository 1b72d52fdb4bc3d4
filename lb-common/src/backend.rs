//! Backends: one record for each address, shared by every service and flow that uses it.

use crate::record;
use core::net::IpAddr;

/// Where an endpoint lives: the value of the map [`crate::maps::BACKENDS`], indexed by a dense id.
///
/// The same id may be given to another address later; [`Backend::generation`] then differs, and every slot and flow
/// carries the generation it means.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// IPv6 address, or an IPv4 address in the first four bytes and zeros.
    pub address: [u8; 16],
    /// [`Backend::ALIVE`] and its neighbours.
    pub flags: u16,
    /// Tells one use of this id from the next; never zero for a record in use.
    pub generation: u16,
    /// IP version, 4 or 6; zero: the record is not in use.
    pub family: u8,
    /// Reserved; zero.
    pub reserved: [u8; 3],
}

impl Backend {
    /// Some service still sends new connections here. Cleared, a TCP SYN chooses anew, and a UDP flow moves at once (but for
    /// [`Backend::SERVING`]), while established TCP connections live on.
    pub const ALIVE: u16 = 1;
    /// Its replies come back through this node by themselves, so the client's address can be kept.
    pub const LOCAL: u16 = 2;
    /// No Service sends new connections here, but one has it among the endpoints that still serve: a TCP SYN chooses anew, and UDP
    /// flows stay.
    pub const SERVING: u16 = 4;
    /// Its address is one of the node's own.
    pub const NODE: u16 = 8;

    /// A record that is not in use.
    pub const UNUSED: Self = Self { address: [0; 16], flags: 0, generation: 0, family: 0, reserved: [0; 3] };

    /// Its address; `None` if the record is not in use.
    pub fn ip(&self) -> Option<IpAddr> {
        match (self.family, self.address.first_chunk::<4>()) {
            (4, Some(v4)) => Some(IpAddr::from(*v4)),
            (6, _) => Some(IpAddr::from(self.address)),
            _ => None,
        }
    }

    /// Whether new connections may go here.
    pub const fn is_alive(&self) -> bool {
        self.flags & Self::ALIVE != 0
    }

    /// Whether its UDP flows stay.
    pub const fn is_serving(&self) -> bool {
        self.flags & (Self::ALIVE | Self::SERVING) != 0
    }

    /// Whether it is the node itself.
    pub const fn is_node(&self) -> bool {
        self.flags & Self::NODE != 0
    }

    /// Whether replies come back through this node by themselves.
    pub const fn is_local(&self) -> bool {
        self.flags & Self::LOCAL != 0
    }
}

record!(Backend = 24);
