//! Which clients a Service serves, and by which backends, on the core with tables in memory.

use lb_common::network::{KEPT, PODS};
use lb_common::{Backend, BackendSet, Owned, Reason, Service, ServiceKey, TCP, UDP};
use lb_ebpf::Action;
use lb_tests::frames::{self, Flags};
use lb_tests::node::{INSIDE, Node, UPLINK};
use lb_tests::small::{DNS, EMPTY, FAR, Family, LOCAL_1, LOCAL_2, NODE_PORT, REMOTE, SINGLE, V6};
use std::net::{IpAddr, SocketAddr};

fn syn(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    frames::tcp(from, to, Flags::Syn, b"")
}

/// The record behind port 80 of a cluster address.
fn record(node: &mut Node, family: Family, id: u32) -> (ServiceKey, &mut Service) {
    let key = ServiceKey::new(family.cluster(id, 0).ip(), 80, TCP);
    (key, node.tables.image.services.get_mut(&key).expect("a record"))
}

fn client(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.client(), port)
}

#[test]
fn clients_of_the_cluster_have_a_record_of_their_own_where_the_policy_is_local() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let remote = record(&mut node, family, FAR).1.backends;
        let (key, service) = record(&mut node, family, SINGLE);
        service.flags = Service::SCOPED;
        let within = Service { backends: remote, flags: 0, ..*service };
        node.tables.image.services.insert(key.within(), within);
        let to = family.cluster(SINGLE, 80);
        let (seen, backend) = node.forwarded(UPLINK, &syn(client(family, 1001), to));
        assert_eq!((seen, backend.ip()), (client(family, 1001), family.backend(LOCAL_1)));
        let network = ipnet::IpNet::from(family.client());
        node.tables.image.networks.insert(PODS, [network].into());
        let (seen, backend) = node.forwarded(UPLINK, &syn(client(family, 1002), to));
        assert_eq!(backend.ip(), family.backend(REMOTE), "a pod of another node is sent anywhere");
        assert_eq!(seen, client(family, 1002), "and keeps its address");
    }
}

#[test]
fn whom_the_daemon_names_keeps_its_address_at_a_cluster_ip() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let to = family.cluster(FAR, 80);
        record(&mut node, family, FAR).1.flags = Service::INTERNAL;
        let (seen, _) = node.forwarded(UPLINK, &syn(client(family, 1001), to));
        assert_eq!(seen.ip(), family.node(), "its replies would miss the node");
        node.tables.image.networks.insert(KEPT, [ipnet::IpNet::from(family.client())].into());
        assert_eq!(node.forwarded(UPLINK, &syn(client(family, 1002), to)).0, client(family, 1002));
        record(&mut node, family, FAR).1.flags = 0;
        let (seen, _) = node.forwarded(UPLINK, &syn(client(family, 1003), to));
        assert_eq!(seen.ip(), family.node(), "at other addresses it does not");
    }
}

#[test]
fn without_a_backend_here_silence_without_any_a_refusal() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let to = family.cluster(EMPTY, 80);
        assert_eq!(node.ingress(UPLINK, &syn(client(family, 1001), to)).0.reason, Reason::NoBackend);
        record(&mut node, family, EMPTY).1.flags = Service::ELSEWHERE;
        let verdict = node.ingress(UPLINK, &syn(client(family, 1002), to)).0;
        assert_eq!((verdict.action, verdict.reason), (Action::Drop, Reason::NoLocalBackend));
    }
}

#[test]
fn only_clients_in_the_source_ranges_are_served() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (_, service) = record(&mut node, family, SINGLE);
        service.flags = Service::RANGED;
        let id = service.id;
        let to = family.cluster(SINGLE, 80);
        let verdict = node.ingress(UPLINK, &syn(client(family, 1001), to)).0;
        assert_eq!((verdict.action, verdict.reason), (Action::Drop, Reason::SourceRange));
        let length = if family == Family::V4 { 8 } else { 16 };
        let network = ipnet::IpNet::new(family.client(), length).expect("a length").trunc();
        node.tables.image.networks.insert(id, [network].into());
        node.forwarded(UPLINK, &syn(client(family, 1002), to));
        assert_eq!(node.ingress(INSIDE, &syn(SocketAddr::new(family.backend(LOCAL_1), 1003), to)).0.reason, {
            if network.contains(&family.backend(LOCAL_1)) { Reason::Forwarded } else { Reason::SourceRange }
        });
    }
}

#[test]
fn silent_addresses_of_the_node_serve_no_node_port() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let address: IpAddr = family.node();
        let to = SocketAddr::new(address, NODE_PORT);
        node.forwarded(UPLINK, &syn(client(family, 1001), to));
        node.tables.image.owned.insert(address, Owned::SILENT);
        let verdict = node.ingress(UPLINK, &syn(client(family, 1002), to)).0;
        assert_eq!((verdict.action, verdict.reason), (Action::Pass, Reason::NotOurs));
        let forged = node.ingress(UPLINK, &syn(SocketAddr::new(address, 1003), family.cluster(SINGLE, 80))).0;
        assert_eq!(forged.reason, Reason::MartianSource, "it is the node's own all the same");
    }
}

#[test]
fn datagrams_stay_with_what_serves_and_with_a_port_that_is_gone() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (from, to) = (client(family, 2001), family.cluster(DNS, 53));
        let datagram = frames::udp(from, to, b"query");
        let (_, backend) = node.forwarded(UPLINK, &datagram);
        let id = if backend.ip() == family.backend(LOCAL_1) { LOCAL_1 } else { LOCAL_2 };
        let id = if family == Family::V4 { id } else { id + V6 };
        let flags = |node: &mut Node, flags| node.tables.image.backends.get_mut(&id).expect("a backend").flags = flags;
        flags(&mut node, Backend::SERVING | Backend::LOCAL);
        assert_eq!(node.forwarded(UPLINK, &datagram).1, backend, "it still serves");
        flags(&mut node, Backend::LOCAL);
        let services = node.tables.image.services.clone();
        node.tables.image.services.retain(|key, _| key.protocol != UDP);
        assert_eq!(node.forwarded(UPLINK, &datagram).1, backend, "no Service has the port");
        let verdict = node.ingress(UPLINK, &frames::udp(client(family, 2002), to, b"query")).0;
        assert_eq!(verdict.reason, Reason::NoServicePort, "a new one is refused");
        node.tables.image.services = services;
        node.tables.image.services.values_mut().for_each(|service| service.backends = BackendSet::EMPTY);
        assert_eq!(
            node.ingress(UPLINK, &datagram).0.reason,
            Reason::NoBackend,
            "a Service has it again, and nobody behind it"
        );
    }
}
