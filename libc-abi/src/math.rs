//! `libm.so.6`, double and float: the `libm` crate's functions with C's names, versions and errno.
//!
//! Results differ from glibc's by at most a unit in the last place or two; a test measures it. As in
//! glibc (math_error(7)): a NaN out of numbers is EDOM, an infinity out of finite numbers ERANGE, and
//! so is a result that underflows to 0 where the function can. `long double` forms are in
//! [`crate::math_long`], complex ones in [`crate::complex`], the environment in [`crate::fenv`].

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::data::DataCell;
use crate::errno;
use crate::math_long::X;
use crate::types::*;
use core::arch::x86_64::*;
use platform::Errno;

/// `signgam`: the sign of the gamma function at lgamma(3)'s last argument.
pub static SIGNGAM: DataCell<c_int> = DataCell::new(0);

fn edom() {
    errno::set(Errno(33));
}
fn erange() {
    errno::set(Errno(34));
}

/// Sets errno by the result of a function of finite or infinite arguments.
macro_rules! checked {
    ($result:expr, $finite:expr, $nan:expr) => {{
        let result = $result;
        if result.is_nan() {
            if !$nan {
                edom();
            }
        } else if result.is_infinite() && $finite {
            erange();
        }
        result
    }};
}

macro_rules! one {
    ($($version:literal $name:ident $float:ty;)*) => {
        abi! { ONE "libm.so.6": $(
            /// The C function of this name.
            $version fn $name(x: $float) -> $float {
                checked!(libm::$name(x), x.is_finite(), x.is_nan())
            }
        )* }
    };
}

one! {
    "GLIBC_2.2.5" acos f64; "GLIBC_2.2.5" acosf f32;
    "GLIBC_2.2.5" asin f64; "GLIBC_2.2.5" asinf f32; "GLIBC_2.2.5" asinh f64; "GLIBC_2.2.5" asinhf f32;
    "GLIBC_2.2.5" atan f64; "GLIBC_2.2.5" atanf f32; "GLIBC_2.2.5" atanh f64; "GLIBC_2.2.5" atanhf f32;
    "GLIBC_2.2.5" cbrt f64; "GLIBC_2.2.5" cbrtf f32; "GLIBC_2.2.5" cos f64; "GLIBC_2.2.5" cosf f32;
    "GLIBC_2.2.5" cosh f64; "GLIBC_2.2.5" coshf f32; "GLIBC_2.2.5" erf f64; "GLIBC_2.2.5" erff f32;
    "GLIBC_2.2.5" expm1 f64; "GLIBC_2.2.5" expm1f f32;
    "GLIBC_2.2.5" log10f f32; "GLIBC_2.2.5" log1p f64; "GLIBC_2.2.5" log1pf f32;
    "GLIBC_2.27" logf f32; "GLIBC_2.27" log2f f32;
    "GLIBC_2.2.5" sin f64; "GLIBC_2.2.5" sinf f32; "GLIBC_2.2.5" sinh f64; "GLIBC_2.2.5" sinhf f32;
    "GLIBC_2.2.5" tan f64; "GLIBC_2.2.5" tanf f32; "GLIBC_2.2.5" tanh f64; "GLIBC_2.2.5" tanhf f32;
    "GLIBC_2.2.5" tgamma f64; "GLIBC_2.2.5" tgammaf f32;
    "GLIBC_2.2.5" j0 f64; "GLIBC_2.2.5" j1 f64; "GLIBC_2.2.5" y0 f64; "GLIBC_2.2.5" y1 f64;
    "GLIBC_2.2.5" j0f f32; "GLIBC_2.2.5" j1f f32; "GLIBC_2.2.5" y0f f32; "GLIBC_2.2.5" y1f f32;
}

macro_rules! exponential {
    ($($version:literal $name:ident $float:ty;)*) => {
        abi! { EXPONENTIAL "libm.so.6": $(
            /// The C function of this name.
            $version fn $name(x: $float) -> $float {
                let result = checked!(libm::$name(x), x.is_finite(), x.is_nan());
                if result == 0.0 && x.is_finite() {
                    erange();
                }
                result
            }
        )* }
    };
}

