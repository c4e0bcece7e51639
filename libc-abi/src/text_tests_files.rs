//! Differential tests of fnmatch, glob, iconv and getopt against the host's C library.

use crate::types::*;
use core::ffi::CStr;
use core::ptr::null_mut;
use std::ffi::CString;
use std::string::{String, ToString};
use std::vec::Vec;

mod host {
    use crate::types::*;
    unsafe extern "C" {
        pub(super) fn fnmatch(p: *const c_char, s: *const c_char, flags: c_int) -> c_int;
        pub(super) fn glob(p: *const c_char, flags: c_int, f: *const c_void, g: *mut c_void) -> c_int;
        pub(super) fn iconv_open(to: *const c_char, from: *const c_char) -> *mut c_void;
        pub(super) fn iconv(
            c: *mut c_void,
            i: *mut *mut c_char,
            n: *mut usize,
            o: *mut *mut c_char,
            m: *mut usize,
        ) -> usize;
        pub(super) fn getopt_long(
            n: c_int,
            v: *mut *mut c_char,
            s: *const c_char,
            l: *const c_void,
            i: *mut c_int,
        ) -> c_int;
        pub(super) fn getopt_long_only(
            n: c_int,
            v: *mut *mut c_char,
            s: *const c_char,
            l: *const c_void,
            i: *mut c_int,
        ) -> c_int;
        pub(super) static mut optind: c_int;
        pub(super) static mut optarg: *mut c_char;
        pub(super) static mut opterr: c_int;
        pub(super) static mut optopt: c_int;
    }
}

struct Rng(u64);
impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
    fn text(&mut self, alphabet: &[&str], longest: usize) -> CString {
        let n = self.below(longest + 1);
        let parts: Vec<&str> = (0..n).map(|_| alphabet[self.below(alphabet.len())]).collect();
        CString::new(parts.concat()).unwrap()
    }
}

#[test]
fn patterns() {
    let mut rng = Rng(11);
    let parts = [
        "a",
        "b",
        "A",
        "*",
        "?",
        "[ab]",
        "[!a]",
        "[a-c]",
        "/",
        ".",
        "\\",
        "[",
        "]",
        "[[:alpha:]]",
        "**",
        "-",
        "[]a]",
        "[^/]",
    ];
    for _ in 0..200000 {
        let (pattern, text) =
            (rng.text(&parts, 6), rng.text(&["a", "b", "A", "/", ".", "*", "\\", "-", "]"], 6));
        let flags = rng.below(32) as c_int;
        // glibc forgets that a `?` after a star has passed the start, and hides a later period.
        if flags & 4 != 0 && pattern.to_bytes().windows(2).any(|w| w == b"*?") {
            continue;
        }
        // SAFETY: C strings.
        unsafe {
            let got = crate::fnmatch::fnmatch(pattern.as_ptr(), text.as_ptr(), flags);
            let want = host::fnmatch(pattern.as_ptr(), text.as_ptr(), flags);
            assert_eq!(got, want, "{pattern:?} {text:?} {flags}");
        }
    }
    let groups = ["a", "b", "c", "?(a|b)c", "*(a|ab)c", "+(b|a?)", "@(a|b|)b", "!(a)c", "@(a|+(b))c"];
    for _ in 0..50000 {
        let (pattern, text) = (rng.text(&groups, 4), rng.text(&["a", "b", "c"], 6));
        if text.is_empty() {
            // glibc gives up at the end of the string where a group could match nothing.
            continue;
        }
        // SAFETY: C strings.
        unsafe {
            let got = crate::fnmatch::fnmatch(pattern.as_ptr(), text.as_ptr(), 32);
            assert_eq!(got, host::fnmatch(pattern.as_ptr(), text.as_ptr(), 32), "{pattern:?} {text:?}");
        }
    }
}

/// `glob_t` with room for the function pointers.
type Found = [usize; 9];

unsafe fn paths(found: &Found) -> Vec<String> {
    let list = found[1] as *const *const c_char;
    // SAFETY: glob(3) stored count and list.
    unsafe { (0..found[0]).map(|at| CStr::from_ptr(*list.add(at)).to_string_lossy().into_owned()).collect() }
}

