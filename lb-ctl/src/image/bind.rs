//! Binding a fragment: giving it ids and slots, and writing it into the image; and the way back.
//!
//! A fragment is bound wholly or not at all. Room is checked before anything is taken, so that a Service that does not
//! fit uses up nothing while it is tried again and again.

use super::backends::octets;
use super::fragment::{Entry, Fragment};
use super::layout::{Layout, Member, Pool};
use super::renderer::{Refusal, Renderer};
use super::sets::{Slots, run};
use super::withdrawn::Withdrawn;
use crate::objects::{IpFamily, Key};
use lb_common::{Affinity, Peer, Service, ServiceKey, Slot, UDP, maps};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// A fragment and what it got.
#[derive(Clone, Debug, Default)]
pub(super) struct Bound {
    pub(super) fragment: Fragment,
    /// For each entry that was bound, its record and the sets of its pools.
    entries: Vec<(ServiceKey, [Slots; 2])>,
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

/// The sets of a fragment, and the runs of slots set aside for those that are not published yet.
type Reserved = HashMap<Arc<Pool>, (Layout, Option<u32>)>;

impl Renderer {
    /// Gives the fragment its ids and slots and writes it into the image.
    pub(super) fn acquire(&mut self, service: &Key, fragment: Fragment, now: Instant) -> Result<Bound, Refusal> {
        self.check_room(&fragment)?;
        let mut reserved = self.reserve(&fragment, now)?;
        for (address, usage) in &fragment.backends.0 {
            self.backends.acquire(*address, *usage);
        }
        let mut entries = Vec::with_capacity(fragment.entries.len());
        let mut affinity = Affinities { ticks: fragment.affinity_seconds.map(Affinity::ticks), ids: HashMap::new() };
        let mut published: HashMap<&Arc<Pool>, Slots> = HashMap::new();
        for entry in &fragment.entries {
            for pool in entry.pools() {
                if let Some((layout, base)) = reserved.remove(pool) {
                    published.insert(pool, self.publish(pool, &layout, base));
                }
            }
            let slots = entry.pools().map(|pool| Arc::clone(published.get(pool).expect("every pool was reserved")));
            let key = self.acquire_entry(service, entry, &slots, &mut affinity);
            // What another Service has taken over is not in the fragment any more.
            let cluster = entry.cluster.filter(|cluster| fragment.serves(*cluster, entry.protocol));
            self.name_cluster(key, cluster);
            entries.push((key, slots));
        }
        Ok(Bound { fragment, entries })
    }

    /// Gives a Service back what it had before in this render, except what another one has taken over.
    pub(super) fn acquire_again(&mut self, service: &Key, before: Released, now: Instant) -> Result<Bound, Refusal> {
        let Released { mut fragment, records } = before;
        let mut keys = records.iter();
        fragment.entries.retain(|_| keys.next().is_some_and(|key| !self.records.is_of_another(*key, service)));
        self.acquire(service, fragment, now)
    }

    /// Gives back what a Service had, until the end of the render for itself or another to take.
    pub(super) fn release(&mut self, service: &Key, bound: Bound) -> Released {
        self.note_released(&bound);
        for (address, usage) in &bound.fragment.backends.0 {
            self.backends.release(*address, *usage);
        }
        for (key, slots) in &bound.entries {
            if let Some(address) = key.ip() {
                self.addresses.release(address);
            }
            self.records.release(*key, service);
            for slots in slots {
                self.sets.release(slots);
            }
        }
        let (records, sets): (Vec<_>, Vec<_>) = bound.entries.into_iter().unzip();
        self.unused_sets.extend(sets.into_iter().flatten());
        Released { fragment: bound.fragment, records }
    }

