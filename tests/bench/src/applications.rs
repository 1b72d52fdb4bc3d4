//! Part 2, with applications: what clients and servers in pods get done, with the offloads of their interfaces on.
//!
//! The client is a pod of the node, and so is the server. In between is the node: routing alone, us, kube-proxy's rules, or a proxy.
//! Each has a node of its own; rounds are interleaved and the median counts, since nothing here is repeatable to the nanosecond.

use anyhow::{Context, ensure};
use lb_ctl::playground::links::Links;
use lb_ctl::playground::netns::NetNs;
use lb_ctl::playground::topology::Node as Role;
use lb_yardsticks::{Pod, Served};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::node::Node;
use crate::path::YARDSTICK;
use crate::quiet;
use crate::report::{Part, Report, Row};
use crate::rules;
use crate::statistics::{Figure, median, percentile, spread};
use crate::tools::{Server, Tools};
use crate::wrapper::Wrapper;
use crate::{Extent, say};

/// The Service's address.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 7, 7);
/// Ports of HTTP and of iperf3, at the Service and at the server.
const HTTP: u16 = 8081;
const BULK: u16 = 5201;
const PORTS: [u16; 2] = [HTTP, BULK];
/// The pods.
const CLIENT: &str = "visitor";
const SERVER: &str = "web-1";

/// Who is between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Routing,
    Ours,
    /// The least that can be in our place: the program `tc_serve`.
    Yardstick,
    Nftables,
    Iptables,
    Haproxy,
    Nginx,
}

impl Who {
    const fn name(self) -> &'static str {
        match self {
            Who::Routing => "plain routing",
            Who::Ours => "lb-ctl",
            Who::Yardstick => YARDSTICK,
            Who::Nftables => "nftables",
            Who::Iptables => "iptables",
            Who::Haproxy => "HAProxy",
            Who::Nginx => "nginx stream",
        }
    }

    /// Programs without which it cannot be.
    const fn needs(self) -> &'static [&'static str] {
        match self {
            Who::Routing | Who::Ours | Who::Yardstick => &[],
            Who::Nftables => &["nft"],
            Who::Iptables => &["iptables-legacy-restore"],
            Who::Haproxy => &["haproxy"],
            Who::Nginx => &["nginx", "ngx_stream_module.so"],
        }
    }
}

/// What is measured, and its unit: the first two by `wrk`, the third by `iperf3`.
pub(crate) const WORK: [(&str, &str); 3] =
    [("connections", "conn/s"), ("keep-alive requests", "req/s"), ("bulk", "Mbit/s")];

/// Measures all of it.
pub(crate) fn all(
    binary: &Path,
    tools: &Tools,
    wrapper: &mut Wrapper,
    extent: &Extent,
    beside: &[PathBuf],
    report: &mut Report,
) -> anyhow::Result<()> {
    for program in ["wrk", "nginx", "iperf3"] {
        if tools.find(program).is_none() {
            report.skip(format!("applications: there is no {program}"));
            return Ok(());
        }
    }
    let mut contenders = Vec::new();
    for who in [Who::Routing, Who::Ours, Who::Yardstick, Who::Nftables, Who::Iptables, Who::Haproxy, Who::Nginx] {
        if let Some(missing) = who.needs().iter().find(|program| tools.find(program).is_none()) {
            report.skip(format!("applications, {}: there is no {missing}", who.name()));
        } else {
            say(format_args!("applications: {}", who.name()));
            contenders.push(Contender::new(who, binary, tools, wrapper)?);
        }
    }
    for object in beside {
        let mut contender = Contender::new(Who::Ours, binary, tools, wrapper)?;
        contender.node.replace_attached(object)?;
        contender.name = object.file_name().unwrap_or_default().to_string_lossy().into_owned();
        contenders.push(contender);
    }
    let mut samples: Vec<[Vec<f64>; 3]> = contenders.iter().map(|_| Default::default()).collect();
    for round in 0..extent.application_rounds {
        say(format_args!("applications: round {} of {}", round + 1, extent.application_rounds));
        for (contender, samples) in contenders.iter().zip(&mut samples) {
            samples[0].push(quiet::undisturbed(|| contender.requests(tools, &["-H", "Connection: close"]))?);
            samples[1].push(quiet::undisturbed(|| contender.requests(tools, &[]))?);
            samples[2].push(quiet::undisturbed(|| contender.bulk(tools))?);
        }
    }
    for (index, (name, unit)) in WORK.into_iter().enumerate() {
        let routing = &samples[0][index];
        for (contender, samples) in contenders.iter().zip(&samples) {
            let own = &samples[index];
            let ratios: Vec<f64> = own.iter().zip(routing).map(|(own, routing)| own / routing).collect();
            let error = |samples: &[f64]| 1.2533 * spread(samples) / (samples.len() as f64).sqrt();
            report.add(Row {
                part: Part::Application,
                place: contender.name.clone(),
                name: name.to_owned(),
                flows: 0,
                services: 1,
                unit: unit.to_owned(),
                figure: Figure { best: percentile(own, 0.98), median: median(own), noise: error(own) },
                ratio: Some(Figure {
                    best: percentile(own, 0.98) / percentile(routing, 0.98),
                    median: median(&ratios),
                    noise: error(&ratios),
                }),
                to: "plain routing".to_owned(),
                share: 1.0,
            });
        }
    }
    Ok(())
}

