//! ICMP on the core: errors are translated in both directions, and what is refused is answered.

use lb_common::{Budget, Device, Reason, TCP, UDP};
use lb_ebpf::{Action, Route, Verdict};
use lb_tests::frames::{self, ETHERNET, Flags, Icmp, checked, checked_icmp, one_complement};
use lb_tests::memory::Memory;
use lb_tests::node::{INSIDE, Node, UPLINK};
use lb_tests::small::{DNS, EMPTY, FAR, Family, ON_HOST, SINGLE, WEB};
use std::net::{IpAddr, SocketAddr};

const WHOLE: usize = usize::MAX;

fn client(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.client(), port)
}

/// A router somewhere on the way.
fn router(family: Family) -> IpAddr {
    match family {
        Family::V4 => [203, 0, 113, 77].into(),
        Family::V6 => [0x2001, 0xdb8, 7, 0, 0, 0, 0, 7].into(),
    }
}

/// "Port unreachable" and "too big" of a family.
fn messages(family: Family) -> [[u8; 2]; 2] {
    if family == Family::V4 { [[3, 3], [3, 4]] } else { [[1, 4], [2, 0]] }
}

fn packet(protocol: u8, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    if protocol == TCP { frames::tcp(from, to, Flags::Ack, payload) } else { frames::udp(from, to, payload) }
}

fn flows(tables: &Memory) -> Vec<String> {
    let (four, six) = (tables.flows4.contents(), tables.flows6.contents());
    four.iter().map(|entry| format!("{entry:?}")).chain(six.iter().map(|entry| format!("{entry:?}"))).collect()
}

/// Sends an error in, which must be translated and change no flow; returns it as it left.
fn translated(node: &mut Node, by: u32, frame: &[u8], out: u32) -> Icmp {
    let before = flows(&node.tables);
    assert_eq!(node.first_at_xdp(frame), (Verdict::DEFER, frame.to_vec()), "XDP leaves ICMP to TCX");
    let (verdict, bytes) = node.ingress(by, frame);
    let expected = Verdict { ifindex: out, action: Action::RedirectNeighbour, reason: Reason::IcmpTranslated };
    assert_eq!(verdict, expected);
    assert_eq!(frames::ttl(&bytes), frames::ttl(frame) - 1, "we forward in place of the stack");
    assert_eq!(flows(&node.tables), before, "an error changes no flow");
    checked_icmp(&bytes)
}

#[test]
fn errors_about_requests_reach_the_client_and_name_the_service() {
    for family in Family::BOTH {
        for (protocol, service) in [(TCP, family.cluster(SINGLE, 80)), (UDP, family.cluster(DNS, 53))] {
            let mut node = Node::new();
            let client = client(family, 1);
            let (seen, backend) = node.forwarded(UPLINK, &packet(protocol, client, service, b""));
            node.around.tick += 3;
            for (from, expected, message) in [
                (backend.ip(), service.ip(), messages(family)[0]),
                (router(family), router(family), messages(family)[1]),
            ] {
                let request = packet(protocol, seen, backend, b"odd question");
                let error = frames::icmp_error(from, seen.ip(), message, 1400, &request, WHOLE);
                let got = translated(&mut node, INSIDE, &error, UPLINK);
                assert_eq!((got.from, got.to, got.message, got.word), (expected, client.ip(), message, 1400));
                // All embedded checksums are right: the packet is the client's own again.
                assert_eq!(checked(&got.embedded()), (client, service, b"odd question".to_vec()));
            }
        }
    }
}

