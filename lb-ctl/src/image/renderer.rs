//! The renderer: the image as it should be, kept up to date one Service at a time.
//!
//! What it gives out (ids, slots, backends) stays with its owner across renders and restarts, and goes to another only
//! after its release was applied to the maps and a rest ([`super::GRACE`], [`super::DRAIN`]). Whatever is released in a
//! render is given up at its end, so that a Service can take over what another one leaves.

use super::HostFacts;
use super::addresses::Addresses;
use super::backends::Backends;
use super::bind::Bound;
use super::fragment::Fragment;
use super::given::{Given, Past};
use super::networks::Networks;
use super::plan::{plan, plan_touched};
use super::records::Records;
use super::sets::{Sets, Slots};
use super::touched::Touched;
use super::withdrawn::Withdrawn;
use crate::maps::{Image, MapOp};
use crate::model::{Frontend, Views};
use crate::objects::{Key, differences};
use ipnet::IpNet;
use lb_common::network::{KEPT, PODS};
use lb_common::{BackendSet, ServiceKey};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Instant;

/// Why a Service, or a change of it, is not in the image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A map has no room for it.
    #[error("map {map} is full: it holds {capacity} entries; raise --max-flows, which sizes every map")]
    Full {
        /// Name of the map.
        map: &'static str,
        /// Its entries.
        capacity: u32,
    },
    /// A backend set counts its slots in 20 bits, and an endpoint has as many as its weight.
    #[error("the weights of the endpoints behind one port add up to {slots}: at most {} fit", BackendSet::MAX_SLOTS)]
    TooManySlots {
        /// Slots that the endpoints would take.
        slots: u32,
    },
    /// There are not even as many places in a Maglev table as endpoints.
    #[error(
        "{endpoints} endpoints behind one port do not fit into a Maglev table of {table_size}: raise --maglev-table-size to a hundred times as many"
    )]
    TableTooSmall {
        /// Endpoints that have a weight.
        endpoints: usize,
        /// Places in the table.
        table_size: u32,
    },
    /// There is no room for one more Maglev table.
    #[error(
        "map SLOTS has no room for one more Maglev table of {slots}: it holds {capacity} entries, the tables of other Services among them, and those given up in the last seconds; lower --maglev-table-size, use the algorithm `random`, or raise --max-flows, which sizes every map"
    )]
    NoRoomForTable {
        /// Slots of the table.
        slots: usize,
        /// Slots of all sets.
        capacity: u32,
    },
}

/// A Service that does not fit. It is served as it was before, if it was, and tried again in every render.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The Service.
    pub service: Key,
    /// Why.
    pub refusal: Refusal,
}

/// Renders views into an image. See the [module](self).
#[derive(Clone, Debug)]
pub struct Renderer {
    /// The views of the last render.
    pub(super) views: Views,
    /// Services that did not fit in the last render.
    pub(super) refused: BTreeSet<Key>,
    pub(super) image: Image,
    /// `None` before the first render.
    pub(super) host: Option<HostFacts>,
    pub(super) bound: BTreeMap<Key, Bound>,
    pub(super) addresses: Addresses,
    pub(super) records: Records,
    pub(super) sets: Sets,
    pub(super) backends: Backends,
    pub(super) networks: Networks,
    /// Endpoints of UDP service ports that were released since it was last asked for, those without slots among them: nothing in the
    /// maps tells that these were there.
    pub(super) released: HashSet<(ServiceKey, Withdrawn)>,
    /// What was before this daemon.
    pub(super) past: Past,
    /// Sets that may have lost their last user.
    pub(super) unused_sets: Vec<Slots>,
    /// What may differ from the maps; `None`: anything.
    pub(super) touched: Option<Touched>,
}

impl Renderer {
    /// Brings the image up to date with all Services, as they are in `views`, and the host. Looks only at views that are
    /// not what they were in the last render. Services that do not fit are told, and do not keep others from being
    /// rendered.
    pub fn render(&mut self, views: &Views, host: &HostFacts, now: Instant) -> Vec<Refused> {
        self.expire(now);
        self.take_host(host);
        let last = std::mem::replace(&mut self.views, views.clone());
        let mut changed = std::mem::take(&mut self.refused);
        changed.extend(differences(&last, views).map(|(key, ..)| key.clone()));
        let mut fragments = BTreeMap::new();
        for key in changed {
            let bound = self.bound.get(&key);
            match views.get(&key).map(|view| Fragment::of(view)) {
                Some(fragment) if bound.is_some_and(|bound| bound.fragment == fragment) => {}
                Some(fragment) => drop(fragments.insert(key, fragment)),
                None => {
                    if let Some(bound) = self.bound.remove(&key) {
                        drop(self.release(&key, bound));
                    }
                }
            }
        }
        let mut refused = Vec::new();
        for (key, fragment) in fragments {
            let before = self.bound.remove(&key).map(|bound| self.release(&key, bound));
            let bound = self.acquire(&key, fragment, now).or_else(|refusal| {
                refused.push(Refused { service: key.clone(), refusal });
                before.map_or(Ok(Bound::default()), |before| self.acquire_again(&key, before, now))
            });
            self.bound.extend(bound.ok().map(|bound| (key, bound)));
        }
        self.refused = refused.iter().map(|refused| refused.service.clone()).collect();
        self.retire();
        refused
    }

