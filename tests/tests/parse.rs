//! What the parser makes of headers that are seldom seen: read right, or left alone with a reason.

use lb_common::{Reason, TCP, UDP};
use lb_ebpf::parse::{Piece, ipv4, ipv6};
use lb_ebpf::{Action, Verdict, process};
use lb_tests::frames::{self, Flags, checked};
use lb_tests::memory::{At, Frame, Memory};
use lb_tests::node::{INSIDE, Node, UPLINK};
use lb_tests::small::{self, Family, SINGLE};
use std::net::SocketAddr;

const IP: usize = 14;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const OPTIONS: u8 = 60;

fn syn(family: Family) -> Vec<u8> {
    frames::tcp(SocketAddr::new(family.client(), 40_000), family.cluster(SINGLE, 80), Flags::Syn, b"payload")
}

/// An IPv6 SYN with extension headers, each its kind and its bytes (of which the first is overwritten by the next kind).
fn extended(headers: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let plain = syn(Family::V6);
    let mut frame = plain[..IP + 40].to_vec();
    frame[IP + 6] = headers.first().map_or(TCP, |(kind, _)| *kind);
    for (index, (_, bytes)) in headers.iter().enumerate() {
        let next = headers.get(index + 1).map_or(TCP, |(kind, _)| *kind);
        frame.push(next);
        frame.extend(&bytes[1..]);
    }
    frame.extend(&plain[IP + 40..]);
    let payload = (frame.len() - IP - 40) as u16;
    frame[IP + 4..IP + 6].copy_from_slice(&payload.to_be_bytes());
    frame
}

/// An extension header of `length` bytes whose second byte counts in units of eight beyond the first.
fn units_of_8(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[1] = (length / 8 - 1) as u8;
    bytes
}

/// An authentication header of `length` bytes, counted in units of four minus two (RFC 4302, 2.2).
fn authentication(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[1] = (length / 4 - 2) as u8;
    bytes
}

#[test]
fn ports_are_found_behind_every_extension_header() {
    let plain = ipv6(&Frame::new(syn(Family::V6))).expect("a plain SYN");
    for headers in [
        vec![(HOP_BY_HOP, units_of_8(8))],
        vec![(OPTIONS, units_of_8(24))],
        vec![(ROUTING, units_of_8(40))],
        vec![
            (HOP_BY_HOP, units_of_8(16)),
            (OPTIONS, units_of_8(8)),
            (ROUTING, units_of_8(24)),
            (OPTIONS, units_of_8(8)),
        ],
    ] {
        let frame = extended(&headers);
        let length: usize = headers.iter().map(|(_, bytes)| bytes.len()).sum();
        let wire = ipv6(&Frame::new(frame.clone())).expect("well formed");
        assert_eq!(wire.key, plain.key, "{headers:?}");
        assert_eq!(usize::from(wire.transport), IP + 40 + length);
        assert_eq!(usize::from(wire.headers), 40 + length + 20);

        let tables = Memory::new(small::image(UPLINK, INSIDE));
        let around = small::surroundings(UPLINK, INSIDE, UPLINK, 1000);
        let mut frame = Frame::new(frame);
        assert_eq!(process(&mut frame, &tables, &At::<1>(&around)).reason, Reason::Forwarded);
        let (_, to, payload) = checked(&frame.bytes);
        assert_eq!((to.port(), payload.as_slice()), (small::TARGET_PORT, &b"payload"[..]));
    }
}

/// A routing header (RFC 8200, 4.4) with this many segments left.
fn routing(left: u8) -> Vec<u8> {
    let mut bytes = units_of_8(24);
    bytes[3] = left;
    bytes
}

#[test]
fn nothing_is_translated_that_an_extension_header_binds() {
    // Authentication covers addresses and ports; with segments left the checksum covers another destination.
    for bound in [(AUTHENTICATION, authentication(12)), (AUTHENTICATION, authentication(24)), (ROUTING, routing(1))] {
        for before in
            [vec![], vec![(HOP_BY_HOP, units_of_8(8))], vec![(ROUTING, routing(0)), (OPTIONS, units_of_8(16))]]
        {
            for behind in [vec![], vec![(OPTIONS, units_of_8(8))]] {
                let frame = extended(&[before.clone(), vec![bound.clone()], behind].concat());
                let mut node = Node::new();
                assert_eq!(node.ingress(UPLINK, &frame), (Verdict::pass(Reason::ExtensionHeader), frame.clone()));
                assert_eq!(node.xdp(&frame), (Verdict::pass(Reason::ExtensionHeader), frame.clone()));
                assert_eq!(node.tables.packets(Reason::ExtensionHeader), 1, "TCX counts it");
                // To others than us it is none of our business, and a known flow makes no difference.
                node.forwarded(UPLINK, &syn(Family::V6));
                assert_eq!(node.ingress(UPLINK, &frame), (Verdict::pass(Reason::ExtensionHeader), frame.clone()));
                node.tables.image.owned.clear();
                assert_eq!(node.ingress(UPLINK, &frame), (Verdict::pass(Reason::NotOurs), frame));
            }
        }
    }
}

