//! Differences of the configuration maps in an operator's words.

use super::Invariant;
use crate::api::audit::Finding;
use crate::host::HostView;
use crate::image::{Difference, Renderer, backend_address};
use crate::maps::MapOp;
use lb_common::network::{KEPT, PODS};
use lb_common::{BackendSet, SCTP, Service, ServiceKey, Settings, Slot, TCP, UDP, maps};

/// What names things.
pub(crate) struct Names<'a> {
    /// The owners of records.
    renderer: &'a Renderer,
    /// The names of interfaces.
    host: &'a HostView,
}

impl<'a> Names<'a> {
    /// Names by what a renderer and the host's network know.
    pub(crate) fn new(renderer: &'a Renderer, host: &'a HostView) -> Self {
        Self { renderer, host }
    }

    /// A difference as a finding.
    pub(crate) fn finding(&self, difference: &Difference) -> Finding {
        let (op, detail) = match difference {
            Difference::Missing(op) => (op, format!("it is missing: it should be `{}`", record(op))),
            Difference::Wrong(op, held) => (op, wrong(op, held)),
            Difference::Extra(op) => (op, format!("it should not be there: `{}`", record(op))),
            Difference::Shut(op, end) => {
                return Finding {
                    invariant: Invariant::Gate.name().to_owned(),
                    map: maps::GATE.to_owned(),
                    object: self.object(op),
                    detail: format!("the gate is shut for {end}: they pass untranslated"),
                    repaired: false,
                };
            }
        };
        let (object, map) = (self.object(op), op.map().to_owned());
        Finding { invariant: invariant(op).name().to_owned(), map, object, detail, repaired: false }
    }

    fn object(&self, op: &MapOp) -> String {
        match op {
            MapOp::PutSettings(_) => "settings".to_owned(),
            MapOp::PutDevice(index, _) | MapOp::DeleteDevice(index) => match self.host.interfaces.get(index) {
                Some(interface) => format!("interface {}", interface.name),
                None => format!("interface {index}"),
            },
            MapOp::PutOwned(address, _) | MapOp::DeleteOwned(address) => format!("address {address}"),
            MapOp::PutService(key, _) | MapOp::DeleteService(key) => self.service(*key),
            MapOp::PutNodePort(key, _) | MapOp::DeleteNodePort(key) => format!("node port of {}", self.service(*key)),
            MapOp::PutNetwork(group, network) | MapOp::DeleteNetwork(group, network) => match *group {
                PODS => format!("network {network} of the cluster's pods"),
                KEPT => format!("network {network} whose clients keep their address"),
                id => format!("source range {network} of {}", self.service_of_id(id)),
            },
            MapOp::PutSlot(index, _) => format!("slot {index} of {}", self.service_of_slot(*index)),
            MapOp::PutBackend(id, backend) => match backend_address(backend) {
                Some(address) => format!("backend {id} ({address})"),
                None => format!("backend {id}"),
            },
            MapOp::DeleteBackend(id) | MapOp::ResetBackendStats(id) => format!("backend {id}"),
            MapOp::ResetServiceStats(id) => self.service_of_id(*id),
        }
    }

    /// `service shop/web on 10.96.0.10:80/TCP`
    pub(crate) fn service(&self, key: ServiceKey) -> String {
        let place = key.ip().map_or_else(|| format!("node (IPv{})", key.version()), |address| address.to_string());
        let protocol = match key.protocol {
            TCP => "TCP".to_owned(),
            UDP => "UDP".to_owned(),
            SCTP => "SCTP".to_owned(),
            other => other.to_string(),
        };
        let scope = if key.is_within() { " for clients of the cluster" } else { "" };
        let owner =
            self.renderer.owner_of(key).map_or_else(|| "no service".to_owned(), |owner| format!("service {owner}"));
        format!("{owner} on {place}:{}/{protocol}{scope}", key.port())
    }

    /// The Service of a counter id.
    pub(crate) fn service_of_id(&self, id: u32) -> String {
        let found = self.renderer.image().services.iter().find(|(_, service)| service.id == id);
        found.map_or_else(|| format!("service port id {id}"), |(key, _)| self.service(*key))
    }

    fn service_of_slot(&self, slot: u32) -> String {
        let has = |set: BackendSet| (set.base()..set.base().saturating_add(set.count())).contains(&slot);
        let found = self.renderer.image().services.iter().find(|(_, service)| service.sets().into_iter().any(has));
        found.map_or_else(|| "no service".to_owned(), |(key, _)| self.service(*key))
    }
}

