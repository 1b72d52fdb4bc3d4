//! Programs of others: those that are installed, and those that `cargo xtask bench` has unpacked below `target/`.

use anyhow::{Context, ensure};
use lb_ctl::playground::netns::NetNs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where programs are looked for.
pub(crate) struct Tools {
    unpacked: PathBuf,
}

impl Tools {
    /// Those of this workspace.
    pub(crate) fn of(workspace: &Path) -> Self {
        Self { unpacked: workspace.join("target/tools/peers") }
    }

    /// A file by its name in one of Debian's places for programs, libraries or modules.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        let places = ["usr/sbin", "usr/bin", "sbin", "bin", "usr/lib/nginx/modules"];
        let roots = [Path::new("/"), &self.unpacked];
        roots.iter().flat_map(|root| places.map(|place| root.join(place).join(name))).find(|path| path.exists())
    }

    /// A command that finds its libraries, also where it was only unpacked.
    pub(crate) fn command(&self, name: &str) -> anyhow::Result<Command> {
        let path = self.find(name).with_context(|| format!("there is no {name}"))?;
        let mut command = Command::new(&path);
        if path.starts_with(&self.unpacked) {
            let libraries = self.unpacked.join("usr/lib/x86_64-linux-gnu");
            command.env("XTABLES_LIBDIR", libraries.join("xtables")).env("LD_LIBRARY_PATH", libraries);
        }
        Ok(command)
    }

    /// Runs a program in a namespace with `text` on its standard input.
    pub(crate) fn feed(&self, space: &NetNs, program: &str, arguments: &[&str], text: &str) -> anyhow::Result<()> {
        let mut command = self.command(program)?;
        command.args(arguments).stdin(Stdio::piped());
        let mut child = space.spawn(&mut command)?;
        child.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
        let status = child.wait()?;
        ensure!(status.success(), "{program} refuses what it is told: {status}");
        Ok(())
    }

    /// Starts a server in a namespace; it ends with what is returned.
    pub(crate) fn serve(&self, space: &NetNs, program: &str, arguments: &[&str]) -> anyhow::Result<Server> {
        let mut command = self.command(program)?;
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Server(space.spawn(&mut command)?))
    }

    /// What a program in a namespace prints.
    pub(crate) fn answer(&self, space: &NetNs, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command(program)?;
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = space.spawn(&mut command)?.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "`{program} {}`: {}\n{text}{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }
}

/// A process that ends when this is dropped.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
