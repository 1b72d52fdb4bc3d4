//! Corners of the model that the golden tests do not show.

use super::{Balancing, EndpointSource, FrontendKind, NodeView, ServiceView, services};
use crate::objects::{Algorithm, Key, Labels, Object, Objects, Pod, Service};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn node() -> NodeView {
    let zones = [("node-1", "a"), ("node-2", "a"), ("node-3", "b")];
    NodeView {
        name: "node-1".to_owned(),
        addresses: vec!["192.168.7.10".parse().unwrap()],
        silent: Vec::new(),
        zones: zones.map(|(node, zone)| (node.to_owned(), zone.to_owned())).into(),
        ..NodeView::default()
    }
}

fn objects(manifests: &[&str]) -> Objects {
    let mut objects = Objects::default();
    for manifest in manifests {
        objects.insert(if manifest.contains("kind: EndpointSlice") {
            Object::EndpointSlice(Arc::new(serde_yaml::from_str(manifest).unwrap()))
        } else if manifest.contains("kind: Pod") {
            Object::Pod(Arc::new(serde_yaml::from_str(manifest).unwrap()))
        } else {
            Object::Service(Arc::new(serde_yaml::from_str(manifest).unwrap()))
        });
    }
    objects
}

fn views(manifests: &[&str]) -> Vec<ServiceView> {
    services(&objects(manifests), &node()).values().map(|view| ServiceView::clone(view)).collect()
}

#[test]
fn a_target_port_is_a_number_a_name_or_the_port_itself() {
    let pod = "{kind: Pod, metadata: {name: p, namespace: d, labels: {a: b}}, \
               spec: {containers: [{}, {ports: [{name: web, containerPort: 8081}]}]}, status: {podIP: 10.0.0.1}}";
    for (port, expected) in [
        ("{port: 80}", Some(80)),
        ("{port: 80, targetPort: 0}", Some(80)),
        ("{port: 80, targetPort: 8080}", Some(8080)),
        ("{port: 80, targetPort: web}", Some(8081)),
        ("{port: 80, targetPort: other}", None),
        ("{port: 80, targetPort: web, protocol: UDP}", None),
        ("{port: 80, targetPort: 70000}", None),
    ] {
        let service = format!(
            "{{metadata: {{name: s, namespace: d}}, spec: {{clusterIP: 10.96.0.1, selector: {{a: b}}, ports: [{port}]}}}}"
        );
        let view = &views(&[&service, pod])[0];
        let found: Vec<u16> = view.ports[0].endpoints.iter().map(|endpoint| endpoint.port).collect();
        assert_eq!(found, Vec::from_iter(expected), "{port}");
        assert_eq!(view.problems.len(), usize::from(expected.is_none()), "{port}: {:?}", view.problems);
    }
}

#[test]
fn an_address_may_come_from_the_annotation() {
    let service = "{metadata: {name: s, namespace: d}, spec: {clusterIPs: [10.96.0.1, 'fd96::1'], selector: {a: b}, ports: [{port: 80}]}}";
    let pod = "{kind: Pod, metadata: {name: p, namespace: d, labels: {a: b}, annotations: {lb-ctl/pod-ip: '10.0.0.1, fd00::1'}}}";
    let view = &views(&[service, pod])[0];
    let addresses: Vec<_> = view.ports[0].endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!((view.source, addresses), (EndpointSource::Pods, vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()]));
    assert_eq!(view.ports[0].endpoints[0].local, None);
}

#[test]
fn the_older_of_three_services_gets_the_address() {
    let service = |name: &str, created: &str| {
        format!(
            "{{metadata: {{name: {name}, namespace: d{created}}}, spec: {{type: NodePort, clusterIP: 10.96.0.1, ports: [{{port: 80, nodePort: 30080}}]}}}}"
        )
    };
    let young = service("a", ", creationTimestamp: '2024-05-02T00:00:00Z'");
    let old = service("b", ", creationTimestamp: '2024-05-01T23:00:00-07:00'");
    let oldest = service("c", ", creationTimestamp: '2024-05-01T00:00:00Z'");
    let ageless = service("0", "");
    for (manifests, winner) in
        [(vec![&ageless, &young, &old, &oldest], "c"), (vec![&young, &old], "a"), (vec![&ageless, &old], "b")]
    {
        let manifests: Vec<&str> = manifests.into_iter().map(String::as_str).collect();
        for view in views(&manifests) {
            let lost: Vec<_> = view.ports[0].frontends.iter().map(|frontend| frontend.lost_to.clone()).collect();
            let expected = (view.key.name != winner).then(|| Key::new("d", winner));
            assert_eq!(lost, [expected.clone(), expected], "{}", view.key);
            assert_eq!(
                view.problems.iter().filter(|problem| problem.contains("belongs to")).count(),
                2 * usize::from(view.key.name != winner)
            );
        }
    }
}

