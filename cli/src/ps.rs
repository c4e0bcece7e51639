//! `attacca ps [--json]`: the running guests.

use crate::error::{OrFail, Result};
use crate::guests::{self, Guest};
use netserver::client;
use serde_json::Value;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Arguments of `attacca ps`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
    /// Show how each guest reaches its network: mode, since when, why, frames by mode
    #[arg(short, long, conflicts_with = "json")]
    modes: bool,
}

/// Prints the running guests.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut guests = guests::running()?;
    let networks = networks(&guests);
    for guest in &mut guests {
        // The record says how it began; its network knows how it is.
        if let Some(mode) = of(&networks, guest).and_then(|known| known["mode"].as_str()) {
            guest.mode = mode.into();
        }
    }
    if args.json {
        return print_json(&guests, &networks);
    }
    if args.modes {
        print_modes(&guests, &networks);
        return Ok(ExitCode::SUCCESS);
    }
    let header =
        ["NAME", "PID", "UP", "NETWORK", "MODE", "SINCE", "ADDRESS", "PORTS", "COMMAND"].map(String::from);
    let mut rows = vec![header];
    for guest in guests {
        let since = since(of(&networks, &guest));
        rows.push([
            guest.name,
            guest.pid.to_string(),
            up_for(guest.started),
            guest.network,
            guest.mode,
            since,
            guest.address.unwrap_or_else(|| "-".into()),
            if guest.ports.is_empty() { "-".into() } else { guest.ports.join(",") },
            guest.command.join(" "),
        ]);
    }
    print_table(&rows);
    Ok(ExitCode::SUCCESS)
}

/// What each network says of itself: those with a name, then those of one guest.
pub(crate) fn networks(guests: &[Guest]) -> Vec<Value> {
    let Ok(dir) = guests::runtime_dir() else { return Vec::new() };
    let named = client::networks(&dir).into_iter();
    let own = guests.iter().filter(|guest| guest.network == guests::OWN);
    let names = named.chain(own.map(|guest| client::own_network(&guest.name)));
    names.filter_map(|name| serde_json::from_str(&client::status(&dir, &name).ok()?).ok()).collect()
}

/// What a guest's network says of it.
pub(crate) fn of<'a>(networks: &'a [Value], guest: &Guest) -> Option<&'a Value> {
    let has =
        |network: &'a Value| network["guests"].as_array()?.iter().find(|known| known["name"] == *guest.name);
    // A guest's own network is called like the guest.
    let name = if guest.network == guests::OWN { &guest.name } else { &guest.network };
    networks.iter().filter(|network| network["name"] == **name).find_map(has)
}

/// The records, with what the networks add: since when and why the mode is what it is, counters.
fn print_json(guests: &[Guest], networks: &[Value]) -> Result<ExitCode> {
    let mut all = Vec::new();
    for guest in guests {
        let mut value = serde_json::to_value(guest).or_fail("cannot print")?;
        if let Some(known) = of(networks, guest) {
            for key in
                ["switching", "counters", "frames_from", "frames_to", "bytes_from", "bytes_to", "drops"]
            {
                value[key] = known[key].clone();
            }
        }
        all.push(value);
    }
    println!("{}", serde_json::to_string_pretty(&all).or_fail("cannot print")?);
    Ok(ExitCode::SUCCESS)
}

/// How guests reach their networks.
fn print_modes(guests: &[Guest], networks: &[Value]) {
    let header = ["NAME", "MODE", "SINCE", "SERVER RX/TX", "DIRECT RX/TX", "SWITCHES", "LAST GAP", "WHY"];
    let mut rows = vec![header.map(String::from)];
    for guest in guests {
        let known = of(networks, guest);
        let counters = known.map(|known| &known["counters"]).filter(|counters| counters.is_object());
        let frames = |mode: &str| {
            let count = |key: &str| counters.map_or("-".into(), |counters| counters[mode][key].to_string());
            format!("{}/{}", count("frames_received"), count("frames_sent"))
        };
        let switches = counters.and_then(|counters| counters["switches"].as_u64());
        let gap = counters.and_then(|counters| counters["last_gap_us"].as_f64());
        let gap = gap.filter(|_| switches != Some(0)).map_or("-".into(), |us| format!("{us:.0}us"));
        let why = known.and_then(|known| known["switching"]["why"].as_str());
        rows.push([
            guest.name.clone(),
            guest.mode.clone(),
            since(known),
            frames("server"),
            frames("direct"),
            switches.map_or("-".into(), |count| count.to_string()),
            gap,
            why.unwrap_or("so it began").into(),
        ]);
    }
    print_table(&rows);
}

/// How long the mode has been what it is.
fn since(known: Option<&Value>) -> String {
    let ms = known.and_then(|known| known["switching"]["since_ms"].as_u64());
    ms.map_or("-".into(), |ms| span(ms / 1000))
}

fn print_table<const N: usize>(rows: &[[String; N]]) {
    let width: Vec<usize> =
        (0..N).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&width) {
            line += &format!("{cell:<width$}  ");
        }
        println!("{}", line.trim_end());
    }
}

/// "12s", "5m", "3h", "2d": how long ago.
fn up_for(started: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    span(now.saturating_sub(started))
}

fn span(seconds: u64) -> String {
    match seconds {
        s @ 0..=119 => format!("{s}s"),
        s @ 120..=7199 => format!("{}m", s / 60),
        s @ 7200..=172_799 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}
