//! The picture: a head with the totals, the table, drops and maps, and a line of keys.

use super::spark::{bar, count, fit, number, sparkline};
use super::state::{Mode, State, Tab};
use super::table::{Column, WIDE, columns};
use crate::api::MapFill;
use crate::cli::age;
use crate::figures::Figures;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Wrap};

/// Whether there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    /// Bold and reversed text alone.
    Plain,
    /// Colours of the terminal's own palette.
    Coloured,
}

impl Theme {
    /// As <https://no-color.org> has it: a `NO_COLOR` that is not empty means none.
    pub(super) fn of_environment() -> Self {
        let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if is_unwanted { Theme::Plain } else { Theme::Coloured }
    }

    fn colour(self, colour: Color) -> Style {
        match self {
            Theme::Plain => Style::new(),
            Theme::Coloured => Style::new().fg(colour),
        }
    }

    fn good(self) -> Style {
        self.colour(Color::Green)
    }

    fn bad(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn quiet(self) -> Style {
        self.colour(Color::DarkGray)
    }

    fn trend(self) -> Style {
        self.colour(Color::Cyan)
    }

    fn title() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

/// Rows of drops and maps below the table, where these do not stand beside it.
const BELOW: u16 = 7;
/// Width of what stands beside the table.
const BESIDE: u16 = 62;
/// Width of the name of what may fill up.
const NAME: usize = 15;
/// A map that is fuller than this is worth a warning.
const FULL: f64 = 0.8;

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State, theme: Theme) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(4), Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
    let is_wide = frame.area().width >= WIDE + BESIDE;
    let (table, rest) = if is_wide {
        let [table, rest] =
            Layout::horizontal([Constraint::Fill(1), Constraint::Length(BESIDE)]).spacing(2).areas(body);
        (table, Layout::vertical([Constraint::Fill(1), Constraint::Fill(2)]).areas::<2>(rest))
    } else {
        let [table, rest] = Layout::vertical([Constraint::Fill(1), Constraint::Length(BELOW)]).areas(body);
        (table, Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).spacing(2).areas::<2>(rest))
    };
    draw_head(frame, head, state, theme);
    draw_table(frame, table, state, theme);
    draw_drops(frame, rest[0], state, theme);
    draw_maps(frame, rest[1], state, theme);
    draw_foot(frame, foot, state, theme);
    if state.mode == Mode::Help {
        draw_help(frame);
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let Some(figures) = &state.figures else {
        return frame.render_widget(Paragraph::new("Asking the daemon..."), area);
    };
    let mut lines = vec![who(state, figures, theme)];
    let rates = &state.rates;
    let width = usize::from(area.width / 2).saturating_sub(24);
    let cell = |name: &str, value: f64, trend: usize, style| {
        let shown = format!("  {name:<12}{:>6}  ", number(value));
        [Span::raw(shown), Span::styled(sparkline(&rates.trends[trend], width), style)]
    };
    let (packets, bytes) = (rates.all.packets.iter().sum(), rates.all.bytes.iter().sum());
    let drops = if rates.all_drops > 0.0 { theme.bad() } else { theme.trend() };
    let gap = [Span::raw("  ")];
    let pair = |left: [Span<'static>; 2], right: [Span<'static>; 2]| {
        left.into_iter().chain(gap.clone()).chain(right).collect::<Line<'static>>()
    };
    lines.push(pair(cell("CONN/S", rates.all.connections, 0, theme.trend()), cell("PKT/S", packets, 1, theme.trend())));
    lines.push(pair(cell("DROPS/S", rates.all_drops, 3, drops), cell("B/S", bytes, 2, theme.trend())));
    frame.render_widget(Paragraph::new(lines), area);
}

/// The first line: whose figures these are, and whether all is well.
fn who(state: &State, figures: &Figures, theme: Theme) -> Line<'static> {
    let up = age::duration((figures.uptime_ms / 1000) as i64);
    let mut line = vec![Span::styled(format!("lb-ctl {} on {}", figures.version, figures.node), Theme::title())];
    let (word, style) = if figures.ready { ("ready", theme.good()) } else { ("not ready", theme.bad()) };
    line.extend([Span::raw("  "), Span::styled(word, style), Span::raw(format!("  up {up}"))]);
    let flows = figures.maps.iter().filter(|map| is_flows(map)).map(|map| map.used / 2).sum::<u64>();
    line.push(Span::raw(format!("  {} flows", count(flows))));
    if figures.problems > 0 {
        let word = if figures.problems == 1 { "problem" } else { "problems" };
        line.push(Span::styled(format!("  {} {word}: lb-ctl status", figures.problems), theme.bad()));
    }
    if state.is_paused {
        line.push(Span::styled("  paused", Theme::title()));
    }
    Line::from(line)
}

fn is_flows(map: &MapFill) -> bool {
    use lb_common::maps::{FLOWS4, FLOWS6};
    [FLOWS4, FLOWS6].contains(&map.name.as_str())
}

