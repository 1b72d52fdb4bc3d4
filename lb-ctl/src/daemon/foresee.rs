//! What a change would do, without doing it: the engine's own round, on a copy of itself and over maps in memory.
//!
//! There is no second idea of what a manifest means. The store plans the transaction and takes it back; a clone of the
//! [`Balancer`] sees the objects that came out and reconciles maps that hold what the live ones hold; what it wrote is
//! the plan. What that means for live connections is counted in the flow tables, which takes as long as they are large,
//! so it is left to [`Fates`], away from the engine.

use super::balancer::Balancer;
use super::control::FlowSource;
use super::engine::Engine;
use super::requests::{outcomes, places, refusal, skipped};
use crate::api::plan::{ConnectionPlan, Count, MapPlan, PlanAnswer, ServiceChange, ServicePlan};
use crate::api::{Failure, FailureReason};
use crate::datapath::conntrack::{self, FlowEntry};
use crate::image::{Withdrawn, members, moved_share, redrawn_share};
use crate::manifest::Parsed;
use crate::maps::{FakeMaps, Image, MapChange};
use crate::model::{Frontend, Place, ServiceView};
use crate::objects::{IpFamily, Key, Kind, differences};
use crate::store::SourceId;
use jiff::Timestamp;
use lb_common::{Service, ServiceKey, UDP, maps};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// What would be, with what tells the fate of each connection.
#[derive(Debug, Default)]
pub(super) struct Foreseen {
    answer: PlanAnswer,
    fates: Fates,
}

impl Foreseen {
    /// Completes the answer by what becomes of live connections.
    pub(super) fn count(self, flows: &dyn FlowSource) -> Result<PlanAnswer, Failure> {
        let Self { mut answer, fates } = self;
        if !fates.0.is_empty() {
            flows.each(conntrack::now(), &mut |flow| {
                fates.count(flow, &mut answer);
                true
            })?;
        }
        Ok(answer)
    }
}

/// What becomes of connections, by the id of their service port.
#[derive(Debug, Default)]
struct Fates(HashMap<u32, PortFate>);

#[derive(Debug)]
struct PortFate {
    /// Place of the Service in the answer.
    service: usize,
    /// Its endpoints before and after, those too that get no new connections and keep those they have.
    before: BTreeSet<Withdrawn>,
    after: BTreeSet<Withdrawn>,
    /// Whether the port will be there. The flows of one that is gone are left alone.
    stays: bool,
    /// Whether there will be endpoints that new connections go to.
    is_open: bool,
}

/// One state of the balancer and of the maps that it would have them in.
struct State<'s> {
    balancer: &'s Balancer,
    image: &'s Image,
}

impl Engine {
    /// What would change in the maps if these manifests were applied, or, without any, what is still to be done.
    pub(super) fn foresee(&mut self, parsed: Option<Parsed>, prune: Option<String>) -> Result<Foreseen, Failure> {
        let mut answer = PlanAnswer::default();
        let mut objects = self.store.snapshot();
        if let Some(mut parsed) = parsed {
            let removed = self.left_over(&mut parsed, prune);
            answer.skipped.extend(parsed.skipped.iter().map(skipped));
            let places = places(&parsed);
            let rehearsed = self.store.rehearse(&SourceId::Cli, parsed, removed, Timestamp::now());
            let (then, done) = rehearsed.map_err(refusal)?;
            objects = then;
            answer.warnings.extend(done.warnings.iter().map(ToString::to_string));
            answer.objects = outcomes(done.changes, &places);
        }
        if !self.store.is_synced() {
            answer.warnings.push("not every source has been read: what is still to come is missing here".to_owned());
        }
        let failed = |error: &dyn std::error::Error| Failure::new(FailureReason::InternalError, error.to_string());
        let before = self.maps.read().map_err(|error| failed(&error))?;
        let mut maps = FakeMaps::holding(before.clone(), self.config.max_flows);
        let mut copy = self.balancer.clone();
        copy.doubt();
        let host = Arc::clone(&self.host.borrow());
        let (host, _) = copy.survey(&host, &objects, &*self.route_to);
        copy.observe(&self.inputs(&objects, host), &*self.route_to, Timestamp::now());
        copy.reconcile(&mut maps, self.now()).map_err(|error| failed(&error))?;
        answer.writes = maps.log.len();
        answer.maps = before.changes(copy.realized()).iter().map(|change| self.map_plan(change)).collect();
        let states =
            (State { balancer: &self.balancer, image: &before }, State { balancer: &copy, image: copy.realized() });
        Ok(compare(answer, &states.0, &states.1))
    }

