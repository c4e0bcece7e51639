//! pthread_mutex_t: normal, recursive, error-checking and adaptive, private or process-shared, and
//! robust (pthread_mutexattr_setrobust(3)).
//!
//! Layout and kinds are glibc's (trap 8): lock word at 0, count 4, owner 8, kind 16, robust list
//! links at 24. An ordinary lock word is 0, 1 or 2 (held and contended). A robust one holds the
//! owner's thread id and FUTEX_WAITERS, as the kernel's robust list protocol needs
//! (Documentation/locking/robust-futexes.rst): it marks the mutexes of a thread that died.
//!
//! With PTHREAD_PRIO_INHERIT the word is the same as a robust one's, and a lock that somebody waits for is
//! handed over by the personality (FUTEX_LOCK_PI, FUTEX_UNLOCK_PI).
//!
//! Priority ceilings (PTHREAD_PRIO_PROTECT) are in `ceiling.rs`; a robust mutex with one is refused, as by glibc.
//! Adaptive mutexes do not spin: the owner may wait for the very vCPU that would spin.

use super::{ceiling, me};
use crate::futex::{self, Clock, Deadline, Scope};
use crate::kcall;
use crate::thread::tid;
use crate::types::c_int;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, Ordering};
use platform::Errno;
use platform::time::Timespec;

/// `pthread_mutex_t`.
#[repr(C)]
pub struct Mutex {
    pub(super) lock: AtomicU32,
    pub(super) count: u32,
    pub(super) owner: AtomicU32,
    pub(super) users: u32,
    pub(super) kind: u32,
    spins: u32,
    list: Links,
}

/// `__pthread_list_t`: the links of a held robust mutex. The kernel follows `next`.
#[repr(C)]
struct Links {
    prev: *mut Links,
    next: *mut Links,
}

/// `struct robust_list_head` of a thread.
#[repr(C)]
pub(crate) struct RobustHead {
    /// Points to the `next` field of the first mutex's links, as glibc's does; the head itself if empty.
    list: *mut *mut Links,
    futex_offset: isize,
    pending: *mut *mut Links,
}

/// `pthread_mutexattr_t`: the kind's bits.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct MutexAttr(pub u32);

const _: () = assert!(size_of::<Mutex>() == 40 && core::mem::offset_of!(Mutex, list) == 24);

pub(super) const TYPE: u32 = 3;
pub(super) const RECURSIVE: u32 = 1;
const ERRORCHECK: u32 = 2;
const ROBUST: u32 = 16;
const PRIO_INHERIT: u32 = 32;
pub(super) const PRIO_PROTECT: u32 = 64;
const SHARED: u32 = 128;
/// Elision flags of glibc's own; a program may copy them, they mean nothing here.
const ELISION: u32 = 256 | 512;

// Bits of pthread_mutexattr_t where they differ from the mutex's.
const ATTR_ROBUST: u32 = 0x4000_0000;
const ATTR_SHARED: u32 = 0x8000_0000;
const ATTR_PROTOCOL_SHIFT: u32 = 28;
const ATTR_PROTOCOL: u32 = 3 << ATTR_PROTOCOL_SHIFT;
const ATTR_CEILING_SHIFT: u32 = 12;
const ATTR_CEILING: u32 = 0xfff << ATTR_CEILING_SHIFT;

// Lock word of a robust mutex.
const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;
const TID: u32 = 0x3fff_ffff;
// Owner field of a robust mutex whose data may be broken.
const INCONSISTENT: u32 = 0x7fff_ffff;
const NOT_RECOVERABLE: u32 = 0x7fff_fffe;

impl Mutex {
    pub(super) fn scope(&self) -> Scope {
        Scope::shared(self.kind & SHARED != 0)
    }