#[test]
fn errors_about_replies_reach_the_backend_and_name_what_it_sent() {
    for family in Family::BOTH {
        for (protocol, service) in [(TCP, family.cluster(SINGLE, 80)), (UDP, family.cluster(DNS, 53))] {
            let mut node = Node::new();
            let client = client(family, 1);
            let (seen, backend) = node.forwarded(UPLINK, &packet(protocol, client, service, b""));
            for (from, expected) in [(client.ip(), seen.ip()), (router(family), router(family))] {
                let reply = packet(protocol, service, client, b"answer");
                let error = frames::icmp_error(from, service.ip(), messages(family)[1], 1300, &reply, WHOLE);
                let got = translated(&mut node, UPLINK, &error, INSIDE);
                assert_eq!((got.from, got.to, got.word), (expected, backend.ip(), 1300));
                assert_eq!(checked(&got.embedded()), (backend, seen, b"answer".to_vec()));
            }
        }
    }
}

#[test]
fn errors_to_a_lent_address_find_the_client_and_its_port() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (client, service) = (client(family, 40_000), family.cluster(FAR, 80));
        let (seen, backend) = node.forwarded(UPLINK, &packet(TCP, client, service, b""));
        assert_eq!(seen.ip(), family.node());
        let request = packet(TCP, seen, backend, b"");
        let error = frames::icmp_error(router(family), seen.ip(), messages(family)[1], 1400, &request, WHOLE);
        let got = translated(&mut node, UPLINK, &error, UPLINK);
        assert_eq!((got.from, got.to), (router(family), client.ip()));
        assert_eq!(checked(&got.embedded()), (client, service, Vec::new()));
        // And back: the client's own "unreachable" reaches the backend from the lent address.
        let reply = packet(TCP, service, client, b"x");
        let error = frames::icmp_error(client.ip(), service.ip(), messages(family)[0], 0, &reply, WHOLE);
        let got = translated(&mut node, UPLINK, &error, UPLINK);
        assert_eq!((got.from, got.to), (seen.ip(), backend.ip()));
        assert_eq!(checked(&got.embedded()), (backend, seen, b"x".to_vec()));
    }
}

#[test]
fn what_is_embedded_may_be_cut_short_behind_the_ports() {
    for family in Family::BOTH {
        for protocol in [TCP, UDP] {
            let service = if protocol == TCP { family.cluster(SINGLE, 80) } else { family.cluster(DNS, 53) };
            let mut node = Node::new();
            let client = client(family, 1);
            let (seen, backend) = node.forwarded(UPLINK, &packet(protocol, client, service, b""));
            let header = if family == Family::V4 { 20 } else { 40 };
            let request = packet(protocol, seen, backend, b"some content of the packet");
            // Up to the ports, just short of the checksum, with it, and an odd length.
            for payload in [4, 7, 8, 17, 18, 27] {
                let error =
                    frames::icmp_error(backend.ip(), seen.ip(), messages(family)[0], 0, &request, header + payload);
                let got = translated(&mut node, INSIDE, &error, UPLINK);
                let [a, b] = client.port().to_be_bytes();
                let [c, d] = service.port().to_be_bytes();
                assert_eq!(got.content[header..header + 4], [a, b, c, d], "{protocol} cut to {payload}");
                assert_eq!(got.content.len(), header + payload);
            }
            let error = frames::icmp_error(backend.ip(), seen.ip(), messages(family)[0], 0, &request, header + 3);
            assert_eq!(node.ingress(INSIDE, &error), (Verdict::pass(Reason::NotOurs), error), "no ports, no flow");
        }
    }
}

