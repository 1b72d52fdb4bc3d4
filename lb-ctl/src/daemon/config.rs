//! The daemon's settings as meant: flags over the configuration file over defaults, checked together.

use super::name_server::NameServer;
use super::options::{
    DetectLocal, HealthzAddress, LogFormat, LogLevel, NodePortAddresses, Options, PathMode, PortRange, ToPods,
};
use super::pattern::InterfaceSpec;
use crate::datapath::TcMode;
use crate::dns;
use crate::figures::Detail;
use crate::image::maglev;
use crate::manifest::rules::names;
use crate::manifest::{self, Diagnostic};
use crate::model::{Balancing, DEFAULT_MAGLEV_TABLE_SIZE};
use crate::objects::Algorithm;
use crate::store::{AddressPool, AddressRange};
use ipnet::IpNet;
use lb_common::Settings;
use lb_common::maps::{DEFAULT_MAX_FLOWS, MAX_FLOWS_RANGE};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Configuration file that is read when none is named; it may be missing.
pub const DEFAULT_CONFIG: &str = "/etc/lb-ctl/config.yaml";
/// Instance when none is named.
pub const DEFAULT_INSTANCE: &str = "default";
/// Where the bpf file system is.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";
/// Where the state file is.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/lb-ctl";
/// Service ports, and endpoints, that metrics name.
pub const DEFAULT_METRICS_LIMIT: usize = 10_000;
/// Node ports.
pub const DEFAULT_NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// Seconds between two rounds of the audit.
pub const DEFAULT_AUDIT_INTERVAL: u32 = 300;
/// Networks of `ClusterIPs`: kubeadm's for IPv4, kind's for IPv6.
pub const DEFAULT_SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/12", "fd00:10:96::/112"];
/// Bits of an address that a service network leaves open at most, as the API server has it. Such a network is routed to us, so a
/// larger one would hardly be meant.
const SERVICE_BITS: u8 = 20;

/// The daemon's settings as meant.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Interfaces to manage.
    pub interfaces: Vec<InterfaceSpec>,
    /// Cgroup whose processes are served at their sockets.
    pub socket_lb: Option<PathBuf>,
    /// Directory of manifests to watch.
    pub manifests: Option<PathBuf>,
    /// Socket of the control API.
    pub socket: PathBuf,
    /// Name of the instance.
    pub instance: String,
    /// This node's name.
    pub node_name: String,
    /// Networks that `ClusterIPs` are allocated from.
    pub service_cidrs: Vec<IpNet>,
    /// Networks of the cluster's pods.
    pub cluster_cidrs: Vec<IpNet>,
    /// What tells pods from clients outside.
    pub detect_local: DetectLocal,
    /// Whether no client of a ClusterIP keeps its address where the reply would not come back through this node by itself.
    pub masquerade_all: bool,
    /// Which of the node's addresses serve node ports: those that any of these means.
    pub nodeport_addresses: Vec<NodePortAddresses>,
    /// Whether node ports are served on loopback, to sockets.
    pub localhost_nodeports: bool,
    /// Ports that node ports are allocated from.
    pub node_port_range: RangeInclusive<u16>,
    /// Pools that load balancers get their addresses from.
    pub load_balancer_pools: Vec<AddressPool>,
    /// How connections of Services that say nothing are given to endpoints.
    pub balancing: Balancing,
    /// Keys the hash by which Maglev tables are read.
    pub maglev_seed: u64,
    /// The way of new flows.
    pub path: PathMode,
    /// How packets get to pods of this node.
    pub to_pods: ToPods,
    /// How programs come to the TC hooks.
    pub tc: TcMode,
    /// Whether processes of this node are clients.
    pub host_clients: bool,
    /// Addresses to lend to connections that need source translation; none of a family: one that is found.
    pub snat_addresses: Vec<IpAddr>,
    /// Where the proxy's own health is told.
    pub healthz_address: HealthzAddress,
    /// Where metrics are told.
    pub metrics: HealthzAddress,
    /// Whose traffic they tell.
    pub metrics_detail: Detail,
    /// How many names they have at most, of Service ports and of endpoints each.
    pub metrics_limit: usize,
    /// The DNS server.
    pub dns: dns::Settings,
    /// Where the bpf file system is.
    pub bpffs: PathBuf,
    /// Flows of each family that fit.
    pub max_flows: u32,
    /// Seconds between two rounds of the audit; 0: none.
    pub audit_interval: u32,
    /// The state file.
    pub state_file: PathBuf,
    /// How much to log.
    pub log_level: LogLevel,
    /// How to log.
    pub log_format: LogFormat,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file is no YAML, or settings have the wrong type: each error with its place.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Parse(Vec<Diagnostic>),
    /// A setting's value cannot be.
    #[error("{setting}: {message}")]
    Value {
        /// Flag, and the name in the file.
        setting: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The host has no usable name.
    #[error("the host's name cannot be read ({0}): give one with --node-name")]
    HostName(io::Error),
}

