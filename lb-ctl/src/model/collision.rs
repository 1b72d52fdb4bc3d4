//! Two Services that want the same address, port and protocol: the older one gets it, and among equals the one whose
//! namespace and name come first. The other's frontend is marked and the Service says so.

use super::view::ServiceView;
use crate::objects::Key;
use jiff::Timestamp;
use std::collections::HashMap;

/// Marks every frontend that another one goes before. `views` are in order of key.
pub(super) fn resolve(views: &mut [ServiceView]) {
    let mut claims = HashMap::new();
    let mut losers = Vec::new();
    for (index, view) in views.iter().enumerate() {
        for (port_index, port) in view.ports.iter().enumerate() {
            for (frontend_index, frontend) in port.frontends.iter().enumerate() {
                let place = (index, port_index, frontend_index);
                let Some(holder) = claims.insert(frontend.identity(), place) else { continue };
                let (winner, loser) =
                    if age(&views[holder.0]) <= age(view) { (holder, place) } else { (place, holder) };
                claims.insert(frontend.identity(), winner);
                losers.push((loser, frontend.identity()));
            }
        }
    }
    for ((index, port, frontend), identity) in losers {
        let winner: Key = views[claims[&identity].0].key.clone();
        let view = &mut views[index];
        let frontend = &mut view.ports[port].frontends[frontend];
        view.problems.push(if winner == view.key {
            format!("{frontend} is named by two ports of the Service: the first one counts")
        } else {
            format!("{frontend} belongs to Service {winner}, which is older or first by name: it is not served here")
        });
        frontend.lost_to = Some(winner);
    }
}

/// When the Service was created; one that does not say so is younger than any that does.
fn age(view: &ServiceView) -> Timestamp {
    view.created.as_deref().and_then(|created| created.parse().ok()).unwrap_or(Timestamp::MAX)
}
