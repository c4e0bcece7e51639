//! <fcntl.h>: open(2) and fcntl(2), whose last argument is optional. It is in the same register as
//! if it were not, so ordinary functions do; it is looked at only where it was given (see [`crate::va`]).

use crate::errno;
use crate::kcall;
use crate::point;
use crate::types::*;
use crate::wrappers;
use platform::Errno;

const AT_FDCWD: c_int = -100;
const O_CREAT: c_int = 0o100;
const O_WRONLY: c_int = 1;
const O_TRUNC: c_int = 0o1000;
const O_TMPFILE: c_int = 0o20200000;
/// `O_CLOEXEC`.
pub const O_CLOEXEC: c_int = 0o2000000;

/// Whether `flags` call for a mode.
fn makes_a_file(flags: c_int) -> bool {
    flags & O_CREAT != 0 || flags & O_TMPFILE == O_TMPFILE
}

unsafe fn open_at(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let mode = if makes_a_file(flags) { mode } else { 0 };
    // SAFETY: the program's path.
    errno::int(unsafe { point!(openat, dir, path, flags, mode) })
}

abi! { EXPORTS "libc.so.6":
    /// open(2).
    "GLIBC_2.2.5" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: the program's path; so below.
        unsafe { open_at(AT_FDCWD, path, flags, mode) }
    }
    /// openat(2).
    "GLIBC_2.4" fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: as above.
        unsafe { open_at(dir, path, flags, mode) }
    }
    /// creat(2).
    "GLIBC_2.2.5" fn creat(path: *const c_char, mode: mode_t) -> c_int {
        // SAFETY: as above.
        unsafe { open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode) }
    }
    /// open(2) under _FORTIFY_SOURCE: without a mode.
    "GLIBC_2.7" fn __open_2(path: *const c_char, flags: c_int) -> c_int {
        need_no_mode(flags, "*** invalid open call: O_CREAT or O_TMPFILE without mode ***: terminated\n");
        // SAFETY: as above.
        unsafe { open_at(AT_FDCWD, path, flags, 0) }
    }
    /// openat(2) under _FORTIFY_SOURCE: without a mode.
    "GLIBC_2.7" fn __openat_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
        need_no_mode(flags, "*** invalid openat call: O_CREAT or O_TMPFILE without mode ***: terminated\n");
        // SAFETY: as above.
        unsafe { open_at(dir, path, flags, 0) }
    }
    /// fcntl(2): waiting for a lock is a cancellation point.
    "GLIBC_2.2.5" fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
        const F_SETLKW: c_int = 7;
        const F_OFD_SETLKW: c_int = 38;
        const F_GETOWN: c_int = 9;
        // SAFETY: the program's argument.
        unsafe {
            match command {
                F_SETLKW | F_OFD_SETLKW => errno::int(point!(fcntl, fd, command, argument)),
                F_GETOWN => get_owner(fd),
                _ => errno::int(kcall!(fcntl, fd, command, argument)),
            }
        }
    }
    /// lockf(3).
    "GLIBC_2.2.5" fn lockf(fd: c_int, command: c_int, len: off_t) -> c_int {
        // SAFETY: our own struct.
        errno::int(unsafe { lock_from_here(fd, command, len) })
    }
    /// posix_fadvise(3): the error number itself.
    "GLIBC_2.2.5" fn posix_fadvise(fd: c_int, offset: off_t, len: off_t, advice: c_int) -> c_int {
        // SAFETY: numbers only.
        number(unsafe { kcall!(fadvise64, fd, offset, len, advice) })
    }
    /// posix_fallocate(3): the error number itself.
    "GLIBC_2.2.5" fn posix_fallocate(fd: c_int, offset: off_t, len: off_t) -> c_int {
        // SAFETY: numbers only.
        match unsafe { point!(fallocate, fd, 0, offset, len) } {
            Err(Errno::EOPNOTSUPP) => number(fill_by_hand(fd, offset, len)),
            result => number(result),
        }
    }
}

