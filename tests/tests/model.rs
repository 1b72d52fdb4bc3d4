//! Whole flows on the core, with tables in memory and a clock of the test's own.

use lb_common::flow::State;
use lb_common::{Backend, BackendSet, Device, Flow, NextHop, Reason, ServiceKey, TCP};
use lb_ebpf::{Action, Route, Verdict, process};
use lb_tests::frames::{self, Flags, checked};
use lb_tests::memory::{At, Frame, Memory};
use lb_tests::node::{INSIDE, Node, UPLINK};
use lb_tests::small::{
    self, EMPTY, FAR, Family, HOST, LOCAL_1, LOCAL_2, NODE_PORT, ON_HOST, SINGLE, TARGET_PORT, TWIN, WEB,
};
use std::net::{IpAddr, SocketAddr};

fn client(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.client(), port)
}

#[test]
fn a_connection_lives_from_syn_to_time_wait() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (client, service) = (client(family, 40_000), family.cluster(WEB, 80));
        let (seen, backend) = node.connect(client, service);
        assert_eq!(seen, client, "a local backend sees the client's own address");
        assert!([LOCAL_1, LOCAL_2].map(|id| family.backend(id)).contains(&backend.ip()));
        assert_eq!(backend.port(), TARGET_PORT);
        assert_eq!(node.entries(), (2, 0), "confirmed by the client's ACK");
        assert_eq!(node.states(), [State::Established; 2]);

        node.forwarded(UPLINK, &frames::tcp(client, service, Flags::Fin, b""));
        assert_eq!(node.states(), [State::HalfClosed; 2]);
        node.forwarded(INSIDE, &frames::tcp(backend, client, Flags::Ack, b"the other half goes on"));
        node.forwarded(INSIDE, &frames::tcp(backend, client, Flags::Fin, b""));
        assert_eq!(node.states(), [State::TimeWait; 2]);
        assert_eq!(node.tables.packets(Reason::Forwarded), 3);
        assert_eq!(node.tables.packets(Reason::Replied), 3);
    }
}

#[test]
fn a_rewrite_takes_one_hop_and_names_the_next() {
    let mut node = Node::new();
    let syn = frames::tcp(client(Family::V4, 40_000), Family::V4.cluster(SINGLE, 80), Flags::Syn, b"");
    let (verdict, bytes) = node.xdp(&syn);
    assert_eq!((verdict.action, verdict.ifindex), (Action::Redirect, INSIDE));
    assert_eq!(frames::ttl(&bytes), frames::ttl(&syn) - 1);
    assert_eq!(bytes[..12], small::hop(INSIDE).macs);
}

#[test]
fn a_flood_of_first_packets_confirms_nothing() {
    let mut node = Node::new();
    for port in 1..200 {
        node.forwarded(UPLINK, &frames::tcp(client(Family::V4, port), Family::V4.cluster(WEB, 80), Flags::Syn, b""));
    }
    assert_eq!(node.entries(), (0, 398));
}

#[test]
fn a_pick_is_the_same_after_its_entries_were_lost() {
    for family in Family::BOTH {
        for port in 40_000..40_020 {
            let mut node = Node::new();
            let (client, service) = (client(family, port), family.cluster(WEB, 80));
            let before = node.connect(client, service);
            node.tables.flows4 = Memory::new(node.tables.image.clone()).flows4;
            node.tables.flows6 = Memory::new(node.tables.image.clone()).flows6;
            assert_eq!(node.forwarded(UPLINK, &frames::tcp(client, service, Flags::Ack, b"data")), before);
        }
    }
}

#[test]
fn a_lost_half_is_made_again_from_the_other() {
    let mut node = Node::new();
    let (client, service) = (client(Family::V4, 40_000), Family::V4.cluster(FAR, 80));
    let (seen, backend) = node.connect(client, service);
    for half in 0..2 {
        let all = node.tables.flows4.contents();
        let key = *all.keys().nth(half).expect("two halves");
        node.tables.flows4.lose(&key);
        node.around.tick += 1;
        let told = if all[&key].is_reply() {
            node.forwarded(UPLINK, &frames::tcp(client, service, Flags::Ack, b""))
        } else {
            node.forwarded(UPLINK, &frames::tcp(backend, seen, Flags::Ack, b""))
        };
        assert!(told == (seen, backend) || told == (service, client));
        let again = node.tables.flows4.contents();
        let (old, new) = (all[&key], again[&key]);
        assert_eq!((old.src, old.dst, old.src_port, old.dst_port), (new.src, new.dst, new.src_port, new.dst_port));
        assert_eq!((old.address_delta, old.port_delta), (new.address_delta, new.port_delta));
        assert_eq!((old.flags, old.backend, old.service), (new.flags, new.backend, new.service));
    }
}

