//! What the program told, in words.

use super::walk::{Met, Scene, Start};
use crate::api::trace::{Choice, TraceAnswer, TraceRequest, TracedHook, TracedStep};
use crate::datapath::tracer::Member;
use crate::monitor::protocol_name;
use lb_common::flow::state;
use lb_common::trace::{Step, StepKind};
use lb_common::{Affinity, Backend, BackendSet, Flow, FlowKey, NextHop, Owned, Reason, Scratch, Service, TCP};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// A service port, as the daemon knows it by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName {
    /// `namespace/name`.
    pub service: String,
    /// `http (80/TCP)`.
    pub port: String,
    /// Why its frontend is there, such as `ClusterIP`.
    pub kind: String,
}

/// Names for numbers.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Service ports by id.
    pub services: BTreeMap<u32, ServiceName>,
    /// Pods by the address and port that they serve.
    pub pods: BTreeMap<SocketAddr, String>,
    /// Members of the sets that were picked from.
    pub sets: BTreeMap<BackendSet, Vec<Member>>,
}

/// Everything that the packet met, in words.
pub fn explain(request: &TraceRequest, scene: &Scene, start: &Start, met: &[Met], names: &Names) -> TraceAnswer {
    let told = Told { to: request.to.ip(), scene, names, met };
    let final_verdict = told.final_verdict();
    let reason = final_verdict.map_or(Reason::NotOurs, reason_of);
    let frame_out = met.last().map_or(&start.frame, |met| &met.traced.ran.frame);
    let flags = if request.flags.is_empty() { "SYN".to_owned() } else { request.flags.join(",").to_uppercase() };
    let flags =
        if request.protocol == crate::api::trace::TraceProtocol::TCP { format!(" [{flags}]") } else { String::new() };
    let ends = if request.protocol == crate::api::trace::TraceProtocol::ICMP {
        format!("{} -> {}, echo request", request.from.ip(), request.to.ip())
    } else {
        format!("{} -> {}", request.from, request.to)
    };
    TraceAnswer {
        packet: format!("{} {ends}{flags}, coming in by {}", request.protocol, told.interface(start.ifindex)),
        notes: start.notes.clone(),
        hooks: met.iter().map(|met| told.hook(met)).collect(),
        forwarded: is_forwarded(reason),
        reason: reason.name().to_owned(),
        sentence: reason.sentence().to_owned(),
        remedy: reason.remedy().to_owned(),
        backend: told.backend(),
        frame_in: hex(&start.frame),
        frame_out: hex(frame_out),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether the packet goes where its sender wants it.
const fn is_forwarded(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Forwarded
            | Reason::Replied
            | Reason::Delivered
            | Reason::ForwardedTableFull
            | Reason::EchoReplied
            | Reason::IcmpTranslated
            | Reason::ForwardedSnatScarce
            | Reason::ForwardedMidway
    )
}

fn reason_of(step: &Step) -> Reason {
    Reason::from_number(step.reason).unwrap_or(Reason::NotOurs)
}

/// The tuple of a step.
struct Tuple {
    protocol: u8,
    from: SocketAddr,
    to: SocketAddr,
}

impl Tuple {
    fn of(step: &Step) -> Self {
        if step.family == 6 { Self::new(step.tuple::<[u8; 16]>()) } else { Self::new(step.tuple::<[u8; 4]>()) }
    }

    fn new<A: Copy + Into<IpAddr>>(key: FlowKey<A>) -> Self {
        let end = |address: A, port| SocketAddr::new(address.into(), u16::from_be_bytes(port));
        Self { protocol: key.protocol, from: end(key.src, key.src_port), to: end(key.dst, key.dst_port) }
    }

    fn text(&self) -> String {
        format!("{} -> {}", self.from, self.to)
    }
}

fn tcp_flags(flags: u32) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set: Vec<&str> =
        names.iter().enumerate().filter(|(bit, _)| flags & (1 << bit) != 0).map(|(_, name)| *name).collect();
    set.join("+")
}

struct Told<'a> {
    /// Where the packet goes at first.
    to: IpAddr,
    scene: &'a Scene,
    names: &'a Names,
    met: &'a [Met],
}

