//! Kernel timers: deadlines on the monotonic clock that call back in the kernel.
//!
//! Each vCPU has its own ordered set; a timer fires on the vCPU that added it (from its loop, from a
//! tick, or on the way out of the kernel after one). So no vCPU ever has to be woken for a deadline
//! that another one set. The key is (deadline, number): the id knows where to look, cancelling needs
//! no search. Timers of a process that ends go to the family's orphans (a timerfd may be shared), which
//! any vCPU fires.

use crate::thread::Thread;
use crate::vcpu;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use platform::sync::Lock;
use platform::time::Instant;

/// What a timer calls. In the kernel, no lock held, on any context (even an idle vCPU): it may
/// unpark, add timers and take locks, but not park.
pub trait Expire: Send + Sync {
    /// The deadline has passed.
    fn expire(&self, now: Instant);
}

/// Names a timer for [`cancel`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerId {
    /// The process that added it, by its serial number.
    process: u32,
    vcpu: u32,
    key: (u64, u64),
}

/// Has `callback.expire` called at `deadline` or soon after it. Kernel only.
pub fn add(deadline: Instant, callback: Arc<dyn Expire>) -> TimerId {
    insert(deadline, What::Callback(callback))
}

/// Takes a timer back. `false`: it has fired, is firing now on another vCPU, or was cancelled.
pub fn cancel(id: TimerId) -> bool {
    let own = vcpu::process();
    if own.serial == id.process {
        return own.vcpus[id.vcpu as usize].timers.remove(&id.key);
    }
    if let Some(process) = own.family.by_serial(id.process)
        && process.vcpus[id.vcpu as usize].timers.remove(&id.key)
    {
        return true;
    }
    own.family.orphans.remove(&id.key)
}

/// Wakes `thread` from its park number `sequence` at `deadline`.
pub(crate) fn add_park(deadline: Instant, thread: Arc<Thread>, sequence: u32) -> TimerId {
    insert(deadline, What::Park(thread, sequence))
}

enum What {
    Callback(Arc<dyn Expire>),
    Park(Arc<Thread>, u32),
}

/// The timers of one vCPU.
pub(crate) struct Timers {
    /// The first deadline in nanoseconds, `u64::MAX` if there is none: looked at without the lock.
    next: AtomicU64,
    queue: Lock<Queue>,
}

type Queue = BTreeMap<(u64, u64), What>;

impl Timers {
    pub(crate) const fn new() -> Timers {
        Timers { next: AtomicU64::new(u64::MAX), queue: Lock::new(BTreeMap::new()) }
    }

    /// The first deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        match self.next.load(Ordering::Relaxed) {
            u64::MAX => None,
            ns => Some(Instant(ns)),
        }
    }

    /// Takes one out; answers whether it was there.
    fn remove(&self, key: &(u64, u64)) -> bool {
        let removed = {
            let mut queue = self.queue.lock();
            let removed = queue.remove(key);
            self.publish(&queue);
            removed
        };
        // Dropped outside the lock: the callback's own drop may take locks.
        removed.is_some()
    }

    /// Takes over the callbacks of a process that is gone; its threads' parks are over with it.
    pub(crate) fn adopt(&self, orphaned: &Timers) {
        let all = core::mem::take(&mut *orphaned.queue.lock());
        orphaned.next.store(u64::MAX, Ordering::Relaxed);
        for (key, what) in all {
            if matches!(what, What::Callback(_)) {
                let mut queue = self.queue.lock();
                queue.insert(key, what);
                self.publish(&queue);
            }
        }
    }

    fn publish(&self, queue: &Queue) {
        let next = queue.first_key_value().map_or(u64::MAX, |(key, _)| key.0);
        self.next.store(next, Ordering::Relaxed);
    }

    /// Fires what is due. Answers whether anything was.
    pub(crate) fn run(&self) -> bool {
        if self.next().is_none() {
            return false;
        }
        let now = platform::time::now();
        let mut fired = false;
        while self.next().is_some_and(|next| next <= now) {
            let Some(what) = self.take_due(now) else { break };
            fired = true;
            match what {
                What::Callback(callback) => callback.expire(now),
                What::Park(thread, sequence) => {
                    if thread.word.expire(sequence) {
                        vcpu::enqueue(&thread);
                    }
                }
            }
        }
        fired
    }

    fn take_due(&self, now: Instant) -> Option<What> {
        let mut queue = self.queue.lock();
        let entry = queue.first_entry()?;
        let what = (entry.key().0 <= now.0).then(|| entry.remove());
        self.publish(&queue);
        what
    }
}

fn insert(deadline: Instant, what: What) -> TimerId {
    let block = vcpu::block();
    // Helpers have no loop that would fire timers: theirs go to vCPU 0, which is told.
    let (vcpu, block) = match block.index {
        vcpu::NONE => (0, vcpu::by_index(0).expect("vCPU 0")),
        index => (index, block),
    };
    let process = vcpu::process();
    let number = process.family.next_timer.fetch_add(1, Ordering::Relaxed);
    // u64::MAX means "no timer" in `next`.
    let key = (deadline.0.min(u64::MAX - 1), number);
    let first = {
        let mut queue = block.timers.queue.lock();
        queue.insert(key, what);
        block.timers.publish(&queue);
        block.timers.next() == Some(Instant(key.0))
    };
    if first && vcpu::block().index != vcpu {
        vcpu::kick(vcpu);
    }
    TimerId { process: process.serial, vcpu, key }
}
