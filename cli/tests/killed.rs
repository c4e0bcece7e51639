//! Processes that the host kills in the middle of a call (compat-tests/apps/killed.c): what they held there is free for
//! the others, as natively. Unlike the stress run's, these kills are aimed: a victim sleeps in just that call.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::*;

fn program() -> PathBuf {
    let apps = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compat-tests/apps");
    let source = fs::read_to_string(apps.join("killed.c")).expect("the source is there");
    // It is compiled elsewhere.
    let check = apps.join("../programs/check.h");
    let source = source.replace("../programs/check.h", check.to_str().expect("a path in UTF-8"));
    compile("killed", &source, &["-pthread"])
}

/// The youngest living process of the group whose leader is `first`, but for that one.
fn youngest(first: i32) -> Option<i32> {
    let age = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let group: i32 = fields.get(2)?.parse().ok()?;
        let started: u64 = fields.get(19)?.parse().ok()?;
        (fields[0] != "Z" && group == first && pid != first).then_some((started, pid))
    };
    let names = fs::read_dir("/proc").expect("procfs").flatten().map(|entry| entry.file_name());
    names.filter_map(|name| age(name.to_str()?.parse().ok()?)).max().map(|(_, pid)| pid)
}

/// Runs it, and kills whom it names. Answers what it said.
fn run(command: &mut Command) -> String {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn().expect("the program starts");
    let first = child.id() as i32;
    let mut said = String::new();
    for line in BufReader::new(child.stdout.take().expect("a pipe")).lines() {
        let line = line.expect("text");
        if line == "kill" {
            let victim = youngest(first).unwrap_or_else(|| panic!("nobody to kill:\n{said}"));
            // SAFETY: a process of the program that this test started.
            unsafe { libc::kill(victim, libc::SIGKILL) };
        }
        said += &(line + "\n");
    }
    assert_eq!(shell_status(child.wait().expect("it ends")), 0, "{said}");
    said
}

#[test]
fn nobody_waits_for_the_dead() {
    let _alone = alone();
    let program = program();
    let native = run(&mut Command::new(&program));
    assert!(native.ends_with("all\n"), "{native}");
    for cpus in ["1", "2"] {
        let guest = run(attacca().args(["run", "--net", "none", "--cpus", cpus, "--"]).arg(&program));
        assert_eq!(guest, native, "{cpus} vCPUs");
    }
}
