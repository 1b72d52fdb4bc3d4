//! Traffic control over netlink (`RTM_*QDISC`, `RTM_*TFILTER`): clsact qdiscs, and the filters on them.

use super::netlink::{Connection, Message, Refused, Request, attributes, text, u32_at};
use std::collections::BTreeMap;

/// `RTM_GETQDISC`, `RTM_GETTFILTER`
const GET_QDISC: u16 = 38;
const GET_FILTER: u16 = 46;
/// `TCA_KIND`, `TCA_OPTIONS`; `TCA_BPF_NAME`
pub(crate) const KIND: u16 = 1;
pub(crate) const OPTIONS: u16 = 2;
pub(crate) const BPF_NAME: u16 = 7;
/// `struct tcmsg`
const HEADER: usize = 20;
/// The two hooks of a clsact qdisc.
pub(crate) const INGRESS: u32 = 0xffff_fff2;
pub(crate) const EGRESS: u32 = 0xffff_fff3;

/// A `struct tcmsg`.
pub(crate) fn header(ifindex: u32, handle: u32, parent: u32, info: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header[16..20].copy_from_slice(&info.to_ne_bytes());
    header
}

/// An attribute of a qdisc or filter.
pub(crate) fn attribute(message: &Message, wanted: u16) -> Option<&[u8]> {
    let found = attributes(message.payload.get(HEADER..)?).find(|(kind, _)| *kind == wanted);
    found.map(|(_, value)| value)
}

/// The name of a filter that is a BPF program.
pub(crate) fn program_name(filter: &Message) -> Option<String> {
    let options = attribute(filter, KIND).filter(|kind| text(kind) == "bpf").and(attribute(filter, OPTIONS))?;
    attributes(options).find(|(kind, _)| *kind == BPF_NAME).map(|(_, name)| text(name))
}

/// The interfaces that have a clsact qdisc, in the namespace of the connection.
pub(crate) fn clsact(connection: &mut Connection) -> Result<Vec<u32>, Refused> {
    let qdiscs = connection.dump(|| Request::new(GET_QDISC, &[0; HEADER]))?;
    let is_clsact = |message: &&Message| attribute(message, KIND).is_some_and(|kind| text(kind) == "clsact");
    Ok(qdiscs.iter().filter(is_clsact).filter_map(|message| u32_at(&message.payload, 4)).collect())
}

/// Everybody's filters on one of the two hooks. The kernel lists a chain's head, too, which has no options.
pub(crate) fn filters(connection: &mut Connection, ifindex: u32, parent: u32) -> Result<Vec<Message>, Refused> {
    let answers = connection.dump(|| Request::new(GET_FILTER, &header(ifindex, 0, parent, 0)));
    let answers = match answers {
        Err(refused) if refused.error.raw_os_error() == Some(libc::ENODEV) => Vec::new(),
        other => other?,
    };
    Ok(answers.into_iter().filter(|message| attribute(message, OPTIONS).is_some()).collect())
}

/// What filters there are on what interfaces send, anybody's: programs by their names, others by their kinds.
pub(super) fn egress_filters(connection: &mut Connection) -> Result<BTreeMap<u32, Vec<String>>, Refused> {
    let interfaces = match clsact(connection) {
        // A kernel without traffic control.
        Err(refused) if refused.error.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
        other => other?,
    };
    let mut found = BTreeMap::new();
    for ifindex in interfaces {
        // An interface that has gone in the meantime has none.
        let filters = match filters(connection, ifindex, EGRESS) {
            Err(refused) if refused.error.raw_os_error() == Some(libc::EINVAL) => Vec::new(),
            other => other?,
        };
        let kind = |filter| attribute(filter, KIND).map(text).unwrap_or_default();
        let names = filters.iter().map(|filter| program_name(filter).unwrap_or_else(|| kind(filter)));
        found.insert(ifindex, names.collect());
    }
    Ok(found)
}
