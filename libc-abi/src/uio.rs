//! <sys/uio.h>.

use crate::errno;
use crate::point;
use crate::types::*;
use crate::wrappers;

wrappers! { EXPORTS "libc.so.6":
    /// readv(2).
    "GLIBC_2.2.5" point readv(fd: c_int, parts: *const c_void, count: c_int) -> isize = readv(fd, parts, count);
    /// writev(2).
    "GLIBC_2.2.5" point writev(fd: c_int, parts: *const c_void, count: c_int) -> isize = writev(fd, parts, count);
    /// preadv(2).
    "GLIBC_2.10" point preadv(fd: c_int, parts: *const c_void, count: c_int, at: off_t) -> isize
        = preadv(fd, parts, count, at, 0);
    /// pwritev(2).
    "GLIBC_2.10" point pwritev(fd: c_int, parts: *const c_void, count: c_int, at: off_t) -> isize
        = pwritev(fd, parts, count, at, 0);
}

abi! { MORE "libc.so.6":
    /// preadv2(2).
    "GLIBC_2.26" fn preadv2(fd: c_int, parts: *const c_void, count: c_int, at: off_t, flags: c_int) -> isize {
        // SAFETY: the program's arguments.
        errno::or_minus_one(unsafe { point!(preadv2, fd, parts, count, at, 0, flags) })
    }
    /// pwritev2(2).
    "GLIBC_2.26" fn pwritev2(fd: c_int, parts: *const c_void, count: c_int, at: off_t, flags: c_int) -> isize {
        // SAFETY: the program's arguments.
        errno::or_minus_one(unsafe { point!(pwritev2, fd, parts, count, at, 0, flags) })
    }
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.10" "preadv64" = preadv;
    alias "GLIBC_2.10" "pwritev64" = pwritev;
    alias "GLIBC_2.26" "preadv64v2" = preadv2;
    alias "GLIBC_2.26" "pwritev64v2" = pwritev2;
}
