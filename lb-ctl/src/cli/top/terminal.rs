//! The terminal: keys in, pictures out, and everything as it was at the end.

use super::poll;
use super::state::{State, Then};
use super::view::{self, Theme};
use crate::api::Client;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use std::io;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Shows the figures until the user has seen enough.
pub(super) async fn run(client: &Client, state: State, interval: Duration, theme: Theme) -> io::Result<()> {
    // It is restored by a panic too.
    let mut terminal = ratatui::try_init()?;
    let done = show(&mut terminal, client, state, interval, theme).await;
    ratatui::try_restore()?;
    done
}

async fn show(
    terminal: &mut DefaultTerminal,
    client: &Client,
    mut state: State,
    interval: Duration,
    theme: Theme,
) -> io::Result<()> {
    let mut answers = poll::start(client.clone(), interval);
    let mut events = events();
    let (mut terminated, mut hung_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    // The key is one like others here; this is one that somebody else sends.
    let mut interrupted = signal(SignalKind::interrupt())?;
    loop {
        terminal.draw(|frame| view::draw(frame, &mut state, theme))?;
        tokio::select! {
            _ = terminated.recv() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
            _ = interrupted.recv() => return Ok(()),
            Some(answer) = answers.recv() => state.took(answer),
            event = events.recv() => match event {
                // The terminal is gone.
                None => return Ok(()),
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if state.press(key) == Then::Quit {
                        return Ok(());
                    }
                }
                // Another size; it is drawn anew in any case.
                Some(_) => {}
            },
        }
    }
}

/// What happens at the terminal. Reading it waits, so that is done by a thread, which ends with the process.
fn events() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}
