//! Services as the datapath sees them: owned addresses, ports, and the backend set behind each.

use crate::record;
use core::net::IpAddr;

/// Whose an address of ours is: the value of the maps [`crate::maps::OWNED4`] and [`crate::maps::OWNED6`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned(pub u32);

impl Owned {
    /// The node's own: what no Service asks for is the host's, but for node ports.
    pub const NODE: Self = Self(0);
    /// The node's own, and no node port is served on it.
    pub const SILENT: Self = Self(1);
    /// A Service's, whatever is asked for.
    pub const SERVICE: Self = Self(2);

    /// Whether it is the node's own.
    pub const fn is_node(self) -> bool {
        self.0 != Self::SERVICE.0
    }
}

/// One port of an address: the key of the map [`crate::maps::SERVICES`].
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// IPv6 address, or an IPv4 address in the first four bytes and zeros. Zeros for [`ServiceKey::NODE`].
    pub address: [u8; 16],
    /// Network order.
    pub port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// IP version, 4 or 6, with [`ServiceKey::NODE`] and [`ServiceKey::WITHIN`].
    pub family: u8,
}

impl ServiceKey {
    /// The key of `port` (host order) on an address.
    pub const fn new(address: IpAddr, port: u16, protocol: u8) -> Self {
        let (address, family) = match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                ([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 4)
            }
            IpAddr::V6(address) => (address.octets(), 6),
        };
        Self { address, port: port.to_be_bytes(), protocol, family }
    }

    /// The key of the node port `port` (host order) of a family (4 or 6).
    pub const fn of_node(port: u16, protocol: u8, family: u8) -> Self {
        Self { address: [0; 16], port: port.to_be_bytes(), protocol, family: family | Self::NODE }
    }

    /// In the family: the port is a node port, on all addresses of the node where no Service has it for itself.
    pub const NODE: u8 = 0x40;

    /// In the family: the record that clients within the cluster use, where that of everybody says so
    /// ([`Service::SCOPED`]).
    pub const WITHIN: u8 = 0x80;

    /// The key of the same port among the node ports.
    #[must_use]
    pub const fn at_node(self) -> Self {
        Self { address: [0; 16], family: self.family | Self::NODE, ..self }
    }

    /// Whether it is a node port.
    pub const fn is_of_node(&self) -> bool {
        self.family & Self::NODE != 0
    }

    /// The address; `None` of a node port.
    pub fn ip(&self) -> Option<IpAddr> {
        match (self.is_of_node(), self.version(), self.address.first_chunk::<4>()) {
            (false, 4, Some(v4)) => Some(IpAddr::from(*v4)),
            (false, 6, _) => Some(IpAddr::from(self.address)),
            _ => None,
        }
    }

    /// The key of the record for clients within the cluster.
    #[must_use]
    pub const fn within(self) -> Self {
        Self { family: self.family | Self::WITHIN, ..self }
    }

    /// IP version, 4 or 6.
    pub const fn version(&self) -> u8 {
        self.family & !(Self::WITHIN | Self::NODE)
    }

    /// Whether it is for clients within the cluster alone.
    pub const fn is_within(&self) -> bool {
        self.family & Self::WITHIN != 0
    }

    /// The port in host order.
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }
}

/// A backend set packed into one aligned word, so that a reader never sees half of an update: 28 bits say where its slots
/// begin, 20 how many there are, 16 which generation it is.
///
/// A connection goes to one of the slots, all with equal odds. A backend with a greater weight has more of them, and a
/// Maglev table is a set like any other.
///
/// The slots `base..base + count` of the map [`crate::maps::SLOTS`] are immutable while any service publishes them.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BackendSet(pub u64);

impl BackendSet {
    /// The set of no backends.
    pub const EMPTY: Self = Self(0);

    /// The most slots of one set.
    pub const MAX_SLOTS: u32 = (1 << 20) - 1;

    /// The set of `count` slots (at most [`BackendSet::MAX_SLOTS`]) from `base` (below 2^28) on.
    pub const fn new(base: u32, count: u32, generation: u16) -> Self {
        Self((base as u64) << 36 | (count as u64 & Self::MAX_SLOTS as u64) << 16 | generation as u64)
    }

