//! <wchar.h>: wide strings and memory. A `wchar_t` is a signed 32-bit number; order is its order.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::locale::is_utf8;
use crate::malloc;
use crate::string::{memmove, mempcpy};
use crate::types::*;
use crate::wctype;
use core::arch::x86_64::*;
use core::ptr::null_mut;

const WIDTH: usize = size_of::<wchar_t>();

/// First place at or after `s` that holds one of `wanted`; there must be one. Aligned blocks of four,
/// which never leave the page of a valid character (`s` is aligned to 4, as the psABI has it).
#[inline(always)]
unsafe fn find(s: *const wchar_t, wanted: [wchar_t; 2]) -> *const wchar_t {
    if !(s as usize).is_multiple_of(WIDTH) {
        let mut at = s;
        while at.read_unaligned() != wanted[0] && at.read_unaligned() != wanted[1] {
            at = at.add(1);
        }
        return at;
    }
    let (a, b) = (_mm_set1_epi32(wanted[0]), _mm_set1_epi32(wanted[1]));
    let skip = s as usize % 16;
    let mut at = s.byte_sub(skip);
    let mut valid = u32::MAX << skip;
    loop {
        let block = _mm_load_si128(at.cast());
        let hit = _mm_movemask_epi8(_mm_or_si128(_mm_cmpeq_epi32(block, a), _mm_cmpeq_epi32(block, b)));
        let hit = hit as u32 & valid;
        if hit != 0 {
            return at.byte_add(hit.trailing_zeros() as usize);
        }
        valid = u32::MAX;
        at = at.add(4);
    }
}

fn sign(a: wchar_t, b: wchar_t) -> c_int {
    a.cmp(&b) as c_int
}

unsafe fn has(set: *const wchar_t, c: wchar_t) -> bool {
    !wcschr(set, c).is_null() && c != 0
}

