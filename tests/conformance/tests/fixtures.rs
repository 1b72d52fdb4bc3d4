//! The fixtures against the programs: they fail where a list says that something is missing, and nowhere else.

use lb_conformance::environment::Environment;
use lb_conformance::node::Under;
use lb_conformance::packet::{Ends, Outcome, Turn};
use lb_conformance::report::Report;
use lb_conformance::run;
use lb_conformance::schema::{ClientKind, NodeState, Protocol};
use lb_tests::needs_datapath;
use serde_json::json;
use serde_yaml::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Set to anything, it takes out of the list what does not fail any more. Nothing ever puts a line in.
const UPDATE: &str = "LB_UPDATE_MISSING";

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lb-conformance"))
}

fn run_fixtures(under: Under) -> Report {
    let files = run::files(&[here("fixtures")]).expect("fixtures");
    run::run(&files, binary(), under).expect("a node")
}

#[test]
fn what_fails_is_what_is_known_to_be_missing() {
    needs_datapath!();
    let report = run_fixtures(Under::Test);
    println!("{report}");
    let path = here("missing.txt");
    let list = fs::read_to_string(&path).expect("a list");
    let known: BTreeSet<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
    let failed: BTreeSet<&str> = report.failed.keys().map(String::as_str).collect();
    let new: Vec<_> = failed.difference(&known).collect();
    assert!(new.is_empty(), "these failed, and are not known to: {new:#?}");
    let stale: BTreeSet<_> = known.difference(&failed).copied().collect();
    if env::var_os(UPDATE).is_some() {
        let rest: Vec<&str> = list.lines().filter(|line| !stale.contains(line)).collect();
        fs::write(&path, rest.join("\n") + "\n").expect("a list");
        return;
    }
    assert!(stale.is_empty(), "these do not fail any more: {UPDATE}=1 takes them off missing.txt: {stale:#?}");
}

/// How many things a step, or a case without steps, expects of programs that pass everything and of a node that listens on
/// nothing; and how many it expects in all.
fn expected_of_nothing(step: &Value) -> (usize, usize) {
    let list = |name: &str| step[name].as_sequence().cloned().unwrap_or_default();
    let flows: Vec<Value> = list("flows").into_iter().filter(|flow| flow["level"] == "must").collect();
    let passed = |flow: &&Value| flow["expect"]["verdict"] == "passthrough" || flow["expect"]["verdict"] == "local";
    let untouched = |entry: &&Value| entry["reply_sport"].is_null() && entry["expect"] == "keep";
    let (probes, entries) = (list("probes"), list("entries"));
    // What asks the daemon is answered by the daemon, whatever the programs do.
    let met = flows.iter().filter(passed).count() + probes.len() + entries.iter().filter(untouched).count();
    (met, flows.len() + probes.len() + entries.len())
}

#[test]
fn programs_that_pass_everything_fail_everything_else() {
    needs_datapath!();
    let report = run_fixtures(Under::Doubt);
    let (mut met, mut all) = (0, 0);
    for file in run::files(&[here("fixtures")]).expect("fixtures") {
        let file: Value = serde_yaml::from_str(&fs::read_to_string(file).expect("a file")).expect("YAML");
        // Questions are answered by the daemon, whatever the programs do.
        let names = file["groups"].as_sequence().into_iter().flatten();
        let queries = names.flat_map(|group| group["steps"].as_sequence().into_iter().flatten().chain([group]));
        let queries = queries.flat_map(|step| step["queries"].as_sequence().into_iter().flatten());
        let musts = queries.filter(|query| query["level"] == "must").count();
        let lookups = file["search_expansion"]["cases"].as_sequence().map_or(0, Vec::len);
        (met, all) = (met + musts + lookups, all + musts + lookups);
        let cases = file["cases"].as_sequence().cloned().unwrap_or_default();
        for case in cases.iter().filter(|case| case["level"].is_null()) {
            let steps = case["steps"].as_sequence().cloned().unwrap_or_default();
            for step in steps.iter().chain([case]) {
                let (step_met, step_all) = expected_of_nothing(step);
                (met, all) = (met + step_met, all + step_all);
            }
        }
    }
    assert!(met > 10 && all > 250, "{met} of {all}: does this test still read the fixtures?");
    assert_eq!(report.passed.len(), met, "{:#?}", report.passed);
    assert_eq!(report.failed.len(), all - met);
}

#[test]
fn a_word_that_is_not_of_the_schema_is_named_and_spoils_its_case_alone() {
    needs_datapath!();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("odd.yaml");
    let env = "{this_node: a, nodes: {a: {ips: [192.0.2.1], primary_ips: [192.0.2.1]}}, service_cidrs: [10.96.0.0/16], \
               cluster_pod_cidrs: [], local_detect: none, nodeport_addresses: primary}";
    let flow = "{name: n, from: {kind: external, ip: 198.51.100.7}, to: {ip: 192.0.2.1, port: 1, protocol: TCP}, \
                expect: {verdict: local}}";
    let good = format!("{{id: good, flows: [{flow}]}}");
    let bad = good.replace("good", "bad").replace("port: 1", "prot: 1");
    let text = format!("{{schema: flows/v1, defaults: {{env: {env}}}, cases: [{bad}, {good}]}}");
    fs::write(&path, text).expect("a file");
    fs::write(directory.path().join("later.yaml"), "{schema: validation/v1, cases: [{}, {}]}").expect("a file");
    let files = run::files(&[directory.path().to_owned()]).expect("files");
    let report = run::run(&files, binary(), Under::Test).expect("a node");
    assert_eq!(report.passed, ["odd.yaml good: n"]);
    let (name, why) = report.failed.first_key_value().expect("a failure");
    assert_eq!((name.as_str(), report.failed.len(), report.skipped), ("odd.yaml bad", 1, 2));
    assert!(why.contains("unknown field `prot`"), "{why}");
}

