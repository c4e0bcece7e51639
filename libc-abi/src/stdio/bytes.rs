//! Characters, lines and blocks: getc, gets, getline, fread, putc, puts, fwrite, ungetc, perror.
//!
//! Each function holds the stream's lock for its length; the `_unlocked` forms leave that to the
//! program.

use super::file::{EOF, FILE, flag, stderr, stdin, stdout};
use super::fortify::chk_fail;
use crate::errno;
use crate::malloc;
use crate::stdio::c_bytes;
use crate::string_evex;
use crate::types::*;
use core::ffi::CStr;
use core::ptr::null_mut;
use platform::Errno;

impl FILE {
    /// Calls `take` with what is readable until it answers how many bytes it wanted of a piece
    /// (`true`: enough). Stops at the end of the file or an error.
    fn pieces(&mut self, mut take: impl FnMut(&[u8]) -> (usize, bool)) {
        loop {
            if self.fill().is_err() {
                return;
            }
            // SAFETY: `fill` left `readable()` bytes at `read_ptr`.
            let piece = unsafe { core::slice::from_raw_parts(self.read_ptr, self.readable()) };
            let (used, enough) = take(piece);
            // SAFETY: `used` is at most the piece's length.
            self.read_ptr = unsafe { self.read_ptr.add(used) };
            if enough {
                return;
            }
        }
    }
}

/// `fgets`: at most `size - 1` bytes up to and with a newline. An error that is older than the call
/// does not make it fail, nor does one after which nothing more was to come (EAGAIN with bytes read).
fn get_line(f: &mut FILE, into: *mut c_char, size: c_int) -> *mut c_char {
    if size <= 0 {
        return null_mut();
    }
    let into = into.cast::<u8>();
    let (room, mut len) = (size as usize - 1, 0);
    if let Some(line) = whole_line(f, room) {
        // SAFETY: the line is at most `room` bytes long, its end the last of `size`.
        unsafe {
            core::ptr::copy_nonoverlapping(f.read_ptr, into, line);
            *into.add(line) = 0;
            f.read_ptr = f.read_ptr.add(line);
        }
        return into.cast();
    }
    let old_error = f.flags & flag::ERR_SEEN;
    f.flags &= !flag::ERR_SEEN;
    if room > 0 {
        f.pieces(|piece| {
            let piece = &piece[..piece.len().min(room - len)];
            let newline = memchr::memchr(b'\n', piece);
            let take = newline.map_or(piece.len(), |at| at + 1);
            // SAFETY: the caller has room for `size` bytes; `len + take` is below that.
            unsafe { core::ptr::copy_nonoverlapping(piece.as_ptr(), into.add(len), take) };
            len += take;
            (take, newline.is_some() || len == room)
        });
    }
    let failed = f.has(flag::ERR_SEEN) && errno::get() != Errno::EAGAIN;
    f.flags |= old_error;
    if (len == 0 && room > 0) || failed {
        return null_mut();
    }
    // SAFETY: as above; the NUL is the last of `size` bytes at most.
    unsafe { *into.add(len) = 0 };
    into.cast()
}

/// The length of the next line, if all of it is in the buffer and in `room` bytes: most are.
#[inline]
fn whole_line(f: &mut FILE, room: usize) -> Option<usize> {
    f.orient_bytes();
    if f.has(flag::CURRENTLY_PUTTING) {
        return None;
    }
    let at = f.read_ptr.cast_const().cast();
    // SAFETY: as many bytes can be read there.
    let end = unsafe { string_evex::find_byte(at, b'\n', f.readable().min(room)) };
    (!end.is_null()).then(|| end as usize - at as usize + 1)
}

/// `getdelim`: a line of any length in memory that grows.
unsafe fn get_delimited(f: &mut FILE, line: *mut *mut c_char, size: *mut usize, delimiter: c_int) -> ssize_t {
    if line.is_null() || size.is_null() {
        errno::set(Errno::EINVAL);
        return -1;
    }
    // glibc answers -1 on a stream whose error indicator is set, before reading anything.
    if f.has(flag::ERR_SEEN) {
        return -1;
    }
    let (mut len, mut short) = (0usize, false);
    // SAFETY: `*line` is null or a malloc block of `*size` bytes (getline(3)); it is grown before bytes
    // are put behind its end.
    unsafe {
        if (*line).is_null() {
            *size = 0;
        }
        f.pieces(|piece| {
            let found = memchr::memchr(delimiter as u8, piece);
            let take = found.map_or(piece.len(), |at| at + 1);
            if !grow(line, size, len + take + 1) {
                short = true;
                return (0, true);
            }
            core::ptr::copy_nonoverlapping(piece.as_ptr(), (*line).cast::<u8>().add(len), take);
            len += take;
            (take, found.is_some())
        });
        if short || len == 0 {
            return -1;
        }
        *(*line).cast::<u8>().add(len) = 0;
    }
    len as ssize_t
}

