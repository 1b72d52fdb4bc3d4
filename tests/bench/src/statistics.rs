//! Figures out of noisy samples.
//!
//! A virtual machine is robbed of time, never given any, so the low percentile of short windows is what the code costs and
//! the median what it cost here and now. Ratios are taken inside one round, where noise hits both sides alike, and the
//! spread of the rounds says how far the result can be trusted.

use serde::{Deserialize, Serialize};

/// The percentile that counts as the best: low, and yet not the luck of one window.
pub(crate) const BEST: f64 = 0.02;

/// The value below which the share `q` of the samples lies; zero without samples.
pub(crate) fn percentile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let place = q.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(low), Some(high)) => low + (high - low) * place.fract(),
        _ => 0.0,
    }
}

/// The middle one.
pub(crate) fn median(samples: &[f64]) -> f64 {
    percentile(samples, 0.5)
}

/// How far samples lie from their median, as a standard deviation (1.4826 times the median absolute deviation).
pub(crate) fn spread(samples: &[f64]) -> f64 {
    let middle = median(samples);
    let distances: Vec<f64> = samples.iter().map(|sample| (sample - middle).abs()).collect();
    1.4826 * median(&distances)
}

/// A figure with how far it can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// Low percentile over all rounds.
    pub(crate) best: f64,
    /// Median over all rounds.
    pub(crate) median: f64,
    /// Standard error of the median of the rounds.
    pub(crate) noise: f64,
}

/// The samples of one thing, by round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rounds(pub(crate) Vec<Vec<f64>>);

impl Rounds {
    /// All samples.
    fn pooled(&self) -> Vec<f64> {
        self.0.concat()
    }

    /// The figure net of what was measured of `floor` in the same rounds.
    pub(crate) fn net_of(&self, floor: &Self) -> Figure {
        let (own, floors) = (self.pooled(), floor.pooled());
        let by_round: Vec<f64> =
            self.0.iter().zip(&floor.0).map(|(own, floor)| percentile(own, 0.25) - percentile(floor, 0.25)).collect();
        Figure {
            best: percentile(&own, BEST) - percentile(&floors, BEST),
            median: median(&own) - median(&floors),
            noise: standard_error(&by_round),
        }
    }
}

/// The ratio of two things, each net of its floor, as `(own, own floor)` and `(other, other floor)`. Each round gives one
/// ratio (of lower quartiles); the median of these is robust against rounds that were disturbed.
pub(crate) fn ratio(own: (&Rounds, &Rounds), other: (&Rounds, &Rounds)) -> Figure {
    let quartiles = |rounds: (&Rounds, &Rounds)| -> Vec<f64> {
        rounds.0.0.iter().zip(&rounds.1.0).map(|(own, floor)| percentile(own, 0.25) - percentile(floor, 0.25)).collect()
    };
    let by_round: Vec<f64> =
        quartiles(own).iter().zip(quartiles(other)).map(|(own, other)| own / other.max(f64::EPSILON)).collect();
    let best = own.0.net_of(own.1).best / other.0.net_of(other.1).best.max(f64::EPSILON);
    Figure { best, median: median(&by_round), noise: standard_error(&by_round) }
}

/// Standard error of the median of the samples (1.2533 times that of a mean).
fn standard_error(samples: &[f64]) -> f64 {
    1.2533 * spread(samples) / (samples.len().max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_interpolate_between_samples() {
        let samples = [4.0, 1.0, 3.0, 2.0, 5.0];
        for (q, expected) in [(0.0, 1.0), (0.5, 3.0), (0.625, 3.5), (1.0, 5.0)] {
            assert!((percentile(&samples, q) - expected).abs() < 1e-9, "{q}");
        }
        assert!(percentile(&[], 0.5).abs() < 1e-9);
        assert!((spread(&samples) - 1.4826).abs() < 1e-9, "the median distance from 3 is 1");
    }

    /// Rounds of windows around `cost`, of which one in `stolen` takes ten times as long.
    fn rounds(cost: f64, stolen: usize) -> Rounds {
        let window = |index: usize| {
            let jitter = 1.0 + (index * 7919 % 13) as f64 / 1000.0;
            cost * jitter * if index.is_multiple_of(stolen) { 10.0 } else { 1.0 }
        };
        Rounds((0..9).map(|round| (0..101).map(|index| window(index + round)).collect()).collect())
    }

    #[test]
    fn stolen_time_changes_neither_figure_nor_ratio() {
        let (floor, own, other) = (rounds(20.0, 5), rounds(65.0, 3), rounds(110.0, 7));
        let figure = own.net_of(&floor);
        assert!((figure.best - 45.0).abs() < 1.0 && (figure.median - 45.0).abs() < 2.0, "{figure:?}");
        let twice = ratio((&other, &floor), (&own, &floor));
        assert!((twice.best - 2.0).abs() < 0.05 && (twice.median - 2.0).abs() < 0.05, "{twice:?}");
        assert!(twice.noise < 0.05, "{twice:?}");
    }

    #[test]
    fn a_slower_round_does_not_change_the_ratio_but_its_noise() {
        let floor = rounds(20.0, 1000);
        let mut own = rounds(65.0, 1000);
        own.0[4].iter_mut().for_each(|window| *window *= 3.0);
        let figure = ratio((&own, &floor), (&rounds(65.0, 1000), &floor));
        assert!((figure.median - 1.0).abs() < 0.02, "{figure:?}");
    }
}
