//! What a plan foretells is what then happens to real connections.

use lb_ctl::api::PlanAnswer;
use lb_ctl::api::plan::ServiceChange;
use lb_ctl::playground::client::{Connection, Datagrams};
use lb_ctl::playground::manifests;
use lb_tests::cli::Cli;
use lb_tests::fixture::{Fixture, Setup, node_port, node_port_udp};
use lb_tests::{needs_datapath, traffic};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// Connections of each kind by each way in.
const COUNT: usize = 4;

/// Runs the CLI with `manifests` on its standard input: exit code, output, errors.
fn cli(fixture: &Fixture, arguments: &[&str], manifests: &str) -> (i32, String, String) {
    let said = Cli::new(BINARY, fixture.socket()).run(arguments, manifests);
    (said.code, said.out, said.errors)
}

fn plan(fixture: &Fixture, manifests: &str) -> PlanAnswer {
    let (code, text, errors) = cli(fixture, &["plan", "-o", "json", "-f", "-"], manifests);
    let answer: PlanAnswer = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"));
    assert_eq!(code, i32::from(answer.is_change()), "{text}{errors}");
    answer
}

/// The Pod objects of these names, ready or not.
fn pods(fixture: &Fixture, names: &[&str], ready: bool) -> String {
    let pod = |name: &&str| manifests::pod(fixture.pod(name).expect("runs").place());
    let status = if ready { "status: \"True\"" } else { "status: \"False\"" };
    names.iter().map(pod).collect::<String>().replace("status: \"True\"", status)
}

/// Connections, and the pod that each had last.
struct Held {
    tcp: Vec<(Connection, String)>,
    udp: Vec<(Datagrams, String)>,
}

impl Held {
    fn open(fixture: &Fixture) -> Self {
        let mut held = Self { tcp: Vec::new(), udp: Vec::new() };
        for asker in traffic::askers(fixture) {
            for to in fixture.cluster().into_iter().chain(node_port()) {
                held.tcp.extend((0..COUNT).map(|_| {
                    let mut connection = asker.client.connect(to).expect("the Service answers");
                    let pod = connection.get().expect("the Service answers").pod;
                    (connection, pod)
                }));
            }
            for to in fixture.cluster_udp().into_iter().chain(node_port_udp()) {
                held.udp.extend((0..COUNT).map(|_| {
                    let socket = asker.client.datagrams(to).expect("a socket");
                    let pod = socket.exchange(b"first").expect("the Service answers").pod;
                    (socket, pod)
                }));
            }
        }
        held
    }

    fn len(&self) -> u64 {
        (self.tcp.len() + self.udp.len()) as u64
    }

    /// TCP and UDP connections with one of these pods.
    fn with(&self, pods: &[&str]) -> (u64, u64) {
        let has = |pod: &String| pods.contains(&pod.as_str());
        let tcp = self.tcp.iter().filter(|(_, pod)| has(pod)).count();
        (tcp as u64, self.udp.iter().filter(|(_, pod)| has(pod)).count() as u64)
    }

    /// Uses every connection; how many got another pod, and how many no answer.
    fn use_all(&mut self) -> (u64, u64) {
        let (mut moved, mut ended) = (0, 0);
        for (connection, pod) in &mut self.tcp {
            assert_eq!(connection.get().expect("an established connection lives on").pod, *pod, "TCP never moves");
        }
        for (socket, pod) in &mut self.udp {
            match socket.exchange(b"again") {
                Ok(answer) => {
                    moved += u64::from(answer.pod != *pod);
                    *pod = answer.pod;
                }
                Err(_) => ended += 1,
            }
        }
        (moved, ended)
    }
}

