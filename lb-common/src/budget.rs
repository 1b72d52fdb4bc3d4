//! What one CPU may still spend in a tick on work that a packet can ask for and a flood must not buy.

use crate::record;

/// The value of the map [`crate::maps::BUDGETS`]. Counts begin anew with each tick.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Budget {
    /// The tick that the counts are of.
    pub tick: u32,
    /// Rejects and ICMP errors sent.
    pub answers: u32,
    /// Searches of the whole range of source ports.
    pub searches: u32,
    /// Padding; zero.
    pub zero: u32,
}

impl Budget {
    /// Rejects and ICMP errors that a CPU sends in a tick.
    pub const ANSWERS: u32 = 1000;

    /// The counts of tick `now`: those of an earlier one are forgotten.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs the datapath stack and nanoseconds")]
    pub fn in_tick(&mut self, now: u32) -> &mut Self {
        if self.tick != now {
            *self = Self { tick: now, answers: 0, searches: 0, zero: 0 };
        }
        self
    }
}

record!(Budget = 16);
