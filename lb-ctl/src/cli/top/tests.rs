use super::state::{State, Tab, Then};
use super::text;
use super::view::{self, Theme};
use crate::api::description::Counters;
use crate::api::{ClientError, MapFill};
use crate::cli::args::Sort;
use crate::figures::{BackendFigures, Endpoints, Figures, LentFigures, ReasonFigures, ServiceFigures};
use crate::objects::Protocol;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};
use std::io;
use std::net::IpAddr;

/// Traffic after so many seconds at so many packets a second, that comes in waves.
fn traffic(second: u64, rate: u64) -> Counters {
    let waves = [12, 9, 7, 6, 8, 11, 13, 14];
    let packets = (0..second as usize).map(|second| rate * waves[second % waves.len()] / 10).sum::<u64>();
    Counters {
        connections: packets / 10,
        packets,
        bytes: packets * 100,
        reply_packets: packets,
        reply_bytes: packets * 1400,
    }
}

fn service(name: &str, port: &str, backends: &[u8], unused: u64, traffic: Counters) -> ServiceFigures {
    let addresses = backends.iter().map(|last| IpAddr::from([10, 244, 0, *last])).collect();
    ServiceFigures {
        namespace: "shop".to_owned(),
        service: name.to_owned(),
        port: port.to_owned(),
        protocol: Protocol::TCP,
        endpoints: Endpoints { used: backends.len() as u64, unused, addresses },
        traffic,
    }
}

/// A node at this second of its life: a busy Service, an idle one, one without endpoints.
fn figures(second: u64) -> Figures {
    let backend = |last: u8, pod: &str, rate| BackendFigures {
        address: IpAddr::from([10, 244, 0, last]),
        pod: format!("shop/{pod}"),
        traffic: traffic(second, rate),
    };
    let reason =
        |name: &str, drop, packets| ReasonFigures { reason: name.to_owned(), drop, packets, bytes: 60 * packets };
    let map = |name: &str, used, capacity| MapFill { name: name.to_owned(), used, capacity };
    Figures {
        version: "0.1.0".to_owned(),
        node: "node-1".to_owned(),
        uptime_ms: second * 1000,
        ready: true,
        services: vec![
            service("checkout", "http", &[], 2, Counters::default()),
            service("front", "http", &[5, 6], 1, traffic(second, 1200)),
            service("front", "metrics", &[5, 6], 1, Counters::default()),
            service("search-for-everything-that-is-sold", "grpc", &[7], 0, traffic(second, 35)),
        ],
        backends: vec![backend(5, "front-1", 700), backend(6, "front-2", 500), backend(7, "search-0", 35)],
        reasons: vec![
            reason("forwarded", false, 1200 * second),
            reason("no-backend", true, 3 * second),
            reason("no-service-port", true, 17),
        ],
        maps: vec![
            map("FLOWS4", 2400, 262_144),
            map("AFFINITY", 120_000, 131_072),
            map("FLOWS6", 0, 262_144),
            map("SERVICES", 8, 65_536),
            map("SLOTS", 70_000, 1_048_576),
        ],
        lent: vec![LentFigures { address: IpAddr::from([192, 0, 2, 10]), ports: 28_976, used: 300, fullest: None }],
        ..Figures::default()
    }
}

fn running(from: u64, to: u64) -> State {
    let mut state = State::new(Sort::default(), String::new());
    (from..=to).for_each(|second| state.took(Ok(figures(second))));
    state
}

fn draw(state: &mut State, width: u16, height: u16) -> String {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| view::draw(frame, state, Theme::Plain));
    terminal.backend().to_string()
}

fn press(state: &mut State, keys: &[KeyCode]) -> Then {
    keys.iter().map(|key| state.press(KeyEvent::new(*key, KeyModifiers::NONE))).last().unwrap_or(Then::Continue)
}

fn typed(text: &str) -> Vec<KeyCode> {
    text.chars().map(KeyCode::Char).collect()
}

fn gone() -> ClientError {
    ClientError::NotRunning {
        socket: "/run/lb-ctl/default.sock".into(),
        source: io::ErrorKind::ConnectionRefused.into(),
    }
}

#[test]
fn a_busy_node_fits_a_small_terminal() {
    insta::assert_snapshot!(draw(&mut running(100, 130), 80, 24));
}

#[test]
fn a_large_terminal_shows_more() {
    insta::assert_snapshot!(draw(&mut running(100, 160), 200, 50));
}

