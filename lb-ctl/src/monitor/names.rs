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
            if let Some(view) = old {
                self.change(view, false);
            }
            if let Some(view) = new {
                self.change(view, true);
            }
        }
    }

    /// Adds the names that a view gives, or takes them away.
    fn change(&mut self, view: &ServiceView, comes: bool) {
        for port in &view.ports {
            let label = if port.name.is_empty() { port.port.to_string() } else { port.name.clone() };
            for frontend in port.frontends.iter().filter(|frontend| frontend.lost_to.is_none()) {
                let own = own_address(frontend);
                let asked = (own, frontend.port, frontend.protocol.number());
                change(&mut self.ports, asked, &format!("{}:{label}", view.key), comes);
                if let Some(address) = own {
                    change(&mut self.addresses, address, &view.key.to_string(), comes);
                }
            }
            for endpoint in &port.endpoints {
                if let Some(name) = &endpoint.pod {
                    let name = Key::new(&view.key.namespace, name).to_string();
                    change(&mut self.pods, endpoint.address, &name, comes);
                }
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

/// Adds a name of `key`, or takes it away. Several Services may give the same one.
fn change<K: Eq + Hash + Copy>(names: &mut HashMap<K, Vec<String>>, key: K, name: &str, comes: bool) {
    let all = names.entry(key).or_default();
    if comes {
        all.push(name.to_owned());
    } else if let Some(place) = all.iter().position(|one| one == name) {
        all.remove(place);
    }
    if all.is_empty() {
        names.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FrontendKind;
    use crate::objects::{IpFamily, Protocol};
    use std::sync::Arc;

    fn view(name: &str, address: &str, node_port: u16, pod: &str) -> ServiceView {
        let frontend = |kind, port, addresses: &[&str]| Frontend {
            kind,
            family: IpFamily::IPv4,
            protocol: Protocol::TCP,
            port,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            policy: crate::model::Policy::Cluster,
            sources: std::collections::BTreeSet::default(),
            lost_to: None,
        };
        let json = serde_json::json!({
            "namespace": "shop", "name": name, "type": "NodePort", "headless": false, "source": "pods",
            "ports": [{
                "name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080,
                "frontends": [
                    frontend(FrontendKind::ClusterIP, 80, &[address]),
                    frontend(FrontendKind::NodePort, node_port, &["192.0.2.1"]),
                ],
                "endpoints": [{
                    "address": "10.244.0.5", "port": 8080, "ready": true, "serving": true, "terminating": false,
                    "chosen": true, "chosenHere": true, "pod": pod,
                    "source": { "kind": "Pod", "key": { "namespace": "shop", "name": pod } },
                }],
            }],
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn names_follow_the_views() {
        let table = |views: &[ServiceView]| -> Views {
            views.iter().map(|view| (view.key.clone(), Arc::new(view.clone()))).collect()
        };
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let mut names = Names::of(&table(&[view("web", "10.96.0.1", 30080, "web-1")]));
        assert_eq!(names.service(at("10.96.0.1:80"), 6), Some("shop/web:http"));
        assert_eq!(names.service(at("10.96.0.1:81"), 6), Some("shop/web"), "the address is its own");
        assert_eq!(names.service(at("10.96.0.1:80"), 17), Some("shop/web"));
        assert_eq!(
            names.service(at("192.0.2.99:30080"), 6),
            Some("shop/web:http"),
            "a node port, wherever it was asked for"
        );
        assert_eq!(names.service(at("192.0.2.99:30081"), 6), None);
        assert_eq!(names.pod("10.244.0.5".parse().unwrap()), Some("shop/web-1"));
        names.follow(&table(&[view("web", "10.96.0.2", 30081, "web-2"), view("api", "10.96.0.3", 30082, "web-2")]));
        assert_eq!(names.service(at("10.96.0.1:80"), 6), None);
        assert_eq!(names.service(at("192.0.2.99:30081"), 6), Some("shop/web:http"));
        assert_eq!(names.pod("10.244.0.5".parse().unwrap()), Some("shop/web-2"));
        names.follow(&table(&[view("api", "10.96.0.3", 30082, "web-2")]));
        assert_eq!(names.pod("10.244.0.5".parse().unwrap()), Some("shop/web-2"), "the other Service has it still");
        names.follow(&Views::default());
        assert!(names.ports.is_empty() && names.addresses.is_empty() && names.pods.is_empty());
    }
}
