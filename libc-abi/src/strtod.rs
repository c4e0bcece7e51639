//! Text to floating point: `strtof`, `strtod`, `strtold`, their `wcs` forms, `_l` and `__*_internal`.
//!
//! Every result is the correctly rounded one (round to nearest, ties to even; another rounding mode
//! of the calling thread is not looked at). Decimal text of `float` and `double` is taken by `core`'s
//! parser, which is correctly rounded; results at the edge of the range and all of `long double` go
//! through integers of any size, which also tells inexact from exact for `ERANGE`. The locale
//! argument of the `_l` forms does not matter: the locales C and C.UTF-8 share the decimal point,
//! and neither groups digits. `_Float128` forms are left out.

use crate::errno;
use crate::stdio::bignum::Big;
use crate::types::*;
use crate::va::LongDouble;
use alloc::vec::Vec;
use platform::Errno;

/// A binary format: digits of the significand, exponent range of `1.x * 2^e`.
#[derive(Clone, Copy)]
struct Format {
    precision: u32,
    min: i64,
    max: i64,
}

const SINGLE: Format = Format { precision: 24, min: -126, max: 127 };
const DOUBLE: Format = Format { precision: 53, min: -1022, max: 1023 };
const EXTENDED: Format = Format { precision: 64, min: -16382, max: 16383 };

/// What the text at the start of a string says.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    /// No number there.
    None,
    Infinite,
    /// With the payload of `nan(...)`.
    NotANumber(u64),
    /// Digits (and a point) at `start..end`, times ten to `exponent`, up to the end of the text.
    Decimal {
        start: usize,
        end: usize,
        exponent: i64,
    },
    /// The same in base 16 and powers of two.
    Hex {
        start: usize,
        end: usize,
        exponent: i64,
    },
}

struct Scanned {
    negative: bool,
    value: Value,
    /// Where the digits begin (behind the sign), for the fast path.
    digits: usize,
    /// Where the number ends.
    end: usize,
}

/// C's `isspace` in the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Reads bytes of a C string one after the other; nothing behind a NUL is looked at, because every
/// caller stops at a byte that it did not expect.
#[derive(Clone, Copy)]
struct Text(*const u8);

impl Text {
    #[inline]
    fn at(self, index: usize) -> u8 {
        // SAFETY: all bytes before `index` were found to be not NUL, and the string ends with one.
        unsafe { self.0.add(index).read() }
    }

    /// The byte in lower case, if it is a letter.
    fn lower(self, index: usize) -> u8 {
        self.at(index) | 0x20
    }

    fn word(self, at: usize, word: &[u8]) -> bool {
        word.iter().enumerate().all(|(index, byte)| self.lower(at + index) == *byte)
    }

    fn slice(&self, start: usize, end: usize) -> &[u8] {
        // SAFETY: the scanner has read all bytes up to `end`.
        unsafe { core::slice::from_raw_parts(self.0.add(start), end - start) }
    }
}

/// The grammar of C11 7.22.1.3: the longest prefix that is a number.
fn scan(text: Text) -> Scanned {
    let mut at = 0;
    while is_space(text.at(at)) {
        at += 1;
    }
    let negative = text.at(at) == b'-';
    if negative || text.at(at) == b'+' {
        at += 1;
    }
    let mut out = Scanned { negative, value: Value::None, digits: at, end: 0 };
    match text.at(at) {
        b'0' if text.lower(at + 1) == b'x' && hex_follows(text, at + 2) => scan_hex(text, at + 2, &mut out),
        b'0'..=b'9' | b'.' => scan_decimal(text, at, &mut out),
        b'i' | b'I' if text.word(at, b"inf") => {
            out.value = Value::Infinite;
            out.end = if text.word(at + 3, b"inity") { at + 8 } else { at + 3 };
        }
        b'n' | b'N' if text.word(at, b"nan") => scan_nan(text, at + 3, &mut out),
        _ => {}
    }
    out
}

fn hex_follows(text: Text, at: usize) -> bool {
    text.at(at).is_ascii_hexdigit() || (text.at(at) == b'.' && text.at(at + 1).is_ascii_hexdigit())
}

