//! Objects and host in, maps up to date: the one way through the system, apart from how objects come and hooks are
//! attached.
//!
//! [`Balancer::observe`] computes what the objects mean on this node; [`Balancer::reconcile`] makes the maps hold it.
//! The caller reconciles only after every source has told its objects: what an earlier daemon left in the maps keeps
//! serving until then.

use super::describe::{self, Known};
use super::events::Events;
use super::host_clients::Destinations;
use super::node;
use super::options::{DetectLocal, NodePortAddresses, PathMode};
use crate::api::catalogue::Catalogue;
use crate::api::{Problem, ServiceDescription};
use crate::host::{HostView, Route};
use crate::image::{Cursor, HostFacts, Inspected, ReconcileError, Reconciler, Refused, Renderer, Withdrawn};
use crate::maps::{LbMaps, MapError};
use crate::model::{Balancing, EndpointView, Model, NodeView, Views};
use crate::objects::{Key, Objects};
use ipnet::IpNet;
use jiff::Timestamp;
use lb_common::{Backend, Device, HostPair, Settings};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Everything the maps follow from.
#[derive(Clone, Debug, Default)]
pub(super) struct Inputs {
    /// The objects of all sources.
    pub(super) objects: Arc<Objects>,
    /// The node's network.
    pub(super) host: Arc<HostView>,
    /// The managed interfaces; `None`: not attached yet, so those of an earlier daemon count.
    pub(super) devices: Option<BTreeMap<u32, Device>>,
    /// The way to the node's own processes.
    pub(super) pair: HostPair,
    /// How connections of Services that say nothing are given to endpoints.
    pub(super) balancing: Balancing,
    /// Keys the hash by which Maglev tables are read.
    pub(super) maglev_seed: u64,
    /// The way of new flows.
    pub(super) path: PathMode,
    /// What tells pods from clients outside, and the networks of the cluster's pods.
    pub(super) pods: (DetectLocal, Vec<IpNet>),
    /// No client of a ClusterIP keeps its address where the reply would not come back through this node by itself.
    pub(super) masquerade_all: bool,
    /// Which of the node's addresses serve node ports; none named: all.
    pub(super) nodeport_addresses: Vec<NodePortAddresses>,
    /// Node ports are not served on loopback.
    pub(super) no_loopback: bool,
}

/// Asks the kernel for the route to an address.
pub(super) type Routing<'a> = &'a dyn Fn(IpAddr) -> Option<Route>;

/// See the [module](self). A clone goes the same way by itself: that is how a change is rehearsed.
#[derive(Clone)]
pub(super) struct Balancer {
    node_name: String,
    /// Addresses to lend, if the node has them.
    wanted_addresses: Vec<IpAddr>,
    reconciler: Reconciler,
    model: Model,
    facts: HostFacts,
    placement: node::Placement,
    /// Sources of the routes that were asked for.
    sources: BTreeMap<IpAddr, Option<IpAddr>>,
    ways: node::WaysToNodes,
    ways_before: BTreeSet<u32>,
    events: Events,
    refused: Vec<Refused>,
    objects: Arc<Objects>,
    /// Where Services are, with the networks that this was asked for; until the addresses change.
    destinations: Option<(Vec<IpNet>, Arc<Destinations>)>,
    adopted: bool,
}

impl Balancer {
    /// Takes over what the maps hold.
    pub(super) fn adopt(
        maps: &dyn LbMaps,
        node_name: String,
        wanted_addresses: Vec<IpAddr>,
        now: Instant,
    ) -> Result<Self, MapError> {
        let reconciler = Reconciler::adopt(maps, now)?;
        let realized = reconciler.realized();
        let adopted = realized.settings.seed != 0;
        let settings =
            Settings { seed: if adopted { realized.settings.seed } else { new_seed() }, ..realized.settings };
        let facts = HostFacts { settings, devices: realized.devices.clone(), ..HostFacts::default() };
        Ok(Self {
            node_name,
            wanted_addresses,
            reconciler,
            model: Model::default(),
            facts,
            placement: node::Placement::default(),
            sources: BTreeMap::new(),
            ways: node::WaysToNodes::default(),
            ways_before: BTreeSet::new(),
            events: Events::default(),
            refused: Vec::new(),
            objects: Arc::default(),
            destinations: None,
            adopted,
        })
    }

    /// The addresses that connections go to by what the maps hold.
    pub(super) fn served(&self) -> HashSet<IpAddr> {
        let backends = self.realized().backends.values().filter(|backend| backend.is_alive());
        backends.filter_map(Backend::ip).collect()
    }

