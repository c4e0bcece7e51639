//! Mutexes with a priority ceiling (PTHREAD_PRIO_PROTECT): whoever holds one runs with its ceiling at least.
//!
//! The lock word is glibc's: the ceiling in its upper 13 bits, below them 0, 1 or 2 (held and contended), so
//! that a change of the ceiling is seen by whoever is about to take the word. A thread counts the ceilings that
//! it holds; its priority goes up with the first of the highest and down with the last, by sched_setparam(2).

use super::me;
use super::mutex::{Mutex, PRIO_PROTECT, RECURSIVE, TYPE, relock};
use crate::futex::{self, Deadline};
use crate::kcall;
use crate::malloc::imp;
use crate::thread::tid;
use crate::types::c_int;
use core::ptr::null_mut;
use core::sync::atomic::Ordering;
use platform::Errno;

const SHIFT: u32 = 19;
const CEILING: u32 = !0 << SHIFT;
/// Of SCHED_FIFO.
const LOWEST: c_int = 1;
const HIGHEST: c_int = 99;

/// The ceilings that a thread holds now, on the heap of who ever held one.
pub(crate) struct Held {
    /// What the thread asked for itself, as of the first ceiling.
    own: c_int,
    highest: usize,
    counts: [u32; HIGHEST as usize + 1],
}

/// The calling thread takes `new` and gives `old` up; its priority follows.
unsafe fn exchange(old: Option<u32>, new: Option<u32>) -> Result<(), Errno> {
    // SAFETY: the thread's own record; its counts are touched by itself alone.
    unsafe {
        let record = me();
        if (*record).held.is_null() {
            (*record).held = imp::calloc(1, size_of::<Held>()).cast();
        }
        let Some(held) = (*record).held.as_mut() else { return Err(Errno::ENOMEM) };
        if held.highest == 0 {
            held.own = own_priority()?;
        }
        let before = held.highest;
        if let Some(new) = new {
            held.counts[new as usize] += 1;
        }
        if let Some(old) = old {
            held.counts[old as usize] -= 1;
        }
        held.highest = held.counts.iter().rposition(|&count| count != 0).unwrap_or(0);
        if held.highest == before {
            return Ok(());
        }
        let told = held.set_priority();
        if told.is_err() {
            // As it was, but for a ceiling that is given up in any case.
            if let Some(new) = new {
                held.counts[new as usize] -= 1;
            }
            held.highest = held.counts.iter().rposition(|&count| count != 0).unwrap_or(0);
        }
        told
    }
}

impl Held {
    unsafe fn set_priority(&self) -> Result<(), Errno> {
        let priority = self.own.max(self.highest as c_int);
        // SAFETY: our own parameter.
        unsafe { kcall!(sched_setparam, 0, &raw const priority) }.map(drop)
    }
}

/// pthread_setschedparam(3) of a thread that holds ceilings: `priority` is for later, what counts is answered.
pub(super) unsafe fn effective(held: *mut Held, priority: c_int) -> c_int {
    // SAFETY: null, or the counts of a thread that the program names.
    match unsafe { held.as_mut() } {
        Some(held) => {
            held.own = priority;
            priority.max(held.highest as c_int)
        }
        None => priority,
    }
}

/// The priority that the calling thread asked for itself.
unsafe fn own_priority() -> Result<c_int, Errno> {
    // SAFETY: the thread's own record and word.
    unsafe {
        if let Some(held) = (*me()).held.as_ref()
            && held.highest != 0
        {
            return Ok(held.own);
        }
        let mut priority: c_int = 0;
        kcall!(sched_getparam, 0, &raw mut priority).map(|_| priority)
    }
}

/// At a thread's end.
pub(crate) unsafe fn release() {
    // SAFETY: the thread's own record.
    unsafe { imp::free(core::mem::replace(&mut (*me()).held, null_mut()).cast()) }
}

/// pthread_mutex_init(3): the attribute's ceiling, 0 if it has none.
pub(super) fn first_word(ceiling: u32) -> u32 {
    ceiling.max(LOWEST as u32) << SHIFT
}

/// pthread_mutex_lock(3); `deadline`: pthread_mutex_timedlock(3).
pub(super) unsafe fn lock(mutex: *mut Mutex, deadline: Option<Deadline>) -> c_int {
    // SAFETY: the program's mutex; its plain fields belong to the holder.
    unsafe {
        let this = &mut *mutex;
        if this.kind & TYPE != 0 && this.owner.load(Ordering::Relaxed) == tid() as u32 {
            return relock(this);
        }
        match acquire(this, Some(deadline)) {
            Ok(()) => own(this),
            Err(errno) => errno.0,
        }
    }
}

/// pthread_mutex_trylock(3).
pub(super) unsafe fn try_lock(mutex: *mut Mutex) -> c_int {
    // SAFETY: as in `lock`.
    unsafe {
        let this = &mut *mutex;
        if this.kind & TYPE == RECURSIVE && this.owner.load(Ordering::Relaxed) == tid() as u32 {
            return relock(this);
        }
        match acquire(this, None) {
            Ok(()) => own(this),
            Err(errno) => errno.0,
        }
    }
}

fn own(this: &mut Mutex) -> c_int {
    this.owner.store(tid() as u32, Ordering::Relaxed);
    this.users += 1;
    this.count = 1;
    0
}

