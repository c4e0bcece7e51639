//! Touching the program's memory: a bad address gives an answer, not a fault.
//!
//! The program and the runtime share one address space, so a pointer from the program is tried, not
//! looked up. These few functions are the only code that may fault on purpose: the fault handler
//! knows their range and continues at the `fixup` of the one that faulted. What is protected is the
//! runtime from bad pointers, not its memory from the program; callers that must not write into the
//! runtime's window check with `platform::layout::touches_window`.

use core::arch::global_asm;

unsafe extern "C" {
    #[link_name = "attacca_user_copy"]
    fn raw_copy(to: *mut u8, from: *const u8, len: usize) -> usize;
    #[link_name = "attacca_user_set"]
    fn raw_set(to: *mut u8, byte: u8, len: usize) -> usize;
    #[link_name = "attacca_user_strnlen"]
    fn raw_strnlen(from: *const u8, most: usize) -> usize;
    #[link_name = "attacca_user_load"]
    fn raw_load(from: *const u32, into: *mut u32) -> usize;
    #[link_name = "attacca_user_exchange"]
    fn raw_exchange(at: *mut u32, old: *mut u32, new: u32) -> usize;
    static attacca_user_start: u8;
    static attacca_user_copy_end: u8;
    static attacca_user_copy_fixup: u8;
    static attacca_user_end: u8;
    static attacca_user_fixup: u8;
}

/// Copies `len` bytes; answers how many were *not* copied (0: all). Ranges must not overlap unless
/// `to` is lower.
///
/// # Safety
/// One side is the program's claim and may be anything; the other is ours and as long as said.
#[inline]
pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) -> usize {
    // SAFETY: faults are fixed up; the caller vouches for our side.
    unsafe { raw_copy(to, from, len) }
}

/// Sets `len` bytes; answers how many were not set.
///
/// # Safety
/// The range is the program's.
#[inline]
pub unsafe fn set(to: *mut u8, byte: u8, len: usize) -> usize {
    // SAFETY: faults are fixed up.
    unsafe { raw_set(to, byte, len) }
}

/// Length of the C string at `from`, at most `most`; `None` if it runs into bad memory first.
///
/// # Safety
/// Reads only; the address may be anything.
#[inline]
pub unsafe fn strnlen(from: *const u8, most: usize) -> Option<usize> {
    // SAFETY: faults are fixed up.
    match unsafe { raw_strnlen(from, most) } {
        usize::MAX => None,
        len => Some(len),
    }
}

/// Loads an aligned word of the program atomically; `None` on bad memory.
///
/// # Safety
/// Reads only; the address may be anything.
#[inline]
pub unsafe fn load(from: *const u32) -> Option<u32> {
    let mut word = 0;
    // SAFETY: faults are fixed up; `word` is ours.
    (unsafe { raw_load(from, &raw mut word) } == 0).then_some(word)
}

/// Compares the word at `at` with `old` and, if equal, replaces it by `new`, atomically. Answers what
/// was there; `None` on bad memory.
///
/// # Safety
/// The word is the program's.
#[inline]
pub unsafe fn compare_exchange(at: *mut u32, old: u32, new: u32) -> Option<u32> {
    let mut seen = old;
    // SAFETY: faults are fixed up; `seen` is ours.
    (unsafe { raw_exchange(at, &raw mut seen, new) } == 0).then_some(seen)
}

/// Where to go on after a fault at `rip`, if it lies in these functions.
pub(crate) fn fixup(rip: usize) -> Option<usize> {
    let [start, copy_end, end] = [
        &raw const attacca_user_start as usize,
        &raw const attacca_user_copy_end as usize,
        &raw const attacca_user_end as usize,
    ];
    if (start..copy_end).contains(&rip) {
        return Some(&raw const attacca_user_copy_fixup as usize);
    }
    (copy_end..end).contains(&rip).then_some(&raw const attacca_user_fixup as usize)
}

// In copy and set, rcx counts the bytes left at every instruction that can fault (rep keeps it so);
// the answer after a fault is rcx. The others answer -1. No function uses the stack before a fault.
// Short copies go by words: starting `rep movsb` costs some 30 cycles.
global_asm!(
    ".pushsection .text.attacca_user, \"ax\", @progbits",
    ".balign 64",
    ".globl attacca_user_start",
    "attacca_user_start:",
    ".globl attacca_user_copy",
    ".type attacca_user_copy, @function",
    "attacca_user_copy:",
    "mov rcx, rdx",
    "cmp rcx, 256",
    "jae 4f",
    "2:",
    "cmp rcx, 8",
    "jb 3f",
    "mov rax, [rsi]",
    "mov [rdi], rax",
    "add rsi, 8",
    "add rdi, 8",
    "sub rcx, 8",
    "jmp 2b",
    "3:",
    "test rcx, rcx",
    "jz attacca_user_copy_fixup",
    "mov al, [rsi]",
    "mov [rdi], al",
    "inc rsi",
    "inc rdi",
    "dec rcx",
    "jmp 3b",
    "4:",
    "rep movsb",
    ".globl attacca_user_copy_fixup",
    "attacca_user_copy_fixup:",
    "mov rax, rcx",
    "ret",
    ".globl attacca_user_set",
    ".type attacca_user_set, @function",
    "attacca_user_set:",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, rcx",
    "ret",
    ".globl attacca_user_copy_end",
    "attacca_user_copy_end:",
    ".globl attacca_user_strnlen",
    ".type attacca_user_strnlen, @function",
    "attacca_user_strnlen:",
    "xor eax, eax",
    "2:",
    "cmp rax, rsi",
    "je 3f",
    "cmp byte ptr [rdi + rax], 0",
    "je 3f",
    "inc rax",
    "jmp 2b",
    "3:",
    "ret",
    ".globl attacca_user_load",
    ".type attacca_user_load, @function",
    "attacca_user_load:",
    "mov ecx, [rdi]",
    "mov [rsi], ecx",
    "xor eax, eax",
    "ret",
    ".globl attacca_user_exchange",
    ".type attacca_user_exchange, @function",
    "attacca_user_exchange:",
    "mov eax, [rsi]",
    "lock cmpxchg [rdi], edx",
    "mov [rsi], eax",
    "xor eax, eax",
    "ret",
    ".globl attacca_user_fixup",
    "attacca_user_fixup:",
    "mov rax, -1",
    "ret",
    ".globl attacca_user_end",
    "attacca_user_end:",
    ".popsection",
);
