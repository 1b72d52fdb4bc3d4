//! A playground: network namespaces and veth pairs in which a real daemon serves real clients and servers.
//!
//! Everything is made by this process, carries one name, and is removed when the [`Playground`] is dropped or its
//! process ends in whatever way ([`janitor`]). Nothing outside its own namespaces and its own directory under `/run`
//! is touched, so it runs beside a production daemon.

pub mod by_name;
pub mod cli;
pub mod client;
pub mod content;
pub mod daemon;
pub mod demo;
pub mod echo;
mod error;
mod http;
pub mod janitor;
pub mod links;
pub mod manifests;
pub mod name;
pub mod netns;
pub mod offload;
pub mod pod;
mod signals;
pub mod tally;
pub mod topology;

pub use client::Client;
pub use error::Error;
pub use name::Name;
pub use pod::{Pod, PodNetwork};

use daemon::Daemon;
use error::Doing;
use ipnet::IpNet;
use janitor::Janitor;
use links::Links;
use netns::NetNs;
use nix::fcntl::Flock;
use nix::mount::{MsFlags, mount};
use offload::Offload;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use topology::{CLIENT, Dual, NODE, NODE_INSIDE, NODE2, Node, Place};

/// The hidden subcommand that runs [`echo::serve`].
pub const SERVER_SUBCOMMAND: &str = "playground-server";

/// How a playground shall be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name, which nothing else on the machine may have.
    pub name: Name,
    /// The lb-ctl binary whose hidden subcommands, daemon and CLI are used.
    pub binary: PathBuf,
    /// How pods are connected.
    pub pods: PodNetwork,
    /// Whether pods have NAPI on, so that XDP can redirect into them.
    pub pod_napi: bool,
    /// `rp_filter` of the node.
    pub rp_filter: u8,
    /// More arguments of the daemon.
    pub daemon: Vec<String>,
}

impl Options {
    /// The playground of the demo: routed pods with NAPI.
    pub fn new(name: Name, binary: impl Into<PathBuf>) -> Self {
        Self { name, binary: binary.into(), pods: PodNetwork::Routed, pod_napi: true, rp_filter: 0, daemon: Vec::new() }
    }
}

/// A playground that is up.
#[derive(Debug)]
pub struct Playground {
    options: Options,
    client: NetNs,
    nodes: [NetNs; 2],
    pods: BTreeMap<String, Pod>,
    servers: Vec<Child>,
    daemon: Option<Daemon>,
    kept: bool,
    janitor: Option<Janitor>,
    _lock: Flock<File>,
}

impl Playground {
    /// Builds one: namespaces, cables, addresses, routes, pods and their servers. No daemon yet.
    pub fn build(options: Options) -> Result<Self, Error> {
        let directory = options.name.directory();
        // First of all, so that there is no moment in which we could be killed and leave something.
        let janitor = Janitor::start(&options.binary, &options.name)?;
        if let Err(error) = fs::create_dir(&directory) {
            // What is there is not ours to remove.
            janitor.keep()?;
            return Err(error).doing(|| format!("create {}", directory.display()));
        }
        let lock = janitor::lock(&options.name)?;
        let lock = lock.ok_or_else(|| Error::broken(format_args!("{} is locked by another process", options.name)))?;
        mount_bpffs(&options.name.bpffs())?;
        let space = |role: &str| new_space(&options.name.space(role));
        let client = space("client")?;
        let nodes = [space(Node::One.name())?, space(Node::Two.name())?];
        wire(&client, &nodes, &options)?;
        let (pods, servers, daemon, janitor) = (BTreeMap::new(), Vec::new(), None, Some(janitor));
        let mut playground = Self { options, client, nodes, pods, servers, daemon, kept: false, janitor, _lock: lock };
        for place in topology::first_pods() {
            playground.start_pod(place)?;
        }
        Ok(playground)
    }

