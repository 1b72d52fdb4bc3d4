//! What interfaces take, what they refuse and in which words, and whether XDP can send by them, and TCX to their other
//! ends.

use crate::sandbox::{Pod, interface, names, run, sandboxed, veth};
use lb_common::Device;
use lb_ctl::datapath::{AttachError, Datapath, Mode, Options, PeerTarget, Role, TcMode, XdpState, XdpTarget};
use lb_ctl::host::{Interface, snapshot};

#[test]
fn loopback_and_devices_without_ethernet_headers_are_refused() {
    sandboxed(|sandbox| {
        let mut datapath = sandbox.open("one");
        let error = datapath.attach(&interface("lo"), Mode::Auto).unwrap_err();
        assert!(matches!(error, AttachError::Loopback { .. }), "{error}");
        run("ip tuntap add dev lbetun mode tun");
        let error = datapath.attach(&interface("lbetun"), Mode::Auto).unwrap_err();
        assert!(matches!(error, AttachError::NotEthernet { .. }), "{error}");
        assert!(error.to_string().starts_with("lbetun: a device of kind tun"), "{error}");
        run("ip tuntap add dev lbetap mode tap");
        run("ip link set lbetap up");
        datapath.attach(&interface("lbetap"), Mode::Auto).expect("a tap has Ethernet headers");
    });
}

#[test]
fn a_refusal_names_interface_mode_reason_and_remedy_and_leaves_nothing() {
    sandboxed(|sandbox| {
        let mut datapath = sandbox.open("one");
        run("ip link add lbebr type bridge");
        run("ip link set lbebr up");
        let bridge = interface("lbebr");
        let error = datapath.attach(&bridge, Mode::Xdp).unwrap_err().to_string();
        assert!(error.starts_with("lbebr: XDP in native mode (mode xdp): "), "{error}");
        assert!(error.contains("native") && error.contains("Operation not supported"), "{error}");
        assert!(error.contains("lbebr=xdp-generic"), "{error}");
        assert!(names(&sandbox.pins("one").join("links")).is_empty(), "TCX was rolled back");
        // Were a wire behind it, generic XDP would do, and say why it is not native.
        let wired = Interface { wire: true, hardware: true, ..bridge };
        let attachment = datapath.attach(&wired, Mode::Auto).expect("attached");
        let XdpState::Generic { why } = &attachment.xdp else { panic!("{attachment:?}") };
        assert!(why.contains("Operation not supported"), "{why}");
        assert_eq!(attachment.role, Role::Wire);
        assert!(attachment.notes[0].contains("name its ports"), "{attachment:?}");
        assert!(matches!(attachment.target, XdpTarget::No { .. }));
        // Whoever comes next finds the same.
        drop(datapath);
        let mut datapath = sandbox.open("one");
        let again = datapath.attach(&wired, Mode::Auto).expect("attached");
        assert_eq!(again.xdp, attachment.xdp);
        // A later failure leaves what was there before.
        let error = datapath.attach(&Interface { index: 4_000_000, ..wired }, Mode::Tcx).unwrap_err().to_string();
        assert!(error.contains("gone"), "{error}");
    });
}

#[test]
fn somebody_elses_program_is_named() {
    sandboxed(|sandbox| {
        let interface = veth("lbe0", "lbe1");
        let mut other = aya::Ebpf::load(lb_ctl::OBJECT.expect("an object")).expect("loaded");
        let program: &mut aya::programs::Xdp =
            other.program_mut("lb_xdp_probe").expect("a program").try_into().expect("XDP");
        program.load().expect("loaded");
        program.attach("lbe0", aya::programs::XdpMode::Driver).expect("attached");
        let mut datapath = sandbox.open("one");
        let error = datapath.attach(&interface, Mode::Xdp).unwrap_err().to_string();
        assert!(error.contains("`lb_xdp_probe` (id "), "{error}");
        assert!(error.contains("lbe0=tcx"), "{error}");
        datapath.attach(&interface, Mode::Tcx).expect("TCX is free");
    });
}

#[test]
fn a_veth_is_a_target_of_xdp_exactly_while_its_peer_polls() {
    sandboxed(|sandbox| {
        let pod = Pod::new();
        veth("lbe0", "lbe1");
        pod.take("lbe1");
        run("ip link set lbe0 up");
        let mut datapath = sandbox.open("one");
        let attachment = datapath.attach(&interface("lbe0"), Mode::Auto).expect("attached");
        let XdpTarget::No { why, remedy } = &attachment.target else { panic!("{attachment:?}") };
        assert!(why.contains("NAPI"), "{why}");
        assert!(remedy.as_ref().is_some_and(|remedy| remedy.contains("ethtool -K eth0 gro on")));
        let expected = Device::LOCAL_CLIENTS | Device::OWN_MAC | Device::PEER;
        assert_eq!(attachment.device().flags, expected);
        assert_eq!(Some(attachment.device().mac), interface("lbe0").mac);

        pod.run("ethtool -K lbe1 gro on");
        assert!(datapath.refresh(&snapshot().expect("a view")), "it changed");
        let attachment = datapath.attachments().next().expect("an attachment").clone();
        assert_eq!(attachment.target, XdpTarget::Yes);
        assert!(attachment.device().flags & Device::XDP_TARGET != 0);
        assert!(!datapath.refresh(&snapshot().expect("a view")), "it did not change");

        pod.run("ethtool -K lbe1 gro off");
        assert!(datapath.refresh(&snapshot().expect("a view")), "it changed");
        assert_ne!(datapath.attachments().next().expect("an attachment").target, XdpTarget::Yes);
    });
}

