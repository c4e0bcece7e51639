//! timer_create(2) and its family, with SIGEV_THREAD.
//!
//! The personality knows signals only. For SIGEV_THREAD a helper thread of ours waits for signal 32 of
//! such timers, which carries the address of our record, and starts a detached thread for each
//! expiration. A `timer_t` is the personality's number, or our record's address shifted right by one
//! with the sign set: two values that a program can only hand back.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::errno;
use crate::futex::Lock;
use crate::kcall;
use crate::malloc::imp;
use crate::pthread::attr::{self, Attr};
use crate::pthread::cancel::SIGCANCEL;
use crate::pthread::thread;
use crate::types::*;
use core::ptr::{null_mut, with_exposed_provenance_mut};
use core::sync::atomic::{AtomicI32, Ordering};
use platform::Errno;

/// `struct sigevent`: 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SigEvent {
    /// `sigval`.
    pub value: *mut c_void,
    /// Which signal.
    pub signal: c_int,
    /// `SIGEV_*`.
    pub notify: c_int,
    /// SIGEV_THREAD: the function. SIGEV_THREAD_ID: the low half is the thread.
    pub function: usize,
    /// Attributes of the thread to start, or null.
    pub attributes: *const Attr,
    /// Up to 64 bytes.
    pub reserved: [usize; 4],
}

const _: () = assert!(size_of::<SigEvent>() == 64);

/// The thread runs `function(value)`.
pub const SIGEV_THREAD: c_int = 2;
const SIGEV_THREAD_ID: c_int = 4;
const SI_TIMER: c_int = -2;

/// A timer that starts threads. On the list while the program holds it.
struct Timer {
    next: *mut Timer,
    id: c_int,
    job: Job,
    has_attributes: bool,
    attributes: Attr,
}

/// What a notification thread does.
#[derive(Clone, Copy)]
struct Job {
    function: usize,
    value: *mut c_void,
}

struct Helper {
    /// The process that the helper thread belongs to: a forked child has none yet.
    pid: c_int,
    tid: c_int,
    timers: *mut Timer,
}

// SAFETY: reached under the lock.
unsafe impl Send for Helper {}
static HELPER: Lock<Helper> = Lock::new(Helper { pid: 0, tid: 0, timers: null_mut() });

/// Timer numbers are ints; what is negative is a record.
fn record(timer: *mut c_void) -> Option<*mut Timer> {
    let value = timer as isize;
    (value < 0).then(|| with_exposed_provenance_mut((value as usize) << 1))
}

unsafe fn kernel_id(timer: *mut c_void) -> c_int {
    match record(timer) {
        Some(timer) => (*timer).id,
        None => timer as usize as c_int,
    }
}

abi! { EXPORTS "libc.so.6":
    /// timer_create(2).
    "GLIBC_2.34" fn timer_create(clock: c_int, event: *const SigEvent, out: *mut *mut c_void) -> c_int {
        let result = match event.as_ref() {
            Some(event) if event.notify == SIGEV_THREAD => create_threaded(clock, event),
            _ => {
                let mut id: c_int = 0;
                kcall!(timer_create, clock, event, &raw mut id).map(|_| id as usize as *mut c_void)
            }
        };
        errno::int(result.map(|timer| {
            out.write(timer);
            0
        }))
    }
    /// timer_delete(2).
    "GLIBC_2.34" fn timer_delete(timer: *mut c_void) -> c_int {
        let result = kcall!(timer_delete, kernel_id(timer));
        if result.is_ok() && let Some(timer) = record(timer) {
            // From here the helper does not find it any more.
            unlink(timer);
            imp::free(timer.cast());
        }
        errno::int(result)
    }
    /// timer_settime(2).
    "GLIBC_2.34" fn timer_settime(
        timer: *mut c_void, flags: c_int, new: *const c_void, old: *mut c_void,
    ) -> c_int {
        errno::int(kcall!(timer_settime, kernel_id(timer), flags, new, old))
    }
    /// timer_gettime(2).
    "GLIBC_2.34" fn timer_gettime(timer: *mut c_void, value: *mut c_void) -> c_int {
        errno::int(kcall!(timer_gettime, kernel_id(timer), value))
    }
    /// timer_getoverrun(2).
    "GLIBC_2.34" fn timer_getoverrun(timer: *mut c_void) -> c_int {
        errno::int(kcall!(timer_getoverrun, kernel_id(timer)))
    }
}