/// Digits with at most one point; answers the end and whether there was a digit.
fn scan_digits(text: Text, mut at: usize, digit: fn(&u8) -> bool) -> (usize, bool) {
    let (mut point, mut any) = (false, false);
    loop {
        match text.at(at) {
            byte if digit(&byte) => any = true,
            b'.' if !point => point = true,
            _ => return (at, any),
        }
        at += 1;
    }
}

/// An exponent behind its letter; `None` if no digits follow. Saturates far outside every format.
fn scan_exponent(text: Text, mut at: usize) -> Option<(i64, usize)> {
    let negative = text.at(at) == b'-';
    if negative || text.at(at) == b'+' {
        at += 1;
    }
    if !text.at(at).is_ascii_digit() {
        return None;
    }
    let mut value = 0i64;
    while text.at(at).is_ascii_digit() {
        value = (value * 10 + i64::from(text.at(at) - b'0')).min(1 << 50);
        at += 1;
    }
    Some((if negative { -value } else { value }, at))
}

fn scan_decimal(text: Text, start: usize, out: &mut Scanned) {
    let (end, any) = scan_digits(text, start, u8::is_ascii_digit);
    if !any {
        return;
    }
    let (exponent, after) =
        (text.lower(end) == b'e').then(|| scan_exponent(text, end + 1)).flatten().unwrap_or((0, end));
    (out.value, out.end) = (Value::Decimal { start, end, exponent }, after);
}

fn scan_hex(text: Text, start: usize, out: &mut Scanned) {
    let (end, _) = scan_digits(text, start, u8::is_ascii_hexdigit);
    let (exponent, after) =
        (text.lower(end) == b'p').then(|| scan_exponent(text, end + 1)).flatten().unwrap_or((0, end));
    (out.value, out.end) = (Value::Hex { start, end, exponent }, after);
}

/// `nan`, or `nan(n-char-sequence)`: a number in C notation inside is the payload (glibc).
fn scan_nan(text: Text, at: usize, out: &mut Scanned) {
    (out.value, out.end) = (Value::NotANumber(0), at);
    if text.at(at) != b'(' {
        return;
    }
    let mut end = at + 1;
    while text.at(end).is_ascii_alphanumeric() || text.at(end) == b'_' {
        end += 1;
    }
    if text.at(end) == b')' {
        (out.value, out.end) = (Value::NotANumber(nan_payload(text.slice(at + 1, end))), end + 1);
    }
}

fn nan_payload(digits: &[u8]) -> u64 {
    let (radix, digits) = match digits {
        [b'0', b'x' | b'X', rest @ ..] if !rest.is_empty() => (16, rest),
        [b'0', rest @ ..] if !rest.is_empty() => (8, rest),
        _ => (10, digits),
    };
    let mut value = 0u64;
    for digit in digits {
        match (*digit as char).to_digit(radix) {
            Some(digit) => value = value.saturating_mul(u64::from(radix)).saturating_add(u64::from(digit)),
            None => return 0,
        }
    }
    value
}

/// The significant digits of a decimal as an integer times a power of ten, and whether digits that
/// cannot change the rounding (but make it inexact) were left out.
fn collect_decimal(text: &[u8]) -> (Big, i64, bool) {
    /// More digits than any halfway point between two `long double`s has (11514).
    const LIMIT: usize = 11_600;
    let (mut big, mut exponent, mut taken, mut sticky) = (Big::default(), 0i64, 0usize, false);
    let (mut chunk, mut chunk_digits, mut point) = (0u64, 0u32, false);
    for byte in text {
        if *byte == b'.' {
            point = true;
            continue;
        }
        if taken >= LIMIT {
            sticky |= *byte != b'0';
            exponent += i64::from(!point);
            continue;
        }
        exponent -= i64::from(point);
        if taken == 0 && *byte == b'0' {
            continue;
        }
        taken += 1;
        chunk = chunk * 10 + u64::from(byte - b'0');
        chunk_digits += 1;
        if chunk_digits == 19 {
            big.mul_add(crate::stdio::bignum::TEN_19, chunk);
            (chunk, chunk_digits) = (0, 0);
        }
    }
    big.mul_add(10u64.pow(chunk_digits), chunk);
    (big, exponent, sticky)
}

/// A rounded magnitude: the significand as an integer of `precision` bits at most, the weight of its
/// lowest bit, and what `ERANGE` depends on.
struct Rounded {
    mantissa: u64,
    exponent: i64,
    overflow: bool,
    /// Tiny (after rounding, as on x86) and inexact: C's "underflow".
    underflow: bool,
}

