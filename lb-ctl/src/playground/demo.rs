//! `lb-ctl demo`: the main job on real packets, told step by step, and every promise checked.

use super::daemon::{INTERFACES, NO_INTERFACE};
use super::echo::Answer;
use super::error::Error;
use super::manifests::{self, ECHO, HTTP, NAMESPACE, NUMBERS, SERVICE, is_backend};
use super::tally::{Row, Tally};
use super::topology::{CLIENT, Dual, NODE, NODE_PORT, NODE_PORT_UDP, Node, Place, SERVICE_PORT, SERVICE_PORT_UDP};
use super::{Client, Name, Options, Playground, Pod, by_name, janitor, signals};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Connections in each row of the table: that one of three pods gets none of them happens once in 10^10.
const CONNECTIONS: usize = 60;
/// Datagrams in each row of the table.
const DATAGRAMS: usize = 60;

/// What the demo shall do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// Leave the playground up.
    pub keep: bool,
    /// Manage no interface: everything after that must fail.
    pub without_hooks: bool,
}

/// Runs the demo. `Err` says what was not as promised.
pub fn run(wishes: Wishes, binary: PathBuf) -> Result<(), Error> {
    let name = Name::of_demo();
    signals::remove_when_told(name.clone(), binary.clone())?;
    say(format_args!(
        "building the playground {name}: an outside client, two nodes, four pods, each a network namespace"
    ));
    let playground = Playground::build(Options::new(name, binary))?;
    let mut demo = Demo { playground, tally: Tally::default() };
    match demo.play(wishes) {
        Ok(()) if wishes.keep => {
            println!("\nAll as promised.\n\n{}", demo.invitation());
            demo.playground.keep()
        }
        Ok(()) => {
            let removed = demo.playground.remove()?;
            say(format_args!("removed the playground: {} things that it had made", removed.len()));
            println!("\nAll as promised. With --keep the playground stays up to play with.");
            Ok(())
        }
        Err(error) => {
            eprintln!("\nWhat the daemon logged:\n{}", demo.playground.log());
            if wishes.keep {
                eprintln!("{}", demo.invitation());
                demo.playground.keep()?;
            }
            Err(error)
        }
    }
}

/// Removes a playground that was kept.
pub fn clean_up(name: &Name) -> Result<(), Error> {
    let is_there = name.directory().exists();
    // Held until it is removed.
    let lock = if is_there { janitor::lock(name)? } else { None };
    if is_there && lock.is_none() {
        return Err(Error::broken(format_args!("{name} is in use: its demo is running")));
    }
    let removed = janitor::remove(name)?;
    if removed.is_empty() {
        return Err(Error::broken(format_args!("there is no playground {name}")));
    }
    for thing in &removed {
        say(format_args!("removed {thing}"));
    }
    Ok(())
}

/// Removes every playground of a demo that no running process holds.
pub fn clean_up_all() -> Result<(), Error> {
    let names = Name::all(super::name::DEMO);
    if names.is_empty() {
        say(format_args!("no playground of a demo is left"));
    }
    for name in names {
        if janitor::lock(&name)?.is_some() {
            clean_up(&name)?;
        } else {
            say(format_args!("left {name} alone: its demo is running"));
        }
    }
    Ok(())
}

struct Demo {
    playground: Playground,
    tally: Tally,
}

impl Demo {
    fn play(&mut self, wishes: Wishes) -> Result<(), Error> {
        let interfaces: &[&str] = if wishes.without_hooks { &NO_INTERFACE } else { &INTERFACES };
        let names = by_name::server();
        say(format_args!(
            "starting `lb-ctl daemon` in the namespace of {}: --interface {} --dns {names}",
            Node::One.name(),
            interfaces.join(" --interface ")
        ));
        self.playground.add_daemon_argument(&format!("--dns={names}"));
        self.playground.start_daemon(interfaces)?;
        for interface in self.playground.status()?.interfaces.iter().filter(|interface| !interface.attached.is_empty())
        {
            println!("    {:<14}{}", interface.name, interface.attached.join(", "));
        }
        say("applying the manifests of a namespace, two nodes, a Service and four pods: `lb-ctl apply -f -`");
        self.playground.apply_everything()?;
        let cluster = self.playground.cluster_address()?;
        say(format_args!("Service {SERVICE}: ClusterIPs {} and {}, node port {NODE_PORT}", cluster.v4, cluster.v6));

        say("real requests to the ClusterIP and to the node's address, a connection each, IPv4 and IPv6");
        self.ask_everyone(cluster)?;
        println!("{}", self.tally.take_table());
        say(
            "pods on the node saw each client's own address; web-1 asking itself and the remote web-3 asked from outside saw the node's",
        );
        self.check_counters()?;

        self.replace_a_pod(cluster)?;
        println!("{}", self.tally.take_table());
        self.check_counters()?;
        self.ask_by_name()
    }