exports! { ROWS "libc.so.6":
    compat "GLIBC_2.3.3" "timer_create" = timer_create;
    compat "GLIBC_2.3.3" "timer_delete" = timer_delete;
    compat "GLIBC_2.3.3" "timer_settime" = timer_settime;
    compat "GLIBC_2.3.3" "timer_gettime" = timer_gettime;
    compat "GLIBC_2.3.3" "timer_getoverrun" = timer_getoverrun;
}

unsafe fn create_threaded(clock: c_int, event: &SigEvent) -> Result<*mut c_void, Errno> {
    let helper = ensure_helper()?;
    let timer: *mut Timer = imp::calloc(1, size_of::<Timer>()).cast();
    if timer.is_null() {
        return Err(Errno::EAGAIN);
    }
    (*timer).job = Job { function: event.function, value: event.value };
    (*timer).has_attributes = !event.attributes.is_null();
    if !event.attributes.is_null() {
        // As glibc: the fixed part is copied, its extension belongs to the program.
        (*timer).attributes = event.attributes.read();
    }
    let mut id: c_int = 0;
    let asked = SigEvent {
        value: timer.cast(),
        signal: SIGCANCEL,
        notify: SIGEV_THREAD_ID,
        function: helper as usize,
        attributes: core::ptr::null(),
        reserved: [0; 4],
    };
    if let Err(errno) = kcall!(timer_create, clock, &raw const asked, &raw mut id) {
        imp::free(timer.cast());
        return Err(errno);
    }
    (*timer).id = id;
    let mut helper = HELPER.lock();
    (*timer).next = helper.timers;
    helper.timers = timer;
    Ok((timer.expose_provenance() >> 1 | 1 << 63) as *mut c_void)
}

unsafe fn unlink(timer: *mut Timer) {
    let mut helper = HELPER.lock();
    let mut link = &raw mut helper.timers;
    while !(*link).is_null() {
        if *link == timer {
            *link = (*timer).next;
            return;
        }
        link = &raw mut (**link).next;
    }
}

/// The helper's thread id; makes it the first time, and again in a forked child (which has no timers
/// either: timer_create(2)).
unsafe fn ensure_helper() -> Result<c_int, Errno> {
    let pid = kcall!(getpid)? as c_int;
    let mut helper = HELPER.lock();
    if helper.pid == pid {
        return Ok(helper.tid);
    }
    helper.timers = null_mut();
    let started = AtomicI32::new(0);
    start(help as *const (), (&raw const started).cast_mut().cast(), None)?;
    let word = core::sync::atomic::AtomicU32::from_ptr(started.as_ptr().cast());
    while started.load(Ordering::Acquire) == 0 {
        let _ = crate::futex::wait(word, 0, crate::futex::Scope::Private, None);
    }
    (helper.pid, helper.tid) = (pid, started.load(Ordering::Acquire));
    Ok(helper.tid)
}

/// Starts a detached thread that has all signals blocked, libc's own too.
pub(crate) unsafe fn start(
    function: *const (),
    argument: *mut c_void,
    given: Option<&Attr>,
) -> Result<(), Errno> {
    const SIG_SETMASK: usize = 2;
    let mut attributes: Attr = core::mem::zeroed();
    attr::pthread_attr_init(&raw mut attributes);
    if let Some(given) = given {
        attributes = core::ptr::from_ref(given).read();
    }
    attr::pthread_attr_setdetachstate(&raw mut attributes, 1);
    let (all, mut before) = (u64::MAX, 0u64);
    let _ = kcall!(rt_sigprocmask, SIG_SETMASK, &raw const all, &raw mut before, 8);
    let mut id = null_mut();
    let result = thread::create(&raw mut id, &raw const attributes, function, argument, false);
    let _ = kcall!(rt_sigprocmask, SIG_SETMASK, &raw const before, 0, 8);
    result
}

