//! The way from the C surface to the personality: a Linux system call by number.
//!
//! In a guest it is a plain function call ([`syscalls::call`]). In this crate's own tests on the
//! host it is the host kernel, so that the C surface can be tested there alone.

use platform::Errno;

/// `kcall!(openat, dirfd, path, flags)`: the personality's call by name, arguments cast to `usize`.
/// Answers `Result<usize, Errno>`; an unsafe call.
#[macro_export]
macro_rules! kcall {
    ($name:ident $(, $arg:expr)* $(,)?) => {{
        let given = [$($arg as usize),*] as [usize; $crate::kcall!(@count $($arg,)*)];
        let mut args = [0usize; 6];
        args[..given.len()].copy_from_slice(&given);
        $crate::kcall::call(platform::sys::number::$name as usize, args)
    }};
    (@count) => { 0 };
    (@count $head:expr, $($tail:expr,)*) => { 1 + $crate::kcall!(@count $($tail,)*) };
}

/// Issues system call `number` of the personality.
///
/// # Safety
/// The arguments are the program's claims; the personality checks what a kernel would check.
#[inline]
pub unsafe fn call(number: usize, args: [usize; 6]) -> Result<usize, Errno> {
    #[cfg(not(test))]
    // SAFETY: forwarded.
    let raw = unsafe { syscalls::call(number, args) };
    #[cfg(test)]
    // SAFETY: forwarded to the host's kernel: this is the test build.
    let raw = unsafe { platform::sys::syscall_raw(number, args) };
    Errno::from_raw(raw)
}
