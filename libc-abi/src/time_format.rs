//! `strftime`, `wcsftime`, `strptime` in the C locale's words (C.UTF-8 has the same).
//!
//! glibc's extensions are here: flags `_ - 0 ^ #`, widths, `E` and `O`, `%P %k %l %s`.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::langinfo_table::TIME;
use crate::time::{Tm, localtime_r, mktime, tzset};
use crate::types::*;
use crate::tz;
use core::ptr::null_mut;

/// A character type of a format.
trait Unit: Copy {
    fn byte(self) -> u8;
    fn of(byte: u8) -> Self;
}
impl Unit for c_char {
    fn byte(self) -> u8 {
        self as u8
    }
    fn of(byte: u8) -> c_char {
        byte as c_char
    }
}
impl Unit for wchar_t {
    fn byte(self) -> u8 {
        // Only ASCII means something in a format.
        u8::try_from(self).ok().filter(u8::is_ascii).unwrap_or(0xff)
    }
    fn of(byte: u8) -> wchar_t {
        byte as wchar_t
    }
}

/// The result so far; counts on beyond its end.
struct Out<U> {
    to: *mut U,
    room: usize,
    used: usize,
}

impl<U: Unit> Out<U> {
    unsafe fn put(&mut self, unit: U) {
        if self.used < self.room {
            *self.to.add(self.used) = unit;
        }
        self.used += 1;
    }
    unsafe fn fill(&mut self, byte: u8, count: usize) {
        for _ in 0..count {
            self.put(U::of(byte));
        }
    }
}

fn abbreviated_day(wday: c_int) -> &'static [u8] {
    name(0, 7, wday)
}

fn name(first: usize, count: c_int, at: c_int) -> &'static [u8] {
    if (0..count).contains(&at) { TIME[first + at as usize].to_bytes() } else { b"?" }
}

/// Flags and width of one conversion.
#[derive(Clone, Copy, Default)]
struct Spec {
    /// `_`, `-`, `0`, or 0 for none.
    pad: u8,
    upper: bool,
    swap: bool,
    width: usize,
}

/// ISO 8601 week-based year and week.
fn iso_week(tm: &Tm) -> (i64, c_int) {
    let year = tm.tm_year as i64 + 1900;
    // Days since the Monday of week 1: week 1 holds the first Thursday.
    let weeks = |yday: c_int, wday: c_int| (yday - (wday + 6).rem_euclid(7) + 10) / 7;
    let week = weeks(tm.tm_yday, tm.tm_wday);
    let last_of = |year: i64, yday: c_int| {
        let days = 365 + tz::is_leap(year) as c_int;
        weeks(yday + days, tm.tm_wday)
    };
    if week < 1 {
        return (year - 1, last_of(year - 1, tm.tm_yday));
    }
    if week == 53 {
        let days = 365 + tz::is_leap(year) as c_int;
        // The Thursday of this week lies in the next year.
        if tm.tm_yday + (4 - (tm.tm_wday + 6).rem_euclid(7) - 1) >= days {
            return (year + 1, 1);
        }
    }
    (year, week)
}

/// Words, filled up to the width at the left: with zeros by flag `0`, else with spaces.
unsafe fn text<U: Unit>(out: &mut Out<U>, spec: Spec, words: &[u8], lower: bool) {
    let pad = if spec.pad == b'0' { b'0' } else { b' ' };
    out.fill(pad, spec.width.saturating_sub(words.len()));
    for &c in words {
        let c = match () {
            () if lower => c.to_ascii_lowercase(),
            () if spec.upper => c.to_ascii_uppercase(),
            () => c,
        };
        out.put(U::of(c));
    }
}

