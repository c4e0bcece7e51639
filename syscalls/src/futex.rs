//! futex(2): waiting on a word of the program's memory; and the robust lists of dying threads.
//!
//! A hashed table of queues, each behind its lock. A waiter reads the word *with the queue locked*,
//! after announcing itself in the queue's count; a waker looks at the count first, and takes the lock
//! only if somebody is there. A waiter's place ([`Place`]) belongs to its task, so waiting allocates
//! nothing once a queue has its room.
//!
//! Private futexes are keyed by process and address, shared ones by the object that is mapped there and
//! the offset in it ([`crate::maps`]); without FUTEX_PRIVATE_FLAG, memory that is not shared is keyed by
//! process and address too.
//!
//! The operations on locks that the kernel hands over (FUTEX_LOCK_PI and the like) stand in
//! [`crate::futex_pi`].

use crate::args::FutexOp;
use crate::context::Ctx;
use crate::errno::{RESTART, RESTART_NO_HANDLER};
use crate::futex_pi;
use crate::maps::Object;
use crate::process::{Process, root};
use crate::task::Task;
use crate::time;
use crate::user::{UserPtr, in_user_space};
use crate::wait::{self, Woken};
use crate::{Errno, Result, rt};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use platform::sync::Lock;
use platform::time::{CLOCK_MONOTONIC, CLOCK_REALTIME, Instant, Timespec, now};

const WAIT: u32 = 0;
const WAKE: u32 = 1;
const REQUEUE: u32 = 3;
const CMP_REQUEUE: u32 = 4;
const WAKE_OP: u32 = 5;
const LOCK_PI: u32 = 6;
const UNLOCK_PI: u32 = 7;
const TRYLOCK_PI: u32 = 8;
const WAIT_BITSET: u32 = 9;
const WAKE_BITSET: u32 = 10;
const WAIT_REQUEUE_PI: u32 = 11;
const CMP_REQUEUE_PI: u32 = 12;
const LOCK_PI2: u32 = 13;
const PRIVATE: u32 = 128;
const REALTIME: u32 = 256;
pub(crate) const ANY: u32 = u32::MAX;

/// Queues: a power of two.
const QUEUES: usize = 256;

/// All queues.
pub struct Table {
    queues: Box<[Queue]>,
    /// Somebody has waited for a lock that is handed over: only then is there something to do when a thread ends.
    pub(crate) hands_over: AtomicBool,
}

#[derive(Default)]
#[repr(align(64))]
pub(crate) struct Queue {
    /// Threads that wait here or are about to.
    pub(crate) count: AtomicUsize,
    pub(crate) waiters: Lock<VecDeque<Entry>>,
}

pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) bitset: u32,
    pub(crate) task: Arc<Task>,
    /// The owner of the lock that it waits for: of a robust one in shared memory, or of one that is handed over; or 0.
    pub(crate) owner: u32,
    /// It waits for a lock that is handed over ([`crate::futex_pi`]).
    pub(crate) inherits: bool,
}

/// A futex.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Key {
    /// In memory of one process. `shared` tells how it was named: the two never meet (futex(2)).
    Private { process: u32, address: usize, shared: bool },
    /// In shared memory.
    Shared(Object, u64),
}

/// A task's place in a queue.
pub struct Place {
    /// The index of its queue; changed by a requeue, under both queues' locks.
    pub(crate) queue: AtomicUsize,
    pub(crate) woken: AtomicBool,
}

impl Place {
    /// In no queue.
    pub const fn new() -> Place {
        Place { queue: AtomicUsize::new(0), woken: AtomicBool::new(false) }
    }
}

impl Default for Place {
    fn default() -> Self {
        Place::new()
    }
}

impl Table {
    /// Empty queues.
    pub fn new() -> Table {
        Table { queues: (0..QUEUES).map(|_| Queue::default()).collect(), hands_over: AtomicBool::new(false) }
    }
}

