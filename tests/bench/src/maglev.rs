//! Maglev tables as the control plane builds them: how long that takes, and what a change of endpoints moves.

use lb_ctl::image::maglev::{self, Candidate};
use std::net::Ipv4Addr;
use std::time::Instant;

use crate::manifests::FIRST;
use crate::quiet;
use crate::report::{Part, Report, Row};
use crate::say;
use crate::statistics::{Figure, median, percentile};

/// Endpoints and size of the Maglev table that is measured.
const CANDIDATES: u32 = 1000;
const TABLE_SIZE: u32 = 65_537;

/// How long a Maglev table takes to build, and how many connections move to another endpoint than they must when one goes.
pub(crate) fn tables(report: &mut Report) {
    say(format_args!("Maglev: a table of {TABLE_SIZE} for {CANDIDATES} endpoints"));
    let mut add = |name: &str, unit: &str, best: f64, median: f64| {
        report.add(Row {
            part: Part::Control,
            place: "maglev".to_owned(),
            name: name.to_owned(),
            flows: 0,
            services: 0,
            unit: unit.to_owned(),
            figure: Figure { best, median, noise: 0.0 },
            ratio: None,
            to: String::new(),
            share: 1.0,
        });
    };
    let endpoint = |index: u32| Ipv4Addr::from_bits(FIRST.to_bits() + index).into();
    let all: Vec<Candidate> =
        (0..CANDIDATES).map(|index| Candidate { name: maglev::name(endpoint(index), 0), weight: 1 }).collect();
    let mut times = Vec::new();
    for _ in 0..50 {
        quiet::wait();
        let start = Instant::now();
        std::hint::black_box(maglev::table(std::hint::black_box(&all), TABLE_SIZE));
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    add("build", "ms", percentile(&times, 0.02), median(&times));

    let before = maglev::table(&all, TABLE_SIZE);
    let moved: Vec<f64> = (0..50)
        .map(|sample| {
            let gone = sample * CANDIDATES / 50;
            let mut fewer = all.clone();
            fewer[gone as usize].weight = 0;
            let after = maglev::table(&fewer, TABLE_SIZE);
            let moved = before.iter().zip(&after).filter(|(before, after)| **before != gone && before != after).count();
            moved as f64 / f64::from(TABLE_SIZE) * 100.0
        })
        .collect();
    add("moved beyond the ideal, at worst", "%", moved.iter().copied().fold(0.0, f64::max), median(&moved));
}
