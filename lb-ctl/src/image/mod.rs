//! The image: what the maps should hold, and how they come to hold it.
//!
//! - [`Renderer`] turns the model's views into an [`Image`]: one pure fragment for each Service, bound to ids and slots
//!   that never change while they are in use and that a restarted daemon finds again in the maps;
//! - [`plan`] compares an image with what the maps hold and gives the writes that make them equal, in an order in which
//!   every prefix is safe; [`apply`] performs them;
//! - [`Reconciler`] is the loop body made of these.
//!
//! Writes go make-before-break: backends, slots, service records, and the addresses that lead to them last; what is
//! given up goes in the reverse order. What was given up rests for a while before it is used for something else, since
//! packets and flows may still refer to it.

mod addresses;
mod apply;
mod backends;
mod bind;
mod dangling;
mod fragment;
mod given;
mod host;
mod ids;
mod inspect;
mod layout;
pub mod maglev;
mod networks;
mod plan;
mod ranges;
mod reconcile;
mod records;
mod renderer;
mod restore;
mod sets;
mod share;
mod text;
mod touched;
mod withdrawn;

pub use crate::maps::Image;
pub use apply::apply;
pub use backends::backend_address;
pub use dangling::dangling;
pub use given::{Given, Past, Use};
pub use host::{HostFacts, Routes};
pub use inspect::{Cursor, Difference, Inspected};
pub use plan::plan;
pub use reconcile::{ReconcileError, Reconciled, Reconciler};
pub use renderer::{Refusal, Refused, Renderer};
pub use share::{moved_share, redrawn_share};
pub use withdrawn::{Withdrawn, members};

use std::time::Duration;

/// How long slots and ids rest before they serve something else.
///
/// A datapath program that read a record just before it changed is done within microseconds; this is generous, so that
/// a person who compares two dumps sees the change.
pub const GRACE: Duration = Duration::from_secs(30);

/// How long slots rest at least: they serve again this soon where no others are free, as when the endpoints of a Service
/// with a large Maglev table come and go.
pub const SHORT_GRACE: Duration = Duration::from_secs(1);

/// How long a backend's record is kept after the last Service stopped using it, marked as not alive.
///
/// Flow entries hold their whole rewrite, so established connections need no record at all. It is kept for those who
/// look it up: counters and flow listings, which name the backend while the bulk of its connections ends (a closed
/// connection is remembered for two minutes); and a pod whose readiness flaps comes back to its own id and counters.
pub const DRAIN: Duration = Duration::from_mins(2);

#[cfg(test)]
mod tests;