/// Where settings come from: read again at every reload.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The command line.
    pub flags: Options,
    /// The configuration file that was named; `None`: [`DEFAULT_CONFIG`], which may be missing.
    pub file: Option<PathBuf>,
}

impl Origin {
    /// Flags over the file, as typed.
    pub fn options(&self) -> Result<Options, ConfigError> {
        let file = match &self.file {
            Some(path) => read(path)?,
            None => match read(Path::new(DEFAULT_CONFIG)) {
                Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Options::default(),
                result => result?,
            },
        };
        Ok(self.flags.clone().or(file))
    }

    /// Flags over the file over defaults, as meant.
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::resolve(self.options()?)
    }
}

impl Config {
    /// The meaning of `options` over defaults.
    pub fn resolve(options: Options) -> Result<Self, ConfigError> {
        let instance = options.instance.unwrap_or_else(|| DEFAULT_INSTANCE.to_owned());
        check_instance(&instance)?;
        if options.interfaces.is_empty() {
            return Err(invalid(
                "--interface (interfaces)",
                "no interface is named, so there is nothing to balance: give --interface eth0, or a pattern such as \
                 --interface 'veth*'",
            ));
        }
        let max_flows = options.max_flows.unwrap_or(DEFAULT_MAX_FLOWS);
        if !(MAX_FLOWS_RANGE.0..=MAX_FLOWS_RANGE.1).contains(&max_flows) {
            let (least, most) = MAX_FLOWS_RANGE;
            return Err(invalid("--max-flows (maxFlows)", format!("{max_flows} is not between {least} and {most}")));
        }
        let service_cidrs = if options.service_cidrs.is_empty() {
            DEFAULT_SERVICE_CIDRS.iter().filter_map(|cidr| cidr.parse().ok()).collect()
        } else {
            options.service_cidrs
        };
        check_cidrs(&service_cidrs)?;
        check_pods(&service_cidrs, &options.cluster_cidrs, options.detect_local)?;
        check_pools(&options.load_balancer_pools, &service_cidrs)?;
        let detected = if options.cluster_cidrs.is_empty() { DetectLocal::NodeCidr } else { DetectLocal::ClusterCidr };
        let nodeport_addresses = if options.nodeport_addresses.is_empty() {
            vec![NodePortAddresses::Primary]
        } else {
            options.nodeport_addresses
        };
        if let [_, _, ..] = nodeport_addresses.as_slice()
            && let Some(word) = nodeport_addresses.iter().find(|of| !matches!(of, NodePortAddresses::In(_)))
        {
            let message = format!("`{word}` stands for itself: give it alone, or networks");
            return Err(invalid("--nodeport-addresses (nodeportAddresses)", message));
        }
        check_snat_addresses(&options.snat_addresses)?;
        let dns = dns::Settings {
            addresses: check_dns(&options.dns)?,
            domain: options.cluster_domain.as_deref().map_or_else(|| Ok(dns::Domain::default()), check_domain)?,
            upstream: options.dns_upstream.iter().map(|server| server.0).collect(),
            networks: service_cidrs.clone(),
        };
        let state_dir = options.state_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR));
        Ok(Self {
            interfaces: options.interfaces,
            socket_lb: options.socket_lb,
            manifests: options.manifests,
            socket: options.socket.unwrap_or_else(|| default_socket(&instance)),
            node_name: options.node_name.map_or_else(host_name, check_node_name)?,
            service_cidrs,
            cluster_cidrs: options.cluster_cidrs,
            detect_local: options.detect_local.unwrap_or(detected),
            masquerade_all: options.masquerade_all.unwrap_or(false),
            nodeport_addresses,
            localhost_nodeports: options.localhost_nodeports.unwrap_or(true),
            snat_addresses: options.snat_addresses,
            node_port_range: options.node_port_range.map_or(DEFAULT_NODE_PORTS, PortRange::range),
            load_balancer_pools: options.load_balancer_pools,
            balancing: balancing(options.algorithm, options.maglev_table_size)?,
            maglev_seed: options.maglev_seed.unwrap_or(Settings::SHARED_SEED),
            path: options.path.unwrap_or_default(),
            to_pods: options.to_pods.unwrap_or_default(),
            tc: options.tc.unwrap_or_default(),
            host_clients: options.host_clients.unwrap_or(true),
            healthz_address: options.healthz_address.unwrap_or_default(),
            metrics: options.metrics.unwrap_or(HealthzAddress(None)),
            metrics_detail: options.metrics_detail.unwrap_or_default(),
            metrics_limit: options.metrics_limit.unwrap_or(DEFAULT_METRICS_LIMIT),
            dns,
            bpffs: options.bpffs.unwrap_or_else(|| PathBuf::from(DEFAULT_BPFFS)),
            max_flows,
            audit_interval: options.audit_interval.unwrap_or(DEFAULT_AUDIT_INTERVAL),
            state_file: state_dir.join(format!("{instance}.json")),
            log_level: options.log_level.unwrap_or(LogLevel::Info),
            log_format: options.log_format.unwrap_or(LogFormat::Text),
            instance,
        })
    }
}

