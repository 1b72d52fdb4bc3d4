//! The hooks that a packet meets, in their order: XDP where it is attached and then TCX ingress of the interface that it comes in
//! by, and TCX egress of the one that it leaves by, unless XDP has sent it.

use super::{Error, packet};
use crate::api::trace::TraceRequest;
use crate::datapath::test_run::{Action, HookPoint, Ran};
use crate::datapath::tracer::{Traced, Tracer};
use crate::datapath::{Attachment, XdpState};
use crate::host::{self, HostView, Route};
use lb_common::trace::{Step, StepKind};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// The node, as far as a packet meets it.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// Its network.
    pub host: Arc<HostView>,
    /// The managed interfaces.
    pub attachments: Vec<Attachment>,
    /// Tags of the programs that are on their hooks, as far as the kernel tells.
    pub tags: BTreeMap<(u32, HookPoint), u64>,
    /// The outer end of the node's veth pair.
    pub pair: Option<u32>,
    /// The cgroup whose sockets are served.
    pub sockets: Option<PathBuf>,
}

/// A hook that the packet met.
#[derive(Clone, Debug)]
pub struct Met {
    /// The hook.
    pub point: HookPoint,
    /// The interface.
    pub ifindex: u32,
    /// What it made of the packet.
    pub traced: Traced,
}

impl Met {
    /// The step that ends it.
    pub fn verdict(&self) -> Option<&Step> {
        self.traced.steps.iter().rfind(|step| step.kind == StepKind::Verdict as u8)
    }
}

/// Where a walk begins.
#[derive(Clone, Debug)]
pub struct Start {
    /// The interface that the packet comes in by.
    pub ifindex: u32,
    /// The frame.
    pub frame: Vec<u8>,
    /// What to know of it.
    pub notes: Vec<String>,
}

impl Scene {
    fn name(&self, ifindex: u32) -> String {
        let interface = self.host.interfaces.get(&ifindex);
        interface.map_or_else(|| format!("interface {ifindex}"), |interface| interface.name.clone())
    }

    fn attachment(&self, ifindex: u32) -> Option<&Attachment> {
        self.attachments.iter().find(|attachment| attachment.ifindex == ifindex)
    }

    fn managed(&self) -> String {
        let names: Vec<&str> = self.attachments.iter().map(|attachment| attachment.name.as_str()).collect();
        if names.is_empty() { "none is managed".to_owned() } else { format!("managed are {}", names.join(", ")) }
    }

    /// The interface that a packet comes in by, and the packet. Run in the node's network namespace.
    pub fn start(
        &self,
        request: &TraceRequest,
        route_to: impl Fn(IpAddr) -> Result<Option<Route>, host::Error>,
    ) -> Result<Start, Error> {
        let from = request.from.ip();
        let mut notes = Vec::new();
        let ifindex = match &request.interface {
            Some(name) => {
                let found = self.host.interface(name);
                found.ok_or_else(|| Error::Request(format!("there is no interface {name} on this node")))?.index
            }
            None => match route_to(from)? {
                Some(route) if route.local => {
                    let to = request.to.ip();
                    if route_to(to)?.is_some_and(|route| route.local) {
                        return Err(Error::Request(format!(
                            "{from} and {to} are both addresses of the node itself: packets between them never leave by an interface, so \
                             that no program meets them. Processes in the cgroup of --socket-lb are served at their sockets; others reach the \
                             Service by its ClusterIP. For a packet that comes in from outside, name an interface with --interface"
                        )));
                    }
                    notes.push(format!("{from} is the node's own address: the packet goes by the node's veth pair"));
                    self.pair.ok_or_else(|| {
                        Error::Request(format!(
                            "{from} is an address of the node itself, whose packets meet no hook without the veth pair \
                             (--host-clients): name an interface with --interface"
                        ))
                    })?
                }
                Some(route) => route.ifindex,
                None => {
                    let message = format!(
                        "the node has no route to {from}: name the interface that the packet comes in by with --interface"
                    );
                    return Err(Error::Request(message));
                }
            },
        };
        let Some(attachment) = self.attachment(ifindex) else {
            return Err(Error::Request(format!(
                "packets of {from} come in by {}, which is not managed, so that no program meets them ({}); manage it, or name \
                 another with --interface",
                self.name(ifindex),
                self.managed()
            )));
        };
        if let Some(cgroup) = &self.sockets {
            notes.push(format!(
                "sockets of processes in {} are served: what they ask for is decided there before there is a packet, which a trace \
                 does not show",
                cgroup.display()
            ));
        }
        let mac = self.host.interfaces.get(&ifindex).and_then(|interface| interface.mac);
        let frame = packet::frame(request, attachment.own_mac.or(mac).unwrap_or_default())?;
        Ok(Start { ifindex, frame, notes })
    }
}

