//! What crosses crates: packet fixtures, in-memory tables for the core, namespaces, real clients and servers.

pub mod capture;
pub mod fixture;
pub mod kernel;
pub mod ping;
pub mod privilege;
pub mod sniffer;
pub mod statistics;
pub mod traffic;

pub use fixture::{Fixture, Setup};
pub use lb_memory::{frames, memory, node, small};
