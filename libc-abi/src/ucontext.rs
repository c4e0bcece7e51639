//! <ucontext.h>: getcontext(3), setcontext(3), makecontext(3), swapcontext(3), on glibc's `ucontext_t`
//! (968 bytes). What a function call must keep is saved: callee-saved registers, the x87 and SSE
//! control words, the signal mask.
//!
//! Left out: shadow stacks; contexts that a signal handler got are entered by its return, not by
//! setcontext.

use crate::kcall;
use crate::types::*;
use crate::va::VaList;
use crate::variadic;

/// `ucontext_t` as far as this file uses it.
#[repr(C)]
pub struct Context {
    flags: usize,
    link: *mut Context,
    stack: *mut u8,
    stack_flags: c_int,
    stack_size: usize,
    /// r8-r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags, segments, err, trapno, oldmask, cr2.
    registers: [usize; 23],
    fp_state: *mut u8,
    reserved: [usize; 8],
    mask: [u64; 16],
    fp_memory: [u64; 64],
    shadow_stack: [u64; 4],
}

const _: () = assert!(size_of::<Context>() == 968 && core::mem::offset_of!(Context, mask) == 296);
const _: () = assert!(core::mem::offset_of!(Context, fp_memory) == 424);
const _: () = assert!(core::mem::offset_of!(Context, registers) == 40);

const RBX: usize = 11;
const RSP: usize = 15;
const RIP: usize = 16;

/// The stores of getcontext and of swapcontext's first half: to `[rdi]`.
macro_rules! save {
    () => {
        "mov [rdi + 128], rbx
         mov [rdi + 120], rbp
         mov [rdi + 72], r12
         mov [rdi + 80], r13
         mov [rdi + 88], r14
         mov [rdi + 96], r15
         mov [rdi + 104], rdi
         mov [rdi + 112], rsi
         mov [rdi + 136], rdx
         mov [rdi + 152], rcx
         mov [rdi + 40], r8
         mov [rdi + 48], r9
         mov rcx, [rsp]
         mov [rdi + 168], rcx
         lea rcx, [rsp + 8]
         mov [rdi + 160], rcx
         lea rcx, [rdi + 424]
         mov [rdi + 224], rcx
         fnstenv [rcx]
         fldenv [rcx]
         stmxcsr [rcx + 24]"
    };
}

/// The loads of setcontext: from `[rdx]`; ends with the jump.
macro_rules! load {
    () => {
        "mov rcx, [rdx + 224]
         fldenv [rcx]
         ldmxcsr [rcx + 24]
         mov rsp, [rdx + 160]
         mov rbx, [rdx + 128]
         mov rbp, [rdx + 120]
         mov r12, [rdx + 72]
         mov r13, [rdx + 80]
         mov r14, [rdx + 88]
         mov r15, [rdx + 96]
         push [rdx + 168]
         mov rsi, [rdx + 112]
         mov rdi, [rdx + 104]
         mov rcx, [rdx + 152]
         mov r8, [rdx + 40]
         mov r9, [rdx + 48]
         mov rdx, [rdx + 136]
         xor eax, eax
         ret"
    };
}

/// getcontext(3).
#[unsafe(naked)]
pub unsafe extern "C" fn getcontext(_to: *mut Context) -> c_int {
    core::arch::naked_asm!(save!(), "jmp {}", sym read_mask)
}

/// setcontext(3).
#[unsafe(naked)]
pub unsafe extern "C" fn setcontext(_from: *const Context) -> c_int {
    core::arch::naked_asm!(
        "push rdi",
        "call {mask}",
        "pop rdx",
        load!(),
        mask = sym write_mask,
    )
}

/// swapcontext(3).
#[unsafe(naked)]
pub unsafe extern "C" fn swapcontext(_to: *mut Context, _from: *const Context) -> c_int {
    core::arch::naked_asm!(
        save!(),
        "push rsi",
        "call {swap}",
        "pop rdx",
        load!(),
        swap = sym swap_mask,
    )
}

const SIG_SETMASK: usize = 2;

unsafe extern "C" fn read_mask(to: *mut Context) -> c_int {
    // SAFETY: the program's context.
    crate::errno::int(unsafe { kcall!(rt_sigprocmask, 0, 0, (&raw mut (*to).mask), 8) })
}

unsafe extern "C" fn write_mask(from: *const Context) -> c_int {
    // SAFETY: the program's context.
    crate::errno::int(unsafe { kcall!(rt_sigprocmask, SIG_SETMASK, (&raw const (*from).mask), 0, 8) })
}

