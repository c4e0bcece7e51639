//! gdb on a guest, started under it and attached to it: it knows the program's libraries by their files, and
//! sets breakpoints by name in program, libraries and runtime.

mod support;

use std::process::Command;
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(120);

/// The runtime's own signals are none of the user's business.
const HANDLE: &str = "handle SIGSYS SIG32 SIG33 nostop noprint pass";

fn gdb(commands: &[&str]) -> Command {
    let mut gdb = native("gdb", "gdb");
    let root = debian_root("gdb");
    gdb.env("PYTHONHOME", root.join("usr"))
        .env("XDG_RUNTIME_DIR", runtime_dir())
        .env_remove("DEBUGINFOD_URLS");
    gdb.arg("--data-directory").arg(root.join("usr/share/gdb")).args(["-q", "-nx", "-batch"]);
    for command in ["set pagination off", "set breakpoint pending on", HANDLE].iter().chain(commands) {
        gdb.args(["-ex", command]);
    }
    gdb
}

#[track_caller]
fn knows(command: &mut Command, parts: &[&str]) {
    let output = run_limited(command, LIMIT);
    let words = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    for part in parts {
        assert!(words.contains(part), "'{part}' is not in\n{words}");
    }
}

/// A program with a library of its own: `shared` calls back into the program.
fn program() -> std::path::PathBuf {
    let dir = scratch("gdb");
    let library = dir.join("libshared.so");
    let source = dir.join("shared.c");
    std::fs::write(&source, "int shared(int (*back)(int), int n) { return back(n) + 1; }\n").unwrap();
    let built =
        Command::new("gcc").args(["-g", "-O1", "-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(built.unwrap().success());
    let main = "#include <unistd.h>\nint shared(int (*back)(int), int n);\n\
                __attribute__((noinline)) int target(int n) { if (n == 7) pause(); return n * 2; }\n\
                int main(int c, char **v) { (void)v; return shared(target, c == 1 ? 20 : 7); }\n";
    let path = format!("-Wl,-rpath,{}", dir.display());
    compile("debugged", main, &[library.to_str().unwrap(), &path])
}

#[test]
fn started_under_gdb() {
    let program = program();
    let commands =
        ["break shared", "break target", "run", "info sharedlibrary", "continue", "bt 3", "continue"];
    let mut gdb = gdb(&commands);
    gdb.arg("--args").arg(env!("CARGO_BIN_EXE_attacca")).args(["run", "--net", "none"]).arg(program);
    knows(
        &mut gdb,
        &[
            "libshared.so",
            ", shared (back=",
            "in shared (",
            "target (n=20)",
            "main (",
            "exited with code 051",
        ],
    );
}

#[test]
fn attached_to() {
    let program = program();
    let guest = Guest::start(&["--net", "none", program.to_str().unwrap(), "wait"]);
    assert!(eventually(PATIENCE, || {
        std::fs::read_to_string(format!("/proc/{}/comm", guest.pid())).is_ok_and(|name| name == "debugged\n")
    }));
    let pid = guest.pid().to_string();
    // The frame where a guest of one thread waits is the runtime's, and names would be looked up as Rust's.
    let language = "set language c";
    let commands =
        [language, "info sharedlibrary", "info line target", "info address shared", "info symbol target"];
    knows(
        gdb(&commands).args(["-p", &pid]),
        &["libshared.so", "debugged", "target in section .text", "\"shared\" is a function", "debugged-"],
    );
}
