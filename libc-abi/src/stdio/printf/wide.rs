//! wprintf, fwprintf, swprintf, their `v` forms and checked forms.

use super::engine::format;
use super::out::Out;
use crate::stdio::file::{FILE, stdout};
use crate::stdio::fortify::chk_fail;
use crate::stdio::wide::WEOF;
use crate::types::*;
use crate::va::VaList;
use crate::variadic;

const SCRATCH: usize = 64;

unsafe fn count_on(out: &mut Out<u32>) {
    let scratch = out.target.cast::<u32>();
    if out.counting {
        out.restart();
    } else {
        out.counting = true;
        out.renew(scratch, SCRATCH);
    }
}

/// swprintf answers -1 if the text does not fit (C11 7.29.2.3), unlike snprintf.
unsafe fn into_string(
    text: *mut wchar_t,
    room: usize,
    fmt: *const wchar_t,
    args: *mut VaList,
    checked: bool,
) -> c_int {
    if room == 0 {
        return -1;
    }
    let mut scratch = [0u32; SCRATCH];
    let base = text.cast::<u32>();
    let limit = (room - 1).min((usize::MAX - base as usize) / 4);
    let mut out = Out::new(base, limit, count_on, scratch.as_mut_ptr().cast());
    // SAFETY: the text has `room` characters; format and arguments are the caller's promise.
    unsafe {
        let result = format(&mut out, fmt.cast(), args, checked);
        let end = if out.counting { limit } else { out.used() };
        *base.add(end) = 0;
        if out.counting { -1 } else { result }
    }
}

unsafe fn to_stream(out: &mut Out<u32>) {
    // SAFETY: the target is the stream that `into_stream` holds.
    let file = unsafe { &mut *out.target.cast::<FILE>() };
    if out.window().iter().any(|wide| file.put_wide(*wide) == WEOF && *wide != WEOF) {
        out.failed = true;
    }
    out.restart();
}

unsafe fn into_stream(f: &mut FILE, fmt: *const wchar_t, args: *mut VaList, checked: bool) -> c_int {
    if f.orient_wide().is_err() || f.switch_to_put().is_err() {
        return -1;
    }
    let mut buffer = [0u32; 256];
    let mut out = Out::new(buffer.as_mut_ptr(), buffer.len(), to_stream, (f as *mut FILE).cast());
    // SAFETY: forwarded.
    let result = unsafe { format(&mut out, fmt.cast(), args, checked) };
    out.flush();
    if out.failed { -1 } else { result }
}

abi! { EXPORTS "libc.so.6":
    /// vfwprintf(3).
    "GLIBC_2.2.5" fn vfwprintf(file: *mut FILE, fmt: *const wchar_t, args: *mut VaList) -> c_int {
        // SAFETY: as C promises; so in this whole table.
        locked!(file, |f| unsafe { into_stream(f, fmt, args, false) })
    }
    /// vwprintf(3).
    "GLIBC_2.2.5" fn vwprintf(fmt: *const wchar_t, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        locked!(stdout(), |f| unsafe { into_stream(f, fmt, args, false) })
    }
    /// vswprintf(3).
    "GLIBC_2.2.5" fn vswprintf(
        text: *mut wchar_t, room: usize, fmt: *const wchar_t, args: *mut VaList,
    ) -> c_int {
        // SAFETY: as above.
        unsafe { into_string(text, room, fmt, args, false) }
    }
    /// vfwprintf, checked.
    "GLIBC_2.4" fn __vfwprintf_chk(file: *mut FILE, level: c_int, fmt: *const wchar_t, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        locked!(file, |f| unsafe { into_stream(f, fmt, args, level > 0) })
    }
    /// vwprintf, checked.
    "GLIBC_2.4" fn __vwprintf_chk(level: c_int, fmt: *const wchar_t, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        locked!(stdout(), |f| unsafe { into_stream(f, fmt, args, level > 0) })
    }
    /// vswprintf, checked.
    "GLIBC_2.4" fn __vswprintf_chk(
        text: *mut wchar_t, room: usize, level: c_int, size: usize, fmt: *const wchar_t, args: *mut VaList,
    ) -> c_int {
        if size < room {
            chk_fail();
        }
        // SAFETY: as above.
        unsafe { into_string(text, room, fmt, args, level > 0) }
    }
}

variadic! {
    /// wprintf(3).
    fn wprintf(1 fixed) = vwprintf;
    /// fwprintf(3).
    fn fwprintf(2 fixed) = vfwprintf;
    /// swprintf(3).
    fn swprintf(3 fixed) = vswprintf;
    /// wprintf, checked.
    fn __wprintf_chk(2 fixed) = __vwprintf_chk;
    /// fwprintf, checked.
    fn __fwprintf_chk(3 fixed) = __vfwprintf_chk;
    /// swprintf, checked.
    fn __swprintf_chk(5 fixed) = __vswprintf_chk;
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "wprintf" = wprintf;
    alias "GLIBC_2.2.5" "fwprintf" = fwprintf;
    alias "GLIBC_2.2.5" "swprintf" = swprintf;
    alias "GLIBC_2.4" "__wprintf_chk" = __wprintf_chk;
    alias "GLIBC_2.4" "__fwprintf_chk" = __fwprintf_chk;
    alias "GLIBC_2.4" "__swprintf_chk" = __swprintf_chk;
}
