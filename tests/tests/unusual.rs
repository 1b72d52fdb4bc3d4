//! Frames that no socket sends by itself, on a real wire: options, extension headers, tags, fragments in disorder, jumbo
//! frames.

use lb_ctl::playground::links::Links;
use lb_ctl::playground::offload::Offload;
use lb_ctl::playground::topology::{CLIENT, Node, SERVICE_PORT_UDP};
use lb_tests::fixture::{Fixture, Setup};
use lb_tests::frames;
use lb_tests::wire::Wire;
use lb_tests::{needs_datapath, traffic};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");
/// MTU of jumbo frames.
const MTU: u32 = 9000;
/// Length of the Ethernet header.
const IP: usize = 14;

/// The client's end of the cable, past its sockets.
fn wire(fixture: &Fixture) -> Wire {
    Wire::open(fixture.client_space(), "eth0", fixture.node_space(Node::One), "eth0").expect("a packet socket")
}

/// Whether a frame is from this address.
fn is_from(address: IpAddr) -> impl Fn(&[u8]) -> bool {
    move |frame: &[u8]| match address {
        IpAddr::V4(address) => frame[12..14] == [0x08, 0x00] && frame[26..30] == address.octets(),
        IpAddr::V6(address) => frame[12..14] == [0x86, 0xdd] && frame[22..38] == address.octets(),
    }
}

