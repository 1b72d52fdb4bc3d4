use super::*;
use crate::model::{NodeView, services};
use crate::objects::{Node, Object, Objects, TO_BE_DELETED_TAINT, Taint};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use tokio::runtime::Runtime;

const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];

/// A port that nobody listens on, of the machine's choice.
fn free_port() -> u16 {
    std::net::TcpListener::bind((LOOPBACKS[0], 0)).unwrap().local_addr().unwrap().port()
}

fn health() -> (Runtime, Health) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let health = Health::new(runtime.handle().clone());
    (runtime, health)
}

/// A Service of this port with so many endpoints on the node.
fn objects(name: &str, port: u16, endpoints: usize) -> Objects {
    let service = format!(
        "{{metadata: {{name: {name}, namespace: d}}, spec: {{type: LoadBalancer, clusterIP: 10.96.0.1, \
         externalTrafficPolicy: Local, healthCheckNodePort: {port}, ports: [{{port: 80}}]}}}}"
    );
    let endpoints = (0..endpoints).map(|number| format!("{{addresses: [10.0.0.{number}], nodeName: n1}}"));
    let slice = format!(
        "{{metadata: {{name: s, namespace: d, labels: {{kubernetes.io/service-name: {name}}}}}, addressType: IPv4, \
         ports: [{{port: 80}}], endpoints: [{}]}}",
        endpoints.collect::<Vec<_>>().join(", ")
    );
    let mut objects = Objects::default();
    objects.insert(Object::Service(Arc::new(serde_yaml::from_str(&service).unwrap())));
    objects.insert(Object::EndpointSlice(Arc::new(serde_yaml::from_str(&slice).unwrap())));
    objects
}

fn follow(health: &mut Health, objects: &Objects, now: Instant) {
    let node = NodeView { name: "n1".to_owned(), ..NodeView::default() };
    health.follow(&objects.services, &services(objects, &node), &LOOPBACKS, now);
}

/// Status and body of an answer; `None`: nobody listens.
fn ask(to: impl Into<SocketAddr>, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(to.into()).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Some((head.split(' ').nth(1)?.parse().unwrap(), body.to_owned()))
}

