//! The scanf family: every form is a [`source`] for [`engine::scan`].

mod engine;
mod source;
mod text;

use super::file::{FILE, stdin};
use crate::types::*;
use crate::va::VaList;
use crate::variadic;
use engine::scan;
use source::{Bytes, Text, Wides};

unsafe fn from_stream(f: &mut FILE, fmt: *const c_char, args: *mut VaList, gnu_a: bool) -> c_int {
    if f.bytes_only().is_err() {
        return -1;
    }
    // SAFETY: format and arguments are the caller's promise.
    unsafe { scan(&mut Bytes(f), fmt.cast::<u8>(), args, gnu_a) }
}

unsafe fn from_wide_stream(f: &mut FILE, fmt: *const wchar_t, args: *mut VaList, gnu_a: bool) -> c_int {
    if f.orient_wide().is_err() {
        return -1;
    }
    // SAFETY: as above.
    unsafe { scan(&mut Wides(f), fmt.cast::<u32>(), args, gnu_a) }
}

abi! { EXPORTS "libc.so.6":
    /// vfscanf(3) with GNU's `%as`.
    "GLIBC_2.2.5" fn vfscanf(file: *mut FILE, fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as C promises; so in this whole table.
        locked!(file, |f| unsafe { from_stream(f, fmt, args, true) })
    }
    /// vscanf(3) with GNU's `%as`.
    "GLIBC_2.2.5" fn vscanf(fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        locked!(stdin(), |f| unsafe { from_stream(f, fmt, args, true) })
    }
    /// vsscanf(3) with GNU's `%as`.
    "GLIBC_2.2.5" fn vsscanf(text: *const c_char, fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        unsafe { scan(&mut Text(text.cast::<u8>()), fmt.cast::<u8>(), args, true) }
    }
    /// vfscanf(3).
    "GLIBC_2.7" fn __isoc99_vfscanf(file: *mut FILE, fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        locked!(file, |f| unsafe { from_stream(f, fmt, args, false) })
    }
    /// vscanf(3).
    "GLIBC_2.7" fn __isoc99_vscanf(fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        locked!(stdin(), |f| unsafe { from_stream(f, fmt, args, false) })
    }
    /// vsscanf(3).
    "GLIBC_2.7" fn __isoc99_vsscanf(text: *const c_char, fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        unsafe { scan(&mut Text(text.cast::<u8>()), fmt.cast::<u8>(), args, false) }
    }
}

abi! { WIDE "libc.so.6":
    /// vfwscanf(3) with GNU's `%as`.
    "GLIBC_2.2.5" fn vfwscanf(file: *mut FILE, fmt: *const wchar_t, args: *mut VaList) -> c_int {
        // SAFETY: as C promises; so in this whole table.
        locked!(file, |f| unsafe { from_wide_stream(f, fmt, args, true) })
    }
    /// vwscanf(3) with GNU's `%as`.
    "GLIBC_2.2.5" fn vwscanf(fmt: *const wchar_t, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        locked!(stdin(), |f| unsafe { from_wide_stream(f, fmt, args, true) })
    }
    /// vswscanf(3) with GNU's `%as`.
    "GLIBC_2.2.5" fn vswscanf(text: *const wchar_t, fmt: *const wchar_t, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        unsafe { scan(&mut Text(text.cast::<u32>()), fmt.cast::<u32>(), args, true) }
    }
    /// vfwscanf(3).
    "GLIBC_2.7" fn __isoc99_vfwscanf(file: *mut FILE, fmt: *const wchar_t, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        locked!(file, |f| unsafe { from_wide_stream(f, fmt, args, false) })
    }
    /// vwscanf(3).
    "GLIBC_2.7" fn __isoc99_vwscanf(fmt: *const wchar_t, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        locked!(stdin(), |f| unsafe { from_wide_stream(f, fmt, args, false) })
    }
    /// vswscanf(3).
    "GLIBC_2.7" fn __isoc99_vswscanf(text: *const wchar_t, fmt: *const wchar_t, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        unsafe { scan(&mut Text(text.cast::<u32>()), fmt.cast::<u32>(), args, false) }
    }
}

variadic! {
    /// scanf(3).
    fn scanf(1 fixed) = vscanf;
    /// fscanf(3).
    fn fscanf(2 fixed) = vfscanf;
    /// sscanf(3).
    fn sscanf(2 fixed) = vsscanf;
    /// scanf(3) of C99.
    fn __isoc99_scanf(1 fixed) = __isoc99_vscanf;
    /// fscanf(3) of C99.
    fn __isoc99_fscanf(2 fixed) = __isoc99_vfscanf;
    /// sscanf(3) of C99.
    fn __isoc99_sscanf(2 fixed) = __isoc99_vsscanf;
    /// wscanf(3).
    fn wscanf(1 fixed) = vwscanf;
    /// fwscanf(3).
    fn fwscanf(2 fixed) = vfwscanf;
    /// swscanf(3).
    fn swscanf(2 fixed) = vswscanf;
    /// wscanf(3) of C99.
    fn __isoc99_wscanf(1 fixed) = __isoc99_vwscanf;
    /// fwscanf(3) of C99.
    fn __isoc99_fwscanf(2 fixed) = __isoc99_vfwscanf;
    /// swscanf(3) of C99.
    fn __isoc99_swscanf(2 fixed) = __isoc99_vswscanf;
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "scanf" = scanf;
    alias "GLIBC_2.2.5" "fscanf" = fscanf;
    alias "GLIBC_2.2.5" "sscanf" = sscanf;
    alias "GLIBC_2.2.5" "__vfscanf" = vfscanf;
    alias "GLIBC_2.2.5" "__vsscanf" = vsscanf;
    alias "GLIBC_2.2.5" "_IO_sscanf" = sscanf;
    alias "GLIBC_2.7" "__isoc99_scanf" = __isoc99_scanf;
    alias "GLIBC_2.7" "__isoc99_fscanf" = __isoc99_fscanf;
    alias "GLIBC_2.7" "__isoc99_sscanf" = __isoc99_sscanf;
    alias "GLIBC_2.2.5" "wscanf" = wscanf;
    alias "GLIBC_2.2.5" "fwscanf" = fwscanf;
    alias "GLIBC_2.2.5" "swscanf" = swscanf;
    alias "GLIBC_2.7" "__isoc99_wscanf" = __isoc99_wscanf;
    alias "GLIBC_2.7" "__isoc99_fwscanf" = __isoc99_fwscanf;
    alias "GLIBC_2.7" "__isoc99_swscanf" = __isoc99_swscanf;
}

#[cfg(test)]
#[path = "../tests/scanf.rs"]
mod tests;
