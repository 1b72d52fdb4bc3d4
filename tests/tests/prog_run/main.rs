//! The same packets through the host's core and through the programs in the kernel: same bytes, verdict, reason, counters
//! and flow tables.

mod both;
mod differential;

use both::{Both, MAX_FLOWS, counts, ifindex, on_both, on_both_with, tick};
use lb_common::{
    Affinity, AffinityKey, BackendSet, Event, Flow, FlowKey, Reason, Service, Settings, TCP, Telling, maps,
};
use lb_ebpf::{Action, AddressTables as _, Hook, Verdict};
use lb_memory::Image;
use lb_tests::capture::{self, Captured};
use lb_tests::frames::{self, Flags};
use lb_tests::needs_datapath;
use lb_tests::small::{self, EMPTY, FAR, Family, LOCAL_1, NODE_PORT, ON_HOST, SINGLE, TWIN, WEB};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

#[test]
fn one_table_of_packets_host_and_kernel_alike() {
    needs_datapath!();
    on_both(|both| {
        let (uplink, inside) = (both.uplink, both.inside);
        for family in Family::BOTH {
            for (port, service) in
                [(1, WEB), (2, WEB), (3, SINGLE), (3, TWIN), (4, FAR), (5, EMPTY), (6, ON_HOST), (7, WEB)]
            {
                let (client, service) = (SocketAddr::new(family.client(), port), family.cluster(service, 80));
                let hook = if port == 7 { Hook::Ingress } else { Hook::Xdp };
                let (verdict, seen) = both.run(hook, uplink, &frames::tcp(client, service, Flags::Syn, b""));
                let (verdict, seen) = if verdict.action == Action::Defer {
                    both.run(Hook::Ingress, uplink, &frames::tcp(client, service, Flags::Syn, b""))
                } else {
                    (verdict, seen)
                };
                if verdict.reason == Reason::NoBackend {
                    frames::checked(&seen);
                    continue;
                }
                let (source, backend, _) = frames::checked(&seen);
                let (way, by) = match verdict.action {
                    Action::Pass => (Hook::Egress, uplink),
                    _ => (Hook::Ingress, verdict.ifindex),
                };
                for flags in [Flags::SynAck, Flags::Ack, Flags::Fin] {
                    let (_, reply) = both.run(way, by, &frames::tcp(backend, source, flags, b"answer"));
                    let (from, to, payload) = frames::checked(&reply);
                    assert_eq!((from, to, payload.as_slice()), (service, client, &b"answer"[..]));
                    both.run(hook, uplink, &frames::tcp(client, service, Flags::Ack, b"question"));
                }
                both.run(hook, uplink, &frames::tcp(client, service, Flags::Rst, b""));
                both.run(hook, uplink, &frames::tcp(client, service, Flags::Syn, b""));
            }
            let (client, dns) = (SocketAddr::new(family.client(), 9), family.cluster(small::DNS, 53));
            both.run(Hook::Xdp, uplink, &frames::udp(client, dns, b"query"));
            let pod = SocketAddr::new(family.backend(LOCAL_1), 10);
            both.run(Hook::Ingress, inside, &frames::tcp(pod, family.cluster(SINGLE, 80), Flags::Syn, b""));
            both.run(Hook::Ingress, inside, &frames::tcp(pod, family.cluster(FAR, 80), Flags::Syn, b""));
            let node_port = SocketAddr::new(family.node(), NODE_PORT);
            both.run(Hook::Xdp, uplink, &frames::tcp(client, node_port, Flags::Syn, b""));
            both.run(Hook::Xdp, uplink, &frames::tcp(client, family.cluster(WEB, 81), Flags::Syn, b""));
            both.run(Hook::Ingress, uplink, &frames::tcp(client, family.cluster(WEB, 81), Flags::Syn, b""));
            both.run(Hook::Ingress, uplink, &frames::echo(family.client(), dns.ip()));
            both.run(Hook::Ingress, uplink, &frames::echo(family.client(), family.node()));
            both.run(Hook::Ingress, uplink, &frames::other(family.client(), dns.ip()));
        }
        both.compare_flows();
    });
}

