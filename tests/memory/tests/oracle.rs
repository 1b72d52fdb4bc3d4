//! The core under the oracle: whole cases of the generator, every packet judged.

use lb_memory::generator;
use lb_memory::node::{INSIDE, UPLINK};
use lb_memory::trial::{Interfaces, Met, Trial};
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed, TestCaseError, TestRunner};
use std::cell::RefCell;
use std::env;

/// How many cases are run unless told otherwise: enough that each listed mutation of the core is noticed.
const CASES: u32 = 20_000;
const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/oracle.txt");

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}

#[test]
fn the_oracle_has_nothing_to_object() {
    let cases = number("LB_CASES").map_or(CASES, |cases| cases as u32);
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(number("LB_SEED").unwrap_or(2026)),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
        ..Config::default()
    };
    let met = RefCell::new(Met::default());
    let outcome = TestRunner::new(config).run(&generator::cases(), |case| {
        // Every fourth tick is another to XDP.
        for tick in if case.steps.len() % 2 == 0 { [10_000] } else { [10_001] } {
            let mut trial = Trial::new(Interfaces { uplink: UPLINK, inside: INSIDE }, &case, tick);
            for step in &case.steps {
                let (passages, result) = trial.step(step);
                for passage in &passages {
                    met.borrow_mut().add(passage);
                }
                result.map_err(|fault| TestCaseError::fail(fault.to_string()))?;
            }
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}\nLB_SEED and LB_CASES vary the run; the case is kept in {REGRESSIONS}");
    }
    met.borrow().check();
}
