//! The endpoints that a Service has by name, for DNS.

use crate::objects::Protocol;
use std::net::IpAddr;
use std::sync::Arc;

/// An address of an endpoint that is published: it is ready, or its Service publishes those that are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name below the Service's, if it was given one.
    pub name: Option<String>,
    /// Address.
    pub address: IpAddr,
    /// Its named ports; one list for all hosts that have the same.
    pub ports: Arc<[HostPort]>,
}

/// A named port of a [`Host`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Name.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// The endpoint's own port.
    pub port: u16,
}
