//! Streams against the host's: the same random operations on two files, every answer compared.

use super::{Arg, Random, Stack};
use crate::stdio::bytes::*;
use crate::stdio::control::*;
use crate::stdio::file::{FILE, flag};
use crate::stdio::memory::*;
use crate::stdio::open::*;
use crate::stdio::wide::*;
use crate::types::*;
use core::ffi::CStr;
use core::ptr::null_mut;
use std::borrow::ToOwned;
use std::ffi::CString;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

fn temporary(name: &str) -> CString {
    let path = std::env::temp_dir().join(format!("attacca-stdio-{}-{name}", std::process::id()));
    CString::new(path.to_str().unwrap()).unwrap()
}

fn contents(path: &CStr) -> Vec<u8> {
    std::fs::read(path.to_str().unwrap()).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Getc,
    Ungetc(u8),
    Putc(u8),
    Read(usize),
    Write(usize, u8),
    Gets(c_int),
    Puts(usize),
    Seek(i64, c_int),
    Tell,
    Flush,
    Rewind,
    Clear,
    Eof,
    Buffering(c_int, usize),
    Getline,
}

fn random_step(random: &mut Random) -> Step {
    match random.below(30) {
        0..5 => Step::Getc,
        5..7 => Step::Ungetc(random.below(256) as u8),
        7..10 => Step::Putc(random.pick(b"abc\nxyz")),
        10..13 => {
            Step::Read(if random.below(8) == 0 { random.below(9000) } else { random.below(40) } as usize)
        }
        13..17 => Step::Write(
            if random.below(8) == 0 { random.below(9000) } else { random.below(40) } as usize,
            random.below(256) as u8,
        ),
        17..19 => Step::Gets(random.below(30) as c_int),
        19 => Step::Puts(random.below(20) as usize),
        20..23 => Step::Seek(
            random.below(6000) as i64 - if random.below(2) == 0 { 0 } else { 3000 },
            random.below(3) as c_int,
        ),
        23..25 => Step::Tell,
        25 => Step::Flush,
        26 => random.pick(&[0, 1]).then(Step::Rewind, Step::Clear),
        27 => Step::Eof,
        28 => Step::Getline,
        _ => Step::Buffering(random.below(3) as c_int, 0),
    }
}

trait Then {
    fn then<T>(self, one: T, other: T) -> T;
}
impl Then for i32 {
    fn then<T>(self, one: T, other: T) -> T {
        if self == 0 { one } else { other }
    }
}

/// What a step answers: a number and bytes.
type Answer = (i64, Vec<u8>);

unsafe fn theirs(file: *mut libc::FILE, step: &Step) -> Answer {
    let mut bytes = std::vec![0u8; 9001];
    // SAFETY: the host's functions on the host's stream.
    unsafe {
        let number = match *step {
            Step::Getc => libc::fgetc(file) as i64,
            Step::Ungetc(byte) => libc::ungetc(byte as c_int, file) as i64,
            Step::Putc(byte) => libc::fputc(byte as c_int, file) as i64,
            Step::Read(len) => libc::fread(bytes.as_mut_ptr().cast(), 1, len, file) as i64,
            Step::Write(len, byte) => libc::fwrite(std::vec![byte; len].as_ptr().cast(), 1, len, file) as i64,
            Step::Gets(len) => i64::from(!libc::fgets(bytes.as_mut_ptr().cast(), len, file).is_null()),
            Step::Puts(len) => i64::from(libc::fputs(line(len).as_ptr(), file) >= 0),
            Step::Seek(offset, whence) => libc::fseek(file, offset, whence) as i64,
            Step::Tell => libc::ftell(file),
            Step::Flush => libc::fflush(file) as i64,
            Step::Rewind => {
                libc::rewind(file);
                0
            }
            Step::Clear => {
                libc::clearerr(file);
                0
            }
            Step::Eof => (libc::feof(file) != 0) as i64 | ((libc::ferror(file) != 0) as i64) << 1,
            Step::Buffering(kind, size) => libc::setvbuf(file, null_mut(), kind, size) as i64,
            Step::Getline => {
                let (mut text, mut size) = (null_mut(), 0);
                let n = libc::getline(&mut text, &mut size, file) as i64;
                libc::free(text.cast());
                n
            }
        };
        (number, bytes)
    }
}

