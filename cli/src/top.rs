//! `attacca top`: what the guests of named networks do on the network, second by second.
//!
//! Networks are asked for their status; rates are the differences between two answers. Drawing is a function of two
//! samples, so that it is tested without a terminal.

use crate::error::{Failure, OrFail, Result};
use crate::guests;
use crate::ps;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table};
use serde_json::Value;
use std::collections::HashMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Arguments of `attacca top`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds between two looks
    #[arg(short, long, value_name = "S", default_value_t = 1.0)]
    interval: f64,
    /// Print one table after one interval and end: needs no terminal
    #[arg(long)]
    once: bool,
}

/// Shows it until q is pressed.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let interval = Duration::from_secs_f64(args.interval.clamp(0.1, 3600.0));
    if args.once {
        let first = Sample::take()?;
        std::thread::sleep(interval);
        for line in plain(&Sample::take()?.rows(&first)) {
            println!("{line}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !std::io::stdout().is_terminal() {
        return Err(Failure::new("standard output is no terminal: use --once"));
    }
    let mut terminal = ratatui::try_init().or_fail("cannot use the terminal")?;
    let outcome = watch(&mut terminal, interval);
    ratatui::restore();
    outcome.map(|()| ExitCode::SUCCESS)
}

fn watch(terminal: &mut ratatui::DefaultTerminal, interval: Duration) -> Result<()> {
    let mut before = Sample::take()?;
    let mut rows = before.rows(&before);
    loop {
        terminal.draw(|frame| draw(frame, &rows)).or_fail("cannot draw")?;
        let until = Instant::now() + interval;
        while event::poll(until.saturating_duration_since(Instant::now())).or_fail("the terminal is gone")? {
            match event::read().or_fail("the terminal is gone")? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    let control = key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                        KeyCode::Char('c') if control => return Ok(()),
                        _ => {}
                    }
                }
                Event::Resize(..) => {
                    terminal.draw(|frame| draw(frame, &rows)).or_fail("cannot draw")?;
                }
                _ => {}
            }
        }
        let now = Sample::take()?;
        rows = now.rows(&before);
        before = now;
    }
}

/// What the networks said, and when.
struct Sample {
    at: Instant,
    guests: Vec<Known>,
}

/// What is known of a guest.
#[derive(Clone, Default)]
struct Known {
    name: String,
    network: String,
    mode: String,
    since_ms: Option<u64>,
    /// Received and sent: over the ring, over direct devices.
    frames: [u64; 4],
    bytes: [u64; 4],
    drops: u64,
    retransmissions: u64,
    switches: u64,
    recoveries: u64,
    gap_us: Option<f64>,
}

impl Sample {
    fn take() -> Result<Sample> {
        let guests = guests::running()?;
        let networks = ps::networks(&guests);
        let known = |guest: &guests::Guest| {
            let found = ps::of(&networks, guest);
            Known::read(guest, found)
        };
        Ok(Sample { at: Instant::now(), guests: guests.iter().map(known).collect() })
    }

    /// The table's cells.
    fn rows(&self, before: &Sample) -> Vec<[String; COLUMNS]> {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let earlier: HashMap<&str, &Known> = before.guests.iter().map(|g| (g.name.as_str(), g)).collect();
        let row = |guest: &Known| {
            // A guest that is new has no rate yet.
            let was = earlier.get(guest.name.as_str()).copied().unwrap_or(guest);
            guest.row(was, seconds)
        };
        self.guests.iter().map(row).collect()
    }
}

const COLUMNS: usize = 13;
const TITLES: [&str; COLUMNS] = [
    "GUEST",
    "NETWORK",
    "MODE",
    "SINCE",
    "RX/s",
    "TX/s",
    "RX B/s",
    "TX B/s",
    "DROPS",
    "RESENT",
    "SWITCHES",
    "RECOVERIES",
    "LAST GAP",
];

impl Known {
    fn read(guest: &guests::Guest, status: Option<&Value>) -> Known {
        let mut known = Known {
            name: guest.name.clone(),
            network: guest.network.clone(),
            mode: guest.mode.clone(),
            ..Known::default()
        };
        let Some(status) = status else { return known };
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        if let Some(mode) = status["mode"].as_str() {
            known.mode = mode.into();
        }
        known.since_ms = status["switching"]["since_ms"].as_u64();
        let counters = &status["counters"];
        for (at, mode) in [(0, "server"), (2, "direct")] {
            let of = |key: &str| number(&counters[mode][key]);
            known.frames[at..at + 2].copy_from_slice(&[of("frames_received"), of("frames_sent")]);
            known.bytes[at..at + 2].copy_from_slice(&[of("bytes_received"), of("bytes_sent")]);
        }
        let drops = status["drops"].as_object();
        known.drops = drops.into_iter().flatten().map(|(_, count)| number(count)).sum();
        known.retransmissions = number(&counters["retransmissions"]);
        known.switches = number(&counters["switches"]);
        known.recoveries = number(&counters["recoveries"]);
        known.gap_us = counters["last_gap_us"].as_f64().filter(|_| known.switches != 0);
        known
    }

