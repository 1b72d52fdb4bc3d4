//! The CLI as a user runs it: arguments in, exit code, output and errors out.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs commands against one daemon.
#[derive(Clone, Debug)]
pub struct Cli {
    binary: PathBuf,
    socket: PathBuf,
}

/// What a command said, and with which code it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub errors: String,
}

impl Cli {
    /// Commands of `binary` for the daemon behind `socket`.
    pub fn new(binary: impl AsRef<Path>, socket: impl AsRef<Path>) -> Self {
        Self { binary: binary.as_ref().to_owned(), socket: socket.as_ref().to_owned() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--socket").arg(&self.socket);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command with `input` on its standard input.
    pub fn run(&self, arguments: &[&str], input: &str) -> Said {
        let mut child = self.command(arguments).spawn().expect("the CLI starts");
        // One that reads none of it says so by its exit code.
        child.stdin.take().expect("piped").write_all(input.as_bytes()).ok();
        let output = child.wait_with_output().expect("the CLI ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().expect("an exit code");
        Said { code, out: text(&output.stdout), errors: text(&output.stderr) }
    }

    /// Starts a command that goes on until it is dropped.
    pub fn start(&self, arguments: &[&str]) -> Watching {
        let mut child = self.command(arguments).spawn().expect("the CLI starts");
        let lines = lines(child.stdout.take().expect("piped"));
        Watching { child, lines }
    }
}

/// A command that goes on.
#[derive(Debug)]
pub struct Watching {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Watching {
    /// The next line that it prints; `None`: none comes within a time in which one would.
    pub fn next_line(&self, within: Duration) -> Option<String> {
        self.lines.recv_timeout(within).ok()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The thread ends with the process whose output it is.
fn lines(out: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
