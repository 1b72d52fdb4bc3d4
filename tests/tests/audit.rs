//! The audit finds what is wrong with the live maps, repairs what it says it does, and finds nothing on a healthy node.

use lb_common::{Flow, FlowKey, Service, ServiceKey, TCP, maps};
use lb_ctl::api::{AuditAnswer, Finding};
use lb_ctl::audit::UNPROMISED;
use lb_ctl::playground::client::Connection;
use lb_ctl::playground::manifests;
use lb_tests::corruption::{self, Chance};
use lb_tests::fixture::{Fixture, Setup, interfaces, node_port};
use lb_tests::{needs_datapath, traffic};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::env;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// How long the churn goes on.
const CHURN: Duration = Duration::from_secs(20);
/// Runs `lb-ctl audit`: its exit code and what it found.
fn audit(fixture: &Fixture, repair: bool) -> (i32, AuditAnswer) {
    let mut command = Command::new(BINARY);
    command.args(["audit", "-o", "json"]).args(repair.then_some("--repair")).arg("--socket").arg(fixture.socket());
    let output = command.output().expect("the CLI runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().expect("an exit code"), answer)
}

/// Connections that are confirmed and then idle, of both families.
fn idle(fixture: &Fixture) -> Vec<Connection> {
    let ways = fixture.cluster().into_iter().chain(node_port());
    let open = |to| {
        let mut connection = fixture.client().connect(to).expect("the Service answers");
        (0..2).for_each(|_| drop(connection.get().expect("the Service answers")));
        connection
    };
    let open: Vec<Connection> = ways.map(open).collect();
    // The last acknowledgement comes late, and would put right what is spoiled before it.
    thread::sleep(Duration::from_millis(300));
    open
}

#[test]
fn every_corruption_of_the_maps_is_found_named_and_repaired() {
    needs_datapath!();
    let seed =
        env::var("LB_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    println!("LB_SEED={seed} repeats this");
    let mut chance = Chance::new(seed);
    let fixture = Fixture::with(BINARY, Setup::DEMO, &["--audit-interval=0", "--cluster-cidr=10.244.0.0/16"]);
    let kept = manifests::numbers().replace("  selector:", "  sessionAffinity: ClientIP\n  selector:");
    fixture.apply(&kept).expect("the CLI applies");
    let everything = corruption::chosen(&mut chance, env::var_os("LB_FULL").is_some());
    assert!(everything.len() >= 20, "{} corruptions", everything.len());
    let spoiled: BTreeSet<&str> = everything.iter().map(|corruption| corruption.map).chain(UNPROMISED).collect();
    assert_eq!(spoiled, maps::MAPS.iter().map(|map| map.name).collect(), "every map is spoiled");

    assert_eq!(audit(&fixture, false).0, 0, "nothing is wrong at first");
    for corruption in &everything {
        let what = format!("LB_SEED={seed}: {} {}", corruption.map, corruption.kind);
        let connections = idle(&fixture);
        let object = (corruption.spoil)(&fixture, &mut chance);
        let (code, answer) = audit(&fixture, true);
        assert_eq!(code, 1, "{what}: {answer:?}");
        let is_it = |finding: &&Finding| {
            finding.invariant == corruption.invariant.name()
                && finding.map == corruption.map
                && (finding.object.contains(&object) || finding.detail.contains(&object))
        };
        let finding = answer.findings.iter().find(is_it);
        let finding = finding.unwrap_or_else(|| panic!("{what}: nothing about {object:?} in {:#?}", answer.findings));
        println!("{what}: {}: {}", finding.object, finding.detail);
        assert_eq!(finding.repaired, corruption.is_repaired, "{what}: {answer:#?}");
        assert_eq!(corruption.is_repaired, !corruption.invariant.repair().is_empty(), "{what}: as documented");
        if !corruption.is_repaired {
            corruption.put_back(&fixture);
        }
        let (code, answer) = audit(&fixture, false);
        assert_eq!(code, 0, "{what}: {answer:#?}");
        traffic::one_each(&fixture).unwrap_or_else(|error| panic!("{what}: {error}"));
        drop(connections);
    }
}

#[test]
fn a_lost_half_of_a_connection_is_made_again() {
    needs_datapath!();
    let fixture = Fixture::with(BINARY, Setup::DEMO, &["--audit-interval=0"]);
    let mut connections = idle(&fixture);
    let replies: Vec<_> =
        fixture.flows::<[u8; 4]>(maps::FLOWS4).into_iter().filter(|(_, flow)| flow.is_reply()).collect();
    assert!(replies.len() >= 2, "{replies:?}");
    for (key, _) in &replies {
        assert!(fixture.flow_table::<[u8; 4]>(maps::FLOWS4).delete(key).expect("a table"));
    }
    let (code, answer) = audit(&fixture, true);
    assert_eq!((code, answer.findings.len()), (1, replies.len()), "{answer:#?}");
    let now = fixture.flows::<[u8; 4]>(maps::FLOWS4);
    for (key, lost) in &replies {
        let (_, made) = now.iter().find(|(other, _)| other == key).expect("it is there again");
        assert_eq!(
            (made.src, made.dst, made.src_port, made.dst_port),
            (lost.src, lost.dst, lost.src_port, lost.dst_port)
        );
        assert_eq!(
            (made.address_delta, made.port_delta, made.backend),
            (lost.address_delta, lost.port_delta, lost.backend)
        );
    }
    for connection in &mut connections {
        connection.get().expect("the connection lives on");
    }
    assert_eq!(audit(&fixture, false).0, 0);
}

#[test]
fn what_a_former_daemon_left_is_no_finding() {
    needs_datapath!();
    let mut fixture = Fixture::with(BINARY, Setup::DEMO, &["--audit-interval=0"]);
    fixture.apply(&manifests::numbers()).expect("the CLI applies");
    let mut connections = idle(&fixture);
    // Its id is given back, and nobody of the next daemon knows that it was ever given out.
    fixture.cli(&["delete", "service", manifests::NUMBERS, "-n", "playground"], "").expect("the CLI deletes");
    fixture.end_daemon(Signal::SIGKILL).expect("the daemon is killed");
    fixture.start_daemon(&interfaces(Setup::DEMO)).expect("the next daemon starts");
    let (code, answer) = audit(&fixture, true);
    assert_eq!(code, 0, "{answer:#?}");
    for connection in &mut connections {
        connection.get().expect("the connection lives on");
    }
}

#[test]
fn the_daemon_repairs_by_itself_and_says_so() {
    needs_datapath!();
    let fixture = Fixture::with(BINARY, Setup::DEMO, &["--audit-interval=1"]);
    for (key, _) in fixture.entries::<ServiceKey, Service>(maps::SERVICES) {
        fixture.delete::<_, Service>(maps::SERVICES, &key);
    }
    let deadline = Instant::now() + Duration::from_secs(15);
    while traffic::one_each(&fixture).is_err() {
        assert!(Instant::now() < deadline, "the Service does not come back: {}", fixture.log());
        thread::sleep(Duration::from_millis(100));
    }
    // The round that repaired ends a little later.
    let audited = loop {
        let audited = fixture.status().expect("the daemon answers").audit;
        if audited.repaired > 0 || Instant::now() > deadline {
            break audited;
        }
        thread::sleep(Duration::from_millis(100));
    };
    assert!(audited.found > 0 && audited.found == audited.repaired, "{audited:?}");
    assert!(audited.latest.iter().all(|finding| finding.invariant == "services"), "{audited:?}");
    assert!(fixture.log().contains("the audit found: it is missing"), "{}", fixture.log());
}

/// A Service that comes and goes, with these of the pods behind it.
fn passing(number: u64, ready: bool) -> String {
    let name = number % 5;
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{ name: passing-{name}, namespace: playground }}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  sessionAffinity: {}
  selector: {{ app: web }}
  ports:
  - {{ name: a, port: 80, targetPort: 8080 }}
  - {{ name: b, port: 53, targetPort: 8080, protocol: UDP }}
---
apiVersion: v1
kind: Service
metadata: {{ name: slices, namespace: playground }}
spec: {{ ports: [{{ port: 80, targetPort: 8080 }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: slices-1, namespace: playground, labels: {{ kubernetes.io/service-name: slices }} }}
addressType: IPv4
ports: [{{ port: 8080 }}]
endpoints:
- addresses: [\"10.244.9.{}\"]
  conditions: {{ ready: {ready} }}
- addresses: [\"10.244.9.{}\"]
",
        if ready { "ClientIP" } else { "None" },
        number % 200 + 1,
        (number + 1) % 200 + 1,
    )
}

#[test]
fn nothing_is_found_while_services_endpoints_and_connections_come_and_go() {
    needs_datapath!();
    let fixture = Fixture::with(BINARY, Setup::DEMO, &["--audit-interval=1"]);
    let (over, asked, applied) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (fixture, over) = (&fixture, &over);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                fixture.apply(&passing(number, number % 2 == 0)).expect("the CLI applies");
                if number % 3 == 2 {
                    let name = format!("passing-{}", number % 5);
                    fixture.cli(&["delete", "service", &name, "-n", "playground"], "").expect("the CLI deletes");
                }
                applied.fetch_add(1, Ordering::Relaxed);
            }
        });
        for to in fixture.cluster().into_iter().chain(node_port()) {
            let asked = &asked;
            scope.spawn(move || {
                let mut held = Vec::new();
                for number in 0usize.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let mut connection = fixture.client().connect(to).expect("the Service answers");
                    connection.get().expect("the Service answers");
                    // Some end, some stay and are used again.
                    if number % 4 == 0 {
                        held.push(connection);
                    }
                    if let Some(place) = number.checked_rem(held.len()) {
                        held[place].get().expect("the connection lives on");
                    }
                    held.truncate(50);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let deadline = Instant::now() + CHURN;
        let mut audits = 0;
        let clean = loop {
            let (code, answer) = audit(fixture, false);
            if code != 0 || Instant::now() > deadline {
                break (code, answer);
            }
            audits += 1;
            thread::sleep(Duration::from_millis(200));
        };
        over.store(true, Ordering::Relaxed);
        assert_eq!(clean.0, 0, "after {audits} audits: {:#?}", clean.1);
        assert!(audits > 3, "only {audits} audits");
    });
    // In the background a round over so many entries takes its time.
    let deadline = Instant::now() + 3 * CHURN;
    let audited = loop {
        let audited = fixture.status().expect("the daemon answers").audit;
        if audited.rounds > 0 || Instant::now() > deadline {
            break audited;
        }
        thread::sleep(Duration::from_millis(200));
    };
    let (asked, applied) = (asked.into_inner(), applied.into_inner());
    println!("{asked} connections, {applied} changes, {} rounds in the background", audited.rounds);
    assert!(asked > 500 && applied > 20 && audited.rounds > 0, "{asked} {applied} {audited:?}");
    assert_eq!(audited.found, 0, "{audited:#?}");
}

/// Confirmed connections of a client with so many ports, made of one that there is.
fn multiply(fixture: &Fixture, count: u16) {
    let all = fixture.flows::<[u8; 4]>(maps::FLOWS4);
    let (key, flow) =
        all.iter().find(|(_, flow)| !flow.is_reply() && flow.flags & Flow::<[u8; 4]>::SNAT == 0).expect("a flow");
    let (_, reply) = all.iter().find(|(other, _)| *other == flow.partner(TCP)).expect("its other direction");
    let flows = fixture.flow_table::<[u8; 4]>(maps::FLOWS4);
    for port in 1..=count {
        let port = port.to_be_bytes();
        let (key, flow) = (FlowKey { src_port: port, ..*key }, Flow { src_port: port, ..*flow });
        flows.set(&key, &flow).expect("room for a flow");
        flows.set(&flow.partner(TCP), &Flow { dst_port: port, ..*reply }).expect("room for a flow");
    }
}

#[test]
fn a_round_costs_little_for_each_entry_and_waits_between_its_pieces() {
    needs_datapath!();
    let fixture = Fixture::with(BINARY, Setup::DEMO, &["--audit-interval=1"]);
    // One at least is with a pod of this node, whose client keeps its address.
    let _connections: Vec<_> = (0..5).flat_map(|_| idle(&fixture)).collect();
    let service = |number: u32| {
        format!(
            "---
apiVersion: v1
kind: Service
metadata: {{ name: many-{number}, namespace: playground }}
spec: {{ ipFamilyPolicy: RequireDualStack, selector: {{ app: web }}, ports: [{{ port: 80, targetPort: 8080 }}] }}
"
        )
    };
    let services = (0..300).map(service).collect::<Vec<_>>().concat();
    fixture.apply(&services).expect("the CLI applies");
    multiply(&fixture, 8000);
    let (code, answer) = audit(&fixture, false);
    assert_eq!(code, 0, "{answer:#?}");
    assert!(answer.entries > 16_000, "{answer:?}");
    let each = answer.busy_micros as f64 / answer.entries as f64;
    println!("{} entries in {} ms: {each:.2} us each", answer.entries, answer.busy_micros / 1000);
    // A code without optimization takes several times as long as one with.
    assert!(each < 60.0, "{each} us for an entry");

    let rounds = || fixture.status().expect("the daemon answers").audit;
    let begun = Instant::now();
    let first = rounds().rounds;
    while rounds().rounds < first + 2 && begun.elapsed() < Duration::from_mins(2) {
        thread::sleep(Duration::from_millis(200));
    }
    let audited = rounds();
    assert!(audited.rounds >= first + 2 && audited.found == 0, "{audited:?}");
    // The whole of the second round lies in this time, and its pauses are 49 times its work.
    let share = audited.busy_micros as f64 / begun.elapsed().as_micros() as f64;
    println!("{:.2}% of one CPU in the background", share * 100.0);
    assert!(share < 0.03, "{share}");
}