    /// The image as of the last render.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The writes that bring the maps from `realized` to the image. Looks only at what changed since
    /// [`Renderer::settle`], so `realized` must be what the maps held then and what was written since.
    pub fn plan(&self, realized: &Image) -> Vec<MapOp> {
        match &self.touched {
            Some(touched) => plan_touched(&self.image, realized, touched),
            None => plan(&self.image, realized),
        }
    }

    /// The maps hold the image now: what was given up begins to rest.
    pub fn settle(&mut self, now: Instant) {
        self.touched = Some(Touched::default());
        self.addresses.settle();
        self.records.settle(now);
        self.sets.settle(now);
        self.backends.settle(now);
    }

    /// When to render again although nothing has changed: a drained backend's record is to be deleted.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.backends.next_expiry()
    }

    /// The counter ids of the service records of a frontend: indexes into `SERVICE_STATS`. None for a frontend that is not
    /// served.
    pub fn service_ids(&self, frontend: &Frontend) -> impl Iterator<Item = u32> {
        self.records_of(frontend).map(|(_, id)| id)
    }

    /// The service records of a frontend, with their counter ids.
    pub fn records_of(&self, frontend: &Frontend) -> impl Iterator<Item = (ServiceKey, u32)> {
        let key = || frontend.place().key(frontend.port, frontend.protocol.number(), frontend.family);
        let key = frontend.lost_to.is_none().then(key);
        key.into_iter().flat_map(|key| [key, key.within()]).filter_map(|key| Some((key, self.records.get(key)?)))
    }

    /// The id of the backend with this address: the index into `BACKEND_STATS`.
    pub fn backend_id(&self, address: IpAddr) -> Option<u32> {
        self.backends.get(address).map(|(id, _)| id)
    }

    /// The ids that were given out, for whoever finds one in a flow.
    pub fn given(&self) -> Given {
        let capacity = self.backends.ids().capacity();
        Given::new(self.past, (self.records.given(), self.backends.given()), capacity)
    }

    /// The Service whose frontend has this record.
    pub fn owner_of(&self, record: ServiceKey) -> Option<&Key> {
        self.records.owner(record)
    }

    fn expire(&mut self, now: Instant) {
        self.records.expire(now);
        self.sets.expire(now);
        for id in self.backends.expire(now) {
            self.image.backends.remove(&id);
            self.touch(|touched| touched.backends.insert(id));
        }
    }

    pub(super) fn touch<T>(&mut self, touch: impl FnOnce(&mut Touched) -> T) {
        self.touched.as_mut().map(touch);
    }

    /// The networks of a group are these.
    pub(super) fn set_networks(&mut self, group: u32, networks: BTreeSet<IpNet>) {
        let held = self.image.networks.get(&group).cloned().unwrap_or_default();
        if held == networks {
            return;
        }
        self.networks.replace(&held, &networks);
        if networks.is_empty() {
            self.image.networks.remove(&group);
        } else {
            self.image.networks.insert(group, networks);
        }
        self.touch(|touched| touched.networks.insert(group));
    }

    fn take_host(&mut self, host: &HostFacts) {
        let last = match self.host.take() {
            Some(last) if last == *host => {
                self.host = Some(last);
                return;
            }
            last => last,
        };
        self.image.settings = host.settings;
        let indexes: BTreeSet<u32> = self.image.devices.keys().chain(host.devices.keys()).copied().collect();
        self.image.devices.clone_from(&host.devices);
        self.touch(|touched| {
            touched.settings = true;
            touched.devices.extend(indexes);
        });
        self.addresses.set_node(&host.node_addresses, &host.silent_addresses);
        self.set_networks(PODS, host.pods.clone());
        self.set_networks(KEPT, host.kept.clone());
        match last {
            Some(last) if last.node_addresses == host.node_addresses => {
                self.backends.routes_changed(last.routes.differences(&host.routes));
            }
            _ => self.backends.host_changed(),
        }
        self.host = Some(host.clone());
    }
}
