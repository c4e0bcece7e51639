//! Locks that the kernel hands over: FUTEX_LOCK_PI, FUTEX_UNLOCK_PI, FUTEX_TRYLOCK_PI, and condition
//! variables over them (FUTEX_WAIT_REQUEUE_PI, FUTEX_CMP_REQUEUE_PI; futex(2), "Priority-inheritance
//! futexes").
//!
//! The word holds the owner's thread id and the bits FUTEX_WAITERS and FUTEX_OWNER_DIED. A free lock is
//! taken and given back by the program without a call. While somebody waits, the word always names an
//! owner: unlocking writes the first waiter's id into it *under the queue's lock* and then wakes that one,
//! so nobody overtakes.
//!
//! Left out: the inheritance itself. Threads of a guest have no priorities of their own (the host
//! schedules vCPUs), so there is none to lend, and waiters are served by age.

use crate::context::Ctx;
use crate::futex::{ANY, Entry, Key, OWNER_DIED, TID_MASK, WAITERS, queue_of, sleep_in_queue, update_word};
use crate::process::root;
use crate::task::Task;
use crate::user::UserPtr;
use crate::{Errno, Result};
use alloc::collections::VecDeque;
use core::sync::atomic::{Ordering, fence};
use platform::time::Instant;

/// FUTEX_LOCK_PI: 0 when the lock is the caller's.
pub(crate) fn lock(ctx: &Ctx, key: Key, word: UserPtr<u32>, deadline: Option<Instant>) -> Result {
    let task = ctx.task;
    let queue = queue_of(key);
    queue.count.fetch_add(1, Ordering::SeqCst);
    let taken = {
        let mut waiters = queue.waiters.lock();
        fence(Ordering::SeqCst);
        let taken = take_or_announce(task.tid, word, others_wait(&waiters, key));
        if taken == Ok(false) {
            task.futex.woken.store(false, Ordering::Relaxed);
            task.futex.queue.store(key.queue(), Ordering::Relaxed);
            task.waiter.reset();
            waiters.push_back(Entry { key, bitset: ANY, task: task.arc(), owner: 0 });
        }
        taken
    };
    match taken {
        Ok(false) => sleep_in_queue(task, deadline),
        done => {
            queue.count.fetch_sub(1, Ordering::Relaxed);
            done.map(|_| 0)
        }
    }
}

/// FUTEX_TRYLOCK_PI: looks at what the program cannot judge (a word whose owner has died).
pub(crate) fn try_lock(ctx: &Ctx, key: Key, word: UserPtr<u32>) -> Result {
    let waiters = queue_of(key).waiters.lock();
    let waits = others_wait(&waiters, key);
    let tid = ctx.task.tid;
    let old = update_word(word, |old| match old & TID_MASK {
        0 => Ok(owned(tid, old, waits)),
        owner if owner == tid => Err(Errno::EDEADLK),
        _ => Err(Errno::EAGAIN),
    });
    old.map(|_| 0)
}

/// FUTEX_UNLOCK_PI.
pub(crate) fn unlock(ctx: &Ctx, key: Key, word: UserPtr<u32>) -> Result {
    if word.read()? & TID_MASK != ctx.task.tid {
        return Err(Errno::EPERM);
    }
    hand_over(key, word, Some(ctx.task.tid)).map(|()| 0)
}

/// The owner has died and its word is marked: the first waiter gets the lock, with the mark.
pub(crate) fn pass_on(key: Key, word: UserPtr<u32>) -> Result<()> {
    hand_over(key, word, None)
}

