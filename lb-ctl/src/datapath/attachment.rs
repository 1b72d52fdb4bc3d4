//! What is attached to an interface, in which mode, and why not in a better one.

use lb_common::Device;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What the user wants on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// XDP on interfaces fed by a wire, native if possible, generic otherwise; TCX on every interface.
    #[default]
    Auto,
    /// Native XDP or nothing, and TCX.
    Xdp,
    /// Generic XDP, and TCX.
    XdpGeneric,
    /// TCX alone.
    Tcx,
}

impl Mode {
    /// All modes, by name.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Xdp, Self::XdpGeneric, Self::Tcx];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tcx => "tcx",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// How programs come to the TC hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TcMode {
    /// By TCX, or by filters where the kernel has no TCX (before Linux 6.6).
    #[default]
    Auto,
    /// By TCX.
    Tcx,
    /// By filters on a clsact qdisc.
    Clsact,
}

impl TcMode {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// No mode has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no mode: there are auto, xdp, xdp-generic and tcx")]
pub struct UnknownMode(String);

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|mode| mode.name() == name).ok_or_else(|| UnknownMode(name.to_owned()))
    }
}

/// How XDP is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub enum XdpState {
    /// In the driver.
    Native,
    /// In the kernel's receive path.
    Generic {
        /// Why it is not native; empty where generic was asked for.
        why: String,
    },
    /// Not at all.
    Off {
        /// Why not.
        why: String,
    },
}

impl XdpState {
    /// The mode's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic { .. } => "generic",
            Self::Off { .. } => "off",
        }
    }

    /// Why not a better mode; empty where there is none, or where this one was asked for.
    pub fn why(&self) -> &str {
        match self {
            Self::Native => "",
            Self::Generic { why } | Self::Off { why } => why,
        }
    }
}

/// Who is behind an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A wire: clients there may have other ways back than this node.
    Wire,
    /// Clients on this node: replies to them come back through it.
    LocalClients,
}

/// Whether an interface takes frames that XDP redirects to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "takes", rename_all = "kebab-case")]
pub enum XdpTarget {
    /// It does.
    Yes,
    /// It does not: the slower way by TCX is taken.
    No {
        /// Why not.
        why: String,
        /// What would change that, if anything.
        remedy: Option<String>,
    },
}

impl XdpTarget {
    pub(super) fn no(why: impl Into<String>) -> Self {
        Self::No { why: why.into(), remedy: None }
    }
}

/// Whether TCX may hand packets straight to the other end of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "takes", rename_all = "kebab-case")]
pub enum PeerTarget {
    /// It may: that end is a pod's, and nothing at this end is passed by.
    Yes,
    /// It may not.
    No {
        /// What would be passed by; empty where this is no pod's veth at all.
        why: String,
    },
}

impl PeerTarget {
    pub(crate) fn no(why: impl Into<String>) -> Self {
        Self::No { why: why.into() }
    }
}

/// A managed interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Index of the interface.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// What was asked for.
    pub mode: Mode,
    /// What XDP came to.
    pub xdp: XdpState,
    /// Whether TCX ingress and egress are attached, or filters in their place.
    pub tcx: bool,
    /// Whether it is filters on a clsact qdisc.
    pub clsact: bool,
    /// Who is behind it.
    pub role: Role,
    /// Whether XDP can send to it.
    pub target: XdpTarget,
    /// Whether TCX can hand packets to its other end.
    pub peer: PeerTarget,
    /// The MAC that frames for this node carry; none for a member of a bridge or bond, which also gets its master's.
    pub own_mac: Option<[u8; 6]>,
    /// Whether the programs of an earlier daemon were replaced in place.
    pub adopted: bool,
    /// What the operator should know, in sentences.
    pub notes: Vec<String>,
}

impl Attachment {
    /// What the datapath is told of the interface.
    pub fn device(&self) -> Device {
        let target = if self.target == XdpTarget::Yes { Device::XDP_TARGET } else { 0 };
        let local = if self.role == Role::LocalClients { Device::LOCAL_CLIENTS } else { 0 };
        let generic = if matches!(self.xdp, XdpState::Generic { .. }) { Device::XDP_GENERIC } else { 0 };
        let own = if self.own_mac.is_some() { Device::OWN_MAC } else { 0 };
        let xdp = if matches!(self.xdp, XdpState::Off { .. }) { 0 } else { Device::XDP };
        let peer = if self.peer == PeerTarget::Yes { Device::PEER } else { 0 };
        Device { mac: self.own_mac.unwrap_or_default(), ..Device::new(target | local | generic | own | xdp | peer) }
    }
}

/// An interface was not taken under management. Nothing was put on it; what was on it before may still be there.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Loopback.
    #[error(
        "{interface}: the loopback device is never managed; name the interfaces by which clients and pods are reached"
    )]
    Loopback {
        /// Name of the interface.
        interface: String,
    },
    /// Its frames have no Ethernet header.
    #[error(
        "{interface}: {kind} carries packets without an Ethernet header, which lb-ctl cannot read; name the interface \
         below it, or use an Ethernet-like tunnel"
    )]
    NotEthernet {
        /// Name of the interface.
        interface: String,
        /// What it is.
        kind: String,
    },
    /// The kernel refused.
    #[error("{interface}: {hook} (mode {mode}): {reason}; remedy: {remedy}")]
    Refused {
        /// Name of the interface.
        interface: String,
        /// What was asked for.
        mode: Mode,
        /// What was refused.
        hook: String,
        /// The kernel's reason.
        reason: String,
        /// What can be done.
        remedy: String,
    },
    /// What was attached could not be pinned, or what was pinned could not be removed.
    #[error("{interface}: {source}")]
    Pin {
        /// Name of the interface.
        interface: String,
        /// Why.
        source: super::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in Mode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
            assert_eq!(serde_json::to_string(&mode).unwrap(), format!("\"{mode}\""));
        }
        assert!("native".parse::<Mode>().unwrap_err().to_string().contains("xdp-generic"));
    }
}