/// Grows a `getline` buffer to hold `needed` bytes: at least 120, then doubling (glibc's steps).
unsafe fn grow(line: *mut *mut c_char, size: *mut usize, needed: usize) -> bool {
    // SAFETY: as for `get_delimited`.
    unsafe {
        if needed <= *size && !(*line).is_null() {
            return true;
        }
        let wanted = needed.max(*size * 2).max(120);
        let block = malloc::realloc((*line).cast(), wanted);
        if block.is_null() {
            errno::set(Errno::ENOMEM);
            return false;
        }
        *line = block.cast();
        *size = wanted;
    }
    true
}

/// `gets`: a line of any length from stdin, without its newline.
unsafe fn get_unbounded(into: *mut c_char, room: usize) -> *mut c_char {
    locked!(stdin(), |f| {
        let (mut len, mut ended) = (0usize, false);
        f.pieces(|piece| {
            let newline = memchr::memchr(b'\n', piece);
            let take = newline.unwrap_or(piece.len());
            if len.saturating_add(take) >= room {
                chk_fail();
            }
            // SAFETY: the program claims that the line fits; the checked form has just made sure.
            unsafe { core::ptr::copy_nonoverlapping(piece.as_ptr(), into.cast::<u8>().add(len), take) };
            len += take;
            ended = newline.is_some();
            (take + usize::from(ended), ended)
        });
        if len == 0 && !ended {
            return null_mut();
        }
        // SAFETY: as above.
        unsafe { *into.add(len) = 0 };
        into
    })
}

fn read_items(f: &mut FILE, into: *mut c_void, size: usize, count: usize) -> usize {
    let bytes = size.wrapping_mul(count);
    if bytes == 0 {
        return 0;
    }
    // SAFETY: the program's memory has room for `count` items.
    let got = unsafe { f.read_bytes(into.cast(), bytes) };
    if got == bytes { count } else { got / size }
}

fn write_items(f: &mut FILE, from: *const c_void, size: usize, count: usize) -> usize {
    let bytes = size.wrapping_mul(count);
    if bytes == 0 || f.bytes_only().is_err() {
        return 0;
    }
    // SAFETY: the program's memory holds `count` items.
    let written = f.write_bytes(unsafe { core::slice::from_raw_parts(from.cast(), bytes) });
    if written == bytes { count } else { written / size }
}

fn put_string(f: &mut FILE, text: *const c_char) -> c_int {
    if f.bytes_only().is_err() {
        return EOF;
    }
    // SAFETY: a C string.
    let bytes = unsafe { c_bytes(text) };
    if f.write_bytes(bytes) == bytes.len() { 1 } else { EOF }
}

fn check_read(bytes: usize, count: usize, room: usize) {
    if bytes.checked_mul(count).is_none_or(|all| all > room) {
        chk_fail();
    }
}

/// The text of an error number, as strerror(3) gives it in the C locale, and of no number.
pub(crate) fn error_text(number: c_int, into: &mut [u8; 40]) -> &[u8] {
    // SAFETY: null or a static C string.
    unsafe {
        let known = crate::strerror::strerrordesc_np(number);
        if !known.is_null() {
            return CStr::from_ptr(known).to_bytes();
        }
    }
    use core::fmt::Write;
    struct Cursor<'a>(&'a mut [u8; 40], usize);
    impl Write for Cursor<'_> {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            self.0[self.1..self.1 + text.len()].copy_from_slice(text.as_bytes());
            self.1 += text.len();
            Ok(())
        }
    }
    let mut cursor = Cursor(into, 0);
    let _ = write!(cursor, "Unknown error {number}");
    let len = cursor.1;
    &into[..len]
}