#[test]
fn embedded_options_and_extension_headers_are_walked() {
    let (client, service) = (client(Family::V4, 1), Family::V4.cluster(SINGLE, 80));
    let mut node = Node::new();
    let (seen, backend) = node.forwarded(UPLINK, &packet(TCP, client, service, b""));
    let mut request = packet(TCP, seen, backend, b"");
    // Two words of no-operation options.
    request.splice(34..34, [1; 8]);
    request[14] = 0x47;
    request[17] += 8;
    request[24..26].fill(0);
    let [a, b] = (!one_complement(&request[14..42])).to_be_bytes();
    (request[24], request[25]) = (a, b);
    let error = frames::icmp_error(router(Family::V4), seen.ip(), [11, 0], 0, &request, WHOLE);
    let got = translated(&mut node, INSIDE, &error, UPLINK);
    assert_eq!(checked(&got.embedded()), (client, service, Vec::new()));

    let (client, service) = (self::client(Family::V6, 1), Family::V6.cluster(SINGLE, 80));
    let (seen, backend) = node.forwarded(UPLINK, &packet(TCP, client, service, b""));
    let mut request = packet(TCP, seen, backend, b"");
    // Destination options: one padding option.
    request.splice(54..54, [TCP, 0, 1, 4, 0, 0, 0, 0]);
    request[19] += 8;
    request[20] = 60;
    let error = frames::icmp_error(router(Family::V6), seen.ip(), [3, 0], 0, &request, WHOLE);
    let got = translated(&mut node, INSIDE, &error, UPLINK);
    assert_eq!(checked(&got.embedded()), (client, service, Vec::new()));
}

#[test]
fn an_embedded_udp_packet_without_checksum_keeps_none() {
    let mut node = Node::new();
    let (client, service) = (client(Family::V4, 1), Family::V4.cluster(DNS, 53));
    let (seen, backend) = node.forwarded(UPLINK, &packet(UDP, client, service, b""));
    let mut request = packet(UDP, seen, backend, b"x");
    request[40..42].fill(0);
    let error = frames::icmp_error(backend.ip(), seen.ip(), [3, 3], 0, &request, WHOLE);
    let got = translated(&mut node, INSIDE, &error, UPLINK);
    assert_eq!(checked(&got.embedded()), (client, service, b"x".to_vec()));
    assert_eq!(got.content[26..28], [0, 0]);
}

#[test]
fn errors_about_nothing_known_are_dropped_at_an_owned_address_and_pass_elsewhere() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (client, service) = (client(family, 1), family.cluster(SINGLE, 80));
        let (seen, backend) = node.forwarded(UPLINK, &packet(TCP, client, service, b""));
        let message = messages(family)[0];
        let stranger = SocketAddr::new(client.ip(), 999);
        let to_service =
            frames::icmp_error(client.ip(), service.ip(), message, 0, &packet(TCP, service, stranger, b""), WHOLE);
        let dropped = Verdict::drop(Reason::IcmpUnrelated);
        assert_eq!(node.ingress(UPLINK, &to_service), (dropped, to_service));
        let to_node = SocketAddr::new(family.node(), 5);
        let to_node =
            frames::icmp_error(client.ip(), to_node.ip(), message, 0, &packet(TCP, to_node, client, b""), WHOLE);
        let to_client =
            frames::icmp_error(backend.ip(), client.ip(), message, 0, &packet(TCP, stranger, backend, b""), WHOLE);
        // To somebody else than who sent what it is about.
        let astray =
            frames::icmp_error(backend.ip(), router(family), message, 0, &packet(TCP, seen, backend, b""), WHOLE);
        for frame in [to_node, to_client, astray] {
            assert_eq!(node.ingress(INSIDE, &frame), (Verdict::pass(Reason::NotOurs), frame));
        }
        let mut later = packet(TCP, service, client, b"");
        let expired = frames::icmp_error(client.ip(), service.ip(), message, 0, &later, WHOLE);
        if family == Family::V4 {
            later[21] = 9;
            let error = frames::icmp_error(client.ip(), service.ip(), message, 0, &later, WHOLE);
            assert_eq!(node.ingress(UPLINK, &error).0, dropped, "a later fragment has no ports");
        }
        let mut martian = expired.clone();
        let at = if family == Family::V4 { 26 } else { 22 };
        martian[at..at + 4].copy_from_slice(if family == Family::V4 { &[127, 0, 0, 1] } else { &[0xff; 4] });
        assert_eq!(node.ingress(UPLINK, &martian).0, Verdict::drop(Reason::MartianSource));
        node.around.tick += 1000;
        assert_eq!(node.ingress(UPLINK, &expired).0, dropped, "the flow has expired");
        // Neither an error nor an echo request.
        let odd = frames::icmp_error(client.ip(), service.ip(), [15, 0], 0, &[0; 40], WHOLE);
        let reply = frames::icmp_error(
            client.ip(),
            service.ip(),
            [if family == Family::V4 { 0 } else { 129 }, 0],
            0,
            &[0; 20],
            WHOLE,
        );
        assert_eq!(node.ingress(UPLINK, &odd).0, dropped);
        assert_eq!(node.ingress(UPLINK, &reply).0, dropped);
    }
}

