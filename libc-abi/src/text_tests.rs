//! Differential tests of the text half against the host's C library (glibc 2.36).

use crate::types::*;
use core::ffi::CStr;
use core::ptr::null_mut;
use std::ffi::CString;
use std::format;
use std::string::String;
use std::vec::Vec;

mod host {
    use crate::types::*;
    unsafe extern "C" {
        pub(super) fn memchr(s: *const c_void, c: c_int, n: usize) -> *mut c_void;
        pub(super) fn memrchr(s: *const c_void, c: c_int, n: usize) -> *mut c_void;
        pub(super) fn strrchr(s: *const c_char, c: c_int) -> *mut c_char;
        pub(super) fn strchrnul(s: *const c_char, c: c_int) -> *mut c_char;
        pub(super) fn strcmp(a: *const c_char, b: *const c_char) -> c_int;
        pub(super) fn strncmp(a: *const c_char, b: *const c_char, n: usize) -> c_int;
        pub(super) fn strcasecmp(a: *const c_char, b: *const c_char) -> c_int;
        pub(super) fn strstr(a: *const c_char, b: *const c_char) -> *mut c_char;
        pub(super) fn strcasestr(a: *const c_char, b: *const c_char) -> *mut c_char;
        pub(super) fn strspn(a: *const c_char, b: *const c_char) -> usize;
        pub(super) fn strcspn(a: *const c_char, b: *const c_char) -> usize;
        pub(super) fn strverscmp(a: *const c_char, b: *const c_char) -> c_int;
        pub(super) fn strtol(s: *const c_char, end: *mut *mut c_char, base: c_int) -> c_long;
        pub(super) fn strtoul(s: *const c_char, end: *mut *mut c_char, base: c_int) -> c_ulong;
        pub(super) fn random_r(data: *mut c_void, result: *mut i32) -> c_int;
        pub(super) fn initstate_r(seed: c_uint, s: *mut c_char, n: usize, data: *mut c_void) -> c_int;
        pub(super) fn rand_r(seed: *mut c_uint) -> c_int;
        pub(super) fn srandom(seed: c_uint);
        pub(super) fn random() -> c_long;
        pub(super) fn erand48(x: *mut u16) -> f64;
        pub(super) fn jrand48(x: *mut u16) -> c_long;
        pub(super) fn newlocale(mask: c_int, name: *const c_char, base: *mut c_void) -> *mut c_void;
        pub(super) fn uselocale(locale: *mut c_void) -> *mut c_void;
        pub(super) fn iswctype(c: u32, class: c_ulong) -> c_int;
        pub(super) fn wctype(name: *const c_char) -> c_ulong;
        pub(super) fn towupper(c: u32) -> u32;
        pub(super) fn towlower(c: u32) -> u32;
        pub(super) fn wcwidth(c: i32) -> c_int;
        pub(super) fn mbrtowc(to: *mut i32, s: *const c_char, n: usize, state: *mut c_void) -> usize;
        pub(super) fn wcrtomb(to: *mut c_char, c: i32, state: *mut c_void) -> usize;
        pub(super) fn mbsnrtowcs(
            to: *mut i32,
            s: *mut *const c_char,
            n: usize,
            l: usize,
            state: *mut c_void,
        ) -> usize;
        pub(super) fn nl_langinfo_l(item: c_int, locale: *mut c_void) -> *const c_char;
        pub(super) fn __ctype_b_loc() -> *const *const u16;
        pub(super) fn __ctype_tolower_loc() -> *const *const i32;
        pub(super) fn __ctype_toupper_loc() -> *const *const i32;
        pub(super) fn tzset();
        pub(super) fn localtime_r(time: *const i64, to: *mut crate::time::Tm) -> *mut crate::time::Tm;
        pub(super) fn gmtime_r(time: *const i64, to: *mut crate::time::Tm) -> *mut crate::time::Tm;
        pub(super) fn mktime(tm: *mut crate::time::Tm) -> i64;
        pub(super) fn timegm(tm: *mut crate::time::Tm) -> i64;
        pub(super) fn strftime(
            to: *mut c_char,
            n: usize,
            f: *const c_char,
            tm: *const crate::time::Tm,
        ) -> usize;
        pub(super) fn strptime(s: *const c_char, f: *const c_char, tm: *mut crate::time::Tm) -> *mut c_char;
        pub(super) fn setenv(name: *const c_char, value: *const c_char, replace: c_int) -> c_int;
        pub(super) fn mmap(at: *mut c_void, n: usize, p: c_int, f: c_int, fd: c_int, o: i64) -> *mut c_void;
        pub(super) fn mprotect(at: *mut c_void, n: usize, p: c_int) -> c_int;
        pub(super) fn dirname(s: *mut c_char) -> *mut c_char;
        pub(super) fn __xpg_basename(s: *mut c_char) -> *mut c_char;
    }
}

