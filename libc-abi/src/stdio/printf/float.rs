//! `%e %f %g %a` of `double` and `long double`.

use super::digits::{Text, fixed, significant};
use super::engine::Field;
use super::out::{Out, Unit};
use super::spec::bits;
use crate::va::LongDouble;

/// A floating-point argument.
#[derive(Clone, Copy)]
pub(crate) enum Float {
    Double(f64),
    Long(LongDouble),
}

/// What kind of number it is.
enum Kind {
    Infinite,
    NotANumber,
    /// `mantissa * 2^exponent`.
    Finite {
        mantissa: u64,
        exponent: i32,
    },
}

impl Float {
    fn negative(self) -> bool {
        match self {
            Float::Double(value) => value.is_sign_negative(),
            Float::Long(value) => value.negative(),
        }
    }

    fn kind(self) -> Kind {
        match self {
            Float::Double(value) if value.is_nan() => Kind::NotANumber,
            Float::Double(value) if value.is_infinite() => Kind::Infinite,
            Float::Double(value) => {
                let fraction = value.to_bits() & ((1 << 52) - 1);
                match (value.to_bits() >> 52) & 0x7ff {
                    0 => Kind::Finite { mantissa: fraction, exponent: -1074 },
                    biased => Kind::Finite { mantissa: fraction | 1 << 52, exponent: biased as i32 - 1075 },
                }
            }
            Float::Long(value) => match value.exponent() {
                0x7fff if value.mantissa << 1 == 0 => Kind::Infinite,
                0x7fff => Kind::NotANumber,
                0 => Kind::Finite { mantissa: value.mantissa, exponent: -16445 },
                biased => Kind::Finite { mantissa: value.mantissa, exponent: biased as i32 - 16446 },
            },
        }
    }

    /// The value as a double, if it is one exactly (and normal).
    fn double(self) -> Option<f64> {
        match self {
            Float::Double(value) => Some(value.abs()),
            Float::Long(value) => {
                let exponent = value.exponent() as i32 - 16383;
                let fits = value.mantissa >> 63 == 1 && value.mantissa & 0x7ff == 0;
                (fits && (-1022..=1023).contains(&exponent)).then(|| {
                    let fraction = (value.mantissa >> 11) & ((1 << 52) - 1);
                    f64::from_bits(((exponent + 1023) as u64) << 52 | fraction)
                })
            }
        }
    }
}

/// A stretch of what is printed.
enum Part<'a> {
    Bytes(&'a [u8]),
    Zeros(usize),
}

/// Prints sign, prefix, then zeros or spaces up to the width, and the parts.
fn emit<U: Unit>(out: &mut Out<U>, field: &Field, negative: bool, prefix: &[u8], parts: &[Part], zero: bool) {
    let sign: &[u8] = match negative {
        true => b"-",
        false if field.flags & bits::PLUS != 0 => b"+",
        false if field.flags & bits::SPACE != 0 => b" ",
        false => b"",
    };
    let length = |part: &Part| match part {
        Part::Bytes(bytes) => bytes.len(),
        Part::Zeros(count) => *count,
    };
    let total = sign.len() + prefix.len() + parts.iter().map(length).sum::<usize>();
    let pad = field.width.saturating_sub(total);
    let zero = zero && field.flags & (bits::ZERO | bits::LEFT) == bits::ZERO;
    let left = field.flags & bits::LEFT != 0;
    out.pad(b' ', if zero || left { 0 } else { pad });
    out.bytes(sign);
    out.bytes(prefix);
    out.pad(b'0', if zero { pad } else { 0 });
    for part in parts {
        match part {
            Part::Bytes(bytes) => out.bytes(bytes),
            Part::Zeros(count) => out.pad(b'0', *count),
        }
    }
    out.pad(b' ', if left { pad } else { 0 });
}

/// Prints `value` by the conversion `e f g a` or its capital.
pub(crate) fn print<U: Unit>(out: &mut Out<U>, field: &Field, conversion: u8, value: Float) {
    let upper = conversion.is_ascii_uppercase();
    let Kind::Finite { mantissa, exponent } = value.kind() else {
        let word: &[u8] = match (value.kind(), upper) {
            (Kind::Infinite, false) => b"inf",
            (Kind::Infinite, true) => b"INF",
            (_, false) => b"nan",
            (_, true) => b"NAN",
        };
        return emit(out, field, value.negative(), b"", &[Part::Bytes(word)], false);
    };
    let number = Number { value, mantissa, exponent, upper };
    match conversion | 0x20 {
        b'f' => number.fixed(out, field),
        b'e' => number.scientific(out, field),
        b'g' => number.general(out, field),
        _ => number.hexadecimal(out, field),
    }
}

struct Number {
    value: Float,
    mantissa: u64,
    exponent: i32,
    upper: bool,
}

/// The digits behind the point, with the point if it is wanted.
fn point(wanted: bool) -> Part<'static> {
    Part::Bytes(if wanted { b"." } else { b"" })
}

impl Number {
    fn fixed<U: Unit>(&self, out: &mut Out<U>, field: &Field) {
        let places = field.precision.unwrap_or(6);
        let number = fixed(self.mantissa, self.exponent, places);
        let (whole, fraction) = number.text.bytes().split_at(number.integer);
        let fraction = &fraction[..fraction.len().min(places)];
        let parts = [
            Part::Bytes(whole),
            point(places > 0 || field.flags & bits::ALT != 0),
            Part::Bytes(fraction),
            Part::Zeros(places - fraction.len()),
        ];
        emit(out, field, self.value.negative(), b"", &parts, true);
    }