abi! { EXPORTS "libc.so.6":
    /// wcslen(3).
    "GLIBC_2.2.5" fn wcslen(s: *const wchar_t) -> usize {
        find(s, [0, 0]).offset_from(s) as usize
    }
    /// wcsnlen(3).
    "GLIBC_2.2.5" fn wcsnlen(s: *const wchar_t, limit: usize) -> usize {
        let end = wmemchr(s, 0, limit);
        if end.is_null() { limit } else { end.offset_from(s) as usize }
    }
    /// wmemchr(3).
    "GLIBC_2.2.5" fn wmemchr(s: *const wchar_t, c: wchar_t, count: usize) -> *mut wchar_t {
        for at in 0..count {
            if *s.add(at) == c {
                return s.add(at).cast_mut();
            }
        }
        null_mut()
    }
    /// wmemcmp(3).
    "GLIBC_2.2.5" fn wmemcmp(a: *const wchar_t, b: *const wchar_t, count: usize) -> c_int {
        for at in 0..count {
            if *a.add(at) != *b.add(at) {
                return sign(*a.add(at), *b.add(at));
            }
        }
        0
    }
    /// wmemmove(3); also wmemcpy(3).
    "GLIBC_2.2.5" fn wmemmove(to: *mut wchar_t, from: *const wchar_t, count: usize) -> *mut wchar_t {
        memmove(to.cast(), from.cast(), count * WIDTH).cast()
    }
    /// wmempcpy(3).
    "GLIBC_2.2.5" fn wmempcpy(to: *mut wchar_t, from: *const wchar_t, count: usize) -> *mut wchar_t {
        mempcpy(to.cast(), from.cast(), count * WIDTH).cast()
    }
    /// wmemset(3).
    "GLIBC_2.2.5" fn wmemset(to: *mut wchar_t, c: wchar_t, count: usize) -> *mut wchar_t {
        for at in 0..count {
            *to.add(at) = c;
        }
        to
    }
    /// wcscpy(3).
    "GLIBC_2.2.5" fn wcscpy(to: *mut wchar_t, from: *const wchar_t) -> *mut wchar_t {
        wmemmove(to, from, wcslen(from) + 1)
    }
    /// wcpcpy(3).
    "GLIBC_2.2.5" fn wcpcpy(to: *mut wchar_t, from: *const wchar_t) -> *mut wchar_t {
        let length = wcslen(from);
        wmemmove(to, from, length + 1).add(length)
    }
    /// wcpncpy(3).
    "GLIBC_2.2.5" fn wcpncpy(to: *mut wchar_t, from: *const wchar_t, count: usize) -> *mut wchar_t {
        let length = wcsnlen(from, count);
        wmemmove(to, from, length);
        wmemset(to.add(length), 0, count - length)
    }
    /// wcsncpy(3).
    "GLIBC_2.2.5" fn wcsncpy(to: *mut wchar_t, from: *const wchar_t, count: usize) -> *mut wchar_t {
        wcpncpy(to, from, count);
        to
    }
    /// wcscat(3).
    "GLIBC_2.2.5" fn wcscat(to: *mut wchar_t, from: *const wchar_t) -> *mut wchar_t {
        wcscpy(to.add(wcslen(to)), from);
        to
    }
    /// wcsncat(3).
    "GLIBC_2.2.5" fn wcsncat(to: *mut wchar_t, from: *const wchar_t, limit: usize) -> *mut wchar_t {
        let (end, length) = (to.add(wcslen(to)), wcsnlen(from, limit));
        wmemmove(end, from, length);
        *end.add(length) = 0;
        to
    }
    /// wcsdup(3).
    "GLIBC_2.2.5" fn wcsdup(s: *const wchar_t) -> *mut wchar_t {
        let count = wcslen(s) + 1;
        let new: *mut wchar_t = malloc::malloc(count * WIDTH).cast();
        if new.is_null() { new } else { wmemmove(new, s, count) }
    }
    /// wcscmp(3).
    "GLIBC_2.2.5" fn wcscmp(a: *const wchar_t, b: *const wchar_t) -> c_int {
        wcsncmp(a, b, usize::MAX)
    }
    /// wcsncmp(3).
    "GLIBC_2.2.5" fn wcsncmp(a: *const wchar_t, b: *const wchar_t, limit: usize) -> c_int {
        for at in 0..limit {
            let (x, y) = (*a.add(at), *b.add(at));
            if x != y || x == 0 {
                return sign(x, y);
            }
        }
        0
    }
    /// wcscasecmp(3).
    "GLIBC_2.2.5" fn wcscasecmp(a: *const wchar_t, b: *const wchar_t) -> c_int {
        wcsncasecmp(a, b, usize::MAX)
    }
    /// wcsncasecmp(3).
    "GLIBC_2.2.5" fn wcsncasecmp(a: *const wchar_t, b: *const wchar_t, limit: usize) -> c_int {
        let utf8 = is_utf8();
        for at in 0..limit {
            let x = wctype::lower(*a.add(at) as wint_t, utf8);
            let y = wctype::lower(*b.add(at) as wint_t, utf8);
            if x != y || x == 0 {
                return x.wrapping_sub(y) as c_int;
            }
        }
        0
    }
    /// wcscasecmp_l(3).
    "GLIBC_2.3" fn wcscasecmp_l(a: *const wchar_t, b: *const wchar_t, _locale: *mut c_void) -> c_int {
        wcscasecmp(a, b)
    }
    /// wcscoll(3): the order of code points.
    "GLIBC_2.2.5" fn wcscoll(a: *const wchar_t, b: *const wchar_t) -> c_int {
        wcscmp(a, b)
    }
    /// wcscoll_l(3).
    "GLIBC_2.3" fn wcscoll_l(a: *const wchar_t, b: *const wchar_t, _locale: *mut c_void) -> c_int {
        wcscmp(a, b)
    }
    /// wcsxfrm(3).
    "GLIBC_2.2.5" fn wcsxfrm(to: *mut wchar_t, from: *const wchar_t, count: usize) -> usize {
        let length = wcslen(from);
        if count > 0 {
            wmemmove(to, from, (length + 1).min(count));
        }
        length
    }
    /// wcsxfrm_l(3).
    "GLIBC_2.3" fn wcsxfrm_l(
        to: *mut wchar_t, from: *const wchar_t, count: usize, _locale: *mut c_void,
    ) -> usize {
        wcsxfrm(to, from, count)
    }
    /// wcschr(3).
    "GLIBC_2.2.5" fn wcschr(s: *const wchar_t, c: wchar_t) -> *mut wchar_t {
        let found = find(s, [c, 0]);
        if *found == c { found.cast_mut() } else { null_mut() }
    }
    /// wcschrnul(3).
    "GLIBC_2.2.5" fn wcschrnul(s: *const wchar_t, c: wchar_t) -> *mut wchar_t {
        find(s, [c, 0]).cast_mut()
    }
    /// wcsrchr(3).
    "GLIBC_2.2.5" fn wcsrchr(s: *const wchar_t, c: wchar_t) -> *mut wchar_t {
        let mut at = s.add(wcslen(s));
        loop {
            if *at == c {
                return at.cast_mut();
            }
            if at == s {
                return null_mut();
            }
            at = at.sub(1);
        }
    }
    /// wcsspn(3).
    "GLIBC_2.2.5" fn wcsspn(s: *const wchar_t, accept: *const wchar_t) -> usize {
        let mut at = 0;
        while has(accept, *s.add(at)) {
            at += 1;
        }
        at
    }
    /// wcscspn(3).
    "GLIBC_2.2.5" fn wcscspn(s: *const wchar_t, reject: *const wchar_t) -> usize {
        let mut at = 0;
        while *s.add(at) != 0 && !has(reject, *s.add(at)) {
            at += 1;
        }
        at
    }
    /// wcspbrk(3).
    "GLIBC_2.2.5" fn wcspbrk(s: *const wchar_t, accept: *const wchar_t) -> *mut wchar_t {
        let at = s.add(wcscspn(s, accept));
        if *at == 0 { null_mut() } else { at.cast_mut() }
    }
    /// wcsstr(3): as bytes, accepting hits at a character's start only.
    "GLIBC_2.2.5" fn wcsstr(haystack: *const wchar_t, needle: *const wchar_t) -> *mut wchar_t {
        let size = wcslen(needle) * WIDTH;
        let end = haystack.add(wcslen(haystack));
        let mut at = haystack;
        loop {
            let left = end.byte_offset_from(at) as usize;
            let hit = crate::strings_search::memmem(at.cast(), left, needle.cast(), size);
            if hit.is_null() {
                return null_mut();
            }
            let into = (hit as usize - haystack as usize) % WIDTH;
            if into == 0 {
                return hit.cast();
            }
            at = hit.byte_add(WIDTH - into).cast();
        }
    }
    /// wcstok(3).
    "GLIBC_2.2.5" fn wcstok(
        s: *mut wchar_t, delimiters: *const wchar_t, save: *mut *mut wchar_t,
    ) -> *mut wchar_t {
        let mut token = if s.is_null() { *save } else { s };
        if token.is_null() {
            return token;
        }
        token = token.add(wcsspn(token, delimiters));
        if *token == 0 {
            *save = null_mut();
            return null_mut();
        }
        let end = token.add(wcscspn(token, delimiters));
        if *end == 0 {
            *save = null_mut();
        } else {
            *end = 0;
            *save = end.add(1);
        }
        token
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "wmemcpy" = wmemmove;
    alias "GLIBC_2.2.5" "wcswcs" = wcsstr;
    alias "GLIBC_2.2.5" "__wcscoll_l" = wcscoll_l;
    alias "GLIBC_2.2.5" "__wcsxfrm_l" = wcsxfrm_l;
}
