//! Which interfaces are managed: those that exist and that a pattern means, no other.
//!
//! An interface that comes is attached, one that is no longer meant is detached, one that refuses is tried again when
//! it changes and every now and then. What the kernel holds is asked of [`Hooks`], never remembered twice.

use super::options::ToPods;
use super::pattern::{self, InterfaceSpec};
use crate::api::{InterfaceStatus, Problem};
use crate::datapath::test_run::HookPoint;
use crate::datapath::{
    AttachError, Attachment, Datapath, Error, Mode, PeerTarget, Ring, Role, Settled, XdpState, XdpTarget,
};
use crate::host::{HostView, Interface};
use lb_common::Device;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// How long a refusal counts while the interface does not change.
const RETRY: Duration = Duration::from_secs(30);

/// What attaches programs to interfaces.
pub(super) trait Hooks {
    /// Takes an interface under management, or changes its mode.
    fn attach(&mut self, interface: &Interface, mode: Mode) -> Result<Attachment, AttachError>;
    /// Takes an interface out of management; whether anything was attached.
    fn detach(&mut self, ifindex: u32) -> Result<bool, Error>;
    /// The managed interfaces.
    fn attachments(&self) -> Vec<&Attachment>;
    /// Looks again at what is managed; whether anything changed.
    fn refresh(&mut self, view: &HostView) -> bool;
    /// Translates what processes in a cgroup ask for at their sockets.
    fn serve_sockets(&mut self, cgroup: &Path) -> Result<(), Error>;
    /// The cgroup whose processes are served.
    fn sockets(&self) -> Option<&Path>;
    /// Ends the take-over from an earlier daemon.
    fn settle(&mut self) -> Result<Settled, Error>;
    /// Puts programs that copy packets on every hook.
    fn capture(&mut self) -> Result<Ring, Error>;
    /// Puts those back that do not.
    fn end_capture(&mut self) -> Result<(), Error>;
    /// The tags of the programs that are on hooks, as far as the kernel tells.
    fn tags(&self) -> BTreeMap<(u32, HookPoint), u64> {
        BTreeMap::new()
    }
}

impl Hooks for Datapath {
    fn attach(&mut self, interface: &Interface, mode: Mode) -> Result<Attachment, AttachError> {
        self.attach(interface, mode)
    }

    fn detach(&mut self, ifindex: u32) -> Result<bool, Error> {
        self.detach(ifindex)
    }

    fn attachments(&self) -> Vec<&Attachment> {
        self.attachments().collect()
    }

    fn refresh(&mut self, view: &HostView) -> bool {
        self.refresh(view)
    }

    fn serve_sockets(&mut self, cgroup: &Path) -> Result<(), Error> {
        self.serve_sockets(cgroup)
    }

    fn sockets(&self) -> Option<&Path> {
        self.sockets()
    }

    fn settle(&mut self) -> Result<Settled, Error> {
        self.settle()
    }

    fn capture(&mut self) -> Result<Ring, Error> {
        self.capture()
    }

    fn end_capture(&mut self) -> Result<(), Error> {
        self.end_capture()
    }

    fn tags(&self) -> BTreeMap<(u32, HookPoint), u64> {
        self.tags()
    }
}

/// An interface that refused.
#[derive(Debug)]
struct Refused {
    interface: Interface,
    mode: Mode,
    message: String,
    when: Instant,
}

/// The patterns, and the interfaces that refused.
#[derive(Debug)]
pub(super) struct Interfaces {
    specs: Vec<InterfaceSpec>,
    refused: BTreeMap<u32, Refused>,
    /// The ends of the daemon's own pair: the inner one is left alone and the outer one managed, whatever the patterns say.
    pair: Option<(u32, u32)>,
    /// The network, the patterns or the clock gave a reason to look.
    is_due: bool,
}

impl Interfaces {
    /// Nothing attached yet.
    pub(super) fn new(specs: Vec<InterfaceSpec>) -> Self {
        Self { specs, refused: BTreeMap::new(), pair: None, is_due: true }
    }

