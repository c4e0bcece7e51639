//! pthread_once(3). The word: bit 0 in progress, bit 1 done, above them the number of forks so far, so
//! that a child does not wait for a thread that exists in its parent only.
//!
//! The routine may be left by an exception or a cancellation (C++'s `call_once` relies on it): the
//! control then is as if nobody had called. [`guarded`]'s frame has a personality routine of ours,
//! which the unwinder calls on its way out.

use super::me;
use crate::futex::{self, Scope};
use crate::types::{c_int, c_void};
use core::sync::atomic::{AtomicU32, Ordering};

const IN_PROGRESS: u32 = 1;
const DONE: u32 = 2;
const ONE_FORK: u32 = 4;

static FORKS: AtomicU32 = AtomicU32::new(0);

/// A child process begins.
pub(crate) fn forked() {
    FORKS.fetch_add(ONE_FORK, Ordering::Relaxed);
}

/// A running routine of the calling thread; lives in `pthread_once`'s frame.
#[repr(C)]
struct Running {
    control: *const AtomicU32,
    outer: *mut Running,
}

abi! { EXPORTS "libc.so.6":
    /// pthread_once(3).
    "GLIBC_2.34" fn pthread_once(control: *const AtomicU32, routine: unsafe extern "C" fn()) -> c_int {
        // SAFETY: the program's control; the record is the thread's own.
        unsafe {
            if (*control).load(Ordering::Acquire) & DONE == 0 && claim(&*control) {
                let mut running = Running { control, outer: (*me()).once.cast() };
                (*me()).once = (&raw mut running).cast();
                guarded(routine);
                (*me()).once = running.outer.cast();
                finish(control, DONE);
            }
        }
        0
    }
}

/// True when the caller is to run the routine; false when it has been run.
fn claim(control: &AtomicU32) -> bool {
    let mine = FORKS.load(Ordering::Relaxed) | IN_PROGRESS;
    let mut seen = control.load(Ordering::Acquire);
    loop {
        if seen & DONE != 0 {
            return false;
        }
        if seen == mine {
            let _ = futex::wait(control, seen, Scope::Private, None);
            seen = control.load(Ordering::Acquire);
            continue;
        }
        // Free, or in progress in a thread that fork(2) left behind.
        match control.compare_exchange(seen, mine, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => return true,
            Err(now) => seen = now,
        }
    }
}

unsafe fn finish(control: *const AtomicU32, value: u32) {
    // SAFETY: the program's control.
    unsafe {
        (*control).store(value, Ordering::Release);
        futex::wake(&*control, u32::MAX, Scope::Private);
    }
}

/// Calls the routine in a frame with our personality routine.
#[unsafe(naked)]
unsafe extern "C" fn guarded(_routine: unsafe extern "C" fn()) {
    core::arch::naked_asm!(
        ".cfi_startproc",
        ".cfi_personality 0x1b, {personality}",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "call rdi",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "ret",
        ".cfi_endproc",
        personality = sym personality,
    )
}

/// The unwinder passes [`guarded`]'s frame (Itanium C++ ABI, "Exception Handling" 1.6).
unsafe extern "C" fn personality(
    _version: c_int,
    actions: c_int,
    _class: u64,
    _exception: *mut c_void,
    _context: *mut c_void,
) -> c_int {
    const CLEANUP_PHASE: c_int = 2;
    const CONTINUE_UNWIND: c_int = 8;
    if actions & CLEANUP_PHASE != 0 {
        // SAFETY: the frames below the unwinder still stand, so the innermost record does too.
        unsafe {
            let running: *mut Running = (*me()).once.cast();
            if !running.is_null() {
                (*me()).once = (*running).outer.cast();
                finish((*running).control, 0);
            }
        }
    }
    CONTINUE_UNWIND
}
