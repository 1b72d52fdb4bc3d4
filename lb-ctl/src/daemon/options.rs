//! The daemon's settings as typed: on the command line, or in the configuration file. One struct for both, so that a
//! setting is declared once. What they mean together is [`super::Config`].

use super::name_server::{NameServer, one_or_more};
use super::pattern::InterfaceSpec;
use crate::datapath::TcMode;
use crate::figures::Detail;
use crate::objects::Algorithm;
use crate::store::AddressPool;
use clap::ValueEnum;
use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// Settings as typed. `None` and an empty list mean: not given here.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Options {
    /// Interface to manage, by name or shell pattern, with how to attach; repeatable, the first that matches counts
    #[arg(long = "interface", short = 'i', value_name = "NAME|PATTERN[=auto|xdp|xdp-generic|tcx]")]
    #[serde(default)]
    pub interfaces: Vec<InterfaceSpec>,
    /// Directory of the cgroup2 file system: processes in it and below are served at their sockets, once for each
    /// connection, on this node's own node ports and loopback too
    #[arg(long = "socket-lb", value_name = "CGROUP")]
    #[serde(rename = "socketLB")]
    pub socket_lb: Option<PathBuf>,
    /// Directory of manifests to watch
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Unix socket of the control API [default: /run/lb-ctl/<instance>.sock]
    // On the command line it is a flag of every command, see `cli::args`.
    #[arg(skip)]
    pub socket: Option<PathBuf>,
    /// Name that tells this daemon's pins, state and socket from another's [default: default]
    #[arg(skip)]
    pub instance: Option<String>,
    /// This node's name, as Pods and Nodes call it [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    #[expect(clippy::doc_markdown, reason = "it is the help text")]
    /// Network that ClusterIPs are allocated from; repeatable, those of a family are used up one after the other, and the first
    /// of all gives the default family [default: 10.96.0.0/12 and fd00:10:96::/112]
    #[arg(long = "service-cidr", value_name = "CIDR", value_parser = network)]
    #[serde(default, rename = "serviceCIDRs", deserialize_with = "networks")]
    pub service_cidrs: Vec<IpNet>,
    /// Network of the cluster's pods; repeatable. Clients in it are of the cluster: on addresses from outside no policy
    /// keeps them on one node
    #[arg(long = "cluster-cidr", value_name = "CIDR", value_parser = network)]
    #[serde(default, rename = "clusterCIDRs", deserialize_with = "networks")]
    pub cluster_cidrs: Vec<IpNet>,
    /// What tells pods from clients outside: the cluster's networks, those that this node's Node manifest gives to
    /// its own pods, or nothing [default: cluster-cidr where one is given, else node-cidr]
    #[arg(long, value_name = "HOW")]
    pub detect_local: Option<DetectLocal>,
    /// Clients of ClusterIPs that are of the cluster keep their address, as by kube-proxy, also where the backend is on another
    /// node and its reply goes past this one; with this they do not [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub masquerade_all: Option<bool>,
    /// Which of this node's addresses serve node ports; repeatable. `primary`: those that its Node manifest calls `InternalIP`,
    /// or, in a family of which it names none, all [default: primary]
    #[arg(long = "nodeport-addresses", value_name = "primary|all|CIDR", value_delimiter = ',')]
    #[serde(default)]
    pub nodeport_addresses: Vec<NodePortAddresses>,
    /// Whether processes served at their sockets reach node ports on loopback [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub localhost_nodeports: Option<bool>,
    /// Ports that node ports are allocated from [default: 30000-32767]
    #[arg(long, value_name = "FIRST-LAST")]
    pub node_port_range: Option<PortRange>,
    /// Addresses for Services of the type LoadBalancer: CIDRs, ranges FIRST-LAST and single addresses of either family. A pool
    /// serves Services of its class, or those without one, or those whose annotation lb-ctl/address-pool names it; repeatable
    #[arg(long = "load-balancer-pool", value_name = "NAME[@CLASS]=RANGE[,RANGE]")]
    #[serde(default)]
    pub load_balancer_pools: Vec<AddressPool>,
    /// How connections of Services without the annotation lb-ctl/algorithm are given to endpoints: by a random hash, or
    /// by Maglev tables, in the same way on all nodes [default: random]
    #[arg(long, value_name = "ALGORITHM")]
    pub algorithm: Option<Algorithm>,
    /// Size of Maglev tables, a prime, about a hundred times the endpoints of the greatest Service; the same on all nodes
    /// [default: 65537]
    #[arg(long, value_name = "NUMBER")]
    pub maglev_table_size: Option<u32>,
    /// Keys the hash by which Maglev tables are read: a secret, the same on all nodes, keeps clients from choosing their
    /// endpoint [default: a constant]
    #[arg(long, value_name = "NUMBER")]
    pub maglev_seed: Option<u64>,
    /// Way of new connections: straight on by redirect, or through the host's stack with its firewall [default: direct]
    #[arg(long, value_name = "PATH")]
    pub path: Option<PathMode>,
    /// How packets get to pods of this node: straight to the pod's end of its veth, wherever nobody shapes or filters what the node's
    /// end sends, or always by the node's end [default: peer]
    #[arg(long, value_name = "WAY")]
    pub to_pods: Option<ToPods>,
    /// How programs come to the TC hooks: TCX where the kernel has it (Linux 6.6), else filters on a clsact qdisc
    /// [default: auto]
    #[arg(long, value_name = "KIND")]
    pub tc: Option<TcMode>,
    /// Whether processes of this node reach Services, by a veth pair (lbh0, lbh1) and routes of the daemon's own
    /// [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub host_clients: Option<bool>,
    /// Address of this node to lend to connections that need source translation; repeatable, up to four of each family
    /// [default: one of each family, found by the Node manifest or the routes]
    #[arg(long = "snat-address", value_name = "ADDRESS")]
    #[serde(default)]
    pub snat_addresses: Vec<IpAddr>,
    /// Where the proxy's own health is told by HTTP, on /healthz, /livez and /readyz; empty: nowhere [default: 127.0.0.1:10256]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub healthz_address: Option<HealthzAddress>,
    /// Where metrics are told to Prometheus, on /metrics, beside the health; empty: nowhere [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<HealthzAddress>,
    /// Whose traffic the metrics tell: nobody's, that of each Service's ports, or that of each endpoint's address too
    /// [default: backend]
    #[arg(long, value_name = "DETAIL")]
    pub metrics_detail: Option<Detail>,
    /// How many ports of Services, and how many endpoints' addresses, have series of their own (seven each, and five each);
    /// the others are added up under the name (others) [default: 10000]
    #[arg(long, value_name = "NUMBER")]
    pub metrics_limit: Option<usize>,
    /// Address on which names of Services are told by DNS, port 53 unless given; repeatable [default: none]
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    #[serde(default, deserialize_with = "one_or_more")]
    pub dns: Vec<NameServer>,
    /// Domain of these names [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// Server that is asked for all other names; repeatable, the first that answers counts
    /// [default: those in /etc/resolv.conf]
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    #[serde(default, deserialize_with = "one_or_more")]
    pub dns_upstream: Vec<NameServer>,
    /// Where a BPF file system is mounted; only the default is mounted where it is missing [default: /sys/fs/bpf]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// Flows of each family that fit: sizes every map, at about 1.3 GB of kernel memory per million
    /// [default: 131072]
    #[arg(long, value_name = "NUMBER")]
    pub max_flows: Option<u32>,
    /// Seconds between two rounds of the audit, which looks after all maps at a fiftieth of one CPU and repairs what it can;
    /// 0: none [default: 300]
    #[arg(long, value_name = "SECONDS")]
    pub audit_interval: Option<u32>,
    /// Directory of the state file [default: /var/lib/lb-ctl]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// How much to log [default: info]; from `debug` on the datapath logs what it drops in silence
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// How to log [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

