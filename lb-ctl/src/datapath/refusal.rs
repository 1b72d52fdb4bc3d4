//! Why an interface did not take a program, and what to do about it.
//!
//! A BPF link is refused with a bare number. The words behind it go to whoever attaches over netlink, so after a refusal
//! the same is asked there once more, and undone in the unlikely case that it works.

use super::bpf::{self, Hook, program};
use crate::host::Interface;
use crate::host::netlink::{Connection, Refused, Request, attributes, push_attribute, u32_at};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `RTM_SETLINK`, `RTM_GETLINK`, `struct ifinfomsg`, `IFLA_XDP`, `NLA_F_NESTED`
const SET_LINK: u16 = 19;
const GET_LINK: u16 = 18;
const LINK_HEADER: usize = 16;
const IFLA_XDP: u16 = 43;
const NESTED: u16 = 0x8000;
/// `IFLA_XDP_FD`, `IFLA_XDP_FLAGS`, `IFLA_XDP_PROG_ID`, `IFLA_XDP_EXPECTED_FD`
const XDP_FD: u16 = 1;
const XDP_FLAGS: u16 = 3;
const XDP_PROGRAM_ID: u16 = 4;
const XDP_EXPECTED_FD: u16 = 8;
/// `XDP_FLAGS_UPDATE_IF_NOEXIST`, `XDP_FLAGS_REPLACE`
const ONLY_IF_NONE: u32 = 1;
const REPLACE: u32 = 1 << 4;

/// A hook's refusal, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The kernel's reason.
    pub(super) reason: String,
    /// What can be done.
    pub(super) remedy: String,
}

/// Finds out why `hook` of `interface` refused `program` with `error`.
pub(super) fn explain(interface: &Interface, hook: Hook, program: BorrowedFd<'_>, error: &io::Error) -> Refusal {
    let (reason, words) = if hook.is_xdp() {
        let words = xdp_words(interface.index, hook, program).unwrap_or_default();
        let reason = if words.is_empty() { error.to_string() } else { format!("{words} ({error})") };
        (reason, words)
    } else {
        (error.to_string(), String::new())
    };
    let others = occupants(interface.index, hook);
    let reason = match others.as_slice() {
        [] => reason,
        others => format!("{reason}; attached there: {}", others.join(", ")),
    };
    let remedy = remedy(&interface.name, hook, &words, error.raw_os_error(), !others.is_empty());
    Refusal { reason, remedy }
}

/// What would help, as a command where there is one.
fn remedy(name: &str, hook: Hook, words: &str, errno: Option<i32>, occupied: bool) -> String {
    let words = words.to_ascii_lowercase();
    let elsewhere = match hook {
        Hook::XdpNative => format!("use --interface {name}=xdp-generic or {name}=auto"),
        Hook::XdpGeneric => format!("use --interface {name}=tcx"),
        Hook::Ingress | Hook::Egress => "name another interface".to_owned(),
    };
    if hook.is_xdp() && occupied {
        return format!(
            "let the owner of that program remove it (`ip link set dev {name} xdp off` if it was attached so), or use \
             --interface {name}=tcx"
        );
    }
    if words.contains("mtu") {
        return format!("lower the MTU (of both ends of a veth): `ip link set dev {name} mtu 1500`; or {elsewhere}");
    }
    if words.contains("gro_hw") || words.contains("lro") {
        return format!("turn it off: `ethtool -K {name} lro off rx-gro-hw off`; or {elsewhere}");
    }
    if words.contains("queue") || words.contains("channel") || words.contains("ring") {
        return format!(
            "compare `ethtool -l {name}` and `ethtool -g {name}`, and change with -L and -G; or {elsewhere}"
        );
    }
    match errno {
        Some(libc::ENODEV) => "the interface has gone; it is taken up again when it comes back".to_owned(),
        Some(libc::EPERM | libc::EACCES) => "run as root, or with CAP_NET_ADMIN and CAP_BPF".to_owned(),
        Some(libc::EINVAL | libc::EOPNOTSUPP) if !hook.is_xdp() => "TCX needs Linux 6.6 or newer".to_owned(),
        Some(libc::E2BIG | libc::ERANGE) if !hook.is_xdp() => {
            "too many programs are on this hook: remove one".to_owned()
        }
        _ => elsewhere,
    }
}