    /// Whether nothing but the lock word matters: normal or adaptive, not robust.
    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.kind & (ROBUST | PRIO_INHERIT | PRIO_PROTECT) == 0 && matches!(self.kind & TYPE, 0 | 3)
    }

    #[inline(always)]
    fn take_word(&self) -> bool {
        self.lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes the word, sleeping until `deadline`.
    fn wait_for_word(&self, deadline: Option<Deadline>) -> Result<(), Errno> {
        if self.take_word() {
            return Ok(());
        }
        while self.lock.swap(2, Ordering::Acquire) != 0 {
            if let Err(Errno::ETIMEDOUT) = futex::wait(&self.lock, 2, self.scope(), deadline) {
                return Err(Errno::ETIMEDOUT);
            }
        }
        Ok(())
    }

    /// Gives the word up.
    #[inline(always)]
    fn release_word(&self) {
        let scope = self.scope();
        // Behind the swap the mutex may be destroyed by the next owner: only its address is used.
        let word = self.lock.as_ptr();
        if self.lock.swap(0, Ordering::Release) == 2 {
            futex::wake_address(word, 1, scope);
        }
    }
}

/// pthread_mutex_lock(3), with a deadline if there is one; the answer is an error number.
unsafe fn lock(mutex: *mut Mutex, deadline: Option<Deadline>) -> c_int {
    // SAFETY: the program's mutex; the fields besides the atomics belong to the lock's holder.
    unsafe {
        let this = &mut *mutex;
        let me = tid() as u32;
        if this.kind & PRIO_PROTECT != 0 {
            return ceiling::lock(mutex, deadline);
        }
        if this.kind & PRIO_INHERIT != 0 {
            return lock_inherit(mutex, deadline);
        }
        if this.kind & ROBUST != 0 {
            return lock_robust(mutex, deadline);
        }
        if matches!(this.kind & TYPE, RECURSIVE | ERRORCHECK) && this.owner.load(Ordering::Relaxed) == me {
            return relock(this);
        }
        if this.wait_for_word(deadline).is_err() {
            return Errno::ETIMEDOUT.0;
        }
        this.owner.store(me, Ordering::Relaxed);
        this.users += 1;
        if this.kind & TYPE == RECURSIVE {
            this.count = 1;
        }
        0
    }
}

/// The owner locks again.
pub(super) fn relock(mutex: &mut Mutex) -> c_int {
    if mutex.kind & TYPE != RECURSIVE {
        return Errno::EDEADLK.0;
    }
    match mutex.count.checked_add(1) {
        Some(count) => {
            mutex.count = count;
            0
        }
        None => Errno::EAGAIN.0,
    }
}

unsafe fn try_lock(mutex: *mut Mutex) -> c_int {
    // SAFETY: as in `lock`.
    unsafe {
        let this = &mut *mutex;
        let me = tid() as u32;
        if this.kind & PRIO_PROTECT != 0 {
            return ceiling::try_lock(mutex);
        }
        if this.kind & PRIO_INHERIT != 0 {
            return try_lock_inherit(mutex);
        }
        if this.kind & ROBUST != 0 {
            return try_lock_robust(mutex);
        }
        if this.kind & TYPE == RECURSIVE && this.owner.load(Ordering::Relaxed) == me {
            return relock(this);
        }
        if !this.take_word() {
            return Errno::EBUSY.0;
        }
        this.owner.store(me, Ordering::Relaxed);
        this.users += 1;
        if this.kind & TYPE == RECURSIVE {
            this.count = 1;
        }
        0
    }
}

