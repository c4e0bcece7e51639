//! State and position of a stream: setvbuf, fflush, fseek, ftell, feof, fileno, fwide, __fpending.

use super::buffer::{flush_line_buffered, flush_writers};
use super::file::{EOF, FILE, flag};
use crate::errno;
use crate::types::*;
use platform::Errno;

/// `fpos_t`: 16 bytes, the position and a conversion state (which UTF-8 between characters lacks).
#[repr(C)]
pub struct fpos_t {
    /// The position.
    pub position: i64,
    /// `mbstate_t`.
    pub state: u64,
}

const IOFBF: c_int = 0;
const IOLBF: c_int = 1;
const IONBF: c_int = 2;

/// setvbuf(3) as glibc has it: without a buffer of the caller's the size is ignored.
fn set_buffering(f: &mut FILE, buffer: *mut c_char, kind: c_int, size: usize) -> c_int {
    match kind {
        IOFBF | IOLBF if buffer.is_null() => {
            f.flags &= !flag::UNBUFFERED;
            if kind == IOFBF {
                f.allocate();
                f.flags &= !flag::LINE_BUF;
            } else {
                f.flags |= flag::LINE_BUF;
            }
            limit_puts(f);
            0
        }
        IOFBF | IOLBF => {
            f.flags &= !(flag::UNBUFFERED | flag::LINE_BUF);
            f.flags |= if kind == IOLBF { flag::LINE_BUF } else { 0 };
            exchange(f, buffer, size)
        }
        IONBF => {
            f.flags |= flag::UNBUFFERED;
            f.flags &= !flag::LINE_BUF;
            exchange(f, core::ptr::null_mut(), 0)
        }
        _ => EOF,
    }
}

fn exchange(f: &mut FILE, buffer: *mut c_char, size: usize) -> c_int {
    if f.flush().is_err() {
        return EOF;
    }
    f.free_backup();
    // What was read and could not be given back (a pipe) is lost with the buffer, as in glibc.
    if buffer.is_null() || size == 0 {
        f.flags |= flag::UNBUFFERED;
        f.use_shortbuf();
    } else {
        f.flags &= !flag::UNBUFFERED;
        f.set_buffer(buffer.cast(), size, true);
    }
    f.flags &= !flag::CURRENTLY_PUTTING;
    f.reset_areas();
    0
}

/// After a change of buffering inlined putc must call, or need not.
fn limit_puts(f: &mut FILE) {
    if f.has(flag::CURRENTLY_PUTTING) {
        f.write_end = if f.has(flag::LINE_BUF) { f.write_base } else { f.buf_end };
    }
}

fn seek(f: &mut FILE, offset: i64, whence: c_int) -> c_int {
    if f.seek_to(offset, whence).is_ok() { 0 } else { -1 }
}

fn flush(f: &mut FILE) -> c_int {
    if f.flush().is_ok() { 0 } else { EOF }
}

fn descriptor(f: &FILE) -> c_int {
    if f.fileno < 0 {
        errno::set(Errno::EBADF);
        return -1;
    }
    f.fileno
}