exponential! {
    "GLIBC_2.27" expf f32; "GLIBC_2.27" exp2f f32;
    "GLIBC_2.2.5" exp10 f64; "GLIBC_2.32" exp10f f32; "GLIBC_2.2.5" erfc f64; "GLIBC_2.2.5" erfcf f32;
}

macro_rules! exact {
    ($($name:ident ($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        abi! { EXACT "libm.so.6": $(
            /// The C function of this name; it has no errors.
            "GLIBC_2.2.5" fn $name($($arg: $ty),*) -> $ret { libm::$name($($arg),*) }
        )* }
    };
}

exact! {
    ceil(x: f64) -> f64; ceilf(x: f32) -> f32; floor(x: f64) -> f64; floorf(x: f32) -> f32;
    trunc(x: f64) -> f64; truncf(x: f32) -> f32; round(x: f64) -> f64; roundf(x: f32) -> f32;
    fabs(x: f64) -> f64; fabsf(x: f32) -> f32; copysign(x: f64, y: f64) -> f64; copysignf(x: f32, y: f32) -> f32;
    fmax(x: f64, y: f64) -> f64; fmaxf(x: f32, y: f32) -> f32; fmin(x: f64, y: f64) -> f64;
    fminf(x: f32, y: f32) -> f32; fma(x: f64, y: f64, z: f64) -> f64; fmaf(x: f32, y: f32, z: f32) -> f32;
}

macro_rules! two {
    ($($version:literal $name:ident $float:ty;)*) => {
        abi! { TWO "libm.so.6": $(
            /// The C function of this name.
            $version fn $name(x: $float, y: $float) -> $float {
                checked!(libm::$name(x, y), x.is_finite() && y.is_finite(), x.is_nan() || y.is_nan())
            }
        )* }
    };
}

two! {
    "GLIBC_2.2.5" atan2 f64; "GLIBC_2.2.5" atan2f f32; "GLIBC_2.2.5" fdim f64; "GLIBC_2.2.5" fdimf f32;
    "GLIBC_2.2.5" fmod f64; "GLIBC_2.2.5" fmodf f32; "GLIBC_2.35" hypot f64; "GLIBC_2.35" hypotf f32;
    "GLIBC_2.2.5" remainder f64; "GLIBC_2.2.5" remainderf f32;
    "GLIBC_2.2.5" nextafter f64; "GLIBC_2.2.5" nextafterf f32;
}

/// Rounding by the thread's mode in MXCSR: SSE2 converts by it what fits an integer.
#[inline(always)]
fn nearest(x: f64) -> f64 {
    const WHOLE: f64 = (1u64 << 52) as f64;
    if x.is_nan() || x.abs() >= WHOLE {
        // Quiets a signalling NaN.
        return if x.is_nan() { x + x } else { x };
    }
    // SAFETY: SSE2 is part of x86-64.
    let integer = unsafe { _mm_cvtsd_si64(_mm_set_sd(x)) };
    (integer as f64).copysign(x)
}

/// x87 and SSE convert what does not fit to the least integer.
fn to_long(x: f64) -> c_long {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_cvtsd_si64(_mm_set_sd(x)) }
}

/// As [`to_long`], of a value that is an integer already.
fn whole_to_long(x: f64) -> c_long {
    if x >= i64::MIN as f64 && x < -(i64::MIN as f64) { x as c_long } else { c_long::MIN }
}

fn underflow(result: f64, x: f64) -> f64 {
    if result == 0.0 && x.is_finite() {
        erange();
    }
    result
}

abi! { EXPORTS "libm.so.6":
    // These five by the x87: its 64 bits round to the double that glibc gives (exp(1) is M_E), where
    // the `libm` crate's are often the neighbour. Tables (as in glibc) would be faster.
    /// exp(3).
    "GLIBC_2.29" fn exp(x: f64) -> f64 {
        underflow(checked!(X::of(x).exp().to_f64(), x.is_finite(), x.is_nan()), x)
    }
    /// exp2(3).
    "GLIBC_2.29" fn exp2(x: f64) -> f64 {
        underflow(checked!(X::of(x).exp2().to_f64(), x.is_finite(), x.is_nan()), x)
    }
    /// log(3).
    "GLIBC_2.29" fn log(x: f64) -> f64 {
        checked!(X::LN_2.times_log2_of(X::of(x)).to_f64(), x.is_finite(), x.is_nan())
    }
    /// log2(3).
    "GLIBC_2.29" fn log2(x: f64) -> f64 {
        checked!(X::of(1.0).times_log2_of(X::of(x)).to_f64(), x.is_finite(), x.is_nan())
    }
    /// log10(3).
    "GLIBC_2.2.5" fn log10(x: f64) -> f64 {
        checked!(X::LG_2.times_log2_of(X::of(x)).to_f64(), x.is_finite(), x.is_nan())
    }
    /// pow(3).
    "GLIBC_2.29" fn pow(x: f64, y: f64) -> f64 {
        let finite = x.is_finite() && y.is_finite();
        let result = checked!(libm::pow(x, y), finite, x.is_nan() || y.is_nan());
        if result == 0.0 && finite && x != 0.0 {
            erange();
        }
        result
    }
    /// powf(3).
    "GLIBC_2.27" fn powf(x: f32, y: f32) -> f32 {
        let finite = x.is_finite() && y.is_finite();
        let result = checked!(libm::powf(x, y), finite, x.is_nan() || y.is_nan());
        if result == 0.0 && finite && x != 0.0 {
            erange();
        }
        result
    }
    /// acosh(3); the crate's answers numbers below -1 too.
    "GLIBC_2.2.5" fn acosh(x: f64) -> f64 {
        checked!(if x < 1.0 { f64::NAN } else { libm::acosh(x) }, false, x.is_nan())
    }
    /// acoshf(3).
    "GLIBC_2.2.5" fn acoshf(x: f32) -> f32 {
        checked!(if x < 1.0 { f32::NAN } else { libm::acoshf(x) }, false, x.is_nan())
    }
    /// sqrt(3): the processor's, which is correctly rounded in every mode.
    "GLIBC_2.2.5" fn sqrt(x: f64) -> f64 {
        if x < 0.0 {
            edom();
        }
        _mm_cvtsd_f64(_mm_sqrt_sd(_mm_set_sd(x), _mm_set_sd(x)))
    }
    /// sqrtf(3).
    "GLIBC_2.2.5" fn sqrtf(x: f32) -> f32 {
        if x < 0.0 {
            edom();
        }
        _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)))
    }
    /// rint(3).
    "GLIBC_2.2.5" fn rint(x: f64) -> f64 {
        nearest(x)
    }
    /// rintf(3).
    "GLIBC_2.2.5" fn rintf(x: f32) -> f32 {
        nearest(x as f64) as f32
    }
    /// roundeven(3).
    "GLIBC_2.25" fn roundeven(x: f64) -> f64 {
        libm::roundeven(x)
    }
    /// lrint(3).
    "GLIBC_2.2.5" fn lrint(x: f64) -> c_long {
        to_long(x)
    }
    /// lrintf(3).
    "GLIBC_2.2.5" fn lrintf(x: f32) -> c_long {
        to_long(x as f64)
    }
    /// lround(3).
    "GLIBC_2.2.5" fn lround(x: f64) -> c_long {
        whole_to_long(libm::round(x))
    }
    /// lroundf(3).
    "GLIBC_2.2.5" fn lroundf(x: f32) -> c_long {
        whole_to_long(libm::roundf(x) as f64)
    }
    /// ldexp(3).
    "GLIBC_2.2.5" fn ldexp(x: f64, n: c_int) -> f64 {
        let result = checked!(libm::scalbn(x, n), x.is_finite(), x.is_nan());
        if result == 0.0 && x != 0.0 {
            erange();
        }
        result
    }
    /// ldexpf(3).
    "GLIBC_2.2.5" fn ldexpf(x: f32, n: c_int) -> f32 {
        let result = checked!(libm::scalbnf(x, n), x.is_finite(), x.is_nan());
        if result == 0.0 && x != 0.0 {
            erange();
        }
        result
    }
    /// scalbln(3).
    "GLIBC_2.2.5" fn scalbln(x: f64, n: c_long) -> f64 {
        ldexp(x, n.clamp(-100000, 100000) as c_int)
    }
    /// frexp(3).
    "GLIBC_2.2.5" fn frexp(x: f64, exponent: *mut c_int) -> f64 {
        let (fraction, power) = if x.is_finite() { libm::frexp(x) } else { (x + x, 0) };
        *exponent = power;
        fraction
    }
    /// frexpf(3).
    "GLIBC_2.2.5" fn frexpf(x: f32, exponent: *mut c_int) -> f32 {
        let (fraction, power) = if x.is_finite() { libm::frexpf(x) } else { (x + x, 0) };
        *exponent = power;
        fraction
    }
    /// modf(3).
    "GLIBC_2.2.5" fn modf(x: f64, whole: *mut f64) -> f64 {
        let (fraction, integer) = if x.is_infinite() { (0f64.copysign(x), x) } else { libm::modf(x) };
        *whole = integer;
        fraction.copysign(x)
    }
    /// modff(3).
    "GLIBC_2.2.5" fn modff(x: f32, whole: *mut f32) -> f32 {
        let (fraction, integer) = if x.is_infinite() { (0f32.copysign(x), x) } else { libm::modff(x) };
        *whole = integer;
        fraction.copysign(x)
    }
    /// ilogb(3).
    "GLIBC_2.2.5" fn ilogb(x: f64) -> c_int {
        if x == 0.0 || !x.is_finite() {
            edom();
            return if x.is_infinite() { c_int::MAX } else { c_int::MIN };
        }
        libm::ilogb(x)
    }
    /// logb(3).
    "GLIBC_2.2.5" fn logb(x: f64) -> f64 {
        if x == 0.0 {
            erange();
            return f64::NEG_INFINITY;
        }
        if !x.is_finite() { x * x } else { libm::ilogb(x) as f64 }
    }
    /// remquo(3).
    "GLIBC_2.2.5" fn remquo(x: f64, y: f64, quotient: *mut c_int) -> f64 {
        let (rest, bits) = libm::remquo(x, y);
        // Sign and low three bits of the truncated quotient, one more if it was rounded up (glibc).
        let low = bits.abs() & 7;
        let up = rest != 0.0 && rest.is_sign_negative() != x.is_sign_negative();
        *quotient = bits.signum() * if low == 0 && up { 8 } else { low };
        checked!(rest, false, x.is_nan() || y.is_nan())
    }
    /// sincos(3).
    "GLIBC_2.2.5" fn sincos(x: f64, sine: *mut f64, cosine: *mut f64) {
        (*sine, *cosine) = libm::sincos(x);
        if x.is_infinite() {
            edom();
        }
    }
    /// sincosf(3).
    "GLIBC_2.2.5" fn sincosf(x: f32, sine: *mut f32, cosine: *mut f32) {
        (*sine, *cosine) = libm::sincosf(x);
        if x.is_infinite() {
            edom();
        }
    }
    /// jn(3).
    "GLIBC_2.2.5" fn jn(n: c_int, x: f64) -> f64 {
        libm::jn(n, x)
    }
    /// yn(3).
    "GLIBC_2.2.5" fn yn(n: c_int, x: f64) -> f64 {
        checked!(libm::yn(n, x), x.is_finite(), x.is_nan())
    }
    /// lgamma_r(3).
    "GLIBC_2.2.5" fn lgamma_r(x: f64, sign: *mut c_int) -> f64 {
        let (result, s) = libm::lgamma_r(x);
        *sign = if s < 0 { -1 } else { 1 };
        checked!(result, x.is_finite(), x.is_nan())
    }
    /// lgammaf_r(3).
    "GLIBC_2.2.5" fn lgammaf_r(x: f32, sign: *mut c_int) -> f32 {
        let (result, s) = libm::lgammaf_r(x);
        *sign = if s < 0 { -1 } else { 1 };
        checked!(result, x.is_finite(), x.is_nan())
    }
    /// lgamma(3): also sets `signgam`.
    "GLIBC_2.23" fn lgamma(x: f64) -> f64 {
        lgamma_r(x, SIGNGAM.get())
    }
    /// lgammaf(3).
    "GLIBC_2.23" fn lgammaf(x: f32) -> f32 {
        lgammaf_r(x, SIGNGAM.get())
    }
    /// nan(3).
    "GLIBC_2.2.5" fn nan(tag: *const c_char) -> f64 {
        let mut end = core::ptr::null_mut();
        let payload = crate::number::strtoul(tag, &mut end, 0);
        let payload = if *end == 0 { payload & ((1 << 51) - 1) } else { 0 };
        f64::from_bits(0x7ff8_0000_0000_0000 | payload)
    }
    /// nanf(3).
    "GLIBC_2.2.5" fn nanf(tag: *const c_char) -> f32 {
        let mut end = core::ptr::null_mut();
        let payload = crate::number::strtoul(tag, &mut end, 0);
        let payload = if *end == 0 { payload as u32 & ((1 << 22) - 1) } else { 0 };
        f32::from_bits(0x7fc0_0000 | payload)
    }
}