impl Default for Table {
    fn default() -> Self {
        Table::new()
    }
}

impl Key {
    pub(crate) fn new(ctx: &Ctx, op: u32, word: UserPtr<u32>) -> Result<Key> {
        if !word.address().is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        if !in_user_space(word.address(), 4) {
            return Err(Errno::EFAULT);
        }
        Ok(Key::of(ctx.process, word.address(), op & PRIVATE == 0))
    }

    fn of(process: &Process, address: usize, shared: bool) -> Key {
        match if shared { process.ipc.maps.find(address) } else { None } {
            Some((object, offset)) => Key::Shared(object, offset),
            None => Key::Private { process: process.pid, address, shared },
        }
    }

    pub(crate) fn queue(self) -> usize {
        let (place, owner) = match self {
            Key::Private { process, address, .. } => (address as u64, u64::from(process) << 48),
            Key::Shared(object, offset) => (offset, (object.0 ^ object.1) << 32 ^ object.1),
        };
        // Fibonacci hashing of the word's number.
        (((place >> 2) ^ owner).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % QUEUES
    }
}

/// The queue of a key.
pub(crate) fn queue_of(key: Key) -> &'static Queue {
    &root().futexes.queues[key.queue()]
}

/// futex(2).
pub fn futex(
    ctx: &Ctx,
    word: UserPtr<u32>,
    op: FutexOp,
    value: u32,
    timeout: usize,
    word2: UserPtr<u32>,
    value3: u32,
) -> Result {
    let command = op.0 & !(PRIVATE | REALTIME);
    if op.0 & REALTIME != 0 && !matches!(command, WAIT_BITSET | WAIT | LOCK_PI2 | WAIT_REQUEUE_PI) {
        return Err(Errno::ENOSYS);
    }
    let key = |word| Key::new(ctx, op.0, word);
    match command {
        WAIT => wait_on(ctx, key(word)?, (word, value), ANY, deadline(op.0, command, timeout)?, None),
        WAIT_BITSET => {
            wait_on(ctx, key(word)?, (word, value), value3, deadline(op.0, command, timeout)?, None)
        }
        WAKE => Ok(wake(key(word)?, value as i32, ANY)),
        WAKE_BITSET if value3 == 0 => Err(Errno::EINVAL),
        WAKE_BITSET => Ok(wake(key(word)?, value as i32, value3)),
        REQUEUE => requeue(key(word)?, key(word2)?, value as i32, timeout as i32, None),
        CMP_REQUEUE => requeue(key(word)?, key(word2)?, value as i32, timeout as i32, Some((word, value3))),
        WAKE_OP => wake_op(key(word)?, key(word2)?, value as i32, timeout as i32, word2, value3),
        // FUTEX_LOCK_PI's deadline is on the wall clock whatever the flag says (futex(2)).
        LOCK_PI => futex_pi::lock(ctx, key(word)?, word, deadline(REALTIME, command, timeout)?),
        LOCK_PI2 => futex_pi::lock(ctx, key(word)?, word, deadline(op.0, command, timeout)?),
        TRYLOCK_PI => futex_pi::try_lock(ctx, key(word)?, word),
        UNLOCK_PI => futex_pi::unlock(ctx, key(word)?, word),
        WAIT_REQUEUE_PI if value3 != 0 && value3 != ANY => Err(Errno::EINVAL),
        WAIT_REQUEUE_PI => {
            let (from, to) = (key(word)?, key(word2)?);
            if from == to {
                return Err(Errno::EINVAL);
            }
            wait_on(ctx, from, (word, value), ANY, deadline(op.0, command, timeout)?, Some(word2))
        }
        CMP_REQUEUE_PI => {
            let keys = (key(word)?, key(word2)?);
            futex_pi::requeue(ctx, keys, (word, value3), word2, value as i32, timeout as i32)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// FUTEX_WAIT's timeout is relative, FUTEX_WAIT_BITSET's absolute.
fn deadline(op: u32, command: u32, timeout: usize) -> Result<Option<Instant>> {
    let Some(time) = UserPtr::<Timespec>::new(timeout).read_optional()? else { return Ok(None) };
    let ns = time::valid(time)?;
    if command == WAIT {
        return Ok(Some(now().after(ns)));
    }
    let clock = if op & REALTIME != 0 { CLOCK_REALTIME } else { CLOCK_MONOTONIC };
    time::instant_of(clock, ns).map(Some)
}

/// `target`: a lock that is handed over, to which the waiter may be moved.
fn wait_on(
    ctx: &Ctx,
    key: Key,
    (word, expected): (UserPtr<u32>, u32),
    bitset: u32,
    deadline: Option<Instant>,
    target: Option<UserPtr<u32>>,
) -> Result {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let task = ctx.task;
    let owner = robust_owner(task, key, word, expected);
    let queue = &root().futexes.queues[key.queue()];
    queue.count.fetch_add(1, Ordering::SeqCst);
    {
        let mut waiters = queue.waiters.lock();
        // The count stands before the word is read: see `wake`.
        fence(Ordering::SeqCst);
        let check = word.read().and_then(|now| if now == expected { Ok(()) } else { Err(Errno::EAGAIN) });
        if let Err(errno) = check {
            drop(waiters);
            queue.count.fetch_sub(1, Ordering::Relaxed);
            return Err(errno);
        }
        task.futex.woken.store(false, Ordering::Relaxed);
        task.futex.queue.store(key.queue(), Ordering::Relaxed);
        task.waiter.reset();
        waiters.push_back(Entry { key, bitset, task: task.arc(), owner, inherits: false });
    }
    // After the entry: whoever buries the owner takes that out of its process before it looks here.
    if owner != 0 && root().task(owner).is_none() && leave(task) {
        mark_lost(word, expected)?;
        return Err(Errno::EAGAIN);
    }
    sleep_in_queue(task, deadline, target)
}

/// Sleeps until somebody has taken the task out of its queue, or it has taken `lock` from a dead owner.
pub(crate) fn sleep_in_queue(task: &Task, deadline: Option<Instant>, lock: Option<UserPtr<u32>>) -> Result {
    loop {
        let woken = wait::sleep(task, deadline);
        if task.futex.woken.load(Ordering::Acquire) {
            return Ok(0);
        }
        if woken == Woken::Event {
            task.waiter.reset();
            // The wake may have come between the load and the reset.
            if task.futex.woken.load(Ordering::Acquire) {
                return Ok(0);
            }
            if let Some(word) = lock
                && futex_pi::inherit(task, word)?
            {
                return Ok(0);
            }
            continue;
        }
        if !leave(task) {
            return Ok(0);
        }
        return Err(match (woken, deadline) {
            (Woken::Deadline, _) => Errno::ETIMEDOUT,
            // futex(2), fs: with a timeout it is not made again after a handler (it was absolute or
            // is used up), without one it is.
            (_, Some(_)) => RESTART_NO_HANDLER,
            (_, None) => RESTART,
        });
    }
}

/// Takes a task out of its queue; `false` if somebody has woken it already.
fn leave(task: &Task) -> bool {
    with_place(task, |queue, waiters, at| {
        let entry = waiters.remove(at);
        queue.count.fetch_sub(1, Ordering::Relaxed);
        // Its turn is another one's now.
        if let Some(entry) = &entry
            && entry.inherits
            && root().task(entry.owner).is_none()
        {
            futex_pi::look_again(waiters, entry.key);
        }
        entry
    })
    .is_some()
}

/// Does something with a task's entry in its queue, whose lock is held meanwhile. `None`: it is in none.
pub(crate) fn with_place<R>(
    task: &Task,
    act: impl FnOnce(&Queue, &mut VecDeque<Entry>, usize) -> R,
) -> Option<R> {
    loop {
        let index = task.futex.queue.load(Ordering::Acquire);
        let queue = &root().futexes.queues[index];
        let mut waiters = queue.waiters.lock();
        if task.futex.queue.load(Ordering::Relaxed) != index {
            // Requeued meanwhile.
            continue;
        }
        let at = waiters.iter().position(|entry| core::ptr::eq(&*entry.task, task))?;
        // What it answers is dropped without the lock.
        return Some(act(queue, &mut waiters, at));
    }
}

/// Wakes up to `limit` waiters; Linux takes 0 for 1.
fn wake(key: Key, limit: i32, bitset: u32) -> usize {
    let queue = &root().futexes.queues[key.queue()];
    // The program changed the word before this call. Either a waiter's count is seen here, or the
    // waiter reads the changed word (store and load on both sides, each with a full fence between).
    fence(Ordering::SeqCst);
    if queue.count.load(Ordering::Relaxed) == 0 {
        return 0;
    }
    wake_locked(queue, &mut queue.waiters.lock(), key, limit, bitset)
}

fn wake_locked(queue: &Queue, waiters: &mut VecDeque<Entry>, key: Key, limit: i32, bitset: u32) -> usize {
    let limit = limit.max(1) as usize;
    let (mut at, mut woken) = (0, 0);
    while woken < limit && at < waiters.len() {
        if waiters[at].key != key || waiters[at].bitset & bitset == 0 {
            at += 1;
            continue;
        }
        if let Some(entry) = waiters.remove(at) {
            queue.count.fetch_sub(1, Ordering::Relaxed);
            entry.task.futex.woken.store(true, Ordering::Release);
            entry.task.waiter.fire();
            woken += 1;
        }
    }
    woken
}

fn requeue(from: Key, to: Key, wakes: i32, moves: i32, check: Option<(UserPtr<u32>, u32)>) -> Result {
    if wakes < 0 || moves < 0 {
        return Err(Errno::EINVAL);
    }
    let table = &root().futexes.queues;
    let (first, second) = (from.queue().min(to.queue()), from.queue().max(to.queue()));
    // Announced before anything moves: a waker of `to` must not find the count of before.
    table[to.queue()].count.fetch_add(1, Ordering::SeqCst);
    let answer = requeue_locked(table, (first, second), from, to, wakes, moves, check);
    table[to.queue()].count.fetch_sub(1, Ordering::Relaxed);
    answer
}

fn requeue_locked(
    table: &[Queue],
    (first, second): (usize, usize),
    from: Key,
    to: Key,
    wakes: i32,
    moves: i32,
    check: Option<(UserPtr<u32>, u32)>,
) -> Result {
    // In order of their index; once if they are the same.
    let mut low = table[first].waiters.lock();
    let mut high = (second != first).then(|| table[second].waiters.lock());
    if let Some((word, expected)) = check
        && word.read()? != expected
    {
        return Err(Errno::EAGAIN);
    }
    let source = if from.queue() == first { &mut *low } else { &mut **high.as_mut().expect("two queues") };
    let queue = &table[from.queue()];
    let woken = if wakes == 0 { 0 } else { wake_locked(queue, source, from, wakes, ANY) };
    let mut moved = 0;
    let mut at = 0;
    let mut moving = VecDeque::new();
    while moved < moves as usize && at < source.len() {
        if source[at].key != from {
            at += 1;
        } else if let Some(entry) = source.remove(at) {
            moving.push_back(Entry { key: to, ..entry });
            moved += 1;
        }
    }
    table[to.queue()].count.fetch_add(moved, Ordering::SeqCst);
    queue.count.fetch_sub(moved, Ordering::Relaxed);
    let target = if to.queue() == first { &mut *low } else { &mut **high.as_mut().expect("two queues") };
    for entry in moving {
        entry.task.futex.queue.store(to.queue(), Ordering::Release);
        target.push_back(entry);
    }
    Ok(woken + moved)
}

/// FUTEX_WAKE_OP: changes the second word, wakes on the first, and on the second if its old value
/// compares (futex(2) gives the encoding).
fn wake_op(one: Key, two: Key, wakes: i32, wakes2: i32, word: UserPtr<u32>, code: u32) -> Result {
    let sign_extend = |bits: u32| ((bits << 20) as i32) >> 20;
    let mut operand = sign_extend(code >> 12 & 0xfff);
    let compared = sign_extend(code & 0xfff);
    if code >> 31 != 0 {
        operand = 1i32.wrapping_shl(operand as u32);
    }
    let change = |old: u32| match code >> 28 & 7 {
        0 => Ok(operand as u32),
        1 => Ok(old.wrapping_add(operand as u32)),
        2 => Ok(old | operand as u32),
        3 => Ok(old & !operand as u32),
        4 => Ok(old ^ operand as u32),
        _ => Err(Errno::ENOSYS),
    };
    let old = update_word(word, change)? as i32;
    let holds = match code >> 24 & 15 {
        0 => old == compared,
        1 => old != compared,
        2 => old < compared,
        3 => old <= compared,
        4 => old > compared,
        5 => old >= compared,
        _ => return Err(Errno::ENOSYS),
    };
    let woken = wake(one, wakes, ANY);
    Ok(if holds { woken + wake(two, wakes2, ANY) } else { woken })
}

/// Changes a user word atomically; answers the old value.
pub(crate) fn update_word(word: UserPtr<u32>, change: impl Fn(u32) -> Result<u32>) -> Result<u32> {
    if !in_user_space(word.address(), 4) {
        return Err(Errno::EFAULT);
    }
    let at = word.address() as *mut u32;
    let mut old = word.read()?;
    loop {
        let new = change(old)?;
        // SAFETY: aligned by the callers' checks, and not kernel memory.
        match unsafe { rt::exchange_user(at, old, new)? } {
            held if held == old => return Ok(old),
            held => old = held,
        }
    }
}

/// Wakes waiters from the kernel's side: a thread has ended and its id was cleared, or a robust mutex was
/// marked. They may have named the word either way.
pub fn wake_word(process: u32, address: usize, limit: i32) {
    wake(Key::Private { process, address, shared: false }, limit, ANY);
    let shared = match root().process(process) {
        Some(process) => Key::of(&process, address, true),
        None => Key::Private { process, address, shared: true },
    };
    wake(shared, limit, ANY);
}

// ---- robust lists ----

/// `struct robust_list_head`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RobustListHead {
    next: usize,
    futex_offset: isize,
    pending: usize,
}

const HEAD_SIZE: usize = size_of::<RobustListHead>();
/// ROBUST_LIST_LIMIT: a circle ends here.
const LIST_LIMIT: usize = 2048;
pub(crate) const TID_MASK: u32 = 0x3fff_ffff;
pub(crate) const OWNER_DIED: u32 = 0x4000_0000;
pub(crate) const WAITERS: u32 = 0x8000_0000;

/// set_robust_list(2).
pub fn set_robust_list(ctx: &Ctx, head: UserPtr<RobustListHead>, size: usize) -> Result {
    if size != HEAD_SIZE {
        return Err(Errno::EINVAL);
    }
    ctx.task.robust_list.store(head.address(), Ordering::Relaxed);
    Ok(0)
}

/// get_robust_list(2).
pub fn get_robust_list(ctx: &Ctx, tid: i32, head: UserPtr<usize>, size: UserPtr<usize>) -> Result {
    let address = match tid {
        0 => ctx.task.robust_list.load(Ordering::Relaxed),
        _ => {
            let task = root().task(tid as u32).ok_or(Errno::ESRCH)?;
            task.robust_list.load(Ordering::Relaxed)
        }
    };
    size.write(HEAD_SIZE)?;
    head.write(address)?;
    Ok(0)
}

/// Whose robust lock a wait in memory of several processes is for: the word names the owner and that somebody waits,
/// and the caller's own list says that it is about to lock just this word (which the protocol asks for, so that a
/// thread can die in here: Documentation/locking/robust-futexes.rst). 0: it is something else.
fn robust_owner(task: &Task, key: Key, word: UserPtr<u32>, value: u32) -> u32 {
    if value & WAITERS == 0 || value & OWNER_DIED != 0 || !matches!(key, Key::Shared(..)) {
        return 0;
    }
    if is_locking_robustly(task, word) { value & TID_MASK } else { 0 }
}

/// Whether the calling thread's list says that it is about to lock this word.
pub(crate) fn is_locking_robustly(task: &Task, word: UserPtr<u32>) -> bool {
    let head = task.robust_list.load(Ordering::Relaxed);
    let pending = |head: RobustListHead| (head.pending & !1).wrapping_add_signed(head.futex_offset);
    head != 0 && UserPtr::<RobustListHead>::new(head).read().is_ok_and(|head| pending(head) == word.address())
}

/// The owner was killed with its memory, where its list lay: who wants the lock marks it.
fn mark_lost(word: UserPtr<u32>, value: u32) -> Result<()> {
    update_word(word, |old| Ok(if old == value { value & WAITERS | OWNER_DIED } else { old })).map(drop)
}

/// A thread is gone with its host process. Those that wait for a robust lock of its look again, and find that it has
/// no owner ([`wait_on`], [`futex_pi::inherit`]).
pub(crate) fn owner_lost(tid: u32) {
    for queue in &root().futexes.queues {
        if queue.count.load(Ordering::SeqCst) == 0 {
            continue;
        }
        let mut waiters = queue.waiters.lock();
        // These stay in their order: the first one takes the lock.
        for entry in waiters.iter().filter(|entry| entry.owner == tid && entry.inherits) {
            entry.task.waiter.fire();
        }
        while let Some(at) = waiters.iter().position(|entry| entry.owner == tid && !entry.inherits) {
            let entry = waiters.remove(at);
            queue.count.fetch_sub(1, Ordering::Relaxed);
            if let Some(entry) = entry {
                entry.task.futex.woken.store(true, Ordering::Release);
                entry.task.waiter.fire();
            }
        }
    }
}

/// A thread has ended, and nobody finds it any more: what it did not unlock goes to who waits, as on Linux
/// (kernel/futex/pi.c, exit_pi_state_list).
pub(crate) fn owner_ended(tid: u32) {
    if root().futexes.hands_over.load(Ordering::SeqCst) {
        owner_lost(tid);
    }
}

/// A thread is gone with its host process, perhaps while it waited: nobody shall be woken in its place.
pub(crate) fn abandon(task: &Task) {
    let _ = leave(task);
}

/// A thread ends: marks the robust mutexes that it holds, and wakes one waiter each
/// (kernel/futex/core.c, exit_robust_list). The list is the program's, and may be broken anywhere.
pub fn exit_robust_list(task: &Task) {
    let head = task.robust_list.swap(0, Ordering::Relaxed);
    if head != 0 {
        let _ = walk_robust_list(task, head);
    }
}

fn walk_robust_list(task: &Task, at: usize) -> Result<()> {
    let head = UserPtr::<RobustListHead>::new(at).read()?;
    let word = |entry: usize| UserPtr::<u32>::new((entry & !1).wrapping_add_signed(head.futex_offset));
    let mut entry = head.next;
    for _ in 0..LIST_LIMIT {
        if entry & !1 == at {
            break;
        }
        // Read before the word is marked: a woken owner may free the entry.
        let next = UserPtr::<usize>::new(entry & !1).read();
        if entry & !1 != head.pending & !1 {
            mark_dead(task, word(entry), entry & 1 != 0)?;
        }
        entry = next?;
    }
    if head.pending & !1 != 0 {
        mark_dead(task, word(head.pending), head.pending & 1 != 0)?;
    }
    Ok(())
}

/// `inherits`: a lock of FUTEX_LOCK_PI, which goes to its first waiter.
fn mark_dead(task: &Task, word: UserPtr<u32>, inherits: bool) -> Result<()> {
    if !word.address().is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    if word.read()? & TID_MASK != task.tid {
        return Ok(());
    }
    let old = update_word(word, |old| {
        Ok(if old & TID_MASK == task.tid { old & WAITERS | OWNER_DIED } else { old })
    })?;
    if old & TID_MASK != task.tid || old & WAITERS == 0 {
        return Ok(());
    }
    if inherits {
        for shared in [false, true] {
            futex_pi::pass_on(Key::of(&task.process, word.address(), shared), word)?;
        }
    } else {
        wake_word(task.process.pid, word.address(), 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ctx, leak, spawn, user};
    use core::sync::atomic::AtomicU32;
    use platform::time::MILLISECOND;
    use std::time::Duration;
    use std::vec::Vec;

    fn at(word: &AtomicU32) -> UserPtr<u32> {
        UserPtr::new(word.as_ptr() as usize)
    }

    fn call(ctx: &Ctx, word: &AtomicU32, op: u32, value: u32) -> Result {
        futex(ctx, at(word), FutexOp(op | PRIVATE), value, 0, UserPtr::new(0), ANY)
    }

    fn waiters(word: &AtomicU32, ctx: &Ctx) -> usize {
        let key = Key::of(ctx.process, word.as_ptr() as usize, false);
        let queue = root().futexes.queues[key.queue()].waiters.lock();
        queue.iter().filter(|entry| entry.key == key).count()
    }

    fn until(condition: impl Fn() -> bool) {
        for _ in 0..2000 {
            if condition() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("it did not come");
    }

    #[test]
    fn compares_times_out_and_checks() {
        let ctx = ctx();
        let word = AtomicU32::new(5);
        assert_eq!(call(&ctx, &word, WAIT, 4), Err(Errno::EAGAIN));
        let time = Timespec::from_ns(20 * MILLISECOND);
        let start = now();
        let none = UserPtr::new(0);
        let address = user(&time).address();
        assert_eq!(futex(&ctx, at(&word), FutexOp(WAIT), 5, address, none, 0), Err(Errno::ETIMEDOUT));
        assert!(now().since(start) >= 20 * MILLISECOND);
        let odd = UserPtr::new(at(&word).address() + 1);
        assert_eq!(futex(&ctx, odd, FutexOp(WAIT), 5, 0, none, 0), Err(Errno::EINVAL));
        assert_eq!(futex(&ctx, UserPtr::new(4), FutexOp(WAIT), 5, 0, none, 0), Err(Errno::EFAULT));
        assert_eq!(futex(&ctx, at(&word), FutexOp(WAIT_BITSET), 5, 0, none, 0), Err(Errno::EINVAL));
        assert_eq!(futex(&ctx, at(&word), FutexOp(14), 5, 0, none, 0), Err(Errno::ENOSYS));
        assert_eq!(call(&ctx, &word, WAKE, 1), Ok(0));
    }

    #[test]
    fn wakes_so_many_and_by_bits() {
        let ctx = ctx();
        let word: &'static AtomicU32 = leak(AtomicU32::new(0));
        let threads: Vec<_> = (0..4)
            .map(|bit| {
                spawn(ctx.process, move |ctx| {
                    let op = FutexOp(WAIT_BITSET | PRIVATE);
                    futex(&ctx, at(word), op, 0, 0, UserPtr::new(0), 1 << bit)
                })
            })
            .collect();
        until(|| waiters(word, &ctx) == 4);
        let wake = |bits| futex(&ctx, at(word), FutexOp(WAKE_BITSET | PRIVATE), 9, 0, UserPtr::new(0), bits);
        assert_eq!(wake(0b100), Ok(1));
        assert_eq!(wake(0b100), Ok(0));
        assert_eq!(call(&ctx, word, WAKE, 2), Ok(2));
        assert_eq!(call(&ctx, word, WAKE, 9), Ok(1));
        threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Ok(0)));
        assert_eq!(root().futexes.queues.iter().map(|q| q.waiters.lock().len()).max(), Some(0));
    }

    #[test]
    fn requeues() {
        let ctx = ctx();
        let words: &'static [AtomicU32; 2] = leak([AtomicU32::new(1), AtomicU32::new(2)]);
        let threads: Vec<_> =
            (0..5).map(|_| spawn(ctx.process, |ctx| call(&ctx, &words[0], WAIT, 1))).collect();
        until(|| waiters(&words[0], &ctx) == 5);
        let requeue = |value3| {
            let op = FutexOp(CMP_REQUEUE | PRIVATE);
            futex(&ctx, at(&words[0]), op, 1, 3, at(&words[1]), value3)
        };
        assert_eq!(requeue(7), Err(Errno::EAGAIN));
        assert_eq!(requeue(1), Ok(4));
        assert_eq!((waiters(&words[0], &ctx), waiters(&words[1], &ctx)), (1, 3));
        assert_eq!(call(&ctx, &words[0], WAKE, 9), Ok(1));
        assert_eq!(call(&ctx, &words[1], WAKE, 9), Ok(3));
        threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Ok(0)));
    }

    #[test]
    fn wake_op_changes_and_compares() {
        let ctx = ctx();
        let words = [AtomicU32::new(0), AtomicU32::new(10)];
        // FUTEX_OP(ADD, 5, GT, 9)
        let code = 1 << 28 | 4 << 24 | 5 << 12 | 9;
        let op = FutexOp(WAKE_OP | PRIVATE);
        assert_eq!(futex(&ctx, at(&words[0]), op, 1, 1, at(&words[1]), code), Ok(0));
        assert_eq!(words[1].load(Ordering::Relaxed), 15);
    }

    /// A mutex as libc makes it, under contention: nothing is lost.
    #[test]
    fn mutexes_hold() {
        let ctx = ctx();
        let word: &'static AtomicU32 = leak(AtomicU32::new(0));
        let count: &'static AtomicU32 = leak(AtomicU32::new(0));
        let lock = |ctx: &Ctx| {
            if word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
                while word.swap(2, Ordering::Acquire) != 0 {
                    let _ = call(ctx, word, WAIT, 2);
                }
            }
        };
        let threads: Vec<_> = (0..4)
            .map(|_| {
                spawn(ctx.process, move |ctx| {
                    for _ in 0..3000 {
                        lock(&ctx);
                        let seen = count.load(Ordering::Relaxed);
                        std::hint::spin_loop();
                        count.store(seen + 1, Ordering::Relaxed);
                        if word.swap(0, Ordering::Release) == 2 {
                            let _ = call(&ctx, word, WAKE, 1);
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(count.load(Ordering::Relaxed), 12_000);
    }

    #[test]
    fn robust_mutexes_of_a_dead_thread_are_marked() {
        #[repr(C)]
        struct Node {
            next: usize,
            word: u32,
        }
        let ctx = ctx();
        let tid = ctx.task.tid;
        let (mut head, mut a, mut b) = (
            RobustListHead { next: 0, futex_offset: 8, pending: 0 },
            Node { next: 0, word: tid | WAITERS },
            Node { next: 0, word: 77 },
        );
        head.next = &raw const a as usize;
        a.next = &raw const b as usize;
        b.next = &raw const head as usize;
        set_robust_list(&ctx, user(&head), HEAD_SIZE).unwrap();
        exit_robust_list(ctx.task);
        let (a, b) = std::hint::black_box((a, b));
        assert_eq!((a.word, b.word), (WAITERS | OWNER_DIED, 77));
        assert_eq!(set_robust_list(&ctx, user(&head), 23), Err(Errno::EINVAL));
    }
}
