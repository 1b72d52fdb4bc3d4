//! A pod is in its Services when its readiness probe says so, and out of them when it does not.

use lb_ctl::api::EndpointDescription;
use lb_ctl::playground::manifests;
use lb_ctl::playground::netns::NetNs;
use lb_tests::fixture::{Fixture, Setup};
use lb_tests::{needs_datapath, traffic};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// The pod that is probed, and the port that tells its readiness.
const PROBED: &str = "web-2";
const PORT: u16 = 8099;
/// Takes connections and answers nothing.
const SILENT: u16 = 0;

/// Tells a pod's readiness, from inside of it, as the test wants.
fn tell_readiness(space: &NetNs, status: Arc<AtomicU16>) {
    let listener = space.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))).expect("enter").expect("a free port");
    // It ends with the test's process.
    thread::spawn(move || {
        let mut unanswered = Vec::new();
        for mut stream in listener.incoming().filter_map(Result::ok) {
            let status = status.load(Ordering::SeqCst);
            if status == SILENT {
                unanswered.push(stream);
                continue;
            }
            // What a prober that gave up thinks of it is its business.
            let _request = stream.read(&mut [0; 1024]).unwrap_or(0);
            write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").ok();
        }
    });
}

/// The manifest of the probed pod: without conditions, with a probe.
fn manifest(fixture: &Fixture) -> String {
    let manifest = manifests::pod(fixture.pod(PROBED).expect("runs").place());
    let (head, tail) = manifest.split_once("status:").expect("a pod has a status");
    let (status, conditions) = tail.split_once("  conditions:").expect("conditions come last");
    assert_eq!(conditions.lines().count(), 2, "{conditions}");
    let probe = format!(
        "    readinessProbe:\n      httpGet: {{ path: /ready, port: {PORT} }}\n      periodSeconds: 1\n      \
         timeoutSeconds: 30\n      failureThreshold: 2\n"
    );
    format!("{head}{probe}status:{status}")
}

/// The endpoints of the probed pod at the HTTP port, one of each family.
fn endpoints(fixture: &Fixture) -> Vec<EndpointDescription> {
    let description = fixture.describe(manifests::SERVICE).expect("the Service is described");
    let port = description.ports.into_iter().find(|port| port.name == manifests::HTTP).expect("the port is described");
    port.endpoints.into_iter().filter(|endpoint| endpoint.pod.as_deref() == Some(PROBED)).collect()
}

fn is_ready(fixture: &Fixture) -> bool {
    let ready: BTreeSet<bool> = endpoints(fixture).iter().map(|endpoint| endpoint.ready).collect();
    assert_eq!(ready.len(), 1, "both addresses, or none");
    ready.contains(&true)
}

/// Waits until the pod is ready or is not; why it is not.
fn until_ready(fixture: &Fixture, is_wanted: bool) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    while is_ready(fixture) != is_wanted {
        assert!(Instant::now() < deadline, "not in time: {is_wanted}\n{}", fixture.log());
        thread::sleep(Duration::from_millis(50));
    }
    endpoints(fixture).remove(0).why_not_ready.unwrap_or_default()
}

/// Whether any of many new connections gets to the pod.
fn gets_connections(fixture: &Fixture) -> bool {
    fixture
        .cluster()
        .iter()
        .any(|to| traffic::many(fixture.client(), *to, 40).iter().any(|answer| answer.pod == PROBED))
}

/// Whether the pod was ever taken out of the Service, as this daemon remembers it.
fn has_dipped(fixture: &Fixture) -> bool {
    let events = fixture.describe(manifests::SERVICE).expect("the Service is described").events;
    let is_whole = |message: &str| message.starts_with("appeared with 6 ");
    assert!(events[0].message.starts_with("appeared with "), "{events:?}");
    !is_whole(&events[0].message) || events.iter().any(|event| event.message.starts_with("lost "))
}

#[test]
fn a_pod_is_in_its_service_while_its_probe_succeeds() {
    needs_datapath!();
    let mut fixture = Fixture::new(BINARY, Setup::DEMO);
    let status = Arc::new(AtomicU16::new(503));
    // A pod keeps its probes as long as it lives.
    fixture.cli(&["delete", "pod", PROBED, "-n", manifests::NAMESPACE], "").expect("the CLI deletes");
    fixture.apply(&manifest(&fixture)).expect("the CLI applies");
    let why = until_ready(&fixture, false);
    assert!(why.starts_with("the readiness probe of container server "), "{why}");
    assert!(!gets_connections(&fixture));
    let listed = fixture.cli(&["get", "endpoints", "-n", manifests::NAMESPACE, "-o", "wide"], "").expect("a table");
    assert!(listed.contains("the readiness probe of container server "), "{listed}");

    tell_readiness(fixture.pod(PROBED).expect("runs").space(), Arc::clone(&status));
    status.store(200, Ordering::SeqCst);
    until_ready(&fixture, true);
    assert!(gets_connections(&fixture));

    // It goes and comes back while clients connect, and none of them notices.
    let mut held = fixture.client().connect(fixture.cluster()[0]).expect("the Service answers");
    while held.get().expect("the Service answers").pod != PROBED {
        held = fixture.client().connect(fixture.cluster()[0]).expect("the Service answers");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (space, stop, cluster) = (fixture.client_space().name().to_owned(), Arc::clone(&stop), fixture.cluster());
        thread::spawn(move || {
            let space = NetNs::open(&space).expect("a namespace of our own");
            ask_until(&space, &cluster, &stop)
        })
    };
    for _ in 0..2 {
        status.store(503, Ordering::SeqCst);
        let why = until_ready(&fixture, false);
        assert!(why.ends_with(&format!(":{PORT}/ready: status 503")), "{why}");
        assert!(!gets_connections(&fixture));
        assert_eq!(held.get().expect("what was begun goes on").pod, PROBED);
        status.store(200, Ordering::SeqCst);
        until_ready(&fixture, true);
        assert!(gets_connections(&fixture));
    }
    stop.store(true, Ordering::SeqCst);
    let (asked, errors) = load.join().expect("the load does not panic");
    assert!(asked > 100 && errors.is_empty(), "of {asked}: {errors:?}");

    // Nobody answers a probe while the daemon is started anew: it takes what it finds.
    status.store(SILENT, Ordering::SeqCst);
    restart(&mut fixture, Signal::SIGKILL);
    assert!(is_ready(&fixture) && gets_connections(&fixture));
    status.store(200, Ordering::SeqCst);
    thread::sleep(Duration::from_secs(3));
    assert!(is_ready(&fixture) && !has_dipped(&fixture));
    status.store(503, Ordering::SeqCst);
    until_ready(&fixture, false);
    status.store(SILENT, Ordering::SeqCst);
    restart(&mut fixture, Signal::SIGTERM);
    assert!(!is_ready(&fixture) && !gets_connections(&fixture));
}

fn restart(fixture: &mut Fixture, signal: Signal) {
    fixture.end_daemon(signal).expect("the daemon ends");
    fixture.start_daemon(&["eth0=xdp", "eth1=tcx", "veth*"]).expect("the daemon starts");
}

/// Asks the Service over and over again; how often, and what failed.
fn ask_until(space: &NetNs, cluster: &[SocketAddr], stop: &AtomicBool) -> (usize, Vec<String>) {
    let client = lb_ctl::playground::Client::new(space);
    let (mut asked, mut errors) = (0, Vec::new());
    while !stop.load(Ordering::SeqCst) {
        asked += cluster.len();
        errors.extend(cluster.iter().filter_map(|to| client.get(*to).err()).map(|error| error.to_string()));
    }
    (asked, errors)
}