unsafe fn ours(file: *mut FILE, step: &Step) -> Answer {
    let mut bytes = std::vec![0u8; 9001];
    // SAFETY: our functions on our stream.
    unsafe {
        let number = match *step {
            Step::Getc => fgetc(file) as i64,
            Step::Ungetc(byte) => ungetc(byte as c_int, file) as i64,
            Step::Putc(byte) => fputc(byte as c_int, file) as i64,
            Step::Read(len) => fread(bytes.as_mut_ptr().cast(), 1, len, file) as i64,
            Step::Write(len, byte) => fwrite(std::vec![byte; len].as_ptr().cast(), 1, len, file) as i64,
            Step::Gets(len) => i64::from(!fgets(bytes.as_mut_ptr().cast(), len, file).is_null()),
            Step::Puts(len) => i64::from(fputs(line(len).as_ptr(), file) >= 0),
            Step::Seek(offset, whence) => fseek(file, offset, whence) as i64,
            Step::Tell => ftell(file),
            Step::Flush => fflush(file) as i64,
            Step::Rewind => {
                rewind(file);
                0
            }
            Step::Clear => {
                clearerr(file);
                0
            }
            Step::Eof => (feof(file) != 0) as i64 | ((ferror(file) != 0) as i64) << 1,
            Step::Buffering(kind, size) => setvbuf(file, null_mut(), kind, size) as i64,
            Step::Getline => {
                let (mut text, mut size) = (null_mut(), 0);
                let n = getline(&mut text, &mut size, file) as i64;
                crate::malloc::free(text.cast());
                n
            }
        };
        (number, bytes)
    }
}

fn line(len: usize) -> CString {
    CString::new(format!("{}\n{}", "l".repeat(len), "m".repeat(len / 2))).unwrap()
}

/// C11 7.21.5.3: between reading and writing stands a flush or a seek. Without one the outcome is
/// undefined, so the sequences here put one in.
fn kind(step: &Step) -> i32 {
    match step {
        Step::Getc | Step::Ungetc(_) | Step::Read(_) | Step::Gets(_) | Step::Getline => 1,
        Step::Putc(_) | Step::Write(..) | Step::Puts(_) => 2,
        _ => 0,
    }
}

fn compare(mode: &CStr, seed: u64, pushing: bool) {
    let paths = [temporary(&format!("host-{seed}")), temporary(&format!("ours-{seed}"))];
    for path in &paths {
        let text: String =
            (0..400).map(|n| format!("line {n}{}", if n % 7 == 0 { "\n" } else { " " })).collect();
        std::fs::write(path.to_str().unwrap(), text).unwrap();
    }
    let mut random = Random(seed * 7919 + 1);
    let mut done = Vec::new();
    // SAFETY: open streams of both sides.
    unsafe {
        let (their_file, our_file) =
            (libc::fopen(paths[0].as_ptr(), mode.as_ptr()), fopen(paths[1].as_ptr(), mode.as_ptr()));
        assert!(!their_file.is_null() && !our_file.is_null());
        let (mut last, mut pushed) = (0, false);
        for _ in 0..60 {
            let step = random_step(&mut random);
            if matches!(step, Step::Ungetc(_))
                && (!pushing || pushed || last == 2 || matches!(mode.to_bytes(), b"w" | b"a"))
            {
                continue;
            }
            // Changing the buffer is for fresh streams (C11 7.21.5.6).
            if matches!(step, Step::Buffering(..)) && !done.is_empty() {
                continue;
            }
            let mut steps = std::vec![step.clone()];
            if kind(&step) != 0 && last != 0 && kind(&step) != last || (pushed && kind(&step) != 1) {
                steps.insert(0, Step::Seek(random.below(3000) as i64, 0));
            }
            for step in steps {
                done.push(step.clone());
                let (want, got) = (theirs(their_file, &step), ours(our_file, &step));
                assert!(
                    got == want,
                    "{mode:?} seed {seed}: {} not {} after {:?}",
                    got.0,
                    want.0,
                    &done[done.len().saturating_sub(8)..]
                );
                match step {
                    Step::Seek(..) | Step::Rewind => (last, pushed) = (0, false),
                    Step::Ungetc(_) => (last, pushed) = (1, true),
                    other if kind(&other) != 0 => (last, pushed) = (kind(&other), false),
                    _ => {}
                }
            }
        }
        assert_eq!(fclose(our_file), libc::fclose(their_file), "{mode:?} seed {seed}");
    }
    assert!(contents(&paths[0]) == contents(&paths[1]), "{mode:?} seed {seed}: the files differ");
    for path in &paths {
        let _ = std::fs::remove_file(path.to_str().unwrap());
    }
}

