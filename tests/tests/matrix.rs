//! The matrix, run: in CI the environments that hold every pair of values, with `LB_FULL=1` all of them. `LB_MATRIX=text`
//! runs the cells alone whose line contains the text.

use lb_tests::matrix::stage::Stage;
use lb_tests::matrix::{Cell, Environment, Outcome, cover, rules};
use lb_tests::needs_datapath;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;
use std::{env, fs, io};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// Runs the wanted cells of an environment, or says why not.
fn run(environment: Environment, wanted: impl Fn(&Cell) -> bool) -> Vec<(Cell, Outcome)> {
    let (mut stage, started) = (None, Instant::now());
    let mut outcomes = Vec::new();
    for cell in environment.cells().into_iter().filter(wanted) {
        let outcome = if let Some(reason) = rules::not_applicable(&cell) {
            Outcome::NotApplicable(reason)
        } else {
            let stage = stage.get_or_insert_with(|| Stage::new(BINARY, environment).expect("the stage is set"));
            stage.run(&cell)
        };
        outcomes.push((cell, outcome));
    }
    eprintln!("{environment}: {} cells, {:.1} s", outcomes.len(), started.elapsed().as_secs_f32());
    outcomes
}

#[test]
fn every_cell_of_the_matrix_is_green() {
    needs_datapath!();
    let wanted = env::var("LB_MATRIX").ok();
    let all = wanted.is_some() || env::var_os("LB_FULL").is_some();
    let environments = if all { Environment::all() } else { cover::environments() };
    let is_wanted = |cell: &Cell| wanted.as_ref().is_none_or(|text| cell.to_string().contains(text.as_str()));
    let outcomes: BTreeMap<Cell, Outcome> =
        environments.into_iter().flat_map(|environment| run(environment, is_wanted)).collect();

    let mut text = String::new();
    for (cell, outcome) in &outcomes {
        writeln!(text, "{cell} {outcome}").expect("a String takes all");
    }
    let count = |is: fn(&Outcome) -> bool| outcomes.values().filter(|outcome| is(outcome)).count();
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let not_applicable = count(|outcome| matches!(outcome, Outcome::NotApplicable(_)));
    let good = outcomes.len() - failed - not_applicable;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/matrix.txt");
    fs::write(&path, &text).expect("target/matrix.txt can be written");
    // Past the runner's capture: the matrix is there to be read, also when all is well.
    writeln!(
        io::stdout(),
        "{text}{} of {} cells: {good} ok, {failed} FAIL, {not_applicable} n/a",
        outcomes.len(),
        Cell::all().len()
    )
    .expect("standard output");
    assert!(!outcomes.is_empty(), "LB_MATRIX names no cell");
    assert_eq!(failed, 0, "cells failed: see the lines with FAIL above, or in target/matrix.txt");
    if all && wanted.is_none() {
        assert_eq!(not_applicable, rules::RULES.iter().map(|rule| rule.cells).sum::<usize>(), "cells that cannot be");
    }
}
