//! The C programs of compat-tests/programs: each passes natively first, then in a guest, and must print
//! the same there. What fails is named in compat-tests/known-failures/programs.txt with its reason.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);

fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compat-tests/programs");
    let mut files = Vec::new();
    for family in fs::read_dir(root).unwrap().flatten().filter(|e| e.path().is_dir()) {
        let inside = fs::read_dir(family.path()).unwrap().flatten().map(|e| e.path());
        files.extend(inside.filter(|p| p.extension().is_some_and(|e| e == "c")));
    }
    files.sort();
    files
}

fn known_failures() -> Vec<String> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compat-tests/known-failures/programs.txt");
    let text = fs::read_to_string(list).unwrap_or_default();
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
    lines.map(|l| l.split_whitespace().next().unwrap().to_owned()).collect()
}

fn build(source: &Path) -> PathBuf {
    let binary = scratch("programs").join(source.file_stem().unwrap());
    let built = Command::new("gcc")
        .args(["-O1", "-g", "-Wall", "-Wextra", "-o"])
        .arg(&binary)
        .arg(source)
        .args(["-pthread", "-lm"])
        .output()
        .expect("gcc runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    binary
}

fn outcome(output: &Output) -> String {
    format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr))
}

#[test]
fn programs_do_as_on_linux() {
    let known = known_failures();
    let mut wrong = Vec::new();
    let mut passed = 0;
    for source in sources() {
        let name = source.file_stem().unwrap().to_string_lossy().into_owned();
        let binary = build(&source);
        let mut native = Command::new(&binary);
        let native = run_limited(signals_as_in_the_foreground(&mut native).env("LC_ALL", "C.UTF-8"), LIMIT);
        assert!(native.status.success(), "{name} fails natively: {}", outcome(&native));
        let mut run = attacca();
        let guest =
            run_limited(run.args(["run", "--net", "none"]).arg(&binary).env("LC_ALL", "C.UTF-8"), LIMIT);
        let same = guest.status.success() && guest.stdout == native.stdout;
        match (same, known.contains(&name)) {
            (true, true) => wrong.push(format!("{name}: passes, but is listed as a known failure")),
            (false, false) if guest.status.success() => {
                wrong.push(format!("{name}: prints {}", difference(&native, &guest)))
            }
            (false, false) => wrong.push(format!("{name}: {}", outcome(&guest))),
            _ => passed += 1,
        }
    }
    assert!(wrong.is_empty(), "{passed} as expected, {} not:\n{}", wrong.len(), wrong.join("\n"));
}

fn difference(native: &Output, guest: &Output) -> String {
    let (want, got) = (String::from_utf8_lossy(&native.stdout), String::from_utf8_lossy(&guest.stdout));
    let line = want.lines().zip(got.lines()).find(|(a, b)| a != b);
    match line {
        Some((want, got)) => format!("'{got}' instead of '{want}'"),
        None => format!("{} bytes instead of {}", got.len(), want.len()),
    }
}
