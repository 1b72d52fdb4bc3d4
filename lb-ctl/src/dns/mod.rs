//! The names of Services and of their endpoints, by the Kubernetes DNS specification.
//!
//! [`Dns`] follows the objects and keeps listeners open. What is answered comes from one immutable table of names
//! ([`names`]), of which a new version takes the place of the old one: nobody ever sees half of a change, and a change costs
//! what it changes. Every other name is for the [`upstream`] servers.

mod answer;
mod counters;
mod listener;
mod message;
mod names;
mod path;
mod records;
mod resolv_conf;
mod responder;
mod upstream;

pub use message::Transport;

use crate::api::{DnsStatus, Problem};
use crate::model::Views;
use crate::objects::{Key, Namespace, Table, differences};
use ipnet::IpNet;
use listener::Listener;
use names::Ledger;
use path::Path;
use responder::{Outcome, Responder, joined};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tracing::{info, warn};

/// Pause before what could not be bound is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// What a server is to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// The domain of all names, such as `cluster.local`.
    pub domain: Domain,
    /// Whom it asks for everything else; none: those in the node's resolv.conf.
    pub upstream: Vec<SocketAddr>,
    /// Networks of whose addresses nobody else knows names.
    pub networks: Vec<IpNet>,
}

/// The domain of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(Path);

impl Domain {
    /// A domain that is written like this, if it can be one.
    pub fn parse(text: &str) -> Option<Self> {
        // The longest name below it must fit: `service.namespace.svc`, of 63 characters each.
        Path::parse(text).filter(|path| path.length() <= 120).map(Self)
    }
}

impl Default for Domain {
    fn default() -> Self {
        Self(Path::default().child("local").child("cluster"))
    }
}

impl std::fmt::Display for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('.'))
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Dns {
    settings: Settings,
    runtime: Handle,
    responder: Arc<Responder>,
    ledger: Ledger,
    /// What was followed last.
    namespaces: Table<Namespace>,
    views: Views,
    open: BTreeMap<SocketAddr, Listener>,
    /// Addresses that could not be had.
    refused: BTreeMap<SocketAddr, String>,
    retry: Option<Instant>,
}

impl Dns {
    /// Nobody is listened to yet, and nothing is known of any Service; `runtime` is where questions will be answered.
    pub fn new(settings: Settings, runtime: Handle) -> Self {
        let domain = &settings.domain.0;
        let zones: Vec<Path> =
            std::iter::once(domain.clone()).chain(settings.networks.iter().flat_map(reverse_zones)).collect();
        let own: Vec<IpAddr> = settings.addresses.iter().map(SocketAddr::ip).collect();
        let mut ledger = Ledger::default();
        ledger.replace(&Key::new("", ""), records::of_zones(domain, &zones, &own));
        ledger.names.server = records::server(domain);
        ledger.names.zones = zones.into();
        // Larger than that of an earlier daemon, as long as there are fewer changes than seconds.
        ledger.names.serial = u32::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
        let mut dns = Self {
            responder: Arc::new(Responder::new(ledger.names.clone())),
            ledger,
            settings,
            runtime,
            namespaces: Table::new(),
            views: Views::new(),
            open: BTreeMap::new(),
            refused: BTreeMap::new(),
            retry: None,
        };
        dns.find_upstream();
        dns
    }

    /// Answers for these objects from now on, which are all there are.
    pub fn follow(&mut self, namespaces: &Table<Namespace>, views: &Views) {
        if self.settings.addresses.is_empty() {
            return;
        }
        let domain = &self.settings.domain.0;
        let mut changes = 0;
        for (key, _, namespace) in differences(&self.namespaces, namespaces) {
            let records = namespace.map(|_| records::of_namespace(domain, &key.name));
            self.ledger.replace(key, records.unwrap_or_default());
            changes += 1;
        }
        for (key, before, view) in differences(&self.views, views) {
            let of_view = |view: &Arc<_>| records::of_service(domain, view);
            let records = view.map(of_view).unwrap_or_default();
            if before.map(of_view).unwrap_or_default() != records {
                self.ledger.replace(key, records);
                changes += 1;
            }
        }
        (self.namespaces, self.views) = (namespaces.clone(), views.clone());
        if changes > 0 || !self.ledger.names.is_whole {
            self.ledger.names.is_whole = true;
            self.ledger.names.serial = self.ledger.names.serial.wrapping_add(1);
            self.responder.names.store(Arc::new(self.ledger.names.clone()));
        }
    }

