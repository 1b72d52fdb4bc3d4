//! Room for the networks that clients are told by.

use super::fragment::Entry;
use crate::maps::LbMaps;
use ipnet::IpNet;
use lb_common::maps;
use std::collections::BTreeSet;

/// How many networks of each family are in the image, and how many fit.
#[derive(Clone, Debug)]
pub(super) struct Networks {
    held: [usize; 2],
    capacity: [u32; 2],
}

const NAMES: [&str; 2] = [maps::NETWORKS4, maps::NETWORKS6];

impl Networks {
    /// None yet.
    pub(super) fn new(maps: &dyn LbMaps) -> Self {
        Self { held: [0; 2], capacity: NAMES.map(|name| maps.capacity(name)) }
    }

    /// The map in which the networks of these entries do not fit, with its capacity. What they replace counts too: it is
    /// deleted last.
    pub(super) fn is_full_for(&self, entries: &[Entry]) -> Option<(&'static str, u32)> {
        let mut added = [0; 2];
        for network in entries.iter().flat_map(|entry| &entry.sources) {
            added[family(network)] += 1;
        }
        let is_full =
            |index: &usize| added[*index] > 0 && self.held[*index] + added[*index] > self.capacity[*index] as usize;
        (0..NAMES.len()).find(is_full).map(|index| (NAMES[index], self.capacity[index]))
    }

    /// A group has other networks now.
    pub(super) fn replace(&mut self, old: &BTreeSet<IpNet>, new: &BTreeSet<IpNet>) {
        for network in old {
            self.held[family(network)] = self.held[family(network)].saturating_sub(1);
        }
        for network in new {
            self.held[family(network)] += 1;
        }
    }
}

fn family(network: &IpNet) -> usize {
    usize::from(network.addr().is_ipv6())
}