#[test]
fn silence_expires_a_flow_and_traffic_in_either_direction_keeps_it() {
    let mut node = Node::new();
    let (client, service) = (client(Family::V6, 40_000), Family::V6.cluster(WEB, 80));
    let (_, backend) = node.connect(client, service);
    let timeout = State::Established.timeout_ticks();
    // Only the backend speaks, and each silence is just not too long.
    for _ in 0..3 {
        node.around.tick += timeout - 2;
        assert_eq!(node.forwarded(INSIDE, &frames::tcp(backend, client, Flags::Ack, b"")), (service, client));
    }
    node.around.tick += 1;
    node.forwarded(UPLINK, &frames::tcp(client, service, Flags::Ack, b""));
    let connections: u64 = node.tables.services.borrow().values().map(|traffic| traffic.connections).sum();
    assert_eq!(connections, 1, "the client's entry was kept alive by its partner");

    node.around.tick += timeout + 2;
    let late = frames::tcp(backend, client, Flags::Ack, b"");
    let (verdict, bytes) = node.ingress(INSIDE, &late);
    assert_eq!((verdict, bytes), (Verdict::pass(Reason::NotOurs), late), "an expired reply is not translated");
}

#[test]
fn a_frame_for_another_host_begins_nothing() {
    let mut node = Node::new();
    let syn = frames::tcp(client(Family::V4, 1), Family::V4.cluster(SINGLE, 80), Flags::Syn, b"");
    let flags = lb_common::Device::OWN_MAC;
    let device = |mac| lb_common::Device { mac, ..lb_common::Device::new(flags) };
    node.tables.image.devices.insert(UPLINK, device([2, 0, 0, 0, 0, 0x77]));
    assert_eq!(node.ingress(UPLINK, &syn), (Verdict::pass(Reason::NotOurs), syn.clone()));
    node.tables.image.devices.insert(UPLINK, device(frames::DESTINATION_MAC));
    node.forwarded(UPLINK, &syn);
}

#[test]
fn a_frame_for_another_host_is_left_alone_also_where_the_flow_is_known() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let own = lb_common::Device::new(lb_common::Device::OWN_MAC);
        for ifindex in [UPLINK, INSIDE] {
            let device = node.tables.image.devices.entry(ifindex).or_default();
            *device = lb_common::Device { mac: frames::DESTINATION_MAC, flags: device.flags | own.flags, ..own };
        }
        let (client, service) = (client(family, 1), family.cluster(SINGLE, 80));
        let (seen, backend) = node.connect(client, service);
        let tables = |node: &Node| (node.tables.flows4.contents(), node.tables.flows6.contents());
        for later in [0, 1, 4] {
            node.around.tick += later;
            for (by, ours) in [
                (UPLINK, frames::tcp(client, service, Flags::Ack, b"request")),
                (INSIDE, frames::tcp(backend, seen, Flags::Ack, b"answer")),
                (UPLINK, frames::tcp(client, service, Flags::Rst, b"")),
            ] {
                let mut flooded = ours.clone();
                flooded[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
                // Before one of ours in this tick, and after.
                for _ in 0..2 {
                    let before = tables(&node);
                    assert_eq!(node.ingress(by, &flooded), (Verdict::pass(Reason::NotOurs), flooded.clone()));
                    if by == UPLINK {
                        assert_eq!(node.xdp(&flooded), (Verdict::pass(Reason::NotOurs), flooded.clone()));
                    }
                    assert!(before == tables(&node), "something is remembered of it");
                    node.forwarded(by, &ours);
                }
            }
            // The next round is of a new connection.
            node.connect(client, service);
        }
    }
}

