//! How far our libm is from the host's glibc, function by function.

use crate::types::*;
use std::vec::Vec;

/// Units in the last place between two doubles; 0 for two NaNs.
fn ulps(a: f64, b: f64) -> u64 {
    if a.is_nan() && b.is_nan() || a == b {
        return 0;
    }
    let line = |x: f64| {
        let bits = x.to_bits() as i64;
        if bits < 0 { i64::MIN.wrapping_sub(bits) } else { bits }
    };
    line(a).abs_diff(line(b))
}

fn ulps_single(a: f32, b: f32) -> u64 {
    if a.is_nan() && b.is_nan() || a == b {
        return 0;
    }
    let line = |x: f32| {
        let bits = x.to_bits() as i32;
        if bits < 0 { i32::MIN.wrapping_sub(bits) } else { bits }
    };
    line(a).abs_diff(line(b)) as u64
}

/// Arguments of all sizes, and the strange ones.
fn arguments() -> Vec<f64> {
    let mut all =
        std::vec![0.0, -0.0, 1.0, -1.0, 0.5, 2.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MAX];
    all.extend([
        f64::MIN_POSITIVE,
        5e-324,
        1e-300,
        709.0,
        710.0,
        -745.0,
        -746.0,
        1e22,
        0.1,
        3.5,
        2.5,
        -2.5,
        170.5,
    ]);
    let mut state = 88172645463325252u64;
    for i in 0..6000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let unit = (state >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0;
        all.push(match i % 5 {
            0 => unit,
            1 => unit * 20.0,
            2 => unit * 700.0,
            3 => unit * 1e6,
            _ => f64::from_bits(state),
        });
    }
    all
}

macro_rules! compare {
    ($($bound:literal: $($name:ident)*;)*) => {{
        mod host { unsafe extern "C" { $($(pub(super) fn $name(x: f64) -> f64;)*)* } }
        $($({
            let mut worst = (0, 0.0, 0.0, 0.0);
            for &x in &arguments() {
                // SAFETY: pure functions.
                let (got, want) = unsafe { (crate::math::$name(x), host::$name(x)) };
                let far = ulps(got, want);
                if far > worst.0 { worst = (far, x, got, want); }
            }
            std::println!("{:12} {worst:?}", stringify!($name));
            assert!(worst.0 <= $bound, "{} {worst:?}", stringify!($name));
        })*)*
    }};
}

macro_rules! compare_single {
    ($($bound:literal: $($name:ident)*;)*) => {{
        mod host { unsafe extern "C" { $($(pub(super) fn $name(x: f32) -> f32;)*)* } }
        $($({
            let mut worst = (0, 0.0, 0.0, 0.0);
            for &x in &arguments() {
                let x = x as f32;
                // SAFETY: pure functions.
                let (got, want) = unsafe { (crate::math::$name(x), host::$name(x)) };
                let far = ulps_single(got, want);
                if far > worst.0 { worst = (far, x, got, want); }
            }
            std::println!("{:12} {worst:?}", stringify!($name));
            assert!(worst.0 <= $bound, "{} {worst:?}", stringify!($name));
        })*)*
    }};
}

#[test]
fn double_and_float() {
    compare! {
        0: sqrt ceil floor trunc round rint fabs;
        1: exp log log2 exp2; 2: log10; 1: sin cos atan asin acos cbrt expm1;
        2: tan sinh cosh tanh asinh acosh atanh log1p erf;
        4: erfc;
    }
    compare_single! {
        0: sqrtf ceilf floorf truncf roundf rintf;
        1: expf logf log2f sinf cosf tanf exp2f;
        2: atanf asinf acosf cbrtf sinhf coshf tanhf log10f;
    }
}