    /// How it was asked to be.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// One more argument for daemons that are started from now on; a later one of a name replaces an earlier one.
    pub fn add_daemon_argument(&mut self, argument: &str) {
        self.drop_daemon_argument(argument.split('=').next().unwrap_or_default());
        self.options.daemon.push(argument.to_owned());
    }

    /// Daemons that are started from now on get the argument of this name once for each value, and no other of it.
    pub fn repeat_daemon_argument(&mut self, name: &str, values: impl IntoIterator<Item = impl Display>) {
        self.drop_daemon_argument(name);
        self.options.daemon.extend(values.into_iter().map(|value| format!("{name}={value}")));
    }

    /// Daemons that are started from now on do without the arguments of this name.
    pub fn drop_daemon_argument(&mut self, name: &str) {
        self.options.daemon.retain(|known| known.split('=').next() != Some(name));
    }

    /// The daemons that are started from now on serve the sockets of this cgroup's processes, or nobody's.
    pub fn serve_sockets(&mut self, cgroup: Option<&Path>) {
        match cgroup {
            Some(cgroup) => self.add_daemon_argument(&format!("--socket-lb={}", cgroup.display())),
            None => self.drop_daemon_argument("--socket-lb"),
        }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.options.name
    }

    /// Its directory.
    pub fn directory(&self) -> PathBuf {
        self.name().directory()
    }

    /// Namespace of the outside client.
    pub fn client_space(&self) -> &NetNs {
        &self.client
    }

    /// Namespace of a node.
    pub fn node_space(&self, node: Node) -> &NetNs {
        &self.nodes[node as usize]
    }

    /// The outside client.
    pub fn client(&self) -> Client<'_> {
        Client::new(&self.client)
    }

    /// The running pod of this name.
    pub fn pod(&self, name: &str) -> Result<&Pod, Error> {
        self.pods.get(name).ok_or_else(|| Error::broken(format_args!("there is no pod {name}")))
    }

    /// All running pods by name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// Starts a pod.
    pub fn start_pod(&mut self, place: Place) -> Result<&Pod, Error> {
        let (network, napi) = (self.options.pods, self.options.pod_napi);
        let name = place.name.clone();
        let node = self.node_space(place.node);
        let pod = Pod::start(self.name(), node, place, network, napi, &self.options.binary)?;
        Ok(self.pods.entry(name).insert_entry(pod).into_mut())
    }

    /// Kills a pod: its processes, its namespace and its cable vanish.
    pub fn kill_pod(&mut self, name: &str) -> Result<(), Error> {
        match self.pods.remove(name) {
            Some(pod) => pod.remove(),
            None => Err(Error::broken(format_args!("there is no pod {name}"))),
        }
    }

    /// Starts an echo server on a node itself, on both families and both protocols.
    pub fn serve_on(&mut self, node: Node, name: &str, port: u16) -> Result<(), Error> {
        let space = &self.nodes[node as usize];
        self.servers.push(spawn_server(space, &self.options.binary, name, port)?);
        let own = match node {
            Node::One => NODE,
            Node::Two => NODE2,
        };
        Client::new(space).wait_for(name, own, port)
    }

    /// Leaves everything up when this process ends.
    pub fn keep(mut self) -> Result<(), Error> {
        self.kept = true;
        self.janitor.take().map_or(Ok(()), Janitor::keep)
    }

    /// Removes everything and tells what was there.
    pub fn remove(mut self) -> Result<Vec<String>, Error> {
        self.kept = true;
        self.tear_down()
    }

    fn tear_down(&mut self) -> Result<Vec<String>, Error> {
        let removed = janitor::remove(&self.options.name);
        for pod in self.pods.values_mut() {
            pod.reap();
        }
        if let Some(daemon) = self.daemon.take() {
            daemon.reap();
        }
        for mut process in self.servers.drain(..) {
            // Killed with its namespace.
            process.wait().ok();
        }
        removed
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.tear_down()
        {
            eprintln!("lb-ctl: removing the playground {}: {error}", self.options.name);
        }
    }
}