#[test]
fn sources_that_no_client_can_have_are_refused() {
    let mut node = Node::new();
    let martians: [&str; 12] = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.5",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "10.96.0.1",
        "::",
        "::1",
        "ff02::1",
        "2001:db8::1",
    ];
    for source in martians {
        let source = SocketAddr::new(source.parse().expect("an address"), 9);
        let family = if source.is_ipv4() { Family::V4 } else { Family::V6 };
        let query = frames::udp(source, family.cluster(small::DNS, 53), b"");
        assert_eq!(node.ingress(UPLINK, &query).0, Verdict::drop(Reason::MartianSource), "{source}");
    }
}

#[test]
fn tcp_keeps_a_dead_backend_and_a_new_syn_leaves_it() {
    let mut node = Node::new();
    let (client, service) = (client(Family::V4, 40_000), Family::V4.cluster(WEB, 80));
    let (_, backend) = node.connect(client, service);
    let (dead, alive) =
        if backend.ip() == Family::V4.backend(LOCAL_1) { (LOCAL_1, LOCAL_2) } else { (LOCAL_2, LOCAL_1) };
    withdraw(&mut node, dead, alive);
    node.around.tick += 1;
    let ack = frames::tcp(client, service, Flags::Ack, b"still here");
    assert_eq!(node.forwarded(UPLINK, &ack).1, backend, "an established connection stays");
    let syn = frames::tcp(client, service, Flags::Syn, b"");
    let (_, chosen) = node.forwarded(UPLINK, &syn);
    assert_eq!(chosen.ip(), Family::V4.backend(alive), "a SYN chooses again");
}

#[test]
fn udp_leaves_a_dead_backend_at_once() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (client, service) = (client(family, 40_000), family.cluster(small::DNS, 53));
        let (_, backend) = node.forwarded(UPLINK, &frames::udp(client, service, b"query"));
        let (dead, alive) =
            if backend.ip() == family.backend(LOCAL_1) { (LOCAL_1, LOCAL_2) } else { (LOCAL_2, LOCAL_1) };
        withdraw(&mut node, dead, alive);
        let (_, chosen) = node.forwarded(UPLINK, &frames::udp(client, service, b"query"));
        assert_eq!(chosen.ip(), family.backend(alive), "in the same tick");
    }
}

/// Takes a backend out of all services, as the daemon does: its record stays, not alive.
fn withdraw(node: &mut Node, dead: u32, alive: u32) {
    for offset in [0, small::V6] {
        node.tables.image.backends.get_mut(&(dead + offset)).expect("a backend").flags &= !Backend::ALIVE;
    }
    for (key, service) in &mut node.tables.image.services {
        let offset = if key.version() == 6 { small::V6 } else { 0 };
        if service.backends.count() == 2 {
            let base = service.backends.base();
            let keeps = (base..base + 2).find(|slot| node.tables.image.slots[slot].backend == alive + offset);
            service.backends = BackendSet::new(keeps.expect("two backends"), 1, 2);
        }
    }
}

#[test]
fn a_syn_that_reuses_a_port_of_a_closed_connection_starts_anew() {
    for (flags, state) in [(Flags::Rst, State::Closed), (Flags::Fin, State::HalfClosed)] {
        let mut node = Node::new();
        let (client, service) = (client(Family::V4, 40_000), Family::V4.cluster(WEB, 80));
        node.connect(client, service);
        node.forwarded(UPLINK, &frames::tcp(client, service, flags, b""));
        assert_eq!(node.states(), [state; 2]);
        node.forwarded(UPLINK, &frames::tcp(client, service, Flags::Syn, b""));
        assert_eq!(node.states(), [State::SynSent; 2]);
        assert_eq!(node.entries(), (0, 2));
    }
}

#[test]
fn a_retransmitted_syn_changes_nothing() {
    let mut node = Node::new();
    let (client, service) = (client(Family::V4, 40_000), Family::V4.cluster(FAR, 80));
    let syn = frames::tcp(client, service, Flags::Syn, b"");
    let first = node.forwarded(UPLINK, &syn);
    assert_eq!(node.forwarded(UPLINK, &syn), first);
    assert_eq!(node.entries(), (0, 2));
    let connections: u64 = node.tables.services.borrow().values().map(|traffic| traffic.connections).sum();
    assert_eq!(connections, 1);
}

