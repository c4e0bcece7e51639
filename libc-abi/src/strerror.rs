//! Texts of errors and signals: `strerror` and its relatives, `strsignal`.
//!
//! The C and C.UTF-8 locales have English texts only; unknown numbers are formatted into a buffer
//! of this process (glibc: of the thread; the texts differ only for numbers that no call gives).

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::errno;
use crate::strerror_table::{ERRORS, SIGNALS};
use crate::string::{copy, strlen};
use crate::types::*;
use core::ffi::CStr;
use core::fmt::Write;
use core::ptr::{null, null_mut};

/// A fixed buffer that formats a C string, cut off where it ends.
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
    used: usize,
}

impl<const N: usize> Text<N> {
    pub(crate) fn new() -> Self {
        Text { bytes: [0; N], used: 0 }
    }
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let n = s.len().min(N - 1 - self.used);
        self.bytes[self.used..self.used + n].copy_from_slice(&s.as_bytes()[..n]);
        self.used += n;
        Ok(())
    }
}

fn description(number: c_int) -> Option<&'static CStr> {
    Some(ERRORS.get(usize::try_from(number).ok()?)?.as_ref()?.1)
}

fn unknown_error(number: c_int) -> Text<40> {
    let mut text = Text::new();
    let _ = write!(text, "Unknown error {number}");
    text
}

fn unknown_signal(number: c_int) -> Text<40> {
    let mut text = Text::new();
    // SIGRTMIN 34 to SIGRTMAX 64.
    let _ = match number {
        34..=64 => write!(text, "Real-time signal {}", number - 34),
        _ => write!(text, "Unknown signal {number}"),
    };
    text
}

static mut BUFFER: [c_char; 40] = [0; 40];

unsafe fn keep(text: &CStr) -> *mut c_char {
    let to: *mut c_char = (&raw mut BUFFER).cast();
    copy(to, text.as_ptr(), text.count_bytes() + 1);
    to
}

abi! { EXPORTS "libc.so.6":
    /// strerror(3).
    "GLIBC_2.2.5" fn strerror(number: c_int) -> *mut c_char {
        match description(number) {
            Some(text) => text.as_ptr().cast_mut(),
            None => keep(unknown_error(number).as_c_str()),
        }
    }
    /// strerror_l(3).
    "GLIBC_2.6" fn strerror_l(number: c_int, _locale: *mut c_void) -> *mut c_char {
        strerror(number)
    }
    /// strerror_r(3), GNU's: may answer a constant instead of the buffer.
    "GLIBC_2.2.5" fn strerror_r(number: c_int, buffer: *mut c_char, size: usize) -> *mut c_char {
        if let Some(text) = description(number) {
            return text.as_ptr().cast_mut();
        }
        if size > 0 {
            let text = unknown_error(number);
            let length = text.as_c_str().count_bytes().min(size - 1);
            copy(buffer, text.as_c_str().as_ptr(), length);
            *buffer.add(length) = 0;
        }
        buffer
    }
    /// strerror_r(3), POSIX's: 0, EINVAL for an unknown number or ERANGE.
    "GLIBC_2.3.4" fn __xpg_strerror_r(number: c_int, buffer: *mut c_char, size: usize) -> c_int {
        const EINVAL: c_int = 22;
        const ERANGE: c_int = 34;
        let formatted;
        let (text, mut answer) = match description(number) {
            Some(text) => (text, 0),
            None => {
                formatted = unknown_error(number);
                (formatted.as_c_str(), EINVAL)
            }
        };
        let length = text.count_bytes();
        if size > 0 {
            let kept = length.min(size - 1);
            copy(buffer, text.as_ptr(), kept);
            *buffer.add(kept) = 0;
        }
        if answer == 0 && length >= size {
            answer = ERANGE;
        }
        answer
    }
    /// strerrordesc_np(3).
    "GLIBC_2.32" fn strerrordesc_np(number: c_int) -> *const c_char {
        description(number).map_or(null(), |text| text.as_ptr())
    }
    /// strerrorname_np(3).
    "GLIBC_2.32" fn strerrorname_np(number: c_int) -> *const c_char {
        let row = usize::try_from(number).ok().and_then(|n| ERRORS.get(n)?.as_ref());
        row.map_or(null(), |(name, _)| name.as_ptr())
    }
    /// sigdescr_np(3).
    "GLIBC_2.32" fn sigdescr_np(number: c_int) -> *const c_char {
        let row = usize::try_from(number).ok().and_then(|n| SIGNALS.get(n)?.as_ref());
        row.map_or(null(), |(_, text)| text.as_ptr())
    }
    /// sigabbrev_np(3).
    "GLIBC_2.32" fn sigabbrev_np(number: c_int) -> *const c_char {
        let row = usize::try_from(number).ok().and_then(|n| SIGNALS.get(n)?.as_ref());
        row.map_or(null(), |(name, _)| name.as_ptr())
    }
    /// strsignal(3).
    "GLIBC_2.2.5" fn strsignal(number: c_int) -> *mut c_char {
        let known = sigdescr_np(number);
        if known.is_null() { keep(unknown_signal(number).as_c_str()) } else { known.cast_mut() }
    }
}

/// Copies into a caller's buffer of `size`, as `snprintf("%s")` would; used by other modules.
pub(crate) unsafe fn fill(buffer: *mut c_char, size: usize, text: *const c_char) -> usize {
    let length = strlen(text);
    if size > 0 {
        copy(buffer, text, length.min(size - 1));
        *buffer.add(length.min(size - 1)) = 0;
    }
    length
}

/// Null with `errno` set.
pub(crate) fn fail<T>(number: i32) -> *mut T {
    errno::set(platform::Errno(number));
    null_mut()
}
