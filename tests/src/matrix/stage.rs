//! The node of one environment: two wires, pods with and without NAPI, and a Service for each single backend, so that who
//! answers is known before.

use super::cgroup::Cgroup;
use super::{Environment, Firewall, Hook, Network, Path, RpFilter};
use crate::fixture::{self, Fixture, Setup};
use crate::sniffer::Sniffer;
use lb_ctl::api;
use lb_ctl::playground::links::Links;
use lb_ctl::playground::manifests::NAMESPACE;
use lb_ctl::playground::offload::Offload;
use lb_ctl::playground::topology::{Dual, NODE, Node, POD_PORT, SERVICE_PORT, SERVICE_PORT_UDP};
use lb_ctl::playground::{Error, Playground, PodNetwork};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use tokio::runtime::{Builder, Runtime};

/// Where the server of the node itself listens.
pub const HOST_PORT: u16 = 9000;

/// A backend with a Service of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name in its answers.
    pub name: &'static str,
    /// Number in its node ports.
    number: u16,
}

/// A pod of the node with NAPI.
pub const WITH_NAPI: Target = Target { name: "web-1", number: 1 };
/// A pod of the node without.
pub const WITHOUT_NAPI: Target = Target { name: "web-2", number: 2 };
/// A pod of the second node.
pub const REMOTE: Target = Target { name: "web-3", number: 3 };
/// The node itself.
pub const HOST: Target = Target { name: "the-node", number: 4 };

impl Target {
    const ALL: [Target; 4] = [WITH_NAPI, WITHOUT_NAPI, REMOTE, HOST];

    /// Name of its Service.
    pub fn service(self) -> String {
        format!("at-{}", self.name)
    }

    /// Node port of its TCP port.
    pub fn node_port(self) -> u16 {
        30_100 + self.number
    }

    /// Node port of its UDP port.
    pub fn node_port_udp(self) -> u16 {
        30_200 + self.number
    }

    /// Its addresses in a playground.
    pub fn address(self, playground: &Playground) -> Result<Dual, Error> {
        if self == HOST { Ok(NODE) } else { Ok(playground.pod(self.name)?.address()) }
    }

    /// Its Service with its only endpoint at `address`.
    pub fn manifests(self, address: Dual) -> String {
        let (service, node) = (self.service(), if self == REMOTE { Node::Two } else { Node::One }.name());
        let port = if self == HOST { HOST_PORT } else { POD_PORT };
        let mut text = format!(
            "---
apiVersion: v1
kind: Service
metadata: {{ name: {service}, namespace: {NAMESPACE} }}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  ports:
  - {{ name: tcp, port: {SERVICE_PORT}, targetPort: {port}, nodePort: {} }}
  - {{ name: udp, port: {SERVICE_PORT_UDP}, targetPort: {port}, nodePort: {}, protocol: UDP }}
",
            self.node_port(),
            self.node_port_udp(),
        );
        for address in address.addresses() {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            write!(
                text,
                "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {service}-{}
  namespace: {NAMESPACE}
  labels: {{ kubernetes.io/service-name: {service} }}
addressType: {family}
endpoints:
- {{ addresses: ['{address}'], nodeName: {node} }}
ports:
- {{ name: tcp, port: {port} }}
- {{ name: udp, port: {port}, protocol: UDP }}
",
                family.to_lowercase(),
            )
            .expect("a String takes all");
        }
        text
    }
}

/// A node set up as an environment wants, with the daemon running and all Services applied.
pub struct Stage {
    /// The node.
    pub fixture: Fixture,
    /// `ClusterIPs` by Service.
    pub clusters: BTreeMap<String, Dual>,
    /// Sees what XDP has not finished.
    pub sniffer: Sniffer,
    /// The interface to the client, and the one to the second node.
    pub wires: [u32; 2],
    runtime: Runtime,
    api: api::Client,
    /// Left after the processes in it have ended.
    _cgroup: Option<Cgroup>,
}

impl Stage {
    /// Sets it up.
    pub fn new(binary: &str, environment: Environment) -> Result<Self, Error> {
        Self::with(binary, environment, &[])
    }

    /// The same, with more arguments for the daemon.
    pub fn with(binary: &str, environment: Environment, arguments: &[&str]) -> Result<Self, Error> {
        let setup = Setup {
            pods: if environment.network == Network::Routed { PodNetwork::Routed } else { PodNetwork::Bridged },
            rp_filter: u8::from(environment.rp_filter == RpFilter::Strict),
            firewall: environment.firewall == Firewall::Stateful,
            ..Setup::DEMO
        };
        // Entered first: what is started from here on is in it too.
        let cgroup = (environment.hook == Hook::Socket).then(Cgroup::enter).transpose().map_err(Error::broken)?;
        let mut playground = fixture::bare(binary, setup);
        if environment.path == Path::Stack {
            playground.add_daemon_argument("--path=stack");
        }
        for argument in arguments {
            playground.add_daemon_argument(argument);
        }
        if let Some(cgroup) = &cgroup {
            playground.add_daemon_argument(&format!("--socket-lb={}", cgroup.path().display()));
        }
        // The cable to the second node stands for a wire too, and one pod is as a pod is by default: without NAPI.
        Offload::TxChecksum.set(playground.node_space(Node::Two), "eth0", false)?;
        Offload::Gro.set(playground.pod(WITHOUT_NAPI.name)?.space(), "eth0", false)?;
        playground.serve_on(Node::One, HOST.name, HOST_PORT)?;
        let wires = match environment.hook {
            Hook::Native => ["eth0=xdp", "eth1=xdp", "veth*"],
            Hook::Generic => ["eth0=xdp-generic", "eth1=xdp-generic", "veth*"],
            // Beside socket hooks, packet hooks must find nothing left to do.
            Hook::Tcx | Hook::Socket => ["eth0=tcx", "eth1=tcx", "veth*"],
        };
        let fixture = Fixture::start(playground, &wires);
        let mut manifests = String::new();
        for target in Target::ALL {
            manifests += &target.manifests(target.address(&fixture)?);
        }
        fixture.apply(&manifests)?;
        let cluster = |target: Target| Ok((target.service(), fixture.cluster_address_of(&target.service())?));
        let clusters = Target::ALL.into_iter().map(cluster).collect::<Result<_, Error>>()?;
        let node = fixture.node_space(Node::One);
        let links = Links::open(node)?;
        let wires = [links.index("eth0")?, links.index("eth1")?];
        let sniffer = Sniffer::open(node)?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::broken)?;
        let api = api::Client::new(fixture.socket());
        Ok(Self { fixture, clusters, sniffer, wires, runtime, api, _cgroup: cgroup })
    }

    /// What passed through a port of a Service, by name.
    pub fn traffic(&self, target: Target, port: &str) -> Result<api::description::Counters, Error> {
        let described =
            self.runtime.block_on(self.api.describe(NAMESPACE, &target.service())).map_err(Error::broken)?;
        let port = described.ports.into_iter().find(|described| described.name == port);
        port.map(|port| port.traffic).ok_or_else(|| Error::broken("the port is not described"))
    }

    /// The counted reasons: packets, and whether they were dropped.
    pub fn reasons(&self) -> Result<BTreeMap<String, (u64, bool)>, Error> {
        let status = self.runtime.block_on(self.api.status()).map_err(Error::broken)?;
        Ok(status.counters.into_iter().map(|line| (line.reason, (line.packets, line.drop))).collect())
    }
}
