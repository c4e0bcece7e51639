//! futex(2) for this crate, and the lock that guards its process-wide state.
//!
//! [`Lock`] *parks*: a guest thread can be preempted while it holds one, and a spinning waiter on the
//! same vCPU would then burn its whole slice. The word is the classic one: 0 free, 1 held, 2 held
//! and somebody may wait (Drepper, "Futexes are tricky", mutex 2).

use crate::kcall;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};
use platform::Errno;
use platform::time::Timespec;

const FUTEX_WAIT: usize = 0;
const FUTEX_WAKE: usize = 1;
const FUTEX_WAIT_BITSET: usize = 9;
const FUTEX_PRIVATE: usize = 128;
const FUTEX_CLOCK_REALTIME: usize = 256;
const MATCH_ANY: u32 = u32::MAX;

/// Who may use a futex: this process alone, or every process that maps its page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// FUTEX_PRIVATE_FLAG.
    Private,
    /// In shared memory.
    Shared,
}

impl Scope {
    /// `Shared` if the object says so.
    #[inline]
    pub const fn shared(yes: bool) -> Scope {
        if yes { Scope::Shared } else { Scope::Private }
    }
    #[inline]
    pub(crate) const fn flag(self) -> usize {
        match self {
            Scope::Private => FUTEX_PRIVATE,
            Scope::Shared => 0,
        }
    }
}

/// The clock of an absolute deadline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    /// CLOCK_REALTIME.
    Real,
    /// CLOCK_MONOTONIC.
    Monotonic,
}

impl Clock {
    /// The clocks that waits may name; all others are EINVAL (pthread_cond_clockwait).
    pub const fn from_id(id: i32) -> Option<Clock> {
        match id {
            0 => Some(Clock::Real),
            1 => Some(Clock::Monotonic),
            _ => None,
        }
    }
}

/// Until when to wait.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// On which clock.
    pub clock: Clock,
    /// The absolute time.
    pub at: Timespec,
}

impl Deadline {
    /// Reads a caller's timespec: `EINVAL` if its nanoseconds are none.
    ///
    /// # Safety
    /// `at` points to a timespec.
    pub unsafe fn read(clock: Clock, at: *const Timespec) -> Result<Deadline, Errno> {
        // SAFETY: the caller's pointer.
        let at = unsafe { at.read() };
        if at.nsec < 0 || at.nsec >= 1_000_000_000 { Err(Errno::EINVAL) } else { Ok(Deadline { clock, at }) }
    }
}

/// Sleeps while `*word == expected`. `Ok` on a wake-up, EAGAIN if the value differs, EINTR, ETIMEDOUT.
pub fn wait(word: &AtomicU32, expected: u32, scope: Scope, until: Option<Deadline>) -> Result<(), Errno> {
    let (op, timeout) = wait_operation(&until, scope);
    // SAFETY: the word and the timespec live through the call.
    unsafe { kcall!(futex, word.as_ptr(), op, expected, timeout, 0, MATCH_ANY) }.map(drop)
}

/// As [`wait`], and a cancellation point: answers EINTR when the thread is to be cancelled; the
/// caller then repairs its state and calls [`crate::pthread::cancel::test`].
pub fn wait_cancellable(
    word: &AtomicU32,
    expected: u32,
    scope: Scope,
    until: Option<Deadline>,
) -> Result<(), Errno> {
    let (op, timeout) = wait_operation(&until, scope);
    let args = [word.as_ptr() as usize, op, expected as usize, timeout as usize, 0, MATCH_ANY as usize];
    // SAFETY: as in `wait`.
    unsafe { crate::pthread::cancel::interruptible(platform::sys::number::futex as usize, args) }.map(drop)
}

fn wait_operation(until: &Option<Deadline>, scope: Scope) -> (usize, *const Timespec) {
    match until {
        None => (FUTEX_WAIT | scope.flag(), core::ptr::null()),
        Some(deadline) => {
            let clock = if deadline.clock == Clock::Real { FUTEX_CLOCK_REALTIME } else { 0 };
            // A time before the epoch is in the past; the kernel would say EINVAL.
            let at = if deadline.at.sec < 0 { &PAST } else { &deadline.at };
            (FUTEX_WAIT_BITSET | scope.flag() | clock, &raw const *at)
        }
    }
}

static PAST: Timespec = Timespec { sec: 0, nsec: 0 };

/// Wakes up to `count` sleepers.
pub fn wake(word: &AtomicU32, count: u32, scope: Scope) {
    wake_address(word.as_ptr(), count, scope);
}

/// As [`wake`] for a word that may be gone by now: the call only compares addresses.
pub fn wake_address(word: *const u32, count: u32, scope: Scope) {
    // SAFETY: FUTEX_WAKE does not read the word. It fails only for an unmapped shared one, where
    // nobody can sleep any more.
    let _ = unsafe { kcall!(futex, word, FUTEX_WAKE | scope.flag(), count.min(i32::MAX as u32)) };
}

/// A lock without a value: for two-phase use around fork(2), and under [`Lock`].
#[repr(transparent)]
#[derive(Debug)]
pub struct RawLock(AtomicU32);

impl RawLock {
    /// Free.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        RawLock(AtomicU32::new(0))
    }

    /// Takes the lock, sleeping if need be.
    #[inline]
    pub fn lock(&self) {
        if self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.lock_slow();
        }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> bool {
        self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn lock_slow(&self) {
        // Once we slept we cannot know whether others still do: take it as contended.
        while self.0.swap(2, Ordering::Acquire) != 0 {
            let _ = wait(&self.0, 2, Scope::Private, None);
        }
    }

    /// Gives the lock back.
    ///
    /// # Safety
    /// The caller holds it.
    #[inline]
    pub unsafe fn unlock(&self) {
        if self.0.swap(0, Ordering::Release) == 2 {
            wake(&self.0, 1, Scope::Private);
        }
    }

    /// Makes the lock free in a forked child, where nobody waits.
    ///
    /// # Safety
    /// The forking thread held it, or its data is known to be whole.
    pub unsafe fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// A value behind a [`RawLock`].
pub struct Lock<T> {
    raw: RawLock,
    value: UnsafeCell<T>,
}

// SAFETY: the raw lock admits one guard at a time.
unsafe impl<T: Send> Sync for Lock<T> {}
// SAFETY: a lock is its value.
unsafe impl<T: Send> Send for Lock<T> {}

/// Access to a locked value.
pub struct Guard<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Lock<T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        Lock { raw: RawLock::new(), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock and takes it.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        self.raw.lock();
        Guard { lock: self }
    }

    /// The lock itself, for fork(2).
    pub const fn raw(&self) -> &RawLock {
        &self.raw
    }

    /// The value's address; the caller argues why it may be used.
    pub const fn as_ptr(&self) -> *mut T {
        self.value.get()
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the guard holds the lock.
        unsafe { self.lock.raw.unlock() }
    }
}