/// Rounds `bits * 2^weight` (`bits` normalised to its bit 127, the lowest bit sticky) to `format`.
fn round(bits: u128, weight: i64, format: Format) -> Rounded {
    let leading = weight + 127;
    let mut drop = i64::from(128 - format.precision);
    if leading < format.min {
        drop += format.min - leading;
    }
    let (kept, inexact) = shift_even(bits, drop);
    let (mut mantissa, mut exponent) = (kept, weight + drop);
    if mantissa >> format.precision != 0 {
        mantissa >>= 1;
        exponent += 1;
    }
    let tiny = leading < format.min && {
        // Rounded with an unbounded exponent it may still reach the smallest normal number.
        let (unbounded, _) = shift_even(bits, i64::from(128 - format.precision));
        !(leading == format.min - 1 && unbounded >> format.precision != 0)
    };
    let overflow = mantissa != 0 && exponent + i64::from(format.precision) - 1 > format.max;
    Rounded { mantissa: mantissa as u64, exponent, overflow, underflow: tiny && inexact }
}

/// `bits >> drop`, to nearest even; and whether something was lost.
fn shift_even(bits: u128, drop: i64) -> (u128, bool) {
    if drop > 128 {
        return (0, bits != 0);
    }
    let half = 1u128 << (drop - 1);
    let kept = if drop == 128 { 0 } else { bits >> drop };
    let lost = if drop == 128 { bits } else { bits & ((half << 1).wrapping_sub(1)) };
    let up = lost > half || (lost == half && kept & 1 == 1);
    (kept + u128::from(up), lost != 0)
}

const ZERO: Rounded = Rounded { mantissa: 0, exponent: 0, overflow: false, underflow: false };
const TOO_LARGE: Rounded = Rounded { mantissa: 0, exponent: 0, overflow: true, underflow: false };
const TOO_SMALL: Rounded = Rounded { mantissa: 0, exponent: 0, overflow: false, underflow: true };

fn round_decimal(text: &[u8], exponent: i64, format: Format) -> Rounded {
    let (mut big, scale, sticky) = collect_decimal(text);
    if big.is_zero() {
        return ZERO;
    }
    let exponent = exponent + scale;
    let magnitude = exponent + (big.bit_len() as i64 * 30103) / 100_000;
    if magnitude > 5000 {
        return TOO_LARGE;
    }
    if magnitude < -5100 {
        return TOO_SMALL;
    }
    if exponent >= 0 {
        big.mul_pow5(exponent as usize);
        let (bits, weight) = big.top();
        return round(bits | u128::from(sticky), weight + exponent, format);
    }
    let mut divisor = Big::from_u64(1);
    divisor.mul_pow5(-exponent as usize);
    let shift = (divisor.bit_len() as i64 - big.bit_len() as i64 + 130).max(0);
    big.shl(shift as usize);
    let (quotient, rest) = big.div(divisor);
    let (bits, weight) = quotient.top();
    round(bits | u128::from(rest | sticky), weight + exponent - shift, format)
}

fn round_hex(text: &[u8], exponent: i64, format: Format) -> Rounded {
    let (mut bits, mut exponent, mut point, mut sticky) = (0u128, exponent, false, false);
    for byte in text {
        let Some(digit) = (*byte as char).to_digit(16) else {
            point = true;
            continue;
        };
        if bits >> 120 != 0 {
            sticky |= digit != 0;
            exponent += if point { 0 } else { 4 };
        } else {
            bits = bits << 4 | u128::from(digit);
            exponent -= if point { 4 } else { 0 };
        }
    }
    if bits == 0 {
        return ZERO;
    }
    let shift = bits.leading_zeros();
    round((bits << shift) | u128::from(sticky), exponent - i64::from(shift), format)
}

fn rounded(text: Text, value: Value, format: Format) -> Rounded {
    match value {
        Value::Decimal { start, end, exponent } => round_decimal(text.slice(start, end), exponent, format),
        Value::Hex { start, end, exponent } => round_hex(text.slice(start, end), exponent, format),
        _ => ZERO,
    }
}

