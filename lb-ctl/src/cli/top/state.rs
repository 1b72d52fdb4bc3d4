//! What is shown, as the user chose it.

use super::poll::Answer;
use super::rates::{Rates, Row, sort};
use crate::cli::args::Sort;
use crate::figures::Figures;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::collections::HashSet;
use std::net::IpAddr;

/// What the table lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tab {
    /// Ports of Services.
    #[default]
    Services,
    /// Endpoints' addresses.
    Backends,
}

/// What keys do at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// They choose.
    #[default]
    Browse,
    /// They write the filter.
    Filter,
    /// Any of them ends the help.
    Help,
}

/// What to do after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Go on.
    Continue,
    /// End.
    Quit,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) tab: Tab,
    pub(super) mode: Mode,
    pub(super) sort: Sort,
    pub(super) is_reversed: bool,
    /// Part of a name; empty: all are shown.
    pub(super) filter: String,
    /// The Service whose endpoints alone are listed, and their addresses.
    pub(super) of_service: Option<(String, Vec<IpAddr>)>,
    /// The row that is marked.
    pub(super) selected: usize,
    pub(super) is_paused: bool,
    pub(super) figures: Option<Figures>,
    pub(super) rates: Rates,
    /// Why there is nothing newer.
    pub(super) problem: Option<String>,
    /// Rows of the table that were in sight when it was drawn last.
    pub(super) page: usize,
}

impl State {
    pub(super) fn new(sort: Sort, filter: String) -> Self {
        Self { sort, filter, page: 1, ..Self::default() }
    }

    /// Takes what the daemon answered. While paused, or without an answer, what is shown stays.
    pub(super) fn took(&mut self, answer: Answer) {
        match answer {
            Ok(_) if self.is_paused => {}
            Ok(figures) => {
                self.rates.update(self.figures.as_ref(), &figures);
                self.figures = Some(figures);
                self.problem = None;
            }
            Err(error) => self.problem = Some(error.to_string()),
        }
    }

    /// The rows to be shown, in order.
    pub(super) fn rows(&self) -> Vec<&Row> {
        let all = match self.tab {
            Tab::Services => &self.rates.services,
            Tab::Backends => &self.rates.backends,
        };
        let filter = self.filter.to_lowercase();
        let has_name =
            |row: &Row| row.name.to_lowercase().contains(&filter) || row.pod.to_lowercase().contains(&filter);
        // An endpoint is meant by the names of its Services too.
        let services = self.rates.services.iter().filter(|row| self.tab == Tab::Backends && has_name(row));
        let meant: HashSet<IpAddr> = services.flat_map(|row| &row.addresses).copied().collect();
        let is_meant = |row: &&Row| {
            let of_service = match (&self.of_service, self.tab) {
                (Some((_, addresses)), Tab::Backends) => row.addresses.iter().any(|one| addresses.contains(one)),
                _ => true,
            };
            of_service && (has_name(row) || row.addresses.iter().any(|one| meant.contains(one)))
        };
        let mut rows: Vec<&Row> = all.iter().filter(is_meant).collect();
        sort(&mut rows, self.sort, self.is_reversed);
        rows
    }

    /// Does what a key says.
    pub(super) fn press(&mut self, key: KeyEvent) -> Then {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Then::Quit } else { Then::Continue };
        }
        match self.mode {
            Mode::Help => self.mode = Mode::Browse,
            Mode::Filter => self.write_filter(key.code),
            Mode::Browse => return self.browse(key.code),
        }
        Then::Continue
    }

    fn write_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.mode = Mode::Browse,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Browse;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
        self.selected = 0;
    }

    fn browse(&mut self, key: KeyCode) -> Then {
        let last = self.rows().len().saturating_sub(1);
        match key {
            KeyCode::Char('q') => return Then::Quit,
            // First what was narrowed is widened.
            KeyCode::Esc if self.of_service.is_some() => (self.of_service, self.tab) = (None, Tab::Services),
            KeyCode::Esc if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Esc => return Then::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char(' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Tab | KeyCode::BackTab => self.turn(),
            KeyCode::Enter => self.enter(),
            KeyCode::Char(c) => {
                if let Some(sort) = sort_of(c) {
                    (self.sort, self.is_reversed) = (sort, false);
                }
            }
            KeyCode::Up => self.selected = self.selected.min(last).saturating_sub(1),
            KeyCode::Down => self.selected = (self.selected + 1).min(last),
            KeyCode::PageUp => self.selected = self.selected.min(last).saturating_sub(self.page),
            KeyCode::PageDown => self.selected = (self.selected + self.page).min(last),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = last,
            _ => {}
        }
        Then::Continue
    }

    fn turn(&mut self) {
        self.tab = match self.tab {
            Tab::Services => Tab::Backends,
            Tab::Backends => Tab::Services,
        };
        (self.of_service, self.selected) = (None, 0);
    }

    /// Lists the endpoints of the Service that is marked.
    fn enter(&mut self) {
        if self.tab == Tab::Services
            && let Some(row) = self.rows().get(self.selected)
        {
            self.of_service = Some((row.name.clone(), row.addresses.clone()));
            (self.tab, self.selected) = (Tab::Backends, 0);
            self.filter.clear();
        }
    }
}

/// The order that a letter stands for.
const fn sort_of(letter: char) -> Option<Sort> {
    match letter {
        'n' => Some(Sort::Name),
        'e' => Some(Sort::Endpoints),
        'c' => Some(Sort::Connections),
        'p' => Some(Sort::Packets),
        'b' => Some(Sort::Bytes),
        _ => None,
    }
}
