//! Fragments: a datagram is translated as a whole from its first fragment on, or left alone.

use lb_common::fragment::Fragment;
use lb_common::{Backend, Reason};
use lb_ebpf::{Action, Verdict};
use lb_tests::frames::{self, Flags, checked, fragments, reassembled};
use lb_tests::node::{INSIDE, Node, UPLINK};
use lb_tests::small::{self, DNS, FAR, Family, LOCAL_1, LOCAL_2, ON_HOST, SINGLE, TARGET_PORT};
use std::net::SocketAddr;

/// Bytes in each fragment.
const PIECE: usize = 1432;

fn client(family: Family) -> SocketAddr {
    SocketAddr::new(family.client(), 40_000)
}

/// Sends pieces that must all go the same way, and returns the datagram as it arrives.
fn through(node: &mut Node, ifindex: u32, pieces: &[Vec<u8>]) -> Vec<u8> {
    let pieces: Vec<Vec<u8>> = pieces
        .iter()
        .map(|piece| {
            let (verdict, bytes) = node.ingress(ifindex, piece);
            assert!(matches!(verdict.reason, Reason::Forwarded | Reason::Replied), "{verdict:?}");
            assert_eq!(frames::ttl(&bytes), frames::ttl(piece) - 1);
            bytes
        })
        .collect();
    reassembled(&pieces)
}

#[test]
fn later_fragments_follow_the_first_both_ways() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (client, service) = (client(family), family.cluster(DNS, 53));
        let content: Vec<u8> = (0..4000).map(|byte| byte as u8).collect();
        let question = fragments(&frames::udp(client, service, &content), PIECE, 7);
        assert_eq!(question.len(), 3);
        let (from, backend, seen) = checked(&through(&mut node, UPLINK, &question));
        assert_eq!((from, seen), (client, content.clone()));
        assert_eq!(backend.port(), TARGET_PORT);
        let answer = fragments(&frames::udp(backend, client, &content), PIECE, 7);
        let (from, to, seen) = checked(&through(&mut node, INSIDE, &answer));
        assert_eq!((from, to, seen), (service, client, content), "the reply comes from the Service");
        assert_eq!(node.entries(), (0, 2));
    }
}

#[test]
fn fragments_are_finished_at_xdp_and_delivered_to_sockets_of_the_node() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let service = family.cluster(ON_HOST, 80);
        let whole = frames::tcp(client(family), service, Flags::Syn, &[9; 2000]);
        let mut pieces = Vec::new();
        for piece in fragments(&whole, PIECE, 1) {
            let (verdict, bytes) = node.xdp(&piece);
            assert_eq!(verdict, Verdict::pass(Reason::Delivered));
            pieces.push(bytes);
        }
        let (seen, backend, _) = checked(&reassembled(&pieces));
        let reply = frames::tcp(backend, seen, Flags::SynAck, &[8; 2000]);
        let pieces: Vec<_> = fragments(&reply, PIECE, 2)
            .iter()
            .map(|piece| {
                let (verdict, bytes) = node.egress(UPLINK, piece);
                assert_eq!(verdict, Verdict::pass(Reason::Replied));
                bytes
            })
            .collect();
        assert_eq!(checked(&reassembled(&pieces)).0, service);

        let whole = frames::udp(client(family), family.cluster(DNS, 53), &[9; 2000]);
        for piece in fragments(&whole, PIECE, 3) {
            assert_eq!(node.xdp(&piece).0.action, Action::Redirect);
        }
    }
}

#[test]
fn the_source_is_translated_in_every_fragment() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let question = frames::tcp(client(family), family.cluster(FAR, 80), Flags::Syn, &[5; 3000]);
        let (seen, backend, _) = checked(&through(&mut node, UPLINK, &fragments(&question, PIECE, 1)));
        assert_eq!(seen.ip(), family.node());
        let answer = frames::tcp(backend, seen, Flags::SynAck, &[6; 3000]);
        let (_, to, _) = checked(&through(&mut node, UPLINK, &fragments(&answer, PIECE, 1)));
        assert_eq!(to, client(family));
    }
}

