//! SCTP through the core: its checksum covers ports and no addresses, and its chunks move a flow on.
//!
//! The packets are made up, in the kernel's programs too (`tests/tests/prog_run/main.rs`): the kernels this is tested on are built
//! without SCTP (`CONFIG_IP_SCTP`), so there is no socket to be a peer.

use lb_common::flow::State;
use lb_common::{Backend, Reason};
use lb_ebpf::Verdict;
use lb_tests::frames::{self, checked_sctp, fragments, reassembled};
use lb_tests::node::{INSIDE, Node, UPLINK};
use lb_tests::small::{Family, LOCAL_1, REMOTE, SIGNAL, SIGNAL_FAR, TARGET_PORT};
use std::net::SocketAddr;

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const HEARTBEAT: u8 = 4;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

fn client(family: Family) -> SocketAddr {
    SocketAddr::new(family.client(), 40_000)
}

/// Sends a chunk that must be forwarded; its tuple and payload as they arrive, with the checksum right.
fn sent(node: &mut Node, ifindex: u32, frame: &[u8]) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let (verdict, bytes) = node.ingress(ifindex, frame);
    assert!(matches!(verdict.reason, Reason::Forwarded | Reason::ForwardedMidway | Reason::Replied), "{verdict:?}");
    checked_sctp(&bytes)
}

#[test]
fn an_association_lives_from_init_to_shutdown_complete() {
    for family in Family::BOTH {
        for service in [SIGNAL, SIGNAL_FAR] {
            let mut node = Node::new();
            let (client, frontend) = (client(family), family.cluster(service, 80));
            let inside = if service == SIGNAL { INSIDE } else { UPLINK };
            let (seen, backend, _) = sent(&mut node, UPLINK, &frames::sctp(client, frontend, INIT, b"tag"));
            let expected = family.backend(if service == SIGNAL { LOCAL_1 } else { REMOTE });
            assert_eq!(backend, SocketAddr::new(expected, TARGET_PORT));
            assert_eq!(seen == client, service == SIGNAL, "the source is translated for the remote one alone");
            for (from_client, chunk, state) in [
                (false, INIT_ACK, State::CookieWait),
                (true, COOKIE_ECHO, State::Associated),
                (false, COOKIE_ACK, State::Associated),
                (true, DATA, State::Associated),
                (false, HEARTBEAT, State::Associated),
                (true, SHUTDOWN, State::ShutdownSent),
                (false, SHUTDOWN_ACK, State::ShutdownAckSent),
                (true, SHUTDOWN_COMPLETE, State::Closed),
            ] {
                let told = if from_client {
                    sent(&mut node, UPLINK, &frames::sctp(client, frontend, chunk, &[chunk; 999]))
                } else {
                    sent(&mut node, inside, &frames::sctp(backend, seen, chunk, &[chunk; 999]))
                };
                let ends = if from_client { (seen, backend) } else { (frontend, client) };
                assert_eq!(told, (ends.0, ends.1, vec![chunk; 999]));
                assert_eq!(node.states(), [state; 2], "after chunk {chunk}");
            }
            assert_eq!(node.entries(), (2, 0));
            sent(&mut node, UPLINK, &frames::sctp(client, frontend, INIT, b"again"));
            assert_eq!(node.states(), [State::CookieWait; 2], "a new association in its place");
        }
    }
}

#[test]
fn an_abort_ends_it_and_silence_too() {
    let mut node = Node::new();
    let (client, frontend) = (client(Family::V4), Family::V4.cluster(SIGNAL, 80));
    let (_, backend, _) = sent(&mut node, UPLINK, &frames::sctp(client, frontend, INIT, b""));
    sent(&mut node, INSIDE, &frames::sctp(backend, client, ABORT, b""));
    assert_eq!(node.states(), [State::Closed; 2]);
    node.around.tick += State::Closed.timeout_ticks() + 2;
    let late = frames::sctp(backend, client, DATA, b"");
    assert_eq!(node.ingress(INSIDE, &late), (Verdict::pass(Reason::NotOurs), late));
}

#[test]
fn an_association_keeps_its_backend_and_a_new_one_leaves_it() {
    let mut node = Node::new();
    let (client, frontend) = (client(Family::V4), Family::V4.cluster(SIGNAL, 80));
    let (_, backend, _) = sent(&mut node, UPLINK, &frames::sctp(client, frontend, INIT, b""));
    node.tables.image.backends.get_mut(&LOCAL_1).expect("a backend").flags &= !Backend::ALIVE;
    assert_eq!(sent(&mut node, UPLINK, &frames::sctp(client, frontend, COOKIE_ECHO, b"")).1, backend);
    let base = node.tables.image.services.values().find(|service| service.id == SIGNAL).expect("it").backends.base();
    node.tables.image.slots.get_mut(&base).expect("its slot").backend = REMOTE;
    let (_, chosen, _) = sent(&mut node, UPLINK, &frames::sctp(client, frontend, INIT, b""));
    assert_eq!(chosen.ip(), Family::V4.backend(REMOTE));
}

