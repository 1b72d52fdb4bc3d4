//! Holds the loaded programs against cases of what a Kubernetes Service proxy must do.
//!
//! A case is data: manifests, then packets and what must become of each. The manifests go the daemon's own way into the maps
//! ([`node`]); the packets go through the loaded programs one at a time ([`programs`]), or, where no hook of an interface
//! sees them, out of a process's socket ([`process`]); what became of them is read from the bytes and return codes that come
//! out ([`packet`]), and from nothing else. Questions of names are asked of the daemon's DNS server ([`names`]).

pub mod entry;
pub mod environment;
pub mod judge;
pub mod names;
pub mod node;
pub mod packet;
pub mod probe;
pub mod process;
pub mod programs;
pub mod report;
pub mod run;
pub mod schema;
