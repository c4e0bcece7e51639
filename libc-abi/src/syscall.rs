//! syscall(2): any call by number, as libuv, jemalloc, libcrypto and many others make it.

use crate::types::c_long;
use crate::{errno, kcall};

/// What [`syscall`] calls: number and arguments, in C's order.
unsafe extern "C" fn by_number(
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
    number: usize,
) -> c_long {
    // SAFETY: the program's claims; the personality checks what a kernel would check.
    errno::or_minus_one(unsafe { kcall::call(number, [a, b, c, d, e, f]) }) as c_long
}

/// syscall(2): the number and up to six arguments. The sixth lies on the caller's stack, as the seventh
/// argument of C; a caller that gave fewer has something else there, which the call then ignores.
#[unsafe(naked)]
pub unsafe extern "C" fn syscall(_number: usize) -> c_long {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov rdx, rcx",
        "mov rcx, r8",
        "mov r8, r9",
        "mov r9, [rsp + 8]",
        "push rax", // the seventh argument; the stack is aligned for the call now
        ".cfi_adjust_cfa_offset 8",
        "call {by_number}",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "ret",
        ".cfi_endproc",
        by_number = sym by_number,
    )
}

exports! { ROWS "libc.so.6":
    alias "GLIBC_2.2.5" "syscall" = syscall;
}

#[cfg(test)]
mod tests {
    use super::*;
    use platform::Errno;
    use platform::sys::number;

    #[test]
    fn passes_six_arguments() {
        type Call = unsafe extern "C" fn(usize, ...) -> c_long;
        // SAFETY: `syscall` is variadic in C.
        let call: Call = unsafe { core::mem::transmute(syscall as *const ()) };
        // SAFETY: a page of our own is mapped and unmapped.
        unsafe {
            assert_eq!(call(number::getpid as usize), std::process::id() as c_long);
            let page = call(number::mmap as usize, 0usize, 4096usize, 3usize, 0x22usize, -1isize, 0usize);
            assert!(page > 0);
            assert_eq!(call(number::munmap as usize, page, 4096usize), 0);
            assert_eq!(call(number::mmap as usize, 0usize, 4096usize, 1usize, 2usize, -1isize, 0usize), -1);
            assert_eq!(errno::get(), Errno::EBADF);
            // The offset is the sixth argument: not a page's multiple.
            assert_eq!(
                call(number::mmap as usize, 0usize, 4096usize, 3usize, 0x22usize, -1isize, 5usize),
                -1
            );
            assert_eq!(errno::get(), Errno::EINVAL);
        }
    }
}
