//! What crosses crates: packet fixtures, in-memory tables for the core, namespaces, real clients and servers.

pub mod cgroup;
pub mod fixture;
pub mod frames;
pub mod iproute;
pub mod kernel;
pub mod matrix;
pub mod memory;
pub mod node;
pub mod ping;
pub mod privilege;
pub mod process;
pub mod small;
pub mod sniffer;
pub mod socket;
pub mod statistics;
pub mod traffic;
pub mod wire;

pub use fixture::{Fixture, Setup};
