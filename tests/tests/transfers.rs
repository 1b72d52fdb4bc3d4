//! Long transfers arrive whole, whatever hook carries them and whoever fills in their checksums.

use lb_ctl::playground::content::Hash;
use lb_ctl::playground::offload::Offload;
use lb_ctl::playground::topology::{Node, SERVICE_PORT};
use lb_tests::matrix::stage::{REMOTE, Stage, WITH_NAPI, WITHOUT_NAPI};
use lb_tests::matrix::{Environment, Firewall, Hook, Network, Path, RpFilter};
use lb_tests::{Fixture, Setup, needs_datapath, traffic};
use std::env;
use std::net::SocketAddr;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");
/// Bytes sent each way over a connection: with `LB_FULL=1`, and else.
const LENGTHS: [u64; 2] = [100_000_000, 3_000_000];

/// Sends each way between clients outside and in a pod, and pods with NAPI, without, and on the second node.
fn arrive_whole(hook: Hook) {
    let environment = Environment {
        hook,
        path: Path::Direct,
        rp_filter: RpFilter::Off,
        firewall: Firewall::Off,
        network: Network::Routed,
    };
    let stage = Stage::new(BINARY, environment).expect("the stage is set");
    let length = LENGTHS[usize::from(env::var_os("LB_FULL").is_none())];
    let hash = Hash::of_content(length, length);
    let inside = stage.fixture.pod("visitor").expect("runs").client();
    let ways = [
        (stage.fixture.client(), WITH_NAPI),
        (stage.fixture.client(), WITHOUT_NAPI),
        (stage.fixture.client(), REMOTE),
        (inside, WITH_NAPI),
        (inside, REMOTE),
    ];
    for (client, target) in ways {
        for address in stage.clusters[&target.service()].addresses() {
            let to = SocketAddr::new(address, SERVICE_PORT);
            let way = format!("{hook}: {to}, which is {}", target.name);
            let mut connection = client.connect(to).unwrap_or_else(|error| panic!("{way}: {error}"));
            let received = connection.upload(length).unwrap_or_else(|error| panic!("{way}: {error}"));
            assert_eq!((received.length, received.hash), (length, hash.value()), "{way}: upload");
            let came = connection.download(length).unwrap_or_else(|error| panic!("{way}: {error}"));
            assert_eq!(came, (length, hash), "{way}: download");
        }
    }
}

#[test]
fn long_transfers_arrive_whole_by_native_xdp() {
    needs_datapath!();
    arrive_whole(Hook::Native);
}

#[test]
fn long_transfers_arrive_whole_by_generic_xdp() {
    needs_datapath!();
    arrive_whole(Hook::Generic);
}

#[test]
fn long_transfers_arrive_whole_by_tcx() {
    needs_datapath!();
    arrive_whole(Hook::Tcx);
}

/// A checksum that the sender left to the device must be right when the device behind us does not do it either, and the
/// kernel fills it in after the translation. TCP and UDP, both families, every pod.
#[test]
fn checksums_are_right_when_resolved_in_software_behind_us() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let node = fixture.node_space(Node::One);
    let cables = fixture.pods().filter(|pod| pod.place().node == Node::One).map(|pod| pod.place().node_link());
    for link in cables.chain(["eth0".to_owned(), "eth1".to_owned()]) {
        Offload::TxChecksum.set(node, &link, false).unwrap_or_else(|error| panic!("{error}"));
    }
    let worked = traffic::tcp(&fixture, 300_000).and_then(|()| traffic::udp(&fixture));
    worked.unwrap_or_else(|error| panic!("{error}"));
}
