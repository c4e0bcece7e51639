//! The end of a guest by a fault or a signal: what its user reads, and what its parent sees. The program
//! is compat-tests/faulting/faults.c; natively each case ends by the same signal.

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(30);

/// Built once: a report names functions only as long as the file is the one that was mapped.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compat-tests/faulting/faults.c");
        compile("faults", &fs::read_to_string(source).unwrap(), &["-fno-stack-protector", "-pthread"])
    })
}

fn in_guest(case: &str) -> Output {
    run_limited(attacca().args(["run", "--net", "none"]).arg(program()).arg(case), LIMIT)
}

/// Runs a case both ways; answers the guest's report.
#[track_caller]
fn reported(case: &str, signal: i32) -> String {
    let native = run_limited(Command::new(program()).arg(case), LIMIT);
    assert_eq!(native.status.signal(), Some(signal), "natively {case}: {}", native.status);
    let guest = in_guest(case);
    let report = String::from_utf8_lossy(&guest.stderr).into_owned();
    assert_eq!(shell_status(guest.status), 128 + signal, "{case}:\n{report}");
    assert_eq!(guest.stdout, b"", "{case}");
    report
}

/// The functions of the backtrace, innermost first, as far as the report is sure of them.
fn frames(report: &str) -> Vec<&str> {
    let lines = report.lines().skip_while(|l| *l != "backtrace:").skip(1);
    let sure = lines.take_while(|l| l.starts_with("  #") && !l.contains("frame pointer"));
    sure.map(|l| l.split_once(" in ").map_or(l, |(_, rest)| rest.split(['+', ' ']).next().unwrap())).collect()
}

/// Checks the first line and that the program's own functions stand in this order, with nothing of the
/// program between them.
#[track_caller]
fn faults(case: &str, signal: i32, words: &[&str], functions: &[&str]) {
    let report = reported(case, signal);
    let first = report.lines().next().unwrap_or_default();
    assert!(first.starts_with("attacca: SIG"), "{case}: {report}");
    for word in words {
        assert!(first.contains(word), "{case}: '{word}' is not in the first line:\n{report}");
    }
    let ours =
        ["write_null", "call_null", "divide", "illegal", "give_up", "overflow", "past_the_end", "compare"];
    let more = ["in_callback", "thread", "handler", "in_handler", "spin", "in_timer", "smash", "run_over"];
    let known = |f: &&str| ours.contains(f) || more.contains(f) || ["main", "no_frame_pointer"].contains(f);
    let seen: Vec<&str> = frames(&report).into_iter().filter(known).collect();
    assert_eq!(seen, functions, "{case}:\n{report}");
}

#[test]
fn a_fault_names_its_place_and_its_callers() {
    let object = "faults+0x";
    faults("null", libc::SIGSEGV, &["SIGSEGV", "at address 0x0", object], &["write_null", "main"]);
    faults(
        "call-null",
        libc::SIGSEGV,
        &["instruction 0x0 (nothing is mapped there)"],
        &["call_null", "main"],
    );
    faults("divide", libc::SIGFPE, &["SIGFPE", "division", object], &["divide", "main"]);
    faults("illegal", libc::SIGILL, &["SIGILL", object], &["illegal", "main"]);
    faults("bus", libc::SIGBUS, &["SIGBUS", "shorter", object], &["past_the_end", "main"]);
    faults("no-frame-pointer", libc::SIGSEGV, &["SIGSEGV"], &["no_frame_pointer", "main"]);
    faults("thread", libc::SIGSEGV, &["SIGSEGV"], &["write_null", "thread"]);
}

/// A recursion is one line with its number of frames, and what began it is shown, too.
#[test]
fn a_stack_overflow() {
    let words = ["SIGSEGV", "overflowed"];
    faults("overflow", libc::SIGSEGV, &words, &["overflow", "overflow", "run_over", "main"]);
    let report = reported("overflow", libc::SIGSEGV);
    let times =
        report.lines().find_map(|l| l.strip_suffix(" times)")?.rsplit('(').next()?.parse::<u32>().ok());
    assert!(times.is_some_and(|n| n > 10_000), "{report}");
}

