//! `cargo xtask test`: set up, build, and run every test.
//!
//! The tests are built as the user. Integration tests (`<crate>/tests/`) are then run as root, with `LB_REQUIRE_ROOT=1`, which
//! turns "left out, for want of root" into a failure; unit tests need no root and are run as the user. Without a way to
//! root every test still runs, those that need it leave themselves out, and the last words say so.

use anyhow::{Context, ensure};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, fmt, thread};

use crate::build::{self, Artifact};
use crate::privilege::Privilege;
use crate::process::{self, shown, step};
use crate::toolchain::Route;
use crate::{fuzz, mutate, setup, workspace};

/// Says that the tests run as root: one that cannot do its work for want of privilege fails.
const REQUIRE_ROOT: &str = "LB_REQUIRE_ROOT";
/// Says that time does not matter.
const FULL: &str = "LB_FULL";
/// How the line begins that a test prints when it leaves itself out.
const LEFT_OUT: &str = "LEFT OUT: ";
/// Variables that reach the tests through sudo too.
const PASSED_ON: [&str; 5] = ["RUST_BACKTRACE", "PROPTEST_CASES", "CI", "LB_CASES", "LB_SEED"];
/// Seconds that each fuzz target is run for: in CI, and where time does not matter.
const FUZZED: u64 = 10;
const FUZZED_FULL: u64 = 120;

/// Flags of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Let tests that can take longer do so (`LB_FULL=1`): more cases, longer transfers.
    #[arg(long)]
    full: bool,
    /// Show what passing tests print.
    #[arg(long)]
    nocapture: bool,
    /// Run only the tests whose name contains one of these.
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

impl Args {
    /// Whether the filters choose what is called `name`.
    fn chooses(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }

    /// The arguments for a test binary.
    fn of_binary(&self) -> Vec<&str> {
        self.nocapture.then_some("--nocapture").into_iter().chain(self.filters.iter().map(String::as_str)).collect()
    }
}

/// Runs everything to the end, and says at the end what all failed.
pub(crate) fn run(route: Route, args: &Args) -> anyhow::Result<()> {
    setup::run(route)?;
    build::bpf(route, workspace::DATAPATH)?;
    let binaries = build_tests()?;
    let privilege = Privilege::detect();

    let start = Instant::now();
    let mut tally = Tally::default();
    tally.add("the documentation's examples", Ok(doc_tests(args)));
    for binary in &binaries {
        step(format_args!("testing {}{}", binary.name, if binary.is_privileged(privilege) { " as root" } else { "" }));
        tally.add(&binary.name, binary.command(privilege, args));
    }
    // What takes its own way to build: the mutations, and the fuzz targets.
    if args.chooses("mutations") {
        tally.note("the mutations", mutate::run(&mutate::Args::default()));
    }
    if args.chooses("fuzz") {
        let seconds = if args.full { FUZZED_FULL } else { FUZZED };
        tally.note("the fuzz targets", fuzz::run(&fuzz::Args::all(seconds)));
    }
    if privilege == Privilege::Neither {
        say_what_was_left_out(tally.counts);
    }
    step(format_args!("tests ran for {:.0} s", start.elapsed().as_secs_f64()));
    println!("{}", tally.counts);
    ensure!(tally.failed.is_empty(), "tests failed in: {}", tally.failed.join(", "));
    ensure!(tally.counts.passed > 0, "no test ran: no test's name contains any of `{}`", args.filters.join("`, `"));
    Ok(())
}

/// What came of the tests that ran so far.
#[derive(Default)]
struct Tally {
    counts: Counts,
    /// Names of what failed.
    failed: Vec<String>,
}