#[test]
fn errors_of_and_for_a_socket_of_the_node_are_met_where_its_packets_are() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (client, service) = (client(family, 1), family.cluster(ON_HOST, 80));
        let (verdict, bytes) = node.ingress(UPLINK, &packet(TCP, client, service, b""));
        assert_eq!(verdict, Verdict::pass(Reason::Delivered));
        let (seen, socket, _) = checked(&bytes);
        // The node's own error leaves as the Service's.
        let error =
            frames::icmp_error(socket.ip(), seen.ip(), messages(family)[0], 0, &packet(TCP, seen, socket, b""), WHOLE);
        let (verdict, bytes) = node.egress(UPLINK, &error);
        assert_eq!(verdict, Verdict::pass(Reason::IcmpTranslated));
        let got = checked_icmp(&bytes);
        assert_eq!((got.from, got.to), (service.ip(), client.ip()));
        assert_eq!(checked(&got.embedded()), (client, service, Vec::new()));
        assert_eq!(node.egress(UPLINK, &bytes), (Verdict::pass(Reason::NotOurs), bytes), "once");
        // One about its reply is handed up.
        let error = frames::icmp_error(
            router(family),
            service.ip(),
            messages(family)[1],
            1300,
            &packet(TCP, service, client, b""),
            WHOLE,
        );
        let (verdict, bytes) = node.ingress(UPLINK, &error);
        assert_eq!(verdict, Verdict::pass(Reason::IcmpTranslated));
        let got = checked_icmp(&bytes);
        assert_eq!((got.from, got.to), (router(family), socket.ip()));
        assert_eq!(checked(&got.embedded()), (socket, seen, Vec::new()));
        // At egress nothing else is touched.
        let (seen, backend) = node.forwarded(UPLINK, &packet(TCP, client, family.cluster(SINGLE, 80), b""));
        let error = frames::icmp_error(
            backend.ip(),
            seen.ip(),
            messages(family)[0],
            0,
            &packet(TCP, seen, backend, b""),
            WHOLE,
        );
        assert_eq!(node.egress(UPLINK, &error), (Verdict::pass(Reason::NotOurs), error));
    }
}

/// Sends a frame in by the uplink that must be answered for `reason`; returns the answer, which goes back to the sender.
fn answered(node: &mut Node, frame: &[u8], reason: Reason) -> Vec<u8> {
    assert_eq!(node.xdp(frame), (Verdict::DEFER, frame.to_vec()), "packets are made at TCX alone");
    let (verdict, bytes) = node.ingress(UPLINK, frame);
    assert_eq!(verdict, Verdict { ifindex: UPLINK, action: Action::Redirect, reason });
    assert_eq!((&bytes[..6], &bytes[6..12]), (&frame[6..12], &frame[..6]), "back to who sent it");
    assert_eq!(frames::ttl(&bytes), 64);
    bytes
}