abi! { EXPORTS "libc.so.6":
    /// fgetc(3).
    "GLIBC_2.2.5" fn fgetc(file: *mut FILE) -> c_int { locked!(file, |f| f.getc()) }
    /// getchar(3).
    "GLIBC_2.2.5" fn getchar() -> c_int { locked!(stdin(), |f| f.getc()) }
    /// getc_unlocked(3).
    "GLIBC_2.2.5" fn getc_unlocked(file: *mut FILE) -> c_int { unlocked!(file, |f| f.getc()) }
    /// getchar_unlocked(3).
    "GLIBC_2.2.5" fn getchar_unlocked() -> c_int { unlocked!(stdin(), |f| f.getc()) }
    /// What an inlined getc_unlocked calls when the buffer is empty.
    "GLIBC_2.2.5" fn __uflow(file: *mut FILE) -> c_int { unlocked!(file, |f| f.uflow()) }
    /// Fills the buffer without taking a byte.
    "GLIBC_2.2.5" fn __underflow(file: *mut FILE) -> c_int { unlocked!(file, |f| f.underflow()) }
    /// What an inlined putc_unlocked calls when it may not just put the byte.
    "GLIBC_2.2.5" fn __overflow(file: *mut FILE, c: c_int) -> c_int {
        unlocked!(file, |f| match c {
            EOF => if f.flush_pending().is_err() { EOF } else { 0 },
            byte => f.overflow(byte as u8),
        })
    }
    /// fputc(3).
    "GLIBC_2.2.5" fn fputc(c: c_int, file: *mut FILE) -> c_int { locked!(file, |f| f.putc(c as u8)) }
    /// putchar(3).
    "GLIBC_2.2.5" fn putchar(c: c_int) -> c_int { locked!(stdout(), |f| f.putc(c as u8)) }
    /// putc_unlocked(3).
    "GLIBC_2.2.5" fn putc_unlocked(c: c_int, file: *mut FILE) -> c_int { unlocked!(file, |f| f.putc(c as u8)) }
    /// putchar_unlocked(3).
    "GLIBC_2.2.5" fn putchar_unlocked(c: c_int) -> c_int { unlocked!(stdout(), |f| f.putc(c as u8)) }
    /// ungetc(3).
    "GLIBC_2.2.5" fn ungetc(c: c_int, file: *mut FILE) -> c_int {
        if c == EOF {
            return EOF;
        }
        locked!(file, |f| if f.unget(c as u8).is_ok() { c & 0xff } else { EOF })
    }
    /// fgets(3).
    "GLIBC_2.2.5" fn fgets(into: *mut c_char, size: c_int, file: *mut FILE) -> *mut c_char {
        locked!(file, |f| get_line(f, into, size))
    }
    /// fgets_unlocked(3).
    "GLIBC_2.2.5" fn fgets_unlocked(into: *mut c_char, size: c_int, file: *mut FILE) -> *mut c_char {
        unlocked!(file, |f| get_line(f, into, size))
    }
    /// fgets, checked.
    "GLIBC_2.4" fn __fgets_chk(into: *mut c_char, room: usize, size: c_int, file: *mut FILE) -> *mut c_char {
        if size > 0 && size as usize > room {
            chk_fail();
        }
        locked!(file, |f| get_line(f, into, size))
    }
    /// fgets_unlocked, checked.
    "GLIBC_2.4" fn __fgets_unlocked_chk(
        into: *mut c_char, room: usize, size: c_int, file: *mut FILE,
    ) -> *mut c_char {
        if size > 0 && size as usize > room {
            chk_fail();
        }
        unlocked!(file, |f| get_line(f, into, size))
    }
    /// gets(3): withdrawn, still there for old programs.
    "GLIBC_2.2.5" fn gets(into: *mut c_char) -> *mut c_char {
        // SAFETY: the program claims that the line fits.
        unsafe { get_unbounded(into, usize::MAX) }
    }
    /// gets, checked.
    "GLIBC_2.3.4" fn __gets_chk(into: *mut c_char, room: usize) -> *mut c_char {
        // SAFETY: checked.
        unsafe { get_unbounded(into, room) }
    }
    /// getdelim(3).
    "GLIBC_2.2.5" fn getdelim(
        line: *mut *mut c_char, size: *mut usize, delimiter: c_int, file: *mut FILE,
    ) -> ssize_t {
        // SAFETY: the program's line and size, as getline(3) says.
        locked!(file, |f| unsafe { get_delimited(f, line, size, delimiter) })
    }
    /// getline(3).
    "GLIBC_2.2.5" fn getline(line: *mut *mut c_char, size: *mut usize, file: *mut FILE) -> ssize_t {
        // SAFETY: as above.
        locked!(file, |f| unsafe { get_delimited(f, line, size, c_int::from(b'\n')) })
    }
    /// fread(3).
    "GLIBC_2.2.5" fn fread(into: *mut c_void, size: usize, count: usize, file: *mut FILE) -> usize {
        locked!(file, |f| read_items(f, into, size, count))
    }
    /// fread_unlocked(3).
    "GLIBC_2.2.5" fn fread_unlocked(into: *mut c_void, size: usize, count: usize, file: *mut FILE) -> usize {
        unlocked!(file, |f| read_items(f, into, size, count))
    }
    /// fread, checked.
    "GLIBC_2.7" fn __fread_chk(
        into: *mut c_void, room: usize, size: usize, count: usize, file: *mut FILE,
    ) -> usize {
        check_read(size, count, room);
        locked!(file, |f| read_items(f, into, size, count))
    }
    /// fread_unlocked, checked.
    "GLIBC_2.7" fn __fread_unlocked_chk(
        into: *mut c_void, room: usize, size: usize, count: usize, file: *mut FILE,
    ) -> usize {
        check_read(size, count, room);
        unlocked!(file, |f| read_items(f, into, size, count))
    }
    /// fwrite(3).
    "GLIBC_2.2.5" fn fwrite(from: *const c_void, size: usize, count: usize, file: *mut FILE) -> usize {
        locked!(file, |f| write_items(f, from, size, count))
    }
    /// fwrite_unlocked(3).
    "GLIBC_2.2.5" fn fwrite_unlocked(from: *const c_void, size: usize, count: usize, file: *mut FILE) -> usize {
        unlocked!(file, |f| write_items(f, from, size, count))
    }
    /// fputs(3).
    "GLIBC_2.2.5" fn fputs(text: *const c_char, file: *mut FILE) -> c_int {
        locked!(file, |f| put_string(f, text))
    }
    /// fputs_unlocked(3).
    "GLIBC_2.2.5" fn fputs_unlocked(text: *const c_char, file: *mut FILE) -> c_int {
        unlocked!(file, |f| put_string(f, text))
    }
    /// puts(3): answers the number of bytes (glibc).
    "GLIBC_2.2.5" fn puts(text: *const c_char) -> c_int {
        // SAFETY: a C string.
        let len = unsafe { c_bytes(text) }.len();
        locked!(stdout(), |f| {
            if put_string(f, text) == EOF || f.putc(b'\n') == EOF {
                return EOF;
            }
            (len + 1).min(c_int::MAX as usize) as c_int
        })
    }
    /// getw(3).
    "GLIBC_2.2.5" fn getw(file: *mut FILE) -> c_int {
        let mut word: c_int = 0;
        // SAFETY: the word is ours.
        unsafe { if fread((&raw mut word).cast(), 4, 1, file) == 1 { word } else { EOF } }
    }
    /// putw(3).
    "GLIBC_2.2.5" fn putw(word: c_int, file: *mut FILE) -> c_int {
        // SAFETY: the word is ours.
        unsafe { if fwrite((&raw const word).cast(), 4, 1, file) == 1 { 0 } else { EOF } }
    }
    /// perror(3).
    "GLIBC_2.2.5" fn perror(prefix: *const c_char) {
        let number = errno::get().0;
        let mut buffer = [0; 40];
        let text = error_text(number, &mut buffer);
        // SAFETY: null or a C string.
        let prefix = if prefix.is_null() { b"".as_slice() } else { unsafe { CStr::from_ptr(prefix) }.to_bytes() };
        let mut line = alloc::vec::Vec::with_capacity(prefix.len() + text.len() + 3);
        if !prefix.is_empty() {
            line.extend_from_slice(prefix);
            line.extend_from_slice(b": ");
        }
        line.extend_from_slice(text);
        line.push(b'\n');
        locked!(stderr(), |f| { f.write_bytes(&line); });
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "getc" = fgetc;
    alias "GLIBC_2.2.5" "_IO_getc" = fgetc;
    alias "GLIBC_2.2.5" "fgetc_unlocked" = getc_unlocked;
    alias "GLIBC_2.2.5" "putc" = fputc;
    alias "GLIBC_2.2.5" "_IO_putc" = fputc;
    alias "GLIBC_2.2.5" "fputc_unlocked" = putc_unlocked;
    alias "GLIBC_2.2.5" "_IO_ungetc" = ungetc;
    alias "GLIBC_2.2.5" "_IO_fgets" = fgets;
    alias "GLIBC_2.2.5" "_IO_gets" = gets;
    alias "GLIBC_2.2.5" "__getdelim" = getdelim;
    alias "GLIBC_2.2.5" "_IO_fread" = fread;
    alias "GLIBC_2.2.5" "_IO_fwrite" = fwrite;
    alias "GLIBC_2.2.5" "_IO_fputs" = fputs;
    alias "GLIBC_2.2.5" "_IO_puts" = puts;
}
