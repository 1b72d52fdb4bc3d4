//! The maps against the image, a bounded piece at a time.
//!
//! Nobody but the daemon's loop writes configuration maps, and it asks for a piece only between two rounds of its own. So a
//! difference is one: there is no write in flight that could explain it, and no second look is needed. The image may change
//! between two pieces; where a walk stands is a key, so that disturbs nothing.

use crate::maps::{Image, LbMaps, MapError, MapOp};
use ipnet::IpNet;
use lb_common::gate::End;
use lb_common::maps::{NETWORKS4, NETWORKS6};
use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

/// Where a walk through the image and the maps stands.
#[derive(Clone, Copy, Debug)]
pub enum Cursor {
    /// Through what the maps should hold, behind this entry.
    Wanted(Option<MapOp>),
    /// Through what the maps hold: which of them, and its own position in that map.
    Held(usize, Option<u32>),
}

impl Cursor {
    /// At the beginning.
    pub const START: Self = Self::Wanted(None);
}

/// The maps in which entries could be too many. Slots that nobody publishes may hold anything.
pub(super) const WALKED: [&str; 8] = {
    use lb_common::maps::{BACKENDS, DEVICES, NODE_PORTS, OWNED4, OWNED6, SERVICES};
    [DEVICES, OWNED4, OWNED6, SERVICES, NETWORKS4, NETWORKS6, BACKENDS, NODE_PORTS]
};

/// An entry that is not as it should be, in the words of writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It is not there.
    Missing(MapOp),
    /// It is another than the first.
    Wrong(MapOp, MapOp),
    /// It should not be there.
    Extra(MapOp),
    /// The gate does not let its packets pass.
    Shut(MapOp, End),
}

/// What one step saw.
#[derive(Clone, Debug, Default)]
pub struct Inspected {
    /// What is not as it should be.
    pub differences: Vec<Difference>,
    /// Entries looked at.
    pub entries: u64,
    /// Where to go on; `None`: everything has been seen.
    pub next: Option<Cursor>,
}

/// Compares the next `limit` entries or so.
pub(super) fn inspect(image: &Image, maps: &dyn LbMaps, cursor: Cursor, limit: usize) -> Result<Inspected, MapError> {
    match cursor {
        Cursor::Wanted(last) => wanted(image, maps, last, limit),
        Cursor::Held(place, position) => held(image, maps, place, position, limit),
    }
}

fn wanted(image: &Image, maps: &dyn LbMaps, last: Option<MapOp>, limit: usize) -> Result<Inspected, MapError> {
    let mut inspected = Inspected { next: Some(Cursor::Held(0, None)), ..Inspected::default() };
    for op in image.entries_after(last.as_ref()).take(limit) {
        inspected.entries += 1;
        inspected.next = Some(Cursor::Wanted(Some(op)));
        if matches!(op, MapOp::PutNetwork(..)) {
            // Nobody can ask a trie for one of its keys: they are compared when all of them are listed.
            continue;
        }
        match maps.entry(&op)? {
            None => inspected.differences.push(Difference::Missing(op)),
            Some(found) if found != op => inspected.differences.push(Difference::Wrong(op, found)),
            Some(_) => {}
        }
        if let Some(end) = op.admitted()
            && !maps.is_admitted(end)?
        {
            inspected.differences.push(Difference::Shut(op, end));
        }
    }
    if (inspected.entries as usize) < limit {
        inspected.next = Some(Cursor::Held(0, None));
    }
    Ok(inspected)
}

fn held(
    image: &Image,
    maps: &dyn LbMaps,
    place: usize,
    position: Option<u32>,
    limit: usize,
) -> Result<Inspected, MapError> {
    let Some(map) = WALKED.get(place) else { return Ok(Inspected::default()) };
    let (entries, position) = maps.entries(map, position, limit)?;
    let extra = entries.iter().filter(|op| image.entry(op).is_none()).map(|op| Difference::Extra(*op));
    let mut differences: Vec<Difference> = extra.collect();
    if [NETWORKS4, NETWORKS6].contains(map) {
        let held: HashSet<(u32, IpNet)> = entries.iter().filter_map(network).collect();
        let wanted =
            image.networks.iter().flat_map(|(group, all)| all.iter().map(|one| MapOp::PutNetwork(*group, *one)));
        let missing =
            wanted.filter(|op| op.map() == *map && network(op).is_some_and(|network| !held.contains(&network)));
        differences.extend(missing.map(Difference::Missing));
    }
    let next = match position {
        Some(_) => Some(Cursor::Held(place, position)),
        None => (place + 1 < WALKED.len()).then_some(Cursor::Held(place + 1, None)),
    };
    Ok(Inspected { differences, entries: entries.len() as u64, next })
}