#[test]
fn a_full_table_drops_new_flows_and_loses_none() {
    let mut node = Node::new();
    let service = Family::V4.cluster(WEB, 80);
    node.tables.flows4.limit(3);
    node.connect(client(Family::V4, 1), service);
    let syn = frames::tcp(client(Family::V4, 2), service, Flags::Syn, b"");
    assert_eq!(node.ingress(UPLINK, &syn).0, Verdict::drop(Reason::TableFull));
    assert_eq!(node.entries(), (2, 0), "the reply's entry was undone");
    assert_eq!(node.tables.packets(Reason::TableFull), 1);
    node.forwarded(UPLINK, &frames::tcp(client(Family::V4, 1), service, Flags::Ack, b""));
}

#[test]
fn what_is_not_ours_passes_byte_for_byte() {
    let mut node = Node::new();
    for family in Family::BOTH {
        let outside: IpAddr = family.client();
        for frame in [
            frames::tcp(client(family, 1), SocketAddr::new(family.node(), 22), Flags::Syn, b""),
            frames::udp(client(family, 1), SocketAddr::new(family.node(), NODE_PORT), b""),
            frames::tcp(client(family, 1), SocketAddr::new(family.backend(LOCAL_1), 8080), Flags::Ack, b"x"),
            frames::echo(outside, family.node()),
            frames::other(outside, family.node()),
        ] {
            assert_eq!(node.ingress(UPLINK, &frame), (Verdict::pass(Reason::NotOurs), frame.clone()));
            // Untouched either way; ICMP is judged by TCX alone.
            let (verdict, at_xdp) = node.xdp(&frame);
            assert!(matches!(verdict.action, Action::Pass | Action::Defer) && verdict.reason == Reason::NotOurs);
            assert_eq!(at_xdp, frame);
            assert_eq!(node.egress(UPLINK, &frame), (Verdict::pass(Reason::NotOurs), frame));
        }
    }
    assert!(node.tables.reasons.borrow().is_empty(), "and uncounted");
}

#[test]
fn refusals_have_their_reasons() {
    let mut node = Node::new();
    for family in Family::BOTH {
        let service = family.cluster(WEB, 80).ip();
        for (frame, reason) in [
            (frames::tcp(client(family, 1), family.cluster(EMPTY, 80), Flags::Syn, b""), Reason::NoBackend),
            (frames::tcp(client(family, 1), family.cluster(WEB, 81), Flags::Syn, b""), Reason::NoServicePort),
            (frames::udp(client(family, 1), family.cluster(WEB, 80), b""), Reason::NoServicePort),
            (frames::echo(family.client(), service), Reason::EchoReplied),
            (frames::other(family.client(), service), Reason::Protocol),
        ] {
            assert_eq!(node.xdp(&frame), (Verdict::DEFER, frame.clone()), "packets are made at TCX alone");
            let verdict = node.ingress(UPLINK, &frame).0;
            assert_eq!(verdict, Verdict { ifindex: UPLINK, action: Action::Redirect, reason });
        }
    }
    assert_eq!(node.tables.packets(Reason::NoServicePort), 4);
}

#[test]
fn a_spent_ttl_ends_here() {
    let mut node = Node::new();
    let mut syn = frames::tcp(client(Family::V6, 1), Family::V6.cluster(WEB, 80), Flags::Syn, b"");
    syn[21] = 1;
    assert_eq!(
        node.ingress(UPLINK, &syn).0,
        Verdict { ifindex: UPLINK, action: Action::Redirect, reason: Reason::TtlExceeded }
    );
}

/// All entries, to see whether a packet has changed any.
fn remembered(node: &Node) -> String {
    let (four, six) = (node.tables.flows4.contents(), node.tables.flows6.contents());
    // The way out may have been asked for: it is no more than an answer of the kernel's.
    let four = four.into_iter().map(|(key, flow)| (key, flow.tick, flow.flags)).collect::<Vec<_>>();
    let six = six.into_iter().map(|(key, flow)| (key, flow.tick, flow.flags)).collect::<Vec<_>>();
    format!("{four:?} {six:?}")
}

