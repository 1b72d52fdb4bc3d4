//! Real clients, real servers, real TCP: the Service in every setup of the node.

use lb_ctl::playground::PodNetwork::{Bridged, Routed};
use lb_ctl::playground::offload::Offload;
use lb_ctl::playground::topology::Node;
use lb_tests::{Fixture, Setup, needs_datapath, traffic};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");
/// Bytes sent each way to each pod over each way in.
const LENGTH: u64 = 300_000;

fn works(setup: Setup) {
    let fixture = Fixture::new(BINARY, setup);
    let worked = traffic::tcp(&fixture, LENGTH).and_then(|()| traffic::udp(&fixture));
    worked.unwrap_or_else(|error| panic!("{setup:?}: {error}"));
}

macro_rules! setups {
    ($($name:ident: $wire:literal $pods:ident napi=$napi:literal rp_filter=$rp_filter:literal firewall=$firewall:literal;)+) => {$(
        #[test]
        fn $name() {
            needs_datapath!();
            works(Setup { wire: $wire, pods: $pods, napi: $napi, rp_filter: $rp_filter, firewall: $firewall, path: "direct" });
        }
    )+};
}

// Every value of each column meets every value of each other one.
setups! {
    native_routed:                   "xdp"         Routed  napi=true  rp_filter=0 firewall=false;
    native_routed_filtered:          "xdp"         Routed  napi=false rp_filter=1 firewall=true;
    native_bridged:                  "xdp"         Bridged napi=false rp_filter=0 firewall=false;
    native_bridged_filtered:         "xdp"         Bridged napi=true  rp_filter=1 firewall=true;
    generic_routed:                  "xdp-generic" Routed  napi=false rp_filter=0 firewall=true;
    generic_bridged:                 "xdp-generic" Bridged napi=true  rp_filter=1 firewall=false;
    tcx_routed:                      "tcx"         Routed  napi=true  rp_filter=1 firewall=false;
    tcx_bridged:                     "tcx"         Bridged napi=false rp_filter=0 firewall=true;
}

#[test]
fn several_megabytes_each_way() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    traffic::tcp(&fixture, 8_000_000).unwrap_or_else(|error| panic!("{error}"));
}

/// A checksum that the sender left to the device must be right when the device behind us does not do it either, and the
/// kernel fills it in after the translation.
#[test]
fn checksums_are_right_when_resolved_in_software_behind_us() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let node = fixture.node_space(Node::One);
    let cables = fixture.pods().filter(|pod| pod.place().node == Node::One).map(|pod| pod.place().node_link());
    for link in cables.chain(["eth0".to_owned(), "eth1".to_owned()]) {
        Offload::TxChecksum.set(node, &link, false).unwrap_or_else(|error| panic!("{error}"));
    }
    let worked = traffic::tcp(&fixture, LENGTH).and_then(|()| traffic::udp(&fixture));
    worked.unwrap_or_else(|error| panic!("{error}"));
}
