//! A case of the generator on the core, every packet of it judged by the oracle.

use crate::Image;
use crate::generator::{Case, Complaint, REPLACEMENT, Recipe, Shape, Step, Transport, World};
use crate::memory::{At, Frame, Memory, Surroundings};
use crate::small::{self, Family, LOCAL_1, LOCAL_2, V6};
use ipnet::IpNet;
use lb_common::network::{KEPT, PODS};
use lb_common::{
    Backend, BackendSet, Budget, Device, Flow, FlowKey, Owned, Reason, SCTP, Service, ServiceKey, Settings,
    Step as TraceStep, TCP, UDP,
};
use lb_ebpf::{Action, Hook, Route, Verdict, process};
use lb_oracle::Fault;
use lb_oracle::answer::Error;
use lb_oracle::ledger::{self, Answer, Fate, Ledger, Member, Network, Policy, Told, Way};
use proptest::sample::Index;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};

/// The two interfaces of the node.
#[derive(Clone, Copy, Debug)]
pub struct Interfaces {
    /// Fed by a wire.
    pub uplink: u32,
    /// Fed by pods.
    pub inside: u32,
}

impl Interfaces {
    /// What the daemon has written in `world`. The uplink is no target of XDP, so that XDP has something to leave to TCX.
    pub fn image(self, world: World) -> Image {
        let mut image = small::image(self.uplink, self.inside);
        let uplink = Device { mac: crate::frames::DESTINATION_MAC, ..Device::new(Device::OWN_MAC) };
        image.devices.insert(self.uplink, uplink);
        world.write(&mut image);
        image
    }

    /// The routes.
    pub fn surroundings(self, tick: u32) -> Surroundings {
        let mut around = small::surroundings(self.uplink, self.inside, self.uplink, tick);
        for family in Family::BOTH {
            around.routes.insert(family.backend(REPLACEMENT), Route::Via(small::hop(self.inside)));
        }
        around
    }
}

