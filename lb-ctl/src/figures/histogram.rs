//! How long something took, by how often.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Upper bounds of the buckets in seconds; above the last is one more.
pub const BOUNDS: [f64; 15] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Durations, counted by bucket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// How many fell into each bucket of [`BOUNDS`] and not into the one before; the last is for all above.
    buckets: [u64; BOUNDS.len() + 1],
    /// All durations together, in seconds.
    sum: f64,
}

impl Histogram {
    /// One more.
    pub fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.buckets[BOUNDS.iter().take_while(|bound| **bound < seconds).count()] += 1;
        self.sum += seconds;
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All of them together, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// For each bound, how many were not longer.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let running = self.buckets.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        BOUNDS.into_iter().zip(running)
    }

    /// The smallest bound that this share of all were not longer than; `None`: there were none, or they were longer than
    /// any bound.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = (self.count() as f64 * share).ceil().max(1.0);
        self.cumulative().find(|(_, count)| *count as f64 >= wanted).map(|(bound, _)| bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.count(), histogram.quantile(0.5)), (0, None));
        for millis in [1, 1, 2, 100, 60_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let at =
            |bound: f64| histogram.cumulative().find(|(other, _)| (*other - bound).abs() < f64::EPSILON).unwrap().1;
        assert_eq!([at(0.000_5), at(0.001), at(0.002_5), at(0.1), at(30.0)], [0, 2, 3, 4, 4]);
        assert_eq!((histogram.count(), histogram.sum()), (5, 60.104));
        assert_eq!((histogram.quantile(0.5), histogram.quantile(0.99)), (Some(0.002_5), None));
    }
}
