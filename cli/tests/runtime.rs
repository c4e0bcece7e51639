//! The runtime's tests of itself (guest/src/selftest.rs): preemption, registers over switches, real vCPUs,
//! faults, the two doors. They run inside a guest without a program, started as ARCHITECTURE.md §8 says.

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use support::*;

/// `stress` and `many` take seconds; on a loaded machine more.
const LIMIT: Duration = Duration::from_secs(240);

/// The runtime that `attacca` carries, as its build script left it.
fn runtime() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_attacca")).ancestors().nth(2).unwrap();
    let path = target.join("guest/release/attacca-guest");
    assert!(path.exists(), "{} is not there", path.display());
    path
}

fn selftest(name: &str, cpus: u32) -> Output {
    let records = scratch("runtime").join(format!("{name}-{cpus}"));
    let mut file = std::fs::File::create(&records).unwrap();
    write!(file, "selftest={name}\0cpus={cpus}\0").unwrap();
    let mut guest = Command::new(runtime());
    run_limited(guest.arg("0").stdin(Stdio::from(std::fs::File::open(&records).unwrap())), LIMIT)
}

#[test]
fn self_tests_pass() {
    let _alone = alone();
    for cpus in [1, 2, 4] {
        let words = text(selftest("all", cpus));
        for name in [
            "preempt",
            "registers",
            "migrate",
            "stress",
            "fault",
            "syscall",
            "signal",
            "idle",
            "heap",
            "killed",
        ] {
            assert!(
                words.lines().any(|l| l.starts_with(&format!("ok {name} "))),
                "{cpus} vCPUs, {name}:\n{words}"
            );
        }
    }
}

/// Ends of its own: each with its status, its word, and nothing else taken along.
#[test]
fn ends_as_it_should() {
    let _alone = alone();
    let segv = 128 + libc::SIGSEGV;
    let cases = [
        ("segv", segv, "SIGSEGV"),
        ("overflow", segv, "SIGSEGV"),
        ("kernel-fault", 125, "internal fault"),
        ("panic", 125, "as asked"),
        ("exhaust", 125, "--memory"),
        ("no-such-test", 125, "no test is called"),
    ];
    for (name, status, word) in cases {
        let output = selftest(name, 2);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(shell_status(output.status), status, "{name}: {errors}");
        assert!(errors.contains(word), "{name}: '{word}' is not in\n{errors}");
    }
}
