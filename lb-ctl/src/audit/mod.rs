//! The audit: what must hold of the live maps, and what does not.
//!
//! The invariants are data ([`Invariant`]); docs/audit.md is written from them. The configuration maps are compared with what
//! the daemon means them to hold ([`crate::image::Inspected`]), the tables that the datapath writes are judged by themselves
//! and by the ids that were given out; what is found is put into an operator's words in [`words`].

mod invariant;
pub(crate) mod words;

pub use invariant::{Invariant, UNPROMISED};
