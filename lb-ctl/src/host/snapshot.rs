//! Reads a whole [`HostView`] from the kernel.

use super::netlink::{Connection, Message, Refused, Request, attributes, text, u16_at, u32_at};
use super::{Error, HostView, Interface, traffic_control};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

/// `RTM_GETLINK`, `RTM_GETADDR`, `RTM_GETROUTE` and what answers them.
const GET_LINK: u16 = 18;
const NEW_LINK: u16 = 16;
const GET_ADDRESS: u16 = 22;
const NEW_ADDRESS: u16 = 20;
const GET_ROUTE: u16 = 26;
const NEW_ROUTE: u16 = 24;

/// `struct ifinfomsg`, `struct ifaddrmsg`, `struct rtmsg`: their lengths.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;

/// `IFLA_*`
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_QDISC: u16 = 6;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_INFO_KIND: u16 = 1;
/// `RTEXT_FILTER_SKIP_STATS`: the counters are most of a dump's bytes.
const SKIP_STATS: u32 = 1 << 3;

/// `IFA_*`
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// `RTA_*`, `RT_TABLE_*`, `RTN_UNICAST`
const RTA_OIF: u16 = 4;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const TABLE_LOCAL: u32 = 255;
const UNICAST: u8 = 1;

/// `IFF_UP`, `IFF_LOOPBACK`, `ARPHRD_ETHER`
const UP: u32 = 1;
const LOOPBACK: u32 = 8;
const ETHERNET: u16 = 1;

/// Reads the network of the calling thread's namespace.
pub fn snapshot() -> Result<HostView, Error> {
    read(&mut Connection::route()?)
}

pub(super) fn read(connection: &mut Connection) -> Result<HostView, Error> {
    let list = |what| move |source: Refused| Error::List { what, source };
    let links = connection
        .dump(|| Request::new(GET_LINK, &[0; LINK_HEADER]).attribute(IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes()))
        .map_err(list("interfaces"))?;
    let addresses = connection.dump(|| Request::new(GET_ADDRESS, &[0; ADDRESS_HEADER])).map_err(list("addresses"))?;
    let mut default_routes = BTreeSet::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0; ROUTE_HEADER];
        header[0] = family as u8;
        let routes = connection.dump(|| Request::new(GET_ROUTE, &header)).map_err(list("routes"))?;
        default_routes.extend(routes.iter().flat_map(default_route_interfaces));
    }
    let mut filters = traffic_control::egress_filters(connection).map_err(list("filters"))?;
    let mut view = HostView::default();
    for mut interface in links.iter().filter_map(interface) {
        interface.has_default_route = default_routes.contains(&interface.index);
        interface.egress_filters = filters.remove(&interface.index).unwrap_or_default();
        view.interfaces.insert(interface.index, interface);
    }
    let wires: Vec<_> =
        view.interfaces.values().filter(|interface| is_wire(&view, interface)).map(|wire| wire.index).collect();
    for index in wires {
        view.interfaces.entry(index).and_modify(|interface| interface.wire = true);
    }
    view.addresses = addresses.iter().filter_map(address).collect();
    view.addresses.sort_unstable();
    // A kernel that does not tell leaves loopback to itself.
    view.namespace = namespace_cookie().unwrap_or_default();
    Ok(view)
}

/// The cookie of the calling thread's network namespace (Linux 5.14).
pub(crate) fn namespace_cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

fn interface(message: &Message) -> Option<Interface> {
    let payload = &message.payload;
    if message.kind != NEW_LINK || payload.len() < LINK_HEADER {
        return None;
    }
    let flags = u32_at(payload, 8)?;
    let mut interface = Interface {
        index: u32_at(payload, 4)?,
        name: String::new(),
        kind: String::new(),
        mac: None,
        mtu: 0,
        up: flags & UP != 0,
        master: None,
        lower: None,
        has_default_route: false,
        hardware: false,
        wire: false,
        ends_elsewhere: false,
        qdisc: String::new(),
        egress_filters: Vec::new(),
        ethernet: u16_at(payload, 2)? == ETHERNET,
        leads_to_nodes: false,
        loopback: flags & LOOPBACK != 0,
    };
    let mut lower_is_elsewhere = false;
    for (kind, value) in attributes(&payload[LINK_HEADER..]) {
        match kind {
            IFLA_ADDRESS => interface.mac = value.try_into().ok(),
            IFLA_IFNAME => interface.name = text(value),
            IFLA_MTU => interface.mtu = u32_at(value, 0)?,
            IFLA_LINK => interface.lower = u32_at(value, 0).filter(|index| *index != 0 && *index != interface.index),
            IFLA_QDISC => interface.qdisc = text(value),
            IFLA_MASTER => interface.master = u32_at(value, 0).filter(|index| *index != 0),
            IFLA_LINK_NETNSID => lower_is_elsewhere = true,
            IFLA_PARENT_DEV_NAME => interface.hardware = true,
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                interface.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            _ => {}
        }
    }
    if lower_is_elsewhere {
        interface.lower = None;
        interface.ends_elsewhere = interface.kind == "veth";
    }
    Some(interface)
}

