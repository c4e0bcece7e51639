//! `attacca exec`: one more process in a running guest, as its caller sees it.

mod support;

use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::*;

const LIMIT: Duration = Duration::from_secs(30);

fn exec(options: &[&str], guest: &str, words: &[&str]) -> Output {
    run_limited(attacca().arg("exec").args(options).arg(guest).args(words), LIMIT)
}

/// A guest that waits, and that one can enter.
fn sleeper(name: &str) -> Guest {
    let guest = Guest::start(&["--net", "none", "--name", name, "/bin/sleep", "300"]);
    assert!(eventually(PATIENCE, || exec(&[], name, &["true"]).status.success()), "{}", guest.output());
    guest
}

#[test]
fn statuses_and_streams() {
    let _guest = sleeper("statuses");
    for (words, status, out) in [
        (&["echo", "hello"][..], 0, "hello\n"),
        (&["sh", "-c", "exit 42"], 42, ""),
        (&["sh", "-c", "kill -9 $$"], 137, ""),
        (&["sh", "-c", "cat"], 0, ""),
    ] {
        let output = exec(&[], "statuses", words);
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()),
            (Some(status), out)
        );
    }
    let both = exec(&["-e", "X=y", "-w", "/tmp"], "statuses", &["sh", "-c", "echo $X; pwd >&2"]);
    assert_eq!((both.stdout.as_slice(), both.stderr.as_slice()), (&b"y\n"[..], &b"/tmp\n"[..]));
    let nobody = exec(&["-u", "nobody"], "statuses", &["id", "-u"]);
    assert_eq!(String::from_utf8_lossy(&nobody.stdout), "65534\n");
    let missing = exec(&[], "statuses", &["no-such-program"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no-such-program"));
    assert_eq!(exec(&[], "statuses", &["/etc/passwd"]).status.code(), Some(126));
    assert_eq!(exec(&[], "no-such-guest", &["true"]).status.code(), Some(125));
}

#[test]
fn a_pipe_feeds_it() {
    let _guest = sleeper("fed");
    let mut child = attacca()
        .args(["exec", "-i", "fed", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sent = pattern(1_000_000);
    let mut stdin = child.stdin.take().unwrap();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&copy));
    let mut got = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    writer.join().unwrap().unwrap();
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_terminal_of_its_own() {
    let _guest = sleeper("terminal");
    let shown = exec(&["-t"], "terminal", &["sh", "-c", "tty; stty size; test -t 0 && exit 5"]);
    assert_eq!(shown.status.code(), Some(5));
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(text.starts_with("/dev/pts/") && text.contains("24 80"), "{text}");
}

/// Signals go to the process; a caller that is killed takes it along.
#[test]
fn signals_and_the_callers_end() {
    let _guest = sleeper("signals");
    let script = "trap 'echo got; exit 9' INT; echo ready; while :; do sleep 0.1; done";
    let mut child =
        attacca().args(["exec", "signals", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 6]).unwrap();
    // SAFETY: our own child, not yet reaped.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(child.wait().unwrap().code(), Some(9));
    let mut child = attacca().args(["exec", "signals", "sh", "-c", "exec sleep 4242"]).spawn().unwrap();
    let runs = || exec(&[], "signals", &["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]);
    let seen = || String::from_utf8_lossy(&runs().stdout).contains("sleep 4242");
    assert!(eventually(PATIENCE, seen));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(eventually(PATIENCE, || !seen()), "it lives on");
}

/// The guest ends: so does what runs in it, and the caller is told.
#[test]
fn a_guest_that_ends() {
    let guest = sleeper("ending");
    let mut child = attacca().args(["exec", "ending", "sleep", "300"]).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(attacca().args(["kill", "-s", "KILL", "ending"]).status().unwrap().success());
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the caller waits for ever");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(child.wait().unwrap().code(), Some(137));
    drop(guest);
}

/// `nginx -s reload` finds the master by its file and signals it: another process of the same guest.
#[test]
fn nginx_reloads() {
    debian_root("nginx");
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:80");
    let mut guest = Guest::start(&["--name", "web", "-p", &publish, "debian:nginx", "-g", "daemon off;"]);
    guest.wait_for_port(port);
    let workers = || {
        let listed = exec(&[], "web", &["sh", "-c", "grep -l worker /proc/[0-9]*/cmdline"]);
        String::from_utf8_lossy(&listed.stdout).into_owned()
    };
    let before = workers();
    let reload = exec(&[], "web", &["nginx", "-s", "reload"]);
    assert!(reload.status.success(), "{}", String::from_utf8_lossy(&reload.stderr));
    // With `master_process off` there are no workers to change.
    if !before.is_empty() {
        assert!(eventually(PATIENCE, || !workers().is_empty() && workers() != before), "{before}");
    }
    assert!(answers(port), "{}", guest.output());
}

/// What `--help` shows are options that exist.
#[test]
fn help_teaches() {
    let words = text(attacca().args(["exec", "--help"]).output().unwrap());
    assert!(words.contains("Examples:") && words.contains("attacca exec -it web sh"), "{words}");
    let unknown =
        run_limited(Command::new(env!("CARGO_BIN_EXE_attacca")).args(["exec", "--nonsense"]), LIMIT);
    assert_eq!(unknown.status.code(), Some(125));
}
