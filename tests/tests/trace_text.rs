//! What a trace reads like: the steps that the core tells on the host, in words.

use lb_common::trace::StepKind;
use lb_common::{BackendSet, Reason};
use lb_ctl::api::trace::{TraceProtocol, TraceRequest};
use lb_ctl::datapath::test_run::{HookPoint, Ran};
use lb_ctl::datapath::tracer::{Member, Traced};
use lb_ctl::host::{HostView, Interface};
use lb_ctl::trace::walk::Start;
use lb_ctl::trace::{Met, Names, Scene, ServiceName, explain, packet, text};
use lb_ebpf::{Action, Hook, Verdict, process};
use lb_tests::memory::{At, Frame, Memory, Surroundings};
use lb_tests::small::{self, EMPTY, FAR, Family, LOCAL_1, REMOTE, SINGLE, TWIN, WEB};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

const UPLINK: u32 = 2;
const INSIDE: u32 = 3;
/// The MAC of the uplink, as frames carry it.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A node in memory whose every step is told.
struct Node {
    tables: Memory,
    around: Surroundings,
}

impl Node {
    fn new() -> Self {
        let mut image = small::image(UPLINK, INSIDE);
        small::set_policies(&mut image);
        small::note_elsewhere(&mut image);
        let tables = Memory::new(image);
        tables.tells.set(true);
        Self { tables, around: small::surroundings(UPLINK, INSIDE, UPLINK, 5) }
    }

    fn run(&mut self, hook: HookPoint, ifindex: u32, bytes: &[u8]) -> (Verdict, Traced) {
        self.around.ifindex = ifindex;
        let mut frame = Frame::new(bytes.to_vec());
        let verdict = match hook {
            HookPoint::Xdp => process(&mut frame, &self.tables, &At::<0>(&self.around)),
            HookPoint::Ingress => process(&mut frame, &self.tables, &At::<1>(&self.around)),
            HookPoint::Egress => process(&mut frame, &self.tables, &At::<2>(&self.around)),
        };
        let ran = Ran { code: 0, frame: frame.bytes };
        (verdict, Traced { ran, steps: self.tables.take_steps(), lost: 0 })
    }

    /// What a packet that comes in by an interface meets, in words.
    fn tell(&mut self, from: SocketAddr, to: SocketAddr, protocol: TraceProtocol, by: u32) -> String {
        let request = TraceRequest { from, to, protocol, flags: Vec::new(), interface: None };
        let frame = packet::frame(&request, MAC).expect("a packet");
        let start = Start { ifindex: by, frame: frame.clone(), notes: Vec::new() };
        let hooks = [(HookPoint::Xdp, Hook::Xdp), (HookPoint::Ingress, Hook::Ingress)];
        let mut met = Vec::new();
        for (point, _) in hooks.into_iter().filter(|(point, _)| by == UPLINK || *point != HookPoint::Xdp) {
            let (verdict, traced) = self.run(point, by, &frame);
            met.push(Met { point, ifindex: by, traced });
            if !matches!(verdict.action, Action::Defer | Action::Pass) {
                break;
            }
        }
        let names = self.names(&met);
        text(&explain(&request, &scene(), &start, &met, &names))
    }

    fn names(&self, met: &[Met]) -> Names {
        let mut names = Names::default();
        for (id, name, port) in
            [(WEB, "web", 80), (SINGLE, "single", 80), (TWIN, "guarded", 80), (FAR, "far", 80), (EMPTY, "empty", 80)]
        {
            let service = ServiceName {
                service: format!("shop/{name}"),
                port: format!("http ({port}/TCP)"),
                kind: "ClusterIP".to_owned(),
            };
            names.services.insert(id, service);
        }
        for (id, pod) in [(LOCAL_1, "pod web-1 on node-1"), (REMOTE, "pod web-3 on node-2")] {
            let at = SocketAddr::new(Family::V4.backend(id), small::TARGET_PORT);
            names.pods.insert(at, pod.to_owned());
        }
        let image = &self.tables.image;
        for step in met.iter().flat_map(|met| &met.traced.steps).filter(|step| step.kind == StepKind::Picked as u8) {
            let set = BackendSet(step.words[0]);
            let slots = (set.base()..set.base() + set.count()).map(|index| image.slots[&index]);
            let member = |slot: lb_common::Slot| Member {
                address: image.backends[&slot.backend].ip().unwrap_or(IpAddr::from([0; 4])),
                port: u16::from_be_bytes(slot.port),
            };
            names.sets.insert(set, slots.map(member).collect());
        }
        names
    }
}