#[test]
fn what_a_plan_foretells_of_connections_is_what_happens_to_them() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    assert_eq!(cli(&fixture, &["plan"], ""), (0, "Nothing to change.\n".to_owned(), String::new()));
    let mut held = Held::open(&fixture);

    // One of three pods goes.
    let change = pods(&fixture, &["web-1"], false);
    let foretold = plan(&fixture, &change);
    let [web] = foretold.services.as_slice() else { panic!("{foretold:?}") };
    assert_eq!((web.name.as_str(), web.change), ("web", ServiceChange::Changed));
    assert_eq!((web.endpoints.before, web.endpoints.after, web.endpoints.removed), (6, 4, 2), "of both families");
    let (tcp, udp) = held.with(&["web-1"]);
    assert!(tcp > 0 && udp > 0);
    let told = web.connections;
    assert_eq!((told.total, told.moving, told.lingering, told.ending), (held.len(), udp, tcp, 0));
    assert_eq!(held.use_all(), (0, 0), "a plan moves nothing");
    fixture.apply(&change).expect("the CLI applies");
    assert_eq!(held.use_all(), (told.moving, told.ending));
    assert_eq!(cli(&fixture, &["plan"], "").0, 0, "nothing is left to do");

    // The others go too, and the Service has none.
    let change = pods(&fixture, &["web-2", "web-3"], false);
    let told = plan(&fixture, &change).connections;
    // Those of the first pod lost it before.
    let (tcp, _) = held.with(&["web-2", "web-3"]);
    assert_eq!((told.moving, told.lingering, told.ending), (0, tcp, held.udp.len() as u64));
    fixture.apply(&change).expect("the CLI applies");
    assert_eq!(held.use_all(), (0, told.ending));

    // And all come back: whoever had none has one at once.
    let change = pods(&fixture, &["web-1", "web-2", "web-3"], true);
    assert!(plan(&fixture, &change).services[0].slots_moved.is_none(), "there was nothing to move from");
    fixture.apply(&change).expect("the CLI applies");
    assert_eq!(held.use_all().1, 0, "every UDP client is answered again");
}

#[test]
fn a_plan_is_exact_about_maps_and_its_exit_code_says_what_it_found() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let service = "---
apiVersion: v1
kind: Service
metadata: { name: extra, namespace: playground }
spec: { type: NodePort, selector: { app: nobody }, ports: [{ port: 80, protocol: UDP }, { port: 81, targetPort: none, name: b }] }
"
    .replace("{ port: 80, protocol: UDP }", "{ port: 80, protocol: UDP, name: a }");
    let told = plan(&fixture, &service);
    assert!(told.warnings.iter().any(|warning| warning.contains("app=nobody")), "{:?}", told.warnings);
    let (code, text, errors) = cli(&fixture, &["apply", "--plan", "-f", "-"], &service);
    assert_eq!(code, 1);
    assert!(
        text.contains("playground/extra") && errors.contains("Warning: service playground/extra"),
        "{text}{errors}"
    );
    fixture.apply(&service).expect("the CLI applies");
    let used = fixture.status().expect("the daemon answers").maps;
    for map in &told.maps {
        let Some(now) = used.iter().find(|fill| fill.name == map.name) else { continue };
        assert_eq!((now.used, now.capacity), (map.entries_after as u64, map.capacity), "{}", map.name);
    }
    assert!(!plan(&fixture, &service).is_change());

    let bad = service.replace("port: 80,", "port: eighty,");
    let (code, _, errors) = cli(&fixture, &["plan", "-f", "-"], &bad);
    assert_eq!(code, 2);
    assert!(errors.contains("stdin:5:"), "{errors}");
    assert_eq!(cli(&fixture, &["apply", "--plan"], "").0, 2, "no manifests are named");
}

#[test]
fn a_plan_knows_what_weights_and_tables_move() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let mut held = Held::open(&fixture);

    // With no weight a pod keeps what it has, and gets nothing new.
    let weightless =
        pods(&fixture, &["web-1"], true).replace("  labels:", "  annotations: {lb-ctl/weight: \"0\"}\n  labels:");
    let told = plan(&fixture, &weightless);
    let [web] = told.services.as_slice() else { panic!("{told:?}") };
    assert_eq!((web.connections.moving, web.connections.lingering, web.connections.ending), (0, 0, 0));
    // Of three places in the set the first goes: half of the second's and all of the third's new connections stay.
    assert!((web.slots_moved.expect("a share") - 0.5).abs() < 1e-9, "{:?}", web.slots_moved);
    fixture.apply(&weightless).expect("the CLI applies");
    assert_eq!(held.use_all(), (0, 0));

    // A table is hashed with another key: who stays does so by chance.
    let tables = manifests::cluster()
        .replace("metadata:\n  name: web\n", "metadata:\n  name: web\n  annotations: {lb-ctl/algorithm: maglev}\n");
    let told = plan(&fixture, &tables);
    assert!((told.services[0].slots_moved.expect("a share") - 0.5).abs() < 0.01, "{:?}", told.services[0].slots_moved);
    fixture.apply(&tables).expect("the CLI applies");
    assert_eq!(held.use_all(), (0, 0), "an algorithm moves no connection");

    // The third backend takes its share of the table, and little else moves.
    let back = pods(&fixture, &["web-1"], true);
    let share = plan(&fixture, &back).services[0].slots_moved.expect("a share");
    assert!((share - 1.0 / 3.0).abs() < 0.02, "{share}");
}
