//! Services of the type LoadBalancer get addresses from the daemon's pools, and real clients reach them there.

use lb_ctl::playground::manifests::{HTTP, NAMESPACE};
use lb_ctl::playground::topology::NODE;
use lb_tests::fixture::{Fixture, Setup};
use lb_tests::{iproute, needs_datapath, traffic};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// Networks that the client reaches by way of the node (RFC 5737, RFC 3849).
const NETWORKS: [&str; 2] = ["203.0.113.0/24", "2001:db8:77::/64"];
const POOL: &str = "--load-balancer-pool=public=203.0.113.8/29,2001:db8:77::8-2001:db8:77::f";

fn service(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {NAMESPACE}}}, spec: {{type: LoadBalancer, \
         {spec}, selector: {{app: web, tier: front}}, ports: [{{port: 80, targetPort: {HTTP}}}]}}}}\n"
    )
}

/// `EXTERNAL-IP` of a Service.
fn external(fixture: &Fixture, name: &str) -> String {
    let table = fixture.cli(&["get", "service", name, "-n", NAMESPACE], "").expect("the CLI lists");
    table.lines().nth(1).and_then(|row| row.split_whitespace().nth(3)).expect("a row").to_owned()
}

/// The addresses of a Service, from which clients get to all of its pods.
fn served(fixture: &Fixture, name: &str) -> Vec<IpAddr> {
    let addresses: Vec<IpAddr> =
        external(fixture, name).split(',').map(|text| text.parse().expect("an address")).collect();
    for address in &addresses {
        let answers = traffic::many(fixture.client(), SocketAddr::new(*address, 80), 60);
        let pods: BTreeSet<String> = answers.into_iter().map(|answer| answer.pod).collect();
        assert_eq!(pods, traffic::PODS.map(str::to_owned).into(), "{address}");
    }
    addresses
}

fn why_pending(fixture: &Fixture, name: &str) -> Vec<String> {
    assert_eq!(external(fixture, name), "<pending>");
    let problems = fixture.describe(name).expect("the Service is described").problems;
    problems
        .into_iter()
        .map(|problem| problem.message)
        .filter(|message| message.starts_with("no load balancer"))
        .collect()
}

#[test]
fn clients_reach_a_service_by_an_address_of_a_pool() {
    needs_datapath!();
    let mut fixture = Fixture::with(BINARY, Setup::DEMO, &[POOL]);
    for (network, gateway) in NETWORKS.into_iter().zip(NODE.addresses()) {
        iproute::ip(fixture.client_space(), &format!("route add {network} via {gateway}"));
    }
    let apply = |fixture: &Fixture, manifest: &str| drop(fixture.apply(manifest).expect("the CLI applies"));
    apply(&fixture, &service("front", "ipFamilyPolicy: RequireDualStack"));
    let addresses = served(&fixture, "front");
    assert_eq!(addresses.len(), 2, "one of each family");

    fixture.end_daemon(Signal::SIGKILL).expect("the daemon ends");
    fixture.start_daemon(&["eth0=xdp", "eth1=tcx", "veth*"]).expect("the daemon starts");
    assert_eq!(served(&fixture, "front"), addresses, "they are kept");

    let wanted = format!("loadBalancerIP: {}", addresses[0]);
    apply(&fixture, &service("late", &wanted));
    let held =
        format!("no load balancer address: loadBalancerIP {} is in use by service/{NAMESPACE}/front", addresses[0]);
    assert_eq!(why_pending(&fixture, "late"), [held]);
    apply(&fixture, &service("other", "loadBalancerClass: example.net/other"));
    let nobody = "no load balancer address: no address pool is for the loadBalancerClass `example.net/other`";
    assert_eq!(why_pending(&fixture, "other"), [nobody]);

    fixture.cli(&["delete", "service", "front", "-n", NAMESPACE], "").expect("the CLI deletes");
    assert_eq!(served(&fixture, "late"), addresses[..1], "it waited for the one");
    fixture.client().connect(SocketAddr::new(addresses[1], 80)).expect_err("nobody has the other any more");
}