#[test]
fn pings_to_an_owned_address_are_answered_and_others_left_alone() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let service = family.cluster(WEB, 80).ip();
        let request = frames::echo(family.client(), service);
        let sent = checked_icmp(&request);
        let got = checked_icmp(&answered(&mut node, &request, Reason::EchoReplied));
        let reply = if family == Family::V4 { [0, 0] } else { [129, 0] };
        assert_eq!(got, Icmp { from: service, to: family.client(), message: reply, ..sent });
        let to_node = frames::echo(family.client(), family.node());
        assert_eq!(node.ingress(UPLINK, &to_node), (Verdict::pass(Reason::NotOurs), to_node));
        assert_eq!(node.egress(UPLINK, &request), (Verdict::pass(Reason::NotOurs), request.clone()));
        // A frame that the network flooded, for another host.
        node.tables.image.devices.insert(UPLINK, Device { mac: [9; 6], ..Device::new(Device::OWN_MAC) });
        assert_eq!(node.ingress(UPLINK, &request), (Verdict::pass(Reason::NotOurs), request));
    }
}

fn reset_of(bytes: &[u8]) -> (SocketAddr, SocketAddr, u32, u32, u8) {
    let (from, to, payload) = checked(bytes);
    assert!(payload.is_empty());
    let at = if from.is_ipv4() { 34 } else { 54 };
    assert_eq!(bytes.len(), at + 20);
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    (from, to, word(at + 4), word(at + 8), bytes[at + 13])
}

#[test]
fn refused_connections_are_reset() {
    const RST: u8 = 4;
    const RST_ACK: u8 = 20;
    for family in Family::BOTH {
        let mut node = Node::new();
        let from = client(family, 4321);
        for (to, reason) in
            [(family.cluster(EMPTY, 80), Reason::NoBackend), (family.cluster(WEB, 81), Reason::NoServicePort)]
        {
            // The frames' sequence number is 1000 and what they acknowledge 2000.
            for (flags, payload, sequence, acknowledged, answer) in [
                (Flags::Syn, &b""[..], 0, 1001, RST_ACK),
                (Flags::Syn, b"early data", 0, 1011, RST_ACK),
                (Flags::SynAck, b"", 2000, 0, RST),
                (Flags::Ack, b"a question", 2000, 0, RST),
                (Flags::Fin, b"", 2000, 0, RST),
            ] {
                let mut frame = frames::tcp(from, to, flags, payload);
                // A short frame is padded by Ethernet.
                frame.resize(frame.len().max(60), 0);
                let got = answered(&mut node, &frame, reason);
                assert_eq!(reset_of(&got), (to, from, sequence, acknowledged, answer), "{flags:?}");
            }
            let reset = frames::tcp(from, to, Flags::Rst, b"");
            assert_eq!(node.ingress(UPLINK, &reset), (Verdict::drop(reason), reset), "never in answer to a reset");
        }
        assert_eq!(node.entries(), (0, 0));
    }
}

/// What the answer to `sent` must be: an error from whom it was sent to, with the start of it.
fn error_about(got: &Icmp, sent: &[u8], message: [u8; 2], word: u32) {
    assert_eq!((got.message, got.word), (message, word));
    let ip = sent[ETHERNET..].to_vec();
    let v4 = got.from.is_ipv4();
    let (header, protocol) = if v4 { (20, ip[9]) } else { (40, ip[6]) };
    let (source, size) = if v4 { (12, 4) } else { (8, 16) };
    let address = |at: usize| -> IpAddr {
        let bytes = &ip[at..at + size];
        match <[u8; 4]>::try_from(bytes) {
            Ok(four) => four.into(),
            Err(_) => <[u8; 16]>::try_from(bytes).expect("sixteen").into(),
        }
    };
    assert_eq!((got.to, got.from), (address(source), address(source + size)), "from whom it was sent to");
    assert!(got.content.len() >= header + 8.min(ip.len() - header), "as RFC 792 asks for");
    assert_eq!(got.content, ip[..got.content.len()], "as it was sent");
    // A checksum that its sender left to hardware is completed behind us: even then the error's sum holds, since only
    // the embedded checksum's place is written, and with what is there already.
    assert!(protocol != TCP || got.content.len() == header + 20);
}