/// Makes a namespace with its loopback up and address configuration by hand alone.
fn new_space(name: &str) -> Result<NetNs, Error> {
    let space = NetNs::create(name)?;
    for class in ["all", "default"] {
        space.sysctl(&format!("ipv6/conf/{class}/accept_dad"), 0)?;
        space.sysctl(&format!("ipv6/conf/{class}/accept_ra"), 0)?;
        space.sysctl(&format!("ipv6/conf/{class}/router_solicitations"), 0)?;
        space.sysctl(&format!("ipv4/conf/{class}/rp_filter"), 0)?;
    }
    Links::open(&space)?.up("lo")?;
    Ok(space)
}

/// Cables, addresses and routes between the client and the nodes.
fn wire(client: &NetNs, nodes: &[NetNs; 2], options: &Options) -> Result<(), Error> {
    let [first, second] = nodes;
    for space in nodes {
        space.sysctl("ipv4/ip_forward", 1)?;
        space.sysctl("ipv6/conf/all/forwarding", 1)?;
    }
    for class in ["all", "default"] {
        first.sysctl(&format!("ipv4/conf/{class}/rp_filter"), options.rp_filter)?;
    }
    let (outside, near, far) = (Links::open(client)?, Links::open(first)?, Links::open(second)?);
    near.veth("eth0", client, "eth0")?;
    near.veth("eth1", second, "eth0")?;
    let ends = [(&outside, "eth0", CLIENT), (&near, "eth0", NODE), (&near, "eth1", NODE_INSIDE), (&far, "eth0", NODE2)];
    for (links, link, own) in ends {
        for address in own.within(24, 64) {
            links.address(link, address)?;
        }
    }
    let route = |links: &Links, to: [IpNet; 2], by: Dual, link: &str| {
        to.into_iter().zip(by.addresses()).try_for_each(|(to, gateway)| links.route(to, Some(gateway), link))
    };
    route(&outside, topology::service_networks(), NODE, "eth0")?;
    route(&outside, Node::One.pod_networks(), NODE, "eth0")?;
    route(&outside, Node::Two.pod_networks(), NODE, "eth0")?;
    route(&outside, NODE2.within(24, 64), NODE, "eth0")?;
    route(&near, everywhere(), CLIENT, "eth0")?;
    route(&near, Node::Two.pod_networks(), NODE2, "eth1")?;
    route(&far, everywhere(), NODE_INSIDE, "eth0")?;
    // The client's cable stands for a wire: what comes off it carries complete checksums, and its far end takes
    // whatever is sent, as does the second node's.
    Offload::TxChecksum.set(client, "eth0", false)?;
    Offload::Gro.set(client, "eth0", true)?;
    Offload::Gro.set(second, "eth0", true)?;
    if options.pods == PodNetwork::Bridged {
        for (links, node) in [(&near, Node::One), (&far, Node::Two)] {
            links.bridge(pod::BRIDGE)?;
            for address in node.gateway().within(24, 64) {
                links.address(pod::BRIDGE, address)?;
            }
        }
    }
    Ok(())
}

/// The default routes' destinations.
fn everywhere() -> [IpNet; 2] {
    let all: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    all.map(|address| IpNet::new_assert(address, 0))
}

/// Mounts a bpffs. By the parent, outside `/sys`: one that is mounted inside a namespace vanishes with its process.
fn mount_bpffs(path: &Path) -> Result<(), Error> {
    fs::create_dir(path).doing(|| format!("create {}", path.display()))?;
    let mode = "mode=0700";
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), Some(mode))
        .doing(|| format!("mount a bpffs on {}", path.display()))
}

/// Starts an echo server inside `space`, out of reach of the terminal's Ctrl-C.
fn spawn_server(space: &NetNs, binary: &Path, name: &str, port: u16) -> Result<Child, Error> {
    let mut command = Command::new(binary);
    command.args([SERVER_SUBCOMMAND, "--name", name, "--port", &port.to_string()]).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    space.spawn(&mut command)
}
