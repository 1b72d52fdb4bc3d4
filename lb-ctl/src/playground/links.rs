//! Links, addresses and routes inside one namespace, over rtnetlink.

use super::error::{Doing, Error};
use super::netns::NetNs;
use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::address::AddressHeaderFlags;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use netlink_packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use tokio::runtime::{Builder, Runtime};

/// A netlink socket that was opened inside a namespace and speaks for it from any thread.
pub struct Links {
    runtime: Runtime,
    handle: Handle,
    space: String,
}

impl Links {
    /// Opens the socket inside `space`.
    pub fn open(space: &NetNs) -> Result<Self, Error> {
        let action = || format!("open netlink in {}", space.name());
        let runtime = Builder::new_current_thread().enable_all().build().doing(action)?;
        let handle = space.run(|| -> io::Result<Handle> {
            let _context = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection()?;
            runtime.spawn(connection);
            Ok(handle)
        })?;
        Ok(Self { handle: handle.doing(action)?, runtime, space: space.name().to_owned() })
    }

    /// Makes a veth pair: `name` here, `peer` in another namespace. Both come up.
    pub fn veth(&self, name: &str, other: &NetNs, peer: &str) -> Result<(), Error> {
        let far = LinkMessageBuilder::<LinkUnspec>::default()
            .name(peer.to_owned())
            .setns_by_fd(other.as_fd().as_raw_fd())
            .build();
        let pair = LinkVeth::new(name, peer).set_info_data(InfoData::Veth(InfoVeth::Peer(far))).build();
        let request = self.handle.link().add(pair).execute();
        self.wait(request, || format!("add veth {name}"))?;
        self.up(name)?;
        Links::open(other)?.up(peer)
    }

    /// Makes a bridge and brings it up.
    pub fn bridge(&self, name: &str) -> Result<(), Error> {
        let request = self.handle.link().add(LinkBridge::new(name).build()).execute();
        self.wait(request, || format!("add bridge {name}"))
    }

    /// Makes `port` a member of the bridge `bridge`.
    pub fn enslave(&self, port: &str, bridge: &str) -> Result<(), Error> {
        let bridge = self.index(bridge)?;
        let request = self.handle.link().set(LinkUnspec::new_with_name(port).controller(bridge).build()).execute();
        self.wait(request, || format!("add {port} to its bridge"))
    }

    /// Brings a link up.
    pub fn up(&self, name: &str) -> Result<(), Error> {
        let request = self.handle.link().set(LinkUnspec::new_with_name(name).up().build()).execute();
        self.wait(request, || format!("bring {name} up"))
    }

    /// Gives a link another MAC address.
    pub fn set_mac(&self, name: &str, mac: [u8; 6]) -> Result<(), Error> {
        let request = self.handle.link().set(LinkUnspec::new_with_name(name).address(mac.to_vec()).build()).execute();
        self.wait(request, || format!("set the MAC address of {name}"))
    }

    /// Gives a link another MTU.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), Error> {
        let request = self.handle.link().set(LinkUnspec::new_with_name(name).mtu(mtu).build()).execute();
        self.wait(request, || format!("set the MTU of {name}"))
    }

    /// Removes a link, and with a veth its peer.
    pub fn delete(&self, name: &str) -> Result<(), Error> {
        let request = self.handle.link().del(self.index(name)?).execute();
        self.wait(request, || format!("delete {name}"))
    }

    /// Adds an address, usable at once: without duplicate address detection.
    pub fn address(&self, name: &str, address: IpNet) -> Result<(), Error> {
        let mut request = self.handle.address().add(self.index(name)?, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        self.wait(request.execute(), || format!("add address {address} to {name}"))
    }

    /// Adds a route: to what is reachable on the link itself, or through a gateway on it.
    pub fn route(&self, to: IpNet, gateway: Option<IpAddr>, name: &str) -> Result<(), Error> {
        let action = || format!("add route {to} by {name}");
        let invalid = |error| Error::broken(format_args!("{}: {error}", action()));
        let mut message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.network(), to.prefix_len())
            .map_err(invalid)?
            .output_interface(self.index(name)?);
        message = match gateway {
            Some(gateway) => message.gateway(gateway).map_err(invalid)?,
            // A gateway is looked for in routes of this scope.
            None => message.scope(RouteScope::Link),
        };
        self.wait(self.handle.route().add(message.build()).execute(), action)
    }

    /// The MAC address of a link.
    pub fn mac(&self, name: &str) -> Result<[u8; 6], Error> {
        let link = self.get(name)?;
        let mac = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(address) => <[u8; 6]>::try_from(address.as_slice()).ok(),
            _ => None,
        });
        mac.ok_or_else(|| Error::broken(format_args!("{name} has no MAC address")))
    }

    /// The number of a link.
    pub fn index(&self, name: &str) -> Result<u32, Error> {
        Ok(self.get(name)?.header.index)
    }

    fn get(&self, name: &str) -> Result<netlink_packet_route::link::LinkMessage, Error> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let found = self.wait(links.try_next(), || format!("find {name}"))?;
        found.ok_or_else(|| Error::broken(format_args!("{name} is not in {}", self.space)))
    }

    fn wait<T>(
        &self,
        request: impl Future<Output = Result<T, rtnetlink::Error>>,
        action: impl FnOnce() -> String,
    ) -> Result<T, Error> {
        self.runtime.block_on(request).doing(|| format!("{} in {}", action(), self.space))
    }
}
