//! The datapath and the host's view against the real kernel, each test in network and mount namespaces of its own.

mod adoption;
mod attaching;
mod filters;
mod host;
mod instance;
mod locks;
mod pinned;
mod removal;
mod sandbox;
mod sockets;
