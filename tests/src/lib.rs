//! What crosses crates: packet fixtures, in-memory tables for the core, namespaces, real clients and servers.

pub mod fixture;
pub mod frames;
pub mod iproute;
pub mod kernel;
pub mod matrix;
pub mod memory;
pub mod node;
pub mod ping;
pub mod privilege;
pub mod small;
pub mod sniffer;
pub mod statistics;
pub mod traffic;

pub use fixture::{Fixture, Setup};