/// A number of at least `digits` digits, padded with `pad` unless the flags say otherwise. As in glibc
/// flag `-` takes away the padding of the digits, not that of the field.
unsafe fn number<U: Unit>(out: &mut Out<U>, spec: Spec, value: i64, digits: usize, pad: u8) {
    let mut buffer = [0u8; 20];
    let mut at = buffer.len();
    let mut rest = value.unsigned_abs();
    while rest != 0 || at == buffer.len() {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let shown = &buffer[at..];
    let pad = if spec.pad == 0 { pad } else { spec.pad };
    let least = if pad == b'-' { 0 } else { digits };
    let fill = least.max(spec.width).saturating_sub(shown.len() + (value < 0) as usize);
    if pad == b'_' || pad == b'-' {
        out.fill(b' ', fill);
    }
    if value < 0 {
        out.put(U::of(b'-'));
    }
    if pad == b'0' {
        out.fill(b'0', fill);
    }
    for &c in shown {
        out.put(U::of(c));
    }
}

/// One of the conversions that stand for a whole format, padded as a text.
unsafe fn composite<U: Unit>(out: &mut Out<U>, spec: Spec, format: &[u8], tm: &Tm) {
    let mut buffer = [0 as c_char; 160];
    let mut inner = Out { to: buffer.as_mut_ptr(), room: buffer.len(), used: 0 };
    let mut terminated = [0 as c_char; 32];
    for (to, &c) in terminated.iter_mut().zip(format) {
        *to = c as c_char;
    }
    expand(&mut inner, terminated.as_ptr(), tm);
    let words = core::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), inner.used.min(buffer.len()));
    text(out, spec, words, false);
}

unsafe fn expand<U: Unit>(out: &mut Out<U>, mut format: *const U, tm: &Tm) {
    while (*format).byte() != 0 {
        let start = format;
        if (*format).byte() != b'%' {
            out.put(*format);
            format = format.add(1);
            continue;
        }
        format = format.add(1);
        let mut spec = Spec::default();
        loop {
            match (*format).byte() {
                c @ (b'_' | b'-' | b'0') => spec.pad = c,
                b'^' => spec.upper = true,
                b'#' => spec.swap = true,
                _ => break,
            }
            format = format.add(1);
        }
        while (*format).byte().is_ascii_digit() {
            spec.width = spec.width.saturating_mul(10).saturating_add(((*format).byte() - b'0') as usize);
            spec.width = spec.width.min(i32::MAX as usize);
            format = format.add(1);
        }
        let modifier = match (*format).byte() {
            c @ (b'E' | b'O') => {
                format = format.add(1);
                c
            }
            _ => 0,
        };
        let conversion = (*format).byte();
        if conversion == 0 || !convert(out, spec, modifier, conversion, tm) {
            // Not a conversion: shown as it stands.
            let end = if conversion == 0 { format } else { format.add(1) };
            let mut at = start;
            while at < end {
                out.put(*at);
                at = at.add(1);
            }
            if conversion == 0 {
                return;
            }
        }
        format = format.add(1);
    }
}

