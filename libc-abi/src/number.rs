//! Text to integers: `strtol` and its family, narrow and wide, and `atoi`.
//!
//! The locale argument of the `_l` forms and the grouping argument of the `__*_internal` forms do not
//! matter: neither of our locales groups digits. `strtod` and its family are in [`crate::strtod`].

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::errno;
use crate::locale::is_utf8;
use crate::types::*;
use crate::wctype;
use platform::Errno;

/// A character type of a C string.
trait Unit: Copy {
    fn code(self) -> u32;
    fn is_space(self) -> bool;
}

impl Unit for c_char {
    #[inline(always)]
    fn code(self) -> u32 {
        self as u8 as u32
    }
    #[inline(always)]
    fn is_space(self) -> bool {
        matches!(self as u8, b' ' | 9..=13)
    }
}

impl Unit for wchar_t {
    #[inline(always)]
    fn code(self) -> u32 {
        self as u32
    }
    #[inline(always)]
    fn is_space(self) -> bool {
        wctype::is(self as u32, 6, is_utf8())
    }
}

#[inline(always)]
fn digit(code: u32) -> u32 {
    match code {
        0x30..=0x39 => code - 0x30,
        0x41..=0x5a => code - 0x41 + 10,
        0x61..=0x7a => code - 0x61 + 10,
        _ => u32::MAX,
    }
}

/// A scanned number: its magnitude (`None` beyond 64 bits), its sign and how long the text was (0: no
/// number).
struct Scanned {
    magnitude: Option<u64>,
    negative: bool,
    length: usize,
}

/// The number at `s`; `None` for a base that does not exist.
#[inline(always)]
unsafe fn scan<U: Unit>(s: *const U, base: c_int) -> Option<Scanned> {
    if base < 0 || base == 1 || base > 36 {
        return None;
    }
    let mut at = 0;
    while (*s.add(at)).is_space() {
        at += 1;
    }
    let sign = (*s.add(at)).code();
    if sign == 0x2b || sign == 0x2d {
        at += 1;
    }
    let mut base = base as u32;
    if (base == 0 || base == 16) && (*s.add(at)).code() == 0x30 {
        // "0x" counts only before a digit; alone it is the number 0 and an x.
        if (*s.add(at + 1)).code() | 0x20 == 0x78 && digit((*s.add(at + 2)).code()) < 16 {
            at += 2;
            base = 16;
        } else if base == 0 {
            base = 8;
        }
    } else if base == 0 {
        base = 10;
    }
    let first = at;
    let mut magnitude = Some(0u64);
    loop {
        let value = digit((*s.add(at)).code());
        if value >= base {
            break;
        }
        magnitude =
            magnitude.and_then(|m| m.checked_mul(base as u64)).and_then(|m| m.checked_add(value as u64));
        at += 1;
    }
    Some(Scanned { magnitude, negative: sign == 0x2d, length: if at == first { 0 } else { at } })
}

fn range() {
    errno::set(Errno(34));
}

unsafe fn finish<U: Unit>(s: *const U, end: *mut *mut U, base: c_int) -> Option<Scanned> {
    let Some(scanned) = scan(s, base) else {
        errno::set(Errno(22));
        return None;
    };
    if !end.is_null() {
        *end = s.add(scanned.length).cast_mut();
    }
    Some(scanned)
}

#[inline(always)]
unsafe fn signed<U: Unit>(s: *const U, end: *mut *mut U, base: c_int) -> i64 {
    let Some(scanned) = finish(s, end, base) else { return 0 };
    let limit = i64::MAX as u64 + scanned.negative as u64;
    match scanned.magnitude {
        Some(m) if m <= limit => {
            if scanned.negative {
                (m as i64).wrapping_neg()
            } else {
                m as i64
            }
        }
        _ => {
            range();
            if scanned.negative { i64::MIN } else { i64::MAX }
        }
    }
}

#[inline(always)]
unsafe fn unsigned<U: Unit>(s: *const U, end: *mut *mut U, base: c_int) -> u64 {
    let Some(scanned) = finish(s, end, base) else { return 0 };
    match scanned.magnitude {
        // C: a minus sign negates in the unsigned type.
        Some(m) => {
            if scanned.negative {
                m.wrapping_neg()
            } else {
                m
            }
        }
        None => {
            range();
            u64::MAX
        }
    }
}

