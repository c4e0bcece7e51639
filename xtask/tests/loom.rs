//! The ring's model check as part of the ordinary test command.
//!
//! loom replaces the ring's atomics, so it needs a build of its own (`--cfg loom`); this test makes that build
//! beside the ordinary one and runs it. Not here: the models themselves (`net/src/ring/spsc.rs`).

use std::path::Path;
use std::process::Command;

/// The models that must have run: a filter that matches nothing would succeed too.
const MODELS: &[&str] = &["a_sleeping_consumer_is_always_rung", "a_waiting_producer_is_always_rung"];

#[test]
fn the_ring_passes_its_model_check() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("below a target directory");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "-p", "net", "--release", "--lib", "--target-dir"])
        .arg(target.join("loom"))
        .arg("ring")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        // This variable would win over RUSTFLAGS.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", "--cfg loom")
        .output()
        .expect("cargo");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    for model in MODELS {
        let line = format!("test ring::spsc::loom_tests::{model} ... ok");
        assert!(out.contains(&line), "{model} did not run:\n{out}\n{err}");
    }
}
