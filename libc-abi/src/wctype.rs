//! <wctype.h> and `wcwidth`: classes, case and width of wide characters.
//!
//! C classes ASCII alone; C.UTF-8 has the tables of [`crate::unicode_tables`], which are glibc 2.36's
//! own answers. A `wctype_t` is the number of a class, from 1; a `wctrans_t` 1 or 2.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::ctype;
use crate::locale::{is_utf8, is_utf8_in};
use crate::types::*;
use crate::unicode_tables as unicode;
use core::ffi::CStr;

/// The classes in the order of their `wctype_t` numbers, from 1.
const NAMES: [&CStr; 12] = [
    c"upper", c"lower", c"alpha", c"digit", c"xdigit", c"space", c"print", c"graph", c"blank", c"cntrl",
    c"punct", c"alnum",
];

const BITS: [u16; 12] = [
    ctype::UPPER,
    ctype::LOWER,
    ctype::ALPHA,
    ctype::DIGIT,
    ctype::XDIGIT,
    ctype::SPACE,
    ctype::PRINT,
    ctype::GRAPH,
    ctype::BLANK,
    ctype::CNTRL,
    ctype::PUNCT,
    ctype::ALNUM,
];

fn within(boundaries: &[u32], c: u32) -> bool {
    boundaries.partition_point(|&boundary| boundary <= c) % 2 == 1
}

fn beyond_ascii(c: u32, class: usize) -> bool {
    let table: &[u32] = match class {
        1 => &unicode::UPPER,
        2 => &unicode::LOWER,
        3 | 12 => &unicode::ALPHA,
        6 => &unicode::SPACE,
        7 => &unicode::PRINT,
        8 => &unicode::GRAPH,
        9 => &unicode::BLANK,
        10 => &unicode::CNTRL,
        11 => &unicode::PUNCT,
        // Digits of either kind are ASCII's in every locale.
        _ => return false,
    };
    within(table, c)
}

/// Whether `c` is of class number `class`.
#[inline]
pub fn is(c: wint_t, class: usize, utf8: bool) -> bool {
    if c < 0x80 {
        let Some(bits) = BITS.get(class.wrapping_sub(1)) else { return false };
        // SAFETY: the table has entries for all bytes.
        return unsafe { *ctype::B.0.add(c as usize) & bits != 0 };
    }
    utf8 && beyond_ascii(c, class)
}

/// Number of the class called `name`, or 0.
pub fn class_number(name: &[u8]) -> usize {
    NAMES.iter().position(|known| known.to_bytes() == name).map_or(0, |at| at + 1)
}

fn mapped(runs: &[(u32, u32, u32, i32)], c: u32) -> u32 {
    let at = runs.partition_point(|run| run.1 < c);
    match runs.get(at) {
        Some(&(first, _, step, delta)) if c >= first && (c - first).is_multiple_of(step) => {
            c.wrapping_add_signed(delta)
        }
        _ => c,
    }
}

/// Upper case of `c`.
#[inline]
pub fn upper(c: wint_t, utf8: bool) -> wint_t {
    match c {
        0..0x80 => (c as u8).to_ascii_uppercase() as wint_t,
        _ if utf8 => mapped(&unicode::TO_UPPER, c),
        _ => c,
    }
}

/// Lower case of `c`.
#[inline]
pub fn lower(c: wint_t, utf8: bool) -> wint_t {
    match c {
        0..0x80 => (c as u8).to_ascii_lowercase() as wint_t,
        _ if utf8 => mapped(&unicode::TO_LOWER, c),
        _ => c,
    }
}

/// Columns of `c`, or -1.
pub fn width(c: wint_t, utf8: bool) -> c_int {
    match c {
        0 => 0,
        0x20..0x7f => 1,
        0x01..0x20 | 0x7f..0xa0 => -1,
        _ if !utf8 => -1,
        _ if within(&unicode::WIDE, c) => 2,
        _ if within(&unicode::ZERO_WIDTH, c) => 0,
        _ if within(&unicode::PRINT, c) => 1,
        _ => -1,
    }
}

