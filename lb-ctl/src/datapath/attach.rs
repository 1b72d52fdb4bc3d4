//! Takes an interface under management.
//!
//! TCX comes first: it does everything that XDP does, more slowly, so while XDP is being changed nothing is missed. What
//! fails leaves nothing behind but what was there before.

use super::attachment::{AttachError, Attachment, Mode, Role, XdpState, XdpTarget};
use super::bpf::Hook;
use super::links::{Links, PlaceError, Placed};
use super::programs::Programs;
use super::refusal::{self, Refusal};
use super::{peer, require};
use crate::host::Interface;
use tracing::{info, warn};

/// What is needed to attach.
pub(super) struct Attacher<'a> {
    pub(super) programs: &'a Programs,
    pub(super) links: &'a mut Links,
}

/// A hook refused, or its pin could not be made.
enum Failure {
    Refused(Hook, Refusal),
    Pin(super::Error),
}

impl Attacher<'_> {
    /// Attaches, or replaces what an earlier daemon attached. Whether XDP can send by the interface is left to be judged.
    pub(super) fn attach(&mut self, interface: &Interface, mode: Mode) -> Result<Attachment, AttachError> {
        refuse(interface)?;
        let mut created = Vec::new();
        let result = self.attach_hooks(interface, mode, &mut created);
        result.map_err(|failure| {
            for hook in created {
                if let Err(error) = self.links.remove(interface.index, hook) {
                    warn!(interface = interface.name, %error, "what had been attached could not be removed");
                }
            }
            match failure {
                Failure::Refused(hook, refusal) => AttachError::Refused {
                    interface: interface.name.clone(),
                    mode,
                    hook: hook.to_string(),
                    reason: refusal.reason,
                    remedy: refusal.remedy,
                },
                Failure::Pin(source) => AttachError::Pin { interface: interface.name.clone(), source },
            }
        })
    }

    fn attach_hooks(
        &mut self,
        interface: &Interface,
        mode: Mode,
        created: &mut Vec<Hook>,
    ) -> Result<Attachment, Failure> {
        let mut notes = Vec::new();
        let mut adopted = false;
        let mut tcx = true;
        for hook in [Hook::Ingress, Hook::Egress] {
            match self.place(interface, hook, created) {
                Ok(placed) => adopted |= placed == Placed::Adopted,
                Err(Failure::Refused(hook, refusal)) if has_no_tcx() && wants_xdp(interface, mode) => {
                    tcx = false;
                    notes.push(format!("{hook}: {}; {}", refusal.reason, refusal.remedy));
                }
                Err(failure) => return Err(failure),
            }
        }
        let xdp = match mode {
            Mode::Xdp => self.place(interface, Hook::XdpNative, created).map(|placed| (XdpState::Native, placed))?,
            Mode::XdpGeneric => self
                .place(interface, Hook::XdpGeneric, created)
                .map(|placed| (XdpState::Generic { why: String::new() }, placed))?,
            Mode::Auto if wants_xdp(interface, mode) => self.place_best(interface, tcx, created)?,
            Mode::Auto => (XdpState::Off { why: no_wire(interface) }, Placed::Created),
            Mode::Tcx => (XdpState::Off { why: String::new() }, Placed::Created),
        };
        adopted |= xdp.1 == Placed::Adopted;
        let xdp = xdp.0;
        if matches!(xdp, XdpState::Off { .. }) {
            for hook in [Hook::XdpNative, Hook::XdpGeneric] {
                self.links.remove(interface.index, hook).map_err(Failure::Pin)?;
            }
        }
        if interface.kind == "veth" && matches!(xdp, XdpState::Native) {
            notes.push(
                "a veth's packets come from local senders, which leave checksums to hardware: XDP that sends them on \
                 needs `ethtool -K <peer> tx off` at the other end, unless a wire feeds it"
                    .to_owned(),
            );
        }
        if interface.kind == "bridge" {
            notes.push(format!(
                "packets switched between the ports of {0} are not seen on {0}: name its ports too",
                interface.name
            ));
        }
        Ok(Attachment {
            ifindex: interface.index,
            name: interface.name.clone(),
            mode,
            role: role(interface, mode),
            target: XdpTarget::no("not looked at yet"),
            peer: peer::judge(interface, role(interface, mode)),
            own_mac: own_mac(interface),
            xdp,
            tcx,
            clsact: self.links.has_filter(interface.index, Hook::Ingress),
            adopted,
            notes,
        })
    }

    /// Native XDP, or generic, or none: the best the interface takes.
    fn place_best(
        &mut self,
        interface: &Interface,
        tcx: bool,
        created: &mut Vec<Hook>,
    ) -> Result<(XdpState, Placed), Failure> {
        let native = match self.place(interface, Hook::XdpNative, created) {
            Ok(placed) => return Ok((XdpState::Native, placed)),
            Err(Failure::Refused(_, refusal)) => refusal,
            Err(failure) => return Err(failure),
        };
        warn!(
            interface = interface.name,
            reason = native.reason,
            remedy = native.remedy,
            "native XDP is refused; trying generic XDP"
        );
        match self.place(interface, Hook::XdpGeneric, created) {
            Ok(placed) => Ok((XdpState::Generic { why: native.reason }, placed)),
            Err(Failure::Refused(_, generic)) if tcx => {
                warn!(
                    interface = interface.name,
                    reason = generic.reason,
                    "generic XDP is refused; TCX does the work alone"
                );
                let why = format!("native: {}; generic: {}", native.reason, generic.reason);
                Ok((XdpState::Off { why }, Placed::Created))
            }
            Err(failure) => Err(failure),
        }
    }

    fn place(&mut self, interface: &Interface, hook: Hook, created: &mut Vec<Hook>) -> Result<Placed, Failure> {
        // The two XDP modes exclude each other.
        let other = match hook {
            Hook::XdpNative => Some(Hook::XdpGeneric),
            Hook::XdpGeneric => Some(Hook::XdpNative),
            Hook::Ingress | Hook::Egress => None,
        };
        if let Some(other) = other {
            self.links.remove(interface.index, other).map_err(Failure::Pin)?;
        }
        let program = self.programs.on(hook);
        match self.links.place(interface.index, hook, program) {
            Ok(placed) => {
                if placed == Placed::Created {
                    created.push(hook);
                }
                info!(interface = interface.name, ifindex = interface.index, %hook, ?placed, "program in place");
                Ok(placed)
            }
            Err(PlaceError::Refused(error)) => {
                Err(Failure::Refused(hook, refusal::explain(interface, hook, program, &error)))
            }
            Err(PlaceError::Pin(error)) => Err(Failure::Pin(error)),
        }
    }
}