#[test]
fn a_chain_that_is_too_long_or_cut_short_is_left_alone() {
    let chain = |count: usize| extended(&vec![(OPTIONS, units_of_8(8)); count]);
    assert!(ipv6(&Frame::new(chain(6))).is_ok());
    assert_eq!(ipv6(&Frame::new(chain(7))), Err(Reason::ExtensionHeader));
    let mut beyond = chain(1);
    beyond[IP + 41] = 200;
    assert_eq!(ipv6(&Frame::new(beyond)), Err(Reason::Malformed), "an extension header longer than the packet");
}

/// What a piece says of itself: that it is whole, the first, or a later one.
const WHOLE: [bool; 3] = [true, false, false];
const FIRST: [bool; 3] = [false, true, false];
const LATER: [bool; 3] = [false, false, true];

#[test]
fn fragments_are_told_from_whole_packets() {
    let kinds = |piece: Piece| [piece.is_whole(), piece.is_first(), piece.is_later()];
    let ports = |later: bool| if later { [[0; 2]; 2] } else { [40_000u16.to_be_bytes(), 80u16.to_be_bytes()] };
    for (bytes, kind) in [
        ([0x00, 0x00], WHOLE),
        ([0x40, 0x00], WHOLE),
        ([0x20, 0x00], FIRST),
        ([0x20, 0x10], LATER),
        ([0x00, 0x10], LATER),
        ([0x1f, 0xff], LATER),
    ] {
        let mut frame = syn(Family::V4);
        frame[IP + 4..IP + 6].copy_from_slice(&[0xab, 0xcd]);
        frame[IP + 6..IP + 8].copy_from_slice(&bytes);
        let wire = ipv4(&Frame::new(frame)).expect("well formed");
        assert_eq!(kinds(wire.piece), kind, "flags and offset {bytes:02x?}");
        assert_eq!([wire.key.src_port, wire.key.dst_port], ports(kind == LATER));
        assert_eq!((wire.fragment_id, wire.key.protocol), (0xabcd, TCP));
    }
    let header = |word: u16| [&[0, 0x77], &word.to_be_bytes()[..], &[1, 2, 3, 4]].concat();
    // Eight bytes of reserved bits and of padding count for nothing: not even 0x77, where others have their length.
    for (word, kind) in [(0, WHOLE), (6, WHOLE), (1, FIRST), (8, LATER), (9, LATER), (0xfff8, LATER)] {
        for before in [vec![], vec![(OPTIONS, units_of_8(16))]] {
            let chain = [before, vec![(FRAGMENT, header(word))]].concat();
            let wire = ipv6(&Frame::new(extended(&chain))).expect("well formed");
            assert_eq!(kinds(wire.piece), kind, "{word:#x}");
            assert_eq!([wire.key.src_port, wire.key.dst_port], ports(kind == LATER));
            assert_eq!(wire.fragment_id, 0x0102_0304);
        }
    }
    // Behind the header of a first fragment others may stand, which are a later one's payload.
    let chain = |word| extended(&[(FRAGMENT, header(word)), (OPTIONS, units_of_8(8))]);
    assert_eq!(ipv6(&Frame::new(chain(1))).expect("well formed").key.protocol, TCP);
    let mut later = chain(8);
    later[IP + 49] = 0xff;
    assert!(ipv6(&Frame::new(later)).expect("well formed").is_later());
    // A fragment of a fragment is none that stands for itself.
    let nested = extended(&[(FRAGMENT, header(1)), (FRAGMENT, header(0))]);
    assert!(ipv6(&Frame::new(nested)).expect("well formed").piece.is_first());
}

#[test]
fn a_first_fragment_without_its_whole_transport_header_is_malformed() {
    let to = |service, port| Family::V4.cluster(service, port);
    let from = SocketAddr::new(Family::V4.client(), 40_000);
    for frame in
        [syn(Family::V4), frames::udp(from, to(small::DNS, 53), b"1234"), frames::sctp(from, to(SINGLE, 80), 1, b"")]
    {
        let header = if frame[IP + 9] == TCP { 20 } else { 8 };
        for length in (0..header).filter(|length| length % 8 == 0) {
            let mut first = frame[..IP + 20 + length].to_vec();
            first[IP + 2..IP + 4].copy_from_slice(&((20 + length) as u16).to_be_bytes());
            first[IP + 6] = 0x20;
            assert_eq!(ipv4(&Frame::new(first)), Err(Reason::Malformed), "{length} bytes behind the IP header");
        }
    }
}