/// From the program through qsort, which is the runtime's, back into the program.
#[test]
fn a_fault_in_a_callback() {
    let report = reported("callback", libc::SIGSEGV);
    let seen = frames(&report);
    let at = |name: &str| {
        seen.iter().position(|f| f.ends_with(name)).unwrap_or_else(|| panic!("no {name}:\n{report}"))
    };
    let (compare, qsort, caller) = (at("compare"), at("qsort"), at("in_callback"));
    assert!(
        at("write_null") < compare && compare < qsort && qsort < caller && caller < at("main"),
        "{report}"
    );
}

/// Through signal frames: of a handler that raise(3) called, and of one that interrupted a computation.
#[test]
fn a_fault_in_a_signal_handler() {
    faults("handler", libc::SIGSEGV, &["SIGSEGV"], &["write_null", "handler", "in_handler", "main"]);
    faults("timer", libc::SIGSEGV, &["SIGSEGV"], &["write_null", "handler", "spin", "in_timer", "main"]);
    assert!(reported("timer", libc::SIGSEGV).contains("(signal frame)"));
}

/// The reporter trusts nothing: a stack full of nonsense ends the backtrace and not the report.
#[test]
fn a_fault_on_a_smashed_stack() {
    let report = reported("smash", libc::SIGSEGV);
    assert!(report.contains("backtrace:") && report.contains(" in smash+0x"), "{report}");
    assert!(!report.contains("internal fault"), "{report}");
}

#[test]
fn abort_says_where_from() {
    faults("abort", libc::SIGABRT, &["SIGABRT"], &["give_up", "main"]);
    assert_eq!(in_guest("abort").status.signal(), Some(libc::SIGABRT));
}

/// The program's own handlers get every fault with its siginfo, also on an alternate stack.
#[test]
fn the_programs_own_handler_comes_first() {
    let native = text(run_limited(Command::new(program()).arg("handled"), LIMIT));
    let guest = in_guest("handled");
    assert_eq!(String::from_utf8_lossy(&guest.stderr), "");
    assert_eq!(text(guest), native);
}

/// Ended by a signal's default action, the process is one that was ended by that signal, for wait(2) and
/// for a shell; there is no core file of the runtime.
#[test]
fn death_by_a_signal_is_the_signals_own() {
    // What runs the tests may have SIGHUP ignored, as nohup(1) does, which a program inherits.
    let source = "#include <signal.h>\n#include <unistd.h>\nint main(void) { signal(SIGHUP, SIG_DFL); \
                  signal(SIGQUIT, SIG_DFL); signal(SIGINT, SIG_DFL); return write(1, \"up\\n\", 3) != 3 || pause(); }";
    let wait = compile("waits", source, &[]);
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGUSR1, libc::SIGALRM] {
        let mut guest = Guest::start(&["--net", "none", wait.to_str().unwrap()]);
        assert!(eventually(PATIENCE, || guest.output().contains("up")), "{}", guest.output());
        guest.signal(signal);
        let status = guest.wait();
        assert_eq!(status.signal(), Some(signal), "{status}");
        assert!(!status.core_dumped(), "{status}");
        assert_eq!(guest.output(), "up\n");
    }
    // Its own doing, from a thread among several vCPUs.
    let raise = "#include <signal.h>\n#include <stdlib.h>\nint main(int c, char **v) { (void)c; return raise(atoi(v[1])); }";
    let raise = compile("raises", raise, &[]);
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGPIPE, libc::SIGVTALRM, 40] {
        let output = run_limited(
            attacca().args(["run", "--net", "none", "--cpus", "3"]).arg(&raise).arg(signal.to_string()),
            LIMIT,
        );
        assert_eq!(output.status.signal(), Some(signal), "{}", output.status);
    }
    let script =
        format!("'{}' run --net none '{}' 15; echo $?", env!("CARGO_BIN_EXE_attacca"), raise.display());
    let mut shell = Command::new("sh");
    let output = run_limited(shell.args(["-c", &script]).env("XDG_RUNTIME_DIR", runtime_dir()), LIMIT);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "143\n");
}
