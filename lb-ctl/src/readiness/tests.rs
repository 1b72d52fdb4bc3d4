use super::action::{Action, plans};
use super::*;
use crate::objects::Object;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ServerConfig, SupportedProtocolVersion};

/// A pod of node `n1` with this address and this probe, as its manifest has it.
fn pod(name: &str, address: &str, probe: &str) -> Arc<Pod> {
    let text = format!(
        "{{metadata: {{name: {name}, namespace: d}}, spec: {{nodeName: n1, containers: [{{name: c, ports: [{{name: web, \
         containerPort: 8080}}], readinessProbe: {probe}}}]}}, status: {{podIP: {address}}}}}"
    );
    Arc::new(serde_yaml::from_str(&text).unwrap())
}

fn changed(pod: &Arc<Pod>, change: impl FnOnce(&mut Pod)) -> Arc<Pod> {
    let mut pod = Pod::clone(pod);
    change(&mut pod);
    Arc::new(pod)
}

fn objects(pods: impl IntoIterator<Item = Arc<Pod>>) -> Objects {
    let mut objects = Objects::default();
    pods.into_iter().for_each(|pod| objects.insert(Object::Pod(pod)));
    objects
}

/// Ready, or why not, after all.
fn state(readiness: &Readiness, objects: &Objects, name: &str) -> State {
    let judged = readiness.judged(objects);
    let pod = &judged.pods[&Key::new("d", name)];
    if pod.is_ready() { Ok(()) } else { Err(pod.why_not_ready().unwrap().to_owned()) }
}

fn readiness(served: &[&str]) -> Readiness {
    let served = served.iter().map(|address| address.parse().unwrap()).collect();
    Readiness::new("n1".to_owned(), served, Handle::current())
}

/// A server that answers with this status, and what it was asked last.
async fn http_server(status: Arc<AtomicU16>) -> (SocketAddr, Arc<Mutex<Option<Request<()>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(async |request: Request<Incoming>| {
                *seen.lock().unwrap() = Some(request.map(drop));
                let mut answer = Response::new(Full::new(Bytes::from(vec![b'x'; 100_000])));
                *answer.status_mut() = status.load(Ordering::Relaxed).try_into().unwrap();
                Ok::<_, Infallible>(answer)
            });
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        }
    });
    (address, asked)
}

/// The outcome of one attempt.
async fn attempt(probe: &str) -> State {
    let (mut plans, refused) = plans(&pod("a", "127.0.0.1", probe), "n1");
    assert!(refused.is_empty(), "{refused:?}");
    Clerk::default().attempt(&plans.remove(0)).await
}

#[tokio::test]
async fn an_http_probe_asks_as_a_kubelet_does() {
    let status = Arc::new(AtomicU16::new(200));
    let (address, asked) = http_server(Arc::clone(&status)).await;
    let port = address.port();
    let probe = format!("{{httpGet: {{port: {port}, path: 'ready?now', httpHeaders: [{{name: X-A, value: b}}]}}}}");
    for (code, expected) in [(200, true), (302, true), (399, true), (400, false), (503, false)] {
        status.store(code, Ordering::Relaxed);
        let outcome = attempt(&probe).await;
        let why = format!("GET http://127.0.0.1:{port}/ready?now: status {code}");
        assert_eq!(outcome, if expected { Ok(()) } else { Err(why) });
    }
    let request = asked.lock().unwrap().take().unwrap();
    assert_eq!(request.uri(), "/ready?now");
    let header = |name: &str| request.headers()[name].to_str().unwrap();
    let host = format!("127.0.0.1:{port}");
    assert_eq!([header("host"), header("x-a"), header("accept"), header("connection")], [&host, "b", "*/*", "close"]);
    assert!(header("user-agent").starts_with("kube-probe/"));
    let own = format!(
        "{{httpGet: {{port: {port}, httpHeaders: [{{name: host, value: example.net}}, {{name: User-Agent, value: me}}]}}}}"
    );
    attempt(&own).await.unwrap_err();
    let request = asked.lock().unwrap().take().unwrap();
    assert_eq!(
        (request.headers()["host"].as_bytes(), request.headers()["user-agent"].as_bytes()),
        (&b"example.net"[..], &b"me"[..])
    );
}

/// A server of TLS in these versions, with a certificate that nobody should trust: signed by itself, for another name, and
/// long over. Answers with this status.
async fn https_server(versions: &[&'static SupportedProtocolVersion], status: u16) -> u16 {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["other.example".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(1999, 1, 1), rcgen::date_time_ymd(2000, 1, 1));
    let certificate = params.self_signed(&key).unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            assert_eq!(stream.get_ref().1.server_name(), None, "an address is no name to be told");
            let service = service_fn(async |request: Request<Incoming>| {
                assert_eq!(request.uri(), "/ready");
                let mut answer = Response::new(Full::new(Bytes::from_static(b"x")));
                *answer.status_mut() = status.try_into().unwrap();
                Ok::<_, Infallible>(answer)
            });
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        }
    });
    port
}

