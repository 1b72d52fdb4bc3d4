//! What load balancers and supervisors ask by HTTP, from where they are.

use lb_ctl::playground::Playground;
use lb_ctl::playground::netns::NetNs;
use lb_ctl::playground::topology::{NODE, Node};
use lb_tests::fixture::{Fixture, Setup};
use lb_tests::needs_datapath;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// The port that load balancers ask.
const PORT: u16 = 31400;
/// The proxy's own.
const HEALTHZ: &str = "127.0.0.1:10256";

/// A Service whose traffic stays on the node that got it.
fn service(port: u16) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{ name: hc, namespace: playground }}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  externalTrafficPolicy: Local
  healthCheckNodePort: {port}
  ports:
  - port: 80
"
    )
}

/// Endpoints of it: addresses, their nodes, and whether they are ready.
fn endpoints(of: &[(&str, Node, bool)]) -> String {
    let mut slice = String::from(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: hc, namespace: playground, labels: { kubernetes.io/service-name: hc } }
addressType: IPv4
ports: [{ port: 8080 }]
endpoints:
",
    );
    for (address, node, ready) in of {
        let name = node.name();
        writeln!(
            slice,
            "- {{ addresses: [{address}], nodeName: {name}, conditions: {{ ready: {ready}, serving: true }} }}"
        )
        .expect("a String takes everything");
    }
    slice
}

/// An answer: status, head in lower case, body.
type Answer = (u16, String, Value);

/// Asks from inside a namespace; `None`: refused.
fn ask(space: &NetNs, to: SocketAddr, path: &str) -> Option<Answer> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").expect("a request is sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the answer ends");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Some((status, head.to_lowercase(), serde_json::from_str(body).expect("JSON")))
    };
    space.run(ask).expect("the namespace is entered")
}

/// Asks the health check port from outside of the node.
fn checked(playground: &Playground, port: u16) -> [Option<Answer>; 2] {
    NODE.addresses().map(|address| ask(playground.client_space(), SocketAddr::new(address, port), "/healthz"))
}

/// Statuses of both families, and that the answers are as kube-proxy's.
fn statuses(playground: &Playground, counts: [usize; 2]) {
    for (answer, count) in checked(playground, PORT).into_iter().zip(counts) {
        let (status, head, body) = answer.expect("somebody listens");
        assert_eq!(status, if count > 0 { 200 } else { 503 }, "{head}");
        for header in [
            "content-type: application/json".to_owned(),
            "x-content-type-options: nosniff".to_owned(),
            format!("x-load-balancing-endpoint-weight: {count}"),
        ] {
            assert!(head.lines().any(|line| line == header), "{header}: {head}");
        }
        let service = json!({"namespace": "playground", "name": "hc"});
        assert_eq!(body, json!({"service": service, "localEndpoints": count, "serviceProxyHealthy": true}));
    }
}

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_load_balancer_is_told_of_local_endpoints_as_they_come_and_go() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let apply = |manifests: &str| drop(fixture.apply(manifests).expect("the CLI applies"));
    assert_eq!(checked(&fixture, PORT), [None, None]);
    apply(&service(PORT));
    statuses(&fixture, [0, 0]);
    let (one, two, elsewhere) = ("10.1.0.1", "10.1.0.2", "10.1.0.3");
    for (of, count) in [
        (vec![(one, Node::One, true), (two, Node::One, true), (elsewhere, Node::Two, true)], 2),
        (vec![(one, Node::One, true), (two, Node::One, false), (elsewhere, Node::Two, true)], 1),
        (vec![(elsewhere, Node::Two, true)], 0),
        (vec![(one, Node::One, true)], 1),
    ] {
        apply(&endpoints(&of));
        statuses(&fixture, [count, 0]);
    }
    let description = fixture.describe("hc").expect("the Service is described");
    assert_eq!(description.health_check_node_port, Some(PORT));
    // Processes of the node and pods ask the same.
    let pod = fixture.pod("web-1").expect("runs");
    assert_eq!(
        pod.client()
            .connect(SocketAddr::new(NODE.v4.into(), PORT))
            .expect("a connection")
            .peer()
            .expect("connected")
            .port(),
        PORT
    );
    assert_eq!(
        ask(fixture.node_space(Node::One), SocketAddr::new(NODE.v4.into(), PORT), "/").expect("an answer").0,
        200
    );
    fixture.cli(&["delete", "service", "hc", "-n", "playground"], "").expect("the Service is deleted");
    assert_eq!(checked(&fixture, PORT), [None, None]);
    apply(&service(PORT + 1));
    assert_eq!(checked(&fixture, PORT), [None, None]);
    assert_eq!(checked(&fixture, PORT + 1).map(|answer| answer.expect("somebody listens").0), [200, 503]);
}