    /// First slot.
    pub const fn base(self) -> u32 {
        (self.0 >> 36) as u32
    }

    /// Number of slots.
    pub const fn count(self) -> u32 {
        (self.0 >> 16) as u32 & Self::MAX_SLOTS
    }

    /// Tells one use of the same slots from the next.
    pub const fn generation(self) -> u16 {
        self.0 as u16
    }
}

/// One service port: the value of the map [`crate::maps::SERVICES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where its backends stand. Eight-byte aligned: read and written as one word.
    pub backends: BackendSet,
    /// Dense id of the service port: the index into the map [`crate::maps::SERVICE_STATS`].
    pub id: u32,
    /// The backends' port in network order, where all have the same; a slot's own port wins.
    pub target_port: [u8; 2],
    /// [`Service::SCOPED`] and its neighbours.
    pub flags: u16,
    /// How long a client keeps its backend after its last new connection, in ticks; zero: it does not.
    pub affinity_ticks: u32,
    /// Where a client keeps its backend: what all frontends of the service port, in this family, share. It is the id of one
    /// of them.
    pub affinity_id: u32,
    /// Where clients keep their backends: each backend of the set once, and each that a client may keep. Empty where they do not.
    /// It is the same set where all have the same weight.
    pub members: BackendSet,
}

impl Service {
    /// The sets whose slots it publishes.
    pub const fn sets(&self) -> [BackendSet; 2] {
        [self.backends, self.members]
    }

    /// It, and no backends behind it.
    #[must_use]
    pub const fn without_backends(self) -> Self {
        Self { backends: BackendSet::EMPTY, members: BackendSet::EMPTY, ..self }
    }

    /// Connections are hashed with [`crate::Settings::shared_seed`], so that every node sends the same one to the same backend.
    pub const SAME_EVERYWHERE: u16 = 0x10;
    /// Clients within the cluster have a record of their own: [`ServiceKey::within`].
    pub const SCOPED: u16 = 0x100;
    /// Only clients in the networks of the group [`Service::id`] are served ([`crate::network`]).
    pub const RANGED: u16 = 0x200;
    /// There are backends, but none on this node, and connections must stay here: they are dropped in silence.
    pub const ELSEWHERE: u16 = 0x400;
    /// A ClusterIP's: clients in the networks of the group [`crate::network::KEPT`] keep their address.
    pub const INTERNAL: u16 = 0x800;
}

/// One member of a backend set: the value of the map [`crate::maps::SLOTS`].
///
/// Service ports whose endpoints are the same share one set: then `port` is zero and [`Service::target_port`] counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Slot {
    /// Index into the map [`crate::maps::BACKENDS`].
    pub backend: u32,
    /// The backend's port in network order, or zero for [`Service::target_port`].
    pub port: [u8; 2],
    /// [`crate::Backend::generation`] of the backend meant.
    pub generation: u16,
}

record!(Owned = 4, ServiceKey = 20, BackendSet = 8, Service = 32, Slot = 8);

const _: () = {
    assert!(core::mem::offset_of!(Service, backends) == 0 && core::mem::align_of::<Service>() == 8);
    assert!(core::mem::offset_of!(ServiceKey, port) == 16 && core::mem::offset_of!(ServiceKey, family) == 19);
    assert!(crate::maps::entries_for(crate::maps::SLOTS, crate::maps::MAX_FLOWS_RANGE.1) <= 1 << 28);
    assert!(core::mem::offset_of!(Slot, port) == 4 && core::mem::offset_of!(Slot, generation) == 6);
};

#[cfg(test)]
mod tests {
    use super::BackendSet;

    #[test]
    fn a_backend_set_gives_back_what_it_was_made_of() {
        for (base, count) in [(0x0ead_beef, 0x1_2345), ((1 << 28) - 1, BackendSet::MAX_SLOTS), (0, 1)] {
            let set = BackendSet::new(base, count, 0x5678);
            assert_eq!((set.base(), set.count(), set.generation()), (base, count, 0x5678));
        }
    }
}