/// Writes one conversion; false if there is no such one.
unsafe fn convert<U: Unit>(out: &mut Out<U>, mut spec: Spec, modifier: u8, conversion: u8, tm: &Tm) -> bool {
    let year = tm.tm_year as i64 + 1900;
    let hour_12 = if tm.tm_hour % 12 == 0 { 12 } else { tm.tm_hour % 12 };
    // As glibc: E and O only where they can mean something.
    let allowed: &[u8] = match modifier {
        b'E' => b"cCxXyY",
        b'O' => b"BbhdeHIkKlmMSUuVwWy",
        _ => b"",
    };
    if modifier != 0 && !allowed.contains(&conversion) {
        return false;
    }
    if spec.swap && matches!(conversion, b'a' | b'A' | b'b' | b'B' | b'h') {
        spec.upper = true;
    }
    match conversion {
        b'%' => text(out, Spec { upper: false, ..spec }, b"%", false),
        b'n' => text(out, spec, b"\n", false),
        b't' => text(out, spec, b"\t", false),
        b'a' => text(out, spec, abbreviated_day(tm.tm_wday), false),
        b'A' => text(out, spec, name(7, 7, tm.tm_wday), false),
        b'b' | b'h' => text(out, spec, name(14, 12, tm.tm_mon), false),
        b'B' => text(out, spec, name(26, 12, tm.tm_mon), false),
        b'p' | b'P' => {
            let words = TIME[38 + (tm.tm_hour > 11) as usize].to_bytes();
            text(out, spec, words, conversion == b'P' || spec.swap);
        }
        b'Z' => {
            let zone: &[u8] =
                if tm.tm_zone.is_null() { b"" } else { core::ffi::CStr::from_ptr(tm.tm_zone).to_bytes() };
            text(out, spec, zone, spec.swap);
        }
        b'c' => composite(out, spec, b"%a %b %e %H:%M:%S %Y", tm),
        b'x' | b'D' => composite(out, spec, b"%m/%d/%y", tm),
        b'X' | b'T' => composite(out, spec, b"%H:%M:%S", tm),
        b'r' => composite(out, spec, b"%I:%M:%S %p", tm),
        b'R' => composite(out, spec, b"%H:%M", tm),
        b'F' => composite(out, spec, b"%Y-%m-%d", tm),
        b'C' => number(out, spec, year.div_euclid(100), 1, b'0'),
        b'y' => number(out, spec, year.rem_euclid(100), 2, b'0'),
        b'Y' => number(out, spec, year, 1, b'0'),
        b'G' => number(out, spec, iso_week(tm).0, 1, b'0'),
        b'g' => number(out, spec, iso_week(tm).0.rem_euclid(100), 2, b'0'),
        b'V' => number(out, spec, iso_week(tm).1 as i64, 2, b'0'),
        b'd' => number(out, spec, tm.tm_mday as i64, 2, b'0'),
        b'e' => number(out, spec, tm.tm_mday as i64, 2, b'_'),
        b'H' => number(out, spec, tm.tm_hour as i64, 2, b'0'),
        b'k' => number(out, spec, tm.tm_hour as i64, 2, b'_'),
        b'I' => number(out, spec, hour_12 as i64, 2, b'0'),
        b'l' => number(out, spec, hour_12 as i64, 2, b'_'),
        b'j' => number(out, spec, tm.tm_yday as i64 + 1, 3, b'0'),
        b'm' => number(out, spec, tm.tm_mon as i64 + 1, 2, b'0'),
        b'M' => number(out, spec, tm.tm_min as i64, 2, b'0'),
        b'S' => number(out, spec, tm.tm_sec as i64, 2, b'0'),
        b'u' => number(out, spec, (tm.tm_wday as i64 + 6).rem_euclid(7) + 1, 1, b'0'),
        b'w' => number(out, spec, tm.tm_wday as i64, 1, b'0'),
        b'U' => number(out, spec, ((tm.tm_yday - tm.tm_wday + 7) / 7) as i64, 2, b'0'),
        b'W' => {
            let monday = (tm.tm_wday + 6).rem_euclid(7);
            number(out, spec, ((tm.tm_yday - monday + 7) / 7) as i64, 2, b'0');
        }
        b's' => {
            let mut copy = *tm;
            number(out, spec, mktime(&mut copy), 1, b'0');
        }
        b'z' => {
            if tm.tm_isdst < 0 {
                return true;
            }
            let minutes = tm.tm_gmtoff.abs() / 60;
            text(out, spec, if tm.tm_gmtoff < 0 { b"-" } else { b"+" }, false);
            number(out, spec, minutes / 60 * 100 + minutes % 60, 4, b'0');
        }
        _ => return false,
    }
    true
}

unsafe fn format<U: Unit>(to: *mut U, room: usize, format: *const U, tm: *const Tm) -> usize {
    tzset();
    let mut out = Out { to, room, used: 0 };
    expand(&mut out, format, &*tm);
    if out.used >= room {
        // glibc 2.36 leaves errno alone... the text did not fit: 0, contents undefined.
        return 0;
    }
    *to.add(out.used) = U::of(0);
    out.used
}