#[test]
fn a_clock_that_is_moved_moves_for_the_programs() {
    needs_datapath!();
    let environment: Value = serde_yaml::from_str(
        "{this_node: a, nodes: {a: {ips: [192.0.2.1], primary_ips: [192.0.2.1]}}, service_cidrs: [10.96.0.0/16], \
         cluster_pod_cidrs: [], local_detect: none, nodeport_addresses: primary}",
    )
    .expect("YAML");
    let environment = Environment::of([&environment, &Value::Null, &Value::Null]).expect("an environment");
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "far"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "far", "labels": {"kubernetes.io/service-name": "far"}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.244.2.1"]}],
    });
    let socket = |text: &str| text.parse().expect("a socket address");
    let ends = Ends { protocol: Protocol::TCP, from: socket("198.51.100.7:1000"), to: socket("10.96.0.1:80") };
    run::on_a_node(binary(), Under::Test, |node| {
        node.begin(&environment, &NodeState::default())?;
        node.apply(&[service, slice])?;
        let Outcome::Forwarded { source, backend } = node.send(ClientKind::External, ends, Turn::Open)? else {
            panic!("not forwarded");
        };
        let reply = Ends { protocol: Protocol::TCP, from: backend, to: source };
        let translated = Outcome::Forwarded { source: ends.to, backend: ends.from };
        assert_eq!(node.answer(reply)?, translated);
        node.wait_until(30.0)?;
        assert_eq!(node.answer(reply)?, translated, "an answered connection that is not confirmed lives for a minute");
        node.wait_until(3600.0)?;
        assert_eq!(node.answer(reply)?, Outcome::Passed, "and no longer");
        Ok(())
    })
    .expect("a node");
}

#[test]
fn probes_are_judged_by_the_answers() {
    needs_datapath!();
    let directory = tempfile::tempdir().expect("a directory");
    let env = "{this_node: a, nodes: {a: {ips: [192.0.2.1], primary_ips: [192.0.2.1]}}, service_cidrs: [10.96.0.0/16], \
               cluster_pod_cidrs: [], local_detect: none, nodeport_addresses: primary}";
    let service = "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: LoadBalancer, ports: [{port: 80}], \
                   externalTrafficPolicy: Local, healthCheckNodePort: 31400}}";
    let slice = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s, labels: \
                 {kubernetes.io/service-name: s}}, addressType: IPv4, ports: [{port: 80}], \
                 endpoints: [{addresses: [10.244.1.1], nodeName: a}]}";
    let probe = |name: &str, url: &str, expect: &str| {
        format!("{{name: {name}, request: {{method: GET, url: 'http://{url}'}}, expect: {{{expect}}}}}")
    };
    let case = |id: &str, state: &str, probes: &[String]| {
        format!("{{id: {id}, {state} manifests: [{service}, {slice}], probes: [{}]}}", probes.join(", "))
    };
    let [check, healthz, livez] = ["192.0.2.1:31400/", "127.0.0.1:10256/healthz", "127.0.0.1:10256/livez"];
    let cases = [
        case(
            "sound",
            "",
            &[
                probe(
                    "right",
                    check,
                    "listening: true, status: 200, headers: {X-Load-Balancing-Endpoint-Weight: '1'}, json: {localEndpoints: 1}",
                ),
                probe("wrong-status", check, "listening: true, status: 503"),
                probe("wrong-weight", check, "listening: true, headers: {X-Load-Balancing-Endpoint-Weight: '2'}"),
                probe("wrong-count", check, "listening: true, json: {localEndpoints: 2}"),
                probe("wrong-silence", check, "listening: false"),
                probe("wrong-port", "192.0.2.1:31401/", "listening: true"),
            ],
        ),
        case(
            "lagging",
            "proxy_healthy: false,",
            &[
                probe(
                    "check",
                    check,
                    "listening: true, status: 503, headers: {X-Load-Balancing-Endpoint-Weight: '1'}, json: {localEndpoints: 1, serviceProxyHealthy: false}",
                ),
                probe("healthz", healthz, "listening: true, status: 503"),
                probe("livez", livez, "listening: true, status: 503"),
            ],
        ),
        case(
            "leaving",
            "node_state: {taints: [ToBeDeletedByClusterAutoscaler]},",
            &[
                probe("healthz", healthz, "listening: true, status: 503, json: {nodeEligible: false}"),
                probe("livez", livez, "listening: true, status: 200"),
            ],
        ),
        case(
            "deleted",
            "node_state: {deletionTimestamp: true},",
            &[
                probe("healthz", healthz, "listening: true, status: 503"),
                probe("livez", livez, "listening: true, status: 200"),
            ],
        ),
        case("staying", "", &[probe("healthz", healthz, "listening: true, status: 200, json: {nodeEligible: true}")]),
    ];
    let text = format!("{{schema: probes/v1, defaults: {{env: {env}}}, cases: [{}]}}", cases.join(", "));
    let path = directory.path().join("p.yaml");
    fs::write(&path, text).expect("a file");
    let report = run::run(&[path], binary(), Under::Test).expect("a node");
    let wrong = ["count", "port", "silence", "status", "weight"].map(|what| format!("p.yaml sound: wrong-{what}"));
    assert_eq!(report.failed.keys().cloned().collect::<Vec<_>>(), wrong, "{:#?}", report.failed);
    assert_eq!((report.passed.len(), report.skipped), (9, 0));
}