#[test]
fn both_paths_and_the_nodes_own_processes_host_and_kernel_alike() {
    needs_datapath!();
    on_both(|both| {
        let (uplink, inside, pair) = (both.uplink, both.inside, ifindex("lbh1"));
        for family in Family::BOTH {
            let own = SocketAddr::new(family.node(), 1);
            for (service, by) in [(SINGLE, inside), (FAR, uplink), (ON_HOST, pair)] {
                let service = family.cluster(service, 80);
                let (verdict, seen) = both.run(Hook::Ingress, pair, &frames::tcp(own, service, Flags::Syn, b""));
                let (source, backend, _) = frames::checked(&seen);
                assert_eq!(verdict.ifindex, by);
                let (verdict, reply) =
                    both.run(Hook::Ingress, by, &frames::tcp(backend, source, Flags::SynAck, b"answer"));
                assert_eq!((verdict.ifindex, verdict.action), (pair, Action::Redirect));
                assert_eq!((frames::checked(&reply).0, frames::checked(&reply).1), (service, own));
                both.run(Hook::Ingress, uplink, &frames::tcp(own, service, Flags::Ack, b"forged"));
                both.run(Hook::Ingress, pair, &frames::tcp(own, service, Flags::Ack, b"question"));
            }
        }
        both.use_the_stack();
        for family in Family::BOTH {
            let client = SocketAddr::new(family.client(), 20);
            for service in [WEB, SINGLE, FAR, ON_HOST] {
                let service = family.cluster(service, 80);
                let syn = frames::tcp(client, service, Flags::Syn, b"");
                let (verdict, seen) = both.run(Hook::Xdp, uplink, &syn);
                let (verdict, seen) = if verdict.action == Action::Defer {
                    both.run(Hook::Ingress, uplink, &syn)
                } else {
                    (verdict, seen)
                };
                let (source, backend, _) = frames::checked(&seen);
                for flags in [Flags::SynAck, Flags::Ack, Flags::Fin] {
                    let answer = frames::tcp(backend, source, flags, b"answer");
                    both.run(Hook::Ingress, if verdict.action == Action::Pass { inside } else { uplink }, &answer);
                    both.run(Hook::Xdp, uplink, &answer);
                    both.run(Hook::Egress, uplink, &answer);
                    both.run(Hook::Ingress, uplink, &frames::tcp(client, service, Flags::Ack, b"question"));
                }
            }
        }
        both.compare_flows();
    });
}

