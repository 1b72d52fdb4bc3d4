//! The datapath's core on tables in memory: a node on the host that tests send packets through.

pub mod frames;
pub mod generator;
pub mod image;
pub mod memory;
pub mod node;
pub mod small;
pub mod socket;
pub mod trial;

pub use image::Image;
