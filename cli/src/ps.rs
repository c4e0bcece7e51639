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
}

/// Prints the running guests.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut guests = guests::running()?;
    let networks = networks();
    for guest in &mut guests {
        // The record says how it began; its network knows how it is.
        if let Some(mode) = of(&networks, guest).and_then(|known| known["mode"].as_str()) {
            guest.mode = mode.into();
        }
    }
    if args.json {
        return print_json(&guests, &networks);
    }
    let header = ["NAME", "PID", "UP", "NETWORK", "MODE", "ADDRESS", "PORTS", "COMMAND"].map(String::from);
    let mut rows = vec![header];
    for guest in guests {
        rows.push([
            guest.name,
            guest.pid.to_string(),
            up_for(guest.started),
            guest.network,
            guest.mode,
            guest.address.unwrap_or_else(|| "-".into()),
            if guest.ports.is_empty() { "-".into() } else { guest.ports.join(",") },
            guest.command.join(" "),
        ]);
    }
    print_table(&rows);
    Ok(ExitCode::SUCCESS)
}

/// What each network with a name says of itself.
fn networks() -> Vec<Value> {
    let Ok(dir) = guests::runtime_dir() else { return Vec::new() };
    let names = client::networks(&dir).into_iter();
    names.filter_map(|name| serde_json::from_str(&client::status(&dir, &name).ok()?).ok()).collect()
}

/// What a guest's network says of it.
fn of<'a>(networks: &'a [Value], guest: &Guest) -> Option<&'a Value> {
    let network = networks.iter().find(|network| network["name"] == *guest.network)?;
    network["guests"].as_array()?.iter().find(|known| known["name"] == *guest.name)
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
    match now.saturating_sub(started) {
        s @ 0..=119 => format!("{s}s"),
        s @ 120..=7199 => format!("{}m", s / 60),
        s @ 7200..=172_799 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}
