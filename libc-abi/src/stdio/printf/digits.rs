//! Decimal digits of integers and of binary floating point, exactly.
//!
//! A finite number is `mantissa * 2^exponent`. Fixed notation with an integer part below 2^64 and at
//! most 19 digits behind the point, which is nearly every `%f`, is 128-bit arithmetic; significant
//! digits of a double come from `core`'s exact formatter; everything else (large numbers, `long
//! double`, hundreds of digits) is arithmetic on numbers of any size, with digits produced 19 at a time.

use crate::stdio::bignum::{Big, TEN_19};
use alloc::vec::Vec;

const PAIRS: &[u8; 200] =
    b"0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849\
5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

/// Writes `value` in decimal to the end of `buffer`; answers where it begins.
#[inline]
pub(crate) fn decimal(mut value: u64, buffer: &mut [u8; 24]) -> usize {
    let mut at = buffer.len();
    while value >= 100 {
        let pair = (value % 100) as usize * 2;
        value /= 100;
        at -= 2;
        buffer[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    }
    if value >= 10 {
        at -= 2;
        buffer[at..at + 2].copy_from_slice(&PAIRS[value as usize * 2..value as usize * 2 + 2]);
    } else {
        at -= 1;
        buffer[at] = b'0' + value as u8;
    }
    at
}

/// Writes `value` in base `1 << shift` to the end of `buffer`; answers where it begins.
#[inline]
pub(crate) fn radix(mut value: u64, shift: u32, upper: bool, buffer: &mut [u8; 24]) -> usize {
    let letters = if upper { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = letters[(value & ((1 << shift) - 1)) as usize];
        value >>= shift;
        if value == 0 {
            return at;
        }
    }
}

/// Digits that are on the stack as long as they are few.
pub(crate) enum Text {
    Short([u8; 64], usize),
    Long(Vec<u8>),
}

impl Text {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Text::Short(bytes, len) => &bytes[..*len],
            Text::Long(bytes) => bytes,
        }
    }

    fn short(bytes: &[u8]) -> Text {
        let mut text = [0; 64];
        text[..bytes.len()].copy_from_slice(bytes);
        Text::Short(text, bytes.len())
    }
}

/// A rounded decimal: the integer part's digits, then digits behind the point (fewer than asked for
/// if the rest are zeros).
pub(crate) struct Fixed {
    pub(crate) text: Text,
    /// How many digits stand before the point; at least one.
    pub(crate) integer: usize,
}

/// `mantissa * 2^exponent` with `places` digits behind the point.
pub(crate) fn fixed(mantissa: u64, exponent: i32, places: usize) -> Fixed {
    quick_fixed(mantissa, exponent, places).unwrap_or_else(|| {
        let (mut digits, mut integer, rest) = expand(mantissa, exponent, places + 1, 0);
        if round(&mut digits, integer + places, rest) {
            integer += 1;
        }
        Fixed { text: Text::Long(digits), integer }
    })
}

fn quick_fixed(mantissa: u64, exponent: i32, places: usize) -> Option<Fixed> {
    if places > 19 || exponent > mantissa.leading_zeros() as i32 {
        return None;
    }
    let (mut integer, mut fraction) = (0, 0);
    if exponent >= 0 {
        integer = mantissa << exponent;
    } else {
        let point = exponent.unsigned_abs();
        if point < 64 {
            integer = mantissa >> point;
        }
        let below = if point < 64 { mantissa & ((1 << point) - 1) } else { mantissa };
        let scale = 10u64.pow(places as u32);
        let product = u128::from(below) * u128::from(scale);
        // What lies behind the last digit, against a half: nearest, ties to even.
        let (digits, up) = match point {
            0..128 => {
                let (kept, lost, half) = (product >> point, product & ((1 << point) - 1), 1 << (point - 1));
                let even_part = if places == 0 { integer } else { kept as u64 };
                (kept as u64, lost > half || (lost == half && even_part & 1 == 1))
            }
            128 => (0, product > 1 << 127),
            _ => (0, false),
        };
        fraction = digits + u64::from(up);
        if fraction == scale {
            (integer, fraction) = (integer + 1, 0);
        }
    }
    let mut buffer = [0; 24];
    let start = decimal(integer, &mut buffer);
    let length = 24 - start;
    let mut text = [b'0'; 64];
    text[..length].copy_from_slice(&buffer[start..]);
    if places > 0 {
        let start = decimal(fraction, &mut buffer);
        text[length + places - (24 - start)..length + places].copy_from_slice(&buffer[start..]);
    }
    Some(Fixed { text: Text::Short(text, length + places), integer: length })
}

/// Significant digits: `text[0].text[1..] * 10^exponent`, rounded to `count` digits; fewer if the
/// rest are zeros.
pub(crate) struct Significant {
    pub(crate) text: Text,
    pub(crate) exponent: i32,
}

