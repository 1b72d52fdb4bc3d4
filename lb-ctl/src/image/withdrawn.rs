//! Who was withdrawn from one Service and lives on in another: there the datapath sees a backend that serves, and leaves
//! the UDP flows of the first where they are. So these flows have to be forgotten.
//!
//! Those of a Service port that is gone stay, as the datapath leaves them too; and so do those of an endpoint that still serves
//! its Service port and gets no new connections.

use super::Renderer;
use super::backends::backend_address;
use crate::maps::{Image, MapOp};
use lb_common::{Service, ServiceKey, UDP};
use std::collections::HashSet;
use std::net::SocketAddr;

/// An endpoint that a UDP service port had, and has no more although its backend serves another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Withdrawn {
    /// Id of the service port.
    pub service: u32,
    /// Id of the backend.
    pub backend: u32,
    /// Port of the backend.
    pub port: u16,
}

/// The endpoints of the UDP service ports that `ops` change, as far as `image` publishes them, each with the record.
/// What was there before `ops` and is not there after them may be withdrawn.
pub(super) fn endpoints(image: &Image, ops: &[MapOp]) -> HashSet<(ServiceKey, Withdrawn)> {
    let changed = ops.iter().filter_map(|op| match op {
        MapOp::PutService(key, _) | MapOp::DeleteService(key) if key.protocol == UDP => {
            image.services.get(key).map(|service| (*key, service))
        }
        _ => None,
    });
    changed.flat_map(|(key, service)| members(image, service).map(move |endpoint| (key, endpoint))).collect()
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

/// Whether the flows to an endpoint that this record of `image` has no more would stay, and must not.
pub(super) fn is_stranded(renderer: &Renderer, image: &Image, (record, endpoint): &(ServiceKey, Withdrawn)) -> bool {
    let backend = image.backends.get(&endpoint.backend).filter(|backend| backend.is_serving());
    let Some(address) = backend.and_then(backend_address) else { return false };
    image.services.contains_key(record) && !renderer.serves(*record, SocketAddr::new(address, endpoint.port))
}
