//! Against the host's glibc: values, ends, ERANGE.

use super::*;
use crate::stdio::tests::{Random, call_x87, host};
use std::ffi::CString;
use std::format;
use std::string::String;
use std::vec::Vec;

/// One text through all three functions on both sides.
fn check(text: &str) {
    let c = CString::new(text).unwrap();
    let start = c.as_ptr();
    let used = |end: *mut c_char| end as usize - start as usize;
    let mut ends = [core::ptr::null_mut(); 2];
    // SAFETY: C strings and places of ours.
    unsafe {
        host::clear_errno();
        let theirs = host::strtod(start, &mut ends[0]);
        let their_errno = host::errno();
        errno::set(Errno(0));
        let ours = strtod(start, &mut ends[1]);
        let got = (ours.to_bits(), used(ends[1]), errno::get().0);
        assert_eq!(got, (theirs.to_bits(), used(ends[0]), their_errno), "strtod({text:?}) {ours} {theirs}");

        host::clear_errno();
        let theirs = host::strtof(start, &mut ends[0]);
        let their_errno = host::errno();
        errno::set(Errno(0));
        let ours = strtof(start, &mut ends[1]);
        let got = (ours.to_bits(), used(ends[1]), errno::get().0);
        assert_eq!(got, (theirs.to_bits(), used(ends[0]), their_errno), "strtof({text:?}) {ours} {theirs}");

        host::clear_errno();
        let theirs = call_x87(host::strtold as *const (), start, &mut ends[0]);
        let their_errno = host::errno();
        errno::set(Errno(0));
        let ours = call_x87(strtold as *const (), start, &mut ends[1]);
        assert_eq!(
            (ours.mantissa, ours.sign_exponent, used(ends[1]), errno::get().0),
            (theirs.mantissa, theirs.sign_exponent, used(ends[0]), their_errno),
            "strtold({text:?})"
        );
    }
}

#[test]
fn agrees_on_a_table() {
    let table = [
        "",
        "0",
        "-0",
        "+0.0",
        ".",
        "-",
        "+.",
        ".5",
        "5.",
        "-5.e1",
        "1e",
        "1e+",
        "1e+5",
        "1E-5x",
        " \t\n\x0b 12.5abc",
        "inf",
        "-INF",
        "infinit",
        "infinity",
        "Infinityx",
        "nan",
        "-nan",
        "nan(",
        "nan()",
        "nan(123)",
        "nan(0x1f)",
        "nan(077)",
        "nan(zz)",
        "NaN(12_3)",
        "nan(1 2)",
        "0x",
        "0x.",
        "0xg",
        "0x1",
        "0x1p",
        "0x1p3",
        "0X1.8P-1",
        "0x.8",
        "0x1.fffffffffffff8p0",
        "0x1.fffffffffffff7p0",
        "0x1.ffffffp0",
        "0x1p-1074",
        "0x1p-1075",
        "0x1.8p-1075",
        "0x1p-1076",
        "0x0.0000000000001p-1022",
        "0x1.ffffffffffffffp-1023",
        "0x1.fffffffffffffp-1023",
        "0x1p1024",
        "0x1.fffffffffffffp1023",
        "0x1.fffffffffffff8p1023",
        "0x1p-149",
        "0x1p-150",
        "0x1.8p-150",
        "0x1p16384",
        "0x1p-16445",
        "0x1p-16446",
        "0x1.8p-16446",
        "0x1p99999999999999999999",
        "0x1p-99999999999999999999",
        "1e99999999999999999999",
        "1e-99999999999999999999",
        "0e99999999999999999999",
        "1e308",
        "1.8e308",
        "1e309",
        "2.2250738585072011e-308",
        "2.2250738585072014e-308",
        "2.225073858507201136e-308",
        "4.9e-324",
        "2.5e-324",
        "2.4703282292062327e-324",
        "2.4703282292062328e-324",
        "1e-400",
        "1.17549435e-38",
        "1.1754942e-38",
        "1.17549431578e-38",
        "1e-45",
        "7e-46",
        "7.1e-46",
        "3.4028235e38",
        "3.4028236e38",
        "1.7976931348623158e308",
        "1.7976931348623159e308",
        "1e4932",
        "1.2e4932",
        "1e-4932",
        "1e-4951",
        "1e-4950",
        "3.6e-4951",
        "1e-4960",
        "9007199254740993",
        "9007199254740992.9999",
        "9007199254740993.0000000000000000000000000001",
        "18446744073709551615",
        "18446744073709551616.5",
        "123456789012345678901234567890",
        "0.1",
        "3.14159",
        "179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416692887910946555547851940402630657488671505820681908902000708383676273854845817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711559699508093042880",
        "00000000000000000000000000000000000000000000000000001",
        "0.00000000000000000000000000000000000000000000000001",
        "1_000",
        "1,5",
        "0b1",
        "1e5e5",
        "1.2.3",
        "--1",
        "+-1",
        "0x-1",
        "٣",
    ];
    for text in table {
        check(text);
        check(&format!("-{text}"));
    }
}