#[test]
fn without_its_first_a_fragment_is_left_to_the_host() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let to_service = fragments(&frames::udp(client(family), family.cluster(DNS, 53), &[1; 3000]), PIECE, 7);
        let elsewhere = SocketAddr::new(family.backend(LOCAL_1), 53);
        let to_others = fragments(&frames::udp(client(family), elsewhere, &[1; 3000]), PIECE, 7);
        let to_node = SocketAddr::new(family.node(), 53);
        let to_node = fragments(&frames::udp(client(family), to_node, &[1; 3000]), PIECE, 7);
        assert_eq!(node.ingress(UPLINK, &to_service[1]), (Verdict::pass(Reason::Fragment), to_service[1].clone()));
        assert_eq!(node.xdp(&to_service[2]), (Verdict::pass(Reason::Fragment), to_service[2].clone()));
        assert_eq!(node.egress(UPLINK, &to_service[1]).0, Verdict::pass(Reason::NotOurs));
        for piece in to_others.iter().chain(&to_node) {
            assert_eq!(node.ingress(UPLINK, piece), (Verdict::pass(Reason::NotOurs), piece.clone()));
        }
        assert!(node.tables.flows4.fragments().is_empty() && node.tables.flows6.fragments().is_empty());
        // A late first fragment speaks for those after it.
        through(&mut node, UPLINK, &to_service[..1]);
        assert_eq!(node.ingress(UPLINK, &to_service[1]).0.reason, Reason::Forwarded);
    }
}

#[test]
fn another_datagram_another_pair_and_another_protocol_are_told_apart() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let service = family.cluster(DNS, 53);
        let pieces = |from, id| fragments(&frames::udp(from, service, &[1; 3000]), PIECE, id);
        through(&mut node, UPLINK, &pieces(client(family), 7));
        let other_client = SocketAddr::new(family.backend(LOCAL_2), 40_000);
        for strange in [&pieces(client(family), 8)[1], &pieces(other_client, 7)[1]] {
            assert_eq!(node.ingress(UPLINK, strange).0, Verdict::pass(Reason::Fragment));
        }
    }
    let mut node = Node::new();
    let service = Family::V4.cluster(DNS, 53);
    through(&mut node, UPLINK, &fragments(&frames::udp(client(Family::V4), service, &[1; 3000]), PIECE, 7));
    let tcp = fragments(&frames::tcp(client(Family::V4), service, Flags::Ack, &[1; 3000]), PIECE, 7);
    assert_eq!(node.ingress(UPLINK, &tcp[1]).0, Verdict::pass(Reason::Fragment), "in IPv4 the protocol counts");
}

#[test]
fn what_a_first_fragment_said_ages() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let pieces = fragments(&frames::udp(client(family), family.cluster(DNS, 53), &[1; 3000]), PIECE, 7);
        through(&mut node, UPLINK, &pieces[..1]);
        node.around.tick += Fragment::LIFETIME_SECONDS - 2;
        through(&mut node, UPLINK, &pieces[..1]);
        node.around.tick += Fragment::LIFETIME_SECONDS - 2;
        assert_eq!(node.ingress(UPLINK, &pieces[1]).0.reason, Reason::Forwarded);
        node.around.tick += 2;
        assert_eq!(node.ingress(UPLINK, &pieces[1]).0, Verdict::pass(Reason::Fragment), "identifications come again");
    }
}

#[test]
fn a_fragment_whose_flow_is_gone_opens_none() {
    let mut node = Node::new();
    let pieces = fragments(&frames::udp(client(Family::V4), Family::V4.cluster(DNS, 53), &[1; 3000]), PIECE, 7);
    through(&mut node, UPLINK, &pieces[..1]);
    for backend in [LOCAL_1, LOCAL_2] {
        node.tables.image.backends.get_mut(&backend).expect("a backend").flags &= !Backend::ALIVE;
    }
    assert_eq!(node.ingress(UPLINK, &pieces[1]), (Verdict::pass(Reason::Fragment), pieces[1].clone()));
    assert_eq!(node.entries(), (0, 0));
}