impl Options {
    /// These settings, and `weaker` ones where they say nothing. A list is replaced, not extended.
    #[must_use]
    pub fn or(self, weaker: Self) -> Self {
        let list = |strong: Vec<_>, weak| if strong.is_empty() { weak } else { strong };
        Self {
            interfaces: if self.interfaces.is_empty() { weaker.interfaces } else { self.interfaces },
            socket_lb: self.socket_lb.or(weaker.socket_lb),
            manifests: self.manifests.or(weaker.manifests),
            socket: self.socket.or(weaker.socket),
            instance: self.instance.or(weaker.instance),
            node_name: self.node_name.or(weaker.node_name),
            snat_addresses: if self.snat_addresses.is_empty() { weaker.snat_addresses } else { self.snat_addresses },
            service_cidrs: list(self.service_cidrs, weaker.service_cidrs),
            cluster_cidrs: list(self.cluster_cidrs, weaker.cluster_cidrs),
            detect_local: self.detect_local.or(weaker.detect_local),
            masquerade_all: self.masquerade_all.or(weaker.masquerade_all),
            nodeport_addresses: if self.nodeport_addresses.is_empty() {
                weaker.nodeport_addresses
            } else {
                self.nodeport_addresses
            },
            localhost_nodeports: self.localhost_nodeports.or(weaker.localhost_nodeports),
            node_port_range: self.node_port_range.or(weaker.node_port_range),
            load_balancer_pools: if self.load_balancer_pools.is_empty() {
                weaker.load_balancer_pools
            } else {
                self.load_balancer_pools
            },
            algorithm: self.algorithm.or(weaker.algorithm),
            maglev_table_size: self.maglev_table_size.or(weaker.maglev_table_size),
            maglev_seed: self.maglev_seed.or(weaker.maglev_seed),
            path: self.path.or(weaker.path),
            to_pods: self.to_pods.or(weaker.to_pods),
            tc: self.tc.or(weaker.tc),
            host_clients: self.host_clients.or(weaker.host_clients),
            healthz_address: self.healthz_address.or(weaker.healthz_address),
            metrics: self.metrics.or(weaker.metrics),
            metrics_detail: self.metrics_detail.or(weaker.metrics_detail),
            metrics_limit: self.metrics_limit.or(weaker.metrics_limit),
            dns: if self.dns.is_empty() { weaker.dns } else { self.dns },
            cluster_domain: self.cluster_domain.or(weaker.cluster_domain),
            dns_upstream: if self.dns_upstream.is_empty() { weaker.dns_upstream } else { self.dns_upstream },
            bpffs: self.bpffs.or(weaker.bpffs),
            max_flows: self.max_flows.or(weaker.max_flows),
            audit_interval: self.audit_interval.or(weaker.audit_interval),
            state_dir: self.state_dir.or(weaker.state_dir),
            log_level: self.log_level.or(weaker.log_level),
            log_format: self.log_format.or(weaker.log_format),
        }
    }
}

