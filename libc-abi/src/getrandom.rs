//! getrandom(2). What is built on it (getentropy(3), arc4random(3)) is in [`crate::random`].

use crate::types::*;
use crate::wrappers;

wrappers! { EXPORTS "libc.so.6":
    /// getrandom(2).
    "GLIBC_2.25" point getrandom(to: *mut c_void, len: usize, flags: c_uint) -> isize = getrandom(to, len, flags);
}
