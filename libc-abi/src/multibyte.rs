//! Multibyte characters: `mbrtowc`, `wcrtomb` and what is built on them, in C (ASCII) and C.UTF-8.
//!
//! UTF-8 as glibc 2.36 has it: up to six bytes (values to 0x7fffffff), surrogates and overlong forms
//! refused; in the C locale a byte from 0x80 on is EILSEQ. An `mbstate_t` holds the sequence's total
//! and seen length and its value so far.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::errno;
use crate::locale::is_utf8;
use crate::string::{copy, strlen};
use crate::types::*;
use core::ptr::{null, null_mut};
use platform::Errno;

/// `mbstate_t`: all zero is the initial state.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct MbState {
    /// Total length << 8 | bytes seen; 0 between characters.
    pub count: u32,
    /// The bits seen so far, in place.
    pub value: u32,
}

/// (size_t)-1: not a character.
pub const INVALID: usize = usize::MAX;
/// (size_t)-2: not yet a character.
pub const INCOMPLETE: usize = usize::MAX - 1;

fn illegal() -> usize {
    errno::set(Errno(84));
    INVALID
}

/// One step of decoding: the character and how many of `bytes` it took.
pub enum Step {
    /// A character.
    Char(u32, usize),
    /// `bytes` ended inside one; all are in the state.
    Partial,
    /// No character.
    Bad,
}

/// Decodes one character at the start of `bytes`, going on from `state`.
#[inline]
pub fn decode(state: &mut MbState, bytes: &[u8], utf8: bool) -> Step {
    let mut at = 0;
    if state.count == 0 {
        let Some(&lead) = bytes.first() else { return Step::Partial };
        if lead < 0x80 {
            return Step::Char(lead as u32, 1);
        }
        let total = match lead {
            _ if !utf8 => return Step::Bad,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0xf8..=0xfb => 5,
            0xfc..=0xfd => 6,
            _ => return Step::Bad,
        };
        let bits = (lead as u32) & (0x7f >> total);
        *state = MbState { count: total << 8 | 1, value: bits << (6 * (total - 1)) };
        at = 1;
    }
    let total = state.count >> 8;
    while state.count & 0xff < total {
        let Some(&next) = bytes.get(at) else { return Step::Partial };
        if next & 0xc0 != 0x80 {
            *state = MbState::default();
            return Step::Bad;
        }
        state.count += 1;
        state.value |= (next as u32 & 0x3f) << (6 * (total - (state.count & 0xff)));
        at += 1;
    }
    let value = state.value;
    *state = MbState::default();
    const LEAST: [u32; 7] = [0, 0, 0x80, 0x800, 0x10000, 0x20_0000, 0x400_0000];
    if value < LEAST[total as usize] || (0xd800..0xe000).contains(&value) {
        return Step::Bad;
    }
    Step::Char(value, at)
}

/// Encodes `wide` into `out`: its length, or `None` if it is no character.
#[inline]
pub fn encode(wide: u32, out: &mut [u8; 6], utf8: bool) -> Option<usize> {
    if wide < 0x80 {
        out[0] = wide as u8;
        return Some(1);
    }
    let total = match wide {
        _ if !utf8 => return None,
        0xd800..=0xdfff | 0x8000_0000.. => return None,
        0..0x800 => 2,
        0x800..0x10000 => 3,
        0x10000..0x20_0000 => 4,
        0x20_0000..0x400_0000 => 5,
        _ => 6,
    };
    let mut rest = wide;
    for at in (1..total).rev() {
        out[at] = 0x80 | (rest & 0x3f) as u8;
        rest >>= 6;
    }
    out[0] = !(0xffu32 >> total) as u8 | rest as u8;
    Some(total)
}

/// The bytes at `s`, of a length that C promises.
unsafe fn bytes<'a>(s: *const c_char, size: usize) -> &'a [u8] {
    core::slice::from_raw_parts(s.cast(), size)
}

/// As many bytes as one character can need, bounded by `limit` and the string's end.
unsafe fn lookahead<'a>(s: *const c_char, limit: usize) -> &'a [u8] {
    let mut size = 0;
    while size < limit.min(6) {
        size += 1;
        if *s.add(size - 1) == 0 {
            break;
        }
    }
    bytes(s, size)
}

