//! The lock of kernel state: a spin lock that works in memory shared by several processes.
//!
//! Rules: it is taken only inside the kernel (preemption of guest threads off), never held over a
//! park, and never while calling into the program. Lock order, outermost first: process table,
//! process, descriptor table, open file, net shard, wait queue, run queue, timer wheel, allocator.
//!
//! The word holds the owner, so that the lock of a killed process is recovered: whoever spins for long asks
//! whether the owner's host thread is still there ([`set_owners`]), and takes the lock from a dead one.
//! What that one was doing may be half done. A process leaves locks behind only if the host kills it
//! (a guest's own kill(2) ends threads where they hold none), within one of the short sections that locks
//! guard. What is known of those:
//! * allocator: objects in the dead thread's hands are lost; lists stay whole, since links are written
//!   before heads. A buddy block taken out of one list and not yet in another is lost.
//! * run queues, timers, hubs, futex queues: a wake-up may be lost for threads of the dead process, which
//!   need none; entries are inserted and removed by single calls of `Vec`, `VecDeque` and `BTreeMap`,
//!   whose middle is the risk that stays.
//! * values: what a lock guards is replaced first and dropped then ([`Lock::set`]), never the other way round; a `Vec`
//!   that grows names its old memory until it names the new one, so that is freed later (`guest/src/memory.rs`);
//! * the network stack: a segment may be processed by half, which TCP mends as loss.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// The words of owners, where processes share locks.
pub struct Owners {
    /// The calling host thread's word: not 0.
    pub own: fn() -> u32,
    /// Whether the host thread of a word is gone. Takes no lock.
    pub is_dead: fn(u32) -> bool,
}

/// A process constant; null where locks are not shared between processes.
static OWNERS: AtomicPtr<Owners> = AtomicPtr::new(core::ptr::null_mut());

/// Makes locks recoverable. Before any is shared.
pub fn set_owners(owners: &'static Owners) {
    OWNERS.store(core::ptr::from_ref(owners).cast_mut(), Ordering::Release);
}

#[inline]
fn owners() -> Option<&'static Owners> {
    // SAFETY: null or from `set_owners`.
    unsafe { OWNERS.load(Ordering::Relaxed).as_ref() }
}

/// The word that a lock holds for the calling host thread.
#[inline]
fn own_word() -> u32 {
    owners().map_or(1, |owners| (owners.own)())
}

/// Looks at the host's scheduler's mercy between two questions whether the owner is dead.
const YIELDS_PER_QUESTION: u32 = 64;
/// Spins before the host is asked to run somebody else: the holder may have lost its CPU.
const SPINS_BEFORE_YIELD: u32 = 200;

/// Mutual exclusion by spinning. See the module's rules.
#[repr(C)]
pub struct Lock<T: ?Sized> {
    /// 0 free, else the owner's word.
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the word admits one guard at a time, so the value is reached by one thread at a time.
unsafe impl<T: ?Sized + Send> Send for Lock<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for Lock<T> {}

/// Access to a locked value; dropping it unlocks.
pub struct Guard<'a, T: ?Sized> {
    lock: &'a Lock<T>,
}

impl<T> Lock<T> {
    /// An unlocked value.
    pub const fn new(value: T) -> Self {
        Lock { word: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    /// The value, when nobody else can have it.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Lock<T> {
    /// Waits for the lock and takes it.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        let own = own_word();
        if self.word.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.lock_slow(own);
        }
        Guard { lock: self }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        let taken = self.word.compare_exchange(0, own_word(), Ordering::Acquire, Ordering::Relaxed).is_ok();
        // Lazily: a guard made and dropped for nothing would unlock somebody else's lock.
        taken.then(|| Guard { lock: self })
    }

    /// Takes the lock if it is free, or from a dead owner; does not wait for a living one.
    pub fn reclaim(&self) -> Option<Guard<'_, T>> {
        let own = own_word();
        let taken = match self.word.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => true,
            Err(owner) => self.inherit(owner, own),
        };
        taken.then(|| Guard { lock: self })
    }

    /// Gives back a lock whose guard was forgotten: around a fork, where two processes go on with it.
    ///
    /// # Safety
    /// The caller holds the lock.
    pub unsafe fn unlock(&self) {
        self.word.store(0, Ordering::Release);
    }

    /// Changes the value. What it was is dropped when the new one is in its place and the lock is free: an assignment
    /// drops first, and whoever is killed then leaves a value that others drop again.
    pub fn set(&self, value: T)
    where
        T: Sized,
    {
        let before = core::mem::replace(&mut *self.lock(), value);
        drop(before);
    }

    /// The value, without locking, when the borrow proves that nobody else has it.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    #[cold]
    fn lock_slow(&self, own: u32) {
        let mut spins = 0u32;
        loop {
            loop {
                let owner = self.word.load(Ordering::Relaxed);
                if owner == 0 {
                    break;
                }
                core::hint::spin_loop();
                spins = spins.wrapping_add(1);
                if spins.is_multiple_of(SPINS_BEFORE_YIELD) {
                    // SAFETY: sched_yield takes no arguments and touches no memory.
                    let _ = unsafe { crate::host!(sched_yield) };
                }
                if spins.is_multiple_of(SPINS_BEFORE_YIELD * YIELDS_PER_QUESTION) && self.inherit(owner, own)
                {
                    return;
                }
            }
            if self.word.compare_exchange_weak(0, own, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }

    /// Takes the lock from a dead owner; one of those who wait gets it.
    fn inherit(&self, owner: u32, own: u32) -> bool {
        owners().is_some_and(|owners| (owners.is_dead)(owner))
            && self.word.compare_exchange(owner, own, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

impl<T: ?Sized> Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock, and `&mut self` makes this the only way in.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.word.store(0, Ordering::Release);
    }
}

impl<T: Default> Default for Lock<T> {
    fn default() -> Self {
        Lock::new(T::default())
    }
}

#[cfg(test)]
mod tests {
    use super::Lock;
    use std::sync::Arc;

    #[test]
    fn a_failed_try_leaves_the_lock_alone() {
        let lock = Lock::new(1);
        let guard = lock.lock();
        assert!(lock.try_lock().is_none());
        assert!(lock.try_lock().is_none());
        drop(guard);
        assert_eq!(lock.try_lock().map(|guard| *guard), Some(1));
    }

    #[test]
    fn excludes() {
        let count = Arc::new(Lock::new(0u64));
        let threads: std::vec::Vec<_> = (0..4)
            .map(|_| {
                let count = count.clone();
                std::thread::spawn(move || (0..10_000).for_each(|_| *count.lock() += 1))
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(*count.lock(), 40_000);
    }
}
