//! Figures, the table, and compat-tests/bench/RESULTS.md.

use crate::process::workspace;
use std::fmt::Write;
use std::fs;
use std::process::Command;

/// A median with the spread it comes from.
#[derive(Clone)]
pub(crate) struct Figure {
    median: f64,
    least: f64,
    most: f64,
}

impl Figure {
    pub(crate) fn of(mut values: Vec<f64>) -> Figure {
        values.sort_by(f64::total_cmp);
        Figure { median: values[values.len() / 2], least: values[0], most: values[values.len() - 1] }
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.median >= 100.0 { 0 } else { 2 };
        let Figure { median, least, most } = self;
        match least == most {
            true => write!(f, "{median:.digits$}"),
            false => write!(f, "{median:.digits$} ({least:.digits$} to {most:.digits$})"),
        }
    }
}

/// A line of the table.
pub(crate) struct Row {
    name: String,
    native: Figure,
    guest: Figure,
    /// More is better unless said otherwise.
    less: bool,
    /// How many times better than native it is meant to be.
    aim: Option<f64>,
}

impl Row {
    pub(crate) fn new(name: String, native: Figure, guest: Figure) -> Row {
        Row { name, native, guest, less: false, aim: None }
    }

    /// A row of a cost.
    pub(crate) fn less_is_better(self) -> Row {
        Row { less: true, ..self }
    }

    pub(crate) fn with_aim(self, aim: f64) -> Row {
        Row { aim: Some(aim), ..self }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn aim(&self) -> Option<f64> {
        self.aim
    }

    /// How many times better than native.
    pub(crate) fn advantage(&self) -> f64 {
        let ratio = self.guest.median / self.native.median;
        if self.less { 1.0 / ratio } else { ratio }
    }
}

/// The table, as Markdown.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| | native | Attacca | Attacca / native | times better | aim |\n| --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for row in rows {
        let Row { name, native, guest, .. } = row;
        let (ratio, better) = (guest.median / native.median, row.advantage());
        let aim = row.aim.map_or(String::new(), |aim| format!("{aim}"));
        let _ = writeln!(text, "| {name} | {native} | {guest} | {ratio:.2} | {better:.2} | {aim} |");
    }
    text
}

const PROFILE: &str = "## What the profile says";

/// Writes the table with the machine's facts; what people wrote below "What the profile says" stays.
pub(crate) fn record(rows: &[Row], rounds: usize, seconds: u64) -> Result<(), String> {
    let picture = workspace().join("compat-tests/bench/results.svg");
    fs::write(&picture, crate::plot::draw(rows))
        .map_err(|error| format!("{}: {error}", picture.display()))?;
    let table = table(rows);
    let path = workspace().join("compat-tests/bench/RESULTS.md");
    let old = fs::read_to_string(&path).unwrap_or_default();
    let profile =
        old.find(PROFILE).map_or("(not written yet)\n", |at| old[at + PROFILE.len()..].trim_start());
    let text = format!(
        "# Native and Attacca side by side\n\nWritten by `cargo xtask bench`. {}\n\nBoth sides run the same Debian \
         binaries, natively with the ld.so and the libraries of their package, over 127.0.0.1; a guest's port is \
         published (`-p`). They are loaded in turn, {rounds} rounds of {seconds} s each after one that does not \
         count; a figure is the median (least to most). Clients run on the same machine. Server CPU is that of \
         all processes of a side: for Attacca the guest, its network server and the supervisor; what the \
         host's kernel does on a process's behalf counts as that process's. Rows \"guest to guest\" have \
         both ends in guests of one network, natively both over loopback; there CPU is that of both ends.\n\n\
         ![Attacca against native](results.svg)\n\n{table}\n{PROFILE}\n\n{profile}",
        facts()
    );
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn facts() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|l| l.starts_with(name)).and_then(|l| l.split_once(':'));
        line.map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(workspace()).output();
        output.map_or(String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let memory: u64 = field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    format!(
        "{}, commit {}; {} CPUs ({}), {} GiB, Linux {}.",
        run("date", &["-u", "+%Y-%m-%d"]),
        run("git", &["rev-parse", "--short", "HEAD"]),
        cores,
        field(&read("/proc/cpuinfo"), "model name"),
        memory >> 20,
        read("/proc/sys/kernel/osrelease").trim(),
    )
}

/// Replaces a section of RESULTS.md, or appends it: from its heading to the next of the same rank.
pub(crate) fn record_section(heading: &str, text: &str) -> Result<(), String> {
    let path = workspace().join("compat-tests/bench/RESULTS.md");
    let old = fs::read_to_string(&path).unwrap_or_default();
    let (before, after) = match old.find(heading) {
        Some(at) => {
            let rest = &old[at + heading.len()..];
            (&old[..at], rest.find("\n## ").map_or("", |end| &rest[end + 1..]))
        }
        None => (old.as_str(), ""),
    };
    let before = before.trim_end();
    let text = format!("{before}\n\n{heading}\n\n{}\n\n{text}\n{after}", facts());
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}
