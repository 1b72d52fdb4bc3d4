//! What in an image refers to something that is missing or means something else. Empty for every image that is
//! rendered, and for the maps at every moment between two writes.

use super::backends::peer_address;
use crate::maps::Image;
use lb_common::{BackendSet, Service, ServiceKey};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Every dangling reference in `image`, in words.
pub fn dangling(image: &Image) -> Vec<String> {
    let mut found = Vec::new();
    for (key, service) in &image.services {
        for set in service.sets() {
            check_set(image, *key, service, set, &mut found);
        }
    }
    let served: BTreeSet<IpAddr> = image.services.keys().filter_map(ServiceKey::ip).collect();
    let of_services = image.owned.iter().filter(|(_, owned)| !owned.is_node());
    for (address, _) in of_services.filter(|(address, _)| !served.contains(*address)) {
        found.push(format!("address {address} is owned, and no service is on it"));
    }
    for (key, peer) in &image.node_ports {
        let address = peer_address(peer).filter(|address| image.owned.contains_key(address));
        let cluster = address.map(|address| ServiceKey::new(address, u16::from_be_bytes(peer.port), key.protocol));
        if !cluster.is_some_and(|cluster| image.services.contains_key(&cluster)) || !image.services.contains_key(key) {
            found.push(format!(
                "{key:?}: the node port is another's, or stands for an address that serves no such port"
            ));
        }
    }
    found
}

fn check_set(image: &Image, key: ServiceKey, service: &Service, set: BackendSet, found: &mut Vec<String>) {
    for index in (set.base()..).take(set.count() as usize) {
        let Some(slot) = image.slots.get(&index) else {
            found.push(format!("{key:?}: slot {index} is not written"));
            continue;
        };
        if slot.port == [0; 2] && service.target_port == [0; 2] {
            found.push(format!("{key:?}: slot {index} has no port, and the service has none for all"));
        }
        match image.backends.get(&slot.backend) {
            None => found.push(format!("{key:?}: slot {index} names backend {}, which is not in use", slot.backend)),
            Some(backend) if backend.generation != slot.generation || backend.family != key.version() => {
                found.push(format!("{key:?}: slot {index} names backend {}, which is another one now", slot.backend));
            }
            Some(backend) if !backend.is_alive() => {
                found.push(format!("{key:?}: slot {index} names backend {}, which is not alive", slot.backend));
            }
            Some(_) => {}
        }
    }
}
