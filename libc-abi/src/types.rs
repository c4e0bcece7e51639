//! C's scalar types on x86-64 System V, under their C names.

pub use core::ffi::{
    c_char, c_double, c_float, c_int, c_long, c_longlong, c_short, c_uchar, c_uint, c_ulong, c_ulonglong,
    c_ushort, c_void,
};

/// `size_t`
pub type size_t = usize;
/// `ssize_t`
pub type ssize_t = isize;
/// `off_t` and `off64_t`
pub type off_t = i64;
/// `wchar_t`: a Unicode scalar value.
pub type wchar_t = i32;
/// `wint_t`
pub type wint_t = u32;
/// `time_t`
pub type time_t = i64;
/// `pid_t`
pub type pid_t = i32;
/// `uid_t`
pub type uid_t = u32;
/// `gid_t`
pub type gid_t = u32;
/// `mode_t`
pub type mode_t = u32;
/// `socklen_t`
pub type socklen_t = u32;