/// The result of a conversion: the value, how many bytes it took, and whether `ERANGE` is due.
pub(crate) struct Parsed<T> {
    pub(crate) value: T,
    pub(crate) used: usize,
    pub(crate) range: bool,
}

/// Of a decimal text whose value was rounded to a number no larger than the least normal one: whether it is certain, without
/// more than its digits, that it was tiny and inexact (`subnormal`) or that it was not tiny at all. False: somebody has to look.
///
/// A subnormal number is an integer over 2^1074 (2^149). A text of up to 19 digits that is d over 10^k with k above 27 is
/// never that, because 5^k would have to divide d, which is less than 5^28. What was rounded to a subnormal number is less than the least
/// normal one by more than half a unit of unbounded exponents, so it is tiny after rounding, too. What was rounded to the least normal
/// number was not tiny if it is no less than that (`least`: its first 19 digits, rounded up).
fn edge_is_clear(text: Text, value: Value, subnormal: bool, least: u64) -> bool {
    let Value::Decimal { start, end, exponent } = value else { return false };
    let (mut digits, mut count, mut places, mut point) = (0u64, 0, 0i64, false);
    for byte in text.slice(start, end) {
        if *byte == b'.' {
            point = true;
            continue;
        }
        places += i64::from(point);
        if *byte == b'0' && count == 0 {
            continue;
        }
        count += 1;
        if count > 19 {
            return false;
        }
        digits = digits * 10 + u64::from(byte - b'0');
    }
    if subnormal { places - exponent > 27 } else { digits * 10u64.pow(19 - count) >= least }
}

macro_rules! binary_format {
    ($name:ident, $float:ty, $bits:ty, $format:expr, $least:expr) => {
        /// Converts the number at the start of a C string.
        ///
        /// # Safety
        /// `text` ends with a NUL.
        pub(crate) unsafe fn $name(text: *const u8) -> Parsed<$float> {
            let text = Text(text);
            let found = scan(text);
            let sign = |value: $float| if found.negative { -value } else { value };
            let (value, range) = match found.value {
                Value::None => return Parsed { value: 0.0, used: 0, range: false },
                Value::Infinite => (<$float>::INFINITY, false),
                Value::NotANumber(payload) => {
                    let room = (1 << ($format.precision - 2)) - 1;
                    (<$float>::from_bits(<$float>::NAN.to_bits() | (payload as $bits & room)), false)
                }
                Value::Decimal { .. } => {
                    let fast = core::str::from_utf8(text.slice(found.digits, found.end))
                        .ok()
                        .and_then(|digits| digits.parse::<$float>().ok());
                    match fast {
                        Some(value) if value > <$float>::MIN_POSITIVE && value.is_finite() => (value, false),
                        // Below the normal range something is lost of almost every text.
                        Some(value)
                            if value > 0.0
                                && value <= <$float>::MIN_POSITIVE
                                && edge_is_clear(
                                    text,
                                    found.value,
                                    value < <$float>::MIN_POSITIVE,
                                    $least,
                                ) =>
                        {
                            (value, value < <$float>::MIN_POSITIVE)
                        }
                        // At the edges of the range ERANGE depends on what was lost.
                        _ => assemble(rounded(text, found.value, $format)),
                    }
                }
                Value::Hex { .. } => assemble(rounded(text, found.value, $format)),
            };
            fn assemble(rounded: Rounded) -> ($float, bool) {
                if rounded.overflow {
                    return (<$float>::INFINITY, true);
                }
                let mantissa = rounded.mantissa as $bits;
                let hidden = 1 << ($format.precision - 1);
                let biased = if mantissa & hidden == 0 {
                    0
                } else {
                    (rounded.exponent + i64::from($format.precision) - 1 + $format.max) as $bits
                };
                let bits = (mantissa & (hidden - 1)) | biased << ($format.precision - 1);
                (<$float>::from_bits(bits), rounded.underflow)
            }
            Parsed { value: sign(value), used: found.end, range }
        }
    };
}

// 19 digits of 2^-126 and of 2^-1022, rounded up.
binary_format!(parse_f32, f32, u32, SINGLE, 1_175_494_350_822_287_508);
binary_format!(parse_f64, f64, u64, DOUBLE, 2_225_073_858_507_201_384);

