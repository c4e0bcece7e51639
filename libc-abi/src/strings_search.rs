//! <string.h>, second part: sets of bytes, substrings, tokens, version order, path names.

// C's contract in every function: pointers valid as the manual page says. Whole bodies rest on it.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::string::*;
use crate::types::*;
use core::cmp::Ordering;
use core::ptr::null_mut;
use core::slice;
use core::sync::atomic::{AtomicPtr, Ordering as Sync};

/// A set of byte values.
#[derive(Default)]
struct Set([u64; 4]);

impl Set {
    unsafe fn of(mut s: *const c_char) -> Set {
        let mut set = Set::default();
        while *s != 0 {
            set.add(*s as u8);
            s = s.add(1);
        }
        set
    }
    #[inline(always)]
    fn add(&mut self, c: u8) {
        self.0[c as usize / 64] |= 1 << (c % 64);
    }
    #[inline(always)]
    fn has(&self, c: u8) -> bool {
        self.0[c as usize / 64] >> (c % 64) & 1 != 0
    }
}

/// First occurrence of `needle`; empty needles are found at once.
unsafe fn substring(haystack: *const c_char, needle: *const c_char) -> *mut c_char {
    if *needle == 0 {
        return haystack.cast_mut();
    }
    // Candidates by the first byte, until their comparisons have cost more than the scan would
    // allow a linear search to; then measure the rest and search it by two-way.
    let mut budget = 256usize;
    let mut at = haystack;
    loop {
        at = crate::string_evex::find_char(at, *needle as u8);
        if at.is_null() {
            return null_mut();
        }
        let mut matched = 1;
        while *needle.add(matched) != 0 && *at.add(matched) == *needle.add(matched) {
            matched += 1;
        }
        if *needle.add(matched) == 0 {
            return at.cast_mut();
        }
        if *at.add(matched) == 0 {
            // The haystack ended inside the needle: no later place can hold all of it.
            return null_mut();
        }
        at = at.add(1);
        budget = budget.saturating_sub(matched);
        if budget == 0 {
            return memmem(at.cast(), strlen(at), needle.cast(), strlen(needle)).cast();
        }
    }
}

/// strverscmp(3)'s order: digit runs compare as numbers, those with leading zeros as fractions.
unsafe fn version_order(a: *const c_char, b: *const c_char) -> c_int {
    let (a, b): (*const u8, *const u8) = (a.cast(), b.cast());
    // The common part, where its last digit run starts, and whether that run is all zeros.
    let (mut at, mut run, mut zeros) = (0, 0, true);
    while *a.add(at) == *b.add(at) {
        match *a.add(at) {
            0 => return 0,
            b'0' => {}
            b'1'..=b'9' => zeros = false,
            _ => (run, zeros) = (at + 1, true),
        }
        at += 1;
    }
    let digit = |p: *const u8| (*p).is_ascii_digit();
    let leading = |p: *const u8| matches!(*p, b'1'..=b'9');
    let plain = *a.add(at) as c_int - *b.add(at) as c_int;
    if leading(a.add(run)) && leading(b.add(run)) {
        // Whole numbers: the one with more digits is larger.
        let mut i = at;
        while digit(a.add(i)) && digit(b.add(i)) {
            i += 1;
        }
        return match (digit(a.add(i)), digit(b.add(i))) {
            (true, false) => 1,
            (false, true) => -1,
            _ => plain,
        };
    }
    if zeros && run < at {
        // "0...0" against more digits: a longer fraction of zeros is smaller.
        return match (digit(a.add(at)), digit(b.add(at))) {
            (true, false) => -1,
            (false, true) => 1,
            _ => plain,
        };
    }
    plain
}

static STRTOK: AtomicPtr<c_char> = AtomicPtr::new(null_mut());