#[test]
fn random_operations_agree() {
    for seed in 0..300 {
        for mode in [c"r+", c"w+", c"a+", c"r", c"w", c"a"] {
            compare(mode, seed, seed % 2 == 0);
        }
    }
}

#[test]
fn modes_are_parsed_as_glibc_does() {
    let path = temporary("modes");
    std::fs::write(path.to_str().unwrap(), "x").unwrap();
    // SAFETY: C strings.
    unsafe {
        for mode in [
            c"rb",
            c"r+b",
            c"rb+",
            c"re",
            c"wx",
            c"",
            c"q",
            c"r,ccs=UTF-8",
            c"r,ccs=NOPE",
            c"rZZ+",
            c"abcdefg+",
        ] {
            let (theirs, ours) =
                (libc::fopen(path.as_ptr(), mode.as_ptr()), fopen(path.as_ptr(), mode.as_ptr()));
            assert_eq!(ours.is_null(), theirs.is_null(), "{mode:?}");
            if !ours.is_null() {
                let flags = |fd| (libc::fcntl(fd, libc::F_GETFL), libc::fcntl(fd, libc::F_GETFD));
                assert_eq!(flags(fileno(ours)), flags(libc::fileno(theirs)), "{mode:?}");
                fclose(ours);
                libc::fclose(theirs);
            }
        }
        let _ = libc::unlink(path.as_ptr());
    }
}

#[test]
fn inlined_macros_find_their_fields() {
    let path = temporary("macros");
    std::fs::write(path.to_str().unwrap(), "ab").unwrap();
    // SAFETY: an open stream, looked at as glibc's headers do.
    unsafe {
        let file = fopen(path.as_ptr(), c"r+".as_ptr());
        assert_eq!(fgetc(file), c_int::from(b'a'));
        let word = |offset: usize| file.cast::<u8>().add(offset).cast::<*const u8>().read();
        assert_eq!(*word(8), b'b');
        assert_eq!(word(16) as usize - word(8) as usize, 1);
        assert!(word(40) >= word(48), "putc_unlocked must call while reading");
        fgetc(file);
        assert_eq!(fgetc(file), -1);
        assert_eq!(file.cast::<c_int>().read() & 0x30, 0x10);
        assert_eq!(__uflow(file), -1, "the end is sticky");
        fclose(file);
        let _ = libc::unlink(path.as_ptr());
    }
}

#[test]
fn pushes_back_more_than_was_read() {
    let path = temporary("push");
    std::fs::write(path.to_str().unwrap(), "0123456789").unwrap();
    // SAFETY: an open stream.
    unsafe {
        let file = fopen(path.as_ptr(), c"r".as_ptr());
        assert_eq!(fgetc(file), c_int::from(b'0'));
        for index in 0..300 {
            assert_eq!(
                ungetc(c_int::from(b'a' + (index % 26) as u8), file) & 0xff,
                c_int::from(b'a' + (index % 26) as u8)
            );
        }
        for index in (0..300).rev() {
            assert_eq!(fgetc(file), c_int::from(b'a' + (index % 26) as u8));
        }
        assert_eq!(fgetc(file), c_int::from(b'1'));
        assert_eq!(ftell(file), 2);
        fclose(file);
        let _ = libc::unlink(path.as_ptr());
    }
}

