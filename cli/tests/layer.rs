//! `debian:PACKAGE`: the cached root is everybody's, what a guest changes in it is its own.

mod support;

use std::fs;
use std::time::Duration;
use support::{attacca, debian_root, run_limited, text};

const LIMIT: Duration = Duration::from_secs(60);

/// dash with this script, in the root of its package.
fn dash(script: &str) -> String {
    let mut command = attacca();
    command.args(["run", "--net", "none", "debian:dash:dash", "-c", script]);
    text(run_limited(&mut command, LIMIT))
}

#[test]
fn a_guest_keeps_its_changes_for_itself() {
    let root = debian_root("dash");
    let before = fs::read(root.join("etc/profile")).ok();
    let writes = "echo mine >/etc/mine; echo changed >/etc/profile; read a </etc/mine; read b </etc/profile; \
                  echo $a $b";
    assert_eq!(dash(writes), "mine changed\n");
    assert_eq!(dash("[ -e /etc/mine ] && echo there || echo fresh"), "fresh\n");
    assert!(!root.join("etc/mine").exists());
    assert_eq!(fs::read(root.join("etc/profile")).ok(), before);
}