/// Whether the interface can be managed at all.
fn refuse(interface: &Interface) -> Result<(), AttachError> {
    if interface.loopback || interface.name == "lo" {
        return Err(AttachError::Loopback { interface: interface.name.clone() });
    }
    if !interface.ethernet {
        let kind = match interface.kind.as_str() {
            "" => "this device".to_owned(),
            kind => format!("a device of kind {kind}"),
        };
        return Err(AttachError::NotEthernet { interface: interface.name.clone(), kind });
    }
    Ok(())
}

fn has_no_tcx() -> bool {
    !require::kernel_is_at_least(6, 6)
}

/// What an interface in this mode is at best, were it attached. Whether XDP can send by it is not known then.
pub(super) fn as_if(interface: &Interface, mode: Mode) -> Attachment {
    let xdp = match mode {
        Mode::XdpGeneric => XdpState::Generic { why: String::new() },
        mode if wants_xdp(interface, mode) => XdpState::Native,
        _ => XdpState::Off { why: no_wire(interface) },
    };
    Attachment {
        ifindex: interface.index,
        name: interface.name.clone(),
        mode,
        role: role(interface, mode),
        target: XdpTarget::no("it is not attached"),
        peer: peer::judge(interface, role(interface, mode)),
        own_mac: own_mac(interface),
        xdp,
        tcx: true,
        clsact: false,
        adopted: false,
        notes: Vec::new(),
    }
}

/// Whether XDP belongs on the interface. On a VLAN there is no native XDP, and the tag is off before TCX sees the packet.
pub(crate) fn wants_xdp(interface: &Interface, mode: Mode) -> bool {
    match mode {
        Mode::Auto => interface.wire && interface.kind != "vlan",
        Mode::Xdp | Mode::XdpGeneric => true,
        Mode::Tcx => false,
    }
}

fn no_wire(interface: &Interface) -> String {
    match interface.kind.as_str() {
        "veth" => "a veth's packets come from local senders, which leave checksums to hardware that XDP does not have"
            .to_owned(),
        "" => "no wire feeds it".to_owned(),
        kind => format!("no wire feeds a device of kind {kind}"),
    }
}

/// The MAC that frames for this node carry.
pub(super) fn own_mac(interface: &Interface) -> Option<[u8; 6]> {
    if interface.master.is_some() { None } else { interface.mac }
}

/// Who is behind the interface. Whoever asks for XDP says that it is fed by a wire.
pub(super) fn role(interface: &Interface, mode: Mode) -> Role {
    let leads_away = interface.has_default_route || interface.leads_to_nodes;
    let wire = interface.wire || leads_away || matches!(mode, Mode::Xdp | Mode::XdpGeneric);
    if wire { Role::Wire } else { Role::LocalClients }
}
