//! The host's view follows the kernel.

use crate::sandbox::{interface, run, sandboxed, veth};
use lb_ctl::host::{HostView, Route, route_to, snapshot, watch};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch::Receiver;

/// Waits until the published view is as expected.
fn wait(views: &mut Receiver<Arc<HostView>>, what: &str, expected: impl Fn(&HostView) -> bool) {
    let start = Instant::now();
    while !expected(&views.borrow_and_update()) {
        assert!(start.elapsed() < Duration::from_secs(5), "{what}: {:?}", views.borrow());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn interfaces_addresses_and_default_routes_come_and_go() {
    sandboxed(|_| {
        let mut views = watch().expect("a watch").view;
        assert!(views.borrow().interface("lo").is_some_and(|lo| lo.loopback && !lo.ethernet));
        run("ip link add lbe0 type veth peer name lbe1");
        wait(&mut views, "a veth", |view| {
            view.interface("lbe0").is_some_and(|veth| veth.kind == "veth" && !veth.up && veth.mac.is_some())
        });
        run("ip link set lbe0 up mtu 1400");
        run("ip addr add 10.9.0.1/24 dev lbe0");
        run("ip addr add fd09::1/64 dev lbe0 nodad");
        wait(&mut views, "its addresses", |view| {
            let Some(veth) = view.interface("lbe0") else { return false };
            let addresses: Vec<_> = view.addresses_of(veth.index).map(|address| address.to_string()).collect();
            veth.up
                && veth.mtu == 1400
                && addresses.iter().any(|a| a == "10.9.0.1")
                && addresses.iter().any(|a| a == "fd09::1")
        });
        run("ip link set lbe1 up");
        for command in ["ip route add default via 10.9.0.2", "ip -6 route add default via fd09::2"] {
            run(command);
            let has = |view: &HostView| view.interface("lbe0").is_some_and(|veth| veth.has_default_route);
            wait(&mut views, command, has);
            run(&command.replace("add", "del"));
            wait(&mut views, "no default route", |view| !has(view));
        }
        run("ip link add lbebr type bridge");
        run("ip link set lbe1 master lbebr");
        run("ip link add link lbe0 name lbemv type macvlan");
        wait(&mut views, "a bridge port and a macvlan", |view| {
            let (Some(port), Some(bridge)) = (view.interface("lbe1"), view.interface("lbebr")) else { return false };
            let Some(above) = view.interface("lbemv") else { return false };
            port.master == Some(bridge.index)
                && above.lower == view.interface("lbe0").map(|veth| veth.index)
                && !above.wire
                && !above.hardware
        });
        run("ip link del lbe0");
        wait(&mut views, "all gone", |view| {
            view.interface("lbe0").is_none()
                && view.interface("lbemv").is_none()
                && view
                    .addresses
                    .iter()
                    .all(|(_, network)| network.addr().is_loopback() || network.to_string().starts_with("fe80"))
        });
    });
}

#[test]
fn a_burst_of_changes_is_seen_whole() {
    sandboxed(|sandbox| {
        let mut views = watch().expect("a watch").view;
        let batch: Vec<_> = (0..300).map(|n| format!("link add lbe{n} type veth peer name lbep{n}")).collect();
        let file = sandbox.directory().join("batch");
        std::fs::write(&file, batch.join("\n")).expect("written");
        run(&format!("ip -batch {}", file.display()));
        wait(&mut views, "600 interfaces", |view| view.interfaces.len() >= 601);
        assert_eq!(**views.borrow(), snapshot().expect("a view"));
    });
}

#[test]
fn routes_are_asked_of_the_kernel() {
    sandboxed(|_| {
        let veth = veth("lbe0", "lbe1");
        run("ip link set lo up");
        run("ip addr add 10.9.0.1/24 dev lbe0");
        run("ip addr add fd09::1/64 dev lbe0 nodad");
        run("ip route add 10.10.0.0/16 via 10.9.0.2");
        run("ip -6 route add fd10::/64 via fd09::2");
        let route = |address: &str| route_to(address.parse().expect("an address")).expect("an answer");
        let prefsrc = Some("10.9.0.1".parse().expect("an address"));
        let on_link = Route { ifindex: veth.index, gateway: None, prefsrc, local: false };
        assert_eq!(route("10.9.0.7"), Some(on_link));
        assert_eq!(route("10.10.3.4"), Some(Route { gateway: "10.9.0.2".parse().ok(), ..on_link }));
        assert!(route("10.9.0.1").is_some_and(|route| route.local));
        let six = route("fd10::1").expect("a route");
        assert_eq!((six.ifindex, six.gateway), (veth.index, "fd09::2".parse().ok()));
        assert_eq!(route("192.0.2.1"), None);
        assert_eq!(route("2001:db8::1"), None);
        run("ip route add blackhole 192.0.2.0/24");
        assert_eq!(route("192.0.2.1"), None);
        let _ = interface("lo");
    });
}
