//! lb-ctl: the daemon and the CLI, as a library under one thin binary.
//!
//! Data flows one way: sources → [`objects`] → model → image → plan → maps. Nothing flows back up except status.

pub mod api;
pub mod audit;
pub mod capture;
pub mod cli;
pub mod daemon;
pub mod datapath;
pub mod dns;
mod embedded;
pub mod figures;
mod health;
pub mod host;
pub mod image;
pub mod manifest;
pub mod maps;
mod memory;
pub mod model;
mod monitor;
pub mod objects;
pub mod playground;
pub mod preflight;
mod readiness;
pub mod source;
pub mod store;
pub mod trace;

pub use embedded::OBJECT;