    /// Whether the maps of an earlier daemon were taken over.
    pub(super) fn adopted(&self) -> bool {
        self.adopted
    }

    /// Computes what the objects mean on this node now. Writes nothing.
    pub(super) fn observe(&mut self, inputs: &Inputs, route_to: Routing<'_>, time: Timestamp) {
        let host = &inputs.host;
        let addresses = node::addresses(host);
        let manifest = inputs.objects.nodes.get(&Key::new("", &self.node_name)).map(Arc::as_ref);
        let (serving, silent) = node::nodeport_addresses(&addresses, &inputs.nodeport_addresses, manifest);
        self.facts.silent_addresses = silent.iter().copied().collect();
        self.facts.pods = node::pod_networks(&inputs.pods, manifest);
        self.facts.kept = node::kept_networks(inputs.pods.0, &self.facts.pods, inputs.masquerade_all);
        let node = NodeView {
            name: self.node_name.clone(),
            addresses: serving,
            silent,
            zones: node::zones(&inputs.objects),
            balancing: inputs.balancing,
        };
        let before = self.model.views().clone();
        self.model.update(&inputs.objects, &node);
        self.events.note(&before, self.model.views(), time);
        self.objects = Arc::clone(&inputs.objects);

        if let Some(devices) = &inputs.devices {
            self.facts.devices.clone_from(devices);
        }
        let managed = self.facts.devices.keys().copied();
        let known = &mut self.sources;
        let source_to = |to| *known.entry(to).or_insert_with(|| route_to(to).and_then(|route| route.prefsrc));
        let (v4, v6) =
            node::lent_addresses(&self.wanted_addresses, host, &inputs.objects, &self.node_name, managed, source_to);
        let settings = Settings {
            seed: self.facts.settings.seed,
            shared_seed: inputs.maglev_seed,
            netns_cookie: host.namespace,
            snat4: Settings::lent(v4.into_iter().map(|address| address.octets())),
            snat6: Settings::lent(v6.into_iter().map(|address| address.octets())),
            snat_port_first: Settings::SNAT_PORTS.0,
            snat_port_last: Settings::SNAT_PORTS.1,
            flags: if inputs.path == PathMode::Stack { Settings::STACK } else { 0 }
                | if inputs.no_loopback { Settings::NO_LOOPBACK } else { 0 },
            host: inputs.pair,
        };
        if self.facts.settings != settings {
            self.facts.settings = settings;
            self.destinations = None;
        }
        self.facts.node_addresses = addresses.into_iter().collect();
        let devices = &self.facts.devices;
        self.facts.routes =
            self.placement.routes(self.model.views(), |address| node::is_behind(address, host, devices, route_to));
    }

    /// Asks the kernel anew where endpoints are that nobody placed on a node: routes may have changed.
    pub(super) fn forget_routes(&mut self) {
        self.placement.forget();
        self.sources.clear();
        self.ways.forget();
    }

    /// The host's network, with the interfaces marked by which the nodes among `objects` are reached, and whether these
    /// are others than before.
    pub(super) fn survey(
        &mut self,
        host: &HostView,
        objects: &Objects,
        route_to: Routing<'_>,
    ) -> (Arc<HostView>, bool) {
        let ways = self.ways.interfaces(objects, &self.node_name, route_to);
        let view = host.with_ways_to_nodes(&ways);
        let moved = self.ways_before != ways;
        self.ways_before = ways;
        (Arc::new(view), moved)
    }

    /// Makes the maps hold what was observed last. Says how many writes it took.
    pub(super) fn reconcile(&mut self, maps: &mut dyn LbMaps, now: Instant) -> Result<usize, ReconcileError> {
        let done = self.reconciler.reconcile(maps, self.model.views(), &self.facts, now)?;
        if done.addresses_changed {
            self.destinations = None;
        }
        self.refused = done.refused;
        Ok(done.writes)
    }

    /// Takes the endpoints that were withdrawn since it was last asked for and whose flows do not move by themselves.
    pub(super) fn take_withdrawn(&mut self) -> HashSet<Withdrawn> {
        self.reconciler.take_withdrawn()
    }

    /// Reads the maps back and repairs what differs. Says how many writes it took.
    pub(super) fn audit(&mut self, maps: &mut dyn LbMaps) -> Result<usize, ReconcileError> {
        self.destinations = None;
        self.reconciler.audit(maps)
    }

