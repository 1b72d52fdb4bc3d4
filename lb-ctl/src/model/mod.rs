//! The model: what the objects mean on this node, as plain values.
//!
//! [`services`] is pure: the same [`Objects`] and the same [`NodeView`] give the same views, whatever happened before.
//! [`Model`] comes to the same views by way of what has changed, at the cost of the change. A view carries everything that
//! `get`, `describe` and the rendering of the maps need, so these never disagree.

mod balancing;
mod choice;
mod collision;
mod endpoint;
mod frontend;
mod host;
mod pods;
mod problem;
mod slices;
mod sources;
mod view;

pub use balancing::{Balancing, DEFAULT_MAGLEV_TABLE_SIZE};
pub use endpoint::{EndpointSource, EndpointView};
pub use frontend::{Frontend, FrontendKind, Place, Policy};
pub use host::{Host, HostPort};
pub use view::{PortView, ServiceView};

use crate::objects::{Key, Objects, Table};
use collision::Claims;
use sources::Sources;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What the model knows of the node it is computed for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Name of this node, as endpoints' `nodeName` says it.
    pub name: String,
    /// The addresses on which node ports are served.
    pub addresses: Vec<IpAddr>,
    /// How connections of Services that say nothing are given to endpoints.
    pub balancing: Balancing,
    /// Its other addresses.
    pub silent: Vec<IpAddr>,
    /// The zones of all nodes that say theirs, by the node's name.
    pub zones: BTreeMap<String, String>,
}

impl NodeView {
    /// Whether an address is the node's own.
    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address) || self.silent.contains(&address)
    }
}

/// Services as this node sees them, by namespace and name.
pub type Views = Table<ServiceView>;

/// Every Service as this node sees it.
pub fn services(objects: &Objects, node: &NodeView) -> Views {
    let mut model = Model::default();
    model.update(objects, node);
    model.views
}

/// The views of some objects, and what it takes to follow changes of these.
#[derive(Clone, Debug, Default)]
pub struct Model {
    objects: Objects,
    node: NodeView,
    sources: Sources,
    claims: Claims,
    views: Views,
}

impl Model {
    /// The views of the objects and the node that were seen last.
    pub fn views(&self) -> &Views {
        &self.views
    }

    /// Brings the views up to date. A view that comes out as it was stays the very same.
    pub fn update(&mut self, objects: &Objects, node: &NodeView) {
        let mut affected = self.sources.update(&self.objects, objects);
        self.objects = objects.clone();
        if self.node != *node {
            self.node = node.clone();
            affected.extend(objects.services.keys().cloned());
        }
        // Views before Services are compared with each other.
        let mut alone: BTreeMap<Key, Option<ServiceView>> = BTreeMap::new();
        let mut contested = BTreeSet::new();
        for key in affected {
            let view = self.alone(&key);
            contested.extend(self.claims.replace(self.views.get(&key).map(Arc::as_ref), view.as_ref()));
            alone.insert(key, view);
        }
        for key in self.claims.claimants(&contested) {
            alone.entry(key).or_insert_with_key(|key| self.alone(key));
        }
        for (key, view) in alone {
            match view {
                None => drop(self.views.remove(&key)),
                Some(mut view) => {
                    self.claims.mark(&mut view);
                    if self.views.get(&key).is_none_or(|old| **old != view) {
                        self.views.insert(key, Arc::new(view));
                    }
                }
            }
        }
    }

    fn alone(&self, key: &Key) -> Option<ServiceView> {
        let service = self.objects.services.get(key)?;
        Some(view::view(service, &self.node, self.sources.slices(key), self.sources.pods(key)))
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