/// The helper thread.
unsafe extern "C" fn help(started: *mut c_void) -> *mut c_void {
    let own = 1u64 << (SIGCANCEL - 1);
    {
        let started = &*started.cast::<AtomicI32>();
        let word = started.as_ptr();
        started.store(crate::thread::tid(), Ordering::Release);
        // The creator's frame may be gone by now: only the address counts.
        crate::futex::wake_address(word.cast(), 1, crate::futex::Scope::Private);
    }
    loop {
        // siginfo_t of a timer: signo, errno, code, pad, id, overrun, value.
        let mut info = [0usize; 16];
        if kcall!(rt_sigtimedwait, &raw const own, info.as_mut_ptr(), 0, 8).is_err() {
            continue;
        }
        if info[1] as u32 as c_int == SI_TIMER {
            notify(info[3]);
        }
    }
}

/// Runs the function of the timer at `address`, if it still is one.
unsafe fn notify(address: usize) {
    let helper = HELPER.lock();
    let mut timer = helper.timers;
    while !timer.is_null() && timer.addr() != address {
        timer = (*timer).next;
    }
    if timer.is_null() {
        return;
    }
    let (job, attributes) =
        ((*timer).job, (*timer).has_attributes.then(|| (&raw const (*timer).attributes).read()));
    drop(helper);
    start_job(job.function, job.value, attributes.as_ref());
}

/// Starts a thread for `function(value)`; a thread that cannot be had is a lost notification, as in
/// glibc. Also aio's and mq_notify's way to tell.
pub(crate) unsafe fn start_job(function: usize, value: *mut c_void, attributes: Option<&Attr>) {
    let job: *mut Job = imp::malloc(size_of::<Job>()).cast();
    if job.is_null() {
        return;
    }
    job.write(Job { function, value });
    if start(run as *const (), job.cast(), attributes).is_err() {
        imp::free(job.cast());
    }
}

unsafe extern "C" fn run(job: *mut c_void) -> *mut c_void {
    const SIG_SETMASK: usize = 2;
    let Job { function, value } = job.cast::<Job>().read();
    imp::free(job);
    // As glibc: a notification function starts with no signal blocked.
    let none = 0u64;
    let _ = kcall!(rt_sigprocmask, SIG_SETMASK, &raw const none, 0, 8);
    // SAFETY: the program's function.
    let function: unsafe extern "C" fn(*mut c_void) = unsafe { core::mem::transmute(function) };
    function(value);
    null_mut()
}

/// The lock, for fork(2).
pub(crate) fn fork_lock() -> &'static crate::futex::RawLock {
    HELPER.raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    static RUNS: AtomicUsize = AtomicUsize::new(0);
    static VALUE: AtomicUsize = AtomicUsize::new(0);
    unsafe extern "C" fn tick(value: *mut c_void) {
        VALUE.store(value as usize, Ordering::SeqCst);
        RUNS.fetch_add(1, Ordering::SeqCst);
    }

    #[test]
    fn threads_run_for_each_expiration() {
        let event = SigEvent {
            value: 77 as *mut c_void,
            signal: 0,
            notify: SIGEV_THREAD,
            function: tick as *const () as usize,
            attributes: core::ptr::null(),
            reserved: [0; 4],
        };
        let every_5ms = [0i64, 5_000_000, 0, 5_000_000];
        // SAFETY: our own structs; `itimerspec` is four words.
        unsafe {
            let mut timer = null_mut();
            assert_eq!(timer_create(1, &raw const event, &raw mut timer), 0);
            assert!((timer as isize) < 0, "a record");
            assert_eq!(timer_settime(timer, 0, every_5ms.as_ptr().cast(), null_mut()), 0);
            for _ in 0..400 {
                if RUNS.load(Ordering::SeqCst) >= 3 {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            assert!(RUNS.load(Ordering::SeqCst) >= 3);
            assert_eq!(VALUE.load(Ordering::SeqCst), 77);
            let mut left = [0i64; 4];
            assert_eq!(timer_gettime(timer, left.as_mut_ptr().cast()), 0);
            assert_eq!(left[1], 5_000_000);
            assert!(timer_getoverrun(timer) >= 0);
            assert_eq!(timer_delete(timer), 0);
            std::thread::sleep(Duration::from_millis(20));
            let then = RUNS.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(30));
            assert_eq!(RUNS.load(Ordering::SeqCst), then, "a deleted timer is silent");
            assert_eq!(timer_create(12345, &raw const event, &raw mut timer), -1);
            assert_eq!(errno::get(), Errno::EINVAL);
        }
    }
}