/// A small deterministic generator.
struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn text(&mut self, alphabet: &[u8], longest: usize) -> CString {
        let n = self.below(longest + 1);
        CString::new((0..n).map(|_| alphabet[self.below(alphabet.len())]).collect::<Vec<u8>>()).unwrap()
    }
}

/// Four pages with none behind them: reading on faults.
fn guarded() -> &'static mut [u8] {
    // SAFETY: fresh memory that is never unmapped.
    unsafe {
        let at: *mut u8 = host::mmap(null_mut(), 5 * 4096, 3, 0x22, -1, 0).cast();
        assert_eq!(host::mprotect(at.add(4 * 4096).cast(), 4096, 0), 0);
        core::slice::from_raw_parts_mut(at, 4 * 4096)
    }
}

#[test]
fn memory_at_every_alignment_and_size() {
    use crate::string_mem::{memmove, memset};
    let mut rng = Rng(1);
    let source: Vec<u8> = (0..20000).map(|_| rng.next() as u8).collect();
    let sizes = (0..300).chain([511, 1023, 4095, 4096, 4097, 5000, 9000]);
    for size in sizes {
        for round in 0..12 {
            // With AVX and without. (Tests beside this one may change it, too: both ways are right at any time.)
            crate::string_wide::forbid(round % 2 == 0);
            // Overlapping moves in one buffer.
            let (from, to) = (rng.below(200), rng.below(200));
            let mut ours = source.clone();
            let mut theirs = source.clone();
            theirs.copy_within(from..from + size, to);
            // SAFETY: both ranges are inside the buffer.
            unsafe {
                let base = ours.as_mut_ptr();
                assert_eq!(memmove(base.add(to).cast(), base.add(from).cast(), size), base.add(to).cast());
            }
            assert!(ours == theirs, "memmove {from} -> {to}, {size}");
            let c = rng.next() as u8;
            theirs[to..to + size].fill(c);
            // SAFETY: as above.
            unsafe { memset(ours.as_mut_ptr().add(to).cast(), c as c_int | 0x7700, size) };
            assert!(ours == theirs, "memset {to}, {size}");
        }
    }
}

#[test]
fn strings_up_to_the_page_end() {
    use crate::string::*;
    let mut rng = Rng(2);
    let (a, b) = (guarded(), guarded());
    for round in 0..60000 {
        crate::string_wide::forbid(round % 2 == 0);
        let size = rng.below(if round % 64 < 2 { 9000 } else { 100 }) + 1;
        let (x, y) = (a.len() - size, b.len() - size - if round % 3 == 0 { 0 } else { rng.below(70) });
        for i in 0..size {
            a[x + i] = b"abAB\x80\xff"[rng.below(6)];
            b[y + i] = if rng.below(size.max(50)) == 0 { b'q' } else { a[x + i] };
        }
        let end = size - 1 - if rng.below(4) == 0 { rng.below(size) } else { 0 };
        a[x + end] = 0;
        b[y + size - 1] = 0;
        let c = b"abAB\x80\xff\0z"[rng.below(8)] as c_int;
        let n = rng.below(size + 1);
        let (p, q): (*const c_char, *const c_char) = (a[x..].as_ptr().cast(), b[y..].as_ptr().cast());
        // SAFETY: both strings end inside their buffers.
        unsafe {
            assert_eq!(strlen(p), CStr::from_ptr(p).to_bytes().len());
            assert_eq!(strnlen(p, n), CStr::from_ptr(p).to_bytes().len().min(n));
            assert_eq!(strnlen(p, usize::MAX), strlen(p));
            assert_eq!(strchrnul(p, c), host::strchrnul(p, c));
            let mut copy = [0x55u8; 9100];
            let copied = stpcpy(copy.as_mut_ptr().cast(), p);
            assert_eq!(CStr::from_ptr(copy.as_ptr().cast()), CStr::from_ptr(p));
            assert_eq!(copied as usize - copy.as_ptr() as usize, strlen(p));
            assert_eq!(copy[strlen(p) + 1], 0x55);
            assert_eq!(strrchr(p, c), host::strrchr(p, c));
            assert_eq!(memchr(p.cast(), c, size), host::memchr(p.cast(), c, size));
            assert_eq!(memrchr(p.cast(), c, size), host::memrchr(p.cast(), c, size));
            assert_eq!(strcmp(p, q).signum(), host::strcmp(p, q).signum());
            assert_eq!(strncmp(p, q, n).signum(), host::strncmp(p, q, n).signum());
            assert_eq!(strcasecmp(p, q).signum(), host::strcasecmp(p, q).signum());
            let (s, t) = (&a[x..x + n], &b[y..y + n]);
            assert_eq!(memcmp(p.cast(), q.cast(), n).signum(), s.cmp(t) as c_int);
        }
    }
}

