//! Builds the freestanding guest (its own workspace, own profile) and tells where it is, so that
//! `attacca` can carry it inside.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..");
    for part in ["guest", "loader", "libc-abi", "syscalls", "net", "fs", "sched", "platform"] {
        for inside in ["src", "Cargo.toml", "build.rs"] {
            let path = root.join(part).join(inside);
            if path.exists() {
                println!("cargo::rerun-if-changed={}", path.display());
            }
        }
    }
    let guest = build_guest(&root);
    println!("cargo::rustc-env=ATTACCA_GUEST={}", guest.display());
    // Told here and not at each start: to read the whole runtime takes longer than to start it.
    let bytes = std::fs::read(&guest).expect("the guest is there");
    println!("cargo::rustc-env=ATTACCA_GUEST_FINGERPRINT={:016x}", fingerprint(&bytes));
}

/// FNV-1a over the build's bytes in 8-byte steps: tells builds apart, nothing more.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}

fn build_guest(root: &Path) -> PathBuf {
    // Beside our own build directory: cleaned with it, and never the directory this build has locked.
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    let target = out.ancestors().nth(4).unwrap().join("guest");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap());
    cargo
        .current_dir(root.join("guest"))
        .args(["build", "--release", "--locked"])
        .arg("--target-dir")
        .arg(&target);
    // Flags meant for the host build (loom, coverage, linkers) are not the guest's.
    for (name, _) in env::vars() {
        let cargos = name.starts_with("CARGO_") && name != "CARGO_HOME" && name != "CARGO_NET_OFFLINE";
        if cargos || name.starts_with("RUSTFLAGS") || name.starts_with("RUSTC") {
            cargo.env_remove(name);
        }
    }
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "the guest does not build");
    target.join("release/attacca-guest")
}
