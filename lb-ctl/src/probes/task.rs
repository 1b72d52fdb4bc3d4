//! The task that probes one container.

use super::Told;
use super::attempt::attempt;
use super::target::Target;
use crate::objects::Key;
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// Which container of which pod.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) pod: Key,
    pub(super) index: usize,
    pub(super) generation: u64,
}

/// A container that is probed; its task ends with it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) index: usize,
    pub(super) generation: u64,
    pub(super) target: Target,
    pub(super) ready: bool,
    pub(super) why: String,
    _task: AbortOnDropHandle<()>,
}

impl Watched {
    /// Probes from now on; `ready` is what it was found to be earlier.
    pub(super) fn start(
        runtime: &Handle,
        place: Place,
        target: Target,
        ready: bool,
        news: UnboundedSender<Told>,
    ) -> Self {
        let (index, generation) = (place.index, place.generation);
        let task = runtime.spawn(probe(place, target.clone(), ready, news));
        let why = "it was not probed yet".to_owned();
        Self { index, generation, target, ready, why, _task: AbortOnDropHandle::new(task) }
    }
}

/// Counts successes and failures in a row, and tells when a threshold is reached, or why it is not ready.
async fn probe(place: Place, target: Target, mut ready: bool, news: UnboundedSender<Told>) {
    if !ready {
        sleep(target.initial_delay).await;
    }
    let mut ticks = interval(target.period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut succeeded, mut in_a_row) = (ready, 0_u32);
    let mut told = String::new();
    loop {
        ticks.tick().await;
        let outcome = timeout(target.timeout, attempt(&target.action)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {} s", target.timeout.as_secs())));
        in_a_row = if outcome.is_ok() == succeeded { in_a_row.saturating_add(1) } else { 1 };
        succeeded = outcome.is_ok();
        let threshold = if succeeded { target.successes } else { target.failures };
        let turns = ready != succeeded && in_a_row >= threshold;
        if turns {
            ready = succeeded;
        }
        let why = outcome.err().unwrap_or_default();
        if turns || !ready && why != told {
            told.clone_from(&why);
            let Place { pod, index, generation } = place.clone();
            if news.send(Told { pod, index, generation, ready, why }).is_err() {
                return;
            }
        }
    }
}