    /// At the end of a render: takes out of the image what nobody has taken over.
    pub(super) fn retire(&mut self) {
        for key in self.records.retire() {
            if let Some(service) = self.image.services.remove(&key) {
                self.set_networks(service.id, BTreeSet::new());
            }
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
        let new_backends = fragment.backends.0.keys().filter(|address| self.backends.get(**address).is_none()).count();
        if new_backends > self.backends.ids().available() {
            return refuse((maps::BACKENDS, self.backends.ids().capacity()));
        }
        let keys: BTreeSet<ServiceKey> = fragment.entries.iter().map(Entry::key).collect();
        let new_records = keys.iter().filter(|key| self.records.get(**key).is_none()).count();
        let addresses = keys.iter().filter_map(ServiceKey::ip);
        let new_addresses = addresses.filter(|address| !self.addresses.is_known(*address)).collect();
        if let Some(map) = self.addresses.is_full_for(&new_addresses) {
            return refuse(map);
        }
        if let Some(map) = self.networks.is_full_for(&fragment.entries) {
            return refuse(map);
        }
        self.records.is_full_for(new_records).map_or(Ok(()), refuse)
    }

    /// Lays out the fragment's sets, and sets slots aside for those that are not published yet.
    fn reserve(&mut self, fragment: &Fragment, now: Instant) -> Result<Reserved, Refusal> {
        let mut reserved = Reserved::new();
        for pool in fragment.entries.iter().flat_map(Entry::pools) {
            if reserved.contains_key(pool) {
                continue;
            }
            match self.reserve_one(pool, now) {
                Ok(set) => drop(reserved.insert(Arc::clone(pool), set)),
                Err(refusal) => {
                    for (layout, base) in reserved.into_values() {
                        if let Some(base) = base {
                            self.sets.undo(base, layout.len() as u32);
                        }
                    }
                    return Err(refusal);
                }
            }
        }
        Ok(reserved)
    }

    fn reserve_one(&mut self, pool: &Pool, now: Instant) -> Result<(Layout, Option<u32>), Refusal> {
        let layout = pool.layout()?;
        if self.slots(pool, &layout).is_some_and(|slots| self.sets.contains(&slots)) {
            return Ok((layout, None));
        }
        let capacity = self.sets.capacity();
        match self.sets.reserve(layout.len() as u32, now) {
            Some(base) => Ok((layout, Some(base))),
            None if pool.table_size.is_some() => Err(Refusal::NoRoomForTable { slots: layout.len(), capacity }),
            None => Err(Refusal::Full { map: maps::SLOTS, capacity }),
        }
    }

    /// The content of a set whose backends were acquired. A new one is written to the slots that were set aside for it.
    fn publish(&mut self, pool: &Pool, layout: &Layout, base: Option<u32>) -> Slots {
        let slots = self.slots(pool, layout).expect("the fragment's backends were acquired");
        let Some(base) = base else { return slots };
        if self.sets.contains(&slots) {
            // Another of the fragment's pools comes to the same.
            self.sets.undo(base, slots.len() as u32);
            return slots;
        }
        self.sets.publish(Arc::clone(&slots), base);
        for (index, slot) in (base..).zip(slots.iter()) {
            self.image.slots.insert(index, *slot);
            self.touch(|touched| touched.slots.insert(index));
        }
        slots
    }

    fn acquire_entry(
        &mut self,
        service: &Key,
        entry: &Entry,
        slots: &[Slots; 2],
        affinity: &mut Affinities,
    ) -> ServiceKey {
        let key = entry.key();
        if let Some(address) = key.ip() {
            self.addresses.acquire(address);
        }
        let id = self.records.acquire(key, service).expect("room was checked");
        let [backends, members] = slots.each_ref().map(|slots| self.sets.acquire(slots));
        let target_port = entry.target_port.to_be_bytes();
        let shared = if entry.pool.table_size.is_some() { Service::SAME_EVERYWHERE } else { 0 };
        let flags = entry.flags | shared;
        let (affinity_ticks, affinity_id) = affinity.of(entry, id);
        let record = Service { backends, id, target_port, flags, affinity_ticks, affinity_id, members };
        self.image.services.insert(key, record);
        self.touch(|touched| touched.services.insert(key));
        self.set_networks(id, entry.sources.clone());
        key
    }

    /// Whether the Service that has this record still has this endpoint among those that serve.
    pub(super) fn serves(&self, record: ServiceKey, endpoint: SocketAddr) -> bool {
        let bound = self.records.owner(record).and_then(|owner| self.bound.get(owner));
        bound.is_some_and(|bound| {
            let mut entries = bound.fragment.entries.iter().zip(&bound.entries);
            let entry = entries.find(|(_, (key, _))| *key == record);
            entry.is_some_and(|(entry, _)| bound.fragment.serving.contains(&(entry.service_port, endpoint)))
        })
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

    /// The content of a pool's set; `None` if a backend has no record.
    fn slots(&self, pool: &Pool, layout: &Layout) -> Option<Slots> {
        let slot = |member: &Member| {
            let (backend, generation) = self.backends.get(member.address)?;
            Some(Slot { backend, port: member.port.to_be_bytes(), generation })
        };
        let of_members: Vec<Slot> = pool.members.iter().map(slot).collect::<Option<_>>()?;
        layout.iter().map(|index| of_members.get(*index as usize).copied()).collect()
    }

    /// Notes the endpoints of the Service's UDP ports: not all have slots.
    fn note_released(&mut self, bound: &Bound) {
        for (entry, (key, _)) in bound.fragment.entries.iter().zip(&bound.entries) {
            let Some(service) = self.records.get(*key).filter(|_| key.protocol == UDP) else { continue };
            for endpoint in bound.fragment.serving_of(entry) {
                if let Some((backend, _)) = self.backends.get(endpoint.ip()) {
                    self.released.insert((*key, Withdrawn { service, backend, port: endpoint.port() }));
                }
            }
        }
    }

    /// The endpoints of a service port, those too that get no new connections and keep those they have.
    pub fn endpoints_of(&self, key: ServiceKey) -> impl Iterator<Item = Withdrawn> {
        let bound = self.records.owner(key).and_then(|owner| self.bound.get(owner));
        let entry = bound.and_then(|bound| {
            let (entry, _) = bound.fragment.entries.iter().zip(&bound.entries).find(|(_, (of, _))| *of == key)?;
            Some((self.records.get(key)?, &bound.fragment, entry))
        });
        entry.into_iter().flat_map(move |(service, fragment, entry)| {
            let members = entry.pool.members.iter();
            let port = |member: &Member| if member.port == 0 { entry.target_port } else { member.port };
            let members = members.map(move |member| SocketAddr::new(member.address, port(member)));
            members.chain(fragment.serving_of(entry)).filter_map(move |endpoint| {
                let (backend, _) = self.backends.get(endpoint.ip())?;
                Some(Withdrawn { service, backend, port: endpoint.port() })
            })
        })
    }
}
