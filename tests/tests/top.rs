//! `lb-ctl top` against a real daemon: as tables, as pictures, and in a terminal of its own.

use lb_tests::fixture::{Fixture, Setup};
use lb_tests::metrics::file;
use lb_tests::needs_datapath;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// Asked to write the recording into the README anew.
const UPDATE: &str = "LB_UPDATE_DOCS";
/// Where it stands.
const MARKS: [&str; 2] = ["<!-- A recording, written by a test: see CONTRIBUTING.md. -->\n```text\n", "```\n"];

/// Does something while clients use the Service: connections and datagrams of both kinds, and a port that is no Service's.
fn under_load<T>(fixture: &Fixture, work: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (client, http, echo) = (fixture.client(), fixture.cluster()[0], fixture.cluster_udp()[0]);
            let visitor = fixture.pod("visitor").expect("runs").client().with_timeout(Duration::from_millis(100));
            let nowhere = std::net::SocketAddr::new(http.ip(), 4242);
            while !is_over.load(Ordering::Relaxed) {
                client.get_many(http, 8).expect("the pods answer");
                client.datagrams(echo).and_then(|socket| socket.exchange(&[b'x'; 500])).expect("the pods answer");
                visitor.get(nowhere).expect_err("nobody is there");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let done = work();
        is_over.store(true, Ordering::Relaxed);
        done
    })
}

#[test]
fn a_pipe_gets_tables_with_what_happens_now() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let text = under_load(&fixture, || fixture.cli(&["top", "--interval", "1"], "").expect("it prints and ends"));
    let line =
        |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    let rate = |name: &str, column: usize| {
        let cell = line(name).split_whitespace().nth(column).expect("a column");
        cell != "0"
    };
    assert!(rate("playground/web:http/TCP", 2) && rate("playground/web:echo/UDP", 4), "{text}");
    assert!(text.contains("playground/web-1") && rate("no-service-port", 1), "{text}");
    let alone = fixture.cli(&["top", "--once", "--interval", "1", "--service", "nothing"], "").expect("it prints");
    assert!(alone.starts_with("No Services whose name contains `nothing`."), "{alone}");
    // Nobody writes escapes into a pipe.
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn the_recording_in_the_readme_is_what_a_terminal_shows() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let arguments = ["top", "--frames", "20", "--interval", "1", "--size", "80x24"];
    let pictures = under_load(&fixture, || fixture.cli(&arguments, "").expect("it draws and ends"));
    // They are parted by empty lines, of which a picture may have some too: so the last one is counted out.
    let lines: Vec<&str> = pictures.lines().collect();
    let last = &lines[lines.len() - 24..];
    let picture = last.join("\n") + "\n";
    let path = file("README.md");
    let readme = fs::read_to_string(&path).expect("the README");
    let (before, rest) = readme.split_once(MARKS[0]).expect("the README has a place for it");
    let (recorded, after) = rest.split_once(MARKS[1]).expect("its end");
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, [before, MARKS[0], &picture, MARKS[1], after].concat()).expect("the README can be written");
        return;
    }
    // Figures differ from run to run; what is told does not.
    let told = |picture: &str| -> Vec<String> {
        let word = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
        let mut words: Vec<String> = picture.lines().map(word).filter(|word| word.len() > 1).collect();
        words.sort();
        words
    };
    assert_eq!(told(recorded), told(&picture), "{UPDATE}=1 cargo test -p lb-tests --test top writes it:\n{picture}");
}

#[test]
fn a_terminal_is_left_as_it_was() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let socket = fixture.socket();
    // script(1) is a terminal: what it shows is what the program wrote, and `q` ends it.
    let command = format!("{BINARY} top --socket {} --interval 1", socket.display());
    let run = |environment: Option<&str>| {
        let mut script = Command::new("sh");
        script.args(["-c", &format!("(sleep 3; printf q) | script -qec 'stty cols 80 rows 24; {command}' /dev/null")]);
        script.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        environment.iter().for_each(|value| drop(script.env("NO_COLOR", value)));
        let output = script.output().expect("script(1) runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (is_good, shown) = run(None);
    assert!(is_good, "{shown}");
    for (what, escape) in
        [("another screen", "\u{1b}[?1049h"), ("back", "\u{1b}[?1049l"), ("the cursor", "\u{1b}[?25h")]
    {
        assert!(shown.contains(escape), "{what}: {shown:?}");
    }
    assert!(shown.contains("Services (2)") && shown.contains("playground/web:http/TCP"), "{shown:?}");
    let is_coloured = |shown: &str| shown.contains("\u{1b}[38;5;") || shown.contains("\u{1b}[36m");
    assert!(is_coloured(&shown), "{shown:?}");
    let (is_good, plain) = run(Some("1"));
    assert!(is_good && !is_coloured(&plain), "{plain:?}");
}

#[test]
fn no_daemon_is_told_as_by_every_command() {
    let output = Command::new(BINARY).args(["top", "--socket", "/nonexistent/lb-ctl.sock"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("error: no lb-ctl daemon answers on /nonexistent/lb-ctl.sock"), "{said}");
}