impl World {
    fn write(self, image: &mut Image) {
        if self.policies {
            small::set_policies(image);
        }
        if self.peers {
            let inside = image.devices.values_mut().find(|device| device.flags & Device::LOCAL_CLIENTS != 0);
            inside.expect("pods are behind it").flags |= Device::PEER;
        }
        if self.without_ports {
            image.services.retain(|key, _| key.protocol != UDP);
        }
        let is_gone = |id: u32| match id {
            LOCAL_1 => self.without_first,
            LOCAL_2 => self.without_second,
            id => (id == LOCAL_1 + V6 && self.without_first) || (id == LOCAL_2 + V6 && self.without_second),
        };
        for service in image.services.values_mut() {
            let set = service.backends;
            let stay: Vec<u32> =
                (set.base()..set.base() + set.count()).filter(|index| !is_gone(image.slots[index].backend)).collect();
            // What stays of two is one or the other, so it stands in one piece.
            let first = stay.first().copied().unwrap_or_default();
            service.backends = BackendSet::new(first, stay.len() as u32, 1);
        }
        for (id, backend) in &mut image.backends {
            if is_gone(*id) {
                backend.flags &= !Backend::ALIVE;
                backend.flags |= if self.draining { Backend::SERVING } else { 0 };
            }
            if self.replaced && (*id == LOCAL_2 || *id == LOCAL_2 + V6) {
                let family = if *id == LOCAL_2 { Family::V4 } else { Family::V6 };
                backend.address = octets(family.backend(REPLACEMENT));
                backend.generation = 2;
            }
        }
        small::note_elsewhere(image);
        for slot in image.slots.values_mut() {
            slot.generation = image.backends[&slot.backend].generation;
        }
        if self.few_ports {
            (image.settings.snat_port_first, image.settings.snat_port_last) = (1024, 1024);
        }
        if self.no_lent {
            image.settings.snat4 = [[0; 4]; Settings::SNAT_ADDRESSES];
            image.settings.snat6 = [[0; 16]; Settings::SNAT_ADDRESSES];
        }
        if self.stack {
            image.settings.flags |= Settings::STACK;
        }
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    let mut octets = [0; 16];
    match address {
        IpAddr::V4(address) => octets[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => octets = address.octets(),
    }
    octets
}

fn address(octets: [u8; 16], family: u8) -> IpAddr {
    let [a, b, c, d, ..] = octets;
    if family == 4 { [a, b, c, d].into() } else { octets.into() }
}

/// The records of everybody, those of addresses before those of node ports.
fn ports_first(image: &Image) -> impl Iterator<Item = (&ServiceKey, &Service)> {
    let all = || image.services.iter().filter(|(key, _)| !key.is_within());
    all().filter(|(key, _)| !key.is_of_node()).chain(all().filter(|(key, _)| key.is_of_node()))
}

/// What the image means, in the oracle's plain terms.
pub fn plain(image: &Image, around: &Surroundings, answers: usize) -> ledger::Node {
    let mut node = ledger::Node::default();
    for (address, owned) in &image.owned {
        if owned.is_node() { &mut node.own } else { &mut node.owned }.insert(*address);
    }
    let plain = |network: &IpNet| Network(network.addr(), network.prefix_len());
    let networks = |group: u32| image.networks.get(&group).into_iter().flatten().map(plain).collect::<Vec<_>>();
    node.pods = networks(PODS);
    node.kept = networks(KEPT);
    let draining = image.backends.values().filter(|backend| !backend.is_alive() && backend.is_serving());
    node.draining = draining.map(|backend| address(backend.address, backend.family)).collect();
    for (key, service) in ports_first(image) {
        // Within the cluster are all of its backends; how many of them are for others the judge knows by himself.
        let set = image.services.get(&key.within()).unwrap_or(service).backends;
        let is_local = service.flags & Service::SCOPED != 0;
        let sources = if service.flags & Service::RANGED == 0 { Vec::new() } else { networks(service.id) };
        let is_internal = service.flags & Service::INTERNAL != 0;
        let policy = Policy { is_local, sources, is_internal };
        let slots = (set.base()..set.base() + set.count()).map(|index| image.slots[&index]);
        let members: Vec<Member> = slots
            .map(|slot| {
                let backend = image.backends[&slot.backend];
                let port = if slot.port == [0; 2] { service.target_port } else { slot.port };
                let address = SocketAddr::new(address(backend.address, backend.family), u16::from_be_bytes(port));
                Member { address, is_local: backend.is_local() }
            })
            .collect();
        let is_of_family = |address: &IpAddr| address.is_ipv4() == (key.version() == 4);
        let of_node = image.owned.iter().filter(|(address, owned)| **owned == Owned::NODE && is_of_family(address));
        let of_node = of_node.filter(|_| key.is_of_node()).map(|(address, _)| *address);
        for address in key.ip().into_iter().chain(of_node) {
            let place = (SocketAddr::new(address, key.port()), key.protocol);
            // A port of the address goes before the node port of the same number.
            if key.is_of_node() && node.services.contains_key(&place) {
                continue;
            }
            node.services.insert(place, members.clone());
            node.policies.insert(place, policy.clone());
        }
    }
    let settings = &image.settings;
    node.stack = settings.flags & Settings::STACK != 0;
    node.answers = answers;
    node.lent.extend(settings.snat4.iter().filter(|lent| **lent != [0; 4]).map(|lent| IpAddr::from(*lent)));
    node.lent.extend(settings.snat6.iter().filter(|lent| **lent != [0; 16]).map(|lent| IpAddr::from(*lent)));
    node.lent_ports = (settings.snat_port_first, settings.snat_port_last);
    for (index, device) in &image.devices {
        let interface = ledger::Interface {
            has_local_clients: device.flags & Device::LOCAL_CLIENTS != 0,
            own_mac: (device.flags & Device::OWN_MAC != 0).then_some(device.mac),
        };
        node.interfaces.insert(*index, interface);
    }
    for (destination, route) in &around.routes {
        if let Route::Via(hop) = route {
            let way = Way { interface: hop.ifindex, macs: hop.macs, mtu: usize::from(hop.mtu) };
            node.ways.insert(*destination, way);
        }
    }
    node
}

/// One packet through one hook.
#[derive(Clone, Debug)]
pub struct Passage {
    /// The hook.
    pub hook: Hook,
    /// The interface.
    pub ifindex: u32,
    /// The frame as it came.
    pub before: Vec<u8>,
    /// What was decided.
    pub verdict: Verdict,
    /// The frame as it left.
    pub after: Vec<u8>,
    /// What the core told of it, where the tables record that.
    pub steps: Vec<TraceStep>,
}

/// A request that came out: what its backend may answer, and its client go on with.
#[derive(Clone, Debug)]
struct Request {
    recipe: Recipe,
    protocol: u8,
    /// As the backend sees it.
    source: SocketAddr,
    backend: SocketAddr,
    /// Where the answer is met.
    answered_at: (Hook, u32),
}

/// A case that is being run.
pub struct Trial {
    interfaces: Interfaces,
    /// The core's tables.
    pub tables: Memory,
    around: Surroundings,
    node: ledger::Node,
    ledger: Ledger,
    requests: Vec<Request>,
}

impl Trial {
    /// The node as `case` begins, in this tick.
    pub fn new(interfaces: Interfaces, case: &Case, tick: u32) -> Self {
        let image = interfaces.image(case.world);
        let around = interfaces.surroundings(tick);
        let answers = Budget::ANSWERS - case.answered;
        let node = plain(&image, &around, answers as usize);
        let mut tables = Memory::new(image);
        *tables.budget.get_mut() = case.budget(tick);
        if case.revalidated {
            tables.revalidated_in(tick);
        }
        Self { interfaces, tables, around, node, ledger: Ledger::default(), requests: Vec::new() }
    }

    /// Takes one step. Returns every passage of a packet through a hook that it led to, also when the last of them was judged
    /// wrong.
    pub fn step(&mut self, step: &Step) -> (Vec<Passage>, Result<(), Fault>) {
        let mut passages = Vec::new();
        let result = match step {
            Step::Packet(recipe) => self.send(recipe, &mut passages),
            Step::Reply { of, shape } => self.reply(*of, shape, &mut passages),
            Step::Again { of, shape } => self.again(*of, None, shape, &mut passages),
            Step::Another { of, port, shape } => self.again(*of, Some(*port), shape, &mut passages),
            Step::Error { of, error } => self.error(*of, error, &mut passages),
            Step::Age(ticks) => {
                self.tables.flows4.change(|_, flow| flow.tick = flow.tick.saturating_sub(*ticks));
                self.tables.flows6.change(|_, flow| flow.tick = flow.tick.saturating_sub(*ticks));
                self.ledger.age(*ticks);
                Ok(())
            }
            Step::Lose(index) => {
                self.spoil(*index, None);
                Ok(())
            }
            Step::Spoil(index, flags) => {
                self.spoil(*index, Some(flags & !Flow::<[u8; 4]>::REPLY));
                Ok(())
            }
            Step::World(world) => {
                self.tables.image = self.interfaces.image(*world);
                self.node = plain(&self.tables.image, &self.around, self.node.answers);
                Ok(())
            }
        };
        (passages, result)
    }

    /// Runs any frame through one hook and has it judged.
    pub fn frame(&mut self, hook: Hook, ifindex: u32, bytes: Vec<u8>) -> Result<Told, Fault> {
        self.pass(hook, ifindex, bytes, &mut Vec::new())
    }

    fn reply(&mut self, of: Index, shape: &Shape, passages: &mut Vec<Passage>) -> Result<(), Fault> {
        let Some(request) = self.requests.get(chosen(of, self.requests.len())).cloned() else {
            return Ok(());
        };
        let frame = of_protocol(shape, request.protocol).frame(request.backend, request.source);
        self.back(request.answered_at, frame, passages)
    }

    /// Sends a frame that comes from a backend; what is met where it leaves comes in before.
    fn back(&mut self, (hook, ifindex): (Hook, u32), frame: Vec<u8>, passages: &mut Vec<Passage>) -> Result<(), Fault> {
        if hook == Hook::Egress
            && !matches!(self.pass(Hook::Ingress, self.interfaces.inside, frame.clone(), passages)?, Told::Untouched)
        {
            return Ok(());
        }
        self.pass(hook, ifindex, frame, passages).map(drop)
    }

    /// Somebody on the way, or at its end, tells of the fate of a request, or of its answer.
    fn error(&mut self, of: Index, error: &Complaint, passages: &mut Vec<Passage>) -> Result<(), Fault> {
        let Some(request) = self.requests.get(chosen(of, self.requests.len())).cloned() else {
            return Ok(());
        };
        let shape = of_protocol(&error.about, request.protocol);
        if error.is_about_request {
            return self.back(request.answered_at, error.frame(&shape, request.source, request.backend), passages);
        }
        let (client, service) = request.recipe.tuple();
        let ifindex = if request.recipe.inside { self.interfaces.inside } else { self.interfaces.uplink };
        self.in_by(request.recipe.hook, ifindex, error.frame(&shape, service, client), passages).map(drop)
    }

    /// Repeats a request in another shape, and from another port if one is given.
    fn again(&mut self, of: Index, port: Option<u16>, shape: &Shape, passages: &mut Vec<Passage>) -> Result<(), Fault> {
        let Some(request) = self.requests.get(chosen(of, self.requests.len())) else {
            return Ok(());
        };
        let mut recipe = request.recipe.clone();
        recipe.shape = of_protocol(shape, request.protocol);
        recipe.port = port.unwrap_or(recipe.port);
        (recipe.damage, recipe.cut) = (Vec::new(), 0);
        self.send(&recipe, passages)
    }

    /// Sends a packet in, by the next hook too where the first leaves it to that, and remembers what comes out as a request.
    fn send(&mut self, recipe: &Recipe, passages: &mut Vec<Passage>) -> Result<(), Fault> {
        let ifindex = if recipe.inside { self.interfaces.inside } else { self.interfaces.uplink };
        let told = self.in_by(recipe.hook, ifindex, recipe.frame(), passages)?;
        let (Told::Requested(source, backend), Some(passage)) = (told, passages.last().cloned()) else {
            return Ok(());
        };
        let answered_at = match passage.verdict.action {
            Action::Pass => (Hook::Egress, ifindex),
            _ => (Hook::Ingress, passage.verdict.ifindex),
        };
        let protocol = match recipe.shape.transport {
            Transport::Udp(_) => UDP,
            Transport::Sctp(..) => SCTP,
            _ => TCP,
        };
        self.requests.push(Request { recipe: recipe.clone(), protocol, source, backend, answered_at });
        if passage.hook == Hook::Ingress && passage.verdict.action != Action::Pass {
            // Its target's egress sees it too, and must let it by.
            self.pass(Hook::Egress, passage.verdict.ifindex, passage.after, passages)?;
        }
        Ok(())
    }

    /// Sends a frame in, by the next hook too where the first leaves it to that.
    fn in_by(&mut self, hook: Hook, ifindex: u32, frame: Vec<u8>, passages: &mut Vec<Passage>) -> Result<Told, Fault> {
        let told = self.pass(hook, ifindex, frame.clone(), passages)?;
        if (hook, &told) == (Hook::Xdp, &Told::Untouched) {
            self.pass(Hook::Ingress, ifindex, frame, passages)
        } else {
            Ok(told)
        }
    }

    /// Runs one frame through one hook and has it judged.
    fn pass(&mut self, hook: Hook, ifindex: u32, before: Vec<u8>, passages: &mut Vec<Passage>) -> Result<Told, Fault> {
        self.around.ifindex = ifindex;
        let mut frame = Frame::new(before.clone());
        let (verdict, seen_at) = match hook {
            Hook::Xdp => (process(&mut frame, &self.tables, &At::<0>(&self.around)), ledger::Hook::Xdp),
            Hook::Ingress => (process(&mut frame, &self.tables, &At::<1>(&self.around)), ledger::Hook::Ingress),
            Hook::Egress => (process(&mut frame, &self.tables, &At::<2>(&self.around)), ledger::Hook::Egress),
        };
        let fate = match verdict.action {
            Action::Pass | Action::Defer => Fate::Passed,
            Action::Drop => Fate::Dropped,
            Action::Redirect | Action::RedirectPeer => Fate::Sent(verdict.ifindex),
            Action::RedirectNeighbour => Fate::SentByKernel(verdict.ifindex),
            Action::Open | Action::Choose | Action::Lend | Action::Enter | Action::Icmp | Action::Answer => {
                return Err(Fault("the core kept the packet to itself".to_owned()));
            }
        };
        let steps = self.tables.take_steps();
        let passage = Passage { hook, ifindex, before, verdict, after: frame.bytes, steps };
        let at = (seen_at, ifindex, self.around.tick);
        let judged = self.ledger.judge(&self.node, at, &passage.before, &passage.after, fate);
        let judged = judged.and_then(|told| reason_fits(&told, verdict.reason).map(|()| told));
        let judged = judged.map_err(|fault| {
            Fault(format!(
                "{fault}\n{hook:?} by {ifindex}: {verdict:?}\nin  {:02x?}\nout {:02x?}",
                passage.before, passage.after
            ))
        });
        passages.push(passage);
        judged
    }

    /// Loses one entry, or changes its flags; the oracle is told that nothing is certain of it.
    fn spoil(&mut self, index: Index, flags: Option<u16>) {
        let (ledger, tables) = (&mut self.ledger, &self.tables);
        let (four, six) = (tables.flows4.contents(), tables.flows6.contents());
        let place = chosen(index, four.len() + six.len());
        if let Some((key, flow)) = four.iter().nth(place) {
            doubt(ledger, key, flow.rewritten(key.protocol));
            match flags {
                None => tables.flows4.lose(key),
                Some(flags) => tables.flows4.change(|each, flow| flow.flags ^= if each == key { flags } else { 0 }),
            }
        } else if let Some((key, flow)) = six.iter().nth(place.wrapping_sub(four.len())) {
            doubt(ledger, key, flow.rewritten(key.protocol));
            match flags {
                None => tables.flows6.lose(key),
                Some(flags) => tables.flows6.change(|each, flow| flow.flags ^= if each == key { flags } else { 0 }),
            }
        }
    }
}

/// The place that `index` stands for among `count`.
fn chosen(index: Index, count: usize) -> usize {
    if count == 0 { 0 } else { index.index(count) }
}

fn of_protocol(shape: &Shape, protocol: u8) -> Shape {
    let transport = match (protocol, shape.transport) {
        (UDP, Transport::Udp(_)) | (TCP, Transport::Tcp(..)) | (SCTP, Transport::Sctp(..)) => shape.transport,
        (UDP, _) => Transport::Udp(false),
        // A flag in TCP is a chunk here.
        (SCTP, Transport::Tcp(flags, options)) => Transport::Sctp(flags % 16, options == 3),
        (SCTP, _) => Transport::Sctp(0, false),
        _ => Transport::Tcp(0x10, 0),
    };
    Shape { transport, ..shape.clone() }
}

fn doubt<A: Copy + Into<IpAddr>>(ledger: &mut Ledger, key: &FlowKey<A>, rewritten: FlowKey<A>) {
    for key in [*key, rewritten.reversed()] {
        let socket = |address: A, port: [u8; 2]| SocketAddr::new(address.into(), u16::from_be_bytes(port));
        ledger.doubt(key.protocol, socket(key.src, key.src_port), socket(key.dst, key.dst_port));
    }
}

/// Whether the reason says what the oracle saw.
fn reason_fits(told: &Told, reason: Reason) -> Result<(), Fault> {
    let fits = match told {
        Told::Untouched => {
            !reason.is_drop()
                && !matches!(
                    reason,
                    Reason::Forwarded
                        | Reason::Delivered
                        | Reason::Replied
                        | Reason::IcmpTranslated
                        | Reason::EchoReplied
                        | Reason::ForwardedTableFull
                        | Reason::ForwardedSnatScarce
                        | Reason::ForwardedMidway
                )
        }
        Told::Dropped => reason.is_drop(),
        Told::Requested(..) => matches!(
            reason,
            Reason::Forwarded
                | Reason::Delivered
                | Reason::ForwardedTableFull
                | Reason::ForwardedSnatScarce
                | Reason::ForwardedMidway
        ),
        Told::Replied => reason == Reason::Replied,
        Told::ErrorTranslated => reason == Reason::IcmpTranslated,
        Told::Answered(Answer::Refused) => matches!(reason, Reason::NoServicePort | Reason::NoBackend),
        Told::Answered(Answer::Error(Error::PortUnreachable)) => false,
        Told::Answered(Answer::Error(Error::TooBig(_))) => reason == Reason::MtuExceeded,
        Told::Answered(Answer::Error(Error::TimeExceeded)) => reason == Reason::TtlExceeded,
        Told::Answered(Answer::Error(Error::NoWay)) => reason == Reason::NoRoute,
        Told::Answered(Answer::Error(Error::ProtocolUnreachable)) => reason == Reason::Protocol,
        Told::Answered(Answer::Echo) => reason == Reason::EchoReplied,
    };
    if fits { Ok(()) } else { Err(Fault(format!("the reason {} is wrong", reason.name()))) }
}

/// What a run of cases met: so that a generator that no longer meets anything is noticed.
#[derive(Clone, Debug, Default)]
pub struct Met {
    /// Packets.
    pub packets: u64,
    /// Reasons, by name.
    pub reasons: BTreeSet<&'static str>,
    /// Packets that XDP finished.
    pub finished_by_xdp: u64,
}

impl Met {
    /// Adds a passage.
    pub fn add(&mut self, passage: &Passage) {
        self.packets += 1;
        self.reasons.insert(passage.verdict.reason.name());
        self.finished_by_xdp += u64::from(passage.hook == Hook::Xdp && passage.verdict.action == Action::Redirect);
    }

    /// Asserts that the run was worth something.
    pub fn check(&self) {
        const EXPECTED: [&str; 19] = [
            "not-ours",
            "forwarded",
            "replied",
            "delivered",
            "malformed",
            "vlan-tag",
            "fragment",
            "no-service-port",
            "no-backend",
            "no-route",
            "mtu-exceeded",
            "ttl-exceeded",
            "martian-source",
            "protocol",
            "icmp-translated",
            "icmp-unrelated",
            "echo-replied",
            "answer-limited",
            "sctp-fragment",
        ];
        let missing: Vec<_> = EXPECTED.iter().filter(|name| !self.reasons.contains(*name)).collect();
        assert!(missing.is_empty(), "no packet met {missing:?}, only {:?}", self.reasons);
        assert!(self.finished_by_xdp > 0, "XDP finished no packet");
    }
}