/// A state for callers that pass none; one for each function, as C asks.
macro_rules! own_state {
    ($given:expr) => {{
        static mut OWN: MbState = MbState { count: 0, value: 0 };
        if $given.is_null() { &raw mut OWN } else { $given }
    }};
}

/// mbsnrtowcs(3) with both limits; `size` counts bytes.
unsafe fn to_wide(
    mut to: *mut wchar_t,
    from: *mut *const c_char,
    size: usize,
    limit: usize,
    state: *mut MbState,
) -> usize {
    let utf8 = is_utf8();
    let counting = to.is_null();
    // Counting leaves pointer and state alone.
    let mut own = *state;
    let mut at = *from;
    let mut left = size;
    let mut written = 0;
    while counting || written < limit {
        if left == 0 {
            break;
        }
        let here = lookahead(at, left);
        match decode(&mut own, here, utf8) {
            Step::Char(0, _) => {
                if !counting {
                    *to = 0;
                    *from = null();
                    *state = own;
                }
                return written;
            }
            Step::Char(c, used) => {
                if !counting {
                    *to = c as wchar_t;
                    to = to.add(1);
                }
                written += 1;
                at = at.add(used);
                left -= used;
            }
            Step::Partial => {
                at = at.add(here.len());
                left -= here.len();
            }
            Step::Bad => {
                if !counting {
                    *from = at;
                    *state = own;
                }
                return illegal();
            }
        }
    }
    if !counting {
        *from = at;
        *state = own;
    }
    written
}

/// wcsnrtombs(3) with both limits; `size` counts wide characters.
unsafe fn from_wide(mut to: *mut c_char, from: *mut *const wchar_t, size: usize, limit: usize) -> usize {
    let utf8 = is_utf8();
    let counting = to.is_null();
    let mut out = [0; 6];
    let mut at = *from;
    let mut written = 0;
    for _ in 0..size {
        let Some(length) = encode(*at as u32, &mut out, utf8) else {
            if !counting {
                *from = at;
            }
            return illegal();
        };
        if !counting {
            if written + length > limit {
                break;
            }
            copy(to, out.as_ptr().cast(), length);
            to = to.add(length);
        }
        if *at == 0 {
            if !counting {
                *from = null();
            }
            return written;
        }
        written += length;
        at = at.add(1);
    }
    if !counting {
        *from = at;
    }
    written
}

