//! Floating point to text without a format: fcvt, ecvt, gcvt, their `q` forms, strfromf/d/l.
//!
//! ecvt's digits are the exact ones, as many as asked for; glibc's own may be off by one in the last
//! place, as it scales by powers of ten in floating point, and has one more where rounding carries.

use super::file::BUFSIZ;
use super::printf::engine::Field;
use super::printf::float::{Float, print};
use super::printf::out::Out;
use super::printf::spec::Length;
use crate::errno;
use crate::types::*;
use crate::va::LongDouble;
use core::cell::UnsafeCell;
use core::ptr::null_mut;
use platform::Errno;

/// The most digits that are worth printing (glibc's NDIGIT).
const DOUBLE_DIGITS: i32 = 17;
const LONG_DIGITS: i32 = 21;

unsafe fn drop_rest(out: &mut Out<u8>) {
    out.counting = true;
    let scratch = out.target.cast();
    out.renew(scratch, 64);
}

/// Prints `value` into `room` bytes; answers the whole length. No NUL.
fn text(value: Float, conversion: u8, precision: Option<usize>, into: *mut u8, room: usize) -> usize {
    let mut scratch = [0u8; 64];
    let mut out = Out::new(into, room, drop_rest, scratch.as_mut_ptr().cast());
    let field = Field { flags: 0, width: 0, precision, length: Length::None };
    print(&mut out, &field, conversion, value);
    out.total() as usize
}

/// A place for results that C functions answer; one for each, as C has it.
struct Static<const SIZE: usize>(UnsafeCell<[u8; SIZE]>);
// SAFETY: these C functions are not thread-safe (attributes(7): MT-Unsafe race); callers know.
unsafe impl<const SIZE: usize> Sync for Static<SIZE> {}

impl<const SIZE: usize> Static<SIZE> {
    const fn new() -> Self {
        Static(UnsafeCell::new([0; SIZE]))
    }
    fn get(&self) -> (*mut c_char, usize) {
        (self.0.get().cast(), SIZE)
    }
}

static FCVT: Static<400> = Static::new();
static ECVT: Static<32> = Static::new();
static QFCVT: Static<{ BUFSIZ }> = Static::new();
static QECVT: Static<32> = Static::new();

impl Float {
    fn parts(self) -> (bool, bool, bool) {
        match self {
            Float::Double(value) => (value.is_sign_negative(), value == 0.0, value.is_finite()),
            Float::Long(value) => (value.negative(), value.mantissa == 0, value.exponent() != 0x7fff),
        }
    }

    fn magnitude(self) -> Float {
        match self {
            Float::Double(value) => Float::Double(value.abs()),
            Float::Long(value) => {
                Float::Long(LongDouble { sign_exponent: value.sign_exponent & 0x7fff, ..value })
            }
        }
    }

    fn digits(self) -> i32 {
        if matches!(self, Float::Double(_)) { DOUBLE_DIGITS } else { LONG_DIGITS }
    }
}