#[tokio::test]
async fn an_https_probe_takes_any_certificate() {
    let probe = |port: u16, scheme: &str| format!("{{httpGet: {{port: {port}, path: /ready, scheme: {scheme}}}}}");
    for version in [&TLS12, &TLS13] {
        let ready = https_server(&[version], 200).await;
        assert_eq!(attempt(&probe(ready, "HTTPS")).await, Ok(()), "{version:?}");
        attempt(&probe(ready, "HTTP")).await.expect_err("this server speaks TLS alone");
        let unready = https_server(&[version], 503).await;
        let why = format!("GET https://127.0.0.1:{unready}/ready: status 503");
        assert_eq!(attempt(&probe(unready, "HTTPS")).await, Err(why));
    }
    let (plain, _) = http_server(Arc::new(AtomicU16::new(200))).await;
    let why = attempt(&probe(plain.port(), "HTTPS")).await.unwrap_err();
    assert!(why.contains("/ready: no TLS: "), "{why}");
}

#[tokio::test]
async fn a_tcp_probe_needs_a_connection_and_any_probe_an_answer_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(attempt(&format!("{{tcpSocket: {{port: {port}}}}}")).await, Ok(()));
    // The kernel takes the connection, and nobody answers.
    for kind in ["httpGet", "grpc"] {
        let why = attempt(&format!("{{{kind}: {{port: {port}}}}}")).await.unwrap_err();
        assert!(why.ends_with(" did not answer within 1 s"), "{why}");
    }
    drop(listener);
    for kind in ["httpGet", "grpc", "tcpSocket"] {
        let why = attempt(&format!("{{{kind}: {{port: {port}}}}}")).await.unwrap_err();
        assert!(why.ends_with(": connection refused"), "{why}");
    }
}

/// Answers questions of one connection as a server of gRPC does: with a message, and with trailers. Tells what was asked.
async fn grpc_server(
    message: &'static [u8],
    trailers: &'static [(&str, &str)],
) -> (u16, mpsc::UnboundedReceiver<(HeaderMap, Bytes)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, questions) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(|request: Request<Incoming>| {
            let sender = sender.clone();
            async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let headers = request.headers().clone();
                sender.send((headers, request.into_body().collect().await.unwrap().to_bytes())).unwrap();
                let trailers = trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
                let trailers = Frame::trailers(trailers.collect::<HeaderMap>());
                let frames = [Frame::data(Bytes::from_static(message)), trailers].map(Ok::<_, Infallible>);
                Ok::<_, Infallible>(Response::new(StreamBody::new(futures_util::stream::iter(frames))))
            }
        });
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok();
    });
    (port, questions)
}

#[tokio::test]
async fn a_grpc_probe_speaks_the_health_checking_protocol() {
    const FINE: &[(&str, &str)] = &[("grpc-status", "0")];
    for (message, trailers, expected) in [
        (&[0, 0, 0, 0, 2, 8, 1][..], FINE, ""),
        (&[0, 0, 0, 0, 2, 8, 2], FINE, "the status is NOT_SERVING"),
        (&[], &[("grpc-status", "5"), ("grpc-message", "who?")], "gRPC status 5: who?"),
        (&[], &[("grpc-status", "12")], "gRPC status 12: the server does not tell its health"),
    ] {
        let (port, mut questions) = grpc_server(message, trailers).await;
        let outcome = attempt(&format!("{{grpc: {{port: {port}, service: s}}}}")).await;
        match outcome {
            Ok(()) => assert_eq!(expected, ""),
            Err(why) => assert_eq!(why, format!("gRPC health of 127.0.0.1:{port}: {expected}")),
        }
        let (headers, question) = questions.recv().await.unwrap();
        assert_eq!(question[..], [0, 0, 0, 0, 3, 0x0a, 1, b's']);
        assert_eq!(
            (headers["content-type"].as_bytes(), headers["te"].as_bytes()),
            (&b"application/grpc"[..], &b"trailers"[..])
        );
    }
}

const TCP: &str = "{tcpSocket: {port: web}, initialDelaySeconds: 1000}";

#[tokio::test]
async fn only_pods_of_this_node_without_a_condition_are_probed() {
    let own = pod("own", "127.0.0.1", TCP);
    let others = [
        changed(&own, |pod| pod.spec.node_name = Some("n2".to_owned())),
        changed(&own, |pod| pod.status.phase = Some("Succeeded".to_owned())),
        changed(&own, |pod| pod.status.conditions = serde_yaml::from_str("[{type: Ready, status: 'True'}]").unwrap()),
        changed(&own, |pod| pod.status.pod_ip = None),
        changed(&own, |pod| pod.spec.containers[0].readiness_probe = None),
    ];
    for other in others {
        assert_eq!(plans(&other, "n1"), (Vec::new(), Vec::new()), "{other:?}");
    }
    let (planned, refused) = plans(&own, "n1");
    assert_eq!((planned.len(), refused.len()), (1, 0));
    assert_eq!(planned[0].action, Action::Tcp(("127.0.0.1".to_owned(), 8080)));
    // What was found out and then applied as if it were the manifest's is no condition.
    assert_eq!(plans(&changed(&own, |pod| pod.set_probed(Ok(()))), "n1"), (planned, refused));
}