abi! { EXPORTS "libc.so.6":
    /// mbrtowc(3).
    "GLIBC_2.2.5" fn mbrtowc(
        to: *mut wchar_t, s: *const c_char, size: usize, state: *mut MbState,
    ) -> usize {
        let state = own_state!(state);
        if s.is_null() {
            return mbrtowc(null_mut(), c"".as_ptr(), 1, state);
        }
        match decode(&mut *state, bytes(s, size.min(6)), is_utf8()) {
            Step::Char(c, used) => {
                if !to.is_null() {
                    *to = c as wchar_t;
                }
                if c == 0 { 0 } else { used }
            }
            Step::Partial => INCOMPLETE,
            Step::Bad => illegal(),
        }
    }
    /// mbrlen(3).
    "GLIBC_2.2.5" fn mbrlen(s: *const c_char, size: usize, state: *mut MbState) -> usize {
        mbrtowc(null_mut(), s, size, own_state!(state))
    }
    /// mbtowc(3).
    "GLIBC_2.2.5" fn mbtowc(to: *mut wchar_t, s: *const c_char, size: usize) -> c_int {
        if s.is_null() {
            // Our encodings have no shift states.
            return 0;
        }
        match mbrtowc(to, s, size, &mut MbState::default()) {
            INVALID | INCOMPLETE => -1,
            used => used as c_int,
        }
    }
    /// mblen(3).
    "GLIBC_2.2.5" fn mblen(s: *const c_char, size: usize) -> c_int {
        mbtowc(null_mut(), s, size)
    }
    /// mbsinit(3).
    "GLIBC_2.2.5" fn mbsinit(state: *const MbState) -> c_int {
        (state.is_null() || (*state).count == 0) as c_int
    }
    /// wcrtomb(3).
    "GLIBC_2.2.5" fn wcrtomb(to: *mut c_char, wide: wchar_t, state: *mut MbState) -> usize {
        let state = own_state!(state);
        if to.is_null() {
            *state = MbState::default();
            return 1;
        }
        let mut out = [0; 6];
        match encode(wide as u32, &mut out, is_utf8()) {
            Some(length) => {
                copy(to, out.as_ptr().cast(), length);
                length
            }
            None => illegal(),
        }
    }
    /// wctomb(3).
    "GLIBC_2.2.5" fn wctomb(to: *mut c_char, wide: wchar_t) -> c_int {
        if to.is_null() { 0 } else { wcrtomb(to, wide, &mut MbState::default()) as c_int }
    }
    /// mbsrtowcs(3).
    "GLIBC_2.2.5" fn mbsrtowcs(
        to: *mut wchar_t, from: *mut *const c_char, limit: usize, state: *mut MbState,
    ) -> usize {
        to_wide(to, from, usize::MAX, limit, own_state!(state))
    }
    /// mbsnrtowcs(3).
    "GLIBC_2.2.5" fn mbsnrtowcs(
        to: *mut wchar_t, from: *mut *const c_char, size: usize, limit: usize, state: *mut MbState,
    ) -> usize {
        to_wide(to, from, size, limit, own_state!(state))
    }
    /// mbstowcs(3).
    "GLIBC_2.2.5" fn mbstowcs(to: *mut wchar_t, from: *const c_char, limit: usize) -> usize {
        let mut from = from;
        to_wide(to, &mut from, usize::MAX, limit, &mut MbState::default())
    }
    /// wcsrtombs(3).
    "GLIBC_2.2.5" fn wcsrtombs(
        to: *mut c_char, from: *mut *const wchar_t, limit: usize, _state: *mut MbState,
    ) -> usize {
        from_wide(to, from, usize::MAX, limit)
    }
    /// wcsnrtombs(3).
    "GLIBC_2.2.5" fn wcsnrtombs(
        to: *mut c_char, from: *mut *const wchar_t, size: usize, limit: usize, _state: *mut MbState,
    ) -> usize {
        from_wide(to, from, size, limit)
    }
    /// wcstombs(3).
    "GLIBC_2.2.5" fn wcstombs(to: *mut c_char, from: *const wchar_t, limit: usize) -> usize {
        let mut from = from;
        from_wide(to, &mut from, usize::MAX, limit)
    }
    /// btowc(3).
    "GLIBC_2.2.5" fn btowc(c: c_int) -> wint_t {
        if (0..0x80).contains(&c) { c as wint_t } else { wint_t::MAX }
    }
    /// wctob(3).
    "GLIBC_2.2.5" fn wctob(c: wint_t) -> c_int {
        if c < 0x80 { c as c_int } else { -1 }
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "__mbrtowc" = mbrtowc;
    alias "GLIBC_2.2.5" "__mbrlen" = mbrlen;
}

/// Wide characters of the string at `s` in the current locale; a bad byte stands for itself. For
/// matchers (fnmatch, regex) that go on with text that is not valid.
pub(crate) unsafe fn characters(s: *const c_char) -> alloc::vec::Vec<wchar_t> {
    characters_of(bytes(s, strlen(s)))
}

/// As [`characters`], of a slice. Bad bytes become 0x4000_0000 + byte, which no character is.
pub(crate) fn characters_of(mut rest: &[u8]) -> alloc::vec::Vec<wchar_t> {
    let utf8 = is_utf8();
    let mut wide = alloc::vec::Vec::with_capacity(rest.len());
    while let Some(&first) = rest.first() {
        let used = match decode(&mut MbState::default(), rest, utf8) {
            Step::Char(c, used) => {
                wide.push(c as wchar_t);
                used
            }
            _ => {
                wide.push(0x4000_0000 | first as wchar_t);
                1
            }
        };
        rest = &rest[used..];
    }
    wide
}
