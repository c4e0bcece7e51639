//! A vCPU's queue of ready threads: by priority, then first in, first out; linked through the threads
//! themselves, so that waking a thread never allocates. Ordinary threads (priority 0) go to the end at once;
//! only real-time ones look for their place.

use crate::thread::Thread;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};
use platform::sync::Lock;

/// Ready threads of one vCPU. Its owner takes from the front; others push and steal.
pub(crate) struct RunQueue {
    /// Mirror of the length: an empty queue costs one load.
    length: AtomicUsize,
    list: Lock<List>,
}

struct List {
    head: *const Thread,
    tail: *const Thread,
    /// The process is gone: threads that come are not kept.
    closed: bool,
}

// SAFETY: the threads behind the pointers are Sync and live until they have exited; a thread in a
// queue has not.
unsafe impl Send for List {}

impl RunQueue {
    pub(crate) const fn new() -> RunQueue {
        let list = List { head: ptr::null(), tail: ptr::null(), closed: false };
        RunQueue { length: AtomicUsize::new(0), list: Lock::new(list) }
    }

    /// Threads waiting here; a moment's truth.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.length.load(Ordering::SeqCst)
    }

    /// Appends a thread that nobody else may enqueue (its word says READY). Answers the new length.
    #[inline]
    pub(crate) fn push(&self, thread: *const Thread) -> usize {
        self.put(thread, false)
    }

    /// As [`push`](Self::push), before others of its priority: for a real-time thread that was preempted.
    pub(crate) fn push_front(&self, thread: *const Thread) -> usize {
        self.put(thread, true)
    }

    #[inline]
    fn put(&self, thread: *const Thread, front: bool) -> usize {
        let mut list = self.list.lock();
        if list.closed {
            return 0;
        }
        list.insert(thread, front);
        let length = self.length.load(Ordering::Relaxed) + 1;
        // SeqCst: see `vcpu::sleep`, which announces sleep and then looks at the length.
        self.length.store(length, Ordering::SeqCst);
        length
    }

    /// Takes the first thread.
    #[inline]
    pub(crate) fn pop(&self) -> Option<*const Thread> {
        if self.length.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut list = self.list.lock();
        let thread = list.take()?;
        self.length.store(self.length.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        Some(thread)
    }

    /// The priority of the first thread; 0 if there is none.
    pub(crate) fn first_priority(&self) -> u8 {
        let list = self.list.lock();
        // SAFETY: a thread in the queue lives while the lock is held.
        unsafe { list.head.as_ref() }.map_or(0, |thread| thread.rank().priority)
    }

    /// Puts a thread whose rank has changed where it belongs now; whether it was here.
    pub(crate) fn reposition(&self, thread: *const Thread) -> bool {
        let mut list = self.list.lock();
        let found = list.remove(thread);
        if found {
            list.insert(thread, false);
        }
        found
    }

    /// The process of this queue is gone: it holds nothing from now on.
    pub(crate) fn close(&self) {
        let mut list = self.list.lock();
        while list.take().is_some() {}
        list.closed = true;
        self.length.store(0, Ordering::SeqCst);
    }

    /// Takes the older half (at least one) for another vCPU: answers one to run, moves the rest to
    /// `thief`.
    pub(crate) fn steal(&self, thief: &RunQueue) -> Option<*const Thread> {
        if self.length.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut list = self.list.try_lock()?;
        let count = self.length.load(Ordering::Relaxed).div_ceil(2);
        let first = list.take()?;
        let mut rest = List { head: ptr::null(), tail: ptr::null(), closed: false };
        for _ in 1..count {
            match list.take() {
                Some(thread) => rest.append(thread),
                None => break,
            }
        }
        self.length.store(self.length.load(Ordering::Relaxed) - count, Ordering::Relaxed);
        drop(list);
        while let Some(thread) = rest.take() {
            thief.push(thread);
        }
        Some(first)
    }
}

impl List {
    #[inline]
    fn insert(&mut self, thread: *const Thread, front: bool) {
        // SAFETY: READY threads live.
        let priority = unsafe { (*thread).rank().priority };
        if priority == 0 {
            return self.append(thread);
        }
        let mut before: *const Thread = ptr::null();
        let mut at = self.head;
        // SAFETY: threads in the queue live, and `next` belongs to the queue's lock.
        unsafe {
            while let Some(other) = at.as_ref() {
                let theirs = other.rank().priority;
                if theirs < priority || front && theirs == priority {
                    break;
                }
                (before, at) = (at, *other.next.get());
            }
            if at.is_null() {
                return self.append(thread);
            }
            *(*thread).next.get() = at;
            match before.as_ref() {
                Some(before) => *before.next.get() = thread,
                None => self.head = thread,
            }
        }
    }

    fn remove(&mut self, thread: *const Thread) -> bool {
        let mut before: *const Thread = ptr::null();
        let mut at = self.head;
        // SAFETY: as in `insert`.
        unsafe {
            while at != thread {
                let Some(other) = at.as_ref() else { return false };
                (before, at) = (at, *other.next.get());
            }
            let next = *(*thread).next.get();
            match before.as_ref() {
                Some(before) => *before.next.get() = next,
                None => self.head = next,
            }
            if next.is_null() {
                self.tail = before;
            }
        }
        true
    }

    fn append(&mut self, thread: *const Thread) {
        // SAFETY: READY threads live; `next` belongs to the queue's lock while they are queued.
        unsafe {
            *(*thread).next.get() = ptr::null();
            match self.tail.is_null() {
                true => self.head = thread,
                false => *(*self.tail).next.get() = thread,
            }
        }
        self.tail = thread;
    }

    fn take(&mut self) -> Option<*const Thread> {
        if self.head.is_null() {
            return None;
        }
        let thread = self.head;
        // SAFETY: as in `append`.
        self.head = unsafe { *(*thread).next.get() };
        if self.head.is_null() {
            self.tail = ptr::null();
        }
        Some(thread)
    }
}
