//! `libm.so.6`, `long double`: x87 code. Arguments are on the stack, results in st(0) (psABI 3.2.3),
//! which Rust cannot say; so every function is naked.
//!
//! What the x87 does to full precision is exact here (`sqrtl`, rounding, `fmodl`) or within a unit in
//! the last place (`expl`, `logl`, `powl`, `sinl` for arguments below 2^63). Errors set flags, and
//! errno where a comment says so.

// Naked functions: the ABI is the argument.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::errno;
use crate::math::lgamma;
use crate::types::*;
use crate::va::LongDouble;
use core::arch::naked_asm;
use platform::Errno;

macro_rules! x87 {
    ($($name:ident: $($line:literal),*;)*) => {$(
        /// The C function of this name.
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            naked_asm!($($line,)* "ret")
        }
    )*};
}

x87! {
    sqrtl: "fld tbyte ptr [rsp+8]", "fsqrt";
    fabsl: "fld tbyte ptr [rsp+8]", "fabs";
    rintl: "fld tbyte ptr [rsp+8]", "frndint";
    // Rounding under another control word: bits 10 and 11 are the mode (0 nearest, 1 down, 2 up, 3 cut).
    floorl: "fnstcw [rsp-8]", "movzx eax, word ptr [rsp-8]", "and eax, 0xf3ff", "or eax, 0x400",
        "mov [rsp-16], ax", "fld tbyte ptr [rsp+8]", "fldcw [rsp-16]", "frndint", "fldcw [rsp-8]";
    ceill: "fnstcw [rsp-8]", "movzx eax, word ptr [rsp-8]", "and eax, 0xf3ff", "or eax, 0x800",
        "mov [rsp-16], ax", "fld tbyte ptr [rsp+8]", "fldcw [rsp-16]", "frndint", "fldcw [rsp-8]";
    truncl: "fnstcw [rsp-8]", "movzx eax, word ptr [rsp-8]", "or eax, 0xc00",
        "mov [rsp-16], ax", "fld tbyte ptr [rsp+8]", "fldcw [rsp-16]", "frndint", "fldcw [rsp-8]";
    fmodl: "fld tbyte ptr [rsp+24]", "fld tbyte ptr [rsp+8]",
        "2:", "fprem", "fnstsw ax", "test ah, 4", "jnz 2b", "fstp st(1)";
    remainderl: "fld tbyte ptr [rsp+24]", "fld tbyte ptr [rsp+8]",
        "2:", "fprem1", "fnstsw ax", "test ah, 4", "jnz 2b", "fstp st(1)";
    atan2l: "fld tbyte ptr [rsp+8]", "fld tbyte ptr [rsp+24]", "fpatan";
    atanl: "fld tbyte ptr [rsp+8]", "fld1", "fpatan";
    logl: "fldln2", "fld tbyte ptr [rsp+8]", "fyl2x";
    log2l: "fld1", "fld tbyte ptr [rsp+8]", "fyl2x";
    log10l: "fldlg2", "fld tbyte ptr [rsp+8]", "fyl2x";
    // |x| < 2^63: directly; beyond, the argument is first reduced by 2 pi (as the x87 knows it).
    sinl: "fld tbyte ptr [rsp+8]", "fsin", "fnstsw ax", "test ah, 4", "jz 3f",
        "fldpi", "fadd st(0), st(0)", "fxch st(1)",
        "2:", "fprem1", "fnstsw ax", "test ah, 4", "jnz 2b", "fstp st(1)", "fsin", "3:";
    cosl: "fld tbyte ptr [rsp+8]", "fcos", "fnstsw ax", "test ah, 4", "jz 3f",
        "fldpi", "fadd st(0), st(0)", "fxch st(1)",
        "2:", "fprem1", "fnstsw ax", "test ah, 4", "jnz 2b", "fstp st(1)", "fcos", "3:";
    tanl: "fld tbyte ptr [rsp+8]", "fptan", "fnstsw ax", "test ah, 4", "jz 3f",
        "fldpi", "fadd st(0), st(0)", "fxch st(1)",
        "2:", "fprem1", "fnstsw ax", "test ah, 4", "jnz 2b", "fstp st(1)", "fptan", "3:", "fstp st(0)";
    copysignl: "fld tbyte ptr [rsp+8]", "fabs", "test byte ptr [rsp+33], 0x80", "jz 2f", "fchs", "2:";
    lrintl: "fld tbyte ptr [rsp+8]", "fistp qword ptr [rsp-8]", "mov rax, [rsp-8]";
    // Half away from zero: cut |x| + 1/2, with the sign put back; exact because x87 adds with 64 bits
    // and values of 2^63 or more are whole.
    roundl: "fld tbyte ptr [rsp+8]", "fabs", "fld st(0)", "fnstcw [rsp-8]", "movzx eax, word ptr [rsp-8]",
        "or eax, 0xc00", "mov [rsp-16], ax", "fldcw [rsp-16]", "frndint",
        // st0 = cut, st1 = |x|; one more if |x| - cut >= 1/2.
        "fsub st(1), st(0)", "fld1", "fld1", "fadd st(0), st(0)", "fdivp st(1), st(0)",
        // st0 = 1/2, st1 = cut, st2 = rest
        "fucomip st(0), st(2)", "ja 2f", "jp 2f", "fld1", "faddp st(1), st(0)", "2:",
        "fstp st(1)", "fldcw [rsp-8]", "test byte ptr [rsp+17], 0x80", "jz 3f", "fchs", "3:";
    // Exponent into *rdi; zero, infinity and NaN have none.
    frexpl: "fld tbyte ptr [rsp+8]", "mov dword ptr [rdi], 0", "movzx eax, word ptr [rsp+16]",
        "and eax, 0x7fff", "cmp eax, 0x7fff", "je 2f", "ftst", "fnstsw ax", "and ah, 0x45",
        "cmp ah, 0x40", "je 2f", "fxtract", "fxch st(1)", "fistp dword ptr [rsp-8]",
        "mov eax, [rsp-8]", "add eax, 1", "mov [rdi], eax",
        "mov dword ptr [rsp-8], 2", "fidiv dword ptr [rsp-8]", "2:";
    ldexpl: "mov [rsp-8], edi", "fild dword ptr [rsp-8]", "fld tbyte ptr [rsp+8]", "fscale", "fstp st(1)";
}

