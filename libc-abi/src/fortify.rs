//! `_FORTIFY_SOURCE`: the `__*_chk` forms of memory and string functions, and how a check fails.
//!
//! A `__*_chk` function gets the size of its target as a further argument, `(size_t)-1` if unknown.
//! The forms of stdio, of descriptors and of `longjmp` are with their families.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::kcall;
use crate::multibyte::{self, MbState};
use crate::string::*;
use crate::types::*;
use crate::wchar;

/// Writes `message` to descriptor 2 and ends the process by SIGABRT. Goes around stdio: memory is
/// known to be damaged.
pub fn die(message: &str) -> ! {
    // SAFETY: plain system calls; the signal mask and action are set so that SIGABRT ends us even if
    // it was blocked or ignored.
    unsafe {
        const SIGABRT: usize = 6;
        let _ = kcall!(write, 2, message.as_ptr(), message.len());
        let unblock = 1u64 << (SIGABRT - 1);
        let _ = kcall!(rt_sigprocmask, 1, &raw const unblock, 0, 8);
        let abort = || {
            if let (Ok(pid), Ok(tid)) = (kcall!(getpid), kcall!(gettid)) {
                let _ = kcall!(tgkill, pid, tid, SIGABRT);
            }
        };
        abort();
        // A handler returned: the default action, then again.
        let default = [0u64; 4];
        let _ = kcall!(rt_sigaction, SIGABRT, &raw const default, 0, 8);
        abort();
        loop {
            let _ = kcall!(exit_group, 127);
        }
    }
}

#[inline(always)]
fn check(fits: bool) {
    if !fits {
        die("*** buffer overflow detected ***: terminated\n");
    }
}

