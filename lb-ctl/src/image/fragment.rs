//! What one Service contributes to the image, before ids: pure, and comparable, so that only fragments that changed
//! are bound and diffed.

use super::layout::{Member, Pool};
use crate::model::{EndpointView, FrontendKind, Place, Policy, ServiceView};
use crate::objects::{IpFamily, Protocol};
use ipnet::IpNet;
use lb_common::{Service, ServiceKey};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Where one Service is reached and where its connections go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fragment {
    pub(super) entries: Vec<Entry>,
    /// For how many seconds clients keep their backends, if they do.
    pub(super) affinity_seconds: Option<u32>,
    /// The addresses of its endpoints that serve.
    pub(super) backends: Backends,
    /// What of these UDP flows may stay with, by Service port.
    pub(super) serving: BTreeSet<(usize, SocketAddr)>,
}

/// Backends by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Backends(pub(super) BTreeMap<IpAddr, Use>);

/// What one Service makes of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    /// What is said about where it is.
    pub(super) locality: Locality,
    /// Whether new connections go there, and not only those that are open.
    pub(super) is_chosen: bool,
}

impl Backends {
    /// Notes the backend of an endpoint.
    fn note(&mut self, endpoint: &EndpointView, is_chosen: bool) {
        let locality = match endpoint.local {
            None => Locality::Unknown,
            Some(true) => Locality::Local,
            Some(false) => Locality::Remote,
        };
        let known = self.0.entry(endpoint.address).or_insert(Use { locality, is_chosen });
        *known = Use { locality: locality.max(known.locality), is_chosen: is_chosen || known.is_chosen };
    }

    /// The member of a set that an endpoint is, whose backend is noted.
    fn member(&mut self, endpoint: &EndpointView) -> Member {
        self.note(endpoint, true);
        Member { address: endpoint.address, port: endpoint.port, weight: endpoint.weight }
    }
}

/// Where the connections of some frontends go.
#[derive(Clone)]
struct Set {
    target_port: u16,
    pool: Arc<Pool>,
    kept: Arc<Pool>,
}

impl Set {
    fn is_empty(&self) -> bool {
        self.pool.members.is_empty()
    }
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
    /// Whether it is for clients within the cluster alone.
    pub(super) is_within: bool,
    /// [`lb_common::Service::flags`].
    pub(super) flags: u16,
    /// The networks whose clients alone are served; empty: everybody.
    pub(super) sources: BTreeSet<IpNet>,
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
    /// The key of its record.
    pub(super) fn key(&self) -> ServiceKey {
        let key = self.place.key(self.port, self.protocol, self.family);
        if self.is_within { key.within() } else { key }
    }

    /// The pools behind [`lb_common::Service::sets`].
    pub(super) fn pools(&self) -> [&Arc<Pool>; 2] {
        [&self.pool, &self.kept]
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
            let mut sets: BTreeMap<(IpFamily, Policy), Set> = BTreeMap::new();
            let served = || port.frontends.iter().filter(|frontend| frontend.lost_to.is_none());
            for frontend in served() {
                let family = frontend.family;
                let mut set = |policy| {
                    let set = sets.entry((family, policy)).or_insert_with(|| {
                        let chosen = port.chosen(family, policy);
                        let (target_port, members) = members(chosen.map(|endpoint| fragment.backends.member(endpoint)));
                        let pool = Pool { members, table_size: view.balancing.table_size() };
                        let kept = if view.affinity_seconds.is_some() { pool.each_once() } else { Pool::default() };
                        Set { target_port, pool: Arc::new(pool), kept: Arc::new(kept) }
                    });
                    set.clone()
                };
                let everybodys = set(frontend.policy);
                let is_scoped = frontend.policy == Policy::Local && frontend.kind != FrontendKind::ClusterIP;
                let is_elsewhere = everybodys.is_empty() && !set(Policy::Cluster).is_empty();
                let flag = |is_set: bool, flag| if is_set { flag } else { 0 };
                let is_internal = frontend.kind == FrontendKind::ClusterIP;
                let everybodys_flags = flag(is_internal, Service::INTERNAL)
                    | flag(is_scoped, Service::SCOPED)
                    | flag(is_elsewhere, Service::ELSEWHERE)
                    | flag(!frontend.sources.is_empty(), Service::RANGED);
                let mut records = vec![(false, everybodys, everybodys_flags, frontend.sources.clone())];
                if is_scoped {
                    records.push((true, set(Policy::Cluster), 0, BTreeSet::new()));
                }
                let cluster = if frontend.place() == Place::Node && frontend.protocol == Protocol::UDP {
                    served().find(|other| other.family == family && other.is_like_node_port_within())
                } else {
                    None
                };
                let cluster = cluster.and_then(|other| match other.place() {
                    Place::Address(address) => Some(SocketAddr::new(address, other.port)),
                    Place::Node => None,
                });
                fragment.entries.extend(records.into_iter().map(
                    |(is_within, Set { target_port, pool, kept }, flags, sources)| Entry {
                        place: frontend.place(),
                        service_port,
                        port: frontend.port,
                        protocol: frontend.protocol.number(),
                        family,
                        is_within,
                        flags,
                        sources,
                        target_port,
                        cluster: cluster.filter(|_| !is_within),
                        pool,
                        kept,
                    },
                ));
            }
            let families: BTreeSet<IpFamily> = served().map(|frontend| frontend.family).collect();
            let may_stay = |endpoint: &&EndpointView| {
                let stays = endpoint.serving || endpoint.chosen || endpoint.chosen_here;
                stays && families.contains(&endpoint.family())
            };
            for endpoint in port.endpoints.iter().filter(may_stay) {
                fragment.backends.note(endpoint, false);
                if port.protocol == Protocol::UDP {
                    fragment.serving.insert((service_port, SocketAddr::new(endpoint.address, endpoint.port)));
                }
            }
        }
        fragment
    }

    /// The endpoints that UDP flows of an entry may stay with.
    pub(super) fn serving_of<'f>(&'f self, entry: &Entry) -> impl Iterator<Item = SocketAddr> + use<'f> {
        let (service_port, is_v4) = (entry.service_port, entry.family == IpFamily::IPv4);
        let of_port =
            self.serving.iter().filter(move |(port, endpoint)| *port == service_port && endpoint.is_ipv4() == is_v4);
        of_port.map(|(_, endpoint)| *endpoint)
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
