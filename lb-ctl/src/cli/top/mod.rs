//! `top`: what the datapath does at the moment, live in the terminal, or as a table of text.
//!
//! The daemon is asked for its [`Figures`](crate::figures::Figures) now and then ([`poll`]); [`rates`] makes figures a second
//! of two of them, [`state`] is what the user has chosen, and [`view`] draws both. Drawing is a function of the state alone, so
//! that tests see what a user sees.

mod poll;
mod rates;
mod spark;
mod state;
mod table;
mod terminal;
mod text;
mod view;

#[cfg(test)]
mod tests;

use super::args::Top as Arguments;
use super::output::Output;
use super::{Failed, SUCCESS};
use crate::api::Client;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use state::State;
use std::io::IsTerminal as _;
use std::time::Duration;
use view::Theme;

pub(super) async fn run(client: &Client, arguments: &Arguments, out: &mut Output) -> Result<u8, Failed> {
    let mut state = State::new(arguments.sort, arguments.service.clone().unwrap_or_default());
    let interval = Duration::from_secs(arguments.interval.into());
    if let Some(count) = arguments.frames {
        return frames(client, &mut state, interval, count, arguments.size, out).await;
    }
    if arguments.once || !std::io::stdout().is_terminal() {
        // Figures a second take two readings.
        state.took(Ok(client.figures().await?));
        tokio::time::sleep(interval).await;
        state.took(Ok(client.figures().await?));
        out.text(&text::table(&state))?;
        return Ok(SUCCESS);
    }
    // Whoever has no daemon is told so in the usual way, before the screen is cleared.
    state.took(Ok(client.figures().await?));
    terminal::run(client, state, interval, Theme::of_environment()).await?;
    Ok(SUCCESS)
}

/// Writes what a terminal of this size would show, so many times: for documents and for whoever has no terminal.
async fn frames(
    client: &Client,
    state: &mut State,
    interval: Duration,
    count: u16,
    (width, height): (u16, u16),
    out: &mut Output,
) -> Result<u8, Failed> {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    state.took(Ok(client.figures().await?));
    for number in 0..count {
        tokio::time::sleep(interval).await;
        state.took(client.figures().await);
        let Ok(_) = terminal.draw(|frame| view::draw(frame, state, Theme::Plain));
        if number > 0 {
            out.line(format_args!(""))?;
        }
        let buffer = terminal.backend().buffer();
        let lines = buffer.content().chunks(usize::from(width));
        for line in lines {
            let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
            out.line(format_args!("{}", line.trim_end()))?;
        }
    }
    Ok(SUCCESS)
}
