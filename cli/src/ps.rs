//! `attacca ps [--json]`: the running guests.

use crate::error::{OrFail, Result};
use crate::guests;
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
    let guests = guests::running()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&guests).or_fail("cannot print")?);
        return Ok(ExitCode::SUCCESS);
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