#[test]
fn refusals_other_than_of_tcp_are_icmp_errors() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let v4 = family == Family::V4;
        let from = client(family, 4321);
        let service = family.cluster(WEB, 81);
        for payload in [&b""[..], b"x", &[7; 1000]] {
            let sent = frames::udp(from, service, payload);
            let got = checked_icmp(&answered(&mut node, &sent, Reason::NoServicePort));
            error_about(&got, &sent, if v4 { [3, 3] } else { [1, 4] }, 0);
        }
        let sent = frames::other(from.ip(), service.ip());
        let got = checked_icmp(&answered(&mut node, &sent, Reason::Protocol));
        // IPv6 says where the protocol is named: in byte 6 of the header.
        error_about(&got, &sent, if v4 { [3, 2] } else { [4, 1] }, if v4 { 0 } else { 6 });
    }
}

#[test]
fn a_refused_connection_behind_options_gets_an_icmp_error() {
    let mut node = Node::new();
    let mut syn = frames::tcp(client(Family::V4, 1), Family::V4.cluster(EMPTY, 80), Flags::Syn, b"");
    syn.splice(34..34, [1; 4]);
    syn[14] = 0x46;
    syn[17] += 4;
    let got = checked_icmp(&answered(&mut node, &syn, Reason::NoBackend));
    assert_eq!((got.message, got.content.as_slice()), ([3, 3], &syn[14..58]));

    let mut syn = frames::tcp(client(Family::V6, 1), Family::V6.cluster(EMPTY, 80), Flags::Syn, b"");
    syn.splice(54..54, [TCP, 0, 1, 4, 0, 0, 0, 0]);
    syn[19] += 8;
    syn[20] = 60;
    let got = checked_icmp(&answered(&mut node, &syn, Reason::NoBackend));
    assert_eq!((got.message, got.content.as_slice()), ([1, 4], &syn[14..82]));
    // An unknown protocol behind it is named in its first byte.
    syn[54] = 47;
    let got = checked_icmp(&answered(&mut node, &syn, Reason::Protocol));
    assert_eq!((got.message, got.word), ([4, 1], 40));
}

#[test]
fn what_cannot_be_forwarded_is_reported_to_its_sender() {
    for family in Family::BOTH {
        let v4 = family == Family::V4;
        let (from, service) = (client(family, 1), family.cluster(SINGLE, 80));
        let mut node = Node::new();
        let (seen, backend) = node.connect(from, service);

        let mut spent = frames::tcp(from, service, Flags::Ack, b"x");
        if v4 {
            spent[22] = 1;
            let [a, b] = (!one_complement(&[&spent[14..24], &spent[26..34]].concat())).to_be_bytes();
            (spent[24], spent[25]) = (a, b);
        } else {
            spent[21] = 1;
        }
        let got = checked_icmp(&answered(&mut node, &spent, Reason::TtlExceeded));
        error_about(&got, &spent, if v4 { [11, 0] } else { [3, 0] }, 0);

        let large = frames::tcp(from, service, Flags::Ack, &[7; 1461]);
        let too_big = if v4 { [3, 4] } else { [2, 0] };
        let got = checked_icmp(&answered(&mut node, &large, Reason::MtuExceeded));
        error_about(&got, &large, too_big, 1500);
        // A reply that is too large: its backend is told about what it sent itself.
        let large = frames::tcp(backend, seen, Flags::Ack, &[7; 1461]);
        let (verdict, bytes) = node.ingress(INSIDE, &large);
        assert_eq!(verdict, Verdict { ifindex: INSIDE, action: Action::Redirect, reason: Reason::MtuExceeded });
        error_about(&checked_icmp(&bytes), &large, too_big, 1500);

        let syn = frames::tcp(client(family, 2), service, Flags::Syn, b"");
        for (route, message) in [
            (Route::NotForwarded, if v4 { [3, 1] } else { [1, 0] }),
            (Route::Failed(Reason::NoRoute), if v4 { [3, 1] } else { [1, 0] }),
            (Route::Failed(Reason::Unreachable), if v4 { [3, 1] } else { [1, 0] }),
            (Route::Failed(Reason::Prohibited), if v4 { [3, 13] } else { [1, 1] }),
        ] {
            node.around.routes.insert(backend.ip(), route);
            let reason = if let Route::Failed(reason) = route { reason } else { Reason::NoRoute };
            let got = checked_icmp(&answered(&mut node, &syn, reason));
            error_about(&got, &syn, message, 0);
        }
        for reason in [Reason::Blackhole, Reason::ForwardingDisabled] {
            node.around.routes.insert(backend.ip(), Route::Failed(reason));
            assert_eq!(node.ingress(UPLINK, &syn), (Verdict::drop(reason), syn.clone()), "in silence");
        }
    }
}

