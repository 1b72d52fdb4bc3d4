//! Datagrams larger than the MTU, from and to real sockets: every fragment is translated, both ways, on every hook.

use lb_ctl::playground::PodNetwork::Bridged;
use lb_tests::fixture::{Fixture, Setup, node_port_udp};
use lb_tests::{needs_datapath, traffic};
use std::collections::BTreeSet;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// Sockets for each way in, so that local and remote backends are met.
const SOCKETS: usize = 12;

fn large_datagrams_pass(setup: Setup) {
    let fixture = Fixture::new(BINARY, setup);
    let mut met = BTreeSet::new();
    for asker in traffic::askers(&fixture) {
        for to in fixture.cluster_udp().into_iter().chain(node_port_udp()) {
            for number in 0..SOCKETS {
                let way = format!("{setup:?}: {} to {to}", asker.name);
                let socket = asker.client.datagrams(to).unwrap_or_else(|error| panic!("{way}: {error}"));
                // The first opens the flow, by its first fragment; the others find it.
                for length in [4_000, 20_000, 4_000] {
                    let payload: Vec<u8> = (0..length).map(|byte: usize| (byte * 7 + number) as u8).collect();
                    let answer = socket.exchange(&payload).unwrap_or_else(|error| panic!("{way}, {length}: {error}"));
                    met.insert((asker.name, answer.pod));
                }
            }
        }
    }
    assert_eq!(met.len(), 9, "every asker met every pod: {met:?}");
    assert!(fixture.reason("replied") > 0);
    assert_eq!(fixture.reason("fragment"), 0, "none was left to the stack");
}

#[test]
fn large_datagrams_pass_behind_native_xdp() {
    needs_datapath!();
    large_datagrams_pass(Setup::DEMO);
}

#[test]
fn large_datagrams_pass_behind_generic_xdp() {
    needs_datapath!();
    large_datagrams_pass(Setup { wire: "xdp-generic", rp_filter: 1, ..Setup::DEMO });
}

#[test]
fn large_datagrams_pass_behind_tcx() {
    needs_datapath!();
    large_datagrams_pass(Setup { wire: "tcx", pods: Bridged, rp_filter: 1, firewall: true, ..Setup::DEMO });
}
