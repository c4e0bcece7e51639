//! The last instructions before the program's first.

use core::arch::naked_asm;

/// Runs `init` on the program's stack, then jumps to `entry` with the registers of a fresh process
/// (psABI 3.4.1): rsp at argc, rdx a function for atexit, rbp 0.
///
/// # Safety
/// `stack` is a 16-byte aligned initial stack; `entry` is the program's; nothing below is returned to.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn enter(stack: usize, entry: usize, fini: usize, init: extern "C" fn()) -> ! {
    naked_asm!(
        "mov rsp, rdi",
        "mov rbx, rdi",
        "mov r12, rsi",
        "mov r13, rdx",
        "xor ebp, ebp",
        "call rcx",
        "mov rsp, rbx",
        "mov rdx, r13",
        "mov rax, r12",
        "xor ebx, ebx",
        "xor ecx, ecx",
        "xor esi, esi",
        "xor edi, edi",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "xor r12d, r12d",
        "xor r13d, r13d",
        "jmp rax",
    )
}
