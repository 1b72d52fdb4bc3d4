//! `docs/troubleshooting.md`, followed by the letter: each section's fault is made, and each of its commands run.
//!
//! A block is compared word by word; a number, an address or a time is any other of its kind, and a line of three dots any lines.
//! `LB_UPDATE_DOCS=1` writes what the commands printed in the place of what no longer fits.

use lb_ctl::playground::manifests;
use lb_ctl::playground::topology::Node;
use lb_tests::fixture::{Fixture, Setup, node_port};
use lb_tests::{iproute, needs_datapath, traffic};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshooting.md");

/// A section's heading, what is broken for it, and what goes on while its commands run.
type Fault = (&'static str, fn(&mut Fixture), fn(&Fixture));

const FAULTS: &[Fault] = &[
    ("Is the node fit, and the daemon well?", |_| {}, quiet),
    ("A connection is refused", nobody_ready, quiet),
    ("A connection gets no answer", nobody_here, quiet),
    ("Some connections fail", one_is_gone, busy),
    ("Large transfers stall", a_narrow_link, large),
    ("Which backend, and why?", |_| {}, quiet),
    ("What will this change do?", a_change, quiet),
];

fn quiet(_: &Fixture) {}

/// Connections to the Service, some of which may fail.
fn busy(fixture: &Fixture) {
    for _ in 0..12 {
        fixture.client().with_timeout(Duration::from_millis(200)).get(node_port()[0]).ok();
    }
}

fn large(fixture: &Fixture) {
    let mut connection = fixture.client().connect(fixture.cluster()[0]).expect("a connection");
    connection.upload(50_000).expect("it takes the hint");
    iproute::ip(fixture.client_space(), "route flush cache");
}

fn nobody_ready(fixture: &mut Fixture) {
    for pod in traffic::PODS {
        fixture.delete_pod_object(pod).expect("the CLI deletes");
    }
    fixture.client().connect(node_port()[0]).expect_err("nobody is there");
}

fn nobody_here(fixture: &mut Fixture) {
    let local = "type: NodePort\n  externalTrafficPolicy: Local";
    fixture.apply(&manifests::cluster().replace("type: NodePort", local)).expect("the CLI applies");
    for pod in ["web-1", "web-2"] {
        fixture.delete_pod_object(pod).expect("the CLI deletes");
    }
    let impatient = fixture.client().with_timeout(Duration::from_millis(500));
    impatient.connect(node_port()[0]).expect_err("nobody is here");
}

fn one_is_gone(fixture: &mut Fixture) {
    let [address, _] = fixture.pod("web-1").expect("a pod").address().addresses();
    fixture.kill_pod("web-1").expect("the pod goes");
    // As where a node's aggregate route catches what no pod's route does.
    iproute::ip(fixture.node_space(Node::One), &format!("route replace blackhole {address}/32"));
    busy(fixture);
}

fn a_narrow_link(fixture: &mut Fixture) {
    for pod in ["web-1", "web-2"] {
        iproute::ip(fixture.node_space(Node::One), &format!("link set veth-{pod} mtu 1300"));
    }
    iproute::ip(fixture.node_space(Node::One), "link set eth1 mtu 1300");
    large(fixture);
}

fn a_change(fixture: &mut Fixture) {
    let without = manifests::cluster().replace("    tier: front\n", "    tier: back\n");
    std::fs::write(fixture.directory().join("change.yaml"), without).expect("a file");
}

/// A section that has blocks.
struct Section<'a> {
    heading: &'a str,
    blocks: Vec<Block<'a>>,
}

/// One command and what it prints.
struct Block<'a> {
    whole: &'a str,
    command: &'a str,
    output: &'a str,
}

fn sections(text: &str) -> Vec<Section<'_>> {
    let sections = text.split("\n## ").skip(1).map(|section| {
        let heading = section.lines().next().unwrap_or_default();
        let blocks = section.split("```console\n").skip(1).map(|rest| {
            let whole = rest.split("```").next().unwrap_or_default();
            let (command, output) = whole.split_once('\n').unwrap_or((whole, ""));
            let command = command.strip_prefix("$ ").expect("a block begins with a command");
            assert!(!output.starts_with("$ ") && !output.contains("\n$ "), "{heading}: a block has one command");
            Block { whole, command, output }
        });
        Section { heading, blocks: blocks.collect() }
    });
    sections.filter(|section| !section.blocks.is_empty()).collect()
}

/// A line with what differs from run to run taken out, and the blanks that make it fit.
fn shape(line: &str) -> String {
    // What is picked from several differs, and is marked.
    line.trim_start_matches([' ', '>']).split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

fn word(word: &str) -> String {
    let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != ':' && c != '[' && c != ']');
    if bare.parse::<IpAddr>().is_ok() || bare.parse::<SocketAddr>().is_ok() {
        return word.replace(bare, "ADDRESS");
    }
    // A column without an address, and the tag of a program.
    if word == "-" {
        return "ADDRESS".to_owned();
    }
    if bare.len() == 16 && bare.chars().all(|char| char.is_ascii_hexdigit()) {
        return word.replace(bare, "TAG");
    }
    let mut shape = String::new();
    for char in word.chars() {
        // Runs of digits with their points: 1.5, 10, 2026-11-21T00:00:00.
        match char {
            '0'..='9' if shape.ends_with('#') => {}
            '0'..='9' => shape.push('#'),
            _ => shape.push(char),
        }
    }
    shape.replace("#.#", "#")
}

