//! pthread_rwlock_t: readers preferred (the default, and what glibc makes of PTHREAD_RWLOCK_PREFER_WRITER_NP
//! too), or writers (PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP).
//!
//! One state word; two sequence words to sleep on, one for readers and one for writers. A waiter
//! counts itself, reads its sequence word, looks at the state once more and sleeps. Who frees the lock
//! changes the state, then looks at the counts (all sequentially consistent): either it sees the
//! waiter and moves the sequence, or the waiter sees the free state.

use crate::futex::{self, Clock, Deadline, Scope};
use crate::thread::tid;
use crate::types::c_int;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use platform::Errno;
use platform::time::Timespec;

/// `pthread_rwlock_t`: 56 bytes; statically initialised to zero but for the kind at 48.
#[repr(C, align(8))]
pub struct RwLock {
    /// Number of readers, or [`WRITER`].
    state: AtomicU32,
    readers_waiting: AtomicU32,
    writers_waiting: AtomicU32,
    readers_sequence: AtomicU32,
    writers_sequence: AtomicU32,
    reserved: u32,
    writer: AtomicU32,
    shared: u32,
    reserved2: [u32; 4],
    kind: u32,
    reserved3: u32,
}

/// `pthread_rwlockattr_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RwLockAttr {
    kind: c_int,
    shared: c_int,
}

const _: () = assert!(size_of::<RwLock>() == 56 && core::mem::offset_of!(RwLock, kind) == 48);
const _: () = assert!(core::mem::offset_of!(RwLock, shared) == 28);

const WRITER: u32 = 1 << 31;
const MAX_READERS: u32 = WRITER - 1;
const PREFER_WRITER_NONRECURSIVE: u32 = 2;

impl RwLock {
    fn scope(&self) -> Scope {
        Scope::shared(self.shared != 0)
    }

    fn writers_first(&self) -> bool {
        self.kind == PREFER_WRITER_NONRECURSIVE && self.writers_waiting.load(SeqCst) > 0
    }