    /// The first `count` digits and the decimal exponent; zero is all zeros.
    fn digits(&self, count: usize) -> (Text, i32) {
        if self.mantissa == 0 {
            let mut zero = [0; 64];
            zero[0] = b'0';
            return (Text::Short(zero, 1), 0);
        }
        let digits = significant(self.mantissa, self.exponent, count, self.value.double());
        (digits.text, digits.exponent)
    }

    fn scientific<U: Unit>(&self, out: &mut Out<U>, field: &Field) {
        let places = field.precision.unwrap_or(6);
        let (text, exponent) = self.digits(places + 1);
        let digits = text.bytes();
        self.emit_scientific(out, field, digits, exponent, places + 1 - digits.len(), places > 0);
    }

    fn emit_scientific<U: Unit>(
        &self,
        out: &mut Out<U>,
        field: &Field,
        digits: &[u8],
        exponent: i32,
        zeros: usize,
        with_point: bool,
    ) {
        let mut buffer = [0; 8];
        let letter = if self.upper { b'E' } else { b'e' };
        let tail = exponent_text(letter, exponent, 2, &mut buffer);
        let parts = [
            Part::Bytes(&digits[..1]),
            point(with_point || field.flags & bits::ALT != 0),
            Part::Bytes(&digits[1..]),
            Part::Zeros(zeros),
            Part::Bytes(tail),
        ];
        emit(out, field, self.value.negative(), b"", &parts, true);
    }

    /// C11 7.21.6.1: with P digits and exponent X, `%f` if P > X >= -4, else `%e`; trailing zeros go
    /// unless `#` asks for them.
    fn general<U: Unit>(&self, out: &mut Out<U>, field: &Field) {
        let count = field.precision.unwrap_or(6).max(1);
        let (text, exponent) = self.digits(count);
        let keep_zeros = field.flags & bits::ALT != 0;
        let digits = text.bytes();
        let trimmed = digits.iter().rposition(|digit| *digit != b'0').map_or(1, |last| last + 1);
        let digits = &digits[..trimmed];
        let zeros = if keep_zeros { count - digits.len() } else { 0 };
        if exponent < -4 || exponent >= 0 && exponent as usize >= count {
            let with_point = digits.len() + zeros > 1;
            return self.emit_scientific(out, field, digits, exponent, zeros, with_point);
        }
        if exponent < 0 {
            let parts = [
                Part::Bytes(b"0."),
                Part::Zeros((-exponent - 1) as usize),
                Part::Bytes(digits),
                Part::Zeros(zeros),
            ];
            return emit(out, field, self.value.negative(), b"", &parts, true);
        }
        let whole = exponent as usize + 1;
        let (before, behind) = digits.split_at(whole.min(digits.len()));
        let missing = whole - before.len();
        let zeros = zeros - zeros.min(missing);
        let parts = [
            Part::Bytes(before),
            Part::Zeros(missing),
            point(!behind.is_empty() || keep_zeros),
            Part::Bytes(behind),
            Part::Zeros(zeros),
        ];
        emit(out, field, self.value.negative(), b"", &parts, true);
    }

    /// `0x1.8p+1`; a `long double` has four bits before the point (glibc), a double one.
    fn hexadecimal<U: Unit>(&self, out: &mut Out<U>, field: &Field) {
        let (places, lead_bit) = match self.value {
            Float::Double(_) => (13, 52),
            Float::Long(_) => (15, 60),
        };
        let mut exponent = if self.mantissa == 0 { 0 } else { self.exponent + lead_bit };
        let mut significand = u128::from(self.mantissa);
        let mut shown = places;
        if let Some(wanted) = field.precision
            && wanted < places
        {
            let drop = 4 * (places - wanted);
            let (half, lost) = (1u128 << (drop - 1), significand & ((1 << drop) - 1));
            significand >>= drop;
            significand += u128::from(lost > half || (lost == half && significand & 1 == 1));
            shown = wanted;
            if significand >> (4 * shown) > 15 {
                significand >>= 4;
                exponent += 4;
            }
        }
        let letters = if self.upper { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
        let mut digits = [0u8; 16];
        for (index, digit) in digits[..=shown].iter_mut().enumerate() {
            *digit = letters[((significand >> (4 * (shown - index))) & 15) as usize];
        }
        let mut digits = &digits[..=shown];
        if field.precision.is_none() {
            let last = digits[1..].iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
            digits = &digits[..=last];
        }
        let zeros = field.precision.unwrap_or(0).saturating_sub(digits.len() - 1);
        let mut buffer = [0; 8];
        let tail = exponent_text(if self.upper { b'P' } else { b'p' }, exponent, 1, &mut buffer);
        let parts = [
            Part::Bytes(&digits[..1]),
            point(digits.len() > 1 || zeros > 0 || field.flags & bits::ALT != 0),
            Part::Bytes(&digits[1..]),
            Part::Zeros(zeros),
            Part::Bytes(tail),
        ];
        let prefix: &[u8] = if self.upper { b"0X" } else { b"0x" };
        emit(out, field, self.value.negative(), prefix, &parts, true);
    }
}

/// The letter, the sign and at least `least` digits.
fn exponent_text(letter: u8, exponent: i32, least: usize, buffer: &mut [u8; 8]) -> &[u8] {
    let mut rest = exponent.unsigned_abs();
    let mut at = buffer.len();
    while rest > 0 || buffer.len() - at < least {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    at -= 2;
    buffer[at] = letter;
    buffer[at + 1] = if exponent < 0 { b'-' } else { b'+' };
    &buffer[at..]
}
