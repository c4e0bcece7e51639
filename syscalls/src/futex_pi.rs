//! Locks that the kernel hands over: FUTEX_LOCK_PI, FUTEX_UNLOCK_PI, FUTEX_TRYLOCK_PI, and condition
//! variables over them (FUTEX_WAIT_REQUEUE_PI, FUTEX_CMP_REQUEUE_PI; futex(2), "Priority-inheritance
//! futexes").
//!
//! The word holds the owner's thread id and the bits FUTEX_WAITERS and FUTEX_OWNER_DIED. A free lock is
//! taken and given back by the program without a call. While somebody waits, the word always names an
//! owner: unlocking writes the first waiter's id into it *under the queue's lock* and then wakes that one,
//! so nobody overtakes.
//!
//! An owner that ends without unlocking leaves the lock to the first waiter, with FUTEX_OWNER_DIED in the word, robust or
//! not; where nobody waits, whoever comes later gets ESRCH, unless it locks a robust one (kernel/futex/pi.c). A thread
//! that was killed with its host process has marked nothing, and whoever buries it cannot reach a word in memory of
//! other processes. So every waiter's entry names the owner, all of them are told to look again, and the first of them
//! writes itself into the word ([`inherit`]). It stays in the queue until it has, so that newcomers wait behind it; if
//! it is killed or gives up before, the next ones are told ([`look_again`]).
//!
//! Left out: the inheritance itself. Threads of a guest have no priorities of their own (the host
//! schedules vCPUs), so there is none to lend, and waiters are served by age.

use crate::context::Ctx;
use crate::futex::{
    ANY, Entry, Key, OWNER_DIED, TID_MASK, WAITERS, is_locking_robustly, queue_of, sleep_in_queue,
    update_word, with_place,
};
use crate::process::root;
use crate::task::Task;
use crate::user::UserPtr;
use crate::{Errno, Result};
use alloc::collections::VecDeque;
use core::cell::Cell;
use core::sync::atomic::{Ordering, fence};
use platform::time::Instant;

/// FUTEX_LOCK_PI: 0 when the lock is the caller's.
pub(crate) fn lock(ctx: &Ctx, key: Key, word: UserPtr<u32>, deadline: Option<Instant>) -> Result {
    let task = ctx.task;
    let queue = queue_of(key);
    queue.count.fetch_add(1, Ordering::SeqCst);
    let found = {
        let mut waiters = queue.waiters.lock();
        fence(Ordering::SeqCst);
        let found = take_or_announce(task, word, first_owner(&waiters, key), is_locking_robustly(task, word));
        if let Ok(Held(owner)) = found {
            root().futexes.hands_over.store(true, Ordering::SeqCst);
            task.futex.woken.store(false, Ordering::Relaxed);
            task.futex.queue.store(key.queue(), Ordering::Relaxed);
            task.waiter.reset();
            waiters.push_back(Entry { key, bitset: ANY, task: task.arc(), owner, inherits: true });
        }
        found
    };
    match found {
        Ok(Held(_)) => sleep_in_queue(task, deadline, Some(word)),
        other => {
            queue.count.fetch_sub(1, Ordering::Relaxed);
            other.map(|_| 0)
        }
    }
}