#[test]
fn searching() {
    use crate::strings_search::*;
    let mut rng = Rng(3);
    for round in 0..60000 {
        let hay = rng.text(b"aabAB.", if round % 100 == 0 { 2000 } else { 60 });
        let needle = rng.text(b"aabAB", 6);
        let (h, n) = (hay.as_ptr(), needle.as_ptr());
        // SAFETY: C strings.
        unsafe {
            assert_eq!(strstr(h, n), host::strstr(h, n), "{hay:?} {needle:?}");
            assert_eq!(strcasestr(h, n), host::strcasestr(h, n));
            assert_eq!(strspn(h, n), host::strspn(h, n));
            assert_eq!(strcspn(h, n), host::strcspn(h, n));
            let (v, w) = (rng.text(b"0019a", 7), rng.text(b"0019a", 7));
            assert_eq!(
                strverscmp(v.as_ptr(), w.as_ptr()).signum(),
                host::strverscmp(v.as_ptr(), w.as_ptr()).signum(),
                "{v:?} {w:?}"
            );
            let path = rng.text(b"//ab", 9);
            let (one, two) = (path.clone().into_raw(), path.clone().into_raw());
            assert_eq!(CStr::from_ptr(dirname(one)), CStr::from_ptr(host::dirname(two)), "{path:?}");
            let (one, two) = (path.clone().into_raw(), path.clone().into_raw());
            assert_eq!(CStr::from_ptr(__xpg_basename(one)), CStr::from_ptr(host::__xpg_basename(two)));
        }
    }
}

#[test]
fn integers() {
    use crate::number::*;
    let mut rng = Rng(4);
    for _ in 0..100000 {
        let text = rng.text(b"00019 -+xXafzZ8", 24);
        let base = rng.below(39) as c_int - 1;
        // SAFETY: C strings.
        unsafe {
            let (mut e, mut f) = (null_mut(), null_mut());
            crate::errno::set(platform::Errno(0));
            *libc::__errno_location() = 0;
            let got = (strtol(text.as_ptr(), &mut e, base), e, crate::errno::get().0);
            let want = (host::strtol(text.as_ptr(), &mut f, base), f, *libc::__errno_location());
            assert_eq!(got, want, "{text:?} base {base}");
            let got = (strtoul(text.as_ptr(), &mut e, base), e);
            assert_eq!(got, (host::strtoul(text.as_ptr(), &mut f, base), f), "{text:?}");
        }
    }
}

#[test]
fn sorting_is_stable_for_every_element_size() {
    unsafe extern "C" fn by_first(a: *const c_void, b: *const c_void) -> c_int {
        // SAFETY: elements of at least two bytes.
        unsafe { *a.cast::<u8>() as c_int - *b.cast::<u8>() as c_int }
    }
    let mut rng = Rng(5);
    for size in [2usize, 3, 4, 8, 12, 16, 24, 32, 33, 40, 100] {
        for count in [0usize, 1, 2, 3, 10, 100, 250] {
            let mut bytes: Vec<u8> = (0..size * count).map(|_| rng.next() as u8 & 15).collect();
            for i in 0..count {
                bytes[i * size + 1] = i as u8;
            }
            let mut expected: Vec<Vec<u8>> = bytes.chunks(size).map(<[u8]>::to_vec).collect();
            expected.sort_by_key(|e| e[0]);
            // SAFETY: count elements of that size.
            unsafe { crate::sort::qsort(bytes.as_mut_ptr().cast(), count, size, by_first) };
            assert_eq!(bytes, expected.concat(), "size {size}, count {count}");
        }
    }
}