    /// Listens where it is not yet listened, as far as that is due.
    pub fn listen(&mut self, now: Instant) {
        let missing = self.settings.addresses.iter().filter(|address| !self.open.contains_key(address));
        let missing: Vec<SocketAddr> = missing.copied().collect();
        if missing.is_empty() || self.retry.is_some_and(|when| now < when) {
            return;
        }
        let before = std::mem::take(&mut self.refused);
        for address in missing {
            match Listener::open(address, &self.responder, &self.runtime) {
                Ok(listener) => {
                    info!(address = %listener.address(), domain = %self.settings.domain, "names are told");
                    self.open.insert(address, listener);
                }
                Err(error) => {
                    let message = sentence(address, &error);
                    if before.get(&address) != Some(&message) {
                        warn!("{message}");
                    }
                    self.refused.insert(address, message);
                }
            }
        }
        self.retry = (!self.refused.is_empty()).then(|| now + RETRY);
    }

    /// Reads the node's resolv.conf again, if it counts: it is another one in another network.
    pub fn find_upstream(&mut self) {
        if self.settings.addresses.is_empty() {
            return;
        }
        let named = if self.settings.upstream.is_empty() {
            resolv_conf::servers(&fs::read_to_string(resolv_conf::PATH).unwrap_or_default())
        } else {
            self.settings.upstream.clone()
        };
        // Whoever asks himself asks for ever.
        let servers: Vec<_> = named.into_iter().filter(|server| !self.settings.addresses.contains(server)).collect();
        if self.responder.upstream.servers() != servers {
            self.responder.upstream.set(servers);
        }
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.open.values().map(Listener::address).collect()
    }

    /// When to try again what was refused.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.retry
    }

    /// What does not work, and why.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let nobody = !self.settings.addresses.is_empty() && self.responder.upstream.servers().is_empty();
        let nobody = nobody.then(|| {
            let source = resolv_conf::PATH;
            format!("other names are not known: {source} names no other server; --dns-upstream does")
        });
        let messages = self.refused.values().cloned().chain(nobody);
        messages.map(|message| Problem { subject: "dns".to_owned(), message }).collect()
    }

    /// How it is; `None`: it is off.
    pub(crate) fn status(&self) -> Option<DnsStatus> {
        (!self.settings.addresses.is_empty()).then(|| DnsStatus {
            addresses: self.addresses(),
            domain: self.settings.domain.to_string(),
            upstream: self.responder.upstream.servers(),
            counters: self.responder.counters.read(),
        })
    }

    /// What is answered to a message where others, if they are asked, answer this: for tests of what comes from outside.
    pub fn answer_with(&self, message: &[u8], transport: Transport, others: &[u8]) -> Option<Vec<u8>> {
        match self.responder.begin(message, transport) {
            Outcome::Nothing => None,
            Outcome::Reply(reply) => Some(reply),
            Outcome::Waits(waiting) => match waiting.alias {
                None => Some(others.to_vec()),
                Some((reply, _)) => Some(joined(&waiting.request, reply, message::read_answer(others)?)),
            },
        }
    }
}

/// The zones that hold the reverse names of a network: zones end between octets (IPv4) or nibbles (IPv6), networks need not.
fn reverse_zones(network: &IpNet) -> Vec<Path> {
    let unit = if network.addr().is_ipv4() { 8 } else { 4 };
    let count = network.prefix_len().div_ceil(unit);
    // At most 7 bits longer, and never longer than an address.
    let parts = network.subnets(count * unit).into_iter().flatten();
    parts.map(|part| Path::reverse_zone(part.addr(), count.into())).collect()
}

/// Why nobody can ask here, and what to do.
fn sentence(address: SocketAddr, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "; `ss -lntup` says whose it is",
        io::ErrorKind::AddrNotAvailable => "; the node does not have this address, or not yet",
        io::ErrorKind::PermissionDenied => "; ports below 1024 take CAP_NET_BIND_SERVICE",
        _ => "",
    };
    format!("cannot listen on {address} to tell names: {error}{remedy}; it is tried again")
}

#[cfg(test)]
mod tests;
