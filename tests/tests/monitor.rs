//! `monitor` and `why` against what really happens to real packets.

use lb_ctl::api::{EventLine, EventType, MissingLine, MonitorLine, WhyAnswer, WhyGroup};
use lb_ctl::playground::topology::{CLIENT, SERVICE_PORT};
use lb_tests::fixture::{Fixture, Setup, node_port};
use lb_tests::needs_datapath;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");
/// Of a flood.
const PACKETS: u64 = 20_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// A Service that no pod fits.
const NOBODY: &str = "apiVersion: v1
kind: Service
metadata: { name: nobody, namespace: playground }
spec:
  ipFamilyPolicy: RequireDualStack
  selector: { app: nobody }
  ports:
  - name: http
    port: 80
";

/// A running `lb-ctl monitor`. Dropping it ends it.
struct Watcher {
    process: Child,
    lines: Receiver<String>,
}

impl Watcher {
    /// Starts one. When it listens only an event tells.
    fn start(fixture: &Fixture, arguments: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.arg("monitor").args(arguments).arg("--socket").arg(fixture.socket()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the CLI starts");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        thread::spawn(move || output.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { process, lines }
    }

    /// The next line, if one comes in time.
    fn line(&self, patience: Duration) -> Option<MonitorLine> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    /// The next event that `fits`.
    fn event(&self, what: &str, fits: impl Fn(&EventLine) -> bool) -> EventLine {
        let deadline = Instant::now() + PATIENCE;
        let mut others = Vec::new();
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.line(left) {
                Some(MonitorLine::Event(event)) if fits(&event) => return *event,
                Some(line) => others.push(line),
                None => break,
            }
        }
        panic!("no event: {what}; others were {others:#?}");
    }

    /// All lines until none comes for a while.
    fn rest(&self, pause: Duration) -> Vec<MonitorLine> {
        std::iter::from_fn(|| self.line(pause)).collect()
    }

    /// Waits for the end; the exit code.
    fn end(mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait().expect("a child") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not end");
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Opens a connection and ends it, until `watcher` has heard of one: it listens.
fn listens(fixture: &Fixture, watcher: &Watcher) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        fixture.client().get(fixture.cluster()[0]).expect("an answer");
        if watcher.line(Duration::from_millis(200)).is_some() {
            watcher.rest(Duration::from_millis(500));
            return;
        }
    }
    panic!("it does not listen");
}

fn why(fixture: &Fixture, arguments: &[&str]) -> WhyAnswer {
    let all = [&["why", "-o", "json"], arguments].concat();
    let text = fixture.cli(&all, "").expect("it answers");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn group<'a>(answer: &'a WhyAnswer, reason: &str, frontend: SocketAddr) -> &'a WhyGroup {
    let reason = answer.reasons.iter().find(|it| it.reason == reason);
    let groups = &reason.unwrap_or_else(|| panic!("{answer:#?}")).groups;
    groups.iter().find(|group| group.frontend == frontend).unwrap_or_else(|| panic!("{answer:#?}"))
}

