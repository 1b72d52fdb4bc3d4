//! Runs a loaded program on one frame, attached or not (`BPF_PROG_TEST_RUN`, net/bpf/test_run.c).

use super::bpf;
use std::io;
use std::os::fd::BorrowedFd;

/// `struct xdp_md`, with the interface in its fourth word; `struct __sk_buff`, with the interface in its eleventh.
const XDP_CONTEXT: usize = 24;
const SKB_CONTEXT: usize = 192;
/// What a frame may grow by.
const GROWTH: usize = 256;

/// Where a program meets packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookPoint {
    /// XDP.
    Xdp,
    /// TCX ingress.
    Ingress,
    /// TCX egress.
    Egress,
}

impl HookPoint {
    /// The program that belongs there. That of generic XDP is the same but for how the kernel hands it frames.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Xdp => "lb_xdp",
            Self::Ingress => "lb_tcx_ingress",
            Self::Egress => "lb_tcx_egress",
        }
    }

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "XDP",
            Self::Ingress => "TCX ingress",
            Self::Egress => "TCX egress",
        }
    }
}

/// What a program said of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes on to whatever comes next.
    Pass,
    /// It is dropped.
    Drop,
    /// It leaves by an interface.
    Send,
    /// None of these.
    Invalid(u32),
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// What the program returned.
    pub code: u32,
    /// The frame as it left.
    pub frame: Vec<u8>,
}

impl Ran {
    /// What the code means at this hook.
    pub const fn action(&self, point: HookPoint) -> Action {
        match (point, self.code.cast_signed()) {
            (HookPoint::Xdp, 2) | (HookPoint::Ingress | HookPoint::Egress, -1 | 0) => Action::Pass,
            (HookPoint::Xdp, 1) | (HookPoint::Ingress | HookPoint::Egress, 2) => Action::Drop,
            (HookPoint::Xdp, 3 | 4) | (HookPoint::Ingress | HookPoint::Egress, 7) => Action::Send,
            _ => Action::Invalid(self.code),
        }
    }
}

/// Runs the program of a hook on a frame that came in (at egress: that leaves) by an interface of the calling thread's
/// namespace.
pub fn run(program: BorrowedFd<'_>, point: HookPoint, ifindex: u32, frame: &[u8]) -> io::Result<Ran> {
    let mut context = vec![0; if point == HookPoint::Xdp { XDP_CONTEXT } else { SKB_CONTEXT }];
    if point == HookPoint::Xdp {
        context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
        context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
    } else {
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    }
    let (code, frame) = bpf::program::test_run(program, frame, &context, frame.len() + GROWTH)?;
    Ok(Ran { code, frame })
}