#[test]
fn a_node_port_has_a_frontend_for_each_family_of_the_node() {
    let service = "{metadata: {name: s, namespace: d}, spec: {type: NodePort, ipFamilies: [IPv4, IPv6], \
                   clusterIPs: [10.96.0.1, 'fd96::1'], ports: [{port: 80, nodePort: 30080}]}}";
    let view = &views(&[service])[0];
    let kinds: Vec<_> = view.ports[0].frontends.iter().map(|frontend| frontend.kind).collect();
    assert_eq!(kinds, [FrontendKind::ClusterIP, FrontendKind::ClusterIP, FrontendKind::NodePort], "no IPv6 address");
}

#[test]
fn a_view_survives_json() {
    let service =
        "{metadata: {name: s, namespace: d}, spec: {clusterIP: 10.96.0.1, selector: {a: b}, ports: [{port: 80}]}}";
    let pod = "{kind: Pod, metadata: {name: p, namespace: d, labels: {a: b}}, status: {podIP: 10.0.0.1}}";
    let view = &views(&[service, pod])[0];
    let json = serde_json::to_string(view).unwrap();
    assert_eq!(serde_json::from_str::<ServiceView>(&json).unwrap(), *view, "{json}");
}

/// Comparing every Service with every pod would take minutes.
#[test]
fn many_services_and_pods_are_matched_in_time() {
    let labels = |name: String| Labels::from([("app".to_owned(), name), ("tier".to_owned(), "front".to_owned())]);
    let mut objects = Objects::default();
    for index in 0..5_000 {
        let mut service = Service::default();
        service.metadata.name = format!("s{index}");
        service.spec.selector = Some(labels(format!("app-{index}")));
        objects.insert(Object::Service(Arc::new(service)));
    }
    for index in 0..50_000 {
        let mut pod = Pod::default();
        pod.metadata.name = format!("p{index}");
        pod.metadata.labels = labels(format!("app-{}", index % 5_000));
        objects.insert(Object::Pod(Arc::new(pod)));
    }
    let start = Instant::now();
    assert_eq!(services(&objects, &node()).len(), 5_000);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn algorithm_and_weights_come_from_annotations() {
    let service = |annotations: &str| {
        format!(
            "{{metadata: {{name: s, namespace: d, annotations: {{{annotations}}}}}, \
             spec: {{clusterIP: 10.96.0.1, selector: {{a: b}}, ports: [{{port: 80}}]}}}}"
        )
    };
    let pod = |name: &str, address: &str, annotations: &str| {
        format!(
            "{{kind: Pod, metadata: {{name: {name}, namespace: d, labels: {{a: b}}, annotations: {{{annotations}}}}}, \
             status: {{podIP: {address}}}}}"
        )
    };
    let heavy = pod("heavy", "10.0.0.1", "lb-ctl/weight: '7'");
    let plain = pod("plain", "10.0.0.2", "");
    let wrong = pod("wrong", "10.0.0.3", "lb-ctl/weight: '101'");
    let view = views(&[&service("lb-ctl/algorithm: maglev"), &heavy, &plain, &wrong]).remove(0);
    assert_eq!(view.balancing.algorithm, Algorithm::Maglev);
    let weights: Vec<u8> = view.ports[0].endpoints.iter().map(|endpoint| endpoint.weight).collect();
    assert_eq!(weights, [7, 1, 1]);
    assert_eq!(
        view.problems,
        ["Pod wrong: annotation lb-ctl/weight must be a whole number from 0 to 100: it is left out"]
    );
    let view = views(&[&service("lb-ctl/algorithm: robin"), &plain]).remove(0);
    assert_eq!(view.balancing.algorithm, Algorithm::Random);
    assert_eq!(view.problems, ["annotation lb-ctl/algorithm must be `random` or `maglev`: random is used"]);
    // The node's own choice is for those that say nothing.
    let none = pod("none", "10.0.0.4", "lb-ctl/weight: '0'");
    let objects = objects(&[&service(""), &none]);
    let balancing = Balancing { algorithm: Algorithm::Maglev, maglev_table_size: 251 };
    let views = services(&objects, &NodeView { balancing, ..node() });
    let view = &views[&Key::new("d", "s")];
    assert_eq!(view.balancing, balancing);
    assert_eq!(
        view.problems,
        ["port 80/TCP: every endpoint in use of family IPv4 has the weight 0, so new connections are refused"]
    );
    // What another family has does not help its clients.
    let dual = service("").replace("clusterIP: 10.96.0.1", "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1']");
    let objects = self::objects(&[&dual, &none, &pod("six", "'fd00::6'", "")]);
    let view = &services(&objects, &node())[&Key::new("d", "s")];
    assert_eq!(
        view.problems,
        ["port 80/TCP: every endpoint in use of family IPv4 has the weight 0, so new connections are refused"]
    );
}

#[test]
fn an_endpoint_of_a_slice_has_its_pods_weight_or_the_slices() {
    let service =
        "{metadata: {name: s, namespace: d}, spec: {clusterIP: 10.96.0.1, selector: {a: b}, ports: [{port: 80}]}}";
    let pod = "{kind: Pod, metadata: {name: p, namespace: d, labels: {a: b}, annotations: {lb-ctl/weight: '5'}}}";
    let slice = "{kind: EndpointSlice, addressType: IPv4, ports: [{port: 80}], metadata: {name: e, namespace: d, \
                 labels: {kubernetes.io/service-name: s}, annotations: {lb-ctl/weight: '2'}}, \
                 endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: p}}, {addresses: [10.0.0.2]}]}";
    let weights = |manifests: &[&str]| {
        let view = views(manifests).remove(0);
        view.ports[0].endpoints.iter().map(|endpoint| endpoint.weight).collect::<Vec<_>>()
    };
    assert_eq!(weights(&[service, pod, slice]), [5, 2]);
    assert_eq!(weights(&[service, slice]), [2, 2]);
    assert_eq!(weights(&[service, pod, &slice.replace("lb-ctl/weight: '2'", "")]), [5, 1]);
}

#[test]
fn addresses_of_a_load_balancer_and_external_ones_are_frontends() {
    let service = "{metadata: {name: s, namespace: d}, spec: {type: LoadBalancer, ipFamilies: [IPv4], clusterIP: 10.96.0.1, \
                   loadBalancerIP: 203.0.113.9, externalIPs: [192.0.2.1, '2001:db8::1', 203.0.113.1, 192.168.7.10], \
                   ports: [{port: 80}, {port: 81}]}, status: {loadBalancer: {ingress: [{ip: 203.0.113.1}, \
                   {ip: 203.0.113.2, ipMode: VIP}, {ip: 203.0.113.3, ipMode: Proxy}, {hostname: lb.example}]}}}";
    let view = &views(&[service])[0];
    let ways: Vec<_> = view.ports[0].frontends.iter().map(|way| (way.kind, way.to_string())).collect();
    let expected = [
        (FrontendKind::ClusterIP, "10.96.0.1:80/TCP"),
        (FrontendKind::LoadBalancer, "203.0.113.1:80/TCP"),
        (FrontendKind::LoadBalancer, "203.0.113.2:80/TCP"),
        (FrontendKind::ExternalIP, "192.0.2.1:80/TCP"),
    ];
    assert_eq!(ways, expected.map(|(kind, way)| (kind, way.to_owned())));
    let own: Vec<_> = view.problems.iter().filter(|problem| problem.contains("192.168.7.10")).collect();
    assert_eq!(own, ["externalIP 192.168.7.10 is an address of this node: it is not served"]);
}

#[test]
fn services_and_slices_labelled_for_another_proxy_are_left_to_it() {
    let service = |labels: &str| {
        format!(
            "{{metadata: {{name: s, namespace: d, labels: {{{labels}}}}}, spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}}}"
        )
    };
    let slice = |labels: &str| {
        format!(
            "{{kind: EndpointSlice, metadata: {{name: s, namespace: d, labels: {{kubernetes.io/service-name: s{labels}}}}}, \
             addressType: IPv4, ports: [{{port: 8080}}], endpoints: [{{addresses: [10.0.0.1]}}]}}"
        )
    };
    let ways = |service: String, slice: String| {
        let view = &views(&[&service, &slice])[0];
        (view.ports[0].frontends.len(), view.ports[0].endpoints.len())
    };
    assert_eq!(ways(service(""), slice("")), (1, 1));
    for label in ["service.kubernetes.io/service-proxy-name: ''", "service.kubernetes.io/headless: ''"] {
        assert_eq!(ways(service(label), slice("")).0, 0, "{label}");
        assert_eq!(ways(service(""), slice(&format!(", {label}"))), (1, 0), "{label}");
    }
}

/// `address ready serving terminating node zones nodes` of each endpoint; which are chosen, and which here, by last number.
fn choice(endpoints: &[(u8, &str, &str, &str)]) -> (Vec<u8>, Vec<u8>) {
    let list: Vec<String> = endpoints
        .iter()
        .map(|(number, conditions, place, hints)| {
            let place = if place.is_empty() { String::new() } else { format!(", nodeName: {place}") };
            format!("{{addresses: [10.0.0.{number}], conditions: {{{conditions}}}{place}, hints: {{{hints}}}}}")
        })
        .collect();
    let slice = format!(
        "{{kind: EndpointSlice, metadata: {{name: s, namespace: d, labels: {{kubernetes.io/service-name: s}}}}, \
         addressType: IPv4, ports: [{{port: 8080}}], endpoints: [{}]}}",
        list.join(", ")
    );
    let service = "{metadata: {name: s, namespace: d}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}";
    let view = &views(&[service, &slice])[0];
    let number = |address: std::net::IpAddr| if let std::net::IpAddr::V4(v4) = address { v4.octets()[3] } else { 0 };
    let of = |in_set: fn(&crate::model::EndpointView) -> bool| {
        let endpoints = view.ports[0].endpoints.iter().filter(|endpoint| in_set(endpoint));
        endpoints.map(|endpoint| number(endpoint.address)).collect()
    };
    (of(|endpoint| endpoint.chosen), of(|endpoint| endpoint.chosen_here))
}

const READY: &str = "ready: true";
const DRAINING: &str = "ready: false, serving: true, terminating: true";
const DEAD: &str = "ready: false, serving: false, terminating: true";

#[test]
fn endpoints_on_their_way_out_are_used_where_none_is_ready_here_and_everywhere_apart() {
    let mixed = [(1, READY, "node-2", ""), (2, DEAD, "node-1", ""), (3, DRAINING, "node-1", ""), (4, DRAINING, "", "")];
    assert_eq!(choice(&mixed), (vec![1], vec![3]));
    assert_eq!(choice(&mixed[1..]), (vec![3, 4], vec![3]));
    assert_eq!(choice(&mixed[1..2]), (vec![], vec![]));
    assert_eq!(
        choice(&[(1, READY, "", ""), (2, "ready: false", "node-1", "")]),
        (vec![1], vec![]),
        "nobody says it is here"
    );
}

#[test]
fn hints_count_where_every_ready_endpoint_has_one_and_one_is_for_us() {
    let (a, b) = ("forZones: [{name: a}]", "forZones: [{name: b}]");
    assert_eq!(choice(&[(1, READY, "", a), (2, READY, "node-1", b), (3, READY, "", a)]), (vec![1, 3], vec![2]));
    assert_eq!(choice(&[(1, READY, "", a), (2, READY, "", b), (3, READY, "", "")]).0, [1, 2, 3], "one has none");
    assert_eq!(
        choice(&[(1, READY, "", a), (2, READY, "", b), (3, DEAD, "", "")]).0,
        [1],
        "who is not ready has no say"
    );
    assert_eq!(choice(&[(1, READY, "", b), (2, READY, "", b)]).0, [1, 2], "none is for our zone");
    assert_eq!(
        choice(&[(1, DRAINING, "", a), (2, DRAINING, "", b)]).0,
        [1, 2],
        "the last ones are used wherever they are"
    );
    let here = "forZones: [{name: a}], forNodes: [{name: node-1}]";
    let there = "forZones: [{name: a}], forNodes: [{name: node-2}]";
    assert_eq!(choice(&[(1, READY, "", here), (2, READY, "", there)]).0, [1], "the node goes before the zone");
    assert_eq!(choice(&[(1, "ready: false", "", here), (2, READY, "", there), (3, READY, "", b)]).0, [2]);
    assert_eq!(choice(&[(1, "ready: false", "", here), (2, READY, "", there)]).0, [2]);
}

#[test]
fn pods_are_hinted_as_the_service_wants_its_traffic_distributed() {
    let pod = |name: &str, node: &str| {
        format!(
            "{{kind: Pod, metadata: {{name: {name}, namespace: d, labels: {{a: b}}}}, spec: {{nodeName: {node}}}, \
             status: {{phase: Running, podIP: 10.0.0.{name}, conditions: [{{type: Ready, status: 'True'}}]}}}}"
        )
    };
    for (preference, expected) in [
        ("", vec!["1", "2", "3"]),
        ("PreferSameZone", vec!["1", "2"]),
        ("PreferClose", vec!["1", "2"]),
        ("PreferSameNode", vec!["1"]),
    ] {
        let preference =
            if preference.is_empty() { String::new() } else { format!("trafficDistribution: {preference}, ") };
        let service = format!(
            "{{metadata: {{name: s, namespace: d}}, spec: {{clusterIP: 10.96.0.1, {preference}selector: {{a: b}}, ports: [{{port: 80}}]}}}}"
        );
        let view = &views(&[&service, &pod("1", "node-1"), &pod("2", "node-2"), &pod("3", "node-3")])[0];
        let chosen = view.ports[0].endpoints.iter().filter(|endpoint| endpoint.chosen);
        let chosen: Vec<&str> = chosen.filter_map(|endpoint| endpoint.pod.as_deref()).collect();
        assert_eq!(chosen, expected, "{preference}");
    }
}
