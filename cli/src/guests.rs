//! The folder of running guests: one record each under the runtime directory, written by `run`.
//!
//! The record is locked (flock(2)) through a descriptor that `run` leaves open: all host processes of the
//! guest share it, so the lock lasts as long as any of them. A record that nobody locks is of a guest that
//! is gone, and is swept away by whoever reads it.

use crate::error::{OrFail, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is known of a running guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Guest {
    /// Its name, unique among the running.
    pub(crate) name: String,
    /// The first host process; when it has ended, the eldest of the others.
    pub(crate) pid: i32,
    /// All host processes, the first one first. Found when the record is read.
    #[serde(default)]
    pub(crate) processes: Vec<i32>,
    /// Number of the descriptor that holds the record's lock in all of them.
    #[serde(default)]
    pub(crate) lock_fd: i32,
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
    /// The folder that it sees as "/"; `None`: the host's.
    #[serde(default)]
    pub(crate) root: Option<PathBuf>,
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
    use std::os::unix::fs::PermissionsExt;
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

/// Writes the record of a guest, and leaves its lock to the process that this one becomes.
pub(crate) fn write(mut guest: Guest) -> Result<()> {
    let path = record(&guest.name)?;
    // Locked under another name: readers must never see it unlocked.
    let aside = path.with_extension(format!("new-{}", std::process::id()));
    let fail = || format!("cannot write {}", path.display());
    let mut file = fs::File::create(&aside).or_fail(fail())?;
    // SAFETY: calls on a descriptor of ours: lock it, and let it survive exec.
    let locked = unsafe {
        libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0
            && libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) == 0
    };
    if !locked {
        return Err(std::io::Error::last_os_error()).or_fail(fail());
    }
    guest.lock_fd = file.as_raw_fd();
    let text = serde_json::to_string(&guest).or_fail("cannot describe the guest")?;
    file.write_all(text.as_bytes()).and_then(|()| fs::rename(&aside, &path)).or_fail(fail())?;
    let _ = file.into_raw_fd();
    Ok(())
}

/// Ending of the name of the socket that `attacca exec` knocks at, beside the record.
const DOOR: &str = "exec";

/// The folder of the guests, opened, and a path through it to a guest's door: such a path is short, as
/// sockaddr_un wants it (unix(7)), however deep the folder is.
pub(crate) fn door(name: &str) -> Result<(fs::File, PathBuf)> {
    let dir = runtime_dir()?.join("guests");
    let dir = fs::File::open(&dir).or_fail(dir.display())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}.{DOOR}", dir.as_raw_fd()));
    Ok((dir, path))
}

/// The running guests, by name; records of dead ones are removed.
pub(crate) fn running() -> Result<Vec<Guest>> {
    let dir = runtime_dir()?.join("guests");
    let mut guests = Vec::new();
    for entry in fs::read_dir(&dir).or_fail(dir.display())?.flatten() {
        if entry.path().extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match read(&entry.path()) {
            Some(guest) => guests.push(guest),
            None => {
                let _ = fs::remove_file(entry.path());
                let _ = fs::remove_file(entry.path().with_extension(DOOR));
            }
        }
    }
    guests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(guests)
}

/// The name of a guest's own network in its record.
pub(crate) const OWN: &str = "own";

/// A running guest, its network as `netserver::client` names it, and the runtime directory.
pub(crate) fn in_network(name: &str) -> Result<(Guest, String, PathBuf)> {
    let guest = running()?.into_iter().find(|guest| guest.name == name);
    let guest =
        guest.ok_or_else(|| crate::Failure::new(format_args!("no guest called '{name}' is running")))?;
    let dir = runtime_dir()?;
    let network = match guest.network == OWN {
        true => netserver::client::own_network(name),
        false => guest.network.clone(),
    };
    if netserver::client::status(&dir, &network).is_err() {
        return Err(crate::Failure::new(format_args!(
            "guest '{name}' is in no network that can be asked (it has '{}'): start it with --net",
            guest.network
        )));
    }
    Ok((guest, network, dir))
}

/// A record that is locked.
fn read(path: &Path) -> Option<Guest> {
    let mut file = fs::File::open(path).ok()?;
    // SAFETY: a call on a descriptor of ours.
    let free = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) } == 0;
    if free {
        return None;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let mut guest: Guest = serde_json::from_str(&text).ok()?;
    let own = file.metadata().ok()?;
    guest.processes = holders(guest.lock_fd, (own.dev(), own.ino()));
    let first_lives = started_ticks(guest.pid) == Some(guest.started_ticks);
    // By start, since process ids wrap around.
    guest.processes.sort_by_key(|&pid| (pid != guest.pid, started_ticks(pid), pid));
    guest.processes.retain(|&pid| started_ticks(pid).is_some());
    if !first_lives {
        guest.pid = *guest.processes.first()?;
    }
    Some(guest)
}

/// The processes that have this file open under this number.
fn holders(fd: i32, file: (u64, u64)) -> Vec<i32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let holds = |pid: &i32| {
        fs::metadata(format!("/proc/{pid}/fd/{fd}")).is_ok_and(|found| (found.dev(), found.ino()) == file)
    };
    pids.filter(holds).collect()
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
