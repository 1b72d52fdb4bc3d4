//! A pod: a namespace, a cable to its node, and an echo server.

use super::error::Error;
use super::links::Links;
use super::name::Name;
use super::netns::NetNs;
use super::offload::Offload;
use super::topology::{Dual, POD_PORT, Place};
use super::{client::Client, janitor, spawn_server};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

/// How pods are connected to their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodNetwork {
    /// A route for each pod (the `ptp` plugin of CNI, Calico).
    Routed,
    /// All pods of a node on the bridge `br0` (the `bridge` plugin of CNI, Docker).
    Bridged,
}

/// A running pod.
#[derive(Debug)]
pub struct Pod {
    place: Place,
    space: NetNs,
    server: Child,
}

/// The bridge of bridged pods.
pub(super) const BRIDGE: &str = "br0";

impl Pod {
    /// Makes the namespace, plugs it into `node`, and starts the server.
    pub(super) fn start(
        playground: &Name,
        node: &NetNs,
        place: Place,
        network: PodNetwork,
        napi: bool,
        binary: &Path,
    ) -> Result<Self, Error> {
        let space = super::new_space(&playground.space(&place.name))?;
        let cable = place.node_link();
        let (outside, gateway, own) = (Links::open(node)?, place.node.gateway(), place.address());
        outside.veth(&cable, &space, "eth0")?;
        let inside = Links::open(&space)?;
        let addresses = match network {
            PodNetwork::Routed => own.alone(),
            PodNetwork::Bridged => own.within(24, 64),
        };
        for address in addresses {
            inside.address("eth0", address)?;
        }
        match network {
            PodNetwork::Routed => {
                for (gateway, own) in gateway.alone().into_iter().zip(own.alone()) {
                    outside.address(&cable, gateway)?;
                    outside.route(own, None, &cable)?;
                }
            }
            PodNetwork::Bridged => outside.enslave(&cable, BRIDGE)?,
        }
        let mut pod = Self { server: spawn_server(&space, binary, &place.name, POD_PORT)?, place, space };
        pod.route_out(network)?;
        Offload::Gro.set(&pod.space, "eth0", napi)?;
        pod.client().wait_for(pod.name(), pod.address(), POD_PORT)?;
        Ok(pod)
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// Its addresses.
    pub fn address(&self) -> Dual {
        self.place.address()
    }

    /// Its namespace.
    pub fn space(&self) -> &NetNs {
        &self.space
    }

    /// A client inside the pod.
    pub fn client(&self) -> Client<'_> {
        Client::new(&self.space)
    }

    /// Gives its interface another MAC address, and lets the node know as every starting pod does: by asking for its
    /// gateway.
    pub fn change_mac(&self, mac: [u8; 6]) -> Result<(), Error> {
        Links::open(&self.space)?.set_mac("eth0", mac)?;
        self.greet_gateway();
        Ok(())
    }

    /// Ends the server and removes namespace and cable.
    pub(super) fn remove(mut self) -> Result<(), Error> {
        janitor::kill_processes(&[self.space.name().to_owned()])?;
        self.reap();
        // Closing the last handle frees the namespace later; its cable should be gone now.
        Links::open(&self.space)?.delete("eth0")?;
        NetNs::unregister(self.space.name())
    }

    /// Waits for the server, which was killed.
    pub(super) fn reap(&mut self) {
        // Its exit code says nothing new.
        self.server.wait().ok();
    }

    fn route_out(&mut self, network: PodNetwork) -> Result<(), Error> {
        let inside = Links::open(&self.space)?;
        let gateway = self.place.node.gateway();
        for (address, everywhere) in gateway.alone().into_iter().zip(super::everywhere()) {
            if network == PodNetwork::Routed {
                inside.route(address, None, "eth0")?;
            }
            inside.route(everywhere, Some(address.addr()), "eth0")?;
        }
        Ok(())
    }

    fn greet_gateway(&self) {
        for gateway in self.place.node.gateway().addresses() {
            // Nobody listens on the discard port (RFC 863): what matters is the address resolution before it.
            let client = self.client().with_timeout(Duration::from_millis(50));
            client.datagram(SocketAddr::new(gateway, 9), b"hello").ok();
        }
    }
}
