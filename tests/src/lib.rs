//! What crosses crates: packet fixtures, in-memory tables for the core, namespaces, real clients and servers.

pub mod capture;
pub mod cgroup;
pub mod fixture;
pub mod iproute;
pub mod kernel;
pub mod matrix;
pub mod metrics;
pub mod ping;
pub mod privilege;
pub mod process;
pub mod sniffer;
pub mod statistics;
pub mod traffic;
pub mod wire;

pub use fixture::{Fixture, Setup};
pub use lb_memory::{frames, memory, node, small, socket};
