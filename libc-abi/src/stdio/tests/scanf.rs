//! Against the host's glibc: inputs times formats, with what was stored.

use super::*;
use crate::stdio::tests::{Arg, Random, Stack, host};
use std::ffi::CString;
use std::format;
use std::vec::Vec;

type Scan = unsafe extern "C" fn(*const c_char, *const c_char, *mut VaList) -> c_int;
type ScanWide = unsafe extern "C" fn(*const wchar_t, *const wchar_t, *mut VaList) -> c_int;

/// Four places of 256 bytes each.
type Places = [[u8; 256]; 4];

fn run(scan: Scan, input: &str, fmt: &str) -> (c_int, Places) {
    let (input, fmt) = (CString::new(input).unwrap(), CString::new(fmt).unwrap());
    let mut places: Places = [[0x55; 256]; 4];
    let args: Vec<Arg> = places.iter_mut().map(|place| Arg::Int(place.as_mut_ptr() as u64)).collect();
    // SAFETY: the formats of these tests store at most 256 bytes in each of four places.
    let answer = unsafe { scan(input.as_ptr(), fmt.as_ptr(), &mut Stack::new(&args).list()) };
    (answer, places)
}

fn run_wide(scan: ScanWide, input: &str, fmt: &str) -> (c_int, Places) {
    let wide = |text: &str| text.chars().map(|c| c as wchar_t).chain([0]).collect::<Vec<_>>();
    let (input, fmt) = (wide(input), wide(fmt));
    let mut places: Places = [[0x55; 256]; 4];
    let args: Vec<Arg> = places.iter_mut().map(|place| Arg::Int(place.as_mut_ptr() as u64)).collect();
    // SAFETY: as above.
    let answer = unsafe { scan(input.as_ptr(), fmt.as_ptr(), &mut Stack::new(&args).list()) };
    (answer, places)
}

fn check(input: &str, fmt: &str) {
    let (theirs, ours) = (run(host::__isoc99_vsscanf, input, fmt), run(__isoc99_vsscanf, input, fmt));
    assert!(
        ours == theirs,
        "sscanf({input:?}, {fmt:?}): {} {} {:x?} {:x?}",
        ours.0,
        theirs.0,
        &ours.1[0][..32],
        &theirs.1[0][..32]
    );
    if fmt.is_ascii() && input.is_ascii() {
        let (mut theirs, mut ours) =
            (run_wide(host::__isoc99_vswscanf, input, fmt), run_wide(__isoc99_vswscanf, input, fmt));
        // glibc's wide form stores some zeros behind the NUL of a narrow text.
        if fmt.contains(['s', '[']) {
            theirs.1.iter_mut().for_each(cut);
            ours.1.iter_mut().for_each(cut);
        }
        assert!(
            ours == theirs,
            "swscanf({input:?}, {fmt:?}): {} {} {:x?} {:x?}",
            ours.0,
            theirs.0,
            &ours.1[0][..32],
            &theirs.1[0][..32]
        );
    }
}

fn cut(place: &mut [u8; 256]) {
    if let Some(end) = place.iter().position(|byte| *byte == 0) {
        place[end..].fill(0);
    }
}

const INPUTS: [&str; 60] = [
    "",
    " ",
    "42",
    " 42 ",
    "-42",
    "+7x",
    "0x1f",
    "0X",
    "0xg",
    "0x",
    "-0x10",
    "017",
    "089",
    "99999999999",
    "-99999999999",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
    "1.5",
    ".5",
    "5.",
    "1e5",
    "1e",
    "1e+",
    "1ex",
    "-1.5e-3abc",
    "0x1.8p3",
    "0x1p",
    "0x.8",
    "0x.",
    "inf",
    "-INFINITY",
    "infi",
    "in",
    "nan",
    "na",
    "nan(12)",
    "1e400",
    "1e-400",
    "hello world",
    "hello]",
    "abc-def",
    "a,b,c",
    "key=value",
    "%",
    " %5",
    "x%",
    "(nil)",
    "(ni",
    "-",
    "+",
    "--1",
    "1,2",
    "12345678901234567890",
    "3 4 5",
    "3\n\t4",
    "3x4",
    "abc123",
    "\u{e9}t\u{e9}",
    "0",
];