#[test]
fn of_two_arguments() {
    mod host {
        unsafe extern "C" {
            pub(super) fn pow(x: f64, y: f64) -> f64;
            pub(super) fn atan2(x: f64, y: f64) -> f64;
            pub(super) fn fmod(x: f64, y: f64) -> f64;
            pub(super) fn hypot(x: f64, y: f64) -> f64;
            pub(super) fn remainder(x: f64, y: f64) -> f64;
            pub(super) fn remquo(x: f64, y: f64, q: *mut i32) -> f64;
            pub(super) fn lgamma_r(x: f64, sign: *mut i32) -> f64;
            pub(super) fn ldexp(x: f64, n: i32) -> f64;
            pub(super) fn frexp(x: f64, n: *mut i32) -> f64;
            pub(super) fn modf(x: f64, w: *mut f64) -> f64;
            pub(super) fn lrint(x: f64) -> i64;
            pub(super) fn lround(x: f64) -> i64;
        }
    }
    let all = arguments();
    let mut worst = [0; 6];
    for (i, &x) in all.iter().enumerate() {
        let y = all[(i * 7919 + 13) % all.len()];
        // SAFETY: pure functions with places for their results.
        unsafe {
            for (at, (got, want)) in [
                (crate::math::pow(x, y), host::pow(x, y)),
                (crate::math::pow(x.abs(), y / 50.0), host::pow(x.abs(), y / 50.0)),
                (crate::math::atan2(x, y), host::atan2(x, y)),
                (crate::math::hypot(x, y), host::hypot(x, y)),
                (crate::math::fmod(x, y), host::fmod(x, y)),
                (crate::math::remainder(x, y), host::remainder(x, y)),
            ]
            .into_iter()
            .enumerate()
            {
                worst[at] = worst[at].max(ulps(got, want));
            }
            let (mut p, mut q) = (0, 0);
            assert_eq!(
                ulps(crate::math::remquo(x, y, &mut p), host::remquo(x, y, &mut q)),
                0,
                "remquo {x} {y}"
            );
            if y != 0.0 && x.is_finite() && y.is_finite() {
                assert_eq!(p, q, "remquo {x} {y}");
            }
            assert_eq!(crate::math::lrint(x), host::lrint(x), "lrint {x}");
            assert_eq!(crate::math::lround(x), host::lround(x), "lround {x}");
            let n = (y as i32) % 3000;
            assert_eq!(ulps(crate::math::ldexp(x, n), host::ldexp(x, n)), 0, "ldexp {x} {n}");
            assert_eq!(ulps(crate::math::frexp(x, &mut p), host::frexp(x, &mut q)), 0, "frexp {x}");
            assert_eq!(p, q, "frexp {x}");
            let (mut v, mut w) = (0.0, 0.0);
            let (a, b) = (crate::math::modf(x, &mut v), host::modf(x, &mut w));
            assert_eq!((ulps(a, b), ulps(v, w)), (0, 0), "modf {x}");
            let (a, b) = (crate::math::lgamma_r(x, &mut p), host::lgamma_r(x, &mut q));
            if x > 0.0 {
                assert!(ulps(a, b) <= 8 || (a - b).abs() < 1e-14, "lgamma {x} {a} {b}");
                assert_eq!(p, q);
            }
        }
    }
    std::println!("pow, pow, atan2, hypot, fmod, remainder: {worst:?} ulps");
    assert!(
        worst[0] <= 1 && worst[1] <= 1 && worst[2] <= 2 && worst[3] <= 1 && worst[4..] == [0, 0],
        "{worst:?}"
    );
}

/// Calls a function of `long double`s, which Rust has no type for.
macro_rules! long {
    ($function:expr, $x:expr) => {{
        let (x, mut result): (LongDouble, LongDouble) = ($x, LongDouble::default());
        // SAFETY: the argument is on the stack where the psABI has it, the result comes in st(0).
        unsafe {
            core::arch::asm!(
                "push rbp", "mov rbp, rsp", "and rsp, -16", "sub rsp, 16", "fld tbyte ptr [r13]", "fstp tbyte ptr [rsp]",
                "call rax", "mov rsp, rbp", "pop rbp", "fstp tbyte ptr [r12]",
                in("r13") &x, in("r12") &mut result, in("rax") $function as *const (),
                clobber_abi("C")
            );
        }
        result
    }};
}

