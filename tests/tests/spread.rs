//! How connections spread over pods, and that the datapath's counters tell what the clients saw.

use lb_ctl::playground::echo::Answer;
use lb_tests::fixture::{Fixture, Setup, node_port};
use lb_tests::statistics::p_value_of_evenness;
use lb_tests::traffic::PODS;
use lb_tests::{needs_datapath, traffic};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

fn counts(answers: &[Answer]) -> Vec<u64> {
    PODS.iter().map(|pod| answers.iter().filter(|answer| answer.pod == *pod).count() as u64).collect()
}

#[test]
fn a_thousand_connections_spread_evenly_and_are_counted() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let mut all = 0;
    for to in fixture.cluster().into_iter().chain(node_port()) {
        let answers = traffic::many(fixture.client(), to, 1000);
        let counts = counts(&answers);
        let p = p_value_of_evenness(&counts);
        let seed = fixture.seed();
        eprintln!("{to}: {PODS:?} answered {counts:?}: p = {p:.3}, seed {seed:#018x}");
        if p < 1e-6 {
            let ports: Vec<(u16, &str)> = answers.iter().map(|answer| (answer.port, answer.pod.as_str())).collect();
            panic!("{to}: {counts:?} with seed {seed:#018x} has p = {p:e}; client ports: {ports:?}");
        }
        all += 1000;
        assert_eq!(fixture.counted("http"), all, "connections to {to}");
    }
}