/// Opens a connection to a backend behind either interface.
fn open(node: &mut Node, from: SocketAddr, to: SocketAddr) {
    let (verdict, bytes) = node.ingress(UPLINK, &frames::tcp(from, to, Flags::Syn, b""));
    let (seen, backend, _) = checked(&bytes);
    node.forwarded(verdict.ifindex, &frames::tcp(backend, seen, Flags::SynAck, b""));
    node.forwarded(UPLINK, &frames::tcp(from, to, Flags::Ack, b""));
}

/// The frame with a TTL or hop limit of one.
fn at_its_end(mut frame: Vec<u8>) -> Vec<u8> {
    let is_v4 = frame[12..14] == [0x08, 0x00];
    if is_v4 {
        let taken = u16::from(frame[22] - 1);
        frame[22] = 1;
        let sum = u32::from(u16::from_be_bytes([frame[24], frame[25]])) + u32::from(taken << 8);
        let sum = (sum & 0xffff) + (sum >> 16);
        frame[24..26].copy_from_slice(&(sum as u16).to_be_bytes());
    } else {
        frame[21] = 1;
    }
    frame
}

#[test]
fn nothing_is_remembered_of_a_packet_that_is_not_sent_on() {
    for family in Family::BOTH {
        for service in [SINGLE, FAR] {
            let (from, to) = (client(family, 40_000), family.cluster(service, 80));
            let refused = |flags| {
                [
                    (at_its_end(frames::tcp(from, to, flags, b"")), Reason::TtlExceeded),
                    (frames::tcp(from, to, flags, &[7; 4000]), Reason::MtuExceeded),
                ]
            };
            // As the first packet.
            let mut node = Node::new();
            for (frame, reason) in refused(Flags::Syn) {
                assert_eq!(node.ingress(UPLINK, &frame).0.reason, reason);
                assert_eq!(node.xdp(&frame), (Verdict::DEFER, frame));
            }
            assert_eq!(node.entries(), (0, 0));
            assert!(node.tables.services.borrow().is_empty(), "no connection is counted");
            // A stranger's answer is no reply then.
            let answer = frames::tcp(SocketAddr::new(family.backend(LOCAL_1), TARGET_PORT), from, Flags::SynAck, b"");
            assert_eq!(node.ingress(INSIDE, &answer), (Verdict::pass(Reason::NotOurs), answer));
            // As a later one, of the same tick and of another.
            open(&mut node, from, to);
            for ticks in [0, 5] {
                node.around.tick += ticks;
                let before = remembered(&node);
                for flags in [Flags::Ack, Flags::Fin, Flags::Rst] {
                    for (frame, reason) in refused(flags) {
                        assert_eq!(node.ingress(UPLINK, &frame).0.reason, reason);
                        assert_eq!(node.xdp(&frame), (Verdict::DEFER, frame));
                    }
                }
                assert_eq!(remembered(&node), before);
            }
        }
    }
}

#[test]
fn a_packet_that_is_not_sent_on_takes_no_source_from_another_connection() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (from, first, second) = (client(family, 40_000), family.cluster(SINGLE, 80), family.cluster(TWIN, 80));
        node.connect(from, first);
        let backend = SocketAddr::new(family.backend(LOCAL_1), TARGET_PORT);
        node.forwarded(UPLINK, &frames::tcp(from, first, Flags::Fin, b""));
        node.forwarded(INSIDE, &frames::tcp(backend, from, Flags::Fin, b""));
        let frame = at_its_end(frames::tcp(from, second, Flags::Syn, b""));
        assert_eq!(node.ingress(UPLINK, &frame).0.reason, Reason::TtlExceeded);
        let last = frames::tcp(backend, from, Flags::Ack, b"");
        assert_eq!(node.forwarded(INSIDE, &last), (first, from), "it is still the first Service's");
    }
}

#[test]
fn segments_and_not_the_whole_are_held_against_the_mtu() {
    let mut node = Node::new();
    let (client, service) = (client(Family::V4, 1), Family::V4.cluster(SINGLE, 80));
    node.connect(client, service);
    let large = frames::tcp(client, service, Flags::Ack, &[7; 4000]);
    assert_eq!(node.ingress(UPLINK, &large).0.reason, Reason::MtuExceeded);
    let mut frame = Frame { segment_size: Some(1460), ..Frame::new(large.clone()) };
    assert_eq!(process(&mut frame, &node.tables, &At::<1>(&node.around)).reason, Reason::Forwarded);
    let mut frame = Frame { segment_size: Some(1461), ..Frame::new(large.clone()) };
    assert_eq!(process(&mut frame, &node.tables, &At::<1>(&node.around)).reason, Reason::MtuExceeded);
    assert_eq!(node.xdp(&large), (Verdict::DEFER, large), "XDP cannot tell, and leaves it to TCX");
}

