//! Measures several programs against each other: round by round, one after the other, each beside the bare wrapper.

use anyhow::{Context, ensure};
use aya::programs::ProgramFd;
use lb_common::Reason;
use std::time::Duration;
use std::{iter, thread};

use crate::node::Node;
use crate::quiet;
use crate::statistics::Rounds;
use crate::wrapper::{Hook, Packets, Run, Wrapper};

/// What must have become of the packets, or the figure is of something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The last one got this verdict.
    Verdict(u32),
    /// The program itself counted all of them under this reason.
    All(Reason),
    /// And of nearly all: the others were left to the kernel, so that it looks after its neighbours.
    Most(Reason),
    /// The program counted none of them, and handed on the last one.
    None,
}

/// One thing to measure.
pub(crate) struct Member<'a> {
    pub(crate) name: &'static str,
    pub(crate) node: &'a Node,
    pub(crate) hook: Hook,
    pub(crate) program: ProgramFd,
    pub(crate) ifindex: u32,
    pub(crate) packets: Packets,
    /// Packets in a run.
    pub(crate) count: u32,
    pub(crate) expected: Expected,
}

/// What was measured of a [`Member`].
pub(crate) struct Measured {
    /// The program in the wrapper.
    pub(crate) own: Rounds,
    /// The wrapper alone, on the same packets.
    pub(crate) floor: Rounds,
    /// The share of packets that got the reason expected.
    pub(crate) share: f64,
    /// The last packet as it left.
    pub(crate) frame: Vec<u8>,
}

impl Measured {
    /// Nothing yet.
    pub(crate) fn empty() -> Self {
        Self { own: Rounds::default(), floor: Rounds::default(), share: 1.0, frame: Vec::new() }
    }

    /// Adds later rounds of the same.
    pub(crate) fn extend(&mut self, later: Self) {
        self.own.0.extend(later.own.0);
        self.floor.0.extend(later.floor.0);
        self.share = self.share.min(later.share);
        self.frame = later.frame;
    }
}

/// Runs the members for so many rounds.
pub(crate) fn rounds(wrapper: &mut Wrapper, members: &mut [Member<'_>], rounds: u32) -> anyhow::Result<Vec<Measured>> {
    let mut measured: Vec<Measured> = iter::repeat_with(Measured::empty).take(members.len()).collect();
    for _ in 0..rounds {
        for (member, measured) in members.iter_mut().zip(&mut measured) {
            quiet::wait();
            let floor = wrapper.yardstick(member.hook, "nothing")?;
            let mut alone = member.run_as(wrapper, &floor)?.windows;
            let (run, share) = member.run(wrapper)?;
            // Before and after: what slows down in between slows both.
            alone.extend(member.run_as(wrapper, &floor)?.windows);
            measured.floor.0.push(alone);
            measured.own.0.push(run.windows);
            measured.share = measured.share.min(share);
            measured.frame = run.frame;
        }
    }
    Ok(measured)
}

impl Member<'_> {
    /// Runs `program` in place of this member's.
    fn run_as(&self, wrapper: &mut Wrapper, program: &ProgramFd) -> anyhow::Result<Run> {
        let run = || wrapper.run(self.hook, program, self.ifindex, &self.packets, self.count);
        self.node.run(run)?.with_context(|| format!("{} at {}", self.name, self.hook.name()))
    }

    /// Runs it once, and again if XDP left packets to TCX (as it does every few seconds with each flow, for the kernel to look
    /// after its neighbours: TCX would have ended that, and here there is none behind it).
    pub(crate) fn run(&mut self, wrapper: &mut Wrapper) -> anyhow::Result<(Run, f64)> {
        /// Longer than two ticks of the datapath's clock.
        const ATTEMPTS: u32 = 40;
        let pause = Duration::from_millis(100);
        for attempt in 0..ATTEMPTS {
            let before = self.node.reasons()?;
            let run = self.run_as(wrapper, &self.program)?;
            let after = self.node.reasons()?;
            if self.packets.flows == 0 {
                self.packets.first = self.packets.first.wrapping_add(self.count);
            }
            let counted = |reason: Reason| after[&reason] - before[&reason];
            let share = |reason| counted(reason) as f64 / f64::from(self.count);
            let (fits, share) = match self.expected {
                Expected::Verdict(verdict) => (run.verdict == verdict, 1.0),
                Expected::All(reason) => (counted(reason) == u64::from(self.count), share(reason)),
                Expected::Most(reason) => (share(reason) > 0.9, share(reason)),
                Expected::None => (after == before, 1.0),
            };
            if fits {
                return Ok((run, share));
            }
            let deferred = self.hook == Hook::Xdp && matches!(self.expected, Expected::All(_));
            ensure!(
                deferred && attempt + 1 < ATTEMPTS,
                "{} at {}: expected {:?} of {} packets, but the last verdict was {} and the counters rose by {:?}",
                self.name,
                self.hook.name(),
                self.expected,
                self.count,
                run.verdict,
                after
                    .iter()
                    .map(|(reason, count)| (reason, count - before[reason]))
                    .filter(|(_, n)| *n > 0)
                    .collect::<Vec<_>>()
            );
            thread::sleep(pause);
        }
        unreachable!("the last attempt returns or fails")
    }
}