/// The `count` first digits of a number that is not zero. `double` is its value if it is one.
pub(crate) fn significant(mantissa: u64, exponent: i32, count: usize, double: Option<f64>) -> Significant {
    if let Some(value) = double
        && count <= 40
    {
        return quick_significant(value, count);
    }
    let (mut digits, integer, rest) = expand(mantissa, exponent, 0, count + 1);
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    digits.drain(..zeros);
    let mut scale = integer as i32 - zeros as i32 - 1;
    if round(&mut digits, count, rest) {
        scale += 1;
        digits.truncate(count);
    }
    Significant { text: Text::Long(digits), exponent: scale }
}

/// The standard library's exact formatter gives correctly rounded digits, ties to even.
fn quick_significant(value: f64, count: usize) -> Significant {
    use core::fmt::Write;
    struct Stack([u8; 64], usize);
    impl Write for Stack {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            let place = self.0.get_mut(self.1..self.1 + text.len()).ok_or(core::fmt::Error)?;
            place.copy_from_slice(text.as_bytes());
            self.1 += text.len();
            Ok(())
        }
    }
    let mut out = Stack([0; 64], 0);
    let _ = write!(out, "{:.*e}", count - 1, value);
    let text = &out.0[..out.1];
    let end = text.iter().position(|byte| *byte == b'e').unwrap_or(text.len());
    let mut exponent = 0;
    for byte in text[end..].iter().filter(|byte| byte.is_ascii_digit()) {
        exponent = exponent * 10 + i32::from(byte - b'0');
    }
    if text.get(end + 1) == Some(&b'-') {
        exponent = -exponent;
    }
    let mut digits = [0; 64];
    digits[0] = text[0];
    if count > 1 {
        digits[1..count].copy_from_slice(&text[2..end]);
    }
    Significant { text: Text::short(&digits[..count]), exponent }
}

/// All digits of the integer part (at least one), then digits behind the point until there are
/// `places` of them or `count` significant ones, or no more. Answers the digits, how many belong to
/// the integer part, and whether something not zero follows.
fn expand(mantissa: u64, exponent: i32, places: usize, count: usize) -> (Vec<u8>, usize, bool) {
    let mut digits = Vec::new();
    let mut whole = Big::from_u64(mantissa);
    if exponent >= 0 {
        whole.shl(exponent as usize);
    } else {
        whole = Big::from_u64(if exponent > -64 { mantissa >> -exponent } else { 0 });
    }
    integer_digits(whole, &mut digits);
    let integer = digits.len();
    if exponent >= 0 {
        return (digits, integer, false);
    }
    // The fraction as limbs behind the point, the highest last.
    let point = exponent.unsigned_abs() as usize;
    let below = if point < 64 { mantissa & ((1 << point) - 1) } else { mantissa };
    let limbs = point.div_ceil(64);
    let mut fraction = Big::from_u64(below);
    fraction.shl(limbs * 64 - point);
    fraction.0.resize(limbs, 0);
    let mut lowest = fraction.0.iter().take_while(|limb| **limb == 0).count();
    let mut seen = digits.iter().any(|digit| *digit != b'0');
    let mut counted = if seen { integer } else { 0 };
    while lowest < limbs && (digits.len() - integer < places || counted < count) {
        let chunk = times_ten_19(&mut fraction.0[lowest..]);
        while lowest < limbs && fraction.0[lowest] == 0 {
            lowest += 1;
        }
        append_19(chunk, &mut digits);
        if seen {
            counted += 19;
        } else if chunk != 0 {
            seen = true;
            counted = 1 + chunk.ilog10() as usize;
        }
    }
    (digits, integer, lowest < limbs)
}

fn times_ten_19(limbs: &mut [u64]) -> u64 {
    let mut carry = 0;
    for limb in limbs {
        let wide = u128::from(*limb) * u128::from(TEN_19) + u128::from(carry);
        *limb = wide as u64;
        carry = (wide >> 64) as u64;
    }
    carry
}

fn append_19(chunk: u64, digits: &mut Vec<u8>) {
    let mut buffer = [b'0'; 24];
    decimal(chunk, &mut buffer);
    digits.extend_from_slice(&buffer[5..]);
}

fn integer_digits(mut whole: Big, digits: &mut Vec<u8>) {
    let mut chunks = Vec::new();
    while !whole.is_zero() {
        chunks.push(whole.div_small(TEN_19));
    }
    let mut buffer = [0; 24];
    let start = decimal(chunks.pop().unwrap_or(0), &mut buffer);
    digits.extend_from_slice(&buffer[start..]);
    while let Some(chunk) = chunks.pop() {
        append_19(chunk, digits);
    }
}

/// Rounds to `keep` digits, nearest, ties to even; `rest` says that more follows. Answers whether a
/// digit was added in front.
fn round(digits: &mut Vec<u8>, keep: usize, rest: bool) -> bool {
    if keep >= digits.len() {
        return false;
    }
    let next = digits[keep];
    let more = rest || digits[keep + 1..].iter().any(|digit| *digit != b'0');
    let odd = keep > 0 && digits[keep - 1] & 1 == 1;
    digits.truncate(keep);
    if next < b'5' || (next == b'5' && !more && !odd) {
        return false;
    }
    for digit in digits.iter_mut().rev() {
        if *digit != b'9' {
            *digit += 1;
            return false;
        }
        *digit = b'0';
    }
    digits.insert(0, b'1');
    true
}
