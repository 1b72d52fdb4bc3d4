//! Which records of an image may differ from what the maps hold: what a plan has to look at.

use crate::maps::Image;
use lb_common::ServiceKey;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Keys of records, by map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Touched {
    pub(super) settings: bool,
    pub(super) owned: BTreeSet<IpAddr>,
    pub(super) services: BTreeSet<ServiceKey>,
    /// By group.
    pub(super) networks: BTreeSet<u32>,
    pub(super) slots: BTreeSet<u32>,
    pub(super) backends: BTreeSet<u32>,
    pub(super) node_ports: BTreeSet<ServiceKey>,
    pub(super) devices: BTreeSet<u32>,
}

impl Touched {
    /// Every record of either image.
    pub(super) fn everything(image: &Image, realized: &Image) -> Self {
        Self {
            settings: true,
            owned: keys(&image.owned, &realized.owned),
            services: keys(&image.services, &realized.services),
            networks: keys(&image.networks, &realized.networks),
            slots: keys(&image.slots, &realized.slots),
            backends: keys(&image.backends, &realized.backends),
            node_ports: keys(&image.node_ports, &realized.node_ports),
            devices: keys(&image.devices, &realized.devices),
        }
    }
}

fn keys<K: Ord + Copy, V>(one: &BTreeMap<K, V>, other: &BTreeMap<K, V>) -> BTreeSet<K> {
    one.keys().chain(other.keys()).copied().collect()
}