#[test]
fn options_of_ipv4_are_skipped_and_kept() {
    let plain = syn(Family::V4);
    let mut frame = plain[..IP + 20].to_vec();
    frame[IP] = 0x47;
    frame.extend([1; 8]);
    frame.extend(&plain[IP + 20..]);
    let length = ((frame.len() - IP) as u16).to_be_bytes();
    frame[IP + 2..IP + 4].copy_from_slice(&length);
    let wire = ipv4(&Frame::new(frame)).expect("well formed");
    assert_eq!(wire.key, ipv4(&Frame::new(plain)).expect("well formed").key);
    assert_eq!((usize::from(wire.transport), wire.headers), (IP + 28, 48));
}

#[test]
fn contradictions_are_malformed() {
    // (family, offset from the IP header, value, what it contradicts)
    for (family, offset, value, what) in [
        (Family::V4, 0, 0x55, "the version"),
        (Family::V4, 0, 0x44, "a header shorter than the shortest"),
        (Family::V4, 2, 0xff, "a length beyond the frame"),
        (Family::V4, 0, 0x4f, "options beyond the packet"),
        (Family::V6, 0, 0x50, "the version"),
        (Family::V6, 4, 0xff, "a length beyond the frame"),
        (Family::V4, 32, 0x40, "a TCP header shorter than the shortest"),
        (Family::V4, 32, 0xf0, "a TCP header beyond the packet"),
        (Family::V6, 52, 0xf0, "a TCP header beyond the packet"),
    ] {
        let mut frame = syn(family);
        frame[IP + offset] = value;
        let frame = Frame::new(frame);
        let parsed = if family == Family::V4 { ipv4(&frame).map(drop) } else { ipv6(&frame).map(drop) };
        assert_eq!(parsed, Err(Reason::Malformed), "{what}");
    }
    for family in Family::BOTH {
        let whole = syn(family);
        for length in IP..whole.len() {
            let frame = Frame::new(whole[..length].to_vec());
            let parsed = if family == Family::V4 { ipv4(&frame).map(drop) } else { ipv6(&frame).map(drop) };
            assert_eq!(parsed, Err(Reason::Malformed), "cut after {length} bytes");
        }
    }
}

#[test]
fn padding_behind_the_packet_is_no_part_of_it() {
    let mut frame = frames::udp(SocketAddr::new(Family::V4.client(), 1), Family::V4.cluster(small::DNS, 53), b"");
    let length = frame.len() - IP;
    frame.resize(60, 0);
    let wire = ipv4(&Frame::new(frame)).expect("well formed");
    assert_eq!((wire.length as usize, wire.key.protocol), (length, UDP));
}

#[test]
fn what_is_left_alone_has_its_reason_counted_once_on_its_way_in() {
    let mut fragment = syn(Family::V4);
    fragment[IP + 7] = 0x20;
    let echo = frames::echo(Family::V4.client(), Family::V4.cluster(SINGLE, 80).ip());
    let mut first_of_icmp = echo.clone();
    first_of_icmp[IP + 6] = 0x20;
    let mut cut = syn(Family::V4);
    cut.truncate(40);
    let mut tagged = syn(Family::V4);
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    for (frame, reason) in [
        (fragment, Reason::Fragment),
        (first_of_icmp, Reason::Fragment),
        (cut, Reason::Malformed),
        (tagged, Reason::Vlan),
        (extended(&vec![(OPTIONS, units_of_8(8)); 7]), Reason::ExtensionHeader),
    ] {
        let tables = Memory::new(small::image(UPLINK, INSIDE));
        let around = small::surroundings(UPLINK, INSIDE, UPLINK, 1000);
        let mut at_xdp = Frame::new(frame.clone());
        assert_eq!(process(&mut at_xdp, &tables, &At::<0>(&around)).action, Action::Pass);
        assert!(tables.reasons.borrow().is_empty(), "{reason:?}: TCX will count it");
        let mut at_ingress = Frame::new(frame.clone());
        let verdict = process(&mut at_ingress, &tables, &At::<1>(&around));
        assert_eq!((verdict.action, verdict.reason), (Action::Pass, reason));
        let mut at_egress = Frame::new(frame.clone());
        process(&mut at_egress, &tables, &At::<2>(&around));
        assert_eq!(tables.packets(reason), 1);
        assert!(at_xdp.bytes == frame && at_ingress.bytes == frame && at_egress.bytes == frame);
    }
}
