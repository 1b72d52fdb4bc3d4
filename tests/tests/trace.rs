//! A trace tells what then happens to real packets, and why what does not arrive does not.

use lb_ctl::api::trace::TraceAnswer;
use lb_ctl::playground::manifests;
use lb_ctl::playground::topology::Node;
use lb_tests::fixture::{Fixture, Setup, node_port};
use lb_tests::{frames, needs_datapath, traffic};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// Connections by each way in.
const COUNT: usize = 2;

/// Runs `lb-ctl trace`: exit code, output, errors.
fn cli(fixture: &Fixture, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(BINARY);
    let output = command.arg("trace").args(arguments).arg("--socket").arg(fixture.socket()).output();
    let output = output.expect("the CLI ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr))
}

fn trace(fixture: &Fixture, from: SocketAddr, to: &str) -> TraceAnswer {
    let (code, text, errors) = cli(fixture, &["--from", &from.to_string(), "--to", to, "-o", "json"]);
    let answer: TraceAnswer = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"));
    assert_eq!(code, i32::from(!answer.forwarded), "{text}{errors}");
    answer
}

/// The pod that was picked.
fn picked(answer: &TraceAnswer) -> String {
    let choices = answer.hooks.iter().flat_map(|hook| &hook.steps).flat_map(|step| &step.choices);
    let picked: Vec<_> = choices.filter(|choice| choice.picked).collect();
    assert!(!picked.is_empty(), "{answer:#?}");
    picked.last().and_then(|choice| choice.pod.clone()).expect("the pod is known")
}

#[test]
fn a_trace_picks_the_backend_that_a_client_with_the_same_tuple_reaches() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    for asker in traffic::askers(&fixture) {
        for to in fixture.cluster_udp() {
            for _ in 0..COUNT {
                // The socket has its port, and no packet was sent.
                let socket = asker.client.datagrams(to).expect("a socket");
                let from = socket.local().expect("a bound socket");
                let answer = trace(&fixture, from, &format!("{to}/udp"));
                assert!(answer.forwarded, "{answer:#?}");
                let pod = picked(&answer);
                let met = socket.exchange(b"hello").expect("the Service answers").pod;
                assert!(pod.contains(&met), "{} to {to}: {met} answered, and the trace says {answer:#?}", asker.name);
                // Now its flow is known, and leads to the same.
                let again = trace(&fixture, from, &format!("{to}/udp"));
                assert_eq!(again.backend, answer.backend);
                assert!(again.hooks.iter().flat_map(|hook| &hook.steps).all(|step| step.step != "pick"), "{again:#?}");
            }
        }
        for to in fixture.cluster().into_iter().chain(node_port()) {
            let mut connection = asker.client.connect(to).expect("the Service answers");
            let met = connection.get().expect("the Service answers").pod;
            let from = connection.local().expect("a connected socket");
            drop(connection);
            fixture.lose_flows();
            let pod = picked(&trace(&fixture, from, &to.to_string()));
            assert!(pod.contains(&met), "{} to {to}: {met} answered, and the trace says {pod}", asker.name);
        }
    }
}