/// What is wrong with an entry.
fn wrong(wanted: &MapOp, held: &MapOp) -> String {
    if let (MapOp::PutSettings(wanted), MapOp::PutSettings(held)) = (wanted, held) {
        return settings(wanted, held);
    }
    if let (MapOp::PutService(_, wanted), MapOp::PutService(_, held)) = (wanted, held) {
        return service(wanted, held);
    }
    if let (MapOp::PutSlot(_, wanted), MapOp::PutSlot(_, held)) = (wanted, held) {
        return slot(*wanted, *held);
    }
    let (should, is) = (record(wanted), record(held));
    if should == is {
        format!("it is `{held:?}` and should be `{wanted:?}`")
    } else {
        format!("it is `{is}` and should be `{should}`")
    }
}

/// A record without the word of the write.
fn record(op: &MapOp) -> String {
    match op {
        // The seed is nobody's business.
        MapOp::PutSettings(_) => "settings".to_owned(),
        op => op.to_string().trim_start_matches("put ").to_owned(),
    }
}

/// The invariant about the map that a record stands in.
fn invariant(op: &MapOp) -> Invariant {
    match op {
        MapOp::PutSettings(_) => Invariant::Settings,
        MapOp::PutDevice(..) | MapOp::DeleteDevice(_) => Invariant::Devices,
        MapOp::PutOwned(..) | MapOp::DeleteOwned(_) => Invariant::Addresses,
        MapOp::PutService(..) | MapOp::DeleteService(_) | MapOp::ResetServiceStats(_) => Invariant::Services,
        MapOp::PutNetwork(..) | MapOp::DeleteNetwork(..) => Invariant::Networks,
        MapOp::PutSlot(..) => Invariant::Slots,
        MapOp::PutBackend(..) | MapOp::DeleteBackend(_) | MapOp::ResetBackendStats(_) => Invariant::Backends,
        MapOp::PutNodePort(..) | MapOp::DeleteNodePort(_) => Invariant::NodePorts,
    }
}

/// Which settings differ. Seeds are not shown: who knows them can choose backends.
fn settings(wanted: &Settings, held: &Settings) -> String {
    let of = [
        ("seed", wanted.seed == held.seed),
        ("shared seed", wanted.shared_seed == held.shared_seed),
        ("network namespace", wanted.netns_cookie == held.netns_cookie),
        ("lent addresses", (wanted.snat4, wanted.snat6) == (held.snat4, held.snat6)),
        ("lent ports", (wanted.snat_port_first, wanted.snat_port_last) == (held.snat_port_first, held.snat_port_last)),
        ("flags", wanted.flags == held.flags),
        ("veth pair", wanted.host == held.host),
    ];
    let wrong: Vec<&str> = of.iter().filter(|(_, same)| !same).map(|(name, _)| *name).collect();
    format!("not as they should be: {}", wrong.join(", "))
}

/// Which backend a slot names and should name.
fn slot(wanted: Slot, held: Slot) -> String {
    let words = |slot: Slot| match u16::from_be_bytes(slot.port) {
        0 => format!("backend {} of generation {}", slot.backend, slot.generation),
        port => format!("port {port} of backend {} of generation {}", slot.backend, slot.generation),
    };
    format!("it names {}, not {}", words(held), words(wanted))
}

/// Which parts of a service record differ.
fn service(wanted: &Service, held: &Service) -> String {
    let set = |set: BackendSet| match set.count() {
        0 => "none".to_owned(),
        count => format!("{count} slots from {} (generation {})", set.base(), set.generation()),
    };
    let port = |port: [u8; 2]| u16::from_be_bytes(port).to_string();
    let of = [
        ("backends", set(held.backends), set(wanted.backends)),
        ("members", set(held.members), set(wanted.members)),
        ("counter id", held.id.to_string(), wanted.id.to_string()),
        ("target port", port(held.target_port), port(wanted.target_port)),
        ("flags", format!("{:#x}", held.flags), format!("{:#x}", wanted.flags)),
        ("affinity ticks", held.affinity_ticks.to_string(), wanted.affinity_ticks.to_string()),
        ("affinity id", held.affinity_id.to_string(), wanted.affinity_id.to_string()),
    ];
    let wrong = of.iter().filter(|(_, is, should)| is != should);
    let wrong: Vec<String> = wrong.map(|(name, is, should)| format!("{name}: {is}, not {should}")).collect();
    format!("its record is not as it should be: {}", wrong.join("; "))
}