/// As the others, for the x87 `long double`.
///
/// # Safety
/// `text` ends with a NUL.
pub(crate) unsafe fn parse_f80(text: *const u8) -> Parsed<LongDouble> {
    const INTEGER_BIT: u64 = 1 << 63;
    let text = Text(text);
    let found = scan(text);
    let sign = if found.negative { 0x8000 } else { 0 };
    let (mantissa, exponent, range) = match found.value {
        Value::None => return Parsed { value: LongDouble::default(), used: 0, range: false },
        Value::Infinite => (INTEGER_BIT, 0x7fff, false),
        Value::NotANumber(payload) => (0b11 << 62 | (payload & ((1 << 62) - 1)), 0x7fff, false),
        _ => {
            let rounded = rounded(text, found.value, EXTENDED);
            if rounded.overflow {
                (INTEGER_BIT, 0x7fff, true)
            } else if rounded.mantissa & INTEGER_BIT == 0 {
                (rounded.mantissa, 0, rounded.underflow)
            } else {
                (rounded.mantissa, (rounded.exponent + 63 + 16383) as u16, rounded.underflow)
            }
        }
    };
    Parsed { value: LongDouble { mantissa, sign_exponent: exponent | sign }, used: found.end, range }
}

/// Delivers a [`Parsed`] the way `strtod` does.
unsafe fn deliver<T>(text: *const c_char, end: *mut *mut c_char, parsed: Parsed<T>) -> T {
    if parsed.range {
        errno::set(Errno::ERANGE);
    }
    if !end.is_null() {
        // SAFETY: `end` is the caller's; the offset lies within the string.
        unsafe { *end = text.add(parsed.used).cast_mut() };
    }
    parsed.value
}

/// The beginning of a wide string that can belong to a number, as bytes with a NUL behind, and how
/// many wide characters of white space stand before.
unsafe fn narrow(text: *const wchar_t) -> (usize, Vec<u8>) {
    let mut skipped = 0;
    let mut bytes = Vec::new();
    // SAFETY: the string ends with a NUL, which stops both loops.
    unsafe {
        while crate::stdio::mb::is_wide_space(text.add(skipped).read() as u32) {
            skipped += 1;
        }
        loop {
            let unit = text.add(skipped + bytes.len()).read() as u32;
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii_alphanumeric() || b"+-._()".contains(&byte) => bytes.push(byte),
                _ => break,
            }
        }
    }
    bytes.push(0);
    (skipped, bytes)
}

unsafe fn wide<T>(
    text: *const wchar_t,
    end: *mut *mut wchar_t,
    parse: unsafe fn(*const u8) -> Parsed<T>,
) -> T {
    // SAFETY: `text` is a wide C string; `narrow` made a C string.
    unsafe {
        let (skipped, bytes) = narrow(text);
        let parsed = parse(bytes.as_ptr());
        if parsed.range {
            errno::set(Errno::ERANGE);
        }
        if !end.is_null() {
            *end = text.add(if parsed.used == 0 { 0 } else { skipped + parsed.used }).cast_mut();
        }
        parsed.value
    }
}

abi! { EXPORTS "libc.so.6":
    /// strtod(3).
    "GLIBC_2.2.5" fn strtod(text: *const c_char, end: *mut *mut c_char) -> c_double {
        // SAFETY: a C string and a place for its end, as the caller vouches.
        unsafe { deliver(text, end, parse_f64(text.cast())) }
    }
    /// strtof(3).
    "GLIBC_2.2.5" fn strtof(text: *const c_char, end: *mut *mut c_char) -> c_float {
        // SAFETY: as above.
        unsafe { deliver(text, end, parse_f32(text.cast())) }
    }
    /// atof(3).
    "GLIBC_2.2.5" fn atof(text: *const c_char) -> c_double {
        // SAFETY: as above.
        unsafe { deliver(text, core::ptr::null_mut(), parse_f64(text.cast())) }
    }
    /// wcstod(3).
    "GLIBC_2.2.5" fn wcstod(text: *const wchar_t, end: *mut *mut wchar_t) -> c_double {
        // SAFETY: a wide C string and a place for its end.
        unsafe { wide(text, end, parse_f64) }
    }
    /// wcstof(3).
    "GLIBC_2.2.5" fn wcstof(text: *const wchar_t, end: *mut *mut wchar_t) -> c_float {
        // SAFETY: as above.
        unsafe { wide(text, end, parse_f32) }
    }
}

