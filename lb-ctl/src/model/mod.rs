//! The model: what the objects mean on this node, as plain values.
//!
//! [`services`] is pure: the same [`Objects`] and the same [`NodeView`] give the same views, whatever happened before.
//! A view carries everything that `get`, `describe` and the rendering of the maps need, so these never disagree.

mod collision;
mod endpoint;
mod frontend;
mod pods;
mod problem;
mod selector;
mod slices;
mod view;

pub use endpoint::{EndpointSource, EndpointView};
pub use frontend::{Frontend, FrontendKind, Place};
pub use view::{PortView, ServiceView};

use crate::objects::Objects;
use std::net::IpAddr;

/// What the model knows of the node it is computed for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Name of this node, as endpoints' `nodeName` says it.
    pub name: String,
    /// The addresses on which node ports are served.
    pub addresses: Vec<IpAddr>,
}

/// Every Service as this node sees it, in order of namespace and name.
pub fn services(objects: &Objects, node: &NodeView) -> Vec<ServiceView> {
    let pods = selector::PodIndex::new(objects);
    let slices = slices::SliceIndex::new(objects);
    let services = objects.services.values();
    let mut views: Vec<ServiceView> = services.map(|service| view::view(service, node, &pods, &slices)).collect();
    collision::resolve(&mut views);
    views
}

#[cfg(test)]
mod tests;
