//! BPF links: what holds a program on a hook of an interface or a cgroup.

use super::{command, command_fd, info};
use aya_obj::generated::{bpf_cmd, bpf_link_info};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Where on an interface a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Hook {
    /// XDP in the driver.
    XdpNative,
    /// XDP in the kernel's receive path, for every driver.
    XdpGeneric,
    /// TCX, incoming.
    Ingress,
    /// TCX, outgoing.
    Egress,
}

impl Hook {
    pub(crate) const ALL: [Self; 4] = [Self::XdpNative, Self::XdpGeneric, Self::Ingress, Self::Egress];

    /// The name in a pin.
    pub(crate) const fn pin(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The program of the object that belongs here.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::XdpNative => "lb_xdp",
            Self::XdpGeneric => "lb_xdp_generic",
            Self::Ingress => "lb_tcx_ingress",
            Self::Egress => "lb_tcx_egress",
        }
    }

    pub(crate) const fn is_xdp(self) -> bool {
        matches!(self, Self::XdpNative | Self::XdpGeneric)
    }

    /// `enum bpf_attach_type`
    pub(super) const fn attach_type(self) -> u32 {
        match self {
            Self::XdpNative | Self::XdpGeneric => 37,
            Self::Ingress => 46,
            Self::Egress => 47,
        }
    }

    /// `XDP_FLAGS_DRV_MODE`, `XDP_FLAGS_SKB_MODE`; for TCX `BPF_F_BEFORE`: ahead of whoever else is there, since a
    /// program before ours could end the chain.
    pub(crate) const fn flags(self) -> u32 {
        match self {
            Self::XdpNative => 1 << 2,
            Self::XdpGeneric => 1 << 1,
            Self::Ingress | Self::Egress => 1 << 3,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::XdpNative => "XDP in native mode",
            Self::XdpGeneric => "XDP in generic mode",
            Self::Ingress => "TCX ingress",
            Self::Egress => "TCX egress",
        })
    }
}

/// What processes in a cgroup do with sockets that a program sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SocketHook {
    /// `connect` to an IPv4 address.
    Connect4,
    /// `connect` to an IPv6 address.
    Connect6,
    /// A datagram sent to an IPv4 address.
    Send4,
    /// A datagram sent to an IPv6 address.
    Send6,
    /// The sender of a datagram, an IPv4 address.
    Receive4,
    /// The sender of a datagram, an IPv6 address.
    Receive6,
    /// `getpeername`, an IPv4 address.
    Peer4,
    /// `getpeername`, an IPv6 address.
    Peer6,
}

impl SocketHook {
    /// Those that show what was asked for come before those that give something else.
    pub(crate) const ALL: [Self; 8] = [
        Self::Receive4,
        Self::Receive6,
        Self::Peer4,
        Self::Peer6,
        Self::Connect4,
        Self::Connect6,
        Self::Send4,
        Self::Send6,
    ];

    /// The kernel's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Send4 => "sendmsg4",
            Self::Send6 => "sendmsg6",
            Self::Receive4 => "recvmsg4",
            Self::Receive6 => "recvmsg6",
            Self::Peer4 => "getpeername4",
            Self::Peer6 => "getpeername6",
        }
    }

    /// The program of the object that belongs here.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Connect4 => "lb_connect4",
            Self::Connect6 => "lb_connect6",
            Self::Send4 => "lb_sendmsg4",
            Self::Send6 => "lb_sendmsg6",
            Self::Receive4 => "lb_recvmsg4",
            Self::Receive6 => "lb_recvmsg6",
            Self::Peer4 => "lb_getpeername4",
            Self::Peer6 => "lb_getpeername6",
        }
    }

    /// `enum bpf_attach_type`
    const fn attach_type(self) -> u32 {
        match self {
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::Send4 => 14,
            Self::Send6 => 15,
            Self::Receive4 => 19,
            Self::Receive6 => 20,
            Self::Peer4 => 29,
            Self::Peer6 => 30,
        }
    }
}

/// Attributes of `BPF_LINK_CREATE`.
#[repr(C)]
struct CreateAttributes {
    program_fd: u32,
    /// An interface's index, or a descriptor of a cgroup's directory.
    target: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    reserved: u32,
    expected_revision: u64,
}

