//! What becomes of each map between two images, in numbers.

use super::Image;
use ipnet::IpNet;
use lb_common::maps;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What becomes of the entries of one map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapChange {
    /// Name of the map.
    pub map: &'static str,
    /// Entries before.
    pub before: usize,
    /// Entries after.
    pub after: usize,
    /// Keys that were not there before.
    pub added: usize,
    /// Keys with another value than before.
    pub changed: usize,
    /// Keys that are there no more.
    pub removed: usize,
}

impl Image {
    /// What becomes of each map on the way to `after`, in the order of a packet through them.
    pub fn changes(&self, after: &Self) -> Vec<MapChange> {
        let v4 = |address: &IpAddr| address.is_ipv4();
        let v6 = |address: &IpAddr| address.is_ipv6();
        let settings = |image: &Self| BTreeMap::from([(0, image.settings)]);
        vec![
            change(maps::SETTINGS, &settings(self), &settings(after), |_| true),
            change(maps::DEVICES, &self.devices, &after.devices, |_| true),
            change(maps::OWNED4, &self.owned, &after.owned, v4),
            change(maps::OWNED6, &self.owned, &after.owned, v6),
            change(maps::SERVICES, &self.services, &after.services, |_| true),
            change(maps::NETWORKS4, &networks(self), &networks(after), |(_, network)| network.addr().is_ipv4()),
            change(maps::NETWORKS6, &networks(self), &networks(after), |(_, network)| network.addr().is_ipv6()),
            change(maps::SLOTS, &self.slots, &after.slots, |_| true),
            change(maps::BACKENDS, &self.backends, &after.backends, |_| true),
            change(maps::NODE_PORTS, &self.node_ports, &after.node_ports, |_| true),
        ]
    }
}

/// Each network of each group.
fn networks(image: &Image) -> BTreeMap<(u32, IpNet), bool> {
    let groups = image.networks.iter();
    groups.flat_map(|(group, networks)| networks.iter().map(|network| ((*group, *network), true))).collect()
}

fn change<K: Ord, V: PartialEq>(
    map: &'static str,
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    is_in: impl Fn(&K) -> bool,
) -> MapChange {
    let mut change = MapChange { map, ..MapChange::default() };
    for (key, value) in before.iter().filter(|(key, _)| is_in(key)) {
        change.before += 1;
        match after.get(key) {
            None => change.removed += 1,
            Some(now) => change.changed += usize::from(now != value),
        }
    }
    change.after = after.keys().filter(|key| is_in(key)).count();
    change.added = change.after - (change.before - change.removed);
    change
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::Owned;

    #[test]
    fn every_key_counts_once_and_in_its_own_map() {
        let image = |addresses: &[(&str, u32)]| Image {
            owned: addresses.iter().map(|(address, id)| (address.parse().unwrap(), Owned(*id))).collect(),
            ..Image::default()
        };
        let before = image(&[("10.0.0.1", 1), ("10.0.0.2", 2), ("10.0.0.3", 3), ("fd00::1", 4)]);
        let after = image(&[("10.0.0.1", 1), ("10.0.0.2", 9), ("10.0.0.4", 5), ("10.0.0.5", 6)]);
        let changes = before.changes(&after);
        let of = |map| *changes.iter().find(|change| change.map == map).unwrap();
        let v4 = MapChange { map: maps::OWNED4, before: 3, after: 4, added: 2, changed: 1, removed: 1 };
        let v6 = MapChange { map: maps::OWNED6, before: 1, after: 0, added: 0, changed: 0, removed: 1 };
        assert_eq!((of(maps::OWNED4), of(maps::OWNED6)), (v4, v6));
        assert_eq!(of(maps::SETTINGS), MapChange { map: maps::SETTINGS, before: 1, after: 1, ..MapChange::default() });
    }
}