abi! { EXPORTS "libc.so.6":
    /// fflush(3); null flushes all streams.
    "GLIBC_2.2.5" fn fflush(file: *mut FILE) -> c_int {
        if file.is_null() {
            return flush_writers();
        }
        locked!(file, |f| flush(f))
    }
    /// fflush_unlocked(3).
    "GLIBC_2.2.5" fn fflush_unlocked(file: *mut FILE) -> c_int {
        if file.is_null() {
            return flush_writers();
        }
        unlocked!(file, |f| flush(f))
    }
    /// _flushlbf(3).
    "GLIBC_2.2.5" fn _flushlbf() {
        flush_line_buffered();
    }
    /// setvbuf(3).
    "GLIBC_2.2.5" fn setvbuf(file: *mut FILE, buffer: *mut c_char, kind: c_int, size: usize) -> c_int {
        locked!(file, |f| set_buffering(f, buffer, kind, size))
    }
    /// setbuffer(3).
    "GLIBC_2.2.5" fn setbuffer(file: *mut FILE, buffer: *mut c_char, size: usize) {
        locked!(file, |f| {
            f.flags &= !flag::LINE_BUF;
            exchange(f, buffer, size);
        });
    }
    /// setbuf(3).
    "GLIBC_2.2.5" fn setbuf(file: *mut FILE, buffer: *mut c_char) {
        // SAFETY: the buffer, if any, has BUFSIZ bytes.
        unsafe { setbuffer(file, buffer, super::file::BUFSIZ) }
    }
    /// setlinebuf(3).
    "GLIBC_2.2.5" fn setlinebuf(file: *mut FILE) {
        locked!(file, |f| { set_buffering(f, core::ptr::null_mut(), IOLBF, 0); });
    }
    /// fseek(3).
    "GLIBC_2.2.5" fn fseek(file: *mut FILE, offset: c_long, whence: c_int) -> c_int {
        locked!(file, |f| seek(f, offset, whence))
    }
    /// ftell(3).
    "GLIBC_2.2.5" fn ftell(file: *mut FILE) -> c_long {
        locked!(file, |f| f.tell().unwrap_or(-1))
    }
    /// rewind(3).
    "GLIBC_2.2.5" fn rewind(file: *mut FILE) {
        locked!(file, |f| {
            seek(f, 0, 0);
            f.flags &= !(flag::ERR_SEEN | flag::EOF_SEEN);
        });
    }
    /// fgetpos(3).
    "GLIBC_2.2.5" fn fgetpos(file: *mut FILE, position: *mut fpos_t) -> c_int {
        locked!(file, |f| match f.tell() {
            Ok(at) => {
                // SAFETY: the program's fpos_t.
                unsafe { *position = fpos_t { position: at, state: 0 } };
                0
            }
            Err(()) => -1,
        })
    }
    /// fsetpos(3).
    "GLIBC_2.2.5" fn fsetpos(file: *mut FILE, position: *const fpos_t) -> c_int {
        // SAFETY: the program's fpos_t.
        let at = unsafe { (*position).position };
        locked!(file, |f| seek(f, at, 0))
    }
    /// feof(3).
    "GLIBC_2.2.5" fn feof(file: *mut FILE) -> c_int { locked!(file, |f| c_int::from(f.has(flag::EOF_SEEN))) }
    /// ferror(3).
    "GLIBC_2.2.5" fn ferror(file: *mut FILE) -> c_int { locked!(file, |f| c_int::from(f.has(flag::ERR_SEEN))) }
    /// feof_unlocked(3).
    "GLIBC_2.2.5" fn feof_unlocked(file: *mut FILE) -> c_int {
        unlocked!(file, |f| c_int::from(f.has(flag::EOF_SEEN)))
    }
    /// ferror_unlocked(3).
    "GLIBC_2.2.5" fn ferror_unlocked(file: *mut FILE) -> c_int {
        unlocked!(file, |f| c_int::from(f.has(flag::ERR_SEEN)))
    }
    /// clearerr(3).
    "GLIBC_2.2.5" fn clearerr(file: *mut FILE) {
        locked!(file, |f| f.flags &= !(flag::ERR_SEEN | flag::EOF_SEEN));
    }
    /// clearerr_unlocked(3).
    "GLIBC_2.2.5" fn clearerr_unlocked(file: *mut FILE) {
        unlocked!(file, |f| f.flags &= !(flag::ERR_SEEN | flag::EOF_SEEN));
    }
    /// fileno(3).
    "GLIBC_2.2.5" fn fileno(file: *mut FILE) -> c_int { unlocked!(file, |f| descriptor(f)) }
    /// fwide(3).
    "GLIBC_2.2.5" fn fwide(file: *mut FILE, mode: c_int) -> c_int {
        locked!(file, |f| {
            if f.mode == 0 && mode != 0 {
                f.mode = mode.signum();
            }
            f.mode
        })
    }
    /// __fpurge(3).
    "GLIBC_2.2.5" fn __fpurge(file: *mut FILE) {
        unlocked!(file, |f| {
            f.free_backup();
            f.read_end = f.read_ptr;
            f.write_ptr = f.write_base;
        });
    }
    /// __fpending(3).
    "GLIBC_2.2.5" fn __fpending(file: *mut FILE) -> usize {
        unlocked!(file, |f| f.write_ptr as usize - f.write_base as usize)
    }
    /// __fbufsize(3).
    "GLIBC_2.2.5" fn __fbufsize(file: *mut FILE) -> usize {
        unlocked!(file, |f| f.buf_end as usize - f.buf_base as usize)
    }
    /// __freading(3).
    "GLIBC_2.2.5" fn __freading(file: *mut FILE) -> c_int {
        unlocked!(file, |f| c_int::from(
            f.has(flag::NO_WRITES) || (!f.has(flag::CURRENTLY_PUTTING) && !f.read_base.is_null())
        ))
    }
    /// __fwriting(3).
    "GLIBC_2.2.5" fn __fwriting(file: *mut FILE) -> c_int {
        unlocked!(file, |f| c_int::from(f.has(flag::NO_READS | flag::CURRENTLY_PUTTING)))
    }
    /// __freadable(3).
    "GLIBC_2.2.5" fn __freadable(file: *mut FILE) -> c_int {
        unlocked!(file, |f| c_int::from(!f.has(flag::NO_READS)))
    }
    /// __fwritable(3).
    "GLIBC_2.2.5" fn __fwritable(file: *mut FILE) -> c_int {
        unlocked!(file, |f| c_int::from(!f.has(flag::NO_WRITES)))
    }
    /// __flbf(3): glibc answers the flag's value.
    "GLIBC_2.2.5" fn __flbf(file: *mut FILE) -> c_int {
        unlocked!(file, |f| f.flags & flag::LINE_BUF)
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "fileno_unlocked" = fileno;
    alias "GLIBC_2.2.5" "fseeko" = fseek;
    alias "GLIBC_2.2.5" "fseeko64" = fseek;
    alias "GLIBC_2.2.5" "ftello" = ftell;
    alias "GLIBC_2.2.5" "ftello64" = ftell;
    alias "GLIBC_2.2.5" "fgetpos64" = fgetpos;
    alias "GLIBC_2.2.5" "fsetpos64" = fsetpos;
    alias "GLIBC_2.2.5" "_IO_ftell" = ftell;
    alias "GLIBC_2.2.5" "_IO_setvbuf" = setvbuf;
    alias "GLIBC_2.2.5" "_IO_setbuffer" = setbuffer;
    alias "GLIBC_2.2.5" "_IO_fflush" = fflush;
    alias "GLIBC_2.2.5" "_IO_feof" = feof;
    alias "GLIBC_2.2.5" "_IO_ferror" = ferror;
    alias "GLIBC_2.2.5" "_IO_fgetpos" = fgetpos;
    alias "GLIBC_2.2.5" "_IO_fgetpos64" = fgetpos;
    alias "GLIBC_2.2.5" "_IO_fsetpos" = fsetpos;
    alias "GLIBC_2.2.5" "_IO_fsetpos64" = fsetpos;
    alias "GLIBC_2.2.5" "_IO_flockfile" = super::lock::flockfile;
    alias "GLIBC_2.2.5" "_IO_ftrylockfile" = super::lock::ftrylockfile;
    alias "GLIBC_2.2.5" "_IO_funlockfile" = super::lock::funlockfile;
}