/// A text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no network: write ADDRESS/LENGTH, such as 10.96.0.0/16 (up to /32) or fd00:96::/112 (up to /128)")]
pub struct NetworkError(String);

/// A network as typed.
fn network(text: &str) -> Result<IpNet, NetworkError> {
    text.trim().parse().map_err(|_| NetworkError(text.to_owned()))
}

/// Networks of the configuration file: one at least, since an empty list could mean none as well as the default.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let networks = Vec::<Network>::deserialize(deserializer)?;
    if networks.is_empty() {
        return Err(D::Error::custom("the list is empty: name networks, or leave the setting out to get the default"));
    }
    Ok(networks.into_iter().map(|network| network.0).collect())
}

/// One of them.
struct Network(IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        network(&String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

/// What tells pods from clients outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DetectLocal {
    /// The networks of the cluster.
    ClusterCidr,
    /// Those of the pods of this node, by its Node manifest.
    #[default]
    NodeCidr,
    /// Nothing does.
    None,
}

/// Some of the node's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// Those by which other nodes know it.
    Primary,
    /// All of them.
    All,
    /// Those in a network.
    In(IpNet),
}

impl FromStr for NodePortAddresses {
    type Err = NodePortAddressesError;

    fn from_str(text: &str) -> Result<Self, NodePortAddressesError> {
        match text.trim() {
            "primary" => Ok(Self::Primary),
            "all" => Ok(Self::All),
            text => text.parse().map(Self::In).map_err(|_| NodePortAddressesError(text.to_owned())),
        }
    }
}

