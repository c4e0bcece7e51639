//! <sys/xattr.h>.

use crate::types::*;
use crate::wrappers;

wrappers! { EXPORTS "libc.so.6":
    /// getxattr(2).
    "GLIBC_2.3" plain getxattr(path: *const c_char, name: *const c_char, to: *mut c_void, len: usize) -> isize
        = getxattr(path, name, to, len);
    /// lgetxattr(2).
    "GLIBC_2.3" plain lgetxattr(path: *const c_char, name: *const c_char, to: *mut c_void, len: usize) -> isize
        = lgetxattr(path, name, to, len);
    /// fgetxattr(2).
    "GLIBC_2.3" plain fgetxattr(fd: c_int, name: *const c_char, to: *mut c_void, len: usize) -> isize
        = fgetxattr(fd, name, to, len);
    /// setxattr(2).
    "GLIBC_2.3" plain setxattr(
        path: *const c_char, name: *const c_char, from: *const c_void, len: usize, flags: c_int,
    ) -> c_int = setxattr(path, name, from, len, flags);
    /// lsetxattr(2).
    "GLIBC_2.3" plain lsetxattr(
        path: *const c_char, name: *const c_char, from: *const c_void, len: usize, flags: c_int,
    ) -> c_int = lsetxattr(path, name, from, len, flags);
    /// fsetxattr(2).
    "GLIBC_2.3" plain fsetxattr(fd: c_int, name: *const c_char, from: *const c_void, len: usize, flags: c_int) -> c_int
        = fsetxattr(fd, name, from, len, flags);
    /// listxattr(2).
    "GLIBC_2.3" plain listxattr(path: *const c_char, to: *mut c_char, len: usize) -> isize = listxattr(path, to, len);
    /// llistxattr(2).
    "GLIBC_2.3" plain llistxattr(path: *const c_char, to: *mut c_char, len: usize) -> isize = llistxattr(path, to, len);
    /// flistxattr(2).
    "GLIBC_2.3" plain flistxattr(fd: c_int, to: *mut c_char, len: usize) -> isize = flistxattr(fd, to, len);
    /// removexattr(2).
    "GLIBC_2.3" plain removexattr(path: *const c_char, name: *const c_char) -> c_int = removexattr(path, name);
    /// lremovexattr(2).
    "GLIBC_2.3" plain lremovexattr(path: *const c_char, name: *const c_char) -> c_int = lremovexattr(path, name);
    /// fremovexattr(2).
    "GLIBC_2.3" plain fremovexattr(fd: c_int, name: *const c_char) -> c_int = fremovexattr(fd, name);
}
