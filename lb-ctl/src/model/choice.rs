//! Which endpoints new connections go to, as kube-proxy chooses: those that are ready, near ones alone where hints say so,
//! and where none is ready those that are on their way out and still serve. For connections that may go to any node and for
//! those that must stay on this one this is decided apart.

use super::NodeView;
use super::endpoint::EndpointView;
use crate::objects::IpFamily;

/// What hints leave of the ready endpoints. All or nothing: one endpoint without a hint, or none that is for us, and the hints
/// of this kind do not count.
enum Near<'a> {
    Everything,
    OfNode(&'a str),
    OfZone(&'a str),
}

impl<'a> Near<'a> {
    fn of(ready: &[&EndpointView], node: &'a NodeView) -> Self {
        let counts = |name: &str, hints: fn(&EndpointView) -> &[String]| {
            ready.iter().all(|endpoint| !hints(endpoint).is_empty())
                && ready.iter().any(|endpoint| hints(endpoint).iter().any(|hint| hint == name))
        };
        let zone = node.zones.get(&node.name);
        if counts(&node.name, |endpoint| &endpoint.nodes) {
            Near::OfNode(&node.name)
        } else if let Some(zone) = zone.filter(|zone| counts(zone, |endpoint| &endpoint.zones)) {
            Near::OfZone(zone)
        } else {
            Near::Everything
        }
    }

    fn includes(&self, endpoint: &EndpointView) -> bool {
        match self {
            Near::Everything => true,
            Near::OfNode(name) => endpoint.nodes.iter().any(|hint| hint == name),
            Near::OfZone(name) => endpoint.zones.iter().any(|hint| hint == name),
        }
    }
}

/// Marks the endpoints of one service port that new connections go to, each family by itself.
pub(super) fn choose(endpoints: &mut [EndpointView], node: &NodeView) {
    for family in [IpFamily::IPv4, IpFamily::IPv6] {
        let ready: Vec<&EndpointView> =
            endpoints.iter().filter(|endpoint| endpoint.ready && endpoint.family() == family).collect();
        let near = Near::of(&ready, node);
        // Nobody having said that it is here is not enough: kube-proxy on other nodes would not say so either.
        let is_here = |endpoint: &EndpointView| endpoint.local == Some(true);
        let (any, any_here) = (!ready.is_empty(), ready.iter().any(|endpoint| is_here(endpoint)));
        for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.family() == family) {
            let is_last_resort = endpoint.serving && endpoint.terminating;
            endpoint.chosen = if any { endpoint.ready && near.includes(endpoint) } else { is_last_resort };
            endpoint.chosen_here = is_here(endpoint) && if any_here { endpoint.ready } else { is_last_resort };
        }
    }
}