#[test]
fn a_trace_says_why_a_packet_does_not_arrive_and_leaves_everything_as_it_was() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let [asker, pod, _] = traffic::askers(&fixture);
    let client = SocketAddr::new(asker.address.addresses()[0], 4000);
    let [web, _] = fixture.cluster();
    let before = fixture.status().expect("the daemon answers");
    let told = trace(&fixture, client, &SocketAddr::new(web.ip(), 81).to_string());
    assert_eq!((told.forwarded, told.reason.as_str()), (false, "no-service-port"));
    assert!(!told.remedy.is_empty() && !told.sentence.is_empty());
    let told = trace(&fixture, client, &format!("{}/icmp", web.ip()));
    assert_eq!((told.forwarded, told.reason.as_str()), (true, "echo-replied"));
    let told = trace(&fixture, client, "192.0.2.250:80");
    assert_eq!((told.forwarded, told.reason.as_str()), (false, "not-ours"));
    let (code, text, errors) = cli(&fixture, &["--from", &client.to_string(), "--to", &web.to_string()]);
    assert_eq!(code, 0, "{text}{errors}");
    println!("{text}");
    for expected in ["XDP of ", "tag ", "playground/web", "pick ", "100.0%", "verdict", "\nForwarded (forwarded): "] {
        assert!(expected == "100.0%" || text.contains(expected), "{expected} is not in\n{text}");
    }
    assert_eq!(text.matches('%').count() % 3, 0, "three backends in each pick:\n{text}");

    // What cannot be told.
    let [_, v6] = pod.address.addresses();
    let [own_port, _] = node_port();
    for (arguments, expected) in [
        (vec!["--from".to_owned(), v6.to_string(), "--to".to_owned(), web.to_string()], "different IP versions"),
        (
            ["--from", "192.0.2.1", "--to", "10.0.0.1:80", "--interface", "nix0"].map(str::to_owned).to_vec(),
            "no interface nix0",
        ),
        (
            ["--from", "192.0.2.1", "--to", "10.0.0.1:80", "--interface", "lo"].map(str::to_owned).to_vec(),
            "not managed",
        ),
        (
            vec!["--from".to_owned(), own_port.ip().to_string(), "--to".to_owned(), own_port.to_string()],
            "never leave by an interface",
        ),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (code, _, errors) = cli(&fixture, &arguments);
        assert_eq!(code, 2, "{errors}");
        assert!(errors.contains(expected), "{errors}");
    }

    // Nothing was counted, and no flow is there.
    let after = fixture.status().expect("the daemon answers");
    assert_eq!(before.counters, after.counters);
    assert_eq!(before.maps, after.maps);

    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("a plain name").to_owned();
    let from = client.to_string();
    let (code, ..) = cli(&fixture, &["--from", &from, "--to", &web.to_string(), "--pcap", &path]);
    assert_eq!(code, 0);
    // Each checksum is right, in the packet as it came and as it left.
    let file = std::fs::read(&path).expect("a capture");
    let (frames, rest) = (&file[24..], &file[..24]);
    assert_eq!(rest[..4], 0xa1b2_c3d4u32.to_ne_bytes());
    let length = u32::from_ne_bytes(frames[8..12].try_into().expect("four bytes")) as usize;
    let (came, left) = (&frames[16..16 + length], &frames[32 + length..]);
    assert_eq!((frames::checked(came).0, frames::checked(came).1), (client, web));
    assert_eq!(Some(frames::checked(left).1), trace(&fixture, client, &web.to_string()).backend);
}

#[test]
fn manifests_are_traced_without_a_daemon() {
    needs_datapath!();
    // Its daemon is not asked: no socket is named.
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let directory = tempfile::tempdir().expect("a directory");
    let pods = fixture.pods().map(|pod| manifests::pod(pod.place()));
    let text = manifests::cluster() + &pods.collect::<String>();
    std::fs::write(directory.path().join("all.yaml"), text).expect("the manifests are written");
    let [to, _] = node_port();
    let client = traffic::askers(&fixture)[0].address.addresses()[0];
    let space = fixture.node_space(Node::One);
    let run = |to: SocketAddr| {
        let mut command = Command::new(BINARY);
        command.args(["trace", "-o", "json", "--node", Node::One.name(), "--manifests"]).arg(directory.path());
        command.args(["--from", &client.to_string(), "--to", &to.to_string()]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = space.spawn(&mut command).expect("the CLI starts").wait_with_output().expect("the CLI ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let answer: TraceAnswer = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"));
        (output.status.code(), answer)
    };
    let (code, answer) = run(to);
    assert_eq!((code, answer.forwarded), (Some(0), true), "{answer:#?}");
    assert!(picked(&answer).contains("web-"), "{answer:#?}");
    assert!(answer.notes[0].contains("no daemon was asked"), "{:?}", answer.notes);
    let (code, answer) = run(SocketAddr::new(to.ip(), to.port() + 7));
    assert_eq!((code, answer.reason.as_str()), (Some(1), "not-ours"), "{answer:#?}");
    assert_eq!(fixture.status().expect("the daemon answers").interfaces.len(), 6, "nothing of it was touched");
}
