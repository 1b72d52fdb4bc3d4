//! Binding a fragment: giving it ids and slots, and writing it into the image; and the way back.
//!
//! A fragment is bound wholly or not at all. Room is checked before anything is taken, so that a Service that does not
//! fit uses up nothing while it is tried again and again.

use super::backends::octets;
use super::fragment::{Entry, Fragment, Member};
use super::renderer::{Refusal, Renderer};
use super::sets::{Slots, run};
use crate::model::Place;
use crate::objects::{IpFamily, Key};
use lb_common::{Affinity, Owned, Peer, Service, ServiceKey, Slot, maps};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

/// A fragment and what it got.
#[derive(Clone, Debug, Default)]
pub(super) struct Bound {
    pub(super) fragment: Fragment,
    /// For each entry that was bound, its record and its set.
    entries: Vec<(ServiceKey, Slots)>,
}

/// A fragment that gave back what it had.
pub(super) struct Released {
    fragment: Fragment,
    /// For each entry, the record it had.
    records: Vec<ServiceKey>,
}

/// What the frontends of one Service port share where clients keep their backends.
struct Affinities {
    /// `None`: they do not.
    ticks: Option<u32>,
    /// For each Service port and family the id of its first frontend's record. That is the ClusterIP's, which lasts as long as
    /// the Service does.
    ids: HashMap<(usize, IpFamily), u32>,
}

impl Affinities {
    /// The timeout and the id for a frontend whose record has this id; zeros where clients do not keep their backends.
    fn of(&mut self, entry: &Entry, id: u32) -> (u32, u32) {
        let Some(ticks) = self.ticks else { return (0, 0) };
        (ticks, *self.ids.entry((entry.service_port, entry.family)).or_insert(id))
    }
}

/// Runs of slots set aside for sets that are not published yet.
type Reserved = HashMap<Arc<[Member]>, u32>;

impl Renderer {
    /// Gives the fragment its ids and slots and writes it into the image.
    pub(super) fn acquire(&mut self, service: &Key, fragment: Fragment) -> Result<Bound, Refusal> {
        self.check_room(&fragment)?;
        let mut reserved = self.reserve(&fragment)?;
        for (address, locality) in &fragment.backends {
            self.backends.acquire(*address, *locality);
        }
        let mut entries = Vec::with_capacity(fragment.entries.len());
        let mut affinity = Affinities { ticks: fragment.affinity_seconds.map(Affinity::ticks), ids: HashMap::new() };
        for entry in &fragment.entries {
            let (key, slots) = self.acquire_entry(service, entry, &mut reserved, &mut affinity);
            // What another Service has taken over is not in the fragment any more.
            let cluster = entry.cluster.filter(|cluster| fragment.serves(*cluster, entry.protocol));
            self.name_cluster(key, cluster);
            entries.push((key, slots));
        }
        Ok(Bound { fragment, entries })
    }

    /// Gives a Service back what it had before in this render, except what another one has taken over.
    pub(super) fn acquire_again(&mut self, service: &Key, before: Released) -> Result<Bound, Refusal> {
        let Released { mut fragment, records } = before;
        let mut keys = records.iter();
        fragment.entries.retain(|_| keys.next().is_some_and(|key| !self.records.is_of_another(*key, service)));
        self.acquire(service, fragment)
    }

    /// Gives back what a Service had, until the end of the render for itself or another to take.
    pub(super) fn release(&mut self, service: &Key, bound: Bound) -> Released {
        for (address, locality) in &bound.fragment.backends {
            self.backends.release(*address, *locality);
        }
        for (entry, (key, slots)) in bound.fragment.entries.iter().zip(&bound.entries) {
            if let Place::Address(address) = entry.place {
                self.addresses.release(address);
            }
            self.records.release(*key, service);
            self.sets.release(slots);
        }
        let (records, sets): (Vec<_>, Vec<_>) = bound.entries.into_iter().unzip();
        self.unused_sets.extend(sets);
        Released { fragment: bound.fragment, records }
    }

    /// At the end of a render: takes out of the image what nobody has taken over.
    pub(super) fn retire(&mut self) {
        for key in self.records.retire() {
            self.image.services.remove(&key);
            self.touch(|touched| touched.services.insert(key));
            self.name_cluster(key, None);
        }
        for slots in std::mem::take(&mut self.unused_sets) {
            let Some(set) = self.sets.retire(&slots) else { continue };
            let (base, length) = run(set);
            for index in base..base + length {
                self.image.slots.remove(&index);
            }
        }
        for (address, owned) in self.addresses.update() {
            match owned {
                Some(owned) => drop(self.image.owned.insert(address, owned)),
                None => drop(self.image.owned.remove(&address)),
            }
            self.touch(|touched| touched.owned.insert(address));
        }
        for (id, backend) in self.host.as_ref().map_or_else(Vec::new, |host| self.backends.update(host)) {
            self.image.backends.insert(id, backend);
            self.touch(|touched| touched.backends.insert(id));
        }
    }