const FORMATS: [&str; 74] = [
    "%d",
    "%i",
    "%u",
    "%o",
    "%x",
    "%X",
    "%p",
    "%ld",
    "%hd",
    "%hhd",
    "%lld",
    "%jd",
    "%zu",
    "%td",
    "%3d",
    "%1d",
    "%2i",
    "%1x",
    "%2x",
    "%3x",
    "%*d%d",
    "%f",
    "%lf",
    "%Lf",
    "%e",
    "%lg",
    "%a",
    "%3f",
    "%2lf",
    "%1lf",
    "%4Lf",
    "%s",
    "%3s",
    "%c",
    "%3c",
    "%*c%c",
    "%[a-z]",
    "%[^ ]",
    "%[]a-h]",
    "%[^]]",
    "%5[a-z]",
    "%[a-]",
    "%*[a-z]%n",
    "%s %s",
    "%d%n",
    "%d %n",
    " %c",
    "%d,%d",
    "%d%d%d",
    "%[^=]=%s",
    "%%",
    "%d%%",
    "x%d",
    "%d x",
    "%n",
    "%s%n",
    "%2$d %1$d",
    "%lc",
    "%ls",
    "%3ls",
    "%C",
    "%S",
    "%l[a-z]",
    "hello %s",
    "%d%c%d",
    "%3d%3d%s",
    "%i%i",
    "%hx",
    "%qd",
    "%",
    "%k",
    "%d%",
    "%[abc",
    "%",
];

#[test]
fn agrees_on_all_pairs() {
    for input in INPUTS {
        for fmt in FORMATS {
            check(input, fmt);
        }
    }
}

#[test]
fn agrees_on_random_inputs() {
    let mut random = Random(5);
    let pieces = [
        "0", "1", "9", "x", "X", "a", "f", ".", "e", "E", "p", "+", "-", " ", "inf", "nan", "0x", "12",
        "7e2", "\n", ",", "]",
    ];
    for _ in 0..30_000 {
        let input: std::string::String = (0..random.below(9)).map(|_| random.pick(&pieces)).collect();
        let fmt = format!(
            "{}%{}{}{}%n",
            random.pick(&["", "", " ", "1", "a"]),
            random.pick(&["", "", "1", "2", "3", "5", "9"]),
            random.pick(&["d", "i", "u", "x", "o", "lf", "f", "Lf", "la", "s", "c", "[^,]", "[0-9x]", "p"]),
            random.pick(&["", "", " ", "%d", ",", "%s"]),
        );
        check(&input, &fmt);
    }
}

#[test]
fn allocates() {
    let mut places: [*mut c_char; 3] = [core::ptr::null_mut(); 3];
    let args: Vec<Arg> = places.iter_mut().map(|place| Arg::Int(place as *mut _ as u64)).collect();
    let long = "z".repeat(5000);
    let input = CString::new(format!("first {long} xyz")).unwrap();
    // SAFETY: the places take pointers from malloc.
    unsafe {
        let n = __isoc99_vsscanf(input.as_ptr(), c"%ms %m[z] %2mc".as_ptr(), &mut Stack::new(&args).list());
        assert_eq!(n, 3);
        assert_eq!(core::ffi::CStr::from_ptr(places[0]), c"first");
        assert_eq!(core::ffi::CStr::from_ptr(places[1]).count_bytes(), 5000);
        assert_eq!(core::slice::from_raw_parts(places[2].cast::<u8>(), 2), b"xy");
        for place in places {
            crate::malloc::free(place.cast());
        }
        let mut place: *mut c_char = core::ptr::null_mut();
        let args = [Arg::Int(&raw mut place as u64)];
        assert_eq!(vsscanf(c"gnu".as_ptr(), c"%as".as_ptr(), &mut Stack::new(&args).list()), 1);
        assert_eq!(core::ffi::CStr::from_ptr(place), c"gnu");
        crate::malloc::free(place.cast());
    }
}