macro_rules! classes {
    ($($name:ident $name_l:ident $number:literal $doc:literal;)*) => {
        abi! { EXPORTS "libc.so.6":
            $(
                #[doc = $doc]
                "GLIBC_2.2.5" fn $name(c: wint_t) -> c_int { is(c, $number, is_utf8()) as c_int }
            )*
        }
        abi! { EXPORTS_L "libc.so.6":
            $(
                #[doc = $doc]
                "GLIBC_2.3" fn $name_l(c: wint_t, locale: *mut c_void) -> c_int {
                    is(c, $number, is_utf8_in(locale)) as c_int
                }
            )*
        }
    };
}

classes! {
    iswupper iswupper_l 1 "iswupper(3).";
    iswlower iswlower_l 2 "iswlower(3).";
    iswalpha iswalpha_l 3 "iswalpha(3).";
    iswdigit iswdigit_l 4 "iswdigit(3).";
    iswxdigit iswxdigit_l 5 "iswxdigit(3).";
    iswspace iswspace_l 6 "iswspace(3).";
    iswprint iswprint_l 7 "iswprint(3).";
    iswgraph iswgraph_l 8 "iswgraph(3).";
    iswblank iswblank_l 9 "iswblank(3).";
    iswcntrl iswcntrl_l 10 "iswcntrl(3).";
    iswpunct iswpunct_l 11 "iswpunct(3).";
    iswalnum iswalnum_l 12 "iswalnum(3).";
}

abi! { MORE "libc.so.6":
    /// wctype(3).
    "GLIBC_2.2.5" fn wctype(name: *const c_char) -> c_ulong {
        class_number(CStr::from_ptr(name).to_bytes()) as c_ulong
    }
    /// wctype_l(3).
    "GLIBC_2.3" fn wctype_l(name: *const c_char, _locale: *mut c_void) -> c_ulong {
        wctype(name)
    }
    /// iswctype(3).
    "GLIBC_2.2.5" fn iswctype(c: wint_t, class: c_ulong) -> c_int {
        is(c, class as usize, is_utf8()) as c_int
    }
    /// iswctype_l(3).
    "GLIBC_2.3" fn iswctype_l(c: wint_t, class: c_ulong, locale: *mut c_void) -> c_int {
        is(c, class as usize, is_utf8_in(locale)) as c_int
    }
    /// towupper(3).
    "GLIBC_2.2.5" fn towupper(c: wint_t) -> wint_t {
        upper(c, is_utf8())
    }
    /// towlower(3).
    "GLIBC_2.2.5" fn towlower(c: wint_t) -> wint_t {
        lower(c, is_utf8())
    }
    /// towupper_l(3).
    "GLIBC_2.3" fn towupper_l(c: wint_t, locale: *mut c_void) -> wint_t {
        upper(c, is_utf8_in(locale))
    }
    /// towlower_l(3).
    "GLIBC_2.3" fn towlower_l(c: wint_t, locale: *mut c_void) -> wint_t {
        lower(c, is_utf8_in(locale))
    }
    /// wctrans(3).
    "GLIBC_2.2.5" fn wctrans(name: *const c_char) -> *const c_int {
        let number = match CStr::from_ptr(name).to_bytes() {
            b"toupper" => 1,
            b"tolower" => 2,
            _ => 0,
        };
        core::ptr::without_provenance(number)
    }
    /// towctrans(3).
    "GLIBC_2.2.5" fn towctrans(c: wint_t, map: *const c_int) -> wint_t {
        match map as usize {
            1 => towupper(c),
            2 => towlower(c),
            _ => c,
        }
    }
    /// wcwidth(3).
    "GLIBC_2.2.5" fn wcwidth(c: wchar_t) -> c_int {
        width(c as wint_t, is_utf8())
    }
    /// wcswidth(3).
    "GLIBC_2.2.5" fn wcswidth(s: *const wchar_t, limit: usize) -> c_int {
        let utf8 = is_utf8();
        let mut columns = 0;
        for at in 0..limit {
            let c = *s.add(at);
            if c == 0 {
                break;
            }
            match width(c as wint_t, utf8) {
                -1 => return -1,
                more => columns += more,
            }
        }
        columns
    }
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.2.5" "__wctype_l" = wctype_l;
    alias "GLIBC_2.2.5" "__iswctype_l" = iswctype_l;
    alias "GLIBC_2.2.5" "__towupper_l" = towupper_l;
    alias "GLIBC_2.2.5" "__towlower_l" = towlower_l;
}
