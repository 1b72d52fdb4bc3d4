//! What is told to Prometheus, against what really happened to real packets; and dashboard and alerts against what is told.

#![expect(clippy::float_cmp, reason = "what is counted is whole, and a scrape tells it so")]

use lb_ctl::figures::metrics::Metric;
use lb_ctl::playground::topology::Node;
use lb_tests::fixture::{Fixture, Setup};
use lb_tests::metrics::{ADDRESS, ARGUMENT, FILES, Scrape, ask, file, metric_of, named};
use lb_tests::{needs_datapath, privilege};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io::Write as _};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;

fn fixture(arguments: &[&str]) -> Fixture {
    let arguments: Vec<&str> = arguments.iter().copied().chain([ARGUMENT]).collect();
    Fixture::with(BINARY, Setup::DEMO, &arguments)
}

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Runs promtool with this input; `None`: there is none.
fn promtool(arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let mut command = Command::new(privilege::promtool()?);
    command.args(arguments).current_dir(file("packaging/prometheus"));
    let mut process =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("promtool starts");
    // One that wants no input closes it.
    process.stdin.take().expect("piped").write_all(input.as_bytes()).ok();
    let output = process.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn counters_move_by_exactly_what_was_sent() {
    needs_datapath!();
    let fixture = fixture(&[]);
    let to = fixture.cluster_udp()[0];
    let before = Scrape::of(&fixture);
    let (mut sent, mut received, mut count) = (0, 0, 0);
    for payload in [1, 100, 999] {
        let exchange = || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            socket.connect(to).expect("connected");
            let mut buffer = [0; 4096];
            (0..4)
                .map(|_| {
                    assert_eq!(socket.send(&vec![b'x'; payload]).expect("sent"), payload);
                    socket.recv(&mut buffer).expect("an answer")
                })
                .sum::<usize>()
        };
        received += fixture.client_space().run(exchange).expect("the namespace is entered") + 4 * HEADERS;
        sent += 4 * (payload + HEADERS);
        count += 4;
    }
    let after = Scrape::of(&fixture);
    let moved = |name: &str, labels: &[&str]| (after.sum(name, labels) - before.sum(name, labels)) as usize;
    let port = [r#"namespace="playground""#, r#"service="web""#, r#"port="echo""#, r#"protocol="UDP""#];
    let with = |label| [&port[..], &[label]].concat();
    let (request, reply) = (r#"direction="request""#, r#"direction="reply""#);
    assert_eq!(moved("lbctl_service_connections_total", &port), 3);
    assert_eq!(moved("lbctl_service_packets_total", &with(request)), count);
    assert_eq!(moved("lbctl_service_packets_total", &with(reply)), count);
    assert_eq!(moved("lbctl_service_bytes_total", &with(request)), sent);
    assert_eq!(moved("lbctl_service_bytes_total", &with(reply)), received);
    // The same by who answered, and by why.
    assert_eq!(moved("lbctl_backend_connections_total", &[r#"pod="playground/web-"#]), 3);
    assert_eq!(moved("lbctl_backend_packets_total", &[request]), count);
    assert_eq!(moved("lbctl_backend_bytes_total", &[request]), sent);
    assert_eq!(moved("lbctl_backend_bytes_total", &[reply]), received);
    assert_eq!(moved("lbctl_packets_total", &[r#"reason="forwarded""#, r#"fate="passed""#]), count);
    assert_eq!(moved("lbctl_packets_total", &[r#"reason="replied""#]), count);
    assert_eq!(moved("lbctl_bytes_total", &[r#"reason="forwarded""#]), sent);
    assert_eq!(moved("lbctl_packets_total", &[r#"fate="dropped""#]), 0);
    let others = [r#"service="web""#, r#"port="http""#];
    assert_eq!(moved("lbctl_service_packets_total", &others), 0);
    // What does not arrive stands under its reason.
    let nowhere = SocketAddr::new(to.ip(), 4242);
    let knock = || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        for _ in 0..5 {
            socket.send_to(b"anybody?", nowhere).expect("sent");
        }
    };
    fixture.client_space().run(knock).expect("the namespace is entered");
    let last = Scrape::of(&fixture);
    let moved = |labels: &[&str]| last.sum("lbctl_packets_total", labels) - after.sum("lbctl_packets_total", labels);
    assert_eq!(moved(&[r#"reason="no-service-port""#, r#"fate="dropped""#]), 5.0);
    assert_eq!(moved(&[r#"fate="dropped""#]), 5.0);
    assert_eq!((before.went_down(&after), after.went_down(&last)), (vec![], vec![]));
    assert_eq!(last.sum("lbctl_service_endpoints", &with(r#"state="used""#)), 6.0, "three pods of both families");
}

#[test]
fn a_scrape_tells_what_dashboard_and_alerts_name_and_all_that_is_documented() {
    needs_datapath!();
    let fixture = fixture(&["--dns=127.0.0.1:5353"]);
    // What the sweeper counts is known once it has been round.
    let known = || !Scrape::of(&fixture).sum("lbctl_map_max_entries", &[r#"map="FLOWS6""#]).eq(&0.0);
    until("the sweeper has been round", known);
    let scrape = Scrape::of(&fixture);
    let documented: BTreeSet<&str> = Metric::ALL.iter().map(|metric| metric.name()).collect();
    assert_eq!(scrape.names(), documented);
    for path in FILES {
        let text = fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let named = named(&text);
        assert!(named.len() > 10, "{path}: is this test still reading it?");
        for name in named {
            assert!(metric_of(name).is_some(), "{path} names {name}, which is no metric");
            let series = scrape.all(name, &[]).count();
            assert!(series > 0, "{path} names {name}, which the scrape does not have");
        }
    }
    let Some((is_good, said)) = promtool(&["check", "metrics"], &scrape.text) else { return };
    assert!(is_good, "{said}");
}

#[test]
fn the_alert_rules_are_sound_and_fire_when_they_should() {
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]] {
        let Some((is_good, said)) = promtool(&arguments, "") else { return };
        assert!(is_good, "{said}");
    }
}

#[test]
fn every_panel_of_the_dashboard_asks_what_prometheus_understands() {
    let text = fs::read_to_string(file(FILES[0])).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let expressions: Vec<&str> = targets.filter_map(|target| target["expr"].as_str()).collect();
    assert!(expressions.len() > 30, "is this test still reading it?");
    // As recording rules they are parsed in full; the dashboard's variables are filled in first.
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (number, expression) in expressions.iter().enumerate() {
        let filled = expression.replace("$__rate_interval", "5m");
        let filled = ["$node", "$namespace", "$service"].iter().fold(filled, |text, name| text.replace(name, ".*"));
        assert!(!filled.contains('$'), "{expression} names a variable that nobody fills in");
        writeln!(rules, "  - {{ record: panel:{number}, expr: '{filled}' }}").expect("a String takes all");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("dashboard.yaml");
    fs::write(&path, rules).expect("written");
    let Some((is_good, said)) = promtool(&["check", "rules", path.to_str().expect("UTF-8")], "") else { return };
    assert!(is_good, "{said}");
}

#[test]
fn a_change_is_timed_and_readiness_is_told() {
    needs_datapath!();
    let fixture = fixture(&["--metrics-detail=service", "--metrics-limit=2"]);
    assert_eq!(ask(&fixture, "/readyz"), (200, r#"{"synced":true,"programmed":true,"attached":true}"#.to_owned()));
    assert_eq!(["/healthz", "/livez", "/nothing"].map(|path| ask(&fixture, path).0), [200, 200, 404]);
    let before = Scrape::of(&fixture);
    assert_eq!(before.all("lbctl_backend_packets_total", &[]).count(), 0, "there is less detail");
    let service = "{apiVersion: v1, kind: Service, metadata: {name: another, namespace: playground}, \
                   spec: {ports: [{port: 80}]}}";
    fixture.apply(service).expect("the CLI applies");
    let after = Scrape::of(&fixture);
    let moved = |name: &str| after.sum(name, &[]) - before.sum(name, &[]);
    assert_eq!(moved("lbctl_change_delay_seconds_count"), 1.0);
    let seconds = moved("lbctl_change_delay_seconds_sum");
    assert!(seconds > 0.0 && seconds < 1.0, "{seconds}");
    assert!(moved("lbctl_map_writes_total") >= 2.0);
    fixture.apply(service).expect("the CLI applies");
    let again = Scrape::of(&fixture);
    let count = |scrape: &Scrape| scrape.sum("lbctl_change_delay_seconds_count", &[]);
    assert_eq!(count(&again), count(&after), "nothing was to be written");
    // There is room for two names, and web had both.
    let names = |told: &str| again.sum("lbctl_metrics_names", &[r#"of="service""#, told]);
    assert_eq!((names(r#"told="by name""#), names(r#"told="(others)""#)), (2.0, 1.0));
    assert_eq!(again.all("lbctl_service_connections_total", &[r#"service="web""#]).count(), 2);
    assert_eq!(again.all("lbctl_service_connections_total", &[r#"service="another""#]).count(), 0);
    assert_eq!(again.all("lbctl_service_connections_total", &[r#"service="(others)""#]).count(), 1);
    // Without an address nobody listens.
    let free = fixture.node_space(Node::Two).run(|| std::net::TcpStream::connect(ADDRESS).is_err());
    assert!(free.expect("the namespace is entered"));
}

#[test]
fn new_flows_are_counted_and_their_evictions_noticed() {
    needs_datapath!();
    let fixture = fixture(&["--max-flows=1024"]);
    let to = fixture.cluster_udp()[0];
    let entries = |scrape: &Scrape| scrape.sum("lbctl_map_evictable_entries", &[r#"map="FLOWS4""#]);
    let evicted = |scrape: &Scrape| scrape.sum("lbctl_map_evictions_total", &[r#"map="FLOWS4""#]);
    let flood = |sockets: usize| {
        let flood = || {
            for _ in 0..sockets {
                UdpSocket::bind("0.0.0.0:0").expect("a socket").send_to(b"x", to).expect("sent");
            }
        };
        fixture.client_space().run(flood).expect("the namespace is entered");
    };
    flood(200);
    // Two entries for each; some sockets may have had the port of an earlier one.
    until("entries are counted", || {
        let scrape = Scrape::of(&fixture);
        let connections = scrape.sum("lbctl_service_connections_total", &[r#"port="echo""#]);
        let counted = entries(&scrape);
        counted > connections && counted <= 2.0 * connections && connections > 150.0
    });
    std::thread::sleep(Duration::from_secs(3));
    let quiet = Scrape::of(&fixture);
    assert_eq!(evicted(&quiet), 0.0, "nothing was pushed out");
    // Of all its places, flows that are confirmed are sure of half.
    let capacity = 2.0 * quiet.sum("lbctl_map_max_entries", &[r#"map="FLOWS4""#]);
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        flood(500);
        std::thread::sleep(Duration::from_millis(50));
    }
    until("the evictions are counted", || evicted(&Scrape::of(&fixture)) > 0.0);
    let after = Scrape::of(&fixture);
    let inserted = 2.0 * after.sum("lbctl_service_connections_total", &[r#"port="echo""#]);
    let pushed_out = inserted - entries(&after);
    println!(
        "{inserted} entries were made, {pushed_out} pushed out of {capacity}, {} by the estimate",
        evicted(&after)
    );
    assert!(inserted > 2.0 * capacity, "it was a flood");
    // No more than the whole table can be missed in a second, so a flood this quick is underestimated.
    assert!(evicted(&after) < 1.5 * pushed_out, "it is an estimate that does not exaggerate");
    // How often it was looked at is the machine's business: once a second at best, and less of what came between.
    assert!(evicted(&after) > capacity / 8.0, "a good part of the table was pushed out, and that is seen");
    assert_eq!(quiet.went_down(&after), Vec::<&String>::new());
}

/// Services in a run that may take its time, and in one that may not.
const MANY: u32 = 10_000;
const SOME: u32 = 1000;

#[test]
fn a_scrape_of_many_services_stays_cheap() {
    needs_datapath!();
    let count = if std::env::var_os("LB_FULL").is_some() { MANY } else { SOME };
    let fixture = fixture(&["--max-flows=131072", "--metrics-limit=20000"]);
    let mut manifests = String::new();
    for number in 0..count {
        writeln!(
            manifests,
            "---
{{apiVersion: v1, kind: Service, metadata: {{name: s-{number}, namespace: many}}, spec: {{ports: [{{port: 80}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: s-{number}, namespace: many, labels: {{ kubernetes.io/service-name: s-{number} }} }}
addressType: IPv4
ports: [{{ port: 8080 }}]
endpoints: [{{ addresses: [10.201.{}.{}] }}]",
            number >> 8,
            number & 255
        )
        .expect("a String takes all");
    }
    fixture.apply(&manifests).expect("the CLI applies");
    let first = Scrape::of(&fixture);
    let mut times = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        let (status, text) = ask(&fixture, "/metrics");
        times.push(began.elapsed());
        assert_eq!((status, text.lines().count()), (200, first.text.lines().count()));
    }
    times.sort();
    let last = Scrape::of(&fixture);
    let cpu = (last.sum("process_cpu_seconds_total", &[]) - first.sum("process_cpu_seconds_total", &[])) / 6.0;
    println!(
        "{count} Services and endpoints: {} series, {} bytes, {:?} in the middle of {times:?}, {:.1} ms of CPU",
        last.text.lines().filter(|line| !line.starts_with('#')).count(),
        last.text.len(),
        times[2],
        cpu * 1e3
    );
    assert_eq!(last.all("lbctl_service_connections_total", &[r#"namespace="many""#]).count(), count as usize);
    // Not a millisecond for each Service, even where the code is not optimized and the machine is busy.
    assert!(times[2] < Duration::from_millis(count.into()), "{times:?}");
    // Meanwhile a change is as quick as ever.
    let began = Instant::now();
    fixture.apply("{apiVersion: v1, kind: Namespace, metadata: {name: one-more}}").expect("the CLI applies");
    println!("a change takes {:?}", began.elapsed());
}