abi! { EXPORTS "libc.so.6":
    /// What a failed check ends in.
    "GLIBC_2.3.4" fn __chk_fail() -> ! {
        die("*** buffer overflow detected ***: terminated\n")
    }
    /// What `-fstack-protector` calls when the canary has changed.
    "GLIBC_2.4" fn __stack_chk_fail() -> ! {
        die("*** stack smashing detected ***: terminated\n")
    }
    /// FD_SET's index, checked.
    "GLIBC_2.15" fn __fdelt_chk(fd: c_long) -> c_long {
        check((0..1024).contains(&fd));
        fd / 64
    }
    /// Checked memcpy(3).
    "GLIBC_2.3.4" fn __memcpy_chk(to: *mut c_void, from: *const c_void, n: usize, room: usize) -> *mut c_void {
        check(n <= room);
        memmove(to, from, n)
    }
    /// Checked memmove(3).
    "GLIBC_2.3.4" fn __memmove_chk(to: *mut c_void, from: *const c_void, n: usize, room: usize) -> *mut c_void {
        check(n <= room);
        memmove(to, from, n)
    }
    /// Checked mempcpy(3).
    "GLIBC_2.3.4" fn __mempcpy_chk(to: *mut c_void, from: *const c_void, n: usize, room: usize) -> *mut c_void {
        check(n <= room);
        mempcpy(to, from, n)
    }
    /// Checked memset(3).
    "GLIBC_2.3.4" fn __memset_chk(to: *mut c_void, c: c_int, n: usize, room: usize) -> *mut c_void {
        check(n <= room);
        memset(to, c, n)
    }
    /// Checked explicit_bzero(3).
    "GLIBC_2.25" fn __explicit_bzero_chk(to: *mut c_void, n: usize, room: usize) {
        check(n <= room);
        memset(to, 0, n);
    }
    /// Checked strcpy(3).
    "GLIBC_2.3.4" fn __strcpy_chk(to: *mut c_char, from: *const c_char, room: usize) -> *mut c_char {
        check(strlen(from) < room);
        strcpy(to, from)
    }
    /// Checked stpcpy(3).
    "GLIBC_2.3.4" fn __stpcpy_chk(to: *mut c_char, from: *const c_char, room: usize) -> *mut c_char {
        check(strlen(from) < room);
        stpcpy(to, from)
    }
    /// Checked strncpy(3).
    "GLIBC_2.3.4" fn __strncpy_chk(to: *mut c_char, from: *const c_char, n: usize, room: usize) -> *mut c_char {
        check(n <= room);
        strncpy(to, from, n)
    }
    /// Checked stpncpy(3).
    "GLIBC_2.4" fn __stpncpy_chk(to: *mut c_char, from: *const c_char, n: usize, room: usize) -> *mut c_char {
        check(n <= room);
        stpncpy(to, from, n)
    }
    /// Checked strcat(3).
    "GLIBC_2.3.4" fn __strcat_chk(to: *mut c_char, from: *const c_char, room: usize) -> *mut c_char {
        check(strlen(to).saturating_add(strlen(from)) < room);
        strcat(to, from)
    }
    /// Checked strncat(3).
    "GLIBC_2.3.4" fn __strncat_chk(to: *mut c_char, from: *const c_char, n: usize, room: usize) -> *mut c_char {
        check(strlen(to).saturating_add(strnlen(from, n)) < room);
        strncat(to, from, n)
    }
    /// Checked wmemcpy(3).
    "GLIBC_2.4" fn __wmemcpy_chk(to: *mut wchar_t, from: *const wchar_t, n: usize, room: usize) -> *mut wchar_t {
        check(n <= room);
        wchar::wmemmove(to, from, n)
    }
    /// Checked wmemmove(3).
    "GLIBC_2.4" fn __wmemmove_chk(to: *mut wchar_t, from: *const wchar_t, n: usize, room: usize) -> *mut wchar_t {
        check(n <= room);
        wchar::wmemmove(to, from, n)
    }
    /// Checked wmempcpy(3).
    "GLIBC_2.4" fn __wmempcpy_chk(to: *mut wchar_t, from: *const wchar_t, n: usize, room: usize) -> *mut wchar_t {
        check(n <= room);
        wchar::wmempcpy(to, from, n)
    }
    /// Checked wmemset(3).
    "GLIBC_2.4" fn __wmemset_chk(to: *mut wchar_t, c: wchar_t, n: usize, room: usize) -> *mut wchar_t {
        check(n <= room);
        wchar::wmemset(to, c, n)
    }
    /// Checked wcscpy(3).
    "GLIBC_2.4" fn __wcscpy_chk(to: *mut wchar_t, from: *const wchar_t, room: usize) -> *mut wchar_t {
        check(wchar::wcslen(from) < room);
        wchar::wcscpy(to, from)
    }
    /// Checked wcsncpy(3).
    "GLIBC_2.4" fn __wcsncpy_chk(to: *mut wchar_t, from: *const wchar_t, n: usize, room: usize) -> *mut wchar_t {
        check(n <= room);
        wchar::wcsncpy(to, from, n)
    }
    /// Checked wcscat(3).
    "GLIBC_2.4" fn __wcscat_chk(to: *mut wchar_t, from: *const wchar_t, room: usize) -> *mut wchar_t {
        check(wchar::wcslen(to).saturating_add(wchar::wcslen(from)) < room);
        wchar::wcscat(to, from)
    }
    /// Checked wcsncat(3).
    "GLIBC_2.4" fn __wcsncat_chk(to: *mut wchar_t, from: *const wchar_t, n: usize, room: usize) -> *mut wchar_t {
        check(wchar::wcslen(to).saturating_add(wchar::wcsnlen(from, n)) < room);
        wchar::wcsncat(to, from, n)
    }
    /// Checked mbstowcs(3).
    "GLIBC_2.4" fn __mbstowcs_chk(to: *mut wchar_t, from: *const c_char, n: usize, room: usize) -> usize {
        check(n <= room);
        multibyte::mbstowcs(to, from, n)
    }
    /// Checked wcstombs(3).
    "GLIBC_2.4" fn __wcstombs_chk(to: *mut c_char, from: *const wchar_t, n: usize, room: usize) -> usize {
        check(n <= room);
        multibyte::wcstombs(to, from, n)
    }
    /// Checked mbsrtowcs(3).
    "GLIBC_2.4" fn __mbsrtowcs_chk(
        to: *mut wchar_t, from: *mut *const c_char, n: usize, state: *mut MbState, room: usize,
    ) -> usize {
        check(n <= room);
        multibyte::mbsrtowcs(to, from, n, state)
    }
    /// Checked mbsnrtowcs(3).
    "GLIBC_2.4" fn __mbsnrtowcs_chk(
        to: *mut wchar_t, from: *mut *const c_char, size: usize, n: usize, state: *mut MbState, room: usize,
    ) -> usize {
        check(n <= room);
        multibyte::mbsnrtowcs(to, from, size, n, state)
    }
    /// Checked wcsrtombs(3).
    "GLIBC_2.4" fn __wcsrtombs_chk(
        to: *mut c_char, from: *mut *const wchar_t, n: usize, state: *mut MbState, room: usize,
    ) -> usize {
        check(n <= room);
        multibyte::wcsrtombs(to, from, n, state)
    }
    /// Checked wcsnrtombs(3).
    "GLIBC_2.4" fn __wcsnrtombs_chk(
        to: *mut c_char, from: *mut *const wchar_t, size: usize, n: usize, state: *mut MbState, room: usize,
    ) -> usize {
        check(n <= room);
        multibyte::wcsnrtombs(to, from, size, n, state)
    }
    /// Checked wcrtomb(3).
    "GLIBC_2.4" fn __wcrtomb_chk(to: *mut c_char, c: wchar_t, state: *mut MbState, room: usize) -> usize {
        check(crate::locale::__ctype_get_mb_cur_max() <= room);
        multibyte::wcrtomb(to, c, state)
    }
    /// Checked wctomb(3).
    "GLIBC_2.4" fn __wctomb_chk(to: *mut c_char, c: wchar_t, room: usize) -> c_int {
        check(crate::locale::__ctype_get_mb_cur_max() <= room);
        multibyte::wctomb(to, c)
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.15" "__fdelt_warn" = __fdelt_chk;
}
