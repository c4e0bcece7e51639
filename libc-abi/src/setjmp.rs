//! setjmp(3) and longjmp(3), with glibc's `jmp_buf`: rbx, rbp, r12-r15, rsp, pc; then whether the
//! signal mask was saved (offset 64), and the mask (72). rbp, rsp and pc are mangled with the pointer
//! guard at `%fs:0x30`, so that an overflow cannot plant a jump.
//!
//! Left out: shadow stacks; `longjmp` over frames that used the old `_pthread_cleanup_push` runs no
//! handlers (C with `-fexceptions` and C++ do not need it).

use crate::kcall;
use crate::types::c_int;

/// `jmp_buf`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct JmpBuf {
    registers: [usize; 8],
    mask_was_saved: c_int,
    saved_mask: [u64; 16],
}

const _: () = assert!(size_of::<JmpBuf>() == 200 && core::mem::offset_of!(JmpBuf, saved_mask) == 72);

/// `__sigsetjmp(env, savemask)`.
#[unsafe(naked)]
pub unsafe extern "C" fn __sigsetjmp(_env: *mut JmpBuf, _save_mask: c_int) -> c_int {
    core::arch::naked_asm!(
        "mov [rdi], rbx",
        "mov rax, rbp",
        "xor rax, fs:[0x30]",
        "rol rax, 0x11",
        "mov [rdi + 8], rax",
        "mov [rdi + 16], r12",
        "mov [rdi + 24], r13",
        "mov [rdi + 32], r14",
        "mov [rdi + 40], r15",
        "lea rdx, [rsp + 8]",
        "xor rdx, fs:[0x30]",
        "rol rdx, 0x11",
        "mov [rdi + 48], rdx",
        "mov rax, [rsp]",
        "xor rax, fs:[0x30]",
        "rol rax, 0x11",
        "mov [rdi + 56], rax",
        "jmp {save}",
        save = sym save_mask,
    )
}

/// setjmp(3) as a function: saves the mask (BSD's meaning, as the exported name has it).
#[unsafe(naked)]
pub unsafe extern "C" fn setjmp(_env: *mut JmpBuf) -> c_int {
    core::arch::naked_asm!("mov esi, 1", "jmp {}", sym __sigsetjmp)
}

/// `_setjmp`: what `setjmp` is in C today.
#[unsafe(naked)]
pub unsafe extern "C" fn _setjmp(_env: *mut JmpBuf) -> c_int {
    core::arch::naked_asm!("xor esi, esi", "jmp {}", sym __sigsetjmp)
}

unsafe extern "C" fn save_mask(env: *mut JmpBuf, save: c_int) -> c_int {
    const SIG_BLOCK: usize = 0;
    // SAFETY: the caller's buffer.
    unsafe {
        (*env).mask_was_saved = c_int::from(
            save != 0 && kcall!(rt_sigprocmask, SIG_BLOCK, 0, (*env).saved_mask.as_mut_ptr(), 8).is_ok(),
        );
    }
    0
}

/// Restores the registers: `__sigsetjmp` returns once more, with `value`.
#[unsafe(naked)]
unsafe extern "C" fn restore(_env: *const JmpBuf, _value: c_int) -> ! {
    core::arch::naked_asm!(
        "mov eax, esi",
        "mov rbx, [rdi]",
        "mov rbp, [rdi + 8]",
        "ror rbp, 0x11",
        "xor rbp, fs:[0x30]",
        "mov r12, [rdi + 16]",
        "mov r13, [rdi + 24]",
        "mov r14, [rdi + 32]",
        "mov r15, [rdi + 40]",
        "mov rdx, [rdi + 48]",
        "ror rdx, 0x11",
        "xor rdx, fs:[0x30]",
        "mov rcx, [rdi + 56]",
        "ror rcx, 0x11",
        "xor rcx, fs:[0x30]",
        "mov rsp, rdx",
        "jmp rcx",
    )
}

/// Where the stack was at setjmp.
pub(crate) unsafe fn stack_pointer(env: *const JmpBuf) -> usize {
    // SAFETY: a buffer that setjmp filled; the guard is the thread's.
    unsafe {
        let guard: usize;
        core::arch::asm!("mov {}, fs:[0x30]", out(reg) guard, options(nostack, readonly, preserves_flags));
        (*env).registers[6].rotate_right(0x11) ^ guard
    }
}

