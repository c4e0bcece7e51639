//! User and group ids. The personality keeps them for the process, so a change counts for all threads
//! at once, as POSIX asks and glibc arranges with signals.

use crate::errno;
use crate::kcall;
use crate::types::*;
use crate::wrappers;

const UNCHANGED: u32 = u32::MAX;

wrappers! { EXPORTS "libc.so.6":
    /// getuid(2).
    "GLIBC_2.2.5" plain getuid() -> uid_t = getuid();
    /// geteuid(2).
    "GLIBC_2.2.5" plain geteuid() -> uid_t = geteuid();
    /// getgid(2).
    "GLIBC_2.2.5" plain getgid() -> gid_t = getgid();
    /// getegid(2).
    "GLIBC_2.2.5" plain getegid() -> gid_t = getegid();
    /// getresuid(2).
    "GLIBC_2.2.5" plain getresuid(real: *mut uid_t, effective: *mut uid_t, saved: *mut uid_t) -> c_int
        = getresuid(real, effective, saved);
    /// getresgid(2).
    "GLIBC_2.2.5" plain getresgid(real: *mut gid_t, effective: *mut gid_t, saved: *mut gid_t) -> c_int
        = getresgid(real, effective, saved);
    /// setuid(2).
    "GLIBC_2.2.5" plain setuid(uid: uid_t) -> c_int = setuid(uid);
    /// setgid(2).
    "GLIBC_2.2.5" plain setgid(gid: gid_t) -> c_int = setgid(gid);
    /// setreuid(2).
    "GLIBC_2.2.5" plain setreuid(real: uid_t, effective: uid_t) -> c_int = setreuid(real, effective);
    /// setregid(2).
    "GLIBC_2.2.5" plain setregid(real: gid_t, effective: gid_t) -> c_int = setregid(real, effective);
    /// setresuid(2).
    "GLIBC_2.2.5" plain setresuid(real: uid_t, effective: uid_t, saved: uid_t) -> c_int = setresuid(real, effective, saved);
    /// setresgid(2).
    "GLIBC_2.2.5" plain setresgid(real: gid_t, effective: gid_t, saved: gid_t) -> c_int = setresgid(real, effective, saved);
    /// seteuid(3).
    "GLIBC_2.2.5" plain seteuid(uid: uid_t) -> c_int = setresuid(UNCHANGED, uid, UNCHANGED);
    /// setegid(3).
    "GLIBC_2.2.5" plain setegid(gid: gid_t) -> c_int = setresgid(UNCHANGED, gid, UNCHANGED);
    /// setfsuid(2): the old one.
    "GLIBC_2.2.5" plain setfsuid(uid: uid_t) -> c_int = setfsuid(uid);
    /// setfsgid(2): the old one.
    "GLIBC_2.2.5" plain setfsgid(gid: gid_t) -> c_int = setfsgid(gid);
    /// getgroups(2).
    "GLIBC_2.2.5" plain getgroups(count: c_int, to: *mut gid_t) -> c_int = getgroups(count, to);
    /// setgroups(2).
    "GLIBC_2.2.5" plain setgroups(count: usize, groups: *const gid_t) -> c_int = setgroups(count, groups);
    /// capget(2).
    "GLIBC_2.2.5" plain capget(header: *mut c_void, data: *mut c_void) -> c_int = capget(header, data);
    /// capset(2).
    "GLIBC_2.2.5" plain capset(header: *mut c_void, data: *const c_void) -> c_int = capset(header, data);
}

abi! { MORE "libc.so.6":
    /// group_member(3).
    "GLIBC_2.2.5" fn group_member(gid: gid_t) -> c_int {
        let mut groups = alloc::vec![0 as gid_t; 65536];
        // SAFETY: our own array.
        let count = unsafe { kcall!(getgroups, groups.len(), groups.as_mut_ptr()) }.unwrap_or(0);
        groups.truncate(count);
        c_int::from(groups.contains(&gid))
    }
    /// getgroups(2) under _FORTIFY_SOURCE.
    "GLIBC_2.4" fn __getgroups_chk(count: c_int, to: *mut gid_t, room: usize) -> c_int {
        if count < 0 {
            errno::set(platform::Errno::EINVAL);
            return -1;
        }
        crate::unistd::check(count as usize * 4, room);
        // SAFETY: forwarded.
        unsafe { getgroups(count, to) }
    }
}