wrappers! { MORE "libc.so.6":
    /// fallocate(2).
    "GLIBC_2.10" point fallocate(fd: c_int, mode: c_int, offset: off_t, len: off_t) -> c_int
        = fallocate(fd, mode, offset, len);
    /// flock(2).
    "GLIBC_2.2.5" plain flock(fd: c_int, operation: c_int) -> c_int = flock(fd, operation);
    /// readahead(2).
    "GLIBC_2.3" plain readahead(fd: c_int, offset: off_t, count: usize) -> isize = readahead(fd, offset, count);
    /// sync_file_range(2).
    "GLIBC_2.6" point sync_file_range(fd: c_int, offset: off_t, len: off_t, flags: c_uint) -> c_int
        = sync_file_range(fd, offset, len, flags);
    /// splice(2).
    "GLIBC_2.5" point splice(
        from: c_int, from_at: *mut i64, to: c_int, to_at: *mut i64, len: usize, flags: c_uint,
    ) -> isize = splice(from, from_at, to, to_at, len, flags);
    /// tee(2).
    "GLIBC_2.5" point tee(from: c_int, to: c_int, len: usize, flags: c_uint) -> isize = tee(from, to, len, flags);
    /// vmsplice(2).
    "GLIBC_2.5" point vmsplice(fd: c_int, parts: *const c_void, count: usize, flags: c_uint) -> isize
        = vmsplice(fd, parts, count, flags);
    /// name_to_handle_at(2).
    "GLIBC_2.14" plain name_to_handle_at(
        dir: c_int, path: *const c_char, handle: *mut c_void, mount: *mut c_int, flags: c_int,
    ) -> c_int = name_to_handle_at(dir, path, handle, mount, flags);
    /// open_by_handle_at(2).
    "GLIBC_2.14" point open_by_handle_at(mount: c_int, handle: *mut c_void, flags: c_int) -> c_int
        = open_by_handle_at(mount, handle, flags);
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.2.5" "open64" = open;
    alias "GLIBC_2.2.5" "__open" = open;
    alias "GLIBC_2.2.5" "__open64" = open;
    alias "GLIBC_2.4" "openat64" = openat;
    alias "GLIBC_2.2.5" "creat64" = creat;
    alias "GLIBC_2.7" "__open64_2" = __open_2;
    alias "GLIBC_2.7" "__openat64_2" = __openat_2;
    alias "GLIBC_2.28" "fcntl64" = fcntl;
    alias "GLIBC_2.2.5" "__fcntl" = fcntl;
    alias "GLIBC_2.2.5" "lockf64" = lockf;
    alias "GLIBC_2.2.5" "posix_fadvise64" = posix_fadvise;
    alias "GLIBC_2.2.5" "posix_fallocate64" = posix_fallocate;
    alias "GLIBC_2.10" "fallocate64" = fallocate;
}

fn number(result: Result<usize, Errno>) -> c_int {
    result.map_or_else(|errno| errno.0, |_| 0)
}

fn need_no_mode(flags: c_int, text: &str) {
    if makes_a_file(flags) {
        crate::start::fatal(text);
    }
}

/// F_GETOWN answers a negative number for a process group, which looks like an error: ask the newer
/// way.
unsafe fn get_owner(fd: c_int) -> c_int {
    const F_GETOWN_EX: usize = 16;
    const F_OWNER_PGRP: i32 = 2;
    let mut owner = [0i32; 2];
    // SAFETY: our own struct f_owner_ex.
    match unsafe { kcall!(fcntl, fd, F_GETOWN_EX, owner.as_mut_ptr()) } {
        Ok(_) => {
            if owner[0] == F_OWNER_PGRP {
                -owner[1]
            } else {
                owner[1]
            }
        }
        Err(errno) => errno::int(Err(errno)),
    }
}

/// A record lock from the current position (lockf(3)).
unsafe fn lock_from_here(fd: c_int, command: c_int, len: off_t) -> Result<usize, Errno> {
    #[repr(C)]
    struct Flock {
        kind: i16,
        whence: i16,
        start: i64,
        len: i64,
        pid: i32,
    }
    const F_GETLK: usize = 5;
    const F_SETLK: usize = 6;
    const F_SETLKW: usize = 7;
    const F_RDLCK: i16 = 0;
    const F_WRLCK: i16 = 1;
    const F_UNLCK: i16 = 2;
    const SEEK_CUR: i16 = 1;
    let mut lock = Flock { kind: F_WRLCK, whence: SEEK_CUR, start: 0, len, pid: 0 };
    // SAFETY: our own struct.
    unsafe {
        match command {
            0 => {
                lock.kind = F_UNLCK;
                kcall!(fcntl, fd, F_SETLK, &raw const lock)
            }
            1 => point!(fcntl, fd, F_SETLKW, &raw const lock),
            2 => kcall!(fcntl, fd, F_SETLK, &raw const lock),
            3 => {
                lock.kind = F_RDLCK;
                kcall!(fcntl, fd, F_GETLK, &raw mut lock)?;
                let own = kcall!(getpid)? as i32;
                if lock.kind == F_UNLCK || lock.pid == own { Ok(0) } else { Err(Errno::EACCES) }
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

/// posix_fallocate where the file system cannot: touches every block without changing what is there.
fn fill_by_hand(fd: c_int, offset: off_t, len: off_t) -> Result<usize, Errno> {
    if offset < 0 || len <= 0 {
        return Err(Errno::EINVAL);
    }
    let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
    const BLOCK: i64 = 4096;
    let mut state = crate::stat::Stat::default();
    // SAFETY: our own struct and bytes.
    unsafe {
        kcall!(fstat, fd, &raw mut state)?;
        let mut at = offset;
        while at < end {
            let last = (at + BLOCK - 1 - at % BLOCK).min(end - 1);
            let mut byte = 0u8;
            if last < state.size {
                kcall!(pread64, fd, &raw mut byte, 1, last)?;
            }
            kcall!(pwrite64, fd, &raw const byte, 1, last)?;
            at = last + 1;
        }
    }
    Ok(0)
}