    /// A client that knows a Service's name and nothing else.
    fn ask_by_name(&mut self) -> Result<(), Error> {
        let (from, server) = ("visitor", by_name::server());
        say(format_args!(
            "a Service {NUMBERS} before the same pods; {from} asks http://{NUMBERS}/ and its resolv.conf {server}"
        ));
        self.playground.apply(&manifests::numbers())?;
        let addresses = self.playground.cluster_address_of(NUMBERS)?.addresses();
        let (resolv_conf, binary) = (self.playground.resolv_conf()?, &self.playground.options().binary);
        let pod = self.playground.pod(from)?;
        let found = pod.ask_by_name(binary, &resolv_conf, NUMBERS, SERVICE_PORT, CONNECTIONS)?;
        for to in addresses.map(|address| SocketAddr::new(address, SERVICE_PORT)) {
            let answers: Vec<Answer> =
                found.iter().filter(|(found, _)| *found == to).map(|(_, answer)| answer.clone()).collect();
            if !answers.is_empty() {
                self.add(Row::new(from, "by name", HTTP, to, &answers))?;
            }
        }
        if let Some((stranger, _)) = found.iter().find(|(to, _)| !addresses.contains(&to.ip())) {
            return Err(Error::broken(format_args!("{NUMBERS} was found at {stranger}: it is at {addresses:?}")));
        }
        println!("{}", self.tally.take_table());
        Ok(())
    }

    /// Every client over every way in; in each row every backend must answer.
    fn ask_everyone(&mut self, cluster: Dual) -> Result<(), Error> {
        for from in ["outside", "visitor", "web-1"] {
            for address in cluster.addresses() {
                self.ask(from, "ClusterIP", SocketAddr::new(address, SERVICE_PORT))?;
            }
            for address in NODE.addresses() {
                self.ask(from, "NodePort", SocketAddr::new(address, NODE_PORT))?;
            }
        }
        for address in cluster.addresses() {
            self.call("visitor", "ClusterIP", SocketAddr::new(address, SERVICE_PORT_UDP))?;
        }
        for address in NODE.addresses() {
            self.call("outside", "NodePort", SocketAddr::new(address, NODE_PORT_UDP))?;
        }
        Ok(())
    }

    /// A pod goes and comes back under another address; nobody who asks the Service notices.
    fn replace_a_pod(&mut self, cluster: Dual) -> Result<(), Error> {
        let gone = "web-2";
        let old = self.playground.pod(gone)?.place().clone();
        say(format_args!(
            "{gone} dies: `lb-ctl delete pod {gone}`, then its processes and its network namespace vanish"
        ));
        self.playground.delete_pod_object(gone)?;
        self.playground.kill_pod(gone)?;
        self.tally.forget_pod(gone);
        for address in cluster.addresses() {
            self.ask("outside", "ClusterIP", SocketAddr::new(address, SERVICE_PORT))?;
        }
        let place = Place { host: old.host + 10, ..old };
        let (v4, v6) = (place.address().v4, place.address().v6);
        say(format_args!("{gone} returns as {v4} and {v6}: `lb-ctl apply -f -`; the ClusterIP answered all the time"));
        self.playground.start_pod(place.clone())?;
        self.playground.wait_for_hooks()?;
        self.playground.apply(&manifests::pod(&place))?;
        for from in ["outside", "visitor"] {
            for address in cluster.addresses() {
                self.ask(from, "ClusterIP", SocketAddr::new(address, SERVICE_PORT))?;
            }
        }
        Ok(())
    }

    /// HTTP requests, each over a connection of its own.
    fn ask(&mut self, from: &str, kind: &'static str, to: SocketAddr) -> Result<(), Error> {
        let (client, own) = self.client(from)?;
        let answers = client.get_many(to, CONNECTIONS)?;
        check_sources(from, own, kind, to, &answers)?;
        self.add(Row::new(from, kind, HTTP, to, &answers))
    }

    /// Datagrams, each from a socket of its own.
    fn call(&mut self, from: &str, kind: &'static str, to: SocketAddr) -> Result<(), Error> {
        let (client, own) = self.client(from)?;
        // All open at once, so that no two have the same port: that would be the same flow.
        let sockets = (0..DATAGRAMS).map(|_| client.datagrams(to)).collect::<Result<Vec<_>, Error>>()?;
        let answers = sockets.iter().map(|socket| socket.exchange(b"anybody there?"));
        let answers = answers.collect::<Result<Vec<Answer>, Error>>()?;
        check_sources(from, own, kind, to, &answers)?;
        self.add(Row::new(from, kind, ECHO, to, &answers))
    }