    fn row(&self, was: &Known, seconds: f64) -> [String; COLUMNS] {
        let rate = |now: [u64; 4], then: [u64; 4], at: usize| {
            let more = (now[at] + now[at + 2]).saturating_sub(then[at] + then[at + 2]);
            if seconds > 0.0 { short(more as f64 / seconds) } else { "-".into() }
        };
        [
            self.name.clone(),
            self.network.clone(),
            self.mode.clone(),
            self.since_ms.map_or("-".into(), |ms| format!("{}s", ms / 1000)),
            rate(self.frames, was.frames, 0),
            rate(self.frames, was.frames, 1),
            rate(self.bytes, was.bytes, 0),
            rate(self.bytes, was.bytes, 1),
            self.drops.to_string(),
            self.retransmissions.to_string(),
            self.switches.to_string(),
            self.recoveries.to_string(),
            self.gap_us.map_or("-".into(), |us| format!("{us:.0}us")),
        ]
    }
}

/// Three figures: 999, 12.3k, 4.56M.
fn short(value: f64) -> String {
    match value {
        v if v < 1e3 => format!("{v:.0}"),
        v if v < 1e6 => format!("{:.1}k", v / 1e3),
        v if v < 1e9 => format!("{:.1}M", v / 1e6),
        v => format!("{:.1}G", v / 1e9),
    }
}

fn widths(rows: &[[String; COLUMNS]]) -> [usize; COLUMNS] {
    std::array::from_fn(|at| rows.iter().map(|r| r[at].len()).max().unwrap_or(0).max(TITLES[at].len()))
}

fn draw(frame: &mut Frame<'_>, rows: &[[String; COLUMNS]]) {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(frame.area());
    let direct = rows.iter().filter(|row| row[2] == "direct").count();
    let words = format!("attacca: {} guests, {direct} direct (q: quit)", rows.len());
    frame.render_widget(Line::from(words).style(Modifier::BOLD), head);
    let titles = Row::new(TITLES).style(Style::new().add_modifier(Modifier::REVERSED));
    let line = |row: &[String; COLUMNS]| {
        let style = if row[2] == "direct" { Style::new().fg(Color::Green) } else { Style::new() };
        Row::new(row.iter().map(|cell| Cell::from(cell.clone()))).style(style)
    };
    let widths = widths(rows).map(|width| Constraint::Length(width as u16));
    frame.render_widget(Table::new(rows.iter().map(line), widths).header(titles), body);
}

fn plain(rows: &[[String; COLUMNS]]) -> Vec<String> {
    let widths = widths(rows);
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let all = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(TITLES.to_vec())).chain(all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn sample(at: Instant, frames: u64, mode: &str) -> Sample {
        let guest = Known {
            name: "web".into(),
            network: "lan".into(),
            mode: mode.into(),
            since_ms: Some(12_345),
            frames: [frames, 2 * frames, 10 * frames, 0],
            switches: 3,
            gap_us: Some(42.4),
            ..Known::default()
        };
        Sample { at, guests: vec![guest] }
    }

    #[test]
    fn rates_are_drawn() {
        let begin = Instant::now();
        let (then, now) =
            (sample(begin, 1000, "direct"), sample(begin + Duration::from_secs(2), 3000, "direct"));
        let rows = now.rows(&then);
        let mut terminal = Terminal::new(TestBackend::new(110, 5)).unwrap();
        terminal.draw(|frame| draw(frame, &rows)).unwrap();
        let screen = terminal.backend().to_string();
        for words in ["1 guests, 1 direct", "LAST GAP", "web", "lan", "12s", "11.0k", "2.0k", "42us"] {
            assert!(screen.contains(words), "{words}: {screen}");
        }
    }

    #[test]
    fn a_guest_that_came_or_was_replaced_has_no_wild_rate() {
        let begin = Instant::now();
        let none = Sample { at: begin, guests: Vec::new() };
        let now = sample(begin + Duration::from_secs(1), 5000, "server");
        assert_eq!(now.rows(&none)[0][4], "0");
        // A guest of the same name that began anew has counted less.
        let later = sample(begin + Duration::from_secs(2), 10, "server");
        assert_eq!(later.rows(&now)[0][4], "0");
        assert_eq!(plain(&later.rows(&now)).len(), 2);
    }
}