fn is_wire(view: &HostView, interface: &Interface) -> bool {
    // A VLAN may lie on a VLAN on a bond; more levels than that are no wire we know.
    let mut current = interface;
    for _ in 0..4 {
        if current.hardware || matches!(current.kind.as_str(), "bond" | "team") {
            return true;
        }
        match current.lower.and_then(|lower| view.interfaces.get(&lower)) {
            Some(lower) if current.kind == "vlan" => current = lower,
            _ => return false,
        }
    }
    false
}

fn address(message: &Message) -> Option<(u32, IpNet)> {
    let payload = &message.payload;
    if message.kind != NEW_ADDRESS || payload.len() < ADDRESS_HEADER {
        return None;
    }
    let mut found = None;
    for (kind, value) in attributes(&payload[ADDRESS_HEADER..]) {
        // On a point-to-point interface IFA_ADDRESS is the peer's and IFA_LOCAL ours; IPv6 has often only the former.
        if kind == IFA_LOCAL || (kind == IFA_ADDRESS && found.is_none()) {
            found = ip(value);
        }
    }
    Some((u32_at(payload, 4)?, IpNet::new(found?, payload[1]).ok()?))
}

/// The address in an attribute of four or sixteen bytes.
pub(super) fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

/// The interfaces by which a route leads out, if it is a default route.
fn default_route_interfaces(message: &Message) -> Vec<u32> {
    let payload = &message.payload;
    if message.kind != NEW_ROUTE || payload.len() < ROUTE_HEADER || payload[1] != 0 || payload[7] != UNICAST {
        return Vec::new();
    }
    let mut table = u32::from(payload[4]);
    let mut interfaces = Vec::new();
    for (kind, value) in attributes(&payload[ROUTE_HEADER..]) {
        match kind {
            RTA_TABLE => table = u32_at(value, 0).unwrap_or(table),
            RTA_OIF => interfaces.extend(u32_at(value, 0)),
            RTA_MULTIPATH => interfaces.extend(next_hop_interfaces(value)),
            _ => {}
        }
    }
    if table == TABLE_LOCAL { Vec::new() } else { interfaces }
}

/// `struct rtnexthop`, one after the other: length, flags, hops, interface, attributes.
fn next_hop_interfaces(mut rest: &[u8]) -> Vec<u32> {
    let mut interfaces = Vec::new();
    while let (Some(length), Some(index)) = (u16_at(rest, 0), u32_at(rest, 4)) {
        interfaces.push(index);
        if length < 8 {
            break;
        }
        rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    interfaces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::netlink::push_attribute;

    /// An interface with this much of a netlink message: index, kind, lower interface, whether hardware is behind it.
    fn link(index: u32, kind: &str, lower: Option<u32>, hardware: bool) -> Interface {
        let mut payload = vec![0; LINK_HEADER];
        payload[2..4].copy_from_slice(&ETHERNET.to_ne_bytes());
        payload[4..8].copy_from_slice(&index.to_ne_bytes());
        if let Some(lower) = lower {
            push_attribute(&mut payload, IFLA_LINK, &lower.to_ne_bytes());
        }
        if hardware {
            push_attribute(&mut payload, IFLA_PARENT_DEV_NAME, b"virtio0\0");
        }
        let mut info = Vec::new();
        push_attribute(&mut info, IFLA_INFO_KIND, kind.as_bytes());
        push_attribute(&mut payload, IFLA_LINKINFO, &info);
        interface(&Message::new(NEW_LINK, payload)).expect("an interface")
    }

    #[test]
    fn wires_are_hardware_bonds_and_vlans_on_them() {
        let links = [
            link(1, "", None, true),
            link(2, "vlan", Some(1), false),
            link(3, "vlan", Some(2), false),
            link(4, "bond", None, false),
            link(5, "veth", None, false),
            link(6, "vlan", Some(5), false),
            link(7, "macvlan", Some(1), false),
            // A VLAN on itself, as a broken answer might have it.
            link(8, "vlan", Some(8), false),
        ];
        let view =
            HostView { interfaces: links.into_iter().map(|link| (link.index, link)).collect(), ..HostView::default() };
        let wires: Vec<_> =
            view.interfaces.values().filter(|link| is_wire(&view, link)).map(|link| link.index).collect();
        assert_eq!(wires, [1, 2, 3, 4]);
    }

    #[test]
    fn default_routes_are_told_from_others() {
        let route = |prefix: u8, table: u8, attributes: &[(u16, &[u8])]| {
            let mut payload = vec![0; ROUTE_HEADER];
            (payload[1], payload[4], payload[7]) = (prefix, table, UNICAST);
            for (kind, value) in attributes {
                push_attribute(&mut payload, *kind, value);
            }
            default_route_interfaces(&Message::new(NEW_ROUTE, payload))
        };
        let out = 7u32.to_ne_bytes();
        assert_eq!(route(0, 254, &[(RTA_OIF, &out)]), [7]);
        assert!(route(24, 254, &[(RTA_OIF, &out)]).is_empty());
        assert!(route(0, 255, &[(RTA_OIF, &out)]).is_empty());
        assert!(route(0, 0, &[(RTA_TABLE, &TABLE_LOCAL.to_ne_bytes()), (RTA_OIF, &out)]).is_empty());
        // Two next hops, the first with an attribute of its own.
        let mut hops = vec![16, 0, 0, 0, 3, 0, 0, 0, 8, 0, 5, 0, 10, 0, 0, 1];
        hops.extend([8, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(route(0, 254, &[(RTA_MULTIPATH, &hops)]), [3, 4]);
    }
}