/// pthread_mutex_unlock(3).
unsafe fn unlock(mutex: *mut Mutex) -> c_int {
    // SAFETY: as in `lock`.
    unsafe {
        let this = &mut *mutex;
        if this.is_plain() {
            this.owner.store(0, Ordering::Relaxed);
            this.users = this.users.wrapping_sub(1);
            this.release_word();
            return 0;
        }
        if this.kind & PRIO_PROTECT != 0 {
            return ceiling::unlock(mutex);
        }
        let owner = this.owner.load(Ordering::Relaxed);
        if this.kind & (ROBUST | PRIO_INHERIT) != 0 {
            return unlock_named(mutex);
        }
        if owner != tid() as u32 || this.lock.load(Ordering::Relaxed) == 0 {
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
        this.release_word();
        0
    }
}

// ---- robust ------------------------------------------------------------------------------------

/// The thread's robust list, announced to the personality at its first use.
unsafe fn robust_head() -> *mut RobustHead {
    // SAFETY: the thread's own record.
    unsafe {
        let record = me();
        let head = &raw mut (*record).robust;
        if !(*record).robust_known {
            const LOCK_FROM_NEXT: isize = -32;
            head.write(RobustHead { list: head.cast(), futex_offset: LOCK_FROM_NEXT, pending: null_mut() });
            (*record).robust_known = kcall!(set_robust_list, head, size_of::<RobustHead>()).is_ok();
        }
        head
    }
}

unsafe fn next_field(mutex: *mut Mutex) -> *mut *mut Links {
    // SAFETY: the program's mutex.
    unsafe { &raw mut (*mutex).list.next }
}

/// As the kernel wants a list to name a mutex: its lowest bit says that the lock is handed over.
unsafe fn list_name(mutex: *mut Mutex) -> *mut *mut Links {
    // SAFETY: the program's mutex.
    unsafe { next_field(mutex).map_addr(|at| at | usize::from((*mutex).kind & PRIO_INHERIT != 0)) }
}

fn untagged(name: *mut *mut Links) -> *mut *mut Links {
    name.map_addr(|at| at & !1)
}

unsafe fn lock_robust(mutex: *mut Mutex, deadline: Option<Deadline>) -> c_int {
    // SAFETY: as in `lock`; the list is the thread's own. Between `pending` and the end of the
    // function the personality knows that we may hold the mutex without having it on the list.
    unsafe {
        let this = &mut *mutex;
        let head = robust_head();
        let me = tid() as u32;
        let held = this.lock.load(Ordering::Relaxed);
        if held & TID == me && held & OWNER_DIED == 0 && matches!(this.kind & TYPE, RECURSIVE | ERRORCHECK) {
            return relock(this);
        }
        (*head).pending = list_name(mutex);
        let answer = loop {
            let seen = this.lock.load(Ordering::Relaxed);
            if seen & (TID | OWNER_DIED) == 0 {
                // Others may sleep: once WAITERS was seen it stays, so that unlock wakes.
                if swap(&this.lock, seen, me | seen & WAITERS) {
                    break 0;
                }
            } else if seen & OWNER_DIED != 0 {
                if swap(&this.lock, seen, me | seen & WAITERS) {
                    break Errno::EOWNERDEAD.0;
                }
            } else if seen & WAITERS != 0 || swap(&this.lock, seen, seen | WAITERS) {
                let value = seen | WAITERS;
                if let Err(Errno::ETIMEDOUT) = futex::wait(&this.lock, value, this.scope(), deadline) {
                    break Errno::ETIMEDOUT.0;
                }
                // More sleepers than us cannot be excluded: take it as contended.
                let seen = this.lock.load(Ordering::Relaxed);
                if seen & (TID | OWNER_DIED) == 0 && swap(&this.lock, seen, me | WAITERS) {
                    break 0;
                }
            }
        };
        finish_robust(mutex, head, answer)
    }
}

unsafe fn try_lock_robust(mutex: *mut Mutex) -> c_int {
    // SAFETY: as in `lock_robust`.
    unsafe {
        let this = &mut *mutex;
        let head = robust_head();
        let me = tid() as u32;
        let seen = this.lock.load(Ordering::Relaxed);
        // glibc answers EDEADLK here for an error-checking robust mutex, and EBUSY for a plain one.
        if seen & TID == me && seen & OWNER_DIED == 0 && matches!(this.kind & TYPE, RECURSIVE | ERRORCHECK) {
            return relock(this);
        }
        (*head).pending = list_name(mutex);
        let answer = if seen & TID != 0 && seen & OWNER_DIED == 0 && !is_lost(seen & TID)
            || !swap(&this.lock, seen, me | seen & WAITERS)
        {
            Errno::EBUSY.0
        } else if seen & (TID | OWNER_DIED) != 0 {
            Errno::EOWNERDEAD.0
        } else {
            0
        };
        finish_robust(mutex, head, answer)
    }
}

/// Whether there is no thread with this id: the owner was killed with its process and its list, so that nobody marked
/// the word. (Who waits for it is told by the personality.)
fn is_lost(owner: u32) -> bool {
    let (mut head, mut size) = (0usize, 0usize);
    // SAFETY: two words of ours.
    let asked = unsafe { kcall!(get_robust_list, owner, &raw mut head, &raw mut size) };
    asked == Err(Errno::ESRCH)
}

/// The word is ours (0, EOWNERDEAD) or not: brings owner, count and list in step.
unsafe fn finish_robust(mutex: *mut Mutex, head: *mut RobustHead, answer: c_int) -> c_int {
    // SAFETY: as in `lock_robust`.
    unsafe {
        let this = &mut *mutex;
        let dead = answer == Errno::EOWNERDEAD.0;
        if answer != 0 && !dead {
            (*head).pending = null_mut();
            return answer;
        }
        if this.owner.load(Ordering::Relaxed) == NOT_RECOVERABLE {
            // Nobody shall wait for it any more.
            if this.kind & PRIO_INHERIT != 0 {
                hand_over(&this.lock, this.scope());
            } else {
                this.lock.store(0, Ordering::Release);
                futex::wake(&this.lock, u32::MAX, this.scope());
            }
            (*head).pending = null_mut();
            return Errno::ENOTRECOVERABLE.0;
        }
        this.count = 1;
        this.users = this.users.wrapping_add(u32::from(!dead));
        let owner = if dead { INCONSISTENT } else { tid() as u32 };
        this.owner.store(owner, Ordering::Relaxed);
        enqueue(mutex, head);
        (*head).pending = null_mut();
        answer
    }
}

/// Unlocks a mutex whose word names the owner: robust, or PTHREAD_PRIO_INHERIT, or both.
unsafe fn unlock_named(mutex: *mut Mutex) -> c_int {
    // SAFETY: as in `lock_robust`.
    unsafe {
        let this = &mut *mutex;
        let robust = this.kind & ROBUST != 0;
        if this.lock.load(Ordering::Relaxed) & TID != tid() as u32 {
            return Errno::EPERM.0;
        }
        let inconsistent = this.owner.load(Ordering::Relaxed) == INCONSISTENT;
        if this.kind & TYPE == RECURSIVE && !inconsistent {
            this.count -= 1;
            if this.count != 0 {
                return 0;
            }
        }
        if robust {
            (*robust_head()).pending = list_name(mutex);
            dequeue(mutex);
        }
        this.owner.store(if inconsistent { NOT_RECOVERABLE } else { 0 }, Ordering::Relaxed);
        this.users = this.users.wrapping_sub(1);
        let (word, scope) = (this.lock.as_ptr(), this.scope());
        if this.kind & PRIO_INHERIT != 0 {
            hand_over(&this.lock, scope);
        } else if this.lock.swap(0, Ordering::Release) & WAITERS != 0 {
            futex::wake_address(word, if inconsistent { u32::MAX } else { 1 }, scope);
        }
        if robust {
            (*robust_head()).pending = null_mut();
        }
        0
    }
}

/// The list is singly linked for the kernel (next fields); `prev` lets us unlink from the middle.
/// Both point at `next` fields: a node's address is that of its `next`.
unsafe fn enqueue(mutex: *mut Mutex, head: *mut RobustHead) {
    // SAFETY: the thread's own list of mutexes that it holds.
    unsafe {
        let node = next_field(mutex);
        let first = (*head).list;
        (*mutex).list.prev = head.cast();
        node.cast::<*mut *mut Links>().write(first);
        if untagged(first) != head.cast() {
            prev_of(untagged(first)).write(node.cast());
        }
        // The mutex must be whole before the personality can find it.
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
        (*head).list = list_name(mutex);
    }
}

unsafe fn dequeue(mutex: *mut Mutex) {
    // SAFETY: as in `enqueue`; `prev` is the previous node or the head, whose first word is its list.
    unsafe {
        let head = &raw mut (*me()).robust;
        let next: *mut *mut Links = (*mutex).list.next.cast();
        let prev: *mut *mut *mut Links = (*mutex).list.prev.cast();
        prev.write(next);
        if untagged(next) != head.cast() && !next.is_null() {
            prev_of(untagged(next)).write(prev.cast());
        }
        (*mutex).list.prev = null_mut();
        (*mutex).list.next = null_mut();
    }
}

/// The `prev` field beside a `next` field.
unsafe fn prev_of(next: *mut *mut Links) -> *mut *mut Links {
    // SAFETY: `prev` precedes `next` in `Links`.
    unsafe { next.sub(1) }
}

fn swap(word: &AtomicU32, from: u32, to: u32) -> bool {
    word.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

// ---- handed over by the personality (PTHREAD_PRIO_INHERIT) --------------------------------------

const FUTEX_LOCK_PI: usize = 6;
const FUTEX_UNLOCK_PI: usize = 7;
const FUTEX_TRYLOCK_PI: usize = 8;
const FUTEX_LOCK_PI2: usize = 13;

unsafe fn lock_inherit(mutex: *mut Mutex, deadline: Option<Deadline>) -> c_int {
    // SAFETY: as in `lock_robust`; the list is touched for robust mutexes only.
    unsafe {
        let this = &mut *mutex;
        let me = tid() as u32;
        let held = this.lock.load(Ordering::Relaxed);
        if held & TID == me && matches!(this.kind & TYPE, RECURSIVE | ERRORCHECK) {
            return relock(this);
        }
        if this.kind & ROBUST != 0 {
            (*robust_head()).pending = list_name(mutex);
        }
        let answer = if swap(&this.lock, 0, me) { Ok(()) } else { wait_for_hand_over(this, deadline) };
        finish_inherit(mutex, answer)
    }
}

/// FUTEX_LOCK_PI until the lock is ours.
fn wait_for_hand_over(this: &Mutex, deadline: Option<Deadline>) -> Result<(), Errno> {
    let (op, at) = match &deadline {
        None => (FUTEX_LOCK_PI, core::ptr::null()),
        Some(until) if until.clock == Clock::Real => (FUTEX_LOCK_PI, &raw const until.at),
        Some(until) => (FUTEX_LOCK_PI2, &raw const until.at),
    };
    loop {
        // SAFETY: the word and the time live through the call.
        match unsafe { kcall!(futex, this.lock.as_ptr(), op | this.scope().flag(), 0, at) } {
            Err(Errno::EINTR) => {}
            // A normal mutex of our own, or a dead owner's that is not robust: nobody will ever unlock it.
            Err(Errno::EDEADLK | Errno::ESRCH) if this.kind & TYPE != ERRORCHECK => {
                let never = AtomicU32::new(0);
                loop {
                    if let Err(Errno::ETIMEDOUT) = futex::wait(&never, 0, Scope::Private, deadline) {
                        return Err(Errno::ETIMEDOUT);
                    }
                }
            }
            done => return done.map(drop),
        }
    }
}

unsafe fn try_lock_inherit(mutex: *mut Mutex) -> c_int {
    // SAFETY: as in `lock_inherit`.
    unsafe {
        let this = &mut *mutex;
        let me = tid() as u32;
        let held = this.lock.load(Ordering::Relaxed);
        if held & TID == me && this.kind & TYPE == RECURSIVE {
            return relock(this);
        }
        if this.kind & ROBUST != 0 {
            (*robust_head()).pending = list_name(mutex);
        }
        let answer = if swap(&this.lock, 0, me) {
            Ok(())
        } else if held & OWNER_DIED != 0 || this.kind & ROBUST != 0 && held & TID != 0 && is_lost(held & TID)
        {
            let op = FUTEX_TRYLOCK_PI | this.scope().flag();
            kcall!(futex, this.lock.as_ptr(), op, 0, 0).map(drop).map_err(|_| Errno::EBUSY)
        } else {
            Err(Errno::EBUSY)
        };
        finish_inherit(mutex, answer)
    }
}

unsafe fn finish_inherit(mutex: *mut Mutex, answer: Result<(), Errno>) -> c_int {
    // SAFETY: as in `lock_inherit`.
    unsafe {
        let this = &mut *mutex;
        let robust = this.kind & ROBUST != 0;
        let answer = match answer {
            // What the personality left of a dead owner.
            Ok(()) if robust && this.lock.load(Ordering::Relaxed) & OWNER_DIED != 0 => {
                this.lock.fetch_and(!OWNER_DIED, Ordering::Relaxed);
                Errno::EOWNERDEAD.0
            }
            Ok(()) => 0,
            Err(errno) => errno.0,
        };
        if robust {
            return finish_robust(mutex, robust_head(), answer);
        }
        if answer == 0 {
            // The owner died while we waited. A mutex that is not robust cannot tell that, and what it guards may be
            // half done: glibc ends the program here (an assertion in __pthread_mutex_lock_full).
            if this.lock.load(Ordering::Relaxed) & OWNER_DIED != 0 {
                crate::assert::failed(c"pthread_mutex_lock", "robust || (oldval & FUTEX_OWNER_DIED) == 0");
            }
            this.owner.store(tid() as u32, Ordering::Relaxed);
            this.users = this.users.wrapping_add(1);
            this.count = 1;
        }
        answer
    }
}

/// Frees the word, or has the personality give it to who waits.
fn hand_over(word: &AtomicU32, scope: Scope) {
    let me = tid() as u32;
    if word.compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed).is_err() {
        // SAFETY: our own lock's word.
        let _ = unsafe { kcall!(futex, word.as_ptr(), FUTEX_UNLOCK_PI | scope.flag(), 0, 0) };
    }
}

// ---- for condition variables -------------------------------------------------------------------

pub(super) unsafe fn lock_for_cond(mutex: *mut Mutex) -> c_int {
    // SAFETY: forwarded.
    unsafe { lock(mutex, None) }
}

/// Unlocks whatever the recursion depth is *one* level, as POSIX leaves it.
pub(super) unsafe fn unlock_for_cond(mutex: *mut Mutex) -> c_int {
    // SAFETY: forwarded.
    unsafe { unlock(mutex) }
}

// ---- names -------------------------------------------------------------------------------------

unsafe fn timed(mutex: *mut Mutex, clock: Option<Clock>, at: *const Timespec) -> c_int {
    let Some(clock) = clock else { return Errno::EINVAL.0 };
    // SAFETY: the program's mutex and timespec. A bad timespec counts only if we had to wait.
    unsafe {
        match try_lock(mutex) {
            e if e == Errno::EBUSY.0 => match Deadline::read(clock, at) {
                Ok(deadline) => lock(mutex, Some(deadline)),
                Err(errno) => errno.0,
            },
            answer => answer,
        }
    }
}

abi! { EXPORTS "libc.so.6":
    /// pthread_mutex_init(3).
    "GLIBC_2.2.5" fn pthread_mutex_init(mutex: *mut Mutex, attr: *const MutexAttr) -> c_int {
        // SAFETY: the program's memory for a mutex.
        unsafe {
            let bits = if attr.is_null() { 0 } else { (*attr).0 };
            let inherits = match (bits & ATTR_PROTOCOL) >> ATTR_PROTOCOL_SHIFT {
                0 => 0,
                1 => PRIO_INHERIT,
                _ if bits & ATTR_ROBUST != 0 => return Errno::ENOTSUP.0,
                _ => PRIO_PROTECT,
            };
            mutex.cast::<u8>().write_bytes(0, size_of::<Mutex>());
            let robust = if bits & ATTR_ROBUST != 0 { ROBUST } else { 0 };
            let shared = if bits & ATTR_SHARED != 0 { SHARED } else { 0 };
            (*mutex).kind = bits & TYPE | robust | shared | inherits;
            if inherits == PRIO_PROTECT {
                let word = ceiling::first_word((bits & ATTR_CEILING) >> ATTR_CEILING_SHIFT);
                (*mutex).lock.store(word, Ordering::Relaxed);
            }
        }
        0
    }
    /// pthread_mutex_destroy(3).
    "GLIBC_2.2.5" fn pthread_mutex_destroy(mutex: *mut Mutex) -> c_int {
        // SAFETY: the program's mutex.
        unsafe {
            if (*mutex).kind & ROBUST == 0 && (*mutex).users != 0 {
                return Errno::EBUSY.0;
            }
            (*mutex).kind = u32::MAX;
        }
        0
    }
    /// pthread_mutex_lock(3).
    "GLIBC_2.2.5" fn pthread_mutex_lock(mutex: *mut Mutex) -> c_int {
        // SAFETY: the program's mutex; its plain fields are the holder's.
        unsafe {
            if (*mutex).is_plain() && (*mutex).take_word() {
                (*mutex).owner.store(tid() as u32, Ordering::Relaxed);
                (*mutex).users += 1;
                return 0;
            }
            lock(mutex, None)
        }
    }
    /// pthread_mutex_trylock(3).
    "GLIBC_2.34" fn pthread_mutex_trylock(mutex: *mut Mutex) -> c_int {
        // SAFETY: the program's mutex.
        unsafe { try_lock(mutex) }
    }
    /// pthread_mutex_timedlock(3).
    "GLIBC_2.34" fn pthread_mutex_timedlock(mutex: *mut Mutex, at: *const Timespec) -> c_int {
        // SAFETY: the program's mutex and time.
        unsafe { timed(mutex, Some(Clock::Real), at) }
    }
    /// pthread_mutex_clocklock(3).
    "GLIBC_2.34" fn pthread_mutex_clocklock(mutex: *mut Mutex, clock: c_int, at: *const Timespec) -> c_int {
        // SAFETY: the program's mutex and time.
        unsafe { timed(mutex, Clock::from_id(clock), at) }
    }
    /// pthread_mutex_unlock(3).
    "GLIBC_2.2.5" fn pthread_mutex_unlock(mutex: *mut Mutex) -> c_int {
        // SAFETY: the program's mutex.
        unsafe { unlock(mutex) }
    }
    /// pthread_mutex_consistent(3).
    "GLIBC_2.34" fn pthread_mutex_consistent(mutex: *mut Mutex) -> c_int {
        // SAFETY: the program's mutex.
        unsafe {
            if (*mutex).kind & ROBUST == 0 || (*mutex).owner.load(Ordering::Relaxed) != INCONSISTENT {
                return Errno::EINVAL.0;
            }
            (*mutex).owner.store(tid() as u32, Ordering::Relaxed);
        }
        0
    }
    /// pthread_mutexattr_init(3).
    "GLIBC_2.34" fn pthread_mutexattr_init(attr: *mut MutexAttr) -> c_int {
        // SAFETY: the program's memory.
        unsafe { attr.write(MutexAttr(0)) };
        0
    }
    /// pthread_mutexattr_destroy(3).
    "GLIBC_2.34" fn pthread_mutexattr_destroy(_attr: *mut MutexAttr) -> c_int {
        0
    }
    /// pthread_mutexattr_settype(3).
    "GLIBC_2.34" fn pthread_mutexattr_settype(attr: *mut MutexAttr, kind: c_int) -> c_int {
        set(attr, TYPE | ELISION, 0, (0..=3).contains(&kind).then_some(kind as u32))
    }
    /// pthread_mutexattr_gettype(3).
    "GLIBC_2.34" fn pthread_mutexattr_gettype(attr: *const MutexAttr, kind: *mut c_int) -> c_int {
        get(attr, TYPE, 0, kind)
    }
    /// pthread_mutexattr_setpshared(3).
    "GLIBC_2.34" fn pthread_mutexattr_setpshared(attr: *mut MutexAttr, shared: c_int) -> c_int {
        set(attr, ATTR_SHARED, 31, (0..=1).contains(&shared).then_some(shared as u32))
    }
    /// pthread_mutexattr_getpshared(3).
    "GLIBC_2.34" fn pthread_mutexattr_getpshared(attr: *const MutexAttr, shared: *mut c_int) -> c_int {
        get(attr, ATTR_SHARED, 31, shared)
    }
    /// pthread_mutexattr_setrobust(3).
    "GLIBC_2.34" fn pthread_mutexattr_setrobust(attr: *mut MutexAttr, robust: c_int) -> c_int {
        set(attr, ATTR_ROBUST, 30, (0..=1).contains(&robust).then_some(robust as u32))
    }
    /// pthread_mutexattr_getrobust(3).
    "GLIBC_2.34" fn pthread_mutexattr_getrobust(attr: *const MutexAttr, robust: *mut c_int) -> c_int {
        get(attr, ATTR_ROBUST, 30, robust)
    }
    /// pthread_mutexattr_setprotocol(3).
    "GLIBC_2.34" fn pthread_mutexattr_setprotocol(attr: *mut MutexAttr, protocol: c_int) -> c_int {
        set(attr, ATTR_PROTOCOL, ATTR_PROTOCOL_SHIFT, (0..=2).contains(&protocol).then_some(protocol as u32))
    }
    /// pthread_mutexattr_getprotocol(3).
    "GLIBC_2.34" fn pthread_mutexattr_getprotocol(attr: *const MutexAttr, protocol: *mut c_int) -> c_int {
        get(attr, ATTR_PROTOCOL, ATTR_PROTOCOL_SHIFT, protocol)
    }
    /// pthread_mutexattr_setprioceiling(3).
    "GLIBC_2.34" fn pthread_mutexattr_setprioceiling(attr: *mut MutexAttr, ceiling: c_int) -> c_int {
        set(attr, ATTR_CEILING, ATTR_CEILING_SHIFT, (1..=99).contains(&ceiling).then_some(ceiling as u32))
    }
    /// pthread_mutexattr_getprioceiling(3).
    "GLIBC_2.34" fn pthread_mutexattr_getprioceiling(attr: *const MutexAttr, ceiling: *mut c_int) -> c_int {
        get(attr, ATTR_CEILING, ATTR_CEILING_SHIFT, ceiling);
        // As glibc: what was never set is the lowest priority of SCHED_FIFO.
        // SAFETY: just written.
        unsafe { ceiling.write(ceiling.read().max(1)) };
        0
    }
}

fn set(attr: *mut MutexAttr, mask: u32, shift: u32, value: Option<u32>) -> c_int {
    let Some(value) = value else { return Errno::EINVAL.0 };
    // SAFETY: the program's attributes.
    unsafe { (*attr).0 = (*attr).0 & !mask | value << shift };
    0
}

fn get(attr: *const MutexAttr, mask: u32, shift: u32, out: *mut c_int) -> c_int {
    // SAFETY: the program's attributes and out pointer.
    unsafe { out.write((((*attr).0 & mask) >> shift) as c_int) };
    0
}
