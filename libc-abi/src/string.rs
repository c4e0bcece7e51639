//! <string.h> and <strings.h>: memory and strings of bytes.
//!
//! The fast bodies are in [`crate::string_mem`], [`crate::string_scan`] and [`crate::string_wide`]; searching for sets and
//! strings, tokens and versions in [`crate::strings_search`]; texts of errors in
//! [`crate::strerror`]. In C and C.UTF-8 the order of strings is the order of their bytes, so
//! `strcoll` is `strcmp`; case is ASCII's.

// C's contract in every function: pointers valid as the manual page says. Whole bodies rest on it.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::malloc;
use crate::string_scan as scan;
use crate::string_wide as wide;
use crate::types::*;
use core::ptr::null_mut;

pub use crate::string_mem::{memmove, memmove as memcpy, memset};

/// ASCII lower case, as `tolower` in every locale we have.
#[inline(always)]
pub(crate) fn lower(c: u8) -> u8 {
    c.to_ascii_lowercase()
}

#[inline(always)]
fn order(a: u8, b: u8) -> c_int {
    a as c_int - b as c_int
}

/// Copies `size` bytes between memories that do not overlap; never lowered into itself.
#[inline(always)]
pub(crate) unsafe fn copy(to: *mut c_char, from: *const c_char, size: usize) {
    memmove(to.cast(), from.cast(), size);
}

#[inline(always)]
unsafe fn string_mismatch(a: *const u8, b: *const u8, limit: usize) -> usize {
    if wide::there() { wide::string_mismatch(a, b, limit) } else { scan::string_mismatch(a, b, limit) }
}

