//! Processes of this node as clients: keeps the daemon's veth pair and the routes into it.
//!
//! The routes come last and go first: without our programs on the pair they would lead nowhere, where the node's other
//! routes may lead somewhere.

use crate::api::Problem;
use crate::host::pair::{self, INNER, Pair};
use crate::host::{HostView, Interface};
use ipnet::IpNet;
use lb_common::{Device, HostPair};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// MTU of the pair before any interface is managed, and its limits: what IPv6 needs, and what a veth takes.
const MTU: u32 = 1500;
const MTU_LIMITS: (u32, u32) = (1280, 65_535);
/// How long a failure counts.
const RETRY: Duration = Duration::from_secs(2);

/// Where Services are, and which source the node uses towards each.
pub(super) type Destinations = BTreeMap<IpNet, IpAddr>;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct HostClients {
    /// The instance whose pair it is; `None`: not wanted.
    instance: Option<String>,
    pair: Option<Pair>,
    mtu: u32,
    routes: Destinations,
    /// The clock or the network gave a reason to look at the routes.
    is_due: bool,
    failures: [Option<String>; 2],
    retry: Option<Instant>,
}

/// Which of the two things failed.
#[derive(Clone, Copy)]
enum Part {
    Pair,
    Routes,
}

impl HostClients {
    /// Makes the pair, or takes it over. Without `wanted` that of an earlier daemon of this instance is removed.
    pub(super) fn open(instance: &str, wanted: bool) -> Self {
        let mut clients = Self { instance: wanted.then(|| instance.to_owned()), ..Self::off() };
        if wanted {
            clients.ensure(Instant::now());
        } else {
            match pair::remove(instance) {
                Ok(true) => info!("{INNER} is removed: host clients are not wanted"),
                Ok(false) => {}
                Err(error) => warn!(%error, "the pair of an earlier daemon could not be removed"),
            }
        }
        clients
    }

    /// Not wanted, and nothing touched.
    pub(super) fn off() -> Self {
        Self {
            instance: None,
            pair: None,
            mtu: MTU,
            routes: Destinations::new(),
            is_due: true,
            failures: [None, None],
            retry: None,
        }
    }

    fn ensure(&mut self, now: Instant) {
        let Some(instance) = &self.instance else { return };
        match pair::ensure(instance, self.mtu) {
            Ok(pair) => {
                if self.pair != Some(pair) {
                    info!(inner = pair.inner, outer = pair.outer, mtu = self.mtu, "{INNER} and its peer are up");
                }
                self.pair = Some(pair);
                self.is_due = true;
                self.retry = None;
                self.told(Part::Pair, None);
            }
            Err(error) => {
                self.pair = None;
                self.failed(Part::Pair, &error.to_string(), now);
            }
        }
    }

    fn told(&mut self, part: Part, failure: Option<String>) {
        self.failures[part as usize] = failure;
    }

    fn failed(&mut self, part: Part, message: &str, now: Instant) {
        if self.failures[part as usize].as_deref() != Some(message) {
            error!("host clients: {message}");
        }
        self.told(part, Some(message.to_owned()));
        self.retry = Some(now + RETRY);
    }

    /// The next looks are at everything.
    pub(super) fn look_again(&mut self) {
        self.is_due = true;
    }

    /// When to try again what failed.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.retry
    }

    /// Makes the pair again where somebody removed or changed it. `managed` are the interfaces it leads to: it takes the
    /// largest of their MTUs, so that every reply fits; a request that is too large for its way is judged there.
    pub(super) fn keep_pair<'a>(
        &mut self,
        host: &HostView,
        managed: impl Iterator<Item = &'a Interface>,
        now: Instant,
    ) {
        let own = self.pair.map(|pair| [pair.inner, pair.outer]).unwrap_or_default();
        let mtu = managed.filter(|interface| !own.contains(&interface.index)).map(|interface| interface.mtu).max();
        let mtu = mtu.unwrap_or(MTU).clamp(MTU_LIMITS.0, MTU_LIMITS.1);
        let is_whole = self.pair.is_some_and(|pair| {
            [(pair.inner, pair.inner_mac), (pair.outer, pair.outer_mac)].iter().all(|(index, mac)| {
                let end = host.interfaces.get(index);
                end.is_some_and(|end| end.up && end.mtu == mtu && end.mac == Some(*mac))
            })
        });
        if is_whole || (self.failures[Part::Pair as usize].is_some() && self.retry.is_some_and(|when| now < when)) {
            return;
        }
        self.mtu = mtu;
        self.ensure(now);
    }

    /// Makes the routes lead to these destinations; to none while our programs are not on the pair.
    pub(super) fn keep_routes(&mut self, wanted: &Destinations, is_attached: bool, now: Instant) {
        if self.retry.is_some_and(|when| when <= now) {
            self.retry = None;
            self.is_due = true;
        }
        let Some(pair) = self.pair else { return };
        let none = Destinations::new();
        let wanted = if is_attached { wanted } else { &none };
        if *wanted == self.routes && !self.is_due {
            return;
        }
        self.is_due = false;
        match pair::set_routes(&pair, wanted) {
            Ok(()) => self.told(Part::Routes, None),
            Err(error) => self.failed(Part::Routes, &error.to_string(), now),
        }
        self.routes.clone_from(wanted);
    }

    /// The inner and the outer end, by index: the interfaces that no pattern means.
    pub(super) fn ends(&self) -> Option<(u32, u32)> {
        self.pair.map(|pair| (pair.inner, pair.outer))
    }

    /// What the datapath is told of the pair.
    pub(super) fn settings(&self) -> HostPair {
        let Some(pair) = self.pair else { return HostPair::default() };
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&pair.inner_mac);
        macs[6..].copy_from_slice(&pair.outer_mac);
        HostPair { ifindex: pair.outer, macs }
    }

    /// What the datapath is told of the outer end, in place of what it would be told of any interface: frames there carry
    /// the inner end's MAC, and XDP leaves them to TCX, since the inner end does not poll.
    pub(super) fn mark(&self, devices: &mut BTreeMap<u32, Device>) {
        if let Some(device) = self.pair.and_then(|pair| devices.get_mut(&pair.outer)) {
            *device = Device::new(Device::HOST | Device::LOCAL_CLIENTS);
        }
    }

    /// How processes of this node reach Services, in a sentence for people.
    pub(super) fn status(&self) -> String {
        let Some(_) = &self.instance else {
            return "no (--host-clients=false)".to_owned();
        };
        if let Some(failure) = self.failures.iter().flatten().next() {
            return format!("no, or not to all: {failure}");
        }
        if self.routes.is_empty() {
            return format!("no: the node has no address to use by {INNER}, or it is not attached yet");
        }
        let routes: Vec<String> = self.routes.iter().map(|(to, source)| format!("{to} from {source}")).collect();
        format!("by {INNER}: {}", routes.join(", "))
    }

    /// What an operator should look at.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let problem = |message: &String| Problem { subject: "host clients".to_owned(), message: message.clone() };
        self.failures.iter().flatten().map(problem).collect()
    }
}
