//! The node that packets come to: devices, addresses and routes in a network namespace, the daemon by hand in it, and the
//! programs that it has loaded.
//!
//! ```text
//!   outside ── uplink-peer ═ uplink ┤ the node ├ pods ═ pods-peer ── its pods
//!                                     lbh0 ═ lbh1
//! ```
//! Everything is behind one of two gateways whose MACs are known, so that every route has a neighbour.

use crate::environment::{self, Environment, NamedAddresses};
use crate::packet::{Ends, Outcome, Turn};
use crate::process::Process;
use crate::programs::{Action, Programs};
use crate::schema::{ClientKind, NodeState};
use anyhow::{Context, anyhow, ensure};
use ipnet::IpNet;
use lb_common::Settings;
use lb_common::maps::MAX_FLOWS_RANGE;
use lb_ctl::daemon::{ByHand, Config, DetectLocal, NodePortAddresses, Options};
use lb_ctl::datapath::{self, Datapath};
use lb_ctl::host::{self, HostView};
use lb_ctl::maps::{LbMaps as _, MapOp};
use lb_ctl::objects::ObjectId;
use lb_ctl::playground::offload::Offload;
use lb_ebpf::Hook;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Devices of the node, with the other ends of their pairs, and the MACs of the gateways behind them.
const UPLINK: &str = "uplink";
const PODS: &str = "pods";
const GATEWAYS: [(&str, &str, &str); 2] =
    [(UPLINK, "uplink-peer", "02:00:00:00:00:0a"), (PODS, "pods-peer", "02:00:00:00:00:0b")];
/// The gateways' addresses of both families, the same on both devices.
const NEXT_HOPS: [&str; 2] = ["169.254.1.1", "fe80::1"];
/// Every case begins so much later than the one before: whatever is remembered for a time is forgotten by then.
const BETWEEN_CASES: Duration = Duration::from_hours(48);

/// What the programs choose backends by. A daemon that finds none chooses one.
const SEED: u64 = 0x0123_4567_89ab_cdef;

/// Whose programs are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    /// The datapath's.
    Test,
    /// Programs that pass everything, to see that a runner of cases notices.
    Doubt,
}

/// See the [module](self).
pub struct Node {
    daemon: ByHand,
    programs: Programs,
    /// `None`: sockets are not served.
    process: Option<Process>,
    bpffs: PathBuf,
    view: HostView,
    addresses: Vec<IpAddr>,
    networks: Vec<IpNet>,
    settings: Option<Config>,
    clock: ClockFace,
}

/// How far time was moved, and when the step began.
struct ClockFace {
    ahead: Duration,
    step: Instant,
}

