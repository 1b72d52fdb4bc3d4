//! TC filters on a clsact qdisc: the place of TCX before Linux 6.6, for the same programs.
//!
//! A filter needs no pin: it stays until it is removed, and a new daemon finds it by its name, which says whose it is. A
//! program is replaced in its filter, with no packet between. Other people's filters are neither moved nor removed; ours
//! stands before those of a higher preference, and leaves to them what it does not decide.

use super::bpf::Hook;
use crate::host::netlink::{Connection, Message, Refused, Request, push_attribute, u32_at};
use crate::host::traffic_control::{BPF_NAME, EGRESS, INGRESS, KIND, OPTIONS, clsact, filters, header, program_name};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `RTM_NEWQDISC`, `RTM_DELQDISC`, `RTM_NEWTFILTER`, `RTM_DELTFILTER`
const NEW_QDISC: u16 = 36;
const DELETE_QDISC: u16 = 37;
const NEW_FILTER: u16 = 44;
const DELETE_FILTER: u16 = 45;
/// `NLM_F_EXCL`, `NLM_F_CREATE`, `NLA_F_NESTED`
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const NESTED: u16 = 0x8000;
/// `TCA_BPF_FD`, `TCA_BPF_FLAGS`
const BPF_FD: u16 = 6;
const BPF_FLAGS: u16 = 8;
/// `TCA_BPF_FLAG_ACT_DIRECT`: what the program returns is the verdict.
const DIRECT_ACTION: u32 = 1;
/// `TC_H_CLSACT`, and the handle `ffff:`.
const CLSACT: u32 = 0xffff_fff1;
const QDISC: u32 = 0xffff_0000;
/// `ETH_P_ALL`
const ALL_PROTOCOLS: u16 = 3;
/// The first preferences are tried one after the other: one may be taken by filters of another kind.
const PREFERENCES: std::ops::RangeInclusive<u32> = 1..=8;

/// One filter of ours.
#[derive(Clone, Copy, Debug)]
struct Filter {
    handle: u32,
    /// Preference and protocol, as `tcm_info` has them.
    info: u32,
}

/// What the names of all our filters begin with.
pub(super) const OWNER: &str = "lb-ctl/";

/// The name of this instance's filters.
pub(super) fn owner(instance: &str) -> String {
    format!("{OWNER}{instance}")
}

/// Puts a program on a hook, in place of the one that a filter of this owner holds.
pub(super) fn place(owner: &str, ifindex: u32, hook: Hook, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut connection = Connection::route()?;
    let qdisc = Request::new(NEW_QDISC, &header(ifindex, QDISC, CLSACT, 0)).attribute(KIND, b"clsact\0");
    match connection.change(qdisc, CREATE | EXCLUSIVE) {
        Err(refused) if refused.error.raw_os_error() != Some(libc::EEXIST) => return Err(in_words(refused)),
        _ => {}
    }
    if let Some(Filter { handle, info }) = find(&mut connection, owner, ifindex, hook)? {
        let request = filter(owner, header(ifindex, handle, parent(hook), info), program);
        return connection.change(request, CREATE).map(drop).map_err(in_words);
    }
    let mut outcome = Err(io::ErrorKind::AddrInUse.into());
    for preference in PREFERENCES {
        let info = preference << 16 | u32::from(ALL_PROTOCOLS.to_be());
        let request = filter(owner, header(ifindex, 0, parent(hook), info), program);
        match connection.change(request, CREATE | EXCLUSIVE) {
            Ok(_) => return Ok(()),
            // Of another kind or for another protocol.
            Err(refused) if refused.error.raw_os_error() == Some(libc::EINVAL) => outcome = Err(in_words(refused)),
            Err(refused) => return Err(in_words(refused)),
        }
    }
    outcome
}

/// Takes this owner's filter off a hook, and the qdisc with the last filter of anybody; whether there was one.
pub(super) fn remove(owner: &str, ifindex: u32, hook: Hook) -> io::Result<bool> {
    let mut connection = Connection::route()?;
    let Some(Filter { handle, info }) = find(&mut connection, owner, ifindex, hook)? else { return Ok(false) };
    let request = Request::new(DELETE_FILTER, &header(ifindex, handle, parent(hook), info)).attribute(KIND, b"bpf\0");
    connection.request(request).map_err(in_words)?;
    let mut is_empty = true;
    for parent in [INGRESS, EGRESS] {
        is_empty &= filters(&mut connection, ifindex, parent).map_err(in_words)?.is_empty();
    }
    if is_empty {
        // Somebody may be quicker: then it is theirs.
        let _ = connection.request(Request::new(DELETE_QDISC, &header(ifindex, QDISC, CLSACT, 0)));
    }
    Ok(true)
}

/// The hooks that filters of this owner are on, in the calling thread's namespace.
pub(super) fn scan(owner: &str) -> io::Result<Vec<(u32, Hook)>> {
    let mut connection = Connection::route()?;
    let interfaces = clsact(&mut connection).map_err(in_words)?;
    let mut found = Vec::new();
    for ifindex in interfaces {
        for hook in [Hook::Ingress, Hook::Egress] {
            if find(&mut connection, owner, ifindex, hook)?.is_some() {
                found.push((ifindex, hook));
            }
        }
    }
    Ok(found)
}

fn find(connection: &mut Connection, owner: &str, ifindex: u32, hook: Hook) -> io::Result<Option<Filter>> {
    let filters = filters(connection, ifindex, parent(hook)).map_err(in_words)?;
    let is_ours = |message: &&Message| program_name(message).as_deref() == Some(owner);
    Ok(filters
        .iter()
        .find(is_ours)
        .and_then(|message| Some(Filter { handle: u32_at(&message.payload, 8)?, info: u32_at(&message.payload, 16)? })))
}

fn filter(owner: &str, header: [u8; 20], program: BorrowedFd<'_>) -> Request {
    let mut options = Vec::new();
    push_attribute(&mut options, BPF_FD, &program.as_raw_fd().to_ne_bytes());
    push_attribute(&mut options, BPF_NAME, &[owner.as_bytes(), &[0]].concat());
    push_attribute(&mut options, BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
    Request::new(NEW_FILTER, &header).attribute(KIND, b"bpf\0").attribute(NESTED | OPTIONS, &options)
}

const fn parent(hook: Hook) -> u32 {
    if matches!(hook, Hook::Egress) { EGRESS } else { INGRESS }
}

/// The kernel's words, and its number where it has no words.
fn in_words(refused: Refused) -> io::Error {
    match refused.message {
        Some(_) => io::Error::other(refused.reason()),
        None => refused.error,
    }
}
