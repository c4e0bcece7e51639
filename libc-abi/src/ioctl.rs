//! <sys/ioctl.h>.

use crate::types::*;
use crate::wrappers;

wrappers! { EXPORTS "libc.so.6":
    /// ioctl(2). Its one further argument lies where a third one would (see [`crate::va`]).
    "GLIBC_2.2.5" plain ioctl(fd: c_int, request: c_ulong, argument: usize) -> c_int
        = ioctl(fd, request, argument);
}