abi! { EXPORTS "libc.so.6":
    /// memcmp(3).
    "GLIBC_2.2.5" fn memcmp(a: *const c_void, b: *const c_void, size: usize) -> c_int {
        let (a, b): (*const u8, *const u8) = (a.cast(), b.cast());
        if wide::there() {
            return wide::memcmp(a, b, size);
        }
        let at = scan::mismatch(a, b, size);
        if at == size { 0 } else { order(*a.add(at), *b.add(at)) }
    }
    /// memchr(3).
    "GLIBC_2.2.5" fn memchr(s: *const c_void, c: c_int, size: usize) -> *mut c_void {
        if wide::there() {
            return wide::memchr(s.cast(), c as u8, size).cast_mut().cast();
        }
        scan::find_within(s.cast(), size, scan::is(c as u8)).map_or(null_mut(), |p| p.cast_mut().cast())
    }
    /// memrchr(3).
    "GLIBC_2.2.5" fn memrchr(s: *const c_void, c: c_int, size: usize) -> *mut c_void {
        scan::find_last(s.cast(), size, c as u8).map_or(null_mut(), |p| p.cast_mut().cast())
    }
    /// rawmemchr(3).
    "GLIBC_2.2.5" fn rawmemchr(s: *const c_void, c: c_int) -> *mut c_void {
        if wide::there() {
            return wide::rawmemchr(s.cast(), c as u8).cast_mut().cast();
        }
        scan::find(s.cast(), scan::is(c as u8)).cast_mut().cast()
    }
    /// mempcpy(3).
    "GLIBC_2.2.5" fn mempcpy(to: *mut c_void, from: *const c_void, size: usize) -> *mut c_void {
        memmove(to, from, size).add(size)
    }
    /// memccpy(3).
    "GLIBC_2.2.5" fn memccpy(to: *mut c_void, from: *const c_void, c: c_int, size: usize) -> *mut c_void {
        match scan::find_within(from.cast(), size, scan::is(c as u8)) {
            Some(found) => mempcpy(to, from, found as usize - from as usize + 1),
            None => {
                memmove(to, from, size);
                null_mut()
            }
        }
    }
    /// bzero(3).
    "GLIBC_2.2.5" fn bzero(to: *mut c_void, size: usize) {
        memset(to, 0, size);
    }
    /// bcopy(3): memmove with the arguments the other way round.
    "GLIBC_2.2.5" fn bcopy(from: *const c_void, to: *mut c_void, size: usize) {
        memmove(to, from, size);
    }
    /// explicit_bzero(3): `memset` is assembly here, so no compiler can drop the store.
    "GLIBC_2.25" fn explicit_bzero(to: *mut c_void, size: usize) {
        memset(to, 0, size);
    }
    /// strlen(3).
    "GLIBC_2.2.5" fn strlen(s: *const c_char) -> usize {
        if wide::there() { wide::strlen(s.cast()) } else { scan::length(s.cast()) }
    }
    /// strnlen(3).
    "GLIBC_2.2.5" fn strnlen(s: *const c_char, limit: usize) -> usize {
        if wide::there() {
            let end = wide::memchr(s.cast(), 0, limit);
            return if end.is_null() { limit } else { end as usize - s as usize };
        }
        scan::find_within(s.cast(), limit, scan::is(0)).map_or(limit, |end| end as usize - s as usize)
    }
    /// strcpy(3).
    "GLIBC_2.2.5" fn strcpy(to: *mut c_char, from: *const c_char) -> *mut c_char {
        if wide::there() {
            return wide::strcpy(to.cast(), from.cast()).cast();
        }
        copy(to, from, scan::length(from.cast()) + 1);
        to
    }
    /// stpcpy(3).
    "GLIBC_2.2.5" fn stpcpy(to: *mut c_char, from: *const c_char) -> *mut c_char {
        if wide::there() {
            return wide::stpcpy(to.cast(), from.cast()).cast();
        }
        let length = scan::length(from.cast());
        copy(to, from, length + 1);
        to.add(length)
    }
    /// strncpy(3).
    "GLIBC_2.2.5" fn strncpy(to: *mut c_char, from: *const c_char, size: usize) -> *mut c_char {
        stpncpy(to, from, size);
        to
    }
    /// stpncpy(3).
    "GLIBC_2.2.5" fn stpncpy(to: *mut c_char, from: *const c_char, size: usize) -> *mut c_char {
        let length = strnlen(from, size);
        copy(to, from, length);
        memset(to.add(length).cast(), 0, size - length);
        to.add(length)
    }
    /// strcat(3).
    "GLIBC_2.2.5" fn strcat(to: *mut c_char, from: *const c_char) -> *mut c_char {
        strcpy(to.add(strlen(to)), from);
        to
    }
    /// strncat(3).
    "GLIBC_2.2.5" fn strncat(to: *mut c_char, from: *const c_char, limit: usize) -> *mut c_char {
        let (end, length) = (to.add(strlen(to)), strnlen(from, limit));
        copy(end, from, length);
        *end.add(length) = 0;
        to
    }
    /// strcmp(3).
    "GLIBC_2.2.5" fn strcmp(a: *const c_char, b: *const c_char) -> c_int {
        if wide::there() {
            return wide::strcmp(a.cast(), b.cast());
        }
        let at = scan::string_mismatch(a.cast(), b.cast(), usize::MAX);
        order(*a.add(at) as u8, *b.add(at) as u8)
    }
    /// strncmp(3).
    "GLIBC_2.2.5" fn strncmp(a: *const c_char, b: *const c_char, limit: usize) -> c_int {
        let at = string_mismatch(a.cast(), b.cast(), limit);
        if at == limit { 0 } else { order(*a.add(at) as u8, *b.add(at) as u8) }
    }
    /// strcoll(3): byte order.
    "GLIBC_2.2.5" fn strcoll(a: *const c_char, b: *const c_char) -> c_int {
        strcmp(a, b)
    }
    /// strcoll_l(3).
    "GLIBC_2.3" fn strcoll_l(a: *const c_char, b: *const c_char, _locale: *mut c_void) -> c_int {
        strcmp(a, b)
    }
    /// strxfrm(3): the key of a string is the string.
    "GLIBC_2.2.5" fn strxfrm(to: *mut c_char, from: *const c_char, size: usize) -> usize {
        let length = strlen(from);
        if size > 0 {
            copy(to, from, (length + 1).min(size));
        }
        length
    }
    /// strxfrm_l(3).
    "GLIBC_2.3" fn strxfrm_l(to: *mut c_char, from: *const c_char, size: usize, _locale: *mut c_void) -> usize {
        strxfrm(to, from, size)
    }
    /// strcasecmp(3).
    "GLIBC_2.2.5" fn strcasecmp(a: *const c_char, b: *const c_char) -> c_int {
        strncasecmp(a, b, usize::MAX)
    }
    /// strncasecmp(3).
    "GLIBC_2.2.5" fn strncasecmp(a: *const c_char, b: *const c_char, limit: usize) -> c_int {
        for at in 0..limit {
            let (x, y) = (*a.add(at) as u8, *b.add(at) as u8);
            if x != y {
                let difference = order(lower(x), lower(y));
                if difference != 0 {
                    return difference;
                }
            } else if x == 0 {
                break;
            }
        }
        0
    }
    /// strcasecmp_l(3).
    "GLIBC_2.3" fn strcasecmp_l(a: *const c_char, b: *const c_char, _locale: *mut c_void) -> c_int {
        strcasecmp(a, b)
    }
    /// strncasecmp_l(3).
    "GLIBC_2.3" fn strncasecmp_l(
        a: *const c_char, b: *const c_char, limit: usize, _locale: *mut c_void,
    ) -> c_int {
        strncasecmp(a, b, limit)
    }
    /// strchr(3).
    "GLIBC_2.2.5" fn strchr(s: *const c_char, c: c_int) -> *mut c_char {
        if wide::there() {
            return wide::strchr(s.cast(), c as u8).cast_mut().cast();
        }
        let found = strchrnul(s, c);
        if *found as u8 == c as u8 { found } else { null_mut() }
    }
    /// strchrnul(3).
    "GLIBC_2.2.5" fn strchrnul(s: *const c_char, c: c_int) -> *mut c_char {
        if wide::there() {
            return wide::strchrnul(s.cast(), c as u8).cast_mut().cast();
        }
        scan::find(s.cast(), scan::is_or_nul(c as u8)).cast_mut().cast()
    }
    /// strrchr(3).
    "GLIBC_2.2.5" fn strrchr(s: *const c_char, c: c_int) -> *mut c_char {
        scan::find_last_in_string(s.cast(), c as u8).map_or(null_mut(), |p| p.cast_mut().cast())
    }
    /// strdup(3).
    "GLIBC_2.2.5" fn strdup(s: *const c_char) -> *mut c_char {
        let size = strlen(s) + 1;
        let new: *mut c_char = malloc::malloc(size).cast();
        if !new.is_null() {
            copy(new, s, size);
        }
        new
    }
    /// strndup(3).
    "GLIBC_2.2.5" fn strndup(s: *const c_char, limit: usize) -> *mut c_char {
        let length = strnlen(s, limit);
        let new: *mut c_char = malloc::malloc(length + 1).cast();
        if !new.is_null() {
            copy(new, s, length);
            *new.add(length) = 0;
        }
        new
    }
    /// ffs(3).
    "GLIBC_2.2.5" fn ffs(value: c_int) -> c_int {
        if value == 0 { 0 } else { value.trailing_zeros() as c_int + 1 }
    }
    /// ffsl(3).
    "GLIBC_2.2.5" fn ffsl(value: c_long) -> c_int {
        if value == 0 { 0 } else { value.trailing_zeros() as c_int + 1 }
    }
    /// swab(3).
    "GLIBC_2.2.5" fn swab(from: *const c_void, to: *mut c_void, size: isize) {
        let (from, to): (*const u8, *mut u8) = (from.cast(), to.cast());
        for at in (0..(size & !1).max(0) as usize).step_by(2) {
            let (x, y) = (*from.add(at), *from.add(at + 1));
            *to.add(at) = y;
            *to.add(at + 1) = x;
        }
    }
    /// memfrob(3).
    "GLIBC_2.2.5" fn memfrob(s: *mut c_void, size: usize) -> *mut c_void {
        for at in 0..size {
            *s.cast::<u8>().add(at) ^= 42;
        }
        s
    }
}