/// What strptime(3) has read and what it may still work out.
#[derive(Default)]
struct Read {
    century: Option<c_int>,
    year_in_century: bool,
    pm: Option<bool>,
    twelve: bool,
    have_wday: bool,
    want_day: bool,
    have_yday: bool,
    have_mon: bool,
    have_mday: bool,
    week_sunday: Option<c_int>,
    week_monday: Option<c_int>,
}

unsafe fn space(c: *const c_char) -> bool {
    matches!(*c as u8, b' ' | 9..=13)
}

/// A number between bounds with at most `digits` digits, after white space.
unsafe fn read_number(s: &mut *const c_char, low: c_int, high: c_int, digits: usize) -> Option<c_int> {
    while **s == b' ' as c_char {
        *s = s.add(1);
    }
    let mut value = 0i64;
    let mut count = 0;
    // As glibc: a further digit is not read if it could only go out of the bounds.
    while count < digits && (**s as u8).is_ascii_digit() && (count == 0 || value * 10 <= high as i64) {
        value = value * 10 + (**s as u8 - b'0') as i64;
        *s = s.add(1);
        count += 1;
    }
    (count > 0 && (low as i64..=high as i64).contains(&value)).then_some(value as c_int)
}

unsafe fn read_name(s: &mut *const c_char, full: usize, short: usize, count: usize) -> Option<c_int> {
    for at in 0..count {
        for first in [full, short] {
            let name = TIME[first + at].to_bytes();
            if crate::string::strncasecmp(*s, TIME[first + at].as_ptr(), name.len()) == 0 {
                *s = s.add(name.len());
                return Some(at as c_int);
            }
        }
    }
    None
}