#[test]
fn random_sequences() {
    use crate::random::*;
    // SAFETY: buffers of the sizes given.
    unsafe {
        for size in [8usize, 32, 64, 128, 256] {
            let (mut ours, mut theirs) = ([0u64; 6], [0u64; 6]);
            let (mut s, mut t) = ([0u64; 32], [0u64; 32]);
            initstate_r(42, s.as_mut_ptr().cast(), size, ours.as_mut_ptr().cast());
            host::initstate_r(42, t.as_mut_ptr().cast(), size, theirs.as_mut_ptr().cast());
            for _ in 0..1000 {
                let (mut a, mut b) = (0, 0);
                random_r(ours.as_mut_ptr().cast(), &mut a);
                host::random_r(theirs.as_mut_ptr().cast(), &mut b);
                assert_eq!(a, b);
            }
        }
        let (mut a, mut b) = (7, 7);
        let (mut x, mut y) = ([1u16, 2, 3], [1u16, 2, 3]);
        for _ in 0..100 {
            assert_eq!(rand_r(&mut a), host::rand_r(&mut b));
            assert_eq!(erand48(x.as_mut_ptr()), host::erand48(y.as_mut_ptr()));
            assert_eq!(jrand48(x.as_mut_ptr()), host::jrand48(y.as_mut_ptr()));
        }
        for seed in [0, 1, 99] {
            srandom(seed);
            host::srandom(seed);
            for _ in 0..100 {
                assert_eq!(random(), host::random());
            }
        }
    }
}

#[test]
fn byte_classes() {
    use crate::ctype::*;
    // SAFETY: both tables have entries from -128 to 255.
    unsafe {
        for c in -128..256isize {
            assert_eq!(*(*__ctype_b_loc()).offset(c), *(*host::__ctype_b_loc()).offset(c), "{c}");
            assert_eq!(*(*__ctype_tolower_loc()).offset(c), *(*host::__ctype_tolower_loc()).offset(c), "{c}");
            assert_eq!(*(*__ctype_toupper_loc()).offset(c), *(*host::__ctype_toupper_loc()).offset(c), "{c}");
        }
    }
}

/// Puts both libraries' calling thread into C.UTF-8.
fn utf8() -> *mut c_void {
    // SAFETY: documented uses.
    unsafe {
        let theirs = host::newlocale(0x1fbf, c"C.UTF-8".as_ptr(), null_mut());
        assert!(!theirs.is_null());
        host::uselocale(theirs);
        let ours = crate::locale::newlocale(0x1fbf, c"C.UTF-8".as_ptr(), null_mut());
        crate::locale::uselocale(ours);
        theirs
    }
}

#[test]
fn unicode_as_glibc() {
    use crate::wctype::*;
    utf8();
    let names = [c"upper", c"lower", c"alpha", c"digit", c"xdigit", c"space", c"print", c"graph", c"blank"];
    let names: Vec<&CStr> = names.into_iter().chain([c"cntrl", c"punct", c"alnum"]).collect();
    // SAFETY: C strings and numbers.
    unsafe {
        let theirs: Vec<c_ulong> = names.iter().map(|n| host::wctype(n.as_ptr())).collect();
        for c in 0..0x110000u32 {
            for (at, name) in names.iter().enumerate() {
                let (got, want) = (is(c, at + 1, true), host::iswctype(c, theirs[at]) != 0);
                assert_eq!(got, want, "{c:x} {name:?}");
            }
            assert_eq!(upper(c, true), host::towupper(c), "{c:x}");
            assert_eq!(lower(c, true), host::towlower(c), "{c:x}");
            assert_eq!(width(c, true), host::wcwidth(c as i32), "{c:x}");
        }
    }
}

