//! A node with the real daemon in it, in namespaces of its own.

use anyhow::{Context, bail, ensure};
use aya::maps::{MapData, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_programs;
use aya::programs::tc::SchedClassifierLink;
use aya::programs::{ProgramFd, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::maps::HASHING;
use lb_common::{Reason, ReasonCount};
use lb_ctl::datapath::flow_table;
use lb_ctl::playground::links::Links;
use lb_ctl::playground::netns::NetNs;
use lb_ctl::playground::topology::{CLIENT, NODE2, Node as Role};
use lb_ctl::playground::{Name, Options, Playground};
use lb_tests::frames::DESTINATION_MAC;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{io::Write, thread};

use crate::manifests::{self, BACKEND4, BACKEND6};
use crate::wrapper::Hook;

/// How long the daemon may take for what it is told.
const PATIENCE: Duration = Duration::from_mins(2);

/// The program at TCX ingress.
const INGRESS: &str = "lb_tcx_ingress";

/// A node.
pub(crate) struct Node {
    playground: Playground,
    daemon: Option<Child>,
    /// Programs that are measured in place of the attached ones.
    instead: Option<Ebpf>,
    /// Programs that are measured beside them, with what they are called.
    beside: Vec<(String, Ebpf)>,
    binary: PathBuf,
    socket: PathBuf,
    uplink: u32,
}

impl Node {
    /// Makes the namespaces and starts the daemon with maps for `max_flows` flows. The clients' interface and that to the
    /// backends are in XDP mode, the peers' NAPI is on, neighbours are permanent.
    pub(crate) fn start(binary: &Path, max_flows: u32) -> anyhow::Result<Self> {
        Self::start_with(binary, max_flows, &[])
    }

    /// The same, with more flags for the daemon.
    pub(crate) fn start_with(binary: &Path, max_flows: u32, flags: &[&str]) -> anyhow::Result<Self> {
        let mut node = Self::bare(binary)?;
        node.start_daemon(max_flows, flags)?;
        Ok(node)
    }

    /// The same without a daemon.
    pub(crate) fn bare(binary: &Path) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = Name::of_test(NUMBER.fetch_add(1, Ordering::Relaxed));
        let playground = Playground::build(Options::new(name, binary))?;
        let space = playground.node_space(Role::One);
        let links = Links::open(space)?;
        for (to, gateway) in [("10.200.0.0/14", IpAddr::from(NODE2.v4)), ("fd00:200::/32", IpAddr::from(NODE2.v6))] {
            links.route(to.parse().context("a network")?, Some(gateway), "eth1")?;
        }
        // The frames that are sent through the programs are addressed to it.
        links.set_mac("eth0", DESTINATION_MAC)?;
        links.set_mac("eth1", DESTINATION_MAC)?;
        let client = Links::open(playground.client_space())?.mac("eth0")?;
        let far = Links::open(playground.node_space(Role::Two))?.mac("eth0")?;
        for (neighbours, device, mac) in [(CLIENT, "eth0", client), (NODE2, "eth1", far)] {
            for address in neighbours.addresses() {
                let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
                ip(space, &format!("neighbour replace {address} lladdr {mac} dev {device} nud permanent"))?;
            }
        }
        let uplink = links.index("eth0")?;
        let socket = playground.directory().join("bench.sock");
        Ok(Self {
            daemon: None,
            instead: None,
            beside: Vec::new(),
            binary: binary.to_owned(),
            socket,
            uplink,
            playground,
        })
    }

    /// Routes what is for the hot Service's backend back to where it came in (`uplink`), as on a load balancer with one arm, or on
    /// by the other interface.
    pub(crate) fn route_hot(&self, back: bool) -> anyhow::Result<()> {
        let (gateway, device) = if back { (CLIENT, "eth0") } else { (NODE2, "eth1") };
        ip(self.space(), &format!("route replace {BACKEND4}/32 via {} dev {device}", gateway.v4))?;
        ip(self.space(), &format!("-6 route replace {BACKEND6}/128 via {} dev {device}", gateway.v6))
    }

    fn start_daemon(&mut self, max_flows: u32, flags: &[&str]) -> anyhow::Result<()> {
        let directory = self.playground.directory();
        let config = directory.join("bench.yaml");
        // So that the machine's own configuration is not read.
        fs::write(&config, "")?;
        let log = File::create(directory.join("bench.log"))?;
        fs::create_dir(self.manifests())?;
        let mut command = Command::new(&self.binary);
        command.arg("daemon").arg("--config").arg(config).arg("--socket").arg(&self.socket);
        command.args(["--instance", "bench", "--node-name", Role::One.name()]);
        command.args(["--max-flows", &max_flows.to_string(), "--log-level", "warn"]);
        command.arg("--bpffs").arg(self.playground.name().bpffs()).arg("--state-dir").arg(directory);
        command.arg("--manifests").arg(self.manifests());
        for (flag, value) in [
            ("--interface", "eth0=xdp"),
            ("--interface", "eth1=xdp"),
            ("--interface", "veth*"),
            ("--service-cidr", "10.96.0.0/12"),
            ("--service-cidr", "fd00:10:96::/112"),
        ] {
            command.args([flag, value]);
        }
        command.args(flags);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.daemon = Some(self.space().spawn(&mut command)?);
        self.wait("the daemon is not ready", |node| {
            node.cli(&["status", "-o", "json"], "").is_ok_and(|status| {
                serde_json::from_str::<serde_json::Value>(&status).is_ok_and(|status| status["ready"] == true)
            })
        })
    }

    /// The daemon's process.
    pub(crate) fn daemon(&self) -> anyhow::Result<u32> {
        self.daemon.as_ref().map(Child::id).context("no daemon is running")
    }

    /// Ends the daemon; what is in the kernel stays, as it was.
    pub(crate) fn end_daemon(&mut self) -> anyhow::Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM)?;
            daemon.wait()?;
        }
        Ok(())
    }

    /// Waits until something is so.
    pub(crate) fn wait(&mut self, otherwise: &str, mut done: impl FnMut(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let ended = self.daemon.as_mut().is_some_and(|daemon| matches!(daemon.try_wait(), Ok(Some(_)) | Err(_)));
            if ended || Instant::now() > deadline {
                let log = fs::read_to_string(self.playground.directory().join("bench.log")).unwrap_or_default();
                bail!("{otherwise}{}:\n{log}", if ended { ", it has ended" } else { "" });
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The namespace.
    pub(crate) fn space(&self) -> &NetNs {
        self.playground.node_space(Role::One)
    }

    /// The namespaces around it.
    pub(crate) fn playground(&self) -> &Playground {
        &self.playground
    }

    /// Socket of the daemon's API.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The directory that the daemon watches.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.playground.directory().join("manifests")
    }

    /// The interface that clients come in by.
    pub(crate) fn uplink(&self) -> u32 {
        self.uplink
    }

    /// Runs the CLI.
    pub(crate) fn cli(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--socket").arg(&self.socket);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn()?;
        // A command that refuses its arguments does not read; its exit code tells.
        process.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()).ok());
        let output = process.wait_with_output()?;
        ensure!(
            output.status.success(),
            "`lb-ctl {}`: {}\n{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies the hot Service and `services` others with `endpoints` endpoints each, and waits until they are in the maps.
    pub(crate) fn fill(&mut self, services: u32, endpoints: u32) -> anyhow::Result<()> {
        /// A request has a largest size, and half a minute.
        const AT_ONCE: u32 = 5_000;
        self.cli(&["apply", "-f", "-"], &manifests::hot())?;
        for first in (0..services).step_by(AT_ONCE as usize) {
            let text = manifests::services(first..(first + AT_ONCE).min(services), endpoints);
            self.cli(&["apply", "-f", "-"], &text)?;
        }
        self.wait_for_services(services)
    }

    /// Waits until the last of so many Services is in the maps.
    pub(crate) fn wait_for_services(&mut self, services: u32) -> anyhow::Result<()> {
        let last = services
            .checked_sub(1)
            .map_or(manifests::HOT4, |last| Ipv4Addr::from_bits(manifests::FIRST.to_bits() + last));
        let owned = self.map("OWNED4")?;
        let owned: aya::maps::HashMap<_, [u8; 4], lb_common::Owned> = owned.try_into()?;
        self.wait("the Services are not in the maps", |_| owned.get(&last.octets(), 0).is_ok())
    }

    /// A pinned map.
    pub(crate) fn map(&self, name: &str) -> anyhow::Result<aya::maps::Map> {
        let pin = self.find(name).with_context(|| format!("the map {name} is not pinned"))?;
        let data = MapData::from_pin(&pin).with_context(|| format!("cannot open {}", pin.display()))?;
        Ok(match data.info()?.map_type()? {
            aya::maps::MapType::Hash => aya::maps::Map::HashMap(data),
            aya::maps::MapType::LruHash => aya::maps::Map::LruHashMap(data),
            aya::maps::MapType::Array => aya::maps::Map::Array(data),
            aya::maps::MapType::PerCpuArray => aya::maps::Map::PerCpuArray(data),
            other => bail!("the map {name} is of the kind {other:?}"),
        })
    }

    /// The pinned maps by name.
    pub(crate) fn pins(&self) -> BTreeMap<String, PathBuf> {
        fn collect(directory: &Path, found: &mut BTreeMap<String, PathBuf>) {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    collect(&path, found);
                } else {
                    found.insert(entry.file_name().to_string_lossy().into_owned(), path);
                }
            }
        }
        let mut found = BTreeMap::new();
        collect(&self.playground.name().bpffs(), &mut found);
        found
    }

    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        self.pins().remove(name)
    }

    /// Loads another build of the datapath onto the daemon's maps, to be measured in place of what is attached.
    pub(crate) fn measure_instead(&mut self, object: &Path) -> anyhow::Result<()> {
        self.instead = Some(self.load(object)?);
        Ok(())
    }

    /// The same, to be measured beside what is attached, round by round.
    pub(crate) fn measure_beside(&mut self, object: &Path) -> anyhow::Result<()> {
        let name = object.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let loaded = self.load(object)?;
        self.beside.push((name, loaded));
        Ok(())
    }

    /// Puts another build of the datapath in place of the programs that are attached at TCX.
    pub(crate) fn replace_attached(&mut self, object: &Path) -> anyhow::Result<()> {
        let mut ebpf = self.load(object)?;
        for (suffix, name) in [("-ingress", INGRESS), ("-egress", "lb_tcx_egress")] {
            let program: &mut SchedClassifier =
                ebpf.program_mut(name).context("a build was loaded without it")?.try_into()?;
            if suffix == "-egress" {
                program.load()?;
            }
            for pin in self.pins().into_iter().filter_map(|(name, pin)| name.ends_with(suffix).then_some(pin)) {
                let link = SchedClassifierLink::try_from(FdLink::from(PinnedLink::from_pin(&pin)?))?;
                let link = program.attach_to_link(link)?;
                // Pinned it goes on without us.
                drop(program.take_link(link)?);
            }
        }
        self.instead = Some(ebpf);
        Ok(())
    }

    /// The program that is attached to an interface, to be called `name`, and those that are measured beside it, whose names tell
    /// their builds.
    pub(crate) fn programs(
        &self,
        hook: Hook,
        ifindex: u32,
        name: &'static str,
    ) -> anyhow::Result<Vec<(&'static str, ProgramFd)>> {
        let mut programs = vec![(name, self.program(hook, ifindex)?)];
        for (build, ebpf) in &self.beside {
            // Names of rows live as long as the bench; there are few builds.
            programs.push((format!("{name}, {build}").leak(), program_of(ebpf, hook)?));
        }
        Ok(programs)
    }

    fn load(&self, object: &Path) -> anyhow::Result<Ebpf> {
        let bytes = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
        let pins = self.pins();
        let hashing = pins.get(HASHING).and_then(|pin| pin.parent()).context("how flows are hashed is not pinned")?;
        let hashing = flow_table::hashing(hashing)?;
        let mut loader = EbpfLoader::new();
        loader.override_global("HASHED", &hashing, true);
        for spec in lb_common::maps::MAPS {
            let pin = pins.get(spec.name).with_context(|| format!("the map {} is not pinned", spec.name))?;
            loader.map_pin_path(spec.name, pin);
        }
        let mut ebpf = loader.load(&bytes).with_context(|| format!("{} does not load", object.display()))?;
        let program: &mut Xdp = ebpf.program_mut("lb_xdp").context("it has no lb_xdp")?.try_into()?;
        program.load()?;
        let program: &mut SchedClassifier =
            ebpf.program_mut(INGRESS).context("it has no lb_tcx_ingress")?.try_into()?;
        program.load()?;
        Ok(ebpf)
    }

    /// The very program that is attached to an interface: the product's, complete and unmodified.
    pub(crate) fn program(&self, hook: Hook, ifindex: u32) -> anyhow::Result<ProgramFd> {
        if let Some(instead) = &self.instead {
            return program_of(instead, hook);
        }
        let name = format!("{ifindex}-{}", if hook == Hook::Xdp { "xdp" } else { "ingress" });
        let pin = self.find(&name).with_context(|| format!("nothing is attached as {name}"))?;
        let link = FdLink::from(PinnedLink::from_pin(pin)?);
        let id = link.info()?.program_id();
        let program = loaded_programs().flatten().find(|program| program.id() == id);
        Ok(program.with_context(|| format!("the program {id} has gone"))?.fd()?)
    }

    /// The program's own counters.
    pub(crate) fn reasons(&self) -> anyhow::Result<BTreeMap<Reason, u64>> {
        let map: PerCpuArray<_, ReasonCount> = self.map(lb_common::maps::REASONS)?.try_into()?;
        let mut counts = BTreeMap::new();
        for reason in Reason::ALL {
            let copies = map.get(&(*reason as u32), 0)?;
            counts.insert(*reason, copies.iter().map(|copy| copy.packets).sum());
        }
        Ok(counts)
    }

    /// Runs `work` in the node's namespace, on the last CPU.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let work = || {
            let mut cpus = CpuSet::new();
            let last = thread::available_parallelism().map_or(0, |number| number.get() - 1);
            // Without it the figures are noisier, and no less true.
            cpus.set(last).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus)).ok();
            work()
        };
        Ok(self.space().run(work)?)
    }
}

fn program_of(ebpf: &Ebpf, hook: Hook) -> anyhow::Result<ProgramFd> {
    let name = if hook == Hook::Xdp { "lb_xdp" } else { INGRESS };
    Ok(ebpf.program(name).context("a build was loaded without it")?.fd()?.try_clone()?)
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.end_daemon() {
            eprintln!("bench: the daemon does not end: {error:#}");
        }
    }
}

/// Runs iproute2 in a namespace.
pub(crate) fn ip(space: &NetNs, arguments: &str) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace());
    let status = space.spawn(&mut command)?.wait()?;
    ensure!(status.success(), "ip {arguments}: {status}");
    Ok(())
}

/// An address of a client that no flow of the wrapper has.
pub(crate) fn client4() -> Ipv4Addr {
    Ipv4Addr::new(11, 0, 0, 9)
}

/// The same of IPv6: the wrapper writes its last four bytes.
pub(crate) fn client6() -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0x0b00, 9)
}
