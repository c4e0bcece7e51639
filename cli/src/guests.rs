//! The folder of running guests: one record each under the runtime directory, written by `run`.
//!
//! A record outlives a guest that was killed; it counts only while its process is the one that wrote
//! it (same id, same start time), and is swept away by whoever reads it otherwise.

use crate::error::{OrFail, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;

/// What is known of a running guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Guest {
    /// Its name, unique among the running.
    pub(crate) name: String,
    /// The host process.
    pub(crate) pid: i32,
    /// Start time of that process in clock ticks since boot (/proc/PID/stat field 22).
    pub(crate) started_ticks: u64,
    /// Seconds since the epoch.
    pub(crate) started: u64,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// The network's name, or "none".
    pub(crate) network: String,
    /// How it reaches the network: "server", "direct" or "none".
    pub(crate) mode: String,
    /// Its address, if it has one.
    pub(crate) address: Option<String>,
    /// Published ports as "HOST->GUEST/proto".
    pub(crate) ports: Vec<String>,
}

/// Where records and control sockets live: `$XDG_RUNTIME_DIR/attacca`, `/run/attacca` for root, else
/// a folder of the user's own under /tmp.
pub(crate) fn runtime_dir() -> Result<PathBuf> {
    // SAFETY: getuid has no preconditions.
    let uid = unsafe { libc::getuid() };
    let dir = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("attacca"),
        _ if uid == 0 => PathBuf::from("/run/attacca"),
        _ => PathBuf::from(format!("/tmp/attacca-{uid}")),
    };
    fs::create_dir_all(dir.join("guests")).or_fail(format_args!(
        "cannot make the runtime directory {} (set XDG_RUNTIME_DIR to a folder of yours)",
        dir.display()
    ))?;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let owner = fs::metadata(&dir).or_fail(dir.display())?.uid();
    if owner != uid {
        return Err(crate::Failure::new(format_args!(
            "the runtime directory {} belongs to user {owner}: set XDG_RUNTIME_DIR to a folder of yours",
            dir.display()
        )));
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).or_fail(dir.display())?;
    Ok(dir)
}

/// Writes the record of a guest.
pub(crate) fn write(guest: &Guest) -> Result<()> {
    let path = record(&guest.name)?;
    let text = serde_json::to_string(guest).or_fail("cannot describe the guest")?;
    fs::write(&path, text).or_fail(format_args!("cannot write {}", path.display()))
}

/// The running guests, by name; records of dead ones are removed.
pub(crate) fn running() -> Result<Vec<Guest>> {
    let dir = runtime_dir()?.join("guests");
    let mut guests = Vec::new();
    for entry in fs::read_dir(&dir).or_fail(dir.display())?.flatten() {
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        match serde_json::from_str::<Guest>(&text) {
            Ok(guest) if started_ticks(guest.pid) == Some(guest.started_ticks) => guests.push(guest),
            _ => drop(fs::remove_file(entry.path())),
        }
    }
    guests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(guests)
}

/// Start time of a process, `None` if it is gone or a zombie.
pub(crate) fn started_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold anything, also ")": fields count from the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn record(name: &str) -> Result<PathBuf> {
    Ok(runtime_dir()?.join("guests").join(format!("{name}.json")))
}
