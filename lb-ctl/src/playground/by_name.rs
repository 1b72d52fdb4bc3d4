//! Clients that know a Service by its name alone: processes whose `resolv.conf` leads to the daemon.

use super::client::Connection;
use super::echo::Answer;
use super::error::{Doing, Error};
use super::manifests::NAMESPACE;
use super::topology::Node;
use super::{Playground, Pod};
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The hidden subcommand that runs [`ask`].
pub const SUBCOMMAND: &str = "playground-asker";
/// How long one connection may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the daemon tells names: the gateway of the pods on its node.
pub fn server() -> IpAddr {
    Node::One.gateway().v4.into()
}

/// Asks `http://host/`, a connection for each time, and writes whom it found and what that said, a line each. Finds
/// addresses as every program does that uses the C library.
pub fn ask(host: &str, port: u16, count: usize) -> Result<(), Error> {
    let asked = || -> io::Result<()> {
        let mut output = io::stdout().lock();
        for _ in 0..count {
            let to = (host, port).to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
            let answer = Connection::open(to, PATIENCE)?.request("/")?;
            writeln!(output, "{}", serde_json::to_string(&(to, answer))?)?;
        }
        Ok(())
    };
    asked().doing(|| format!("GET http://{host}/"))
}

impl Playground {
    /// A `resolv.conf` as a kubelet writes it for pods of the playground.
    pub fn resolv_conf(&self) -> Result<PathBuf, Error> {
        let path = self.directory().join("resolv.conf");
        let text = format!(
            "nameserver {}\nsearch {NAMESPACE}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n",
            server()
        );
        fs::write(&path, text).doing(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl Pod {
    /// Asks `http://host/` by processes that see `resolv_conf` in place of the machine's: whom they found, and what that
    /// said.
    pub fn ask_by_name(
        &self,
        binary: &Path,
        resolv_conf: &Path,
        host: &str,
        port: u16,
        count: usize,
    ) -> Result<Vec<(SocketAddr, Answer)>, Error> {
        let action = || format!("GET http://{host}/ from {}", self.name());
        let mut command = Command::new(binary);
        command.args([SUBCOMMAND, "--host", host, "--port", &port.to_string(), "--count", &count.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = self.space().spawn_seeing(&mut command, resolv_conf, Path::new("/etc/resolv.conf"))?;
        let output = process.wait_with_output().doing(action)?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            return Err(Error::broken(format_args!("{}: {}", action(), errors.trim())));
        }
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let answers: serde_json::Result<Vec<_>> = lines.lines().map(serde_json::from_str).collect();
        answers.map_err(|error| Error::broken(format_args!("{}: {error}: {lines}", action())))
    }
}
