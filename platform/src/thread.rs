//! Host threads: start, end, wake, signal. The guest's vCPUs and helpers are made of these.

use crate::errno::{Errno, Result};
use crate::host;
use crate::sys;
use crate::time::Timespec;
use core::mem::size_of;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

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

/// `CLONE_FILES | CLONE_PIDFD`
const FORK_FLAGS: u64 = 0x400 | 0x1000;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const SIGCHLD: u64 = 17;

/// `struct clone_args` of clone3(2), as Linux 5.3 has it.
#[repr(C)]
#[derive(Default)]
pub(crate) struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// Where the host tells of a child that it has made, before the child can run.
#[derive(Clone, Copy)]
pub struct Birth<'a> {
    /// Its process id. The host writes it when nothing can fail any more: while this is 0, there is no child.
    /// [`UNTOLD`]: there may be one, which has not told its id yet.
    pub pid: &'a AtomicI32,
    /// Its descriptor; of a clone that failed a number may stand here all the same.
    pub pidfd: &'a AtomicI32,
}

/// What stands for the id where the host is asked by clone(2), which cannot tell it.
pub const UNTOLD: i32 = -1;

impl Birth<'_> {
    fn args(&self) -> CloneArgs {
        CloneArgs {
            flags: FORK_FLAGS | CLONE_PARENT_SETTID,
            pidfd: self.pidfd.as_ptr() as u64,
            parent_tid: self.pid.as_ptr() as u64,
            exit_signal: SIGCHLD,
            ..CloneArgs::default()
        }
    }
}

/// Forks with a shared descriptor table. The child comes back, too, with 0, on its copy of the caller's stack.
///
/// A host that knows no clone3(2) or keeps it from us (ENOSYS: container runtimes do) is asked by clone(2), which
/// cannot tell the id: the child does then.
///
/// # Safety
/// What the child touches must not be in use by other threads at this moment.
#[inline(always)]
pub unsafe fn fork(birth: Birth<'_>) -> Result<i32> {
    let args = birth.args();
    // SAFETY: the structure is ours; the words in it outlive the call.
    let made = unsafe { host!(clone3, &raw const args, size_of::<CloneArgs>()) };
    let made = match made {
        Err(Errno::ENOSYS) => {
            birth.pid.store(UNTOLD, Ordering::SeqCst);
            // SAFETY: as above.
            unsafe { host!(clone, FORK_FLAGS | SIGCHLD, 0, birth.pidfd.as_ptr(), 0, 0) }
        }
        made => made,
    };
    made.map(|pid| pid as i32)
}

/// As [`fork`]; the child begins at `entry(first, second)` on the stack that ends at `stack_top`, of which it has a
/// copy like of all private memory.
///
/// # Safety
/// As [`fork`]; the stack is writable and nobody else's.
pub unsafe fn fork_on(
    stack_top: usize,
    entry: extern "C" fn(usize, usize) -> !,
    first: usize,
    second: usize,
    birth: Birth<'_>,
) -> Result<i32> {
    let at = (stack_top & !15) - 32;
    // clone3 names the stack's lowest address and its size: only their sum counts.
    let args = CloneArgs { stack: at as u64 - 4096, stack_size: 4096, ..birth.args() };
    // SAFETY: the caller gives the stack; the four words are what the child pops.
    let raw = unsafe {
        (at as *mut [usize; 4]).write([entry as usize, first, second, 0]);
        sys::attacca_host_clone3(&raw const args, size_of::<CloneArgs>())
    };
    match Errno::from_raw(raw) {
        Err(Errno::ENOSYS) => {
            birth.pid.store(UNTOLD, Ordering::SeqCst);
            let flags = (FORK_FLAGS | SIGCHLD) as usize;
            // SAFETY: forwarded.
            unsafe { clone_on(flags, stack_top, entry, first, second, birth.pidfd.as_ptr()) }
        }
        made => made.map(|pid| pid as i32),
    }
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
