//! Whether an interface takes the frames that XDP redirects to it.
//!
//! A driver says so itself since Linux 6.3. For a veth that depends on its peer, in another namespace, which must poll with
//! NAPI; the kernel drops every frame otherwise, without a word to the sender. So a veth is proven with a test frame: its
//! counter of frames taken from XDP must move.

use super::attachment::{XdpState, XdpTarget};
use super::programs::Programs;
use crate::host::{Interface, XdpFeatures, ethtool, xdp_features};
use std::collections::BTreeMap;

/// The test frame: to an address that no bridge forwards (IEEE 802.1Q, table 8-1), of a type for local experiments,
/// and as short as Ethernet allows.
const DESTINATION: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const FRAME: usize = 60;

/// Judges interfaces by one reading of what their drivers say.
pub(super) struct Prober<'a> {
    programs: &'a Programs,
    /// `None`: the kernel cannot tell.
    features: Option<BTreeMap<u32, XdpFeatures>>,
}

impl<'a> Prober<'a> {
    /// For one interface, or for all.
    pub(super) fn new(programs: &'a Programs, ifindex: Option<u32>) -> Self {
        Self { programs, features: xdp_features::xdp_features(ifindex).unwrap_or_default() }
    }

    /// The same judgement on an interface whose XDP has not changed since `known`; a veth that was proven and still
    /// claims to take frames is believed.
    pub(super) fn again(&self, interface: &Interface, xdp: &XdpState, known: &XdpTarget) -> XdpTarget {
        if *known == XdpTarget::Yes && interface.kind == "veth" && interface.up && self.claims(interface) == Some(true)
        {
            return XdpTarget::Yes;
        }
        self.target(interface, xdp)
    }

    /// Whether XDP can send by the interface.
    pub(super) fn target(&self, interface: &Interface, xdp: &XdpState) -> XdpTarget {
        let claims = self.claims(interface);
        match (interface.kind.as_str(), claims) {
            ("bridge", _) => XdpTarget::no("a bridge takes no frames from XDP, its ports do"),
            ("veth", Some(false)) => no_napi(),
            (kind, Some(false)) => XdpTarget::no(match kind {
                "" => "its driver takes no frames from XDP".to_owned(),
                kind => format!("a device of kind {kind} takes no frames from XDP"),
            }),
            _ if !interface.up => XdpTarget::no("it is down"),
            ("veth", claims) => self.prove(interface, claims),
            (_, Some(true)) => XdpTarget::Yes,
            (_, None) if *xdp == XdpState::Native => XdpTarget::Yes,
            (_, None) => XdpTarget::no("this kernel does not tell whether the driver takes frames from XDP"),
        }
    }

    fn claims(&self, interface: &Interface) -> Option<bool> {
        let features = self.features.as_ref()?.get(&interface.index)?;
        Some(features.has(XdpFeatures::NDO_XMIT))
    }

    fn prove(&self, interface: &Interface, claims: Option<bool>) -> XdpTarget {
        let Some(before) = taken(interface) else {
            return match claims {
                Some(true) => XdpTarget::Yes,
                _ => XdpTarget::no("its counters cannot be read, so nothing proves that it takes frames from XDP"),
            };
        };
        let sent = self.programs.probe(&frame(interface));
        match (taken(interface), sent) {
            (Some(after), _) if after > before => XdpTarget::Yes,
            (_, Ok(())) => no_napi(),
            // Test frames need Linux 5.18; newer kernels than that also tell.
            (_, Err(_)) if claims == Some(true) => XdpTarget::Yes,
            (_, Err(error)) => XdpTarget::no(format!("the test frame could not be sent: {error}")),
        }
    }
}

fn no_napi() -> XdpTarget {
    XdpTarget::No {
        why: "its peer does not poll with NAPI, so frames from XDP would vanish".to_owned(),
        remedy: Some("ethtool -K eth0 gro on, in the network namespace of the peer (the pod)".to_owned()),
    }
}

/// Frames that a veth has taken from XDP, over all its queues; `None` if it does not count them.
fn taken(interface: &Interface) -> Option<u64> {
    let counters = ethtool::counters(&interface.name).ok()?;
    let queues = counters.iter().filter(|(name, _)| name.starts_with("tx_queue_") && name.ends_with("_xdp_xmit"));
    queues.map(|(_, count)| *count).reduce(u64::wrapping_add)
}

fn frame(interface: &Interface) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[0..6].copy_from_slice(&DESTINATION);
    frame[6..12].copy_from_slice(&interface.mac.unwrap_or([2, 0, 0, 0, 0, 1]));
    frame[12..14].copy_from_slice(&ETHERTYPE);
    frame[14..18].copy_from_slice(&interface.index.to_le_bytes());
    frame
}
