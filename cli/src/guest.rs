//! Becoming a guest: the embedded runtime, its configuration, and the `exec` that ends `attacca`.
//!
//! `attacca run` does not stay: its process becomes the guest. So the program has the process id that
//! was started, gets the signals that are sent to it, and its parent sees its real exit status.

use crate::error::{Failure, OrFail, Result};
use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The freestanding guest, built by `build.rs`.
static GUEST: &[u8] = include_bytes!(env!("ATTACCA_GUEST"));

/// Records for the guest's start: `KEY=VALUE`, each ended by a NUL (see `guest/src/config.rs`).
#[derive(Default)]
pub(crate) struct Config(Vec<u8>);

impl Config {
    /// Adds a record. A NUL cannot be part of a path, argument or variable, and is refused.
    pub(crate) fn add(&mut self, key: &str, value: impl AsRef<OsStr>) -> Result<()> {
        let value = value.as_ref().as_bytes();
        if value.contains(&0) {
            return Err(Failure::new(format_args!("the value of '{key}' contains a NUL byte")));
        }
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(0);
        Ok(())
    }

    /// The records.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Lets the guest inherit a descriptor that it only keeps open.
    pub(crate) fn hold(&mut self, fd: OwnedFd) -> io::Result<()> {
        inheritable(fd).map(drop)
    }

    /// Adds a record for a descriptor that the guest inherits, and lets it be inherited.
    pub(crate) fn add_fd(&mut self, key: &str, fd: OwnedFd) -> Result<()> {
        let raw = inheritable(fd).or_fail(format_args!("cannot hand over {key}"))?;
        self.add(key, raw.to_string())
    }
}

/// Turns this process into the guest. Returns only if that fails.
pub(crate) fn become_guest(config: &Config) -> Result<std::convert::Infallible> {
    let mut file = memfd(c"attacca-config").or_fail("cannot hold the configuration")?;
    file.write_all(&config.0).or_fail("cannot hold the configuration")?;
    let config_fd = inheritable(file.into()).or_fail("cannot hand over the configuration")?;
    let name = CString::new("attacca-guest").expect("no NUL");
    let number = CString::new(config_fd.to_string()).expect("no NUL");
    let argv = [name.as_ptr(), number.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    let guest = guest_file()?;
    // SAFETY: path, argument and environment arrays are NUL-terminated and live over the call.
    unsafe { libc::execve(guest.as_ptr(), argv.as_ptr(), environment.as_ptr()) };
    Err(io::Error::last_os_error()).or_fail(format_args!("cannot start the runtime {guest:?}"))
}

/// The runtime as a file, so that gdb and perf find its symbols: kept in the cache under the hash of
/// its content. Where no cache can be written, a memfd serves.
fn guest_file() -> Result<CString> {
    let path = cached_guest().or_else(|_| memfd_guest()).or_fail("cannot unpack the runtime")?;
    CString::new(path.into_os_string().as_bytes()).or_fail("the cache's path contains a NUL byte")
}

fn cached_guest() -> io::Result<PathBuf> {
    let dir = cache_dir()?.join("runtime");
    let path = dir.join(concat!("guest-", env!("CARGO_PKG_VERSION"), "-", env!("ATTACCA_GUEST_FINGERPRINT")));
    let complete = fs::metadata(&path).is_ok_and(|m| m.len() == GUEST.len() as u64 && m.mode_is_executable());
    if !complete {
        fs::create_dir_all(&dir)?;
        // Written aside and renamed: two first runs at once both end with a whole file.
        let aside = dir.join(format!("new-{}", std::process::id()));
        fs::write(&aside, GUEST)?;
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o755))?;
        fs::rename(&aside, &path)?;
        let _ = forget_old_runtimes(&dir);
    }
    Ok(path)
}

/// How many builds' runtimes the cache keeps: who goes back and forth between some finds them all.
const RUNTIMES: usize = 8;

/// Removes the runtimes of older builds. Guests that run on one keep it; a build that is used again unpacks its own.
fn forget_old_runtimes(dir: &Path) -> io::Result<()> {
    let runtime = |e: &fs::DirEntry| e.file_name().as_bytes().starts_with(b"guest-");
    let files = fs::read_dir(dir)?.flatten().filter(runtime);
    let mut files: Vec<_> =
        files.filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path()))).collect();
    files.sort();
    let old = files.len().saturating_sub(RUNTIMES);
    files[..old].iter().try_for_each(|(_, path)| fs::remove_file(path))
}

trait Executable {
    fn mode_is_executable(&self) -> bool;
}

impl Executable for fs::Metadata {
    fn mode_is_executable(&self) -> bool {
        self.permissions().mode() & 0o100 != 0
    }
}

fn memfd_guest() -> io::Result<PathBuf> {
    let mut file = memfd(c"attacca-guest")?;
    file.write_all(GUEST)?;
    let fd = OwnedFd::from(file);
    Ok(PathBuf::from(format!("/proc/self/fd/{}", inheritable(fd)?)))
}

/// `$ATTACCA_CACHE`, `$XDG_CACHE_HOME/attacca` or `~/.cache/attacca`.
pub(crate) fn cache_dir() -> io::Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let dir = set("ATTACCA_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|d| d.join("attacca")))
        .or_else(|| set("HOME").map(|d| d.join(".cache/attacca")))
        .ok_or_else(|| io::Error::other("no cache directory: set ATTACCA_CACHE or HOME"))?;
    fs::create_dir_all(&dir)?;
    fs::canonicalize(dir)
}

pub(crate) fn memfd(name: &std::ffi::CStr) -> io::Result<fs::File> {
    // SAFETY: the name is NUL-terminated.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { fs::File::from_raw_fd(fd) })
}

/// Lets the descriptor survive exec, and gives up ownership: it is the guest's from now on.
fn inheritable(fd: OwnedFd) -> io::Result<i32> {
    let raw = fd.as_raw_fd();
    // SAFETY: F_SETFD on a descriptor that we own.
    if unsafe { libc::fcntl(raw, libc::F_SETFD, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    std::mem::forget(fd);
    Ok(raw)
}