/// Sends a frame on its way, hook after hook. Run in the node's network namespace.
pub fn walk(
    tracer: &mut Tracer,
    scene: &Scene,
    start: &Start,
    route_to: impl Fn(IpAddr) -> Result<Option<Route>, host::Error>,
) -> Result<Vec<Met>, Error> {
    tracer.forget()?;
    let mut met = Vec::new();
    let mut frame = start.frame.clone();
    for point in scene.entry(start.ifindex) {
        let ran = meet(tracer, scene, &mut met, point, start.ifindex, &frame)?;
        match ran.action(point) {
            Action::Pass => frame = ran.frame,
            Action::Send if point == HookPoint::Ingress => {
                let by = met.last().and_then(Met::verdict).map(|verdict| verdict.number);
                return leave(tracer, scene, met, by, &ran.frame);
            }
            _ => return Ok(met),
        }
    }
    // The host's now: it takes it, or routes it.
    let by = match destination(&frame).map(route_to).transpose()?.flatten() {
        Some(route) if !route.local => Some(route.ifindex),
        _ => None,
    };
    leave(tracer, scene, met, by, &frame)
}

fn leave(
    tracer: &mut Tracer,
    scene: &Scene,
    mut met: Vec<Met>,
    by: Option<u32>,
    frame: &[u8],
) -> Result<Vec<Met>, Error> {
    if let Some(ifindex) = by.filter(|ifindex| scene.attachment(*ifindex).is_some_and(|attachment| attachment.tcx)) {
        meet(tracer, scene, &mut met, HookPoint::Egress, ifindex, frame)?;
    }
    Ok(met)
}

fn meet(
    tracer: &mut Tracer,
    scene: &Scene,
    met: &mut Vec<Met>,
    point: HookPoint,
    ifindex: u32,
    frame: &[u8],
) -> Result<Ran, Error> {
    let found = tracer.tag(point)?;
    if let Some(attached) = scene.tags.get(&(ifindex, point)).copied().filter(|attached| *attached != found) {
        return Err(Error::OtherProgram { hook: point.name(), interface: scene.name(ifindex), found, attached });
    }
    let outcome = tracer.run(point, ifindex, frame)?;
    let ran = outcome.ran.clone();
    met.push(Met { point, ifindex, traced: outcome });
    Ok(ran)
}

impl Scene {
    /// The hooks that a packet meets where it comes in.
    fn entry(&self, ifindex: u32) -> Vec<HookPoint> {
        let attachment = self.attachment(ifindex);
        let has_xdp = attachment.is_some_and(|attachment| !matches!(attachment.xdp, XdpState::Off { .. }));
        let has_tcx = attachment.is_some_and(|attachment| attachment.tcx);
        has_xdp.then_some(HookPoint::Xdp).into_iter().chain(has_tcx.then_some(HookPoint::Ingress)).collect()
    }
}

/// Where the packet in a frame goes.
fn destination(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(30..34)?).ok()?)),
        [0x86, 0xdd] => Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(38..54)?).ok()?)),
        _ => None,
    }
}