struct Contender {
    who: Who,
    name: String,
    node: Node,
    target: Ipv4Addr,
    _servers: Vec<Server>,
}

impl Contender {
    fn new(who: Who, binary: &Path, tools: &Tools, wrapper: &mut Wrapper) -> anyhow::Result<Self> {
        let mut node = if who == Who::Ours {
            Node::start(binary, lb_common::maps::DEFAULT_MAX_FLOWS)?
        } else {
            Node::bare(binary)?
        };
        let playground = node.playground();
        let directory = playground.directory();
        let (server, client) = (playground.pod(SERVER)?, playground.pod(CLIENT)?);
        let endpoint = server.address().v4;
        for space in [server.space(), client.space(), node.space()] {
            // A port for each connection of a run, and the next run may have it again.
            space.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
            space.sysctl("ipv4/tcp_tw_reuse", 1)?;
        }
        let mut servers = vec![
            nginx(tools, server.space(), &directory, "server", &http())?,
            tools.serve(server.space(), "iperf3", &["--server", "--port", &BULK.to_string()])?,
        ];
        let ports = || PORTS.map(|port| served(port, endpoint));
        match who {
            Who::Routing => {}
            Who::Yardstick => serve(&node, wrapper)?,
            Who::Ours => drop(node.cli(&["apply", "-f", "-"], &manifest(endpoint))?),
            Who::Nftables => tools.feed(node.space(), "nft", &["-f", "-"], &rules::nftables(&ports()))?,
            Who::Iptables => {
                tools.feed(node.space(), "iptables-legacy-restore", &[], &rules::iptables(&ports()))?;
            }
            Who::Haproxy => {
                let config = directory.join("haproxy.cfg");
                fs::write(&config, haproxy(endpoint))?;
                let config = config.to_str().context("a path")?;
                servers.push(tools.serve(node.space(), "haproxy", &["-db", "-f", config])?);
            }
            Who::Nginx => {
                let module = tools.find("ngx_stream_module.so").context("looked for above")?;
                let config = stream(endpoint);
                let config = format!("load_module {};\n{config}", module.display());
                servers.push(nginx(tools, node.space(), &directory, "proxy", &config)?);
            }
        }
        let target = match who {
            Who::Routing => endpoint,
            Who::Ours | Who::Yardstick | Who::Nftables | Who::Iptables => SERVICE,
            Who::Haproxy | Who::Nginx => Role::One.gateway().v4,
        };
        if who == Who::Ours {
            node.end_daemon()?;
        }
        let contender = Self { who, name: who.name().to_owned(), node, target, _servers: servers };
        contender.wait()?;
        Ok(contender)
    }

    fn client(&self) -> anyhow::Result<&NetNs> {
        Ok(self.node.playground().pod(CLIENT)?.space())
    }

    /// Waits until both ports answer.
    fn wait(&self) -> anyhow::Result<()> {
        for port in PORTS {
            let to = SocketAddr::new(self.target.into(), port);
            let connects = || TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_ok();
            let answers = self.client()?.run(|| {
                (0..100).any(|_| {
                    connects() || {
                        thread::sleep(Duration::from_millis(100));
                        false
                    }
                })
            })?;
            ensure!(answers, "{}: nobody answers at {to}", self.who.name());
        }
        Ok(())
    }