#[test]
fn xdp_leaves_what_it_cannot_finish_untouched_and_uncounted() {
    let service = Family::V4.cluster(SINGLE, 80);
    let syn = frames::tcp(client(Family::V4, 1), service, Flags::Syn, b"");
    // No neighbour yet.
    let mut node = Node::new();
    let hop = NextHop { macs: [0; 12], ..small::hop(INSIDE) };
    node.around.routes.insert(Family::V4.backend(LOCAL_1), Route::Via(hop));
    assert_eq!(node.xdp(&syn), (Verdict::DEFER, syn.clone()));
    assert_eq!((node.entries(), node.tables.reasons.borrow().len()), ((0, 0), 0));
    let (verdict, _) = node.ingress(UPLINK, &syn);
    assert_eq!((verdict.action, verdict.ifindex), (Action::RedirectNeighbour, INSIDE));
    // A device that takes no frames from XDP.
    let mut node = Node::new();
    node.tables.image.devices.remove(&INSIDE);
    assert_eq!(node.xdp(&syn), (Verdict::DEFER, syn.clone()));
    let (verdict, _) = node.ingress(UPLINK, &syn);
    assert_eq!((verdict.action, verdict.ifindex), (Action::RedirectNeighbour, INSIDE));
    assert_eq!(node.tables.packets(Reason::Forwarded), 1);
}

#[test]
fn whoever_has_no_neighbour_asks_for_the_way_with_every_packet() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (client, service) = (client(family, 1), family.cluster(SINGLE, 80));
        let unresolved = |ifindex| Route::Via(NextHop { macs: [0; 12], ..small::hop(ifindex) });
        for by in [INSIDE, UPLINK, INSIDE] {
            // One of several gateways, and then another: the kernel sends to the one that it named last.
            node.around.routes.insert(family.backend(LOCAL_1), unresolved(by));
            let (verdict, _) = node.ingress(UPLINK, &frames::tcp(client, service, Flags::Syn, b""));
            assert_eq!((verdict.action, verdict.ifindex), (Action::RedirectNeighbour, by));
        }
        node.around.routes.insert(family.backend(LOCAL_1), Route::Via(small::hop(INSIDE)));
        let syn = frames::tcp(client, service, Flags::Syn, b"");
        assert_eq!(node.ingress(UPLINK, &syn).0.action, Action::RedirectNeighbour, "it has asked once more");
        assert_eq!(node.ingress(UPLINK, &syn).0.action, Action::Redirect);
    }
}

#[test]
fn the_kernel_sends_often_enough_to_keep_its_neighbours_honest() {
    let mut node = Node::new();
    let (client, service) = (client(Family::V4, 1), Family::V4.cluster(SINGLE, 80));
    node.connect(client, service);
    let ack = frames::tcp(client, service, Flags::Ack, b"");
    let mut deferred = 0;
    for _ in 0..8 {
        node.around.tick += 1;
        if node.xdp(&ack).0 == Verdict::DEFER {
            deferred += 1;
            assert_eq!(node.ingress(UPLINK, &ack).0.action, Action::RedirectNeighbour);
        }
        assert_eq!(node.xdp(&ack).0.action, Action::Redirect, "the rest of the tick is XDP's");
    }
    assert_eq!(deferred, 2);
    node.around.tick += 1;
    let first = frames::tcp(SocketAddr::new(client.ip(), 999), Family::V4.cluster(TWIN, 80), Flags::Syn, b"");
    assert_eq!(node.first_at_xdp(&first).0, Verdict::DEFER, "the first new flow of a tick");
    let opened = (1..=320).map(|port| {
        let syn = frames::tcp(SocketAddr::new(client.ip(), port), Family::V4.cluster(TWIN, 80), Flags::Syn, b"");
        u32::from(node.xdp(&syn).0 == Verdict::DEFER)
    });
    let deferred: u32 = opened.sum();
    assert!((8..40).contains(&deferred), "of 320 new flows about 20 are left to the kernel: {deferred}");
}

