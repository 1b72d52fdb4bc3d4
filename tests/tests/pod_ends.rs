//! Packets for pods of the node are handed straight to the pod's end of its veth, and go by the node's end where somebody there
//! would miss them. What tells one from the other is that end's own counter.

use lb_common::Device;
use lb_common::maps::DEVICES;
use lb_ctl::playground::topology::{Node, SERVICE_PORT, SERVICE_PORT_UDP};
use lb_ctl::playground::{Client, Error};
use lb_tests::fixture::{Fixture, Setup};
use lb_tests::iproute::{ip, ip_both, sent_by, tc};
use lb_tests::matrix::stage::{Target, WITH_NAPI, WITHOUT_NAPI};
use lb_tests::occupant::AtEgress;
use lb_tests::{needs_datapath, traffic};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");
/// Pods without NAPI, as pods are: XDP cannot send to them.
const PLAIN: Setup = Setup { napi: false, ..Setup::DEMO };
/// Bytes that one exchange moves each way, and the least packets of that: a segment is at most 64 KiB.
const AMOUNT: u64 = 1 << 20;
const PACKETS: u64 = 2 * AMOUNT / (1 << 16);
/// What else a node sends to a pod in a moment: it asks for neighbours.
const FEW: u64 = 8;

/// Applies the Service of one pod, and gives its address: IPv4, then IPv6.
fn serve(fixture: &Fixture, target: Target) -> [SocketAddr; 2] {
    let at = target.address(fixture).expect("it runs");
    fixture.apply(&target.manifests(at)).expect("the CLI applies");
    let cluster = fixture.cluster_address_of(&target.service()).expect("addresses are allocated");
    cluster.addresses().map(|address| SocketAddr::new(address, SERVICE_PORT))
}

/// One connection that moves something both ways, and datagrams.
fn exchange(client: Client<'_>, to: SocketAddr) -> Result<(), Error> {
    let mut connection = client.connect(to)?;
    connection.upload(AMOUNT)?;
    connection.download(AMOUNT)?;
    let socket = client.datagrams(SocketAddr::new(to.ip(), SERVICE_PORT_UDP))?;
    for _ in 0..4 {
        socket.exchange(&[b'x'; 1200])?;
    }
    Ok(())
}

/// The node's ends of two pods' veths: whoever asks, and whoever answers.
struct Ends<'a> {
    fixture: &'a Fixture,
    links: [String; 2],
}

impl<'a> Ends<'a> {
    fn new(fixture: &'a Fixture, pods: [&str; 2]) -> Self {
        let links = pods.map(|name| fixture.pod(name).expect("runs").place().node_link());
        Self { fixture, links }
    }

    /// Packets that each of them sends meanwhile.
    fn sends(&self, during: impl FnOnce() -> Result<(), Error>) -> [u64; 2] {
        let node = self.fixture.node_space(Node::One);
        let sent = || self.links.each_ref().map(|link| sent_by(node, link));
        let before = sent();
        during().unwrap_or_else(|error| panic!("{error}"));
        let after = sent();
        [after[0] - before[0], after[1] - before[1]]
    }
}

/// Whether the datapath may pass a pod's veth by.
fn is_passed_by(fixture: &Fixture, link: &str) -> bool {
    let node = fixture.node_space(Node::One);
    let index = node.run(|| nix::net::if_::if_nametoindex(link)).expect("a namespace").expect("a link");
    let device = fixture.hash::<u32, Device>(DEVICES).get(&index, 0);
    device.is_ok_and(|device| device.flags & Device::PEER != 0)
}

/// Waits until that is so; then for the tick in which flows still remember what was.
fn await_passed_by(fixture: &Fixture, link: &str, expected: bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while is_passed_by(fixture, link) != expected {
        assert!(Instant::now() < deadline, "{link}: {:?}", fixture.status().map(|status| status.interfaces));
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(1200));
}

