//! Owned addresses: those of the node, and those that a service record is on.

use crate::maps::LbMaps;
use lb_common::{Owned, maps};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Every owned address in the image.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    /// How many service records are on each that is a Service's.
    uses: BTreeMap<IpAddr, u32>,
    /// Addresses of the node itself. Where one is a Service's too, what that does not serve is the node's.
    node: BTreeSet<IpAddr>,
    /// Those of them on which no node port is served.
    silent: BTreeSet<IpAddr>,
    /// Given up in the image, but perhaps not yet in the maps: they still take room.
    leaving: BTreeSet<IpAddr>,
    changed: BTreeSet<IpAddr>,
    /// Entries of the maps for IPv4 and IPv6.
    capacity: [u32; 2],
}

impl Addresses {
    /// Takes over what a former daemon had.
    pub(super) fn restore(maps: &dyn LbMaps, owned: &BTreeMap<IpAddr, Owned>) -> Self {
        let (node, services): (Vec<_>, Vec<_>) = owned.iter().partition(|(_, owned)| owned.is_node());
        Self {
            uses: services.into_iter().map(|(address, _)| (*address, 0)).collect(),
            node: node.into_iter().map(|(address, _)| *address).collect(),
            silent: BTreeSet::new(),
            leaving: BTreeSet::new(),
            changed: owned.keys().copied().collect(),
            capacity: [maps.capacity(maps::OWNED4), maps.capacity(maps::OWNED6)],
        }
    }

    /// Whether a service record is on the address.
    pub(super) fn is_known(&self, address: IpAddr) -> bool {
        self.uses.contains_key(&address)
    }

    /// The map in which these new addresses do not fit, with its capacity.
    pub(super) fn is_full_for(&self, new: &BTreeSet<IpAddr>) -> Option<(&'static str, u32)> {
        [(maps::OWNED4, true), (maps::OWNED6, false)].into_iter().zip(self.capacity).find_map(
            |((map, is_v4), capacity)| {
                let of_family =
                    |set: &BTreeSet<IpAddr>| set.iter().filter(|address| address.is_ipv4() == is_v4).count();
                let added = of_family(new);
                // Counting is for the rare case: none can be full before all together are as many.
                let total = self.uses.len() + self.node.len() + self.leaving.len() + added;
                if added == 0 || total <= capacity as usize {
                    return None;
                }
                let held = self.uses.keys().filter(|address| address.is_ipv4() == is_v4).count();
                let taken = held + of_family(&self.node) + of_family(&self.leaving) + added;
                (taken > capacity as usize).then_some((map, capacity))
            },
        )
    }

    /// One more service record is on `address`.
    pub(super) fn acquire(&mut self, address: IpAddr) {
        self.leaving.remove(&address);
        *self.uses.entry(address).or_default() += 1;
        self.changed.insert(address);
    }

    /// One service record fewer is on `address`.
    pub(super) fn release(&mut self, address: IpAddr) {
        if let Some(uses) = self.uses.get_mut(&address) {
            *uses = uses.saturating_sub(1);
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
            if self.uses.get(&address) == Some(&0) {
                self.uses.remove(&address);
            }
            let record = if self.node.contains(&address) {
                Some(if self.silent.contains(&address) { Owned::SILENT } else { Owned::NODE })
            } else {
                self.is_known(address).then_some(Owned::SERVICE)
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
}