/// The kernel completes a checksum left to hardware, where the device does not, from the transport header to the end of the
/// packet, whatever we have made of it. Neither answer may break by that.
#[test]
fn answers_stay_right_when_a_checksum_left_to_hardware_is_completed_behind_us() {
    for family in Family::BOTH {
        let header = if family == Family::V4 { 20 } else { 40 };
        for (protocol, place) in [(TCP, 16), (UDP, 6)] {
            for port in 1..200 {
                let mut node = Node::new();
                let (from, service) = (client(family, port), family.cluster(WEB, 81));
                // TCP gets an ICMP error too, for its spent TTL.
                let (mut sent, reason) = if protocol == TCP {
                    (frames::tcp(from, family.cluster(WEB, 80), Flags::Syn, b""), Reason::TtlExceeded)
                } else {
                    (frames::udp(from, service, b"question"), Reason::NoServicePort)
                };
                if protocol == TCP {
                    sent[if family == Family::V4 { 22 } else { 21 }] = 1;
                }
                let bytes = node.partial(UPLINK, &sent, ETHERNET + header + place, reason);
                let got = checked_icmp(&bytes);
                let embedded = &got.content[header..];
                // `csum_start` to the end, with the sum of the pseudo-header in its place.
                let completed = !one_complement(embedded);
                let there = u16::from_be_bytes([embedded[place], embedded[place + 1]]);
                assert_eq!(completed % 0xffff, there % 0xffff, "completing changes nothing");
            }
        }
        // A reset: the pseudo-header's sum has its new length, and completing makes it right.
        let mut node = Node::new();
        let syn = frames::tcp(client(family, 7), family.cluster(EMPTY, 80), Flags::Syn, b"");
        let at = ETHERNET + header + 16;
        let mut bytes = node.partial(UPLINK, &syn, at, Reason::NoBackend);
        let completed = !one_complement(&bytes[ETHERNET + header..]);
        bytes[at..at + 2].copy_from_slice(&completed.to_be_bytes());
        checked(&bytes);
    }
}

/// Zero and all ones are one number in one's complement, and two checksums.
#[test]
fn an_embedded_checksum_stays_what_it_is() {
    for family in Family::BOTH {
        let at = if family == Family::V4 { 20 + 6 } else { 40 + 6 };
        for checksum in [[0; 2], [0xff; 2], [0x12, 0x34]] {
            let mut sent = frames::udp(client(family, 1), family.cluster(WEB, 81), b"question");
            sent[ETHERNET + at..ETHERNET + at + 2].copy_from_slice(&checksum);
            let got = checked_icmp(&answered(&mut Node::new(), &sent, Reason::NoServicePort));
            assert_eq!(got.content[at..at + 2], checksum);
        }
    }
}