/// The frame with eight bytes of options: in IPv4 "no operation" (RFC 791), in IPv6 padding for the destination (RFC 8200).
fn with_options(frame: &[u8]) -> Vec<u8> {
    if frame[12..14] == [0x86, 0xdd] {
        let mut out = frame[..IP + 40].to_vec();
        let next = std::mem::replace(&mut out[IP + 6], 60);
        out.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        out.extend(&frame[IP + 40..]);
        let length = ((out.len() - IP - 40) as u16).to_be_bytes();
        out[IP + 4..IP + 6].copy_from_slice(&length);
        return out;
    }
    let mut out = frame[..IP + 20].to_vec();
    out[IP] = 0x47;
    out.extend([1; 8]);
    out.extend(&frame[IP + 20..]);
    let length = ((out.len() - IP) as u16).to_be_bytes();
    out[IP + 2..IP + 4].copy_from_slice(&length);
    out[IP + 10..IP + 12].copy_from_slice(&[0, 0]);
    let header = etherparse::Ipv4Header::from_slice(&out[IP..]).expect("a header").0;
    out[IP + 10..IP + 12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    out
}

fn unusual_frames(setup: Setup) {
    let fixture = Fixture::new(BINARY, setup);
    // Neighbours are resolved and every way is known.
    traffic::udp(&fixture).expect("datagrams pass");
    for pod in fixture.pods() {
        // Else a packet socket is shown checksums that were left to hardware.
        Offload::TxChecksum.set(pod.space(), "eth0", false).expect("a veth computes checksums");
    }
    let wire = wire(&fixture);
    for service in fixture.cluster_udp() {
        let way = format!("{setup:?} to {service}");
        assert_eq!(service.port(), SERVICE_PORT_UDP);
        let client = |port| SocketAddr::new(CLIENT.like(service.ip()), port);
        let is_answer = is_from(service.ip());

        let question = with_options(&frames::udp(client(50_001), service, b"with options"));
        wire.send(&question);
        let answer = wire.next(&is_answer).unwrap_or_else(|| panic!("{way}: no answer to a packet with options"));
        assert_eq!(frames::checked(&answer).0, service, "{way}");
        assert!(answer.ends_with(b"\nwith options"), "{way}");

        let before = fixture.reason("vlan-tag");
        let plain = frames::udp(client(50_002), service, b"tagged");
        for tags in frames::TAGS {
            wire.send(&frames::tagged(&plain, tags));
        }
        assert_eq!(wire.within(Duration::from_millis(200), &is_answer), None, "{way}: a tagged frame is not ours");
        assert_eq!(fixture.reason("vlan-tag") - before, frames::TAGS.len() as u64, "{way}");

        // Later ones first: what comes before its first is left to the stack, so the datagram is not whole anywhere.
        let datagram = frames::udp(client(50_003), service, &[b'x'; 3000]);
        let (disorder, order) = (frames::fragments(&datagram, 1432, 77), frames::fragments(&datagram, 1432, 78));
        let before = fixture.reason("fragment");
        for place in [2, 1, 0] {
            wire.send(&disorder[place]);
        }
        assert_eq!(wire.within(Duration::from_millis(200), &is_answer), None, "{way}: two of three went astray");
        // Each is met twice: where it comes in, and at the daemon's pair, where the stack's route to the Service leads.
        assert_eq!(fixture.reason("fragment") - before, 4, "{way}");
        for piece in &order {
            wire.send(piece);
        }
        let pieces: Vec<_> = (0..3).filter_map(|_| wire.next(&is_answer)).collect();
        assert_eq!(pieces.len(), 3, "{way}: the answer comes in pieces too");
        let (from, to, payload) = frames::checked(&frames::reassembled(&pieces));
        assert_eq!((from, to), (service, client(50_003)), "{way}");
        assert!(payload.ends_with(&[b'x'; 3000]), "{way}");
    }
}

#[test]
fn unusual_frames_are_read_right_behind_native_xdp() {
    needs_datapath!();
    unusual_frames(Setup::DEMO);
}

#[test]
fn unusual_frames_are_read_right_behind_generic_xdp() {
    needs_datapath!();
    unusual_frames(Setup { wire: "xdp-generic", ..Setup::DEMO });
}

#[test]
fn unusual_frames_are_read_right_behind_tcx() {
    needs_datapath!();
    unusual_frames(Setup { wire: "tcx", rp_filter: 1, ..Setup::DEMO });
}

#[test]
fn frames_that_a_switch_floods_are_not_sent_on_twice() {
    needs_datapath!();
    for mode in ["xdp", "xdp-generic", "tcx"] {
        let fixture = Fixture::new(BINARY, Setup { wire: mode, ..Setup::DEMO });
        traffic::udp(&fixture).expect("datagrams pass");
        let wire = wire(&fixture);
        for service in fixture.cluster_udp() {
            let client = SocketAddr::new(CLIENT.like(service.ip()), 50_004);
            let frame = frames::udp(client, service, b"once");
            let is_answer = is_from(service.ip());
            // Through several ticks, and once after a packet of ours in the same tick.
            for _ in 0..5 {
                wire.send(&frame);
                wire.next(&is_answer).unwrap_or_else(|| panic!("{mode} to {service}: a frame of ours is answered"));
                for _ in 0..2 {
                    wire.send_to([2, 0, 0, 0, 0, 0x77], &frame);
                    let answer = wire.within(Duration::from_millis(300), &is_answer);
                    assert_eq!(answer, None, "{mode} to {service}: a frame for another host was sent on");
                }
            }
        }
    }
}

#[test]
fn jumbo_frames_pass_native_xdp() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let node = fixture.node_space(Node::One);
    let widen = |space, link: &str| Links::open(space).and_then(|links| links.set_mtu(link, MTU)).expect("an MTU");
    for link in ["eth0", "eth1"] {
        widen(node, link);
    }
    widen(fixture.node_space(Node::Two), "eth0");
    widen(fixture.client_space(), "eth0");
    for pod in fixture.pods() {
        widen(fixture.node_space(pod.place().node), &pod.place().node_link());
        widen(pod.space(), "eth0");
    }
    // The MTU of the way out is looked up once a tick.
    std::thread::sleep(Duration::from_millis(1200));
    for to in fixture.cluster_udp() {
        for _ in 0..20 {
            let socket = fixture.client().datagrams(to).expect("a socket");
            socket.exchange(&[b'j'; 8500]).expect("a datagram of one jumbo frame");
        }
    }
    for to in fixture.cluster() {
        for _ in 0..10 {
            let mut connection = fixture.client().connect(to).expect("the Service answers");
            assert_eq!(connection.upload(3_000_000).expect("an upload").length, 3_000_000);
            assert_eq!(connection.download(3_000_000).expect("a download").0, 3_000_000);
        }
    }
    assert_eq!((fixture.reason("mtu-exceeded"), fixture.reason("fragment")), (0, 0));
}
