//! The playground's daemon: the real `lb-ctl daemon` inside the node's namespace, and the real CLI that talks to it.

use super::error::{Doing, Error};
use super::manifests::{self, NAMESPACE, SERVICE};
use super::topology::{Dual, Node, SERVICE_CIDRS};
use super::{Playground, topology};
use crate::api::{ServiceDescription, Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What the demo's daemon manages: the client's cable stands for a wire and is fed to XDP, the rest is TCX.
pub const INTERFACES: [&str; 3] = ["eth0=xdp", "eth1=tcx", "veth*"];
/// A pattern that no interface of the playground matches: a daemon without hooks.
pub const NO_INTERFACE: [&str; 1] = ["none*"];

/// A running daemon. Dropping it does not end it: it ends with its namespace.
#[derive(Debug)]
pub(super) struct Daemon(Child);

impl Daemon {
    /// Sends `signal` and waits for the end.
    fn end(mut self, signal: Signal) -> Result<(), Error> {
        let pid = Pid::from_raw(self.0.id() as i32);
        kill(pid, signal).doing(|| format!("send {signal} to the daemon"))?;
        self.0.wait().doing(|| "wait for the daemon".to_owned())?;
        Ok(())
    }

    /// Waits for the end of a daemon that was killed.
    pub(super) fn reap(mut self) {
        // Its exit code says nothing new.
        self.0.wait().ok();
    }
}

impl Playground {
    /// Socket of the daemon's API.
    pub fn socket(&self) -> PathBuf {
        self.directory().join("lb-ctl.sock")
    }

    /// What the daemons of this playground have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory().join("daemon.log")).unwrap_or_default()
    }

    /// The command line of a daemon that manages `interfaces` of the node as the instance `instance`.
    pub fn daemon_command(&self, instance: &str, socket: &Path, interfaces: &[&str]) -> Result<Command, Error> {
        let directory = self.directory();
        let config = directory.join("config.yaml");
        // So that the machine's own configuration is not read.
        fs::write(&config, "").doing(|| format!("write {}", config.display()))?;
        let mut command = Command::new(&self.options().binary);
        command.arg("daemon").arg("--config").arg(config).arg("--socket").arg(socket);
        command.args(["--instance", instance, "--node-name", Node::One.name()]);
        command.arg("--bpffs").arg(self.name().bpffs()).arg("--state-dir").arg(directory);
        let arguments = &self.options().daemon;
        let is_given = |name: &str| arguments.iter().any(|argument| argument.starts_with(name));
        if !is_given("--max-flows=") {
            command.arg("--max-flows=16384");
        }
        if !is_given("--service-cidr=") {
            command.args(SERVICE_CIDRS.map(|network| format!("--service-cidr={network}")));
        }
        command.args(arguments);
        for interface in interfaces {
            command.args(["--interface", interface]);
        }
        Ok(command)
    }

    /// Starts the daemon inside the node's namespace and waits until it is ready.
    pub fn start_daemon(&mut self, interfaces: &[&str]) -> Result<(), Error> {
        let path = self.directory().join("daemon.log");
        let log = File::options().create(true).append(true).open(&path);
        let log = log.doing(|| format!("open {}", path.display()))?;
        let errors = log.try_clone().doing(|| format!("open {}", path.display()))?;
        let mut command = self.daemon_command(self.name().as_str(), &self.socket(), interfaces)?;
        command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(errors);
        let mut process = self.node_space(Node::One).spawn(&mut command)?;
        let deadline = Instant::now() + Duration::from_secs(20);
        let failure = loop {
            if let Some(status) = process.try_wait().doing(|| "wait for the daemon".to_owned())? {
                break format!("the daemon ended at once: {status}");
            }
            match self.status() {
                Ok(status) if status.ready => {
                    self.daemon = Some(Daemon(process));
                    return Ok(());
                }
                Ok(status) if Instant::now() > deadline => {
                    break format!("the daemon is not ready: {:?} {:?}", status.interfaces, status.problems);
                }
                Err(error) if Instant::now() > deadline => break format!("the daemon does not answer: {error}"),
                _ => thread::sleep(Duration::from_millis(20)),
            }
        };
        self.daemon = Some(Daemon(process));
        Err(Error::Broken(failure))
    }

    /// Waits until the daemon has attached to everything it should, the cables of new pods included.
    pub fn wait_for_hooks(&self) -> Result<(), Error> {
        let on_node = self.pods().filter(|pod| pod.place().node == Node::One);
        let links: Vec<String> = on_node.map(|pod| pod.place().node_link()).collect();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let status = self.status()?;
            let attached = |link: &String| {
                status.interfaces.iter().any(|interface| interface.name == *link && !interface.attached.is_empty())
            };
            let missing: Vec<&String> = links.iter().filter(|link| !attached(link)).collect();
            if status.ready && missing.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let Status { interfaces, problems, .. } = &status;
                return Err(Error::broken(format_args!("not attached: {missing:?}; {interfaces:?} {problems:?}")));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the daemon with `signal` and waits until it is gone.
    pub fn end_daemon(&mut self, signal: Signal) -> Result<(), Error> {
        let daemon = self.daemon.take().ok_or_else(|| Error::broken("no daemon is running"))?;
        daemon.end(signal)
    }

    /// Runs a command of the CLI against the daemon, with `input` on its standard input, and gives its output.
    pub fn cli(&self, arguments: &[&str], input: &str) -> Result<String, Error> {
        let action = || format!("run `lb-ctl {}`", arguments.join(" "));
        let mut command = Command::new(&self.options().binary);
        command.args(arguments).arg("--socket").arg(self.socket());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().doing(action)?;
        if let Some(mut stdin) = process.stdin.take() {
            // A command that refused its arguments does not read; its exit code tells.
            stdin.write_all(input.as_bytes()).ok();
        }
        let output = process.wait_with_output().doing(action)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(Error::broken(format_args!("{}: {}\n{errors}{text}", action(), output.status)))
    }

    /// Applies manifests by the CLI.
    pub fn apply(&self, manifests: &str) -> Result<String, Error> {
        self.cli(&["apply", "-f", "-"], manifests)
    }

    /// Applies the playground's own manifests: namespace, nodes, Service, and every running pod.
    pub fn apply_everything(&self) -> Result<String, Error> {
        let pods = self.pods().map(|pod| manifests::pod(pod.place()));
        self.apply(&pods.fold(manifests::cluster(), |all, pod| all + &pod))
    }

    /// Deletes a Pod object by the CLI.
    pub fn delete_pod_object(&self, name: &str) -> Result<String, Error> {
        self.cli(&["delete", "pod", name, "-n", NAMESPACE], "")
    }

    /// What the daemon says about itself.
    pub fn status(&self) -> Result<Status, Error> {
        self.json(&["status", "-o", "json"])
    }

    /// What the daemon and the datapath know about a Service.
    pub fn describe(&self, service: &str) -> Result<ServiceDescription, Error> {
        self.json(&["describe", "service", service, "-n", NAMESPACE, "-o", "json"])
    }

    /// The `ClusterIPs` of the playground's Service.
    pub fn cluster_address(&self) -> Result<Dual, Error> {
        self.cluster_address_of(SERVICE)
    }

    /// The `ClusterIPs` of a Service with both families.
    pub fn cluster_address_of(&self, service: &str) -> Result<Dual, Error> {
        let addresses = self.describe(service)?.cluster_ips;
        let parsed: Vec<IpAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
        let v4 = parsed.iter().find_map(|address| if let IpAddr::V4(v4) = address { Some(*v4) } else { None });
        let v6 = parsed.iter().find_map(|address| if let IpAddr::V6(v6) = address { Some(*v6) } else { None });
        let both = v4.zip(v6).map(|(v4, v6)| Dual { v4, v6 });
        let both = both.filter(|both| {
            both.addresses()
                .iter()
                .zip(topology::service_networks())
                .all(|(address, network)| network.contains(address))
        });
        both.ok_or_else(|| Error::broken(format_args!("service {service} has the ClusterIPs {addresses:?}")))
    }

    fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, Error> {
        let text = self.cli(arguments, "")?;
        serde_json::from_str(&text)
            .map_err(|error| Error::broken(format_args!("`lb-ctl {}` printed {error}: {text}", arguments.join(" "))))
    }
}