abi! { EXPORTS "libc.so.6":
    /// memmem(3).
    "GLIBC_2.2.5" fn memmem(
        haystack: *const c_void, haystack_size: usize, needle: *const c_void, needle_size: usize,
    ) -> *mut c_void {
        if needle_size == 0 {
            return haystack.cast_mut();
        }
        if needle_size > haystack_size {
            return null_mut();
        }
        let within = slice::from_raw_parts(haystack.cast::<u8>(), haystack_size);
        let wanted = slice::from_raw_parts(needle.cast::<u8>(), needle_size);
        memchr::memmem::find(within, wanted).map_or(null_mut(), |at| haystack.add(at).cast_mut())
    }
    /// strstr(3).
    "GLIBC_2.2.5" fn strstr(haystack: *const c_char, needle: *const c_char) -> *mut c_char {
        substring(haystack, needle)
    }
    /// strcasestr(3).
    "GLIBC_2.2.5" fn strcasestr(haystack: *const c_char, needle: *const c_char) -> *mut c_char {
        let size = strlen(needle);
        let mut at = haystack;
        loop {
            if strncasecmp(at, needle, size) == 0 {
                return at.cast_mut();
            }
            if *at == 0 {
                return null_mut();
            }
            at = at.add(1);
        }
    }
    /// strspn(3).
    "GLIBC_2.2.5" fn strspn(s: *const c_char, accept: *const c_char) -> usize {
        let set = Set::of(accept);
        let mut at = 0;
        // NUL is in no set.
        while set.has(*s.add(at) as u8) {
            at += 1;
        }
        at
    }
    /// strcspn(3).
    "GLIBC_2.2.5" fn strcspn(s: *const c_char, reject: *const c_char) -> usize {
        if *reject == 0 {
            return strlen(s);
        }
        if *reject.add(1) == 0 {
            return strchrnul(s, *reject as c_int) as usize - s as usize;
        }
        let mut set = Set::of(reject);
        set.add(0);
        let mut at = 0;
        while !set.has(*s.add(at) as u8) {
            at += 1;
        }
        at
    }
    /// strpbrk(3).
    "GLIBC_2.2.5" fn strpbrk(s: *const c_char, accept: *const c_char) -> *mut c_char {
        let at = s.add(strcspn(s, accept));
        if *at == 0 { null_mut() } else { at.cast_mut() }
    }
    /// strsep(3).
    "GLIBC_2.2.5" fn strsep(rest: *mut *mut c_char, delimiters: *const c_char) -> *mut c_char {
        let token = *rest;
        if token.is_null() {
            return token;
        }
        let end = token.add(strcspn(token, delimiters));
        if *end == 0 {
            *rest = null_mut();
        } else {
            *end = 0;
            *rest = end.add(1);
        }
        token
    }
    /// strtok_r(3).
    "GLIBC_2.2.5" fn strtok_r(
        s: *mut c_char, delimiters: *const c_char, save: *mut *mut c_char,
    ) -> *mut c_char {
        let mut token = if s.is_null() { *save } else { s };
        if token.is_null() {
            return token;
        }
        token = token.add(strspn(token, delimiters));
        if *token == 0 {
            *save = token;
            return null_mut();
        }
        let end = token.add(strcspn(token, delimiters));
        if *end == 0 {
            *save = end;
        } else {
            *end = 0;
            *save = end.add(1);
        }
        token
    }
    /// strtok(3).
    "GLIBC_2.2.5" fn strtok(s: *mut c_char, delimiters: *const c_char) -> *mut c_char {
        let mut save = STRTOK.load(Sync::Relaxed);
        let token = strtok_r(s, delimiters, &mut save);
        STRTOK.store(save, Sync::Relaxed);
        token
    }
    /// strverscmp(3).
    "GLIBC_2.2.5" fn strverscmp(a: *const c_char, b: *const c_char) -> c_int {
        match version_order(a, b).cmp(&0) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }
    }
    /// basename(3), GNU's: what follows the last slash.
    "GLIBC_2.2.5" fn basename(path: *const c_char) -> *mut c_char {
        let slash = strrchr(path, b'/' as c_int);
        if slash.is_null() { path.cast_mut() } else { slash.add(1) }
    }
    /// basename(3), POSIX's: trailing slashes do not count.
    "GLIBC_2.2.5" fn __xpg_basename(path: *mut c_char) -> *mut c_char {
        if path.is_null() || *path == 0 {
            return c".".as_ptr().cast_mut();
        }
        let mut end = strlen(path);
        while end > 1 && *path.add(end - 1) == b'/' as c_char {
            end -= 1;
        }
        if end == 1 && *path == b'/' as c_char {
            // glibc keeps the argument: the last of its slashes.
            return path.add(strlen(path) - 1);
        }
        *path.add(end) = 0;
        basename(path)
    }
    /// dirname(3).
    "GLIBC_2.2.5" fn dirname(path: *mut c_char) -> *mut c_char {
        let dot = c".".as_ptr().cast_mut();
        if path.is_null() {
            return dot;
        }
        let is_slash = |at: usize| *path.add(at) == b'/' as c_char;
        let mut end = strlen(path);
        while end > 0 && is_slash(end - 1) {
            end -= 1;
        }
        while end > 0 && !is_slash(end - 1) {
            end -= 1;
        }
        if end == 0 {
            if *path != b'/' as c_char {
                return dot;
            }
            // Only slashes: two of them stay two (POSIX leaves "//" to the system).
            let keep = if strlen(path) == 2 { 2 } else { 1 };
            *path.add(keep) = 0;
            return path;
        }
        while end > 1 && is_slash(end - 1) {
            end -= 1;
        }
        if end == 1 && is_slash(0) && is_slash(1) && !is_slash(2) {
            end = 2;
        }
        *path.add(end) = 0;
        path
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "__strtok_r" = strtok_r;
    alias "GLIBC_2.2.5" "__strverscmp" = strverscmp;
}