#[test]
fn multibyte() {
    use crate::multibyte::*;
    utf8();
    let mut rng = Rng(6);
    let alphabet = b"a\x7f\x80\xbf\xc1\xc2\xe0\xa0\x9f\xed\xf0\x90\x8f\xf4\xf8\x88\xfc\x84\xff\xe2\x82\xac";
    for _ in 0..200000 {
        let text = rng.text(alphabet, 8);
        let n = rng.below(9).min(text.count_bytes() + 1);
        // SAFETY: C strings with their sizes.
        unsafe {
            let (mut s, mut t) = (MbState::default(), 0u64);
            let (mut w, mut x) = (-1, -1);
            for cut in [0, n] {
                let rest = text.as_ptr().add(cut.min(text.count_bytes()));
                let size = if cut == 0 { n } else { text.count_bytes() + 1 - n };
                let got = mbrtowc(&mut w, rest, size, &mut s);
                assert_eq!(got, host::mbrtowc(&mut x, rest, size, (&raw mut t).cast()), "{text:x?} {cut}");
                assert_eq!(w, x);
                if got == INVALID {
                    break;
                }
            }
            let (mut s, mut t) = (MbState::default(), 0u64);
            let (mut one, mut two) = ([7; 12], [7; 12]);
            let (mut p, mut q) = (text.as_ptr(), text.as_ptr());
            let limit = rng.below(10);
            let got = mbsnrtowcs(one.as_mut_ptr(), &mut p, n, limit, &mut s);
            let want = host::mbsnrtowcs(two.as_mut_ptr(), &mut q, n, limit, (&raw mut t).cast());
            assert_eq!((got, p, one), (want, q, two), "{text:x?} {n} {limit}");
            let c = (rng.next() >> rng.below(60)) as i32;
            let (mut one, mut two) = ([0; 8], [0; 8]);
            let (mut s, mut t) = (MbState::default(), 0u64);
            let got = wcrtomb(one.as_mut_ptr(), c, &mut s);
            assert_eq!((got, one), (host::wcrtomb(two.as_mut_ptr(), c, (&raw mut t).cast()), two));
        }
    }
}

#[test]
fn langinfo() {
    use crate::locale::*;
    let theirs = utf8();
    let items = (0..2).map(|i| 1 << 16 | i).chain((0..52).filter(|i| *i < 50).map(|i| 2 << 16 | i));
    for item in
        items.chain((108..109).chain(111..123).map(|i| 2 << 16 | i)).chain([14, 0x4000f, 0x50000, 0x50001])
    {
        // SAFETY: items that are strings.
        unsafe {
            let got = CStr::from_ptr(nl_langinfo(item));
            assert_eq!(got, CStr::from_ptr(host::nl_langinfo_l(item, theirs)), "{item:x}");
        }
    }
    // SAFETY: items that are wide strings.
    unsafe {
        for item in (52..101).map(|i| 2 << 16 | i) {
            let (p, q): (*const i32, *const i32) =
                (nl_langinfo(item).cast(), host::nl_langinfo_l(item, theirs).cast());
            let mut at = 0;
            while *p.add(at) == *q.add(at) && *p.add(at) != 0 {
                at += 1;
            }
            assert_eq!(*p.add(at), *q.add(at), "{item:x}");
        }
    }
}

fn show(tm: &crate::time::Tm) -> String {
    // SAFETY: a zone name or null.
    let zone = if tm.tm_zone.is_null() { c"" } else { unsafe { CStr::from_ptr(tm.tm_zone) } };
    format!(
        "{}-{}-{} {}:{}:{} w{} y{} dst{} {} {zone:?}",
        tm.tm_year as i64 + 1900,
        tm.tm_mon + 1,
        tm.tm_mday,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec,
        tm.tm_wday,
        tm.tm_yday,
        tm.tm_isdst,
        tm.tm_gmtoff
    )
}

