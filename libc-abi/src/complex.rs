//! <complex.h>: the complex functions that programs import, out of the real ones.
//!
//! A `double complex` travels as two doubles in xmm0 and xmm1, a `float complex` as two floats in xmm0
//! (psABI 3.2.3): structures of two have the same classes. A `long double complex` comes in memory and
//! returns in st(0), st(1).

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::math_long::X;
use core::arch::naked_asm;

/// `double complex`
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Complex {
    re: f64,
    im: f64,
}

/// `float complex`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ComplexF {
    re: f32,
    im: f32,
}

fn exp(z: Complex) -> Complex {
    let size = libm::exp(z.re);
    if z.im == 0.0 {
        return Complex { re: size, im: z.im };
    }
    let (sine, cosine) = libm::sincos(z.im);
    if size.is_infinite() && z.re.is_finite() {
        // The factor overflows, the product may not.
        let half = libm::exp(z.re / 2.0);
        return Complex { re: half * cosine * half, im: half * sine * half };
    }
    if z.re == f64::NEG_INFINITY && !z.im.is_finite() {
        return Complex { re: 0.0, im: 0.0 };
    }
    if z.re == f64::INFINITY && !z.im.is_finite() {
        return Complex { re: f64::INFINITY, im: f64::NAN };
    }
    Complex { re: size * cosine, im: size * sine }
}

fn log(z: Complex) -> Complex {
    Complex { re: libm::log(libm::hypot(z.re, z.im)), im: libm::atan2(z.im, z.re) }
}

fn sin(z: Complex) -> Complex {
    let (sine, cosine) = libm::sincos(z.re);
    if z.im == 0.0 {
        return Complex { re: sine, im: z.im * cosine };
    }
    if z.re == 0.0 {
        return Complex { re: z.re, im: libm::sinh(z.im) };
    }
    Complex { re: sine * libm::cosh(z.im), im: cosine * libm::sinh(z.im) }
}

fn cos(z: Complex) -> Complex {
    let (sine, cosine) = libm::sincos(z.re);
    if z.im == 0.0 {
        return Complex { re: cosine, im: -z.im * sine };
    }
    if z.re == 0.0 {
        return Complex { re: libm::cosh(z.im), im: -z.re.copysign(z.re * z.im) };
    }
    Complex { re: cosine * libm::cosh(z.im), im: -sine * libm::sinh(z.im) }
}

fn mul(a: Complex, b: Complex) -> Complex {
    Complex { re: a.re * b.re - a.im * b.im, im: a.re * b.im + a.im * b.re }
}

fn single(f: fn(Complex) -> Complex, z: ComplexF) -> ComplexF {
    let wide = f(Complex { re: z.re as f64, im: z.im as f64 });
    ComplexF { re: wide.re as f32, im: wide.im as f32 }
}

abi! { EXPORTS "libm.so.6":
    /// cexp(3).
    "GLIBC_2.2.5" fn cexp(z: Complex) -> Complex {
        exp(z)
    }
    /// clog(3).
    "GLIBC_2.2.5" fn clog(z: Complex) -> Complex {
        log(z)
    }
    /// csin(3).
    "GLIBC_2.2.5" fn csin(z: Complex) -> Complex {
        sin(z)
    }
    /// ccos(3).
    "GLIBC_2.2.5" fn ccos(z: Complex) -> Complex {
        cos(z)
    }
    /// cpow(3): exp(b log a).
    "GLIBC_2.2.5" fn cpow(a: Complex, b: Complex) -> Complex {
        exp(mul(b, log(a)))
    }
    /// csinf(3).
    "GLIBC_2.2.5" fn csinf(z: ComplexF) -> ComplexF {
        single(sin, z)
    }
    /// ccosf(3).
    "GLIBC_2.2.5" fn ccosf(z: ComplexF) -> ComplexF {
        single(cos, z)
    }
    /// cexpf(3).
    "GLIBC_2.2.5" fn cexpf(z: ComplexF) -> ComplexF {
        single(exp, z)
    }
}

unsafe extern "C" fn sin_into(z: *const X, result: *mut X) {
    let (re, im) = (*z, *z.add(1));
    let (up, down) = (im.exp(), im.negated().exp());
    let half = X::of(0.5);
    *result = re.sine(re).mul(up.add(down).mul(half));
    *result.add(1) = re.cosine(re).mul(up.sub(down).mul(half));
}

unsafe extern "C" fn cos_into(z: *const X, result: *mut X) {
    let (re, im) = (*z, *z.add(1));
    let (up, down) = (im.exp(), im.negated().exp());
    let half = X::of(0.5);
    *result = re.cosine(re).mul(up.add(down).mul(half));
    *result.add(1) = re.sine(re).mul(down.sub(up).mul(half));
}

macro_rules! long {
    ($($name:ident = $target:path;)*) => {$(
        /// The C function of this name.
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            naked_asm!(
                "lea rdi, [rsp+8]", "sub rsp, 40", "mov rsi, rsp", "call {}", "fld tbyte ptr [rsp+16]",
                "fld tbyte ptr [rsp]", "add rsp, 40", "ret", sym $target,
            )
        }
    )*};
}

long! {
    csinl = sin_into;
    ccosl = cos_into;
}

exports! { LONG "libm.so.6":
    alias "GLIBC_2.2.5" "csinl" = csinl;
    alias "GLIBC_2.2.5" "ccosl" = ccosl;
}
