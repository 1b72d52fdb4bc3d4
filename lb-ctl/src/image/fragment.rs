//! What one Service contributes to the image, before ids: pure, and comparable, so that only fragments that changed
//! are bound and diffed.

use super::layout::{Member, Pool};
use crate::model::{Place, ServiceView};
use crate::objects::{IpFamily, Protocol};
use lb_common::ServiceKey;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Where one Service is reached and where its connections go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fragment {
    pub(super) entries: Vec<Entry>,
    /// For how many seconds clients keep their backends, if they do.
    pub(super) affinity_seconds: Option<u32>,
    /// The addresses that the entries' members name.
    pub(super) backends: BTreeMap<IpAddr, Locality>,
}

/// One service record: a frontend and its backend set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) place: Place,
    /// Which of the Service's ports it leads to, as they stand in the manifest.
    pub(super) service_port: usize,
    pub(super) port: u16,
    pub(super) protocol: u8,
    pub(super) family: IpFamily,
    /// The port of all members, or zero where they differ (then each says its own) or there is none.
    pub(super) target_port: u16,
    /// Of a UDP node port: where the same Service port is reached by an address of its own.
    pub(super) cluster: Option<SocketAddr>,
    /// Its backends.
    pub(super) pool: Arc<Pool>,
    /// Those that clients keep: none where they do not.
    pub(super) kept: Arc<Pool>,
}

impl Entry {
    /// The key of its record, on the address with this id.
    pub(super) fn key(&self, address: u32) -> ServiceKey {
        ServiceKey::new(address, self.port, self.protocol, self.family.version())
    }

    /// The pools behind [`lb_common::Service::sets`].
    pub(super) fn pools(&self) -> [&Arc<Pool>; 2] {
        [&self.pool, &self.kept]
    }

    /// The port of one of its members.
    pub(super) fn port_of(&self, member: &Member) -> u16 {
        if member.port == 0 { self.target_port } else { member.port }
    }
}

/// What is said about where a backend is. Where sayings differ the greater wins: taking a local backend for a remote
/// one costs a source translation, the opposite loses its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Locality {
    /// Nothing; the node's routes tell.
    Unknown,
    /// It is on this node.
    Local,
    /// It is on another node.
    Remote,
}

impl Locality {
    /// Number of variants.
    pub(super) const COUNT: usize = 3;
}

impl Fragment {
    pub(super) fn of(view: &ServiceView) -> Self {
        let mut fragment = Self { affinity_seconds: view.affinity_seconds, ..Self::default() };
        for (service_port, port) in view.ports.iter().enumerate() {
            let mut sets: BTreeMap<IpFamily, (u16, Arc<Pool>, Arc<Pool>)> = BTreeMap::new();
            let served = || port.frontends.iter().filter(|frontend| frontend.lost_to.is_none());
            for frontend in served() {
                let (target_port, pool, kept) = sets.entry(frontend.family).or_insert_with(|| {
                    let chosen = port.chosen(frontend.family);
                    let (target_port, members) = members(chosen.map(|endpoint| {
                        let locality = match endpoint.local {
                            None => Locality::Unknown,
                            Some(true) => Locality::Local,
                            Some(false) => Locality::Remote,
                        };
                        let known = fragment.backends.entry(endpoint.address).or_insert(locality);
                        *known = locality.max(*known);
                        Member { address: endpoint.address, port: endpoint.port, weight: endpoint.weight }
                    }));
                    let pool = Pool { members, table_size: view.balancing.table_size() };
                    let kept = if view.affinity_seconds.is_some() { pool.each_once() } else { Pool::default() };
                    (target_port, Arc::new(pool), Arc::new(kept))
                });
                let own_addresses = served().filter(|other| other.family == frontend.family);
                let mut clusters = own_addresses.filter_map(|other| match other.place() {
                    Place::Address(address) => Some(SocketAddr::new(address, other.port)),
                    Place::Node => None,
                });
                let is_udp_node_port = frontend.place() == Place::Node && frontend.protocol == Protocol::UDP;
                fragment.entries.push(Entry {
                    place: frontend.place(),
                    service_port,
                    port: frontend.port,
                    protocol: frontend.protocol.number(),
                    family: frontend.family,
                    target_port: *target_port,
                    cluster: if is_udp_node_port { clusters.next() } else { None },
                    pool: Arc::clone(pool),
                    kept: Arc::clone(kept),
                });
            }
        }
        fragment
    }

    /// Whether it has an entry on this address and port.
    pub(super) fn serves(&self, cluster: SocketAddr, protocol: u8) -> bool {
        let on_address = |entry: &Entry| entry.place == Place::Address(cluster.ip());
        self.entries.iter().any(|entry| on_address(entry) && (entry.port, entry.protocol) == (cluster.port(), protocol))
    }
}

/// The members of a set and the port they share. A shared port is taken out of the members, so that sets that differ
/// in nothing else are one.
fn members(members: impl Iterator<Item = Member>) -> (u16, Vec<Member>) {
    let mut members: Vec<Member> = members.collect();
    let first = members.first().map_or(0, |member| member.port);
    if members.iter().any(|member| member.port != first) {
        return (0, members);
    }
    for member in &mut members {
        member.port = 0;
    }
    (first, members)
}