    fn map_plan(&self, change: &MapChange) -> MapPlan {
        let spec = maps::MAPS.iter().find(|spec| spec.name == change.map);
        let size = spec.map_or(0, |spec| spec.key + spec.value);
        MapPlan {
            name: change.map.to_owned(),
            added: change.added,
            changed: change.changed,
            removed: change.removed,
            entries_before: change.before,
            entries_after: change.after,
            capacity: self.maps.capacity(change.map).into(),
            bytes_before: change.before * size,
            bytes_after: change.after * size,
        }
    }
}

/// Completes the answer by what becomes of each Service.
fn compare(mut answer: PlanAnswer, before: &State<'_>, after: &State<'_>) -> Foreseen {
    let named = answer.objects.iter().filter(|applied| applied.object.kind == Kind::Service);
    let mut named: BTreeSet<Key> =
        named.map(|applied| Key::new(&applied.object.namespace, &applied.object.name)).collect();
    let mut fates = Fates::default();
    for key in affected(before, after) {
        let plan = service_plan(&key, answer.services.len(), before, after, &mut fates);
        answer.services.push(plan);
        named.insert(key);
    }
    let of_named = |subject: &str| named.iter().any(|key| subject == format!("service {key}"));
    let problems = after.balancer.problems().into_iter().filter(|problem| of_named(&problem.subject));
    answer.warnings.extend(problems.map(|problem| format!("{}: {}", problem.subject, problem.message)));
    Foreseen { answer, fates }
}

/// The Services whose views are not the same, and those whose records in the maps are not.
fn affected(before: &State<'_>, after: &State<'_>) -> BTreeSet<Key> {
    let views = (before.balancer.views(), after.balancer.views());
    let mut affected: BTreeSet<Key> = differences(views.0, views.1).map(|(key, ..)| key.clone()).collect();
    let differs = |key: &&ServiceKey| before.image.services.get(key) != after.image.services.get(key);
    let keys = before.image.services.keys().chain(after.image.services.keys());
    let records: BTreeSet<ServiceKey> = keys.filter(differs).copied().collect();
    for (state, views) in [(before, views.0), (after, views.1)].into_iter().filter(|_| !records.is_empty()) {
        let is_affected = |view: &ServiceView| state.records(view).any(|record| records.contains(&record.key));
        affected.extend(views.iter().filter(|(_, view)| is_affected(view)).map(|(key, _)| key.clone()));
    }
    affected
}

/// What becomes of one Service. Its ports get their fates, by which connections are counted for the Service in this place
/// of the answer.
fn service_plan(key: &Key, place: usize, before: &State<'_>, after: &State<'_>, fates: &mut Fates) -> ServicePlan {
    let views = (before.balancer.views().get(key), after.balancer.views().get(key));
    let records = |state: &State<'_>, view: Option<&Arc<ServiceView>>| -> BTreeMap<u32, Record> {
        view.into_iter().flat_map(|view| state.records(view)).map(|record| (record.id, record)).collect()
    };
    let (was, is) = (records(before, views.0), records(after, views.1));
    let mut slots_moved: Option<f64> = None;
    for (id, record) in &was {
        let (old, new) = (before.service(record), is.get(id).and_then(|record| after.service(record)));
        let share = old.zip(new).and_then(|(old, new)| share(&before.members(old), &after.members(new), old, new));
        if let Some(share) = share {
            slots_moved = Some(slots_moved.map_or(share, |most| most.max(share)));
        }
        let endpoints = |state: &State<'_>| state.balancer.renderer().endpoints_of(record.key).collect();
        let is_open = new.is_some_and(|service| service.backends.count() > 0);
        fates.0.insert(
            *id,
            PortFate {
                service: place,
                before: endpoints(before),
                after: endpoints(after),
                stays: new.is_some(),
                is_open,
            },
        );
    }
    let change = match views {
        (None, _) => ServiceChange::Added,
        (_, None) => ServiceChange::Removed,
        _ => ServiceChange::Changed,
    };
    ServicePlan {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        change,
        frontends: count(&frontends(views.0), &frontends(views.1)),
        endpoints: count(&endpoints(views.0), &endpoints(views.1)),
        slots_moved,
        connections: ConnectionPlan::default(),
    }
}