impl Tally {
    /// Counts a step of our own as one test.
    fn note(&mut self, name: &str, outcome: anyhow::Result<()>) {
        match outcome {
            Ok(()) => self.counts.passed += 1,
            Err(error) => {
                eprintln!("error: {error:#}");
                self.counts.failed += 1;
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Runs a command that runs tests.
    fn add(&mut self, name: &str, command: anyhow::Result<Command>) {
        if let Err(error) = command.and_then(|mut command| self.counts.add(&mut command)) {
            eprintln!("error: {error:#}");
            self.failed.push(name.to_owned());
        }
    }
}

/// Numbers of tests, as their binaries tell them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    /// Runs a command, shows what it prints, and adds what its closing lines say.
    fn add(&mut self, command: &mut Command) -> anyhow::Result<()> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", shown(command)))?;
        let errors = child.stderr.take();
        let left_out = thread::spawn(move || {
            let mut left_out = 0;
            for line in lines(errors) {
                eprintln!("{line}");
                left_out += u64::from(line.starts_with(LEFT_OUT));
            }
            left_out
        });
        for line in lines(child.stdout.take()) {
            println!("{line}");
            self.add_line(&line);
        }
        // A test that left itself out has told its runner that it passed.
        let left_out = left_out.join().unwrap_or(0).min(self.passed);
        self.passed -= left_out;
        self.skipped += left_out;
        let status = child.wait()?;
        ensure!(status.success(), "`{}` failed: {status}", shown(command));
        Ok(())
    }

    fn add_line(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        // ok. 6 passed; 0 failed; 1 ignored; ...
        let count = |what: &str| {
            let mut words =
                counts.split([' ', ';', '.']).filter(|word| !word.is_empty()).rev().skip_while(|word| *word != what);
            words.nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
        };
        self.passed += count("passed");
        self.failed += count("failed");
        self.skipped += count("ignored");
    }
}

/// The lines of a child's output, to its end.
fn lines(output: Option<impl Read>) -> impl Iterator<Item = String> {
    let lines = output.map(BufReader::new).into_iter().flat_map(|output| output.split(b'\n'));
    lines.map_while(Result::ok).map(|line| String::from_utf8_lossy(&line).into_owned())
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tests: {} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// A test binary.
struct TestBinary {
    /// What it tests, such as `lb-ctl (lib lb_ctl)`.
    name: String,
    path: PathBuf,
    /// The package's directory, in which cargo runs tests.
    directory: PathBuf,
    /// Whether it may hold tests that need root: those are integration tests.
    needs_root: bool,
}

impl TestBinary {
    fn new(artifact: Artifact) -> Option<Self> {
        let path = artifact.executable.filter(|_| artifact.profile.test)?;
        let directory = artifact.manifest_path.parent()?.to_owned();
        let kind = ["lib", "bin", "test"].into_iter().find(|kind| artifact.target.is(kind)).unwrap_or("target");
        Some(Self {
            name: format!("{} ({kind} {})", workspace::relative(&directory), artifact.target.name),
            needs_root: kind == "test",
            path,
            directory,
        })
    }

    /// Whether it will run as root.
    fn is_privileged(&self, privilege: Privilege) -> bool {
        self.needs_root && privilege != Privilege::Neither
    }

    /// The command that runs it.
    fn command(&self, privilege: Privilege, args: &Args) -> anyhow::Result<Command> {
        let path = self.path.to_str().context("the path of the workspace is no UTF-8")?;
        let full = args.full.then(|| (FULL, "1".to_owned()));
        let mut command = if self.is_privileged(privilege) {
            let mut variables = vec![(REQUIRE_ROOT, "1".to_owned())];
            variables.extend(full);
            variables.extend(PASSED_ON.iter().filter_map(|name| Some((*name, env::var(name).ok()?))));
            privilege.command(path, &variables).context("there is no way to root")?
        } else {
            let mut command = Command::new(path);
            command.envs(full);
            command
        };
        command.args(args.of_binary()).current_dir(&self.directory);
        if self.is_privileged(privilege) && privilege == Privilege::Sudo {
            step(shown(&command));
        }
        Ok(command)
    }
}

/// Builds all tests, and the binaries that they start, in one go: features are then unified once.
fn build_tests() -> anyhow::Result<Vec<TestBinary>> {
    step("building the tests");
    let mut command = process::host_cargo();
    command.args(["build", "--workspace", "--lib", "--bins", "--tests"]);
    let mut binaries: Vec<_> = build::artifacts(&mut command)?.into_iter().filter_map(TestBinary::new).collect();
    // The quick ones first.
    binaries.sort_by_key(|binary| (binary.needs_root, binary.name.clone()));
    ensure!(!binaries.is_empty(), "cargo built no tests");
    Ok(binaries)
}

/// The command that tests the documentation's examples.
fn doc_tests(args: &Args) -> Command {
    step("testing the documentation's examples");
    let mut command = process::host_cargo();
    command.args(["test", "--workspace", "--doc", "--quiet", "--"]).args(&args.filters);
    command
}

fn say_what_was_left_out(counts: Counts) {
    let line = "!".repeat(100);
    eprintln!("{line}");
    eprintln!(
        "!! {} TESTS WERE LEFT OUT, for want of root and sudo: those that load BPF programs or make network",
        counts.skipped
    );
    eprintln!("!! namespaces. Each is named above. `cargo xtask test` as root, or with sudo installed, runs them.");
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_ARGS: Args = Args { full: false, nocapture: false, filters: Vec::new() };

    fn binary(needs_root: bool) -> TestBinary {
        let directory = PathBuf::from("/x/tests");
        TestBinary { name: "tests (test namespaces)".to_owned(), path: "/x/t".into(), directory, needs_root }
    }

    #[test]
    fn only_privileged_tests_go_through_sudo_and_must_not_skip() {
        let line = shown(&binary(true).command(Privilege::Sudo, &NO_ARGS).unwrap());
        assert!(line.starts_with("sudo env LB_REQUIRE_ROOT=1 "), "{line}");
        assert!(line.ends_with(" /x/t"), "{line}");
        for (needs_root, privilege) in [(false, Privilege::Sudo), (false, Privilege::Root), (true, Privilege::Neither)]
        {
            assert_eq!(shown(&binary(needs_root).command(privilege, &NO_ARGS).unwrap()), "/x/t");
        }
        let as_root = binary(true).command(Privilege::Root, &NO_ARGS).unwrap();
        assert!(as_root.get_envs().any(|(name, value)| name == REQUIRE_ROOT && value == Some("1".as_ref())));
    }

    #[test]
    fn flags_come_before_filters_and_reach_root() {
        let args = Args { full: true, nocapture: true, filters: vec!["flood".to_owned()] };
        assert_eq!(args.of_binary(), ["--nocapture", "flood"]);
        let line = shown(&binary(true).command(Privilege::Sudo, &args).unwrap());
        assert!(line.contains(" LB_FULL=1 ") && line.ends_with(" /x/t --nocapture flood"), "{line}");
        let as_user = binary(false).command(Privilege::Sudo, &args).unwrap();
        assert!(as_user.get_envs().any(|(name, value)| name == FULL && value == Some("1".as_ref())));
    }

    #[test]
    fn closing_lines_are_added_up() {
        let mut counts = Counts::default();
        counts.add_line("running 7 tests");
        counts
            .add_line("test result: ok. 6 passed; 0 failed; 1 ignored; 0 measured; 12 filtered out; finished in 0.00s");
        counts.add_line(
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s",
        );
        assert_eq!(counts, Counts { passed: 16, failed: 2, skipped: 1 });
        assert_eq!(counts.to_string(), "tests: 16 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_test_that_left_itself_out_counts_as_skipped() {
        let script = "echo 'LEFT OUT: namespaces: it is not run as root' >&2; echo 'test result: ok. 3 passed; 0 failed; 0 ignored'";
        let mut counts = Counts::default();
        counts.add(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(counts, Counts { passed: 2, failed: 0, skipped: 1 });
        assert!(counts.add(Command::new("sh").args(["-c", "exit 101"])).is_err());
    }
}