#[test]
fn a_health_check_port_that_is_taken_is_told_and_had_as_soon_as_it_is_free() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let address = SocketAddr::new(NODE.v4.into(), PORT);
    let taken = fixture.node_space(Node::One).run(|| TcpListener::bind(address)).expect("enter").expect("a free port");
    fixture.apply(&(service(PORT) + &endpoints(&[("10.1.0.1", Node::One, true)]))).expect("the CLI applies");
    let expected = format!("cannot listen on {address}");
    let told = |messages: Vec<String>| messages.iter().any(|message| message.starts_with(&expected));
    let messages = |problems: Vec<lb_ctl::api::Problem>| problems.into_iter().map(|problem| problem.message).collect();
    let in_status = || told(messages(fixture.status().expect("the daemon answers").problems));
    assert!(in_status() && told(messages(fixture.describe("hc").expect("the Service is described").problems)));
    drop(taken);
    until("the port is had", || !in_status());
    statuses(&fixture, [1, 0]);
}

#[test]
fn the_proxy_tells_whether_it_lives_and_whether_its_node_stays() {
    needs_datapath!();
    let mut fixture = Fixture::new(BINARY, Setup::DEMO);
    let codes = |fixture: &Fixture| {
        ["/healthz", "/livez"].map(|path| {
            let answer = ask(fixture.node_space(Node::One), HEALTHZ.parse().expect("an address"), path);
            answer.map(|(status, _, body)| (status, body["nodeEligible"].as_bool()))
        })
    };
    assert_eq!(codes(&fixture), [Some((200, Some(true))), Some((200, None))]);
    let outside = SocketAddr::new(NODE.v4.into(), 10256);
    assert_eq!(ask(fixture.client_space(), outside, "/livez"), None, "it is told to the node alone");
    let node = |with: &str| {
        let name = Node::One.name();
        let [v4, v6] = Node::One.pod_networks();
        let networks = format!("podCIDRs: [\"{v4}\", \"{v6}\"]");
        format!("{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}, spec: {{{networks}, taints: [{with}]}}}}")
    };
    let taint = |key: &str| format!("{{key: {key}, effect: NoSchedule}}");
    fixture.apply(&node(&taint("ToBeDeletedByClusterAutoscaler"))).expect("the CLI applies");
    assert_eq!(codes(&fixture), [Some((503, Some(false))), Some((200, None))]);
    fixture.apply(&node(&taint("example.net/other"))).expect("the CLI applies");
    assert_eq!(codes(&fixture), [Some((200, Some(true))), Some((200, None))]);
    // A taken address is a warning, and none at all is quiet.
    fixture.end_daemon(nix::sys::signal::Signal::SIGTERM).expect("the daemon ends");
    assert_eq!(codes(&fixture), [None, None]);
    let taken = fixture.node_space(Node::One).run(|| TcpListener::bind(HEALTHZ)).expect("enter").expect("a free port");
    fixture.start_daemon(&["eth0=xdp", "eth1=tcx", "veth*"]).expect("the daemon starts all the same");
    let problems = |fixture: &Fixture| {
        let problems = fixture.status().expect("the daemon answers").problems;
        problems.into_iter().filter(|problem| problem.subject == "healthz").count()
    };
    assert_eq!(problems(&fixture), 1);
    drop(taken);
    until("the address is had", || problems(&fixture) == 0);
    assert_eq!(codes(&fixture), [Some((200, Some(true))), Some((200, None))]);
    fixture.end_daemon(nix::sys::signal::Signal::SIGTERM).expect("the daemon ends");
    fixture.add_daemon_argument("--healthz-address=");
    fixture.start_daemon(&["eth0=xdp", "eth1=tcx", "veth*"]).expect("the daemon starts");
    assert_eq!((codes(&fixture), problems(&fixture)), ([None, None], 0));
}
