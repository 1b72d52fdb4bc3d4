//! The writes that turn what the maps hold into an image.
//!
//! `apply(plan(image, realized), realized)` is `image`, a second plan is empty, and whatever prefix of a plan is
//! applied, no record refers to one that is missing or means something else ([`super::dangling`]), and a client gets
//! either the old backends or the new ones. Hence the order:
//!
//! 1. settings, interfaces and networks, 2. backends, 3. slots, 4. service records, each with fresh counters if its id is new,
//! 5. addresses, 6. node ports that name one, 7. node ports given up, 8. addresses given up,
//! 9. service records given up, 10. backends that lose their flag of life, 11. backends given up,
//! 12. interfaces and networks given up.
//!
//! A [`super::Renderer`] never reuses a slot, an id or a backend that the maps still refer to. Should the maps hold
//! something foreign all the same, those who refer to it are withdrawn first and published again: a short gap instead
//! of a wrong backend.

use super::touched::Touched;
use crate::maps::{Image, MapOp};
use ipnet::IpNet;
use lb_common::{Backend, BackendSet, Service, ServiceKey};
use std::collections::{BTreeMap, BTreeSet};

/// The writes that make maps that hold `realized` hold `image`.
pub fn plan(image: &Image, realized: &Image) -> Vec<MapOp> {
    plan_touched(image, realized, &Touched::everything(image, realized))
}

/// The same, where the two differ in nothing but what was touched.
pub(super) fn plan_touched(image: &Image, realized: &Image, touched: &Touched) -> Vec<MapOp> {
    let mut ops = Vec::new();
    let withdrawn = torn_services(image, realized, touched);
    ops.extend(withdrawn.iter().map(|(key, service)| MapOp::PutService(*key, *service)));

    if touched.settings && image.settings != realized.settings {
        ops.push(MapOp::PutSettings(image.settings));
    }
    for index in &touched.devices {
        if let Some(device) = changed(&image.devices, &realized.devices, index) {
            ops.push(MapOp::PutDevice(*index, device));
        }
    }
    for &group in &touched.networks {
        let new = networks(image, group).filter(|network| !networks(realized, group).any(|held| held == *network));
        ops.extend(new.map(|network| MapOp::PutNetwork(group, network)));
    }
    let (alive, dead) = backends(image, realized, touched);
    ops.extend(alive);
    for index in &touched.slots {
        ops.extend(changed(&image.slots, &realized.slots, index).map(|slot| MapOp::PutSlot(*index, slot)));
    }
    put_services(image, realized, touched, &withdrawn, &mut ops);
    for address in &touched.owned {
        ops.extend(changed(&image.owned, &realized.owned, address).map(|owned| MapOp::PutOwned(*address, owned)));
    }
    for key in &touched.node_ports {
        ops.extend(changed(&image.node_ports, &realized.node_ports, key).map(|peer| MapOp::PutNodePort(*key, peer)));
    }
    for key in touched.node_ports.iter().filter(|key| !image.node_ports.contains_key(key)) {
        ops.extend(realized.node_ports.get(key).map(|_| MapOp::DeleteNodePort(*key)));
    }
    for address in touched.owned.iter().filter(|address| !image.owned.contains_key(*address)) {
        ops.extend(realized.owned.get(address).map(|_| MapOp::DeleteOwned(*address)));
    }
    for key in touched.services.iter().filter(|key| !image.services.contains_key(key)) {
        ops.extend(realized.services.get(key).map(|_| MapOp::DeleteService(*key)));
    }
    ops.extend(dead);
    for id in touched.backends.iter().filter(|id| !image.backends.contains_key(id)) {
        ops.extend(realized.backends.get(id).map(|_| MapOp::DeleteBackend(*id)));
    }
    for index in touched.devices.iter().filter(|index| !image.devices.contains_key(index)) {
        ops.extend(realized.devices.get(index).map(|_| MapOp::DeleteDevice(*index)));
    }
    for &group in &touched.networks {
        let old = networks(realized, group).filter(|network| !networks(image, group).any(|wanted| wanted == *network));
        ops.extend(old.map(|network| MapOp::DeleteNetwork(group, network)));
    }
    ops
}

fn networks(image: &Image, group: u32) -> impl Iterator<Item = IpNet> {
    image.networks.get(&group).into_iter().flatten().copied()
}

/// The value in the image, where the maps hold another or none.
fn changed<K: Ord, V: Copy + PartialEq>(image: &BTreeMap<K, V>, realized: &BTreeMap<K, V>, key: &K) -> Option<V> {
    image.get(key).filter(|value| realized.get(key) != Some(*value)).copied()
}

/// Backends to write before the slots that name them, and those to write after nobody names them any more.
fn backends(image: &Image, realized: &Image, touched: &Touched) -> (Vec<MapOp>, Vec<MapOp>) {
    let (mut alive, mut dead) = (Vec::new(), Vec::new());
    for id in &touched.backends {
        let Some(backend) = changed(&image.backends, &realized.backends, id) else { continue };
        let before = realized.backends.get(id);
        let same = before.is_some_and(|before| is_same(before, &backend));
        if same && !backend.is_alive() {
            dead.push(MapOp::PutBackend(*id, backend));
            continue;
        }
        if !same {
            alive.push(MapOp::ResetBackendStats(*id));
        }
        alive.push(MapOp::PutBackend(*id, backend));
    }
    (alive, dead)
}

/// Whether two records are for one use of one address.
fn is_same(one: &Backend, other: &Backend) -> bool {
    (one.family, one.address, one.generation) == (other.family, other.address, other.generation)
}

fn put_services(
    image: &Image,
    realized: &Image,
    touched: &Touched,
    withdrawn: &BTreeMap<ServiceKey, Service>,
    ops: &mut Vec<MapOp>,
) {
    let untouched = withdrawn.keys().filter(|key| !touched.services.contains(key));
    for key in touched.services.iter().chain(untouched) {
        let held = realized.services.get(key);
        let now = withdrawn.get(key).or(held);
        let Some(service) = image.services.get(key).filter(|service| now != Some(*service)) else { continue };
        if held.is_none_or(|held| held.id != service.id) {
            ops.push(MapOp::ResetServiceStats(service.id));
        }
        ops.push(MapOp::PutService(*key, *service));
    }
}

/// Service records in the maps whose slots, or backends behind these, are about to become something else; each with no
/// backends.
fn torn_services(image: &Image, realized: &Image, touched: &Touched) -> BTreeMap<ServiceKey, Service> {
    let differs = |slot: &&u32| {
        let held = realized.slots.get(slot);
        held.is_some() && image.slots.get(slot).is_some_and(|wanted| Some(wanted) != held)
    };
    let slots: BTreeSet<u32> = touched.slots.iter().filter(differs).copied().collect();
    let becomes_another = |id: &&u32| match (image.backends.get(id), realized.backends.get(id)) {
        (Some(wanted), Some(held)) => !is_same(wanted, held),
        _ => false,
    };
    let backends: BTreeSet<u32> = touched.backends.iter().filter(becomes_another).copied().collect();
    if slots.is_empty() && backends.is_empty() {
        return BTreeMap::new();
    }
    let is_torn = |set: BackendSet| {
        let mut run = set.base()..set.base().saturating_add(set.count());
        slots.range(run.clone()).next().is_some()
            || run.any(|slot| realized.slots.get(&slot).is_some_and(|slot| backends.contains(&slot.backend)))
    };
    let torn = realized.services.iter().filter(|(_, service)| service.sets().into_iter().any(is_torn));
    torn.map(|(key, service)| (*key, service.without_backends())).collect()
}