#[test]
fn icmp_and_answers_host_and_kernel_alike() {
    needs_datapath!();
    on_both(|both| {
        let (uplink, inside) = (both.uplink, both.inside);
        for family in Family::BOTH {
            let v4 = family == Family::V4;
            let router = IpAddr::V4([203, 0, 113, 77].into());
            let router = if v4 { router } else { IpAddr::V6([0x2001, 0xdb8, 7, 0, 0, 0, 0, 7].into()) };
            for (service, protocol, by) in [
                (family.cluster(SINGLE, 80), lb_common::TCP, inside),
                (family.cluster(small::DNS, 53), lb_common::UDP, inside),
                (family.cluster(FAR, 80), lb_common::TCP, uplink),
                (family.cluster(ON_HOST, 80), lb_common::TCP, uplink),
            ] {
                let client = SocketAddr::new(family.client(), 77);
                let make = |from, to, payload: &[u8]| match protocol {
                    lb_common::TCP => frames::tcp(from, to, Flags::Ack, payload),
                    _ => frames::udp(from, to, payload),
                };
                let (_, bytes) = both.run(Hook::Ingress, uplink, &make(client, service, b"x"));
                let (seen, backend, _) = frames::checked(&bytes);
                let request = make(seen, backend, b"some content, of an odd length");
                let reply = make(service, client, b"some more content");
                let way = if service == family.cluster(ON_HOST, 80) { Hook::Egress } else { Hook::Ingress };
                let kinds: &[[u8; 2]] =
                    if v4 { &[[3, 4], [3, 3], [11, 0], [12, 0]] } else { &[[1, 4], [2, 0], [3, 0], [4, 1]] };
                for message in kinds {
                    for embedded in [24, 31, 44, 60, 68, 200] {
                        for from in [backend.ip(), router] {
                            let error = frames::icmp_error(from, seen.ip(), *message, 1400, &request, embedded);
                            both.run(Hook::Xdp, uplink, &error);
                            both.run(way, by, &error);
                        }
                        let error = frames::icmp_error(client.ip(), service.ip(), *message, 0, &reply, embedded);
                        both.run(Hook::Ingress, uplink, &error);
                    }
                }
                let unknown = make(SocketAddr::new(service.ip(), 4), client, b"");
                let error = frames::icmp_error(client.ip(), service.ip(), kinds[0], 0, &unknown, 200);
                let (verdict, _) = both.run(Hook::Ingress, uplink, &error);
                assert_eq!(verdict, Verdict::drop(Reason::IcmpUnrelated));
            }
            let client = SocketAddr::new(family.client(), 5);
            let service = family.cluster(WEB, 80);
            for payload in [0, 1, 2, 3, 30, 1400] {
                let payload = vec![9; payload];
                for port in [80, 81] {
                    let to = SocketAddr::new(service.ip(), port);
                    both.run(Hook::Ingress, uplink, &frames::udp(client, to, &payload));
                }
                for flags in [Flags::Syn, Flags::SynAck, Flags::Ack, Flags::Fin, Flags::Rst] {
                    both.run(Hook::Ingress, uplink, &frames::tcp(client, family.cluster(EMPTY, 80), flags, &payload));
                }
                let mut spent = frames::tcp(client, service, Flags::Ack, &payload);
                spent[if v4 { 22 } else { 21 }] = 1;
                let (verdict, _) = both.run(Hook::Ingress, uplink, &spent);
                assert_eq!((verdict.action, verdict.reason), (Action::Redirect, Reason::TtlExceeded));
                let mut behind = frames::tcp(client, family.cluster(EMPTY, 80), Flags::Syn, &payload);
                if v4 {
                    behind.splice(34..34, [1; 12]);
                    behind[14] = 0x48;
                    let length = u16::from_be_bytes([behind[16], behind[17]]) + 12;
                    behind[16..18].copy_from_slice(&length.to_be_bytes());
                } else {
                    behind.splice(54..54, [6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                    let length = u16::from_be_bytes([behind[18], behind[19]]) + 16;
                    behind[18..20].copy_from_slice(&length.to_be_bytes());
                    behind[20] = 60;
                }
                let (verdict, _) = both.run(Hook::Ingress, uplink, &behind);
                assert_eq!((verdict.action, verdict.reason), (Action::Redirect, Reason::NoBackend));
            }
            let large = frames::tcp(client, service, Flags::Ack, &[7; 1800]);
            let (verdict, _) = both.run(Hook::Ingress, uplink, &large);
            assert_eq!((verdict.action, verdict.reason), (Action::Redirect, Reason::MtuExceeded));
            both.run(Hook::Ingress, uplink, &frames::echo(client.ip(), service.ip()));
            both.run(Hook::Ingress, uplink, &frames::other(client.ip(), service.ip()));
            for byte in [0, 6] {
                let mut frame = frames::udp(client, SocketAddr::new(service.ip(), 99), b"");
                frame[byte] |= 1;
                both.run(Hook::Ingress, uplink, &frame);
            }
        }
        // The rest of the tick's budget, and one more.
        let refused = frames::udp(SocketAddr::new(Family::V4.client(), 1), Family::V4.cluster(WEB, 81), b"");
        while both.run(Hook::Ingress, uplink, &refused).0.action == Action::Redirect {}
        both.compare_flows();
    });
}

/// Fills the table, on both sides, with flows that nobody has.
fn fill(both: &mut Both, flags: u16) {
    /// A table that has refused so many keys one after the other refuses the next too.
    const REFUSALS: u32 = 4096;
    let table = both.kernel.flow_table::<[u8; 4]>(maps::FLOWS4);
    let tick = lb_ctl::datapath::conntrack::now();
    let flow = Flow { tick, flags, ..lb_memory::memory::scratch([0u8; 4], 0).flow };
    let mut refusals = 0;
    for number in 0u32.. {
        let key = FlowKey::new(TCP, number.to_be_bytes(), [0, 1], [203, 0, 113, 1], [0, 2]);
        match table.set(&key, &flow) {
            Ok(()) => {
                refusals = 0;
                both.tables.insert(&key, &flow).expect("no limit yet");
            }
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => refusals += 1,
            Err(error) => panic!("{error}"),
        }
        if refusals == REFUSALS {
            break;
        }
    }
    let filled = both.tables.flows4.contents().len();
    let room = maps::entries_for(maps::FLOWS4, MAX_FLOWS) as usize;
    assert!(filled <= room && filled * 100 > room * 99, "{filled} of {room}");
}

#[test]
fn a_full_table_breaks_no_connection_and_is_counted() {
    needs_datapath!();
    on_both(|both| {
        let uplink = both.uplink;
        let (client, service) = (SocketAddr::new(Family::V4.client(), 4711), Family::V4.cluster(WEB, 80));
        connect(both, client, service);
        fill(both, Flow::<[u8; 4]>::CONFIRMED);
        both.tables.flows4.limit(both.tables.flows4.contents().len());
        let syn = frames::tcp(SocketAddr::new(client.ip(), 4712), service, Flags::Syn, b"");
        assert_eq!(both.run(Hook::Ingress, uplink, &syn).0, Verdict::drop(Reason::TableFull));
        let (verdict, _) = both.run(Hook::Ingress, uplink, &frames::tcp(client, service, Flags::Ack, b"goes on"));
        assert_eq!(verdict.action, Action::Redirect);
        both.compare_flows();
    });
}

/// Opens a connection up to the client's first ACK.
fn connect(both: &mut Both, client: SocketAddr, service: SocketAddr) {
    let uplink = both.uplink;
    let (verdict, seen) = both.run(Hook::Ingress, uplink, &frames::tcp(client, service, Flags::Syn, b""));
    let (source, backend, _) = frames::checked(&seen);
    both.run(Hook::Ingress, verdict.ifindex, &frames::tcp(backend, source, Flags::SynAck, b""));
    let (verdict, _) = both.run(Hook::Ingress, uplink, &frames::tcp(client, service, Flags::Ack, b""));
    assert_eq!((verdict.action, verdict.reason), (Action::Redirect, Reason::Forwarded));
}

#[test]
fn in_a_full_table_those_make_way_that_are_not_confirmed() {
    needs_datapath!();
    makes_way(0);
}

#[test]
fn in_a_full_table_those_make_way_whose_connection_has_ended() {
    needs_datapath!();
    makes_way(Flow::<[u8; 4]>::CONFIRMED | Flow::<[u8; 4]>::FINS);
    makes_way(Flow::<[u8; 4]>::CONFIRMED | Flow::<[u8; 4]>::RST);
}

/// Opens connections where the table is full of flows with these flags.
fn makes_way(flags: u16) {
    on_both(move |both| {
        let service = Family::V4.cluster(WEB, 80);
        let client = |port| SocketAddr::new(Family::V4.client(), port);
        connect(both, client(1), service);
        fill(both, flags);
        let before = both.kernel.flows::<[u8; 4]>(maps::FLOWS4).len();
        // The host's table is not full.
        (2..200).for_each(|port| connect(both, client(port), service));
        let flows = both.kernel.flows::<[u8; 4]>(maps::FLOWS4);
        assert_eq!(flows.len(), before, "each took the place of another");
        assert_eq!(flows.values().filter(|flow| Flow::<[u8; 4]>::keeps_place(flow.flags)).count(), 2 * 199);
        for port in 1..200 {
            let ack = frames::tcp(client(port), service, Flags::Ack, b"goes on");
            assert_eq!(both.run(Hook::Ingress, both.uplink, &ack).0.reason, Reason::Forwarded);
        }
    });
}

/// Longer frames do not fit into the page that `BPF_PROG_TEST_RUN` works in.
const LONGEST_FRAME: usize = 3_400;

#[test]
fn mixed_traffic_leaves_byte_for_byte_as_it_came() {
    needs_datapath!();
    on_both(|both| {
        let (mut tagged, mut malformed) = (0, 0);
        for Captured { frame, .. } in capture::mixed() {
            for (hook, ifindex) in [
                (Hook::Xdp, both.uplink),
                (Hook::Ingress, both.uplink),
                (Hook::Ingress, both.inside),
                (Hook::Egress, both.uplink),
                (Hook::Egress, both.inside),
            ] {
                let (verdict, after) = if frame.len() <= LONGEST_FRAME {
                    both.run(hook, ifindex, &frame)
                } else {
                    both.on_host(hook, ifindex, &frame)
                };
                let is_left = verdict.action == Action::Pass || (hook, verdict.action) == (Hook::Xdp, Action::Defer);
                assert!(is_left && after == frame, "{hook:?}: {verdict:?}");
                let is_counted = counts(hook, verdict);
                match verdict.reason {
                    Reason::NotOurs => {}
                    Reason::Vlan => tagged += u64::from(is_counted),
                    Reason::Malformed => malformed += u64::from(is_counted),
                    reason => panic!("{hook:?}: {reason:?}"),
                }
            }
        }
        // What cannot be read is said to have been left; of what is not ours nothing is counted, and nothing remembered.
        assert!(tagged > 0 && malformed > 0);
        let packets = |reason| both.tables.packets(reason);
        assert_eq!((packets(Reason::Vlan), packets(Reason::Malformed)), (tagged, malformed));
        assert_eq!(both.tables.reasons.borrow().len(), 2);
        assert!(both.tables.services.borrow().is_empty() && both.tables.backends.borrow().is_empty());
        both.compare_flows();
        let (four, six) = (maps::FLOWS4, maps::FLOWS6);
        assert!(both.kernel.flows::<[u8; 4]>(four).is_empty() && both.kernel.flows::<[u8; 16]>(six).is_empty());
    });
}

/// Runs frames on both, at XDP and, what that leaves to it, at TCX ingress; how they leave.
fn onward(both: &mut Both, frames: &[Vec<u8>]) -> (Vec<Vec<u8>>, u32) {
    let mut by = 0;
    let sent = frames.iter().map(|frame| {
        let (verdict, bytes) = both.run(Hook::Xdp, both.uplink, frame);
        let (verdict, bytes) = match verdict.action {
            Action::Defer | Action::Pass => both.run(Hook::Ingress, both.uplink, frame),
            _ => (verdict, bytes),
        };
        by = verdict.ifindex;
        bytes
    });
    (sent.collect(), by)
}

#[test]
fn fragments_host_and_kernel_alike() {
    needs_datapath!();
    on_both(|both| {
        for family in Family::BOTH {
            let content = vec![0x5a; 4000];
            for (port, service) in [(21, WEB), (22, FAR), (23, ON_HOST)] {
                let (client, service) = (SocketAddr::new(family.client(), port), family.cluster(service, 80));
                // Twice: the flow is first new, then known. The later ones also come before their first.
                for id in [1, 2] {
                    let whole = frames::tcp(client, service, Flags::Syn, &content);
                    let mut pieces = frames::fragments(&whole, 1432, id);
                    let early = both.run(Hook::Ingress, both.uplink, &pieces[1]).0;
                    assert_eq!(early.reason, Reason::Fragment);
                    pieces.truncate(3);
                    let (pieces, by) = onward(both, &pieces);
                    let (source, backend, seen) = frames::checked(&frames::reassembled(&pieces));
                    assert_eq!(seen, content);
                    let reply = frames::fragments(&frames::tcp(backend, source, Flags::SynAck, &content), 1432, id);
                    let way = if by == 0 { (Hook::Egress, both.uplink) } else { (Hook::Ingress, by) };
                    let back: Vec<_> = reply.iter().map(|piece| both.run(way.0, way.1, piece).1).collect();
                    let (from, to, _) = frames::checked(&frames::reassembled(&back));
                    assert_eq!((from, to), (service, client));
                }
            }
        }
        both.compare_flows();
    });
}

#[test]
fn sctp_host_and_kernel_alike() {
    needs_datapath!();
    on_both(|both| {
        for family in Family::BOTH {
            for (port, service) in [(31, small::SIGNAL), (32, small::SIGNAL_FAR)] {
                let (client, service) = (SocketAddr::new(family.client(), port), family.cluster(service, 80));
                for (length, chunks) in [(0, [1, 2]), (3, [10, 11]), (1300, [0, 3]), (517, [7, 8]), (8, [14, 6])] {
                    let payload = vec![0x77; length];
                    let there = onward(both, &[frames::sctp(client, service, chunks[0], &payload)]);
                    let (source, backend, _) = frames::checked_sctp(&there.0[0]);
                    let reply = frames::sctp(backend, source, chunks[1], &payload);
                    let (_, back) = both.run(Hook::Ingress, there.1, &reply);
                    assert_eq!(frames::checked_sctp(&back), (service, client, payload));
                }
                let whole = frames::sctp(client, service, 0, &[1; 3000]);
                let pieces = frames::fragments(&whole, 1200, 5);
                assert_eq!(both.run(Hook::Ingress, both.uplink, &pieces[0]).0.reason, Reason::SctpFragment);
                let mut unsummed = frames::sctp(client, service, 1, b"");
                let at = if family == Family::V4 { 42 } else { 62 };
                unsummed[at..at + 4].copy_from_slice(&[0; 4]);
                assert_eq!(onward(both, &[unsummed]).0[0][at..at + 4], [0; 4]);
            }
            let client = SocketAddr::new(family.client(), 33);
            let whole = frames::sctp(client, family.cluster(small::SIGNAL, small::TARGET_PORT), 0, &[1; 3000]);
            let (pieces, _) = onward(both, &frames::fragments(&whole, 1200, 6));
            frames::checked_sctp(&frames::reassembled(&pieces));
        }
        both.compare_flows();
    });
}

#[test]
fn headers_that_are_kept_host_and_kernel_alike() {
    needs_datapath!();
    on_both(|both| {
        for family in Family::BOTH {
            let (client, service) = (SocketAddr::new(family.client(), 41), family.cluster(WEB, 80));
            let plain = frames::tcp(client, service, Flags::Syn, b"");
            for tags in frames::TAGS {
                let tagged = frames::tagged(&plain, tags);
                for hook in [Hook::Xdp, Hook::Ingress, Hook::Egress] {
                    let (verdict, bytes) = both.run(hook, both.uplink, &tagged);
                    let reason = if hook == Hook::Egress { Reason::NotOurs } else { Reason::Vlan };
                    assert_eq!((verdict, bytes), (Verdict::pass(reason), tagged.clone()));
                }
            }
            for class in [0x01, 0x03, 0xb8, 0xff] {
                let marked = frames::of_class(&plain, class);
                let (out, _) = onward(both, &[marked]);
                assert_eq!(frames::class(&out[0]), class, "DSCP and ECN");
                frames::checked(&out[0]);
            }
            let dns = family.cluster(small::DNS, 53);
            let at = if family == Family::V4 { 40 } else { 60 };
            let (out, _) = onward(both, &[frames::udp(client, dns, b"")]);
            let (_, backend, _) = frames::checked(&out[0]);
            let payload = frames::sums_to_zero(client, backend).expect("a sum of words reaches every word");
            for hook in [Hook::Xdp, Hook::Ingress] {
                let mut query = frames::udp(client, dns, &payload);
                let (_, out) = both.run(hook, both.uplink, &query);
                assert_eq!(out[at..at + 2], [0xff; 2], "a computed zero at {hook:?}");
                if family == Family::V4 {
                    query[at..at + 2].copy_from_slice(&[0; 2]);
                    let (_, out) = both.run(hook, both.uplink, &query);
                    assert_eq!(out[at..at + 2], [0; 2], "none stays none at {hook:?}");
                }
            }
        }
        both.compare_flows();
    });
}

/// Ports of each address that are lent in the next test.
const PORTS: u16 = 400;

#[test]
fn the_last_free_port_is_found_and_then_none_host_and_kernel_alike() {
    needs_datapath!();
    let lends = |image: &mut Image| {
        image.settings.snat_port_first = 2000;
        image.settings.snat_port_last = 2000 + PORTS - 1;
        image.settings.snat4 = Settings::lent([[192, 0, 2, 1], [192, 0, 2, 2]]);
    };
    on_both_with(lends, |both| {
        let (uplink, service) = (both.uplink, Family::V4.cluster(FAR, 80));
        let mut seen = BTreeSet::new();
        let mut reasons = Vec::new();
        for port in 1..=PORTS * 2 + 1 {
            let client = SocketAddr::new(Family::V4.client(), port);
            let syn = frames::tcp(client, service, Flags::Syn, b"");
            let mut opened = both.run(Hook::Ingress, uplink, &syn);
            if opened.0 == Verdict::drop(Reason::SnatExhausted) && port <= PORTS * 2 {
                // The search was spent in this tick already: it comes back with the next.
                both.renew_budget();
                opened = both.run(Hook::Ingress, uplink, &syn);
            }
            reasons.push(opened.0.reason);
            if opened.0.action == Action::Drop {
                continue;
            }
            let (source, backend, _) = frames::checked(&opened.1);
            assert!(seen.insert(source), "{source} was lent twice");
            both.run(Hook::Ingress, uplink, &frames::tcp(backend, source, Flags::SynAck, b""));
            both.run(Hook::Ingress, uplink, &frames::tcp(client, service, Flags::Ack, b""));
        }
        assert_eq!(seen.len(), usize::from(PORTS) * 2, "every port of both addresses");
        assert_eq!(seen.iter().map(SocketAddr::ip).collect::<BTreeSet<_>>().len(), 2);
        assert_eq!(reasons.pop(), Some(Reason::SnatExhausted));
        let scarce = reasons.iter().filter(|reason| **reason == Reason::ForwardedSnatScarce).count();
        assert!(scarce > 0 && scarce < 400, "{scarce} were found by searching all");
        both.compare_flows();
    });
}

/// A node with a seed of its own, whose Services have tables.
fn spread_by_tables(image: &mut Image, seed: u64) {
    (image.settings.seed, image.settings.shared_seed) = (seed, 7);
    for service in image.services.values_mut().filter(|service| service.backends.count() > 1) {
        // Six places of the second backend and one of the first.
        let base = service.backends.base();
        let (first, second) = (image.slots[&base], image.slots[&(base + 1)]);
        image.slots.extend((base..base + 7).zip([second; 7]));
        image.slots.insert(base + 3, first);
        service.backends = BackendSet::new(base, 7, 1);
        service.flags |= Service::SAME_EVERYWHERE;
    }
}

#[test]
fn tables_spread_connections_host_and_kernel_alike() {
    needs_datapath!();
    let mut both_nodes = Vec::new();
    for seed in [1, 2] {
        let of_node = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&of_node);
        on_both_with(
            move |image| spread_by_tables(image, seed),
            move |both| {
                let mut met = Vec::new();
                for family in Family::BOTH {
                    for port in 1000..1200 {
                        let client = SocketAddr::new(family.client(), port);
                        let syn = frames::tcp(client, family.cluster(WEB, 80), Flags::Syn, b"");
                        let (_, after) = both.run(Hook::Ingress, both.uplink, &syn);
                        met.push(frames::checked(&after).1);
                    }
                }
                both.compare_flows();
                *noted.lock().expect("no panic") = met;
            },
        );
        both_nodes.push(std::mem::take(&mut *of_node.lock().expect("no panic")));
    }
    assert_eq!(both_nodes[0], both_nodes[1], "two nodes with seeds of their own");
    for family in Family::BOTH {
        let of_first = both_nodes[0].iter().filter(|met| met.ip() == family.backend(LOCAL_1)).count();
        // 200 / 7 on average, and outside of this once in a million.
        assert!((7..57).contains(&of_first), "{of_first} of 200");
    }
}

#[test]
fn clients_keep_their_backends_host_and_kernel_alike() {
    needs_datapath!();
    let keep = |image: &mut Image| {
        for service in image.services.values_mut().filter(|service| service.backends.count() > 1) {
            service.affinity_ticks = Affinity::ticks(60);
            service.affinity_id = service.backends.base();
            service.members = service.backends;
        }
    };
    on_both_with(keep, |both| {
        let (uplink, inside, pair) = (both.uplink, both.inside, both.tables.image.settings.host.ifindex);
        let round = |both: &mut Both, first: u16| {
            for family in Family::BOTH {
                let outside = family.client();
                for port in first..first + 8 {
                    for to in [family.cluster(WEB, 80), SocketAddr::new(family.node(), NODE_PORT)] {
                        let syn = frames::tcp(SocketAddr::new(outside, port), to, Flags::Syn, b"");
                        both.run(Hook::Xdp, uplink, &syn);
                        both.run(Hook::Ingress, uplink, &syn);
                    }
                    for (by, from) in [(inside, family.backend(LOCAL_1)), (pair, family.node())] {
                        let query = frames::udp(SocketAddr::new(from, port), family.cluster(small::DNS, 53), b"query");
                        both.run(Hook::Ingress, by, &query);
                    }
                }
            }
            let kept: BTreeMap<AffinityKey, Affinity> = both.kernel.entries(maps::AFFINITY);
            assert_eq!(kept, both.tables.affinity.contents());
            both.compare_flows();
            kept
        };
        let first = round(both, 100);
        assert!(first.keys().any(|key| key.kind == 0) && first.keys().any(|key| key.kind == 6), "{first:?}");
        // Each Service loses one backend, gets it back at another place, and so each client's backend is looked for.
        let whole = both.tables.image.clone();
        for turn in 0..2 {
            let mut image = whole.clone();
            for (key, service) in image.services.iter_mut().filter(|(_, service)| service.affinity_ticks != 0) {
                let base = service.backends.base();
                let (slot, generation) = (whole.slots[&(base + turn)], 2 + turn as u16);
                let next = if turn == 0 { base + 4 } else { base + 6 };
                image.slots.insert(next, slot);
                if turn == 1 {
                    image.slots.insert(next + 1, whole.slots[&base]);
                }
                assert!(key.protocol != lb_common::SCTP);
                service.members = BackendSet::new(next, 1 + turn, generation);
                service.backends = service.members;
                if turn == 1 {
                    // A table of its own for those who keep nothing yet.
                    image
                        .slots
                        .extend((base + 2..base + 6).zip([0, 1, 1, 1].map(|which| whole.slots[&(base + which)])));
                    service.backends = BackendSet::new(base + 2, 4, generation + 1);
                }
            }
            both.kernel.rewrite(&both.tables.image.clone(), &image);
            both.tables.image = image;
            round(both, 200 + 100 * turn as u16);
        }
    });
}

/// Kind and reason of events.
fn signs(events: &[Event]) -> Vec<(u8, Reason)> {
    events.iter().map(|event| (event.kind, event.reason().expect("a reason"))).collect()
}

#[test]
fn flows_and_losses_are_told_host_and_kernel_alike() {
    needs_datapath!();
    on_both(|both| {
        let (uplink, inside) = (both.uplink, both.inside);
        for family in Family::BOTH {
            let (client, service) = (SocketAddr::new(family.client(), 7), family.cluster(SINGLE, 80));
            let (_, bytes) = both.run(Hook::Ingress, uplink, &frames::tcp(client, service, Flags::Syn, b""));
            assert_eq!(signs(&both.told), [(Event::NEW, Reason::Forwarded)]);
            let (_, backend, _) = frames::checked(&bytes);
            let opened = both.told[0];
            assert_eq!((opened.client_port, opened.frontend_port), ([0, 7], [0, 80]));
            assert_eq!(opened.backend_port, backend.port().to_be_bytes());
            assert_eq!((opened.ifindex, opened.hook), (uplink, Event::AT_INGRESS));
            let mut ends = |flags, expected: &[(u8, Reason)]| {
                both.run(Hook::Ingress, uplink, &frames::tcp(client, service, flags, b""));
                let asked = signs(&both.told);
                both.run(Hook::Ingress, inside, &frames::tcp(backend, client, flags, b""));
                assert_eq!([asked, signs(&both.told)].concat(), expected, "{flags:?}");
            };
            ends(Flags::Ack, &[]);
            ends(Flags::Fin, &[(Event::CLOSED, Reason::Replied)]);
            // Told once.
            ends(Flags::Rst, &[]);
            let refused =
                [(family.cluster(EMPTY, 80), Reason::NoBackend), (family.cluster(WEB, 81), Reason::NoServicePort)];
            for (to, reason) in refused {
                both.run(Hook::Xdp, uplink, &frames::tcp(client, to, Flags::Syn, b""));
                assert_eq!(signs(&both.told), [], "XDP leaves it to TCX");
                both.run(Hook::Ingress, uplink, &frames::tcp(client, to, Flags::Syn, b""));
                assert_eq!(signs(&both.told), [(Event::REJECTED, reason)]);
                assert_eq!(both.told[0].service == Event::NOBODY, reason == Reason::NoServicePort);
                assert_eq!(both.told[0].frontend_port, to.port().to_be_bytes());
            }
            let mut large = frames::tcp(client, family.cluster(WEB, 80), Flags::Ack, &[7; 1800]);
            both.run(Hook::Ingress, uplink, &large);
            assert_eq!(signs(&both.told), [(Event::REJECTED, Reason::MtuExceeded)]);
            assert_ne!(both.told[0].backend, [0; 16], "a backend had been chosen");
            large[6] |= 1;
            both.run(Hook::Ingress, uplink, &large);
            assert_eq!(signs(&both.told), [(Event::DROPPED, Reason::MtuExceeded)], "a frame of many has no answer");
        }
    });
}

#[test]
fn what_is_not_told_is_counted_host_and_kernel_alike() {
    needs_datapath!();
    on_both(|both| {
        let uplink = both.uplink;
        let refused = frames::udp(SocketAddr::new(Family::V4.client(), 1), Family::V4.cluster(WEB, 81), b"");
        let begun = tick();
        let mut told = 0;
        let mut packets = 0;
        while packets < 800 {
            both.run(Hook::Ingress, uplink, &refused);
            (told, packets) = (told + both.told.len() as u64, packets + 1);
        }
        let skipped = both.kernel.telling().skipped[Telling::LOSSES];
        assert_eq!(told + skipped, packets);
        if tick() == begun {
            assert_eq!(told, u64::from(Telling::SHARE[Telling::LOSSES]));
        }
        // Nobody takes them out, and their share is renewed again and again.
        let (mut lost, mut skipped) = (0, 0);
        for _ in 0..20 {
            both.kernel.set_tellings(Telling::NEW);
            (0..400).for_each(|_| drop(both.kernel.run(Hook::Ingress, uplink, &refused)));
            let telling = both.kernel.telling();
            (lost, skipped) = (lost + telling.lost[Telling::LOSSES], skipped + telling.skipped[Telling::LOSSES]);
        }
        let told = both.kernel.take_events().len() as u64;
        assert!(lost > 0 && told > 5000, "{told} told, {lost} lost");
        assert_eq!(told + lost + skipped, 8000);
        // Nobody listens: flows are not told.
        both.kernel.listen(false);
        both.kernel.set_tellings(Telling::NEW);
        let client = SocketAddr::new(Family::V4.client(), 99);
        both.kernel.run(Hook::Ingress, uplink, &frames::tcp(client, Family::V4.cluster(SINGLE, 80), Flags::Syn, b""));
        assert_eq!(both.kernel.take_events(), []);
        assert_eq!(both.kernel.telling(), Telling::NEW);
        assert!(
            both.kernel.flows::<[u8; 4]>(maps::FLOWS4).values().any(|flow| flow.flags & Flow::<[u8; 4]>::REPLY != 0)
        );
    });
}