#[tokio::test]
async fn what_cannot_be_probed_is_told_and_the_pod_taken_at_its_word() {
    let mut readiness = readiness(&[]);
    let homeless = changed(&pod("homeless", "127.0.0.1", TCP), |pod| pod.spec.node_name = None);
    let all = objects([
        homeless,
        pod("exec", "127.0.0.1", "{exec: {command: [true]}}"),
        pod("nameless", "127.0.0.1", "{tcpSocket: {port: other}}"),
    ]);
    readiness.follow(&all.pods);
    assert!(all.pods.keys().all(|key| state(&readiness, &all, &key.name) == Ok(())));
    let problems: Vec<_> =
        readiness.problems().into_iter().map(|of| format!("{}: {}", of.subject, of.message)).collect();
    insta::assert_snapshot!(problems.join("\n"), @r"
    pod d/exec: the readiness probe of container c is not taken: a command in the container can be run by its kubelet alone: probe by httpGet, tcpSocket or grpc
    pod d/homeless: the readiness probe of container c is not taken: the pod has no `spec.nodeName`, so no node probes it
    pod d/nameless: the readiness probe of container c is not taken: the container has no port named other
    ");
    readiness.follow(&Table::new());
    assert!(readiness.problems().is_empty());
}

#[tokio::test]
async fn a_pod_begins_as_it_was_where_that_is_known() {
    let mut readiness = readiness(&["10.0.0.1"]);
    let pending = Err("the readiness probe of container c has not succeeded yet".to_owned());
    let all = objects([pod("known", "10.0.0.1", TCP), pod("new", "10.0.0.2", TCP)]);
    // The same before it is followed: that is how a change is foreseen.
    for _ in 0..2 {
        assert_eq!((state(&readiness, &all, "known"), state(&readiness, &all, "new")), (Ok(()), pending.clone()));
        readiness.follow(&all.pods);
    }
    readiness.settle();
    // Another probe, and another address.
    let other = "{tcpSocket: {port: 80}, initialDelaySeconds: 1000}";
    let later = objects([pod("known", "10.0.0.1", other), pod("new", "10.0.0.1", TCP)]);
    for _ in 0..2 {
        assert_eq!((state(&readiness, &later, "known"), state(&readiness, &later, "new")), (Ok(()), pending.clone()));
        readiness.follow(&later.pods);
    }
    assert_eq!(readiness.watches.len(), 2);
    let moved = objects([pod("known", "10.0.0.3", other)]);
    readiness.follow(&moved.pods);
    assert_eq!((state(&readiness, &moved, "known"), readiness.watches.len()), (pending, 1));
}

#[tokio::test]
async fn all_containers_of_a_pod_have_to_be_ready_and_old_findings_do_not_count() {
    let mut readiness = readiness(&[]);
    let two = changed(&pod("a", "10.0.0.1", TCP), |pod| {
        let mut second = pod.spec.containers[0].clone();
        second.name = "d".to_owned();
        pod.spec.containers.push(second);
    });
    let all = objects([two]);
    readiness.follow(&all.pods);
    let serial = readiness.watches[&Key::new("d", "a")].serial;
    let mut find = |serial, plan, state| {
        readiness.fresh.push(Finding { pod: Key::new("d", "a"), serial, plan, state });
        let is_change = readiness.take();
        (is_change, self::state(&readiness, &all, "a"))
    };
    let fails = |container: &str, why: &str| Err(format!("the readiness probe of container {container} {why}"));
    assert_eq!(find(serial, 0, Ok(())), (true, fails("d", "has not succeeded yet")));
    assert_eq!(find(serial, 1, Ok(())), (true, Ok(())));
    assert_eq!(find(serial, 0, Err("no".to_owned())), (true, fails("c", "fails: no")));
    assert_eq!(find(serial, 1, Err("no".to_owned())), (false, fails("c", "fails: no")));
    assert_eq!(find(serial + 1, 0, Ok(())), (false, fails("c", "fails: no")));
}

#[tokio::test]
async fn a_pod_goes_and_comes_back_with_its_probe() {
    let status = Arc::new(AtomicU16::new(200));
    let (address, _) = http_server(Arc::clone(&status)).await;
    let probe = format!("{{httpGet: {{port: {}}}, periodSeconds: 1, failureThreshold: 2}}", address.port());
    let all = objects([pod("a", "127.0.0.1", &probe)]);
    let mut readiness = readiness(&[]);
    readiness.follow(&all.pods);
    for (code, least) in [(200, 0), (503, 1), (200, 0)] {
        status.store(code, Ordering::Relaxed);
        let start = Instant::now();
        timeout(Duration::from_secs(10), async {
            while state(&readiness, &all, "a").is_ok() != (code == 200) {
                readiness.changed().await;
                readiness.take();
            }
        })
        .await
        .expect("it is found out");
        assert!(start.elapsed().as_secs() >= least);
    }
    // The probe ends with the pod.
    status.store(503, Ordering::Relaxed);
    readiness.follow(&Table::new());
    assert!(readiness.watches.is_empty());
    timeout(Duration::from_secs(2), readiness.changed()).await.expect_err("nothing is found out any more");
}
