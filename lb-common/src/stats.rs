//! Counters, one copy for each CPU; readers add the copies up.

use crate::record;

/// Packets and bytes that got one [`crate::Reason`]: the value of the map [`crate::maps::REASONS`].
///
/// Every verdict is counted once, where it is final: XDP leaves what it passes on untouched to TCX, which counts it.
/// Packets that are not ours are not counted at all.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ReasonCount {
    /// Packets (a GSO packet counts as one).
    pub packets: u64,
    /// Bytes, with link-layer headers.
    pub bytes: u64,
}

/// What passed through one service port or one backend: the value of the maps [`crate::maps::SERVICE_STATS`] and
/// [`crate::maps::BACKEND_STATS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Flows created.
    pub connections: u64,
    /// Packets from clients.
    pub packets: u64,
    /// Bytes from clients, with link-layer headers.
    pub bytes: u64,
    /// Packets from backends.
    pub reply_packets: u64,
    /// Bytes from backends, with link-layer headers.
    pub reply_bytes: u64,
}

impl Traffic {
    /// Counts a packet of `bytes`, from the backend if it is a reply.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the datapath counts every packet")]
    pub fn count(&mut self, is_reply: bool, bytes: usize) {
        if is_reply {
            self.reply_packets += 1;
            self.reply_bytes += bytes as u64;
        } else {
            self.packets += 1;
            self.bytes += bytes as u64;
        }
    }
}

/// What one CPU has spent in a tick on work that a flood could ask for without end: the value of the map
/// [`crate::maps::BUDGETS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Budget {
    /// The tick that the other numbers are of.
    pub tick: u32,
    /// Rejects and ICMP errors sent.
    pub answers: u32,
    /// Long searches for a source port.
    pub searches: u32,
    /// Padding; zero.
    pub zero: u32,
}

impl Budget {
    /// Rejects and ICMP errors that a CPU sends in a tick.
    pub const ANSWERS: u32 = 1000;

    /// The same record, with nothing spent if `tick` is a new one.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a BPF call costs stack")]
    pub fn in_tick(&mut self, tick: u32) -> &mut Self {
        if self.tick != tick {
            self.tick = tick;
            self.answers = 0;
            self.searches = 0;
        }
        self
    }
}

record!(ReasonCount = 16, Traffic = 40, Budget = 16);
