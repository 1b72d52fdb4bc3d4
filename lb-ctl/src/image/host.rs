//! What the image takes from the host: settings, addresses, interfaces, and which addresses are behind this node.

use ipnet::IpNet;
use lb_common::{Device, Settings};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The host as far as the image depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Seed, and the addresses and ports lent to translated connections. A daemon that starts takes the seed from the
    /// settings that the maps hold.
    pub settings: Settings,
    /// Addresses of the node, on which allocated node ports are ours.
    pub node_addresses: BTreeSet<IpAddr>,
    /// Whether addresses are behind this node; asked for endpoints whose node nobody named.
    pub routes: Routes,
    /// Interfaces by ifindex.
    pub devices: BTreeMap<u32, Device>,
}

impl HostFacts {
    /// Whether a backend with this address has its replies come through this node by themselves.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.node_addresses.contains(&address) || self.routes.is_local(address)
    }
}

/// Prefixes of the node's routes, each with whether what it leads to is behind this node. The longest prefix counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    prefixes: BTreeMap<IpNet, bool>,
    /// The lengths that occur, longest first.
    lengths: Vec<u8>,
}

impl FromIterator<(IpNet, bool)> for Routes {
    fn from_iter<T: IntoIterator<Item = (IpNet, bool)>>(routes: T) -> Self {
        let prefixes: BTreeMap<IpNet, bool> = routes.into_iter().map(|(net, local)| (net.trunc(), local)).collect();
        let lengths: BTreeSet<u8> = prefixes.keys().map(IpNet::prefix_len).collect();
        Self { prefixes, lengths: lengths.into_iter().rev().collect() }
    }
}

impl Routes {
    /// Whether the most specific route to `address` leads behind this node.
    pub fn is_local(&self, address: IpAddr) -> bool {
        let mut nets = self.lengths.iter().filter_map(|length| IpNet::new(address, *length).ok());
        nets.find_map(|net| self.prefixes.get(&net.trunc())).copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_counts() {
        let routes = [("0.0.0.0/0", false), ("10.244.0.0/16", true), ("10.244.2.0/24", false), ("fd00:1::/64", true)];
        let routes: Routes = routes.into_iter().map(|(net, local)| (net.parse().unwrap(), local)).collect();
        for (address, local) in [
            ("192.0.2.1", false),
            ("10.244.1.7", true),
            ("10.244.2.7", false),
            ("fd00:1::7", true),
            ("fd00:2::7", false),
        ] {
            assert_eq!(routes.is_local(address.parse().unwrap()), local, "{address}");
        }
        assert!(!Routes::default().is_local("10.0.0.1".parse().unwrap()));
    }
}