abi! { EXPORTS "libc.so.6":
    /// strtol(3).
    "GLIBC_2.2.5" fn strtol(s: *const c_char, end: *mut *mut c_char, base: c_int) -> c_long {
        signed(s, end, base)
    }
    /// strtoul(3).
    "GLIBC_2.2.5" fn strtoul(s: *const c_char, end: *mut *mut c_char, base: c_int) -> c_ulong {
        unsigned(s, end, base)
    }
    /// wcstol(3).
    "GLIBC_2.2.5" fn wcstol(s: *const wchar_t, end: *mut *mut wchar_t, base: c_int) -> c_long {
        signed(s, end, base)
    }
    /// wcstoul(3).
    "GLIBC_2.2.5" fn wcstoul(s: *const wchar_t, end: *mut *mut wchar_t, base: c_int) -> c_ulong {
        unsigned(s, end, base)
    }
    /// atoi(3).
    "GLIBC_2.2.5" fn atoi(s: *const c_char) -> c_int {
        strtol(s, core::ptr::null_mut(), 10) as c_int
    }
    /// atol(3).
    "GLIBC_2.2.5" fn atol(s: *const c_char) -> c_long {
        strtol(s, core::ptr::null_mut(), 10)
    }
}

// The forms with a trailing argument (locale, grouping) are the same functions: the argument stays
// in its register. Only `__strtol_internal(s, end, base, group)` and `strtol_l(s, end, base, locale)`
// have this shape.
exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "strtoll" = strtol;
    alias "GLIBC_2.2.5" "strtoull" = strtoul;
    alias "GLIBC_2.2.5" "strtoimax" = strtol;
    alias "GLIBC_2.2.5" "strtoumax" = strtoul;
    alias "GLIBC_2.2.5" "strtoq" = strtol;
    alias "GLIBC_2.2.5" "strtouq" = strtoul;
    alias "GLIBC_2.2.5" "atoll" = atol;
    alias "GLIBC_2.3" "strtol_l" = strtol;
    alias "GLIBC_2.3" "strtoul_l" = strtoul;
    alias "GLIBC_2.3.3" "strtoll_l" = strtol;
    alias "GLIBC_2.3.3" "strtoull_l" = strtoul;
    alias "GLIBC_2.2.5" "__strtol_l" = strtol;
    alias "GLIBC_2.2.5" "__strtoul_l" = strtoul;
    alias "GLIBC_2.2.5" "__strtoll_l" = strtol;
    alias "GLIBC_2.2.5" "__strtoull_l" = strtoul;
    alias "GLIBC_2.2.5" "__strtol_internal" = strtol;
    alias "GLIBC_2.2.5" "__strtoul_internal" = strtoul;
    alias "GLIBC_2.2.5" "__strtoll_internal" = strtol;
    alias "GLIBC_2.2.5" "__strtoull_internal" = strtoul;
    alias "GLIBC_2.2.5" "wcstoll" = wcstol;
    alias "GLIBC_2.2.5" "wcstoull" = wcstoul;
    alias "GLIBC_2.2.5" "wcstoimax" = wcstol;
    alias "GLIBC_2.2.5" "wcstoumax" = wcstoul;
    alias "GLIBC_2.2.5" "wcstoq" = wcstol;
    alias "GLIBC_2.2.5" "wcstouq" = wcstoul;
    alias "GLIBC_2.3" "wcstol_l" = wcstol;
    alias "GLIBC_2.3" "wcstoul_l" = wcstoul;
    alias "GLIBC_2.3" "wcstoll_l" = wcstol;
    alias "GLIBC_2.3" "wcstoull_l" = wcstoul;
    alias "GLIBC_2.2.5" "__wcstol_internal" = wcstol;
    alias "GLIBC_2.2.5" "__wcstoul_internal" = wcstoul;
    alias "GLIBC_2.2.5" "__wcstoll_internal" = wcstol;
    alias "GLIBC_2.2.5" "__wcstoull_internal" = wcstoul;
}