abi! { EXPORTS "libc.so.6":
    /// longjmp(3).
    "GLIBC_2.2.5" fn longjmp(env: *const JmpBuf, value: c_int) -> ! {
        const SIG_SETMASK: usize = 2;
        // SAFETY: a buffer that setjmp filled in a frame that still stands.
        unsafe {
            if (*env).mask_was_saved != 0 {
                let _ = kcall!(rt_sigprocmask, SIG_SETMASK, (*env).saved_mask.as_ptr(), 0, 8);
            }
            restore(env, if value == 0 { 1 } else { value })
        }
    }
    /// longjmp under _FORTIFY_SOURCE: only to frames further out, unless on a signal stack.
    "GLIBC_2.11" fn __longjmp_chk(env: *const JmpBuf, value: c_int) -> ! {
        // SAFETY: as longjmp.
        unsafe {
            let here = &raw const value as usize;
            if stack_pointer(env) < here && !on_signal_stack() {
                crate::start::fatal("*** longjmp causes uninitialized stack frame ***: terminated\n");
            }
            longjmp(env, value)
        }
    }
}

exports! { ROWS "libc.so.6":
    alias "GLIBC_2.2.5" "setjmp" = setjmp;
    alias "GLIBC_2.2.5" "_setjmp" = _setjmp;
    alias "GLIBC_2.2.5" "__sigsetjmp" = __sigsetjmp;
    alias "GLIBC_2.2.5" "_longjmp" = longjmp;
    alias "GLIBC_2.2.5" "siglongjmp" = longjmp;
}

/// Whether an alternate signal stack is in use: a jump off it may well go "inwards".
fn on_signal_stack() -> bool {
    const SS_ONSTACK: i32 = 1;
    let mut stack = [0usize; 3];
    // SAFETY: our own `stack_t`.
    unsafe { kcall!(sigaltstack, 0, stack.as_mut_ptr()).is_ok() && stack[1] as i32 & SS_ONSTACK != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::MaybeUninit;

    /// `setjmp`, then `body(env)`, which jumps; answers what setjmp returned the second time. In
    /// assembly, as Rust has no `returns_twice`.
    #[unsafe(naked)]
    unsafe extern "C" fn catch(
        _env: *mut JmpBuf,
        _save: c_int,
        _body: unsafe extern "C" fn(*mut JmpBuf),
    ) -> c_int {
        core::arch::naked_asm!(
            "push rbx", "push r12", "sub rsp, 8",
            "mov rbx, rdi", "mov r12, rdx",
            "call {set}",
            "test eax, eax", "jne 2f",
            "mov rdi, rbx", "mov rbx, 0", "call r12",
            "2:", "add rsp, 8", "pop r12", "pop rbx", "ret",
            set = sym __sigsetjmp,
        )
    }

    unsafe extern "C" fn jump_42(env: *mut JmpBuf) {
        // SAFETY: `catch`'s frame stands.
        unsafe { longjmp(env, 42) }
    }
    unsafe extern "C" fn jump_0(env: *mut JmpBuf) {
        // SAFETY: as above.
        unsafe { __longjmp_chk(env, 0) }
    }

    #[test]
    fn returns_twice() {
        let mut env = MaybeUninit::<JmpBuf>::uninit();
        // SAFETY: `env` is filled by setjmp.
        unsafe {
            assert_eq!(catch(env.as_mut_ptr(), 0, jump_42), 42);
            assert_eq!(catch(env.as_mut_ptr(), 1, jump_0), 1);
            assert_eq!(env.assume_init_ref().mask_was_saved, 1);
        }
    }

    #[test]
    fn restores_the_mask() {
        unsafe extern "C" fn block_and_jump(env: *mut JmpBuf) {
            let all = u64::MAX;
            // SAFETY: blocks signals of this test thread; `catch`'s frame stands.
            unsafe {
                kcall!(rt_sigprocmask, 2, &raw const all, 0, 8).unwrap();
                longjmp(env, 5)
            }
        }
        let mut env = MaybeUninit::<JmpBuf>::uninit();
        let mask = || {
            let mut mask = 0u64;
            // SAFETY: reads the mask.
            unsafe { kcall!(rt_sigprocmask, 0, 0, &raw mut mask, 8).unwrap() };
            mask
        };
        let before = mask();
        // SAFETY: as above.
        unsafe { assert_eq!(catch(env.as_mut_ptr(), 1, block_and_jump), 5) };
        assert_eq!(mask(), before);
    }
}
