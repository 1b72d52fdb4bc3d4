//! One attempt after another, in the rhythm of the probe; of all attempts only so many are under way at a time.

use super::action::{Action, Plan};
use super::course::{Course, State};
use super::grpc;
use super::http::authority;
use crate::objects::Key;
use jiff::Timestamp;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Attempts under way at a time. Ten thousand pods with the default period are a thousand attempts in a second; should none
/// of them answer within its second, all have had their turn after 20 s.
const SEATS: usize = 512;

/// Lets attempts begin when there is a seat, and counts how they end.
#[derive(Clone, Debug)]
pub(super) struct Clerk {
    seats: Arc<Semaphore>,
    /// Attempts that succeeded, and those that failed.
    outcomes: Arc<[AtomicU64; 2]>,
}

impl Default for Clerk {
    fn default() -> Self {
        Self { seats: Arc::new(Semaphore::new(SEATS)), outcomes: Arc::default() }
    }
}

impl Clerk {
    /// Makes an attempt. Its time counts from its beginning.
    pub(super) async fn attempt(&self, plan: &Plan) -> State {
        let _seat = self.seats.acquire().await.map_err(|_| "the daemon is ending".to_owned())?;
        let made = timeout(plan.timeout, plan.action.attempt()).await;
        let late = |_| Err(format!("{} did not answer within {} s", plan.action, plan.timeout.as_secs()));
        let outcome = made.unwrap_or_else(late);
        self.outcomes[usize::from(outcome.is_err())].fetch_add(1, Ordering::Relaxed);
        outcome
    }

    /// How many attempts succeeded, and how many failed.
    pub(super) fn outcomes(&self) -> (u64, u64) {
        let [succeeded, failed] = self.outcomes.as_ref();
        (succeeded.load(Ordering::Relaxed), failed.load(Ordering::Relaxed))
    }
}

/// Probes a container for ever, beginning with what is known of it.
pub(super) async fn watch(
    clerk: Clerk,
    pod: Key,
    plan: Plan,
    state: Option<State>,
    report: impl Fn(State) + Send + 'static,
) {
    let pause = pause(&pod, &plan, state.as_ref(), Timestamp::now());
    let (period, course, plan) = (plan.period, Course::new(state, plan.thresholds), Arc::new(plan));
    let attempt = || {
        let (clerk, plan) = (clerk.clone(), Arc::clone(&plan));
        async move { clerk.attempt(&plan).await }
    };
    run(pause, period, course, attempt, report).await;
}

/// An attempt after `pause`, and one in every period from then on. While one takes longer than that, one other waits, as by
/// the ticker of the kubelet.
async fn run<A: Future<Output = State>>(
    pause: Duration,
    period: Duration,
    mut course: Course,
    attempt: impl Fn() -> A,
    report: impl Fn(State),
) {
    sleep(pause).await;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        if let Some(state) = course.note(attempt().await) {
            report(state);
        }
    }
}

/// How long to wait with the first attempt: for one of which something is known already it need not be now, so that after
/// a start not all of them come at once. Else it is what is left of the initial delay.
fn pause(pod: &Key, plan: &Plan, state: Option<&State>, now: Timestamp) -> Duration {
    if state.is_some() {
        let mut hasher = DefaultHasher::new();
        (pod, &plan.container).hash(&mut hasher);
        return plan.period.mul_f64((hasher.finish() as u32 as f64) / f64::from(u32::MAX));
    }
    let created = plan.created.as_ref().and_then(|created| created.parse::<Timestamp>().ok());
    let age = created.and_then(|created| Duration::try_from(now.duration_since(created)).ok()).unwrap_or_default();
    plan.delay.saturating_sub(age)
}

impl Action {
    /// Makes an attempt, which may take its time.
    async fn attempt(&self) -> State {
        let outcome = match self {
            Action::Http(get) => get.attempt().await,
            Action::Tcp((host, port)) => {
                TcpStream::connect((host.as_str(), *port)).await.map(drop).map_err(|error| plainly(&error))
            }
            Action::Grpc(target, service) => grpc::attempt(target, service).await,
        };
        outcome.map_err(|why| format!("{self}: {why}"))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Http(get) => get.fmt(f),
            Action::Tcp(target) => write!(f, "TCP to {}", authority(target)),
            Action::Grpc(target, _) => write!(f, "gRPC health of {}", authority(target)),
        }
    }
}