    /// Requests a second, of 16 connections at a time.
    fn requests(&self, tools: &Tools, more: &[&str]) -> anyhow::Result<f64> {
        let url = format!("http://{}:{HTTP}/", self.target);
        let arguments: Vec<&str> = ["-t1", "-c16", "-d1s"].iter().chain(more).copied().chain([url.as_str()]).collect();
        let text = tools.answer(self.client()?, "wrk", &arguments)?;
        ensure!(!text.contains("Socket errors"), "{}: {text}", self.who.name());
        let line = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).context("wrk tells no rate")?;
        Ok(line.trim().parse()?)
    }

    /// Mbit/s of one connection, as they are received.
    fn bulk(&self, tools: &Tools) -> anyhow::Result<f64> {
        let (address, port) = (self.target.to_string(), BULK.to_string());
        let arguments = ["--client", &address, "--port", &port, "--time", "1", "--json"];
        // Its server serves one client at a time, and may not have seen the last one go.
        let mut text = tools.answer(self.client()?, "iperf3", &arguments);
        for _ in 0..20 {
            if text.is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(100));
            text = tools.answer(self.client()?, "iperf3", &arguments);
        }
        let answer: serde_json::Value = serde_json::from_str(&text?)?;
        let rate = answer["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 tells no rate")?;
        Ok(rate / 1e6)
    }
}

/// Puts the yardstick in our place.
fn serve(node: &Node, wrapper: &mut Wrapper) -> anyhow::Result<()> {
    let links = Links::open(node.space())?;
    let pod = |name: &str| -> anyhow::Result<_> {
        let pod = node.playground().pod(name)?;
        let link = pod.place().node_link();
        let (to, from) = (Links::open(pod.space())?.mac("eth0")?, links.mac(&link)?);
        let macs: Vec<u8> = to.into_iter().chain(from).collect();
        let word = |at: usize| u32::from_ne_bytes([macs[at], macs[at + 1], macs[at + 2], macs[at + 3]]);
        let address = u32::from_ne_bytes(pod.address().v4.octets());
        Ok((Pod { macs: [0, 4, 8].map(word), address, ifindex: links.index(&link)? }, link))
    };
    let ((server, its_link), (client, other_link)) = (pod(SERVER)?, pod(CLIENT)?);
    let pods = Served { service: u32::from_ne_bytes(SERVICE.octets()), server, client };
    node.run(|| wrapper.serve(pods, [&its_link, &other_link]))?
}

fn served(port: u16, endpoint: Ipv4Addr) -> rules::Served {
    rules::Served { address: SERVICE, protocol: "tcp", port, endpoints: vec![endpoint], target: port }
}

/// Starts nginx with a configuration; `name` tells one from another.
fn nginx(tools: &Tools, space: &NetNs, directory: &Path, name: &str, config: &str) -> anyhow::Result<Server> {
    let path = directory.join(format!("nginx-{name}.conf"));
    let pid = directory.join(format!("nginx-{name}.pid"));
    let common = "daemon off;\nmaster_process off;\nerror_log /dev/null;\nevents { worker_connections 4096; }\n";
    fs::write(&path, format!("{config}\n{common}pid {};\n", pid.display()))?;
    tools.serve(space, "nginx", &["-p", directory.to_str().context("a path")?, "-c", path.to_str().context("a path")?])
}

/// A server with the smallest of answers.
fn http() -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path nginx-temporary;"))
        .join(" ");
    format!(
        "http {{ {temporary} access_log off; keepalive_requests 1000000000; \
         server {{ listen {HTTP} backlog=4096; location / {{ return 200 ok; }} }} }}"
    )
}

fn stream(endpoint: Ipv4Addr) -> String {
    let servers =
        PORTS.map(|port| format!("server {{ listen {port} backlog=4096; proxy_pass {endpoint}:{port}; }}")).join(" ");
    format!("stream {{ {servers} }}")
}

fn haproxy(endpoint: Ipv4Addr) -> String {
    let defaults = "mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s";
    let listens = PORTS.map(|port| format!("listen l{port}\n bind :{port}\n server s {endpoint}:{port}\n"));
    format!("global\n maxconn 4096\ndefaults\n {defaults}\n{}", listens.concat())
}

/// The Service for us.
fn manifest(endpoint: Ipv4Addr) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: applications }}
spec:
  clusterIP: {SERVICE}
  ports:
  - {{ name: http, port: {HTTP} }}
  - {{ name: bulk, port: {BULK} }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: applications, labels: {{ kubernetes.io/service-name: applications }} }}
addressType: IPv4
ports:
- {{ name: http, port: {HTTP} }}
- {{ name: bulk, port: {BULK} }}
endpoints:
- {{ addresses: [\"{endpoint}\"], nodeName: node-1, conditions: {{ ready: true }} }}
"
    )
}
