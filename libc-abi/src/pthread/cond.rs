//! pthread_cond_t.
//!
//! A sequence number that every signal advances, and a count of waiters. A waiter reads the number
//! while it holds the mutex, unlocks and sleeps while the number is the one it read: a signal after
//! the unlock changes the number before it wakes, so the sleep is either refused (EAGAIN) or ended.
//! No wake-up is lost: sleepers are woken first come first served, so a waiter that came after the
//! signal cannot take the wake-up of one that slept before it; one that was not yet asleep sees the
//! new number. Spurious returns are possible, as POSIX allows.
//!
//! `waiters` lets signals without waiters stay in user space: a waiter counts itself before it
//! unlocks, so a signaller that saw the waiter's effects under the mutex sees the count too. It also
//! lets pthread_cond_destroy wait until the last woken thread has left the object (it may be freed
//! right after a broadcast, POSIX's example in pthread_cond_destroy(3p)).

use super::cancel;
use super::mutex::{self, Mutex};
use crate::futex::{self, Clock, Deadline, Scope};
use crate::types::c_int;
use core::sync::atomic::{AtomicU32, Ordering};
use platform::Errno;
use platform::time::Timespec;

/// `pthread_cond_t`: 48 bytes, all-zero when statically initialised.
#[repr(C, align(8))]
pub struct Cond {
    sequence: AtomicU32,
    /// Twice the number of waiters; bit 0: a destroyer sleeps.
    waiters: AtomicU32,
    flags: u32,
    reserved: [u32; 9],
}

/// `pthread_condattr_t`: [`SHARED`] and [`MONOTONIC`] (glibc's encoding).
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct CondAttr(pub u32);

const _: () = assert!(size_of::<Cond>() == 48);

const SHARED: u32 = 1;
const MONOTONIC: u32 = 2;
const ONE_WAITER: u32 = 2;
const DESTROYER: u32 = 1;

impl Cond {
    fn scope(&self) -> Scope {
        Scope::shared(self.flags & SHARED != 0)
    }

    fn clock(&self) -> Clock {
        if self.flags & MONOTONIC != 0 { Clock::Monotonic } else { Clock::Real }
    }

    fn wake(&self, count: u32) {
        if self.waiters.load(Ordering::SeqCst) >= ONE_WAITER {
            self.sequence.fetch_add(1, Ordering::SeqCst);
            futex::wake(&self.sequence, count, self.scope());
        }
    }

    fn leave(&self) {
        let (word, scope) = (self.waiters.as_ptr(), self.scope());
        // The last of the waiters wakes the destroyer; behind the subtraction the object may be gone.
        if self.waiters.fetch_sub(ONE_WAITER, Ordering::SeqCst) == ONE_WAITER | DESTROYER {
            futex::wake_address(word, u32::MAX, scope);
        }
    }
}

/// Waits for a signal; a cancellation point. The mutex is held again on return and in cleanup handlers.
unsafe fn wait(cond: *mut Cond, mutex: *mut Mutex, deadline: Option<Deadline>) -> c_int {
    // SAFETY: the program's objects.
    unsafe {
        let this = &*cond;
        let seen = this.sequence.load(Ordering::SeqCst);
        this.waiters.fetch_add(ONE_WAITER, Ordering::SeqCst);
        let unlocked = mutex::unlock_for_cond(mutex);
        if unlocked != 0 {
            this.leave();
            return unlocked;
        }
        let result = loop {
            let result = futex::wait_cancellable(&this.sequence, seen, this.scope(), deadline);
            // A signal handler ran: sleep on, unless the number moved meanwhile or we are cancelled.
            if result != Err(Errno::EINTR)
                || this.sequence.load(Ordering::SeqCst) != seen
                || cancel::is_pending()
            {
                break result;
            }
        };
        let moved = this.sequence.load(Ordering::SeqCst) != seen;
        let cancelled = result == Err(Errno::EINTR) && cancel::is_pending();
        if cancelled && moved {
            // A signal may have been meant for us: pass it on, as a cancelled thread must not eat it.
            this.wake(1);
        }
        this.leave();
        let locked = mutex::lock_for_cond(mutex);
        if cancelled {
            cancel::test();
        }
        match result {
            _ if locked != 0 => locked,
            Err(Errno::ETIMEDOUT) if !moved => Errno::ETIMEDOUT.0,
            _ => 0,
        }
    }
}

unsafe fn timed(cond: *mut Cond, mutex: *mut Mutex, clock: Option<Clock>, at: *const Timespec) -> c_int {
    let Some(clock) = clock else { return Errno::EINVAL.0 };
    // SAFETY: the program's objects.
    unsafe {
        match Deadline::read(clock, at) {
            Ok(deadline) => wait(cond, mutex, Some(deadline)),
            Err(errno) => errno.0,
        }
    }
}