/// Calls a Rust function with (the arguments in memory, room for the result), then loads the result.
macro_rules! by_memory {
    ($($name:ident = $target:path;)*) => {$(
        /// The C function of this name.
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            naked_asm!(
                "lea rdi, [rsp+8]", "sub rsp, 24", "mov rsi, rsp", "call {}", "fld tbyte ptr [rsp]",
                "add rsp, 24", "ret", sym $target,
            )
        }
    )*};
}

by_memory! {
    expl = exp_into;
    exp2l = exp2_into;
    powl = pow_into;
    sinhl = sinh_into;
    coshl = cosh_into;
    cbrtl = cbrt_into;
    lgammal = lgamma_into;
}

/// A `long double` value; arithmetic is the x87's.
#[derive(Clone, Copy)]
pub(crate) struct X(pub(crate) LongDouble);

macro_rules! binary {
    ($($name:ident: $($line:literal),*;)*) => { impl X { $(
        pub(crate) fn $name(self, other: X) -> X {
            let mut result = self;
            // SAFETY: loads two values, stores one: the x87 stack is left as it was.
            unsafe {
                core::arch::asm!("fld tbyte ptr [{1}]", "fld tbyte ptr [{0}]", $($line,)* "fstp tbyte ptr [{0}]",
                    in(reg) &mut result, in(reg) &other, out("ax") _,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _, out("st(4)") _,
                    out("st(5)") _, out("st(6)") _, out("st(7)") _, options(nostack));
            }
            result
        }
    )* } };
}

binary! {
    add: "faddp st(1), st(0)";
    // After the loads st(0) is self, st(1) the other.
    sub: "fsubrp st(1), st(0)";
    mul: "fmulp st(1), st(0)";
    div: "fdivrp st(1), st(0)";
    // other * log2(self)
    log2_times: "fyl2x";
    // self * 2^other, other whole
    scale: "fscale", "fstp st(1)";
    // 2^self - 1 for |self| <= 1; the other is ignored
    exp2_minus_1: "f2xm1", "fstp st(1)";
    whole: "frndint", "fstp st(1)";
    sine: "fsin", "fstp st(1)";
    cosine: "fcos", "fstp st(1)";
}

