//! `cargo xtask bench libc` and `bench processes`: a C program of compat-tests/bench, one binary, natively (bound to
//! glibc, over the host's kernel) and as a guest, in turn. A figure is the median of the rounds; each round gives the
//! least, or the median, of several passes.

use crate::process::{Bench, workspace};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

type Result<T> = std::result::Result<T, String>;

/// A program that prints a name and a time for each of its cases.
pub(crate) struct Program {
    source: &'static str,
    heading: &'static str,
    unit: &'static str,
    flags: &'static [&'static str],
}

/// The C library's functions.
pub(crate) const LIBC: Program = Program {
    source: "libc.c",
    heading: "## The C library, function by function",
    unit: "ns",
    flags: &["-fno-builtin"],
};

/// Making processes, and talking between them.
pub(crate) const PROCESSES: Program =
    Program { source: "processes.c", heading: "## Processes", unit: "µs", flags: &[] };

/// Times by case, a value for each round.
type Figures = BTreeMap<String, Vec<f64>>;

/// Runs it; `args` may be `--rounds N` and a word that the names of cases must hold (then nothing is recorded).
pub(crate) fn run(which: &Program, args: &[String]) -> Result<()> {
    let (mut rounds, mut only) = (5, String::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => {
                rounds = args.next().and_then(|n| n.parse().ok()).ok_or("--rounds needs a number")?
            }
            word => only = word.into(),
        }
    }
    let bench = Bench::new()?;
    let program = compile(which, &bench.dir)?;
    let (mut native, mut guest, mut order) = (Figures::new(), Figures::new(), Vec::new());
    for round in 0..rounds {
        let mut command = Command::new(&program);
        let names = measure(command.arg(&only), &mut native)?;
        let path = program.to_string_lossy();
        measure(&mut bench.guest(&format!("bench-{round}"), &["--net", "none", &path, &only]), &mut guest)?;
        order = names;
    }
    let table = table(which.unit, &order, &native, &guest);
    println!("{table}");
    if only.is_empty() { record(which, &table, rounds) } else { Ok(()) }
}

fn compile(which: &Program, dir: &Path) -> Result<PathBuf> {
    let program = dir.join("bench-program");
    let source = workspace().join("compat-tests/bench").join(which.source);
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-pthread"]).args(which.flags).arg("-o").arg(&program).arg(source);
    let status = gcc.status().map_err(|e| format!("gcc: {e}"))?;
    if status.success() { Ok(program) } else { Err(format!("gcc cannot build {}", which.source)) }
}

/// Runs the program once; gives the names of its cases in their order.
fn measure(command: &mut Command, into: &mut Figures) -> Result<Vec<String>> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut names = Vec::new();
    for line in text.lines() {
        let (name, value) = line.split_once('\t').ok_or_else(|| format!("'{line}' is no figure"))?;
        let value = value.parse().map_err(|_| format!("'{line}' has no number"))?;
        into.entry(name.into()).or_default().push(value);
        names.push(name.into());
    }
    Ok(names)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// As Markdown; the ratio says how many times as fast as native we are.
fn table(unit: &str, order: &[String], native: &Figures, guest: &Figures) -> String {
    let mut text =
        format!("| | native, {unit} | Attacca, {unit} | times as fast |\n| --- | ---: | ---: | ---: |\n");
    for name in order {
        let Some(ours) = guest.get(name) else { continue };
        let (theirs, ours) = (median(&native[name]), median(ours));
        let _ = writeln!(text, "| {name} | {theirs:.2} | {ours:.2} | {:.2} |", theirs / ours);
    }
    text
}

/// Replaces its section of RESULTS.md, or appends it.
fn record(which: &Program, table: &str, rounds: usize) -> Result<()> {
    let path = workspace().join("compat-tests/bench/RESULTS.md");
    let old = fs::read_to_string(&path).unwrap_or_default();
    let heading = which.heading;
    let begin = old.find(heading).unwrap_or(old.len());
    let behind = &old[(begin + heading.len()).min(old.len())..];
    let rest = behind.find("\n## ").map_or("", |at| &behind[at + 1..]);
    let section = format!(
        "{heading}\n\nWritten by `cargo xtask bench {}`: compat-tests/bench/{}, the same binary natively and as a \
         guest, in turn, medians of {rounds} rounds.\n\n{table}",
        which.source.trim_end_matches(".c"),
        which.source
    );
    let text = format!("{}\n\n{section}\n{rest}", old[..begin].trim_end());
    fs::write(&path, text.trim_end().to_owned() + "\n").map_err(|e| format!("{}: {e}", path.display()))
}
