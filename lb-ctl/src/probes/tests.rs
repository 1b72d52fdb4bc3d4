//! Probes against servers on loopback.

use super::*;
use crate::manifest;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

fn objects(documents: &[String]) -> Arc<Objects> {
    let parsed = manifest::parse(&documents.join("---\n"), "test.yaml", "default").unwrap();
    let mut objects = Objects::default();
    parsed.objects.into_iter().for_each(|located| objects.insert(located.object));
    Arc::new(objects)
}

fn pod(name: &str, probe: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, readinessProbe: {{periodSeconds: 1, \
         {probe}}}}}]}}\nstatus: {{podIP: 127.0.0.1{more}}}\n"
    )
}

fn is_ready(objects: &Objects, name: &str) -> bool {
    objects.pods[&Key::new("default", name)].is_ready()
}

/// Waits until the pod is ready, or is not.
async fn until(probes: &mut Probes, objects: &Arc<Objects>, name: &str, ready: bool) {
    let turned = async {
        while is_ready(&probes.follow(objects), name) != ready {
            let told = probes.news.recv().await.unwrap();
            probes.take(told);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), turned).await.unwrap_or_else(|_| panic!("{name} never turned"));
}

/// Answers every connection with these bytes, once it has read something.
async fn serve(answer: &'static str) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            if !answer.is_empty() && length > 0 {
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    (port, server)
}

#[tokio::test]
async fn a_pod_goes_in_and_out_and_a_restart_is_no_dip() {
    let folder = TempDir::new().unwrap();
    let memory = folder.path().join("probes.json");
    let open = || Probes::new(Some(Handle::current()), memory.clone());
    let (port, server) = serve("").await;
    let all = objects(&[pod("a", &format!("failureThreshold: 2, tcpSocket: {{port: {port}}}"), "")]);
    let mut probes = open();
    assert!(!is_ready(&probes.follow(&all), "a"), "not before the first success");
    until(&mut probes, &all, "a", true).await;
    assert!(probes.problems().is_empty());
    drop(probes);
    let mut probes = open();
    assert!(is_ready(&probes.follow(&all), "a"), "it was ready before the restart");
    server.abort();
    let _ = server.await;
    until(&mut probes, &all, "a", false).await;
    let problems = probes.problems();
    assert!(problems[0].message.contains(&format!("connection to 127.0.0.1:{port}")), "{problems:?}");
    drop(probes);
    assert!(!is_ready(&open().follow(&all), "a"), "and was not before this one");
}

#[tokio::test]
async fn http_succeeds_by_its_status() {
    let (good, _good) = serve("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n").await;
    let (bad, _bad) = serve("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
    let all = objects(&[
        pod("good", &format!("httpGet: {{port: {good}, path: /ready, httpHeaders: [{{name: Host, value: a}}]}}"), ""),
        pod("bad", &format!("httpGet: {{port: {bad}}}"), ""),
    ]);
    let mut probes = Probes::new(Some(Handle::current()), TempDir::new().unwrap().path().join("p"));
    until(&mut probes, &all, "good", true).await;
    while !probes.problems().iter().any(|problem| problem.message.contains("status 503 Service Unavailable")) {
        let told = probes.news.recv().await.unwrap();
        probes.take(told);
    }
    assert!(!is_ready(&probes.follow(&all), "bad"));
}

#[tokio::test]
async fn grpc_succeeds_by_serving() {
    use http_body_util::{BodyExt as _, Full};
    use hyper::body::{Bytes, Incoming};
    use hyper::{Request, Response};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = hyper::service::service_fn(async |request: Request<Incoming>| {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        // The server as a whole is serving, the service `db` is not.
        let status = if body.len() == 5 { 1 } else { 2 };
        let answer = Response::builder().header("content-type", "application/grpc");
        Ok::<_, std::convert::Infallible>(answer.body(Full::new(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]))).unwrap())
    });
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let io = hyper_util::rt::TokioIo::new(stream);
            let executor = hyper_util::rt::TokioExecutor::new();
            tokio::spawn(hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service));
        }
    });
    let all = objects(&[
        pod("whole", &format!("grpc: {{port: {port}}}"), ""),
        pod("db", &format!("grpc: {{port: {port}, service: db}}"), ""),
    ]);
    let mut probes = Probes::new(Some(Handle::current()), TempDir::new().unwrap().path().join("p"));
    until(&mut probes, &all, "whole", true).await;
    while !probes.problems().iter().any(|problem| problem.message.contains("health status 2")) {
        let told = probes.news.recv().await.unwrap();
        probes.take(told);
    }
}

#[tokio::test]
async fn pods_that_somebody_else_looks_after_are_left_alone() {
    let mut probes = Probes::new(Some(Handle::current()), TempDir::new().unwrap().path().join("p"));
    let ready = ", conditions: [{type: Ready, status: 'True'}]";
    let all = objects(&[
        pod("kubelet", "tcpSocket: {port: 1}", ready),
        pod("finished", "tcpSocket: {port: 1}", ", phase: Succeeded"),
        pod("own", "tcpSocket: {port: nowhere}", ""),
        pod("plain", "tcpSocket: {port: 1}", "").replace("readinessProbe", "livenessProbe"),
    ]);
    let shown = probes.follow(&all);
    let states = ["kubelet", "finished", "own", "plain"].map(|name| is_ready(&shown, name));
    assert_eq!(states, [true, false, false, true]);
    assert_eq!(probes.pods.len(), 1);
    let told = probes.news.recv().await.unwrap();
    probes.take(told);
    assert_eq!(
        probes.problems()[0].message,
        "not ready: container c, its probe: the container has no TCP port `nowhere`"
    );
    // What goes is probed no more, and what did not change is shown as it was.
    assert!(Arc::ptr_eq(&probes.follow(&all), &probes.follow(&all)));
    assert_eq!(probes.follow(&Arc::default()).pods.len(), 0);
    assert!(probes.pods.is_empty());
}