#[test]
fn memory_streams_work() {
    // SAFETY: streams and places of this test.
    unsafe {
        let (mut text, mut size) = (null_mut(), 0usize);
        let file = open_memstream(&mut text, &mut size);
        let big = "0123456789".repeat(500);
        assert!(fputs(CString::new(big.clone()).unwrap().as_ptr(), file) >= 0);
        assert_eq!(fflush(file), 0);
        assert_eq!((size, CStr::from_ptr(text).to_bytes()), (5000, big.as_bytes()));
        assert_eq!(fseek(file, 2, 0), 0);
        fputc(c_int::from(b'x'), file);
        assert_eq!(fseek(file, 0, 2), 0);
        fputs(c"end".as_ptr(), file);
        assert_eq!(fclose(file), 0);
        assert_eq!((size, &CStr::from_ptr(text).to_bytes()[..4]), (5003, b"01x3".as_slice()));
        crate::malloc::free(text.cast());

        let (mut wide, mut count) = (null_mut(), 0usize);
        let file = open_wmemstream(&mut wide, &mut count);
        fputwc(0x20ac, file);
        fputwc(65, file);
        assert_eq!(fclose(file), 0);
        assert_eq!((count, core::slice::from_raw_parts(wide, 3)), (2, [0x20ac, 65, 0].as_slice()));
        crate::malloc::free(wide.cast());
    }
}

#[test]
fn windows_agree() {
    for mode in [c"r", c"w", c"a", c"r+", c"w+", c"a+"] {
        for (start, size) in [(&b"hello\0world"[..], 11usize), (b"full", 4), (b"\0\0\0\0", 4), (b"x", 1)] {
            for text in ["", "a", "abc", "abcdefghijkl"] {
                let run = |host: bool| {
                    let mut memory = start.to_vec();
                    let text = CString::new(text).unwrap();
                    let mut read = [0u8; 20];
                    // SAFETY: streams over this memory.
                    let answers = unsafe {
                        if host {
                            let f = libc::fmemopen(memory.as_mut_ptr().cast(), size, mode.as_ptr());
                            let put = libc::fputs(text.as_ptr(), f) >= 0;
                            let flushed = libc::fflush(f);
                            let at = libc::ftell(f);
                            let sought = libc::fseek(f, 0, 0);
                            let got = libc::fread(read.as_mut_ptr().cast(), 1, 20, f);
                            let end = libc::fseek(f, 0, 2);
                            let at_end = libc::ftell(f);
                            (put, flushed, at, sought, got, end, at_end, libc::fclose(f))
                        } else {
                            let f = fmemopen(memory.as_mut_ptr().cast(), size, mode.as_ptr());
                            let put = fputs(text.as_ptr(), f) >= 0;
                            let flushed = fflush(f);
                            let at = ftell(f);
                            let sought = fseek(f, 0, 0);
                            let got = fread(read.as_mut_ptr().cast(), 1, 20, f);
                            let end = fseek(f, 0, 2);
                            let at_end = ftell(f);
                            (put, flushed, at, sought, got, end, at_end, fclose(f))
                        }
                    };
                    (answers, memory, read)
                };
                assert_eq!(run(false), run(true), "{mode:?} {start:?} {text:?}");
            }
        }
    }
}

#[test]
fn keeps_the_descriptor_number() {
    let (one, two) = (temporary("one"), temporary("two"));
    // SAFETY: open streams.
    unsafe {
        let file = fopen(one.as_ptr(), c"w".as_ptr());
        let fd = fileno(file);
        fputs(c"first".as_ptr(), file);
        assert_eq!(freopen(two.as_ptr(), c"w".as_ptr(), file), file);
        assert_eq!(fileno(file), fd);
        fputs(c"second".as_ptr(), file);
        assert_eq!(freopen(core::ptr::null(), c"a".as_ptr(), file), file);
        fputs(c"+".as_ptr(), file);
        assert_eq!(ftell(file), 7);
        fclose(file);
        assert_eq!((contents(&one), contents(&two)), (b"first".to_vec(), b"second+".to_vec()));
        let _ = (libc::unlink(one.as_ptr()), libc::unlink(two.as_ptr()));
    }
}

