//! An image, and the writes that make it, as text for people and for tests: one record a line.

use super::backends::{backend_address, peer_address};
use crate::maps::{Image, MapOp};
use ipnet::IpNet;
use lb_common::network::{KEPT, PODS};
use lb_common::{Backend, Device, Owned, Peer, SCTP, Service, ServiceKey, Settings, Slot, TCP, UDP};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Services are shown with the addresses of their backends.
impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", settings(&self.settings))?;
        for (index, record) in &self.devices {
            writeln!(f, "{}", device(*index, *record))?;
        }
        for (address, record) in &self.owned {
            writeln!(f, "{}", owned(*address, *record))?;
        }
        for (group, net) in self.networks.iter().flat_map(|(group, all)| all.iter().map(move |net| (group, net))) {
            writeln!(f, "{}", network(*group, *net))?;
        }
        for (key, record) in &self.services {
            writeln!(f, "{}", service(*key, record))?;
            for index in (record.backends.base()..).take(record.backends.count() as usize) {
                match self.slots.get(&index) {
                    Some(slot) => {
                        let backend = self.backends.get(&slot.backend).map_or_else(|| "?".to_owned(), address);
                        writeln!(f, "  {} ({backend})", self::slot(index, *slot))?;
                    }
                    None => writeln!(f, "  slot {index} ?")?,
                }
            }
        }
        for (key, record) in &self.node_ports {
            writeln!(f, "{}", node_port(*key, record))?;
        }
        for (id, record) in &self.backends {
            writeln!(f, "{}", backend(*id, record))?;
        }
        Ok(())
    }
}

impl fmt::Display for MapOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapOp::PutSettings(record) => write!(f, "put {}", settings(record)),
            MapOp::PutOwned(address, record) => write!(f, "put {}", owned(*address, *record)),
            MapOp::DeleteOwned(address) => write!(f, "delete owned {address}"),
            MapOp::PutService(key, record) => write!(f, "put {}", service(*key, record)),
            MapOp::DeleteService(key) => write!(f, "delete service {} {}", place(*key), port(*key)),
            MapOp::PutNetwork(group, net) => write!(f, "put {}", network(*group, *net)),
            MapOp::DeleteNetwork(group, net) => write!(f, "delete {}", network(*group, *net)),
            MapOp::PutSlot(index, record) => write!(f, "put {}", slot(*index, *record)),
            MapOp::PutBackend(id, record) => write!(f, "put {}", backend(*id, record)),
            MapOp::DeleteBackend(id) => write!(f, "delete backend {id}"),
            MapOp::ResetServiceStats(id) => write!(f, "reset service-stats {id}"),
            MapOp::ResetBackendStats(id) => write!(f, "reset backend-stats {id}"),
            MapOp::PutNodePort(key, record) => write!(f, "put {}", node_port(*key, record)),
            MapOp::DeleteNodePort(key) => write!(f, "delete node-port {} {}", place(*key), port(*key)),
            MapOp::PutDevice(index, record) => write!(f, "put {}", device(*index, *record)),
            MapOp::DeleteDevice(index) => write!(f, "delete device {index}"),
        }
    }
}

fn settings(settings: &Settings) -> String {
    let snat4 = lent(settings.snat4.map(Ipv4Addr::from));
    let snat6 = lent(settings.snat6.map(Ipv6Addr::from));
    let (first, last) = (settings.snat_port_first, settings.snat_port_last);
    format!("settings seed={:#x} snat4={snat4} snat6={snat6} snat-ports={first}-{last}", settings.seed)
}

/// The first address always, so that a lack is seen; the others where there are any.
fn lent(addresses: [impl Into<IpAddr>; Settings::SNAT_ADDRESSES]) -> String {
    let addresses: Vec<IpAddr> = addresses.map(Into::into).into_iter().collect();
    let used = addresses.iter().take_while(|address| !address.is_unspecified()).count();
    addresses[..used.max(1)].iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
}

fn device(index: u32, device: Device) -> String {
    let names = [(Device::XDP_TARGET, "xdp-target"), (Device::LOCAL_CLIENTS, "local-clients"), (Device::PEER, "peer")];
    format!("device {index}{}", flags(device.flags, &names))
}

fn owned(address: IpAddr, owned: Owned) -> String {
    let whose = match owned {
        Owned::NODE => "node".to_owned(),
        Owned::SILENT => "node-silent".to_owned(),
        Owned::SERVICE => "service".to_owned(),
        Owned(number) => number.to_string(),
    };
    format!("owned {address} {whose}")
}

fn network(group: u32, network: IpNet) -> String {
    match group {
        PODS => format!("network pods {network}"),
        KEPT => format!("network kept {network}"),
        service => format!("network service {service} {network}"),
    }
}

/// Where a service record is.
fn place(key: ServiceKey) -> String {
    key.ip().map_or_else(|| format!("node/{}", key.version()), |address| address.to_string())
}

fn port(key: ServiceKey) -> String {
    let scope = if key.is_within() { " within" } else { "" };
    match key.protocol {
        TCP => format!("{}/TCP{scope}", key.port()),
        UDP => format!("{}/UDP{scope}", key.port()),
        SCTP => format!("{}/SCTP{scope}", key.port()),
        number => format!("{}/{number}{scope}", key.port()),
    }
}

fn service(key: ServiceKey, service: &Service) -> String {
    let (set, target) = (service.backends, u16::from_be_bytes(service.target_port));
    let backends = if set.count() == 0 {
        "backends=none".to_owned()
    } else {
        format!("slots={}+{} generation={}", set.base(), set.count(), set.generation())
    };
    let names = [(Service::SCOPED, "scoped"), (Service::RANGED, "ranged"), (Service::ELSEWHERE, "elsewhere")];
    let flags = flags(service.flags, &names);
    let affinity = match service.affinity_ticks {
        0 => String::new(),
        ticks => format!(" affinity={} for {ticks} ticks", service.affinity_id),
    };
    let (place, port) = (place(key), port(key));
    format!("service {place} {port} id={} target={target} {backends}{flags}{affinity}", service.id)
}

fn node_port(key: ServiceKey, peer: &Peer) -> String {
    let cluster = peer_address(peer).map(|address| SocketAddr::new(address, u16::from_be_bytes(peer.port)));
    let cluster = cluster.map_or_else(|| "?".to_owned(), |cluster| cluster.to_string());
    format!("node-port {} {} cluster={cluster}", place(key), port(key))
}

fn slot(index: u32, slot: Slot) -> String {
    match u16::from_be_bytes(slot.port) {
        0 => format!("slot {index} backend={}", slot.backend),
        port => format!("slot {index} backend={} port={port}", slot.backend),
    }
}

fn backend(id: u32, backend: &Backend) -> String {
    let names =
        [(Backend::ALIVE, "alive"), (Backend::SERVING, "serving"), (Backend::LOCAL, "local"), (Backend::NODE, "node")];
    let flags = flags(backend.flags, &names);
    format!("backend {id} {} generation={}{flags}", address(backend), backend.generation)
}

fn address(backend: &Backend) -> String {
    backend_address(backend).map_or_else(|| "?".to_owned(), |address| address.to_string())
}

fn flags<T: Copy + Into<u32>>(flags: T, names: &[(T, &'static str)]) -> String {
    let set = names.iter().filter(|(flag, _)| flags.into() & (*flag).into() != 0);
    set.flat_map(|(_, name)| [" ", name]).collect()
}
