//! The client and the server, over a real socket, with a daemon that only pretends.

use super::monitor::Filter;
use super::types::plural;
use super::why::Question;
use super::*;
use crate::figures::Figures;
use crate::manifest::Validate;
use crate::objects::{Key, Kind, Labels, Namespace, Object, Objects, ServiceType};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Applies each file as one Namespace named by its text.
struct Pretender {
    catalogue: watch::Sender<Catalogue>,
}

impl Control for Pretender {
    async fn apply(&self, request: ApplyRequest) -> Result<ApplyAnswer, Failure> {
        let mut answer = ApplyAnswer::default();
        for file in request.files {
            if file.text == "bad" {
                let diagnostics = vec![format!("{}:1:1: this is bad", file.origin)];
                let message = "nothing was applied".to_owned();
                return Err(Failure { reason: FailureReason::Invalid, message, diagnostics });
            }
            let mut namespace = Namespace::default();
            namespace.metadata.name = file.text;
            let object = Object::Namespace(Arc::new(namespace));
            answer.applied.push(Applied { object: object.id().into(), outcome: Outcome::Created });
            self.catalogue.send_modify(|catalogue| {
                let mut objects = Objects::clone(&catalogue.objects);
                objects.insert(object);
                catalogue.objects = objects;
            });
        }
        Ok(answer)
    }

    async fn plan(&self, request: ApplyRequest) -> Result<PlanAnswer, Failure> {
        Ok(PlanAnswer { writes: request.files.len(), ..PlanAnswer::default() })
    }

    async fn trace(&self, request: TraceRequest) -> Result<TraceAnswer, Failure> {
        Err(Failure::new(FailureReason::BadRequest, format!("no trace from {}", request.from)))
    }

    async fn delete(&self, request: DeleteRequest) -> Result<DeleteAnswer, Failure> {
        match request.objects.first() {
            Some(object) => Err(Failure::not_found(object.kind, &object.name)),
            None => Ok(DeleteAnswer::default()),
        }
    }

    fn catalogue(&self) -> watch::Receiver<Catalogue> {
        self.catalogue.subscribe()
    }

    async fn describe(&self, service: Key) -> Result<ServiceDescription, Failure> {
        if service.name == "none" {
            return Err(Failure::not_found(Kind::Service, &service.name));
        }
        Ok(description(service))
    }

    async fn status(&self) -> Result<Status, Failure> {
        Ok(Status { instance: "test".to_owned(), ..Status::default() })
    }

    async fn capture(&self, request: CaptureRequest) -> Result<mpsc::Receiver<Vec<u8>>, Failure> {
        let (sender, receiver) = mpsc::channel(2);
        for piece in [format!("{request:?}").into_bytes(), b" and more".to_vec()] {
            sender.send(piece).await.expect("there is room");
        }
        Ok(receiver)
    }

    async fn figures(&self) -> Result<Figures, Failure> {
        Ok(Figures { instance: "test".to_owned(), uptime_ms: 5, ..Figures::default() })
    }