fn network(op: &MapOp) -> Option<(u32, IpNet)> {
    if let MapOp::PutNetwork(group, network) = op { Some((*group, *network)) } else { None }
}

impl Image {
    /// The writes that would make every entry behind `last`, in an order that is always the same.
    pub fn entries_after(&self, last: Option<&MapOp>) -> impl Iterator<Item = MapOp> {
        let stands = last.map_or(0, rank);
        let settings = (stands == 0).then_some(MapOp::PutSettings(self.settings));
        let key = last.copied();
        let devices =
            tail(&self.devices, 2, stands, if let Some(MapOp::PutDevice(key, _)) = key { Some(key) } else { None });
        let owned =
            tail(&self.owned, 3, stands, if let Some(MapOp::PutOwned(key, _)) = key { Some(key) } else { None });
        let services =
            tail(&self.services, 4, stands, if let Some(MapOp::PutService(key, _)) = key { Some(key) } else { None });
        let slots = tail(&self.slots, 6, stands, if let Some(MapOp::PutSlot(key, _)) = key { Some(key) } else { None });
        let backends =
            tail(&self.backends, 7, stands, if let Some(MapOp::PutBackend(key, _)) = key { Some(key) } else { None });
        let node_ports = tail(
            &self.node_ports,
            8,
            stands,
            if let Some(MapOp::PutNodePort(key, _)) = key { Some(key) } else { None },
        );
        let networks = self.networks.iter().flat_map(|(group, all)| all.iter().map(|one| (*group, *one)));
        let networks = networks.filter(move |(group, network)| match key {
            Some(MapOp::PutNetwork(last_group, last)) => (*group, *network) > (last_group, last),
            _ => stands < 5,
        });
        (settings.into_iter())
            .chain(devices.map(|(index, device)| MapOp::PutDevice(*index, *device)))
            .chain(owned.map(|(address, owned)| MapOp::PutOwned(*address, *owned)))
            .chain(services.map(|(key, service)| MapOp::PutService(*key, *service)))
            .chain(networks.map(|(group, network)| MapOp::PutNetwork(group, network)))
            .chain(slots.map(|(index, slot)| MapOp::PutSlot(*index, *slot)))
            .chain(backends.map(|(id, backend)| MapOp::PutBackend(*id, *backend)))
            .chain(node_ports.map(|(key, peer)| MapOp::PutNodePort(*key, *peer)))
    }

    /// What it has under the key of a write, as the write that would make it.
    pub fn entry(&self, op: &MapOp) -> Option<MapOp> {
        match *op {
            MapOp::PutSettings(_) => Some(MapOp::PutSettings(self.settings)),
            MapOp::PutOwned(key, _) => self.owned.get(&key).map(|value| MapOp::PutOwned(key, *value)),
            MapOp::PutService(key, _) => self.services.get(&key).map(|value| MapOp::PutService(key, *value)),
            MapOp::PutNetwork(group, network) => {
                self.networks.get(&group)?.get(&network).map(|network| MapOp::PutNetwork(group, *network))
            }
            MapOp::PutSlot(key, _) => self.slots.get(&key).map(|value| MapOp::PutSlot(key, *value)),
            MapOp::PutBackend(key, _) => self.backends.get(&key).map(|value| MapOp::PutBackend(key, *value)),
            MapOp::PutNodePort(key, _) => self.node_ports.get(&key).map(|value| MapOp::PutNodePort(key, *value)),
            MapOp::PutDevice(key, _) => self.devices.get(&key).map(|value| MapOp::PutDevice(key, *value)),
            MapOp::DeleteOwned(_)
            | MapOp::DeleteService(_)
            | MapOp::DeleteNetwork(..)
            | MapOp::DeleteBackend(_)
            | MapOp::ResetServiceStats(_)
            | MapOp::ResetBackendStats(_)
            | MapOp::DeleteNodePort(_)
            | MapOp::DeleteDevice(_) => None,
        }
    }
}