    fn add(&mut self, row: Row) -> Result<(), Error> {
        row.check_reached(self.playground.pods().map(Pod::name).filter(|name| is_backend(name)))?;
        self.tally.add(row);
        Ok(())
    }

    fn client(&self, from: &str) -> Result<(Client<'_>, Dual), Error> {
        let (client, own) = if from == "outside" {
            (self.playground.client(), CLIENT)
        } else {
            let pod = self.playground.pod(from)?;
            (pod.client(), pod.address())
        };
        Ok((client.with_timeout(Duration::from_secs(3)), own))
    }

    /// The datapath's counters, as `lb-ctl describe service` shows them, against what the clients counted.
    fn check_counters(&self) -> Result<(), Error> {
        say(format_args!(
            "what the datapath counted (`lb-ctl describe service {SERVICE}`) against what the clients counted"
        ));
        let description = self.playground.describe(SERVICE)?;
        println!("  {:<34}{:>10}{:>10}", "CONNECTIONS", "DATAPATH", "CLIENTS");
        let mut wrong = Vec::new();
        let mut compare = |what: String, counted: u64, expected: u64| {
            println!("  {what:<34}{counted:>10}{expected:>10}");
            if counted != expected {
                wrong.push(format!("{what}: the datapath counted {counted} connections, the clients {expected}"));
            }
        };
        for port in &description.ports {
            compare(format!("port {}", port.name), port.traffic.connections, self.tally.port(&port.name));
        }
        // An endpoint's counters are those of its address, by all ports together: any port shows them.
        let mut endpoints = description.ports.first().map(|port| port.endpoints.clone()).unwrap_or_default();
        endpoints.sort_by_key(|endpoint| (endpoint.pod.clone(), endpoint.address));
        let backends = self.playground.pods().filter(|pod| is_backend(pod.name())).count();
        for endpoint in &endpoints {
            let pod = endpoint.pod.as_deref().unwrap_or("?");
            let expected = self.tally.pod(pod, endpoint.address);
            compare(format!("{pod} {}", endpoint.address), endpoint.traffic.connections, expected);
        }
        if description.ports.len() != 2 || endpoints.len() != 2 * backends {
            wrong.push(format!("{} ports and {} endpoints are described", description.ports.len(), endpoints.len()));
        }
        println!();
        if wrong.is_empty() { Ok(()) } else { Err(Error::Broken(wrong.join("\n"))) }
    }

    /// How to play with what was kept.
    fn invitation(&self) -> String {
        let (name, socket, binary) =
            (self.playground.name(), self.playground.socket(), &self.playground.options().binary);
        let (node, binary) = (Node::One.name(), binary.display());
        let ask = format!("{binary} --socket {}", socket.display());
        let cluster = self.playground.cluster_address();
        let cluster = cluster.map_or("<ClusterIP>".to_owned(), |address| address.v4.to_string());
        format!(
            "The playground {name} stays up. Try:
  {ask} status
  {ask} describe service {SERVICE} -n {NAMESPACE}
  {ask} get pods -A -o wide
  {ask} conntrack list
  ip netns exec {name}-client curl http://{cluster}/
  ip netns exec {name}-client curl 'http://[{v6}]:{NODE_PORT}/'
  ip netns exec {name}-web-1 curl http://{cluster}/
  unshare --mount sh -c 'mount --bind {resolv_conf} /etc/resolv.conf && ip netns exec {name}-visitor curl http://{NUMBERS}/'
  ip netns exec {name}-{node} ip route
Remove it with:
  {binary} demo --cleanup {name}",
            v6 = NODE.v6,
            resolv_conf = self.playground.directory().join("resolv.conf").display(),
        )
    }
}

/// Whether the pods saw the addresses they should: the client's own where the pod is on the node, the node's where
/// the reply would otherwise miss the node (the pod asked itself, or it is remote and the client is outside).
fn check_sources(from: &str, own: Dual, kind: &str, to: SocketAddr, answers: &[Answer]) -> Result<(), Error> {
    for answer in answers {
        let remote = answer.pod == "web-3";
        let translated = answer.pod == from || (remote && from == "outside");
        let expected: IpAddr = own.like(to.ip());
        if (answer.client == expected) == translated {
            let wanted = if translated { "the node's address" } else { "the client's own address" };
            return Err(Error::broken(format_args!(
                "{} saw {} when {from} asked the {kind} {to}: {wanted} was promised",
                answer.pod, answer.client
            )));
        }
    }
    Ok(())
}

fn say(what: impl std::fmt::Display) {
    println!("* {what}");
}
