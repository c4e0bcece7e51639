//! <err.h> and <error.h>: messages with the program's name and errno, then perhaps the end.

// C's contract: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::data::DataCell;
use crate::diagnostic::to_stderr;
use crate::errno;
use crate::start::{PROGRAM_NAME, PROGRAM_SHORT_NAME, exit};
use crate::stdio::control::fflush;
use crate::stdio::file::{STDERR, STDOUT};
use crate::stdio::printf::vfprintf;
use crate::strerror::strerror;
use crate::string::strcmp;
use crate::types::*;
use crate::va::VaList;
use crate::variadic;
use core::ffi::CStr;
use core::ptr::null;

/// `error_message_count`
pub static COUNT: DataCell<c_uint> = DataCell::new(0);
/// `error_one_per_line`
pub static ONE_PER_LINE: DataCell<c_int> = DataCell::new(0);
/// `error_print_progname`: called instead of printing the name.
pub static PRINT_NAME: DataCell<Option<unsafe extern "C" fn()>> = DataCell::new(None);

unsafe fn say(text: *const c_char) {
    to_stderr(CStr::from_ptr(text).to_bytes());
}

/// `name: message[: strerror]` and a newline.
unsafe fn message(format: *const c_char, arguments: *mut VaList, number: Option<c_int>) {
    say(PROGRAM_SHORT_NAME.load());
    to_stderr(b": ");
    if !format.is_null() {
        vfprintf(STDERR.load(), format, arguments);
        if number.is_some() {
            to_stderr(b": ");
        }
    }
    if let Some(number) = number {
        say(strerror(number));
    }
    to_stderr(b"\n");
}

/// error(3)'s body; `place` is the file and line of error_at_line(3).
unsafe fn report(
    status: c_int,
    number: c_int,
    place: Option<(*const c_char, c_uint)>,
    format: *const c_char,
    arguments: *mut VaList,
) {
    fflush(STDOUT.load());
    match PRINT_NAME.load() {
        Some(print) => print(),
        None => {
            say(PROGRAM_NAME.load());
            to_stderr(if place.is_some() { b":" } else { b": " });
        }
    }
    if let Some((file, line)) = place {
        if !file.is_null() {
            say(file);
            to_stderr(alloc::format!(":{line}: ").as_bytes());
        } else {
            to_stderr(b" ");
        }
    }
    vfprintf(STDERR.load(), format, arguments);
    *COUNT.get() += 1;
    if number != 0 {
        to_stderr(b": ");
        say(strerror(number));
    }
    to_stderr(b"\n");
    fflush(STDERR.load());
    if status != 0 {
        exit(status);
    }
}

/// The last place of error_at_line(3).
static mut LAST: (*const c_char, c_uint) = (null(), 0);

unsafe extern "C" fn verror(status: c_int, number: c_int, format: *const c_char, arguments: *mut VaList) {
    report(status, number, None, format, arguments);
}

unsafe extern "C" fn verror_at_line(
    status: c_int,
    number: c_int,
    file: *const c_char,
    line: c_uint,
    format: *const c_char,
    arguments: *mut VaList,
) {
    if *ONE_PER_LINE.get() != 0 {
        let same = LAST.1 == line
            && (LAST.0 == file || !LAST.0.is_null() && !file.is_null() && strcmp(LAST.0, file) == 0);
        if same {
            return;
        }
        LAST = (file, line);
    }
    report(status, number, Some((file, line)), format, arguments);
}

abi! { EXPORTS "libc.so.6":
    /// vwarn(3).
    "GLIBC_2.2.5" fn vwarn(format: *const c_char, arguments: *mut VaList) {
        message(format, arguments, Some(errno::get().0));
    }
    /// vwarnx(3).
    "GLIBC_2.2.5" fn vwarnx(format: *const c_char, arguments: *mut VaList) {
        message(format, arguments, None);
    }
    /// verr(3).
    "GLIBC_2.2.5" fn verr(status: c_int, format: *const c_char, arguments: *mut VaList) -> ! {
        vwarn(format, arguments);
        exit(status)
    }
    /// verrx(3).
    "GLIBC_2.2.5" fn verrx(status: c_int, format: *const c_char, arguments: *mut VaList) -> ! {
        vwarnx(format, arguments);
        exit(status)
    }
}

variadic! {
    /// warn(3).
    fn warn(1 fixed) = vwarn;
    /// warnx(3).
    fn warnx(1 fixed) = vwarnx;
    /// err(3).
    fn err(2 fixed) = verr;
    /// errx(3).
    fn errx(2 fixed) = verrx;
    /// error(3).
    fn error(3 fixed) = verror;
    /// error_at_line(3).
    fn error_at_line(5 fixed) = verror_at_line;
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "warn" = warn;
    alias "GLIBC_2.2.5" "warnx" = warnx;
    alias "GLIBC_2.2.5" "err" = err;
    alias "GLIBC_2.2.5" "errx" = errx;
    alias "GLIBC_2.2.5" "error" = error;
    alias "GLIBC_2.2.5" "error_at_line" = error_at_line;
    cell "GLIBC_2.2.5" "error_message_count" 4 = COUNT;
    cell "GLIBC_2.2.5" "error_one_per_line" 4 = ONE_PER_LINE;
    cell "GLIBC_2.2.5" "error_print_progname" 8 = PRINT_NAME;
}