/// FUTEX_TRYLOCK_PI: looks at what the program cannot judge (a word whose owner has died).
pub(crate) fn try_lock(ctx: &Ctx, key: Key, word: UserPtr<u32>) -> Result {
    let waiters = queue_of(key).waiters.lock();
    let robust = is_locking_robustly(ctx.task, word);
    match take_or_announce(ctx.task, word, first_owner(&waiters, key), robust)? {
        Taken => Ok(0),
        Held(_) => Err(Errno::EAGAIN),
    }
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
/// if this thread owns it, else only if nobody does.
fn hand_over(key: Key, word: UserPtr<u32>, from: Option<u32>) -> Result<()> {
    let queue = queue_of(key);
    let mut waiters = queue.waiters.lock();
    let first = waiters.iter().position(|entry| waits_for(entry, key));
    let next = first.map(|at| waiters[at].task.tid);
    if from.is_none() && next.is_none() {
        return Ok(());
    }
    update_word(word, |old| {
        if old & TID_MASK != from.unwrap_or(0) {
            return Err(Errno::EPERM);
        }
        let mark = if from.is_none() { old & OWNER_DIED } else { 0 };
        // As Linux, the bit stays set even if the new owner is the last: its unlock then comes here.
        Ok(next.map_or(0, |tid| tid | WAITERS | mark))
    })?;
    if let (Some(at), Some(owner)) = (first, next)
        && let Some(entry) = waiters.remove(at)
    {
        queue.count.fetch_sub(1, Ordering::Relaxed);
        name_owner(&mut waiters, key, owner);
        drop(waiters);
        wake(&entry.task);
    }
    Ok(())
}

/// A waiter that was told to look again: if the owner has ended and it is the first that waits, the lock is its own
/// from here on (`true`).
pub(crate) fn inherit(task: &Task, word: UserPtr<u32>) -> Result<bool> {
    let done = with_place(task, |queue, waiters, at| {
        let Entry { key, owner, inherits, .. } = waiters[at];
        let first = waiters.iter().position(|entry| waits_for(entry, key));
        if !inherits || first != Some(at) || root().task(owner).is_some() {
            return (Ok(false), None);
        }
        // 0: it had marked the word, and was killed before it passed the lock on.
        let taken = update_word(word, |old| match old & TID_MASK {
            held if held == owner || held == 0 || root().task(held).is_none() => {
                Ok(task.tid | WAITERS | OWNER_DIED)
            }
            _ => Err(Errno::EAGAIN),
        });
        if taken == Err(Errno::EAGAIN) {
            // The program has written another one into it.
            name_owner(waiters, key, word.read().unwrap_or(0) & TID_MASK);
            return (Ok(false), None);
        }
        let entry = waiters.remove(at);
        queue.count.fetch_sub(1, Ordering::Relaxed);
        match taken {
            Ok(_) => name_owner(waiters, key, task.tid),
            Err(_) => look_again(waiters, key),
        }
        (taken.map(|_| true), entry)
    });
    // Not in a queue: it was woken meanwhile, which the caller sees.
    done.map_or(Ok(false), |(answer, _entry)| answer)
}

/// Has all that wait for a lock look again.
pub(crate) fn look_again(waiters: &VecDeque<Entry>, key: Key) {
    for entry in waiters.iter().filter(|entry| waits_for(entry, key)) {
        entry.task.waiter.fire();
    }
}

fn wake(task: &Task) {
    task.futex.woken.store(true, Ordering::Release);
    task.waiter.fire();
}

fn waits_for(entry: &Entry, key: Key) -> bool {
    entry.inherits && entry.key == key
}

fn name_owner(waiters: &mut VecDeque<Entry>, key: Key, owner: u32) {
    waiters.iter_mut().filter(|entry| waits_for(entry, key)).for_each(|entry| entry.owner = owner);
}

/// Whom those that wait for a lock take for its owner; `None` if nobody waits.
fn first_owner(waiters: &VecDeque<Entry>, key: Key) -> Option<u32> {
    waiters.iter().find(|entry| waits_for(entry, key)).map(|entry| entry.owner)
}

/// What a look at a lock's word found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It is the asker's now.
    Taken,
    /// It is this one's, and says that somebody waits.
    Held(u32),
}
use Look::{Held, Taken};

/// Takes a free lock for a thread, or sets FUTEX_WAITERS in a held one. `waited_for`: others wait, and for whom. The
/// queue's lock is held.
fn take_or_announce(task: &Task, word: UserPtr<u32>, waited_for: Option<u32>, robust: bool) -> Result<Look> {
    // An owner may end between two looks at it: what was decided with the word is what is answered.
    let found = Cell::new(Err(Errno::ESRCH));
    update_word(word, |old| {
        let owner = old & TID_MASK;
        let free = owner == 0 && waited_for.is_none();
        let lost = owner != 0 && waited_for.is_none() && root().task(owner).is_none();
        if owner == task.tid {
            return Err(Errno::EDEADLK);
        }
        if free || lost && robust {
            found.set(Ok(Taken));
            return Ok(task.tid | if free { old & OWNER_DIED } else { OWNER_DIED });
        }
        found.set(match waited_for {
            _ if lost => Err(Errno::ESRCH),
            // Who marked it is about to pass it on, or was killed and the first one will take it.
            Some(waited_for) if owner == 0 => Ok(Held(waited_for)),
            _ => Ok(Held(owner)),
        });
        Ok(old | WAITERS)
    })?;
    found.get()
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
    root().futexes.hands_over.store(true, Ordering::SeqCst);
    for entry in moving {
        entry.task.futex.queue.store(to.queue(), Ordering::Release);
        let found = take_or_announce(&entry.task, word, first_owner(target, to), true);
        if found == Ok(Taken) {
            queue_of(to).count.fetch_sub(1, Ordering::Relaxed);
            wake(&entry.task);
        } else {
            let owner = if let Ok(Held(owner)) = found { owner } else { 0 };
            // Without an owner it finds out by itself.
            entry.task.waiter.fire();
            target.push_back(Entry { key: to, owner, inherits: true, ..entry });
        }
    }
    Ok(done)
}