#[test]
fn pods_of_one_node_are_met_at_their_own_ends_or_at_the_nodes() {
    needs_datapath!();
    for (way, is_handed) in [("peer", true), ("interface", false)] {
        let flag = format!("--to-pods={way}");
        let fixture = Fixture::with(BINARY, PLAIN, &[&flag]);
        let (visitor, ends) =
            (fixture.pod("visitor").expect("runs").client(), Ends::new(&fixture, ["visitor", "web-2"]));
        for to in serve(&fixture, WITHOUT_NAPI) {
            let sent = ends.sends(|| exchange(visitor, to));
            let fits = |sent: u64| if is_handed { sent < FEW } else { sent >= PACKETS / 2 };
            assert!(sent.into_iter().all(fits), "--to-pods {way}, {to}: {sent:?}");
        }
        traffic::tcp(&fixture, 100_000).and_then(|()| traffic::udp(&fixture)).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn clients_outside_reach_the_pods_own_ends_where_xdp_does_not_send() {
    needs_datapath!();
    // With NAPI off XDP leaves all to TCX; with NAPI on it sends to the node's end, which has the pod's MAC to get right.
    for (target, napi, is_handed) in [(WITHOUT_NAPI, false, true), (WITH_NAPI, true, false)] {
        let fixture = Fixture::with(BINARY, Setup { napi, ..PLAIN }, &[]);
        let ends = Ends::new(&fixture, ["visitor", target.name]);
        for to in serve(&fixture, target) {
            let [_, sent] = ends.sends(|| exchange(fixture.client(), to));
            assert_eq!(sent < FEW, is_handed, "NAPI {napi}, {to}: {sent}");
        }
        traffic::tcp(&fixture, 100_000).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn who_shapes_or_filters_a_pod_sees_its_packets() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, PLAIN);
    let (visitor, node) = (fixture.pod("visitor").expect("runs").client(), fixture.node_space(Node::One));
    let ends = Ends::new(&fixture, ["visitor", "web-2"]);
    let link = &ends.links[1];
    let to = serve(&fixture, WITHOUT_NAPI);
    let mut held = to.map(|to| visitor.connect(to).expect("the Service answers"));
    let mut moved = || {
        let [_, sent] = ends.sends(|| held.iter_mut().try_for_each(|held| held.upload(AMOUNT).map(drop)));
        sent
    };
    assert!(is_passed_by(&fixture, link) && moved() < FEW);

    tc(node, &format!("qdisc add dev {link} root tbf rate 1gbit burst 1mb latency 50ms"));
    await_passed_by(&fixture, link, false);
    let status = fixture.status().expect("the daemon answers");
    let told = status.interfaces.iter().find(|told| told.name == *link).expect("it is managed");
    assert!(
        told.note.contains("packets are not handed straight to the pod: its queueing discipline `tbf`"),
        "{}",
        told.note
    );
    assert!(moved() >= PACKETS / 2, "connections that were there too");
    let shaped = tc(node, &format!("-s qdisc show dev {link}"));
    let bytes = shaped.split_whitespace().skip_while(|word| *word != "Sent").nth(1).and_then(|word| word.parse().ok());
    assert!(bytes.is_some_and(|bytes: u64| bytes >= 2 * AMOUNT), "{shaped}");
    tc(node, &format!("qdisc del dev {link} root"));
    await_passed_by(&fixture, link, true);
    assert!(moved() < FEW, "as before");

    // Somebody's program.
    let index = || nix::net::if_::if_nametoindex(link.as_str()).expect("a link");
    let program = node.run(|| AtEgress::new(index())).expect("a namespace").expect("attached");
    await_passed_by(&fixture, link, false);
    assert!(moved() >= PACKETS / 2);
    node.run(|| program.remove()).expect("a namespace").expect("detached");
    await_passed_by(&fixture, link, true);
    assert!(moved() < FEW);
}

#[test]
fn an_end_that_moves_into_the_nodes_namespace_is_handed_nothing_and_one_made_anew_is() {
    needs_datapath!();
    let mut fixture = Fixture::new(BINARY, PLAIN);
    let to = serve(&fixture, WITHOUT_NAPI);
    let asks = |fixture: &Fixture, expected: bool| {
        let ends = Ends::new(fixture, ["visitor", "web-2"]);
        let visitor = fixture.pod("visitor").expect("runs").client();
        let [_, sent] = ends.sends(|| to.iter().try_for_each(|to| exchange(visitor, *to)));
        assert_eq!(sent < FEW, expected, "{sent}");
    };
    asks(&fixture, true);
    let (node, pod) = (fixture.node_space(Node::One), fixture.pod("web-2").expect("runs"));
    let link = pod.place().node_link();
    ip(pod.space(), &format!("link set eth0 netns {} name moved", node.name()));
    ip(node, "link set moved up");
    await_passed_by(&fixture, &link, false);

    ip(node, &format!("link set moved netns {} name eth0", pod.space().name()));
    ip(pod.space(), "link set eth0 up");
    await_passed_by(&fixture, &link, true);

    // With the pod its cable goes; the one that takes its place has another.
    let place = pod.place().clone();
    fixture.kill_pod("web-2").expect("it goes");
    fixture.start_pod(place).expect("it comes");
    await_passed_by(&fixture, &link, true);
    asks(&fixture, true);
}

/// A frame to a bridge's MAC comes in by the bridge's port as one for another host, and must be the pod's own when it is handed over.
#[test]
fn frames_to_a_bridge_are_for_the_pod_when_they_are_handed_over() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, PLAIN);
    let to = serve(&fixture, WITHOUT_NAPI);
    let (node, visitor) = (fixture.node_space(Node::One), fixture.pod("visitor").expect("runs"));
    let (link, at, gateway) = (visitor.place().node_link(), visitor.address(), Node::One.gateway());
    ip(node, "link add between address 02:00:00:00:77:77 type bridge");
    ip(node, "link set between up");
    ip(node, &format!("link set {link} master between"));
    ip_both(node, &format!("route replace {{{}/32|{}/128}} dev between", at.v4, at.v6));
    ip_both(node, &format!("address add {{{}/32|{}/128 nodad}} dev between", gateway.v4, gateway.v6));
    ip(visitor.space(), "neighbour flush all");
    await_passed_by(&fixture, &link, true);
    let ends = Ends::new(&fixture, ["visitor", "web-2"]);
    for to in to {
        let [_, sent] = ends.sends(|| exchange(visitor.client(), to));
        assert!(sent < FEW, "{to}: {sent}");
    }
}