#[test]
fn connections_and_what_is_not_served_are_told_by_name_and_only_as_asked_for() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    fixture.apply(NOBODY).expect("the CLI applies");
    let nobody = fixture.cluster_address_of("nobody").expect("addresses are allocated");
    // From before anybody listened: it is not told later.
    fixture.client().get(fixture.cluster()[0]).expect("an answer");
    let all = Watcher::start(&fixture, &["-o", "json"]);
    let rejected = Watcher::start(&fixture, &["-o", "json", "--type", "rejected", "--service", "playground/nobody"]);
    listens(&fixture, &all);
    let hasty = fixture.client().with_timeout(Duration::from_millis(300));
    for (family, to) in fixture.cluster().into_iter().enumerate() {
        let client = CLIENT.addresses()[family];
        let of = |kind: EventType, to: SocketAddr| {
            move |event: &EventLine| {
                event.r#type == kind && event.frontend == to && event.client.is_some_and(|it| it.ip() == client)
            }
        };
        let pod = fixture.client().get(to).expect("an answer").pod;
        let new = all.event("a connection begins", of(EventType::New, to));
        assert_eq!(new.service.as_deref(), Some("playground/web:http"));
        assert_eq!(new.pod, Some(format!("playground/{pod}")));
        assert_eq!((new.reason.as_str(), new.protocol.as_str()), ("forwarded", "TCP"));
        let closed = all.event("it ends", of(EventType::Closed, to));
        assert_eq!((closed.client, closed.backend, &closed.pod), (new.client, new.backend, &new.pod));
        assert!(matches!(closed.state.as_deref(), Some("TIME_WAIT" | "CLOSE")), "{closed:?}");

        let to = SocketAddr::new(nobody.addresses()[family], SERVICE_PORT);
        hasty.connect(to).expect_err("nobody answers");
        let refused = all.event("no backend", of(EventType::Rejected, to));
        assert_eq!(refused.service.as_deref(), Some("playground/nobody:http"));
        assert_eq!((refused.reason.as_str(), refused.backend), ("no-backend", None));
        assert_eq!(rejected.event("no backend", |_| true).frontend, to, "the filter lets this alone through");

        let to = SocketAddr::new(fixture.cluster()[family].ip(), 81);
        hasty.connect(to).expect_err("no such port");
        let refused = all.event("no such port", of(EventType::Rejected, to));
        assert_eq!(refused.service.as_deref(), Some("playground/web"), "the address is its own");
        assert_eq!(refused.reason, "no-service-port");
    }
    assert_eq!(rejected.rest(Duration::from_millis(300)), []);

    fixture.lend_ports(20_000, 20_000);
    let elsewhere = Watcher::start(&fixture, &["-o", "json", "--reason", "snat-exhausted", "--count", "1"]);
    let held: Vec<_> = (0..40).filter_map(|_| hasty.connect(node_port()[0]).ok()).collect();
    assert!(fixture.reason("snat-exhausted") > 0, "{} connections hold their ports", held.len());
    let dropped = all.event("ports are used up", |event| event.reason == "snat-exhausted");
    assert_eq!((dropped.r#type, dropped.frontend), (EventType::Dropped, node_port()[0]));
    assert_eq!(dropped.service.as_deref(), Some("playground/web:http"), "by its node port");
    assert_eq!(dropped.pod.as_deref(), Some("playground/web-3"), "the one on the other node");
    elsewhere.event("ports are used up", |event| event.reason == "snat-exhausted");
    assert_eq!(elsewhere.end(), Some(0), "it was to end after one");
}

#[test]
fn it_ends_with_its_reader_and_by_a_signal() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let mut command = Command::new(BINARY);
    command.arg("monitor").arg("--socket").arg(fixture.socket());
    let mut unread = command.stdout(Stdio::piped()).spawn().expect("the CLI starts");
    thread::sleep(Duration::from_millis(300));
    assert!(unread.try_wait().expect("a child").is_none(), "it waits for events");
    drop(unread.stdout.take());
    assert_eq!(Watcher { process: unread, lines: channel().1 }.end(), Some(0), "nobody reads");
    let watcher = Watcher::start(&fixture, &[]);
    let header = watcher.lines.recv_timeout(PATIENCE).expect("headers come at once");
    assert!(header.starts_with("TIME"), "{header}");
    thread::sleep(Duration::from_millis(300));
    kill(Pid::from_raw(watcher.process.id() as i32), Signal::SIGINT).expect("it is there");
    assert_eq!(watcher.end(), Some(0), "Ctrl-C");
}

#[test]
fn why_names_cause_and_remedy_and_forgets_what_is_long_ago() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    assert_eq!(fixture.cli(&["why"], "").expect("it answers").lines().count(), 1, "nothing is one line");
    fixture.apply(NOBODY).expect("the CLI applies");
    let nobody = fixture.cluster_address_of("nobody").expect("addresses are allocated");
    let to = SocketAddr::new(nobody.addresses()[0], SERVICE_PORT);
    let hasty = fixture.client().with_timeout(Duration::from_millis(300));
    (0..3).for_each(|_| drop(hasty.connect(to).expect_err("nobody answers")));
    let happened = Instant::now();

    let answer = why(&fixture, &["--service", "playground/nobody"]);
    let refused = group(&answer, "no-backend", to);
    assert_eq!(answer.reasons.len(), 1, "{answer:#?}");
    assert_eq!((refused.seen, refused.service.as_deref()), (3, Some("playground/nobody:http")));
    assert_eq!(refused.clients[0].address, Some(CLIENT.addresses()[0]));
    assert_eq!(refused.next[0], "lb-ctl describe service nobody -n playground");
    assert_eq!(answer.reasons[0].packets, fixture.reason("no-backend"));
    assert!(answer.reasons[0].remedy.contains("describe service"), "{answer:#?}");
    let text = fixture.cli(&["why", "--client", &CLIENT.addresses()[0].to_string()], "").expect("it answers");
    assert!(text.contains("no-backend: 3 packets") && text.contains("What to do:"), "{text}");
    assert_eq!(why(&fixture, &["--service", "playground/web"]).reasons, []);
    assert_eq!(why(&fixture, &["--client", "198.51.100.0/24"]).reasons, []);

    thread::sleep(Duration::from_secs(3).saturating_sub(happened.elapsed()));
    assert_eq!(why(&fixture, &["--since", "1s"]).reasons, []);
    assert_eq!(group(&why(&fixture, &["--since", "1m"]), "no-backend", to).seen, 3);
}