#[test]
fn times_in_many_zones() {
    use crate::time::*;
    let zones = [
        c"UTC",
        c"Europe/Berlin",
        c"America/New_York",
        c"Australia/Lord_Howe",
        c"Asia/Kathmandu",
        c"Africa/Casablanca",
        c"America/St_Johns",
        c"Pacific/Apia",
        c"Europe/Dublin",
        c"Asia/Tokyo",
        c"CET-1CEST,M3.5.0,M10.5.0/3",
        c"EST5EDT",
        c"XYZ3",
        c"<+0330>-3:30",
        c"NZST-12NZDT,M9.5.0,M4.1.0/3",
        c"AAA4BBB,J60,J300",
        c"AAA4BBB,59/1,300/23:30:15",
        c"",
        c"Nonsense",
        c":America/Sao_Paulo",
        c"right/UTC",
    ];
    let formats = [
        c"%a %A %b %B %c %C %d %D %e %F %g %G %h %H %I %j %k %l %m %M %n %p %P %r %R %s %S %t %T %u %U %V %w %W %x %X %y %Y %z %Z %%",
        c"%_d %-d %05d %^a %#Z %#p %10Y %_5m %-j %Ey %Od %E %Q %10c|%-10A|%_10B|%08S|%+5Y %5z %_z %-z %_5z %Ex %Oy %010F|%-5C|%3n|%EQ",
    ];
    let mut rng = Rng(7);
    for zone in zones {
        // SAFETY: documented uses; no other test reads TZ.
        unsafe {
            host::setenv(c"TZ".as_ptr(), zone.as_ptr(), 1);
            host::tzset();
            tzset();
            for round in 0..4000 {
                let time = match round % 4 {
                    0 => rng.next() as i64 >> 20 >> rng.below(40),
                    1 => 2_000_000_000 + (rng.next() % 3_000_000_000) as i64,
                    _ => (rng.next() % 2_000_000_000) as i64,
                };
                let (mut a, mut b) = (Tm::ZERO, Tm::ZERO);
                let (x, y) =
                    (localtime_r(&time, &mut a).is_null(), host::localtime_r(&time, &mut b).is_null());
                assert_eq!(x, y, "{zone:?} {time}");
                if x {
                    continue;
                }
                assert_eq!(show(&a), show(&b), "{zone:?} {time}");
                for format in formats {
                    let (mut s, mut t) = ([0 as c_char; 600], [0 as c_char; 600]);
                    let n = crate::time_format::strftime(s.as_mut_ptr(), 600, format.as_ptr(), &a);
                    let m = host::strftime(t.as_mut_ptr(), 600, format.as_ptr(), &a);
                    let (got, want) = (CStr::from_ptr(s.as_ptr()), CStr::from_ptr(t.as_ptr()));
                    assert_eq!((n, got), (m, want), "{zone:?} {time}");
                }
                // Back again, exactly and with fields out of range.
                let mut c = a;
                assert_eq!(mktime(&mut c), host::mktime(&mut b), "{zone:?} {time}");
                assert_eq!(show(&c), show(&b));
                a.tm_mon += rng.below(30) as c_int - 15;
                a.tm_hour += rng.below(100) as c_int - 50;
                a.tm_sec -= rng.below(10000) as c_int;
                a.tm_isdst = rng.below(2) as c_int - 1;
                let (mut c, mut d) = (a, a);
                let (got, want) = (mktime(&mut c), host::mktime(&mut d));
                if a.tm_isdst == 0 && a.tm_year > 71 || got == want {
                    assert_eq!(got, want, "{zone:?} {}", show(&a));
                } else {
                    // An hour that is twice or not there: the same fields or one offset apart.
                    assert!((got - want).abs() <= 7200, "{zone:?} {got} {want} {}", show(&a));
                }
                if zone == c"right/UTC" {
                    // glibc's gmtime counts leap seconds there; ours never does.
                    continue;
                }
                let (mut c, mut d) = (a, a);
                assert_eq!(timegm(&mut c), host::timegm(&mut d));
                assert_eq!(show(&c), show(&d));
                gmtime_r(&time, &mut c);
                host::gmtime_r(&time, &mut d);
                assert_eq!(show(&c), show(&d));
            }
        }
    }
}

#[test]
fn parsing_times() {
    use crate::time::Tm;
    let pairs = [
        (c"2024-02-29 23:59:60", c"%Y-%m-%d %H:%M:%S"),
        (c"Thu, 01 Jan 1970 00:00:00 GMT", c"%a, %d %b %Y %T %Z"),
        (c"12:30 pm", c"%I:%M %p"),
        (c"12 AM", c"%I %p"),
        (c"  7/ 4/99x", c"%D"),
        (c"2024 060", c"%Y %j"),
        (c"20 24", c"%C %y"),
        (c"24", c"%y"),
        (c"+0530", c"%z"),
        (c"-07:00", c"%z"),
        (c"Z", c"%z"),
        (c"+05x", c"%z"),
        (c"2024 10 3", c"%Y %U %w"),
        (c"2024 10 1", c"%Y %W %u"),
        (c"September 5", c"%B %e"),
        (c"sep5", c"%b%e"),
        (c"13", c"%m"),
        (c"99", c"%H"),
        (c"a%b", c"a%%b"),
        (c"2024-13", c"%Y-%m"),
        (c"19", c"%C"),
        (c"1999", c"%G"),
        (c"Sun Feb  3 10:11:12 2013", c"%c"),
        (c"11:22", c"%R"),
        (c"x", c"%Q"),
        (c"   5", c"%n%d"),
        (c"5 PM", c"%H %p"),
    ];
    for (text, format) in pairs {
        // SAFETY: C strings.
        unsafe {
            let (mut a, mut b) = (Tm::ZERO, Tm::ZERO);
            let got = crate::time_format::strptime(text.as_ptr(), format.as_ptr(), &mut a);
            let want = host::strptime(text.as_ptr(), format.as_ptr(), &mut b);
            assert_eq!(got, want, "{text:?} {format:?}");
            if !got.is_null() {
                assert_eq!(show(&a), show(&b), "{text:?} {format:?}");
            }
        }
    }
}