/// `fcvt_r`: the digits of `%.*f` without point and leading zeros, and where the point belongs.
unsafe fn fixed_digits(
    value: Float,
    digits: c_int,
    point: *mut c_int,
    sign: *mut c_int,
    into: *mut c_char,
    room: usize,
) -> c_int {
    let (negative, zero, finite) = value.parts();
    let mut buffer = [0u8; BUFSIZ];
    let value = if finite { value.magnitude() } else { value };
    let left = if finite && !zero { digits.min(0).unsigned_abs() as usize } else { 0 };
    let precision = digits.clamp(0, value.digits()) as usize;
    let len = text(value, b'f', Some(precision), buffer.as_mut_ptr(), BUFSIZ);
    let mut printed = buffer[..len].to_vec();
    let left = left.min(printed.len().saturating_sub(1));
    if left > 0 {
        // Rounding to the left of the point: the last `left` digits become zeros.
        let keep = printed.len() - left;
        round_digits(&mut printed, keep);
    }
    let whole = printed.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at_point = whole as c_int;
    let mut result = printed[..whole].to_vec();
    if whole < printed.len() && whole > 0 {
        let mut fraction = &printed[whole + 1..];
        if whole == 1 && printed[0] == b'0' && !zero {
            result.clear();
            let zeros = fraction.iter().take_while(|byte| **byte == b'0').count();
            fraction = &fraction[zeros..];
            at_point = -(zeros as c_int);
        }
        result.extend_from_slice(fraction);
    }
    if whole == 0 {
        result = printed;
    }
    if result.len() >= room {
        return -1;
    }
    // SAFETY: `result` and its NUL fit into `room`; the other places are the program's.
    unsafe {
        *sign = c_int::from(negative && finite);
        *point = at_point;
        core::ptr::copy_nonoverlapping(result.as_ptr(), into.cast(), result.len());
        *into.add(result.len()) = 0;
    }
    0
}

