//! Host threads: start, end, wake, signal. The guest's vCPUs and helpers are made of these.

use crate::errno::{Errno, Result};
use crate::host;
use crate::sys;
use crate::time::Timespec;
use core::sync::atomic::AtomicU32;

/// `CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM`
const THREAD_FLAGS: usize = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000;

const FUTEX_WAIT_PRIVATE: usize = 128;
const FUTEX_WAKE_PRIVATE: usize = 129;

/// Starts a host thread at `entry(first, second)` on the stack that ends at `stack_top`. It inherits
/// the caller's signal mask and segment bases. Answers its thread id.
///
/// # Safety
/// The stack is writable, the thread's alone, and stays mapped while the thread runs.
pub unsafe fn start_host_thread(
    stack_top: usize,
    entry: extern "C" fn(usize, usize) -> !,
    first: usize,
    second: usize,
) -> Result<i32> {
    // SAFETY: forwarded.
    unsafe { clone_on(THREAD_FLAGS, stack_top, entry, first, second, core::ptr::null_mut()) }
}

/// Forks with a shared descriptor table; the child begins at `entry(first, second)` on the stack that ends
/// at `stack_top`, of which it has a copy like of all private memory. Answers its process id; its descriptor
/// is written to `pidfd` before it can run.
///
/// # Safety
/// The stack is writable and nobody else's; what the child touches must not be in use by other threads at
/// this moment. `pidfd` may be written.
pub unsafe fn fork_on(
    stack_top: usize,
    entry: extern "C" fn(usize, usize) -> !,
    first: usize,
    second: usize,
    pidfd: *mut i32,
) -> Result<i32> {
    /// `CLONE_FILES | CLONE_PIDFD | SIGCHLD`
    const FLAGS: usize = 0x400 | 0x1000 | 17;
    // SAFETY: forwarded.
    unsafe { clone_on(FLAGS, stack_top, entry, first, second, pidfd) }
}

unsafe fn clone_on(
    flags: usize,
    stack_top: usize,
    entry: extern "C" fn(usize, usize) -> !,
    first: usize,
    second: usize,
    pidfd: *mut i32,
) -> Result<i32> {
    let at = (stack_top & !15) - 32;
    // SAFETY: the caller gives the stack; the four words are what `attacca_host_clone` pops.
    let raw = unsafe {
        (at as *mut [usize; 4]).write([entry as usize, first, second, 0]);
        sys::attacca_host_clone(flags, at, pidfd)
    };
    Errno::from_raw(raw).map(|tid| tid as i32)
}

/// Ends the calling host thread. Its stack stays mapped.
pub fn exit_host_thread() -> ! {
    loop {
        // SAFETY: exit(2) of one thread touches no memory.
        let _ = unsafe { host!(exit, 0) };
    }
}

/// Ends the process, with all its host threads.
pub fn exit_group(status: i32) -> ! {
    loop {
        // SAFETY: it does not come back.
        let _ = unsafe { host!(exit_group, status) };
    }
}

/// Ends the process as the default action of `signal` does, so that its parent sees that very signal
/// (wait(2)) and a shell shows 128+n. No core file: it would be the runtime's, of many gigabytes of
/// address space.
pub fn die_by_signal(signal: i32) -> ! {
    const PR_SET_DUMPABLE: usize = 4;
    const SIG_UNBLOCK: usize = 1;
    // handler SIG_DFL, no flags, no restorer, empty mask.
    let default = [0usize; 4];
    let set = 1u64 << (signal - 1);
    // SAFETY: the structures are the kernel's and ours.
    unsafe {
        let _ = host!(prctl, PR_SET_DUMPABLE, 0);
        let _ = host!(rt_sigaction, signal, default.as_ptr(), 0, 8);
        let _ = host!(rt_sigprocmask, SIG_UNBLOCK, &raw const set, 0, 8);
        let _ = host!(tgkill, getpid(), gettid(), signal);
    }
    // Still here: the first process of a pid namespace does not die of its own signals
    // (pid_namespaces(7)).
    exit_group(128 + signal)
}

/// The host's id of the calling thread.
pub fn gettid() -> i32 {
    // SAFETY: touches no memory.
    unsafe { host!(gettid) }.unwrap_or(0) as i32
}

/// The host's id of this process.
pub fn getpid() -> i32 {
    // SAFETY: touches no memory.
    unsafe { host!(getpid) }.unwrap_or(0) as i32
}

/// Sends `signal` to one host thread of process `pid`.
pub fn tgkill(pid: i32, tid: i32, signal: i32) {
    // SAFETY: touches no memory; a thread that is gone gives ESRCH, which is what is wanted.
    let _ = unsafe { host!(tgkill, pid, tid, signal) };
}

/// Waits while `word` is `expected`, at most `timeout`; may come back early for no reason.
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Option<Timespec>) {
    let timeout = timeout.as_ref().map_or(core::ptr::null(), |t| t as *const Timespec);
    // SAFETY: the word lives over the call; the host only reads it.
    let _ = unsafe { host!(futex, word.as_ptr(), FUTEX_WAIT_PRIVATE, expected, timeout, 0, 0) };
}

/// Wakes up to `count` waiters of `word`.
pub fn futex_wake(word: &AtomicU32, count: u32) {
    // SAFETY: the address is only a key.
    let _ = unsafe { host!(futex, word.as_ptr(), FUTEX_WAKE_PRIVATE, count) };
}