impl X {
    pub(crate) fn of(value: f64) -> X {
        X(LongDouble::from_f64(value))
    }
    /// Nearest double.
    pub(crate) fn to_f64(self) -> f64 {
        let mut value = 0f64;
        // SAFETY: one load, one store.
        unsafe {
            core::arch::asm!("fld tbyte ptr [{}]", "fstp qword ptr [{}]", in(reg) &self, in(reg) &mut value,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _, out("st(4)") _,
                out("st(5)") _, out("st(6)") _, out("st(7)") _, options(nostack));
        }
        value
    }
    pub(crate) fn is_nan(self) -> bool {
        self.0.exponent() == 0x7fff && self.0.mantissa << 1 != 0
    }
    pub(crate) fn is_infinite(self) -> bool {
        self.0.exponent() == 0x7fff && self.0.mantissa << 1 == 0
    }
    pub(crate) fn is_zero(self) -> bool {
        self.0.exponent() == 0 && self.0.mantissa == 0
    }
    pub(crate) fn negated(self) -> X {
        X(LongDouble { sign_exponent: self.0.sign_exponent ^ 0x8000, ..self.0 })
    }
    fn abs(self) -> X {
        X(LongDouble { sign_exponent: self.0.sign_exponent & 0x7fff, ..self.0 })
    }
    fn infinity(negative: bool) -> X {
        X(LongDouble { mantissa: 1 << 63, sign_exponent: 0x7fff | (negative as u16) << 15 })
    }
    /// ln 2
    pub(crate) const LN_2: X = X(LongDouble { mantissa: 0xb172_17f7_d1cf_79ac, sign_exponent: 16382 });
    /// lg 2 (base 10)
    pub(crate) const LG_2: X = X(LongDouble { mantissa: 0x9a20_9a84_fbcf_f799, sign_exponent: 16381 });

    /// self * log2(x)
    pub(crate) fn times_log2_of(self, x: X) -> X {
        x.log2_times(self)
    }
    /// 2^self.
    pub(crate) fn exp2(self) -> X {
        if self.is_nan() {
            return self;
        }
        let approximate = self.to_f64();
        if approximate > 16385.0 {
            return X::infinity(false);
        }
        if approximate < -16500.0 {
            return X::of(0.0);
        }
        let n = self.whole(self);
        let rest = self.sub(n);
        rest.exp2_minus_1(rest).add(X::of(1.0)).scale(n)
    }
    /// e^self: the argument is reduced by n ln 2 in two parts, so that no bits of it are lost.
    pub(crate) fn exp(self) -> X {
        if self.is_nan() || self.to_f64().abs() > 12000.0 {
            return if self.is_nan() {
                self
            } else if self.0.negative() {
                X::of(0.0)
            } else {
                X::infinity(false)
            };
        }
        const LN2_HIGH: X = X(LongDouble { mantissa: 0xb172_17f7_0000_0000, sign_exponent: 16382 });
        // ln 2 - LN2_HIGH = 0xd1cf79abc9e3b398 * 2^-96 (from the digits of ln 2 in base 16).
        const LN2_LOW: X = X(LongDouble { mantissa: 0xd1cf_79ab_c9e3_b398, sign_exponent: 16383 - 33 });
        const LOG2_E: X = X(LongDouble { mantissa: 0xb8aa_3b29_5c17_f0bc, sign_exponent: 16383 });
        let n = self.mul(LOG2_E);
        let n = n.whole(n);
        let rest = self.sub(n.mul(LN2_HIGH)).sub(n.mul(LN2_LOW)).mul(LOG2_E);
        rest.exp2_minus_1(rest).add(X::of(1.0)).scale(n)
    }
    fn round_half_away(self) -> Option<i64> {
        let power = self.0.exponent() as i32 - 16383;
        let magnitude = match power {
            ..-1 => 0,
            -1 => 1,
            0..63 => {
                let cut = 63 - power as u32;
                (self.0.mantissa >> cut) as i128 + (self.0.mantissa >> (cut - 1) & 1) as i128
            }
            63 => self.0.mantissa as i128,
            _ => return None,
        };
        i64::try_from(if self.0.negative() { -magnitude } else { magnitude }).ok()
    }
}