#[test]
fn ports_follow_services() {
    let (_runtime, mut health) = health();
    let (port, now) = (free_port(), Instant::now());
    let at = |port| SocketAddr::from((LOOPBACKS[0], port));
    follow(&mut health, &objects("a", port, 2), now);
    assert_eq!(ask((LOOPBACKS[1], port), "/"), None, "the Service has no IPv6");
    let body = r#"{"service":{"namespace":"d","name":"a"},"localEndpoints":2,"serviceProxyHealthy":true}"#;
    assert_eq!(ask(at(port), "/anything"), Some((200, body.to_owned())));
    follow(&mut health, &objects("a", port, 0), now);
    assert_eq!(ask(at(port), "/").unwrap().0, 503);
    follow(&mut health, &objects("b", port, 1), now);
    assert!(ask(at(port), "/").unwrap().1.contains(r#""name":"b""#), "another Service has the port");
    let other = free_port();
    follow(&mut health, &objects("b", other, 1), now);
    assert_eq!((ask(at(port), "/"), ask(at(other), "/").unwrap().0), (None, 200));
    follow(&mut health, &Objects::default(), now);
    assert_eq!(ask(at(other), "/"), None);
    assert!(health.problems().is_empty() && health.next_retry().is_none());
}

#[test]
fn a_taken_port_is_told_and_had_as_soon_as_it_is_free() {
    let (_runtime, mut health) = health();
    let taken = std::net::TcpListener::bind((LOOPBACKS[0], 0)).unwrap();
    let (address, now) = (taken.local_addr().unwrap(), Instant::now());
    follow(&mut health, &objects("a", address.port(), 1), now);
    let problems = health.problems_of(&Key::new("d", "a"));
    assert_eq!((problems.len(), &problems[0].subject), (1, &"service d/a".to_owned()));
    assert!(problems[0].message.contains(&format!("cannot listen on {address}")), "{}", problems[0].message);
    assert_eq!(health.problems_of(&Key::new("d", "b")), []);
    drop(taken);
    follow(&mut health, &objects("a", address.port(), 1), now);
    assert_eq!(ask(address, "/"), None, "not before its time");
    let due = health.next_retry().unwrap();
    follow(&mut health, &objects("a", address.port(), 1), due);
    assert_eq!(ask(address, "/").unwrap().0, 200);
    assert!(health.problems().is_empty() && health.next_retry().is_none());
}

#[test]
fn the_proxy_answers_where_it_is_told_to() {
    let (_runtime, mut health) = health();
    let [one, other] = [(); 2].map(|()| SocketAddr::from((LOOPBACKS[0], free_port())));
    let now = Instant::now();
    health.answer_at(Some(one), None, now);
    let ([healthz, livez], nothing) = (["/healthz", "/livez"].map(|path| ask(one, path).unwrap()), ask(other, "/"));
    assert_eq!((healthz.0, livez.0, nothing), (200, 200, None));
    for (body, has_node) in [(healthz.1, true), (livez.1, false)] {
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["lastUpdated"], body["currentTime"]);
        assert_eq!(body.get("nodeEligible"), has_node.then_some(&serde_json::Value::Bool(true)));
    }
    health.set_leaving(true);
    assert_eq!(["/healthz", "/livez"].map(|path| ask(one, path).unwrap().0), [503, 200]);
    health.answer_at(Some(other), None, now);
    assert_eq!((ask(one, "/livez"), ask(other, "/livez").unwrap().0), (None, 200));
    health.waits(now);
    health.set_ahead(PATIENCE * 2);
    assert_eq!(ask(other, "/livez").unwrap().0, 503);
    health.waits(now + PATIENCE * 2);
    assert_eq!(ask(other, "/livez").unwrap().0, 503, "the oldest change counts");
    health.is_done();
    assert_eq!(ask(other, "/livez").unwrap().0, 200);
    health.answer_at(None, None, now);
    assert_eq!(ask(other, "/livez"), None);
}

#[test]
fn metrics_are_told_where_they_are_asked_for_and_with_health() {
    let (runtime, _) = health();
    let scrape: Scrape = Arc::new(|| Box::pin(async { Ok(b"a 1\n".to_vec()) }));
    let mut health = Health::with_metrics(runtime.handle().clone(), scrape);
    let [one, other] = [(); 2].map(|()| SocketAddr::from((LOOPBACKS[0], free_port())));
    let now = Instant::now();
    let metrics = Some((200, "a 1\n".to_owned()));
    health.answer_at(Some(one), Some(other), now);
    assert_eq!((ask(one, "/metrics").unwrap().0, ask(other, "/metrics")), (404, metrics.clone()));
    assert_eq!(["/livez", "/readyz"].map(|path| ask(other, path).unwrap().0), [200, 503]);
    health.set_ready(Ready { synced: true, programmed: true, attached: true });
    assert_eq!([one, other].map(|at| ask(at, "/readyz").unwrap().0), [200, 200]);
    health.answer_at(Some(one), Some(one), now);
    assert_eq!((ask(one, "/metrics"), ask(one, "/healthz").unwrap().0, ask(other, "/")), (metrics, 200, None));
    assert!(health.problems().is_empty());
    let failing: Scrape = Arc::new(|| Box::pin(async { Err("the daemon is stopping".to_owned()) }));
    let mut health = Health::with_metrics(runtime.handle().clone(), failing);
    health.answer_at(None, Some(other), now);
    assert_eq!(ask(other, "/metrics"), Some((503, r#"{"message":"the daemon is stopping"}"#.to_owned())));
}

#[test]
fn a_node_is_to_go_when_the_autoscaler_or_the_api_says_so() {
    let mut node = Node::default();
    node.spec.taints.push(Taint { key: "example.net/other".to_owned(), ..Taint::default() });
    assert!(!node.is_leaving());
    node.spec.taints.push(Taint { key: TO_BE_DELETED_TAINT.to_owned(), ..Taint::default() });
    assert!(node.is_leaving());
    let mut node = Node::default();
    node.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".to_owned());
    assert!(node.is_leaving());
}
