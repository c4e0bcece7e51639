//! What assert(3) ends in: `__assert_fail` and its relatives.

// C's contract: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::diagnostic::to_stderr;
use crate::start::{PROGRAM_SHORT_NAME, abort};
use crate::strerror::strerror;
use crate::types::*;
use alloc::vec::Vec;
use core::ffi::CStr;

/// `name: file:line: function: what` and the end by SIGABRT.
unsafe fn fail(file: *const c_char, line: c_uint, function: *const c_char, what: &[&[u8]]) -> ! {
    let text = |s: *const c_char| CStr::from_ptr(s).to_bytes();
    let mut message = Vec::new();
    let name = text(PROGRAM_SHORT_NAME.load());
    if !name.is_empty() {
        message.extend_from_slice(name);
        message.extend_from_slice(b": ");
    }
    message.extend_from_slice(text(file));
    message.extend_from_slice(alloc::format!(":{line}: ").as_bytes());
    if !function.is_null() {
        message.extend_from_slice(text(function));
        message.extend_from_slice(b": ");
    }
    what.iter().for_each(|part| message.extend_from_slice(part));
    message.push(b'\n');
    to_stderr(&message);
    abort()
}

/// An assertion of ours about what the program does, where glibc has one.
pub(crate) fn failed(function: &CStr, what: &str) -> ! {
    // SAFETY: strings of ours.
    unsafe { fail(c"libc".as_ptr(), 0, function.as_ptr(), &[b"Assertion `", what.as_bytes(), b"' failed."]) }
}

abi! { EXPORTS "libc.so.6":
    /// What assert(3) calls.
    "GLIBC_2.2.5" fn __assert_fail(
        assertion: *const c_char, file: *const c_char, line: c_uint, function: *const c_char,
    ) -> ! {
        let text = CStr::from_ptr(assertion).to_bytes();
        fail(file, line, function, &[b"Assertion `", text, b"' failed."])
    }
    /// What assert_perror(3) calls.
    "GLIBC_2.2.5" fn __assert_perror_fail(
        number: c_int, file: *const c_char, line: c_uint, function: *const c_char,
    ) -> ! {
        let text = CStr::from_ptr(strerror(number)).to_bytes();
        fail(file, line, function, &[b"Unexpected error: ", text, b"."])
    }
    /// BSD's name.
    "GLIBC_2.2.5" fn __assert(assertion: *const c_char, file: *const c_char, line: c_int) -> ! {
        __assert_fail(assertion, file, line as c_uint, core::ptr::null())
    }
}