/// The place of an entry's map in the order of [`Image::entries_after`].
fn rank(op: &MapOp) -> u8 {
    match op {
        MapOp::PutSettings(_) => 1,
        MapOp::PutDevice(..) => 2,
        MapOp::PutOwned(..) => 3,
        MapOp::PutService(..) => 4,
        MapOp::PutNetwork(..) => 5,
        MapOp::PutSlot(..) => 6,
        MapOp::PutBackend(..) => 7,
        _ => 8,
    }
}

/// The entries of the map of this rank that come behind a key, where a walk stands in that map; all where it has not come
/// there yet, and none where it is past it.
fn tail<K: Ord + Copy, V>(
    map: &BTreeMap<K, V>,
    rank: u8,
    stands: u8,
    last: Option<K>,
) -> impl Iterator<Item = (&K, &V)> {
    let from = last.map_or(Bound::Unbounded, Bound::Excluded);
    (stands <= rank).then(|| map.range((from, Bound::Unbounded))).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::FakeMaps;
    use lb_common::{Backend, Device, Owned, Service, ServiceKey, Slot, TCP};
    use std::net::IpAddr;

    fn image() -> Image {
        let mut image = Image::default();
        image.devices.extend((1..4).map(|index| (index, Device::new(1))));
        image.owned.extend((1..4u8).map(|id| (IpAddr::from([10, 96, 0, id]), Owned::SERVICE)));
        let backend = Backend { address: [1; 16], flags: Backend::ALIVE, generation: 1, family: 4, reserved: [0; 3] };
        image.backends.extend((0..3).map(|id| (id, backend)));
        let set = lb_common::BackendSet::new(0, 3, 1);
        let service = Service {
            backends: set,
            id: 0,
            target_port: [0, 80],
            flags: 0,
            affinity_ticks: 0,
            affinity_id: 0,
            members: lb_common::BackendSet::EMPTY,
        };
        let key = |id| ServiceKey::new([10, 96, 0, id].into(), 80, TCP);
        image.services.extend((1..4).map(|id| (key(id), Service { id: id.into(), ..service })));
        image.slots.extend((0..3).map(|index| (index, Slot { backend: index, port: [0; 2], generation: 1 })));
        image.networks.insert(1, ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()].into());
        image.networks.insert(2, ["10.1.0.0/16".parse().unwrap()].into());
        image
    }

    fn differences(wanted: &Image, held: &Image, limit: usize) -> Vec<Difference> {
        let maps = FakeMaps::holding(held.clone(), 4096);
        let (mut cursor, mut all) = (Some(Cursor::START), Vec::new());
        while let Some(at) = cursor {
            let inspected = inspect(wanted, &maps, at, limit).unwrap();
            all.extend(inspected.differences);
            cursor = inspected.next;
        }
        all
    }

    #[test]
    fn whatever_the_size_of_a_step_every_difference_is_met_once() {
        let wanted = image();
        let mut held = wanted.clone();
        held.devices.remove(&2);
        held.devices.insert(9, Device::new(0));
        held.slots.insert(1, Slot { backend: 2, port: [0; 2], generation: 1 });
        held.networks.entry(2).or_default().insert("10.9.0.0/16".parse().unwrap());
        held.networks.entry(1).or_default().remove(&"fd00::/8".parse().unwrap());
        for limit in 1..40 {
            assert!(differences(&wanted, &wanted, limit).is_empty(), "{limit}");
            let found = differences(&wanted, &held, limit);
            assert_eq!(found.len(), 5, "{limit}: {found:?}");
            assert!(matches!(found[0], Difference::Missing(MapOp::PutDevice(2, _))), "{found:?}");
            assert!(matches!(found[1], Difference::Wrong(MapOp::PutSlot(1, _), _)), "{found:?}");
            assert!(matches!(found[2], Difference::Extra(MapOp::PutDevice(9, _))), "{found:?}");
            assert!(matches!(found[3], Difference::Extra(MapOp::PutNetwork(2, _))), "{found:?}");
            assert!(matches!(found[4], Difference::Missing(MapOp::PutNetwork(1, _))), "{found:?}");
        }
    }
}
