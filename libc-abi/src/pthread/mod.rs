//! POSIX threads, over futexes and the personality's threads. A file for each kind of object; all of them
//! have glibc's sizes and static initialisers, since programs hold them in their own memory.

pub mod atfork;
pub mod attr;
pub mod barrier;
pub mod cancel;
pub mod ceiling;
pub mod cond;
pub mod control;
pub mod key;
pub mod mutex;
pub mod once;
pub mod rwlock;
pub mod spin;
pub mod stack;
#[cfg(test)]
mod tests;
pub mod thread;

use crate::thread::Tcb;
use crate::types::{c_int, c_void};
use core::sync::atomic::{AtomicPtr, AtomicU32};

/// What a thread's TCB keeps for this module. All-zero is a fresh, joinable thread.
#[repr(C)]
pub struct Record {
    /// Neighbours in the list of all threads (under its lock).
    pub(crate) next: *mut Tcb,
    pub(crate) prev: *mut Tcb,
    /// [`thread::JOINABLE`], ...
    pub(crate) detach: AtomicU32,
    /// Bits of [`cancel`].
    pub(crate) cancel: AtomicU32,
    /// Who joins this thread.
    pub(crate) joiner: AtomicPtr<Tcb>,
    /// `void *(*)(void *)`, or a C11 `int (*)(void *)`.
    pub(crate) start: *const (),
    pub(crate) argument: *mut c_void,
    pub(crate) result: *mut c_void,
    pub(crate) is_c11: bool,
    /// Whether a personality thread stands behind it (false once it is past its last user code).
    pub(crate) is_main: bool,
    pub(crate) robust_known: bool,
    pub(crate) unwinding: bool,
    /// 1 while the creator still sets the thread up: it waits before it runs user code.
    pub(crate) hold: AtomicU32,
    /// Stack pointer of the frame that pthread_exit returns to.
    pub(crate) base: usize,
    /// Stack pointer of an open cancellation point, or 0.
    pub(crate) point: usize,
    /// Innermost `__pthread_unwind_buf_t` (C without -fexceptions).
    pub(crate) unwind_buffer: *mut c_void,
    /// Innermost `struct _pthread_cleanup_buffer` (old binaries).
    pub(crate) cleanup: *mut c_void,
    /// The exception object of a forced unwind: four words, 16-byte aligned.
    pub(crate) exception: cancel::Exception,
    /// The once_control whose routine runs, innermost.
    pub(crate) once: *mut c_void,
    /// The mapping with stack, TLS and this record; null for the main thread.
    pub(crate) stack: stack::Stack,
    /// `struct robust_list_head`.
    pub(crate) robust: mutex::RobustHead,
    pub(crate) policy: c_int,
    pub(crate) priority: c_int,
    /// Priority ceilings that it holds; null if it never held one.
    pub(crate) held: *mut ceiling::Held,
    /// Signal mask to start with, if `has_mask`.
    pub(crate) mask: u64,
    pub(crate) has_mask: bool,
}

/// The record of the calling thread.
#[inline]
pub(crate) fn me() -> *mut Record {
    // SAFETY: the thread's own TCB.
    unsafe { &raw mut (*crate::thread::current()).pthread }
}