    fn try_read(&self) -> Result<(), Errno> {
        let mut seen = self.state.load(SeqCst);
        loop {
            // With readers inside, more may join even past waiting writers only if readers are preferred.
            if seen & WRITER != 0 || self.writers_first() {
                return Err(Errno::EBUSY);
            }
            if seen == MAX_READERS {
                return Err(Errno::EAGAIN);
            }
            match self.state.compare_exchange_weak(seen, seen + 1, SeqCst, SeqCst) {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
    }

    fn try_write(&self) -> Result<(), Errno> {
        self.state.compare_exchange(0, WRITER, SeqCst, SeqCst).map_err(|_| Errno::EBUSY)?;
        self.writer.store(tid() as u32, SeqCst);
        Ok(())
    }

    fn read(&self, deadline: Option<Deadline>) -> Result<(), Errno> {
        if self.writer.load(SeqCst) == tid() as u32 {
            return Err(Errno::EDEADLK);
        }
        self.acquire(&self.readers_waiting, &self.readers_sequence, deadline, Self::try_read)
    }

    fn write(&self, deadline: Option<Deadline>) -> Result<(), Errno> {
        if self.writer.load(SeqCst) == tid() as u32 {
            return Err(Errno::EDEADLK);
        }
        self.acquire(&self.writers_waiting, &self.writers_sequence, deadline, Self::try_write)
    }

    #[inline]
    fn acquire(
        &self,
        waiting: &AtomicU32,
        sequence: &AtomicU32,
        deadline: Option<Deadline>,
        attempt: fn(&Self) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let first = attempt(self);
        if first != Err(Errno::EBUSY) {
            return first;
        }
        waiting.fetch_add(1, SeqCst);
        let result = loop {
            let seen = sequence.load(SeqCst);
            let answer = attempt(self);
            if answer != Err(Errno::EBUSY) {
                break answer;
            }
            if let Err(Errno::ETIMEDOUT) = futex::wait(sequence, seen, self.scope(), deadline) {
                break Err(Errno::ETIMEDOUT);
            }
        };
        waiting.fetch_sub(1, SeqCst);
        if result.is_err() && self.state.load(SeqCst) & WRITER == 0 {
            // We may have swallowed a wake-up, or kept readers out: let others look again.
            self.wake();
        }
        result
    }

    fn unlock(&self) {
        if self.state.load(SeqCst) & WRITER != 0 {
            self.writer.store(0, SeqCst);
            self.state.store(0, SeqCst);
            self.wake();
        } else if self.state.fetch_sub(1, SeqCst) == 1 {
            self.wake();
        }
    }

    /// The lock is free (or readers may join): one writer and, unless writers come first, all readers.
    fn wake(&self) {
        let writers = self.writers_waiting.load(SeqCst) > 0;
        if writers {
            self.writers_sequence.fetch_add(1, SeqCst);
            futex::wake(&self.writers_sequence, 1, self.scope());
        }
        if self.readers_waiting.load(SeqCst) > 0 && !(writers && self.kind == PREFER_WRITER_NONRECURSIVE) {
            self.readers_sequence.fetch_add(1, SeqCst);
            futex::wake(&self.readers_sequence, u32::MAX, self.scope());
        }
    }
}

fn number(result: Result<(), Errno>) -> c_int {
    result.map_or_else(|errno| errno.0, |()| 0)
}

unsafe fn timed(
    lock: *mut RwLock,
    clock: Option<Clock>,
    at: *const Timespec,
    acquire: fn(&RwLock, Option<Deadline>) -> Result<(), Errno>,
) -> c_int {
    let Some(clock) = clock else { return Errno::EINVAL.0 };
    // SAFETY: the program's objects.
    unsafe {
        match Deadline::read(clock, at) {
            Ok(deadline) => number(acquire(&*lock, Some(deadline))),
            Err(errno) => errno.0,
        }
    }
}

abi! { EXPORTS "libc.so.6":
    /// pthread_rwlock_init(3).
    "GLIBC_2.34" fn pthread_rwlock_init(lock: *mut RwLock, attr: *const RwLockAttr) -> c_int {
        // SAFETY: the program's memory for a lock.
        unsafe {
            lock.cast::<u8>().write_bytes(0, size_of::<RwLock>());
            if !attr.is_null() {
                (*lock).kind = (*attr).kind as u32;
                (*lock).shared = (*attr).shared as u32;
            }
        }
        0
    }
    /// pthread_rwlock_destroy(3).
    "GLIBC_2.34" fn pthread_rwlock_destroy(_lock: *mut RwLock) -> c_int {
        0
    }
    /// pthread_rwlock_rdlock(3).
    "GLIBC_2.34" fn pthread_rwlock_rdlock(lock: *mut RwLock) -> c_int {
        // SAFETY: the program's object; so below.
        unsafe { number((*lock).read(None)) }
    }
    /// pthread_rwlock_tryrdlock(3).
    "GLIBC_2.34" fn pthread_rwlock_tryrdlock(lock: *mut RwLock) -> c_int {
        // SAFETY: as above.
        unsafe { number((*lock).try_read()) }
    }
    /// pthread_rwlock_timedrdlock(3).
    "GLIBC_2.34" fn pthread_rwlock_timedrdlock(lock: *mut RwLock, at: *const Timespec) -> c_int {
        // SAFETY: as above.
        unsafe { timed(lock, Some(Clock::Real), at, RwLock::read) }
    }
    /// pthread_rwlock_clockrdlock(3).
    "GLIBC_2.34" fn pthread_rwlock_clockrdlock(lock: *mut RwLock, clock: c_int, at: *const Timespec) -> c_int {
        // SAFETY: as above.
        unsafe { timed(lock, Clock::from_id(clock), at, RwLock::read) }
    }
    /// pthread_rwlock_wrlock(3).
    "GLIBC_2.34" fn pthread_rwlock_wrlock(lock: *mut RwLock) -> c_int {
        // SAFETY: as above.
        unsafe { number((*lock).write(None)) }
    }
    /// pthread_rwlock_trywrlock(3).
    "GLIBC_2.34" fn pthread_rwlock_trywrlock(lock: *mut RwLock) -> c_int {
        // SAFETY: as above.
        unsafe { number((*lock).try_write()) }
    }
    /// pthread_rwlock_timedwrlock(3).
    "GLIBC_2.34" fn pthread_rwlock_timedwrlock(lock: *mut RwLock, at: *const Timespec) -> c_int {
        // SAFETY: as above.
        unsafe { timed(lock, Some(Clock::Real), at, RwLock::write) }
    }
    /// pthread_rwlock_clockwrlock(3).
    "GLIBC_2.34" fn pthread_rwlock_clockwrlock(lock: *mut RwLock, clock: c_int, at: *const Timespec) -> c_int {
        // SAFETY: as above.
        unsafe { timed(lock, Clock::from_id(clock), at, RwLock::write) }
    }
    /// pthread_rwlock_unlock(3).
    "GLIBC_2.34" fn pthread_rwlock_unlock(lock: *mut RwLock) -> c_int {
        // SAFETY: as above.
        unsafe { (*lock).unlock() };
        0
    }
    /// pthread_rwlockattr_init(3).
    "GLIBC_2.34" fn pthread_rwlockattr_init(attr: *mut RwLockAttr) -> c_int {
        // SAFETY: the program's memory.
        unsafe { attr.write(RwLockAttr { kind: 0, shared: 0 }) };
        0
    }
    /// pthread_rwlockattr_destroy(3).
    "GLIBC_2.34" fn pthread_rwlockattr_destroy(_attr: *mut RwLockAttr) -> c_int {
        0
    }
    /// pthread_rwlockattr_setkind_np(3).
    "GLIBC_2.34" fn pthread_rwlockattr_setkind_np(attr: *mut RwLockAttr, kind: c_int) -> c_int {
        if !(0..=2).contains(&kind) {
            return Errno::EINVAL.0;
        }
        // SAFETY: the program's attributes.
        unsafe { (*attr).kind = kind };
        0
    }
    /// pthread_rwlockattr_getkind_np(3).
    "GLIBC_2.34" fn pthread_rwlockattr_getkind_np(attr: *const RwLockAttr, kind: *mut c_int) -> c_int {
        // SAFETY: the program's attributes.
        unsafe { kind.write((*attr).kind) };
        0
    }
    /// pthread_rwlockattr_setpshared(3).
    "GLIBC_2.34" fn pthread_rwlockattr_setpshared(attr: *mut RwLockAttr, shared: c_int) -> c_int {
        if !(0..=1).contains(&shared) {
            return Errno::EINVAL.0;
        }
        // SAFETY: the program's attributes.
        unsafe { (*attr).shared = shared };
        0
    }
    /// pthread_rwlockattr_getpshared(3).
    "GLIBC_2.34" fn pthread_rwlockattr_getpshared(attr: *const RwLockAttr, shared: *mut c_int) -> c_int {
        // SAFETY: the program's attributes.
        unsafe { shared.write((*attr).shared) };
        0
    }
}
