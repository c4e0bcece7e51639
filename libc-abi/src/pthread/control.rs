//! What one thread does to another: signals, names, affinity, scheduling, clocks.

use super::ceiling;
use crate::kcall;
use crate::thread::{self, Tcb};
use crate::types::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicI32, Ordering};
use platform::Errno;

/// A thread's id, or ESRCH if it has ended.
unsafe fn id(thread: *mut Tcb) -> Result<i32, Errno> {
    // SAFETY: the program's thread id.
    match unsafe { (*thread).tid_word().load(Ordering::Acquire) } as i32 {
        0 => Err(Errno::ESRCH),
        tid => Ok(tid),
    }
}

/// Sends a signal to a thread of this process.
pub(crate) unsafe fn send(thread: *mut Tcb, signal: c_int) -> c_int {
    // SAFETY: numbers only.
    unsafe {
        match id(thread).and_then(|tid| kcall!(tgkill, kcall!(getpid)?, tid, signal)) {
            // The thread ended meanwhile: since 2.34 that is success for a thread not yet joined.
            Ok(_) | Err(Errno::ESRCH) => 0,
            Err(errno) => errno.0,
        }
    }
}

fn number(result: Result<usize, Errno>) -> c_int {
    result.map_or_else(|errno| errno.0, |_| 0)
}

/// Least and greatest priority of a policy: SCHED_FIFO and SCHED_RR have 1 to 99.
pub(crate) fn priority_range(policy: c_int) -> (c_int, c_int) {
    if matches!(policy, 1 | 2) { (1, 99) } else { (0, 0) }
}

static CONCURRENCY: AtomicI32 = AtomicI32::new(0);