    /// Whether there are ids for everything in the fragment.
    fn check_room(&self, fragment: &Fragment) -> Result<(), Refusal> {
        let refuse = |(map, capacity)| Err(Refusal::Full { map, capacity });
        let new_backends = fragment.backends.keys().filter(|address| self.backends.get(**address).is_none()).count();
        if new_backends > self.backends.ids().available() {
            return refuse((maps::BACKENDS, self.backends.ids().capacity()));
        }
        let mut new_addresses = BTreeSet::new();
        let mut new_records = BTreeSet::new();
        for entry in &fragment.entries {
            let id = match entry.place {
                Place::Node => Some(Owned::NODE_ID),
                Place::Address(address) => self.addresses.get(address),
            };
            if let (None, Place::Address(address)) = (id, entry.place) {
                new_addresses.insert(address);
            }
            if id.is_none_or(|id| self.records.get(entry.key(id)).is_none()) {
                new_records.insert((entry.place, entry.key(Owned::NODE_ID)));
            }
        }
        if let Some(map) = self.addresses.is_full_for(&new_addresses) {
            return refuse(map);
        }
        self.records.is_full_for(new_records.len()).map_or(Ok(()), refuse)
    }

    /// Sets slots aside for those sets of the fragment that are not published yet.
    fn reserve(&mut self, fragment: &Fragment) -> Result<Reserved, Refusal> {
        let mut reserved = Reserved::new();
        for members in fragment.entries.iter().map(|entry| &entry.members) {
            let is_published = self.slots(members).is_some_and(|slots| self.sets.contains(&slots));
            if is_published || reserved.contains_key(members) {
                continue;
            }
            let length = u16::try_from(members.len()).map_err(|_| Refusal::TooManyEndpoints { count: members.len() });
            let capacity = self.sets.capacity();
            let base = length.and_then(|length| {
                self.sets.reserve(length.into()).ok_or(Refusal::Full { map: maps::SLOTS, capacity })
            });
            match base {
                Ok(base) => drop(reserved.insert(Arc::clone(members), base)),
                Err(refusal) => {
                    for (members, base) in reserved {
                        self.sets.undo(base, members.len() as u32);
                    }
                    return Err(refusal);
                }
            }
        }
        Ok(reserved)
    }

    fn acquire_entry(
        &mut self,
        service: &Key,
        entry: &Entry,
        reserved: &mut Reserved,
        affinity: &mut Affinities,
    ) -> (ServiceKey, Slots) {
        let slots = self.slots(&entry.members).expect("the fragment's backends were acquired");
        if let Some(base) = reserved.remove(&entry.members) {
            self.sets.publish(Arc::clone(&slots), base);
            for (index, slot) in (base..).zip(slots.iter()) {
                self.image.slots.insert(index, *slot);
                self.touch(|touched| touched.slots.insert(index));
            }
        }
        let address = match entry.place {
            Place::Node => Owned::NODE_ID,
            Place::Address(address) => self.addresses.acquire(address),
        };
        let key = entry.key(address);
        let id = self.records.acquire(key, service).expect("room was checked");
        let (backends, target_port) = (self.sets.acquire(&slots), entry.target_port.to_be_bytes());
        let (affinity_ticks, affinity_id) = affinity.of(entry, id);
        let record = Service { backends, id, target_port, flags: 0, affinity_ticks, affinity_id };
        self.image.services.insert(key, record);
        self.touch(|touched| touched.services.insert(key));
        (key, slots)
    }

    /// Says by which address of its own the Service port behind a UDP node port is reached.
    fn name_cluster(&mut self, key: ServiceKey, cluster: Option<SocketAddr>) {
        let before = match cluster {
            Some(cluster) => {
                let (address, family) = octets(cluster.ip());
                let peer = Peer::new(family, key.protocol, address, cluster.port().to_be_bytes());
                self.image.node_ports.insert(key, peer)
            }
            None => self.image.node_ports.remove(&key),
        };
        if before != self.image.node_ports.get(&key).copied() {
            self.touch(|touched| touched.node_ports.insert(key));
        }
    }

    /// The content of the set of these members; `None` if one has no backend record.
    fn slots(&self, members: &[Member]) -> Option<Slots> {
        let slot = |member: &Member| {
            let (backend, generation) = self.backends.get(member.address)?;
            Some(Slot { backend, port: member.port.to_be_bytes(), generation })
        };
        members.iter().map(slot).collect()
    }
}
