//! TCP on the core, beyond the life of a plain connection: crossings, resets, ports used again.

use lb_common::flow::State;
use lb_common::{Backend, BackendSet, Reason};
use lb_ebpf::Verdict;
use lb_tests::frames::{self, Flags};
use lb_tests::node::{INSIDE, Node, UPLINK};
use lb_tests::small::{FAR, Family, LOCAL_1, LOCAL_2, SINGLE, V6, WEB};
use std::net::SocketAddr;

fn client(family: Family) -> SocketAddr {
    SocketAddr::new(family.client(), 40_000)
}

/// A connected client: the node, the client, the Service, the backend.
fn connected(family: Family, service: u32) -> (Node, SocketAddr, SocketAddr, SocketAddr) {
    let mut node = Node::new();
    let (client, service) = (client(family), family.cluster(service, 80));
    let (_, backend) = node.connect(client, service);
    (node, client, service, backend)
}

fn connections(node: &Node) -> u64 {
    node.tables.services.borrow().values().map(|traffic| traffic.connections).sum()
}

/// Takes the backend with this address out of its Services: no new connection goes there.
fn withdraw(node: &mut Node, family: Family, address: std::net::IpAddr) {
    let offset = if family == Family::V6 { V6 } else { 0 };
    let (dead, alive) = if address == family.backend(LOCAL_1) { (LOCAL_1, LOCAL_2) } else { (LOCAL_2, LOCAL_1) };
    node.tables.image.backends.get_mut(&(dead + offset)).expect("a backend").flags &= !Backend::ALIVE;
    for service in node.tables.image.services.values_mut().filter(|service| service.backends.count() == 2) {
        let base = service.backends.base();
        let alive = (base..base + 2).find(|slot| node.tables.image.slots[slot].backend == alive + offset);
        if let Some(slot) = alive {
            service.backends = BackendSet::new(slot, 1, 2);
        }
    }
}

#[test]
fn a_syn_of_the_backend_that_crosses_the_clients_own_opens_the_same_connection() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (client, service) = (client(family), family.cluster(SINGLE, 80));
        let (_, backend) = node.forwarded(UPLINK, &frames::tcp(client, service, Flags::Syn, b""));
        // RFC 9293, figure 8: both have sent a SYN, both answer with SYN and ACK.
        assert_eq!(node.forwarded(INSIDE, &frames::tcp(backend, client, Flags::Syn, b"")), (service, client));
        assert_eq!(node.forwarded(UPLINK, &frames::tcp(client, service, Flags::SynAck, b"")), (client, backend));
        assert_eq!(node.forwarded(INSIDE, &frames::tcp(backend, client, Flags::SynAck, b"")), (service, client));
        assert_eq!(node.forwarded(UPLINK, &frames::tcp(client, service, Flags::Ack, b"")), (client, backend));
        assert_eq!((node.states(), connections(&node)), (vec![State::Established; 2], 1));
    }
}

#[test]
fn either_side_may_end_first_and_the_other_half_goes_on() {
    for family in Family::BOTH {
        for client_first in [true, false] {
            let (mut node, client, service, backend) = connected(family, SINGLE);
            let mut send = |by_client: bool, flags, payload: &[u8]| {
                if by_client {
                    node.forwarded(UPLINK, &frames::tcp(client, service, flags, payload));
                } else {
                    node.forwarded(INSIDE, &frames::tcp(backend, client, flags, payload));
                }
                node.states()
            };
            assert_eq!(send(client_first, Flags::Fin, b""), [State::HalfClosed; 2]);
            for _ in 0..3 {
                assert_eq!(send(!client_first, Flags::Ack, b"still more"), [State::HalfClosed; 2]);
                assert_eq!(send(client_first, Flags::Ack, b""), [State::HalfClosed; 2]);
            }
            assert_eq!(send(client_first, Flags::Fin, b""), [State::HalfClosed; 2], "said twice");
            assert_eq!(send(!client_first, Flags::Fin, b""), [State::TimeWait; 2]);
            assert_eq!(send(client_first, Flags::Ack, b""), [State::TimeWait; 2]);
        }
    }
}