impl Told<'_> {
    /// The verdict that counts: the last that is about the packet at all.
    fn final_verdict(&self) -> Option<&Step> {
        let verdicts = self.met.iter().filter_map(Met::verdict);
        verdicts
            .filter(|step| step.detail != Step::DEFER)
            .reduce(|best, step| if reason_of(step) == Reason::NotOurs { best } else { step })
    }

    fn backend(&self) -> Option<SocketAddr> {
        let mut steps = self.met.iter().flat_map(|met| &met.traced.steps);
        let rewritten = steps.rfind(|step| step.kind == StepKind::Rewritten as u8)?;
        let is_reply = rewritten.flags as u16 & Flow::<[u8; 4]>::REPLY != 0;
        (!is_reply).then(|| Tuple::of(rewritten).to)
    }

    fn interface(&self, ifindex: u32) -> String {
        let interface = self.scene.host.interfaces.get(&ifindex);
        interface.map_or_else(|| format!("interface {ifindex}"), |interface| interface.name.clone())
    }

    fn hook(&self, met: &Met) -> TracedHook {
        let mut steps: Vec<TracedStep> = Vec::new();
        if met.traced.lost > 0 {
            let says = format!("{} steps before these were told and not kept", met.traced.lost);
            steps.push(TracedStep { step: "...".to_owned(), says, choices: Vec::new() });
        }
        steps.extend(met.traced.steps.iter().filter_map(|step| self.step(met, step)));
        let reason = met.verdict().map_or(Reason::NotOurs, reason_of);
        TracedHook {
            hook: met.point.name().to_owned(),
            interface: self.interface(met.ifindex),
            program: self
                .scene
                .tags
                .get(&(met.ifindex, met.point))
                .map_or_else(String::new, |tag| format!("{tag:016x}")),
            steps,
            deferred: met.verdict().is_some_and(|step| step.detail == Step::DEFER),
            reason: reason.name().to_owned(),
        }
    }

    fn step(&self, met: &Met, step: &Step) -> Option<TracedStep> {
        let kind = StepKind::from_number(step.kind)?;
        let (word, says) = match kind {
            StepKind::Hook => return None,
            StepKind::Parsed => ("parse", parsed(step)),
            StepKind::Unparsed if reason_of(step) == Reason::Icmp => ("parse", "an ICMP message".to_owned()),
            StepKind::Unparsed => ("parse", format!("not to be translated: {}", reason_of(step).name())),
            StepKind::GateClosed => ("gate", "neither the source nor the destination can be of a Service".to_owned()),
            StepKind::FlowFound => ("flow", self.flow(step)),
            StepKind::FlowUnknown => ("flow", "not known: this would be its first packet".to_owned()),
            StepKind::FlowPassedOver => ("flow", passed_over(step.detail).to_owned()),
            StepKind::Owned => ("address", format!("{} {}", self.destination(met), owned(step))),
            StepKind::Service => ("service", self.service(step)),
            StepKind::NoService => ("service", no_service(step)),
            StepKind::Client => ("client", client(step)),
            StepKind::SourceRange => ("ranges", source_range(step).to_owned()),
            StepKind::Policy => ("policy", policy(step)),
            StepKind::Affinity => ("affinity", affinity(step)),
            StepKind::Picked => return Some(self.picked(step)),
            StepKind::Backend => ("backend", self.picked_backend(step)),
            StepKind::NextHop => ("next hop", self.next_hop(step)),
            StepKind::Source => ("source", source(step)),
            StepKind::Rewritten => ("rewrite", rewritten(met, step)),
            StepKind::Icmp => ("icmp", format!("of type {}, to {}", step.detail, Tuple::of(step).to.ip())),
            StepKind::IcmpAbout => ("icmp", about(step)),
            StepKind::Answered => ("answer", answered(step)),
            StepKind::Write => ("write", write(step)),
            StepKind::Verdict => ("verdict", self.verdict(step)),
        };
        Some(TracedStep { step: word.to_owned(), says, choices: Vec::new() })
    }

    /// Where the packet that met this hook goes.
    fn destination(&self, met: &Met) -> IpAddr {
        let tells = [StepKind::Parsed as u8, StepKind::Icmp as u8];
        let tuple = met.traced.steps.iter().find(|step| tells.contains(&step.kind)).map(Tuple::of);
        tuple.map_or(self.to, |tuple| tuple.to.ip())
    }

    fn service_name(&self, id: u32) -> String {
        match self.names.services.get(&id) {
            Some(ServiceName { service, port, kind }) => format!("{service} port {port}, {kind}"),
            None => format!("service port {id}"),
        }
    }

    fn flow(&self, step: &Step) -> String {
        let tuple = Tuple::of(step);
        let flags = step.flags as u16;
        let side = if flags & Flow::<[u8; 4]>::REPLY != 0 { "a reply" } else { "a request" };
        let confirmed = if flags & Flow::<[u8; 4]>::CONFIRMED != 0 { "confirmed" } else { "new" };
        let state = state(flags, tuple.protocol).name();
        let hop = (step.flags >> 16) as u16;
        let way = if hop & NextHop::STACK != 0 { ", through the host's stack" } else { "" };
        format!("known, {state} ({confirmed}), {side} of {}, to be {}{way}", self.service_name(step.more), tuple.text())
    }

    fn service(&self, step: &Step) -> String {
        let count = BackendSet(step.words[1]).count();
        let mut says = self.service_name(step.number);
        let flags = step.flags as u16;
        match count {
            0 if flags & Service::ELSEWHERE != 0 => says.push_str("; its backends are all on other nodes"),
            0 => says.push_str("; it has no ready backend"),
            count => {
                let _ = write!(says, "; {} to pick from", places(count));
            }
        }
        if flags & Service::SCOPED != 0 {
            says.push_str("; tells clients within the cluster from others (externalTrafficPolicy: Local)");
        }
        says
    }

    fn pod(&self, at: SocketAddr) -> Option<String> {
        self.names.pods.get(&at).cloned()
    }

    fn picked(&self, step: &Step) -> TracedStep {
        let set = BackendSet(step.words[0]);
        let members = self.names.sets.get(&set).map(Vec::as_slice).unwrap_or_default();
        let port = self.target_port();
        let chosen = members.get(step.number as usize).copied();
        let mut choices: Vec<Choice> = Vec::new();
        for member in members {
            let at = SocketAddr::new(member.address, if member.port == 0 { port } else { member.port });
            let is_picked = chosen.is_some_and(|chosen| (chosen.address, chosen.port) == (member.address, member.port));
            match choices.iter_mut().find(|choice| (choice.address, choice.port) == (at.ip(), at.port())) {
                Some(choice) => choice.places += 1,
                None => choices.push(Choice {
                    address: at.ip(),
                    port: at.port(),
                    pod: self.pod(at),
                    places: 1,
                    odds: 0.0,
                    picked: is_picked,
                }),
            }
        }
        for choice in &mut choices {
            choice.odds = f64::from(choice.places) / members.len().max(1) as f64;
        }
        let how = match step.detail {
            Step::KEPT => "kept: what the client had last",
            Step::BY_CLIENT => "by the hash of the client, who is to keep it",
            _ => "by the hash of the connection",
        };
        let says = match set.count() {
            0 => "there is nothing to pick from".to_owned(),
            count => format!("place {} of {count}, {how}", step.number + 1),
        };
        TracedStep { step: "pick".to_owned(), says, choices }
    }

    /// The port of the service record that counted last, in host order.
    fn target_port(&self) -> u16 {
        let mut steps = self.met.iter().flat_map(|met| &met.traced.steps);
        let records = [StepKind::Service as u8, StepKind::Policy as u8];
        let last = steps.rfind(|step| records.contains(&step.kind));
        last.map_or(0, |step| u16::from_be(step.words[3] as u16))
    }

    fn picked_backend(&self, step: &Step) -> String {
        let bytes: Vec<u8> = step.words[..2].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let address = match (step.family, bytes.first_chunk::<4>(), bytes.first_chunk::<16>()) {
            (4, Some(four), _) => IpAddr::from(*four),
            (_, _, Some(six)) => IpAddr::from(*six),
            _ => return "unknown".to_owned(),
        };
        let at = SocketAddr::new(address, u16::from_be(step.words[2] as u16));
        let pod = self.pod(at).map(|pod| format!(", {pod}")).unwrap_or_default();
        let place = if step.flags as u16 & Backend::LOCAL != 0 { "on this node" } else { "on another node" };
        format!("{at}{pod}, {place}")
    }

    fn next_hop(&self, step: &Step) -> String {
        let reason = reason_of(step);
        if reason.is_drop() {
            return format!("none: {}", reason.name());
        }
        let flags = step.flags as u16;
        if flags & NextHop::LOCAL != 0 {
            return "a socket of this node".to_owned();
        }
        if flags & NextHop::STACK != 0 {
            return "the host's stack, which routes it".to_owned();
        }
        let mut macs = step.words[0].to_le_bytes().to_vec();
        macs.truncate(6);
        let mac: Vec<String> = macs.iter().map(|byte| format!("{byte:02x}")).collect();
        let to = if macs.iter().all(|byte| *byte == 0) {
            "a neighbour that the kernel has yet to resolve".to_owned()
        } else {
            mac.join(":")
        };
        let pair = if flags & NextHop::PAIR != 0 { ", the node's veth pair" } else { "" };
        format!("{}{pair}, to {to}, MTU {}", self.interface(step.number), step.more)
    }

    fn verdict(&self, step: &Step) -> String {
        let reason = reason_of(step);
        let what = match step.detail {
            Step::DROP => "dropped".to_owned(),
            Step::SEND | Step::SEND_TO_NEIGHBOUR if reason.is_drop() => {
                format!("answered, by {}", self.interface(step.number))
            }
            Step::SEND | Step::SEND_TO_NEIGHBOUR => format!("sent by {}", self.interface(step.number)),
            Step::SEND_TO_PEER => format!("handed to the pod's end of {}", self.interface(step.number)),
            Step::DEFER => return "left untouched to TCX ingress, which finishes what XDP cannot".to_owned(),
            _ if reason == Reason::NotOurs => "left as it came".to_owned(),
            _ => "handed to the host".to_owned(),
        };
        format!("{what}: {}", reason.name())
    }
}