/// memcmp(3) where only equality counts.
pub use self::memcmp as bcmp;

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "memmove" = memmove;
    alias "GLIBC_2.14" "memcpy" = memmove;
    compat "GLIBC_2.2.5" "memcpy" = memmove;
    alias "GLIBC_2.2.5" "memset" = memset;
    alias "GLIBC_2.2.5" "bcmp" = memcmp;
    alias "GLIBC_2.35" "__memcmpeq" = memcmp;
    alias "GLIBC_2.2.5" "__mempcpy" = mempcpy;
    alias "GLIBC_2.2.5" "__rawmemchr" = rawmemchr;
    alias "GLIBC_2.2.5" "__bzero" = bzero;
    alias "GLIBC_2.2.5" "__stpcpy" = stpcpy;
    alias "GLIBC_2.2.5" "__stpncpy" = stpncpy;
    alias "GLIBC_2.2.5" "__strdup" = strdup;
    alias "GLIBC_2.2.5" "__strndup" = strndup;
    alias "GLIBC_2.2.5" "__strcasecmp" = strcasecmp;
    alias "GLIBC_2.2.5" "__strcasecmp_l" = strcasecmp_l;
    alias "GLIBC_2.2.5" "__strncasecmp_l" = strncasecmp_l;
    alias "GLIBC_2.2.5" "__strcoll_l" = strcoll_l;
    alias "GLIBC_2.2.5" "__strxfrm_l" = strxfrm_l;
    alias "GLIBC_2.2.5" "index" = strchr;
    alias "GLIBC_2.2.5" "rindex" = strrchr;
    alias "GLIBC_2.2.5" "ffsll" = ffsl;
}
