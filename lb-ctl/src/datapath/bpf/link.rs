//! BPF links: what holds a program on an interface's hook.

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

/// Attributes of `BPF_LINK_CREATE` for XDP and TCX.
#[repr(C)]
struct CreateAttributes {
    program_fd: u32,
    ifindex: u32,
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
    /// `BPF_LINK_TYPE_XDP`, `BPF_LINK_TYPE_TCX`
    const XDP: u32 = 6;
    const TCX: u32 = 11;

    /// Puts a program on a hook.
    pub(crate) fn create(program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<Self> {
        let mut attributes = CreateAttributes {
            program_fd: program.as_raw_fd() as u32,
            ifindex,
            attach_type: hook.attach_type(),
            flags: hook.flags(),
            relative_fd: 0,
            reserved: 0,
            expected_revision: 0,
        };
        // SAFETY: the layout of BPF_LINK_CREATE for links to interfaces, which holds no pointers.
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
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