    /// Other patterns count from now on.
    pub(super) fn set_specs(&mut self, specs: Vec<InterfaceSpec>) {
        self.specs = specs;
        self.refused.clear();
        self.is_due = true;
    }

    /// The next [`Interfaces::update`] looks at everything.
    pub(super) fn look_again(&mut self) {
        self.is_due = true;
    }

    /// The daemon's own pair is this one.
    pub(super) fn set_pair(&mut self, pair: Option<(u32, u32)>) {
        self.is_due |= self.pair != pair;
        self.pair = pair;
    }

    /// The mode that is wanted on an interface.
    fn wanted(&self, interface: &Interface) -> Option<Mode> {
        match self.pair {
            Some((inner, _)) if inner == interface.index => None,
            Some((_, outer)) if outer == interface.index => Some(Mode::Tcx),
            _ if interface.loopback => None,
            _ => pattern::mode_for(&self.specs, &interface.name),
        }
    }

    /// Attaches what is to be attached and detaches what is not, if there was a reason to look. Says whether anything
    /// changed.
    pub(super) fn update(&mut self, hooks: &mut dyn Hooks, host: &HostView, now: Instant) -> bool {
        if !std::mem::take(&mut self.is_due) {
            return false;
        }
        for attachment in hooks.attachments() {
            if !host.interfaces.contains_key(&attachment.ifindex) {
                info!(interface = attachment.name, ifindex = attachment.ifindex, "the interface is gone");
            }
        }
        let mut changed = hooks.refresh(host);
        self.refused.retain(|index, _| host.interfaces.contains_key(index));
        let managed: BTreeMap<u32, Mode> =
            hooks.attachments().iter().map(|attachment| (attachment.ifindex, attachment.mode)).collect();
        for interface in host.interfaces.values() {
            let index = interface.index;
            let Some(mode) = self.wanted(interface) else {
                self.refused.remove(&index);
                if managed.contains_key(&index) {
                    changed |= detach(hooks, interface);
                }
                continue;
            };
            let too_early = self.refused.get(&index).is_some_and(|refused| {
                refused.interface == *interface && refused.mode == mode && now < refused.when + RETRY
            });
            if managed.get(&index) == Some(&mode) || too_early {
                continue;
            }
            changed = true;
            match hooks.attach(interface, mode) {
                Ok(attachment) => {
                    self.refused.remove(&index);
                    log_attached(&attachment, &self.line(&attachment));
                }
                Err(refusal) => {
                    let message = refusal.to_string();
                    let known = self.refused.get(&index).is_some_and(|refused| refused.message == message);
                    if !known {
                        error!(interface = interface.name, %mode, "not attached: {message}");
                    }
                    self.refused.insert(index, Refused { interface: interface.clone(), mode, message, when: now });
                }
            }
        }
        changed
    }

    /// When to try again what refused.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.refused.values().map(|refused| refused.when + RETRY).min()
    }

    /// Whether every interface that exists and is meant is attached.
    pub(super) fn all_attached(&self) -> bool {
        self.refused.is_empty()
    }

    /// A line for each interface that is managed, refused or waited for.
    pub(super) fn status(&self, hooks: &dyn Hooks, host: &HostView) -> Vec<InterfaceStatus> {
        let mut lines: Vec<InterfaceStatus> =
            hooks.attachments().into_iter().map(|attachment| self.line(attachment)).collect();
        lines.extend(self.refused.iter().map(|(index, refused)| InterfaceStatus {
            name: refused.interface.name.clone(),
            index: *index,
            wanted: refused.mode.to_string(),
            note: refused.message.clone(),
            ..InterfaceStatus::default()
        }));
        lines.sort_by_key(|line| line.index);
        let is_matched = |spec: &InterfaceSpec| {
            host.interfaces.values().any(|interface| !interface.loopback && spec.pattern.matches(&interface.name))
        };
        lines.extend(self.specs.iter().filter(|spec| !is_matched(spec)).map(|spec| InterfaceStatus {
            name: spec.pattern.to_string(),
            wanted: spec.mode.to_string(),
            note: match spec.pattern.as_name() {
                Some(_) => "waiting: there is no such interface yet".to_owned(),
                None => "waiting: no interface matches yet".to_owned(),
            },
            ..InterfaceStatus::default()
        }));
        lines
    }

    /// The line of a managed interface.
    fn line(&self, attachment: &Attachment) -> InterfaceStatus {
        let mut line = attached_line(attachment);
        if self.pair.is_some_and(|(_, outer)| outer == attachment.ifindex) {
            "host".clone_into(&mut line.role);
            "the daemon's own: processes of this node come in by it".clone_into(&mut line.note);
        }
        line
    }

    /// What an operator should look at.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let problem = |refused: &Refused| Problem {
            subject: format!("interface {}", refused.interface.name),
            message: refused.message.clone(),
        };
        self.refused.values().map(problem).collect()
    }
}

