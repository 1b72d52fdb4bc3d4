//! Makes the [`Status`] from what the engine knows.

use super::engine::Engine;
use crate::api::{CounterLine, MapFill, Problem, SocketStatus, SourceStatus, Status};
use crate::maps::{Image, LbMaps};
use crate::objects::{Kind, ObjectId, Objects, Table};
use crate::store::SourceId;
use ipnet::IpNet;
use lb_common::{Reason, maps};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

impl Engine {
    /// How everything is. How full the flow tables are is told by others: it costs a walk.
    pub(super) fn status(&self) -> Status {
        let host = self.host.borrow().clone();
        let objects = self.store.snapshot();
        let mut problems = self.problems();
        let counters = match self.maps.reasons() {
            Ok(counts) => counts
                .iter()
                .enumerate()
                .filter_map(|(number, count)| {
                    let reason = Reason::from_number(u8::try_from(number).ok()?)?;
                    (count.packets > 0).then(|| CounterLine {
                        reason: reason.name().to_owned(),
                        drop: reason.is_drop(),
                        packets: count.packets,
                        bytes: count.bytes,
                        sentence: reason.sentence().to_owned(),
                        remedy: reason.remedy().to_owned(),
                    })
                })
                .collect(),
            Err(error) => {
                problems.push(problem("counters", &error.to_string()));
                Vec::new()
            }
        };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.config.instance.clone(),
            node: self.config.node_name.clone(),
            ready: self.is_ready(),
            uptime_seconds: self.started.elapsed().as_secs(),
            adopted: self.balancer.adopted(),
            kernel: nix::sys::utsname::uname()
                .map_or_else(|_| String::new(), |name| name.release().to_string_lossy().into_owned()),
            node_addresses: self.balancer.node_addresses(),
            snat_addresses: self.balancer.lent_addresses(),
            path: self.config.path.name().to_owned(),
            host_clients: self.host_clients.status(),
            socket_lb: self.socket_lb(),
            // Told with the fullness of the flow tables, by others too.
            lent_ports: None,
            dns: self.dns.status(),
            interfaces: self.interfaces.status(self.hooks.as_ref(), &host),
            sources: self.sources(&objects),
            objects: counted(&objects),
            problems,
            maps: fill(self.balancer.realized(), self.maps.as_ref()),
            counters,
        }
    }

    /// What an operator should look at.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = self.interfaces.problems();
        problems.extend(self.host_clients.problems());
        problems.extend(self.failure().map(|message| problem("datapath", message)));
        problems.extend(self.config_problem.iter().map(|message| problem("configuration", message)));
        problems.extend(self.socket_problem.iter().map(|message| problem("socket-lb", message)));
        problems.extend(self.sources.problem().map(|message| problem("manifests", message)));
        for source in self.store.problems() {
            let kept = format!("{}: {} of its objects are kept as they last were", source.source, source.kept);
            problems.extend(source.diagnostics.iter().map(|found| problem("manifests", &found.to_string())));
            problems.extend((source.kept > 0).then(|| problem("manifests", &kept)));
        }
        problems.extend(self.balancer.problems());
        problems.extend(self.health.problems());
        problems.extend(self.readiness.problems());
        problems.extend(self.dns.problems());
        problems.extend(self.not_forwarding().map(|message| problem("forwarding", &message)));
        problems
    }

    /// The sysctls of the families that the node has addresses of, and that forbid it to forward.
    fn not_forwarding(&self) -> impl Iterator<Item = String> {
        let addresses = self.balancer.node_addresses();
        let families = [
            (addresses.iter().any(IpAddr::is_ipv4), "net.ipv4.ip_forward"),
            (addresses.iter().any(IpAddr::is_ipv6), "net.ipv6.conf.all.forwarding"),
        ];
        let is_off = |name: &str| {
            let path = Path::new("/proc/sys").join(name.replace('.', "/"));
            std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "0")
        };
        let off = families.into_iter().filter(move |(has, name)| *has && is_off(name));
        off.map(|(_, name)| format!("{name} is 0, so nothing can be sent on to pods: `sysctl -w {name}=1`"))
    }

    /// Whose sockets are served, and what the node's own processes cannot reach.
    fn socket_lb(&self) -> SocketStatus {
        let cgroup = self.hooks.sockets().map(|path| path.display().to_string());
        let note = if cgroup.is_none() {
            "processes of this node do not reach its own node ports, nor those on loopback: --socket-lb CGROUP serves them"
        } else if self.balancer.realized().settings.host.ifindex == 0 {
            "a connected UDP socket of this node's own processes is not served: only the veth pair for the node's own \
             packets does that"
        } else {
            ""
        };
        SocketStatus { cgroup, note: note.to_owned() }
    }

    /// The CLI, the watched directory, and the files in it that gave objects.
    fn sources(&self, objects: &Objects) -> Vec<SourceStatus> {
        let mut by_file: BTreeMap<String, u64> = BTreeMap::new();
        let mut by_cli = 0;
        for id in ids(objects) {
            match self.store.source_of(&id) {
                Some(SourceId::Cli) => by_cli += 1,
                Some(source) => *by_file.entry(source.to_string()).or_default() += 1,
                None => {}
            }
        }
        let synced = self.store.is_synced();
        let mut lines = vec![SourceStatus { name: "cli".to_owned(), synced: true, objects: by_cli }];
        lines.extend(self.sources.directory().map(|path| SourceStatus {
            name: format!("directory:{path}"),
            synced,
            objects: by_file.values().sum(),
        }));
        lines.extend(by_file.into_iter().map(|(name, objects)| SourceStatus { name, synced, objects }));
        lines
    }
}