use crate::va::LongDouble;

#[test]
fn long_double() {
    mod host {
        unsafe extern "C" {
            pub(super) fn sqrtl();
            pub(super) fn floorl();
            pub(super) fn ceill();
            pub(super) fn truncl();
            pub(super) fn roundl();
            pub(super) fn expl();
            pub(super) fn logl();
            pub(super) fn sinl();
            pub(super) fn cosl();
            pub(super) fn cbrtl();
            pub(super) fn sinhl();
            pub(super) fn fabsl();
            pub(super) fn rintl();
        }
    }
    type Row = (&'static str, unsafe extern "C" fn(), unsafe extern "C" fn(), u64);
    use crate::math_long as own;
    let rows: [Row; 13] = [
        ("sqrtl", own::sqrtl, host::sqrtl, 0),
        ("floorl", own::floorl, host::floorl, 0),
        ("ceill", own::ceill, host::ceill, 0),
        ("truncl", own::truncl, host::truncl, 0),
        ("roundl", own::roundl, host::roundl, 0),
        ("fabsl", own::fabsl, host::fabsl, 0),
        ("rintl", own::rintl, host::rintl, 0),
        ("expl", own::expl, host::expl, 2),
        ("logl", own::logl, host::logl, 2),
        ("sinl", own::sinl, host::sinl, 4),
        ("cosl", own::cosl, host::cosl, 4),
        ("cbrtl", own::cbrtl, host::cbrtl, 2),
        ("sinhl", own::sinhl, host::sinhl, 4),
    ];
    for (name, ours, theirs, bound) in rows {
        let mut worst = 0;
        for &x in &arguments() {
            // fsin's own reduction is good near 0 only.
            if matches!(name, "sinl" | "cosl") && x.abs() > 1.5 {
                continue;
            }
            let x = LongDouble::from_f64(x);
            let (got, want) = (long!(ours, x), long!(theirs, x));
            if want.exponent() == 0x7fff || want.exponent() == 0 {
                if want.exponent() == 0x7fff {
                    assert_eq!(got.exponent(), 0x7fff, "{name} {x:x?} {got:x?} {want:x?}");
                }
                continue;
            }
            let line = |v: LongDouble| (v.exponent() as i128) << 63 | (v.mantissa & (u64::MAX >> 1)) as i128;
            assert_eq!(got.negative(), want.negative(), "{name} {x:x?} {got:x?} {want:x?}");
            worst = worst.max((line(got) - line(want)).unsigned_abs() as u64);
        }
        std::println!("{name:12} {worst} ulps");
        assert!(worst <= bound, "{name}: {worst} ulps");
    }
}

#[test]
fn rounding_modes_and_flags() {
    use crate::fenv::*;
    // SAFETY: the environment is put back.
    unsafe {
        for (mode, want) in [(0, 2.0), (0x400, 2.0), (0x800, 3.0), (0xc00, 2.0)] {
            assert_eq!(fesetround(mode), 0);
            assert_eq!(fegetround(), mode);
            let got = crate::math::rint(core::hint::black_box(2.5));
            assert_eq!(fesetround(0), 0);
            assert_eq!(got, want);
        }
        feclearexcept(0x3d);
        assert_eq!(fetestexcept(0x3d), 0);
        core::hint::black_box(core::hint::black_box(1.0f64) / core::hint::black_box(0.0));
        assert_eq!(fetestexcept(0x3d), 4);
        feclearexcept(0x3d);
        feraiseexcept(1);
        assert_eq!(fetestexcept(0x3d as c_int), 1);
        feclearexcept(0x3d);
    }
}
