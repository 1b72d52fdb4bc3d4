//! `lb-ctl demo` as a user runs it: it passes, it notices when nothing works, and it leaves nothing behind.

use lb_ctl::playground::netns;
use lb_tests::needs_datapath;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// A demo that writes to pipes.
fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(BINARY);
    command.arg("demo").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the demo starts")
}

/// Runs a demo to its end, and gives what it wrote, and its process id.
fn run(arguments: &[&str]) -> (Output, u32) {
    let demo = start(arguments);
    let pid = demo.id();
    (demo.wait_with_output().expect("the demo ends"), pid)
}

fn directory(pid: u32) -> PathBuf {
    Path::new("/run").join(format!("lbdemo-{pid}"))
}

fn spaces(pid: u32) -> Vec<String> {
    netns::registered(|name| name.starts_with(&format!("lbdemo-{pid}-")))
}

/// Whether a demo's process left namespaces, a directory, a mount or processes.
fn leftovers(pid: u32) -> Vec<String> {
    let mut left = spaces(pid);
    let directory = directory(pid);
    left.extend(directory.exists().then(|| directory.display().to_string()));
    let name = format!("lbdemo-{pid}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    left.extend(mounts.lines().filter(|line| line.contains(&name)).map(str::to_owned));
    let processes = std::fs::read_dir("/proc").expect("procfs").flatten();
    left.extend(processes.filter_map(|process| {
        let line = std::fs::read(process.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(&name).then_some(line)
    }));
    left
}

/// Waits until nothing is left, as the janitor works on after the demo was killed.
fn assert_nothing_left(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !leftovers(pid).is_empty() {
        assert!(Instant::now() < deadline, "left over: {:#?}", leftovers(pid));
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the demo has printed a line that contains `text`.
fn wait_for(demo: &mut Child, text: &str) -> impl Read + use<> {
    let mut output = BufReader::new(demo.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert_ne!(output.read_line(&mut line).expect("a pipe"), 0, "the demo ended before it said `{text}`");
    }
    output
}

#[test]
fn the_demo_passes_and_removes_all_it_made() {
    needs_datapath!();
    let (output, pid) = run(&[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("All as promised."), "{said}");
    for way in [
        "ClusterIP",
        "NodePort",
        "by name",
        "http://numbers-api/",
        "10.96.",
        "[fd00:96::",
        "192.0.2.1:30080",
        "[2001:db8:1::1]:30080",
    ] {
        assert!(said.contains(way), "the table does not show {way}:\n{said}");
    }
    assert_eq!(leftovers(pid), [""; 0]);
}

#[test]
fn the_demo_fails_without_hooks() {
    needs_datapath!();
    let (output, pid) = run(&["--without-hooks"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{}\n{errors}", String::from_utf8_lossy(&output.stdout));
    assert!(errors.contains("GET http://") || errors.contains("datagram"), "it failed for another reason:\n{errors}");
    assert_eq!(leftovers(pid), [""; 0]);
}

#[test]
fn ctrl_c_and_sigterm_remove_everything_before_the_demo_ends() {
    needs_datapath!();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        for moment in ["building", "starting", "real requests"] {
            let mut demo = start(&[]);
            let _output = wait_for(&mut demo, moment);
            kill(Pid::from_raw(demo.id() as i32), signal).expect("the demo runs");
            let status = demo.wait().expect("the demo ends");
            assert_eq!(status.code(), Some(128 + signal as i32), "{signal} while `{moment}`");
            assert_nothing_left(demo.id());
        }
    }
}

#[test]
fn a_killed_demo_leaves_nothing() {
    needs_datapath!();
    for moment in ["building", "starting", "real requests"] {
        let mut demo = start(&[]);
        let _output = wait_for(&mut demo, moment);
        demo.kill().expect("the demo runs");
        demo.wait().expect("the demo ends");
        assert_nothing_left(demo.id());
    }
}

#[test]
fn a_kept_demo_stays_until_it_is_cleaned_up_and_a_running_one_is_left_alone() {
    needs_datapath!();
    let (output, kept) = run(&["--keep"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("demo --cleanup") && said.contains(&format!("ip netns exec lbdemo-{kept}-client")));
    assert!(!spaces(kept).is_empty(), "the playground is up");

    let mut running = start(&[]);
    let _output = wait_for(&mut running, "starting");
    // By name: there may be others on this machine that somebody wants to keep.
    let (cleanup, _) = run(&["--cleanup", &format!("lbdemo-{}", running.id())]);
    assert_eq!(cleanup.status.code(), Some(1), "{}", String::from_utf8_lossy(&cleanup.stdout));
    assert!(String::from_utf8_lossy(&cleanup.stderr).contains("its demo is running"));
    let (cleanup, _) = run(&["--cleanup", &format!("lbdemo-{kept}")]);
    assert!(cleanup.status.success(), "{}", String::from_utf8_lossy(&cleanup.stderr));
    assert_eq!(leftovers(kept), [""; 0]);
    assert!(directory(running.id()).exists() && !spaces(running.id()).is_empty(), "the running demo was removed");
    running.kill().expect("the demo runs");
    running.wait().expect("the demo ends");
    assert_nothing_left(running.id());
}