impl Config {
    /// What can be, and is likely not meant.
    pub fn warnings(&self) -> Vec<String> {
        let read = |name: &str| std::fs::read_to_string(Path::new("/proc/sys/net/ipv4").join(name)).unwrap_or_default();
        let local = read("ip_local_port_range");
        node_port_warnings(&self.node_port_range, &local, &read("ip_local_reserved_ports"))
    }

    /// Names of the settings that differ from `new` and that only a restart can change, since they were built into
    /// maps, paths or locks.
    pub fn needs_restart_for(&self, new: &Self) -> Vec<&'static str> {
        [
            ("socketLB", self.socket_lb != new.socket_lb),
            ("socket", self.socket != new.socket),
            ("instance", self.instance != new.instance),
            ("nodeName", self.node_name != new.node_name),
            ("clusterCIDRs", self.cluster_cidrs != new.cluster_cidrs),
            ("detectLocal", self.detect_local != new.detect_local),
            ("masqueradeAll", self.masquerade_all != new.masquerade_all),
            ("nodeportAddresses", self.nodeport_addresses != new.nodeport_addresses),
            ("localhostNodeports", self.localhost_nodeports != new.localhost_nodeports),
            ("snatAddresses", self.snat_addresses != new.snat_addresses),
            ("nodePortRange", self.node_port_range != new.node_port_range),
            ("path", self.path != new.path),
            ("toPods", self.to_pods != new.to_pods),
            ("tc", self.tc != new.tc),
            ("hostClients", self.host_clients != new.host_clients),
            ("metricsDetail", self.metrics_detail != new.metrics_detail),
            ("metricsLimit", self.metrics_limit != new.metrics_limit),
            ("dns", self.dns.addresses != new.dns.addresses),
            ("clusterDomain", self.dns.domain != new.dns.domain),
            ("dnsUpstream", self.dns.upstream != new.dns.upstream),
            ("bpffs", self.bpffs != new.bpffs),
            ("maxFlows", self.max_flows != new.max_flows),
            ("auditInterval", self.audit_interval != new.audit_interval),
            ("stateDir", self.state_file != new.state_file),
            ("manifests", self.manifests != new.manifests),
            ("logLevel", self.log_level != new.log_level),
            ("logFormat", self.log_format != new.log_format),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
        writeln!(f, "interfaces:    {}", list(&mut self.interfaces.iter().map(ToString::to_string)))?;
        let cgroup = self.socket_lb.as_ref().map_or("none".into(), |path| path.display().to_string());
        writeln!(f, "socketLB:      {cgroup}")?;
        let manifests = self.manifests.as_ref().map_or("none".into(), |path| path.display().to_string());
        writeln!(f, "manifests:     {manifests}")?;
        writeln!(f, "socket:        {}", self.socket.display())?;
        writeln!(f, "instance:      {}", self.instance)?;
        writeln!(f, "nodeName:      {}", self.node_name)?;
        writeln!(f, "serviceCIDRs:  {}", list(&mut self.service_cidrs.iter().map(ToString::to_string)))?;
        writeln!(f, "clusterCIDRs:  {}", list(&mut self.cluster_cidrs.iter().map(ToString::to_string)))?;
        let addresses = list(&mut self.nodeport_addresses.iter().map(ToString::to_string));
        writeln!(f, "nodeport addresses: {addresses}")?;
        writeln!(f, "nodePortRange: {}-{}", self.node_port_range.start(), self.node_port_range.end())?;
        if !self.load_balancer_pools.is_empty() {
            let pools: Vec<String> = self.load_balancer_pools.iter().map(ToString::to_string).collect();
            writeln!(f, "loadBalancerPools: {}", pools.join(" "))?;
        }
        writeln!(f, "algorithm:     {}", self.balancing.algorithm)?;
        writeln!(f, "maglev table:  {}", self.balancing.maglev_table_size)?;
        writeln!(f, "path:          {}", self.path.name())?;
        writeln!(f, "toPods:        {}", self.to_pods.name())?;
        writeln!(f, "tc:            {}", self.tc.name())?;
        writeln!(f, "hostClients:   {}", self.host_clients)?;
        if !self.snat_addresses.is_empty() {
            let addresses = list(&mut self.snat_addresses.iter().map(ToString::to_string));
            writeln!(f, "snatAddresses: {addresses}")?;
        }
        writeln!(f, "healthzAddress: {}", self.healthz_address)?;
        writeln!(f, "metrics:       {}", self.metrics)?;
        let servers = |list: &[SocketAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if !self.dns.addresses.is_empty() {
            writeln!(f, "dns:           {}", servers(&self.dns.addresses))?;
            writeln!(f, "clusterDomain: {}", self.dns.domain)?;
        }
        if !self.dns.upstream.is_empty() {
            writeln!(f, "dnsUpstream:   {}", servers(&self.dns.upstream))?;
        }
        writeln!(f, "bpffs:         {}", self.bpffs.display())?;
        writeln!(f, "maxFlows:      {}", self.max_flows)?;
        writeln!(f, "auditInterval: {}", self.audit_interval)?;
        write!(f, "state file:    {}", self.state_file.display())
    }
}

/// Socket of an instance whose configuration names none.
pub fn default_socket(instance: &str) -> PathBuf {
    PathBuf::from(format!("/run/lb-ctl/{instance}.sock"))
}

/// An instance's name becomes part of paths.
pub fn check_instance(instance: &str) -> Result<(), ConfigError> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if instance.is_empty() || instance.len() > 32 || !instance.chars().all(fits) {
        let message = format!("`{instance}` is not made of 1 to 32 lowercase letters, digits and `-`");
        return Err(invalid("--instance (instance)", message));
    }
    Ok(())
}