fn parsed(step: &Step) -> String {
    let tuple = Tuple::of(step);
    let mut says = format!("{} {}", protocol_name(tuple.protocol), tuple.text());
    let flags = step.flags & 0xff;
    if tuple.protocol == TCP && flags != 0 {
        let _ = write!(says, ", {}", tcp_flags(flags));
    }
    let _ = write!(says, ", TTL {}, {} bytes", step.detail, step.number);
    let piece = step.flags >> Step::PIECE_SHIFT;
    match piece {
        0 => {}
        1 => says.push_str(", the first fragment"),
        _ => says.push_str(", a later fragment"),
    }
    says
}

const fn passed_over(detail: u8) -> &'static str {
    match detail {
        Step::OTHER_HOOK => "packets of this direction are translated at another hook",
        Step::STRAYS => "the frame is for another host",
        Step::EXPIRED => "its entry has expired",
        _ => "it is chosen anew: a new connection, or a backend that is gone",
    }
}

const fn owned(step: &Step) -> &'static str {
    match (step.detail, Owned(step.number)) {
        (0, _) => "is no address of a Service or of this node",
        (_, Owned::NODE) => "is an address of this node: node ports",
        (_, Owned::SILENT) => "is an address of this node that serves no node ports",
        _ => "is an address of a Service",
    }
}

