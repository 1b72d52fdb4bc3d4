//! `top` for pipes: the same rows and figures as tables of text.

use super::rates::{Drops, Row};
use super::spark::number;
use super::state::{State, Tab};
use super::table::{Column, WIDE, columns};
use crate::cli::output::Table;
use std::fmt::Write as _;

/// Everything that the screen would show, all rows of it.
pub(super) fn table(state: &State) -> String {
    let mut text = rows(state, Tab::Services);
    let backends = rows(&State { tab: Tab::Backends, ..copy(state) }, Tab::Backends);
    let mut drops = Table::new(vec!["DROPPED FOR", "PKT/S", "PACKETS"]);
    for Drops { reason, total, rate, .. } in &state.rates.drops {
        drops.push(vec![reason.clone(), number(*rate), total.to_string()]);
    }
    let mut maps = Table::new(vec!["MAP", "USED", "CAPACITY", "FILL"]);
    for map in state.figures.iter().flat_map(|figures| &figures.maps) {
        let percent = (map.used * 100).checked_div(map.capacity).unwrap_or_default();
        maps.push(vec![map.name.clone(), map.used.to_string(), map.capacity.to_string(), format!("{percent}%")]);
    }
    // Writing to a string does not fail.
    let _ = write!(text, "\n{backends}");
    for table in [drops, maps].iter().filter(|table| !table.is_empty()) {
        let _ = write!(text, "\n{table}");
    }
    text
}

/// The same rows with the same choice.
fn copy(state: &State) -> State {
    State { rates: state.rates.clone(), ..State::new(state.sort, state.filter.clone()) }
}

fn rows(state: &State, tab: Tab) -> String {
    let rows: Vec<&Row> = state.rows();
    if rows.is_empty() {
        let what = if tab == Tab::Services { "Services" } else { "endpoints" };
        let of =
            if state.filter.is_empty() { String::new() } else { format!(" whose name contains `{}`", state.filter) };
        return format!("No {what}{of}.\n");
    }
    let columns: Vec<Column> = columns(tab, WIDE).into_iter().filter(|column| *column != Column::Trend).collect();
    let mut table = Table::new(columns.iter().map(|column| column.title(tab)).collect());
    for row in rows {
        table.push(columns.iter().map(|column| column.cell(row, 0)).collect());
    }
    table.to_string()
}
