//! Properties of the core over packets that proptest makes up.

use lb_common::Reason;
use lb_ebpf::{Action, Verdict, process};
use lb_tests::frames::{self, Flags, checked};
use lb_tests::memory::{At, Frame, Memory};
use lb_tests::node::{INSIDE, UPLINK};
use lb_tests::small::{self, EMPTY, FAR, Family, ON_HOST, SINGLE, TWIN, WEB};
use proptest::prelude::*;
use proptest::sample::select;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes that look like IP often enough to get past the first check.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let ethertype = select(vec![[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x08, 0x06]]);
    let version = select(vec![0x45u8, 0x46, 0x4f, 0x44, 0x60, 0x61]);
    let protocol = select(vec![0u8, 6, 17, 43, 44, 51, 58, 60, 1]);
    (ethertype, version, protocol, proptest::collection::vec(any::<u8>(), 0..200)).prop_map(
        |(ethertype, version, protocol, bytes)| {
            let mut frame = vec![2; 12];
            frame.extend(ethertype);
            frame.extend(bytes);
            for (offset, byte) in [(14, version), (if ethertype[0] == 0x86 { 20 } else { 23 }, protocol)] {
                if let Some(place) = frame.get_mut(offset) {
                    *place = byte;
                }
            }
            frame
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_upset_the_core_and_what_is_handed_on_is_untouched(bytes in any_frame(), hook in 0..3u8) {
        let tables = Memory::new(small::image(UPLINK, INSIDE));
        let around = small::surroundings(UPLINK, INSIDE, UPLINK, 1000);
        let mut frame = Frame::new(bytes.clone());
        let verdict = match hook {
            0 => process(&mut frame, &tables, &At::<0>(&around)),
            1 => process(&mut frame, &tables, &At::<1>(&around)),
            _ => process(&mut frame, &tables, &At::<2>(&around)),
        };
        prop_assert_ne!(verdict.action, Action::Open);
        if matches!(verdict.action, Action::Pass | Action::Defer) && verdict.reason != lb_common::Reason::Delivered {
            prop_assert_eq!(frame.bytes, bytes);
        }
    }

    #[test]
    fn a_reply_undoes_its_request(
        family in select(Family::BOTH.to_vec()),
        service in select(vec![WEB, SINGLE, TWIN, FAR, ON_HOST]),
        address in any::<u32>(),
        port in 1..u16::MAX,
        payload in proptest::collection::vec(any::<u8>(), 0..64),
        inside in any::<bool>(),
    ) {
        let client: IpAddr = match family {
            Family::V4 => Ipv4Addr::from(0x0b00_0000 | address & 0x00ff_ffff).into(),
            Family::V6 => Ipv6Addr::from(0x2001_0db8_0002_u128 << 80 | u128::from(address)).into(),
        };
        let (client, service) = (SocketAddr::new(client, port), family.cluster(service, 80));
        let tables = Memory::new(small::image(UPLINK, INSIDE));
        let ifindex = if inside { INSIDE } else { UPLINK };
        let mut around = small::surroundings(UPLINK, INSIDE, ifindex, 1000);
        around.routes.insert(client.ip(), lb_ebpf::Route::Via(small::hop(ifindex)));

        let mut request = Frame::new(frames::tcp(client, service, Flags::Syn, &payload));
        let there = process(&mut request, &tables, &At::<1>(&around));
        let (source, backend, seen) = checked(&request.bytes);
        prop_assert_eq!(&seen, &payload);
        let mut reply = Frame::new(frames::tcp(backend, source, Flags::SynAck, &payload));
        if there.action == Action::Pass {
            process(&mut reply, &tables, &At::<2>(&around));
        } else {
            around.ifindex = there.ifindex;
            process(&mut reply, &tables, &At::<1>(&around));
        }
        let (from, to, seen) = checked(&reply.bytes);
        prop_assert_eq!((from, to, seen), (service, client, payload));
    }

    #[test]
    fn a_service_without_backends_is_never_left(port in 1..u16::MAX, family in select(Family::BOTH.to_vec())) {
        let tables = Memory::new(small::image(UPLINK, INSIDE));
        let around = small::surroundings(UPLINK, INSIDE, UPLINK, 1000);
        let client = SocketAddr::new(family.client(), port);
        let mut frame = Frame::new(frames::tcp(client, family.cluster(EMPTY, 80), Flags::Syn, b""));
        let verdict = process(&mut frame, &tables, &At::<1>(&around));
        // Back to its client, as a reset.
        prop_assert_eq!(verdict, Verdict { ifindex: UPLINK, action: Action::Redirect, reason: Reason::NoBackend });
        let (from, to, _) = checked(&frame.bytes);
        prop_assert_eq!((from, to), (family.cluster(EMPTY, 80), client));
    }
}