fn no_service(step: &Step) -> String {
    let [_, _, _, _, high, low, protocol, _] = step.words[0].to_ne_bytes();
    format!("none has port {}/{} there", u16::from_be_bytes([high, low]), protocol_name(protocol))
}

fn client(step: &Step) -> String {
    if step.detail != 0 {
        return "no client can have this source address".to_owned();
    }
    let is = |flag| step.flags & flag != 0;
    let who = if is(Scratch::<[u8; 4]>::NODE) {
        "a process of this node"
    } else if is(Scratch::<[u8; 4]>::HOST) {
        "comes by the node's veth pair"
    } else if is(Scratch::<[u8; 4]>::KEEPS_ADDRESS) {
        "on this node"
    } else {
        "from outside of this node"
    };
    who.to_owned()
}

const fn source_range(step: &Step) -> &'static str {
    if step.detail == 1 {
        "the client is in loadBalancerSourceRanges"
    } else {
        "the client is in none of loadBalancerSourceRanges"
    }
}

fn policy(step: &Step) -> String {
    let count = places(BackendSet(step.words[1]).count());
    if step.detail == 1 {
        format!("for clients within the cluster: backends of every node, {count}")
    } else {
        format!("for clients from outside: backends of this node alone, {count}")
    }
}

fn places(count: u32) -> String {
    if count == 1 { "1 place".to_owned() } else { format!("{count} places") }
}

/// The tuple before and after.
fn rewritten(met: &Met, step: &Step) -> String {
    let parsed = met.traced.steps.iter().find(|step| step.kind == StepKind::Parsed as u8);
    let after = Tuple::of(step).text();
    // An ICMP error is rewritten with what it is about, which its own headers do not tell.
    parsed.map_or_else(|| format!("to {after}"), |parsed| format!("{} becomes {after}", Tuple::of(parsed).text()))
}

fn affinity(step: &Step) -> String {
    if step.number == Affinity::NO_PLACE {
        "the client has no backend yet that it would keep".to_owned()
    } else {
        format!("the client keeps its backend, member {}", step.number + 1)
    }
}

fn source(step: &Step) -> String {
    let from = Tuple::of(step).from;
    if step.detail == 1 {
        format!("translated to {from}, so that replies come back through this node")
    } else {
        format!("the backend sees {from}")
    }
}

fn about(step: &Step) -> String {
    let tuple = Tuple::of(step);
    let known = if step.detail == 1 { "about a flow that is known" } else { "about no flow that is known" };
    format!("an error {known}: {} {}", protocol_name(tuple.protocol), tuple.text())
}

fn answered(step: &Step) -> String {
    match step.detail {
        Step::ECHO => "an echo reply is made".to_owned(),
        Step::RESET => "a TCP reset is made".to_owned(),
        _ => format!("an ICMP error is made, type {} code {}", step.flags >> 8, step.flags & 0xff),
    }
}

fn write(step: &Step) -> String {
    match step.detail {
        Step::INSERT => format!("would enter {} among the flows", Tuple::of(step).text()),
        Step::DELETE => format!("would delete {} among the flows", Tuple::of(step).text()),
        Step::AFFINITY => "would note that the client has this backend".to_owned(),
        _ => "would note the ports for the fragments that follow".to_owned(),
    }
}
