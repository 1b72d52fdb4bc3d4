//! Asks the daemon for its figures in a rhythm, whatever becomes of it.

use crate::api::{Client, ClientError};
use crate::figures::Figures;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at};

/// What came of one question.
pub(super) type Answer = Result<Figures, ClientError>;

/// Asks every `period` from now on, for as long as somebody takes the answers.
pub(super) fn start(client: Client, period: Duration) -> mpsc::Receiver<Answer> {
    let (answers, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if answers.send(client.figures().await).await.is_err() {
                return;
            }
        }
    });
    receiver
}
