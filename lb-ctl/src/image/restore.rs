//! Taking over from a former daemon: what the maps hold is where the renderer starts.
//!
//! Ids are found by content (an address, a service key, the members of a set), so that the same objects render to the
//! same image and the first plan is empty. What no Service claims in the first render is given up in it. Records that
//! contradict each other are not adopted; the first plan removes them.

use super::addresses::Addresses;
use super::backends::Backends;
use super::given::Past;
use super::networks::Networks;
use super::records::Records;
use super::renderer::Renderer;
use super::sets::{Sets, Slots, run};
use crate::maps::{Image, LbMaps};
use crate::model::Views;
use lb_common::{BackendSet, Service, maps};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

impl Renderer {
    /// A renderer that goes on where the maps are. `image` is what [`LbMaps::read`] gave.
    pub fn restore(maps: &dyn LbMaps, image: &Image, now: Instant) -> Self {
        let addresses = Addresses::restore(maps, &image.owned);
        let records = Records::restore(maps, &image.services);
        let backends = Backends::restore(maps.capacity(maps::BACKENDS), &image.backends, now);
        let capacity = maps.capacity(maps::SLOTS);
        let sets = adoptable(image, &backends, capacity);
        let published: BTreeSet<(u32, u32)> = image.services.values().flat_map(Service::sets).map(run).collect();

        let mut start = Image { settings: image.settings, devices: image.devices.clone(), ..Image::default() };
        start.backends.extend(backends.records());
        start.owned.clone_from(&image.owned);
        for (slots, set) in &sets {
            start.slots.extend((set.base()..).zip(slots.iter().copied()));
        }
        let adopted: BTreeSet<BackendSet> = sets.values().copied().collect();
        let known = image.services.iter().filter(|(key, service)| records.get(**key) == Some(service.id));
        for (key, service) in known {
            let known = |set: BackendSet| if adopted.contains(&set) { set } else { BackendSet::EMPTY };
            let [backends, members] = service.sets().map(known);
            start.services.insert(*key, Service { backends, members, ..*service });
        }
        start.node_ports = image.node_ports.clone();
        start.node_ports.retain(|key, _| start.services.contains_key(key));
        Self {
            views: Views::new(),
            refused: BTreeSet::new(),
            released: HashSet::new(),
            image: start,
            host: None,
            bound: BTreeMap::new(),
            addresses,
            records,
            past: past(maps, image),
            unused_sets: sets.keys().cloned().collect(),
            sets: Sets::new(capacity, sets, &published),
            backends,
            networks: Networks::new(maps),
            touched: None,
        }
    }
}

/// The published sets whose slots are all there and name backends that were adopted. They do not overlap.
fn adoptable(image: &Image, backends: &Backends, capacity: u32) -> HashMap<Slots, BackendSet> {
    let adopted: BTreeMap<u32, u16> = backends.records().map(|(id, record)| (id, record.generation)).collect();
    let published: BTreeSet<BackendSet> = image.services.values().flat_map(Service::sets).collect();
    let mut sets = HashMap::new();
    let mut end = 0;
    for set in published.into_iter().filter(|set| set.count() > 0) {
        let (base, length) = run(set);
        let fits = base >= end && base.checked_add(length).is_some_and(|last| last <= capacity);
        let slots: Option<Slots> =
            (base..).take(length as usize).map(|index| image.slots.get(&index).copied()).collect();
        let Some(slots) = slots.filter(|_| fits) else { continue };
        let is_sound = slots.iter().all(|slot| adopted.get(&slot.backend) == Some(&slot.generation));
        if is_sound && !sets.contains_key(&slots) {
            sets.insert(slots, set);
            end = base + length;
        }
    }
    sets
}

/// What was before. Flows that cannot be counted are taken for some that are there.
fn past(maps: &dyn LbMaps, image: &Image) -> Past {
    match (image.settings.seed, maps.has_flows()) {
        (0, Ok(false)) => Past::None,
        (0, _) => Past::Unknown,
        _ => Past::Adopted,
    }
}
