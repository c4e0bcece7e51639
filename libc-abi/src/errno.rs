//! The thread's `errno`; results of the personality become -1 or null here, once.

use crate::thread;
use crate::types::c_int;
use platform::Errno;

/// Sets `errno`.
#[inline]
pub fn set(errno: Errno) {
    // SAFETY: the cell belongs to the calling thread.
    unsafe { *thread::errno_cell() = errno.0 };
}

/// Reads `errno`.
#[inline]
pub fn get() -> Errno {
    // SAFETY: the cell belongs to the calling thread.
    Errno(unsafe { *thread::errno_cell() })
}

/// A result as C gives it: the value, or -1 with `errno` set.
#[inline]
pub fn or_minus_one(result: Result<usize, Errno>) -> isize {
    match result {
        Ok(value) => value as isize,
        Err(errno) => {
            set(errno);
            -1
        }
    }
}

/// As [`or_minus_one`], for calls that answer `int`.
#[inline]
pub fn int(result: Result<usize, Errno>) -> c_int {
    or_minus_one(result) as c_int
}

/// A pointer, or null with `errno` set.
#[inline]
pub fn or_null<T>(result: Result<*mut T, Errno>) -> *mut T {
    result.unwrap_or_else(|errno| {
        set(errno);
        core::ptr::null_mut()
    })
}

abi! { EXPORTS "libc.so.6":
    /// errno(3): where the calling thread's error number is.
    "GLIBC_2.2.5" fn __errno_location() -> *mut c_int {
        thread::errno_cell()
    }
}
