//! Packets as they came to our programs and as they left them, for tools that read packets.
//!
//! What is captured is seen where tcpdump is blind: before XDP has changed a packet, or sent it away.

mod checksum;
mod filter;
mod pcapng;

pub use filter::Filter;
pub use pcapng::File;

use lb_common::{Captured, Reason};
use std::collections::HashMap;
use std::fmt;

/// A copy of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// What the program says of it.
    pub head: Captured,
    /// The packet from its Ethernet header on, perhaps cut short ([`lb_common::capture::SNAPLEN`]).
    pub bytes: Box<[u8]>,
}

/// One packet at one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// As it came.
    pub came: Copy,
    /// As it left, or was when it was dropped.
    pub left: Copy,
    /// Copies that were lost on this CPU since the one before.
    pub lost: u32,
}

/// Where a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// XDP.
    Xdp,
    /// TCX ingress, or a filter in its place.
    Ingress,
    /// TCX egress, or a filter in its place.
    Egress,
}

impl fmt::Display for Hook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Xdp => "xdp",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

impl Copy {
    /// The program's place.
    pub fn hook(&self) -> Hook {
        match self.head.hook {
            Captured::XDP => Hook::Xdp,
            Captured::INGRESS => Hook::Ingress,
            _ => Hook::Egress,
        }
    }

    /// What became of the packet, if this build knows the reason.
    pub fn reason(&self) -> Option<Reason> {
        Reason::ALL.iter().copied().find(|reason| *reason as u8 == self.head.reason)
    }
}

/// Brings the two copies of each packet together. The programs tell them one after the other, but other CPUs' may come between,
/// and either may be lost.
#[derive(Debug, Default)]
pub struct Pairs {
    came: HashMap<u32, Copy>,
    lost: HashMap<u32, u32>,
}

impl Pairs {
    /// Takes one copy; the pair, when it is complete.
    pub fn take(&mut self, head: Captured, bytes: &[u8]) -> Option<Pair> {
        let mut copy = Copy { head, bytes: bytes.into() };
        checksum::complete(&mut copy.bytes);
        if head.side == Captured::CAME {
            self.came.insert(head.cpu, copy);
            return None;
        }
        let came = self.came.remove(&head.cpu).filter(|came| came.head.sequence == head.sequence)?;
        let before = self.lost.insert(head.cpu, head.lost).unwrap_or(0);
        Some(Pair { came, left: copy, lost: head.lost.wrapping_sub(before) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(cpu: u32, sequence: u32, side: u8, lost: u32) -> Captured {
        Captured { cpu, sequence, side, lost, ..Captured::default() }
    }

    #[test]
    fn copies_of_one_packet_make_a_pair_whatever_comes_between() {
        let mut pairs = Pairs::default();
        assert_eq!(pairs.take(head(0, 1, Captured::CAME, 0), b"a"), None);
        assert_eq!(pairs.take(head(1, 1, Captured::CAME, 0), b"b"), None);
        let pair = pairs.take(head(0, 1, Captured::LEFT, 0), b"A").unwrap();
        assert_eq!((&*pair.came.bytes, &*pair.left.bytes, pair.lost), (&b"a"[..], &b"A"[..], 0));
        assert_eq!(pairs.take(head(1, 1, Captured::LEFT, 0), b"B").map(|pair| pair.came.bytes), Some((*b"b").into()));
    }

    #[test]
    fn half_a_pair_is_none_and_losses_are_told_once() {
        let mut pairs = Pairs::default();
        pairs.take(head(0, 1, Captured::CAME, 0), b"a");
        // What the first left as is lost, and how the second came.
        assert_eq!(pairs.take(head(0, 2, Captured::LEFT, 2), b"B"), None);
        pairs.take(head(0, 3, Captured::CAME, 2), b"c");
        assert_eq!(pairs.take(head(0, 3, Captured::LEFT, 2), b"C").map(|pair| pair.lost), Some(2));
        pairs.take(head(0, 4, Captured::CAME, 2), b"d");
        assert_eq!(pairs.take(head(0, 4, Captured::LEFT, 2), b"D").map(|pair| pair.lost), Some(0));
    }
}