#[test]
fn a_pods_veth_is_passed_by_exactly_while_nothing_on_it_misses_a_packet() {
    sandboxed(|sandbox| {
        let pod = Pod::new();
        veth("lbe0", "lbe1");
        let mut datapath = sandbox.open("one");
        let attachment = datapath.attach(&interface("lbe0"), Mode::Tcx).expect("attached");
        assert_eq!(attachment.peer, PeerTarget::No { why: String::new() }, "its other end is no pod's");
        assert_eq!(attachment.device().flags & Device::PEER, 0);

        pod.take("lbe1");
        let mut after = |line: &str| {
            run(line);
            datapath.refresh(&snapshot().expect("a view"));
            datapath.attachments().next().expect("an attachment").clone()
        };
        let given = after("ip link set lbe0 up");
        assert_eq!(given.peer, PeerTarget::Yes);
        assert_eq!(given.device().flags & Device::PEER, Device::PEER);
        for (line, seen, undo) in [
            (
                "tc qdisc add dev lbe0 root tbf rate 1mbit burst 10kb latency 50ms",
                "`tbf`",
                "tc qdisc del dev lbe0 root",
            ),
            ("ip link set lbe0 down", "", "ip link set lbe0 up"),
        ] {
            let PeerTarget::No { why } = after(line).peer else { panic!("after {line}") };
            assert!(why.contains(seen) && why.is_empty() == seen.is_empty(), "{line}: {why}");
            assert_eq!(after(undo).peer, PeerTarget::Yes, "{undo}");
        }
        // A place for filters is no filter, and what comes in is seen as ever.
        assert_eq!(after("tc qdisc add dev lbe0 clsact").peer, PeerTarget::Yes);
        let program = sandbox.directory().join("takes-nothing");
        std::fs::write(&program, "1,6 0 0 0,").expect("a file");
        let program = program.display();
        let filter = |hook| format!("tc filter add dev lbe0 {hook} bpf bytecode-file {program} flowid 1:1");
        assert_eq!(after(&filter("ingress")).peer, PeerTarget::Yes);
        let PeerTarget::No { why } = after(&filter("egress")).peer else { panic!("a filter") };
        assert!(why.contains("TC filter"), "{why}");
        assert_eq!(after("tc filter del dev lbe0 egress").peer, PeerTarget::Yes);
    });
}

#[test]
fn our_own_filters_are_not_in_the_way() {
    sandboxed(|sandbox| {
        let pod = Pod::new();
        veth("lbe0", "lbe1");
        pod.take("lbe1");
        let options = Options { tc: TcMode::Clsact, ..sandbox.options("one") };
        let mut datapath = Datapath::open(&options).expect("a datapath");
        assert!(datapath.attach(&interface("lbe0"), Mode::Tcx).expect("attached").clsact);
        let view = snapshot().expect("a view");
        assert_eq!(view.interface("lbe0").expect("it is there").egress_filters, ["lb-ctl/one"]);
        datapath.refresh(&view);
        assert_eq!(datapath.attachments().next().expect("an attachment").peer, PeerTarget::Yes);
    });
}

#[test]
fn an_object_of_other_sources_is_refused() {
    sandboxed(|sandbox| {
        // The same object, but for the name of a map.
        let mut object = lb_ctl::OBJECT.expect("an object").to_vec();
        let name = b"\0SETTINGS\0";
        let places: Vec<_> = object.windows(name.len()).enumerate().filter(|(_, bytes)| bytes == name).collect();
        let places: Vec<_> = places.into_iter().map(|(place, _)| place).collect();
        assert!(!places.is_empty(), "the name is somewhere");
        for place in places {
            object[place + 1] = b'X';
        }
        let error = Datapath::open_object(&sandbox.options("one"), &object).unwrap_err().to_string();
        assert!(error.contains("its map SETTINGS is not the one this build expects"), "{error}");
    });
}

#[test]
fn a_veths_role_follows_its_default_route_and_its_mode() {
    sandboxed(|sandbox| {
        let interface = veth("lbe0", "lbe1");
        let mut datapath = sandbox.open("one");
        assert_eq!(datapath.attach(&interface, Mode::Auto).expect("attached").role, Role::LocalClients);
        run("ip addr add 10.9.0.1/24 dev lbe0");
        run("ip route add default via 10.9.0.2 dev lbe0");
        assert!(datapath.refresh(&snapshot().expect("a view")));
        assert_eq!(datapath.attachments().next().expect("an attachment").role, Role::Wire);
        run("ip route del default");
        assert!(datapath.refresh(&snapshot().expect("a view")));
        assert_eq!(datapath.attach(&interface, Mode::Xdp).expect("attached").role, Role::Wire);
    });
}

#[test]
fn an_interface_that_goes_is_forgotten_and_taken_up_again() {
    sandboxed(|sandbox| {
        let first = veth("lbe0", "lbe1");
        let mut datapath = sandbox.open("one");
        datapath.attach(&first, Mode::Xdp).expect("attached");
        run("ip link del lbe0");
        assert!(datapath.refresh(&snapshot().expect("a view")));
        assert_eq!(datapath.attachments().count(), 0);
        assert!(names(&sandbox.pins("one").join("links")).is_empty());
        let error = datapath.attach(&first, Mode::Tcx).unwrap_err().to_string();
        assert!(error.contains("the interface has gone"), "{error}");
        // The same name, and even the same index.
        run(&format!("ip link add lbe0 index {} type veth peer name lbe1", first.index));
        run("ip link set lbe0 up");
        let attachment = datapath.attach(&interface("lbe0"), Mode::Xdp).expect("attached");
        assert!(!attachment.adopted);
        assert_eq!(names(&sandbox.pins("one").join("links")).len(), 3);
    });
}
