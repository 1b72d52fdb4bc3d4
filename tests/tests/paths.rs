//! The two paths of a flow, and the daemon's veth pair by which the node's own processes take part.

use lb_common::{Device, HostPair, NextHop, Reason, Settings};
use lb_ebpf::{Action, Verdict};
use lb_tests::frames::{self, Flags, checked, ttl};
use lb_tests::node::{INSIDE, Node, UPLINK};
use lb_tests::small::{FAR, Family, LOCAL_1, LOCAL_2, NODE_PORT, ON_HOST, SINGLE, TARGET_PORT, WEB};
use std::net::SocketAddr;

/// The outer end of the pair.
const PAIR: u32 = 9;
const MACS: [u8; 12] = [2, 0, 0, 0, 9, 0, 2, 0, 0, 0, 9, 1];

fn at(ip: std::net::IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// A node with the pair.
fn with_pair() -> Node {
    let mut node = Node::new();
    node.tables.image.settings.host = HostPair { ifindex: PAIR, macs: MACS };
    node.tables.image.devices.insert(PAIR, Device::new(Device::HOST | Device::LOCAL_CLIENTS));
    node
}

/// A node whose new flows go through the stack.
fn through_the_stack() -> Node {
    let mut node = with_pair();
    node.tables.image.settings.flags = Settings::STACK;
    node
}

fn redirected(ifindex: u32, reason: Reason) -> Verdict {
    Verdict { ifindex, action: Action::Redirect, reason }
}

#[test]
fn a_process_of_the_node_reaches_local_and_remote_backends_with_its_own_address() {
    for family in Family::BOTH {
        for (service, out) in [(SINGLE, INSIDE), (FAR, UPLINK)] {
            let mut node = with_pair();
            let (client, service) = (at(family.node(), 40_000), family.cluster(service, 80));
            let syn = frames::tcp(client, service, Flags::Syn, b"");
            let (verdict, bytes) = node.ingress(PAIR, &syn);
            assert_eq!((verdict.ifindex, verdict.reason), (out, Reason::Forwarded));
            let (seen, backend, _) = checked(&bytes);
            assert_eq!(seen, client, "replies to the node come back to the node");
            assert_eq!(ttl(&bytes), ttl(&syn), "nothing is forwarded");

            let answer = frames::tcp(backend, seen, Flags::SynAck, b"");
            assert_eq!(node.xdp(&answer).0, Verdict::DEFER, "the pair takes nothing from XDP");
            let (verdict, bytes) = node.ingress(out, &answer);
            assert_eq!(verdict, redirected(PAIR, Reason::Replied), "the kernel has no neighbour to look for");
            assert_eq!((checked(&bytes).0, checked(&bytes).1), (service, client));
            assert_eq!((&bytes[..12], ttl(&bytes)), (&MACS[..], ttl(&answer)));
        }
    }
}

#[test]
fn a_process_of_the_node_reaches_a_socket_of_the_node() {
    for family in Family::BOTH {
        let mut node = with_pair();
        let (client, service) = (at(family.node(), 40_000), family.cluster(ON_HOST, 80));
        let (verdict, bytes) = node.ingress(PAIR, &frames::tcp(client, service, Flags::Syn, b""));
        assert_eq!(verdict, redirected(PAIR, Reason::Forwarded));
        let (seen, backend, _) = checked(&bytes);
        assert_eq!(backend, at(family.node(), TARGET_PORT));
        assert_eq!(seen, at(service.ip(), 40_000), "what the server sends there leaves by the pair");
        let (verdict, bytes) = node.ingress(PAIR, &frames::tcp(backend, seen, Flags::SynAck, b""));
        assert_eq!(verdict, redirected(PAIR, Reason::Replied));
        assert_eq!((checked(&bytes).0, checked(&bytes).1), (service, client));
    }
}

#[test]
fn the_nodes_own_address_is_a_source_by_the_pair_alone() {
    for family in Family::BOTH {
        let mut node = with_pair();
        let service = family.cluster(WEB, 80);
        let syn = frames::tcp(at(family.node(), 1), service, Flags::Syn, b"");
        for ifindex in [UPLINK, INSIDE] {
            assert_eq!(node.ingress(ifindex, &syn).0, Verdict::drop(Reason::MartianSource));
        }
        assert_eq!(node.first_at_xdp(&syn).0, Verdict::drop(Reason::MartianSource));
        let from_service = frames::tcp(at(family.cluster(SINGLE, 1).ip(), 1), service, Flags::Syn, b"");
        for ifindex in [UPLINK, INSIDE] {
            assert_eq!(node.ingress(ifindex, &from_service).0, Verdict::drop(Reason::MartianSource));
        }
        assert_eq!(node.entries(), (0, 0));
        // The node may hold a load balancer's address too, so that its processes have it as their source.
        assert_eq!(node.ingress(PAIR, &from_service).0.reason, Reason::Forwarded);
    }
}

#[test]
fn what_the_host_forwards_by_the_pair_for_others_comes_back_by_it() {
    for family in Family::BOTH {
        let mut node = with_pair();
        let (client, service) = (at(family.client(), 40_000), family.cluster(FAR, 80));
        let (verdict, bytes) = node.ingress(PAIR, &frames::tcp(client, service, Flags::Syn, b""));
        let (seen, backend, _) = checked(&bytes);
        assert_eq!((verdict.ifindex, seen.ip()), (UPLINK, family.node()), "its reply must not miss the node");
        let (verdict, bytes) = node.ingress(UPLINK, &frames::tcp(backend, seen, Flags::SynAck, b""));
        assert_eq!((verdict.ifindex, checked(&bytes).1), (PAIR, client));
    }
}

#[test]
fn without_the_pair_replies_to_the_node_are_dropped_with_a_reason() {
    let mut node = with_pair();
    let (client, service) = (at(Family::V4.node(), 40_000), Family::V4.cluster(SINGLE, 80));
    let (_, bytes) = node.ingress(PAIR, &frames::tcp(client, service, Flags::Syn, b""));
    let (seen, backend, _) = checked(&bytes);
    node.tables.image.settings.host = HostPair::default();
    node.around.tick += 1;
    let answer = frames::tcp(backend, seen, Flags::SynAck, b"");
    assert_eq!(node.ingress(INSIDE, &answer).0.reason, Reason::NoRoute);
    // Made again, with another number.
    node.tables.image.settings.host = HostPair { ifindex: PAIR + 1, macs: MACS };
    assert_eq!(node.ingress(INSIDE, &answer).0, redirected(PAIR + 1, Reason::Replied));
}

#[test]
fn through_the_stack_requests_are_translated_coming_in_and_replies_going_out() {
    for family in Family::BOTH {
        let mut node = through_the_stack();
        for (port, service) in [(40_000, family.cluster(WEB, 80)), (40_001, at(family.node(), NODE_PORT))] {
            let client = at(family.client(), port);
            let mut syn = frames::tcp(client, service, Flags::Syn, b"");
            // The stack judges TTL and MTU.
            if family == Family::V6 {
                syn[21] = 1;
            }
            assert_eq!(node.xdp(&syn), (Verdict::DEFER, syn.clone()), "TCX alone knows whether checksums are complete");
            let (verdict, bytes) = node.ingress(UPLINK, &syn);
            assert_eq!(verdict, Verdict::pass(Reason::Forwarded));
            let (seen, backend, _) = checked(&bytes);
            assert_eq!((seen, ttl(&bytes)), (client, ttl(&syn)));
            assert!([family.backend(LOCAL_1), family.backend(LOCAL_2)].contains(&backend.ip()));
            // On its way to the pod it meets egress once more.
            assert_eq!(node.egress(INSIDE, &bytes), (Verdict::pass(Reason::NotOurs), bytes));

            let answer = frames::tcp(backend, seen, Flags::SynAck, b"");
            assert_eq!(node.ingress(INSIDE, &answer), (Verdict::pass(Reason::NotOurs), answer.clone()));
            assert_eq!(node.first_at_xdp(&answer), (Verdict::pass(Reason::NotOurs), answer.clone()));
            let (verdict, bytes) = node.egress(UPLINK, &answer);
            assert_eq!(verdict, Verdict::pass(Reason::Replied));
            assert_eq!((checked(&bytes).0, checked(&bytes).1), (service, client));
            assert_eq!(ttl(&bytes), ttl(&answer));
        }
        assert_eq!((node.tables.packets(Reason::Forwarded), node.tables.packets(Reason::Replied)), (2, 2));
    }
}

#[test]
fn the_path_is_fixed_when_the_flow_is_made() {
    let service = Family::V4.cluster(WEB, 80);
    for (before, after, passes) in [(Settings::STACK, 0, true), (0, Settings::STACK, false)] {
        let mut node = with_pair();
        node.tables.image.settings.flags = before;
        let client = at(Family::V4.client(), 40_000);
        let syn = frames::tcp(client, service, Flags::Syn, b"");
        let (_, bytes) = node.ingress(UPLINK, &syn);
        let (seen, backend, _) = checked(&bytes);
        let answer = frames::tcp(backend, seen, Flags::SynAck, b"");
        node.tables.image.settings.flags = after;
        for _ in 0..3 {
            // Also when an entry was lost and is made again from its partner.
            lose_reply(&node);
            node.around.tick += 1;
            let (verdict, _) = node.ingress(UPLINK, &frames::tcp(client, service, Flags::Ack, b""));
            assert_eq!(verdict.action == Action::Pass, passes);
            let way = if passes { node.egress(UPLINK, &answer) } else { node.ingress(INSIDE, &answer) };
            assert_eq!((way.0.action == Action::Pass, way.0.reason), (passes, Reason::Replied));
        }
        let next = frames::tcp(at(Family::V4.client(), 40_001), service, Flags::Syn, b"");
        assert_eq!(node.ingress(UPLINK, &next).0.action == Action::Pass, !passes, "new flows take the new path");
    }
}

/// Loses the reply's entry of the only flow.
fn lose_reply(node: &Node) {
    for (key, _) in node.tables.flows4.contents().iter().filter(|(_, flow)| flow.is_reply()) {
        node.tables.flows4.lose(key);
    }
}

#[test]
fn what_needs_a_lent_source_goes_direct_also_with_the_stack_path() {
    for family in Family::BOTH {
        let mut node = through_the_stack();
        let remote = frames::tcp(at(family.client(), 40_000), family.cluster(FAR, 80), Flags::Syn, b"");
        assert_eq!(node.ingress(UPLINK, &remote).0.ifindex, UPLINK);
        let hairpin = frames::tcp(at(family.backend(LOCAL_1), 40_000), family.cluster(SINGLE, 80), Flags::Syn, b"");
        assert_eq!(node.ingress(INSIDE, &hairpin).0.ifindex, INSIDE);
        let host = frames::tcp(at(family.node(), 40_000), family.cluster(SINGLE, 80), Flags::Syn, b"");
        assert_eq!(node.ingress(PAIR, &host).0.ifindex, INSIDE, "the node's own address is none from outside");
        // A pod's address is kept towards a remote backend, so that takes the stack.
        let pod = frames::tcp(at(family.backend(LOCAL_2), 40_000), family.cluster(FAR, 80), Flags::Syn, b"");
        assert_eq!(node.ingress(INSIDE, &pod).0, Verdict::pass(Reason::Forwarded));
    }
}

#[test]
fn a_socket_of_the_node_is_served_alike_on_both_paths() {
    for family in Family::BOTH {
        for mut node in [with_pair(), through_the_stack()] {
            let (client, service) = (at(family.client(), 40_000), family.cluster(ON_HOST, 80));
            let (verdict, bytes) = node.xdp(&frames::tcp(client, service, Flags::Syn, b""));
            assert_eq!(verdict, Verdict::pass(Reason::Delivered));
            let (seen, backend, _) = checked(&bytes);
            let answer = frames::tcp(backend, seen, Flags::SynAck, b"");
            // Whoever sends it from outside forges the node's address.
            let counted = node.tables.reasons.borrow().clone();
            for by in [UPLINK, INSIDE, PAIR] {
                assert_eq!(node.ingress(by, &answer), (Verdict::pass(Reason::NotOurs), answer.clone()));
            }
            assert_eq!(node.xdp(&answer), (Verdict::pass(Reason::NotOurs), answer.clone()));
            let rest = &frames::fragments(&frames::tcp(backend, seen, Flags::Ack, &[1; 2000]), 1200, 1);
            for piece in rest {
                let (verdict, bytes) = node.ingress(UPLINK, piece);
                assert_eq!((verdict.action, &bytes), (Action::Pass, piece));
            }
            assert_eq!(*node.tables.reasons.borrow(), counted, "and is not counted");
            assert_eq!(node.egress(UPLINK, &answer).0, Verdict::pass(Reason::Replied));
        }
    }
}

#[test]
fn the_way_of_a_flow_survives_in_its_entries() {
    let mut node = through_the_stack();
    node.ingress(UPLINK, &frames::tcp(at(Family::V4.client(), 1), Family::V4.cluster(WEB, 80), Flags::Syn, b""));
    node.ingress(PAIR, &frames::tcp(at(Family::V4.node(), 1), Family::V4.cluster(SINGLE, 80), Flags::Syn, b""));
    let flags: Vec<u16> = node.tables.flows4.contents().values().map(|flow| flow.hop.flags).collect();
    let count = |flag| flags.iter().filter(|flags| **flags & flag != 0).count();
    assert_eq!((count(NextHop::STACK), count(NextHop::HOST)), (2, 2), "both entries of each: {flags:?}");
}
