//! What a driver says it can do for XDP (netlink family `netdev`, Linux 6.3).
//!
//! For a veth the kernel keeps [`XdpFeatures::NDO_XMIT`] in step with the peer: it is set exactly while the peer polls
//! with NAPI, that is, while GRO is on there or an XDP program is attached.

use super::netlink::{Connection, Message, Refused, Request, attributes, u16_at, u32_at};
use std::collections::BTreeMap;

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_NAME`, `CTRL_ATTR_FAMILY_ID`
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_NAME: u16 = 2;
const FAMILY_ID: u16 = 1;
/// `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_IFINDEX`, `NETDEV_A_DEV_XDP_FEATURES`
const DEVICE_GET: u8 = 1;
const DEVICE_IFINDEX: u16 = 1;
const DEVICE_FEATURES: u16 = 3;
/// `struct genlmsghdr`
const HEADER: usize = 4;

/// `enum netdev_xdp_act`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures(pub u64);

impl XdpFeatures {
    /// Runs XDP programs natively.
    pub const BASIC: u64 = 1;
    /// Takes frames redirected from another interface.
    pub const NDO_XMIT: u64 = 4;
    /// Takes frames in several buffers.
    pub const RX_SG: u64 = 32;

    /// Whether all of `features` are there.
    pub const fn has(self, features: u64) -> bool {
        self.0 & features == features
    }
}

/// What the drivers of this namespace can do, by interface; `None` on a kernel that cannot tell. Asks about one interface
/// or about all.
pub(crate) fn xdp_features(ifindex: Option<u32>) -> Result<Option<BTreeMap<u32, XdpFeatures>>, Refused> {
    let mut connection = Connection::generic()?;
    let request = Request::new(CONTROLLER, &[GET_FAMILY, 1, 0, 0]).attribute(FAMILY_NAME, b"netdev\0");
    let answers = match connection.request(request) {
        Ok(answers) => answers,
        Err(refused) if refused.error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(refused) => return Err(refused),
    };
    let family = answers.first().and_then(|answer| value(answer, FAMILY_ID)).and_then(|value| u16_at(value, 0));
    let Some(family) = family else { return Ok(None) };
    let request = || Request::new(family, &[DEVICE_GET, 1, 0, 0]);
    let answers = match ifindex {
        Some(ifindex) => connection.request(request().attribute(DEVICE_IFINDEX, &ifindex.to_ne_bytes()))?,
        None => connection.dump(request)?,
    };
    let device = |answer: &Message| {
        let ifindex = u32_at(value(answer, DEVICE_IFINDEX)?, 0)?;
        let features = u64::from_ne_bytes(value(answer, DEVICE_FEATURES)?.try_into().ok()?);
        Some((ifindex, XdpFeatures(features)))
    };
    Ok(Some(answers.iter().filter_map(device).collect()))
}

fn value(message: &Message, wanted: u16) -> Option<&[u8]> {
    attributes(message.payload.get(HEADER..)?).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}