#[test]
fn an_empty_node_says_what_to_do() {
    let mut state = State::new(Sort::default(), String::new());
    let empty = |uptime_ms| Figures { ready: true, node: "node-1".to_owned(), uptime_ms, ..Figures::default() };
    state.took(Ok(empty(1000)));
    state.took(Ok(empty(2000)));
    insta::assert_snapshot!(draw(&mut state, 80, 24));
    insta::assert_snapshot!(text::table(&state), @r"
    No Services.

    No endpoints.
    ");
}

#[test]
fn a_daemon_that_goes_away_is_told_and_what_was_known_stays() {
    let mut state = running(100, 110);
    state.took(Err(gone()));
    let screen = draw(&mut state, 80, 24);
    assert!(screen.contains("shop/front:http/TCP") && screen.contains("No news: no lb-ctl daemon"), "{screen}");
    // Another one begins anew: what it has not yet done is not taken for a step back.
    state.took(Ok(figures(1)));
    assert!(state.rates.all.connections.abs() < f64::EPSILON);
    state.took(Ok(figures(2)));
    let screen = draw(&mut state, 80, 24);
    assert!(!screen.contains("No news") && state.rates.all.connections > 100.0, "{screen}");
}

#[test]
fn help_lies_above_everything() {
    let mut state = running(100, 110);
    press(&mut state, &[KeyCode::Char('?')]);
    insta::assert_snapshot!(draw(&mut state, 80, 24));
    assert_eq!(press(&mut state, &[KeyCode::Char('q')]), Then::Continue, "any key ends the help, and nothing else");
    assert!(!draw(&mut state, 80, 24).contains("any key"));
}

#[test]
fn rows_are_sorted_filtered_and_marked_by_keys() {
    let mut state = running(100, 110);
    let names = |state: &State| state.rows().iter().map(|row| row.name.clone()).collect::<Vec<_>>();
    let (front, search) = ("shop/front:http/TCP", "shop/search-for-everything-that-is-sold:grpc/TCP");
    assert_eq!(names(&state)[0], front);
    press(&mut state, &typed("n"));
    assert_eq!(names(&state)[0], "shop/checkout:http/TCP");
    press(&mut state, &typed("r"));
    assert_eq!(names(&state)[0], search);
    press(&mut state, &typed("e"));
    assert_eq!((names(&state)[0].as_str(), state.is_reversed), (front, false));
    press(&mut state, &typed("/SEARCH"));
    assert!(draw(&mut state, 80, 24).contains("/SEARCH_"));
    press(&mut state, &[KeyCode::Backspace, KeyCode::Enter]);
    assert_eq!((names(&state), state.filter.as_str()), (vec![search.to_owned()], "SEARC"));
    press(&mut state, &[KeyCode::Tab]);
    assert_eq!(names(&state), ["10.244.0.7"], "the endpoints of what was searched for");
    press(&mut state, &[KeyCode::Tab, KeyCode::Esc]);
    assert_eq!((names(&state).len(), state.filter.as_str()), (4, ""));
    press(&mut state, &typed("/nowhere"));
    press(&mut state, &[KeyCode::Enter]);
    assert!(draw(&mut state, 80, 24).contains("No name contains `nowhere`"));
    assert_eq!(press(&mut state, &[KeyCode::Enter, KeyCode::Down, KeyCode::PageUp, KeyCode::End]), Then::Continue);
    assert_eq!(press(&mut state, &[KeyCode::Esc]), Then::Continue);
    assert_eq!(press(&mut state, &[KeyCode::Esc]), Then::Quit);
    assert_eq!(state.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Then::Quit);
}

#[test]
fn a_marked_service_opens_into_its_backends() {
    let mut state = running(100, 110);
    press(&mut state, &typed("n"));
    press(&mut state, &[KeyCode::Down, KeyCode::Enter]);
    let screen = draw(&mut state, 80, 24);
    assert!(screen.contains("Backends of shop/front:http/TCP (2)") && screen.contains("shop/front-2"), "{screen}");
    press(&mut state, &[KeyCode::Esc]);
    assert_eq!((state.tab, state.of_service.is_none()), (Tab::Services, true));
}

#[test]
fn the_mark_stays_in_sight_of_many_rows() {
    let mut state = State::new(Sort::Name, String::new());
    let services = (0..500).map(|number| service(&format!("s{number:03}"), "http", &[5], 0, Counters::default()));
    let all = Figures { services: services.collect(), ..figures(5) };
    state.took(Ok(all));
    draw(&mut state, 80, 24);
    for (key, shown) in [
        (KeyCode::End, "s499"),
        (KeyCode::PageUp, "s489"),
        (KeyCode::Home, "s000"),
        (KeyCode::Down, "s001"),
        (KeyCode::PageDown, "s011"),
    ] {
        press(&mut state, &[key]);
        let Ok(mut terminal) = Terminal::new(TestBackend::new(80, 24));
        let Ok(_) = terminal.draw(|frame| view::draw(frame, &mut state, Theme::Plain));
        let buffer = terminal.backend().buffer();
        let marked = buffer.content().iter().filter(|cell| cell.modifier.contains(Modifier::REVERSED));
        let marked: String = marked.map(ratatui::buffer::Cell::symbol).collect();
        assert!(marked.contains(shown), "{key:?}: {marked}");
    }
}

#[test]
fn nothing_moves_while_it_is_held() {
    let mut state = running(100, 110);
    press(&mut state, &typed(" "));
    let before = draw(&mut state, 80, 24);
    state.took(Ok(figures(300)));
    assert_eq!(draw(&mut state, 80, 24), before);
    assert!(before.contains("paused"));
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let colours = |theme| {
        let mut state = running(100, 110);
        let Ok(mut terminal) = Terminal::new(TestBackend::new(80, 24));
        let Ok(_) = terminal.draw(|frame| view::draw(frame, &mut state, theme));
        terminal.backend().buffer().content().iter().filter(|cell| cell.fg != Color::Reset).count()
    };
    assert_eq!(colours(Theme::Plain), 0);
    assert!(colours(Theme::Coloured) > 50);
}

#[test]
fn every_size_is_drawn() {
    let mut state = running(100, 110);
    for (width, height) in [(1, 1), (10, 5), (79, 23), (110, 10), (171, 30), (172, 30), (400, 100)] {
        draw(&mut state, width, height);
        press(&mut state, &[KeyCode::Char('?')]);
        draw(&mut state, width, height);
        press(&mut state, &[KeyCode::Esc, KeyCode::Tab]);
    }
}

#[test]
fn a_pipe_gets_tables() {
    insta::assert_snapshot!(text::table(&running(100, 101)));
    let mut state = State::new(Sort::Name, "search".to_owned());
    (1..3).for_each(|second| state.took(Ok(figures(second))));
    let shown = text::table(&state);
    assert!(shown.contains("search-for-everything-that-is-sold:grpc/TCP") && shown.contains("10.244.0.7"), "{shown}");
    assert!(!shown.contains("front"), "{shown}");
}