/// The programs that are on the hook already, by name and id.
fn occupants(ifindex: u32, hook: Hook) -> Vec<String> {
    let ids = if hook.is_xdp() {
        xdp_program(ifindex).into_iter().collect()
    } else {
        program::on_hook(ifindex, hook).unwrap_or_default()
    };
    ids.into_iter()
        .map(|id| match bpf::program::name(id) {
            Ok(name) if !name.is_empty() => format!("program `{name}` (id {id})"),
            _ => format!("program id {id}"),
        })
        .collect()
}

/// Those of them that are not ours.
pub(crate) fn others_on(ifindex: u32, hook: Hook) -> Vec<String> {
    let is_ours = |program: &String| program.contains("`lb_xdp") || program.contains("`lb_tcx");
    occupants(ifindex, hook).into_iter().filter(|program| !is_ours(program)).collect()
}

/// The id of the XDP program on an interface.
fn xdp_program(ifindex: u32) -> Option<u32> {
    let answers = Connection::route().ok()?.request(Request::new(GET_LINK, &link_header(ifindex))).ok()?;
    let payload = &answers.first()?.payload;
    let (_, xdp) = attributes(payload.get(LINK_HEADER..)?).find(|(kind, _)| *kind == IFLA_XDP)?;
    let (_, id) = attributes(xdp).find(|(kind, _)| *kind == XDP_PROGRAM_ID)?;
    u32_at(id, 0).filter(|id| *id != 0)
}

/// The kernel's words on attaching this program.
fn xdp_words(ifindex: u32, hook: Hook, program: BorrowedFd<'_>) -> Option<String> {
    let mut connection = Connection::route().ok()?;
    let fd = program.as_raw_fd();
    if let Err(refused) = set_xdp(&mut connection, ifindex, fd, hook.flags() | ONLY_IF_NONE, None) {
        return refused.message;
    }
    // It worked: take off what was put on, and nothing else.
    let _ = set_xdp(&mut connection, ifindex, -1, hook.flags() | REPLACE, Some(fd));
    None
}

fn set_xdp(
    connection: &mut Connection,
    ifindex: u32,
    fd: i32,
    flags: u32,
    expected: Option<i32>,
) -> Result<(), Refused> {
    let mut xdp = Vec::new();
    push_attribute(&mut xdp, XDP_FD, &fd.to_ne_bytes());
    push_attribute(&mut xdp, XDP_FLAGS, &flags.to_ne_bytes());
    if let Some(expected) = expected {
        push_attribute(&mut xdp, XDP_EXPECTED_FD, &expected.to_ne_bytes());
    }
    let request = Request::new(SET_LINK, &link_header(ifindex)).attribute(NESTED | IFLA_XDP, &xdp);
    connection.request(request).map(drop)
}

fn link_header(ifindex: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_remedy_that_names_the_interface_or_the_cause() {
        let cases = [
            (Hook::XdpNative, "", libc::EOPNOTSUPP, false, "eth7=xdp-generic"),
            (Hook::XdpGeneric, "", libc::EOPNOTSUPP, false, "eth7=tcx"),
            (Hook::XdpNative, "Peer MTU is too large to set XDP", libc::ERANGE, false, "mtu 1500"),
            (
                Hook::XdpNative,
                "Can't set XDP while host is implementing GRO_HW/CSUM",
                libc::EOPNOTSUPP,
                false,
                "ethtool -K eth7",
            ),
            (Hook::XdpNative, "Too few free TX rings available", libc::ENOMEM, false, "ethtool -l eth7"),
            (Hook::XdpNative, "XDP program already attached", libc::EBUSY, true, "xdp off"),
            (Hook::Ingress, "", libc::EINVAL, false, "6.6"),
            (Hook::Egress, "", libc::EOPNOTSUPP, false, "6.6"),
            (Hook::Egress, "", libc::ENODEV, false, "gone"),
        ];
        for (hook, words, errno, occupied, expected) in cases {
            let remedy = remedy("eth7", hook, words, Some(errno), occupied);
            assert!(remedy.contains(expected), "{hook} {words:?} {errno}: {remedy}");
        }
    }
}
