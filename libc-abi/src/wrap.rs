//! `wrappers!`: C functions that are one system call: -1 and `errno` on failure, else its answer.
//!
//! ```ignore
//! wrappers! { EXPORTS "libc.so.6":
//!     /// read(2).
//!     "GLIBC_2.2.5" point read(fd: c_int, buffer: *mut c_void, len: usize) -> isize = read(fd, buffer, len);
//! }
//! ```
//! `point` marks a cancellation point (pthreads(7)); others are `plain`.

/// See the [module](crate::wrap).
#[macro_export]
macro_rules! wrappers {
    ($table:ident $lib:literal: $(
        $(#[$meta:meta])* $version:literal $kind:ident $name:ident ( $($arg:ident : $ty:ty),* $(,)? )
            -> $ret:ty = $call:ident ( $($value:expr),* $(,)? );
    )*) => {
        $crate::abi! { $table $lib: $(
            $(#[$meta])* $version fn $name($($arg: $ty),*) -> $ret {
                let number = platform::sys::number::$call as usize;
                let args = $crate::wrap::pack([$($value as usize),*]);
                // SAFETY: the arguments are the program's claims; the personality checks what a kernel
                // would check.
                let result = unsafe { $crate::wrappers!(@$kind)(number, args) };
                $crate::errno::or_minus_one(result) as $ret
            }
        )* }
    };
    (@plain) => { $crate::kcall::call };
    (@point) => { $crate::pthread::cancel::call };
}

/// The six argument registers of a call with fewer arguments.
#[inline]
pub fn pack<const N: usize>(given: [usize; N]) -> [usize; 6] {
    let mut args = [0; 6];
    args[..N].copy_from_slice(&given);
    args
}

/// As [`kcall!`](crate::kcall), and a cancellation point.
#[macro_export]
macro_rules! point {
    ($name:ident $(, $arg:expr)* $(,)?) => {{
        let given = [$($arg as usize),*] as [usize; $crate::kcall!(@count $($arg,)*)];
        let mut args = [0usize; 6];
        args[..given.len()].copy_from_slice(&given);
        $crate::pthread::cancel::call(platform::sys::number::$name as usize, args)
    }};
}