#[test]
fn under_a_flood_whatever_is_not_shown_is_counted() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let losses = || -> u64 {
        let status = fixture.status().expect("the daemon answers");
        let drops = lb_common::Reason::ALL.iter().filter(|reason| reason.is_drop());
        let of = |name: &str| {
            status.counters.iter().filter(|line| line.reason == name).map(|line| line.packets).sum::<u64>()
        };
        drops.map(|reason| of(reason.name())).sum()
    };
    let watcher = Watcher::start(&fixture, &["-o", "json", "--type", "rejected,dropped"]);
    let to = SocketAddr::new(fixture.cluster()[0].ip(), 9);
    let send = move |packets: u64| {
        let socket = UdpSocket::bind((IpAddr::from([0; 4]), 0)).expect("a socket");
        // Not connected: it would be told that it is refused.
        (0..packets).for_each(|_| drop(socket.send_to(b"flood", to)));
    };
    let flood = |packets| fixture.client_space().run(|| send(packets)).expect("the namespace is there");
    // The first that is heard says that it listens.
    let deadline = Instant::now() + PATIENCE;
    loop {
        flood(1);
        if watcher.line(Duration::from_millis(200)).is_some() {
            break;
        }
        assert!(Instant::now() < deadline, "it does not listen");
    }
    watcher.rest(Duration::from_millis(500));
    let before = losses();
    flood(PACKETS);
    let lines = watcher.rest(Duration::from_secs(3));
    let (mut shown, mut missing) = (0, MissingLine::default());
    for line in &lines {
        match line {
            MonitorLine::Event(event) => {
                assert_eq!((event.frontend, event.r#type.is_of_flow()), (to, false));
                shown += 1;
            }
            MonitorLine::Missing(more) => {
                missing.skipped += more.skipped;
                missing.lost += more.lost;
                missing.missed += more.missed;
            }
        }
    }
    let happened = losses() - before;
    assert!(happened >= PACKETS / 2 && shown > 0 && missing.skipped > 0, "{happened}: {shown} shown, {missing:?}");
    assert_eq!(shown + missing.skipped + missing.lost + missing.missed, happened, "{missing:?}");
    let answer = why(&fixture, &[]);
    let (packets, seen): (u64, u64) =
        answer.reasons.iter().fold((0, 0), |(packets, seen), it| (packets + it.packets, seen + it.seen));
    assert_eq!(packets, losses(), "{answer:#?}");
    assert!(seen < packets && seen >= shown, "{answer:#?}");
}

#[test]
fn nobody_listens_and_nothing_is_told_and_nothing_is_done() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let watcher = Watcher::start(&fixture, &["-o", "json"]);
    listens(&fixture, &watcher);
    drop(watcher);
    // It is noticed that the listener has gone.
    thread::sleep(Duration::from_millis(500));
    let daemon = daemon(&fixture);
    let (begun, before) = (Instant::now(), cpu(daemon));
    let mut answers = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        fixture.client().get(fixture.cluster()[0]).expect("an answer");
        answers += 1;
    }
    assert!(answers > 20, "{answers} connections came and went");
    let spent = cpu(daemon).saturating_sub(before);
    assert!(spent < Duration::from_millis(200), "{spent:?} for {answers} connections that nobody asked about");
    let watcher = Watcher::start(&fixture, &["-o", "json"]);
    assert_eq!(watcher.rest(Duration::from_secs(1)), [], "nothing was kept for later");
}

/// The daemon's process: the one that was started with the playground's socket.
fn daemon(fixture: &Fixture) -> u32 {
    let socket = fixture.socket().display().to_string();
    let processes = std::fs::read_dir("/proc").expect("processes").flatten();
    let found = processes.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let mut arguments = line.split('\0');
        (arguments.nth(1) == Some("daemon") && arguments.any(|argument| argument == socket)).then_some(pid)
    });
    found.last().expect("the daemon runs")
}

/// The CPU time of a process so far.
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks: u64 = [11, 12].map(|field: usize| fields[field].parse::<u64>().expect("ticks")).iter().sum();
    // A hundred a second on every Linux there is.
    Duration::from_millis(ticks * 10)
}