unsafe extern "C" fn swap_mask(to: *mut Context, from: *const Context) -> c_int {
    // SAFETY: the program's contexts.
    crate::errno::int(unsafe {
        kcall!(rt_sigprocmask, SIG_SETMASK, (&raw const (*from).mask), (&raw mut (*to).mask), 8)
    })
}

variadic! {
    /// makecontext(3).
    fn makecontext(3 fixed) = vmakecontext;
}

/// The function's frame on the new stack: its return address ([`finish`]), then arguments from the
/// seventh on; the link waits in rbx, which the function keeps.
unsafe extern "C" fn vmakecontext(context: *mut Context, function: usize, count: c_int, list: *mut VaList) {
    // In `registers`: rdi, rsi, rdx, rcx, r8, r9.
    const ARGUMENTS: [usize; 6] = [8, 9, 12, 14, 0, 1];
    // SAFETY: the program's context, stack and arguments.
    unsafe {
        let context = &mut *context;
        let count = count.max(0) as usize;
        let on_stack = count.saturating_sub(6);
        let top = context.stack as usize + context.stack_size;
        // rsp + 8 is a multiple of 16 at a function's entry (psABI 3.2.2).
        let frame = ((top - 8 * (on_stack + 1)) & !15) - 8;
        let frame = frame as *mut usize;
        frame.write(finish as *const () as usize);
        for at in 0..count {
            let value = (*list).long() as usize;
            match ARGUMENTS.get(at) {
                Some(&register) => context.registers[register] = value,
                None => frame.add(at - 5).write(value),
            }
        }
        context.registers[RBX] = context.link as usize;
        context.registers[RSP] = frame as usize;
        context.registers[RIP] = function;
    }
}

/// Where a context's function returns to: the linked context, or the thread's end.
#[unsafe(naked)]
unsafe extern "C" fn finish() {
    core::arch::naked_asm!(
        ".cfi_startproc",
        ".cfi_undefined rip",
        "mov rdi, rbx",
        "and rsp, -16",
        "test rdi, rdi",
        "je 2f",
        "call {set}",
        "2: xor edi, edi",
        "call {exit}",
        "ud2",
        ".cfi_endproc",
        set = sym setcontext,
        exit = sym crate::start::exit,
    )
}

exports! { ROWS "libc.so.6":
    alias "GLIBC_2.2.5" "getcontext" = getcontext;
    alias "GLIBC_2.2.5" "setcontext" = setcontext;
    alias "GLIBC_2.2.5" "swapcontext" = swapcontext;
    alias "GLIBC_2.2.5" "makecontext" = makecontext;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::vec::Vec;

    static mut CONTEXTS: [*mut Context; 2] = [core::ptr::null_mut(); 2];
    static SEEN: std::sync::Mutex<Vec<i64>> = std::sync::Mutex::new(Vec::new());

    unsafe extern "C" fn count(a: i32, b: i32, c: i32, d: i32, e: i32, f: i32, g: i32, h: i32) {
        let sum = i64::from(a + b + c + d + e + f) * 100 + i64::from(g) * 10 + i64::from(h);
        for round in 0..3 {
            SEEN.lock().unwrap().push(sum + round);
            // SAFETY: both contexts are whole.
            unsafe { swapcontext(CONTEXTS[1], CONTEXTS[0]) };
        }
    }

    #[test]
    fn contexts_alternate_and_link_back() {
        type Make = unsafe extern "C" fn(*mut Context, usize, c_int, ...);
        // SAFETY: our own contexts and stack; this test alone uses them.
        unsafe {
            let make: Make = core::mem::transmute(makecontext as *const ());
            let main: *mut Context = Box::into_raw(Box::new(core::mem::zeroed()));
            let other: *mut Context = Box::into_raw(Box::new(core::mem::zeroed()));
            CONTEXTS = [main, other];
            let mut stack = std::vec![0u8; 256 << 10];
            assert_eq!(getcontext(other), 0);
            (*other).stack = stack.as_mut_ptr();
            (*other).stack_size = stack.len();
            (*other).link = main;
            make(other, count as *const () as usize, 8, 1i32, 2i32, 3i32, 4i32, 5i32, 6i32, 7i32, 8i32);
            for _ in 0..4 {
                assert_eq!(swapcontext(main, other), 0);
            }
            assert_eq!(*SEEN.lock().unwrap(), [2178, 2179, 2180]);
        }
    }
}
