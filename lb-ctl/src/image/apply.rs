//! Performing a plan, and keeping the record of what the maps hold exact while doing so.

use crate::maps::{Image, LbMaps, MapError, MapOp};
use lb_common::{BackendSet, Service};
use std::collections::BTreeSet;
use std::ops::Range;

/// Performs `ops` in order and stops at the first that fails. `realized` follows each one that succeeded, and is `image`
/// in the end, if that is what they were planned for.
///
/// Slots that no service publishes any more leave `realized` at the end, as [`LbMaps::read`] leaves them out.
pub fn apply(maps: &mut dyn LbMaps, ops: &[MapOp], image: &Image, realized: &mut Image) -> Result<(), MapError> {
    let mut given_up = BTreeSet::new();
    for op in ops {
        if let Err(error) = maps.apply(op) {
            realized.forget_unpublished();
            return Err(error);
        }
        if let MapOp::PutService(key, _) | MapOp::DeleteService(key) = op {
            given_up.extend(realized.services.get(key).into_iter().flat_map(Service::sets));
        }
        realized.perform(op);
    }
    for slot in given_up.into_iter().flat_map(run).filter(|slot| !image.slots.contains_key(slot)) {
        realized.slots.remove(&slot);
    }
    Ok(())
}

impl Image {
    /// What the image is after one write.
    pub fn perform(&mut self, op: &MapOp) {
        match *op {
            MapOp::PutSettings(settings) => self.settings = settings,
            MapOp::PutOwned(address, owned) => {
                self.owned.insert(address, owned);
            }
            MapOp::DeleteOwned(address) => {
                self.owned.remove(&address);
            }
            MapOp::PutService(key, service) => {
                self.services.insert(key, service);
            }
            MapOp::DeleteService(key) => {
                self.services.remove(&key);
            }
            MapOp::PutNetwork(group, network) => {
                self.networks.entry(group).or_default().insert(network);
            }
            MapOp::DeleteNetwork(group, network) => {
                let is_empty = self.networks.get_mut(&group).is_some_and(|all| all.remove(&network) && all.is_empty());
                if is_empty {
                    self.networks.remove(&group);
                }
            }
            MapOp::PutSlot(index, slot) => {
                self.slots.insert(index, slot);
            }
            MapOp::PutBackend(id, backend) => {
                self.backends.insert(id, backend);
            }
            MapOp::DeleteBackend(id) => {
                self.backends.remove(&id);
            }
            MapOp::ResetServiceStats(_) | MapOp::ResetBackendStats(_) => {}
            MapOp::PutNodePort(key, peer) => {
                self.node_ports.insert(key, peer);
            }
            MapOp::DeleteNodePort(key) => {
                self.node_ports.remove(&key);
            }
            MapOp::PutDevice(index, device) => {
                self.devices.insert(index, device);
            }
            MapOp::DeleteDevice(index) => {
                self.devices.remove(&index);
            }
        }
    }

    /// Drops the slots that no service publishes.
    pub fn forget_unpublished(&mut self) {
        let known = std::mem::take(&mut self.slots);
        let sets: BTreeSet<BackendSet> = self.services.values().flat_map(Service::sets).collect();
        for set in sets {
            self.slots.extend(known.range(run(set)).map(|(index, slot)| (*index, *slot)));
        }
    }
}

fn run(set: BackendSet) -> Range<u32> {
    set.base()..set.base().saturating_add(set.count())
}