/// A record in `SERVICES` of one frontend.
struct Record {
    key: ServiceKey,
    id: u32,
}

impl State<'_> {
    /// The records of a Service's frontends.
    fn records<'v>(&'v self, view: &'v ServiceView) -> impl Iterator<Item = Record> + 'v {
        let frontends = view.ports.iter().flat_map(|port| &port.frontends);
        let ids = frontends.flat_map(|frontend| self.balancer.renderer().records_of(frontend));
        ids.map(|(key, id)| Record { key, id })
    }

    /// A record as the maps have it.
    fn service(&self, record: &Record) -> Option<&Service> {
        self.image.services.get(&record.key).filter(|service| service.id == record.id)
    }

    /// The members of a record's set, by place.
    fn members(&self, service: &Service) -> Vec<Withdrawn> {
        members(self.image, service).collect()
    }
}

/// The share of new connections that go elsewhere when `old` becomes `new`.
fn share(before: &[Withdrawn], after: &[Withdrawn], old: &Service, new: &Service) -> Option<f64> {
    let is_same_key = (old.flags ^ new.flags) & Service::SAME_EVERYWHERE == 0;
    if is_same_key { moved_share(before, after) } else { redrawn_share(before, after) }
}

/// Where clients reach it: an address, or the node's own, and a port.
fn frontends(view: Option<&Arc<ServiceView>>) -> BTreeSet<(Option<IpAddr>, IpFamily, u8, u16)> {
    let served = view.into_iter().flat_map(|view| &view.ports).flat_map(|port| &port.frontends);
    let served = served.filter(|frontend| frontend.lost_to.is_none());
    let place = |frontend: &Frontend| match frontend.place() {
        Place::Address(address) => Some(address),
        Place::Node => None,
    };
    served.map(|of| (place(of), of.family, of.protocol.number(), of.port)).collect()
}

/// Where new connections go.
fn endpoints(view: Option<&Arc<ServiceView>>) -> BTreeSet<(IpAddr, u16)> {
    let ports = view.into_iter().flat_map(|view| &view.ports);
    let chosen = ports.flat_map(|port| &port.endpoints).filter(|endpoint| endpoint.chosen);
    chosen.map(|endpoint| (endpoint.address, endpoint.port)).collect()
}

fn count<T: Ord>(before: &BTreeSet<T>, after: &BTreeSet<T>) -> Count {
    Count {
        before: before.len(),
        after: after.len(),
        added: after.difference(before).count(),
        removed: before.difference(after).count(),
    }
}

impl Fates {
    /// Counts a connection, by the entry that translates what its client sends.
    fn count(&self, flow: &FlowEntry, answer: &mut PlanAnswer) {
        let Some(fate) = self.0.get(&flow.service) else { return };
        let endpoint =
            Withdrawn { service: flow.service, backend: flow.backend, port: flow.rewritten_destination.port() };
        // One whose backend was withdrawn earlier has had its fate.
        let is_withdrawn = fate.before.contains(&endpoint) && !fate.after.contains(&endpoint);
        // Only UDP leaves a backend, and only for what is still a port of a Service.
        let leaves = flow.protocol == UDP && fate.stays;
        let connection = ConnectionPlan {
            total: 1,
            moving: u64::from(is_withdrawn && leaves && fate.is_open),
            lingering: u64::from(is_withdrawn && !leaves),
            ending: u64::from(is_withdrawn && leaves && !fate.is_open),
        };
        answer.connections.add(&connection);
        if let Some(service) = answer.services.get_mut(fate.service) {
            service.connections.add(&connection);
        }
    }
}
