//! Waits until the machine is quiet.
//!
//! The cores of a virtual machine are shared with others, who come and go: for seconds or minutes everything takes half as long again,
//! and a figure taken then says who came and went. They show in a loop that leaves nothing of a core unused and asks no memory: its
//! least time so far is that of a quiet machine. Waiting has an end, since a neighbour may stay; the report then says so.

use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, iter, thread};

/// A time that is longer than the least by this is not one of a quiet machine.
const SLOWER: f64 = 1.15;
/// Loops whose least counts: an interrupt is no neighbour.
const ATTEMPTS: usize = 3;
/// Loops before the first answer, for there to be a least.
const FIRST: usize = 200;
/// At most so many CPUs are asked at a time.
const CPUS: usize = 4;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(20);

static QUIET: Mutex<Quiet> = Mutex::new(Quiet { least: f64::MAX, patience: Duration::ZERO, told: Waited::NONE });

/// How the machine was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Waited {
    /// Seconds that were spent on waiting, and on runs that were thrown away.
    pub(crate) seconds: f64,
    /// How often something was to be measured.
    pub(crate) times: u64,
    /// How often it was, though the machine was not quiet.
    pub(crate) disturbed: u64,
}

impl Waited {
    const NONE: Self = Self { seconds: 0.0, times: 0, disturbed: 0 };
}

impl fmt::Display for Waited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, times, disturbed } = self;
        write!(
            f,
            "the bench waited {seconds:.0} s for others to leave the machine's cores alone, and did not see them leave {disturbed} of {times} times"
        )
    }
}

/// What is known of the machine.
struct Quiet {
    /// The least that the loop took, in seconds.
    least: f64,
    /// How long there may still be waited.
    patience: Duration,
    told: Waited,
}

impl Quiet {
    /// Whether to wait, when the loop took so long on the slowest CPU.
    fn waits(&mut self, took: f64) -> bool {
        self.least = self.least.min(took);
        let is_quiet = took <= self.least * SLOWER;
        if !is_quiet && self.patience > Duration::ZERO {
            self.spend(PAUSE);
            return true;
        }
        self.told.times += 1;
        self.told.disturbed += u64::from(!is_quiet);
        false
    }

    fn spend(&mut self, time: Duration) {
        self.patience = self.patience.saturating_sub(time);
        self.told.seconds += time.as_secs_f64();
    }

    /// Whether to do again what took this time, after which the loop took so long.
    fn repeats(&mut self, spent: Duration, took: f64) -> bool {
        let repeats = took > self.least * SLOWER && self.patience > Duration::ZERO;
        if repeats {
            self.spend(spent);
        }
        repeats
    }
}

/// Begins anew: from here on there may be waited for so long.
pub(crate) fn begin(patience: Duration) {
    let least = iter::repeat_with(one_loop).take(FIRST).fold(f64::MAX, f64::min);
    let mut quiet = QUIET.lock().unwrap_or_else(PoisonError::into_inner);
    *quiet = Quiet { least: least.min(quiet.least), patience, told: Waited::NONE };
}

/// Waits until the machine is quiet, or patience is at its end.
pub(crate) fn wait() {
    loop {
        let took = slowest();
        if !QUIET.lock().unwrap_or_else(PoisonError::into_inner).waits(took) {
            return;
        }
        thread::sleep(PAUSE);
    }
}

/// What comes of `run` when the machine is quiet before and after, as long as patience lasts.
pub(crate) fn undisturbed<T>(mut run: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    loop {
        wait();
        let begun = Instant::now();
        let outcome = run()?;
        let (spent, took) = (begun.elapsed(), slowest());
        if !QUIET.lock().unwrap_or_else(PoisonError::into_inner).repeats(spent, took) {
            return Ok(outcome);
        }
    }
}

/// How it was since [`begin`].
pub(crate) fn told() -> Waited {
    QUIET.lock().unwrap_or_else(PoisonError::into_inner).told
}

/// What the loop takes at the same time on several CPUs, on the slowest.
fn slowest() -> f64 {
    let least = || iter::repeat_with(one_loop).take(ATTEMPTS).fold(f64::MAX, f64::min);
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get).min(CPUS);
    thread::scope(|scope| {
        let others: Vec<_> = (1..cpus).map(|_| scope.spawn(least)).collect();
        let own = least();
        others.into_iter().filter_map(|other| other.join().ok()).fold(own, f64::max)
    })
}

/// Seconds that a loop of a tenth of a millisecond takes here and now.
fn one_loop() -> f64 {
    const TURNS: u64 = 40_000;
    let begun = Instant::now();
    // Enough of them for the instructions of one not to wait for those of another.
    let mut lanes = [1u64, 2, 3, 4, 5, 6, 7, 8];
    for turn in 0..black_box(TURNS) {
        for lane in &mut lanes {
            *lane = black_box(lane.rotate_left(5) ^ turn);
        }
    }
    black_box(lanes);
    begun.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_while_the_machine_is_slow_and_patience_lasts() {
        let mut quiet = Quiet { least: f64::MAX, patience: PAUSE * 2, told: Waited::NONE };
        assert!(!quiet.waits(1.0), "nothing is known yet");
        assert!(!quiet.waits(1.1));
        assert!(quiet.waits(1.5) && quiet.waits(1.5));
        assert!(!quiet.waits(1.5), "patience is at its end");
        assert!(!quiet.repeats(PAUSE, 1.5), "patience is at its end");
        assert!(!quiet.waits(0.9) && quiet.least < 1.0);
        quiet.patience = PAUSE;
        assert!(!quiet.repeats(PAUSE, 1.0) && quiet.repeats(PAUSE, 1.5) && !quiet.repeats(PAUSE, 1.5));
        assert_eq!(quiet.told, Waited { seconds: 3.0 * PAUSE.as_secs_f64(), times: 4, disturbed: 1 });
    }
}