fn balancing(algorithm: Option<Algorithm>, table_size: Option<u32>) -> Result<Balancing, ConfigError> {
    let maglev_table_size = table_size.unwrap_or(DEFAULT_MAGLEV_TABLE_SIZE);
    if !maglev::is_table_size(maglev_table_size) {
        let (least, most) = maglev::TABLE_SIZE_RANGE;
        let message = format!(
            "{maglev_table_size} is no prime between {least} and {most}: take 4093, 16381, 65537, 131071 or another"
        );
        return Err(invalid("--maglev-table-size (maglevTableSize)", message));
    }
    Ok(Balancing { algorithm: algorithm.unwrap_or_default(), maglev_table_size })
}

fn check_cidrs(cidrs: &[IpNet]) -> Result<(), ConfigError> {
    let setting = "--service-cidr (serviceCIDRs)";
    for (index, cidr) in cidrs.iter().enumerate() {
        if cidr.addr() != cidr.network() {
            return Err(invalid(setting, format!("{cidr} has bits set behind its prefix: write {}", cidr.trunc())));
        }
        if let Some(other) = cidrs[..index].iter().find(|other| other.contains(cidr) || cidr.contains(*other)) {
            return Err(invalid(setting, format!("{cidr} and {other} overlap: give networks apart from each other")));
        }
        let largest = cidr.max_prefix_len() - SERVICE_BITS;
        if cidr.prefix_len() < largest {
            let message = format!("{cidr} is too large: of a service network at least {largest} bits are fixed");
            return Err(invalid(setting, message));
        }
    }
    Ok(())
}

/// Pods, and how their addresses are told from those of others.
fn check_pods(services: &[IpNet], pods: &[IpNet], detect: Option<DetectLocal>) -> Result<(), ConfigError> {
    for network in pods {
        let overlaps = |other: &&IpNet| other.contains(network) || network.contains(*other);
        if let Some(other) = services.iter().find(overlaps) {
            let message = format!("{network} overlaps the service network {other}: give the networks of pods alone");
            return Err(invalid("--cluster-cidr (clusterCIDRs)", message));
        }
    }
    if detect == Some(DetectLocal::ClusterCidr) && pods.is_empty() {
        let message = "`cluster-cidr` tells pods by the networks of --cluster-cidr, and there is none: name them";
        return Err(invalid("--detect-local (detectLocal)", message));
    }
    Ok(())
}

/// `ValidateNodeName`
fn check_node_name(name: String) -> Result<String, ConfigError> {
    match names::dns_subdomain(&name) {
        Ok(()) => Ok(name),
        Err(right) => Err(invalid("--node-name (nodeName)", format!("`{name}` {right}"))),
    }
}

fn check_pools(pools: &[AddressPool], cidrs: &[IpNet]) -> Result<(), ConfigError> {
    let setting = "--load-balancer-pool (loadBalancerPools)";
    let mut taken: Vec<(AddressRange, String)> =
        cidrs.iter().map(|cidr| ((*cidr).into(), format!("the service network {cidr}"))).collect();
    for (index, pool) in pools.iter().enumerate() {
        let name = &pool.name;
        if name.is_empty() || pool.addresses.is_empty() {
            return Err(invalid(setting, format!("`{pool}` needs a name and at least one range of addresses")));
        }
        if pools[..index].iter().any(|other| other.name == *name) {
            return Err(invalid(setting, format!("`{name}` is the name of two pools: each needs its own")));
        }
        for range in &pool.addresses {
            if let Some((_, other)) = taken.iter().find(|(other, _)| other.overlaps(range)) {
                return Err(invalid(setting, format!("{range} of the pool `{name}` overlaps {other}")));
            }
            taken.push((*range, format!("{range} of the pool `{name}`")));
        }
    }
    Ok(())
}