fn ids(objects: &Objects) -> impl Iterator<Item = ObjectId> {
    fn of<T>(kind: Kind, map: &Table<T>) -> impl Iterator<Item = ObjectId> {
        map.keys().map(move |key| ObjectId { kind, key: key.clone() })
    }
    of(Kind::Namespace, &objects.namespaces)
        .chain(of(Kind::Node, &objects.nodes))
        .chain(of(Kind::Service, &objects.services))
        .chain(of(Kind::Pod, &objects.pods))
        .chain(of(Kind::EndpointSlice, &objects.endpoint_slices))
}

pub(super) fn counted(objects: &Objects) -> Vec<(String, u64)> {
    let counts = [
        ("services", objects.services.len()),
        ("pods", objects.pods.len()),
        ("endpointslices", objects.endpoint_slices.len()),
        ("nodes", objects.nodes.len()),
        ("namespaces", objects.namespaces.len()),
    ];
    counts.into_iter().map(|(kind, count)| (kind.to_owned(), count as u64)).collect()
}

/// How full the configuration maps are.
pub(super) fn fill(image: &Image, maps: &dyn LbMaps) -> Vec<MapFill> {
    let v4 = image.owned.keys().filter(|address| matches!(address, IpAddr::V4(_))).count();
    let is_v4 = |network: &&IpNet| network.addr().is_ipv4();
    let networks = image.networks.values().map(BTreeSet::len).sum::<usize>();
    let networks_v4 = image.networks.values().flatten().filter(is_v4).count();
    let used = [
        (maps::OWNED4, v4),
        (maps::OWNED6, image.owned.len() - v4),
        (maps::SERVICES, image.services.len()),
        (maps::NETWORKS4, networks_v4),
        (maps::NETWORKS6, networks - networks_v4),
        (maps::SLOTS, image.slots.len()),
        (maps::BACKENDS, image.backends.len()),
        (maps::NODE_PORTS, image.node_ports.len()),
        (maps::DEVICES, image.devices.len()),
    ];
    let line = |(name, used): (&str, usize)| MapFill {
        name: name.to_owned(),
        used: used as u64,
        capacity: maps.capacity(name).into(),
    };
    used.into_iter().map(line).collect()
}

fn problem(subject: &str, message: &str) -> Problem {
    Problem { subject: subject.to_owned(), message: message.to_owned() }
}