/// Rounds a string of digits to its first `keep`, halves up; the rest become zeros.
fn round_digits(digits: &mut [u8], keep: usize) {
    let up = digits[keep] >= b'5';
    digits[keep..].fill(b'0');
    if up {
        for digit in digits[..keep].iter_mut().rev() {
            if *digit != b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
    }
}

/// `ecvt_r`: `digits` significant digits.
unsafe fn significant_digits(
    value: Float,
    digits: c_int,
    point: *mut c_int,
    sign: *mut c_int,
    into: *mut c_char,
    room: usize,
) -> c_int {
    let (negative, zero, finite) = value.parts();
    if !finite && digits <= 0 {
        // SAFETY: places of the program's; it claims `room` bytes.
        unsafe {
            (*point, *sign) = (1, 0);
            if room > 0 {
                *into = 0;
            }
        }
        return 0;
    }
    if !finite {
        // SAFETY: forwarded.
        return unsafe { fixed_digits(value, digits.max(1) - 1, point, sign, into, room) };
    }
    let count = digits.min(value.digits());
    // Without digits there is no rounding that could move the point.
    let places = if count > 0 { count - 1 } else { value.digits() - 1 };
    let mut printed = [0u8; 64];
    let len = text(value.magnitude(), b'e', Some(places as usize), printed.as_mut_ptr(), 64);
    let printed = &printed[..len];
    let end = printed.iter().position(|byte| *byte == b'e').unwrap_or(len);
    let mut exponent = 0;
    for digit in printed[end..].iter().filter(|byte| byte.is_ascii_digit()) {
        exponent = exponent * 10 + c_int::from(digit - b'0');
    }
    if printed.get(end + 1) == Some(&b'-') {
        exponent = -exponent;
    }
    let wanted = printed[..end].iter().filter(|byte| byte.is_ascii_digit()).take(count.max(0) as usize);
    if count.max(0) as usize >= room {
        return -1;
    }
    // SAFETY: the digits and the NUL fit; the other places are the program's.
    unsafe {
        let mut at = into;
        for digit in wanted {
            *at = *digit as c_char;
            at = at.add(1);
        }
        *at = 0;
        *sign = c_int::from(negative);
        *point = if zero { 1 } else { exponent + 1 };
    }
    0
}

type Conversion = unsafe fn(Float, c_int, *mut c_int, *mut c_int, *mut c_char, usize) -> c_int;

unsafe fn checked(
    conversion: Conversion,
    value: Float,
    digits: c_int,
    point: *mut c_int,
    sign: *mut c_int,
    into: *mut c_char,
    room: usize,
) -> c_int {
    if into.is_null() {
        errno::set(Errno::EINVAL);
        return -1;
    }
    // SAFETY: forwarded.
    unsafe { conversion(value, digits, point, sign, into, room) }
}

unsafe fn general(value: Float, digits: c_int, into: *mut c_char) -> *mut c_char {
    let precision = usize::try_from(digits.min(value.digits())).ok();
    let len = text(value, b'g', precision, into.cast(), 64);
    // SAFETY: the program's buffer is large enough for the text and a NUL (gcvt(3)).
    unsafe { *into.add(len) = 0 };
    into
}

/// strfrom*: `%`, optionally a precision, one conversion; anything else is undefined, glibc aborts.
unsafe fn from_format(into: *mut c_char, room: usize, format: *const c_char, value: Float) -> c_int {
    // SAFETY: a C string.
    let format = unsafe { core::ffi::CStr::from_ptr(format) }.to_bytes();
    let Some((b'%', rest)) = format.split_first().map(|(first, rest)| (*first, rest)) else {
        super::fortify::chk_fail()
    };
    let (mut precision, mut rest) = (None, rest);
    if rest.first() == Some(&b'.') {
        let digits = rest[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = rest[1..=digits].iter().fold(0usize, |sum, byte| sum * 10 + usize::from(byte - b'0'));
        precision = Some(number);
        rest = &rest[digits + 1..];
    }
    let [conversion @ (b'a' | b'A' | b'e' | b'E' | b'f' | b'F' | b'g' | b'G')] = rest else {
        super::fortify::chk_fail()
    };
    let len = text(value, *conversion, precision, into.cast(), room.saturating_sub(1));
    if room > 0 {
        // SAFETY: `room` bytes are the program's.
        unsafe { *into.add(len.min(room - 1)) = 0 };
    }
    len as c_int
}

abi! { EXPORTS "libc.so.6":
    /// fcvt_r(3).
    "GLIBC_2.2.5" fn fcvt_r(
        value: c_double, digits: c_int, point: *mut c_int, sign: *mut c_int, into: *mut c_char, room: usize,
    ) -> c_int {
        // SAFETY: places of the program's; so in this whole table.
        unsafe { checked(fixed_digits, Float::Double(value), digits, point, sign, into, room) }
    }
    /// ecvt_r(3).
    "GLIBC_2.2.5" fn ecvt_r(
        value: c_double, digits: c_int, point: *mut c_int, sign: *mut c_int, into: *mut c_char, room: usize,
    ) -> c_int {
        // SAFETY: as above.
        unsafe { checked(significant_digits, Float::Double(value), digits, point, sign, into, room) }
    }
    /// fcvt(3).
    "GLIBC_2.2.5" fn fcvt(value: c_double, digits: c_int, point: *mut c_int, sign: *mut c_int) -> *mut c_char {
        let (into, room) = FCVT.get();
        // SAFETY: as above.
        let failed = unsafe { fixed_digits(Float::Double(value), digits, point, sign, into, room) } != 0;
        if failed { null_mut() } else { into }
    }
    /// ecvt(3).
    "GLIBC_2.2.5" fn ecvt(value: c_double, digits: c_int, point: *mut c_int, sign: *mut c_int) -> *mut c_char {
        let (into, room) = ECVT.get();
        // SAFETY: as above.
        let failed = unsafe { significant_digits(Float::Double(value), digits, point, sign, into, room) } != 0;
        if failed { null_mut() } else { into }
    }
    /// gcvt(3).
    "GLIBC_2.2.5" fn gcvt(value: c_double, digits: c_int, into: *mut c_char) -> *mut c_char {
        // SAFETY: as above.
        unsafe { general(Float::Double(value), digits, into) }
    }
    /// strfromd(3).
    "GLIBC_2.25" fn strfromd(into: *mut c_char, room: usize, format: *const c_char, value: c_double) -> c_int {
        // SAFETY: as above.
        unsafe { from_format(into, room, format, Float::Double(value)) }
    }
    /// strfromf(3).
    "GLIBC_2.25" fn strfromf(into: *mut c_char, room: usize, format: *const c_char, value: c_float) -> c_int {
        // SAFETY: as above.
        unsafe { from_format(into, room, format, Float::Double(f64::from(value))) }
    }
}

// A `long double` argument lies on the stack, above the return address (class MEMORY, psABI 3.2.3):
// the shells below pass its address as one more argument.

unsafe extern "C" fn qfcvt_at(
    digits: c_int,
    point: *mut c_int,
    sign: *mut c_int,
    value: *const LongDouble,
) -> *mut c_char {
    let (into, room) = QFCVT.get();
    // SAFETY: the shell's address of the argument; places of the program's. So in all of these.
    let failed = unsafe { fixed_digits(Float::Long(*value), digits, point, sign, into, room) } != 0;
    if failed { null_mut() } else { into }
}
unsafe extern "C" fn qecvt_at(
    digits: c_int,
    point: *mut c_int,
    sign: *mut c_int,
    value: *const LongDouble,
) -> *mut c_char {
    let (into, room) = QECVT.get();
    // SAFETY: as above.
    let failed = unsafe { significant_digits(Float::Long(*value), digits, point, sign, into, room) } != 0;
    if failed { null_mut() } else { into }
}
unsafe extern "C" fn qfcvt_r_at(
    digits: c_int,
    point: *mut c_int,
    sign: *mut c_int,
    into: *mut c_char,
    room: usize,
    value: *const LongDouble,
) -> c_int {
    // SAFETY: as above.
    unsafe { checked(fixed_digits, Float::Long(*value), digits, point, sign, into, room) }
}
unsafe extern "C" fn qecvt_r_at(
    digits: c_int,
    point: *mut c_int,
    sign: *mut c_int,
    into: *mut c_char,
    room: usize,
    value: *const LongDouble,
) -> c_int {
    // SAFETY: as above.
    unsafe { checked(significant_digits, Float::Long(*value), digits, point, sign, into, room) }
}
unsafe extern "C" fn qgcvt_at(digits: c_int, into: *mut c_char, value: *const LongDouble) -> *mut c_char {
    // SAFETY: as above.
    unsafe { general(Float::Long(*value), digits, into) }
}
unsafe extern "C" fn strfroml_at(
    into: *mut c_char,
    room: usize,
    format: *const c_char,
    value: *const LongDouble,
) -> c_int {
    // SAFETY: as above.
    unsafe { from_format(into, room, format, Float::Long(*value)) }
}

macro_rules! takes_long_double {
    ($($(#[$meta:meta])* fn $name:ident ($register:literal) = $target:ident;)*) => {$(
        $(#[$meta])*
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                concat!("lea ", $register, ", [rsp + 8]"),
                "jmp {target}",
                target = sym $target,
            )
        }
    )*};
}

takes_long_double! {
    /// qfcvt(3).
    fn qfcvt("rcx") = qfcvt_at;
    /// qecvt(3).
    fn qecvt("rcx") = qecvt_at;
    /// qfcvt_r(3).
    fn qfcvt_r("r9") = qfcvt_r_at;
    /// qecvt_r(3).
    fn qecvt_r("r9") = qecvt_r_at;
    /// qgcvt(3).
    fn qgcvt("rdx") = qgcvt_at;
    /// strfroml(3).
    fn strfroml("rcx") = strfroml_at;
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "qfcvt" = qfcvt;
    alias "GLIBC_2.2.5" "qecvt" = qecvt;
    alias "GLIBC_2.2.5" "qfcvt_r" = qfcvt_r;
    alias "GLIBC_2.2.5" "qecvt_r" = qecvt_r;
    alias "GLIBC_2.2.5" "qgcvt" = qgcvt;
    alias "GLIBC_2.25" "strfroml" = strfroml;
    alias "GLIBC_2.27" "strfromf32" = strfromf;
    alias "GLIBC_2.27" "strfromf32x" = strfromd;
    alias "GLIBC_2.27" "strfromf64" = strfromd;
    alias "GLIBC_2.27" "strfromf64x" = strfroml;
}
