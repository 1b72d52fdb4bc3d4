//! Owned addresses and their ids.
//!
//! An address keeps its id while some service record is on it; an id is not given to a second address (the counter
//! wraps after four billion), so a service record can never be reached through an address it is not for.

use crate::maps::LbMaps;
use lb_common::{Owned, maps};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Every owned address in the image.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    entries: BTreeMap<IpAddr, Entry>,
    /// Addresses of the node itself; where one is a Service's too, the node's role counts.
    node: BTreeSet<IpAddr>,
    /// Those of them on which no node port is served.
    silent: BTreeSet<IpAddr>,
    ids: BTreeSet<u32>,
    next: u32,
    /// Given up in the image, but perhaps not yet in the maps: they still take room.
    leaving: BTreeSet<IpAddr>,
    changed: BTreeSet<IpAddr>,
    /// Entries of the maps for IPv4 and IPv6.
    capacity: [u32; 2],
}

#[derive(Clone, Debug)]
struct Entry {
    id: u32,
    uses: u32,
}

impl Addresses {
    /// Takes over the ids of a former daemon; of two addresses with one id the first.
    pub(super) fn restore(maps: &dyn LbMaps, owned: &BTreeMap<IpAddr, Owned>) -> Self {
        let mut addresses = Self {
            entries: BTreeMap::new(),
            node: BTreeSet::new(),
            silent: BTreeSet::new(),
            ids: BTreeSet::from([Owned::NODE_ID]),
            next: 1,
            leaving: BTreeSet::new(),
            changed: owned.keys().copied().collect(),
            capacity: [maps.capacity(maps::OWNED4), maps.capacity(maps::OWNED6)],
        };
        for (&address, record) in owned {
            if record.is_node() {
                addresses.node.insert(address);
            } else if addresses.ids.insert(record.id) {
                addresses.entries.insert(address, Entry { id: record.id, uses: 0 });
            }
        }
        addresses.next = addresses.ids.last().and_then(|last| last.checked_add(1)).unwrap_or(1);
        addresses
    }

    /// The id of an address that a service record is on.
    pub(super) fn get(&self, address: IpAddr) -> Option<u32> {
        self.entries.get(&address).map(|entry| entry.id)
    }

    /// Whether an id belongs to an address.
    pub(super) fn knows(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }

    /// The map in which these new addresses do not fit, with its capacity.
    pub(super) fn is_full_for(&self, new: &BTreeSet<IpAddr>) -> Option<(&'static str, u32)> {
        [(maps::OWNED4, true), (maps::OWNED6, false)].into_iter().zip(self.capacity).find_map(
            |((map, is_v4), capacity)| {
                let of_family =
                    |set: &BTreeSet<IpAddr>| set.iter().filter(|address| address.is_ipv4() == is_v4).count();
                let added = of_family(new);
                // Counting is for the rare case: none can be full before all together are as many.
                let total = self.entries.len() + self.node.len() + self.leaving.len() + added;
                if added == 0 || total <= capacity as usize {
                    return None;
                }
                let held = self.entries.keys().filter(|address| address.is_ipv4() == is_v4).count();
                let taken = held + of_family(&self.node) + of_family(&self.leaving) + added;
                (taken > capacity as usize).then_some((map, capacity))
            },
        )
    }

    /// One more service record is on `address`.
    pub(super) fn acquire(&mut self, address: IpAddr) -> u32 {
        if !self.entries.contains_key(&address) {
            let id = self.fresh_id();
            self.leaving.remove(&address);
            self.entries.insert(address, Entry { id, uses: 0 });
        }
        self.changed.insert(address);
        self.entries.get_mut(&address).map_or(Owned::NODE_ID, |entry| {
            entry.uses += 1;
            entry.id
        })
    }

    /// One service record fewer is on `address`.
    pub(super) fn release(&mut self, address: IpAddr) {
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.uses = entry.uses.saturating_sub(1);
            self.changed.insert(address);
        }
    }

    /// The addresses of the node are these, and those of them that serve no node ports these.
    pub(super) fn set_node(&mut self, node: &BTreeSet<IpAddr>, silent: &BTreeSet<IpAddr>) {
        self.changed.extend(self.node.symmetric_difference(node));
        self.changed.extend(self.silent.symmetric_difference(silent));
        self.node.clone_from(node);
        self.silent.clone_from(silent);
    }

    /// Forgets addresses without records, and gives the record of each address that changed.
    pub(super) fn update(&mut self) -> Vec<(IpAddr, Option<Owned>)> {
        let mut records = Vec::with_capacity(self.changed.len());
        for address in std::mem::take(&mut self.changed) {
            if self.entries.get(&address).is_some_and(|entry| entry.uses == 0)
                && let Some(entry) = self.entries.remove(&address)
            {
                self.ids.remove(&entry.id);
            }
            let record = if self.node.contains(&address) {
                let is_silent = self.silent.contains(&address);
                Some(Owned::new(if is_silent { Owned::SILENT_ID } else { Owned::NODE_ID }))
            } else {
                self.get(address).map(Owned::new)
            };
            if record.is_none() {
                self.leaving.insert(address);
            }
            records.push((address, record));
        }
        records
    }

    /// The maps hold the image.
    pub(super) fn settle(&mut self) {
        self.leaving.clear();
    }

    fn fresh_id(&mut self) -> u32 {
        loop {
            let id = self.next;
            self.next = id.checked_add(1).filter(|next| *next < Owned::SILENT_ID).unwrap_or(1);
            if self.ids.insert(id) {
                return id;
            }
        }
    }
}