/// A refusal of the kernel without the number.
pub(super) fn plainly(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use tokio::time::Instant;

    /// When a container came into which state, in seconds, if its attempts have these outcomes and each takes a time.
    async fn observe(pause: u64, period: u64, thresholds: (u32, u32), takes: u64, outcomes: &str) -> Vec<(u64, bool)> {
        let start = Instant::now();
        let (reports, made) = (RefCell::new(Vec::new()), Cell::new(0));
        let attempt = || {
            let outcome = outcomes.chars().nth(made.get());
            made.set(made.get() + 1);
            async move {
                sleep(Duration::from_secs(takes)).await;
                match outcome {
                    Some('+') => Ok(()),
                    Some(_) => Err("no".to_owned()),
                    None => std::future::pending().await,
                }
            }
        };
        let report = |state: State| reports.borrow_mut().push((start.elapsed().as_secs(), state.is_ok()));
        let course = Course::new(None, thresholds);
        let seconds = Duration::from_secs;
        let run = run(seconds(pause), seconds(period), course, attempt, report);
        timeout(seconds(1000), run).await.unwrap_err();
        reports.take()
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_keep_the_probes_rhythm() {
        assert_eq!(observe(0, 10, (1, 3), 0, "+---+").await, [(0, true), (30, false), (40, true)]);
        assert_eq!(observe(5, 2, (3, 1), 0, "+++-").await, [(9, true), (11, false)], "after the initial delay");
        assert_eq!(observe(0, 2, (1, 2), 3, "+--").await, [(3, true), (9, false)], "one tick waits, no more");
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_wait_for_a_seat_and_their_time_counts_from_then() {
        // The kernel takes the connection, and nobody answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let plan = plan(Action::Grpc(("127.0.0.1".to_owned(), silent.local_addr().unwrap().port()), String::new()));
        let clerk = Clerk { seats: Arc::new(Semaphore::new(1)), outcomes: Arc::default() };
        let taken = clerk.seats.acquire().await.unwrap();
        let attempt = clerk.attempt(&plan);
        tokio::pin!(attempt);
        timeout(Duration::from_mins(1), &mut attempt).await.expect_err("there is no seat");
        drop(taken);
        let begin = Instant::now();
        assert!(attempt.await.unwrap_err().ends_with(" did not answer within 1 s"));
        assert_eq!(begin.elapsed().as_secs(), 1);
        assert_eq!(clerk.outcomes(), (0, 1), "one that never began is not counted");
    }

    #[test]
    fn the_first_attempt_waits_for_the_initial_delay_or_is_spread() {
        let plan = Plan { created: Some("2026-01-01T00:00:00Z".to_owned()), ..plan(Action::Tcp((String::new(), 1))) };
        let at =
            |second: i64| "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + Duration::from_secs(second as u64);
        let of = |state: Option<&State>, second| pause(&Key::new("d", "p"), &plan, state, at(second));
        assert_eq!(of(None, 0), Duration::from_secs(30));
        assert_eq!(of(None, 20), Duration::from_secs(10));
        assert_eq!(of(None, 3000), Duration::ZERO);
        let unknown = Plan { created: None, ..plan.clone() };
        assert_eq!(pause(&Key::new("d", "p"), &unknown, None, at(0)), Duration::from_secs(30));
        let spread = |name: String| pause(&Key::new("d", name), &plan, Some(&Ok(())), at(0));
        let pauses: Vec<Duration> = (0..100).map(|number| spread(format!("p{number}"))).collect();
        assert!(pauses.iter().all(|pause| *pause <= plan.period));
        assert!(pauses.iter().filter(|pause| **pause < plan.period / 2).count() > 20, "{pauses:?}");
        assert!(pauses.iter().filter(|pause| **pause > plan.period / 2).count() > 20, "{pauses:?}");
    }

    fn plan(action: Action) -> Plan {
        Plan {
            container: "c".to_owned(),
            pod: "192.0.2.1".parse().unwrap(),
            action,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            delay: Duration::from_secs(30),
            created: None,
            thresholds: (1, 3),
        }
    }
}