/// What `ERANGE` depends on where results become subnormal: texts of 1 to 22 digits around both formats' least normal number,
/// and below it.
#[test]
fn agrees_at_the_edge_of_the_range() {
    let mut random = Random(7);
    for edge in [f64::MIN_POSITIVE, f64::from(f32::MIN_POSITIVE)] {
        for _ in 0..20_000 {
            let near = f64::from_bits(edge.to_bits() - 3 + random.below(7));
            let value = if random.below(2) == 0 { near } else { edge / (1 + random.below(1 << 20)) as f64 };
            check(&format!("{:.*e}", random.below(22) as usize, value));
        }
        let digits = format!("{edge:.800e}");
        let (digits, exponent) = digits.split_once('e').unwrap();
        for length in 1..40 {
            let cut = &digits[..length + 1];
            for text in
                [format!("{cut}e{exponent}"), format!("{cut}1e{exponent}"), format!("{cut}9e{exponent}")]
            {
                check(&text);
                check(&format!(
                    "000.0{}e{}",
                    text.split_once('e').unwrap().0.replace('.', ""),
                    exponent.parse::<i32>().unwrap() + 2
                ));
            }
        }
    }
}

#[test]
fn agrees_on_random_numbers() {
    let mut random = Random(42);
    for round in 0..30_000u32 {
        let value = random.double();
        let text = match round % 6 {
            0 => format!("{value:e}"),
            1 => format!("{:.*e}", random.below(25) as usize, value),
            2 => {
                // Halfway between two doubles, exactly, and a little beside it.
                let next = f64::from_bits(value.to_bits() & !(1 << 63) ^ 1);
                if !next.is_finite() || !value.is_finite() {
                    continue;
                }
                let (low, high) = (value.abs().min(next), value.abs().max(next));
                let digits = format!("{:.800e}", low / 2.0 + high / 2.0);
                if digits.contains("inf") { continue } else { digits }
            }
            3 => {
                let digits: String =
                    (0..random.below(40) + 1).map(|_| char::from(b'0' + random.below(10) as u8)).collect();
                format!("{digits}e{}", random.below(700) as i64 - 350)
            }
            4 => {
                let digits: String = (0..random.below(30) + 1)
                    .map(|_| char::from_digit(random.below(16) as u32, 16).unwrap())
                    .collect();
                format!("0x{digits}.{:x}p{}", random.below(1 << 30), random.below(2400) as i64 - 1200)
            }
            _ => format!("{}.{}", random.below(1 << 40), random.next()),
        };
        check(&text);
    }
    for _ in 0..2000 {
        let exponent = random.below(9900) as i64 - 4960;
        check(&format!("{}.{}e{exponent}", random.below(10), random.next()));
    }
}

#[test]
fn takes_very_long_texts() {
    let digits = "1234567890".repeat(2000);
    check(&digits);
    check(&format!("0.{digits}"));
    check(&format!("{digits}e-20000"));
    check(&format!("0.{}1e30000", "0".repeat(30_000)));
    check(&format!("1{}e-30000", "0".repeat(30_000)));
}

#[test]
fn reads_wide_numbers() {
    for text in [" 12.5e3x", "0x1p3", "nan(7)z", "infinitx", "", "  ", "-.5", "1\u{663}"] {
        let wide: Vec<wchar_t> = text.chars().map(|c| c as wchar_t).chain([0]).collect();
        let mut ends = [core::ptr::null_mut(); 2];
        // SAFETY: wide C strings and places of ours.
        unsafe {
            let theirs = host::wcstod(wide.as_ptr(), &mut ends[0]);
            let ours = wcstod(wide.as_ptr(), &mut ends[1]);
            assert_eq!((ours.to_bits(), ends[1]), (theirs.to_bits(), ends[0]), "{text:?}");
        }
    }
}