unsafe fn parse(s: &mut *const c_char, format: &[u8], tm: &mut Tm, read: &mut Read) -> Option<()> {
    let mut at = 0;
    while at < format.len() {
        let c = format[at];
        at += 1;
        if matches!(c, b' ' | 9..=13) {
            while space(*s) {
                *s = s.add(1);
            }
            continue;
        }
        if c != b'%' {
            if **s as u8 != c {
                return None;
            }
            *s = s.add(1);
            continue;
        }
        while at < format.len() && (matches!(format[at], b'_' | b'-' | b'0' | b'^' | b'#')) {
            at += 1;
        }
        while at < format.len() && format[at].is_ascii_digit() {
            at += 1;
        }
        if matches!(format.get(at), Some(b'E' | b'O')) {
            at += 1;
        }
        let conversion = *format.get(at)?;
        at += 1;
        match conversion {
            b'%' => {
                if **s as u8 != b'%' {
                    return None;
                }
                *s = s.add(1);
            }
            b'n' | b't' => {
                while space(*s) {
                    *s = s.add(1);
                }
            }
            b'a' | b'A' => {
                tm.tm_wday = read_name(s, 7, 0, 7)?;
                read.have_wday = true;
            }
            b'b' | b'B' | b'h' => {
                tm.tm_mon = read_name(s, 26, 14, 12)?;
                (read.have_mon, read.want_day) = (true, true);
            }
            b'c' => parse(s, b"%a %b %e %H:%M:%S %Y", tm, read)?,
            b'x' | b'D' => parse(s, b"%m/%d/%y", tm, read)?,
            b'X' | b'T' => parse(s, b"%H:%M:%S", tm, read)?,
            b'r' => parse(s, b"%I:%M:%S %p", tm, read)?,
            b'R' => parse(s, b"%H:%M", tm, read)?,
            b'F' => parse(s, b"%Y-%m-%d", tm, read)?,
            b'C' => {
                read.century = Some(read_number(s, 0, 99, 2)?);
                read.want_day = true;
            }
            b'y' => {
                let year = read_number(s, 0, 99, 2)?;
                tm.tm_year = if year >= 69 { year } else { year + 100 };
                (read.year_in_century, read.want_day) = (true, true);
            }
            b'Y' => {
                tm.tm_year = read_number(s, 0, 9999, 4)? - 1900;
                (read.century, read.year_in_century, read.want_day) = (None, false, true);
            }
            b'd' | b'e' => {
                tm.tm_mday = read_number(s, 1, 31, 2)?;
                (read.have_mday, read.want_day) = (true, true);
            }
            b'H' | b'k' => {
                tm.tm_hour = read_number(s, 0, 23, 2)?;
                read.twelve = false;
            }
            b'I' | b'l' => {
                tm.tm_hour = read_number(s, 1, 12, 2)? % 12;
                read.twelve = true;
            }
            b'j' => {
                tm.tm_yday = read_number(s, 1, 366, 3)? - 1;
                read.have_yday = true;
            }
            b'm' => {
                tm.tm_mon = read_number(s, 1, 12, 2)? - 1;
                (read.have_mon, read.want_day) = (true, true);
            }
            b'M' => tm.tm_min = read_number(s, 0, 59, 2)?,
            b'S' => tm.tm_sec = read_number(s, 0, 61, 2)?,
            b'p' | b'P' => {
                let upper = [(**s as u8).to_ascii_uppercase(), (*s.add(1) as u8).to_ascii_uppercase()];
                read.pm = Some(match &upper {
                    b"AM" => false,
                    b"PM" => true,
                    _ => return None,
                });
                *s = s.add(2);
            }
            b's' => {
                let mut value = 0i64;
                if !(**s as u8).is_ascii_digit() {
                    return None;
                }
                while (**s as u8).is_ascii_digit() {
                    value = value.wrapping_mul(10).wrapping_add((**s as u8 - b'0') as i64);
                    *s = s.add(1);
                }
                if localtime_r(&value, tm).is_null() {
                    return None;
                }
            }
            b'u' => {
                tm.tm_wday = read_number(s, 1, 7, 1)? % 7;
                read.have_wday = true;
            }
            b'w' => {
                tm.tm_wday = read_number(s, 0, 6, 1)?;
                read.have_wday = true;
            }
            b'U' => read.week_sunday = Some(read_number(s, 0, 53, 2)?),
            b'W' => read.week_monday = Some(read_number(s, 0, 53, 2)?),
            // Read and not used, as in glibc.
            b'V' => _ = read_number(s, 0, 53, 2)?,
            b'g' => _ = read_number(s, 0, 99, 2)?,
            b'G' => {
                if !(**s as u8).is_ascii_digit() {
                    return None;
                }
                while (**s as u8).is_ascii_digit() {
                    *s = s.add(1);
                }
            }
            b'Z' => {
                while **s != 0 && !space(*s) {
                    *s = s.add(1);
                }
            }
            b'z' => read_offset(s, tm)?,
            _ => return None,
        }
    }
    Some(())
}

/// `+hh`, `+hhmm`, `+hh:mm` or Z.
unsafe fn read_offset(s: &mut *const c_char, tm: &mut Tm) -> Option<()> {
    while **s == b' ' as c_char {
        *s = s.add(1);
    }
    let sign = **s as u8;
    *s = s.add(1);
    if sign == b'Z' {
        tm.tm_gmtoff = 0;
        return Some(());
    }
    if sign != b'+' && sign != b'-' {
        return None;
    }
    let mut value = 0;
    let mut digits = 0;
    while digits < 4 && (**s as u8).is_ascii_digit() {
        value = value * 10 + (**s as u8 - b'0') as c_long;
        digits += 1;
        *s = s.add(1);
        if **s as u8 == b':' && digits == 2 && (*s.add(1) as u8).is_ascii_digit() {
            *s = s.add(1);
        }
    }
    match digits {
        2 => value *= 100,
        4 if value % 100 >= 60 => return None,
        4 => {}
        _ => return None,
    }
    if value > 1400 {
        return None;
    }
    let seconds = value / 100 * 3600 + value % 100 * 60;
    tm.tm_gmtoff = if sign == b'-' { -seconds } else { seconds };
    Some(())
}