unsafe extern "C" fn exp_into(args: *const X, result: *mut X) {
    let x = *args;
    let value = x.exp();
    if !x.is_nan() && !x.is_infinite() && (value.is_infinite() || value.is_zero()) {
        errno::set(Errno(34));
    }
    *result = value;
}
unsafe extern "C" fn exp2_into(args: *const X, result: *mut X) {
    *result = (*args).exp2();
}
unsafe extern "C" fn pow_into(args: *const X, result: *mut X) {
    let (x, y) = (*args, *args.add(1));
    let (xd, yd) = (x.to_f64(), y.to_f64());
    let whole = y.whole(y);
    let is_whole = !y.is_nan() && y.sub(whole).is_zero();
    let odd = is_whole && whole.round_half_away().is_some_and(|n| n & 1 != 0);
    // C99 F.9.4.4: pow(x, 0) and pow(1, y) are 1; the special cases are those of double.
    if y.is_zero()
        || x.is_zero()
        || x.is_nan()
        || y.is_nan()
        || x.is_infinite()
        || y.is_infinite()
        || xd == 1.0 && x.sub(X::of(1.0)).is_zero()
    {
        let y = if odd { 1f64.copysign(yd) } else { yd };
        *result = X::of(libm::pow(
            xd,
            if is_whole && !odd && !y.is_infinite() && yd != 0.0 { 2f64.copysign(yd) } else { y },
        ));
        if x.is_zero() && yd < 0.0 {
            errno::set(Errno(34));
        }
        return;
    }
    if x.0.negative() && !is_whole {
        errno::set(Errno(33));
        *result = X(LongDouble { mantissa: 3 << 62, sign_exponent: 0xffff });
        return;
    }
    // Small whole powers by multiplication are exact where they can be.
    let value = match whole.round_half_away() {
        Some(n) if is_whole && n.unsigned_abs() <= 64 => {
            let (mut value, mut factor, mut n_left) = (X::of(1.0), x.abs(), n.unsigned_abs());
            while n_left > 0 {
                if n_left & 1 != 0 {
                    value = value.mul(factor);
                }
                factor = factor.mul(factor);
                n_left >>= 1;
            }
            if n < 0 { X::of(1.0).div(value) } else { value }
        }
        _ => x.abs().log2_times(y).exp2(),
    };
    if value.is_infinite() || value.is_zero() {
        errno::set(Errno(34));
    }
    *result = if x.0.negative() && odd { value.negated() } else { value };
}
unsafe extern "C" fn sinh_into(args: *const X, result: *mut X) {
    let x = *args;
    if x.to_f64().abs() < 0.25 {
        // The series: the difference of exponentials would cancel.
        let square = x.mul(x);
        let (mut term, mut sum) = (x, x);
        for n in 1..12 {
            term = term.mul(square).div(X::of((2 * n * (2 * n + 1)) as f64));
            sum = sum.add(term);
        }
        *result = if x.is_zero() { x } else { sum };
        return;
    }
    let (up, down) = (x.exp(), x.negated().exp());
    *result = up.sub(down).div(X::of(2.0));
    if (*result).is_infinite() && !x.is_infinite() {
        errno::set(Errno(34));
    }
}
unsafe extern "C" fn cosh_into(args: *const X, result: *mut X) {
    let x = *args;
    *result = x.exp().add(x.negated().exp()).div(X::of(2.0));
    if (*result).is_infinite() && !x.is_infinite() {
        errno::set(Errno(34));
    }
}
unsafe extern "C" fn cbrt_into(args: *const X, result: *mut X) {
    let x = *args;
    if x.is_zero() || x.is_nan() || x.is_infinite() {
        *result = x;
        return;
    }
    let third = X::of(1.0).div(X::of(3.0));
    let mut root = x.abs().log2_times(third).exp2();
    // One step of Newton's method brings the last bits.
    root = root.sub(root.sub(x.abs().div(root.mul(root))).mul(third));
    *result = if x.0.negative() { root.negated() } else { root };
}
/// Computed in double: 53 bits.
unsafe extern "C" fn lgamma_into(args: *const X, result: *mut X) {
    *result = X::of(lgamma((*args).to_f64()));
}

/// llroundl(3).
#[unsafe(naked)]
pub unsafe extern "C" fn llroundl() {
    naked_asm!("lea rdi, [rsp+8]", "jmp {}", sym llround_of)
}
unsafe extern "C" fn llround_of(x: *const X) -> c_long {
    (*x).round_half_away().unwrap_or(c_long::MIN)
}