exports! { MORE "libm.so.6":
    alias "GLIBC_2.2.5" "nearbyint" = rint;
    alias "GLIBC_2.2.5" "nearbyintf" = rintf;
    alias "GLIBC_2.2.5" "llrint" = lrint;
    alias "GLIBC_2.2.5" "llrintf" = lrintf;
    alias "GLIBC_2.2.5" "llround" = lround;
    alias "GLIBC_2.2.5" "llroundf" = lroundf;
    alias "GLIBC_2.2.5" "scalbn" = ldexp;
    alias "GLIBC_2.2.5" "scalbnf" = ldexpf;
    alias "GLIBC_2.2.5" "drem" = remainder;
    alias "GLIBC_2.2.5" "gamma" = lgamma;
    compat "GLIBC_2.2.5" "exp" = exp;
    compat "GLIBC_2.2.5" "expf" = expf;
    compat "GLIBC_2.2.5" "exp2" = exp2;
    compat "GLIBC_2.2.5" "exp2f" = exp2f;
    compat "GLIBC_2.2.5" "log" = log;
    compat "GLIBC_2.2.5" "logf" = logf;
    compat "GLIBC_2.2.5" "log2" = log2;
    compat "GLIBC_2.2.5" "log2f" = log2f;
    compat "GLIBC_2.2.5" "pow" = pow;
    compat "GLIBC_2.2.5" "powf" = powf;
    compat "GLIBC_2.2.5" "hypot" = hypot;
    compat "GLIBC_2.2.5" "hypotf" = hypotf;
    compat "GLIBC_2.2.5" "lgamma" = lgamma;
    compat "GLIBC_2.2.5" "lgammaf" = lgammaf;
    cell "GLIBC_2.2.5" "signgam" 4 = SIGNGAM;
}

// libc.so.6 has these of libm too.
exports! { IN_LIBC "libc.so.6":
    alias "GLIBC_2.2.5" "copysign" = copysign;
    alias "GLIBC_2.2.5" "copysignf" = copysignf;
    alias "GLIBC_2.2.5" "frexp" = frexp;
    alias "GLIBC_2.2.5" "frexpf" = frexpf;
    alias "GLIBC_2.2.5" "ldexp" = ldexp;
    alias "GLIBC_2.2.5" "ldexpf" = ldexpf;
    alias "GLIBC_2.2.5" "modf" = modf;
    alias "GLIBC_2.2.5" "modff" = modff;
    alias "GLIBC_2.2.5" "scalbn" = ldexp;
    alias "GLIBC_2.2.5" "scalbnf" = ldexpf;
}
