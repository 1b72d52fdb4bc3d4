//! What the image takes from the host: settings, addresses, interfaces, and which addresses are behind this node.

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use lb_common::{Device, Settings};
use std::cmp::Reverse;
use std::collections::btree_map::Entry;
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
    /// Those of the node's addresses on which no node port is served.
    pub silent_addresses: BTreeSet<IpAddr>,
    /// Networks of the cluster's pods.
    pub pods: BTreeSet<IpNet>,
    /// Networks whose clients keep their address at ClusterIPs, towards backends of other nodes too.
    pub kept: BTreeSet<IpNet>,
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

/// Prefixes of the node's routes, each with whether what it leads to is behind this node. The longest prefix counts. Cloning
/// is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    prefixes: OrdMap<IpNet, bool>,
    /// The lengths that occur, longest first, and how often.
    lengths: BTreeMap<Reverse<u8>, usize>,
}

impl FromIterator<(IpNet, bool)> for Routes {
    fn from_iter<T: IntoIterator<Item = (IpNet, bool)>>(iter: T) -> Self {
        let mut routes = Self::default();
        iter.into_iter().for_each(|(net, local)| routes.insert(net, local));
        routes
    }
}

impl Routes {
    /// Adds a route, or changes one.
    pub fn insert(&mut self, net: IpNet, local: bool) {
        let net = net.trunc();
        if self.prefixes.insert(net, local).is_none() {
            *self.lengths.entry(Reverse(net.prefix_len())).or_default() += 1;
        }
    }

    /// Takes a route away.
    pub fn remove(&mut self, net: IpNet) {
        let net = net.trunc();
        if self.prefixes.remove(&net).is_some()
            && let Entry::Occupied(mut count) = self.lengths.entry(Reverse(net.prefix_len()))
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Whether the most specific route to `address` leads behind this node.
    pub fn is_local(&self, address: IpAddr) -> bool {
        let mut nets = self.lengths.keys().filter_map(|Reverse(length)| IpNet::new(address, *length).ok());
        nets.find_map(|net| self.prefixes.get(&net.trunc())).copied().unwrap_or(false)
    }

    /// The prefixes of routes that the two do not have in common.
    pub(super) fn differences<'r>(&'r self, other: &'r Self) -> impl Iterator<Item = IpNet> {
        self.prefixes.diff(&other.prefixes).map(|item| match item {
            DiffItem::Add(net, _) | DiffItem::Remove(net, _) | DiffItem::Update { new: (net, _), .. } => *net,
        })
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