impl Node {
    /// A node in the calling thread's namespaces, with a BPF file system at `bpffs`. `binary` is what [`crate::process`] is
    /// started by.
    pub fn new(bpffs: &Path, binary: &Path, under: Under) -> anyhow::Result<Self> {
        let mut commands = String::from("link set lo up\n");
        for (device, peer, _) in GATEWAYS {
            // Nobody but us answers for these devices.
            writeln!(commands, "link add {device} type veth peer name {peer}")?;
            writeln!(commands, "link set {device} addrgenmode none\nlink set {peer} addrgenmode none")?;
            writeln!(commands, "link set {device} up\nlink set {peer} up")?;
        }
        ip(&commands)?;
        for (_, peer, _) in GATEWAYS {
            // So that XDP can send there, and does not leave everything to TCX.
            Offload::Gro.set_here(peer, true)?;
        }
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(Path::new("/proc/sys/net").join(setting), "1").with_context(|| setting.to_owned())?;
        }
        let process = (under == Under::Test).then(|| Process::start(binary)).transpose()?;
        let options =
            datapath::Options { bpffs: bpffs.to_owned(), max_flows: MAX_FLOWS_RANGE.0 * 16, ..Default::default() };
        let (datapath, clock) = Datapath::open_with_clock(&options)?;
        let programs = match under {
            Under::Test => Programs::of(&datapath)?,
            Under::Doubt => Programs::that_pass()?,
        };
        // Chosen once, so that the same packets go the same way in every run.
        let seed = MapOp::PutSettings(Settings { seed: SEED, ..Settings::default() });
        datapath.maps().apply(&seed)?;
        let bpffs = bpffs.to_owned();
        let config = Config::resolve(settings(&bpffs, process.as_ref(), None)?)?;
        let daemon = ByHand::new(config, datapath, clock)?;
        Ok(Self {
            daemon,
            programs,
            process,
            bpffs,
            view: HostView::default(),
            addresses: Vec::new(),
            networks: Vec::new(),
            settings: None,
            clock: ClockFace { ahead: Duration::ZERO, step: Instant::now() },
        })
    }

    /// Begins a case: nothing is remembered of the ones before.
    pub fn begin(&mut self, environment: &Environment, state: &NodeState) -> anyhow::Result<()> {
        self.move_clock(self.clock.ahead + BETWEEN_CASES)?;
        self.settings = None;
        self.enter(environment, state, &[])
    }

    /// Takes an environment on. If the daemon has to be started again for it, it gets `manifests` then.
    pub fn enter(
        &mut self,
        environment: &Environment,
        state: &NodeState,
        manifests: &[serde_json::Value],
    ) -> anyhow::Result<()> {
        self.lay(environment)?;
        let config = Config::resolve(settings(&self.bpffs, self.process.as_ref(), Some(environment))?)?;
        if self.settings.as_ref() != Some(&config) {
            self.daemon.restart(config.clone())?;
            self.settings = Some(config);
            self.apply(manifests)?;
        }
        self.apply(&environment.manifests(state))?;
        self.clock.step = Instant::now() + self.clock.ahead;
        Ok(())
    }

    /// Gives the node its addresses and routes.
    fn lay(&mut self, environment: &Environment) -> anyhow::Result<()> {
        let node = environment.this_node();
        if (&self.addresses, &self.networks) == (&node.ips, &node.pod_cidrs) {
            return Ok(());
        }
        let mut commands = String::new();
        for network in &self.networks {
            writeln!(commands, "route delete {network} dev {PODS}")?;
        }
        for address in &self.addresses {
            writeln!(commands, "address delete {} dev {UPLINK}", IpNet::from(*address))?;
        }
        for (device, _, mac) in GATEWAYS {
            for gateway in NEXT_HOPS {
                writeln!(commands, "neighbour replace {gateway} lladdr {mac} nud permanent dev {device}")?;
            }
        }
        for address in &node.ips {
            let detection = if address.is_ipv6() { "nodad" } else { "" };
            writeln!(commands, "address add {} dev {UPLINK} {detection}", IpNet::from(*address))?;
        }
        for gateway in NEXT_HOPS {
            writeln!(commands, "route replace default via {gateway} dev {UPLINK} onlink")?;
        }
        for network in &node.pod_cidrs {
            let gateway = NEXT_HOPS[usize::from(network.addr().is_ipv6())];
            writeln!(commands, "route replace {network} via {gateway} dev {PODS} onlink")?;
        }
        ip(&commands)?;
        (self.addresses, self.networks) = (node.ips.clone(), node.pod_cidrs.clone());
        self.daemon.look().map_err(|why| anyhow!("the daemon: {why}"))?;
        self.view = host::snapshot()?;
        Ok(())
    }

    /// Applies manifests.
    pub fn apply(&mut self, manifests: &[serde_json::Value]) -> anyhow::Result<()> {
        if manifests.is_empty() {
            return Ok(());
        }
        let documents: Vec<String> = manifests.iter().map(ToString::to_string).collect();
        self.daemon.apply(&documents.join("\n---\n")).map_err(|why| anyhow!("the manifests are refused: {why}"))
    }

    /// Deletes objects.
    pub fn delete(&mut self, ids: Vec<ObjectId>) -> anyhow::Result<()> {
        self.daemon.delete(ids).map_err(|why| anyhow!("delete: {why}"))
    }

    /// Whether all sources have told all their objects.
    pub fn set_synced(&mut self, synced: bool) -> anyhow::Result<()> {
        self.daemon.set_synced(synced).map_err(|why| anyhow!("the daemon: {why}"))
    }

    /// Lets time pass until so many seconds after the step began. It never runs back.
    pub fn wait_until(&mut self, seconds: f64) -> anyhow::Result<()> {
        let then = self.clock.step + Duration::try_from_secs_f64(seconds)?;
        let missing = then.saturating_duration_since(Instant::now() + self.clock.ahead);
        if missing.is_zero() { Ok(()) } else { self.move_clock(self.clock.ahead + missing) }
    }

    /// Lets a change wait for longer than a healthy proxy makes it wait.
    pub fn lag(&mut self) -> anyhow::Result<()> {
        let patience = self.daemon.stall();
        self.move_clock(self.clock.ahead + patience * 2)
    }

    fn move_clock(&mut self, ahead: Duration) -> anyhow::Result<()> {
        self.clock.ahead = ahead;
        self.daemon.set_ahead(ahead).map_err(|why| anyhow!("time cannot be moved: {why}"))
    }

    /// Sends a client's packet, by the way that the client's packets take.
    pub fn send(&mut self, kind: ClientKind, ends: Ends, turn: Turn) -> anyhow::Result<Outcome> {
        match kind {
            ClientKind::External | ClientKind::PodOnOtherNode => self.come_in(UPLINK, ends, turn),
            ClientKind::PodOnThisNode => self.come_in(PODS, ends, turn),
            ClientKind::Node | ClientKind::SelfVip | ClientKind::Loopback => self.leave(ends, turn),
        }
    }

    /// Sends the answer that a backend gives, by the way that the backend's packets take.
    pub fn answer(&mut self, ends: Ends) -> anyhow::Result<Outcome> {
        match host::route_to(ends.from.ip())? {
            Some(route) if route.local => self.leave(ends, Turn::Accept),
            Some(route) => {
                let device = self.view.interfaces.get(&route.ifindex).context("a device of the node")?.name.clone();
                self.come_in(&device, ends, Turn::Accept)
            }
            None => Ok(Outcome::Odd(format!("there is no route to {}", ends.from.ip()))),
        }
    }

    /// Whether packets to this address stay on this node, or go to one of its pods.
    pub fn is_here(&self, address: IpAddr) -> anyhow::Result<bool> {
        let route = host::route_to(address)?;
        Ok(route.is_some_and(|route| route.local || Some(route.ifindex) == self.index(PODS)))
    }

    /// Whether the node has this address.
    pub fn is_own(&self, address: IpAddr) -> anyhow::Result<bool> {
        Ok(host::route_to(address)?.is_some_and(|route| route.local))
    }

    fn index(&self, device: &str) -> Option<u32> {
        self.view.interface(device).map(|interface| interface.index)
    }

    /// A packet comes in by a device, and meets its hooks in their order.
    fn come_in(&self, device: &str, ends: Ends, turn: Turn) -> anyhow::Result<Outcome> {
        let xdp = (device == UPLINK).then_some(Hook::Xdp);
        self.meet(device, xdp.into_iter().chain([Hook::Ingress]), ends, turn)
    }

    fn meet(
        &self,
        device: &str,
        hooks: impl IntoIterator<Item = Hook>,
        ends: Ends,
        turn: Turn,
    ) -> anyhow::Result<Outcome> {
        let interface = self.view.interface(device).with_context(|| format!("there is no device {device}"))?;
        let mut frame = ends.frame(turn);
        frame[..6].copy_from_slice(&interface.mac.context("a device of Ethernet")?);
        for hook in hooks {
            let (action, out) = self.programs.run(hook, interface.index, &frame)?;
            let outcome = match action {
                Action::Drop => Outcome::Dropped,
                Action::Invalid(code) => Outcome::Odd(format!("{hook:?} returned {code}")),
                Action::Pass if out == frame => continue,
                Action::Send if out == frame => Outcome::Odd("sent on as it is".to_owned()),
                Action::Pass | Action::Send => Outcome::of_frame(ends, &out),
            };
            return Ok(outcome);
        }
        Ok(Outcome::Passed)
    }

    /// A process of the node sends a packet. The routes say which way it takes: to the pair, where hooks are, or out of the
    /// node, or nowhere, since it is for the node itself; then it is its socket that is served.
    fn leave(&mut self, ends: Ends, turn: Turn) -> anyhow::Result<Outcome> {
        let Some(route) = host::route_to(ends.to.ip())? else {
            return Ok(Outcome::Odd(format!("there is no route to {}", ends.to.ip())));
        };
        let device = self.view.interfaces.get(&route.ifindex).map(|interface| interface.name.clone());
        match device.as_deref() {
            Some(host::pair::INNER) => self.come_in(host::pair::OUTER, ends, turn),
            Some(device) if !route.local => self.meet(device, [Hook::Egress], ends, turn),
            _ => {
                let outside: Vec<u32> = GATEWAYS.iter().filter_map(|(_, peer, _)| self.index(peer)).collect();
                match &mut self.process {
                    Some(process) if turn == Turn::Open => process.open(ends, &outside),
                    _ => Ok(Outcome::Passed),
                }
            }
        }
    }
}

