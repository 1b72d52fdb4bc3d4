//! Which environments are enough for a short run: together they hold every pair of values that any cell holds.

use super::{Cell, Environment, rules};
use std::collections::BTreeSet;

/// Two values of two dimensions.
type Pair = [(usize, u8); 2];

/// The pairs of values in the cells of an environment that can be.
fn pairs(environment: Environment) -> BTreeSet<Pair> {
    let mut pairs = BTreeSet::new();
    for cell in environment.cells().iter().filter(|cell| rules::not_applicable(cell).is_none()) {
        let values = cell.coordinates();
        for first in 0..values.len() {
            pairs.extend((first + 1..values.len()).map(|second| [(first, values[first]), (second, values[second])]));
        }
    }
    pairs
}

/// Environments that cover all pairs, chosen greedily and always the same: the first one holds the matrix's first cell, each
/// next one adds the most.
pub fn environments() -> Vec<Environment> {
    let mut left: Vec<(Environment, BTreeSet<Pair>)> =
        Environment::all().into_iter().map(|environment| (environment, pairs(environment))).collect();
    let mut missing: BTreeSet<Pair> = left.iter().flat_map(|(_, pairs)| pairs.iter().copied()).collect();
    let mut chosen = Vec::new();
    let first = Cell::all().first().map(Cell::environment);
    while !missing.is_empty() {
        let adds = |(environment, pairs): &(Environment, BTreeSet<Pair>)| {
            let is_first = chosen.is_empty() && Some(*environment) == first;
            (is_first, pairs.intersection(&missing).count())
        };
        // The first of those that add the most.
        let best = left.iter().enumerate().rev().max_by_key(|(_, candidate)| adds(candidate)).map(|(index, _)| index);
        let Some(best) = best else { break };
        let (environment, pairs) = left.remove(best);
        missing.retain(|pair| !pairs.contains(pair));
        chosen.push(environment);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::{environments, pairs};
    use crate::matrix::Environment;
    use std::collections::BTreeSet;

    #[test]
    fn a_short_run_meets_every_pair_of_values_in_few_environments() {
        let chosen = environments();
        let of = |environments: &[Environment]| environments.iter().copied().flat_map(pairs).collect::<BTreeSet<_>>();
        assert_eq!(of(&chosen), of(&Environment::all()));
        assert!(chosen.len() <= 12, "{} of {} environments", chosen.len(), Environment::all().len());
        assert_eq!(chosen, environments(), "always the same");
    }
}