/// sincosl(3): pointers in rdi and rsi.
#[unsafe(naked)]
pub unsafe extern "C" fn sincosl() {
    naked_asm!(
        "fld tbyte ptr [rsp+8]",
        "fsincos",
        "fnstsw ax",
        "test ah, 4",
        "jz 3f",
        "fldpi",
        "fadd st(0), st(0)",
        "fxch st(1)",
        "2:",
        "fprem1",
        "fnstsw ax",
        "test ah, 4",
        "jnz 2b",
        "fstp st(1)",
        "fsincos",
        "3:",
        "fstp tbyte ptr [rsi]",
        "fstp tbyte ptr [rdi]",
        "ret",
    )
}

/// nexttoward(3): the `long double` is on the stack.
#[unsafe(naked)]
pub unsafe extern "C" fn nexttoward() {
    naked_asm!("lea rdi, [rsp+8]", "jmp {}", sym nexttoward_of)
}
unsafe extern "C" fn nexttoward_of(y: *const X, x: f64) -> f64 {
    let y = *y;
    if x.is_nan() || y.is_nan() {
        return x + y.to_f64();
    }
    let difference = y.sub(X::of(x));
    if difference.is_zero() || y.is_infinite() && x.is_infinite() && y.to_f64() == x {
        return y.to_f64();
    }
    let result = libm::nextafter(x, if difference.0.negative() { f64::NEG_INFINITY } else { f64::INFINITY });
    if result.is_infinite() && x.is_finite() || result == 0.0 {
        errno::set(Errno(34));
    }
    result
}

exports! { EXPORTS "libm.so.6":
    alias "GLIBC_2.2.5" "sqrtl" = sqrtl;
    alias "GLIBC_2.2.5" "fabsl" = fabsl;
    alias "GLIBC_2.2.5" "rintl" = rintl;
    alias "GLIBC_2.2.5" "nearbyintl" = rintl;
    alias "GLIBC_2.2.5" "floorl" = floorl;
    alias "GLIBC_2.2.5" "ceill" = ceill;
    alias "GLIBC_2.2.5" "truncl" = truncl;
    alias "GLIBC_2.2.5" "roundl" = roundl;
    alias "GLIBC_2.2.5" "fmodl" = fmodl;
    alias "GLIBC_2.2.5" "remainderl" = remainderl;
    alias "GLIBC_2.2.5" "atan2l" = atan2l;
    alias "GLIBC_2.2.5" "atanl" = atanl;
    alias "GLIBC_2.2.5" "logl" = logl;
    alias "GLIBC_2.2.5" "log2l" = log2l;
    alias "GLIBC_2.2.5" "log10l" = log10l;
    alias "GLIBC_2.2.5" "sinl" = sinl;
    alias "GLIBC_2.2.5" "cosl" = cosl;
    alias "GLIBC_2.2.5" "sincosl" = sincosl;
    alias "GLIBC_2.2.5" "tanl" = tanl;
    alias "GLIBC_2.2.5" "copysignl" = copysignl;
    alias "GLIBC_2.2.5" "lrintl" = lrintl;
    alias "GLIBC_2.2.5" "llrintl" = lrintl;
    alias "GLIBC_2.2.5" "lroundl" = llroundl;
    alias "GLIBC_2.2.5" "llroundl" = llroundl;
    alias "GLIBC_2.2.5" "frexpl" = frexpl;
    alias "GLIBC_2.2.5" "ldexpl" = ldexpl;
    alias "GLIBC_2.2.5" "scalbnl" = ldexpl;
    alias "GLIBC_2.2.5" "expl" = expl;
    alias "GLIBC_2.2.5" "exp2l" = exp2l;
    alias "GLIBC_2.2.5" "powl" = powl;
    alias "GLIBC_2.2.5" "sinhl" = sinhl;
    alias "GLIBC_2.2.5" "coshl" = coshl;
    alias "GLIBC_2.2.5" "cbrtl" = cbrtl;
    alias "GLIBC_2.23" "lgammal" = lgammal;
    alias "GLIBC_2.2.5" "nexttoward" = nexttoward;
}

exports! { IN_LIBC "libc.so.6":
    alias "GLIBC_2.2.5" "frexpl" = frexpl;
    alias "GLIBC_2.2.5" "ldexpl" = ldexpl;
    alias "GLIBC_2.2.5" "copysignl" = copysignl;
    alias "GLIBC_2.2.5" "scalbnl" = ldexpl;
}