#[test]
fn what_is_for_a_pods_own_end_is_handed_over_from_the_first_packet_on() {
    for family in Family::BOTH {
        let mut node = Node::new();
        node.tables.image.devices.insert(INSIDE, Device::new(Device::LOCAL_CLIENTS | Device::PEER));
        let (client, service) = (client(family, 1), family.cluster(SINGLE, 80));
        let syn = frames::tcp(client, service, Flags::Syn, b"");
        assert_eq!(node.xdp(&syn), (Verdict::DEFER, syn.clone()), "XDP cannot");
        for _ in 0..3 {
            let (verdict, seen) = node.ingress(UPLINK, &syn);
            assert_eq!((verdict.action, verdict.ifindex), (Action::RedirectPeer, INSIDE));
            assert_eq!(seen[..12], small::hop(INSIDE).macs, "the pod's MAC");
            node.around.tick += 1;
        }
        let pod = SocketAddr::new(family.backend(LOCAL_1), 8080);
        let (verdict, _) = node.ingress(INSIDE, &frames::tcp(pod, client, Flags::SynAck, b""));
        assert_eq!((verdict.action, verdict.ifindex), (Action::RedirectNeighbour, UPLINK), "not out of the node");
        // Who has no MAC is looked for, and who is not to be passed by is not.
        let unresolved = Route::Via(NextHop { macs: [0; 12], ..small::hop(INSIDE) });
        node.around.routes.insert(family.backend(LOCAL_1), unresolved);
        node.around.tick += 1;
        assert_eq!(node.ingress(UPLINK, &syn).0.action, Action::RedirectNeighbour);
        node.around.routes.insert(family.backend(LOCAL_1), Route::Via(small::hop(INSIDE)));
        node.tables.image.devices.insert(INSIDE, Device::new(Device::LOCAL_CLIENTS));
        node.around.tick += 1;
        assert_eq!(node.ingress(UPLINK, &syn).0.action, Action::RedirectNeighbour);
        assert_eq!(node.ingress(UPLINK, &syn).0.action, Action::Redirect);
    }
}

#[test]
fn what_xdp_leaves_to_the_kernel_is_not_handed_over() {
    let mut node = Node::new();
    let flags = Device::XDP_TARGET | Device::LOCAL_CLIENTS | Device::PEER;
    node.tables.image.devices.insert(INSIDE, Device::new(flags));
    let (client, service) = (client(Family::V4, 1), Family::V4.cluster(SINGLE, 80));
    let syn = frames::tcp(client, service, Flags::Syn, b"");
    // Nobody meets XDP here, and then everybody does.
    assert_eq!(node.ingress(UPLINK, &syn).0.action, Action::RedirectPeer);
    node.tables.image.devices.insert(UPLINK, Device::new(Device::XDP));
    node.around.tick += 1;
    assert_eq!(node.ingress(UPLINK, &syn).0.action, Action::RedirectNeighbour);
    node.around.tick = (node.around.tick / 4 + 1) * 4;
    assert_eq!(node.xdp(&syn).0, Verdict::DEFER);
    assert_eq!(node.ingress(UPLINK, &syn).0.action, Action::RedirectNeighbour);
    assert_eq!(node.xdp(&syn).0.action, Action::Redirect);
    // XDP asked last, and what is too large for it comes behind.
    assert_eq!(node.ingress(UPLINK, &syn).0.action, Action::Redirect);
}

#[test]
fn a_moved_next_hop_is_followed_within_a_tick() {
    let mut node = Node::new();
    let (client, service) = (client(Family::V4, 1), Family::V4.cluster(SINGLE, 80));
    node.connect(client, service);
    let moved = NextHop { macs: [6; 12], ..small::hop(INSIDE) };
    node.around.routes.insert(Family::V4.backend(LOCAL_1), Route::Via(moved));
    node.around.tick += 1;
    let ack = frames::tcp(client, service, Flags::Ack, b"");
    assert_eq!(node.ingress(UPLINK, &ack).0.action, Action::RedirectNeighbour, "the kernel itself sends the first");
    assert_eq!(node.ingress(UPLINK, &ack).1[..12], [6; 12]);
}