unsafe extern "C" fn strtold_into(text: *const c_char, end: *mut *mut c_char, out: *mut LongDouble) {
    // SAFETY: as `strtod`; `out` is the shell's own stack.
    unsafe { *out = deliver(text, end, parse_f80(text.cast())) }
}

unsafe extern "C" fn wcstold_into(text: *const wchar_t, end: *mut *mut wchar_t, out: *mut LongDouble) {
    // SAFETY: as `wcstod`; `out` is the shell's own stack.
    unsafe { *out = wide(text, end, parse_f80) }
}

/// A function of two arguments that answers `long double`: in st(0), which Rust cannot say.
macro_rules! returns_long_double {
    ($($(#[$meta:meta])* fn $name:ident = $target:ident;)*) => {$(
        $(#[$meta])*
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                ".cfi_startproc",
                "sub rsp, 24",
                ".cfi_adjust_cfa_offset 24",
                "mov rdx, rsp",
                "call {target}",
                "fld tbyte ptr [rsp]",
                "add rsp, 24",
                ".cfi_adjust_cfa_offset -24",
                "ret",
                ".cfi_endproc",
                target = sym $target,
            )
        }
    )*};
}

returns_long_double! {
    /// strtold(3).
    fn strtold = strtold_into;
    /// wcstold(3).
    fn wcstold = wcstold_into;
}

// The third argument (group flag of `__*_internal`, locale of `_l`) does not change the answer, so
// the two-argument functions serve under these names as well.
exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "strtold" = strtold;
    alias "GLIBC_2.2.5" "wcstold" = wcstold;
    alias "GLIBC_2.3" "strtod_l" = strtod;
    alias "GLIBC_2.3" "strtof_l" = strtof;
    alias "GLIBC_2.3" "strtold_l" = strtold;
    alias "GLIBC_2.3" "wcstod_l" = wcstod;
    alias "GLIBC_2.3" "wcstof_l" = wcstof;
    alias "GLIBC_2.3" "wcstold_l" = wcstold;
    alias "GLIBC_2.2.5" "__strtod_l" = strtod;
    alias "GLIBC_2.2.5" "__strtof_l" = strtof;
    alias "GLIBC_2.2.5" "__strtold_l" = strtold;
    alias "GLIBC_2.2.5" "__wcstod_l" = wcstod;
    alias "GLIBC_2.2.5" "__wcstof_l" = wcstof;
    alias "GLIBC_2.2.5" "__wcstold_l" = wcstold;
    alias "GLIBC_2.2.5" "__strtod_internal" = strtod;
    alias "GLIBC_2.2.5" "__strtof_internal" = strtof;
    alias "GLIBC_2.2.5" "__strtold_internal" = strtold;
    alias "GLIBC_2.2.5" "__wcstod_internal" = wcstod;
    alias "GLIBC_2.2.5" "__wcstof_internal" = wcstof;
    alias "GLIBC_2.2.5" "__wcstold_internal" = wcstold;
    alias "GLIBC_2.27" "strtof32" = strtof;
    alias "GLIBC_2.27" "strtof32_l" = strtof;
    alias "GLIBC_2.27" "strtof32x" = strtod;
    alias "GLIBC_2.27" "strtof32x_l" = strtod;
    alias "GLIBC_2.27" "strtof64" = strtod;
    alias "GLIBC_2.27" "strtof64_l" = strtod;
    alias "GLIBC_2.27" "strtof64x" = strtold;
    alias "GLIBC_2.27" "strtof64x_l" = strtold;
    alias "GLIBC_2.27" "wcstof32" = wcstof;
    alias "GLIBC_2.27" "wcstof32_l" = wcstof;
    alias "GLIBC_2.27" "wcstof32x" = wcstod;
    alias "GLIBC_2.27" "wcstof32x_l" = wcstod;
    alias "GLIBC_2.27" "wcstof64" = wcstod;
    alias "GLIBC_2.27" "wcstof64_l" = wcstod;
    alias "GLIBC_2.27" "wcstof64x" = wcstold;
    alias "GLIBC_2.27" "wcstof64x_l" = wcstold;
}

#[cfg(test)]
#[path = "stdio/tests/strtod.rs"]
mod tests;
