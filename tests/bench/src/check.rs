//! `--check`: whether a ratio has slipped against the committed figures.
//!
//! A row is measured on one node, and again on a fresh one: programs and maps come to lie elsewhere in memory, and that alone
//! changes figures. The margin is what this run measured of it, with the noise of the rounds, now and then.

use crate::report::{Report, Row};

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
    let mut compared = 0;
    let mut slips = Vec::new();
    for row in &first.rows {
        let same = |report: &Report| report.rows.iter().find(|other| other.is_same(row)).and_then(|row| row.ratio);
        let Some(then) = same(committed) else { continue };
        let now: Vec<_> = runs.iter().filter_map(same).collect();
        let medians = now.iter().map(|ratio| ratio.median);
        let (least, most) =
            medians.fold((f64::MAX, f64::MIN), |(least, most), ratio| (least.min(ratio), most.max(ratio)));
        let noise = now.iter().map(|ratio| ratio.noise).fold(0.0, f64::max);
        // Three standard errors: of hundreds of rows not one may slip by chance.
        let margin = (most - least) + 3.0 * noise.hypot(then.noise);
        compared += 1;
        if least - then.median > margin {
            slips.push(Slip { what: name(row), ratios: (then.median, least), margin });
        }
    }
    (compared, slips)
}

fn name(row: &Row) -> String {
    format!("{}, {}, {} flows, {} Services", row.place, row.name, row.flows, row.services)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Part;
    use crate::statistics::Figure;

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
    fn rows_without_a_committed_figure_are_not_compared() {
        assert_eq!(slips(&Report::default(), &[report(9.0, 0.0)]), (0, Vec::new()));
        assert_eq!(slips(&report(9.0, 0.0), &[report(9.0, 0.0)]), (1, Vec::new()));
    }
}