abi! { EXPORTS "libc.so.6":
    /// pthread_kill(3).
    "GLIBC_2.34" fn pthread_kill(thread: *mut Tcb, signal: c_int) -> c_int {
        if matches!(signal, 32 | 33) {
            return Errno::EINVAL.0;
        }
        // SAFETY: the program's thread id.
        unsafe { send(thread, signal) }
    }
    /// pthread_sigqueue(3).
    "GLIBC_2.34" fn pthread_sigqueue(thread: *mut Tcb, signal: c_int, value: *mut c_void) -> c_int {
        if matches!(signal, 32 | 33) {
            return Errno::EINVAL.0;
        }
        const SI_QUEUE: i32 = -1;
        // siginfo_t: signo, errno, code, pad, pid, uid, value.
        #[repr(C)]
        struct Info {
            head: [i32; 4],
            pid: i32,
            uid: u32,
            value: *mut c_void,
            rest: [u64; 12],
        }
        // SAFETY: our own siginfo.
        unsafe {
            let pid = kcall!(getpid).unwrap_or(0);
            let uid = kcall!(getuid).unwrap_or(0) as u32;
            let info = Info { head: [signal, 0, SI_QUEUE, 0], pid: pid as i32, uid, value, rest: [0; 12] };
            number(id(thread).and_then(|tid| kcall!(rt_tgsigqueueinfo, pid, tid, signal, &raw const info)))
        }
    }
    /// pthread_sigmask(3).
    "GLIBC_2.32" fn pthread_sigmask(how: c_int, set: *const u64, old: *mut u64) -> c_int {
        // SAFETY: the program's sigset_t.
        unsafe { crate::signal::change_mask(how, set, old) }.map_or_else(|errno| errno.0, |()| 0)
    }
    /// pthread_setname_np(3): at most 15 bytes.
    "GLIBC_2.34" fn pthread_setname_np(thread: *mut Tcb, name: *const c_char) -> c_int {
        const PR_SET_NAME: usize = 15;
        // SAFETY: the program's string and thread id.
        unsafe {
            let bytes = core::ffi::CStr::from_ptr(name).to_bytes();
            if bytes.len() > 15 {
                return Errno::ERANGE.0;
            }
            if thread == thread::current() {
                return number(kcall!(prctl, PR_SET_NAME, name));
            }
            const O_WRONLY: usize = 1;
            number(with_comm(thread, O_WRONLY, |fd| kcall!(write, fd, bytes.as_ptr(), bytes.len())))
        }
    }
    /// pthread_getname_np(3).
    "GLIBC_2.34" fn pthread_getname_np(thread: *mut Tcb, out: *mut c_char, len: usize) -> c_int {
        const PR_GET_NAME: usize = 16;
        if len < 16 {
            return Errno::ERANGE.0;
        }
        // SAFETY: the program's buffer of `len` bytes.
        unsafe {
            if thread == thread::current() {
                return number(kcall!(prctl, PR_GET_NAME, out));
            }
            let read = with_comm(thread, 0, |fd| kcall!(read, fd, out, len));
            match read {
                Ok(got) => {
                    let newline = got > 0 && *out.add(got - 1) as u8 == b'\n';
                    let end = if newline { got - 1 } else { got.min(len - 1) };
                    *out.add(end) = 0;
                    0
                }
                Err(errno) => errno.0,
            }
        }
    }
    /// pthread_setaffinity_np(3).
    "GLIBC_2.34" fn pthread_setaffinity_np(thread: *mut Tcb, len: usize, cpus: *const c_void) -> c_int {
        // SAFETY: the program's set.
        unsafe { number(id(thread).and_then(|tid| kcall!(sched_setaffinity, tid, len, cpus))) }
    }
    /// pthread_getaffinity_np(3).
    "GLIBC_2.32" fn pthread_getaffinity_np(thread: *mut Tcb, len: usize, cpus: *mut c_void) -> c_int {
        // SAFETY: the program's set; the kernel writes only the first bytes.
        unsafe {
            let asked = len.min(i32::MAX as usize);
            match id(thread).and_then(|tid| kcall!(sched_getaffinity, tid, asked, cpus)) {
                Ok(written) => {
                    cpus.cast::<u8>().add(written).write_bytes(0, len - written);
                    0
                }
                Err(errno) => errno.0,
            }
        }
    }
    /// pthread_setschedparam(3).
    "GLIBC_2.2.5" fn pthread_setschedparam(thread: *mut Tcb, policy: c_int, param: *const c_int) -> c_int {
        // SAFETY: the program's parameter.
        unsafe {
            let now = ceiling::effective((*thread).pthread.held, *param);
            let result = id(thread).and_then(|tid| kcall!(sched_setscheduler, tid, policy, &raw const now));
            if result.is_ok() {
                (*thread).pthread.policy = policy;
                (*thread).pthread.priority = *param;
            }
            number(result)
        }
    }
    /// pthread_getschedparam(3).
    "GLIBC_2.2.5" fn pthread_getschedparam(thread: *mut Tcb, policy: *mut c_int, param: *mut c_int) -> c_int {
        // SAFETY: the program's out pointers.
        unsafe {
            let result = id(thread).and_then(|tid| {
                kcall!(sched_getparam, tid, param)?;
                kcall!(sched_getscheduler, tid)
            });
            match result {
                Ok(found) => {
                    policy.write(found as c_int);
                    0
                }
                Err(errno) => errno.0,
            }
        }
    }
    /// pthread_setschedprio(3).
    "GLIBC_2.34" fn pthread_setschedprio(thread: *mut Tcb, priority: c_int) -> c_int {
        // SAFETY: our own parameter.
        unsafe {
            let now = ceiling::effective((*thread).pthread.held, priority);
            let result = id(thread).and_then(|tid| kcall!(sched_setparam, tid, &raw const now));
            if result.is_ok() {
                (*thread).pthread.priority = priority;
            }
            number(result)
        }
    }
    /// pthread_getcpuclockid(3): the kernel's encoding of a thread's CPU clock.
    "GLIBC_2.34" fn pthread_getcpuclockid(thread: *mut Tcb, clock: *mut c_int) -> c_int {
        const PER_THREAD_SCHED: i32 = 6;
        // SAFETY: the program's out pointer.
        unsafe {
            match id(thread) {
                Ok(tid) => {
                    clock.write(!tid << 3 | PER_THREAD_SCHED);
                    0
                }
                Err(errno) => errno.0,
            }
        }
    }
    /// pthread_setconcurrency(3): remembered, as on Linux.
    "GLIBC_2.34" fn pthread_setconcurrency(level: c_int) -> c_int {
        if level < 0 {
            return Errno::EINVAL.0;
        }
        CONCURRENCY.store(level, Ordering::Relaxed);
        0
    }
    /// pthread_getconcurrency(3).
    "GLIBC_2.34" fn pthread_getconcurrency() -> c_int {
        CONCURRENCY.load(Ordering::Relaxed)
    }
}

/// pthread_yield(3): sched_yield under an old name.
pub unsafe extern "C" fn pthread_yield() -> c_int {
    // SAFETY: takes nothing.
    crate::errno::int(unsafe { kcall!(sched_yield) })
}

exports! { ROWS "libc.so.6":
    compat "GLIBC_2.2.5" "pthread_yield" = pthread_yield;
}

/// Runs `action` on another thread's `comm` file.
unsafe fn with_comm(
    thread: *mut Tcb,
    flags: usize,
    action: impl FnOnce(usize) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    const AT_FDCWD: isize = -100;
    const O_CLOEXEC: usize = 0o2000000;
    // SAFETY: our own path.
    unsafe {
        let path = alloc::format!("/proc/self/task/{}/comm\0", id(thread)?);
        let fd = kcall!(openat, AT_FDCWD, path.as_ptr(), flags | O_CLOEXEC, 0)?;
        let result = action(fd);
        let _ = kcall!(close, fd);
        result
    }
}