/// Attributes of `BPF_LINK_UPDATE`.
#[repr(C)]
struct UpdateAttributes {
    link_fd: u32,
    new_program_fd: u32,
    flags: u32,
    old_program_fd: u32,
}

/// Attributes of `BPF_LINK_DETACH`.
#[repr(C)]
struct DetachAttributes {
    link_fd: u32,
}

/// A link. It holds its program in place until it is detached, or nothing refers to it any more: no descriptor, no pin.
#[derive(Debug)]
pub(crate) struct Link {
    fd: OwnedFd,
}

/// What a link holds where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkState {
    /// The interface; zero when the link is dead: detached, or its interface has gone.
    pub(crate) ifindex: u32,
    /// The program's id.
    pub(crate) program: u32,
}

impl Link {
    /// `BPF_LINK_TYPE_CGROUP`, `BPF_LINK_TYPE_XDP`, `BPF_LINK_TYPE_TCX`
    const CGROUP: u32 = 3;
    const XDP: u32 = 6;
    const TCX: u32 = 11;

    /// Puts a program on a hook.
    pub(crate) fn create(program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<Self> {
        Self::create_on(program, ifindex, hook.attach_type(), hook.flags())
    }

    /// Puts a program on a hook of a cgroup, beside whoever else is there.
    pub(crate) fn create_on_cgroup(
        program: BorrowedFd<'_>,
        cgroup: BorrowedFd<'_>,
        hook: SocketHook,
    ) -> io::Result<Self> {
        Self::create_on(program, cgroup.as_raw_fd() as u32, hook.attach_type(), 0)
    }

    fn create_on(program: BorrowedFd<'_>, target: u32, attach_type: u32, flags: u32) -> io::Result<Self> {
        let mut attributes = CreateAttributes {
            program_fd: program.as_raw_fd() as u32,
            target,
            attach_type,
            flags,
            relative_fd: 0,
            reserved: 0,
            expected_revision: 0,
        };
        // SAFETY: the layout of BPF_LINK_CREATE for links to interfaces and cgroups, which holds no pointers.
        unsafe { command_fd(bpf_cmd::BPF_LINK_CREATE, &mut attributes) }.map(|fd| Self { fd })
    }

    /// The link behind this descriptor.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Puts another program in place of the present one, without a packet that meets neither.
    pub(crate) fn replace(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attributes = UpdateAttributes {
            link_fd: self.fd.as_raw_fd() as u32,
            new_program_fd: program.as_raw_fd() as u32,
            flags: 0,
            old_program_fd: 0,
        };
        // SAFETY: the layout of BPF_LINK_UPDATE, which holds no pointers.
        unsafe { command(bpf_cmd::BPF_LINK_UPDATE, &mut attributes) }.map(drop)
    }

    /// Takes the program off its hook at once, whoever else holds the link.
    pub(crate) fn detach(&self) -> io::Result<()> {
        let mut attributes = DetachAttributes { link_fd: self.fd.as_raw_fd() as u32 };
        // SAFETY: the layout of BPF_LINK_DETACH, which holds no pointers.
        unsafe { command(bpf_cmd::BPF_LINK_DETACH, &mut attributes) }.map(drop)
    }

    /// What it holds where.
    pub(crate) fn state(&self) -> io::Result<LinkState> {
        // SAFETY: the kernel's structure for links, numbers and pointers that stay null.
        let info: bpf_link_info = unsafe { info(self.fd.as_fd()) }?;
        let ifindex = match info.type_ {
            // SAFETY: for a link of this type the kernel fills in this member.
            Self::XDP => unsafe { info.__bindgen_anon_1.xdp.ifindex },
            // SAFETY: as above.
            Self::TCX => unsafe { info.__bindgen_anon_1.tcx.ifindex },
            _ => 0,
        };
        Ok(LinkState { ifindex, program: info.prog_id })
    }

    /// The id of the cgroup it is on; zero when the link is dead: detached, or its cgroup has gone.
    pub(crate) fn cgroup(&self) -> io::Result<u64> {
        // SAFETY: the kernel's structure for links, numbers and pointers that stay null.
        let info: bpf_link_info = unsafe { info(self.fd.as_fd()) }?;
        // SAFETY: for a link of this type the kernel fills in this member.
        Ok(if info.type_ == Self::CGROUP { unsafe { info.__bindgen_anon_1.cgroup.cgroup_id } } else { 0 })
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
