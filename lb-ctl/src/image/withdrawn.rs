//! Who was withdrawn from one Service and lives on in another: there the datapath sees a backend that is alive, and leaves
//! the UDP flows of the first where they are. So these flows have to be forgotten.

use crate::maps::{Image, MapOp};
use lb_common::{Backend, Service, UDP};
use std::collections::HashSet;

/// An endpoint that a UDP service port had, and has no more although its backend is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Withdrawn {
    /// Id of the service port.
    pub service: u32,
    /// Id of the backend.
    pub backend: u32,
    /// Port of the backend.
    pub port: u16,
}

/// The endpoints of the UDP service ports that `ops` change, as far as `image` publishes them.
/// What was there before `ops` and is not there after them is withdrawn.
pub(super) fn endpoints(image: &Image, ops: &[MapOp]) -> HashSet<Withdrawn> {
    let changed = ops.iter().filter_map(|op| match op {
        MapOp::PutService(key, _) | MapOp::DeleteService(key) if key.protocol == UDP => image.services.get(key),
        _ => None,
    });
    changed.flat_map(|service| members(image, service)).collect()
}

/// The endpoints of a service port in order of their slots, each as it is called once it is withdrawn.
pub fn members<'i>(image: &'i Image, service: &'i Service) -> impl Iterator<Item = Withdrawn> + 'i {
    let set = service.backends;
    let slots = image.slots.range(set.base()..set.base().saturating_add(set.count()));
    slots.map(|(_, slot)| {
        let port = if slot.port == [0; 2] { service.target_port } else { slot.port };
        Withdrawn { service: service.id, backend: slot.backend, port: u16::from_be_bytes(port) }
    })
}

/// Whether the datapath takes it for one that new connections may go to.
pub(super) fn is_alive(image: &Image, withdrawn: &Withdrawn) -> bool {
    image.backends.get(&withdrawn.backend).is_some_and(Backend::is_alive)
}