/// Writes the first waiter's id into the word and wakes it; frees the word if nobody waits. `from`: only
/// if this thread owns it.
fn hand_over(key: Key, word: UserPtr<u32>, from: Option<u32>) -> Result<()> {
    let queue = queue_of(key);
    let mut waiters = queue.waiters.lock();
    let first = waiters.iter().position(|entry| entry.key == key);
    let next = first.map(|at| waiters[at].task.tid);
    if from.is_none() && next.is_none() {
        return Ok(());
    }
    update_word(word, |old| {
        if from.is_some_and(|from| old & TID_MASK != from) {
            return Err(Errno::EPERM);
        }
        let mark = if from.is_none() { old & OWNER_DIED } else { 0 };
        // As Linux, the bit stays set even if the new owner is the last: its unlock then comes here.
        Ok(next.map_or(0, |tid| tid | WAITERS | mark))
    })?;
    if let Some(entry) = first.and_then(|at| waiters.remove(at)) {
        queue.count.fetch_sub(1, Ordering::Relaxed);
        drop(waiters);
        wake(&entry.task);
    }
    Ok(())
}

fn wake(task: &Task) {
    task.futex.woken.store(true, Ordering::Release);
    task.waiter.fire();
}

fn others_wait(waiters: &VecDeque<Entry>, key: Key) -> bool {
    waiters.iter().any(|entry| entry.key == key)
}

fn owned(tid: u32, old: u32, others_wait: bool) -> u32 {
    tid | old & OWNER_DIED | if others_wait { WAITERS } else { 0 }
}

/// Takes a free lock for `tid` (`true`), or sets FUTEX_WAITERS in a held one (`false`).
fn take_or_announce(tid: u32, word: UserPtr<u32>, others_wait: bool) -> Result<bool> {
    let old = update_word(word, |old| match old & TID_MASK {
        0 => Ok(owned(tid, old, others_wait)),
        owner if owner == tid => Err(Errno::EDEADLK),
        owner if root().task(owner).is_none() => Err(Errno::ESRCH),
        _ => Ok(old | WAITERS),
    })?;
    Ok(old & TID_MASK == 0)
}

/// FUTEX_CMP_REQUEUE_PI: one waiter of the condition gets the lock or waits for it, `moves` more wait
/// for it. Answers how many were woken or moved.
pub(crate) fn requeue(
    _ctx: &Ctx,
    (from, to): (Key, Key),
    (condition, expected): (UserPtr<u32>, u32),
    word: UserPtr<u32>,
    wakes: i32,
    moves: i32,
) -> Result {
    // futex(2): the number to wake must be 1.
    if wakes != 1 || moves < 0 || from == to {
        return Err(Errno::EINVAL);
    }
    // Both queues in the order of their index, as in `futex::requeue`: a waiter is in one of them at any
    // time that somebody can look.
    let (first, second) = if from.queue() <= to.queue() { (from, to) } else { (to, from) };
    let mut low = queue_of(first).waiters.lock();
    let mut high = (first.queue() != second.queue()).then(|| queue_of(second).waiters.lock());
    if condition.read()? != expected {
        return Err(Errno::EAGAIN);
    }
    let mut moving = VecDeque::new();
    let source = if from == first { &mut *low } else { high.as_deref_mut().unwrap_or(&mut *low) };
    let mut at = 0;
    while moving.len() <= moves as usize && at < source.len() {
        if source[at].key != from {
            at += 1;
        } else if let Some(entry) = source.remove(at) {
            moving.push_back(entry);
        }
    }
    let done = moving.len();
    queue_of(to).count.fetch_add(done, Ordering::SeqCst);
    queue_of(from).count.fetch_sub(done, Ordering::Relaxed);
    let target = if to == first { &mut *low } else { high.as_deref_mut().unwrap_or(&mut *low) };
    for entry in moving {
        entry.task.futex.queue.store(to.queue(), Ordering::Release);
        if take_or_announce(entry.task.tid, word, others_wait(target, to)) == Ok(true) {
            queue_of(to).count.fetch_sub(1, Ordering::Relaxed);
            wake(&entry.task);
        } else {
            target.push_back(Entry { key: to, ..entry });
        }
    }
    Ok(done)
}
