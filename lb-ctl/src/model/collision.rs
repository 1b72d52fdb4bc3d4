//! Services that want the same address, port and protocol: the oldest one gets it, and among equals the one whose
//! namespace and name come first. The others' frontends are marked and the Services say so.

use super::frontend::Identity;
use super::view::ServiceView;
use crate::objects::Key;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// Who wants a frontend: when the Service was created, its key, and the places of port and frontend in it. The first in
/// order goes before the others.
type Claimant = (Timestamp, Key, usize, usize);

/// Everything that Services want.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(BTreeSet<(Identity, Claimant)>);

impl Claims {
    /// A Service's view becomes another one; gives what it does not want any more and what it wants anew.
    pub(super) fn replace(&mut self, before: Option<&ServiceView>, now: Option<&ServiceView>) -> Vec<Identity> {
        let of = |view: Option<&ServiceView>| view.map(claims).unwrap_or_default();
        let (before, now) = (of(before), of(now));
        if before == now {
            return Vec::new();
        }
        for claim in &before {
            self.0.remove(claim);
        }
        self.0.extend(now.iter().cloned());
        before.into_iter().chain(now).map(|(identity, _)| identity).collect()
    }

    /// Every Service that wants one of these.
    pub(super) fn claimants(&self, wanted: &BTreeSet<Identity>) -> BTreeSet<Key> {
        let claims = wanted.iter().flat_map(|identity| self.of(*identity));
        claims.map(|(_, key, _, _)| key.clone()).collect()
    }

    /// Marks the frontends of `view` that another one goes before.
    pub(super) fn mark(&self, view: &mut ServiceView) {
        for (port_place, port) in view.ports.iter_mut().enumerate() {
            for (place, frontend) in port.frontends.iter_mut().enumerate() {
                let Some((_, winner, ..)) = self
                    .of(frontend.identity())
                    .next()
                    .filter(|(_, key, first_port, first)| (key, *first_port, *first) != (&view.key, port_place, place))
                else {
                    continue;
                };
                view.problems.push(if *winner == view.key {
                    format!("{frontend} is named by two ports of the Service: the first one counts")
                } else {
                    format!(
                        "{frontend} belongs to Service {winner}, which is older or first by name: it is not served here"
                    )
                });
                frontend.lost_to = Some(winner.clone());
            }
        }
    }

    /// Who wants `identity`, the first one first.
    fn of(&self, identity: Identity) -> impl Iterator<Item = &Claimant> {
        let first = (identity, (Timestamp::MIN, Key::new("", ""), 0, 0));
        self.0.range(first..).take_while(move |(other, _)| *other == identity).map(|(_, claimant)| claimant)
    }
}

fn claims(view: &ServiceView) -> Vec<(Identity, Claimant)> {
    let age = age(view);
    let mut claims = Vec::new();
    for (port_place, port) in view.ports.iter().enumerate() {
        for (place, frontend) in port.frontends.iter().enumerate() {
            claims.push((frontend.identity(), (age, view.key.clone(), port_place, place)));
        }
    }
    claims
}

/// When the Service was created; one that does not say so is younger than any that does.
fn age(view: &ServiceView) -> Timestamp {
    view.created.as_deref().and_then(|created| created.parse().ok()).unwrap_or(Timestamp::MAX)
}
