//! The C library's view of the calling thread: glibc's TCB and, behind it, our private record.
//!
//! `%fs:0` and `%fs:0x10` point at the TCB itself, `%fs:8` at the dtv, `%fs:0x28` holds the stack
//! canary, `%fs:0x30` the pointer guard (psABI variant II; glibc's `tcbhead_t`). Static TLS lies
//! before it. What follows the header is private to this crate.

use crate::types::{c_int, c_void};

/// glibc's `tcbhead_t` as far as programs may look, then ours. `pthread_t` is this address.
#[repr(C, align(64))]
pub struct Tcb {
    /// `%fs:0`: its own address.
    pub tcb: *mut Tcb,
    /// `%fs:8`: the dynamic thread vector.
    pub dtv: *mut c_void,
    /// `%fs:0x10`: its own address.
    pub this: *mut Tcb,
    /// `%fs:0x18`: glibc's multiple_threads flag; unused here.
    pub multiple_threads: c_int,
    /// `%fs:0x1c`: gscope; unused here.
    pub gscope: c_int,
    /// `%fs:0x20`: sysinfo; unused here.
    pub sysinfo: usize,
    /// `%fs:0x28`: the canary of `-fstack-protector`.
    pub stack_guard: usize,
    /// `%fs:0x30`: mangles pointers in `jmp_buf`.
    pub pointer_guard: usize,
    /// Room up to 0x2c0, where glibc's own struct pthread begins its private part.
    pub reserved: [usize; 57],
    /// The thread's `errno`.
    pub errno: c_int,
    /// The thread's id (gettid(2)); zeroed by the personality when the thread has ended.
    pub tid: i32,
    /// The thread's locale (uselocale(3)); null for the global one.
    pub locale: *mut c_void,
}

/// The calling thread's TCB.
#[cfg(not(test))]
#[inline(always)]
pub fn current() -> *mut Tcb {
    let tcb: *mut Tcb;
    // SAFETY: `%fs:0x10` holds the TCB's own address for every guest thread.
    unsafe {
        core::arch::asm!("mov {}, fs:[0x10]", out(reg) tcb, options(nostack, readonly, pure, preserves_flags))
    };
    tcb
}

/// The calling thread's TCB: on the host a stand-in for each test thread.
#[cfg(test)]
pub fn current() -> *mut Tcb {
    std::thread_local! {
        static TCB: *mut Tcb = {
            // SAFETY: all-zero is a valid Tcb (null pointers and numbers).
            let tcb = std::boxed::Box::leak(std::boxed::Box::new(unsafe { core::mem::zeroed::<Tcb>() }));
            let address: *mut Tcb = tcb;
            tcb.tcb = address;
            tcb.this = address;
            address
        };
    }
    TCB.with(|tcb| *tcb)
}

/// Where the calling thread's `errno` is.
#[inline]
pub fn errno_cell() -> *mut c_int {
    // SAFETY: the TCB lives as long as its thread, and this is that thread.
    unsafe { &raw mut (*current()).errno }
}
