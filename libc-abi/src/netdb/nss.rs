//! Which databases are read: `__nss_configure_lookup`, and the lines of `/etc/nsswitch.conf` that matter here.
//!
//! Of all modules only `files` is there, and `dns` for hosts ([`super::conf`]). A database whose line names others alone
//! has nothing to tell. So it is with those that a program has configured itself; of the file's lines only netgroup's is
//! looked at, because Debian's own leaves `files` out there.

use super::files;
use super::inet::bytes;
use crate::errno;
use crate::types::{c_char, c_int};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};
use platform::Errno;

/// All databases of nsswitch.conf(5).
const DATABASES: [&str; 17] = [
    "aliases",
    "ethers",
    "group",
    "group_compat",
    "gshadow",
    "hosts",
    "initgroups",
    "netgroup",
    "networks",
    "passwd",
    "passwd_compat",
    "protocols",
    "publickey",
    "rpc",
    "services",
    "shadow",
    "shadow_compat",
];

/// What the program wants instead of the file's line. A text stays allocated: another thread may be reading it.
static WISHES: [AtomicPtr<Vec<u8>>; DATABASES.len()] =
    [const { AtomicPtr::new(null_mut()) }; DATABASES.len()];

fn place(database: &[u8]) -> Option<&'static AtomicPtr<Vec<u8>>> {
    let at = DATABASES.iter().position(|name| name.as_bytes() == database)?;
    Some(&WISHES[at])
}

/// The program's own line of services for a database.
pub fn configured(database: &[u8]) -> Option<&'static [u8]> {
    // SAFETY: from Box::into_raw, and never freed.
    unsafe { place(database)?.load(Ordering::Acquire).as_ref() }.map(Vec::as_slice)
}

fn names_files(line: &[u8]) -> bool {
    files::words(line).any(|word| word == b"files")
}

/// Whether a database in this file (`/etc/NAME`) is asked.
pub fn is_asked(path: &[u8]) -> bool {
    let database = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
    configured(database).is_none_or(names_files)
}

/// Whether the netgroups of `/etc/netgroup` are.
pub fn has_netgroups() -> bool {
    if let Some(line) = configured(b"netgroup") {
        return names_files(line);
    }
    let text = files::read(c"/etc/nsswitch.conf").unwrap_or_default();
    let line = files::lines(&text).find_map(|line| {
        line.trim_ascii_start().strip_prefix(b"netgroup")?.trim_ascii_start().strip_prefix(b":")
    });
    line.is_none_or(names_files)
}

abi! { EXPORTS "libc.so.6":
    /// The services of a database, as in nsswitch.conf(5); EINVAL for one that there is not. Null changes nothing.
    "GLIBC_2.2.5" fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int {
        // SAFETY: the caller's strings.
        let Some(place) = place(unsafe { bytes(database) }) else {
            errno::set(Errno::EINVAL);
            return -1;
        };
        if !services.is_null() {
            // SAFETY: as above.
            let line = unsafe { bytes(services) }.to_vec();
            place.store(Box::into_raw(Box::new(line)), Ordering::Release);
        }
        0
    }
}