fn block(title: String) -> Block<'static> {
    Block::new().borders(Borders::TOP).title(Span::styled(title, Theme::title()))
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, state: &mut State, theme: Theme) {
    state.page = usize::from(area.height.saturating_sub(2)).max(1);
    let rows = state.rows();
    let (count, selected) = (rows.len(), state.selected.min(rows.len().saturating_sub(1)));
    let title = match (state.tab, &state.of_service) {
        (Tab::Services, _) => format!(" Services ({count}) "),
        (Tab::Backends, None) => format!(" Backends ({count}) "),
        (Tab::Backends, Some((service, _))) => format!(" Backends of {service} ({count}) "),
    };
    let filter = if state.filter.is_empty() { String::new() } else { format!("/{} ", state.filter) };
    let block = block(format!("{title}{filter}"));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    if rows.is_empty() {
        return frame.render_widget(Paragraph::new(nothing(state)).wrap(Wrap { trim: true }), inner);
    }
    let is_wide = inner.width >= WIDE;
    let columns = columns(state.tab, inner.width);
    let taken: u16 = columns.iter().filter_map(|column| column.width(is_wide)).map(|width| width + 1).sum();
    let width = |column: &Column| usize::from(column.width(is_wide).unwrap_or(inner.width.saturating_sub(taken)));
    let mut head = String::new();
    for column in &columns {
        head += &lay(*column, column.title(state.tab), width(column));
    }
    let mut lines = vec![Line::styled(head, Theme::title())];
    // The marked row is always in sight.
    let first = selected.saturating_sub(state.page.saturating_sub(1));
    for (number, row) in rows.iter().enumerate().skip(first).take(state.page) {
        let cell = |column: &Column| {
            let text = lay(*column, &column.cell(row, width(column)), width(column));
            let style = match column {
                Column::Trend => theme.trend(),
                Column::Endpoints if row.endpoints.0 == 0 => theme.bad(),
                column if column.is_number() && text.trim() == "0" => theme.quiet(),
                _ => Style::new(),
            };
            Span::styled(text, style)
        };
        let marked = if number == selected { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        lines.push(columns.iter().map(cell).collect::<Line<'_>>().style(marked));
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

/// A cell with the blank that ends it; numbers stand at its right.
fn lay(column: Column, text: &str, width: usize) -> String {
    let text = fit(text, width);
    if column.is_number() { format!("{text:>width$} ") } else { format!("{text:<width$} ") }
}

/// What stands in place of an empty table.
fn nothing(state: &State) -> String {
    if !state.filter.is_empty() {
        return format!("No name contains `{}`. Esc shows all.", state.filter);
    }
    match (state.tab, &state.figures) {
        (_, None) => String::new(),
        (Tab::Services, _) => "No Service is served here yet: `lb-ctl apply -f FILE` brings one.".to_owned(),
        (Tab::Backends, _) => "No endpoint is known: see `lb-ctl get endpoints`.".to_owned(),
    }
}

fn draw_drops(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let block = block(" Drops by reason ".to_owned());
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let width = usize::from(inner.width).saturating_sub(40).clamp(6, 24);
    let line = |drops: &super::rates::Drops| {
        let style = if drops.rate > 0.0 { theme.bad() } else { theme.quiet() };
        Line::from(vec![
            Span::styled(fit(&format!("{:<20}", drops.reason), 20), style),
            Span::raw(format!("{:>6}/s ", number(drops.rate))),
            Span::styled(sparkline(&drops.trend, width), theme.trend()),
        ])
    };
    let mut lines: Vec<Line<'_>> = state.rates.drops.iter().map(line).collect();
    if lines.is_empty() {
        lines.push(Line::styled("none", theme.good()));
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

fn draw_maps(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let block = block(" Map fill ".to_owned());
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let Some(figures) = &state.figures else { return };
    let share = |used: u64, all: u64| if all == 0 { 0.0 } else { used as f64 / all as f64 };
    let mut bars: Vec<(String, f64, u64)> =
        figures.maps.iter().map(|map| (map.name.clone(), share(map.used, map.capacity), map.used)).collect();
    bars.extend(
        figures.lent.iter().map(|lent| (format!("NAT {}", lent.address), share(lent.used, lent.ports), lent.used)),
    );
    // The fullest first; of empty ones the flow tables, since these are what fills.
    bars.sort_by(|a, b| b.1.total_cmp(&a.1));
    let width = usize::from(inner.width).saturating_sub(NAME + 13).clamp(4, 24);
    let line = |(name, share, used): &(String, f64, u64)| {
        let style = if *share > FULL { theme.bad() } else { theme.good() };
        Line::from(vec![
            Span::raw(fit(&format!("{name:<NAME$}"), NAME)),
            Span::styled(format!(" {}", bar(*share, width)), style),
            Span::raw(format!("{:>4}%{:>6}", (share * 100.0) as u64, count(*used))),
        ])
    };
    let lines: Vec<Line<'_>> = bars.iter().map(line).collect();
    frame.render_widget(Paragraph::new(lines), inner);
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let line = match (&state.problem, state.mode) {
        (Some(problem), _) => Line::styled(fit(&format!("No news: {problem}"), usize::from(area.width)), theme.bad()),
        (None, Mode::Filter) => Line::from(format!("/{}_   Enter keeps the filter, Esc drops it", state.filter)),
        (None, _) => {
            let order = if state.is_reversed { ", reversed" } else { "" };
            let sort = format!("{:?}", state.sort).to_lowercase();
            Line::from(format!("by {sort}{order}   Tab services/backends  / filter  ? help  q quit"))
        }
    };
    frame.render_widget(Paragraph::new(line), area);
}

const HELP: &str = " Tab      Services, or backends
 Enter    the backends of the marked Service
 up down PgUp PgDn Home End   move the mark

 n e c p b   sort by name, endpoints, connections,
             packets, bytes
 r        the other way round
 /        show names that contain a text
 space    hold everything still
 Esc      back: all backends, all names, the shell
 q        quit

 Rates are of the last interval. Flows and map fill are
 as the sweeper counted them on its last round.
 Traffic of a backend is that of all its Services.";

fn draw_help(frame: &mut Frame<'_>) {
    let (width, height) = (60, HELP.lines().count() as u16 + 2);
    let area = frame.area().centered(Constraint::Length(width), Constraint::Length(height));
    let title = Span::styled(" lb-ctl top ", Theme::title());
    let block = Block::bordered().title(title).title_bottom(" any key ").title_alignment(Alignment::Center);
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(Text::from(HELP)).block(block), area);
}