#[test]
fn every_state_lasts_as_long_as_it_should() {
    let (syn, ack) = (Flags::Syn, Flags::Ack);
    // What the client has sent, what the backend has, and for how long the flow may be silent then.
    let lives: [(&[Flags], &[Flags], u32); 6] = [
        (&[syn], &[], 60),
        (&[syn], &[Flags::SynAck], 60),
        (&[syn, ack], &[Flags::SynAck], 21_600),
        (&[syn, ack, Flags::Fin], &[Flags::SynAck], 240),
        (&[syn, ack, Flags::Fin], &[Flags::SynAck, Flags::Fin], 120),
        (&[syn, ack, Flags::Rst], &[Flags::SynAck], 10),
    ];
    for (of_client, of_backend, seconds) in lives {
        for late in [false, true] {
            let mut node = Node::new();
            let (client, service) = (client(Family::V4), Family::V4.cluster(SINGLE, 80));
            let mut backend = None;
            for round in 0..3 {
                if let Some(flags) = of_client.get(round) {
                    backend = Some(node.forwarded(UPLINK, &frames::tcp(client, service, *flags, b"")).1);
                }
                if let (Some(flags), Some(backend)) = (of_backend.get(round), backend) {
                    node.forwarded(INSIDE, &frames::tcp(backend, client, *flags, b""));
                }
            }
            let backend = backend.expect("the client has sent something");
            // A tick is 2^30 ns. Both entries are exact to one tick.
            let ticks = (u64::from(seconds) * 1_000_000_000) >> 30;
            node.around.tick += ticks as u32 + if late { 3 } else { 0 };
            let reply = frames::tcp(backend, client, Flags::Ack, b"");
            let expected = if late { Reason::NotOurs } else { Reason::Replied };
            assert_eq!(node.ingress(INSIDE, &reply).0.reason, expected, "{of_client:?} {of_backend:?}, late: {late}");
        }
    }
}

#[test]
fn a_reset_shortens_the_life_of_a_connection_and_ends_nothing_that_goes_on() {
    for family in Family::BOTH {
        for by_client in [true, false] {
            let (mut node, client, service, backend) = connected(family, WEB);
            // The middle of the network cannot tell whether the sequence number is one that the receiver accepts: it may be
            // a forged one, which the receiver ignores (RFC 5961).
            let (by, reset) = if by_client {
                (UPLINK, frames::tcp(client, service, Flags::Rst, b""))
            } else {
                (INSIDE, frames::tcp(backend, client, Flags::Rst, b""))
            };
            node.forwarded(by, &reset);
            assert_eq!(node.states(), [State::Closed; 2]);
            for _ in 0..20 {
                node.around.tick += State::Closed.timeout_ticks() - 2;
                let seen = node.forwarded(UPLINK, &frames::tcp(client, service, Flags::Ack, b"goes on"));
                assert_eq!(seen, (client, backend));
                let seen = node.forwarded(INSIDE, &frames::tcp(backend, client, Flags::Ack, b"goes on"));
                assert_eq!(seen, (service, client));
            }
            assert_eq!(connections(&node), 1);
            node.around.tick += State::Closed.timeout_ticks() + 2;
            let late = frames::tcp(backend, client, Flags::Ack, b"");
            assert_eq!(node.ingress(INSIDE, &late), (Verdict::pass(Reason::NotOurs), late));
        }
    }
}

#[test]
fn a_reset_that_answers_a_syn_lets_the_next_syn_choose_again() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (client, service) = (client(family), family.cluster(WEB, 80));
        let syn = frames::tcp(client, service, Flags::Syn, b"");
        let (_, backend) = node.forwarded(UPLINK, &syn);
        node.forwarded(INSIDE, &frames::tcp(backend, client, Flags::Rst, b""));
        withdraw(&mut node, family, backend.ip());
        assert_ne!(node.forwarded(UPLINK, &syn).1, backend);
    }
}