#[test]
fn a_socket_of_the_node_is_a_backend_whose_replies_are_met_at_egress() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (client, service) = (client(family, 1), family.cluster(ON_HOST, 80));
        let (verdict, bytes) = node.xdp(&frames::tcp(client, service, Flags::Syn, b""));
        assert_eq!(verdict, Verdict::pass(Reason::Delivered));
        let (seen, backend, _) = checked(&bytes);
        assert_eq!((seen, backend), (client, SocketAddr::new(family.backend(HOST), TARGET_PORT)));
        assert_eq!(frames::ttl(&bytes), 64, "nobody forwarded it");
        let (verdict, bytes) = node.egress(UPLINK, &frames::tcp(backend, seen, Flags::SynAck, b""));
        assert_eq!(verdict, Verdict::pass(Reason::Replied));
        let (from, to, _) = checked(&bytes);
        assert_eq!((from, to), (service, client));
    }
}

#[test]
fn a_redirected_packet_misses_at_the_egress_it_meets() {
    let mut node = Node::new();
    let (client, service) = (client(Family::V4, 1), Family::V4.cluster(WEB, 80));
    let (seen, backend) = node.connect(client, service);
    let before = node.tables.reasons.borrow().clone();
    let translated = frames::tcp(seen, backend, Flags::Ack, b"");
    assert_eq!(node.egress(INSIDE, &translated), (Verdict::pass(Reason::NotOurs), translated));
    let reply = frames::tcp(service, client, Flags::Ack, b"");
    assert_eq!(node.egress(UPLINK, &reply), (Verdict::pass(Reason::NotOurs), reply));
    assert_eq!(*node.tables.reasons.borrow(), before);
}

#[test]
fn a_node_port_answers_on_the_nodes_address_only_for_its_protocol() {
    let mut node = Node::new();
    for family in Family::BOTH {
        let service = SocketAddr::new(family.node(), NODE_PORT);
        let (seen, backend) = node.connect(client(family, 7), service);
        assert_eq!(seen, client(family, 7));
        assert_eq!(backend.port(), TARGET_PORT);
    }
}

#[test]
fn a_services_own_port_goes_before_the_node_port_of_the_same_number() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let single = node.tables.image.services[&ServiceKey::new(family.cluster(SINGLE, 0).ip(), 80, TCP)];
        for port in [81, NODE_PORT] {
            let place = SocketAddr::new(family.node(), port);
            node.tables.image.services.insert(ServiceKey::new(place.ip(), port, TCP), single);
            let (_, backend) = node.connect(client(family, 7), place);
            assert_eq!(backend.ip(), family.backend(LOCAL_1));
        }
        assert_eq!(node.tables.services.borrow()[&single.id].connections, 2);
        let other = frames::tcp(client(family, 7), SocketAddr::new(family.node(), 82), Flags::Syn, b"");
        assert_eq!(node.xdp(&other).0, Verdict::pass(Reason::NotOurs), "every other port is the host's");
    }
}

#[test]
fn counters_tell_services_and_backends_apart() {
    let mut node = Node::new();
    node.connect(client(Family::V4, 1), Family::V4.cluster(SINGLE, 80));
    node.connect(client(Family::V4, 1), Family::V4.cluster(TWIN, 80));
    let services = node.tables.services.borrow();
    assert_eq!((services[&SINGLE].connections, services[&TWIN].connections), (1, 1));
    assert_eq!((services[&SINGLE].packets, services[&SINGLE].reply_packets), (2, 1));
    assert_eq!(node.tables.backends.borrow()[&LOCAL_1].connections, 2);
}

#[test]
fn a_zero_udp_checksum_stays_zero() {
    let mut node = Node::new();
    let (client, service) = (client(Family::V4, 1), Family::V4.cluster(small::DNS, 53));
    let mut query = frames::udp(client, service, b"query");
    query[40] = 0;
    query[41] = 0;
    let (verdict, bytes) = node.ingress(UPLINK, &query);
    assert_eq!(verdict.reason, Reason::Forwarded);
    assert_eq!(bytes[40..42], [0, 0]);
}

#[test]
fn states_are_named_for_people() {
    let flags = Flow::<[u8; 4]>::ANSWERED;
    assert_eq!(lb_common::flow::state(flags, TCP).name(), "SYN_RECV");
}