abi! { EXPORTS "libc.so.6":
    /// pthread_cond_init(3).
    "GLIBC_2.3.2" fn pthread_cond_init(cond: *mut Cond, attr: *const CondAttr) -> c_int {
        // SAFETY: the program's memory for a condition variable.
        unsafe {
            cond.cast::<u8>().write_bytes(0, size_of::<Cond>());
            (*cond).flags = if attr.is_null() { 0 } else { (*attr).0 };
        }
        0
    }
    /// pthread_cond_destroy(3): waits until woken threads have left.
    "GLIBC_2.3.2" fn pthread_cond_destroy(cond: *mut Cond) -> c_int {
        // SAFETY: the program's object.
        unsafe {
            let mut seen = (*cond).waiters.fetch_or(DESTROYER, Ordering::SeqCst) | DESTROYER;
            while seen >= ONE_WAITER {
                let _ = futex::wait(&(*cond).waiters, seen, (*cond).scope(), None);
                seen = (*cond).waiters.load(Ordering::SeqCst);
            }
            (*cond).waiters.store(0, Ordering::Relaxed);
        }
        0
    }
    /// pthread_cond_signal(3).
    "GLIBC_2.3.2" fn pthread_cond_signal(cond: *mut Cond) -> c_int {
        // SAFETY: the program's object.
        unsafe { (*cond).wake(1) };
        0
    }
    /// pthread_cond_broadcast(3).
    "GLIBC_2.3.2" fn pthread_cond_broadcast(cond: *mut Cond) -> c_int {
        // SAFETY: the program's object.
        unsafe { (*cond).wake(u32::MAX) };
        0
    }
    /// pthread_cond_wait(3).
    "GLIBC_2.3.2" fn pthread_cond_wait(cond: *mut Cond, mutex: *mut Mutex) -> c_int {
        // SAFETY: the program's objects.
        unsafe { wait(cond, mutex, None) }
    }
    /// pthread_cond_timedwait(3).
    "GLIBC_2.3.2" fn pthread_cond_timedwait(
        cond: *mut Cond, mutex: *mut Mutex, at: *const Timespec,
    ) -> c_int {
        // SAFETY: the program's objects.
        unsafe { timed(cond, mutex, Some((*cond).clock()), at) }
    }
    /// pthread_cond_clockwait(3).
    "GLIBC_2.34" fn pthread_cond_clockwait(
        cond: *mut Cond, mutex: *mut Mutex, clock: c_int, at: *const Timespec,
    ) -> c_int {
        // SAFETY: the program's objects.
        unsafe { timed(cond, mutex, Clock::from_id(clock), at) }
    }
    /// pthread_condattr_init(3).
    "GLIBC_2.2.5" fn pthread_condattr_init(attr: *mut CondAttr) -> c_int {
        // SAFETY: the program's memory.
        unsafe { attr.write(CondAttr(0)) };
        0
    }
    /// pthread_condattr_destroy(3).
    "GLIBC_2.2.5" fn pthread_condattr_destroy(_attr: *mut CondAttr) -> c_int {
        0
    }
    /// pthread_condattr_setclock(3).
    "GLIBC_2.34" fn pthread_condattr_setclock(attr: *mut CondAttr, clock: c_int) -> c_int {
        let Some(clock) = Clock::from_id(clock) else { return Errno::EINVAL.0 };
        let bit = if clock == Clock::Monotonic { MONOTONIC } else { 0 };
        // SAFETY: the program's attributes.
        unsafe { (*attr).0 = (*attr).0 & !MONOTONIC | bit };
        0
    }
    /// pthread_condattr_getclock(3).
    "GLIBC_2.34" fn pthread_condattr_getclock(attr: *const CondAttr, clock: *mut c_int) -> c_int {
        // SAFETY: the program's attributes.
        unsafe { clock.write(c_int::from((*attr).0 & MONOTONIC != 0)) };
        0
    }
    /// pthread_condattr_setpshared(3).
    "GLIBC_2.34" fn pthread_condattr_setpshared(attr: *mut CondAttr, shared: c_int) -> c_int {
        if !(0..=1).contains(&shared) {
            return Errno::EINVAL.0;
        }
        // SAFETY: the program's attributes.
        unsafe { (*attr).0 = (*attr).0 & !SHARED | shared as u32 };
        0
    }
    /// pthread_condattr_getpshared(3).
    "GLIBC_2.34" fn pthread_condattr_getpshared(attr: *const CondAttr, shared: *mut c_int) -> c_int {
        // SAFETY: the program's attributes.
        unsafe { shared.write(((*attr).0 & SHARED) as c_int) };
        0
    }
}
