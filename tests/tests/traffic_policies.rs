//! Traffic policies and source ranges with real clients: outside ones, pods, and the node's own processes.

use lb_ctl::playground::topology::{CLIENT, Node};
use lb_ctl::playground::{Client, manifests};
use lb_tests::fixture::{Fixture, Setup, node_port, node_port_udp};
use lb_tests::needs_datapath;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// Addresses of the load balancer, to which the client has a route.
const ANNOUNCED: [&str; 2] = ["10.96.250.1", "fd00:96::fa01"];
const HERE: [&str; 2] = ["web-1", "web-2"];
const EVERYWHERE: [&str; 3] = ["web-1", "web-2", "web-3"];

/// The playground's Service behind a load balancer, with these fields.
fn service(fields: &str) -> String {
    let [v4, v6] = ANNOUNCED;
    let status = format!("status:\n  loadBalancer:\n    ingress: [{{ ip: \"{v4}\" }}, {{ ip: \"{v6}\" }}]\n");
    let spec = format!("  type: LoadBalancer\n{fields}");
    manifests::cluster().replace("  type: NodePort\n", &spec) + &status
}

fn announced() -> [SocketAddr; 2] {
    ANNOUNCED.map(|address| SocketAddr::new(address.parse().expect("an address"), 80))
}

/// The pods that answer `client` and the addresses that they see.
fn met(client: Client<'_>, to: SocketAddr) -> (BTreeSet<String>, BTreeSet<IpAddr>) {
    let answers = client.get_many(to, 40).unwrap_or_else(|error| panic!("{to}: {error}"));
    answers.into_iter().map(|answer| (answer.pod, answer.client)).unzip()
}

fn pods(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Nobody answers, and nobody refuses.
fn assert_silence(client: Client<'_>, to: SocketAddr) {
    let error = client.with_timeout(Duration::from_millis(300)).connect(to).expect_err("nobody is to answer");
    assert!(error.to_string().contains("timed out"), "{to}: {error}");
}

#[test]
fn clients_from_outside_stay_on_the_node_and_are_known_by_their_address() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let outside = fixture.client();
    let visitor = fixture.pod("visitor").expect("runs").client();
    let node = Client::new(fixture.node_space(Node::One));
    // From before: some of them go to the other node, and stay there, UDP too.
    let mut before: Vec<_> = (0..16).map(|_| outside.connect(node_port()[0]).expect("connects")).collect();
    let first: Vec<String> = before.iter_mut().map(|connection| connection.get().expect("answers").pod).collect();
    assert!(first.contains(&"web-3".to_owned()), "{first:?}");
    let datagrams: Vec<_> = (0..16).map(|_| outside.datagrams(node_port_udp()[0]).expect("a socket")).collect();
    let ask = || datagrams.iter().map(|socket| socket.exchange(b"who").expect("an answer").pod).collect::<Vec<_>>();
    let asked = ask();
    assert!(asked.contains(&"web-3".to_owned()), "{asked:?}");
    fixture.apply(&service("  externalTrafficPolicy: Local\n")).expect("the CLI applies");
    let again: Vec<String> = before.iter_mut().map(|connection| connection.get().expect("answers").pod).collect();
    assert_eq!(again, first, "a policy moves no connection");
    assert_eq!(ask(), asked, "nor datagrams");

    for family in 0..2 {
        for to in [node_port()[family], announced()[family]] {
            let seen = BTreeSet::from([CLIENT.addresses()[family]]);
            assert_eq!(met(outside, to), (pods(&HERE), seen), "{to}");
            assert_eq!(met(visitor, to).0, pods(&EVERYWHERE), "{to}: a pod is sent anywhere");
        }
        assert_eq!(met(node, announced()[family]).0, pods(&EVERYWHERE), "the node itself is sent anywhere");
        assert_eq!(
            met(visitor, fixture.cluster()[family]).0,
            pods(&EVERYWHERE),
            "its ClusterIP has a policy of its own"
        );
    }

    // Without a backend here there is silence for those outside, who are to ask another node.
    for pod in HERE {
        fixture.delete_pod_object(pod).expect("the CLI deletes");
    }
    for to in [node_port(), announced()].concat() {
        assert_silence(outside, to);
        assert_eq!(met(visitor, to).0, pods(&["web-3"]));
    }
    assert!(fixture.reason("no-local-backend") > 0);
    let description =
        fixture.cli(&["describe", "service", "web", "-n", manifests::NAMESPACE], "").expect("it is described");
    assert!(description.contains("External Traffic Policy:  Local"), "{description}");
    assert!(description.contains("LoadBalancer Ingress:     10.96.250.1,fd00:96::fa01"), "{description}");
}

#[test]
fn clients_of_a_cluster_ip_stay_on_the_node() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let visitor = fixture.pod("visitor").expect("runs").client();
    let node = Client::new(fixture.node_space(Node::One));
    let mut before: Vec<_> = (0..16).map(|_| visitor.connect(fixture.cluster()[0]).expect("connects")).collect();
    let first: Vec<String> = before.iter_mut().map(|connection| connection.get().expect("answers").pod).collect();
    fixture.apply(&service("  internalTrafficPolicy: Local\n")).expect("the CLI applies");
    let again: Vec<String> = before.iter_mut().map(|connection| connection.get().expect("answers").pod).collect();
    assert_eq!(again, first, "a policy moves no connection");
    for (family, to) in fixture.cluster().into_iter().enumerate() {
        for client in [visitor, node, fixture.client()] {
            assert_eq!(met(client, to).0, pods(&HERE), "{to}");
        }
        assert_eq!(
            met(fixture.client(), node_port()[family]).0,
            pods(&EVERYWHERE),
            "only the ClusterIP's clients stay"
        );
    }
    for pod in HERE {
        fixture.delete_pod_object(pod).expect("the CLI deletes");
    }
    for to in fixture.cluster() {
        assert_silence(visitor, to);
        assert_silence(node, to);
    }
    assert_eq!(met(fixture.client(), node_port()[0]).0, pods(&["web-3"]));
}

#[test]
fn a_load_balancer_serves_its_source_ranges_alone() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let outside = fixture.client();
    let visitor = fixture.pod("visitor").expect("runs").client();
    let ranges = |networks: &str| service(&format!("  loadBalancerSourceRanges: [{networks}]\n"));
    fixture.apply(&ranges("192.0.2.0/28, \"2001:db8:1::/64\"")).expect("the CLI applies");
    for (family, to) in announced().into_iter().enumerate() {
        met(outside, to);
        assert_silence(visitor, to);
        met(visitor, fixture.cluster()[family]);
        met(visitor, node_port()[family]);
    }
    assert!(fixture.reason("source-range") > 0);
    let mut open = outside.connect(announced()[0]).expect("connects");
    let pod = open.get().expect("answers").pod;
    // The other family is not restricted where no range is of it.
    fixture.apply(&ranges("10.244.0.0/16")).expect("the CLI applies");
    assert_eq!(open.get().expect("answers").pod, pod, "what is open stays");
    assert_silence(outside, announced()[0]);
    met(outside, announced()[1]);
    met(visitor, announced()[0]);
    met(outside, node_port()[0]);
    fixture.apply(&service("")).expect("the CLI applies");
    met(outside, announced()[0]);
}
