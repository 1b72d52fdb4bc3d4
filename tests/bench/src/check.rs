//! `--check`: whether a ratio has slipped against the committed figures.
//!
//! A row is measured on one node, and again on a fresh one: programs and maps come to lie elsewhere in memory, and that alone
//! changes figures. The margin is what this run measured of it, with the noise of the rounds, now and then.

use crate::report::{Report, Row};
use crate::statistics::{Figure, median};

/// A row that has slipped.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slip {
    /// Which.
    pub(crate) what: String,
    /// Its ratio in the committed figures, and the lowest of this run.
    pub(crate) ratios: (f64, f64),
    /// What noise explains.
    pub(crate) margin: f64,
}

/// Rows of `runs` (the same ones in each) whose ratio is worse than in `committed` by more than the noise. Rows that are not
/// compared with the yardstick, and those the committed figures lack, are left out.
pub(crate) fn slips(committed: &Report, runs: &[Report]) -> (usize, Vec<Slip>) {
    let Some(first) = runs.first() else { return (0, Vec::new()) };
    let placement = placement(first, runs);
    let mut compared = 0;
    let mut slips = Vec::new();
    for row in &first.rows {
        let same = |report: &Report| ratio_of(row, report);
        let Some(then) = same(committed) else { continue };
        let now: Vec<_> = runs.iter().filter_map(same).collect();
        let medians = now.iter().map(|ratio| ratio.median);
        let (least, most) =
            medians.fold((f64::MAX, f64::MIN), |(least, most), ratio| (least.min(ratio), most.max(ratio)));
        let noise = now.iter().map(|ratio| ratio.noise).fold(0.0, f64::max);
        // Three standard errors: of hundreds of rows not one may slip by chance.
        let margin = (most - least).max(3.0 * placement * then.median) + 3.0 * noise.hypot(then.noise);
        compared += 1;
        if least - then.median > margin {
            slips.push(Slip { what: name(row), ratios: (then.median, least), margin });
        }
    }
    (compared, slips)
}

/// The ratio of the same row in a report.
fn ratio_of(row: &Row, report: &Report) -> Option<Figure> {
    report.rows.iter().find(|other| other.is_same(row)).and_then(|row| row.ratio)
}

/// By which share a ratio changes from node to node, as a standard deviation over all rows: a single row may have been measured
/// alike twice by luck.
fn placement(first: &Report, runs: &[Report]) -> f64 {
    let mut squares = Vec::new();
    for row in &first.rows {
        let medians: Vec<f64> = runs.iter().filter_map(|run| ratio_of(row, run)).map(|ratio| ratio.median).collect();
        let pairs = medians.windows(2).filter(|pair| pair[0] > 0.0 && pair[1] > 0.0);
        squares.extend(pairs.map(|pair| (pair[1] / pair[0]).ln().powi(2) / 2.0));
    }
    // The median: what slipped in one run alone says nothing of the others. 0.4549 is that of a squared normal variable.
    (median(&squares) / 0.4549).sqrt()
}

fn name(row: &Row) -> String {
    format!("{}, {}, {} flows, {} Services", row.place, row.name, row.flows, row.services)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Part;

    fn report(ratio: f64, noise: f64) -> Report {
        let row = Row {
            part: Part::Packet,
            place: "XDP".to_owned(),
            name: "established".to_owned(),
            flows: 1,
            services: 10,
            unit: "ns".to_owned(),
            figure: Figure::default(),
            ratio: Some(Figure { best: ratio, median: ratio, noise }),
            to: "yardstick".to_owned(),
            share: 1.0,
        };
        Report { rows: vec![row], ..Report::default() }
    }

    #[test]
    fn a_ratio_slips_only_beyond_the_noise() {
        let committed = report(1.00, 0.01);
        let slipped = |runs: &[Report]| slips(&committed, runs).1.len();
        assert_eq!(slipped(&[report(1.03, 0.01), report(1.03, 0.01)]), 0);
        assert_eq!(slipped(&[report(1.10, 0.01), report(1.11, 0.01)]), 1);
        assert_eq!(slipped(&[report(1.10, 0.01), report(1.01, 0.01)]), 0, "one good run shows that nothing was lost");
        assert_eq!(slipped(&[report(0.50, 0.01)]), 0, "faster is no slip");
    }

    #[test]
    fn what_a_new_node_changes_is_noise() {
        let rows = |ratios: [f64; 3]| Report {
            rows: ratios
                .iter()
                .zip(1..)
                .map(|(ratio, flows)| Row { flows, ..report(*ratio, 0.0).rows[0].clone() })
                .collect(),
            ..Report::default()
        };
        let committed = rows([1.0, 1.0, 1.0]);
        let noisy = [rows([1.0, 1.0, 1.04]), rows([1.03, 1.03, 1.04])];
        assert_eq!(slips(&committed, &noisy).1.len(), 0, "4 % are within three times what other rows changed");
        let quiet = [rows([1.0, 1.0, 1.04]), rows([1.0, 1.0, 1.04])];
        assert_eq!(slips(&committed, &quiet).1.len(), 1);
    }

    #[test]
    fn rows_without_a_committed_figure_are_not_compared() {
        assert_eq!(slips(&Report::default(), &[report(9.0, 0.0)]), (0, Vec::new()));
        assert_eq!(slips(&report(9.0, 0.0), &[report(9.0, 0.0)]), (1, Vec::new()));
    }
}