/// Works out the fields that were not given from those that were, as glibc does.
fn complete(tm: &mut Tm, read: &mut Read) {
    if read.twelve && read.pm == Some(true) {
        tm.tm_hour += 12;
    }
    if let Some(century) = read.century {
        tm.tm_year =
            if read.year_in_century { tm.tm_year % 100 + (century - 19) * 100 } else { (century - 19) * 100 };
    }
    let year = tm.tm_year as i64 + 1900;
    let from_yday = |tm: &mut Tm, read: &Read| {
        let yday = tm.tm_yday as i64;
        let month = (1..12).rfind(|&m| tz::days_before(year, m) <= yday).unwrap_or(0);
        if !read.have_mon {
            tm.tm_mon = month as c_int;
        }
        if !read.have_mday {
            tm.tm_mday = (yday - tz::days_before(year, month) + 1) as c_int;
        }
    };
    if read.want_day && !read.have_wday {
        if !(read.have_mon && read.have_mday) && read.have_yday {
            from_yday(tm, read);
        }
        let month = tm.tm_mon.clamp(0, 11) as usize;
        let day = tz::days_to_year(year) + tz::days_before(year, month) + tm.tm_mday as i64 - 1;
        tm.tm_wday = (day + 4).rem_euclid(7) as c_int;
    }
    if read.want_day && !read.have_yday {
        let month = tm.tm_mon.clamp(0, 11) as usize;
        tm.tm_yday = (tz::days_before(year, month) + tm.tm_mday as i64 - 1) as c_int;
    }
    let week = read.week_sunday.map(|w| (w, 0)).or(read.week_monday.map(|w| (w, 1)));
    if let Some((week, first_day)) = week
        && read.have_wday
    {
        let january = (tz::days_to_year(year) + 4).rem_euclid(7) as c_int;
        let into = (tm.tm_wday - first_day + 7) % 7;
        if !read.have_yday {
            tm.tm_yday = (7 - (january - first_day)) % 7 + (week - 1) * 7 + into;
        }
        if !read.have_mday || !read.have_mon {
            from_yday(tm, read);
        }
    }
}

abi! { EXPORTS "libc.so.6":
    /// strftime(3).
    "GLIBC_2.2.5" fn strftime(to: *mut c_char, room: usize, text: *const c_char, tm: *const Tm) -> usize {
        format(to, room, text, tm)
    }
    /// wcsftime(3).
    "GLIBC_2.2.5" fn wcsftime(to: *mut wchar_t, room: usize, text: *const wchar_t, tm: *const Tm) -> usize {
        format(to, room, text, tm)
    }
    /// strptime(3).
    "GLIBC_2.2.5" fn strptime(s: *const c_char, text: *const c_char, tm: *mut Tm) -> *mut c_char {
        let (mut at, mut read) = (s, Read::default());
        let format = core::ffi::CStr::from_ptr(text).to_bytes();
        match parse(&mut at, format, &mut *tm, &mut read) {
            Some(()) => {
                complete(&mut *tm, &mut read);
                at.cast_mut()
            }
            None => null_mut(),
        }
    }
}

// The `_l` forms: the locale argument stays in its register.
exports! { MORE "libc.so.6":
    alias "GLIBC_2.3" "strftime_l" = strftime;
    alias "GLIBC_2.3" "__strftime_l" = strftime;
    alias "GLIBC_2.3" "wcsftime_l" = wcsftime;
    alias "GLIBC_2.3" "__wcsftime_l" = wcsftime;
    alias "GLIBC_2.3.2" "strptime_l" = strptime;
}