#[test]
fn buffers_as_asked() {
    let mut ends = [0; 2];
    // SAFETY: a pipe of this test.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK), 0);
        let mut seen = [0u8; 100];
        let mut arrived = || libc::read(ends[0], seen.as_mut_ptr().cast(), 100);
        let file = fdopen(ends[1], c"w".as_ptr());
        fputs(c"full\n".as_ptr(), file);
        assert_eq!(arrived(), -1, "fully buffered");
        assert_eq!(__fpending(file), 5);
        setvbuf(file, null_mut(), 1, 0);
        fputs(c"a\nb".as_ptr(), file);
        assert_eq!(arrived(), 7, "line buffered: up to the newline");
        fputc(c_int::from(b'\n'), file);
        assert_eq!(arrived(), 2);
        setvbuf(file, null_mut(), 2, 0);
        fputs(c"now".as_ptr(), file);
        assert_eq!(arrived(), 3, "unbuffered");
        let stack = Stack::new(&[Arg::Int(5)]);
        crate::stdio::printf::vfprintf(file, c"one %d write\n".as_ptr(), &mut stack.list());
        assert_eq!(arrived(), 12);
        assert!((*file).has(flag::UNBUFFERED));
        fclose(file);
        libc::close(ends[0]);
    }
}

#[test]
fn threads_do_not_tear_lines() {
    let path = temporary("threads");
    // SAFETY: an open stream, used under its lock.
    unsafe {
        let file = fopen(path.as_ptr(), c"w".as_ptr()) as usize;
        let threads: Vec<_> = (0..4)
            .map(|n| {
                std::thread::spawn(move || {
                    let line =
                        CString::new(format!("{}\n", char::from(b'a' + n).to_string().repeat(50))).unwrap();
                    for _ in 0..2000 {
                        fputs(line.as_ptr(), file as *mut FILE);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        fclose(file as *mut FILE);
    }
    let text = contents(&path);
    assert_eq!(text.len(), 4 * 2000 * 51);
    assert!(text.split(|b| *b == b'\n').all(|line| line.iter().all(|b| *b == line[0])));
    let _ = std::fs::remove_file(path.to_str().unwrap());
}

#[test]
fn cookies_are_called() {
    unsafe extern "C" fn write(cookie: *mut c_void, from: *const c_char, len: usize) -> ssize_t {
        // SAFETY: the cookie is the test's vector.
        unsafe {
            (*cookie.cast::<Vec<u8>>()).extend_from_slice(core::slice::from_raw_parts(from.cast(), len));
        }
        len as ssize_t
    }
    let mut got: Vec<u8> = Vec::new();
    // SAFETY: the vector outlives the stream.
    unsafe {
        let file = fopencookie((&raw mut got).cast(), c"w".as_ptr(), CookieFunctions::writing(write));
        fputs(c"through a cookie".as_ptr(), file);
        assert_eq!(fileno(file), -1);
        assert_eq!(fclose(file), 0);
    }
    assert_eq!(got, b"through a cookie");
}

#[test]
fn wide_characters_pass_as_utf8() {
    let path = temporary("wide");
    // SAFETY: open streams and strings of this test.
    unsafe {
        let file = fopen(path.as_ptr(), c"w,ccs=UTF-8".as_ptr());
        let text: Vec<wchar_t> = "grüße €𝄞\n".chars().map(|c| c as wchar_t).chain([0]).collect();
        assert_eq!(fputws(text.as_ptr(), file), 1);
        assert_eq!(fputs(c"bytes".as_ptr(), file), -1, "a wide stream takes no bytes");
        assert_eq!(fclose(file), 0);
        assert_eq!(contents(&path), "grüße €𝄞\n".as_bytes());

        let file = fopen(path.as_ptr(), c"r,ccs=UTF-8".as_ptr());
        assert_eq!((fgetwc(file), fgetwc(file), fgetwc(file)), (0x67, 0x72, 0xfc));
        assert_eq!(ungetwc(0x20ac, file), 0x20ac);
        assert_eq!(fgetwc(file), 0x20ac);
        let mut line = [0; 20];
        assert!(!fgetws(line.as_mut_ptr(), 20, file).is_null());
        assert_eq!(line[..7], text[3..10]);
        assert_eq!(fgetwc(file), WEOF);
        assert_eq!(feof(file), 1);
        fclose(file);

        let file = fopen(path.as_ptr(), c"r,ccs=ASCII".as_ptr());
        fgetwc(file);
        fgetwc(file);
        assert_eq!((fgetwc(file), ferror(file)), (WEOF, 1));
        fclose(file);
        let _ = libc::unlink(path.as_ptr());
    }
}

#[test]
fn exit_writes_everything_and_gives_input_back() {
    let path = temporary("exit");
    std::fs::write(path.to_str().unwrap(), "0123456789").unwrap();
    // SAFETY: open streams of this test; other tests' streams are locked, and survive being unbuffered.
    unsafe {
        let input = fopen(path.as_ptr(), c"r".as_ptr());
        fgetc(input);
        fgetc(input);
        assert_eq!(libc::lseek(fileno(input), 0, 1), 10);
        crate::stdio::buffer::finish(&mut *input);
        assert_eq!(libc::lseek(fileno(input), 0, 1), 2, "the next reader goes on behind what was read");
        fclose(input);
        let output = fopen(path.as_ptr(), c"w".as_ptr());
        fputs(c"kept".as_ptr(), output);
        crate::stdio::buffer::finish(&mut *output);
        assert_eq!(contents(&path), b"kept");
        fputs(c" later".as_ptr(), output);
        assert_eq!(contents(&path), b"kept later", "what destructors print still comes out");
        fclose(output);
        let _ = libc::unlink(path.as_ptr());
    }
}

#[test]
fn digits_agree() {
    use super::host;
    use crate::stdio::convert;
    let mut random = Random(77);
    let mut table =
        std::vec![0.0, -0.0, 1.0, -1.5, 0.1, 0.001, 123.456, 9.9999, 1e15, 1e-10, f64::NAN, f64::INFINITY];
    table.extend((0..3000).map(|_| random.below(1_000_000_000) as f64 / 1024.0 - 1e4));
    for value in table {
        for digits in [0, 1, 2, 5, 10, 15] {
            let answer = |f: unsafe extern "C" fn(f64, c_int, *mut c_int, *mut c_int) -> *mut c_char| {
                let (mut point, mut sign) = (-99, -99);
                // SAFETY: places of ours; the result is a static string.
                let text = unsafe { CStr::from_ptr(f(value, digits, &mut point, &mut sign)) }.to_owned();
                (text, point, sign)
            };
            assert_eq!(answer(convert::fcvt), answer(host::fcvt), "fcvt({value}, {digits})");
            let ours = answer(convert::ecvt);
            // "10" for one digit of 9.9999 is what glibc makes of a carry.
            let carried =
                ours.0.to_bytes().first() == Some(&b'1') && ours.0.to_bytes()[1..].iter().all(|b| *b == b'0');
            if !carried {
                let theirs = answer(host::ecvt);
                let number = |text: &CStr| text.to_str().unwrap().parse::<i64>().unwrap_or(0);
                let apart = number(&ours.0) - number(&theirs.0);
                // Ties in the last place: glibc's scaling is inexact.
                assert!(apart.abs() <= 1, "ecvt({value}, {digits})");
                assert_eq!((ours.1, ours.2), (theirs.1, theirs.2), "ecvt({value}, {digits})");
            }
        }
        for format in [c"%.3f", c"%g", c"%.10e", c"%a", c"%G"] {
            let (mut theirs, mut ours) = ([1; 40], [1; 40]);
            // SAFETY: rooms of ours.
            let answers = unsafe {
                (
                    host::strfromd(theirs.as_mut_ptr(), 12, format.as_ptr(), value),
                    convert::strfromd(ours.as_mut_ptr(), 12, format.as_ptr(), value),
                )
            };
            assert_eq!((answers.1, ours), (answers.0, theirs), "{format:?} {value}");
        }
    }
}
