//! Names for the addresses in events: Services by what clients ask for, pods by where they are.
//!
//! The index follows the views that the maps follow from, by their differences, so that it costs what changes.

use crate::model::{Frontend, Place, ServiceView, Views};
use crate::objects::{Key, differences};
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

/// What clients ask for: an address, or any of the node's; a port, host order; and an IP protocol number.
type Asked = (Option<IpAddr>, u16, u8);

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Names {
    seen: Views,
    /// `namespace/name:port`
    ports: HashMap<Asked, Vec<String>>,
    /// Services by the addresses that are theirs alone.
    addresses: HashMap<IpAddr, Vec<String>>,
    /// `namespace/name` of pods.
    pods: HashMap<IpAddr, Vec<String>>,
}

impl Names {
    /// The names by these views alone.
    pub(super) fn of(views: &Views) -> Self {
        let mut names = Self::default();
        names.follow(views);
        names
    }

    /// Brings the names to what is so now.
    pub(super) fn follow(&mut self, views: &Views) {
        let before = std::mem::replace(&mut self.seen, views.clone());
        for (_, old, new) in differences(&before, views) {
            old.into_iter().for_each(|view| self.change(view, remove, remove, remove));
            new.into_iter().for_each(|view| self.change(view, add, add, add));
        }
    }

    fn change(
        &mut self,
        view: &ServiceView,
        port: impl Fn(&mut HashMap<Asked, Vec<String>>, Asked, String),
        address: impl Fn(&mut HashMap<IpAddr, Vec<String>>, IpAddr, String),
        pod: impl Fn(&mut HashMap<IpAddr, Vec<String>>, IpAddr, String),
    ) {
        for of in &view.ports {
            let label = if of.name.is_empty() { of.port.to_string() } else { of.name.clone() };
            for frontend in of.frontends.iter().filter(|frontend| frontend.lost_to.is_none()) {
                let place = own_address(frontend);
                let asked = (place, frontend.port, frontend.protocol.number());
                port(&mut self.ports, asked, format!("{}:{label}", view.key));
                place.into_iter().for_each(|place| address(&mut self.addresses, place, view.key.to_string()));
            }
            for endpoint in &of.endpoints {
                let name = endpoint.pod.as_ref().map(|name| Key::new(&view.key.namespace, name).to_string());
                name.into_iter().for_each(|name| pod(&mut self.pods, endpoint.address, name));
            }
        }
    }

    /// `namespace/name:port` of the Service that serves this, or `namespace/name` of one that has the address at least.
    pub(super) fn service(&self, frontend: SocketAddr, protocol: u8) -> Option<&str> {
        let at = |place| first(&self.ports, &(place, frontend.port(), protocol));
        let own = || first(&self.addresses, &frontend.ip());
        at(Some(frontend.ip())).or_else(own).or_else(|| at(None))
    }

    /// `namespace/name` of the pod with this address.
    pub(super) fn pod(&self, address: IpAddr) -> Option<&str> {
        first(&self.pods, &address)
    }
}

fn own_address(frontend: &Frontend) -> Option<IpAddr> {
    match frontend.place() {
        Place::Address(address) => Some(address),
        Place::Node => None,
    }
}

fn first<'n, K: Eq + Hash>(names: &'n HashMap<K, Vec<String>>, key: &K) -> Option<&'n str> {
    names.get(key)?.first().map(String::as_str)
}

fn add<K: Eq + Hash>(names: &mut HashMap<K, Vec<String>>, key: K, name: String) {
    names.entry(key).or_default().push(name);
}

fn remove<K: Eq + Hash>(names: &mut HashMap<K, Vec<String>>, key: K, name: String) {
    let Some(all) = names.get_mut(&key) else { return };
    if let Some(place) = all.iter().position(|one| *one == name) {
        all.remove(place);
    }
    if all.is_empty() {
        names.remove(&key);
    }
}