#[test]
fn a_refused_first_fragment_speaks_for_none() {
    let mut node = Node::new();
    let mut pieces = fragments(&frames::udp(client(Family::V4), Family::V4.cluster(DNS, 54), &[1; 3000]), PIECE, 7);
    assert_eq!(node.ingress(UPLINK, &pieces[0]).0.reason, Reason::NoServicePort);
    pieces.extend(fragments(&frames::udp(client(Family::V4), Family::V4.cluster(DNS, 53), &[1; 3000]), 1600, 8));
    assert_eq!(node.ingress(UPLINK, &pieces[3]).0.reason, Reason::MtuExceeded, "as any other packet");
    assert!(node.tables.flows4.fragments().is_empty());
    for piece in [&pieces[1], &pieces[4]] {
        assert_eq!(node.ingress(UPLINK, piece).0, Verdict::pass(Reason::Fragment));
    }
}

#[test]
fn a_later_fragment_moves_no_connection_on() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (client, service) = (client(family), family.cluster(SINGLE, 80));
        node.connect(client, service);
        let before = node.states();
        // Its payload looks like a header with every flag set.
        let pieces = fragments(&frames::tcp(client, service, Flags::Ack, &[0xff; 3000]), PIECE, 7);
        through(&mut node, UPLINK, &pieces);
        assert_eq!(node.states(), before);
        let pieces = fragments(&frames::tcp(client, service, Flags::Fin, &[0xff; 3000]), PIECE, 8);
        through(&mut node, UPLINK, &pieces);
        assert_ne!(node.states(), before, "but the first one does");
    }
}

#[test]
fn overlaps_change_no_ports() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (client, service) = (client(family), family.cluster(DNS, 53));
        let pieces = fragments(&frames::udp(client, service, &[1; 3000]), PIECE, 7);
        let (_, backend) = {
            let (_, bytes) = node.ingress(UPLINK, &pieces[0]);
            (bytes.clone(), bytes)
        };
        // The least offset that is not zero, over what follows the ports; and the same first fragment again.
        let overlap = fragments(&frames::udp(client, family.cluster(DNS, 9), &[2; 32]), 8, 7);
        for piece in [&overlap[1], &pieces[0], &pieces[1]] {
            let (verdict, bytes) = node.ingress(UPLINK, piece);
            assert_eq!(verdict.reason, Reason::Forwarded);
            let (at, length) = if family == Family::V4 { (30, 4) } else { (38, 16) };
            assert_eq!(bytes[at..at + length], backend[at..at + length], "all to one backend");
        }
        // A second fragment at offset zero with another port is judged by its own: it is refused, and does not change
        // where the rest goes.
        assert_eq!(node.ingress(UPLINK, &overlap[0]).0.reason, Reason::NoServicePort);
        assert_eq!(node.ingress(UPLINK, &pieces[2]).0.reason, Reason::Forwarded);
    }
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let mut node = Node::new();
    let (client, service) = (client(Family::V6), Family::V6.cluster(DNS, 53));
    let atomic = fragments(&frames::udp(client, service, b"query"), PIECE, 7).remove(0);
    let (verdict, bytes) = node.ingress(UPLINK, &atomic);
    assert_eq!(verdict.reason, Reason::Forwarded);
    assert_eq!(bytes[54..62], atomic[54..62], "its header stays");
    let (_, backend, payload) = checked(&reassembled(&[bytes]));
    assert_eq!((backend.port(), payload.as_slice()), (small::TARGET_PORT, &b"query"[..]));
    assert!(node.tables.flows6.fragments().is_empty());
}