/// Whether `found` is what the document says, lines of three dots standing for any.
fn fits(expected: &str, found: &str) -> bool {
    let expected: Vec<String> = expected.lines().map(shape).collect();
    let found: Vec<String> = found.lines().map(shape).collect();
    fits_lines(&expected, &found)
}

fn fits_lines(expected: &[String], found: &[String]) -> bool {
    match expected.split_first() {
        None => found.is_empty(),
        Some((dots, rest)) if dots == "..." => (0..=found.len()).any(|skipped| fits_lines(rest, &found[skipped..])),
        Some((line, rest)) => {
            found.split_first().is_some_and(|(first, others)| line == first && fits_lines(rest, others))
        }
    }
}

/// Does `meanwhile` over and over until `work` is done.
fn while_it_runs<T>(fixture: &Fixture, meanwhile: fn(&Fixture), work: impl FnOnce() -> T) -> T {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                meanwhile(fixture);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let done = work();
        is_done.store(true, Ordering::Relaxed);
        done
    })
}

/// A directory with an `lb-ctl` that talks to the fixture's daemon.
fn shim(fixture: &Fixture) -> PathBuf {
    let directory = fixture.directory().join("bin");
    std::fs::create_dir_all(&directory).expect("a directory");
    let path = directory.join("lb-ctl");
    let script = format!("#!/bin/sh\nexec {BINARY} --socket {} \"$@\"\n", fixture.socket().display());
    std::fs::write(&path, script).expect("a script");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    directory
}

/// What a command prints, standard error last, in the node's namespace.
fn run(fixture: &Fixture, bin: &Path, command: &str) -> String {
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("timeout");
    shell.args(["60", "sh", "-c", command]).env("PATH", path).env("NO_COLOR", "1").current_dir(fixture.directory());
    let output = fixture.node_space(Node::One).run(|| shell.output());
    let output = output.expect("the namespace is there").expect("a shell");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    text(output.stdout) + &text(output.stderr)
}

#[test]
fn every_block_is_what_the_command_prints() {
    needs_datapath!();
    let document = std::fs::read_to_string(DOCUMENT).expect("the document");
    let mut updated = document.clone();
    let mut wrong = String::new();
    let headings: Vec<&str> = sections(&document).iter().map(|section| section.heading).collect();
    assert_eq!(headings, FAULTS.iter().map(|(heading, ..)| *heading).collect::<Vec<_>>(), "each section has its fault");
    for (section, (_, break_it, meanwhile)) in sections(&document).iter().zip(FAULTS) {
        let mut fixture = Fixture::new(BINARY, Setup::DEMO);
        let bin = shim(&fixture);
        fixture.client().get(fixture.cluster()[0]).expect("it works before");
        break_it(&mut fixture);
        for block in &section.blocks {
            let run = || while_it_runs(&fixture, *meanwhile, || run(&fixture, &bin, block.command));
            let mut found = run();
            // A packet may come between what a command reads of it in one place and in another.
            for _ in 0..2 {
                if !fits(block.output, &found) {
                    found = run();
                }
            }
            if !fits(block.output, &found) {
                let heading = updated.find(&format!("\n## {}\n", section.heading)).expect("it is there");
                let (before, rest) = updated.split_at(heading);
                let printed = format!("```console\n$ {}\n{}", block.command, tidy(&found));
                updated = before.to_owned() + &rest.replacen(&format!("```console\n{}", block.whole), &printed, 1);
                writeln!(wrong, "## {}\n$ {}\n{found}", section.heading, block.command).expect("a string takes it");
            }
        }
    }
    if std::env::var_os("LB_UPDATE_DOCS").is_some() {
        std::fs::write(DOCUMENT, updated).expect("the document is written");
    } else {
        assert!(wrong.is_empty(), "{wrong}\nLB_UPDATE_DOCS=1 writes what was printed into the document");
    }
}

/// Output without blanks at the ends of lines, ending in a newline.
fn tidy(output: &str) -> String {
    output.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

#[test]
fn lines_are_compared_by_their_words() {
    assert!(fits("10.0.0.1:80   5s  ok", "10.96.0.7:8080 17s ok"));
    assert!(fits("[fd00::1]:80 a", "[2001:db8::7]:9 a"));
    assert!(!fits("10.0.0.1:80 ok", "10.0.0.1:80 lost"));
    assert!(fits("a\n...\nz", "a\nb\nc\nz") && fits("a\n...\nz", "a\nz") && !fits("a\n...\nz", "a\nb"));
    assert!(!fits("a", "a\nb"));
    assert_eq!(shape("took 1.25 ms,  3/5"), "took # ms, #/#");
}
