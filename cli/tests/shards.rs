//! Guests with several engines (`--shards`, ARCHITECTURE.md): a program sees none of it, and the flows spread.
//!
//! The other tests of the network run so, too: `ATTACCA_SHARDS=3 cargo test --release -p attacca --test nginx`.

mod support;

use std::path::Path;
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(120);

fn program(name: &str, source: &str) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let folder = format!("-I{}", source.parent().unwrap().display());
    let text = std::fs::read_to_string(&source).unwrap();
    compile(name, &text, &[&folder, "-pthread"]).to_str().unwrap().to_owned()
}

fn spread() -> String {
    program("spread", "../compat-tests/programs/network/spread.c")
}

fn run(shards: &str, cpus: &str, program: &[&str]) -> String {
    let mut command = attacca();
    command.args(["run", "--net", "none", "--cpus", cpus, "--shards", shards]).args(program);
    text(run_limited(&mut command, LIMIT))
}

#[test]
fn a_program_does_not_see_them() {
    let program = spread();
    for (shards, cpus) in [("1", "2"), ("2", "1"), ("4", "1"), ("2", "2"), ("5", "2")] {
        assert_eq!(run(shards, cpus, &[&program]), "spread\n", "{shards} shards on {cpus} vCPUs");
    }
}

/// Connections that choose their own ports belong to all shards.
#[test]
fn flows_spread_over_all() {
    let script = format!("{} && cat /proc/net/softnet_stat", spread());
    let output = run("4", "1", &["/bin/sh", "-c", &script]);
    let rows: Vec<Vec<u64>> = output
        .lines()
        .skip(1)
        .map(|row| row.split(' ').map(|word| u64::from_str_radix(word, 16).unwrap()).collect())
        .collect();
    assert_eq!(rows.len(), 4, "{output}");
    assert!(rows.iter().enumerate().all(|(shard, row)| row[12] == shard as u64), "{output}");
    assert!(rows.iter().all(|row| row[0] > 100 && row[1] == 0), "{output}");
}

/// Open at once, each with both its ends in the guest; 100,000 of them with `ATTACCA_LONG=1`.
#[test]
fn many_connections_in_one_guest() {
    let many = program("many", "tests/shards/many.c");
    let count = if std::env::var_os("ATTACCA_LONG").is_some() { "100000" } else { "20000" };
    for shards in ["1", "2"] {
        let output = run(shards, "2", &[&many, count, "500"]);
        assert!(output.starts_with(&format!("{count} connections")), "{output}");
    }
}
