//! Debian's python3 as a guest: its children, in all the ways that its library makes them. Each script of
//! compat-tests/apps/python runs natively, then in a guest with the host's programs beside it, and prints the same.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(120);

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../compat-tests/apps/python").join(name)
}

fn same_as_natively(name: &str) {
    let _alone = alone();
    let root = debian_root("python3");
    let settle = |command: &mut Command| {
        let command = command.arg("-S").arg(script(name)).env("PYTHONHOME", root.join("usr"));
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("LC_ALL", "C.UTF-8");
        text(run_limited(command, LIMIT))
    };
    let native = settle(&mut native_python(&root));
    let guest = settle(attacca().args(["run", "--net", "none"]).arg(root.join("usr/bin/python3.11")));
    assert!(native.lines().count() > 5, "{native}");
    for (want, got) in native.lines().zip(guest.lines()) {
        assert_eq!(got, want);
    }
    assert_eq!(guest.lines().count(), native.lines().count());
}

#[test]
fn subprocesses() {
    same_as_natively("subprocesses.py");
}

#[test]
fn multiprocessing() {
    same_as_natively("multiprocesses.py");
}

#[test]
fn servers_that_fork() {
    same_as_natively("servers.py");
}

#[test]
fn children_of_asyncio() {
    same_as_natively("children_of_asyncio.py");
}