#[test]
fn some_packets_are_never_answered() {
    let mut node = Node::new();
    for family in Family::BOTH {
        let refused = frames::udp(client(family, 1), family.cluster(WEB, 81), b"");
        let echo = frames::echo(family.client(), family.cluster(WEB, 80).ip());
        let source = if family == Family::V4 { 26..30 } else { 22..38 };
        let forged: [Vec<u8>; 2] = match (family.node(), family.cluster(WEB, 80).ip()) {
            (IpAddr::V4(node), IpAddr::V4(service)) => [node.octets().to_vec(), service.octets().to_vec()],
            (IpAddr::V6(node), IpAddr::V6(service)) => [node.octets().to_vec(), service.octets().to_vec()],
            _ => unreachable!("one family"),
        };
        for address in forged.into_iter().chain([vec![0; source.len()], vec![0xff; source.len()]]) {
            let forge = |frame: &[u8]| {
                let mut frame = frame.to_vec();
                frame[source.clone()].copy_from_slice(&address);
                frame
            };
            let frame = forge(&refused);
            assert_eq!(node.ingress(UPLINK, &frame), (Verdict::drop(Reason::NoServicePort), frame));
            let frame = forge(&echo);
            assert_eq!(node.ingress(UPLINK, &frame), (Verdict::drop(Reason::MartianSource), frame));
        }
        for byte in [0, 6] {
            let mut frame = refused.clone();
            frame[byte] |= 1;
            assert_eq!(node.ingress(UPLINK, &frame), (Verdict::drop(Reason::NoServicePort), frame), "multicast");
            let mut frame = echo.clone();
            frame[byte] |= 1;
            assert_eq!(node.ingress(UPLINK, &frame), (Verdict::drop(Reason::IcmpUnrelated), frame), "multicast");
        }
    }
}

#[test]
fn a_cpu_sends_so_many_answers_a_tick_and_no_more() {
    let mut node = Node::new();
    let refused = frames::udp(client(Family::V4, 1), Family::V4.cluster(WEB, 81), b"");
    let reset = frames::tcp(client(Family::V6, 1), Family::V6.cluster(EMPTY, 80), Flags::Syn, b"");
    for _ in 0..2 {
        for _ in 0..Budget::ANSWERS / 2 {
            assert_eq!(node.ingress(UPLINK, &refused).0.action, Action::Redirect);
            assert_eq!(node.ingress(UPLINK, &reset).0.action, Action::Redirect);
        }
        for frame in [&refused, &reset] {
            assert_eq!(node.ingress(UPLINK, frame), (Verdict::drop(Reason::AnswerLimited), frame.clone()));
        }
        // Pings are as many as their sender sends.
        let echo = frames::echo(Family::V4.client(), Family::V4.cluster(WEB, 80).ip());
        assert_eq!(node.ingress(UPLINK, &echo).0.reason, Reason::EchoReplied);
        node.around.tick += 1;
    }
    assert_eq!(node.tables.packets(Reason::AnswerLimited), 4);
    assert_eq!(node.tables.packets(Reason::NoServicePort), u64::from(Budget::ANSWERS));
}

#[test]
fn errors_and_answers_miss_at_the_egress_they_meet() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let (from, service) = (client(family, 1), family.cluster(SINGLE, 80));
        let (seen, backend) = node.forwarded(UPLINK, &packet(TCP, from, service, b""));
        let request = packet(TCP, seen, backend, b"");
        let error = frames::icmp_error(backend.ip(), seen.ip(), messages(family)[0], 0, &request, WHOLE);
        let refused = frames::tcp(from, family.cluster(WEB, 81), Flags::Syn, b"");
        let echo = frames::echo(from.ip(), service.ip());
        for (by, frame) in [(INSIDE, error), (UPLINK, refused), (UPLINK, echo)] {
            let (_, out) = node.ingress(by, &frame);
            let counted = node.tables.reasons.borrow().clone();
            assert_eq!(node.egress(UPLINK, &out), (Verdict::pass(Reason::NotOurs), out));
            assert_eq!(*node.tables.reasons.borrow(), counted, "and is not counted twice");
        }
    }
}
