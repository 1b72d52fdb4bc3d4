//! The short way of a packet does what the long one does: whole cases of the generator, run once by either.

use lb_memory::generator;
use lb_memory::memory::Memory;
use lb_memory::node::{INSIDE, UPLINK};
use lb_memory::trial::{Interfaces, Passage, Trial};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use std::cell::Cell;
use std::env;

/// How many cases are run unless told otherwise.
const CASES: u32 = 20_000;
/// And where time does not matter.
const FULL_CASES: u32 = 300_000;

/// Everything that a packet may leave behind.
fn left_behind(tables: &Memory) -> String {
    let flows = (tables.flows4.contents(), tables.flows6.contents());
    let fragments = (tables.flows4.fragments(), tables.flows6.fragments());
    format!(
        "{flows:?} {fragments:?} {:?} {:?} {:?} {:?} {:?}",
        tables.affinity.contents(),
        tables.reasons,
        tables.services,
        tables.backends,
        tables.events
    )
}

#[test]
fn both_ways_do_the_same() {
    let cases = if env::var_os("LB_FULL").is_some() { FULL_CASES } else { CASES };
    let config = Config { cases, rng_seed: RngSeed::Fixed(2026), failure_persistence: None, ..Config::default() };
    let found = Cell::new(0);
    let outcome = TestRunner::new(config).run(&generator::cases(), |case| {
        let trial = || Trial::new(Interfaces { uplink: UPLINK, inside: INSIDE }, &case, 10_001);
        let (mut short, mut long) = (trial(), trial());
        // What is traced takes the long way.
        long.tables.tells.set(true);
        let is = |passage: &Passage| (passage.before.clone(), passage.verdict, passage.after.clone());
        for step in &case.steps {
            let (by_short, _) = short.step(step);
            let (by_long, _) = long.step(step);
            let [by_short, by_long] = [by_short, by_long].map(|passages| passages.iter().map(is).collect::<Vec<_>>());
            prop_assert_eq!(by_short, by_long, "{:?}", step);
            prop_assert_eq!(left_behind(&short.tables), left_behind(&long.tables), "{:?}", step);
        }
        found.set(found.get() + short.tables.guessed.get());
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    assert!(found.get() > u64::from(cases / 10), "only {} packets found their flow by the short way", found.get());
}