/// Node ports come before whatever else has the port on the node. `local` are the first and the last port that the kernel gives
/// to the node's own connections, and `reserved` those of them that it does not, as the kernel's files say it.
fn node_port_warnings(range: &RangeInclusive<u16>, local: &str, reserved: &str) -> Vec<String> {
    let setting = "--node-port-range (nodePortRange)";
    let mut warnings = Vec::new();
    if *range.start() < 1024 {
        warnings.push(format!(
            "{setting}: ports below 1024 are those of the node's own servers, such as SSH's 22, whose clients would \
             reach a Service instead: begin at 1024 or later"
        ));
    }
    let port = |text: &str| text.trim().parse::<u16>().ok();
    let bounds = |text: &str| match text.split_once(['-', '\t', ' ']) {
        Some((first, last)) => port(first).zip(port(last)),
        None => port(text).map(|only| (only, only)),
    };
    let Some((first, last)) = bounds(local.trim()) else { return warnings };
    let (first, last) = (first.max(*range.start()), last.min(*range.end()));
    let is_reserved =
        |port: u16| reserved.trim().split(',').filter_map(bounds).any(|(first, last)| (first..=last).contains(&port));
    if !(first..=last).all(is_reserved) {
        warnings.push(format!(
            "{setting}: ports {first}-{last} are also given to connections of the node's own \
             (net.ipv4.ip_local_port_range), whose replies would reach a Service instead: \
             `sysctl -w net.ipv4.ip_local_reserved_ports={first}-{last}` keeps them apart"
        ));
    }
    warnings
}

fn check_snat_addresses(addresses: &[IpAddr]) -> Result<(), ConfigError> {
    let setting = "--snat-address (snatAddresses)";
    for (index, address) in addresses.iter().enumerate() {
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return Err(invalid(setting, format!("{address} is no address that a backend could answer to")));
        }
        if addresses[..index].contains(address) {
            return Err(invalid(setting, format!("{address} is named twice: name it once")));
        }
        let of_family = addresses[..=index].iter().filter(|other| other.is_ipv4() == address.is_ipv4());
        if of_family.count() > Settings::SNAT_ADDRESSES {
            let most = Settings::SNAT_ADDRESSES;
            return Err(invalid(setting, format!("{address} is one too many: at most {most} of each family are lent")));
        }
    }
    Ok(())
}

fn check_dns(addresses: &[NameServer]) -> Result<Vec<SocketAddr>, ConfigError> {
    let setting = "--dns (dns)";
    for (index, address) in addresses.iter().enumerate() {
        if address.0.ip().is_unspecified() {
            let message = format!(
                "{address} stands for all addresses, and answers would come from another one than was \
                                   asked: name each address that is to be asked"
            );
            return Err(invalid(setting, message));
        }
        if addresses[..index].contains(address) {
            return Err(invalid(setting, format!("{address} is named twice: name it once")));
        }
    }
    Ok(addresses.iter().map(|address| address.0).collect())
}

fn check_domain(text: &str) -> Result<dns::Domain, ConfigError> {
    let is_name = names::dns_subdomain(text.strip_suffix('.').unwrap_or(text)).is_ok();
    dns::Domain::parse(text).filter(|_| is_name).ok_or_else(|| {
        let message = format!("`{text}` is no domain of a cluster: write a lower-case DNS name such as cluster.local, of at most 119 characters");
        invalid("--cluster-domain (clusterDomain)", message)
    })
}

fn read(path: &Path) -> Result<Options, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text, path)
}

/// Parses the text of a configuration file. An empty one says nothing.
fn parse(text: &str, path: &Path) -> Result<Options, ConfigError> {
    manifest::settings(text, &path.display().to_string()).map_err(ConfigError::Parse)
}

fn host_name() -> Result<String, ConfigError> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").map_err(ConfigError::HostName)?;
    Ok(name.trim().to_lowercase())
}