#[test]
fn a_chunk_of_an_unknown_association_gets_the_keyed_pick() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let frame = frames::sctp(client(family), family.cluster(SIGNAL, 80), DATA, b"goes on");
        let before = sent(&mut node, UPLINK, &frame);
        assert_eq!(sent(&mut Node::new(), UPLINK, &frame), before);
        assert_eq!(node.tables.packets(Reason::ForwardedMidway), 1);
    }
}

#[test]
fn a_checksum_that_was_left_to_hardware_is_left_to_it() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let mut frame = frames::sctp(client(family), family.cluster(SIGNAL, 80), INIT, b"x");
        let at = if family == Family::V4 { 42 } else { 62 };
        frame[at..at + 4].copy_from_slice(&[0; 4]);
        let (verdict, bytes) = node.ingress(UPLINK, &frame);
        assert_eq!(verdict.reason, Reason::Forwarded);
        assert_eq!(bytes[at..at + 4], [0; 4]);
        assert_eq!(bytes[at - 6..at - 4], TARGET_PORT.to_be_bytes());
    }
}

#[test]
fn every_length_has_its_checksum() {
    let mut node = Node::new();
    let (client, frontend) = (client(Family::V6), Family::V6.cluster(SIGNAL, 80));
    for length in 0..1400 {
        let payload = vec![length as u8; length];
        assert_eq!(sent(&mut node, UPLINK, &frames::sctp(client, frontend, DATA, &payload)).2, payload);
    }
}

#[test]
fn fragments_pass_where_no_port_changes_and_are_dropped_with_a_reason_where_one_does() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let whole = frames::sctp(client(family), family.cluster(SIGNAL, TARGET_PORT), DATA, &[3; 3000]);
        let pieces = fragments(&whole, 1200, 7);
        let pieces: Vec<_> = pieces.iter().map(|piece| node.ingress(UPLINK, piece)).collect();
        let reasons: Vec<Reason> = pieces.iter().map(|(verdict, _)| verdict.reason).collect();
        assert_eq!(
            reasons,
            [Reason::ForwardedMidway, Reason::Forwarded, Reason::Forwarded],
            "no association was known"
        );
        let pieces: Vec<Vec<u8>> = pieces.into_iter().map(|(_, bytes)| bytes).collect();
        let (_, backend, _) = checked_sctp(&reassembled(&pieces));
        assert_eq!(backend, SocketAddr::new(family.backend(LOCAL_1), TARGET_PORT));

        let whole = frames::sctp(client(family), family.cluster(SIGNAL, 80), DATA, &[3; 3000]);
        let pieces = fragments(&whole, 1200, 8);
        assert_eq!(node.ingress(UPLINK, &pieces[0]).0, Verdict::drop(Reason::SctpFragment));
        assert_eq!(node.ingress(UPLINK, &pieces[1]), (Verdict::pass(Reason::Fragment), pieces[1].clone()));
    }
}

#[test]
fn nothing_is_remembered_of_a_fragment_that_was_dropped() {
    for family in Family::BOTH {
        let mut node = Node::new();
        // The backend's port is another, the source is lent, and the client's own port is taken.
        let far = family.cluster(SIGNAL_FAR, 80);
        let whole = frames::sctp(client(family), family.cluster(SIGNAL, 80), DATA, &[3; 3000]);
        let remote = frames::sctp(client(family), far, DATA, &[3; 3000]);
        for whole in [whole, remote] {
            let first = &fragments(&whole, 1200, 8)[0];
            assert_eq!(node.ingress(UPLINK, first).0, Verdict::drop(Reason::SctpFragment));
        }
        assert_eq!(node.entries(), (0, 0));
        let kept = frames::sctp(client(family), family.cluster(SIGNAL, 80), INIT, b"");
        sent(&mut node, UPLINK, &kept);
        let entries = node.entries();
        let taken = frames::sctp(client(family), family.cluster(SIGNAL, TARGET_PORT), DATA, &[3; 3000]);
        let first = &fragments(&taken, 1200, 9)[0];
        assert_eq!(node.ingress(UPLINK, first).0, Verdict::drop(Reason::SctpFragment));
        assert_eq!(node.entries(), entries);
    }
}