impl fmt::Display for NodePortAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::All => f.write_str("all"),
            Self::In(network) => network.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for NodePortAddresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A text is no [`NodePortAddresses`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither `primary` nor `all` nor a network such as 192.0.2.0/24")]
pub struct NodePortAddressesError(String);

/// The way of a flow, decided when it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathMode {
    /// By redirect, past the host's stack and its FORWARD rules.
    #[default]
    Direct,
    /// Through the host's stack, wherever the client's address is kept.
    Stack,
}

impl PathMode {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            PathMode::Direct => "direct",
            PathMode::Stack => "stack",
        }
    }
}

/// How packets get to pods of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToPods {
    /// Straight to the pod's end of its veth, past the node's end, wherever nothing there would miss them.
    #[default]
    Peer,
    /// By the node's end.
    Interface,
}

impl ToPods {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            ToPods::Peer => "peer",
            ToPods::Interface => "interface",
        }
    }
}

/// How much to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What stops us.
    Error,
    /// What an operator should look at.
    Warn,
    /// What changed.
    Info,
    /// And why.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The same for `tracing`.
    pub const fn filter(self) -> tracing::level_filters::LevelFilter {
        use tracing::level_filters::LevelFilter;
        match self {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// A text is no [`PortRange`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no range of ports: write FIRST-LAST, such as 30000-32767, between 1 and 65535")]
pub struct PortRangeError(String);

impl PortRange {
    /// As a range.
    pub const fn range(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let parse = || {
            let (first, last) = text.split_once('-')?;
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first > 0 && first <= last).then_some(Self { first, last })
        };
        parse().ok_or_else(|| PortRangeError(text.to_owned()))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A single port is no text to YAML.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Number(i64),
        }
        let wrong = |_| D::Error::custom("must be a range such as 30000-32767");
        let text = match Written::deserialize(deserializer).map_err(wrong)? {
            Written::Text(text) => text,
            Written::Number(number) => number.to_string(),
        };
        text.parse().map_err(D::Error::custom)
    }
}

/// Where the proxy's own health is told; `None`: nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthzAddress(pub Option<SocketAddr>);

/// A text is no [`HealthzAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address with a port: write 127.0.0.1:10256 or [::]:10256, or nothing at all to tell it nowhere")]
pub struct HealthzAddressError(String);

impl Default for HealthzAddress {
    /// kube-proxy's port, for the node's own processes alone.
    fn default() -> Self {
        Self(Some(SocketAddr::from(([127, 0, 0, 1], 10256))))
    }
}

impl FromStr for HealthzAddress {
    type Err = HealthzAddressError;

    fn from_str(text: &str) -> Result<Self, HealthzAddressError> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let address: Option<SocketAddr> = text.parse().ok();
        let usable = address.filter(|address| address.port() != 0);
        usable.map(|address| Self(Some(address))).ok_or_else(|| HealthzAddressError(text.to_owned()))
    }
}

impl fmt::Display for HealthzAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("none"),
        }
    }
}

impl<'de> Deserialize<'de> for HealthzAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
