//! The one table of what cannot be: a cell that a row describes is `n/a`, for the reason of the first such row.

use super::{Asker, Backend, Cell, Hook};

/// A row: which cells, and why they cannot be.
pub struct Rule {
    /// Whether it speaks of a cell.
    pub applies: fn(&Cell) -> bool,
    /// Why the cell cannot be.
    pub reason: &'static str,
    /// Cells of the whole matrix for which it is the first rule.
    pub cells: usize,
}

/// The table.
pub const RULES: &[Rule] = &[
    Rule {
        applies: |cell| cell.asker == Asker::Outside && cell.backend == Backend::Itself,
        reason: "a client outside is no backend",
        cells: 256,
    },
    Rule {
        applies: |cell| cell.asker == Asker::Outside && cell.hook == Hook::Socket,
        reason: "a client outside has its sockets elsewhere",
        cells: 128,
    },
];

/// Why a cell cannot be.
pub fn not_applicable(cell: &Cell) -> Option<&'static str> {
    RULES.iter().find(|rule| (rule.applies)(cell)).map(|rule| rule.reason)
}

#[cfg(test)]
mod tests {
    use super::{RULES, not_applicable};
    use crate::matrix::Cell;

    #[test]
    fn the_number_of_cells_that_cannot_be_is_the_reviewed_one() {
        let cells = Cell::all();
        assert_eq!(cells.len(), 2 * 4 * 2 * 3 * 3 * 2 * 8);
        for rule in RULES {
            let count = cells.iter().filter(|cell| not_applicable(cell) == Some(rule.reason)).count();
            assert_eq!(count, rule.cells, "{}", rule.reason);
        }
    }
}
