//! Backends come and go under load, and no client notices.

use lb_ctl::playground::client::{Connection, Datagrams};
use lb_ctl::playground::netns::NetNs;
use lb_ctl::playground::topology::{Node, Place};
use lb_ctl::playground::{Client, manifests};
use lb_tests::fixture::{Fixture, Setup, node_port, node_port_udp};
use lb_tests::{needs_datapath, traffic};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");
/// How long anything may take that others are waited for.
const PATIENCE: Duration = Duration::from_mins(1);

/// The pod that dies.
const DYING: &str = "web-2";

/// A client that asks over and over again, a connection or a socket for each request.
struct Load {
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    errors: Arc<Mutex<Vec<String>>>,
    thread: JoinHandle<()>,
}

impl Load {
    fn start(space: NetNs, tcp: Vec<SocketAddr>, udp: Vec<SocketAddr>) -> Self {
        let (rounds, stop, errors) = (Arc::default(), Arc::default(), Arc::default());
        let shared: (Arc<AtomicU64>, Arc<AtomicBool>, Arc<Mutex<Vec<String>>>) =
            (Arc::clone(&rounds), Arc::clone(&stop), Arc::clone(&errors));
        let thread = thread::spawn(move || {
            let (rounds, stop, errors) = shared;
            let client = Client::new(&space);
            while !stop.load(Ordering::SeqCst) {
                let asked = tcp.iter().map(|to| client.get(*to));
                let asked = asked.chain(udp.iter().map(|to| client.datagram(*to, b"under load")));
                let failed: Vec<String> = asked.filter_map(Result::err).map(|error| error.to_string()).collect();
                errors.lock().expect("no panic holds it").extend(failed);
                rounds.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { rounds, stop, errors, thread }
    }

    /// Waits until every request that was under way has ended, and another round of them too.
    fn pass_a_round(&self) {
        let (before, deadline) = (self.rounds.load(Ordering::SeqCst), Instant::now() + PATIENCE);
        while self.rounds.load(Ordering::SeqCst) < before + 2 {
            assert!(Instant::now() < deadline, "the load has stalled");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it; how many rounds there were, and what failed.
    fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the load does not panic");
        (self.rounds.load(Ordering::SeqCst), std::mem::take(&mut *self.errors.lock().expect("no panic holds it")))
    }
}

#[test]
fn all_backends_are_replaced_under_load_and_no_request_fails() {
    needs_datapath!();
    let mut fixture = Fixture::new(BINARY, Setup::DEMO);
    let tcp: Vec<SocketAddr> = fixture.cluster().into_iter().chain(node_port()).collect();
    let udp: Vec<SocketAddr> = fixture.cluster_udp().into_iter().chain(node_port_udp()).collect();
    let spaces = [fixture.client_space().name(), fixture.pod("visitor").expect("runs").space().name()];
    let spaces = spaces.map(|name| NetNs::open(name).expect("a namespace of our own"));
    let loads = spaces.map(|space| Load::start(space, tcp.clone(), udp.clone()));

    // Long-lived connections, to every pod.
    let mut held: Vec<(Connection, String)> = Vec::new();
    // The third asker is a pod that will be replaced itself.
    for asker in traffic::askers(&fixture).iter().take(2) {
        for to in tcp.iter().cycle().take(20) {
            let mut connection = asker.client.connect(*to).expect("the Service answers");
            let pod = connection.get().expect("the Service answers").pod;
            held.push((connection, pod));
        }
    }
    for (number, old) in traffic::PODS.into_iter().enumerate() {
        // The new pod is ready before the old one is withdrawn, as in a Deployment's rolling update.
        let node = fixture.pod(old).expect("runs").place().node;
        let place = Place::new(&format!("web-{}", number + 4), node, 31 + number as u8);
        fixture.start_pod(place.clone()).expect("the new pod starts");
        fixture.wait_for_hooks().expect("its cable is managed");
        fixture.apply(&manifests::pod(&place)).expect("the CLI applies");
        fixture.delete_pod_object(old).expect("the CLI deletes");
        // The old one finishes what it has begun.
        for load in &loads {
            load.pass_a_round();
        }
        let finished = held.iter().filter(|(_, pod)| pod == old).count();
        assert!(finished > 0, "no long-lived connection was on {old}");
        for (connection, pod) in &mut held {
            let answer = connection.get().unwrap_or_else(|error| panic!("{old} is withdrawn: {error}"));
            assert_eq!(answer.pod, *pod, "{old} is withdrawn");
        }
        held.retain(|(_, pod)| pod != old);
        fixture.kill_pod(old).expect("the old pod ends");
        for load in &loads {
            load.pass_a_round();
        }
    }
    for load in loads {
        let (rounds, errors) = load.end();
        assert!(errors.is_empty(), "of {rounds} rounds of {} requests failed: {errors:#?}", tcp.len() + udp.len());
    }
    for to in tcp {
        let answers = traffic::many(fixture.client(), to, 60);
        for pod in ["web-4", "web-5", "web-6"] {
            assert!(answers.iter().any(|answer| answer.pod == pod), "{to}: {pod} is not met");
        }
    }
}

#[test]
fn a_udp_client_keeps_its_port_when_its_backend_dies() {
    needs_datapath!();
    for wire in ["xdp", "tcx"] {
        let mut fixture = Fixture::new(BINARY, Setup { wire, ..Setup::DEMO });
        let mut sockets: Vec<(String, Datagrams, u16)> = Vec::new();
        for asker in traffic::askers(&fixture) {
            for to in fixture.cluster_udp().into_iter().chain(node_port_udp()) {
                let way = format!("{wire}: {} to {to}", asker.name);
                // Sixty sockets of which none is given to one of three pods happen once in 10^10.
                let found = (0..60).find_map(|_| {
                    let socket = asker.client.datagrams(to).expect("a socket");
                    let answer = socket.exchange(b"alive").unwrap_or_else(|error| panic!("{way}: {error}"));
                    (answer.pod == DYING).then_some((socket, answer.port))
                });
                let (socket, port) = found.unwrap_or_else(|| panic!("{way}: {DYING} is not met"));
                sockets.push((way, socket, port));
            }
        }
        fixture.delete_pod_object(DYING).expect("the CLI deletes");
        fixture.kill_pod(DYING).expect("the pod dies");
        for (way, socket, port) in sockets {
            let answer = socket.exchange(b"moved").unwrap_or_else(|error| panic!("{way}: {error}"));
            assert_ne!(answer.pod, DYING, "{way}");
            // Where the source is not translated the backend sees that it is the same socket.
            if answer.client != lb_ctl::playground::topology::NODE.like(answer.client) {
                assert_eq!(answer.port, port, "{way}");
            }
            assert_eq!(socket.exchange(b"stays").expect("an answer").pod, answer.pod, "{way}");
        }
    }
}

#[test]
fn a_udp_client_leaves_a_pod_that_its_service_lost_to_another() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    // It goes on with all pods, whatever application they are.
    let other = "
apiVersion: v1
kind: Service
metadata: {name: other, namespace: playground}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {tier: front}
  ports: [{port: 53, protocol: UDP, targetPort: 8080}]
";
    fixture.apply(other).expect("the CLI applies");
    let mut sockets: Vec<(String, Datagrams)> = Vec::new();
    for asker in traffic::askers(&fixture) {
        for to in fixture.cluster_udp().into_iter().chain(node_port_udp()) {
            let way = format!("{} to {to}", asker.name);
            let found = (0..60).find_map(|_| {
                let socket = asker.client.datagrams(to).expect("a socket");
                let answer = socket.exchange(b"before").unwrap_or_else(|error| panic!("{way}: {error}"));
                (answer.pod == DYING).then_some(socket)
            });
            sockets.push((way.clone(), found.unwrap_or_else(|| panic!("{way}: {DYING} is not met"))));
        }
    }
    let pod = manifests::pod(fixture.pod(DYING).expect("runs").place());
    fixture.apply(&pod.replace("app: web", "app: none")).expect("the CLI applies");
    let deadline = Instant::now() + Duration::from_secs(5);
    for (way, socket) in sockets {
        while socket.exchange(b"after").unwrap_or_else(|error| panic!("{way}: {error}")).pod == DYING {
            assert!(Instant::now() < deadline, "{way}: still at a pod that is none of its Service");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_backend_that_returns_is_used_again() {
    needs_datapath!();
    let mut fixture = Fixture::new(BINARY, Setup::DEMO);
    let address = Place::new("web-2", Node::One, 12);
    assert_eq!(fixture.pod("web-2").expect("runs").place(), &address, "it returns to its own address");
    for round in 0..2 {
        fixture.delete_pod_object("web-2").expect("the CLI deletes");
        fixture.kill_pod("web-2").expect("the pod dies");
        for to in fixture.cluster() {
            let answers = traffic::many(fixture.client(), to, 30);
            assert!(answers.iter().all(|answer| answer.pod != "web-2"), "round {round}");
        }
        fixture.start_pod(address.clone()).expect("the pod returns");
        fixture.wait_for_hooks().expect("its cable is managed");
        fixture.apply(&manifests::pod(&address)).expect("the CLI applies");
        for to in fixture.cluster() {
            let answers = traffic::many(fixture.client(), to, 60);
            assert!(answers.iter().any(|answer| answer.pod == "web-2"), "round {round}: not met");
        }
    }
}