#[test]
fn a_syn_never_lands_on_a_backend_that_is_dead_or_was_left() {
    for family in Family::BOTH {
        for ending in
            [&[][..], &[(true, Flags::Fin)], &[(false, Flags::Fin)], &[(true, Flags::Fin), (false, Flags::Fin)]]
        {
            let (mut node, client, service, backend) = connected(family, WEB);
            for (by_client, flags) in ending {
                if *by_client {
                    node.forwarded(UPLINK, &frames::tcp(client, service, *flags, b""));
                } else {
                    node.forwarded(INSIDE, &frames::tcp(backend, client, *flags, b""));
                }
            }
            withdraw(&mut node, family, backend.ip());
            // Data keeps its backend in every state ...
            assert_eq!(node.forwarded(UPLINK, &frames::tcp(client, service, Flags::Ack, b"x")).1, backend);
            // ... and a new connection by the same port leaves it.
            let (_, chosen) = node.forwarded(UPLINK, &frames::tcp(client, service, Flags::Syn, b""));
            assert_ne!(chosen, backend, "after {ending:?}");
            assert_eq!(node.states(), [State::SynSent; 2], "and nothing is left of the old one");
            let reply = frames::tcp(chosen, client, Flags::SynAck, b"");
            assert_eq!(node.forwarded(INSIDE, &reply), (service, client));
            // The old backend's last words are no longer the Service's.
            let stray = frames::tcp(backend, client, Flags::Fin, b"");
            assert_eq!(node.ingress(INSIDE, &stray), (Verdict::pass(Reason::NotOurs), stray));
        }
    }
}

#[test]
fn a_port_in_time_wait_is_used_again_at_once() {
    let (mut node, client, service, backend) = connected(Family::V4, SINGLE);
    node.forwarded(INSIDE, &frames::tcp(backend, client, Flags::Fin, b""));
    node.forwarded(UPLINK, &frames::tcp(client, service, Flags::Fin, b""));
    assert_eq!(node.states(), [State::TimeWait; 2]);
    node.connect(client, service);
    assert_eq!((node.states(), connections(&node)), (vec![State::Established; 2], 2));
    assert_eq!(node.entries(), (2, 0));
}

#[test]
fn an_unknown_connection_gets_the_keyed_pick_and_can_be_told_that_it_was_wrong() {
    for family in Family::BOTH {
        for flags in [Flags::Ack, Flags::Fin, Flags::SynAck, Flags::Rst] {
            let (_, client, service, backend) = connected(family, WEB);
            let mut node = Node::new();
            let told = node.forwarded(UPLINK, &frames::tcp(client, service, flags, b"data"));
            assert_eq!(told, (client, backend), "{flags:?}: where its SYN went");
            // A backend that knows no such connection resets it, and the client must hear it from the Service.
            let reset = node.forwarded(INSIDE, &frames::tcp(backend, client, Flags::Rst, b""));
            assert_eq!(reset, (service, client));
        }
    }
}

#[test]
fn the_first_packet_of_a_flow_may_be_its_last() {
    for family in Family::BOTH {
        for service in [SINGLE, FAR] {
            for (flags, state) in [(Flags::Rst, State::Closed), (Flags::Fin, State::HalfClosed)] {
                let mut node = Node::new();
                let (client, service) = (client(family), family.cluster(service, 80));
                node.forwarded(UPLINK, &frames::tcp(client, service, flags, b""));
                assert_eq!(node.states(), [state; 2], "both entries know");
                node.around.tick += state.timeout_ticks() + 1;
                node.forwarded(UPLINK, &frames::tcp(client, service, Flags::Ack, b""));
                assert_eq!(node.states(), [State::SynSent; 2], "and it lives as long as such a flow does");
            }
        }
    }
}