/// The daemon's settings in an environment.
fn settings(bpffs: &Path, process: Option<&Process>, environment: Option<&Environment>) -> anyhow::Result<Options> {
    Ok(Options {
        interfaces: vec![format!("{UPLINK}=xdp").parse()?, format!("{PODS}=tcx").parse()?],
        socket_lb: process.map(|process| process.cgroup().to_owned()),
        bpffs: Some(bpffs.to_owned()),
        node_name: Some(environment.map_or("node".to_owned(), |environment| environment.this_node.clone())),
        cluster_cidrs: environment.map(|environment| environment.cluster_pod_cidrs.clone()).unwrap_or_default(),
        detect_local: environment.map(|environment| match environment.local_detect {
            environment::LocalDetect::ClusterCidr => DetectLocal::ClusterCidr,
            environment::LocalDetect::NodeCidr => DetectLocal::NodeCidr,
            environment::LocalDetect::None => DetectLocal::None,
        }),
        masquerade_all: environment.map(|environment| environment.masquerade_all),
        nodeport_addresses: environment.map(nodeport_addresses).unwrap_or_default(),
        localhost_nodeports: environment.map(|environment| environment.localhost_nodeports),
        service_cidrs: environment.map(|environment| environment.service_cidrs.clone()).unwrap_or_default(),
        ..Options::default()
    })
}

fn nodeport_addresses(environment: &Environment) -> Vec<NodePortAddresses> {
    match &environment.nodeport_addresses {
        environment::NodePortAddresses::Named(NamedAddresses::Primary) => vec![NodePortAddresses::Primary],
        environment::NodePortAddresses::Named(NamedAddresses::All) => vec![NodePortAddresses::All],
        environment::NodePortAddresses::In(networks) => networks.iter().copied().map(NodePortAddresses::In).collect(),
    }
}

/// Runs commands of iproute2, all in one go.
fn ip(commands: &str) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("iproute2 is not installed: cargo xtask setup")?;
    child.stdin.take().context("no pipe")?.write_all(commands.as_bytes())?;
    let output = child.wait_with_output()?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(complaints.trim().is_empty(), "ip: {complaints}\n{commands}");
    Ok(())
}