#[test]
fn globs() {
    let root = std::env::temp_dir().join(std::format!("attacca-glob-{}", std::process::id()));
    for directory in ["a/b", "a/.h", "ab", "x y"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    for file in ["a/1.c", "a/2.c", "a/b/3.c", "ab/x", "[z]", "a/.h/f", ".dot", "b*c"] {
        std::fs::write(root.join(file), "").unwrap();
    }
    std::os::unix::fs::symlink("nowhere", root.join("dangling")).unwrap();
    let base = root.to_str().unwrap().to_string();
    let patterns = [
        "*",
        "a/*",
        "*/*.c",
        "*/*/*.c",
        "a*",
        "{a,ab}/*",
        "a/{1,2}.c",
        "nope*",
        "nope",
        "[[]z]",
        "\\[z\\]",
        ".*",
        "*/",
        "a//*",
        "d*",
        "{nope,a}",
        "a/{b,{1,2}.c}",
        "b\\*c",
        "x?y",
        "a/b/../*.c",
        "*/b",
        "dangling",
        "[",
        "a{b",
    ];
    for pattern in patterns {
        for flags in [0, 2, 4, 16, 128, 1024, 1024 | 16, 2048, 2048 | 1024, 8192, 64] {
            if flags & 8192 != 0 && pattern.contains('\\') {
                // Only a hint: glibc heeds it when it lists a directory, which it does here.
                continue;
            }
            let text = CString::new(std::format!("{base}/{pattern}")).unwrap();
            let (mut ours, mut theirs): (Found, Found) = ([0; 9], [0; 9]);
            // SAFETY: C strings and a glob_t.
            unsafe {
                let got = crate::glob::glob(text.as_ptr(), flags, None, (&raw mut ours).cast());
                let want = host::glob(text.as_ptr(), flags, core::ptr::null(), (&raw mut theirs).cast());
                assert_eq!(got, want, "{pattern} {flags}");
                if got == 0 {
                    let (mut a, mut b) = (paths(&ours), paths(&theirs));
                    if flags & 4 != 0 {
                        a.sort();
                        b.sort();
                    }
                    assert_eq!(a, b, "{pattern} {flags}");
                    if pattern.contains('*') && !pattern.contains('\\') {
                        assert_eq!(ours[3] as c_int & 256, theirs[3] as c_int & 256, "{pattern} {flags}");
                    }
                    crate::glob::globfree((&raw mut ours).cast());
                }
            }
        }
    }
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn conversions() {
    let mut rng = Rng(12);
    let sets = [
        "UTF-8",
        "ASCII",
        "ISO-8859-1",
        "ISO-8859-15",
        "CP1252",
        "UTF-16",
        "UTF-16LE",
        "UTF-16BE",
        "UTF-32",
        "UCS-2",
        "UCS-4",
        "WCHAR_T",
        "KOI8-R",
        "UTF-32BE",
    ];
    let pieces: [&[u8]; 12] = [
        b"a",
        b"\xc3\xa4",
        b"\xe2\x82\xac",
        b"\xf0\x9f\x98\x80",
        b"\0",
        b"\x80",
        b"\xd8\0",
        b"\xff\xfe",
        b"\xe2",
        b"z\0",
        b"\xc2\xab",
        b"\xd0\x90",
    ];
    for _ in 0..60000 {
        let (from, to) = (sets[rng.below(sets.len())], sets[rng.below(sets.len())]);
        let suffix = ["", "", "//TRANSLIT"][rng.below(3)];
        // glibc writes the byte order mark once more after a replacement.
        let marked = matches!(to, "UTF-16" | "UTF-32") && !suffix.is_empty();
        if from == to || marked || from == "WCHAR_T" {
            // glibc takes any number for a wide character and only then finds no bytes for it.
            continue;
        }
        let bytes: Vec<u8> =
            (0..rng.below(6)).flat_map(|_| pieces[rng.below(pieces.len())].to_vec()).collect();
        let room = rng.below(30);
        let (from, to) = (CString::new(from).unwrap(), CString::new(std::format!("{to}{suffix}")).unwrap());
        // SAFETY: buffers with their sizes.
        unsafe {
            let run = |open: unsafe extern "C" fn(*const c_char, *const c_char) -> *mut c_void,
                       conv: unsafe extern "C" fn(
                *mut c_void,
                *mut *mut c_char,
                *mut usize,
                *mut *mut c_char,
                *mut usize,
            ) -> usize,
                       errno: &dyn Fn() -> i32| {
                let handle = open(to.as_ptr(), from.as_ptr());
                let mut out = [0u8; 40];
                let (mut i, mut n, mut o, mut m) =
                    (bytes.as_ptr() as *mut c_char, bytes.len(), out.as_mut_ptr().cast(), room);
                let result = conv(handle, &mut i, &mut n, &mut o, &mut m);
                let error = if result == usize::MAX { errno() } else { 0 };
                (result, error, n, out[..room - m].to_vec())
            };
            let got = run(crate::iconv::iconv_open, crate::iconv::iconv, &|| crate::errno::get().0);
            let want = run(host::iconv_open, host::iconv, &|| *libc::__errno_location());
            // How far a failing conversion got with a full buffer depends on glibc's two steps.
            if want.1 == 7 || got.1 == 7 {
                continue;
            }
            assert_eq!(got, want, "{from:?} {to:?} {bytes:x?} {room}");
        }
    }
}

#[test]
fn options() {
    #[repr(C)]
    struct Long(*const c_char, c_int, *mut c_int, c_int);
    let long = [
        Long(c"alpha".as_ptr(), 0, null_mut(), 1),
        Long(c"alpine".as_ptr(), 1, null_mut(), 2),
        Long(c"beta".as_ptr(), 2, null_mut(), 3),
        Long(c"b".as_ptr(), 0, null_mut(), 4),
        Long(core::ptr::null(), 0, null_mut(), 0),
    ];
    let words = [
        "-a",
        "-b",
        "-bx",
        "-c",
        "-cx",
        "-ab",
        "--",
        "x",
        "y",
        "-",
        "--alpha",
        "--al",
        "--alp=1",
        "--alpine",
        "--beta=2",
        "--beta",
        "--bet",
        "-z",
        "--nope",
        "--alpha=1",
        "-alpha",
        "-W",
        "-Wbeta",
        "-be",
        "--b",
    ];
    let shorts = [c"abc::", c"+ab:c", c"-ab:c", c":ab:c::", c"ab:W;", c""];
    let mut rng = Rng(13);
    // SAFETY: getopt's globals are used by this test alone.
    unsafe {
        host::opterr = 0;
        *crate::getopt::OPTERR.get() = 0;
        for _ in 0..40000 {
            let arguments: Vec<CString> = core::iter::once("prog")
                .chain((0..rng.below(7)).map(|_| words[rng.below(words.len())]))
                .map(|w| CString::new(w).unwrap())
                .collect();
            let pointers =
                || arguments.iter().map(|a| a.as_ptr().cast_mut()).chain([null_mut()]).collect::<Vec<_>>();
            let (mut one, mut two) = (pointers(), pointers());
            let short = shorts[rng.below(shorts.len())];
            let only = rng.below(2) == 0;
            host::optind = 0;
            *crate::getopt::OPTIND.get() = 0;
            for _ in 0..20 {
                let n = arguments.len() as c_int;
                let (mut i, mut j) = (-1, -1);
                let table = long.as_ptr();
                let (got, want) = if only {
                    (
                        crate::getopt::getopt_long_only(
                            n,
                            one.as_mut_ptr(),
                            short.as_ptr(),
                            table.cast(),
                            &mut i,
                        ),
                        host::getopt_long_only(n, two.as_mut_ptr(), short.as_ptr(), table.cast(), &mut j),
                    )
                } else {
                    (
                        crate::getopt::getopt_long(n, one.as_mut_ptr(), short.as_ptr(), table.cast(), &mut i),
                        host::getopt_long(n, two.as_mut_ptr(), short.as_ptr(), table.cast(), &mut j),
                    )
                };
                let ours = (
                    got,
                    i,
                    *crate::getopt::OPTIND.get(),
                    *crate::getopt::OPTARG.get(),
                    *crate::getopt::OPTOPT.get(),
                );
                let theirs = (want, j, host::optind, host::optarg, host::optopt);
                assert_eq!(ours, theirs, "{arguments:?} {short:?} {only}");
                assert_eq!(one, two, "{arguments:?} {short:?} {only}");
                if got == -1 {
                    break;
                }
            }
        }
    }
}

mod tree {
    use crate::types::*;
    unsafe extern "C" {
        pub(super) fn fts_open(
            paths: *const *const c_char,
            options: c_int,
            compare: *const c_void,
        ) -> *mut c_void;
        pub(super) fn fts_read(fts: *mut c_void) -> *mut crate::fts::Ftsent;
        pub(super) fn fts_set(fts: *mut c_void, entry: *mut crate::fts::Ftsent, instr: c_int) -> c_int;
        pub(super) fn fts_close(fts: *mut c_void) -> c_int;
        pub(super) fn nftw(path: *const c_char, call: super::Visit, n: c_int, flags: c_int) -> c_int;
    }
}

type Visit = unsafe extern "C" fn(*const c_char, *const c_void, c_int, *mut [c_int; 2]) -> c_int;

std::thread_local! {
    static SEEN: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

unsafe extern "C" fn note(
    path: *const c_char,
    _stat: *const c_void,
    kind: c_int,
    place: *mut [c_int; 2],
) -> c_int {
    // SAFETY: nftw passes a string and a struct FTW.
    let line = unsafe { std::format!("{} {kind} {:?}", CStr::from_ptr(path).to_string_lossy(), *place) };
    SEEN.with(|seen| seen.borrow_mut().push(line));
    0
}

#[test]
fn trees() {
    let root = std::env::temp_dir().join(std::format!("attacca-fts-{}", std::process::id()));
    std::fs::create_dir_all(root.join("a/b/c")).unwrap();
    std::fs::create_dir_all(root.join("d")).unwrap();
    for file in ["a/1", "a/b/2", "a/b/c/3", "e"] {
        std::fs::write(root.join(file), "").unwrap();
    }
    std::os::unix::fs::symlink("nowhere", root.join("d/gone")).unwrap();
    std::os::unix::fs::symlink("../a", root.join("d/link")).unwrap();
    std::os::unix::fs::symlink("..", root.join("a/b/up")).unwrap();
    let path = CString::new(root.to_str().unwrap()).unwrap();
    unsafe extern "C" fn by_name(a: *const *const u8, b: *const *const u8) -> c_int {
        // SAFETY: entries, whose names start at 112.
        unsafe { crate::string::strcmp((*a).add(112).cast(), (*b).add(112).cast()) }
    }
    let file = CString::new(root.join("e").to_str().unwrap()).unwrap();
    let missing = CString::new(root.join("no").to_str().unwrap()).unwrap();
    let paths = [path.as_ptr(), file.as_ptr(), missing.as_ptr(), core::ptr::null()];
    for options in [0x10 | 4, 2 | 4, 0x10 | 4 | 0x20, 0x10 | 4 | 8, 0x10 | 1 | 4 | 0x40] {
        for skip in [false, true] {
            // SAFETY: documented uses of both libraries.
            unsafe {
                let mut walks: [Vec<String>; 2] = Default::default();
                for (ours, lines) in [true, false].into_iter().zip(&mut walks) {
                    let compare = by_name as *const c_void;
                    let fts = if ours {
                        crate::fts::fts_open(
                            paths.as_ptr(),
                            options,
                            Some(core::mem::transmute::<*const c_void, crate::fts::Compare>(compare)),
                        )
                        .cast()
                    } else {
                        tree::fts_open(paths.as_ptr(), options, compare)
                    };
                    loop {
                        let entry = if ours { crate::fts::fts_read(fts.cast()) } else { tree::fts_read(fts) };
                        if entry.is_null() {
                            break;
                        }
                        let name =
                            CStr::from_ptr(entry.cast::<c_char>().add(112)).to_string_lossy().into_owned();
                        lines.push(entry_line(entry));
                        if skip && name == "b" {
                            if ours {
                                crate::fts::fts_set(fts.cast(), entry, 4);
                            } else {
                                tree::fts_set(fts, entry, 4);
                            }
                        }
                    }
                    if ours {
                        crate::fts::fts_close(fts.cast());
                    } else {
                        tree::fts_close(fts);
                    }
                }
                assert_eq!(walks[0], walks[1], "options {options:x} skip {skip}");
            }
        }
    }
    for flags in [0, 1, 8, 9, 1 | 2] {
        // SAFETY: documented uses of both libraries.
        unsafe {
            assert_eq!(
                crate::fts::nftw(
                    path.as_ptr(),
                    core::mem::transmute::<Visit, crate::fts::Visit>(note),
                    8,
                    flags
                ),
                0
            );
            let mut ours = SEEN.with(|seen| seen.take());
            assert_eq!(tree::nftw(path.as_ptr(), note, 8, flags), 0);
            let mut theirs = SEEN.with(|seen| seen.take());
            if flags & 1 == 0 {
                // Which of two names of one directory is met first depends on the order of reading.
                ours.retain(|line| !line.contains("/d/") && !line.contains("/a/"));
                theirs.retain(|line| !line.contains("/d/") && !line.contains("/a/"));
            }
            ours.sort();
            theirs.sort();
            assert_eq!(ours, theirs, "flags {flags}");
        }
    }
    std::fs::remove_dir_all(root).unwrap();
}

/// What a program sees of an entry, by glibc's offsets.
unsafe fn entry_line(entry: *const crate::fts::Ftsent) -> String {
    let at = |offset: usize| entry.cast::<u8>().wrapping_add(offset);
    // SAFETY: an FTSENT of either library.
    unsafe {
        let text = |offset: usize| {
            CStr::from_ptr(*at(offset).cast::<*const c_char>()).to_string_lossy().into_owned()
        };
        let half = |offset: usize| *at(offset).cast::<i16>();
        let info = half(98);
        let cycle = !at(0).cast::<*const u8>().read().is_null() && info == 2;
        std::format!("{} level {} info {info} length {} cycle {cycle}", text(48), half(96), half(64))
    }
}