    async fn flows(&self) -> Result<mpsc::Receiver<FlowLine>, Failure> {
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            for number in 0..100 {
                let line = FlowLine {
                    protocol: "TCP".to_owned(),
                    state: "ESTABLISHED".to_owned(),
                    client: format!("192.0.2.1:{number}"),
                    frontend: "10.96.0.1:80".to_owned(),
                    backend: "10.244.0.1:8080".to_owned(),
                    source_nat: None,
                    idle_seconds: 0,
                    expires_seconds: 60,
                };
                if sender.send(line).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    async fn monitor(&self, filter: Filter) -> Result<mpsc::Receiver<MonitorLine>, Failure> {
        let (sender, receiver) = mpsc::channel(4);
        // What was asked for, in a number.
        let skipped = filter.reasons.len() as u64 * 10 + filter.types.len() as u64;
        let line = MonitorLine::Missing(MissingLine { skipped, lost: 1, missed: 0 });
        tokio::spawn(async move { sender.send(line).await });
        Ok(receiver)
    }

    async fn why(&self, question: Question) -> Result<WhyAnswer, Failure> {
        Ok(WhyAnswer { since_seconds: question.since.as_secs(), reasons: Vec::new() })
    }
}

fn description(service: Key) -> ServiceDescription {
    ServiceDescription {
        name: service.name,
        namespace: service.namespace,
        labels: Labels::new(),
        annotations: Labels::new(),
        selector: None,
        r#type: ServiceType::ClusterIP,
        ip_family_policy: "SingleStack".to_owned(),
        ip_families: Vec::new(),
        cluster_ips: vec!["10.96.0.1".to_owned()],
        external_ips: Vec::new(),
        load_balancer_addresses: Vec::new(),
        load_balancer_source_ranges: Vec::new(),
        node_addresses: Vec::new(),
        session_affinity: "ClientIP".to_owned(),
        affinity_seconds: Some(10_800),
        algorithm: crate::objects::Algorithm::Random,
        external_traffic_policy: None,
        health_check_node_port: None,
        internal_traffic_policy: "Cluster".to_owned(),
        source: "cli".to_owned(),
        endpoints_from: "Pods".to_owned(),
        ports: vec![PortDescription {
            name: "http".to_owned(),
            protocol: crate::objects::Protocol::TCP,
            port: 80,
            target_port: "8080".to_owned(),
            node_port: None,
            traffic: description::Counters { connections: 7, ..description::Counters::default() },
            endpoints: Vec::new(),
        }],
        problems: Vec::new(),
        events: Vec::new(),
    }
}

struct Running {
    directory: TempDir,
    client: Client,
    stop: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
}

impl Running {
    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/test.sock")
    }
}

fn start() -> Running {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("run/test.sock");
    let server = Server::bind(socket.clone()).unwrap();
    let stop = CancellationToken::new();
    let control = Arc::new(Pretender { catalogue: watch::Sender::default() });
    let server = tokio::spawn(server.serve(control, stop.clone()));
    Running { directory, client: Client::new(socket), stop, server }
}

fn apply(texts: &[&str]) -> ApplyRequest {
    let files = texts.iter().map(|text| ManifestText { origin: "a.yaml".to_owned(), text: (*text).to_owned() });
    ApplyRequest {
        namespace: "default".to_owned(),
        files: files.collect(),
        validate: Validate::Strict,
        dry_run: false,
        prune: None,
    }
}

fn namespaces(name: Option<&str>) -> catalogue::Selection {
    catalogue::Selection { resource: Kind::Namespace.into(), namespace: None, name: name.map(str::to_owned) }
}

#[tokio::test]
async fn what_is_applied_can_be_read() {
    let running = start();
    let answer = running.client.apply(&apply(&["one", "two"])).await.unwrap();
    assert_eq!(answer.applied.len(), 2);
    assert_eq!(answer.applied[0].object.name, "one");
    let items = running.client.list(&namespaces(None)).await.unwrap();
    assert_eq!(items.len(), 2);
    assert_eq!(items[1]["kind"], "Namespace");
    assert_eq!(running.client.list(&namespaces(Some("two"))).await.unwrap().len(), 1);
    assert_eq!(running.client.status().await.unwrap().instance, "test");
    let figures = running.client.figures().await.unwrap();
    assert_eq!((figures.instance.as_str(), figures.uptime_ms), ("test", 5));
    assert_eq!(running.client.version().await.unwrap().version, env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn refusals_keep_their_reason_and_their_diagnostics() {
    let running = start();
    let refused = |error| match error {
        ClientError::Refused(failure) => failure,
        other => panic!("{other}"),
    };
    let failure = refused(running.client.apply(&apply(&["bad"])).await.unwrap_err());
    assert_eq!(failure.reason, FailureReason::Invalid);
    assert_eq!(failure.diagnostics, ["a.yaml:1:1: this is bad"]);
    let failure = refused(running.client.list(&namespaces(Some("none"))).await.unwrap_err());
    assert_eq!((failure.reason, failure.message.as_str()), (FailureReason::NotFound, "namespaces \"none\" not found"));
    let failure = refused(running.client.describe("default", "none").await.unwrap_err());
    assert_eq!(failure.message, format!("{} \"none\" not found", plural(Kind::Service)));
}

#[tokio::test]
async fn a_description_comes_back_as_it_went() {
    let running = start();
    let got = running.client.describe("a/b", "web ?").await.unwrap();
    assert_eq!(got, description(Key::new("a/b", "web ?")));
    let json = serde_json::to_value(&got).unwrap();
    assert_eq!(json["ports"][0]["connections"], 7, "counters stand beside the port's other fields");
}

#[tokio::test]
async fn flows_come_as_lines() {
    let running = start();
    let mut flows = running.client.flows().await.unwrap();
    let mut count = 0;
    while let Some(flow) = flows.next().await.unwrap() {
        assert_eq!(flow.client, format!("192.0.2.1:{count}"));
        count += 1;
    }
    assert_eq!(count, 100);
}

#[tokio::test]
async fn filters_and_questions_travel_in_the_query() {
    let running = start();
    let query = MonitorQuery {
        reason: Some("no-backend,no-route".to_owned()),
        r#type: Some("dropped".to_owned()),
        client: Some("2001:db8::/32".to_owned()),
        ..MonitorQuery::default()
    };
    let mut lines = running.client.monitor(&query).await.unwrap();
    let expected = MissingLine { skipped: 21, lost: 1, missed: 0 };
    assert_eq!(lines.next().await.unwrap(), Some(MonitorLine::Missing(expected)));
    let error = running.client.monitor(&MonitorQuery { backend: Some("x".to_owned()), ..query }).await.unwrap_err();
    assert!(error.to_string().contains("`x` is no address"), "{error}");
    let since = |since| WhyQuery { since, ..WhyQuery::default() };
    assert_eq!(running.client.why(&since(Some(90))).await.unwrap().since_seconds, 90);
    assert_eq!(running.client.why(&since(None)).await.unwrap().since_seconds, 3600);
}

#[tokio::test]
async fn a_capture_comes_as_bytes() {
    let running = start();
    let request = CaptureRequest {
        clients: vec!["192.0.2.0/24".parse().unwrap()],
        service: Some(Key::new("shop", "web")),
        reasons: vec!["no-backend".to_owned()],
        ..CaptureRequest::default()
    };
    let mut pieces = running.client.capture(&request).await.unwrap();
    let mut all = Vec::new();
    while let Some(piece) = pieces.next().await.unwrap() {
        all.extend(piece);
    }
    assert_eq!(String::from_utf8(all).unwrap(), format!("{request:?} and more"), "the request came as it went");
}

#[tokio::test]
async fn a_watch_tells_what_is_there_then_what_changes_and_ends_with_the_daemon() {
    let running = start();
    running.client.apply(&apply(&["one"])).await.unwrap();
    let mut watch = running.client.watch(&namespaces(None)).await.unwrap();
    let event = watch.next().await.unwrap().unwrap();
    assert_eq!((event.kind, &event.object["metadata"]["name"]), (EventKind::Added, &"one".into()));
    running.client.apply(&apply(&["two"])).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().object["metadata"]["name"], "two");
    running.stop.cancel();
    assert_eq!(watch.next().await.unwrap(), None);
    tokio::time::timeout(Duration::from_secs(5), running.server).await.unwrap().unwrap().unwrap();
    assert!(!running.directory.path().join("run/test.sock").exists(), "the socket is removed");
}

/// What a person with curl would send: no content type, HTTP by hand.
async fn raw(running: &Running, request: String) -> String {
    let mut stream = UnixStream::connect(running.socket()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn plain_http_works_and_nonsense_is_refused_in_json() {
    let running = start();
    let post = |body: &str| {
        format!(
            "POST /v1/apply HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = raw(&running, post(r#"{"files":[{"origin":"x","text":"one"}]}"#)).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    for (request, status, reason) in [
        (post("{"), 400, "BadRequest"),
        (post(r#"{"files":[],"unknown":1}"#), 400, "BadRequest"),
        (get("/v1/deployments"), 404, "NotFound"),
        (get("/nothing"), 404, "NotFound"),
        (get("/v1/pods?nonsense=1"), 400, "BadRequest"),
        (get("/v1/apply"), 400, "BadRequest"),
    ] {
        let answer = raw(&running, request.clone()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        assert!(answer.contains(&format!("\"reason\":\"{reason}\"")), "{request}: {answer}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_is_read() {
    let running = start();
    let length = MAX_BODY + 1;
    let request =
        format!("POST /v1/apply HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    let answer = raw(&running, request).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_named_by_its_socket() {
    let error = Client::new("/nonexistent/lb-ctl.sock").status().await.unwrap_err();
    insta::assert_snapshot!(error, @"no lb-ctl daemon answers on /nonexistent/lb-ctl.sock: No such file or directory (os error 2); start one with `lb-ctl daemon --interface NAME`, or name its socket with --socket or --instance");
}

#[tokio::test]
async fn an_old_socket_is_replaced_and_another_file_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    drop(Server::bind(path.clone()).unwrap());
    std::fs::write(&path, "precious").unwrap();
    let error = Server::bind(path.clone()).unwrap_err();
    assert!(error.to_string().ends_with("a file that is no socket is in its place"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_socket_that_another_daemon_answers_on_is_left_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    let _first = Server::bind(path.clone()).unwrap();
    let error = Server::bind(path.clone()).unwrap_err();
    assert!(error.to_string().ends_with("another daemon answers on it"), "{error}");
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok(), "and it still does");
}
