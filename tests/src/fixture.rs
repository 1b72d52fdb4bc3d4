//! A playground with a daemon and the Service in it, set up as a test wants.

use lb_common::maps::SETTINGS;
use lb_ctl::playground::topology::{Dual, NODE, NODE_PORT, NODE_PORT_UDP, Node, SERVICE_PORT, SERVICE_PORT_UDP};
use lb_ctl::playground::{Error, Name, Options, Playground, PodNetwork};
use std::io::Write;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Lines of status and flows that a failing test shows.
const TOLD: usize = 60;

/// What a test may vary.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Mode of the interface to the client: `xdp`, `xdp-generic` or `tcx`.
    pub wire: &'static str,
    /// How pods are connected.
    pub pods: PodNetwork,
    /// Whether pods have NAPI on.
    pub napi: bool,
    /// `rp_filter` of the node.
    pub rp_filter: u8,
    /// `ct state invalid drop` on the node.
    pub firewall: bool,
    /// `--path` of the daemon: `direct` or `stack`.
    pub path: &'static str,
}

impl Setup {
    /// The demo's: native XDP, routed pods with NAPI, no filters.
    pub const DEMO: Self =
        Self { wire: "xdp", pods: PodNetwork::Routed, napi: true, rp_filter: 0, firewall: false, path: "direct" };
}

/// A playground in which the daemon runs and the Service is applied.
pub struct Fixture {
    playground: Playground,
    cluster: Dual,
}

impl Fixture {
    /// Builds it. The binary is the one that the tests' own package builds.
    pub fn new(binary: &str, setup: Setup) -> Self {
        Self::with(binary, setup, &[])
    }

    /// The same, with more arguments for the daemon.
    pub fn with(binary: &str, setup: Setup, arguments: &[&str]) -> Self {
        let mut playground = bare(binary, setup);
        for argument in arguments {
            playground.add_daemon_argument(argument);
        }
        Self::start(playground, &interfaces(setup))
    }

    /// Starts a daemon that manages `interfaces` of a playground, and applies the Service.
    pub fn start(playground: Playground, interfaces: &[&str]) -> Self {
        let mut fixture = Self { playground, cluster: NODE };
        let started = fixture.playground.start_daemon(interfaces);
        if let Err(error) = started.and_then(|()| fixture.playground.apply_everything().map(drop)) {
            panic!("{error}\n{}", fixture.playground.log());
        }
        fixture.cluster = fixture.playground.cluster_address().expect("the Service has been applied");
        fixture
    }

    /// `ClusterIP:port` of the Service's HTTP port, both families.
    pub fn cluster(&self) -> [SocketAddr; 2] {
        self.cluster.addresses().map(|address| SocketAddr::new(address, SERVICE_PORT))
    }

    /// `ClusterIP:port` of the Service's UDP port, both families.
    pub fn cluster_udp(&self) -> [SocketAddr; 2] {
        self.cluster.addresses().map(|address| SocketAddr::new(address, SERVICE_PORT_UDP))
    }

    /// Connections that the datapath has counted on one of the Service's ports.
    pub fn counted(&self, port: &str) -> u64 {
        let description = self.playground.describe("web").expect("the Service is described");
        let port = description.ports.iter().find(|described| described.name == port);
        port.expect("the port is described").traffic.connections
    }

    /// The seed of the hash that picks backends.
    pub fn seed(&self) -> u64 {
        self.settings().get(&0, 0).expect("one value").seed
    }

    /// Lets the datapath lend these ports alone. The daemon does not look at that: it writes what it means to change.
    pub fn lend_ports(&self, first: u16, last: u16) {
        let mut map = self.settings();
        let settings = map.get(&0, 0).expect("one value");
        let few = lb_common::Settings { snat_port_first: first, snat_port_last: last, ..settings };
        map.set(0, few, 0).expect("the settings are written");
    }

    /// What the datapath is told of the node.
    fn settings(&self) -> aya::maps::Array<aya::maps::MapData, lb_common::Settings> {
        let pin = find(&self.playground.name().bpffs(), SETTINGS).expect("the settings map is pinned");
        let map = aya::maps::Map::Array(aya::maps::MapData::from_pin(pin).expect("the settings map"));
        map.try_into().expect("an array of settings")
    }

