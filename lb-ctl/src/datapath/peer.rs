//! Whether packets may be handed straight to the other end of an interface, in a pod.
//!
//! What is handed over (`bpf_redirect_peer`) never leaves by this end: neither its queueing discipline nor the filters and programs
//! on what it sends see it. So it is done only where there is nothing that could miss a packet. And the kernel drops what is handed
//! to an end in the same network namespace.

use super::attachment::{PeerTarget, Role};
use super::bpf::Hook;
use super::filters::OWNER;
use super::refusal::others_on;
use crate::host::Interface;

/// The queueing discipline that a veth has while nobody gives it another.
const NO_QUEUE: &str = "noqueue";

/// Whether TCX may hand packets to the other end of the interface.
pub(super) fn judge(interface: &Interface, role: Role) -> PeerTarget {
    // A wire that is a veth leads to a switch, where a frame's MAC must be right: there the kernel is to look after its neighbours.
    if !interface.ends_elsewhere || role != Role::LocalClients || !interface.up {
        return PeerTarget::no("");
    }
    if interface.qdisc != NO_QUEUE {
        return PeerTarget::no(format!("its queueing discipline `{}` is to see them", interface.qdisc));
    }
    if let Some(filter) = interface.egress_filters.iter().find(|name| !name.starts_with(OWNER)) {
        return PeerTarget::no(format!("a TC filter on what it sends, `{filter}`, is to see them"));
    }
    match others_on(interface.index, Hook::Egress).first() {
        Some(program) => PeerTarget::no(format!("{program} at its TCX egress is to see them")),
        None => PeerTarget::Yes,
    }
}