/// Takes the word and its ceiling. `patience`: `None` does not wait, EBUSY.
unsafe fn acquire(this: &Mutex, patience: Option<Option<Deadline>>) -> Result<(), Errno> {
    let mut taken = None;
    let give_up = |taken, errno| {
        // SAFETY: the thread's own counts.
        let _ = unsafe { exchange(taken, None) };
        Err(errno)
    };
    loop {
        let free = this.lock.load(Ordering::Relaxed) & CEILING;
        let ceiling = free >> SHIFT;
        // SAFETY: the thread's own record.
        if unsafe { own_priority()? } > ceiling as c_int {
            return give_up(taken, Errno::EINVAL);
        }
        if taken != Some(ceiling) {
            // SAFETY: the thread's own counts.
            unsafe { exchange(taken, Some(ceiling)) }?;
            taken = Some(ceiling);
        }
        let take = |held| this.lock.compare_exchange(free, free | held, Ordering::Acquire, Ordering::Relaxed);
        if take(1).is_ok() {
            return Ok(());
        }
        let Some(deadline) = patience else { return give_up(taken, Errno::EBUSY) };
        // Until the ceiling changes: marks the word as contended, and sleeps on that.
        while this.lock.load(Ordering::Relaxed) & CEILING == free {
            let mark = this.lock.compare_exchange(free | 1, free | 2, Ordering::Relaxed, Ordering::Relaxed);
            if (mark.is_ok() || mark == Err(free | 2))
                && futex::wait(&this.lock, free | 2, this.scope(), deadline) == Err(Errno::ETIMEDOUT)
            {
                return give_up(taken, Errno::ETIMEDOUT);
            }
            if take(2).is_ok() {
                return Ok(());
            }
        }
    }
}

/// pthread_mutex_unlock(3).
pub(super) unsafe fn unlock(mutex: *mut Mutex) -> c_int {
    // SAFETY: as in `lock`.
    unsafe {
        let this = &mut *mutex;
        let checked = this.kind & TYPE != 0;
        let held = this.lock.load(Ordering::Relaxed) & !CEILING != 0;
        if checked && (this.owner.load(Ordering::Relaxed) != tid() as u32 || !held) {
            return Errno::EPERM.0;
        }
        if this.kind & TYPE == RECURSIVE {
            this.count -= 1;
            if this.count != 0 {
                return 0;
            }
        }
        this.owner.store(0, Ordering::Relaxed);
        this.users = this.users.wrapping_sub(1);
        let (word, scope) = (this.lock.as_ptr(), this.scope());
        let before = this.lock.fetch_and(CEILING, Ordering::Release);
        if before & !CEILING > 1 {
            futex::wake_address(word, 1, scope);
        }
        exchange(Some(before >> SHIFT), None).map_or_else(|errno| errno.0, |()| 0)
    }
}

abi! { EXPORTS "libc.so.6":
    /// pthread_mutex_getprioceiling(3).
    "GLIBC_2.34" fn pthread_mutex_getprioceiling(mutex: *const Mutex, ceiling: *mut c_int) -> c_int {
        // SAFETY: the program's mutex and out pointer.
        unsafe {
            if (*mutex).kind & PRIO_PROTECT == 0 {
                return Errno::EINVAL.0;
            }
            ceiling.write(((*mutex).lock.load(Ordering::Relaxed) >> SHIFT) as c_int);
        }
        0
    }
    /// pthread_mutex_setprioceiling(3): takes the mutex, without its protocol, to change it.
    "GLIBC_2.34" fn pthread_mutex_setprioceiling(mutex: *mut Mutex, ceiling: c_int, old: *mut c_int) -> c_int {
        // SAFETY: the program's mutex and out pointer, which may be null.
        unsafe { set_ceiling(mutex, ceiling, old).map_or_else(|errno| errno.0, |()| 0) }
    }
}

unsafe fn set_ceiling(mutex: *mut Mutex, ceiling: c_int, old: *mut c_int) -> Result<(), Errno> {
    // SAFETY: as in `lock`.
    unsafe {
        let this = &mut *mutex;
        if this.kind & PRIO_PROTECT == 0 || !(LOWEST..=HIGHEST).contains(&ceiling) {
            return Err(Errno::EINVAL);
        }
        let mine = this.kind & TYPE != 0 && this.owner.load(Ordering::Relaxed) == tid() as u32;
        let word = &this.lock;
        if mine {
            if this.kind & TYPE != RECURSIVE {
                return Err(Errno::EDEADLK);
            }
            let before = word.load(Ordering::Relaxed);
            exchange(Some(before >> SHIFT), Some(ceiling as u32))?;
        }
        let before = loop {
            let seen = word.load(Ordering::Relaxed);
            let held = seen & !CEILING != 0 && !mine;
            if held {
                let contended = seen & CEILING | 2;
                if word.compare_exchange(seen, contended, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                    let _ = futex::wait(word, contended, this.scope(), None);
                }
                continue;
            }
            let new = (ceiling as u32) << SHIFT | seen & !CEILING;
            if word.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                break seen;
            }
        };
        if let Some(old) = old.as_mut() {
            *old = (before >> SHIFT) as c_int;
        }
        // Whoever sleeps expects the old ceiling in the word.
        futex::wake(word, u32::MAX, this.scope());
        Ok(())
    }
}