fn detach(hooks: &mut dyn Hooks, interface: &Interface) -> bool {
    match hooks.detach(interface.index) {
        Ok(_) => info!(interface = interface.name, "detached: it is no longer named"),
        Err(error) => warn!(interface = interface.name, %error, "could not be detached"),
    }
    true
}

fn log_attached(attachment: &Attachment, line: &InterfaceStatus) {
    let hooks = hooks_of(attachment).join(",");
    info!(
        interface = attachment.name,
        ifindex = attachment.ifindex,
        wanted = %attachment.mode,
        attached = hooks,
        role = line.role,
        adopted = attachment.adopted,
        note = line.note,
        "interface attached"
    );
}

fn hooks_of(attachment: &Attachment) -> Vec<String> {
    let xdp = match attachment.xdp {
        XdpState::Native => Some("xdp"),
        XdpState::Generic { .. } => Some("xdp-generic"),
        XdpState::Off { .. } => None,
    };
    let tcx: &[&str] = match (attachment.tcx, attachment.clsact) {
        (false, _) => &[],
        (true, false) => &["tcx-ingress", "tcx-egress"],
        (true, true) => &["clsact-ingress", "clsact-egress"],
    };
    xdp.iter().chain(tcx).map(|hook| (*hook).to_owned()).collect()
}

fn attached_line(attachment: &Attachment) -> InterfaceStatus {
    let mut notes = Vec::new();
    match (&attachment.xdp, attachment.xdp.why()) {
        (_, "") => {}
        (XdpState::Generic { .. }, why) => notes.push(format!("not native XDP: {why}")),
        (_, why) => notes.push(format!("no XDP: {why}")),
    }
    if let XdpTarget::No { why, remedy } = &attachment.target {
        let remedy = remedy.as_ref().map_or_else(String::new, |remedy| format!(" ({remedy})"));
        notes.push(format!("XDP cannot send to it: {why}{remedy}"));
    }
    if let PeerTarget::No { why } = &attachment.peer
        && !why.is_empty()
    {
        notes.push(format!("packets are not handed straight to the pod: {why}"));
    }
    notes.extend(attachment.notes.iter().cloned());
    InterfaceStatus {
        name: attachment.name.clone(),
        index: attachment.ifindex,
        wanted: attachment.mode.to_string(),
        attached: hooks_of(attachment),
        note: notes.join("; "),
        role: match attachment.role {
            Role::Wire => "wire".to_owned(),
            Role::LocalClients => "local".to_owned(),
        },
    }
}

/// What the datapath is told of the managed interfaces.
pub(super) fn devices<'a>(
    attachments: impl IntoIterator<Item = &'a Attachment>,
    to_pods: ToPods,
) -> BTreeMap<u32, Device> {
    let unwanted = if to_pods == ToPods::Peer { 0 } else { Device::PEER };
    let device = |attachment: &Attachment| {
        let device = attachment.device();
        (attachment.ifindex, Device { flags: device.flags & !unwanted, ..device })
    };
    attachments.into_iter().map(device).collect()
}