    /// Empties the tables of flows, as if the node had been rebooted with the same Services.
    pub fn lose_flows(&self) {
        use lb_common::maps::{FLOWS4, FLOWS6};
        macro_rules! empty {
            ($address:ty, $name:expr) => {
                let table = self.flow_table::<$address>($name);
                // One that is gone meanwhile is as good.
                table.iter().flatten().for_each(|(key, _)| drop(table.delete(&key)));
            };
        }
        empty!([u8; 4], FLOWS4);
        empty!([u8; 16], FLOWS6);
    }

    /// Packets that got this verdict.
    pub fn reason(&self, name: &str) -> u64 {
        let status = self.playground.status().expect("the daemon answers");
        status.counters.iter().filter(|line| line.reason == name).map(|line| line.packets).sum()
    }
}

impl Deref for Fixture {
    type Target = Playground;

    fn deref(&self) -> &Playground {
        &self.playground
    }
}

impl DerefMut for Fixture {
    fn deref_mut(&mut self) -> &mut Playground {
        &mut self.playground
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let status = self.playground.cli(&["status"], "");
            let flows = self.playground.cli(&["conntrack", "list"], "");
            let told = |told: Result<String, Error>| match told {
                Ok(text) => text.lines().take(TOLD).collect::<Vec<_>>().join("\n"),
                Err(error) => error.to_string(),
            };
            eprintln!("--- log\n{}\n--- status\n{}\n--- flows\n{}", self.playground.log(), told(status), told(flows));
        }
    }
}

/// `node:nodePort` of the Service's HTTP port, both families.
pub fn node_port() -> [SocketAddr; 2] {
    NODE.addresses().map(|address| SocketAddr::new(address, NODE_PORT))
}

/// `node:nodePort` of the Service's UDP port, both families.
pub fn node_port_udp() -> [SocketAddr; 2] {
    NODE.addresses().map(|address| SocketAddr::new(address, NODE_PORT_UDP))
}

/// The playground of `setup` without a daemon.
pub fn bare(binary: &str, setup: Setup) -> Playground {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = Name::of_test(NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut options = Options::new(name, Path::new(binary));
    (options.pods, options.pod_napi, options.rp_filter) = (setup.pods, setup.napi, setup.rp_filter);
    // Where packets come in is not to matter.
    options.daemon = vec![format!("--path={}", setup.path), "--nodeport-addresses=all".to_owned()];
    let playground = Playground::build(options).expect("a playground");
    if setup.firewall {
        firewall(&playground);
    }
    playground
}

/// The `--interface`s of a daemon for `setup`.
pub fn interfaces(setup: Setup) -> [&'static str; 3] {
    let wire = match setup.wire {
        "xdp" => "eth0=xdp",
        "xdp-generic" => "eth0=xdp-generic",
        "tcx" => "eth0=tcx",
        other => panic!("no mode {other}"),
    };
    [wire, "eth1=tcx", "veth*"]
}

/// The file called `name` below `directory`.
pub(crate) fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    entries.into_iter().find_map(
        |entry| {
            if entry.file_name() == name { Some(entry.path()) } else { find(&entry.path(), name) }
        },
    )
}

/// A stateful firewall on the node, as distributions ship it: what does not fit its connection is dropped.
fn firewall(playground: &Playground) {
    const RULES: &str = "table inet filter {
        chain forward { type filter hook forward priority 0; policy accept; ct state invalid drop; }
        chain input { type filter hook input priority 0; policy accept; ct state invalid drop; }
        chain output { type filter hook output priority 0; policy accept; ct state invalid drop; }
    }";
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped());
    let mut nft = playground.node_space(Node::One).spawn(&mut command).expect("nft is installed: cargo xtask setup");
    nft.stdin.take().expect("piped").write_all(RULES.as_bytes()).expect("nft reads its rules");
    assert!(nft.wait().expect("a child").success(), "nft refused the rules");
}