    /// Compares a piece of the maps with what they should hold; `None`: they are being brought up to date.
    pub(super) fn inspect(
        &self,
        maps: &dyn LbMaps,
        cursor: Cursor,
        limit: usize,
    ) -> Result<Option<Inspected>, MapError> {
        self.reconciler.inspect(maps, cursor, limit)
    }

    /// Takes nothing for granted of what the maps hold: the next round reads them back.
    pub(super) fn doubt(&mut self) {
        self.reconciler.doubt();
    }

    /// When to reconcile again although nothing has changed.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.reconciler.renderer().next_expiry()
    }

    /// What can be listed now.
    pub(super) fn catalogue(&self) -> Catalogue {
        Catalogue { objects: Objects::clone(&self.objects), services: self.model.views().clone() }
    }

    /// The Services as this node sees them.
    pub(super) fn views(&self) -> &Views {
        self.model.views()
    }

    /// The addresses that node ports answer on.
    pub(super) fn node_addresses(&self) -> Vec<IpAddr> {
        self.facts.node_addresses.difference(&self.facts.silent_addresses).copied().collect()
    }

    /// The addresses lent to connections that need source translation.
    pub(super) fn lent_addresses(&self) -> Vec<IpAddr> {
        let Settings { snat4, snat6, .. } = self.facts.settings;
        let all = snat4.map(IpAddr::from).into_iter().chain(snat6.map(IpAddr::from));
        all.filter(|address| !address.is_unspecified()).collect()
    }

    /// Where Services are, as far as the node has a source of the family to use towards them: these networks, and every
    /// address outside of them that is a Service's.
    pub(super) fn destinations(&mut self, networks: &[IpNet]) -> Arc<Destinations> {
        if let Some((of, known)) = &self.destinations
            && of == networks
        {
            return Arc::clone(known);
        }
        let sources = self.lent_addresses();
        let source = |to: IpAddr| sources.iter().copied().find(|source| source.is_ipv4() == to.is_ipv4());
        let owned = self.realized().owned.iter().filter(|(_, owned)| !owned.is_node()).map(|(address, _)| *address);
        let outside = owned.filter(|address| !networks.iter().any(|network| network.contains(address)));
        let all = networks.iter().copied().chain(outside.map(IpNet::from));
        let all = Arc::new(all.filter_map(|to| Some((to, source(to.addr())?))).collect());
        self.destinations = Some((networks.to_vec(), Arc::clone(&all)));
        all
    }

    /// The ids of frontends.
    pub(super) fn renderer(&self) -> &Renderer {
        self.reconciler.renderer()
    }

    /// What the maps hold, as far as is known.
    pub(super) fn realized(&self) -> &crate::maps::Image {
        self.reconciler.realized()
    }

    /// What keeps Services, or parts of them, from being served.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let missing = self.wanted_addresses.iter().filter(|address| !self.facts.node_addresses.contains(address));
        let missing = missing.map(|address| Problem {
            subject: format!("SNAT address {address}"),
            message: "no interface of this node has it, so it is not lent: add it, or name another by --snat-address"
                .to_owned(),
        });
        let of_views = self
            .model
            .views()
            .values()
            .flat_map(|view| view.problems.iter().map(move |message| (&view.key, message.clone())));
        let refused = self.refused.iter().map(|refused| (&refused.service, refused.refusal.to_string()));
        let all = of_views.chain(refused);
        all.map(|(key, message)| Problem { subject: format!("service {key}"), message }).chain(missing).collect()
    }

    /// The description of a Service, or `None` if there is none.
    pub(super) fn describe(
        &self,
        key: &Key,
        source: String,
        maps: &dyn LbMaps,
    ) -> Option<Result<ServiceDescription, MapError>> {
        let service = self.objects.services.get(key)?;
        let view = self.model.views().get(key)?;
        let refused = self.refused.iter().filter(|refused| refused.service == *key);
        let node_addresses = self.node_addresses();
        let known = Known {
            view,
            source,
            events: self.events.of(key),
            problems: refused.map(|refused| refused.refusal.to_string()).collect(),
            node_addresses: &node_addresses,
            is_local: &|endpoint: &EndpointView| {
                endpoint.local.unwrap_or_else(|| self.facts.is_local(endpoint.address))
            },
        };
        Some(describe::describe(service, &known, self.reconciler.renderer(), maps))
    }
}

/// A seed that clients cannot guess: the standard library seeds its hashers from the kernel's random numbers.
fn new_seed() -> u64 {
    let seed = std::hash::RandomState::new().build_hasher().finish();
    // Zero means that there is none.
    seed.max(1)
}