fn scene() -> Scene {
    let interface = |index: u32, name: &str| Interface {
        index,
        name: name.to_owned(),
        kind: String::new(),
        mac: Some(MAC),
        mtu: 1500,
        up: true,
        master: None,
        lower: None,
        has_default_route: false,
        leads_to_nodes: false,
        hardware: false,
        wire: false,
        ends_elsewhere: false,
        qdisc: "noqueue".to_owned(),
        egress_filters: Vec::new(),
        ethernet: true,
        loopback: false,
    };
    let interfaces = [(UPLINK, "eth0"), (INSIDE, "veth3")].map(|(index, name)| (index, interface(index, name)));
    Scene { host: Arc::new(HostView { interfaces: interfaces.into(), ..HostView::default() }), ..Scene::default() }
}

fn client() -> SocketAddr {
    SocketAddr::new(Family::V4.client(), 40_000)
}

#[test]
fn a_forwarded_packet_and_then_its_flow() {
    let mut node = Node::new();
    let pod = SocketAddr::new(Family::V4.backend(small::LOCAL_2), 4000);
    let to = Family::V4.cluster(SINGLE, 80);
    insta::assert_snapshot!("forwarded", node.tell(pod, to, TraceProtocol::TCP, INSIDE));
    insta::assert_snapshot!("known_flow", node.tell(pod, to, TraceProtocol::TCP, INSIDE));
}

#[test]
fn what_is_not_forwarded_says_why() {
    let mut node = Node::new();
    let to = |service| Family::V4.cluster(service, 80);
    insta::assert_snapshot!("no_backend", node.tell(client(), to(EMPTY), TraceProtocol::TCP, UPLINK));
    let elsewhere = SocketAddr::from(([203, 0, 113, 5], 80));
    insta::assert_snapshot!("not_ours", node.tell(client(), elsewhere, TraceProtocol::TCP, UPLINK));
    let stranger = SocketAddr::from(([203, 0, 113, 9], 40_000));
    insta::assert_snapshot!("source_range", node.tell(stranger, to(TWIN), TraceProtocol::TCP, UPLINK));
    insta::assert_snapshot!("no_local_backend", node.tell(client(), to(FAR), TraceProtocol::TCP, UPLINK));
    let unserved = SocketAddr::new(to(WEB).ip(), 81);
    insta::assert_snapshot!("no_service_port", node.tell(client(), unserved, TraceProtocol::UDP, UPLINK));
}

#[test]
fn a_local_policy_and_a_lent_source() {
    let mut node = Node::new();
    let to = |service| Family::V4.cluster(service, 80);
    insta::assert_snapshot!("local_policy", node.tell(client(), to(SINGLE), TraceProtocol::TCP, UPLINK));
    let pod = SocketAddr::new(Family::V4.backend(small::LOCAL_2), 4000);
    insta::assert_snapshot!("cluster_policy", node.tell(pod, to(FAR), TraceProtocol::TCP, INSIDE));
    insta::assert_snapshot!("echo", node.tell(client(), to(WEB), TraceProtocol::ICMP, UPLINK));
}

#[test]
fn every_reason_that_ends_a_trace_is_told_with_its_remedy() {
    let mut node = Node::new();
    let told = node.tell(client(), Family::V4.cluster(EMPTY, 80), TraceProtocol::TCP, UPLINK);
    assert!(told.contains(Reason::NoBackend.sentence()) && told.contains(Reason::NoBackend.remedy()), "{told}");
}