fn invalid(setting: &'static str, message: impl Into<String>) -> ConfigError {
    ConfigError::Value { setting, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Options, String> {
        parse(text, Path::new("config.yaml")).map_err(|error| error.to_string())
    }

    fn minimal() -> Options {
        Options { interfaces: vec!["eth0".parse().unwrap()], node_name: Some("n1".into()), ..Options::default() }
    }

    #[test]
    fn the_algorithm_is_chosen_for_the_node_and_tables_have_prime_sizes() {
        let config = Config::resolve(minimal()).unwrap();
        assert_eq!((config.balancing, config.maglev_seed), (Balancing::default(), Settings::SHARED_SEED));
        let options = file("algorithm: maglev\nmaglevTableSize: 4093\nmaglevSeed: 7\n").unwrap();
        let config = Config::resolve(minimal().or(options)).unwrap();
        let balancing = Balancing { algorithm: Algorithm::Maglev, maglev_table_size: 4093 };
        assert_eq!((config.balancing, config.maglev_seed), (balancing, 7));
        let error = Config::resolve(Options { maglev_table_size: Some(4096), ..minimal() }).unwrap_err();
        assert!(error.to_string().contains("4096 is no prime"), "{error}");
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let from_file =
            file("interfaces: [eth0=xdp, 'veth*']\ninstance: blue\nnodePortRange: 30000-30100\nmaxFlows: 4096\n")
                .unwrap();
        let flags = Options {
            interfaces: vec!["ens1".parse().unwrap()],
            max_flows: Some(8192),
            node_name: Some("n1".into()),
            ..Options::default()
        };
        let config = Config::resolve(flags.or(from_file)).unwrap();
        assert_eq!(config.interfaces, vec!["ens1".parse().unwrap()], "a list is replaced");
        assert_eq!(config.max_flows, 8192);
        assert_eq!(config.node_port_range, 30_000..=30_100);
        assert_eq!(config.socket, Path::new("/run/lb-ctl/blue.sock"));
        assert_eq!(config.state_file, Path::new("/var/lib/lb-ctl/blue.json"));
        assert_eq!(config.service_cidrs.len(), 2);
        assert_eq!(config.log_level, LogLevel::Info);
    }

    #[test]
    fn every_setting_can_stand_in_the_file() {
        let options = file(
            "interfaces: [eth0]\nsocketLB: /c\nmanifests: /m\nsocket: /s\ninstance: i\nnodeName: n\nserviceCIDRs: [10.0.0.0/16]\n\
             nodePortRange: 1-2\nsnatAddresses: [192.0.2.1, '2001:db8::1']\npath: stack\ntoPods: interface\ntc: clsact\nhostClients: false\nhealthzAddress: '[::]:1'\nmetrics: '[::]:2'\nmetricsDetail: service\nmetricsLimit: 7\ndns: 10.0.0.1\nclusterDomain: k8s.example\ndnsUpstream: ['192.0.2.1:5353', 'fd00::1']\nbpffs: /b\nmaxFlows: 2048\n\
             stateDir: /d\nlogLevel: debug\nlogFormat: json\nloadBalancerPools: [{name: a, addresses: [192.0.2.0/28, '2001:db8::1'], \
             loadBalancerClass: example.net/a}]\n",
        )
        .unwrap();
        assert_eq!(options.node_port_range, Some(PortRange { first: 1, last: 2 }));
        let config = Config::resolve(options).unwrap();
        assert_eq!(config.snat_addresses.len(), 2);
        let pool = "a@example.net/a=192.0.2.0-192.0.2.15,2001:db8::1";
        assert_eq!(config.load_balancer_pools.iter().map(ToString::to_string).collect::<Vec<_>>(), [pool]);
        assert_eq!(config.load_balancer_pools, [pool.parse().unwrap()], "a flag says the same");
        assert_eq!(config.dns.addresses, ["10.0.0.1:53".parse().unwrap()]);
        assert_eq!(config.dns.domain.to_string(), "k8s.example");
        assert_eq!(config.dns.upstream, ["192.0.2.1:5353", "[fd00::1]:53"].map(|text| text.parse().unwrap()));
        assert_eq!(config.manifests, Some(PathBuf::from("/m")));
        assert_eq!(config.socket_lb, Some(PathBuf::from("/c")));
        assert_eq!((config.log_level, config.log_format), (LogLevel::Debug, LogFormat::Json));
        assert_eq!(config.socket, Path::new("/s"));
        assert_eq!(config.healthz_address.to_string(), "[::]:1");
        assert_eq!(config.metrics.to_string(), "[::]:2");
        assert_eq!((config.metrics_detail, config.metrics_limit), (Detail::Service, 7));
        assert_eq!((config.path, config.to_pods), (PathMode::Stack, ToPods::Interface));
        assert_eq!((config.tc, config.host_clients), (TcMode::Clsact, false));
    }

    #[test]
    fn health_is_told_to_the_node_alone_or_elsewhere_or_nowhere() {
        let told = |text: &str| Config::resolve(file(text).unwrap().or(minimal())).unwrap().healthz_address.0;
        assert_eq!(told(""), Some("127.0.0.1:10256".parse().unwrap()));
        assert_eq!(told("healthzAddress: 0.0.0.0:10256"), Some("0.0.0.0:10256".parse().unwrap()));
        assert_eq!(told("healthzAddress: ''"), None);
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert_eq!(file("").unwrap(), Options::default());
        assert_eq!(file("# only a comment\n").unwrap(), Options::default());
    }

    #[test]
    fn a_bad_file_is_named_with_line_and_column() {
        insta::assert_snapshot!(file("interfaces: [eth0]\nmaxflows: 5\n").unwrap_err(), @"config.yaml:2:1: maxflows: unknown field: did you mean `maxFlows`?");
        insta::assert_snapshot!(file("interfaces:\n- eth0=fast\n").unwrap_err(), @"config.yaml:2:3: interfaces[0]: `eth0=fast`: `fast` is no mode: there are auto, xdp, xdp-generic and tcx");
        insta::assert_snapshot!(file("nodePortRange: 5\n").unwrap_err(), @"config.yaml:1:16: nodePortRange: `5` is no range of ports: write FIRST-LAST, such as 30000-32767, between 1 and 65535");
        insta::assert_snapshot!(file("healthzAddress: ':10256'\n").unwrap_err(), @"config.yaml:1:17: healthzAddress: `:10256` is no address with a port: write 127.0.0.1:10256 or [::]:10256, or nothing at all to tell it nowhere");
        insta::assert_snapshot!(file("dns: here\n").unwrap_err(), @"config.yaml:1:6: dns: `here` is no address of a name server: write 10.244.0.1, 10.244.0.1:53 or [fd00::1]:53");
        insta::assert_snapshot!(file("serviceCIDRs: [10.96.0.0/33]\n").unwrap_err(), @"config.yaml:1:16: serviceCIDRs[0]: `10.96.0.0/33` is no network: write ADDRESS/LENGTH, such as 10.96.0.0/16 (up to /32) or fd00:96::/112 (up to /128)");
        insta::assert_snapshot!(file("serviceCIDRs: []\n").unwrap_err(), @"config.yaml:1:15: serviceCIDRs: the list is empty: name networks, or leave the setting out to get the default");
        insta::assert_snapshot!(file("interfaces:\n- eth0\n- eth1=fast\nserviceCIDRs: [10.96.0.0/33]\ndns:\n- 10.0.0.1\n- there\nmaxFlow: 5\nmaglevSeed: -1\n").unwrap_err(), @r"
        config.yaml:3:3: interfaces[1]: `eth1=fast`: `fast` is no mode: there are auto, xdp, xdp-generic and tcx
        config.yaml:4:16: serviceCIDRs[0]: `10.96.0.0/33` is no network: write ADDRESS/LENGTH, such as 10.96.0.0/16 (up to /32) or fd00:96::/112 (up to /128)
        config.yaml:7:3: dns[1]: `there` is no address of a name server: write 10.244.0.1, 10.244.0.1:53 or [fd00::1]:53
        config.yaml:8:1: maxFlow: unknown field: did you mean `maxFlows`?
        config.yaml:9:13: maglevSeed: must be a whole number, not `-1`
        ");
        insta::assert_snapshot!(file("interfaces: [eth0\n").unwrap_err(), @"config.yaml:2:1: not valid YAML: while parsing a flow sequence, expected ',' or ']'");
    }

    #[test]
    fn values_that_cannot_be_are_refused_with_the_flag_and_the_remedy() {
        let refuse = |options: Options| Config::resolve(options).unwrap_err().to_string();
        insta::assert_snapshot!(refuse(Options::default()), @"--interface (interfaces): no interface is named, so there is nothing to balance: give --interface eth0, or a pattern such as --interface 'veth*'");
        let pools = |texts: &[&str]| {
            let load_balancer_pools = texts.iter().map(|text| text.parse().unwrap()).collect();
            refuse(Options { load_balancer_pools, ..minimal() })
        };
        insta::assert_snapshot!(pools(&["a=192.0.2.0/28", "a=192.0.2.32"]), @"--load-balancer-pool (loadBalancerPools): `a` is the name of two pools: each needs its own");
        insta::assert_snapshot!(pools(&["a=192.0.2.0/28", "b@x=192.0.2.9-192.0.2.20"]), @"--load-balancer-pool (loadBalancerPools): 192.0.2.9-192.0.2.20 of the pool `b` overlaps 192.0.2.0-192.0.2.15 of the pool `a`");
        insta::assert_snapshot!(pools(&["a=10.96.0.0/28"]), @"--load-balancer-pool (loadBalancerPools): 10.96.0.0-10.96.0.15 of the pool `a` overlaps the service network 10.96.0.0/12");
        insta::assert_snapshot!(refuse(Options { node_name: Some(String::new()), ..minimal() }), @"--node-name (nodeName): `` must be a DNS name: at most 253 lower-case letters, digits, `-` and `.`, each part beginning and ending with a letter or digit");
        insta::assert_snapshot!(refuse(Options { detect_local: Some(DetectLocal::ClusterCidr), ..minimal() }), @"--detect-local (detectLocal): `cluster-cidr` tells pods by the networks of --cluster-cidr, and there is none: name them");
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        insta::assert_snapshot!(refuse(Options { cluster_cidrs: networks(&["10.0.0.0/8"]), ..minimal() }), @"--cluster-cidr (clusterCIDRs): 10.0.0.0/8 overlaps the service network 10.96.0.0/12: give the networks of pods alone");
        let nodeport_addresses = ["primary", "192.0.2.0/24"].map(|text| text.parse().unwrap()).to_vec();
        insta::assert_snapshot!(refuse(Options { nodeport_addresses, ..minimal() }), @"--nodeport-addresses (nodeportAddresses): `primary` stands for itself: give it alone, or networks");
        insta::assert_snapshot!(refuse(Options { max_flows: Some(1), ..minimal() }), @"--max-flows (maxFlows): 1 is not between 1024 and 16777216");
        insta::assert_snapshot!(refuse(Options { instance: Some("../x".into()), ..minimal() }), @"--instance (instance): `../x` is not made of 1 to 32 lowercase letters, digits and `-`");
        insta::assert_snapshot!(
            refuse(Options { service_cidrs: vec!["10.0.0.1/8".parse().unwrap()], ..minimal() }), @"--service-cidr (serviceCIDRs): 10.0.0.1/8 has bits set behind its prefix: write 10.0.0.0/8");
        insta::assert_snapshot!(
            refuse(Options { service_cidrs: vec!["10.0.0.0/16".parse().unwrap(), "10.0.7.0/24".parse().unwrap()], ..minimal() }),
            @"--service-cidr (serviceCIDRs): 10.0.7.0/24 and 10.0.0.0/16 overlap: give networks apart from each other");
        insta::assert_snapshot!(
            refuse(Options { service_cidrs: vec!["0.0.0.0/0".parse().unwrap()], ..minimal() }),
            @"--service-cidr (serviceCIDRs): 0.0.0.0/0 is too large: of a service network at least 12 bits are fixed");
    }

    #[test]
    fn node_ports_that_others_use_are_warned_of() {
        let local = "32768\t60999\n";
        let warnings = |range, reserved| node_port_warnings(&range, local, reserved);
        assert_eq!(warnings(30_000..=32_767, ""), [""; 0]);
        assert_eq!(warnings(30_000..=33_000, "8080,32768-33000\n"), [""; 0]);
        insta::assert_snapshot!(warnings(30_000..=33_000, "32768-32999").join("\n"), @"--node-port-range (nodePortRange): ports 32768-33000 are also given to connections of the node's own (net.ipv4.ip_local_port_range), whose replies would reach a Service instead: `sysctl -w net.ipv4.ip_local_reserved_ports=32768-33000` keeps them apart");
        insta::assert_snapshot!(warnings(1..=2000, "").join("\n"), @"--node-port-range (nodePortRange): ports below 1024 are those of the node's own servers, such as SSH's 22, whose clients would reach a Service instead: begin at 1024 or later");
    }

    #[test]
    fn addresses_that_cannot_be_lent_are_refused() {
        let refuse = |addresses: &[&str]| {
            let snat_addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            Config::resolve(Options { snat_addresses, ..minimal() }).unwrap_err().to_string()
        };
        insta::assert_snapshot!(refuse(&["::1"]), @"--snat-address (snatAddresses): ::1 is no address that a backend could answer to");
        insta::assert_snapshot!(refuse(&["192.0.2.1", "192.0.2.1"]), @"--snat-address (snatAddresses): 192.0.2.1 is named twice: name it once");
        insta::assert_snapshot!(
            refuse(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "192.0.2.4", "192.0.2.5"]),
            @"--snat-address (snatAddresses): 192.0.2.5 is one too many: at most 4 of each family are lent");
    }

    #[test]
    fn a_dns_server_that_cannot_be_is_refused() {
        let refuse = |text: &str| Config::resolve(file(text).unwrap().or(minimal())).unwrap_err().to_string();
        insta::assert_snapshot!(refuse("dns: 0.0.0.0"), @"--dns (dns): 0.0.0.0:53 stands for all addresses, and answers would come from another one than was asked: name each address that is to be asked");
        insta::assert_snapshot!(refuse("dns: [10.0.0.1, '10.0.0.1:53']"), @"--dns (dns): 10.0.0.1:53 is named twice: name it once");
        insta::assert_snapshot!(refuse("clusterDomain: a..b"), @"--cluster-domain (clusterDomain): `a..b` is no domain of a cluster: write a lower-case DNS name such as cluster.local, of at most 119 characters");
        insta::assert_snapshot!(refuse("clusterDomain: Cluster"), @"--cluster-domain (clusterDomain): `Cluster` is no domain of a cluster: write a lower-case DNS name such as cluster.local, of at most 119 characters");
    }

    #[test]
    fn a_missing_file_that_was_named_is_an_error() {
        let origin = Origin { flags: minimal(), file: Some(PathBuf::from("/nonexistent/config.yaml")) };
        let error = origin.load().unwrap_err();
        assert!(error.to_string().starts_with("cannot read the configuration file /nonexistent/config.yaml"));
    }

    #[test]
    fn a_reload_names_what_only_a_restart_changes() {
        let old = Config::resolve(minimal()).unwrap();
        let mut new = old.clone();
        new.interfaces = vec!["ens*".parse().unwrap()];
        assert!(old.needs_restart_for(&new).is_empty());
        new.max_flows = 2048;
        assert_eq!(old.needs_restart_for(&new), ["maxFlows"]);
    }
}
